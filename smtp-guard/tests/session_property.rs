//! Properties of the session over random traces: whatever client, backend and clock do, in whatever order.
//!
//! - A 2xx at the client's dot, or to its last chunk, is the backend's 2xx at its dot.
//! - The backend never sees more transactions completed than the client sent dots.
//! - Nobody but a known sender, a host of ours or a user causes a connection to the backend before MAIL.
//! - Nothing is said after the close, and every session that ends has closed its transaction.
//! - What a client hears and delivers, and what is reported of it, is the same whether the backend offers PIPELINING or not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

#[path = "long/mod.rs"]
mod long;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use smtp_guard::config::{AuthVia, Checks, Mode, Role};
use smtp_guard::facts::dns::{Failure, Reverse, SenderDomain};
use smtp_guard::policy::checks::Found;
use smtp_guard::session::Outcome;
use smtp_guard::session::testing::{self, SECURED};
use smtp_guard::session::{AuthVerdict, Event, Facts, Input, Lost, Opening, Output, Request, Session, Upstream, Wants};
use smtp_guard::snapshot::Snapshot;
use smtp_guard::wire::command::{Bdat, Command};
use smtp_guard::wire::data::{BodyDecoder, Chunk, ChunkDecoder, Piece};
use smtp_guard::wire::ehlo::Capabilities;
use smtp_guard::wire::sasl::Secret;
use smtp_guard_ebpf::reason::Reason;

/// Traces of a short run, and of a long one.
const TRACES: [u64; 2] = [100_000, 1_000_000];
/// Steps of a trace at most.
const LONGEST: u64 = 60;

/// Marsaglia's xorshift: fast, and the same traces in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

