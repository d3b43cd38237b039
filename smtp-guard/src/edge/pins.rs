//! Names below the pin directory. The path says what a pin is, so that any process can find its way without a registry.
//!
//! | path, below `<pin_directory>/v<ABI>/` | what it is |
//! |---|---|
//! | `MAP` | a map |
//! | `link-conns` | the link of the counting program |
//! | `xdp-driver-IF`, `xdp-generic-IF` | the link of the program on an interface |
//! | `prog-conns`, `prog-xdp` | the programs behind the links, which a load that fails puts back |
//!
//! The BPF filesystem takes no dots: those of interface names become `~d`, and `~` becomes `~~`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use smtp_guard_ebpf::abi::ABI_VERSION;

use super::error::EdgeError;

/// Names of the maps, in the order in which they are written before anything is attached.
pub(super) const MAPS: [&str; 16] = [
    "SETTINGS",
    "PORTS",
    "EXEMPT_V4",
    "EXEMPT_V6",
    "LISTS",
    "BANNED",
    "NEAR",
    "BANS",
    "NETWORKS",
    "KNOWN",
    "CONNS",
    "COUNTERS",
    "CLOCK",
    "SAMPLES",
    "EVENTS",
    "COUNTED",
];

/// The programs, as [`Pins::program`] names them.
pub(super) const XDP: &str = "xdp";
pub(super) const CONNS: &str = "conns";

const CONNS_LINK: &str = "link-conns";
const PROGRAM: &str = "prog-";

/// Magic number of the BPF filesystem.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The pins of one ABI version.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    version: u32,
}

/// Where XDP runs, as it was attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Driver,
    Generic,
}

impl Mode {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Generic => "generic",
        }
    }
}

impl Pins {
    /// Those of this version.
    pub(super) fn new(pin_directory: &Path) -> Self {
        Self::of(pin_directory, ABI_VERSION)
    }

    /// Those of `version`.
    pub(super) fn of(pin_directory: &Path, version: u32) -> Self {
        Self { directory: pin_directory.join(format!("v{version}")), version }
    }

    pub(super) fn version(&self) -> u32 {
        self.version
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(super) fn conns_link(&self) -> PathBuf {
        self.directory.join(CONNS_LINK)
    }

    /// The program [`XDP`] or [`CONNS`].
    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{PROGRAM}{name}"))
    }

    /// Where what is to be pinned at `path` is pinned first.
    pub(super) fn beside(&self, path: &Path) -> PathBuf {
        self.directory.join(format!("new-{}", path.file_name().unwrap_or_default().display()))
    }

    pub(super) fn xdp_link(&self, mode: Mode, interface: &str) -> PathBuf {
        self.directory.join(format!("xdp-{}-{}", mode.label(), interface.replace('~', "~~").replace('.', "~d")))
    }

    /// The interfaces with a pinned link, and the mode of each.
    pub(super) fn xdp_links(&self) -> io::Result<Vec<(String, Mode, PathBuf)>> {
        let mut links = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            for mode in [Mode::Driver, Mode::Generic] {
                if let Some(interface) = name.strip_prefix(&format!("xdp-{}-", mode.label())) {
                    links.push((unescaped(interface), mode, path.clone()));
                }
            }
        }
        links.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(links)
    }

    /// Creates the directory; mounts the BPF filesystem at its usual place where it isn't yet.
    pub(super) fn create(&self) -> Result<(), EdgeError> {
        mount(&self.directory)?;
        // Whoever owns a directory on the way could put another one in its place.
        let on_the_way = self.directory.ancestors().take_while(|path| on_bpffs(path)).filter(|path| !is_root(path));
        for directory in on_the_way.filter(|path| fs::symlink_metadata(path).is_ok()) {
            let metadata = fs::symlink_metadata(directory).map_err(EdgeError::pin("reading", directory))?;
            if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
                return Err(EdgeError::Foreign { path: directory.to_owned() });
            }
        }
        fs::create_dir_all(&self.directory).map_err(EdgeError::pin("creating", &self.directory))
    }

    /// Removes a pin; one that isn't there is no error.
    pub(super) fn remove(path: &Path) -> Result<bool, EdgeError> {
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(EdgeError::pin("removing", path)(error)),
        }
    }

    /// Removes everything in the directory, links first, and the directory. Returns what was removed.
    pub(super) fn remove_all(&self) -> Result<Vec<String>, EdgeError> {
        let mut removed = Vec::new();
        if !self.directory.exists() {
            return Ok(removed);
        }
        for (interface, mode, path) in self.xdp_links().map_err(EdgeError::pin("reading", &self.directory))? {
            Self::remove(&path)?;
            removed.push(format!("XDP program of {interface} ({} mode)", mode.label()));
        }
        if Self::remove(&self.conns_link())? {
            removed.push("program that counts connections".to_owned());
        }
        for entry in fs::read_dir(&self.directory).map_err(EdgeError::pin("reading", &self.directory))? {
            let path = entry.map_err(EdgeError::pin("reading", &self.directory))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if Self::remove(&path)? && !name.starts_with(PROGRAM) {
                removed.push(format!("map {name}"));
            }
        }
        fs::remove_dir(&self.directory).map_err(EdgeError::pin("removing", &self.directory))?;
        Ok(removed)
    }
}

