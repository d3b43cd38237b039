//! A guard that may open 64 files only: whoever finds no place hears so, the command line is answered, and mail flows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on has failed")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const BINARY: &str = env!("CARGO_BIN_EXE_smtp-guard");

/// Ends the guard with the test.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a guard in front of `backend` that may have `limit` descriptors, and waits until it listens. Its configuration is
/// in `directory`.
fn start(limit: u32, backend: SocketAddr, address: SocketAddr, directory: &std::path::Path) -> Guard {
    let state = directory.display();
    let config = format!(
        "hostname = \"mx.example.org\"\n[[listen]]\naddress = \"{address}\"\n[backend]\nservers = [\"{backend}\"]\n\
         identity = \"none\"\ntls = \"off\"\n[relay]\ndomains = [\"example.org\"]\n[auth]\nvia = \"off\"\n[checks]\n\
         sender_domain = \"off\"\nptr = \"off\"\ngreeting_delay = \"0s\"\n[metrics]\nlisten = \"\"\n[admin]\n\
         socket = \"{state}/admin.sock\"\n[state]\ndirectory = \"{state}\"\n"
    );
    std::fs::write(directory.join("smtp-guard.toml"), config).unwrap();
    let run = format!("ulimit -n {limit} && exec {BINARY} --config {state}/smtp-guard.toml run");
    let guard = Command::new("sh").args(["-c", &run]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut guard = Guard(guard);
    while TcpStream::connect(address).is_err() {
        assert_eq!(guard.0.try_wait().unwrap(), None, "it didn't start");
        std::thread::sleep(Duration::from_millis(20));
    }
    guard
}

/// A backend that takes everything.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let _ = stream.write_all(b"220 x\r\n");
                while let Some(Ok(line)) = lines.next() {
                    let answer: &[u8] = if line == "DATA" { b"354 go\r\n" } else { b"250 ok\r\n" };
                    let _ = stream.write_all(answer);
                    if line == "DATA" {
                        while lines.next().is_some_and(|line| line.is_ok_and(|line| line != ".")) {}
                        let _ = stream.write_all(b"250 taken\r\n");
                    }
                }
            });
        }
    });
    address
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

#[test]
fn c5_without_descriptors_clients_are_told_and_mail_flows() {
    let directory = tempfile::tempdir().unwrap();
    // Free now; nobody else is told of it.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let guard = start(64, backend(), address, directory.path());
    let mut held = Vec::new();
    let mut codes = Vec::new();
    for _ in 0..150 {
        let mut stream = connect(address);
        let mut code = [0; 3];
        stream.read_exact(&mut code).unwrap();
        codes.push(String::from_utf8_lossy(&code).into_owned());
        held.push(stream);
    }
    assert!(codes.contains(&"220".to_owned()) && codes.iter().all(|code| code == "220" || code == "421"), "{codes:?}");
    assert_eq!(codes[149], "421");
    // The command line is answered meanwhile, and says why.
    let config = directory.path().join("smtp-guard.toml");
    let status = Command::new(BINARY).arg("--config").arg(&config).arg("status").output().unwrap();
    let text = String::from_utf8_lossy(&status.stdout);
    for part in ["may have 64", "bound total_connections"] {
        assert!(status.status.success() && text.contains(part), "{text}");
    }
    // One that has a place sends a message.
    let at = codes.iter().position(|code| code == "220").unwrap();
    let mut reader = BufReader::new(held.swap_remove(at));
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    for said in ["HELO c", "MAIL FROM:<a@b.example>", "RCPT TO:<b@example.org>", "DATA", "Subject: x\r\n\r\nx\r\n."] {
        reader.get_mut().write_all(format!("{said}\r\n").as_bytes()).unwrap();
        line.clear();
        reader.read_line(&mut line).unwrap();
        let expected = if said == "DATA" { "354" } else { "250" };
        assert!(line.starts_with(expected), "{said}: {line}");
    }
    drop(guard);
}
