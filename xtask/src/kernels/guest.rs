//! The machine that a kernel is booted in: what is in its memory, how it is started, and what it says.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::Expected;
use super::packages::Unpacked;
use crate::build::Tests;
use crate::{step, target};

/// The test that is run.
const TEST: &str = "whole_loop";
/// Programs of this machine that the guest has, beside the guard and the test.
const PROGRAMS: [&str; 8] = ["sh", "cat", "mount", "insmod", "ip", "nsenter", "sed", "sleep"];
/// From the start to the end. It takes 20 s on an idle machine of two cores.
const LONGEST: Duration = Duration::from_secs(480);
/// Lines of the console that are shown where it goes wrong.
const TAIL: usize = 60;

/// The first process. `EXPECT` comes from the kernel's command line.
const INIT: &str = r#"#!/bin/sh
export PATH=/bin HOME=/ SMTP_GUARD_BIN=/bin/smtp-guard RUST_BACKTRACE=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for module in $(cat /modules/order); do insmod /modules/$module; done
ip link set lo up
if [ "$EXPECT" = too-old ]; then
    smtp-guard edge load --config /etc/guard.toml 2>&1 | sed 's/^/guest: load: /'
    smtp-guard check --config /etc/guard.toml 2>&1 | sed 's/^/guest: check: /'
    smtp-guard sink --listen 127.0.0.1:2526 --maildir /tmp/maildir &
    smtp-guard run --config /etc/guard.toml > /tmp/log 2>&1 &
    seconds=0
    while [ $seconds -lt 60 ] && [ -z "$(sed -n '/smtp-guard runs/p' /tmp/log)" ]; do
        sleep 1
        seconds=$((seconds + 1))
    done
    sed -n '/needs Linux/s/^/guest: run: /p' /tmp/log
    echo QUIT | netkit dialogue 127.0.0.1:2525 | sed 's/^/guest: mail: /'
    echo "guest: ended with 0"
else
    whole_loop --include-ignored --nocapture --test-threads 1
    echo "guest: ended with $?"
fi
# Until the console has it all.
sleep 1
# Not an orderly end, but a quick one: there is nothing to keep.
echo b > /proc/sysrq-trigger
while :; do :; done
"#;

/// Of the guard on a kernel that is too old.
const CONFIG: &str = r#"
hostname = "mx.example.org"

[[listen]]
address = "127.0.0.1:2525"

[backend]
servers = ["127.0.0.1:2526"]

[relay]
domains = ["example.org"]

[checks]
greeting_delay = "0s"
ptr = "off"

[dns]
servers = ["127.0.0.1:53"]

[edge]
interfaces = ["lo"]

[admin]
socket = "/tmp/admin.sock"

[state]
directory = "/tmp/state"
"#;

/// The common parts of all guests.
pub(super) struct Guest {
    /// Folder of the file system, without modules.
    tree: PathBuf,
}

impl Guest {
    /// Puts the file system together.
    pub(super) fn prepare(tests: &Tests) -> anyhow::Result<Self> {
        let test = tests.binaries.iter().find(|binary| binary.name.ends_with(TEST)).map(|binary| &binary.path);
        let test = test.with_context(|| format!("there is no test {TEST}"))?;
        let netkit = target().join("debug/netkit");
        let tree = target().join("xtask/kernels/tree");
        if tree.exists() {
            fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
        }
        for folder in ["bin", "proc", "sys", "dev", "tmp", "run", "etc", "modules"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        // Where programs and libraries look for these, they find them in /bin and /lib.
        for (name, to) in [("sbin", "bin"), ("usr", ".")] {
            std::os::unix::fs::symlink(to, tree.join(name))?;
        }
        for name in PROGRAMS {
            copy(&which(name)?, &tree.join("bin").join(name))?;
        }
        for (name, file) in [("smtp-guard", &tests.guard), (TEST, test), ("netkit", &netkit)] {
            let mut strip = Command::new("strip");
            strip.arg("--strip-debug").arg("-o").arg(tree.join("bin").join(name)).arg(file);
            if !strip.status().context("cannot start strip; it is in the package binutils")?.success() {
                bail!("strip failed for {}", file.display());
            }
        }
        let programs: Vec<PathBuf> = files_in(&tree.join("bin"))?;
        for library in libraries(&programs)? {
            let place =
                tree.join(library.strip_prefix("/usr").or_else(|_| library.strip_prefix("/")).unwrap_or(&library));
            if let Some(folder) = place.parent() {
                fs::create_dir_all(folder)?;
            }
            copy(&library, &place)?;
        }
        // What looks users up finds root.
        fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
        fs::write(tree.join("etc/group"), "root:x:0:\n")?;
        fs::write(tree.join("etc/guard.toml"), CONFIG)?;
        fs::write(tree.join("init"), INIT)?;
        fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
        Ok(Self { tree })
    }

    /// Boots `kernel`. Returns its release and the line that it is judged by.
    pub(super) fn boot(&self, kernel: &Unpacked, expected: Expected) -> anyhow::Result<(String, String)> {
        let memory = self.pack(kernel)?;
        let console = target().join("xtask/kernels").join(format!("{}.log", kernel.release));
        let expect = match expected {
            Expected::Holds => "holds",
            Expected::TooOld => "too-old",
        };
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2G", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none", "-nic", "none", "-serial", "stdio", "-kernel"])
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(&memory)
            .args(["-append", &format!("console=ttyS0 rdinit=/init quiet panic=-1 EXPECT={expect}")])
            .stdin(Stdio::null())
            .stdout(File::create(&console)?)
            .stderr(Stdio::null());
        eprintln!("xtask: booting Linux {} ...", kernel.release);
        let ended = wait(command.spawn().context("cannot start qemu-system-x86_64")?)?;
        let said = String::from_utf8_lossy(&fs::read(&console)?).replace('\r', "");
        judge(&said, expected).map(|line| (kernel.release.clone(), line)).map_err(|why| {
            let lines: Vec<&str> = said.lines().collect();
            let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
            let why = if ended { why } else { format!("it didn't end within {} s", LONGEST.as_secs()) };
            anyhow::anyhow!("{why}; the end of its console:\n{tail}\n(all of it is in {})", console.display())
        })
    }

    /// The file system with the modules of `kernel`, as the kernel takes it.
    fn pack(&self, kernel: &Unpacked) -> anyhow::Result<PathBuf> {
        let modules = self.tree.join("modules");
        for old in files_in(&modules)? {
            fs::remove_file(old)?;
        }
        let mut order = String::new();
        for module in &kernel.modules {
            let name = module.file_name().unwrap_or_default();
            fs::copy(module, modules.join(name))?;
            order += &format!("{}\n", name.display());
        }
        fs::write(modules.join("order"), order)?;
        let file = target().join("xtask/kernels/memory.cpio");
        let mut cpio = Command::new("sh");
        cpio.current_dir(&self.tree).args(["-c", "find . | cpio --quiet -o -H newc > ../memory.cpio"]);
        step::run("cpio", "packing the guest", &mut cpio)?;
        Ok(file)
    }
}

