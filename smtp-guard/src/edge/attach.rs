//! Putting the programs behind their links, and taking that back where a load fails halfway.
//!
//! First all pinned links are opened, those of other versions too. A link is known by what it is on, not by the name in its
//! path: interfaces may have been renamed. A link that is on a wanted interface has its program replaced at once: no packet
//! goes unfiltered. Else a new one is made. What was done is noted step by step, and undone in the opposite order. Pins are
//! changed last ([`Links::keep`]), when all programs are in place. Only a link whose mode changes goes before that, with its
//! pin. It comes back when the load is undone.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{ProgramError, SockOps, Xdp, XdpMode as AyaMode, loaded_programs};
use serde::Serialize;

use super::error::EdgeError;
use super::interfaces::{self, index_of, is_on, without_ethernet};
use super::load::{CONNS_PROGRAM, XDP_PROGRAM, verifier};
use super::pins::{CONNS, Mode, Pins, XDP};
use super::sys;
use crate::config::XdpMode;

/// How often, and after what pause, an interface is tried that something is on.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(20);

/// An interface that carries the program now.
#[derive(Debug, Serialize)]
pub struct Attached {
    pub name: String,
    /// `driver` or `generic`.
    pub mode: &'static str,
    /// The program behind an existing link was replaced.
    pub replaced: bool,
    /// Why it isn't the driver's mode, where that was tried first.
    pub driver_refused: Option<String>,
}

/// The links of one load.
pub(super) struct Links<'a> {
    pins: &'a Pins,
    found: Vec<Found<'a>>,
    done: Vec<Step<'a>>,
    /// The things to pin, and where.
    kept: Vec<(Kept, PathBuf)>,
}

/// A pinned link of an XDP program.
struct Found<'a> {
    pins: &'a Pins,
    path: PathBuf,
    mode: Mode,
    /// `None`: its interface has been taken care of.
    link: Option<OwnedFd>,
}

enum Kept {
    Old { link: OwnedFd, pinned: PathBuf },
    New(FdLink),
}

/// A step that can be undone. (A new link ends when it is dropped.)
enum Step<'a> {
    /// The program of the link was replaced; where it is known, this was the one before.
    Replaced { link: OwnedFd, before: Option<OwnedFd> },
    /// The link of an interface was removed, because the kernel has only one mode at a time.
    Removed { pins: &'a Pins, path: PathBuf, index: u32, mode: Mode },
}

impl<'a> Links<'a> {
    /// Opens the links of `pins`, and of `others`, which are taken over.
    pub(super) fn open(pins: &'a Pins, others: &'a [Pins]) -> Result<Self, EdgeError> {
        let mut found = Vec::new();
        for pins in std::iter::once(pins).chain(others) {
            for (_, mode, path) in pins.xdp_links().map_err(EdgeError::pin("reading", pins.directory()))? {
                let link = Some(open(&path)?);
                found.push(Found { pins, path, mode, link });
            }
        }
        Ok(Self { pins, found, done: Vec::new(), kept: Vec::new() })
    }

    /// Has `program` count connections.
    pub(super) fn conns(&mut self, program: &mut SockOps, others: &[Pins]) -> Result<(), EdgeError> {
        let ours = self.pins.conns_link();
        for pins in std::iter::once(self.pins).chain(others) {
            let path = pins.conns_link();
            if path.exists() {
                let fd = program.fd().map_err(verifier(CONNS_PROGRAM))?;
                return self.replace(open(&path)?, &path, ours, fd.as_fd(), &pins.program(CONNS));
            }
        }
        let cgroup = cgroup_root()?;
        let failed = |cause| EdgeError::Cgroup { cgroup: cgroup.clone(), cause };
        let directory = File::open(&cgroup).map_err(failed)?;
        // cgroup links are always multiple: `Single` sets no flag, `AllowMultiple` one that links refuse.
        let link = program.attach(directory, CgroupAttachMode::Single).map_err(|e| failed(io_error(e)))?;
        let link = program.take_link(link).map_err(|e| failed(io_error(e)))?;
        let link: FdLink = link.try_into().map_err(|_| EdgeError::Missing { what: "link of guard_conns" })?;
        self.kept.push((Kept::New(link), ours));
        Ok(())
    }

    /// Puts `program` on the interface `name`: behind the link that is on it, else by a new one.
    pub(super) fn xdp(&mut self, program: &mut Xdp, name: &str, wanted: XdpMode) -> Result<Attached, EdgeError> {
        let index = index_of(name).ok_or_else(|| EdgeError::UnknownInterface { name: name.to_owned() })?;
        refuse_without_ethernet(name, index)?;
        let on = |found: &&mut Found<'_>| found.link.as_ref().is_some_and(|link| is_on(link.as_fd(), index));
        if let Some(found) = self.found.iter_mut().find(on)
            && let Some(link) = found.link.take()
        {
            let (pins, mode, path) = (found.pins, found.mode, found.path.clone());
            if modes(wanted).contains(&mode) {
                let fd = program.fd().map_err(verifier(XDP_PROGRAM))?;
                self.replace(link, &path, self.pins.xdp_link(mode, name), fd.as_fd(), &pins.program(XDP))?;
                return Ok(attached(name, mode, true, None));
            }
            // In a mode that isn't wanted any more.
            drop(link);
            Pins::remove(&path)?;
            self.done.push(Step::Removed { pins, path, index, mode });
        }
        self.attach(program, name, index, modes(wanted))
    }

