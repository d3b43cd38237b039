//! Samples of the packets that the kernel drops: see [`smtp_guard_ebpf::event`]. One process at a time reads them; a sample is read once.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray, RingBuf};
use smtp_guard_ebpf::event::{Dropped, Sampling};
use smtp_guard_ebpf::reason::Reason;

use super::error::EdgeError;
use super::interfaces::wait_readable;
use super::maps;
use super::plane::KernelPlane;
use crate::clock::Instant;

/// A packet that the kernel dropped, one of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it was dropped.
    pub at: Instant,
    /// Where it said it came from.
    pub ip: IpAddr,
    /// The guarded port.
    pub port: u16,
    pub reason: Reason,
    /// Packets that it stands for: itself, and those that the same CPU dropped since the sample before it.
    pub stands_for: u64,
}

impl Sample {
    /// From the bytes of the ring buffer; `None` where another version wrote them.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let dropped = Dropped::from_bytes(bytes)?;
        Some(Self {
            at: Instant::from_ns(dropped.at_ns),
            ip: dropped.ip(),
            port: dropped.port,
            reason: Reason::from_number(dropped.reason)?,
            stands_for: dropped.stands_for,
        })
    }
}

/// The ring buffer, opened.
pub struct Events {
    ring: RingBuf<MapData>,
    sampling: PerCpuArray<MapData, [u8; size_of::<Sampling>()]>,
    id: u32,
}

impl Events {
    /// Opens the samples of the plane that is loaded now.
    pub fn open(plane: &KernelPlane) -> Result<Self, EdgeError> {
        let pins = plane.pins();
        if !plane.is_current() {
            return Err(EdgeError::NotLoaded { directory: pins.directory().to_owned() });
        }
        let id = maps::id(pins, "EVENTS")?;
        let ring = maps::open(pins, "EVENTS")?.try_into().map_err(EdgeError::map("EVENTS"))?;
        let sampling = maps::open(pins, "SAMPLES")?.try_into().map_err(EdgeError::map("SAMPLES"))?;
        Ok(Self { ring, sampling, id })
    }

    /// Whether it is the ring buffer of the plane that is loaded now.
    pub fn is_current(&self, plane: &KernelPlane) -> bool {
        maps::id(plane.pins(), "EVENTS").is_ok_and(|id| id == self.id)
    }

    /// Waits until there are samples; `false` after `longest`.
    pub fn wait(&self, longest: Duration) -> io::Result<bool> {
        wait_readable(self.ring.as_fd(), longest)
    }

    /// Takes at most `most` samples; never waits.
    pub fn take(&mut self, most: usize) -> Vec<Sample> {
        let mut samples = Vec::new();
        for _ in 0..most {
            let Some(item) = self.ring.next() else { break };
            samples.extend(Sample::from_bytes(&item));
        }
        samples
    }

    /// Samples that found the ring buffer full since the plane was loaded.
    pub fn lost(&self) -> Result<u64, EdgeError> {
        self.sum(core::mem::offset_of!(Sampling, lost))
    }

    /// Packets that were dropped since the last samples.
    #[cfg(test)]
    pub(super) fn untold(&self) -> Result<u64, EdgeError> {
        self.sum(core::mem::offset_of!(Sampling, since))
    }

    /// Over all CPUs, of the number at `offset`.
    fn sum(&self, offset: usize) -> Result<u64, EdgeError> {
        let values = self.sampling.get(&0, 0).map_err(EdgeError::map("SAMPLES"))?;
        Ok(values.iter().map(|value| u64::from_ne_bytes(core::array::from_fn(|n| value[offset + n]))).sum())
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("id", &self.id).finish_non_exhaustive()
    }
}
