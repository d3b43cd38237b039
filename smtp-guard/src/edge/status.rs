//! The kernel plane at a glance.

use std::os::fd::AsFd;
use std::path::PathBuf;

use serde::Serialize;
use smtp_guard_ebpf::abi;

use super::error::EdgeError;
use super::interfaces::{index_of, is_on, xdp};
use super::plane::KernelPlane;
use super::{pins, sys};

/// The answer of [`KernelPlane::status`].
#[derive(Debug, Serialize)]
pub struct Status {
    pub directory: PathBuf,
    pub abi: u32,
    pub interfaces: Vec<Interface>,
    /// Entries of both maps of bans, also those whose time is over.
    pub bans_active: usize,
    /// Those of them that are of networks.
    pub networks_active: usize,
    /// Sources with established connections.
    pub sources: usize,
    /// Established connections of all sources.
    pub connections: u64,
    pub kernel_packets: Vec<Packets>,
}

/// An interface with the program on it.
#[derive(Debug, Serialize)]
pub struct Interface {
    pub name: String,
    /// `driver` or `generic`.
    pub mode: &'static str,
    /// `false`: the interface is gone, or was made again after the program was attached.
    pub attached: bool,
}

/// Packets of one family, judged for one reason since the plane was loaded.
#[derive(Debug, Serialize)]
pub struct Packets {
    pub reason: &'static str,
    pub family: &'static str,
    /// `pass` or `drop`.
    pub verdict: &'static str,
    pub count: u64,
}

/// How full a map of the kernel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapFill {
    pub map: &'static str,
    /// Those that are over included, until they are swept.
    pub entries: u64,
    pub capacity: u64,
}

impl KernelPlane {
    /// Everything at a glance.
    pub fn status(&self) -> Result<Status, EdgeError> {
        let established = self.established()?;
        let packets = self.counters()?.into_iter().map(|(reason, family, count)| Packets {
            reason: reason.label(),
            family: family.label(),
            verdict: reason.verdict(),
            count,
        });
        let networks = self.networks_in_map()?.len();
        Ok(Status {
            directory: self.pins().directory().to_owned(),
            abi: abi::ABI_VERSION,
            interfaces: self.interfaces()?,
            bans_active: self.bans_in_map()?.len() + networks,
            networks_active: networks,
            sources: established.len(),
            connections: established.iter().map(|(_, count)| count).sum(),
            kernel_packets: packets.collect(),
        })
    }

    /// The interfaces that the plane was loaded for, and whether the program is on them.
    pub fn interfaces(&self) -> Result<Vec<Interface>, EdgeError> {
        let links = self.pins().xdp_links().map_err(EdgeError::pin("reading", self.pins().directory()))?;
        let interface = |(name, mode, path): (String, pins::Mode, PathBuf)| {
            let index = index_of(&name);
            let attached = match sys::open_pin(&path) {
                Ok(link) => index.is_some_and(|index| is_on(link.as_fd(), index)),
                // Links are root's alone. Others see whether there is a program on the interface, not whose.
                Err(_) => {
                    index.is_some_and(|index| xdp(index).is_ok_and(|found| found.is_some_and(|xdp| xdp.mode == mode)))
                }
            };
            Interface { name, mode: mode.label(), attached }
        };
        Ok(links.into_iter().map(interface).collect())
    }
}
