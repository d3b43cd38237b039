//! SMTP smuggling: what a client sends as message data is one message to every backend, or none.
//!
//! The readers are models of backends ([`readers`]). The same bytes sent to them without the guard fool those that the
//! table names: so the models can be fooled, and the tests can fail.
//!
//! Known limit: a backend that cuts a long line and takes what follows for the start of a line. A line that is longer
//! than it takes, with its dot at the right place, is an end to it, whoever encodes; only refusing long lines would help.
use std::time::{Duration, Instant};

use smtp_guard::wire::data::BodyFlaw;

use crate::readers::{self, READERS, Sent};

/// What follows a false end, to be taken for commands by whoever is fooled.
const SMUGGLED: &[u8] = b"MAIL FROM:<evil@x>\r\nRCPT TO:<b@y>\r\nDATA\r\nsmuggled\r\n.\r\nQUIT\r\n";
/// The client's next command, behind the true end.
const NEXT: &[u8] = b"RSET\r\n";

/// A row of the table of ends.
struct Row {
    /// What stands before.
    head: &'static [u8],
    bytes: &'static [u8],
    /// Whether the data ends there.
    ends: bool,
    flaw: Option<BodyFlaw>,
    /// The readers that see no end there although there is one, or one although there is none.
    fooled: &'static [&'static str],
}

const TEXT: &[u8] = b"Subject: x\r\n\r\ntext";
const LF_DOT_LF: &[&str] = &["postfix before 3.9", "opensmtpd", "haraka", "go-smtp", "exim to 4.97", "laxest"];
const LF_DOT_CRLF: &[&str] =
    &["postfix before 3.9", "opensmtpd", "haraka", "aiosmtpd", "go-smtp", "exim to 4.97", "laxest"];
const CR_DOT: &[&str] = &["exim to 4.97", "bare CR to CRLF", "laxest"];

#[rustfmt::skip]
const TABLE: [Row; 28] = [
    Row { head: TEXT, bytes: b"\r\n.\r\n", ends: true, flaw: None, fooled: &[] },
    Row { head: b"", bytes: b".\r\n", ends: true, flaw: None, fooled: &["smtp-proto"] },
    Row { head: b"", bytes: b"..\r\n", ends: false, flaw: None, fooled: &[] },
    Row { head: b"", bytes: b".x\r\n", ends: false, flaw: None, fooled: &[] },
    Row { head: TEXT, bytes: b"\r\n..\r\n", ends: false, flaw: None, fooled: &[] },
    Row { head: TEXT, bytes: b"\r\n.x\r\n", ends: false, flaw: None, fooled: &[] },
    Row { head: TEXT, bytes: b".\r\n", ends: false, flaw: None, fooled: &[] },
    Row { head: TEXT, bytes: b"\r\nx.\r\n", ends: false, flaw: None, fooled: &[] },
    Row { head: TEXT, bytes: b"\r\n. \r\n", ends: false, flaw: None, fooled: &["laxest"] },
    Row { head: b"", bytes: b".\t\r\n", ends: false, flaw: None, fooled: &["laxest"] },
    Row { head: TEXT, bytes: b"\n.\n", ends: false, flaw: Some(BodyFlaw::BareLf), fooled: LF_DOT_LF },
    Row { head: TEXT, bytes: b"\n.\r\n", ends: false, flaw: Some(BodyFlaw::BareLf), fooled: LF_DOT_CRLF },
    Row { head: TEXT, bytes: b"\r\n.\n", ends: false, flaw: Some(BodyFlaw::BareLf), fooled: LF_DOT_LF },
    Row { head: TEXT, bytes: b"\r.\r", ends: false, flaw: Some(BodyFlaw::BareCr), fooled: CR_DOT },
    Row { head: TEXT, bytes: b"\r.\r\n", ends: false, flaw: Some(BodyFlaw::BareCr), fooled: CR_DOT },
    Row { head: TEXT, bytes: b"\r.\n", ends: false, flaw: Some(BodyFlaw::BareCr), fooled: &["exim to 4.97", "laxest"] },
    Row { head: TEXT, bytes: b"\n.\r", ends: false, flaw: Some(BodyFlaw::BareLf), fooled: &["exim to 4.97", "laxest"] },
    Row { head: TEXT, bytes: b"\r\n.\r", ends: false, flaw: Some(BodyFlaw::BareCr), fooled: CR_DOT },
    Row { head: TEXT, bytes: b"\r\r\n.\r\n", ends: true, flaw: Some(BodyFlaw::BareCr), fooled: &[] },
    Row { head: TEXT, bytes: b"\r\n.\r\r\n", ends: false, flaw: Some(BodyFlaw::BareCr),
          fooled: &["postfix before 3.9", "postfix", "postfix forbidding bare LF", "exim to 4.97", "smtp-proto",
                    "drops bare CR and NUL", "bare CR to CRLF", "laxest"] },
    Row { head: TEXT, bytes: b"\r\n\r.\r\n", ends: false, flaw: Some(BodyFlaw::BareCr),
          fooled: &["exim to 4.97", "drops bare CR and NUL", "bare CR to CRLF", "laxest"] },
    Row { head: TEXT, bytes: b"\r\n\0.\r\n", ends: false, flaw: Some(BodyFlaw::Nul),
          fooled: &["drops bare CR and NUL", "laxest"] },
    Row { head: TEXT, bytes: b"\r\n.\0\r\n", ends: false, flaw: Some(BodyFlaw::Nul),
          fooled: &["opensmtpd", "drops bare CR and NUL", "laxest"] },
    Row { head: TEXT, bytes: b"\r\n.\0x\r\n", ends: false, flaw: Some(BodyFlaw::Nul), fooled: &["opensmtpd", "laxest"] },
    Row { head: b"", bytes: b"\n.\r\n", ends: false, flaw: Some(BodyFlaw::BareLf), fooled: LF_DOT_CRLF },
    Row { head: b"", bytes: b"\r.\r\n", ends: false, flaw: Some(BodyFlaw::BareCr),
          fooled: &["exim to 4.97", "drops bare CR and NUL", "bare CR to CRLF", "laxest"] },
    Row { head: b"", bytes: b".\n", ends: false, flaw: Some(BodyFlaw::BareLf), fooled: LF_DOT_LF },
    Row { head: b"", bytes: b".\r\r\n", ends: false, flaw: Some(BodyFlaw::BareCr),
          fooled: &["postfix before 3.9", "postfix", "postfix forbidding bare LF", "exim to 4.97",
                    "drops bare CR and NUL", "bare CR to CRLF", "laxest"] },
];

