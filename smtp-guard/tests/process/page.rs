//! The status page, open while its guard works and ends.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use crate::{BINARY, Guard, connect, free, send};

/// Opens the stream of the page at `address`.
fn open(address: SocketAddr) -> TcpStream {
    let mut stream = connect(address);
    stream.write_all(b"GET /page/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    stream
}

/// The page at `address`, without JavaScript.
fn look(address: SocketAddr) -> String {
    let mut stream = connect(address);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// Is refused each of `recipients` recipients that are nobody's business here.
fn refused(address: SocketAddr, recipients: usize) {
    let mut reader = BufReader::new(connect(address));
    let recipients = (0..recipients).map(|n| format!("RCPT TO:<{n}@elsewhere.example>\r\n"));
    let lines = ["HELO c\r\n", "MAIL FROM:<a@b.example>\r\n"].map(str::to_owned).into_iter().chain(recipients);
    for line in lines.chain([String::new()]) {
        let mut reply = String::new();
        reader.read_line(&mut reply).unwrap();
        reader.get_mut().write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn whoever_has_the_page_open_holds_up_neither_mail_nor_the_end() {
    let (directory, http) = (tempfile::tempdir().unwrap(), free());
    let more = directory.path().join("smtp-guard.toml.d");
    fs::create_dir(&more).unwrap();
    // Longer than the test waits for the end.
    fs::write(more.join("10.toml"), format!("drain = \"10m\"\nmetrics.listen = \"{http}\"\n")).unwrap();
    let mut guard = Guard::start(directory.path(), "", "", Stdio::null());
    let reader = open(http);
    let reader = thread::spawn(move || {
        let (mut heard, mut reader) = (Vec::new(), reader);
        reader.read_to_end(&mut heard).map(|_| String::from_utf8(heard).unwrap())
    });
    // They never read.
    let slow: Vec<_> = (0..6).map(|_| open(http)).collect();
    for n in 0..5 {
        refused(guard.address, 8);
        let ban = ["decisions", "add", &format!("20.0.2.{n}"), "--for", "1h", "--reason", "too much"];
        let ban = Command::new(BINARY).arg("--config").arg(&guard.config).args(ban).output().unwrap();
        assert!(ban.status.success(), "{ban:?}");
        send(connect(guard.address), false);
    }
    guard.wait("all of it is shown", || {
        let page = look(http);
        ["20.0.2.4", "&lt;7@elsewhere.example&gt;"].iter().all(|part| page.contains(part))
    });
    guard.ends();
    let heard = reader.join().unwrap().expect("the end of the stream is no reset");
    let (head, events) = heard.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(events.contains("event: change") && events.contains("20.0.2."), "{events}");
    assert!(
        events.ends_with("\n\n\r\n0\r\n\r\n"),
        "a whole event is the last one, and an end that was meant: {events}"
    );
    drop(slow);
}
