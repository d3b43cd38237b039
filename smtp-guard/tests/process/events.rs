//! `smtp-guard events`: what happened, and what happens, in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::{BINARY, Guard, connect, send};

/// What a command of the guard's says.
fn run(guard: &Guard, words: &[&str]) -> String {
    let output = Command::new(BINARY).arg("--config").arg(&guard.config).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_happens_is_followed_and_shown_afterwards() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("drop"), "198.51.100.7\n").unwrap();
    let list = format!("[[blocklist]]\nname = \"drop\"\nfile = \"{}\"\n", directory.path().join("drop").display());
    let guard = Guard::start(directory.path(), &list, "", Stdio::null());
    let mut follower = Command::new(BINARY)
        .arg("--config")
        .arg(&guard.config)
        .args(["events", "--follow", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The ban may be lifted only when it has been there.
    run(&guard, &["decisions", "add", "20.0.2.1", "--for", "1h", "--reason", "too much"]);
    run(&guard, &["decisions", "delete", "20.0.2.1"]);
    run(&guard, &["accounts", "hold", "ann", "--reason", "stolen"]);
    run(&guard, &["accounts", "release", "ann"]);
    send(connect(guard.address), false);
    run(&guard, &["reload"]);
    let expected = ["blocklist", "banned", "lifted", "user_held", "user_released", "message", "reloaded"];
    let (mut seen, mut last) = (Vec::new(), 0);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    while !expected.iter().all(|kind| seen.iter().any(|other| other == kind)) {
        let line = lines.next().unwrap().unwrap();
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["number"], last + 1, "none is missing: {line}");
        last += 1;
        seen.push(event["event"].as_str().unwrap().to_owned());
        match event["event"].as_str().unwrap() {
            "banned" => assert_eq!(
                (event["source"].as_str(), event["duration_seconds"].as_u64(), event["text"].as_str()),
                (Some("20.0.2.1"), Some(3600), Some("too much"))
            ),
            "message" => assert_eq!(
                (event["outcome"].as_str(), event["client"].as_str(), event["recipient_count"].as_u64()),
                (Some("accepted"), Some("127.0.0.1"), Some(1))
            ),
            _ => {}
        }
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    let shown = run(&guard, &["events"]);
    for line in [
        "block list drop read: 1 entries, 0 refused",
        "20.0.2.1 banned for 1h 00m: too much (operator)",
        "ban of 20.0.2.1 (operator) ended: lifted by the operator",
        "user ann held (user_held): stolen",
        "user ann released by the operator",
        "message from 127.0.0.1 accepted: from <a@b.example>, 1 recipients",
        "configuration 2 in force: nothing changed",
    ] {
        assert!(shown.contains(line), "no {line:?} in\n{shown}");
    }
    guard.ends();
}
