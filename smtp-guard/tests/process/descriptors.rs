//! A guard that may open 64 files only: whoever finds no place hears so, the command line is answered, and mail flows.

use std::io::Read as _;
use std::process::Stdio;

use crate::{Guard, connect, send, status};

#[test]
fn c5_without_descriptors_clients_are_told_and_mail_flows() {
    let directory = tempfile::tempdir().unwrap();
    let guard = Guard::start(directory.path(), "", "ulimit -n 64 &&", Stdio::null());
    let mut held = Vec::new();
    let mut codes = Vec::new();
    for _ in 0..150 {
        let mut stream = connect(guard.address);
        let mut code = [0; 3];
        stream.read_exact(&mut code).unwrap();
        codes.push(String::from_utf8_lossy(&code).into_owned());
        held.push(stream);
    }
    assert!(codes.contains(&"220".to_owned()) && codes.iter().all(|code| code == "220" || code == "421"), "{codes:?}");
    assert_eq!(codes[149], "421");
    // The command line is answered meanwhile, and says why.
    let text = status(&guard.config);
    for part in ["may have 64", "bound total_connections"] {
        assert!(text.contains(part), "{text}");
    }
    // One that has a place sends a message.
    let at = codes.iter().position(|code| code == "220").unwrap();
    // The rest of its greeting.
    let mut stream = held.swap_remove(at);
    while {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        byte != *b"\n"
    } {}
    send(stream, true);
}
