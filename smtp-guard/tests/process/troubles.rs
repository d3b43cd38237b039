//! A log that nobody reads, files that are replaced by something else, a disk that can't be written, signals.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::{BINARY, Guard, command, configure, connect, free, send, status};

#[test]
fn d1_a_log_that_nobody_reads_stops_neither_the_mail_nor_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (unread, log) = std::io::pipe().unwrap();
    let guard = Guard::start(directory.path(), "", "", log.into());
    // Each leaves lines in the log, and the pipe holds 64 KiB.
    for _ in 0..400 {
        send(connect(guard.address), false);
    }
    assert!(status(&guard.config).contains("400 accepted"));
    guard.ends();
    drop(unread);
}

#[test]
fn d2_files_that_are_replaced_stop_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("recipients"), "b@example.org\n").unwrap();
    fs::write(path("drop"), "198.51.100.7\n").unwrap();
    let more = format!(
        "[recipients]\nknown = \"{}\"\n[[blocklist]]\nname = \"drop\"\nfile = \"{}\"\nreload = \"1s\"\n",
        path("recipients").display(),
        path("drop").display()
    );
    let mut guard = Guard::start(directory.path(), &more, "", Stdio::null());
    send(connect(guard.address), false);
    fs::remove_file(path("recipients")).unwrap();
    fs::remove_file(path("drop")).unwrap();
    mknodat(CWD, path("recipients"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("drop")).unwrap();
    let config = guard.config.clone();
    guard.wait("the list is refused", || status(&config).contains("not a regular file"));
    send(connect(guard.address), false);
    let checked = command(&guard.config, "check");
    assert!(!checked.status.success() && String::from_utf8_lossy(&checked.stderr).contains("FIFO"), "{checked:?}");
    guard.ends();
}

#[test]
fn d2_a_configuration_that_is_no_file_is_refused_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("smtp-guard.toml");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0).unwrap();
    let output = command(&path, "check");
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("FIFO"), "{output:?}");
}

#[test]
fn d3_a_state_directory_that_can_not_be_used_stops_no_mail() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let more = format!("[state]\ndirectory = \"{}/state\"\n", file.display());
    let mut guard = Guard::start(directory.path(), &more, "", Stdio::null());
    send(connect(guard.address), false);
    let said = status(&guard.config);
    assert!(said.contains("not written: cannot use the state directory"), "{said}");
    fs::remove_file(&file).unwrap();
    let config = guard.config.clone();
    guard.wait("the store is used when it can be", || !status(&config).contains("not written"));
    guard.ends();
}

#[test]
fn d3_a_disk_that_is_full_at_the_start_stops_neither_mail_nor_bans() {
    let directory = tempfile::tempdir().unwrap();
    let decisions = |guard: &Guard, words: &[&str]| {
        let output =
            Command::new(BINARY).arg("--config").arg(&guard.config).arg("decisions").args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        [output.stdout, output.stderr].map(|out| String::from_utf8(out).unwrap()).concat()
    };
    // No file may have a byte: what is written fails as it does where there is no space.
    let mut guard = Guard::start(directory.path(), "", "ulimit -S -f 0;", Stdio::null());
    send(connect(guard.address), false);
    assert!(status(&guard.config).contains("not written"), "{}", status(&guard.config));
    let said = decisions(&guard, &["add", "192.0.2.7", "--for", "1h", "--reason", "x"]);
    assert!(said.contains("in force, but not on disk yet"), "{said}");
    assert!(decisions(&guard, &["list"]).contains("192.0.2.7"));
    let pid = i32::try_from(guard.child.id()).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Fsize, Rlimit { current: None, maximum: None }).unwrap();
    let config = guard.config.clone();
    guard.wait("there is space again", || !status(&config).contains("not written"));
    guard.ends();
    let guard = Guard::start(directory.path(), "", "", Stdio::null());
    assert!(decisions(&guard, &["list"]).contains("192.0.2.7"), "it was written late, and is there after a restart");
    guard.ends();
}

#[test]
fn d3_a_disk_that_fills_up_while_it_runs_stops_nothing_and_is_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("state")).unwrap();
    let unshare =
        if rustix::process::geteuid().is_root() { "unshare --mount" } else { "unshare --mount --map-root-user" };
    let mount = format!("mount -t tmpfs -o size=1m,mode=700 state {}", path("state").display());
    if !Command::new("sh").args(["-c", &format!("{unshare} {mount}")]).status().is_ok_and(|tried| tried.success()) {
        eprintln!("skipped: nothing can be mounted here");
        return;
    }
    let metrics = free();
    fs::create_dir(path("smtp-guard.toml.d")).unwrap();
    fs::write(path("smtp-guard.toml.d/10.toml"), format!("metrics.listen = \"{metrics}\"\n")).unwrap();
    let within = format!("exec {unshare} sh -c '{mount} && exec \"$@\"'");
    let mut guard = Guard::start(directory.path(), "", &within, fs::File::create(path("log")).unwrap().into());
    let config = guard.config.clone();
    let scraped = |line: &str| {
        let mut stream = connect(metrics);
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.lines().any(|found| found == line)
    };
    let logged = |part: &str| fs::read_to_string(path("log")).unwrap().contains(part);
    // Whether a ban of this address is on disk as well.
    let saved = |last: u8| {
        let who = format!("198.51.100.{last}");
        let words = ["decisions", "add", &who, "--json"];
        let output = Command::new(BINARY).arg("--config").arg(&config).args(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["saved"] == true
    };
    guard.wait("it answers", || command(&config, "status").status.success());
    assert!(saved(1) && scraped("smtp_guard_store_up 1") && scraped("smtp_guard_store_write_failures_total 0"));

    let filler = format!("/proc/{}/root{}/filler", guard.child.id(), path("state").display());
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 1024]).is_ok() {}
    drop(file);
    // What has room of its own in the files that are there is written still.
    assert!((2..100).any(|last| !saved(last)), "the disk isn't full");
    send(connect(guard.address), false);
    assert!(status(&config).contains("not written: "), "{}", status(&config));
    assert!(scraped("smtp_guard_store_up 0") && !scraped("smtp_guard_store_write_failures_total 0"));
    assert!(logged("cannot write the store; trying again"));

    fs::remove_file(&filler).unwrap();
    guard.wait("there is space again", || !status(&config).contains("not written"));
    assert!(saved(200) && scraped("smtp_guard_store_up 1") && logged("the store is written again"));
    send(connect(guard.address), false);
    guard.ends();
}

#[test]
fn a_port_that_is_taken_is_said_and_can_be_had_later() {
    let directory = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let config = configure(directory.path(), taken.local_addr().unwrap(), "");
    let refused = command(&config, "run");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    // Not 78: whoever started it tries again.
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("another program holds it"), "{said}");
    drop(taken);
    let guard = Guard::start(directory.path(), "", "", Stdio::null());
    send(connect(guard.address), false);
    guard.ends();
}

#[test]
fn d6_only_the_signals_that_are_meant_to_end_it() {
    let directory = tempfile::tempdir().unwrap();
    let guard = Guard::start(directory.path(), "", "", Stdio::null());
    let stream = connect(guard.address);
    for signal in [
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::PIPE,
        Signal::ALARM,
        Signal::VTALARM,
        Signal::PROF,
        Signal::POWER,
        Signal::XFSZ,
        Signal::IO,
    ] {
        guard.signal(signal);
    }
    send(stream, false);
    send(connect(guard.address), false);
    guard.ends();
}
