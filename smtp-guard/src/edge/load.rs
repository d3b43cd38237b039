//! Loading, attaching and pinning; replacing what is loaded; removing it all.
//!
//! Order: maps, their contents, the counting program, then XDP interface by interface. A second load finds the pinned maps with
//! their contents, and replaces the programs behind the pinned links. So no packet goes unfiltered, and no count is lost.
//! Another ABI version has maps of its own, which are filled before its links are taken over ([`versions`]).
//!
//! A load that fails leaves what was there: programs are put back, what it made is removed. So what the configuration says
//! goes into maps that are in use only when all programs are in place.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aya::pin::PinError;
use aya::programs::{ProgramError, ProgramInfo, ProgramType, SockOps, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use serde::Serialize;

use super::access;
use super::attach::{Attached, Links, refuse_without_ethernet};
use super::error::EdgeError;
use super::interfaces::index_of;
use super::pins::{self, CONNS, MAPS, Pins, XDP};
use super::watch::missing;
use super::{maps, report, versions};
use crate::config::Config;

/// The eBPF object; empty where the build had none.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/smtp-guard.bpf.o"));

pub(super) const XDP_PROGRAM: &str = "guard_xdp";
pub(super) const CONNS_PROGRAM: &str = "guard_conns";

/// The outcome of a load.
#[derive(Debug, Serialize)]
pub struct Loaded {
    pub directory: PathBuf,
    pub interfaces: Vec<Attached>,
    /// Interfaces of the configuration that don't exist.
    #[serde(rename = "interfaces_missing")]
    pub missing: Vec<String>,
    /// Bans that were taken over from a plane of another version.
    pub bans_taken_over: usize,
    /// The users who may open the maps beside root.
    pub access: String,
    /// The kernel plane's own report.
    #[serde(rename = "notes")]
    pub kernel: Vec<String>,
    /// Instructions that the verifier went through, of each program.
    pub verified_instructions: VerifiedInstructions,
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
        for attached in &self.interfaces {
            writeln!(f, "{attached}")?;
        }
        for name in &self.missing {
            writeln!(f, "{name}: does not exist; filtered from the moment it is there")?;
        }
        if self.bans_taken_over > 0 {
            writeln!(f, "bans taken over from another version: {}", self.bans_taken_over)?;
        }
        writeln!(f, "maps: {}", self.access)?;
        for line in &self.kernel {
            writeln!(f, "kernel: {line}")?;
        }
        let VerifiedInstructions { xdp, sock_ops } = self.verified_instructions;
        write!(f, "verified instructions: {xdp} (XDP), {sock_ops} (sock_ops)")
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: XDP in {} mode", self.name, self.mode)?;
        if self.replaced {
            write!(f, ", replaced in place")?;
        }
        if let Some(cause) = &self.driver_refused {
            write!(f, ", which is slower: its driver refuses ({cause})")?;
        }
        Ok(())
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

/// The least kernel: `xdp.frags` (5.18), atomic instructions that fetch (5.12), the cookie of a network namespace (5.15).
const LEAST: (u32, u32) = (5, 18);
const LEAST_TEXT: &str = "5.18";

/// Why this kernel can't carry the kernel plane; `None`: it is new enough, or takes the programs all the same, because those who
/// made it have put in what came later. Where this process may load nothing, the number decides.
pub fn too_old() -> Option<EdgeError> {
    let old = old_release()?;
    let fits = || -> Result<(), EdgeError> {
        let mut loader = EbpfLoader::new();
        let mut object = loader.load(OBJECT).map_err(|error| EdgeError::Object(Box::new(error)))?;
        conns(&mut object)?.load().map_err(verifier(CONNS_PROGRAM))?;
        xdp(&mut object)?.load().map_err(verifier(XDP_PROGRAM))
    };
    fits().err().map(|_| old)
}

/// Objections to loading the plane for `config` on this machine as it is now, apart from rights: a kernel that is too old,
/// interfaces that can't be filtered.
pub fn objections(config: &Config) -> Vec<EdgeError> {
    if config.edge.interfaces.is_empty() {
        return Vec::new();
    }
    let unfit = |name: &String| refuse_without_ethernet(name, index_of(name)?).err();
    too_old().into_iter().chain(config.edge.interfaces.iter().filter_map(unfit)).collect()
}

/// The error for this kernel where it is older than [`LEAST`] by its number.
fn old_release() -> Option<EdgeError> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    is_old(&release).then_some(EdgeError::TooOld { least: LEAST_TEXT, release })
}

/// Whether `release` (`5.10.0-32-amd64`) is older than [`LEAST`]. What has no such number isn't judged.
fn is_old(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < LEAST,
        _ => false,
    }
}

