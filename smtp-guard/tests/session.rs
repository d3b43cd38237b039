//! The session as dialogues in virtual time, without a socket: what the client, the backend and the clock do, and what
//! the session must do then.
//!
//! One line of a dialogue is one event or one expectation:
//! `C` client sends a command line, `D` client sends bytes of message data, `B` backend answers, `X` client vanishes,
//! `B!` the backend is lost, `T` the deadline passes, `K` the source is banned, `S` the guard stops;
//! `<` a reply to the client, `>` a request to the backend, `!` a report to the ledger, `#` an event, `.` closed.
//! Expectations are prefixes, in their order, and nothing may be left over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use smtp_guard::addr::ClientAddr;
use smtp_guard::clock::{Both, Instant, WallTime};
use smtp_guard::config::{Config, Profile};
use smtp_guard::policy::Rules;
use smtp_guard::session::{Event, Input, Lost, Output, Request, Session, Upstream, Wants};
use smtp_guard::wire::command::{self, Command};
use smtp_guard::wire::data::{BodyDecoder, BodyEncoder, Chunk};
use smtp_guard::wire::ehlo::Capabilities;
use smtp_guard::wire::line::{Line, LineDecoder};
use smtp_guard::wire::reply::ReplyDecoder;
use smtp_guard_ebpf::reason::Reason;

struct World {
    session: Session,
    now: Instant,
    out: Vec<Output>,
    lines: LineDecoder,
    body: Option<BodyDecoder>,
    unread: BytesMut,
    encoder: BodyEncoder,
    said: Vec<String>,
    in_body: bool,
}

