//! The lines that `cargo xtask run` prints, typed literally and late: a message, a harvest, what is known of it, and the ban lifted.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use smtp_guard_tests::guard::{binary, xtask};
use smtp_guard_tests::process::run_for;
use smtp_guard_tests::{Host, Program, World};

/// After the start, when the guard has long asked its backend what it wants to know.
const LATE: Duration = Duration::from_secs(30);
/// For one line; the harvest sleeps nine seconds.
const LONGEST: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root and BPF"]
fn what_the_first_try_prints_works_as_printed_whenever_it_is_typed() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    // As from the clone's top folder, by a user whose guard this is.
    let here = |program: &str| -> Command {
        let mut command = world.on(Host::Edge, program);
        command
            .current_dir(top)
            .env("HOME", folder.path())
            .env_remove("XDG_STATE_HOME")
            .env_remove("SMTP_GUARD_CONFIG");
        command
    };
    let name = format!("sg-{}", world.id);
    let mut first_try =
        Program::start(here(&xtask()).args(["run", "--name", &name, "--binary", &binary()]), folder.path().join("run"));
    first_try.wait_for("Ctrl-C ends everything");
    std::thread::sleep(LATE);
    let printed = first_try.output();
    let lines: Vec<_> = printed.lines().filter_map(|line| line.strip_prefix("     ")).map(str::trim).collect();
    let [send, harvest, explain, list, delete, top] = lines[..] else {
        panic!("other lines than expected:\n{printed}")
    };
    let typed = |line: &str| {
        let run = run_for(here("bash").args(["-c", line]), "", LONGEST);
        format!("$ {line}\n{}{}", run.stdout, run.stderr)
    };
    let says = |line: &str, parts: &[&str]| {
        let said = typed(line);
        assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}\n{}", first_try.output());
    };
    says(send, &["250 2.0.0 Ok: delivered as "]);
    says(harvest, &["550 5.1.1"]);
    says(explain, &["127.0.0.1", "harvest"]);
    says(list, &["127.0.0.1", "harvest"]);
    says(delete, &["127.0.0.1 is no longer blocked"]);
    says(send, &["250 2.0.0 Ok: delivered as "]);
    says(&format!("{top} --json"), &["\"uptime_seconds\""]);
    for line in [explain, list, delete, top] {
        assert!(!line.contains("--config"), "found without a path: {line}");
    }
    first_try.end();
    assert!(first_try.output().contains("stopping"), "{}", first_try.output());
    assert!(!Path::new("/sys/fs/bpf").join(&name).exists(), "nothing is left");
}