    /// Puts `program` on an interface that has no link.
    pub(super) fn attach(
        &mut self,
        program: &mut Xdp,
        name: &str,
        index: u32,
        modes: &[Mode],
    ) -> Result<Attached, EdgeError> {
        refuse_without_ethernet(name, index)?;
        let (mut failure, mut driver_refused) = (EdgeError::NoInterface, None);
        for &mode in modes {
            match link(program, index, mode) {
                Ok(link) => {
                    self.kept.push((Kept::New(link), self.pins.xdp_link(mode, name)));
                    return Ok(attached(name, mode, false, driver_refused));
                }
                Err(cause) => {
                    match cause.raw_os_error() {
                        Some(libc::EBUSY | libc::EEXIST) => {
                            return Err(occupied(name, index));
                        }
                        Some(libc::EPERM | libc::EACCES) => {
                            return Err(EdgeError::NotPermitted { what: "attaching XDP programs" });
                        }
                        _ => {}
                    }
                    driver_refused = Some(cause.to_string());
                    failure = EdgeError::Attach { name: name.to_owned(), mode: mode.label(), cause };
                }
            }
        }
        Err(failure)
    }

    /// Pins what is to stay. Links on interfaces that aren't wanted, or are gone, lose their pins, and end.
    pub(super) fn keep(mut self) -> Result<(), EdgeError> {
        let wanted: Vec<PathBuf> = self.kept.iter().map(|(_, path)| path.clone()).collect();
        self.pin()?;
        for (_, _, path) in self.pins.xdp_links().map_err(EdgeError::pin("reading", self.pins.directory()))? {
            if !wanted.contains(&path) {
                Pins::remove(&path)?;
            }
        }
        Ok(())
    }

    /// Pins what was attached, beside all that is pinned; a pin of the same interface that leads nowhere is replaced.
    pub(super) fn add(mut self) -> Result<(), EdgeError> {
        let (names, pins) = (self.kept.iter().map(|(_, path)| path.clone()).collect::<Vec<_>>(), self.pins);
        self.pin()?;
        // In the other mode, from before.
        for (name, mode, path) in pins.xdp_links().map_err(EdgeError::pin("reading", pins.directory()))? {
            let other = match mode {
                Mode::Driver => Mode::Generic,
                Mode::Generic => Mode::Driver,
            };
            if names.contains(&pins.xdp_link(other, &name)) && !names.contains(&path) {
                Pins::remove(&path)?;
            }
        }
        Ok(())
    }

    fn pin(&mut self) -> Result<(), EdgeError> {
        for (kept, path) in std::mem::take(&mut self.kept) {
            // Under another name first: a pin that leads to another link is replaced at once.
            let new = self.pins.beside(&path);
            Pins::remove(&new)?;
            match kept {
                Kept::Old { pinned, .. } if pinned == path => continue,
                Kept::Old { link, .. } => sys::pin(link.as_fd(), &new).map_err(EdgeError::pin("pinning", &path))?,
                Kept::New(link) => {
                    let pinned = link.pin(&new).map(drop);
                    pinned.map_err(|error| EdgeError::pin("pinning", &path)(io::Error::other(error)))?;
                }
            }
            fs::rename(&new, &path).map_err(EdgeError::pin("pinning", &path))?;
        }
        Ok(())
    }

    /// Puts everything back as it was. Returns what can't be put back, in words.
    pub(super) fn undo(self) -> Vec<String> {
        // New links end, so that the interface is free for the one from before.
        drop(self.kept);
        let mut failed = Vec::new();
        for step in self.done.into_iter().rev() {
            let undone = match step {
                Step::Replaced { link, before: Some(before) } => sys::update_link(link.as_fd(), before.as_fd())
                    .map_err(EdgeError::pin("putting back the program of", self.pins.directory())),
                // Of a version that pinned no programs: the new one stays behind its link.
                Step::Replaced { before: None, .. } => Ok(()),
                Step::Removed { pins, path, index, mode } => reattach(pins, &path, index, mode),
            };
            failed.extend(undone.err().map(|error| error.to_string()));
        }
        failed
    }

    /// Replaces the program of a link that is pinned at `path`, and is to be pinned at `ours`.
    fn replace(
        &mut self,
        link: OwnedFd,
        path: &Path,
        ours: PathBuf,
        program: BorrowedFd<'_>,
        before: &Path,
    ) -> Result<(), EdgeError> {
        let before = before.exists().then(|| open(before)).transpose()?;
        let kept = link.try_clone().map_err(EdgeError::pin("opening", path))?;
        sys::update_link(link.as_fd(), program).map_err(EdgeError::pin("replacing the program of", path))?;
        self.done.push(Step::Replaced { link, before });
        self.kept.push((Kept::Old { link: kept, pinned: path.to_owned() }, ours));
        Ok(())
    }
}

