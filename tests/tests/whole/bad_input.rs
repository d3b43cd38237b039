//! An operator's mistakes: one clear error that names the thing and says what to do, and the agreed exit code.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use smtp_guard_tests::{Guard, Program, Run, World, guard::binary, run};

/// A configuration that works, in `folder`, with `change` applied to its text.
fn guard(folder: &Path, command: &[&str], change: impl FnOnce(String) -> String) -> Run {
    let config = folder.join("smtp-guard.toml");
    fs::write(&config, change(working(folder, 0))).unwrap();
    run(Command::new(binary()).args(command).arg("--config").arg(&config), "")
}

fn working(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    let port = if port == 0 { free_port() } else { port };
    format!(
        "hostname = \"mx.example.org\"\n\n[[listen]]\naddress = \"127.0.0.1:{port}\"\n\n[backend]\nservers = [\"127.0.0.1:9\"]\n\n\
         [relay]\ndomains = [\"example.org\"]\n\n[metrics]\nlisten = \"\"\n\n[admin]\nsocket = \"{folder}/admin.sock\"\n\n\
         [state]\ndirectory = \"{folder}/state\"\n"
    )
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Runs `command` with a changed configuration; it must end with `code` and say all of `words`.
fn check(name: &str, command: &[&str], from: &str, to: &str, code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let ended = guard(folder.path(), command, |text| {
        assert!(text.contains(from), "{name}: {from} is not in the configuration");
        text.replacen(from, to, 1)
    });
    assert_eq!(ended.code(), code, "{name}: {ended:#?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{name}: no {word:?} in\n{}", ended.stderr);
    }
    assert!(!ended.stderr.contains("panicked"), "{name}: {}", ended.stderr);
}

#[test]
fn bad_configurations_end_with_78_and_a_caret() {
    let table: [(&str, &str, &str, &[&str]); 7] = [
        ("unknown key", "servers =", "server =", &["server", "servers", "smtp-guard.toml:7:1", "^"]),
        ("wrong type", "\"mx.example.org\"", "25", &["hostname", "smtp-guard.toml:1:", "^"]),
        ("missing backend", "[backend]\nservers = [\"127.0.0.1:9\"]\n", "", &["backend", "servers"]),
        ("no domains", "domains = [\"example.org\"]", "domains = []", &["domains"]),
        ("an open relay", "domains = [", "networks = [\"0.0.0.0/0\"]\ndomains = [", &["0.0.0.0/0", "open relay"]),
        ("half a list", "[relay]", "[[blocklist]]\nname = \"drop\"\n\n[relay]", &["[[blocklist]] without file"]),
        ("no TOML", "[relay]", "[relay", &["smtp-guard.toml:9:"]),
    ];
    for (name, from, to, words) in table {
        for command in ["check", "run"] {
            check(name, &[command], from, to, 78, words);
        }
    }
}

#[test]
fn a_port_in_use_and_an_address_of_nobody() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let ended = guard(folder.path(), &["run"], |_| working(folder.path(), taken.local_addr().unwrap().port()));
    assert!(ended.code() == 1 && ended.stderr.contains(&format!("cannot listen on {address}")), "{ended:#?}");
    assert!(ended.stderr.contains("another program holds it"), "{ended:#?}");
    check(
        "no such address",
        &["run"],
        "address = \"127.0.0.1:",
        "address = \"192.0.2.77:",
        1,
        &["192.0.2.77", "ip address"],
    );
}

#[test]
fn files_that_are_not_there() {
    check(
        "recipients",
        &["run"],
        "[metrics]",
        "[recipients]\nknown = \"/nonexistent/known\"\n\n[metrics]",
        1,
        &["/nonexistent/known"],
    );
    let ended = run(Command::new(binary()).args(["check", "--config", "/nonexistent/smtp-guard.toml"]), "");
    assert!(ended.code() == 78 && ended.stderr.contains("/nonexistent/smtp-guard.toml"), "{ended:#?}");
}

#[test]
fn a_second_guard_is_told_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("smtp-guard.toml");
    fs::write(&config, working(folder.path(), 0)).unwrap();
    let mut first =
        Program::start(Command::new(binary()).arg("run").arg("--config").arg(&config), folder.path().join("log"));
    first.wait_for("smtp-guard runs");
    let second = guard(folder.path(), &["run"], |text| text);
    assert!(second.code() == 1 && second.stderr.contains("another program has the state directory"), "{second:#?}");
    first.kill9();
    let mut third =
        Program::start(Command::new(binary()).arg("run").arg("--config").arg(&config), folder.path().join("log3"));
    third.wait_for("smtp-guard runs");
}

#[test]
#[ignore = "needs root and BPF"]
fn an_interface_that_does_not_exist() {
    let section = "[edge]\ninterfaces = [\"nope0\"]\npin_directory = \"/sys/fs/bpf/sg-none\"\n\n[metrics]";
    check("edge load", &["edge", "load"], "[metrics]", section, 1, &["nope0", "ip link"]);
    assert!(!Path::new("/sys/fs/bpf/sg-none").exists());
    // The guard itself goes on, filters it from the moment it is there, and says so.
    let world = World::new();
    let mut guard = Guard::configured(&world, &[("edge.interfaces", "[\"nope0\"]")]);
    guard.run_without_backend();
    let state = guard.json(&["status"])["kernel"].clone();
    assert!(state["text"].as_str().unwrap().contains("on no interface"), "{state}");
    assert!(state["text"].as_str().unwrap().ends_with("gone or unfiltered: nope0"), "{state}");
    assert!(guard.log().contains("there is no such interface yet"), "{}", guard.log());
}
