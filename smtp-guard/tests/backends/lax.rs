//! Smuggling against the laxest backend there is, over real sockets: it takes every wrong end of data for one, and what
//! follows for commands. Without the guard the table's first column gets a second message through; with it, nothing.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::client::Client;
use crate::readers::READERS;
use crate::with_guard;

/// What follows a false end, in the hope of being read as commands.
const SMUGGLED: &[u8] = b"MAIL FROM:<evil@client.example>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nsmuggled\r\n.\r\n";

/// What the backend noted of all its sessions.
#[derive(Debug, Default)]
struct Noted {
    senders: Vec<String>,
    messages: usize,
}

/// Answers yes to everything, and ends message data as the laxest reader does.
fn backend(mut stream: TcpStream, noted: &Mutex<Noted>) -> std::io::Result<()> {
    let laxest = READERS.iter().find(|reader| reader.name == "laxest").unwrap();
    let (mut unread, mut in_data) = (Vec::new(), false);
    stream.write_all(b"220 lax\r\n")?;
    loop {
        while in_data && let Some(read) = (laxest.read)(&unread) {
            unread.drain(..read.end);
            noted.lock().unwrap().messages += 1;
            in_data = false;
            stream.write_all(b"250 2.0.0 taken\r\n")?;
        }
        while !in_data && let Some(lf) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = unread.drain(..=lf).collect();
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            if line.starts_with("MAIL") {
                noted.lock().unwrap().senders.push(line.clone());
            }
            in_data = line == "DATA";
            stream.write_all(if in_data { b"354 go\r\n" } else { b"250 2.0.0 ok\r\n" })?;
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes)? {
            0 => return Ok(()),
            read => unread.extend_from_slice(&bytes[..read]),
        }
    }
}

/// Sends a message with `end` in the middle of it, what is to be smuggled behind that, and the true end; in two writes cut
/// at `cut`. Returns the reply at the dot.
fn attack(server: SocketAddr, end: &[u8], cut: usize) -> String {
    let mut client = Client::connect(server);
    client.code();
    for line in ["EHLO client.example", "MAIL FROM:<a@client.example>", "RCPT TO:<b@example.org>", "DATA"] {
        client.say(line);
    }
    let data = [b"Subject: x\r\n\r\ntext", end, SMUGGLED].concat();
    let (first, second) = data.split_at(cut.min(data.len()));
    for piece in [first, second] {
        client.write(piece);
        std::thread::sleep(Duration::from_millis(5));
    }
    client.reply()
}

/// Likewise in two chunks that are cut at `cut`, all of it sent at once. Returns the reply to the last one, and to the command
/// behind it.
fn attack_in_chunks(server: SocketAddr, end: &[u8], cut: usize) -> (String, String) {
    let mut client = Client::connect(server);
    client.code();
    client.say("EHLO client.example");
    let data = [b"Subject: x\r\n\r\ntext", end, SMUGGLED].concat();
    let (first, second) = data.split_at(cut.min(data.len()));
    let mut all = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.org>\r\n".to_vec();
    for (chunk, last) in [(first, ""), (second, " LAST")] {
        all.extend_from_slice(format!("BDAT {}{last}\r\n", chunk.len()).as_bytes());
        all.extend_from_slice(chunk);
    }
    all.extend_from_slice(b"VRFY x\r\n");
    client.write(&all);
    let mut replies = (0..5).map(|_| client.reply()).skip(3);
    (replies.next().unwrap(), replies.next().unwrap())
}

#[test]
fn nothing_is_smuggled_past_the_guard() {
    const HEAD: usize = b"Subject: x\r\n\r\ntext".len();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let noted = Arc::new(Mutex::new(Noted::default()));
    let notes = Arc::clone(&noted);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let notes = Arc::clone(&notes);
            // The guard hangs up on it where it must not be told the end.
            std::thread::spawn(move || backend(stream, &notes));
        }
    });
    let wrong: [&[u8]; 14] = [
        b"\n.\n",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r.\n",
        b"\n.\r",
        b"\r\n.\r",
        b"\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n\r.\r\n",
        b"\n\n.\r\n",
        b"\r\n.\0\n",
    ];
    for end in wrong {
        // The laxest backend by itself: a second sender. So the test can fail.
        attack(address, end, usize::MAX);
    }
    let fooled = noted.lock().unwrap().senders.iter().filter(|sender| sender.contains("evil")).count();
    assert!(fooled >= wrong.len() - 1, "{fooled} of {} ends fool it", wrong.len());

    *noted.lock().unwrap() = Noted::default();
    with_guard(address, |guard| {
        for end in wrong {
            for cut in (HEAD..=HEAD + end.len()).chain([usize::MAX]) {
                let reply = attack(guard, end, cut);
                assert!(reply.starts_with("550 5.6.0"), "{} cut at {cut}: {reply}", end.escape_ascii());
            }
        }
    });
    let flawed = std::mem::take(&mut *noted.lock().unwrap());
    assert!(flawed.senders.iter().all(|sender| !sender.contains("evil")), "{flawed:?}");
    assert_eq!(flawed.messages, 0, "no flawed message was ever completed");
    assert!(flawed.senders.len() > wrong.len(), "it was asked at all");

    let mut taken = 0;
    with_guard(address, |guard| {
        for end in wrong.into_iter().chain([&b"\r\n.\r\n"[..], b"\r\n..\r\n", b"\n"]) {
            // A bare LF comes out as CRLF; CR and NUL are refused. Its length says where the message ends.
            let flawed = end.contains(&0)
                || end.windows(2).any(|pair| pair[0] == b'\r' && pair[1] != b'\n')
                || end.ends_with(b"\r");
            for cut in (HEAD..=HEAD + end.len()).chain([0, usize::MAX]) {
                let (reply, next) = attack_in_chunks(guard, end, cut);
                let expected = if flawed { "550 5.6.0" } else { "250 2.0.0 taken" };
                assert!(reply.starts_with(expected), "{} cut at {cut}: {reply}", end.escape_ascii());
                assert!(next.starts_with("252"), "{} cut at {cut}: {next}", end.escape_ascii());
                taken += usize::from(!flawed);
            }
        }
    });
    let noted = noted.lock().unwrap();
    assert!(noted.senders.iter().all(|sender| !sender.contains("evil")), "{noted:?}");
    assert_eq!(noted.messages, taken, "each message is one, and no flawed one was ever completed");
    assert!(taken > 0);
}