/// Sends `client` through the guard in `pieces`, and holds it against all readers and against what is `expected`: where
/// the data ends, and the flaw.
fn check(client: &[u8], pieces: &[&[u8]], expected: Option<(usize, Option<BodyFlaw>)>) -> Sent {
    let sent = readers::send(pieces.iter().copied());
    assert_eq!(sent.end, expected.map(|(_, flaw)| flaw), "\"{}\" in {pieces:?}", client.escape_ascii());
    if let Some((end, _)) = expected {
        assert_eq!(sent.rest, client[end..], "\"{}\" in {pieces:?}", client.escape_ascii());
    }
    readers::check(&sent, client);
    sent
}

/// Where the data ends and its first flaw, by definition: the whole of it seen at once.
fn definition(client: &[u8]) -> Option<(usize, Option<BodyFlaw>)> {
    let end = match client {
        [b'.', b'\r', b'\n', ..] => 3,
        _ => client.windows(5).position(|window| window == b"\r\n.\r\n")? + 5,
    };
    let flaw = (0..end).find_map(|at| match client[at] {
        0 => Some(BodyFlaw::Nul),
        b'\r' if client[at + 1] != b'\n' => Some(BodyFlaw::BareCr),
        b'\n' if at == 0 || client[at - 1] != b'\r' => Some(BodyFlaw::BareLf),
        _ => None,
    });
    Some((end, flaw))
}

/// Every way to cut at two of `points`, or at one of them twice: three writes, two, or one.
fn splits<'a>(client: &'a [u8], points: &[usize]) -> impl Iterator<Item = [&'a [u8]; 3]> {
    let pairs = points.iter().enumerate().flat_map(|(index, a)| points[index..].iter().map(move |b| (*a, *b)));
    pairs.map(|(a, b)| [&client[..a], &client[a..b], &client[b..]])
}

#[test]
fn every_row_of_the_table_at_every_split() {
    for Row { head, bytes, ends, flaw, .. } in TABLE {
        let here = [head, bytes].concat();
        // Behind a false end comes a true one at last.
        let end = if ends { here.len() } else { here.len() + SMUGGLED.len() - b"QUIT\r\n".len() };
        let client = [&here, SMUGGLED, NEXT].concat();
        assert_eq!(definition(&client), Some((end, flaw)), "{:?}", bytes.escape_ascii().to_string());
        for pieces in splits(&client, &(0..=client.len()).collect::<Vec<_>>()) {
            check(&client, &pieces, Some((end, flaw)));
        }
    }
}

