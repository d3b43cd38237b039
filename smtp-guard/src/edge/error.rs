//! Errors at the kernel boundary, each with the thing, the place and the next step.

use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Failures of loading, opening and writing the kernel plane. The text names the cause, so none has a `source`: who prints
/// the whole chain would show it twice.
#[derive(Debug, thiserror::Error)]
pub enum EdgeError {
    #[error("this binary was built without the kernel plane: build it with `cargo xtask build`")]
    NoObject,
    #[error("no interface is named: set [edge] interfaces, or give --interface")]
    NoInterface,
    #[error("interface {name} does not exist (`ip link` shows those that do)")]
    UnknownInterface { name: String },
    #[error("{what} is not permitted: it needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; run it as root")]
    NotPermitted { what: &'static str },
    #[error(
        "{name} already carries another XDP program ({program}): remove it ({remedy}), or leave {name} out of [edge] interfaces"
    )]
    Occupied { name: String, program: String, remedy: String },
    #[error(
        "{name} is {kind}: its packets have no Ethernet header, so the kernel plane can't read them; leave {name} out of [edge] interfaces (bans and limits hold there in user space)"
    )]
    NoEthernet { name: String, kind: String },
    #[error(
        "the kernel plane needs Linux {least} or newer (atomic fetch, XDP with several buffers), and this is {release}: without it, bans and limits hold in user space only"
    )]
    TooOld { least: &'static str, release: String },
    #[error("{name} takes no XDP program in {mode} mode: {cause}; try [edge] mode = \"auto\" or \"generic\"")]
    Attach { name: String, mode: &'static str, cause: io::Error },
    #[error(
        "no cgroup v2 hierarchy is mounted, so connections can't be counted: mount -t cgroup2 none /sys/fs/cgroup/unified"
    )]
    NoCgroup,
    #[error("cannot count connections on {cgroup}: {cause}", cgroup = .cgroup.display())]
    Cgroup { cgroup: PathBuf, cause: io::Error },
    #[error("{path} is not on a BPF filesystem: mount -t bpf bpf /sys/fs/bpf", path = .path.display())]
    NoBpffs { path: PathBuf },
    #[error("{path} belongs to another user, who could take the filter away: remove it, or choose another edge.pin_directory", path = .path.display())]
    Foreign { path: PathBuf },
    #[error("{what} {path} is not permitted ({cause}): run it as root", path = .path.display())]
    Denied { what: &'static str, path: PathBuf, cause: io::Error },
    #[error("{path} is locked by another process, which loads or writes; try again when it is done (`fuser {path}` shows it)", path = .path.display())]
    Locked { path: PathBuf },
    #[error("{error}; what was there could not be put back: {undo}")]
    NotUndone { error: Box<Self>, undo: String },
    #[error("{what} {path}: {cause}", path = .path.display())]
    Pin { what: &'static str, path: PathBuf, cause: io::Error },
    #[error("the pinned map {path} has another shape ({found}, wanted {wanted}): unload the kernel plane first (`smtp-guard edge unload`)", path = .path.display())]
    Incompatible { path: PathBuf, found: String, wanted: String },
    #[error("more than {limit} exempt {family} networks: the kernel plane holds no more")]
    TooManyExempt { limit: u32, family: &'static str },
    #[error("the block lists have more than {limit} {what}: the kernel plane holds no more, and keeps those before")]
    ListsTooLarge { what: &'static str, limit: u32 },
    #[error("the kernel refused the program {program}: {}", chain(.cause))]
    Verifier { program: &'static str, cause: Box<aya::programs::ProgramError> },
    #[error("the kernel plane does not see its settings; it says: {said}")]
    Unsound { said: String },
    #[error("the kernel refused the eBPF object: {}", chain(.0))]
    Object(Box<aya::EbpfError>),
    #[error("the eBPF object has no {what}: it is not of this version; build again with `cargo xtask build`")]
    Missing { what: &'static str },
    #[error("map {map}: {}", chain(.cause))]
    Map { map: &'static str, cause: Box<aya::maps::MapError> },
    #[error("the ban of {entry} was written but can't be read back from the kernel map")]
    NotWritten { entry: String },
    #[error("no kernel plane is loaded below {directory}: `smtp-guard edge load`", directory = .directory.display())]
    NotLoaded { directory: PathBuf },
    #[error("no [edge] interfaces are configured")]
    NotWanted,
}

impl EdgeError {
    /// Shorthand for a failed operation on a map.
    pub(super) fn map(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { map, cause: Box::new(source) }
    }

    /// Shorthand for a failed operation on a file below the pin directory.
    pub(super) fn pin(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => Self::Denied { what, path, cause },
            _ => Self::Pin { what, path, cause },
        }
    }
}

/// `error` and its causes. aya's name the system call, theirs the number that it gave.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
