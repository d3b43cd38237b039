//! Loading, attaching and pinning; replacing what is loaded; removing it all.
//!
//! Order: maps, their contents, the counting program, then XDP interface by interface. A second load finds the pinned
//! maps with their contents and replaces the programs behind the pinned links: no packet goes unfiltered, no count is
//! lost. A load that fails halfway removes what it made, and leaves what was there.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{ProgramError, ProgramType, SockOps, Xdp, XdpMode as AyaMode};
use aya::{Ebpf, EbpfError, EbpfLoader};
use serde::Serialize;

use super::error::EdgeError;
use super::pins::{self, MAPS, Mode, Pins};
use super::{maps, sys};
use crate::config::{Config, XdpMode};

/// The eBPF object; empty where the build had none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/smtp-guard.bpf.o"));

const XDP_PROGRAM: &str = "guard_xdp";
const CONNS_PROGRAM: &str = "guard_conns";

/// What a load did.
#[derive(Debug, Serialize)]
pub struct Loaded {
    pub directory: PathBuf,
    pub interfaces: Vec<Attached>,
    /// Instructions that the verifier went through, of each program.
    pub verified_instructions: VerifiedInstructions,
}

/// An interface that carries the program now.
#[derive(Debug, Serialize)]
pub struct Attached {
    pub name: String,
    /// `driver` or `generic`.
    pub mode: &'static str,
    /// The program behind an existing link was replaced.
    pub replaced: bool,
}

/// See [`Loaded::verified_instructions`].
#[derive(Debug, Serialize)]
pub struct VerifiedInstructions {
    pub xdp: u32,
    pub sock_ops: u32,
}

impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel plane loaded, pinned in {}", self.directory.display())?;
        for Attached { name, mode, replaced } in &self.interfaces {
            let how = if *replaced { ", replaced in place" } else { "" };
            writeln!(f, "{name}: XDP in {mode} mode{how}")?;
        }
        let VerifiedInstructions { xdp, sock_ops } = self.verified_instructions;
        write!(f, "verified instructions: {xdp} (XDP), {sock_ops} (sock_ops)")
    }
}

/// Whether this process may load programs at all.
pub fn permitted() -> Result<(), EdgeError> {
    if OBJECT.is_empty() {
        return Err(EdgeError::NoObject);
    }
    match aya::sys::is_program_supported(ProgramType::Xdp) {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(EdgeError::NotPermitted { what: "loading eBPF programs" }),
    }
}

/// Loads the kernel plane for `config`, or replaces the one that is loaded.
pub fn load(config: &Config) -> Result<Loaded, EdgeError> {
    permitted()?;
    if config.edge.interfaces.is_empty() {
        return Err(EdgeError::NoInterface);
    }
    for name in &config.edge.interfaces {
        index_of(name)?;
    }
    let pins = Pins::new(&config.edge.pin_directory);
    let before = pins.entries();
    pins.create()?;
    let loaded = load_into(&pins, config);
    if loaded.is_err() {
        // The error that is told is the first one.
        let _ = match before.as_slice() {
            [] => pins.remove_all().map(|_| fs::remove_dir(&config.edge.pin_directory)).map(drop),
            before => pins.remove_others(before),
        };
    }
    loaded
}

/// Removes every version of the kernel plane below `pin_directory`. Returns what was removed, in words.
pub fn unload(pin_directory: &Path) -> Result<Vec<String>, EdgeError> {
    let mut removed = Vec::new();
    for pins in pins::versions(pin_directory) {
        removed.extend(pins.remove_all()?);
    }
    // Not ours alone where somebody else has put something in.
    let _ = fs::remove_dir(pin_directory);
    Ok(removed)
}

