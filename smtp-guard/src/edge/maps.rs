//! The pinned maps: their shapes, opening them typed, and writing what the configuration says.

use std::collections::HashSet;

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, Map, MapData, MapInfo, MapType};
use ipnet::IpNet;
use smtp_guard_ebpf::abi::{self, EXEMPT_ENTRIES, NETWORK_ENTRIES, PORT_WORDS, Settings};
use smtp_guard_ebpf::event::{EVENTS_BYTES, Sampling};
use smtp_guard_ebpf::rate::Bucket;
use smtp_guard_ebpf::reason::MAX_REASONS;
use smtp_guard_ebpf::{filter, lists, near};

use super::error::EdgeError;
use super::load::lock;
use super::pins::{Pins, XDP};
use super::{networks, sys};
use crate::config::Config;

/// Type, key and value size in bytes, and entries of a map as this version wants it.
type Shape = (MapType, u32, u32, u32);

/// Entries that are read at a call: far more than a bucket has, as a bucket is read whole or not at all.
pub(super) const BATCH: usize = 2048;

/// Bytes of an element of LISTS.
pub(super) const LIST_VALUE: u32 = lists::CHUNK as u32 * 8;

/// The kernel's bucket of new connections holds so many times those that the proxy lets a source have in a minute: an
/// honest sender should hear the proxy's 421 and learn why, before the kernel falls silent.
const RATE_HEADROOM: u32 = 2;
const MINUTE_NS: u64 = 60_000_000_000;

/// The shape of `map` where the maps by source have room for `max_sources`.
fn shape(map: &str, max_sources: u32) -> Option<Shape> {
    Some(match map {
        "SETTINGS" => (MapType::Array, 4, size_of::<Settings>() as u32, 1),
        "PORTS" => (MapType::Array, 4, 8, PORT_WORDS),
        "EXEMPT_V4" => (MapType::LpmTrie, 8, 4, EXEMPT_ENTRIES),
        "EXEMPT_V6" => (MapType::LpmTrie, 20, 4, EXEMPT_ENTRIES),
        "LISTS" => (MapType::Array, 4, LIST_VALUE, lists::ELEMENTS),
        "BANNED" => (MapType::Array, 4, filter::WORDS as u32 * 8, filter::BANNED.elements()),
        "NEAR" => (MapType::Array, 4, near::WORDS as u32 * 8, near::ELEMENTS),
        "KNOWN" => (MapType::Array, 4, filter::WORDS as u32 * 8, filter::KNOWN.elements()),
        "CLOCK" => (MapType::PerCpuArray, 4, 16, 1),
        "SAMPLES" => (MapType::PerCpuArray, 4, size_of::<Sampling>() as u32, 1),
        "EVENTS" => (MapType::RingBuf, 0, 0, EVENTS_BYTES),
        "BANS" => (MapType::Hash, 8, size_of::<abi::Ban>() as u32, max_sources),
        "NETWORKS" => (MapType::LpmTrie, 12, size_of::<abi::Ban>() as u32, NETWORK_ENTRIES),
        "CONNS" => (MapType::Hash, 8, size_of::<abi::Connections>() as u32, max_sources),
        "COUNTED" => (MapType::SkStorage, 4, 8, 0),
        "COUNTERS" => (MapType::PerCpuArray, 4, 8, MAX_REASONS * 2),
        _ => return None,
    })
}

/// Refuses a pinned map that this version would misread: aya takes any map that has the name.
pub(super) fn check_shape(pins: &Pins, map: &'static str, max_sources: u32) -> Result<(), EdgeError> {
    let path = pins.map(map);
    let Some(wanted) = shape(map, max_sources) else {
        return Ok(());
    };
    if !path.exists() {
        return Ok(());
    }
    let info = MapInfo::from_pin(&path).map_err(EdgeError::map(map))?;
    let found = (info.map_type().map_err(EdgeError::map(map))?, info.key_size(), info.value_size(), info.max_entries());
    if found == wanted {
        return Ok(());
    }
    Err(EdgeError::Incompatible { path, found: words(found), wanted: words(wanted) })
}

fn words((kind, key, value, entries): Shape) -> String {
    format!("{kind:?} of {entries} entries, {key} to {value} bytes")
}

/// Opens a pinned map.
pub(super) fn open(pins: &Pins, map: &'static str) -> Result<Map, EdgeError> {
    let data = MapData::from_pin(pins.map(map)).map_err(EdgeError::map(map))?;
    Map::from_map_data(data).map_err(EdgeError::map(map))
}

/// Opens a pinned map by source to walk over its entries, from `bucket` on. Nobody else's access to it waits meanwhile.
pub(super) fn entries<const N: usize>(
    pins: &Pins,
    map: &'static str,
    bucket: Option<u32>,
    batch: usize,
) -> Result<sys::Entries<N>, EdgeError> {
    let data = MapData::from_pin(pins.map(map)).map_err(EdgeError::map(map))?;
    sys::Entries::of(data, bucket, batch).map_err(EdgeError::map(map))
}