/// `error`, or what is behind it where an old kernel refused something: its own words say nothing to an operator.
fn explained(error: EdgeError) -> EdgeError {
    let by_kernel = match &error {
        EdgeError::Object(_) | EdgeError::Verifier { .. } | EdgeError::Attach { .. } | EdgeError::Cgroup { .. } => true,
        // Before 5.11 maps are charged against RLIMIT_MEMLOCK, and root hears EPERM.
        EdgeError::NotPermitted { .. } => rustix::process::geteuid().is_root(),
        _ => false,
    };
    if by_kernel { old_release().unwrap_or(error) } else { error }
}

/// Loads the kernel plane for `config`, or replaces the one that is loaded. Every interface has to exist.
pub fn load(config: &Config) -> Result<Loaded, EdgeError> {
    let missing = config.edge.interfaces.iter().find(|name| index_of(name).is_none());
    match missing {
        Some(name) => Err(permitted().err().unwrap_or_else(|| EdgeError::UnknownInterface { name: name.clone() })),
        None => load_present(config),
    }
}

/// Like [`load`], for those interfaces that exist, and be it none: [`returned`](super::returned) takes the others up.
pub fn load_present(config: &Config) -> Result<Loaded, EdgeError> {
    permitted().map_err(explained)?;
    if config.edge.interfaces.is_empty() {
        return Err(EdgeError::NoInterface);
    }
    let pins = Pins::new(&config.edge.pin_directory);
    let mut tries = 0..LOCK_TRIES;
    let _lock = loop {
        pins.create()?;
        match lock(&config.edge.pin_directory) {
            // Another one has unloaded, or failed, and removed it.
            Err(EdgeError::Pin { cause, .. }) if cause.kind() == ErrorKind::NotFound && tries.next().is_some() => {}
            locked => break locked?,
        }
    };
    pins.create()?;
    // Maps without programs are what a load left that was killed: as good as none.
    let fresh = !pins.program(XDP).exists();
    let loaded = load_into(&pins, config, fresh);
    if loaded.is_err() && fresh && !pins.program(XDP).exists() {
        // The error that is told is the first one.
        let _ = pins.remove_all().map(|_| fs::remove_dir(&config.edge.pin_directory));
    }
    loaded.map_err(explained)
}

/// Removes every version of the kernel plane below `pin_directory`. Returns what was removed, in words.
pub fn unload(pin_directory: &Path) -> Result<Vec<String>, EdgeError> {
    let mut removed = Vec::new();
    if !pin_directory.exists() {
        return Ok(removed);
    }
    let _lock = lock(pin_directory)?;
    for pins in pins::versions(pin_directory) {
        removed.extend(pins.remove_all()?);
    }
    // Not ours alone where somebody else has put something in.
    let _ = fs::remove_dir(pin_directory);
    Ok(removed)
}

/// Waits for a lock.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Keeps others from doing at the same time what is done under the lock of `directory`, until it is dropped: loading and
/// attaching (the pin directory, which only root may open), or writing contents (that of a version, which the proxy's group may).
/// Waits ten seconds at most, since any program may hold it.
pub(super) fn lock(directory: &Path) -> Result<File, EdgeError> {
    let failed = || EdgeError::pin("locking", directory);
    for _ in 0..LOCK_TRIES {
        let opened = File::open(directory).map_err(failed())?;
        match opened.try_lock() {
            // Who unloads removes the directory: the one that we have locked may be gone, and another one in its place.
            Ok(()) if is_at(&opened, directory) => return Ok(opened),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
        }
    }
    Err(EdgeError::Locked { path: directory.to_owned() })
}

fn is_at(opened: &File, directory: &Path) -> bool {
    let (Ok(opened), Ok(there)) = (opened.metadata(), fs::metadata(directory)) else { return false };
    opened.ino() == there.ino()
}