impl World {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::builtin();
        config.hostname = "mx.example.org".to_owned();
        config.relay.domains = vec!["example.org".to_owned()];
        config.backend.profile = Profile::Generic;
        config.harvest.delay = Duration::ZERO;
        config.limits.failed_commands = 4;
        config.limits.recipients = 2;
        config.limits.message_size = 100;
        change(&mut config);
        let rules = Arc::new(Rules::new(Arc::new(config), None));
        let clock = Both {
            instant: Instant::from_ns(1_000),
            wall: WallTime::from_ms(1_795_518_000_000),
        };
        let backend = Arc::new(Capabilities {
            eight_bit_mime: true,
            ..Capabilities::default()
        });
        let addr = ClientAddr::new("192.0.2.1:40000".parse().unwrap());
        let mut out = Vec::new();
        let session = Session::open("id-1".to_owned(), addr, rules, backend, clock, &mut out);
        Self {
            session,
            now: clock.instant,
            out,
            lines: LineDecoder::new(),
            body: None,
            unread: BytesMut::new(),
            encoder: BodyEncoder::new(),
            said: Vec::new(),
            in_body: false,
        }
    }

    fn step(&mut self, input: Input) {
        self.session.step(input, self.now, &mut self.out);
        self.note();
    }

    /// What the session wants done, as lines of the dialogue.
    fn note(&mut self) {
        for output in std::mem::take(&mut self.out) {
            let body = matches!(output, Output::Request(Request::Body(_)));
            let said = match output {
                Output::Reply(reply) => format!("< {reply}"),
                Output::Request(request) => format!("> {}", self.request(request)),
                Output::Report(conduct) => format!("! {conduct:?}"),
                Output::Event(Event::Refused { reason, .. }) => format!("# refused {}", reason.label()),
                Output::Event(Event::Ended { reason }) => format!("# ended {}", reason.label()),
                Output::Event(Event::Message(message)) => {
                    format!(
                        "# message {:?} size={} to={}",
                        message.outcome, message.size, message.recipients
                    )
                }
                Output::Close => ".".to_owned(),
            };
            match self.said.last_mut() {
                // How the decoder cuts the data into chunks doesn't matter here.
                Some(last) if body && self.in_body => last.push_str(&said["> ".len()..]),
                _ => self.said.push(said),
            }
            self.in_body = body;
        }
    }

    fn request(&mut self, request: Request) -> String {
        let mut bytes = BytesMut::new();
        match request {
            Request::Mail(mail, _) => Command::Mail(mail).encode(&mut bytes),
            Request::Rcpt(rcpt, _) => Command::Rcpt(rcpt).encode(&mut bytes),
            Request::Data => return "DATA".to_owned(),
            Request::Reset => return "RSET".to_owned(),
            Request::Quit => return "QUIT".to_owned(),
            Request::Drop => {
                self.encoder = BodyEncoder::new();
                return "drop".to_owned();
            }
            Request::Body(body) => self.encoder.encode(&body, &mut bytes),
            Request::End(end) => std::mem::take(&mut self.encoder).finish(end, &mut bytes).unwrap(),
        }
        String::from_utf8_lossy(&bytes).replace("\r\n", "|")
    }

    /// Feeds what the session wants to read, as the driver does.
    fn read(&mut self) {
        loop {
            let input = match self.session.wants() {
                Wants::Command => {
                    self.body = None;
                    let Some(line) = self.lines.next(&mut self.unread) else {
                        return;
                    };
                    let command = match line {
                        Line::Text(line) => command::parse(&line),
                        Line::Flawed(flaw) => Err(flaw.into()),
                    };
                    Input::Command {
                        command,
                        more: !self.unread.is_empty(),
                    }
                }
                Wants::Body => {
                    let decoder = self.body.get_or_insert_with(BodyDecoder::new);
                    match decoder.next(&mut self.unread) {
                        Some(Chunk::Body(body)) => Input::Body(body),
                        Some(Chunk::End(end)) => Input::BodyEnd(end),
                        None => return,
                    }
                }
                Wants::Nothing | Wants::Closed => return,
            };
            self.step(input);
        }
    }

    fn act(&mut self, who: &str, what: &str) {
        match who {
            "C" => self.unread.extend_from_slice(format!("{what}\r\n").as_bytes()),
            "D" => self
                .unread
                .extend_from_slice(what.replace("\\r", "\r").replace("\\n", "\n").as_bytes()),
            "B" => {
                let mut bytes = BytesMut::from(format!("{what}\r\n").as_bytes());
                let reply = ReplyDecoder::new().next(&mut bytes).unwrap().unwrap();
                self.step(Input::Upstream(Upstream::Reply(reply)));
            }
            "B!" => self.step(Input::Upstream(Upstream::Lost(Lost::Closed))),
            "X" => self.step(Input::ClientGone),
            "K" => self.step(Input::Banned(Reason::Harvest)),
            "S" => self.step(Input::Shutdown),
            "T" => {
                self.now = self.session.deadline();
                self.step(Input::Deadline);
            }
            _ => panic!("what is {who:?}?"),
        }
        self.read();
    }
}

fn check(name: &str, change: impl FnOnce(&mut Config), dialogue: &str) {
    let mut world = World::new(change);
    world.note();
    let mut expected: Vec<&str> = vec!["< 220 mx.example.org ESMTP"];
    for line in dialogue.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (who, what) = line.split_once(' ').unwrap_or((line, ""));
        if matches!(who, "<" | ">" | "!" | "#" | ".") {
            expected.push(line);
            continue;
        }
        settle(name, line, &mut world, &mut expected);
        world.act(who, what);
    }
    settle(name, "the end", &mut world, &mut expected);
}

fn settle(name: &str, before: &str, world: &mut World, expected: &mut Vec<&str>) {
    let said = std::mem::take(&mut world.said);
    let expected = std::mem::take(expected);
    let same = said.len() == expected.len() && said.iter().zip(&expected).all(|(s, e)| s.starts_with(e));
    assert!(
        same,
        "{name}, before {before:?}:\nsaid     {said:#?}\nexpected {expected:#?}"
    );
}

const HELLO: &str = "
    C EHLO client.example
    < 250 mx.example.org