fn load_into(pins: &Pins, config: &Config) -> Result<Loaded, EdgeError> {
    let mut object = open_object(pins, config)?;
    maps::configure(pins, config)?;
    let sock_ops = attach_conns(&mut object, pins)?;
    let program = xdp(&mut object)?;
    let mut interfaces = Vec::new();
    for name in &config.edge.interfaces {
        interfaces.push(attach_xdp(program, pins, name, config.edge.mode)?);
    }
    // By path, not by name: `eth0.1` and `eth0~1` have the same.
    let wanted = |name: &String| [Mode::Driver, Mode::Generic].map(|mode| pins.xdp_link(mode, name));
    let wanted: Vec<PathBuf> = config.edge.interfaces.iter().flat_map(wanted).collect();
    for (_, _, path) in pins.xdp_links().map_err(EdgeError::pin("reading", pins.directory()))? {
        if !wanted.contains(&path) {
            Pins::remove(&path)?;
        }
    }
    let xdp = program.info().ok().and_then(|info| info.verified_instruction_count()).unwrap_or(0);
    Ok(Loaded {
        directory: pins.directory().to_owned(),
        interfaces,
        verified_instructions: VerifiedInstructions { xdp, sock_ops },
    })
}

pub(super) fn open_object(pins: &Pins, config: &Config) -> Result<Ebpf, EdgeError> {
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        maps::check_shape(pins, map, config.edge.max_sources)?;
        loader.map_pin_path(map, pins.map(map));
    }
    loader.map_max_entries("BANS", config.edge.max_sources).map_max_entries("CONNS", config.edge.max_sources);
    loader.load(OBJECT).map_err(|error| match error {
        EbpfError::MapError(aya::maps::MapError::CreateError { ref io_error, .. }) if not_permitted(io_error) => {
            EdgeError::NotPermitted { what: "creating eBPF maps" }
        }
        error => EdgeError::Object(Box::new(error)),
    })
}

fn attach_conns(object: &mut Ebpf, pins: &Pins) -> Result<u32, EdgeError> {
    let program = object.program_mut(CONNS_PROGRAM).ok_or(EdgeError::Missing { what: "program guard_conns" })?;
    let program: &mut SockOps = program.try_into().map_err(verifier(CONNS_PROGRAM))?;
    program.load().map_err(verifier(CONNS_PROGRAM))?;
    let path = pins.conns_link();
    if path.exists() {
        let link = sys::open_pin(&path).map_err(EdgeError::pin("opening", &path))?;
        let fd = program.fd().map_err(verifier(CONNS_PROGRAM))?;
        sys::update_link(link.as_fd(), fd.as_fd()).map_err(EdgeError::pin("replacing the program of", &path))?;
    } else {
        let cgroup = cgroup_root()?;
        let failed = |cause| EdgeError::Cgroup { cgroup: cgroup.clone(), cause };
        let directory = File::open(&cgroup).map_err(failed)?;
        // cgroup links are always multiple: `Single` sets no flag, `AllowMultiple` one that links refuse.
        let link = program.attach(directory, CgroupAttachMode::Single).map_err(|e| failed(io_error(e)))?;
        let link = program.take_link(link).map_err(|e| failed(io_error(e)))?;
        let link: FdLink = link.try_into().map_err(|_| EdgeError::Missing { what: "link of guard_conns" })?;
        pin(link, &path)?;
    }
    Ok(program.info().ok().and_then(|info| info.verified_instruction_count()).unwrap_or(0))
}

pub(super) fn xdp(object: &mut Ebpf) -> Result<&mut Xdp, EdgeError> {
    let program = object.program_mut(XDP_PROGRAM).ok_or(EdgeError::Missing { what: "program guard_xdp" })?;
    let program: &mut Xdp = program.try_into().map_err(verifier(XDP_PROGRAM))?;
    program.load().map_err(verifier(XDP_PROGRAM))?;
    Ok(program)
}

