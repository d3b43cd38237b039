//! Whole sessions: what a client, a backend and the clock do, in any order, told in lines.
//!
//! The first line has the options, a letter each ([`Options`]); every other line is an act ([`Trace::act`]). In a text
//! `\r`, `\n`, `\0` and `\\` stand for one byte. What must hold is in [`watch`].
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smtp_guard_core::addr::ClientAddr;
use smtp_guard_core::clock::Instant;
use smtp_guard_core::config::{AuthVia, Checks, Role};
use smtp_guard_core::facts::dns::{Failure, Reverse, SenderDomain};
use smtp_guard_core::policy::checks::Found;
use smtp_guard_core::session::testing::{self, SECURED};
use smtp_guard_core::session::{AuthVerdict, Facts, Input, Intake, Lost, Opening, Output, Session, Upstream, Wants};
use smtp_guard_core::snapshot::Snapshot;
use smtp_guard_core::wire::ehlo::Capabilities;
use smtp_guard_core::wire::reply::ReplyDecoder;
use smtp_guard_ebpf::reason::Reason;
use watch::Watch;

#[allow(dead_code, reason = "here the session sends, the models only read")]
#[path = "../../smtp-guard/tests/backends/readers/mod.rs"]
mod readers;
#[path = "session/watch.rs"]
mod watch;

/// What a message or a recipient can be too many for.
const OVER: [Reason; 5] =
    [Reason::MessageRate, Reason::UserMessageRate, Reason::UserRecipientRate, Reason::UserNetworks, Reason::UserHeld];
/// Acts of a trace.
const LONGEST: usize = 200;

fuzz_target!(|data: &[u8]| {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut trace = Trace::open(&Options::read(lines.next().unwrap_or_default()));
    for line in lines.take(LONGEST) {
        if let Some((act, text)) = line.split_first() {
            trace.act(*act, text);
        }
        trace.client();
        if trace.session.wants() == Wants::Closed {
            break;
        }
    }
});

/// What the session begins with.
struct Options {
    /// `s`: submission; else MX.
    role: Role,
    /// `t`: under TLS from the start.
    secured: bool,
    /// `x`: on the exempt list.
    exempt: bool,
    /// `b`: the backend judges credentials, else Dovecot.
    via: AuthVia,
    /// `p`: the backend offers nothing beside SIZE.
    plain: bool,
    /// `l`: it offers PIPELINING.
    pipelining: bool,
    /// `w`: waits for the greeting, and the trace says what is found out; else nothing is.
    waits: bool,
}

impl Options {
    fn read(letters: &[u8]) -> Self {
        let has = |letter| letters.contains(&letter);
        Self {
            role: if has(b's') { Role::Submission } else { Role::Mx },
            secured: has(b't'),
            exempt: has(b'x'),
            via: if has(b'b') { AuthVia::Backend } else { AuthVia::Dovecot },
            plain: has(b'p'),
            pipelining: has(b'l'),
            // Nobody else waits.
            waits: has(b'w') && !has(b'x') && !has(b's'),
        }
    }
}

static RULES: LazyLock<[Arc<Snapshot>; 2]> = LazyLock::new(|| [AuthVia::Dovecot, AuthVia::Backend].map(rules));

fn rules(via: AuthVia) -> Arc<Snapshot> {
    testing::snapshot(|config| {
        config.limits.message_size = 200;
        config.limits.recipients = 3;
        config.limits.failed_commands = 8;
        config.limits.session_time = Duration::from_secs(3600);
        config.checks = Checks::default();
        config.auth.via = via;
        config.tls = testing::certificate();
        config.exempt = ["192.0.2.0/24".parse().expect("a network")].into_iter().collect();
    })
}

/// A session and both its peers, driven as `relay::drive` drives it.
struct Trace {
    session: Session,
    watch: Watch,
    now: Instant,
    out: Vec<Output>,
    intake: Intake,
    replies: ReplyDecoder,
    /// Of the backend.
    unheard: BytesMut,
    /// The TLS handshake is under way: the driver looks at nothing else.
    securing: bool,
    /// Facts are asked for.
    consulted: bool,
    waits: bool,
}

impl Trace {
    fn open(options: &Options) -> Self {
        let ip = if options.exempt { [192, 0, 2, 1] } else { [198, 51, 100, 1] };
        let everything = Capabilities {
            pipelining: options.pipelining,
            size: Some(Some(100_000)),
            eight_bit_mime: true,
            smtputf8: true,
            dsn: true,
            auth_plain: true,
            ..Capabilities::default()
        };
        let mut out = Vec::new();
        let rules = Arc::clone(&RULES[usize::from(options.via == AuthVia::Backend)]);
        let opening = Opening {
            addr: ClientAddr::new((ip, 40_000).into()),
            role: options.role,
            secured: options.secured.then_some(SECURED),
            backend: Arc::new(if options.plain { Capabilities::default() } else { everything }),
            familiar: !options.waits,
            ..testing::opening(rules)
        };
        let now = opening.clock.instant;
        let session = Session::open(opening, &mut out);
        match &out[..] {
            [] => assert!(options.waits && session.wants() == Wants::Silence),
            [Output::Reply(greeting)] => assert!(greeting.code().get() == 220),
            _ => panic!("{out:?}"),
        }
        out.clear();
        Self {
            session,
            watch: Watch::new(options.via == AuthVia::Backend, options.waits),
            now,
            out,
            intake: Intake::default(),
            replies: ReplyDecoder::new(),
            unheard: BytesMut::new(),
            securing: false,
            consulted: false,
            waits: options.waits,
        }
    }