/// All entries of a pinned map by source.
pub(super) fn all<const N: usize>(pins: &Pins, map: &'static str) -> Result<Vec<(u64, [u8; N])>, EdgeError> {
    let mut entries = entries(pins, map, None, BATCH)?;
    let mut found = Vec::new();
    loop {
        found.extend(entries.next_batch().map_err(EdgeError::pin("reading", pins.map(map)))?);
        if entries.bucket().is_none() {
            return Ok(found);
        }
    }
}

/// Shows the values of all entries of a pinned map by source, without keeping them.
pub(super) fn each<const N: usize>(
    pins: &Pins,
    map: &'static str,
    mut look: impl FnMut([u8; N]),
) -> Result<(), EdgeError> {
    let mut entries = entries(pins, map, None, BATCH)?;
    loop {
        let batch = entries.next_batch().map_err(EdgeError::pin("reading", pins.map(map)))?;
        batch.for_each(|(_, value)| look(value));
        if entries.bucket().is_none() {
            return Ok(());
        }
    }
}

/// Entries that a pinned map has room for.
pub(super) fn room(pins: &Pins, map: &'static str) -> Result<u64, EdgeError> {
    MapInfo::from_pin(pins.map(map)).map(|info| info.max_entries().into()).map_err(EdgeError::map(map))
}

/// The kernel's number for a pinned map.
pub(super) fn id(pins: &Pins, map: &'static str) -> Result<u32, EdgeError> {
    MapInfo::from_pin(pins.map(map)).map(|info| info.id()).map_err(EdgeError::map(map))
}

/// Writes what the programs need of the configuration. Ports are written last: until then nothing is guarded, and
/// nothing is dropped before the exempt list stands. Returns the version of the exempt list.
///
/// The version changes before the list does: from that moment on nothing that was checked against the old list is taken
/// as checked, also where this process ends in between.
pub(super) fn configure(pins: &Pins, config: &Config) -> Result<u32, EdgeError> {
    // Two that write different exempt lists must not give them the same version.
    let _lock = lock(pins.directory())?;
    let mut settings: Array<_, [u8; Settings::SIZE]> =
        open(pins, "SETTINGS")?.try_into().map_err(EdgeError::map("SETTINGS"))?;
    let before = settings.get(&0, 0).map_err(EdgeError::map("SETTINGS"))?;
    let (v4, v6) = exempt(pins, config)?;
    let mut version = Settings::from_bytes(before).exempt_version;
    if version == 0 || v4.changes() || v6.changes() {
        version = version.wrapping_add(1).max(1);
        let mut bytes = before;
        bytes[24..28].copy_from_slice(&version.to_ne_bytes());
        settings.set(0, bytes, 0).map_err(EdgeError::map("SETTINGS"))?;
    }
    v4.apply()?;
    v6.apply()?;
    let rate = Bucket::new(config.limits.connections_per_minute.saturating_mul(RATE_HEADROOM), MINUTE_NS);
    let bytes = Settings {
        abi: abi::ABI_VERSION,
        connections: config.edge.connections,
        ipv6_mask: config.limits.ipv6_prefix.mask(),
        netns_cookie: sys::netns_cookie()
            .map_err(EdgeError::pin("reading the network namespace of", "/proc/self/ns/net"))?,
        exempt_version: version,
        networks: has_networks(pins)?.into(),
        rate_interval_ns: rate.interval_ns,
        rate_burst_ns: rate.burst_ns,
    };
    settings.set(0, bytes.to_bytes(), 0).map_err(EdgeError::map("SETTINGS"))?;
    write_ports(pins, config)?;
    Ok(version)
}

/// The settings in force.
pub(super) fn settings(pins: &Pins) -> Result<Settings, EdgeError> {
    let map: Array<_, [u8; Settings::SIZE]> = open(pins, "SETTINGS")?.try_into().map_err(EdgeError::map("SETTINGS"))?;
    map.get(&0, 0).map(Settings::from_bytes).map_err(EdgeError::map("SETTINGS"))
}

/// Has the program look for banned networks, or spare itself that: whichever the map calls for. To be called after each
/// change of the map. Takes the lock only where the word has to change, which is seldom.
///
/// Whoever else writes SETTINGS does it under the lock and looks at the map then, so the word is right in the end.
pub(super) fn announce_networks(pins: &Pins) -> Result<(), EdgeError> {
    if (settings(pins)?.networks != 0) == has_networks(pins)? {
        return Ok(());
    }
    let _lock = lock(pins.directory())?;
    let mut map: Array<_, [u8; Settings::SIZE]> =
        open(pins, "SETTINGS")?.try_into().map_err(EdgeError::map("SETTINGS"))?;
    let now = map.get(&0, 0).map(Settings::from_bytes).map_err(EdgeError::map("SETTINGS"))?;
    let bytes = Settings { networks: has_networks(pins)?.into(), ..now }.to_bytes();
    map.set(0, bytes, 0).map_err(EdgeError::map("SETTINGS"))
}

