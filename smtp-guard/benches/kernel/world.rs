//! The interface, the loaded plane, xdp-filter, and what the maps are filled with.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use smtp_guard::addr::Source;
use smtp_guard::clock::Instant;
use smtp_guard::config::Config;
use smtp_guard::edge::lists::Entry;
use smtp_guard::edge::{self, KernelPlane, Loaded};
use smtp_guard_ebpf::reason::Reason;

const DIRECTORY: &str = "/sys/fs/bpf/sg-bench";
const GUARDED: &str = "sgbench0";
const FILTER: &str = "sgbench1";
pub(crate) const FILTER_PIN: &str = "/sys/fs/bpf/xdp-filter/programs/sgbench1/xdpfilt_alw_all";
/// The one address that xdp-filter has.
pub(crate) const FILTERED: &str = "192.0.2.77";

/// Of the listed /24.
const SEED: u64 = 1;
/// Listed beside the many.
pub(crate) const LISTED_V4: &str = "192.0.3.17/32";
pub(crate) const LISTED_V6: &str = "2001:db9::/48";

pub(crate) struct World {
    pub(crate) plane: KernelPlane,
    loaded: Loaded,
    pub(crate) listed: Ipv4Addr,
    pub(crate) banned: Ipv4Addr,
}

impl World {
    pub(crate) fn new() -> Self {
        // In the bench's own mount namespace: xdp-filter wants it there, and nothing of it is left.
        run("mount", &["-t", "bpf", "bpf", "/sys/fs/bpf"]);
        run("ip", &["link", "add", GUARDED, "type", "veth", "peer", "name", FILTER]);
        for device in [GUARDED, FILTER] {
            run("ip", &["link", "set", device, "up"]);
        }
        run("xdp-filter", &["load", FILTER]);
        run("xdp-filter", &["ip", "-m", "src", FILTERED]);
        let mut config = Config::builtin();
        config.listen[0].address.set_port(25);
        config.edge.interfaces = vec![GUARDED.to_owned()];
        config.edge.pin_directory = DIRECTORY.into();
        config.edge.connections = 100;
        config.edge.max_sources = 1 << 20;
        config.limits.connections_per_minute = 600;
        let _ = edge::unload(Path::new(DIRECTORY));
        let loaded = edge::load(&config).unwrap();
        let plane = KernelPlane::open(Path::new(DIRECTORY)).unwrap().unwrap();
        plane.configure(&config).unwrap();
        // The first one.
        let listed = Ipv4Addr::from_bits(random(&mut SEED.clone()) & 0xffff_fe00 | 9);
        Self { plane, loaded, listed, banned: Ipv4Addr::UNSPECIFIED }
    }

    pub(crate) fn instructions(&self) -> String {
        let verified = &self.loaded.verified_instructions;
        format!("{} (XDP), {} (sock_ops)", verified.xdp, verified.sock_ops)
    }

    /// `count` networks of /24 whose third octet is even: random sources, where it is odd, are never listed.
    /// What fewer have, more have as well.
    pub(crate) fn prefixes(&self, count: u32) -> Vec<Entry> {
        let (mut state, mut nets) = (SEED, HashSet::new());
        while nets.len() < count as usize {
            nets.insert(random(&mut state) & 0xffff_fe00);
        }
        let v4 = nets.iter().map(|net| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(*net), 24)));
        // A tenth as many of IPv6, and those that have to be searched for.
        let mut state = 3;
        let v6 = (0..count / 10).map(|_| {
            let bits = 0x2a00_u128 << 112 | u128::from(random(&mut state)) << 80;
            IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), 48))
        });
        let more = [LISTED_V4, LISTED_V6, "2001:db8:8000::/33"].map(|net| net.parse().unwrap());
        v4.chain(v6).chain(more).map(|net| Entry { net, list: 0 }).collect()
    }

    /// Bans `count` random sources beside the listed ones.
    pub(crate) fn ban(&mut self, count: u32) {
        let mut state = 2;
        // Reserved for future use: nothing is listed that begins with 255 and an odd third octet.
        self.banned = Ipv4Addr::new(255, 0, 1, 1);
        let sources = (1..count).map(|_| random(&mut state) & !0x100);
        let sources = sources.chain([self.banned.to_bits()]);
        let bans: Vec<_> = sources.map(|bits| (Source::v4(bits), Instant::NEVER, Reason::Operator)).collect();
        let started = std::time::Instant::now();
        self.plane.ban_all(&bans).unwrap();
        let taken = started.elapsed();
        println!(
            "{} bans in {taken:?}: {:.0} in a second, read back",
            bans.len(),
            bans.len() as f64 / taken.as_secs_f64()
        );
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = edge::unload(Path::new(DIRECTORY));
        let _ = Command::new("xdp-filter").args(["unload", FILTER]).output();
        let _ = Command::new("ip").args(["link", "del", GUARDED]).output();
    }
}

/// The next of a row of numbers (splitmix, whose state is 64 bits).
pub(crate) fn random(state: &mut u64) -> u32 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 32) as u32
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
