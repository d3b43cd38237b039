//! Lines of a session in the log, as an operator looks for them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use serde_json::Value;

use crate::{Guard, connect};

/// The replies to `commands` of one connection, after the greeting.
fn dialogue(guard: &Guard, commands: &[&str]) -> Vec<String> {
    let stream = connect(guard.address);
    let mut replies = BufReader::new(stream.try_clone().unwrap()).lines().map(|line| line.unwrap());
    let mut stream = stream;
    let mut heard = vec![replies.next().unwrap()];
    for command in commands {
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        heard.push(replies.find(|line| line.as_bytes()[3] == b' ').unwrap());
    }
    heard
}

/// Starts a guard whose standard error, a file, is the journal's if `journal`; what it wrote until its end.
fn logged(more: &str, journal: bool, play: impl FnOnce(&Guard)) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let shell =
        if journal { "export JOURNAL_STREAM=$(stat -L -c %d:%i /dev/fd/2);" } else { "export JOURNAL_STREAM=1:1;" };
    let guard = Guard::start(directory.path(), more, shell, Stdio::from(File::create(&path).unwrap()));
    play(&guard);
    guard.ends();
    fs::read_to_string(path).unwrap()
}

const REFUSED: &[&str] = &["EHLO client.example", "MAIL FROM:<a@b.example>", "RCPT TO:<c@elsewhere.example>", "QUIT"];

#[test]
fn one_search_finds_all_of_a_session() {
    let mut id = String::new();
    let more = "[replies]\ncontact = \"postmaster@example.org\"\n";
    let log = logged(more, false, |guard| {
        let commands = [
            "EHLO client.example",
            "MAIL FROM:<a@b.example>",
            "RCPT TO:<c@elsewhere.example>",
            "RCPT TO:<d@example.org>",
            "DATA",
            "x\r\n.",
            "QUIT",
        ];
        let heard = dialogue(guard, &commands);
        let (said, rest) = heard[3].split_once("; contact postmaster@example.org (session ").unwrap();
        assert_eq!(said, "554 5.7.1 Relay access denied");
        id = rest.trim_end_matches(')').to_owned();
    });
    assert!(id.len() == 13 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{id}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_session: Vec<_> = lines.iter().filter(|line| line["session"] == id.as_str()).collect();
    let messages: Vec<_> = of_session.iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["command refused", "message", "session ended"], "{log}");
    let message = of_session[1];
    for (field, value) in [
        ("client", "127.0.0.1"),
        ("helo", "client.example"),
        ("sender", "<a@b.example>"),
        ("to", "<d@example.org>"),
        ("outcome", "accepted"),
        ("reply", "250 2.0.0 taken"),
    ] {
        assert_eq!(message[field], value, "{message:#}");
    }
    for (field, value) in [("recipients", 1), ("code", 250), ("size", 3)] {
        assert_eq!(message[field], value, "{message:#}");
    }
    assert!(message["backend"].is_string() && message["listener"].is_string(), "{message:#}");
    assert!(message["port"].is_u64() && message["duration_ms"].is_u64(), "{message:#}");
    let end = of_session[2];
    assert_eq!([&end["messages"], &end["refused"]], [&Value::from(1), &Value::from(1)], "{end:#}");
    let sessions: HashSet<_> = lines.iter().filter_map(|line| line["session"].as_str()).collect();
    assert!(sessions.iter().all(|other| other.len() == 13), "{sessions:?}");
}

#[test]
fn the_journal_is_told_how_grave_each_line_is() {
    for format in ["json", "text"] {
        let more = format!("[log]\nformat = \"{format}\"\n");
        let log = logged(&more, true, |guard| drop(dialogue(guard, REFUSED)));
        let priorities: HashSet<_> = log.lines().map(|line| line.split_at(3).0).collect();
        assert!(priorities.contains("<6>"), "{log}");
        assert!(priorities.is_subset(&HashSet::from(["<3>", "<4>", "<6>"])), "{log}");
        if format == "text" {
            assert!(
                log.contains("<6>NOQUEUE: reject: RCPT from unknown[127.0.0.1]: 554 5.7.1 Relay access denied"),
                "{log}"
            );
        }
        let log = logged(&more, false, |guard| drop(dialogue(guard, REFUSED)));
        assert!(!log.lines().any(|line| line.starts_with('<')), "a stream of somebody else: {log}");
    }
}