#[derive(Clone, Debug)]
enum Act {
    Line(&'static str, bool),
    Response(&'static [u8]),
    Data(&'static [u8]),
    /// A chunk is announced, with these bytes, and maybe as the last one; `Data` brings them.
    Announced(&'static [u8], bool),
    Backend(u16),
    Auth(AuthVerdict),
    Lost(Lost),
    Secured,
    Turn,
    Waiting,
    Deadline,
    Facts(Facts),
    Early,
    Banned,
    GiveWay,
    Shutdown,
    Gone,
    OverRate,
}

const LINES: [&str; 17] = [
    "EHLO c.example",
    "HELO c.example",
    "MAIL FROM:<a@c.example>",
    "MAIL FROM:<> SIZE=5000",
    "MAIL FROM:<a@c.example> BODY=8BITMIME RET=HDRS",
    "RCPT TO:<b@example.org>",
    "RCPT TO:<b@example.org>",
    "RCPT TO:<c@other.example>",
    "RCPT TO:<b@example.org> NOTIFY=NEVER",
    "DATA",
    "DATA",
    "RSET",
    "NOOP",
    "BOGUS",
    "QUIT",
    "STARTTLS",
    "AUTH LOGIN",
];
/// What leads to a message; a trace that goes elsewhere now and then comes back to it.
const SCRIPT: [&str; 4] = ["EHLO c.example", "MAIL FROM:<a@c.example>", "RCPT TO:<b@example.org>", "DATA"];
const DATA: [&[u8]; 6] = [
    b"x\r\n.\r\n",
    b".\r\n",
    b"text\r\n",
    b"bare\nlf\r\n",
    b"..dot\r\n.\r\n",
    b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
];
const CHUNKS: [&[u8]; 7] = [
    b"x\r\n",
    b"",
    b"a\n.\n",
    b"text\r",
    b"\n.\r\n",
    b"\0",
    b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
];
const CODES: [u16; 9] = [250, 250, 250, 354, 354, 421, 450, 550, 220];
const VERDICTS: [AuthVerdict; 3] = [AuthVerdict::Accepted, AuthVerdict::Rejected, AuthVerdict::Unavailable];
const OVER: [Reason; 3] = [Reason::MessageRate, Reason::UserMessageRate, Reason::UserRecipientRate];
const LOST: [Lost; 4] = [Lost::Unreachable, Lost::Closed, Lost::Timeout, Lost::Protocol];

/// Mostly what the session waits for, so that traces get far; now and then anything.
fn act(random: &mut Random, session: &Session, seen: &Seen) -> Act {
    match (random.below(100), session.wants()) {
        (0, _) => match random.below(5) {
            0 => Act::Banned,
            1 => Act::GiveWay,
            2 => Act::Shutdown,
            3 => Act::OverRate,
            _ => Act::Gone,
        },
        (1..3, _) => Act::Deadline,
        (3..5, _) => Act::Lost(random.pick(&LOST)),
        (5..9, _) => Act::Backend(random.pick(&CODES)),
        (9..11, _) => Act::Auth(random.pick(&VERDICTS)),
        (11..12, _) => Act::Secured,
        (roll, Wants::Silence) if roll < 15 => Act::Early,
        (_, Wants::Silence) => Act::Deadline,
        (_, Wants::Turn) => Act::Turn,
        (roll, Wants::Ahead) if roll < 60 => Act::Line(random.pick(&SCRIPT[2..]), random.below(20) == 0),
        (roll, _) if seen.consulted && roll < 90 => Act::Facts(facts(random)),
        (roll, _) if seen.securing && roll < 90 => Act::Secured,
        // A reply that is told late.
        (roll, Wants::Nothing) if seen.asked.is_empty() && roll < 90 => Act::Deadline,
        (roll, Wants::Command) if session.is_in_chunks() && roll < 70 => {
            Act::Announced(random.pick(&CHUNKS), random.below(3) == 0)
        }
        (roll, Wants::Command) if seen.stage == 3 && roll < 40 => {
            Act::Announced(random.pick(&CHUNKS), random.below(3) == 0)
        }
        (roll, Wants::Command) if roll < 75 => Act::Line(SCRIPT[seen.stage], false),
        (roll, Wants::Command) if roll < 78 => Act::Announced(random.pick(&CHUNKS), random.below(3) == 0),
        (_, Wants::Command) => Act::Line(random.pick(&LINES), random.below(50) == 0),
        (_, Wants::Response) => Act::Response(random.pick(&[b"dQ==", b"cA==", b"*", b"!"])),
        (roll, Wants::Body) if roll < 80 => Act::Data(random.pick(&DATA)),
        (_, Wants::Body) => Act::Waiting,
        (roll, _) if seen.asked_auth && roll < 40 => Act::Auth(random.pick(&VERDICTS)),
        (roll, _) if roll < 15 => Act::OverRate,
        (roll, _) if roll < 80 => Act::Backend(if seen.asked.front() == Some(&true) { 354 } else { 250 }),
        (roll, _) if roll < 90 => Act::Backend(random.pick(&CODES)),
        _ => Act::Secured,
    }
}

/// Mostly nothing against the client.
fn facts(random: &mut Random) -> Facts {
    let sender = match random.below(20) {
        0 => Some(Ok(SenderDomain::Missing)),
        1 => Some(Err(Failure::TimedOut)),
        2..10 => None,
        _ => Some(Ok(SenderDomain::Exists)),
    };
    let reverse = match random.below(20) {
        0 => Some(Ok(Reverse::None)),
        1 => Some(Err(Failure::ServFail)),
        _ => None,
    };
    let found = Found { sender, reverse, lists: Vec::new() };
    Facts {
        deferred: random.below(20) == 0,
        unknown: random.below(20) == 0,
        found: (random.below(3) > 0).then(|| Arc::new(found)),
    }
}

/// What the trace has seen, kept apart from the session.
#[derive(Default)]
struct Seen {
    closed: bool,
    /// Its mail was accepted before the session.
    familiar: bool,
    client_dots: u32,
    backend_dots: u32,
    /// The dot went to the backend and its word is awaited.
    at_dot: bool,
    accepted: u32,
    /// Chunks that were read to their end.
    chunked: u64,
    /// Credentials are being judged.
    asked_auth: bool,
    /// Answers of the backend, or verdicts, that are awaited: whether one is to DATA.
    asked: VecDeque<bool>,
    /// A TLS handshake is under way.
    securing: bool,
    /// Facts are asked for.
    consulted: bool,
    /// Where in the script the session is, as far as replies tell.
    stage: usize,
}

impl Seen {
    /// `word`: the class of the backend's reply that caused these outputs.
    fn check(&mut self, out: &mut Vec<Output>, word: Option<u16>) {
        let was_at_dot = self.at_dot;
        for output in out.drain(..) {
            assert!(!self.closed, "{output:?} after the close");
            let replied = matches!(output, Output::Reply(_));
            match &output {
                Output::Request(Request::Drop) => self.asked.clear(),
                Output::Request(Request::Quit | Request::Body(_)) => {}
                Output::Request(request) => {
                    let alone = !matches!(request, Request::Rcpt(..) | Request::Data);
                    if alone {
                        // What the trace left unanswered was given up by the session, or answered by something else.
                        self.asked.clear();
                    }
                    self.asked.push_back(matches!(request, Request::Data));
                }
                Output::StartTls => self.securing = true,
                _ => {}
            }
            match output {
                Output::Close => self.closed = true,
                Output::Request(Request::End(end)) => {
                    assert!(end.flaw().is_none(), "a flawed message was completed");
                    self.backend_dots += 1;
                    self.at_dot = true;
                }
                Output::Event(Event::Message(message)) => {
                    if message.outcome == Outcome::Accepted {
                        assert!(was_at_dot && word == Some(2), "accepted without the backend's word: {word:?}");
                        self.accepted += 1;
                    }
                    self.at_dot = false;
                }
                Output::Request(Request::Auth(..)) => self.asked_auth = true,
                Output::Connect(speaker) => {
                    assert!(self.familiar || self.accepted > 0 || speaker.login.is_some(), "a stranger's connection");
                    assert!(!was_at_dot, "a connection within a transaction");
                }
                Output::Consult { .. } => self.consulted = true,
                Output::Event(Event::Authenticated { .. }) => {
                    assert!(self.asked_auth, "authenticated without a verdict");
                }
                Output::Reply(reply) if was_at_dot && word.is_some_and(|class| class != 2) => {
                    assert!(!reply.is_positive(), "{reply} to the client, but the backend did not take the message");
                }
                _ => {}
            }
            self.asked_auth &= !replied;
            self.consulted &= !replied;
        }
        assert!(self.backend_dots <= self.client_dots, "more transactions at the backend than from the client");
        assert!(self.accepted <= self.backend_dots);
    }
}

fn rules() -> Arc<Snapshot> {
    testing::snapshot(|config| {
        config.limits.message_size = 200;
        config.checks = Checks { ptr: Mode::Enforce, ..Checks::default() };
        config.auth.via = AuthVia::Dovecot;
        config.tls = testing::certificate();
    })
}

/// What came of one trace.
fn run(random: &mut Random, rules: &Arc<Snapshot>, backend: &Arc<Capabilities>) -> Seen {
    let mut out = Vec::new();
    let secured = random.below(2) == 0;
    let opening = Opening {
        role: random.pick(&[Role::Mx, Role::Mx, Role::Submission]),
        secured: secured.then_some(SECURED),
        backend: Arc::clone(backend),
        familiar: random.below(2) == 0,
        ..testing::opening(Arc::clone(rules))
    };
    let mut now = opening.clock.instant;
    let mut seen = Seen { familiar: opening.familiar, ..Seen::default() };
    let mut session = Session::open(opening, &mut out);
    let mut decoder = BodyDecoder::new();
    let (mut chunks, mut payload) = (ChunkDecoder::new(true), None);
    seen.check(&mut out, None);
    for _ in 0..random.below(LONGEST) {
        let mut word = None;
        match act(random, &session, &seen) {
            Act::Line(line, more) => {
                seen.stage = match line.get(..4) {
                    Some("EHLO") => 1,
                    Some("MAIL") => 2,
                    Some("RCPT") => 3,
                    Some("DATA" | "RSET") => 1,
                    _ => seen.stage,
                };
                decoder = BodyDecoder::new();
                payload = None;
                session.step(testing::line(line, more), now, &mut out);
            }
            Act::Announced(bytes, last) => {
                if last {
                    seen.stage = 1;
                }
                if !session.is_in_chunks() {
                    chunks = ChunkDecoder::new(session.repairs_chunks());
                }
                let chunk = Bdat { size: bytes.len() as u64, last };
                chunks.begin(chunk);
                payload = Some(BytesMut::from(bytes));
                session.step(Input::Command { command: Ok(Command::Bdat(chunk)), more: true }, now, &mut out);
            }
            Act::Data(_) if payload.is_some() => {
                let mut buffer = payload.take().unwrap_or_default();
                while session.wants() == Wants::Body
                    && let Some(piece) = chunks.next(&mut buffer)
                {
                    let input = match piece {
                        Piece::Body(body) => Input::Body(body),
                        Piece::Break(flaw) => Input::ChunkEnd(flaw),
                        Piece::End(end) => {
                            seen.client_dots += 1;
                            Input::BodyEnd(end)
                        }
                    };
                    session.step(input, now, &mut out);
                    seen.check(&mut out, None);
                }
                seen.chunked += u64::from(buffer.is_empty());
            }
            Act::Response(bytes) => session.step(Input::Response(Ok(Secret::new(bytes))), now, &mut out),
            Act::Data(bytes) => {
                let mut buffer = BytesMut::from(bytes);
                while session.wants() == Wants::Body
                    && let Some(chunk) = decoder.next(&mut buffer)
                {
                    let input = match chunk {
                        Chunk::Body(body) => Input::Body(body),
                        Chunk::End(end) => {
                            seen.client_dots += 1;
                            Input::BodyEnd(end)
                        }
                    };
                    session.step(input, now, &mut out);
                    seen.check(&mut out, None);
                }
            }
            Act::Backend(code) => {
                seen.asked.pop_front();
                word = Some(code / 100);
                session.step(testing::reply(code), now, &mut out);
            }
            Act::Auth(verdict) => {
                seen.asked.pop_front();
                word = Some(0);
                session.step(Input::Upstream(Upstream::Auth(verdict)), now, &mut out);
            }
            Act::Lost(lost) => {
                word = Some(0);
                session.step(Input::Upstream(Upstream::Lost(lost)), now, &mut out);
            }
            Act::Turn => session.step(Input::Turn, now, &mut out),
            Act::Secured => {
                seen.securing = false;
                session.step(Input::Secured(SECURED), now, &mut out);
            }
            Act::Waiting => {
                session.waiting(now);
                now = now.after(Duration::from_secs(random.below(100)));
            }
            Act::Deadline => {
                word = Some(0);
                now = now.max(session.deadline());
                session.step(Input::Deadline, now, &mut out);
            }
            Act::Facts(facts) => {
                seen.consulted = false;
                session.step(Input::Facts(facts), now, &mut out);
            }
            Act::Early => session.step(Input::EarlyTalk, now, &mut out),
            Act::Banned => session.step(Input::Banned(Reason::Harvest), now, &mut out),
            Act::OverRate => session.step(Input::OverRate(random.pick(&OVER)), now, &mut out),
            Act::GiveWay => session.step(Input::GiveWay, now, &mut out),
            Act::Shutdown => session.step(Input::Shutdown, now, &mut out),
            Act::Gone => session.step(Input::ClientGone, now, &mut out),
        }
        seen.check(&mut out, word);
        assert_eq!(seen.closed, session.wants() == Wants::Closed);
    }
    seen
}

#[test]
fn a_250_at_the_dot_is_the_backends_over_random_traces() {
    let traces = long::amount(TRACES[0], TRACES[1]);
    let rules = rules();
    let backend =
        |pipelining| Arc::new(Capabilities { pipelining, eight_bit_mime: true, dsn: true, ..Default::default() });
    let threads = 2;
    let runs = (0..threads).map(|thread| {
        let (rules, backend) = (Arc::clone(&rules), backend(thread % 2 == 0));
        std::thread::spawn(move || {
            let mut random = Random(0x9e37_79b9_7f4a_7c15 + thread);
            let (mut dots, mut accepted, mut chunks) = (0, 0, 0);
            for _ in 0..traces / threads {
                let seen = run(&mut random, &rules, &backend);
                dots += u64::from(seen.backend_dots);
                accepted += u64::from(seen.accepted);
                chunks += seen.chunked;
            }
            (dots, accepted, chunks)
        })
    });
    let totals: Vec<_> = runs.collect::<Vec<_>>().into_iter().map(|run| run.join().unwrap()).collect();
    let (dots, accepted, chunks) = totals.iter().fold((0, 0, 0), |(a, b, c), (d, e, f)| (a + d, b + e, c + f));
    println!("{traces} traces: {dots} dots at the backend, {accepted} messages accepted, {chunks} chunks");
    assert!(accepted > traces / 100 && chunks > traces / 100, "the traces get too little done");
}

/// What came of a client's whole mail.
#[derive(Debug, Default, PartialEq, Eq)]
struct Transcript {
    /// Replies and reports, in their order.
    heard: Vec<String>,
    /// Sender, recipients and data of the messages that the backend took.
    delivered: Vec<(String, Vec<String>, Vec<u8>)>,
}

/// A strict backend, whose answers depend on names alone.
#[derive(Default)]
struct Server {
    asked: VecDeque<Request>,
    sender: Option<String>,
    recipients: Vec<String>,
    data: Option<Vec<u8>>,
}

impl Server {
    fn answer(&mut self, delivered: &mut Vec<(String, Vec<String>, Vec<u8>)>) -> Option<Upstream> {
        let code = match self.asked.pop_front()? {
            Request::Mail(mail, ..) => {
                let sender = mail.path.to_string();
                match sender.get(1..2) {
                    _ if self.sender.is_some() => 503,
                    Some("n") => 550,
                    Some("l") => 451,
                    _ => {
                        self.sender = Some(sender);
                        250
                    }
                }
            }
            Request::Rcpt(rcpt, _) => {
                let recipient = rcpt.path.to_string();
                match recipient.get(1..2) {
                    _ if self.sender.is_none() => 503,
                    Some("n") => 550,
                    Some("l") => 450,
                    _ => {
                        self.recipients.push(recipient);
                        250
                    }
                }
            }
            Request::Data if self.recipients.is_empty() => 554,
            Request::Data => {
                self.data = Some(Vec::new());
                354
            }
            Request::End(_) => {
                let (sender, recipients) = (self.sender.take().unwrap(), std::mem::take(&mut self.recipients));
                delivered.push((sender, recipients, self.data.take().unwrap()));
                250
            }
            Request::Reset => {
                (self.sender, self.recipients) = (None, Vec::new());
                250
            }
            request => panic!("{request:?}"),
        };
        let text = if code == 550 { "5.1.1 no such user" } else { "text" };
        Some(Upstream::Reply(smtp_guard::wire::reply::Reply::new(code, None, text)))
    }
}

/// What the facts say of a recipient, by its name.
fn facts_of(recipient: Option<&str>) -> Facts {
    let first = recipient.and_then(|recipient| recipient.get(..1));
    Facts { deferred: first == Some("d"), unknown: first == Some("u"), found: Some(Arc::default()) }
}

/// Groups of a mail: a client sends each at once, and the next when it has its answers. `None`: message data, after 354.
fn groups(random: &mut Random) -> Vec<Option<String>> {
    let mut groups = vec![Some("EHLO c.example\r\n".to_owned())];
    for _ in 0..1 + random.below(3) {
        let mut group = format!("MAIL FROM:<{}@c.example>\r\n", random.pick(&["a", "a", "a", "a", "n", "l"]));
        for _ in 0..random.below(6) {
            let recipient = random.pick(&["a", "b", "c", "n", "l", "d", "u", "trap"]);
            let domain = random.pick(&["example.org", "example.org", "example.org", "other.example"]);
            group += &format!("RCPT TO:<{recipient}@{domain}>\r\n");
        }
        group += random.pick(&[
            "DATA\r\n",
            "DATA\r\n",
            "DATA\r\n",
            "RSET\r\n",
            "NOOP\r\n",
            "BOGUS\r\nDATA\r\n",
            "BDAT 3\r\nx\r\nBDAT 3 LAST\r\ny\r\n",
            "BDAT 3 LAST\r\ny\r\n",
        ]);
        groups.extend([Some(group), None, Some("RSET\r\n".to_owned())]);
    }
    groups
}

/// The transcript of `groups`. `random` decides what comes first where several things are under way.
fn transcript(groups: &[Option<String>], familiar: bool, pipelining: bool, random: &mut Random) -> Transcript {
    let rules = testing::snapshot(|config| {
        config.recipients.traps = vec!["trap@example.org".to_owned()];
        config.limits.recipients = 3;
        config.limits.failed_commands = 12;
    });
    let backend = Arc::new(Capabilities { pipelining, ..Capabilities::default() });
    let mut out = Vec::new();
    let opening = Opening { familiar, backend, ..testing::opening(rules) };
    let mut now = opening.clock.instant;
    let mut session = Session::open(opening, &mut out);
    let (mut intake, mut server) = (smtp_guard::session::Intake::default(), Server::default());
    let (mut seen, mut consulted, mut last) = (Transcript::default(), None, 0);
    let mut groups = groups.iter();
    loop {
        for output in out.drain(..) {
            match output {
                Output::Reply(reply) => {
                    last = reply.code().get();
                    seen.heard.push(reply.to_string());
                }
                Output::Report(conduct) => seen.heard.push(format!("{conduct:?}")),
                Output::Heard(heard) => seen.heard.push(format!("{heard:?}")),
                Output::Consult { recipient, .. } => consulted = Some(facts_of(recipient.as_deref())),
                Output::Request(Request::Drop) => server = Server::default(),
                Output::Request(Request::Body(body)) => {
                    let data = server.data.as_mut().expect("354 came before");
                    // The trace header has the time.
                    if !body.starts_with(b"Received: ") {
                        data.extend_from_slice(&body);
                    }
                }
                Output::Request(request) => server.asked.push_back(request),
                _ => {}
            }
        }
        if session.wants() == Wants::Closed {
            return seen;
        }
        if let Some(input) = intake.next(&session) {
            session.step(input, now, &mut out);
            continue;
        }
        let facts_first = random.below(2) == 0;
        let facts = if facts_first || server.asked.is_empty() { consulted.take() } else { None };
        let input = match facts {
            Some(facts) => Input::Facts(facts),
            None => match server.answer(&mut seen.delivered) {
                Some(word) => Input::Upstream(word),
                None if matches!(session.wants(), Wants::Command | Wants::Body) => {
                    match groups.next() {
                        Some(Some(group)) => intake.unread.extend_from_slice(group.as_bytes()),
                        Some(None) if last == 354 => intake.unread.extend_from_slice(b"Subject: x\r\n\r\nx\r\n.\r\n"),
                        Some(None) => {}
                        None => return seen,
                    }
                    continue;
                }
                None => {
                    now = session.deadline();
                    Input::Deadline
                }
            },
        };
        session.step(input, now, &mut out);
    }
}

#[test]
fn what_is_asked_ahead_changes_nothing_that_is_heard_delivered_or_reported() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut delivered = 0;
    for n in 0..long::amount(3_000, 100_000) {
        let groups = groups(&mut random);
        for familiar in [false, true] {
            let one = transcript(&groups, familiar, false, &mut random);
            let ahead = transcript(&groups, familiar, true, &mut random);
            assert_eq!(one, ahead, "{n}, familiar: {familiar}: {groups:#?}");
            delivered += ahead.delivered.len();
        }
    }
    assert!(delivered > 1000, "{delivered} messages delivered");
}
