//! `try` says what the listener would, also where places are rare.

use std::io::Read as _;
use std::process::{Command, Stdio};

use crate::{BINARY, Guard, connect};

#[test]
fn g_try_says_what_the_listener_would() {
    let directory = tempfile::tempdir().unwrap();
    let limits = "[limits]\ntotal_connections = 3\nnetwork_connections = 2\n";
    let mut guard = Guard::start(directory.path(), limits, "", Stdio::null());
    let config = guard.config.clone();
    let attempt = |ip: &str| {
        let arguments = ["try", "--from", ip, "--helo", "x", "--config"];
        let output = Command::new(BINARY).args(arguments).arg(&config).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // What waiting for the start left behind is gone before the places are taken.
    guard.wait("all places are free", || attempt("127.0.0.1").contains("limits.total_connections: 0 of 3"));
    let mut held = Vec::new();
    for expected in ["220", "220", "421"] {
        let mut stream = connect(guard.address);
        let mut code = [0; 3];
        stream.read_exact(&mut code).unwrap();
        assert_eq!(code.as_slice(), expected.as_bytes());
        held.push(stream);
    }
    for (ip, parts) in [
        // The same network as those that are held, and the same words as the third of them heard.
        (
            "127.0.0.1",
            ["limits.network_connections: 2 of 2 in 127.0.0.0/24", "421 4.7.0 Too many connections from your network"],
        ),
        ("192.0.2.1", ["limits.total_connections: 2 of 3", "220 mx.example.org"]),
    ] {
        let text = attempt(ip);
        for part in parts {
            assert!(text.contains(part), "{ip}: no {part:?} in {text}");
        }
    }
}