fn load_into(pins: &Pins, config: &Config, fresh: bool) -> Result<Loaded, EdgeError> {
    let mut object = open_object(pins, config)?;
    let others: Vec<Pins> = pins::versions(&config.edge.pin_directory)
        .into_iter()
        .filter(|other| other.version() != pins.version())
        .collect();
    // What the kernel refuses, it refuses before anything is attached.
    conns(&mut object)?.load().map_err(verifier(CONNS_PROGRAM))?;
    xdp(&mut object)?.load().map_err(verifier(XDP_PROGRAM))?;
    report::load(&mut object)?;
    let sock_ops = instructions(conns(&mut object)?.info());
    let xdp_instructions = instructions(xdp(&mut object)?.info());
    let access = access::grant(pins, &config.edge.group)?.to_string();
    let mut bans_taken_over = 0;
    if fresh {
        maps::configure(pins, config)?;
        bans_taken_over = versions::carry(&others, pins, config.edge.max_sources)?;
    }
    let mut links = Links::open(pins, &others)?;
    let (interfaces, kernel) = match attach(&mut object, &mut links, pins, &others, config, fresh) {
        Ok(done) => done,
        Err(error) => {
            let undo = links.undo();
            return Err(match undo.as_slice() {
                [] => error,
                _ => EdgeError::NotUndone { error: Box::new(error), undo: undo.join("; ") },
            });
        }
    };
    // From here on nothing is undone: all programs are in place.
    keep(pins, CONNS, |path| conns(&mut object)?.pin(path).map_err(pinning(path)))?;
    keep(pins, XDP, |path| xdp(&mut object)?.pin(path).map_err(pinning(path)))?;
    links.keep()?;
    for other in &others {
        other.remove_all()?;
    }
    Ok(Loaded {
        directory: pins.directory().to_owned(),
        interfaces,
        missing: missing(config),
        bans_taken_over,
        access,
        kernel,
        verified_instructions: VerifiedInstructions { xdp: xdp_instructions, sock_ops },
    })
}

/// The steps that can be undone.
fn attach(
    object: &mut Ebpf,
    links: &mut Links<'_>,
    pins: &Pins,
    others: &[Pins],
    config: &Config,
    fresh: bool,
) -> Result<(Vec<Attached>, Vec<String>), EdgeError> {
    links.conns(conns(object)?, others)?;
    let mut interfaces = Vec::new();
    for name in config.edge.interfaces.iter().filter(|name| index_of(name).is_some()) {
        interfaces.push(links.xdp(xdp(object)?, name, config.edge.mode)?);
    }
    if !fresh {
        maps::configure(pins, config)?;
    }
    Ok((interfaces, report::report(object)?))
}

/// Opens the object with its maps: those that are pinned, and new ones for the rest, which are pinned.
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

fn conns(object: &mut Ebpf) -> Result<&mut SockOps, EdgeError> {
    let program = object.program_mut(CONNS_PROGRAM).ok_or(EdgeError::Missing { what: "program guard_conns" })?;
    program.try_into().map_err(verifier(CONNS_PROGRAM))
}

pub(super) fn xdp(object: &mut Ebpf) -> Result<&mut Xdp, EdgeError> {
    let program = object.program_mut(XDP_PROGRAM).ok_or(EdgeError::Missing { what: "program guard_xdp" })?;
    program.try_into().map_err(verifier(XDP_PROGRAM))
}

fn instructions(info: Result<ProgramInfo, ProgramError>) -> u32 {
    info.ok().and_then(|info| info.verified_instruction_count()).unwrap_or(0)
}

/// Pins a program in the place of the one before, for the next load to go back to.
fn keep(pins: &Pins, name: &str, pin: impl FnOnce(&Path) -> Result<(), EdgeError>) -> Result<(), EdgeError> {
    let (path, new) = (pins.program(name), pins.program(&format!("{name}-new")));
    Pins::remove(&new)?;
    pin(&new)?;
    fs::rename(&new, &path).map_err(EdgeError::pin("pinning", path))
}

fn pinning(path: &Path) -> impl FnOnce(PinError) -> EdgeError {
    let path = path.to_owned();
    move |error| EdgeError::pin("pinning", path)(std::io::Error::other(error))
}

pub(super) fn verifier(program: &'static str) -> impl Fn(ProgramError) -> EdgeError {
    move |error| match &error {
        ProgramError::LoadError { io_error, .. } if not_permitted(io_error) => {
            EdgeError::NotPermitted { what: "loading eBPF programs" }
        }
        _ => EdgeError::Verifier { program, cause: Box::new(error) },
    }
}

/// EPERM only: EACCES is how the verifier says no.
fn not_permitted(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EPERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f6_a_kernel_that_is_too_old_is_known_by_its_number() {
        for (release, old) in [
            ("5.10.0-32-cloud-amd64", true),
            ("5.17.99", true),
            ("4.18.0-513.el8.x86_64", true),
            ("5.18.0", false),
            ("5.18-rc1", false),
            ("6.1.0-56-amd64", false),
            ("10.0", false),
            ("unknown", false),
            ("", false),
        ] {
            assert_eq!(is_old(release), old, "{release}");
        }
        let said = EdgeError::TooOld { least: LEAST_TEXT, release: "5.10.0".to_owned() }.to_string();
        assert!(said.contains("needs Linux 5.18 or newer") && said.contains("this is 5.10.0"), "{said}");
        let (major, minor) = LEAST;
        assert_eq!(LEAST_TEXT, format!("{major}.{minor}"));
    }
}
