//! A machine of Debian with a systemd of its own: a container whose disk is thrown away, in a network of its own.
//!
//! The image is made once, below `target/tools`, and never written to: an overlay takes what the machine writes. Its network is a
//! namespace with a veth to another one, which is where clients are; so it is there before the machine boots, and stays when that is
//! booted again. Its BPF file system is its own, and goes with each boot, as that of a real machine does.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::{setup, step, target};

/// What the image has beside the least that systemd boots with.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,procps,postfix";
/// Names everything that is made outside of `target`, so that a later run finds what a killed one left.
const NAME: &str = "sg-systemd-";
/// Of a command in the machine.
const LONGEST: Duration = Duration::from_secs(120);
const BOOT: Duration = Duration::from_secs(90);

/// The address of the machine.
pub(super) const GUARD: [u8; 4] = [198, 18, 0, 2];
/// Where its DNS server is; clients have the addresses after the machine's.
pub(super) const DNS: [u8; 4] = [198, 18, 0, 1];
/// The clients' addresses end in these.
pub(super) const CLIENTS: std::ops::RangeInclusive<u8> = 10..=70;

/// The machine. It goes when this is dropped, with all that was made for it.
pub(super) struct Machine {
    name: String,
    folder: PathBuf,
    running: Option<Running>,
}

struct Running {
    container: Child,
    /// The first process of the container.
    leader: u32,
}