#[test]
fn a10_repaired_newlines_leave_one_message_to_every_reader() {
    for Row { head, bytes, ends, .. } in TABLE {
        let here = [head, bytes].concat();
        let end = if ends { here.len() } else { here.len() + SMUGGLED.len() - b"QUIT\r\n".len() };
        let client = [&here, SMUGGLED, NEXT].concat();
        let flaw = definition(&without_bare_lf(&client)).and_then(|(_, flaw)| flaw);
        for pieces in splits(&client, &(0..=client.len()).collect::<Vec<_>>()) {
            let sent = readers::send_repaired(pieces.iter().copied());
            assert_eq!((sent.end, &sent.rest[..]), (Some(flaw), &client[end..]), "\"{}\"", client.escape_ascii());
            readers::check(&sent, &client);
        }
    }
}

/// What of the table is a flaw in chunks, where nothing ends the data but its length; without one for `repairs`, where it's a bare LF.
fn flaw_in_chunks(data: &[u8], repairs: bool) -> Option<BodyFlaw> {
    (0..data.len()).find_map(|at| match data[at] {
        0 => Some(BodyFlaw::Nul),
        b'\r' if data.get(at + 1) != Some(&b'\n') => Some(BodyFlaw::BareCr),
        b'\n' if (at == 0 || data[at - 1] != b'\r') && !repairs => Some(BodyFlaw::BareLf),
        _ => None,
    })
}

#[test]
fn chunks_are_one_message_to_every_reader_wherever_they_are_cut() {
    for Row { head, bytes, .. } in TABLE {
        for tail in [SMUGGLED, b""] {
            let client = [head, bytes, tail].concat();
            for (chunks, repairs) in
                splits(&client, &(0..=client.len()).collect::<Vec<_>>()).zip([true, false].into_iter().cycle())
            {
                for piece in [1, client.len() + 1] {
                    let sent = readers::send_chunks(&chunks, piece, repairs);
                    assert_eq!(sent.end, Some(flaw_in_chunks(&client, repairs)), "\"{}\"", client.escape_ascii());
                    readers::check(&sent, &client);
                }
            }
        }
    }
}

/// With an x before each bare LF and its CR: so that nothing but that is mended.
fn without_bare_lf(client: &[u8]) -> Vec<u8> {
    let is_bare = |at: usize| client[at] == b'\n' && (at == 0 || client[at - 1] != b'\r');
    (0..client.len()).flat_map(|at| if is_bare(at) { b"x\r\nx".to_vec() } else { vec![client[at]] }).collect()
}

#[test]
fn the_readers_are_fooled_by_what_the_table_says() {
    for Row { head, bytes, ends, fooled, .. } in TABLE {
        let here = [head, bytes].concat();
        let client = [&here, SMUGGLED].concat();
        let end = definition(&client).unwrap().0;
        assert_eq!(end == here.len(), ends);
        let found = READERS.iter().filter(|reader| (reader.read)(&client).is_some_and(|read| read.end != end));
        let found: Vec<_> = found.map(|reader| reader.name).collect();
        assert_eq!(found, fooled, "\"{}\"", here.escape_ascii());
    }
}

/// Bytes at which somebody cuts a line.
const CUTS: [usize; 6] = [998, 1000, 2048, 4096, 8192, 16384];

#[test]
fn a_long_line_ends_nothing_at_any_split() {
    for length in CUTS {
        let line = [&vec![b'x'; length], b".\r\n".as_slice()].concat();
        let client = [&line, b".\r\n".as_slice(), NEXT].concat();
        let end = line.len() + 3;
        let mut points: Vec<_> = [0, 1, 512, 996].into_iter().chain(length - 2..=client.len()).collect();
        points.dedup();
        for pieces in splits(&client, &points) {
            let sent = check(&client, &pieces, Some((end, None)));
            assert!(sent.message.ends_with(&line));
        }
    }
}

/// Where a backend sees an end that cuts lines at `length` bytes and takes what follows for a line.
fn end_for_a_cutter(wire: &[u8], length: usize) -> Option<usize> {
    let mut end = 0;
    wire.split_inclusive(|byte| *byte == b'\n').find_map(|line| {
        end += line.len();
        (line.trim_ascii_end().chunks(length).last() == Some(b".")).then_some(end)
    })
}