/// What a guest that said `said` did; an error in words where that is other than expected.
fn judge(said: &str, expected: Expected) -> Result<String, String> {
    // The kernel's messages may stand before it in the same line.
    let after = |mark: &str| -> Vec<String> {
        said.lines().filter_map(|line| line.split_once(mark).map(|(_, rest)| rest.trim().to_owned())).collect()
    };
    match after("guest: ended with ").first().map(String::as_str) {
        None => return Err("it never came to an end".to_owned()),
        Some("0") => {}
        Some(code) => return Err(format!("the loop doesn't hold (exit code {code})")),
    }
    match expected {
        Expected::Holds => match after("verified instructions: ").first() {
            Some(counts) => Ok(format!("holds; verified instructions: {counts}")),
            None => Err("it says no verified instructions".to_owned()),
        },
        Expected::TooOld => {
            let needs = |line: &&String| line.contains("needs Linux ");
            if after("guest: load: ").len() != 1 {
                return Err("`edge load` doesn't say in one line what is wrong".to_owned());
            }
            for command in ["load", "check", "run"] {
                if after(&format!("guest: {command}: ")).iter().find(needs).is_none() {
                    return Err(format!("`{command}` doesn't say which kernel is needed"));
                }
            }
            if !after("guest: mail: ").iter().any(|line| line.starts_with("220 ")) {
                return Err("the proxy doesn't go on in user space".to_owned());
            }
            Ok(format!("too old, and says so: {}", after("guest: load: ").concat()))
        }
    }
}

/// Waits for the end of a guest; `false` where it had to be ended.
fn wait(mut guest: Child) -> anyhow::Result<bool> {
    let started = Instant::now();
    loop {
        if guest.try_wait()?.is_some() {
            return Ok(true);
        }
        if started.elapsed() > LONGEST {
            guest.kill()?;
            guest.wait()?;
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Where the program `name` is.
fn which(name: &str) -> anyhow::Result<PathBuf> {
    let folders = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].map(|folder| Path::new(folder).join(name));
    let found = folders.into_iter().find(|path| path.exists());
    found.with_context(|| format!("there is no program {name}"))?.canonicalize().map_err(Into::into)
}

/// The libraries of `programs`, the loader among them, by their paths.
fn libraries(programs: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for program in programs {
        let output = Command::new("ldd").arg(program).output().context("cannot start ldd")?;
        // `libc.so.6 => /lib/... (0x...)`, `/lib64/ld-linux-x86-64.so.2 (0x...)`
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        found.extend(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    Ok(found)
}

/// Copies what `from` leads to.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

fn files_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_judged_by_what_it_says() {
        for (said, expected, judged) in [
            (
                "x\nverified instructions: 5 (XDP), 6 (sock_ops)\nguest: ended with 0\n",
                Expected::Holds,
                Ok("holds; verified instructions: 5 (XDP), 6 (sock_ops)"),
            ),
            (
                "verified instructions: 5\nguest: ended with 101\n",
                Expected::Holds,
                Err("the loop doesn't hold (exit code 101)"),
            ),
            ("verified instructions: 5\n", Expected::Holds, Err("it never came to an end")),
            ("guest: ended with 0\n", Expected::Holds, Err("it says no verified instructions")),
            (
                "guest: load: error: needs Linux 5\nguest: check: needs Linux 5\n[1.0] x guest: run: {needs Linux 5}\n\
                 guest: mail: 220 x\nguest: ended with 0\n",
                Expected::TooOld,
                Ok("too old, and says so: error: needs Linux 5"),
            ),
            (
                "guest: load: reserved\nguest: load: fields\nguest: ended with 0\n",
                Expected::TooOld,
                Err("`edge load` doesn't say in one line what is wrong"),
            ),
            (
                "guest: load: needs Linux 5\nguest: check: valid\nguest: ended with 0\n",
                Expected::TooOld,
                Err("`check` doesn't say which kernel is needed"),
            ),
            (
                "guest: load: needs Linux 5\nguest: check: needs Linux 5\nguest: run: needs Linux 5\nguest: ended with 0\n",
                Expected::TooOld,
                Err("the proxy doesn't go on in user space"),
            ),
        ] {
            assert_eq!(judge(said, expected), judged.map(str::to_owned).map_err(str::to_owned), "{said}");
        }
    }
}