impl Machine {
    /// Sets the disk and the network up; nothing runs yet.
    pub(super) fn create() -> anyhow::Result<Self> {
        let image = image()?;
        sweep();
        let name = format!("{NAME}{}", std::process::id());
        let folder = target().join("xtask").join(&name);
        for part in ["upper", "work", "root", "bpf"] {
            fs::create_dir_all(folder.join(part)).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        // From here on a failure cleans up.
        let machine = Self { name, folder, running: None };
        let at = |part: &str| machine.folder.join(part).display().to_string();
        let options = format!("lowerdir={},upperdir={},workdir={}", image.display(), at("upper"), at("work"));
        run("mount", &["-t", "overlay", "overlay", "-o", &options, &at("root")])?;
        let [guard, clients] = [machine.guard(), machine.clients()];
        for namespace in [&guard, &clients] {
            run("ip", &["netns", "add", namespace])?;
            run("ip", &["-n", namespace, "link", "set", "lo", "up"])?;
        }
        run(
            "ip",
            &["link", "add", "eth0", "netns", &guard, "type", "veth", "peer", "name", "eth0", "netns", &clients],
        )?;
        run("ip", &["-n", &guard, "addr", "add", &format!("{}/24", dotted(GUARD)), "dev", "eth0"])?;
        run("ip", &["-n", &clients, "addr", "add", &format!("{}/24", dotted(DNS)), "dev", "eth0"])?;
        for last in CLIENTS {
            run("ip", &["-n", &clients, "addr", "add", &format!("{}/24", dotted(client(last))), "dev", "eth0"])?;
        }
        for namespace in [&guard, &clients] {
            run("ip", &["-n", namespace, "link", "set", "eth0", "up"])?;
        }
        machine.write("etc/resolv.conf", &format!("nameserver {}\n", dotted(DNS)))?;
        machine.write("etc/hostname", "mx\n")?;
        Ok(machine)
    }

    /// Boots it, and waits until all units are started.
    pub(super) fn boot(&mut self) -> anyhow::Result<()> {
        let console = File::create(self.folder.join("console"))?;
        let bpf = self.folder.join("bpf");
        run("mount", &["-t", "bpf", "bpf", &bpf.display().to_string()])?;
        // It may not outlive us, however we end.
        let mut command = Command::new("setpriv");
        command
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "yes")
            .args(["--pdeathsig", "KILL", "systemd-nspawn"])
            .args(["--register=no", "--keep-unit", "--boot", "--quiet", "--resolv-conf=off", "--console=pipe"])
            .args(["--capability=all", "--system-call-filter=bpf", "--link-journal=no", "--timezone=off"])
            .arg(format!("--network-namespace-path=/run/netns/{}", self.guard()))
            .arg(format!("--bind={}:/sys/fs/bpf", bpf.display()))
            .arg(format!("--machine={}", self.name))
            .arg("--directory")
            .arg(self.root())
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console);
        let mut container = command.spawn().context("cannot start systemd-nspawn; it is in systemd-container")?;
        let started = Instant::now();
        let leader = loop {
            let id = container.id();
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
            // Before it is the first process of the container, it is a helper that goes away.
            let first = children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()).find(|id| {
                let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
                name.trim() == "systemd"
            });
            if let Some(leader) = first {
                break leader;
            }
            if let Some(status) = container.try_wait()? {
                bail!("systemd-nspawn ended ({status}): {}", self.console());
            }
            if started.elapsed() > BOOT {
                _ = container.kill();
                _ = container.wait();
                bail!("the machine doesn't boot: {}", self.console());
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        self.running = Some(Running { container, leader });
        // `degraded` is as good: not every unit of Debian's likes a container.
        while !self.shell("systemctl is-system-running --wait || systemctl is-system-running | grep -q degraded")?.0 {
            if started.elapsed() > BOOT {
                bail!("the machine doesn't come up: {}", self.console());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Ends it as a person would, and boots it again. What was in kernel memory and in /run is gone.
    pub(super) fn reboot(&mut self) -> anyhow::Result<()> {
        self.shell("systemctl poweroff --no-block")?;
        let started = Instant::now();
        if let Some(running) = &mut self.running {
            while running.container.try_wait()?.is_none() {
                if started.elapsed() > BOOT {
                    bail!("the machine doesn't go down: {}", self.console());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        self.running = None;
        // Emptied as well: somebody else's mount namespace may have a copy of the mount, which would keep what is pinned.
        let bpf = self.folder.join("bpf");
        for pinned in fs::read_dir(&bpf)?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
            fs::remove_dir_all(&pinned).with_context(|| format!("cannot remove {}", pinned.display()))?;
        }
        run("umount", &[&bpf.display().to_string()])?;
        self.boot()
    }

    /// Whether `script` succeeds in the machine, and what it says on both outputs.
    pub(super) fn shell(&self, script: &str) -> anyhow::Result<(bool, String)> {
        let leader = self.running.as_ref().context("the machine doesn't run")?.leader.to_string();
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", &LONGEST.as_secs().to_string(), "nsenter", "--target", &leader]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"]);
        command.args([
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND=noninteractive",
            "HOME=/root",
        ]);
        command.args(["sh", "-c", &format!("exec 2>&1; {script}")]);
        let output = command.stdin(Stdio::null()).output().context("cannot start nsenter")?;
        Ok((output.status.success(), text(&output)))
    }

    /// Writes a file of the machine's.
    pub(super) fn write(&self, path: &str, text: &str) -> anyhow::Result<()> {
        let path = self.root().join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Its file system, as it is seen from here.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// The network namespace that clients are in.
    pub(super) fn clients(&self) -> String {
        format!("{}c", self.name)
    }

    fn guard(&self) -> String {
        format!("{}g", self.name)
    }

    fn console(&self) -> String {
        let text = fs::read_to_string(self.folder.join("console")).unwrap_or_default();
        format!("its console says: {}", text.trim())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(Running { mut container, leader }) = self.running.take() {
            // With the first process all others go.
            if let Some(leader) = rustix::process::Pid::from_raw(leader.cast_signed()) {
                _ = rustix::process::kill_process(leader, rustix::process::Signal::KILL);
            }
            let started = Instant::now();
            while matches!(container.try_wait(), Ok(None)) && started.elapsed() < Duration::from_secs(10) {
                std::thread::sleep(Duration::from_millis(20));
            }
            _ = container.kill();
            _ = container.wait();
        }
        remove(&self.name);
    }
}

/// The image. Made once; whoever wants a newer one removes the folder.
fn image() -> anyhow::Result<PathBuf> {
    let folder = target().join("tools/systemd");
    let image = folder.join("image");
    if image.is_dir() {
        return Ok(image);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let fresh = folder.join("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).with_context(|| format!("cannot remove {}", fresh.display()))?;
    }
    let (suite, mirror) = setup::own_mirror()?;
    let mut command = Command::new("mmdebstrap");
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), &suite]).arg(&fresh).arg(mirror);
    step::run("systemd-image", "making the file system of a Debian with systemd (once)", &mut command)?;
    fs::rename(&fresh, &image).with_context(|| format!("cannot create {}", image.display()))?;
    Ok(image)
}

/// Makes the image, so that it is there when it is needed.
pub(super) fn prepare() -> anyhow::Result<()> {
    image().map(drop)
}

/// Removes what runs that were killed have left.
fn sweep() {
    let folders = fs::read_dir(target().join("xtask")).into_iter().flatten().flatten();
    for name in folders.filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name.strip_prefix(NAME).and_then(|id| id.parse::<u32>().ok());
        if owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
            remove(&name);
        }
    }
}

/// Removes what was made for the machine `name`, which no longer runs.
fn remove(name: &str) {
    for namespace in [format!("{name}g"), format!("{name}c")] {
        if Path::new("/run/netns").join(&namespace).exists() {
            _ = run("ip", &["netns", "del", &namespace]);
        }
    }
    let folder = target().join("xtask").join(name);
    for mount in ["bpf", "root"] {
        // Not mounted is fine.
        _ = run("umount", &["--lazy", &folder.join(mount).display().to_string()]);
    }
    // What could not be unmounted is not emptied either.
    _ = fs::remove_dir(folder.join("bpf"));
    _ = fs::remove_dir(folder.join("root"));
    if !folder.join("root").exists() && !folder.join("bpf").exists() {
        _ = fs::remove_dir_all(&folder);
    }
}

/// The address of a client.
pub(super) fn client(last: u8) -> [u8; 4] {
    let [a, b, c, _] = DNS;
    [a, b, c, last]
}

pub(super) fn dotted(address: [u8; 4]) -> String {
    std::net::Ipv4Addr::from(address).to_string()
}

fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let words: Vec<_> = arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        bail!("{program} {} failed: {}", words.join(" "), text(&output));
    }
    Ok(())
}

fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).trim().to_owned()
}