    fn act(&mut self, act: u8, text: &[u8]) {
        let number = || std::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<u16>().ok()).unwrap_or(0);
        match act {
            b'T' if self.securing => {
                self.securing = false;
                self.step(Input::Secured(SECURED));
            }
            b'N' => self.step(Input::Banned(Reason::Harvest)),
            b'V' => self.step(Input::GiveWay),
            b'G' => self.step(Input::ClientGone),
            _ if self.securing => {}
            // The client sends a line, or bytes.
            b'C' => self.intake.unread.extend_from_slice(&[&unescape(text), b"\r\n".as_slice()].concat()),
            b'D' => self.intake.unread.extend_from_slice(&unescape(text)),
            // The backend sends a line, or is lost, or whoever judges credentials has done so.
            b'B' => self.backend(&[&unescape(text), b"\r\n".as_slice()].concat()),
            b'L' if self.watch.is_live() => {
                let lost = [Lost::Unreachable, Lost::Closed, Lost::Timeout, Lost::Protocol];
                self.step(Input::Upstream(Upstream::Lost(lost[usize::from(number()) % lost.len()])));
            }
            b'A' if self.watch.is_judging() => {
                let verdicts = [AuthVerdict::Accepted, AuthVerdict::Rejected, AuthVerdict::Unavailable];
                self.step(Input::Upstream(Upstream::Auth(verdicts[usize::from(number()) % verdicts.len()])));
            }
            // Whoever judges credentials gives up before the session does.
            b'W' | b'X' if self.watch.is_judging() => {
                self.now = self.now.after(Duration::from_secs(50));
                self.step(Input::Upstream(Upstream::Auth(AuthVerdict::Unavailable)));
            }
            // Time passes, up to the deadline or beyond.
            b'W' => {
                self.session.waiting(self.now);
                self.now = self.now.after(Duration::from_secs(number().into()));
                if self.now >= self.session.deadline() {
                    self.step(Input::Deadline);
                }
            }
            b'X' => {
                self.session.waiting(self.now);
                self.now = self.now.max(self.session.deadline());
                self.step(Input::Deadline);
            }
            b'S' => self.step(Input::Shutdown),
            // Source or user has sent its share.
            b'R' if self.watch.is_counted() => self.step(Input::OverRate(OVER[usize::from(number()) % OVER.len()])),
            // What was looked up, by its number.
            b'F' if self.consulted => {
                self.consulted = false;
                self.step(Input::Facts(facts(number())));
            }
            _ => {}
        }
    }

    /// Takes what the client has sent, as far as the session wants it.
    fn client(&mut self) {
        while let Some(input) = self.intake.next(&self.session) {
            self.step(input);
        }
    }

    fn backend(&mut self, bytes: &[u8]) {
        if !self.watch.is_live() {
            return;
        }
        self.unheard.extend_from_slice(bytes);
        while self.watch.is_live() {
            let word = match self.replies.next(&mut self.unheard) {
                Some(Ok(reply)) => self.watch.translate(reply),
                Some(Err(_)) => Upstream::Lost(Lost::Protocol),
                None => return,
            };
            self.step(Input::Upstream(word));
        }
    }

    fn step(&mut self, input: Input) {
        self.watch.before(&input);
        // Where bytes were sent ahead of the handshake the driver closes; nothing of it reaches the session.
        self.session.step(input, self.now, &mut self.out);
        if self.out.iter().any(|output| matches!(output, Output::StartTls)) {
            self.securing = true;
            self.intake.unread.clear();
        }
        self.consulted |= self.out.iter().any(|output| matches!(output, Output::Consult { .. }));
        self.watch.after(&mut self.out, self.session.wants());
        if !self.watch.is_live() {
            self.replies = ReplyDecoder::new();
            self.unheard.clear();
        }
        if self.consulted && !self.waits {
            self.consulted = false;
            self.step(Input::Facts(Facts::default()));
        }
    }
}

/// Facts by a number: whether the source is deferred, and what DNS says of sender and client.
fn facts(number: u16) -> Facts {
    let sender = match number / 2 % 5 {
        0 => None,
        1 => Some(Ok(SenderDomain::Exists)),
        2 => Some(Ok(SenderDomain::Missing)),
        3 => Some(Ok(SenderDomain::NullMx)),
        _ => Some(Err(Failure::TimedOut)),
    };
    let reverse = match number / 10 % 3 {
        0 => None,
        1 => Some(Ok(Reverse::None)),
        _ => Some(Err(Failure::ServFail)),
    };
    let found = Found { sender, reverse, lists: Vec::new() };
    Facts { deferred: number % 2 == 1, unknown: number % 7 == 1, found: Some(Arc::new(found)) }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut bytes = text.iter().copied();
    let mut plain = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b'0') => 0,
                other => other.unwrap_or(b'\\'),
            },
            byte => byte,
        });
    }
    plain
}
