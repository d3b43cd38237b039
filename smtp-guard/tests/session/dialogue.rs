//! Dialogues in virtual time, without a socket: what the client, the backend and the clock do, and what the session must
//! do then.
//!
//! One line of a dialogue is one event or one expectation. Expectations are prefixes, in their order, and nothing may be
//! left over.
//!
//! | line | event |
//! |---|---|
//! | `C` | the client sends a command line |
//! | `D` | the client sends bytes of message data |
//! | `X` | the client vanishes |
//! | `B` | the backend answers |
//! | `B!`, `B-` | the backend is lost; it was lost before the dot could be sent |
//! | `A` | the backend or Dovecot judges credentials: accepted, rejected, unavailable |
//! | `H` | the TLS handshake is done |
//! | `R` | source or user has sent its share (`R user_held`: the reason) |
//! | `W` | the client is waited for so many seconds |
//! | `T` | the deadline passes |
//! | `K` | the source is banned |
//! | `G` | the session's place is needed |
//! | `S`, `S!` | the guard stops; it waits no longer |
//! | `F` | from here on this is found out about every recipient: `deferred`, `unknown`, `sender=exists|missing|null|failed`, `ptr=none|mismatch|failed`, `list=<weight>`; `late`: nothing until the next `F` |
//!
//! | line | expectation |
//! |---|---|
//! | `<` | a reply to the client |
//! | `>` | a request to the backend |
//! | `!` | a report to the ledger |
//! | `#` | an event |
//! | `.` | closed |

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use smtp_guard::clock::Instant;
use smtp_guard::config::{Config, Profile, Role};
use smtp_guard::facts::dns::{Failure, Forward, Reverse, SenderDomain};
use smtp_guard::offence::Conduct;
use smtp_guard::policy::checks::{Found, Listing};
use smtp_guard::session::testing::{self, SECURED};
use smtp_guard::session::{
    AuthVerdict, Event, Facts, Input, Intake, Lost, Opening, Output, Request, Session, Upstream,
};
use smtp_guard::wire::command::Command;
use smtp_guard::wire::data::BodyEncoder;
use smtp_guard::wire::ehlo::Capabilities;
use smtp_guard::wire::reply::ReplyDecoder;
use smtp_guard_ebpf::reason::Reason;

struct World {
    session: Session,
    now: Instant,
    out: Vec<Output>,
    intake: Intake,
    encoder: BodyEncoder,
    said: Vec<String>,
    in_body: bool,
    facts: Facts,
    consulted: bool,
    late: bool,
    shows_abandoned: bool,
    shows_heard: bool,
    shows_settled: bool,
    shows_connect: bool,
    /// Where the client's bytes of each event are cut in two.
    cut: usize,
}

impl World {
    fn new(setting: &Setting, change: impl Fn(&mut Config)) -> Self {
        let rules = testing::snapshot(|config| {
            config.backend.profile = Profile::Generic;
            config.harvest.delay = Duration::ZERO;
            config.limits.failed_commands = 4;
            config.limits.recipients = 2;
            config.limits.message_size = 100;
            if setting.tls {
                config.tls = testing::certificate();
            }
            change(config);
        });
        for domain in setting.catch_alls {
            rules.learned().set_catch_all(domain, true);
        }
        let mut out = Vec::new();
        let opening = Opening {
            role: setting.role,
            secured: setting.secured.then_some(SECURED),
            backend: Arc::new(setting.backend.clone()),
            familiar: setting.familiar,
            ..testing::opening(rules)
        };
        let now = opening.clock.instant;
        let session = Session::open(opening, &mut out);
        Self {
            session,
            now,
            out,
            intake: Intake::default(),
            encoder: BodyEncoder::new(),
            said: Vec::new(),
            in_body: false,
            facts: Facts { found: Some(Arc::default()), ..Facts::default() },
            consulted: false,
            late: false,
            shows_abandoned: false,
            shows_heard: false,
            shows_settled: false,
            shows_connect: false,
            cut: usize::MAX,
        }
    }

    fn step(&mut self, input: Input) {
        self.session.step(input, self.now, &mut self.out);
        self.note();
        if self.consulted && !self.late {
            self.consulted = false;
            self.step(Input::Facts(self.facts.clone()));
        }
    }