/// Also where it has a link: what an interface carries can change, and so can its name's owner.
pub(super) fn refuse_without_ethernet(name: &str, index: u32) -> Result<(), EdgeError> {
    match without_ethernet(index).map_err(EdgeError::pin("asking the kernel about the interface", name))? {
        Some(kind) => Err(EdgeError::NoEthernet { name: name.to_owned(), kind }),
        None => Ok(()),
    }
}

/// The error that names the program on the interface, and the command that takes it off.
fn occupied(name: &str, index: u32) -> EdgeError {
    let found = interfaces::xdp(index).ok().flatten();
    let Some(xdp) = found else {
        // It has gone meanwhile, or nothing can be asked.
        let remedy = "`bpftool net` shows it".to_owned();
        return EdgeError::Occupied { name: name.to_owned(), program: "unknown".to_owned(), remedy };
    };
    let info = loaded_programs().flatten().find(|info| info.id() == xdp.program);
    let called = info.as_ref().and_then(|info| info.name_as_str()).filter(|name| !name.is_empty());
    let program = match called {
        Some(called) => format!("{called}, id {}", xdp.program),
        None => format!("id {}", xdp.program),
    };
    let by_netlink = match xdp.mode {
        Mode::Driver => format!("`ip link set dev {name} xdp off`"),
        Mode::Generic => format!("`ip link set dev {name} xdpgeneric off`"),
    };
    let remedy = match sys::xdp_links() {
        Ok(links) => match links.iter().find(|link| link.ifindex == index && link.prog_id == xdp.program) {
            Some(link) => format!("it holds by a link: `bpftool link detach id {}`", link.id),
            None => by_netlink,
        },
        // Who may not look at links is told both.
        Err(_) => format!("{by_netlink}, or `bpftool link detach id` where `bpftool link list` has it"),
    };
    EdgeError::Occupied { name: name.to_owned(), program, remedy }
}

/// A link of `program` to the interface `index`. Tries again for a while where something is on it: the kernel takes a
/// program off a moment after the last link to it went.
fn link(program: &mut Xdp, index: u32, mode: Mode) -> io::Result<FdLink> {
    let flag = match mode {
        Mode::Driver => AyaMode::Driver,
        Mode::Generic => AyaMode::Skb,
    };
    let mut tries = 0..TRIES;
    let link = loop {
        match program.attach_to_if_index(index, flag).map_err(io_error) {
            // EEXIST: it is there in the other mode.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) && tries.next().is_some() =>
            {
                std::thread::sleep(PAUSE);
            }
            result => break result?,
        }
    };
    let link = program.take_link(link).map_err(io::Error::other)?;
    // A kernel without XDP links would get a netlink attachment, which can't be pinned.
    link.try_into().map_err(|_| io::Error::other("this kernel has no links for XDP"))
}

/// Puts the program of `pins` back on an interface, and its link to `path`.
fn reattach(pins: &Pins, path: &Path, index: u32, mode: Mode) -> Result<(), EdgeError> {
    let mut program = pinned_xdp(&pins.program(XDP))?;
    let link = link(&mut program, index, mode).map_err(EdgeError::pin("putting back", path))?;
    link.pin(path).map(drop).map_err(|error| EdgeError::pin("pinning", path)(io::Error::other(error)))
}

/// The XDP program that is pinned at `path`.
pub(super) fn pinned_xdp(path: &Path) -> Result<Xdp, EdgeError> {
    Xdp::from_pin(path, aya_obj::programs::XdpAttachType::Interface).map_err(verifier(XDP_PROGRAM))
}

fn attached(name: &str, mode: Mode, replaced: bool, driver_refused: Option<String>) -> Attached {
    Attached { name: name.to_owned(), mode: mode.label(), replaced, driver_refused }
}

pub(super) fn modes(wanted: XdpMode) -> &'static [Mode] {
    match wanted {
        XdpMode::Auto => &[Mode::Driver, Mode::Generic],
        XdpMode::Driver => &[Mode::Driver],
        XdpMode::Generic => &[Mode::Generic],
    }
}

fn open(path: &Path) -> Result<OwnedFd, EdgeError> {
    sys::open_pin(path).map_err(EdgeError::pin("opening", path))
}

/// Where cgroup v2 is mounted: sockets of all processes are below its root.
fn cgroup_root() -> Result<PathBuf, EdgeError> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(EdgeError::pin("reading", "/proc/self/mounts"))?;
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    mount
        .into_iter()
        .find_map(|fields| (fields.get(2) == Some(&"cgroup2")).then(|| fields.get(1).map(PathBuf::from)).flatten())
        .ok_or(EdgeError::NoCgroup)
}

fn io_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}
