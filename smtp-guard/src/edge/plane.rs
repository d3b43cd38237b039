//! The loaded kernel plane, as the rest of the program sees it.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, MapError, PerCpuArray};
use smtp_guard_ebpf::abi::{self, Family, Source};
use smtp_guard_ebpf::reason::Reason;

use super::banned::{Banned, Written};
use super::error::EdgeError;
use super::pins::Pins;
use super::reconcile::{self, Suspicions};
use super::status::MapFill;
use super::sweep::Sweep;
use super::{maps, networks, sys};
use crate::addr::{Ipv6Prefix, NetSet};
use crate::clock::Instant;
use crate::config::Config;
use crate::key::Net;

/// A value of the map of connections, as bytes.
type ConnectionBytes = [u8; size_of::<abi::Connections>()];

/// The pinned maps of the kernel plane, which may be loaded, unloaded and loaded again meanwhile.
pub struct KernelPlane {
    pins: Pins,
    /// An error: why there are none. Behind a lock because aya wants exclusive access for writing, and because they may be
    /// opened again.
    maps: Mutex<Result<Maps, String>>,
    /// The exempt list that this process wrote or found to be in force, its version, and the length of IPv6 prefixes.
    exempt: Mutex<Option<(Arc<NetSet>, u32, Ipv6Prefix)>>,
    suspicions: Mutex<Suspicions>,
    sweep: Mutex<Sweep>,
}

struct Maps {
    /// The id of the ban map: another one at the same place means that the plane was loaded again.
    id: u32,
    /// For writing; opened by the first ban, so that who only reads writes nothing.
    banned: Option<Banned>,
    conns: HashMap<MapData, u64, ConnectionBytes>,
    counters: PerCpuArray<MapData, u64>,
}

/// The outcome of [`KernelPlane::refresh`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// The maps are those that are pinned.
    Same,
    /// The plane was loaded, or unloaded and loaded again: its maps have nothing of this process.
    Anew,
    /// The plane is not loaded any more.
    Gone,
}

impl Maps {
    fn open(pins: &Pins) -> Result<Self, EdgeError> {
        Ok(Self {
            id: maps::id(pins, "BANS")?,
            banned: None,
            conns: maps::open(pins, "CONNS")?.try_into().map_err(EdgeError::map("CONNS"))?,
            counters: maps::open(pins, "COUNTERS")?.try_into().map_err(EdgeError::map("COUNTERS"))?,
        })
    }

    /// Whether they are those that are pinned now.
    fn are_pinned(&self, pins: &Pins) -> bool {
        maps::id(pins, "BANS").is_ok_and(|id| id == self.id)
    }

    /// Applies `what` to the bans. After a failure all is written again at the next change: its result isn't known.
    fn change<T>(
        &mut self,
        pins: &Pins,
        what: impl FnOnce(&mut Banned) -> Result<T, EdgeError>,
    ) -> Result<T, EdgeError> {
        let mut banned = match self.banned.take() {
            Some(banned) => banned,
            None => Banned::open(pins)?,
        };
        let done = what(&mut banned)?;
        self.banned = Some(banned);
        Ok(done)
    }
}

impl KernelPlane {
    /// Opens the maps pinned below `pin_directory`; `None` where nothing is loaded.
    pub fn open(pin_directory: &Path) -> Result<Option<Self>, EdgeError> {
        let plane = Self::awaited(pin_directory, &EdgeError::NotLoaded { directory: pin_directory.to_owned() });
        Ok(match plane.refresh()? {
            Refreshed::Gone => None,
            Refreshed::Same | Refreshed::Anew => Some(plane),
        })
    }

    /// A plane that may be loaded some day, and isn't because of `why`: [`KernelPlane::refresh`] looks.
    pub fn awaited(pin_directory: &Path, why: &EdgeError) -> Self {
        Self {
            pins: Pins::new(pin_directory),
            maps: Mutex::new(Err(why.to_string())),
            exempt: Mutex::new(None),
            suspicions: Mutex::default(),
            sweep: Mutex::default(),
        }
    }