    /// What the session wants done, as lines of the dialogue.
    fn note(&mut self) {
        for output in std::mem::take(&mut self.out) {
            let body = matches!(output, Output::Request(Request::Body(_)));
            let said = match output {
                Output::Reply(reply) => format!("< {reply}"),
                Output::Request(request) => format!("> {}", self.request(request)),
                Output::Report(Conduct::Abandoned { .. } | Conduct::Undelivered { .. }) if !self.shows_abandoned => {
                    continue;
                }
                Output::Heard(_) if !self.shows_heard => continue,
                Output::Heard(heard) => format!("! heard {} unknown={}", heard.recipient, heard.unknown),
                Output::Connect(_) if !self.shows_connect => continue,
                Output::Connect(speaker) => format!("> connect for {}", speaker.helo.as_str()),
                Output::Settled { .. } if !self.shows_settled => continue,
                Output::Settled { accepted } => format!("! settled accepted={accepted}"),
                Output::Report(conduct) => format!("! {conduct:?}"),
                Output::Consult { lookups, recipient, .. } => {
                    self.consulted = true;
                    if !lookups {
                        self.facts.found = None;
                    }
                    self.facts.unknown &= recipient.is_some();
                    continue;
                }
                Output::Event(Event::Observed { reason, .. }) => format!("# observed {}", reason.label()),
                Output::Event(Event::Refused { reason, .. }) => format!("# refused {}", reason.label()),
                Output::Event(Event::Ended { reason }) => format!("# ended {}", reason.label()),
                Output::Event(Event::Message(message)) => {
                    format!("# message {:?} size={} to={}", message.outcome, message.size, message.recipients)
                }
                Output::Event(Event::Authenticated { user }) => format!("# authenticated {user}"),
                Output::StartTls => "* tls".to_owned(),
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
            Request::Mail(mail, _, speaker) => {
                Command::Mail(mail).encode(&mut bytes);
                if let Some(login) = &speaker.login {
                    bytes.extend_from_slice(format!(" for {login}").as_bytes());
                }
            }
            Request::Auth(credentials, _) => return format!("auth {}", *credentials.response()),
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
        while let Some(input) = self.intake.next(&self.session) {
            self.step(input);
        }
    }

    /// The client's bytes, in two pieces where `cut` lies within.
    fn send(&mut self, bytes: &[u8]) {
        let (first, second) = bytes.split_at(self.cut.min(bytes.len()));
        self.intake.unread.extend_from_slice(first);
        if !second.is_empty() {
            self.read();
            self.intake.unread.extend_from_slice(second);
        }
    }

    fn act(&mut self, who: &str, what: &str) {
        match who {
            "C" => self.send(format!("{what}\r\n").as_bytes()),
            "D" => {
                let bytes = what.replace("\\r", "\r").replace("\\n", "\n").replace("\\0", "\0");
                self.send(bytes.as_bytes());
            }
            "B" => {
                let mut bytes = BytesMut::from(format!("{what}\r\n").as_bytes());
                let reply = ReplyDecoder::new().next(&mut bytes).unwrap().unwrap();
                self.step(Input::Upstream(Upstream::Reply(reply)));
            }
            "B-" => self.step(Input::Upstream(Upstream::Lost(Lost::BeforeDot))),
            "B!" => self.step(Input::Upstream(Upstream::Lost(Lost::Closed))),
            "A" => {
                let verdict = match what {
                    "accepted" => AuthVerdict::Accepted,
                    "rejected" => AuthVerdict::Rejected,
                    _ => AuthVerdict::Unavailable,
                };
                self.step(Input::Upstream(Upstream::Auth(verdict)));
            }
            "H" => {
                self.intake = Intake::default();
                self.step(Input::Secured(SECURED));
            }
            "W" => {
                self.session.waiting(self.now);
                self.now = self.now.after(Duration::from_secs(what.parse().unwrap()));
            }
            "F" if what == "late" => self.late = true,
            "F" => {
                self.facts = facts(what);
                if std::mem::take(&mut self.late) && std::mem::take(&mut self.consulted) {
                    self.step(Input::Facts(self.facts.clone()));
                }
            }
            "R" => {
                let reason = if what.is_empty() { "message_rate" } else { what };
                self.step(Input::OverRate(Reason::from_label(reason).unwrap()));
            }
            "N" => self.session.set_name(what),
            "X" => self.step(Input::ClientGone),
            "K" => self.step(Input::Banned(Reason::Harvest)),
            "G" => self.step(Input::GiveWay),
            "S" => self.step(Input::Shutdown),
            "S!" => {
                self.session.cut_off(&mut self.out);
                self.note();
            }
            "T" => {
                self.now = self.session.deadline();
                self.step(Input::Deadline);
            }
            _ => panic!("what is {who:?}?"),
        }
        self.read();
    }
}

/// What the words of an `F` line say.
fn facts(words: &str) -> Facts {
    let (mut deferred, mut unknown, mut found) = (false, false, Found::default());
    for word in words.split(' ') {
        match word.split_once('=').unwrap_or((word, "")) {
            ("deferred", _) => deferred = true,
            ("unknown", _) => unknown = true,
            ("sender", "exists") => found.sender = Some(Ok(SenderDomain::Exists)),
            ("sender", "missing") => found.sender = Some(Ok(SenderDomain::Missing)),
            ("sender", "null") => found.sender = Some(Ok(SenderDomain::NullMx)),
            ("sender", "failed") => found.sender = Some(Err(Failure::TimedOut)),
            ("ptr", "none") => found.reverse = Some(Ok(Reverse::None)),
            ("ptr", "mismatch") => {
                let names = vec!["client.example".into()];
                found.reverse = Some(Ok(Reverse::Names { names, forward: Some(Forward::Mismatch) }));
            }
            ("ptr", "failed") => found.reverse = Some(Err(Failure::ServFail)),
            // No place for the look-up, or no answer.
            ("list", "busy") => {
                found.lists.push(Listing { list: "bl.example".into(), weight: 2, found: Err(Failure::Busy) })
            }
            ("list", "failed") => {
                found.lists.push(Listing { list: "bl.example".into(), weight: 2, found: Err(Failure::TimedOut) })
            }
            ("list", weight) => found.lists.push(Listing {
                list: "bl.example".into(),
                weight: weight.parse().unwrap(),
                found: Ok(Some([127, 0, 0, 2].into())),
            }),
            _ => panic!("what is {word:?}?"),
        }
    }
    Facts { deferred, unknown, found: Some(Arc::new(found)) }
}

/// The start of a dialogue, beside the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) role: Role,
    /// There is a certificate.
    pub(crate) tls: bool,
    /// TLS from the first byte.
    pub(crate) secured: bool,
    /// Mail of the source was accepted before.
    pub(crate) familiar: bool,
    /// Dialogues are not about what is abandoned, but for those that are.
    pub(crate) shows_abandoned: bool,
    /// Nor about what is remembered of recipients.
    pub(crate) shows_heard: bool,
    /// Whether it is shown what became of a user's recipient.
    pub(crate) shows_settled: bool,
    /// Connections to the backend before MAIL.
    pub(crate) shows_connect: bool,
    /// Domains of which the backend takes any recipient.
    pub(crate) catch_alls: &'static [&'static str],
    pub(crate) backend: Capabilities,
}