/// Whether any network is banned.
fn has_networks(pins: &Pins) -> Result<bool, EdgeError> {
    let trie: LpmTrie<_, [u8; 8], [u8; size_of::<abi::Ban>()]> =
        open(pins, networks::MAP)?.try_into().map_err(EdgeError::map(networks::MAP))?;
    trie.keys().next().transpose().map(|first| first.is_some()).map_err(EdgeError::map(networks::MAP))
}

/// The guarded ports: one bit each.
pub(super) fn ports(pins: &Pins) -> Result<Vec<u64>, EdgeError> {
    let map: Array<_, u64> = open(pins, "PORTS")?.try_into().map_err(EdgeError::map("PORTS"))?;
    (0..PORT_WORDS).map(|index| map.get(&index, 0).map_err(EdgeError::map("PORTS"))).collect()
}

fn write_ports(pins: &Pins, config: &Config) -> Result<(), EdgeError> {
    let mut words = [0u64; PORT_WORDS as usize];
    for listen in &config.listen {
        let port = listen.address.port();
        words[usize::from(port >> 6)] |= 1 << (port & 63);
    }
    let mut map: Array<_, u64> = open(pins, "PORTS")?.try_into().map_err(EdgeError::map("PORTS"))?;
    for (index, word) in (0..).zip(words) {
        map.set(index, word, 0).map_err(EdgeError::map("PORTS"))?;
    }
    Ok(())
}

fn exempt(pins: &Pins, config: &Config) -> Result<(Change<4>, Change<16>), EdgeError> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for net in config.untouchable().iter() {
        match net {
            IpNet::V4(net) => v4.push((u32::from(net.prefix_len()), net.network().octets())),
            IpNet::V6(net) => v6.push((u32::from(net.prefix_len()), net.network().octets())),
        }
    }
    Ok((Change::to(pins, "EXEMPT_V4", "IPv4", v4)?, Change::to(pins, "EXEMPT_V6", "IPv6", v6)?))
}

/// The changes after which a trie holds exactly what is wanted.
struct Change<const N: usize> {
    map: &'static str,
    trie: LpmTrie<MapData, [u8; N], u32>,
    new: Vec<Key<[u8; N]>>,
    old: Vec<Key<[u8; N]>>,
}

impl<const N: usize> Change<N> {
    fn to(
        pins: &Pins,
        map: &'static str,
        family: &'static str,
        wanted: Vec<(u32, [u8; N])>,
    ) -> Result<Self, EdgeError> {
        if wanted.len() > EXEMPT_ENTRIES as usize {
            return Err(EdgeError::TooManyExempt { limit: EXEMPT_ENTRIES, family });
        }
        let trie: LpmTrie<_, [u8; N], u32> = open(pins, map)?.try_into().map_err(EdgeError::map(map))?;
        let mut missing: HashSet<_> = wanted.into_iter().collect();
        let mut old = Vec::new();
        for key in trie.keys() {
            let key = key.map_err(EdgeError::map(map))?;
            if !missing.remove(&(key.prefix_len(), key.data())) {
                old.push(key);
            }
        }
        let new = missing.into_iter().map(|(length, address)| Key::new(length, address)).collect();
        Ok(Self { map, trie, new, old })
    }

    fn changes(&self) -> bool {
        !self.new.is_empty() || !self.old.is_empty()
    }

    /// New entries come before old ones go: what stays exempt is so at every moment.
    fn apply(mut self) -> Result<(), EdgeError> {
        for key in &self.new {
            // A trie that is full of old entries has no room for new ones before they go.
            if self.trie.insert(key, 1, 0).is_err() {
                for key in self.old.drain(..) {
                    self.trie.remove(&key).map_err(EdgeError::map(self.map))?;
                }
                self.trie.insert(key, 1, 0).map_err(EdgeError::map(self.map))?;
            }
        }
        for key in self.old {
            self.trie.remove(&key).map_err(EdgeError::map(self.map))?;
        }
        Ok(())
    }
}

/// Whether the plane is loaded: the maps that [`KernelPlane`](super::KernelPlane) needs are pinned, and the program, which is
/// pinned once it is attached everywhere. Until then the maps are the loader's alone.
pub(super) fn are_there(pins: &Pins) -> bool {
    let maps = ["SETTINGS", "BANNED", "NEAR", "BANS", "NETWORKS", "CONNS", "COUNTERS"].map(|map| pins.map(map));
    maps.into_iter().chain([pins.program(XDP)]).all(|pin| pin.exists())
}