";
const ENVELOPE: &str = "
    C MAIL FROM:<a@client.example>
    > MAIL FROM:<a@client.example>|
    B 250 2.1.0 Ok
    < 250 2.1.0 Ok
    C RCPT TO:<b@example.org>
    > RCPT TO:<b@example.org>|
    B 250 2.1.5 Ok
    ! KnownRecipient { recipient: \"b@example.org\" }
    < 250 2.1.5 Ok
";
const DATA: &str = "
    C DATA
    > DATA
    B 354 go
    < 354
    > Received: from client.example ([192.0.2.1])|\tby mx.example.org (smtp-guard) with ESMTP id id-1;|\tTue, 24 Nov 2026 11:00:00 +0000|
";

fn dialogue(parts: &[&str]) -> String {
    parts.concat()
}

#[test]
fn a_message_passes_and_250_is_the_backends() {
    let end = "
        D Subject: x\\r\\n\\r\\n..dot\\r\\n.\\r\\n
        > Subject: x||..dot|
        > .|
        B 250 2.0.0 queued as 1
        # message Accepted size=20 to=1
        ! MessageAccepted
        < 250 2.0.0 queued as 1
        C QUIT
        > QUIT
        < 221
        .
    ";
    check("accepted", |_| {}, &dialogue(&[HELLO, ENVELOPE, DATA, end]));
}

#[test]
fn order_of_commands() {
    let table = [
        (
            "MAIL before EHLO",
            "C MAIL FROM:<a@b.example>\n # refused protocol\n < 503 5.5.1",
        ),
        (
            "RCPT before MAIL",
            "C EHLO x\n < 250\n C RCPT TO:<b@example.org>\n # refused protocol\n < 503 5.5.1",
        ),
        (
            "DATA before MAIL",
            "C EHLO x\n < 250\n C DATA\n # refused protocol\n < 503 5.5.1",
        ),
        ("BDAT hangs up", "C BDAT 3 LAST\n # ended protocol\n < 521\n ."),
        ("XCLIENT", "C XCLIENT ADDR=1.2.3.4\n # refused protocol\n < 550 5.7.0"),
        (
            "GET",
            "C GET / HTTP/1.1\n ! Offence(NonSmtp)\n # ended non_smtp\n < 221\n .",
        ),
        ("STARTTLS is not offered", "C STARTTLS\n # refused protocol\n < 502"),
        ("VRFY tells nothing", "C VRFY root\n < 252"),
        ("NOOP", "C NOOP\n < 250"),
        ("nonsense", "C BOGUS\n # refused protocol\n < 500"),
        ("a timeout ends it", "T\n # ended timeout\n < 421 4.4.2\n ."),
        ("a ban ends it", "K\n # ended harvest\n < 421 4.7.0\n ."),
        ("a stop ends an idle session", "S\n < 421 4.3.2\n ."),
        (
            "ESMTP parameters need EHLO",
            "C HELO x\n < 250\n C MAIL FROM:<a@b.example> SIZE=1\n # refused protocol\n < 555",
        ),
        (
            "commands behind EHLO",
            "D EHLO x\\r\\nNOOP\\r\\n\n ! Offence(Pipelining)\n # ended pipelining\n < 554 5.5.0\n .",
        ),
    ];
    for (name, text) in table {
        check(name, |_| {}, text);
    }
}

#[test]
fn envelope() {
    let mail = "
        C MAIL FROM:<a@client.example>
        > MAIL FROM:<a@client.example>|
        B 250 Ok
        < 250 Ok
    ";
    let table = [
        (
            "nested MAIL",
            "C MAIL FROM:<b@client.example>\n # refused protocol\n < 503",
        ),
        (
            "relay denied",
            "C RCPT TO:<x@other.example>\n ! Offence(Relay)\n # refused relay\n < 554 5.7.1",
        ),
        (
            "percent hack",
            "C RCPT TO:<x%other.example@example.org>\n ! Offence(Relay)\n # refused relay\n < 554 5.7.1",
        ),
        (
            "unknown recipient",
            "C RCPT TO:<No@example.org>\n > RCPT TO:<No@example.org>|\n B 550 5.1.1 no such user\n \
             ! UnknownRecipient { recipient: \"no@example.org\" }\n # refused unknown_recipient\n < 550 5.1.1 no such user",
        ),
        (
            "postmaster never counts as unknown",
            "C RCPT TO:<Postmaster>\n > RCPT TO:<postmaster>|\n B 550 5.1.1 no\n # refused backend\n < 550 5.1.1",
        ),
        (
            "backend says 421 at RCPT",
            "C RCPT TO:<b@example.org>\n > RCPT TO:<b@example.org>|\n B 421 4.3.2 bye\n # refused backend_lost\n > drop\n \
             < 451 4.4.2\n C RCPT TO:<c@example.org>\n < 451\n C DATA\n < 451\n C MAIL FROM:<>\n > MAIL FROM:<>|",
        ),
        (
            "too many recipients, the accepted ones go on",
            "C RCPT TO:<b@example.org>\n > RCPT\n B 250 Ok\n ! Known\n < 250\n C RCPT TO:<c@example.org>\n > RCPT\n B 250 Ok\n \
             ! Known\n < 250\n C RCPT TO:<d@example.org>\n # refused recipients\n < 452 4.5.3\n C DATA\n > DATA",
        ),
        ("no recipient at DATA", "C DATA\n # refused protocol\n < 554 5.5.1"),
        (
            "RSET undoes it",
            "C RSET\n > RSET\n B 250 Ok\n < 250\n C RCPT TO:<b@example.org>\n # refused protocol\n < 503",
        ),
        (
            "EHLO undoes it",
            "C EHLO again\n > RSET\n B 250 Ok\n < 250 mx.example.org",
        ),
        ("QUIT in a transaction", "C QUIT\n > drop\n < 221\n ."),
        ("client vanishes", "X\n > drop\n ."),
        (
            "a stop waits for the transaction",
            "S\n C RSET\n > RSET\n B 250 Ok\n < 250\n < 421\n .",
        ),
        (
            "354 to RCPT makes no sense",
            "C RCPT TO:<b@example.org>\n > RCPT\n B 354 hm\n # refused backend_lost\n > drop\n < 451 4.3.0",
        ),
        (
            "backend silent",
            "C RCPT TO:<b@example.org>\n > RCPT\n T\n # refused backend_lost\n > drop\n < 451 4.4.2",
        ),
        (
            "backend leaves while idle",
            "B!\n # refused backend_lost\n > drop\n C RCPT TO:<b@example.org>\n < 451 4.4.2",
        ),
    ];
    for (name, text) in table {
        check(name, |_| {}, &dialogue(&[HELLO, mail, text]));
    }
    check(
        "size declared",
        |_| {},
        &dialogue(&[
            HELLO,
            "C MAIL FROM:<a@b.example> SIZE=101\n # refused message_size\n < 552 5.3.4",
        ]),
    );
    check(
        "backend down",
        |_| {},
        &dialogue(&[
            HELLO,
            "C MAIL FROM:<>\n > MAIL\n B!\n # refused backend_lost\n > drop\n < 451",
        ]),
    );
}

#[test]
fn data() {
    let big = format!("D {}\\r\\n.\\r\\n", "x".repeat(120));
    let table = [
        ("refused at the dot", "D x\\r\\n.\\r\\n\n > x|\n > .|\n B 550 5.7.1 spam\n # message Rejected\n < 550 5.7.1 spam".to_owned()),
        ("deferred at the dot", "D .\\r\\n\n > .|\n B 452 full\n # message Deferred\n > drop\n < 452 full".to_owned()),
        ("421 at the dot", "D .\\r\\n\n > .|\n B 421 4.3.0 bye\n # message Deferred\n > drop\n < 451".to_owned()),
        ("dies at the dot", "D .\\r\\n\n > .|\n B!\n # message Ambiguous\n > drop\n < 451".to_owned()),
        ("silent at the dot", "D .\\r\\n\n > .|\n T\n # message Ambiguous\n > drop\n < 451".to_owned()),
        ("354 at the dot", "D .\\r\\n\n > .|\n B 354 again\n # message Ambiguous\n > drop\n < 451 4.3.0".to_owned()),
        ("550 in DATA", "D x\\r\\n\n > x|\n B 550 5.6.0 no\n > drop\n D y\\r\\n.\\r\\n\n # message Rejected\n < 550 5.6.0 no".to_owned()),
        ("dies in DATA", "D x\\r\\n\n > x|\n B!\n > drop\n D y\\r\\n.\\r\\n\n # message Deferred\n < 451 4.4.2".to_owned()),
        ("bare LF", "D x\\ny\\r\\n.\\r\\n\n ! Offence(Smuggling)\n # refused smuggling\n # message Rejected\n > drop\n < 550 5.6.0".to_owned()),
        ("too large", format!("{big}\n # refused message_size\n > drop\n # message Rejected\n < 552 5.3.4")),
        ("client vanishes before the dot", "D x\\r\\n\n > x|\n X\n > drop\n .".to_owned()),
        ("client vanishes after the dot", "D .\\r\\n\n > .|\n X\n B 250 Ok\n # message Accepted\n ! MessageAccepted\n .".to_owned()),
        ("banned after the dot", "D .\\r\\n\n > .|\n K\n B 250 Ok\n # message Accepted\n ! MessageAccepted\n < 250\n < 421\n .".to_owned()),
    ];
    for (name, text) in &table {
        check(name, |_| {}, &dialogue(&[HELLO, ENVELOPE, DATA, text]));
    }
    let far = format!("D {}\\r\\n", "x".repeat(200));
    let text = format!("{far}\n # message Rejected\n # ended message_size\n < 552\n > drop\n .");
    check(
        "far too large is not listened to",
        |_| {},
        &dialogue(&[HELLO, ENVELOPE, DATA, &text]),
    );
}

#[test]
fn limits_of_a_session() {
    let failed = "
        C BOGUS
        # refused protocol
        < 500
        C BOGUS
        # refused protocol
        T
        < 500
        C BOGUS
        # refused protocol
        T
        < 500
        C BOGUS
        # refused protocol
        ! Offence(FailedCommands)
        # ended failed_commands
        < 421 4.7.0
        .
    ";
    check(
        "failed commands: late from half of the limit, then the end",
        |_| {},
        failed,
    );
    let exempt = "C BOGUS\n # refused protocol\n < 500\n".repeat(10);
    check(
        "an exempt client is not limited",
        |c| c.exempt = ["192.0.2.0/24".parse().unwrap()].into_iter().collect(),
        &exempt,
    );
    let junk = "C NOOP\n < 250\n".repeat(100) + "C RSET\n ! Offence(JunkCommands)\n # ended junk_commands\n < 421\n .";
    check("junk commands", |_| {}, &junk);
    let delayed = "C EHLO x\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 Ok\n < 250\n C RCPT TO:<no@example.org>\n > RCPT\n \
                   B 550 5.1.1 no\n ! UnknownRecipient\n # refused unknown_recipient\n T\n < 550 5.1.1";
    check(
        "unknown recipients wait",
        |c| c.harvest.delay = Duration::from_secs(5),
        delayed,
    );
    let banned = "C EHLO x\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 Ok\n < 250\n C RCPT TO:<no@example.org>\n > RCPT\n \
                  B 550 5.1.1 no\n ! UnknownRecipient\n # refused unknown_recipient\n K\n # ended harvest\n < 421\n > drop\n .";
    check(
        "a ban comes before a reply that is held back",
        |c| c.harvest.delay = Duration::from_secs(5),
        banned,
    );
}
