//! Putting the programs behind their links, and taking that back where a load fails halfway.
//!
//! A link that is pinned, by this version or another one, has its program replaced at once: no packet goes unfiltered. Else a
//! new one is made. What was done is noted step by step, and undone in the opposite order: a failed load leaves the
//! programs from before behind the links from before.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{ProgramError, SockOps, Xdp, XdpMode as AyaMode};
use serde::Serialize;

use super::error::EdgeError;
use super::interfaces::index_of;
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
    /// Of other versions, whose links are taken over.
    others: &'a [Pins],
    done: Vec<Step>,
}

/// What can be undone.
enum Step {
    /// The program of the link was replaced; where it is known, this was the one before.
    Replaced { link: OwnedFd, before: Option<OwnedFd> },
    /// A pin was made.
    Pinned(PathBuf),
    /// The link of an interface was removed, because the kernel has only one mode at a time.
    Removed { name: String, index: u32, mode: Mode, path: PathBuf },
}

impl<'a> Links<'a> {
    pub(super) fn new(pins: &'a Pins, others: &'a [Pins]) -> Self {
        Self { pins, others, done: Vec::new() }
    }

    /// Has `program` count connections.
    pub(super) fn conns(&mut self, program: &mut SockOps) -> Result<(), EdgeError> {
        let path = self.pins.conns_link();
        for pins in self.all() {
            if pins.conns_link().exists() {
                let fd = program.fd().map_err(verifier(CONNS_PROGRAM))?;
                let link = open(&pins.conns_link())?;
                return self.take_over(link, &pins.conns_link(), &path, fd.as_fd(), pins.program(CONNS));
            }
        }
        let cgroup = cgroup_root()?;
        let failed = |cause| EdgeError::Cgroup { cgroup: cgroup.clone(), cause };
        let directory = File::open(&cgroup).map_err(failed)?;
        // cgroup links are always multiple: `Single` sets no flag, `AllowMultiple` one that links refuse.
        let link = program.attach(directory, CgroupAttachMode::Single).map_err(|e| failed(io_error(e)))?;
        let link = program.take_link(link).map_err(|e| failed(io_error(e)))?;
        let link: FdLink = link.try_into().map_err(|_| EdgeError::Missing { what: "link of guard_conns" })?;
        self.pin(link, path)
    }