/// The limit told at the head: such a backend is safe as long as lines are shorter than it takes. (Not as long: a dot that
/// is put before a line makes it longer; the client sends it.)
#[test]
fn a_backend_that_cuts_long_lines_is_fooled_by_long_lines_only() {
    for length in CUTS {
        let x = |count| "x".repeat(count);
        for (line, safe) in [
            (format!("{}.", x(length - 2)), true),
            (format!("..{}.", x(length - 3)), true),
            (format!("..{}.", x(length - 2)), false),
            (format!("{}.", x(length)), false),
        ] {
            let client = format!("{line}\r\n.\r\n").into_bytes();
            let sent = check(&client, &[&client], Some((client.len(), None)));
            assert_eq!(end_for_a_cutter(&sent.wire, length) == Some(sent.wire.len()), safe, "{length}: {}", line.len());
        }
    }
}

/// Marsaglia's xorshift: fast, and the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// What random data is made of. The first [`CLEAN`] are whole by themselves: of them alone an accepted message comes.
const PARTS: [&[u8]; 16] = [
    b"\r\n",
    b"\r\n",
    b"\r\n.",
    b".",
    b"a",
    b"text",
    b"\r\n..\r\n",
    b".a",
    b"\xff\xfe",
    b" ",
    b"\r\n.\r\n",
    b"\r",
    b"\n",
    b"\0",
    b"\n.\n",
    b"\r.",
];
const CLEAN: usize = 11;
/// Random messages of one run, and how long they may take.
const MESSAGES: usize = 400_000;
const LONGEST: Duration = Duration::from_secs(60);

#[test]
fn whatever_is_accepted_has_one_reading() {
    let started = Instant::now();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut client, mut done, mut accepted) = (Vec::new(), 0, 0);
    while done < MESSAGES && started.elapsed() < LONGEST {
        client.clear();
        let parts = if random.below(2) == 0 { CLEAN } else { PARTS.len() };
        for _ in 0..random.below(16) {
            client.extend_from_slice(PARTS[random.below(parts)]);
        }
        if random.below(4) > 0 {
            client.extend_from_slice(b"\r\n.\r\n");
        }
        let (a, b) = (random.below(client.len() + 1), random.below(client.len() + 1));
        let (a, b) = (a.min(b), a.max(b));
        let sent = check(&client, &[&client[..a], &client[a..b], &client[b..]], definition(&client));
        accepted += usize::from(sent.is_accepted());
        done += 1;
    }
    println!("{done} messages, {accepted} accepted, in {:.1} s", started.elapsed().as_secs_f64());
    assert!(done >= 200_000 && accepted > done / 4, "too little is tried: {done}, {accepted} accepted");
}

#[test]
fn whatever_is_accepted_in_chunks_has_one_reading() {
    const CHUNKED: usize = 50_000;
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut client, mut accepted) = (Vec::new(), 0);
    for _ in 0..CHUNKED {
        client.clear();
        let parts = if random.below(2) == 0 { CLEAN } else { PARTS.len() };
        for _ in 0..random.below(16) {
            client.extend_from_slice(PARTS[random.below(parts)]);
        }
        let (a, b) = (random.below(client.len() + 1), random.below(client.len() + 1));
        let chunks = [&client[..a.min(b)], &client[a.min(b)..a.max(b)], &client[a.max(b)..]];
        let repairs = random.below(2) == 0;
        let sent = readers::send_chunks(&chunks, 1 + random.below(32), repairs);
        assert_eq!(sent.end, Some(flaw_in_chunks(&client, repairs)), "\"{}\"", client.escape_ascii());
        readers::check(&sent, &client);
        accepted += usize::from(sent.is_accepted());
    }
    println!("{CHUNKED} messages in chunks, {accepted} accepted");
    assert!(accepted > CHUNKED / 4, "too little is tried: {accepted} accepted");
}

#[test]
fn all_short_messages() {
    const ALPHABET: [u8; 5] = [b'\r', b'\n', b'.', b'a', 0];
    const LENGTH: u32 = 8;
    let (mut tried, mut accepted) = (0_u64, 0_u64);
    for length in 0..=LENGTH {
        for mut number in 0..ALPHABET.len().pow(length) {
            let mut client: Vec<u8> = Vec::with_capacity(16);
            for _ in 0..length {
                client.push(ALPHABET[number % ALPHABET.len()]);
                number /= ALPHABET.len();
            }
            client.extend_from_slice(b"\r\n.\r\n");
            let expected = definition(&client);
            let sent = check(&client, &[&client], expected);
            // One byte at a time, by the cheapest way to see that nothing depends on it.
            let slow = readers::send(client.chunks(1));
            assert_eq!((slow.end, slow.size, &slow.rest), (sent.end, sent.size, &sent.rest));
            if sent.is_accepted() {
                assert_eq!(slow, sent);
            }
            tried += 1;
            accepted += u64::from(sent.is_accepted());
        }
    }
    println!("{tried} messages, {accepted} accepted");
    assert_eq!(tried, 488_281);
}
