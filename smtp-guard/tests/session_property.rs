//! Properties of the session over random traces: whatever client, backend and clock do, in whatever order.
//!
//! - A 2xx at the client's dot is the backend's 2xx at its dot.
//! - The backend never sees more transactions completed than the client sent dots.
//! - Nothing is said after the close, and every session that ends has closed its transaction.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::sync::Arc;

use bytes::BytesMut;
use proptest::prelude::*;
use smtp_guard::addr::ClientAddr;
use smtp_guard::clock::{Both, Instant, WallTime};
use smtp_guard::config::Config;
use smtp_guard::observe::metrics::Outcome;
use smtp_guard::policy::Rules;
use smtp_guard::session::{Event, Input, Lost, Output, Request, Session, Upstream, Wants};
use smtp_guard::wire::command;
use smtp_guard::wire::data::{BodyDecoder, Chunk};
use smtp_guard::wire::ehlo::Capabilities;
use smtp_guard::wire::reply::Reply;
use smtp_guard_ebpf::reason::Reason;

#[derive(Clone, Debug)]
enum Act {
    Line(&'static str, bool),
    Data(&'static [u8]),
    Backend(u16),
    Lost(u8),
    Deadline,
    Banned,
    Shutdown,
    Gone,
}

fn act() -> impl Strategy<Value = Act> {
    let lines = prop::sample::select(vec![
        "EHLO c.example",
        "HELO c.example",
        "MAIL FROM:<a@c.example>",
        "MAIL FROM:<> SIZE=5000",
        "RCPT TO:<b@example.org>",
        "RCPT TO:<c@other.example>",
        "DATA",
        "RSET",
        "NOOP",
        "BOGUS",
        "QUIT",
    ]);
    let data = prop::sample::select(vec![
        &b"x\r\n.\r\n"[..],
        b".\r\n",
        b"text\r\n",
        b"bare\nlf\r\n",
        b"..dot\r\n.\r\n",
        b"0123456789012345678901234567890123456789012345678901234567890123456789\r\n",
    ]);
    let code = prop::sample::select(vec![250u16, 250, 250, 354, 354, 421, 450, 550, 220]);
    prop_oneof![
        40 => (lines, prop::bool::weighted(0.02)).prop_map(|(line, more)| Act::Line(line, more)),
        20 => data.prop_map(Act::Data),
        40 => code.prop_map(Act::Backend),
        2 => (0..4u8).prop_map(Act::Lost),
        3 => Just(Act::Deadline),
        1 => Just(Act::Banned),
        1 => Just(Act::Shutdown),
        1 => Just(Act::Gone),
    ]
}

/// What the trace has seen, kept apart from the session.
#[derive(Default)]
struct Seen {
    closed: bool,
    client_dots: u32,
    backend_dots: u32,
    /// The dot went to the backend and its word is awaited.
    at_dot: bool,
    accepted: u32,
}

impl Seen {
    /// `word`: the class of the backend's reply that caused these outputs.
    fn check(&mut self, out: &mut Vec<Output>, word: Option<u16>) {
        let was_at_dot = self.at_dot;
        for output in out.drain(..) {
            assert!(!self.closed, "{output:?} after the close");
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
                Output::Reply(reply) if was_at_dot && word.is_some_and(|class| class != 2) => {
                    assert!(!reply.is_positive(), "{reply} to the client, but the backend did not take the message");
                }
                _ => {}
            }
        }
        assert!(self.backend_dots <= self.client_dots, "more transactions at the backend than from the client");
        assert!(self.accepted <= self.backend_dots);
    }
}

fn run(acts: Vec<Act>) {
    let mut config = Config::builtin();
    config.relay.domains = vec!["example.org".to_owned()];
    config.limits.message_size = 200;
    let clock = Both { instant: Instant::from_ns(0), wall: WallTime::from_ms(0) };
    let mut now = clock.instant;
    let mut out = Vec::new();
    let addr = ClientAddr::new("[2001:db8::1]:40000".parse().unwrap());
    let backend = Arc::new(Capabilities::default());
    let mut session =
        Session::open("id".to_owned(), addr, Arc::new(Rules::new(Arc::new(config), None)), backend, clock, &mut out);
    let mut seen = Seen::default();
    let mut decoder = BodyDecoder::new();
    seen.check(&mut out, None);
    for act in acts {
        let mut word = None;
        match act {
            Act::Line(line, more) if session.wants() == Wants::Command => {
                decoder = BodyDecoder::new();
                let command = command::parse(line.as_bytes());
                session.step(Input::Command { command, more }, now, &mut out);
            }
            Act::Data(bytes) if session.wants() == Wants::Body => {
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
            Act::Line(..) | Act::Data(_) => continue,
            Act::Backend(code) => {
                word = Some(code / 100);
                session.step(Input::Upstream(Upstream::Reply(Reply::new(code, None, "text"))), now, &mut out);
            }
            Act::Lost(how) => {
                word = Some(0);
                let lost = [Lost::Unreachable, Lost::Closed, Lost::Timeout, Lost::Protocol][usize::from(how)];
                session.step(Input::Upstream(Upstream::Lost(lost)), now, &mut out);
            }
            Act::Deadline => {
                word = Some(0);
                now = now.max(session.deadline());
                session.step(Input::Deadline, now, &mut out);
            }
            Act::Banned => session.step(Input::Banned(Reason::Harvest), now, &mut out),
            Act::Shutdown => session.step(Input::Shutdown, now, &mut out),
            Act::Gone => session.step(Input::ClientGone, now, &mut out),
        }
        seen.check(&mut out, word);
        assert_eq!(seen.closed, session.wants() == Wants::Closed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_250_at_the_dot_is_the_backends(acts in prop::collection::vec(act(), 0..80)) {
        run(acts);
    }
}