    /// Puts `program` on the interface `name`: behind the link that is pinned for it, else by a new one.
    pub(super) fn xdp(&mut self, program: &mut Xdp, name: &str, wanted: XdpMode) -> Result<Attached, EdgeError> {
        let index = index_of(name).ok_or_else(|| EdgeError::UnknownInterface { name: name.to_owned() })?;
        for pins in self.all() {
            for mode in [Mode::Driver, Mode::Generic] {
                let path = pins.xdp_link(mode, name);
                if !path.exists() {
                    continue;
                }
                let link = open(&path)?;
                let current = sys::link_interface(link.as_fd()).map_err(EdgeError::pin("reading", &path))? == index;
                if current && modes(wanted).contains(&mode) {
                    let fd = program.fd().map_err(verifier(XDP_PROGRAM))?;
                    let ours = self.pins.xdp_link(mode, name);
                    self.take_over(link, &path, &ours, fd.as_fd(), pins.program(XDP))?;
                    return Ok(attached(name, mode, true, None));
                }
                // Of an interface that is gone, or in a mode that isn't wanted any more.
                drop(link);
                Pins::remove(&path)?;
                if current {
                    self.done.push(Step::Removed { name: name.to_owned(), index, mode, path: pins.program(XDP) });
                }
            }
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
        let (mut failure, mut driver_refused) = (EdgeError::NoInterface, None);
        for &mode in modes {
            match patiently(|| program.attach_to_if_index(index, flag(mode))) {
                Ok(link) => {
                    let link = program.take_link(link).map_err(verifier(XDP_PROGRAM))?;
                    // A kernel without XDP links would get a netlink attachment, which can't be pinned.
                    let link: FdLink = link.try_into().map_err(|_| EdgeError::Missing { what: "XDP link" })?;
                    self.pin(link, self.pins.xdp_link(mode, name))?;
                    return Ok(attached(name, mode, false, driver_refused));
                }
                Err(error) => {
                    let cause = io_error(error);
                    match cause.raw_os_error() {
                        Some(libc::EBUSY | libc::EEXIST) => {
                            return Err(EdgeError::Occupied { name: name.to_owned() });
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

    /// Puts everything back as it was. What can't be put back is told.
    pub(super) fn undo(self) {
        for step in self.done.into_iter().rev() {
            let undone = match step {
                Step::Replaced { link, before: Some(before) } => sys::update_link(link.as_fd(), before.as_fd())
                    .map_err(EdgeError::pin("putting back the program of", self.pins.directory())),
                // Of a version that pinned no programs: the new one stays behind its link.
                Step::Replaced { before: None, .. } => Ok(()),
                Step::Pinned(path) => Pins::remove(&path).map(drop),
                Step::Removed { name, index, mode, path } => reattach(self.pins, &path, &name, index, mode),
            };
            if let Err(error) = undone {
                tracing::error!(%error, "a load that failed could not be undone; `smtp-guard edge status` shows what runs");
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &'a Pins> + use<'a> {
        std::iter::once(self.pins).chain(self.others)
    }

    /// Replaces the program of a link that is pinned at `path`, and pins the link at `ours`.
    fn take_over(
        &mut self,
        link: OwnedFd,
        path: &Path,
        ours: &Path,
        program: std::os::fd::BorrowedFd<'_>,
        before: PathBuf,
    ) -> Result<(), EdgeError> {
        let before = before.exists().then(|| open(&before)).transpose()?;
        sys::update_link(link.as_fd(), program).map_err(EdgeError::pin("replacing the program of", path))?;
        if path != ours {
            sys::pin(link.as_fd(), ours).map_err(EdgeError::pin("pinning", ours))?;
            self.done.push(Step::Pinned(ours.to_owned()));
        }
        self.done.push(Step::Replaced { link, before });
        Ok(())
    }

    fn pin(&mut self, link: FdLink, path: PathBuf) -> Result<(), EdgeError> {
        let pinned = link.pin(&path).map(drop);
        pinned.map_err(|error| EdgeError::pin("pinning", &path)(io::Error::other(error)))?;
        self.done.push(Step::Pinned(path));
        Ok(())
    }
}

/// Tries again for a while where something is on the interface: the kernel takes a program off a moment after the last
/// link to it went.
fn patiently<T>(mut attach: impl FnMut() -> Result<T, ProgramError>) -> Result<T, ProgramError> {
    for _ in 0..TRIES {
        match attach() {
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
    attach()
}

/// Puts the program that is pinned at `program` back on an interface.
fn reattach(pins: &Pins, program: &Path, name: &str, index: u32, mode: Mode) -> Result<(), EdgeError> {
    let mut program = pinned_xdp(program)?;
    Links::new(pins, &[]).attach(&mut program, name, index, &[mode]).map(drop)
}

/// The XDP program that is pinned at `path`.
pub(super) fn pinned_xdp(path: &Path) -> Result<Xdp, EdgeError> {
    Xdp::from_pin(path, aya_obj::programs::XdpAttachType::Interface).map_err(verifier(XDP_PROGRAM))
}

fn attached(name: &str, mode: Mode, replaced: bool, driver_refused: Option<String>) -> Attached {
    Attached { name: name.to_owned(), mode: mode.label(), replaced, driver_refused }
}

fn flag(mode: Mode) -> AyaMode {
    match mode {
        Mode::Driver => AyaMode::Driver,
        Mode::Generic => AyaMode::Skb,
    }
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