/// Puts the program on `name`: behind the link that is pinned for it, else by a new one.
fn attach_xdp(program: &mut Xdp, pins: &Pins, name: &str, wanted: XdpMode) -> Result<Attached, EdgeError> {
    let index = index_of(name)?;
    for mode in [Mode::Driver, Mode::Generic] {
        let path = pins.xdp_link(mode, name);
        if !path.exists() {
            continue;
        }
        let link = sys::open_pin(&path).map_err(EdgeError::pin("opening", &path))?;
        let current = sys::link_interface(link.as_fd()).map_err(EdgeError::pin("reading", &path))? == index;
        if current && modes(wanted).contains(&mode) {
            let fd = program.fd().map_err(verifier(XDP_PROGRAM))?;
            sys::update_link(link.as_fd(), fd.as_fd()).map_err(EdgeError::pin("replacing the program of", &path))?;
            return Ok(Attached { name: name.to_owned(), mode: mode.label(), replaced: true });
        }
        // Of an interface that is gone, or in a mode that isn't wanted any more.
        drop(link);
        Pins::remove(&path)?;
        if current {
            // The kernel has only one mode at a time. Where the new one is refused the old one comes back.
            return attach_anew(program, pins, name, index, modes(wanted)).inspect_err(|_| {
                let _ = attach_anew(program, pins, name, index, &[mode]);
            });
        }
    }
    attach_anew(program, pins, name, index, modes(wanted))
}

fn attach_anew(program: &mut Xdp, pins: &Pins, name: &str, index: u32, modes: &[Mode]) -> Result<Attached, EdgeError> {
    let mut failure = EdgeError::NoInterface;
    for &mode in modes {
        let flag = match mode {
            Mode::Driver => AyaMode::Driver,
            Mode::Generic => AyaMode::Skb,
        };
        match program.attach_to_if_index(index, flag) {
            Ok(link) => {
                let link = program.take_link(link).map_err(verifier(XDP_PROGRAM))?;
                // A kernel without XDP links would get a netlink attachment, which can't be pinned.
                let link: FdLink = link.try_into().map_err(|_| EdgeError::Missing { what: "XDP link" })?;
                pin(link, &pins.xdp_link(mode, name))?;
                return Ok(Attached { name: name.to_owned(), mode: mode.label(), replaced: false });
            }
            Err(error) => {
                let cause = io_error(error);
                failure = match cause.raw_os_error() {
                    Some(libc::EBUSY | libc::EEXIST) => return Err(EdgeError::Occupied { name: name.to_owned() }),
                    Some(libc::EPERM | libc::EACCES) => {
                        return Err(EdgeError::NotPermitted { what: "attaching XDP programs" });
                    }
                    _ => EdgeError::Attach { name: name.to_owned(), mode: mode.label(), cause },
                };
            }
        }
    }
    Err(failure)
}

fn modes(wanted: XdpMode) -> &'static [Mode] {
    match wanted {
        XdpMode::Auto => &[Mode::Driver, Mode::Generic],
        XdpMode::Driver => &[Mode::Driver],
        XdpMode::Generic => &[Mode::Generic],
    }
}

fn pin(link: FdLink, path: &Path) -> Result<(), EdgeError> {
    let result = link.pin(path).map(drop);
    result.map_err(|error| EdgeError::pin("pinning", path)(io::Error::other(error)))
}

fn index_of(name: &str) -> Result<u32, EdgeError> {
    let unknown = || EdgeError::UnknownInterface { name: name.to_owned() };
    let socket = std::net::UdpSocket::bind(("127.0.0.1", 0))
        .or_else(|_| std::net::UdpSocket::bind(("::1", 0)))
        .map_err(|_| unknown())?;
    rustix::net::netdevice::name_to_index(&socket, name).map_err(|_| unknown())
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

fn verifier(program: &'static str) -> impl Fn(ProgramError) -> EdgeError {
    move |error| match &error {
        ProgramError::LoadError { io_error, .. } if not_permitted(io_error) => {
            EdgeError::NotPermitted { what: "loading eBPF programs" }
        }
        _ => EdgeError::Verifier { program, cause: Box::new(error) },
    }
}

/// EPERM only: EACCES is how the verifier says no.
fn not_permitted(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

fn io_error(error: ProgramError) -> io::Error {
    match error {
        ProgramError::SyscallError(error) => error.io_error,
        error => io::Error::other(error),
    }
}
