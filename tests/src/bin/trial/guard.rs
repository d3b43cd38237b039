//! The guard itself: its session, its rules, its ledger and its marks, as they are, in virtual time.
//!
//! What stands between them in the program is made simple here: reports reach the ledger at once, by the same function as in the
//! program (`gate`), and a ban is in force at once. The proxy's limits of connections and messages per source are
//! left out; no profile comes near them.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use smtp_guard::addr::{ClientAddr, Ipv6Prefix, Source};
use smtp_guard::clock::{Both, Instant, WallTime};
use smtp_guard::config::{AuthVia, Checks, Config, Profile, Role};
use smtp_guard::decision::Name;
use smtp_guard::facts::dns::{Reverse, SenderDomain};
use smtp_guard::facts::recipients::Unknowns;
use smtp_guard::facts::unknown::Wording;
use smtp_guard::gate::{self, Effect, Grounds, Known};
use smtp_guard::key::Key;
use smtp_guard::ledger::Ledger;
use smtp_guard::marks::Marks;
use smtp_guard::offence::{self, Conduct, Digest, Digests};
use smtp_guard::policy::checks::Found;
use smtp_guard::session::{
    AuthVerdict, Facts, Heard as Told, Input, Intake, Opening, Output, Request, Secured, Session, Upstream, Wants,
};
use smtp_guard::snapshot::Snapshot;
use smtp_guard::wire::command;
use smtp_guard::wire::ehlo::Capabilities;
use smtp_guard::wire::envelope::RcptTo;
use smtp_guard::wire::reply::{Reply, ReplyDecoder};

use crate::gate::{Backend, Gate, Heard, Id, Line, Sanctions};
use crate::model::{DOMAIN, Recipient, SPAMMER, Site, Standing};

/// Of this installation. Nobody else knows it.
const SECRET: Digests = Digests::new(*b"what nobody else");

pub(crate) struct Guard {
    rules: Arc<Snapshot>,
    says: &'static str,
    prefix: Ipv6Prefix,
    capabilities: Arc<Capabilities>,
    ledger: Ledger,
    marks: Marks,
    unknowns: Unknowns,
    bans: HashMap<Source, Instant>,
    sessions: HashMap<Id, Live>,
    sanctions: Sanctions,
    /// Of what is told to other edges: which source did what. None is told where there are none.
    reports: Option<Vec<(String, Conduct)>>,
}

struct Live {
    session: Session,
    ip: IpAddr,
    source: Source,
    sender: &'static str,
    asked: Option<Recipient>,
    /// The backend refuses the messages of its sender at the dot.
    spam: bool,
}

impl Guard {
    /// With the defaults of the configuration, a trap, and what `site` has. It has heard how the backend refuses recipients that
    /// nobody has.
    pub(crate) fn new(site: &Site) -> Self {
        Self::with(site, SECRET)
    }

    /// The same as one of a fleet, whose edges digest addresses by `digests`.
    pub(crate) fn in_fleet(site: &Site, digests: Digests) -> Self {
        Self { reports: Some(Vec::new()), ..Self::with(site, digests) }
    }