impl Default for Setting {
    fn default() -> Self {
        let backend = Capabilities { eight_bit_mime: true, ..Capabilities::default() };
        Self {
            role: Role::Mx,
            tls: false,
            secured: false,
            familiar: false,
            shows_abandoned: false,
            shows_heard: false,
            shows_settled: false,
            shows_connect: false,
            catch_alls: &[],
            backend,
        }
    }
}

pub(crate) fn check(name: &str, change: impl Fn(&mut Config), dialogue: &str) {
    check_in(name, &Setting::default(), change, dialogue);
}

/// Runs the dialogue as it stands, and once for each place where what the client sends at once may be cut in two.
pub(crate) fn check_in(name: &str, setting: &Setting, change: impl Fn(&mut Config), dialogue: &str) {
    run(name, setting, &change, dialogue, usize::MAX);
    if setting.backend.pipelining {
        // Then it matters what is there at once.
        return;
    }
    // What is sent ahead isn't when it comes later; and of a message that is refused on the way, pieces show how far it
    // went. (`smuggling.rs` cuts those.)
    if ["Pipelining", "Smuggling", "message_size"].iter().any(|word| dialogue.contains(word)) {
        return;
    }
    let longest = dialogue.lines().map(|line| line.trim().len()).max().unwrap_or(0);
    for cut in 1..longest.min(200) {
        run(name, setting, &change, dialogue, cut);
    }
}

fn run(name: &str, setting: &Setting, change: impl Fn(&mut Config), dialogue: &str, cut: usize) {
    let mut world = World::new(setting, change);
    world.cut = cut;
    world.shows_abandoned = setting.shows_abandoned;
    world.shows_heard = setting.shows_heard;
    world.shows_settled = setting.shows_settled;
    world.shows_connect = setting.shows_connect;
    world.note();
    // A dialogue in which the greeting is held back says so itself.
    let mut expected: Vec<&str> = if world.said.is_empty() { vec![] } else { vec!["< 220 mx.example.org ESMTP"] };
    for line in dialogue.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (who, what) = line.split_once(' ').unwrap_or((line, ""));
        if matches!(who, "<" | ">" | "!" | "#" | "*" | ".") {
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
    assert!(same, "{name}, cut at {}, before {before:?}:\nsaid     {said:#?}\nexpected {expected:#?}", world.cut);
}