    /// Opens the maps again where the plane was loaded, or unloaded and loaded again, behind our back.
    pub fn refresh(&self) -> Result<Refreshed, EdgeError> {
        let mut maps = self.maps();
        let found = if !maps::are_there(&self.pins) {
            // Why it never came is known better than that it is away.
            if maps.is_ok() {
                *maps = Err(self.not_loaded().to_string());
            }
            Refreshed::Gone
        } else if maps.as_ref().is_ok_and(|maps| maps.are_pinned(&self.pins)) {
            return Ok(Refreshed::Same);
        } else {
            match Maps::open(&self.pins) {
                Ok(opened) => *maps = Ok(opened),
                Err(error) => {
                    *maps = Err(error.to_string());
                    return Err(error);
                }
            }
            Refreshed::Anew
        };
        // Who loaded it may have another exempt list.
        *self.exempt.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(found)
    }

    /// Behaves as if nothing were loaded, because of `why`, until the next [`KernelPlane::refresh`].
    pub(super) fn close(&self, why: &EdgeError) {
        *self.maps() = Err(why.to_string());
    }

    /// Why the plane doesn't enforce now, in words; `None`: it does.
    pub fn absence(&self) -> Option<String> {
        match &*self.maps() {
            Ok(maps) if maps.are_pinned(&self.pins) => None,
            Ok(_) => Some(self.not_loaded().to_string()),
            Err(why) => Some(why.clone()),
        }
    }

    /// Whether the plane is loaded, and is the one that was found by the last [`KernelPlane::refresh`].
    pub fn is_current(&self) -> bool {
        self.maps().as_ref().is_ok_and(|maps| maps.are_pinned(&self.pins))
    }

    /// Writes settings, exempt list and guarded ports of `config`. What is banned or listed from now on is checked against
    /// this exempt list here, so that the kernel needn't.
    pub fn configure(&self, config: &Config) -> Result<(), EdgeError> {
        let version = maps::configure(&self.pins, config)?;
        let exempt = (Arc::new(config.untouchable()), version, config.limits.ipv6_prefix);
        *self.exempt.lock().unwrap_or_else(PoisonError::into_inner) = Some(exempt);
        Ok(())
    }