    fn with(site: &Site, digests: Digests) -> Self {
        let mut config = Config::builtin();
        config.hostname = format!("mx.{DOMAIN}");
        config.relay.domains = vec![DOMAIN.to_owned()];
        config.recipients.traps = vec![Recipient::Trap.address()];
        config.backend.profile = Profile::Generic;
        config.checks = Checks::default();
        config.auth.via = AuthVia::Dovecot;
        config.relay.networks = site.own.into_iter().map(Into::into).collect();
        let mut ledger = Ledger::new(config.harvest.clone(), config.auth.clone(), site.max_sources);
        ledger.set_digests(digests);
        let prefix = config.limits.ipv6_prefix;
        let rules = Snapshot::new(Arc::new(config), None).with_digests(digests);
        if site.catch_all {
            rules.learned().set_catch_all(DOMAIN, true);
        } else {
            let [one, other] =
                ["qwertzuiopasdfghjkly", "yxcvbnmlkjhgfdsapoiu"].map(|local| format!("{local}@{DOMAIN}"));
            let said = [&one, &other].map(|recipient| refusal(site.says, recipient));
            let wording = Wording::learn([(&said[0], &one), (&said[1], &other)]);
            rules.learned().set_wordings(wording.map(|wording| ("backend".to_owned(), wording)).into_iter().collect());
        }
        Self {
            rules: Arc::new(rules),
            says: site.says,
            prefix,
            capabilities: Arc::new(Capabilities::default()),
            ledger,
            marks: Marks::default(),
            unknowns: Unknowns::default(),
            bans: HashMap::new(),
            sessions: HashMap::new(),
            sanctions: Sanctions::default(),
            reports: None,
        }
    }

