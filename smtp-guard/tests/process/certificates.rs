//! Certificates that can't be used, at the start and later: mail goes on, and it is said.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;

use crate::{Guard, connect, free, send, status};

/// Writes a certificate and its key into `directory`.
fn pair(directory: &Path) {
    let made = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
    fs::write(directory.join("cert.pem"), made.cert.pem()).unwrap();
    fs::write(directory.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

/// What is appended to a configuration for a certificate in `directory` and a port for users.
fn tls(directory: &Path, users: SocketAddr) -> String {
    let folder = directory.display();
    format!(
        "[tls]\ncertificate = \"{folder}/cert.pem\"\nkey = \"{folder}/key.pem\"\n[[listen]]\naddress = \"{users}\"\n\
         role = \"submission\"\n"
    )
}

/// Whether STARTTLS is offered on `address`.
fn offers_starttls(address: SocketAddr) -> bool {
    let mut stream = BufReader::new(connect(address));
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    stream.get_mut().write_all(b"EHLO c\r\n").unwrap();
    let mut offered = false;
    loop {
        line.clear();
        stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("250"), "{line}");
        offered |= line.contains("STARTTLS");
        if line.starts_with("250 ") {
            return offered;
        }
    }
}

#[test]
fn a_start_without_a_key_takes_mail_and_offers_tls_as_soon_as_it_can() {
    let directory = tempfile::tempdir().unwrap();
    let users = free();
    pair(directory.path());
    let key = directory.path().join("key.pem");
    fs::rename(&key, directory.path().join("aside")).unwrap();
    let mut guard = Guard::start(directory.path(), &tls(directory.path(), users), "", Stdio::null());
    send(connect(guard.address), false);
    assert!(!offers_starttls(guard.address));
    assert!(TcpStream::connect(users).is_err(), "without TLS that port is no use");
    let said = status(&guard.config);
    for part in ["last reload FAILED", "key.pem", &format!("STARTTLS is not offered, and {users} not opened")] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    fs::rename(directory.path().join("aside"), &key).unwrap();
    let (address, config) = (guard.address, guard.config.clone());
    guard.wait("TLS is offered", || offers_starttls(address) && TcpStream::connect(users).is_ok());
    assert!(offers_starttls(users));
    assert!(!status(&config).contains("FAILED"), "{}", status(&config));
    guard.ends();
}

#[test]
fn a_pair_that_can_not_be_read_any_more_stays_in_use_and_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    pair(directory.path());
    let mut guard = Guard::start(directory.path(), &tls(directory.path(), free()), "", Stdio::null());
    let config = guard.config.clone();
    let key = directory.path().join("key.pem");
    for (spoil, mend) in [
        // As after a renewal that only root may read: nobody may, here.
        (
            &(|| fs::rename(&key, directory.path().join("aside")).unwrap()) as &dyn Fn(),
            &(|| fs::rename(directory.path().join("aside"), &key).unwrap()) as &dyn Fn(),
        ),
        (&|| fs::write(&key, "nonsense").unwrap(), &|| pair(directory.path())),
    ] {
        assert!(!status(&config).contains("FAILED"));
        spoil();
        guard.wait("it is shown", || status(&config).contains("last reload FAILED"));
        assert!(status(&config).contains("the one that was read before stays in use"));
        assert!(offers_starttls(guard.address));
        mend();
        guard.wait("it is read again", || !status(&config).contains("FAILED"));
    }
    guard.ends();
}
