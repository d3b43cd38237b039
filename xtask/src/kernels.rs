//! `cargo xtask kernels`: the whole loop on the kernels that users have, each booted in a machine of its own.
//!
//! A kernel is a Debian package, unpacked into `target/tools/kernels` and never installed. The machine is QEMU without help of the
//! processor, which works everywhere; its file system is in memory and has the guard, the test `whole_loop` and the few programs
//! that this needs ([`guest`]). It runs the test, says how it went on its console, and goes away.

use std::fmt;
use std::time::Instant;

use anyhow::bail;

use crate::{build, object, setup, step};

mod guest;
mod packages;

/// What the guard has to do on a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// The whole loop holds.
    Holds,
    /// One line says that the kernel is too old, and what it would need.
    TooOld,
}

/// A kernel that users have.
struct Kernel {
    /// The release of Debian that it is of; `None`: this machine's.
    suite: Option<&'static str>,
    package: &'static str,
    /// How its version begins, where that is known; else it is the newest.
    version: &'static str,
    expected: Expected,
    /// Whether the short test command has it.
    short: bool,
}

const KERNELS: [Kernel; 4] = [
    Kernel { suite: None, package: "linux-image-cloud-amd64", version: "6.1.", expected: Expected::Holds, short: true },
    Kernel {
        suite: None,
        package: "linux-image-6.12-cloud-amd64",
        version: "6.12.",
        expected: Expected::Holds,
        short: false,
    },
    Kernel {
        suite: Some("sid"),
        package: "linux-image-cloud-amd64",
        version: "",
        expected: Expected::Holds,
        short: false,
    },
    Kernel {
        suite: Some("bullseye"),
        package: "linux-image-cloud-amd64",
        version: "5.10.",
        expected: Expected::TooOld,
        short: false,
    },
];

/// How a kernel did.
#[derive(Debug)]
struct Ran {
    /// As `uname -r` says it.
    release: String,
    /// The line that the guest is judged by: verified instructions, or what is said of a kernel that is too old.
    said: String,
    seconds: f64,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {}: {} ({:.0} s)", self.release, self.said, self.seconds)
    }
}

/// Runs the kernels of the short test command, or all, and prints how each did.
pub(crate) fn kernels(all: bool) -> anyhow::Result<()> {
    setup::test()?;
    object::build(&setup::build()?)?;
    test(all, &build::tests()?)
}

/// The same, for the test command, with what is installed and built. Fails where one kernel did other than expected, after all
/// had their turn.
pub(crate) fn test(long: bool, tests: &build::Tests) -> anyhow::Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        println!("kernels: skipped, since the packages that are known are for x86-64");
        return Ok(());
    }
    let guest = guest::Guest::prepare(tests)?;
    let mut failed = Vec::new();
    for kernel in KERNELS.iter().filter(|kernel| long || kernel.short) {
        let started = Instant::now();
        match run(kernel, &guest) {
            Ok((release, said)) => {
                let ran = Ran { release, said, seconds: started.elapsed().as_secs_f64() };
                println!("{ran}");
                step::note(&format!("the loop on Linux {}", ran.release), started);
            }
            Err(error) => {
                let name = kernel.suite.map_or_else(String::new, |suite| format!(" of {suite}"));
                println!("{}{name}: {error:#}", kernel.package);
                failed.push(format!("{}{name}", kernel.package));
            }
        }
    }
    if !failed.is_empty() {
        bail!("the guard did other than expected on {}", failed.join(", "));
    }
    Ok(())
}

fn run(kernel: &Kernel, guest: &guest::Guest) -> anyhow::Result<(String, String)> {
    let unpacked = packages::unpack(kernel)?;
    guest.boot(&unpacked, kernel.expected)
}