/// The name of an interface, from that of its pin.
fn unescaped(name: &str) -> String {
    name.split("~~").map(|part| part.replace("~d", ".")).collect::<Vec<_>>().join("~")
}

/// The pin directories of all ABI versions below `pin_directory`, the newest first.
pub(super) fn versions(pin_directory: &Path) -> Vec<Pins> {
    let Ok(entries) = fs::read_dir(pin_directory) else {
        return Vec::new();
    };
    let version = |path: PathBuf| path.file_name()?.to_str()?.strip_prefix('v')?.parse().ok();
    let mut versions: Vec<u32> = entries.filter_map(|entry| version(entry.ok()?.path())).collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.into_iter().map(|version| Pins::of(pin_directory, version)).collect()
}

fn mount(directory: &Path) -> Result<(), EdgeError> {
    const USUAL: &str = "/sys/fs/bpf";
    if on_bpffs(directory) {
        return Ok(());
    }
    let wrong = || EdgeError::NoBpffs { path: directory.to_owned() };
    if !directory.starts_with(USUAL) {
        return Err(wrong());
    }
    let for_root = Some(c"mode=0700");
    rustix::mount::mount("bpf", USUAL, "bpf", rustix::mount::MountFlags::empty(), for_root).map_err(|_| wrong())?;
    if on_bpffs(directory) { Ok(()) } else { Err(wrong()) }
}

/// Whether `path` is where its file system is mounted.
fn is_root(path: &Path) -> bool {
    !path.parent().is_some_and(on_bpffs)
}

/// Whether `directory`, or the nearest ancestor that exists, is on a BPF filesystem.
pub(super) fn on_bpffs(directory: &Path) -> bool {
    let existing = directory.ancestors().find(|path| path.exists());
    existing.is_some_and(|path| rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 == BPF_FS_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_found_by_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path());
        fs::create_dir(pins.directory()).unwrap();
        for path in [
            pins.xdp_link(Mode::Generic, "eth0.100"),
            pins.xdp_link(Mode::Driver, "eth0"),
            pins.xdp_link(Mode::Driver, "eth0~d.1~"),
            pins.xdp_link(Mode::Driver, "eth0~.d1~"),
            pins.conns_link(),
            pins.map("BANS"),
        ] {
            fs::write(path, "").unwrap();
        }
        let found: Vec<_> = pins.xdp_links().unwrap().into_iter().map(|(name, mode, _)| (name, mode)).collect();
        let expected = [
            ("eth0", Mode::Driver),
            ("eth0.100", Mode::Generic),
            ("eth0~.d1~", Mode::Driver),
            ("eth0~d.1~", Mode::Driver),
        ];
        assert_eq!(found, expected.map(|(name, mode)| (name.to_owned(), mode)));
        assert_eq!(versions(directory.path()).len(), 1);
        assert_eq!(pins.remove_all().unwrap().len(), 6);
        assert!(!pins.directory().exists());
        assert_eq!(pins.remove_all().unwrap(), [""; 0], "removing nothing is no error");
    }
}