    /// Takes the reports about sources since the last call.
    pub(crate) fn take_reports(&mut self) -> Vec<(String, Conduct)> {
        self.reports.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Another edge says what a source did there.
    pub(crate) fn hear_of(
        &mut self,
        node: &Name,
        source: &str,
        heard: offence::Heard,
        at: Instant,
        backend: &mut Backend,
        said: &mut Vec<(Id, Heard)>,
    ) {
        let Some(source) = Key::read(source, self.prefix).and_then(|key| key.source()) else { return };
        let is_banned = |source: Source| self.bans.get(&source).is_some_and(|until| at < *until);
        let effects = gate::hear(node, &mut self.ledger, &self.marks, source, heard, at, is_banned, |_| false);
        gate::clear(&mut self.ledger, &self.marks);
        self.follow(source.network(), source, effects, backend, at, said);
    }

    /// One input, all that follows from it, and what follows from that.
    fn step(&mut self, id: Id, input: Input, backend: &mut Backend, now: Instant, said: &mut Vec<(Id, Heard)>) {
        let mut out = Vec::new();
        if let Some(live) = self.sessions.get_mut(&id) {
            live.session.step(input, now, &mut out);
        }
        self.perform(id, out, backend, now, said);
    }

    fn perform(&mut self, id: Id, out: Vec<Output>, backend: &mut Backend, now: Instant, said: &mut Vec<(Id, Heard)>) {
        let mut answers = Vec::new();
        let mut reports = Vec::new();
        for output in out {
            match output {
                Output::Reply(reply) => match reply.code().get() {
                    221 | 421 | 554 => {}
                    code => said.push((id, Heard::Reply(code))),
                },
                Output::Request(request) => answers.extend(self.answer(id, request, backend, now)),
                Output::Consult { lookups, recipient, sender } => {
                    answers.push(Input::Facts(self.facts(id, lookups, recipient.as_deref(), sender, now)));
                }
                Output::Heard(heard) => self.hear(id, &heard, now),
                Output::Report(conduct) => reports.push(conduct),
                Output::Close => {
                    said.push((id, Heard::Closed));
                }
                Output::StartTls | Output::Settled { .. } | Output::Connect(_) | Output::Event(_) => {}
            }
        }
        let who = self.sessions.get(&id).map(|live| (live.ip, live.source));
        if said.last().is_some_and(|(last, heard)| *last == id && matches!(heard, Heard::Closed)) {
            self.sessions.remove(&id);
        }
        for conduct in reports {
            if let Some((ip, source)) = who {
                self.report(ip, source, conduct, backend, now, said);
            }
        }
        for input in answers {
            self.step(id, input, backend, now, said);
        }
    }

    /// The backend's word.
    fn answer(&self, id: Id, request: Request, backend: &mut Backend, now: Instant) -> Option<Input> {
        let reply = match request {
            Request::Mail(..) | Request::Reset => Reply::new(250, Some((2, 0, 0)), "Ok"),
            Request::Rcpt(rcpt, _) => {
                let live = self.sessions.get(&id)?;
                self.rcpt_reply(&rcpt, backend.standing(live.asked?, live.sender, now))
            }
            Request::Data => Reply::new(354, None, "Go on"),
            Request::End(_) if self.sessions.get(&id)?.spam => Reply::new(550, Some((5, 7, 1)), "Spam"),
            Request::End(_) => Reply::new(250, Some((2, 0, 0)), "Ok: queued"),
            Request::Auth(..) => return Some(Input::Upstream(Upstream::Auth(AuthVerdict::Accepted))),
            Request::Body(_) | Request::Drop | Request::Quit => return None,
        };
        Some(Input::Upstream(Upstream::Reply(reply)))
    }

    /// Checks find nothing against anybody.
    fn facts(&self, id: Id, lookups: bool, recipient: Option<&str>, sender: Digest, now: Instant) -> Facts {
        let is_unknown = || recipient.is_some_and(|recipient| self.unknowns.is_unknown(recipient, now));
        let live = self.sessions.get(&id);
        let known = live.map(|live| gate::known(&self.marks, live.source, sender, now, is_unknown));
        let found = lookups.then(|| {
            let reverse = Reverse::Names { names: vec!["client.example".into()], forward: None };
            Arc::new(Found { sender: Some(Ok(SenderDomain::Exists)), reverse: Some(Ok(reverse)), lists: Vec::new() })
        });
        let Known { deferred, unknown } = known.unwrap_or_default();
        Facts { deferred, unknown, found }
    }

    /// What the backend said of a recipient.
    fn hear(&mut self, id: Id, heard: &Told, now: Instant) {
        let Some(live) = self.sessions.get(&id) else { return };
        if heard.unknown {
            self.rules.learned().contradict(&heard.recipient);
            self.unknowns.refused(&heard.recipient, live.source, heard.sender, now);
        } else {
            self.unknowns.accepted(&heard.recipient);
        }
    }

    fn rcpt_reply(&self, rcpt: &RcptTo, standing: Standing) -> Reply {
        match standing {
            Standing::Exists => Reply::new(250, Some((2, 1, 5)), "Ok"),
            Standing::NotNow => Reply::new(450, Some((4, 2, 0)), "Recipient address rejected: Greylisted"),
            Standing::Unknown => refusal(self.says, rcpt.path.to_string().trim_matches(['<', '>'])),
        }
    }

    fn is_banned(&self, source: Source, now: Instant) -> bool {
        self.bans.get(&source).is_some_and(|until| now < *until)
    }

    fn report(
        &mut self,
        ip: IpAddr,
        source: Source,
        conduct: Conduct,
        backend: &mut Backend,
        now: Instant,
        said: &mut Vec<(Id, Heard)>,
    ) {
        if let Some(reports) = &mut self.reports {
            reports.push((Key::from(source).text(self.prefix), conduct.clone()));
        }
        let banned = self.is_banned(source, now);
        let effects = gate::report(&mut self.ledger, &self.marks, source, conduct, now, banned, |_| false);
        gate::clear(&mut self.ledger, &self.marks);
        self.follow(ip, source, effects, backend, now, said);
    }

    /// What follows from what `source` did.
    fn follow(
        &mut self,
        ip: IpAddr,
        source: Source,
        effects: Vec<Effect>,
        backend: &mut Backend,
        now: Instant,
        said: &mut Vec<(Id, Heard)>,
    ) {
        for effect in effects {
            let (target, Grounds { reason, length, .. }) = match effect {
                Effect::Ban { key: Key::Source(target), grounds, .. } => (target, grounds),
                Effect::Defer { .. } => {
                    self.sanctions.defer(now);
                    continue;
                }
                // A report lifts and resumes nothing, and bans sources only.
                Effect::Ban { .. } | Effect::Resume { .. } | Effect::Lift { .. } => continue,
            };
            self.bans.insert(target, now.after(length));
            // Of a /64 the trial has one address.
            let banned = if target == source { ip } else { target.network() };
            self.sanctions.ban(banned, now);
            let mut ended: Vec<_> =
                self.sessions.iter().filter(|(_, live)| live.source == target).map(|(id, _)| *id).collect();
            ended.sort_unstable();
            for id in ended {
                self.step(id, Input::Banned(reason), backend, now, said);
            }
        }
    }
}

impl Gate for Guard {
    fn connect(&mut self, id: Id, ip: IpAddr, now: Instant, said: &mut Vec<(Id, Heard)>) -> bool {
        self.ledger.sweep(now);
        let addr = ClientAddr::new(SocketAddr::new(ip, 40_000));
        let source = addr.source(self.prefix);
        if self.is_banned(source, now) {
            return false;
        }
        let opening = Opening {
            id: format!("trial-{id}"),
            addr,
            role: Role::Mx,
            // Those who log in may; to all others it is the same.
            secured: Some(Secured { version: "TLSv1.3", cipher: "TLS13_AES_256_GCM_SHA384" }),
            rules: Arc::clone(&self.rules),
            backend: Arc::clone(&self.capabilities),
            familiar: self.marks.of(source, now).familiar,
            clock: Both { instant: now, wall: WallTime::from_ms(1_795_518_000_000) },
        };
        let mut out = Vec::new();
        let session = Session::open(opening, &mut out);
        self.sessions.insert(id, Live { session, ip, source, sender: "", asked: None, spam: false });
        self.perform(id, out, &mut Backend::default(), now, said);
        true
    }

