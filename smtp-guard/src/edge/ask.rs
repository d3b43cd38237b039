//! The kernel plane's verdict on a connection from an address now: the program's own order, over its maps as user space
//! reads them.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapError};
use smtp_guard_ebpf::abi::{Ban, Connections, Settings, Source, canonical, network_key};
use smtp_guard_ebpf::decide::{Findings, Verdict, decide};
use smtp_guard_ebpf::lists::{self, CHUNK, FIRST, HALF, HEADS, Head, Words};
use smtp_guard_ebpf::parse::{Address, Packet, Segment};
use smtp_guard_ebpf::rate::Bucket;

use super::error::EdgeError;
use super::pins::Pins;
use super::plane::KernelPlane;
use super::{maps, sys};

impl KernelPlane {
    /// The verdict on a SYN from `ip` to a guarded port. Takes a few dozen system calls.
    pub fn verdict(&self, ip: IpAddr) -> Result<Verdict, EdgeError> {
        let pins = self.pins();
        let source = match canonical(ip) {
            IpAddr::V4(v4) => Address::V4(v4.to_bits()),
            IpAddr::V6(v6) => Address::v6((v6.to_bits() >> 64) as u64, v6.to_bits() as u64),
        };
        let findings = Pinned { pins, settings: maps::settings(pins)?, failed: RefCell::new(None) };
        let verdict = decide(&Packet::Tcp(Segment { source, port: 0, opens: true }), &findings);
        findings.failed.into_inner().map_or(Ok(verdict), Err)
    }
}

/// The pinned maps.
struct Pinned<'a> {
    pins: &'a Pins,
    settings: Settings,
    /// The first error: the program knows none.
    failed: RefCell<Option<EdgeError>>,
}

impl Pinned<'_> {
    /// The value that was found; nothing where that failed, and the error is kept.
    fn found<T>(&self, found: Result<Option<T>, EdgeError>) -> Option<T> {
        found.unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            None
        })
    }

    /// The value of `key` in `map`, whose values have `words` words.
    fn value<K: sys::Key>(&self, map: &'static str, words: usize, key: K) -> Result<Option<Vec<u64>>, EdgeError> {
        let failed = |doing| EdgeError::pin(doing, self.pins.map(map));
        let opened = sys::WordMap::open(&self.pins.map(map), words).map_err(failed("opening"))?;
        match opened.read(key) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("reading")(error)),
        }
    }

    fn is_exempt<const N: usize>(&self, map: &'static str, key: [u8; N]) -> Result<Option<()>, EdgeError> {
        let trie: LpmTrie<_, [u8; N], u32> = maps::open(self.pins, map)?.try_into().map_err(EdgeError::map(map))?;
        match trie.get(&Key::new(N as u32 * 8, key), 0) {
            Ok(_) => Ok(Some(())),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(EdgeError::map(map)(error)),
        }
    }

    fn look_up(&self, address: &Address) -> Result<Option<u32>, EdgeError> {
        let failed = |doing| EdgeError::pin(doing, self.pins.map(super::lists::MAP));
        let map = sys::WordMap::open(&self.pins.map(super::lists::MAP), CHUNK).map_err(failed("opening"))?;
        let first = map.read(0).map_err(failed("reading"))?;
        let active = (first[lists::ACTIVE] & 1) as u32;
        let at = HEADS + active as usize * 2;
        let head = Head::from_words([first[at], first[at + 1]]);
        if !head.any {
            return Ok(None);
        }
        let half = Half { map, base: FIRST + active * HALF, failed: RefCell::new(None) };
        let listed = match address {
            Address::V4(addr) => lists::v4(&half, *addr),
            Address::V6 { high, low } => lists::v6(&half, head, *high, *low),
        };
        match half.failed.into_inner() {
            Some(error) => Err(failed("reading")(error)),
            None => Ok(listed.then_some(head.spares)),
        }
    }
}

/// The half of the lists that is read.
struct Half {
    map: sys::WordMap<u32>,
    base: u32,
    failed: RefCell<Option<io::Error>>,
}

impl Words for Half {
    fn word(&self, index: u32) -> u64 {
        let index = self.base + index;
        self.map.read(index / CHUNK as u32).map_or_else(
            |error| {
                self.failed.borrow_mut().get_or_insert(error);
                0
            },
            |chunk| chunk[index as usize % CHUNK],
        )
    }
}

impl Findings for Pinned<'_> {
    fn source(&self, address: &Address) -> Source {
        address.source(self.settings.ipv6_mask)
    }

    fn listed(&self, address: &Address) -> Option<u32> {
        self.found(self.look_up(address))
    }

    fn ban(&self, source: Source) -> Option<Ban> {
        self.found(self.value("BANS", 2, source.0)).map(|words| ban(&words))
    }

    fn network_ban(&self, source: Source) -> Option<Ban> {
        if self.settings.networks == 0 {
            return None;
        }
        self.found(self.value(super::networks::MAP, 2, network_key(64, source.0))).map(|words| ban(&words))
    }

    fn exempt_version(&self) -> u32 {
        self.settings.exempt_version
    }

    fn exempt(&self, address: &Address) -> bool {
        let found = match address {
            Address::V4(addr) => self.is_exempt("EXEMPT_V4", addr.to_be_bytes()),
            Address::V6 { high, low } => {
                self.is_exempt("EXEMPT_V6", (u128::from(*high) << 64 | u128::from(*low)).to_be_bytes())
            }
        };
        self.found(found).is_some()
    }

    fn connections(&self, source: Source) -> Option<Connections> {
        let words = self.found(self.value("CONNS", 2, source.0))?;
        Some(Connections { count: words[0], full_ns: words[1] })
    }

    fn ceiling(&self) -> u32 {
        self.settings.connections
    }

    fn bucket(&self) -> Bucket {
        self.settings.bucket()
    }

    fn now_ns(&self) -> u64 {
        crate::clock::now().as_ns()
    }
}

fn ban(words: &[u64]) -> Ban {
    let mut bytes = [0; size_of::<Ban>()];
    for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
        part.copy_from_slice(&word.to_ne_bytes());
    }
    Ban::from_bytes(bytes)
}

const _: () = assert!(size_of::<Ban>() == 16 && size_of::<Connections>() == 16);
