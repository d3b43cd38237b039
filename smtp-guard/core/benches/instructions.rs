//! The hot loops, for `cargo xtask bench instructions`, which counts their instructions by callgrind.
//!
//! Each case makes what it works on, and then what is to be done with it, which alone is counted. Without a name the cases are
//! listed, with what one unit of each is.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]

use std::hint::black_box;
use std::time::Duration;

use bytes::BytesMut;
use smtp_guard_core::addr::Source;
use smtp_guard_core::clock::Instant;
use smtp_guard_core::config::{Auth, Harvest};
use smtp_guard_core::ledger::Ledger;
use smtp_guard_core::marks::Marks;
use smtp_guard_core::offence::{Conduct, Digest};
use smtp_guard_core::rates::{Rates, Tally};
use smtp_guard_core::session::{Event, Facts, Input, Intake, Output, Request, Session, Wants, testing};
use smtp_guard_core::wire::command;
use smtp_guard_core::wire::data::{BodyDecoder, BodyEncoder, BodyFlaw, Chunk};
use smtp_guard_core::wire::reply::ReplyDecoder;

/// What is counted.
type Work = Box<dyn FnOnce()>;

/// A case: its name, what one unit of it is, how many units it does, and what makes it.
type Case = (&'static str, &'static str, u32, fn() -> Work);

const CASES: [Case; 8] = [
    ("command", "a command line parsed", 3_000, commands),
    ("body", "a KiB of message data decoded and encoded", 1_024, body),
    ("dots", "a KiB of message data with a dot at the start of each line", 1_024, dots),
    ("flaws", "a KiB of message data with NULs and bare CRs", 1_024, flaws),
    ("reply", "a reply of the backend parsed", 3_000, replies),
    ("session", "a message of 4 KiB to two recipients, from MAIL to the answer to the dot", 200, sessions),
    ("ledger", "a report on one of a thousand sources", 10_000, reports),
    ("counters", "a source's rate judged, and its marks read", 10_000, counters),
];

/// Bytes that are read at once while a body flows.
const READ: usize = 16 * 1024;

fn main() {
    // What cargo passes on, such as `--bench`, is no case.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    for (name, unit, units, make) in CASES {
        match &wanted {
            None => println!("{name}\t{units}\t{unit}"),
            Some(wanted) if wanted == name => counted(make()),
            Some(_) => {}
        }
    }
}

/// Callgrind counts within this function.
#[inline(never)]
fn counted(work: Work) {
    work();
}

fn commands() -> Work {
    let lines: [&[u8]; 6] = [
        b"EHLO mail.example.com",
        b"MAIL FROM:<someone@example.com> SIZE=4096 BODY=8BITMIME",
        b"RCPT TO:<somebody.else@example.org>",
        b"RCPT TO:<another@example.org> NOTIFY=NEVER",
        b"DATA",
        b"QUIT",
    ];
    Box::new(move || {
        for line in lines.iter().cycle().take(3_000) {
            black_box(command::parse(black_box(line)).is_ok());
        }
    })
}

fn body() -> Work {
    let data = text("The quick brown fox jumps over the lazy dog, and the dog doesn't mind at all.\r\n");
    Box::new(move || assert!(pass(&data).is_none()))
}

fn dots() -> Work {
    let data = text("..A line whose dot was doubled, as each line of this message was.\r\n");
    Box::new(move || assert!(pass(&data).is_none()))
}

fn flaws() -> Work {
    let data = text("A line\rwith what no line may have,\0and another one that is as any other.\r\n");
    Box::new(move || assert!(pass(&data).is_some()))
}

/// A MiB of `line`, and the end of data.
fn text(line: &str) -> Vec<u8> {
    let mut data: Vec<u8> = line.bytes().cycle().take((1 << 20) / line.len() * line.len()).collect();
    data.extend_from_slice(b".\r\n");
    data
}

/// Decodes `data` as it would come in, and encodes it for the backend. Returns its flaw.
fn pass(data: &[u8]) -> Option<BodyFlaw> {
    let (mut decoder, mut encoder) = (BodyDecoder::new(), BodyEncoder::new());
    let (mut unread, mut unsent, mut flaw) = (BytesMut::new(), BytesMut::new(), None);
    for read in data.chunks(READ) {
        unread.extend_from_slice(read);
        while let Some(chunk) = decoder.next(&mut unread) {
            match chunk {
                Chunk::Body(body) => encoder.encode(&body, &mut unsent),
                Chunk::End(end) => flaw = end.flaw(),
            }
            black_box(unsent.len());
            unsent.clear();
        }
    }
    flaw
}