    fn say(
        &mut self,
        id: Id,
        line: &Line,
        more: bool,
        backend: &mut Backend,
        now: Instant,
        said: &mut Vec<(Id, Heard)>,
    ) {
        let Some(live) = self.sessions.get_mut(&id) else { return };
        let text = match line {
            Line::Hello => "EHLO client.example".to_owned(),
            Line::Login => "AUTH PLAIN AHUAcA==".to_owned(),
            Line::Mail(sender) => {
                live.sender = sender;
                live.spam = *sender == SPAMMER;
                format!("MAIL FROM:<{sender}>")
            }
            Line::Rcpt(recipient) => {
                live.asked = Some(*recipient);
                format!("RCPT TO:<{}>", recipient.address())
            }
            Line::Data => "DATA".to_owned(),
            Line::Reset => "RSET".to_owned(),
            Line::Quit => "QUIT".to_owned(),
            Line::Message => {
                let mut intake = Intake::default();
                intake.unread.extend_from_slice(b"Subject: trial\r\n\r\ntext\r\n.\r\n");
                while let Some(input) = self.sessions.get(&id).and_then(|live| intake.next(&live.session)) {
                    self.step(id, input, backend, now, said);
                }
                return;
            }
        };
        self.step(id, Input::Command { command: command::parse(text.as_bytes()), more }, backend, now, said);
    }

    fn due(&self, id: Id) -> Option<Instant> {
        let live = self.sessions.get(&id)?;
        // Clients are never slow: only what the session holds back waits for its time.
        matches!(live.session.wants(), Wants::Nothing | Wants::Silence).then(|| live.session.deadline())
    }

    fn wake(&mut self, id: Id, backend: &mut Backend, now: Instant, said: &mut Vec<(Id, Heard)>) {
        self.step(id, Input::Deadline, backend, now, said);
    }

    fn sanctions(&self) -> &Sanctions {
        &self.sanctions
    }
}

/// `says`, of `recipient`, as it comes over the wire.
fn refusal(says: &str, recipient: &str) -> Reply {
    let mut bytes = BytesMut::from(format!("{}\r\n", says.replace("{r}", recipient)).as_bytes());
    let reply = ReplyDecoder::new().next(&mut bytes);
    reply.and_then(Result::ok).unwrap_or_else(|| Reply::new(451, None, "The backend makes no sense"))
}