    /// The exempt list that this process knows to be in force, and its version. `None` also where the plane was loaded
    /// again since: whose exempt list that has isn't known, and its versions begin again.
    pub(super) fn exempt(&self) -> Option<(Arc<NetSet>, u32)> {
        if !self.is_current() {
            return None;
        }
        let exempt = self.exempt.lock().unwrap_or_else(PoisonError::into_inner);
        exempt.as_ref().map(|(nets, version, _)| (Arc::clone(nets), *version))
    }

    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// The version of the exempt list that holds nothing of `source`; 0 where that isn't known.
    fn spares(&self, source: Source) -> u32 {
        match &*self.exempt.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((nets, version, prefix)) if !nets.touches(source, *prefix) => *version,
            _ => 0,
        }
    }

    /// The version of the exempt list that holds nothing of `net`; 0 where that isn't known.
    fn spares_network(&self, net: Net) -> u32 {
        match &*self.exempt.lock().unwrap_or_else(PoisonError::into_inner) {
            Some((nets, version, _)) if !nets.overlaps(net.net()) => *version,
            _ => 0,
        }
    }

    /// Bans `source` until `until`, or changes its ban, and reads it back.
    pub fn ban(&self, source: Source, until: Instant, reason: Reason) -> Result<(), EdgeError> {
        self.ban_all(&[(source, until, reason)]).map(drop)
    }

    /// Bans many at once, and reads them back: several hundred thousand in a second. Where the map is full, bans that end
    /// soonest make room.
    pub fn ban_all(&self, bans: &[(Source, Instant, Reason)]) -> Result<Written, EdgeError> {
        let written = self.with(|maps| {
            // While the maps are held: what is exempt there must not be reckoned from another plane's list.
            let value = |(source, until, reason): &(_, _, _)| (*source, self.value(*source, *until, *reason));
            let bans: Vec<_> = bans.iter().map(value).collect();
            maps.change(&self.pins, |banned| banned.write(&self.pins, &bans))
        })?;
        if written.displaced > 0 {
            tracing::warn!(
                displaced = written.displaced,
                "the kernel's map of bans is full: the bans that end soonest made room"
            );
        }
        Ok(written)
    }

    fn value(&self, source: Source, until: Instant, reason: Reason) -> abi::Ban {
        abi::Ban { until_ns: until.as_ns(), reason: reason as u32, spares: self.spares(source) }
    }

    /// Lifts the bans of `sources`, those that there are: how many.
    pub fn unban_all(&self, sources: &[Source]) -> Result<usize, EdgeError> {
        self.with(|maps| maps.change(&self.pins, |banned| banned.remove(&self.pins, sources)))
    }

    /// All bans of the map, also those whose time is over.
    pub fn bans_in_map(&self) -> Result<Vec<(Source, Instant, Reason)>, EdgeError> {
        let entry = |(source, value)| {
            let ban = abi::Ban::from_bytes(value);
            let reason = Reason::from_number(ban.reason).unwrap_or(Reason::Operator);
            (Source(source), Instant::from_ns(ban.until_ns), reason)
        };
        Ok(maps::all(&self.pins, "BANS")?.into_iter().map(entry).collect())
    }

    /// Bans networks, or changes their bans, and reads them back. Returns those that the map has no room for.
    pub fn ban_networks(&self, bans: &[(Net, Instant, Reason)]) -> Result<Vec<Net>, EdgeError> {
        self.with(|_| {
            let value = |(net, until, reason): &(Net, Instant, Reason)| {
                let spares = self.spares_network(*net);
                (*net, abi::Ban { until_ns: until.as_ns(), reason: *reason as u32, spares })
            };
            networks::write(&self.pins, &bans.iter().map(value).collect::<Vec<_>>())
        })
    }

    /// Lifts the bans of `nets`, those that there are.
    pub fn unban_networks(&self, nets: &[Net]) -> Result<(), EdgeError> {
        self.with(|_| networks::remove(&self.pins, nets))
    }

    /// All banned networks of the map, also those whose time is over.
    pub fn networks_in_map(&self) -> Result<Vec<(Net, Instant, Reason)>, EdgeError> {
        let entry = |(net, ban): (Net, abi::Ban)| {
            (net, Instant::from_ns(ban.until_ns), Reason::from_number(ban.reason).unwrap_or(Reason::Operator))
        };
        Ok(networks::all(&self.pins)?.into_iter().map(entry).collect())
    }

    /// Sources with established connections, and how many each.
    pub fn established(&self) -> Result<Vec<(Source, u64)>, EdgeError> {
        let entry = |(source, value)| (Source(source), abi::established(abi::Connections::from_bytes(value).count));
        let entries = maps::all(&self.pins, "CONNS")?.into_iter().map(entry);
        Ok(entries.filter(|(_, count)| *count > 0).collect())
    }

    /// Sources with established connections, and how full the maps are. Takes 50 ns for each entry.
    pub fn fill(&self) -> Result<(u64, [MapFill; 3]), EdgeError> {
        let (mut sources, mut established) = (0, 0);
        maps::each(&self.pins, "CONNS", |value| {
            sources += 1;
            established += u64::from(abi::established(abi::Connections::from_bytes(value).count) > 0);
        })?;
        let mut bans = 0;
        maps::each::<{ size_of::<abi::Ban>() }>(&self.pins, "BANS", |_| bans += 1)?;
        let networks = networks::all(&self.pins)?.len() as u64;
        let room = |map| maps::room(&self.pins, map);
        let fill = [
            MapFill { map: "bans", entries: bans, capacity: room("BANS")? },
            MapFill { map: "networks", entries: networks, capacity: room(networks::MAP)? },
            MapFill { map: "sources", entries: sources, capacity: room("CONNS")? },
        ];
        Ok((established, fill))
    }

    /// Removes entries of sources without connections, from at most [`maps::BATCH`] entries; the next call goes on where
    /// this one ended. Returns how many. To be called about once a second; see [`sweep`](super::sweep).
    pub fn sweep_idle(&self) -> Result<usize, EdgeError> {
        let mut sweep = self.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        // Locked for each alone: a ban must not wait for a sweep.
        sweep.pass(&self.pins, |source, is_idle| {
            self.with(|Maps { conns, .. }| {
                let found = conns.get(&source, 0).map(abi::Connections::from_bytes);
                Ok(found.is_ok_and(is_idle) && conns.remove(&source).is_ok())
            })
        })
    }

    /// Holds the counts of connections against the sockets that there are; see [`reconcile`]. To be called about once a
    /// minute. Returns the sources whose count was taken back, and by how much. Does nothing where the plane counts in
    /// another network namespace than this process sees.
    pub fn reconcile(&self) -> Result<Vec<(Source, u64)>, EdgeError> {
        let settings = maps::settings(&self.pins)?;
        let here =
            sys::netns_cookie().map_err(EdgeError::pin("reading the network namespace of", "/proc/self/ns/net"))?;
        if settings.netns_cookie != here {
            return Ok(Vec::new());
        }
        let ports = maps::ports(&self.pins)?;
        let guarded = |port: u16| ports[usize::from(port >> 6)] >> (port & 63) & 1 == 1;
        let excess = reconcile::excess(|| {
            let before = self.established()?;
            let sockets = reconcile::sockets(guarded, settings.ipv6_mask)
                .map_err(EdgeError::pin("asking sock_diag about", "/proc/self/net/tcp"))?;
            let mut excess = std::collections::HashMap::new();
            for (source, before) in before {
                let there = sockets.get(&source).copied().unwrap_or(0);
                // Asked again only where it may matter.
                if before > there
                    && let after @ 1.. = self.established_of(source)?.min(before).saturating_sub(there)
                {
                    excess.insert(source, after);
                }
            }
            Ok::<_, EdgeError>(excess)
        })?;
        let mut suspicions = self.suspicions.lock().unwrap_or_else(PoisonError::into_inner);
        let due = suspicions.pass(excess.into_iter());
        for (source, excess) in &due {
            self.with(|Maps { conns, .. }| {
                let Ok(value) = conns.get(&source.0, 0) else { return Ok(()) };
                let old = abi::Connections::from_bytes(value);
                let new = abi::Connections { count: abi::established(old.count).saturating_sub(*excess), ..old };
                conns.insert(source.0, new.to_bytes(), 0).map_err(EdgeError::map("CONNS"))
            })?;
        }
        Ok(due)
    }

    /// Established connections of `source`.
    pub fn established_of(&self, source: Source) -> Result<u64, EdgeError> {
        self.with(|maps| match maps.conns.get(&source.0, 0) {
            Ok(value) => Ok(abi::established(abi::Connections::from_bytes(value).count)),
            Err(MapError::KeyNotFound) => Ok(0),
            Err(error) => Err(EdgeError::map("CONNS")(error)),
        })
    }

    /// Packets by reason and family since the plane was loaded; only those that were seen.
    pub fn counters(&self) -> Result<Vec<(Reason, Family, u64)>, EdgeError> {
        let mut found = Vec::new();
        self.with(|Maps { counters, .. }| {
            for &reason in Reason::ALL {
                for family in Family::ALL {
                    let index = reason as u32 * 2 + family as u32;
                    let values = counters.get(&index, 0).map_err(EdgeError::map("COUNTERS"))?;
                    let packets = values.iter().sum();
                    if packets > 0 {
                        found.push((reason, family, packets));
                    }
                }
            }
            Ok(found)
        })
    }

    /// Applies `what` to the maps.
    fn with<T>(&self, what: impl FnOnce(&mut Maps) -> Result<T, EdgeError>) -> Result<T, EdgeError> {
        what(self.maps().as_mut().map_err(|_| self.not_loaded())?)
    }

    fn not_loaded(&self) -> EdgeError {
        EdgeError::NotLoaded { directory: self.pins.directory().to_owned() }
    }

    fn maps(&self) -> MutexGuard<'_, Result<Maps, String>> {
        // A panic elsewhere may have left bans half written, which the next read-back finds.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KernelPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelPlane").field("directory", &self.pins.directory()).finish_non_exhaustive()
    }
}
