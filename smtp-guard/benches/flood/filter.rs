//! Programs that drop the flood: nothing, nftables in two places, the guard; and one that drops every packet, the zero.
//!
//! Each has the same entries: 65,536 addresses, all of which send, or 65,536 networks of /24, 256 of which do. Of the sets
//! that nftables has the fastest is used for each: a plain hash of a fixed size, and intervals.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use ipnet::{IpNet, Ipv4Net};
use smtp_guard::addr::Source;
use smtp_guard::clock::Instant;
use smtp_guard::config::Config;
use smtp_guard::edge::lists::{self, Entry};
use smtp_guard::edge::{self, KernelPlane};
use smtp_guard_ebpf::reason::Reason;

use crate::generator::{SOURCE_COUNT, SOURCES};
use crate::lab::EDGE_DEVICE;
use crate::process::{feed, run};

const DIRECTORY: &str = "/sys/fs/bpf/sg-flood";
const TABLE: &str = "flood";
/// Of addresses, or of networks.
const ENTRIES: u32 = 1 << 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// An XDP program that drops everything at once: what frames cost before any filter sees them. No mail gets through.
    Zero,
    Nothing,
    Nftables(Hook, Entries),
    Guard(Entries),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    PreroutingRaw,
    NetdevIngress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entries {
    Addresses,
    Networks,
}

impl Filter {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero: XDP_DROP of everything",
            Self::Nothing => "nothing",
            Self::Nftables(Hook::PreroutingRaw, Entries::Addresses) => "nftables prerouting raw, addresses",
            Self::Nftables(Hook::PreroutingRaw, Entries::Networks) => "nftables prerouting raw, networks",
            Self::Nftables(Hook::NetdevIngress, Entries::Addresses) => "nftables netdev ingress, addresses",
            Self::Nftables(Hook::NetdevIngress, Entries::Networks) => "nftables netdev ingress, networks",
            Self::Guard(Entries::Addresses) => "guard, bans",
            Self::Guard(Entries::Networks) => "guard, block list",
        }
    }

    /// Puts it before the edge. Dropped, it is gone.
    pub(crate) fn arm(self, object: &str) -> Armed {
        match self {
            Self::Zero => Armed::Zero(Simple::attach(object, "drop_frags")),
            Self::Nothing => Armed::Nothing(Simple::attach(object, "pass_frags")),
            Self::Nftables(hook, entries) => {
                Armed::Nftables(Nftables::load(hook, entries, Simple::attach(object, "pass_frags")))
            }
            Self::Guard(entries) => Armed::Guard(Box::new(Guard::load(entries))),
        }
    }
}

/// A filter that is in force.
pub(crate) enum Armed {
    Zero(#[allow(dead_code, reason = "holds it")] Simple),
    Nothing(#[allow(dead_code, reason = "holds it")] Simple),
    Nftables(Nftables),
    Guard(Box<Guard>),
}

/// A program that does one thing.
pub(crate) struct Simple {
    /// Owns its link.
    _object: Ebpf,
}

impl Simple {
    fn attach(object: &str, name: &str) -> Self {
        let mut object = Ebpf::load_file(object).unwrap();
        let program: &mut Xdp = object.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.attach(EDGE_DEVICE, XdpMode::Driver).unwrap();
        Self { _object: object }
    }
}

pub(crate) struct Nftables {
    family: &'static str,
    /// Without an XDP program at the edge the cable wouldn't take the generator's frames.
    _pass: Simple,
}

impl Nftables {
    fn load(hook: Hook, entries: Entries, pass: Simple) -> Self {
        let (family, chain) = match hook {
            Hook::PreroutingRaw => ("ip", "type filter hook prerouting priority raw".to_owned()),
            Hook::NetdevIngress => {
                ("netdev", format!("type filter hook ingress device \"{EDGE_DEVICE}\" priority -500"))
            }
        };
        let (kind, elements) = match entries {
            // Of a fixed size and without intervals: a hash table whose keys are compared as one word.
            Entries::Addresses => (format!("size {ENTRIES};"), join(addresses())),
            Entries::Networks => ("flags interval;".to_owned(), join(networks())),
        };
        let script = format!(
            "table {family} {TABLE} {{
                counter dropped {{ }}
                set banned {{ type ipv4_addr; {kind} elements = {{ {elements} }} }}
                chain in {{ {chain}; ip saddr @banned counter name dropped drop; }}
            }}"
        );
        feed("nft", &["-f", "-"], &script);
        Self { family, _pass: pass }
    }