fn replies() -> Work {
    let text = b"250 2.1.0 Ok\r\n250-PIPELINING\r\n250-SIZE 10240000\r\n250 SMTPUTF8\r\n450 4.2.0 mailbox is busy\r\n";
    let mut unread = BytesMut::from(&*text.repeat(1_000));
    Box::new(move || {
        let (mut decoder, mut count) = (ReplyDecoder::new(), 0);
        while let Some(reply) = decoder.next(&mut unread) {
            black_box(reply.unwrap());
            count += 1;
        }
        assert_eq!(count, 3_000);
    })
}

fn sessions() -> Work {
    let opening = testing::opening(testing::snapshot(|config| config.limits.messages_per_hour = u32::MAX));
    let now = opening.clock.instant;
    let mut out = Vec::new();
    let mut session = Session::open(opening, &mut out);
    session.step(testing::line("EHLO client.example", false), now, &mut out);
    let commands = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n";
    let line = b"Sixty-two bytes of a line of a message that nobody ever reads.\r\n";
    let data = [&line.repeat(64), b".\r\n".as_slice()].concat();
    Box::new(move || {
        let (mut intake, mut unsent, mut accepted) = (Intake::default(), BytesMut::new(), 0);
        for _ in 0..200 {
            let mut encoder = BodyEncoder::new();
            intake.unread.extend_from_slice(commands);
            while let Some(input) = intake.next(&session) {
                out.clear();
                session.step(input, now, &mut out);
                // What is asked for is answered at once, and that may ask for more.
                loop {
                    let answers =
                        out.drain(..).filter_map(|output| perform(output, &mut encoder, &mut unsent, &mut accepted));
                    let Some(answer) = answers.last() else { break };
                    session.step(answer, now, &mut out);
                }
                // After the 354, and not before.
                if session.wants() == Wants::Body && intake.unread.is_empty() {
                    intake.unread.extend_from_slice(&data);
                }
            }
            unsent.clear();
        }
        assert_eq!(accepted, 200);
    })
}

/// Does what the driver would do; what comes of it.
fn perform(output: Output, encoder: &mut BodyEncoder, unsent: &mut BytesMut, accepted: &mut u32) -> Option<Input> {
    match output {
        Output::Reply(reply) => reply.encode(unsent),
        Output::Consult { .. } => return Some(Input::Facts(Facts::default())),
        Output::Event(Event::Message(_)) => *accepted += 1,
        Output::Request(request) => {
            return match request {
                Request::Body(body) => {
                    encoder.encode(&body, unsent);
                    None
                }
                Request::Data => Some(testing::reply(354)),
                _ => Some(testing::reply(250)),
            };
        }
        _ => {}
    }
    None
}

fn reports() -> Work {
    let at = Instant::from_ns(1_000_000_000_000);
    let recipients: Vec<_> = (0..16).map(|n| Digest::of(&format!("user{n}@example.org"))).collect();
    let mut ledger = Ledger::new(Harvest::default(), Auth::default(), 100_000);
    Box::new(move || {
        for (n, recipient) in (0..10_000u32).zip(recipients.iter().cycle()) {
            let source = Source::v4((n % 1_000) << 8);
            let conduct = match n % 3 {
                0 => Conduct::MessageAccepted,
                1 => Conduct::KnownRecipient { recipient: *recipient },
                _ => Conduct::UnknownRecipient { recipient: "nobody@example.org".into(), returned: false },
            };
            black_box(ledger.observe(source, conduct, at));
        }
    })
}

fn counters() -> Work {
    let at = Instant::from_ns(1_000_000_000_000);
    let (rates, marks) = (Rates::new(Duration::from_secs(3600), 100_000), Marks::default());
    Box::new(move || {
        for n in 0..10_000u32 {
            let source = Source::v4((n % 1_000) << 8);
            black_box(rates.judge(source, 100, at, Tally::Count));
            black_box(marks.of(source, at));
        }
    })
}
