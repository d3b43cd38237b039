//! A client's command lines, as a stream.
//!
//! - Nothing panics, and what waits for more bytes is bounded.
//! - What is understood goes to the backend as one line without CR, LF or NUL inside, and means the same when it is read
//!   again.
//! - A refusal is a permanent one, and fit to be sent.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smtp_guard_core::wire::address::Host;
use smtp_guard_core::wire::command::{self, Command};
use smtp_guard_core::wire::line::{Line, LineDecoder, MAX_AUTH_LINE};
use smtp_guard_core::wire::sasl::{Credentials, Secret};
use smtp_guard_core::wire::xclient::{self, Attributes, Identity};
use smtp_guard_core::wire::xtext::XText;

fuzz_target!(|data: &[u8]| {
    let (mut lines, mut unread) = (LineDecoder::new(), BytesMut::new());
    // Pieces of different sizes, the same in every run.
    for (index, piece) in data.chunk_by(|before, _| *before != b'\n').enumerate() {
        for piece in piece.chunks(1 + index % 7 * 5) {
            unread.extend_from_slice(piece);
            let read = |line: Line<'_>| {
                let Line::Text(line) = line else { return };
                assert!(!line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
                check(line);
            };
            while lines.next(&mut unread, read).is_some() {}
            assert!(unread.len() < MAX_AUTH_LINE);
        }
    }
});

fn check(line: &[u8]) {
    let command = match command::parse(line) {
        Ok(command) => command,
        Err(error) => {
            let reply = error.reply();
            assert_eq!(reply.code().class(), 5, "{error}");
            one_line(|out| reply.encode(out));
            return;
        }
    };
    let written = one_line(|out| command.encode(out));
    match &command {
        // Its argument is a secret and isn't written.
        Command::Auth(auth) => {
            assert_eq!(written, b"AUTH");
            if let Some(initial) = &auth.initial {
                password(initial);
            }
        }
        Command::Mail(mail) => {
            // The claim AUTH= isn't passed on.
            let again = command::parse(&written);
            let Ok(Command::Mail(mut again)) = again else { panic!("{again:?} of {mail}") };
            again.auth = mail.auth;
            assert_eq!(again, *mail);
        }
        _ => assert_eq!(command::parse(&written).as_ref(), Ok(&command)),
    }
    if let Command::Ehlo(helo) | Command::Helo(helo) = &command {
        let shown = helo.printable();
        assert!(shown.len() <= 100 && shown.bytes().all(|byte| byte.is_ascii_graphic()));
        name(helo.as_str());
    }
}

/// What was written, without its CRLF.
fn one_line(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    let line = out.strip_suffix(b"\r\n").expect("a whole line");
    assert!(!line.iter().any(|byte| *byte < b' ' || *byte == 0x7f), "\"{}\"", line.escape_ascii());
    line.to_vec()
}

fn password(initial: &Secret) {
    let Ok(message) = initial.decode() else { return };
    let Ok(credentials) = Credentials::plain(&message) else { return };
    assert!(!credentials.user().chars().any(char::is_control));
    let again = Credentials::plain(&Secret::new(credentials.response().as_bytes()).decode().expect("base64"));
    assert_eq!(again.as_ref(), Ok(&credentials));
}

/// The client's own name, everywhere a name goes.
fn name(name: &str) {
    if let Some(host) = Host::parse(name) {
        assert_eq!(Host::parse(&host.to_string()), Some(host));
    }
    if let Some(text) = XText::decode(name) {
        assert_eq!(XText::decode(&text.to_string()), Some(text));
    }
    let all = Attributes { name: true, addr: true, port: true, proto: true, helo: true, login: true };
    let identity = Identity {
        client: ([192, 0, 2, 1], 5000).into(),
        name: xclient::Name::Known(name),
        helo: Some(name),
        esmtp: true,
        login: XText::new(name).map(|_| name),
    };
    if let Some(line) = xclient::command(all, &identity) {
        let words: Vec<_> = line.split(' ').collect();
        assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')) && line.len() <= 510);
        assert_eq!(words.iter().filter(|word| word.starts_with("ADDR=")).count(), 1, "{line}");
        assert_eq!(words.last(), Some(&"ADDR=192.0.2.1"));
        assert_eq!(words.len(), 7, "{line}");
    }
}