    /// Packets that its rule dropped.
    pub(crate) fn dropped(&self) -> u64 {
        let text = run("nft", &["list", "counter", self.family, TABLE, "dropped"]);
        let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Nftables {
    fn drop(&mut self) {
        let _ = Command::new("nft").args(["delete", "table", self.family, TABLE]).status();
    }
}

pub(crate) struct Guard {
    plane: KernelPlane,
}

impl Guard {
    fn load(entries: Entries) -> Self {
        let mut config = Config::builtin();
        config.listen[0].address.set_port(25);
        config.edge.interfaces = vec![EDGE_DEVICE.to_owned()];
        config.edge.pin_directory = DIRECTORY.into();
        config.edge.connections = 100;
        // What a bench that was killed left behind.
        let _ = edge::unload(Path::new(DIRECTORY));
        let loaded = edge::load(&config).unwrap();
        assert_eq!(loaded.interfaces[0].mode, "driver", "a veth has XDP of its own");
        let guard = Self { plane: KernelPlane::open(Path::new(DIRECTORY)).unwrap().unwrap() };
        guard.plane.configure(&config).unwrap();
        match entries {
            Entries::Addresses => {
                let ban = |address: Ipv4Addr| (Source::v4(address.to_bits()), Instant::NEVER, Reason::Operator);
                let bans: Vec<_> = addresses().map(ban).collect();
                assert_eq!(guard.plane.ban_all(&bans).unwrap().written, bans.len());
            }
            Entries::Networks => {
                let listed = networks().map(|net| Entry { net: IpNet::V4(net), list: 0 });
                assert_eq!(lists::replace(&guard.plane, listed).unwrap().whole, ENTRIES as usize);
            }
        }
        guard
    }

    /// Packets that it dropped as banned or listed.
    pub(crate) fn dropped(&self) -> u64 {
        let counters = self.plane.counters().unwrap().into_iter();
        counters
            .filter(|(reason, ..)| [Reason::Operator, Reason::Listed].contains(reason))
            .map(|(.., packets)| packets)
            .sum()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = edge::unload(Path::new(DIRECTORY));
        // The kernel takes the program off later, and until then there is no place for another one.
        for _ in 0..200 {
            let shown = Command::new("ip").args(["link", "show", "dev", EDGE_DEVICE]).output();
            if !shown.is_ok_and(|shown| String::from_utf8_lossy(&shown.stdout).contains("xdp")) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// All sources of the flood.
fn addresses() -> impl Iterator<Item = Ipv4Addr> {
    assert_eq!(ENTRIES, SOURCE_COUNT);
    (0..ENTRIES).map(|n| Ipv4Addr::from_bits(SOURCES.to_bits() + n))
}

/// Those of the flood, and others spread over the addresses. None has the mail's.
fn networks() -> impl Iterator<Item = Ipv4Net> {
    let of_flood = (0..SOURCE_COUNT / 256).map(|n| SOURCES.to_bits() + n * 256);
    // Steps of an odd number of /24 meet each of them once.
    let others = (0..1u32 << 24).map(|n| n.wrapping_mul(0x009e_3779).wrapping_shl(8));
    let others = others.filter(|net| (128..198).contains(&(net >> 24)));
    let nets: BTreeSet<u32> = of_flood.chain(others).take(ENTRIES as usize).collect();
    assert_eq!(nets.len(), ENTRIES as usize);
    nets.into_iter().map(|net| Ipv4Net::new_assert(Ipv4Addr::from_bits(net), 24))
}

fn join(entries: impl Iterator<Item = impl std::fmt::Display>) -> String {
    entries.fold(String::new(), |mut text, entry| {
        let _ = write!(text, "{entry}, ");
        text
    })
}
