//! What `cargo xtask run` sets up takes a message, and finds out a harvest.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use smtp_guard_tests::{
    Host, Program, World,
    guard::{binary, netkit},
    run,
};

const GUARD: &str = "127.0.0.1:2525";
const SINK: &str = "127.0.0.1:2526";

#[test]
#[ignore = "needs root and BPF"]
fn the_first_try_takes_mail_and_bans() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let pins = format!("/sys/fs/bpf/sg-{}-first", std::process::id());
    let values = [
        ("{GUARD}", GUARD),
        ("{SINK}", SINK),
        ("{METRICS}", "127.0.0.1:9925"),
        ("{PINS}", &pins),
        ("{folder}", &folder.path().display().to_string()),
    ];
    let template = include_str!("../../../xtask/src/run.toml").to_owned();
    let config = values.iter().fold(template, |text, (name, value)| text.replace(name, value));
    fs::write(path("smtp-guard.toml"), config).unwrap();
    let on_edge = |arguments: &[&str]| {
        let mut command = world.on(Host::Edge, &binary());
        command.args(arguments);
        command
    };
    let config = path("smtp-guard.toml");
    let _unload = Unload { config: config.clone() };
    let mut sink =
        Program::start(&mut on_edge(&["sink", "--listen", SINK, "--maildir", &path("maildir")]), path("sink").into());
    sink.wait_for("listening");
    let mut guard = Program::start(&mut on_edge(&["run", "--config", &config]), path("guard").into());
    guard.wait_for("smtp-guard runs");
    let talk = |lines: &[&str]| run(world.on(Host::Edge, &netkit()).args(["dialogue", GUARD]), &lines.join("\n"));
    let message = [
        "EHLO me",
        "MAIL FROM:<you@example.com>",
        "RCPT TO:<alice@example.org>",
        "DATA",
        r"Subject: x\r\n\r\nx\r\n.",
        "QUIT",
    ];
    let said = talk(&message).ok();
    assert_eq!(
        fs::read_dir(path("maildir/new")).unwrap().count(),
        1,
        "{said}\n{}",
        fs::read_to_string(path("guard")).unwrap()
    );
    let harvest: Vec<_> = (0..12).map(|n| format!("RCPT TO:<unknown{n}@example.org>")).collect();
    let harvest: Vec<_> =
        ["EHLO me", "MAIL FROM:<x@example.com>"].into_iter().chain(harvest.iter().map(String::as_str)).collect();
    let said = talk(&harvest);
    let list = run(&mut on_edge(&["decisions", "list", "--config", &config]), "").ok();
    assert!(list.contains("127.0.0.1") && list.contains("harvest"), "{list}\n{said:?}");
}

/// Unloads the kernel plane, also where the test fails.
struct Unload {
    config: String,
}

impl Drop for Unload {
    fn drop(&mut self) {
        let _ = std::process::Command::new(binary()).args(["edge", "unload", "--config", &self.config]).output();
    }
}
