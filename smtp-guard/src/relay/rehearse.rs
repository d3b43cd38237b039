//! `smtp-guard try`: a session without a connection. The session, its rules, the look-ups and the counters are the real ones.
//! The mail server says yes to everything, nothing is counted and nobody is told.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use smtp_guard_ebpf::reason::Reason;

use super::inquiry::Inquiry;
use super::users::{self, Login};
use super::{Generation, Shared, admission};
use crate::addr::ClientAddr;
use crate::blocklist::Listing;
use crate::clock::Instant;
use crate::config::{Config, Listen, Mode, Role};
use crate::decision::Explanation;
use crate::facts::dns::{Forward, Reverse, SenderDomain};
use crate::gate::{Arrival, Standing};
use crate::key::User;
use crate::ledger::networks::Network;
use crate::observe::attempt::{Attempt, Because, Rehearsal, Step};
use crate::policy::Client;
use crate::policy::checks::Found;
use crate::rates::Tally;
use crate::session::{AuthVerdict, Event, Input, Opening, Output, Request, Secured, Session, Upstream, Wants, replies};
use crate::wire::command;
use crate::wire::reply::Reply;

/// Inputs that one command may take: an end is certain.
const INPUTS: usize = 16;

impl Shared {
    /// Rehearses `attempt` by `generation`. `explanation` is what is known of its address.
    pub async fn rehearse(
        &self,
        attempt: &Attempt,
        generation: Arc<Generation>,
        explanation: Explanation,
    ) -> Rehearsal {
        rehearse(self, attempt, generation, explanation).await
    }
}

async fn rehearse(
    shared: &Shared,
    attempt: &Attempt,
    generation: Arc<Generation>,
    explanation: Explanation,
) -> Rehearsal {
    let (addr, now) = (ClientAddr::new((attempt.ip, 0).into()), crate::clock::now());
    let client = generation.snapshot.client(addr.ip());
    let listeners = generation.config().listen.iter().filter(|listen| listen.role == attempt.role);
    let arrival = admission::arrival(shared, &generation, addr, listeners, now);
    let mut rules = doors(generation.config(), attempt);
    rules.extend(self::rules(shared, &generation, &client, &arrival, attempt.role, &explanation));
    // What is known is of the source; what it may do is this configuration's to say.
    let explanation = Explanation { exempt: client.exempt, may_relay: client.may_relay, ..explanation };
    let mut rehearsal = Rehearsal { by: None, rules, explanation, found: Vec::new(), steps: Vec::new() };
    if let Some(because) = dropped(&rehearsal.explanation, attempt, generation.config()) {
        rehearsal.steps.push(Step { because: vec![because], ..Step::default() });
        return rehearsal;
    }
    if let Err(reason) = admission::would_admit(shared, &generation, &arrival, now) {
        let mut reply = admission::reply(reason);
        replies::sign(&mut reply, &generation.config().replies.contact, "");
        let heard = Some(reply.to_string());
        let step = Step { heard, because: vec![because(reason, false)], ..Step::default() };
        rehearsal.steps.push(step);
        return rehearsal;
    }
    let user = attempt.user.as_deref().and_then(User::new);
    rehearsal.rules.extend(user.iter().flat_map(|user| users::told(shared, user)));
    let mut stage = Stage::open(shared, generation, client, attempt);
    rehearsal.steps.push(stage.play(shared, String::new()).await);
    for said in lines(attempt) {
        if stage.session.wants() == Wants::Closed {
            break;
        }
        let command = command::parse(said.line.as_bytes());
        stage.step(Input::Command { command, more: false });
        rehearsal.steps.push(stage.play(shared, said.shown).await);
    }
    rehearsal.found = stage.found.as_ref().map(told).unwrap_or_default();
    rehearsal
}

/// A command line, and how it is shown.
struct Said {
    line: String,
    shown: String,
}

fn lines(attempt: &Attempt) -> Vec<Said> {
    let path = |address: &str| match address.trim_start_matches('<').trim_end_matches('>') {
        "" => "<>".to_owned(),
        address => format!("<{address}>"),
    };
    let plain = |line: String| Said { shown: line.clone(), line };
    let mut lines = vec![plain(format!("EHLO {}", attempt.helo))];
    if let Some(user) = &attempt.user {
        // Whatever the password is, it is right: nobody is asked.
        let message = base64::engine::general_purpose::STANDARD.encode(format!("\0{user}\0-"));
        lines.push(Said { line: format!("AUTH PLAIN {message}"), shown: format!("AUTH as {user}") });
    }
    if let Some(sender) = &attempt.mail_from {
        lines.push(plain(format!("MAIL FROM:{}", path(sender))));
        lines.extend(attempt.rcpt_to.iter().map(|recipient| plain(format!("RCPT TO:{}", path(recipient)))));
    }
    lines
}

/// The session on its stage.
struct Stage {
    generation: Arc<Generation>,
    addr: ClientAddr,
    client: Client,
    role: Role,
    session: Session,
    now: Instant,
    /// The login, unless the client is exempt.
    login: Option<Login>,
    inquiry: Inquiry,
    found: Option<Found>,
    out: Vec<Output>,
}

impl Stage {
    fn open(shared: &Shared, generation: Arc<Generation>, client: Client, attempt: &Attempt) -> Self {
        let (addr, role) = (ClientAddr::new((attempt.ip, 0).into()), attempt.role);
        // A login needs it.
        let is_secure = attempt.tls || attempt.user.is_some() || role == Role::Submissions;
        let mut inquiry = Inquiry::default();
        inquiry.about_client(shared, &generation, addr, generation.snapshot.needs(&client, role));
        let clock = crate::clock::both();
        let opening = Opening {
            // There is no session that a reply could name.
            id: String::new(),
            addr,
            role,
            secured: is_secure.then_some(Secured { version: "TLSv1.3", cipher: "TLS_AES_256_GCM_SHA384" }),
            rules: Arc::clone(&generation.snapshot),
            backend: generation.pool.capabilities(),
            familiar: shared.mark(addr).familiar,
            clock,
        };
        let mut out = Vec::new();
        let session = Session::open(opening, &mut out);
        Self { generation, addr, client, role, session, now: clock.instant, login: None, inquiry, found: None, out }
    }

    fn step(&mut self, input: Input) {
        self.session.step(input, self.now, &mut self.out);
    }

    /// Performs what the session wants until it wants the next command.
    async fn play(&mut self, shared: &Shared, said: String) -> Step {
        let mut step = Step { said, ..Step::default() };
        for _ in 0..INPUTS {
            let mut next = None;
            for output in std::mem::take(&mut self.out) {
                next = self.perform(shared, output, &mut step).await.or(next);
            }
            match (next, self.session.wants()) {
                (Some(input), _) => self.step(input),
                (None, Wants::Nothing | Wants::Silence) => {
                    // A reply is held back: its time has come.
                    let waits = self.session.deadline().since(self.now);
                    step.wait_seconds.0 += waits;
                    self.now = self.now.max(self.session.deadline());
                    self.step(Input::Deadline);
                }
                (None, _) => break,
            }
        }
        step
    }

    async fn perform(&mut self, shared: &Shared, output: Output, step: &mut Step) -> Option<Input> {
        let yes = || Some(Input::Upstream(Upstream::Reply(Reply::new(250, Some((2, 0, 0)), "Ok"))));
        match output {
            Output::Reply(reply) => step.heard = Some(reply.to_string()),
            Output::Event(Event::Refused { reason, details }) => {
                step.because.push(Because { text: note(reason, &details.note), ..because(reason, false) });
            }
            Output::Event(Event::Observed { reason, details }) => {
                step.because.push(Because { text: note(reason, &details.note), ..because(reason, true) });
            }
            Output::Event(Event::Ended { reason }) => step.because.push(because(reason, false)),
            Output::Consult { lookups, recipient, sender } => {
                let mut facts = shared.facts(self.addr, sender, recipient.as_deref());
                if lookups {
                    self.inquiry.begin(shared, &self.generation, self.addr);
                    let found = self.inquiry.found().await;
                    self.found = Some(found.clone());
                    facts.found = Some(Arc::new(found));
                }
                return Some(Input::Facts(facts));
            }
            Output::Request(Request::Mail(mail, ..)) => {
                let judged =
                    users::message(shared, &self.generation.snapshot, self.addr, self.login.as_ref(), Tally::Peek);
                if let Err(reason) = judged
                    && !self.client.exempt
                {
                    return Some(Input::OverRate(reason));
                }
                let domain = self.generation.snapshot.domain_to_look_up(&self.client, self.role, &mail.path);
                self.inquiry.about_sender(domain);
                step.passed_on = true;
                return yes();
            }
            Output::Event(Event::Authenticated { user }) if !self.client.exempt => {
                self.login = Login::new(shared, &self.generation.snapshot, self.addr, &user, Tally::Peek);
            }
            Output::Request(Request::Auth(..)) => return Some(Input::Upstream(Upstream::Auth(AuthVerdict::Accepted))),
            Output::Request(Request::Rcpt(..)) => {
                if let Some(Err(reason)) =
                    self.login.as_mut().map(|login| login.ask(shared, &self.generation.snapshot, self.addr))
                {
                    return Some(Input::OverRate(reason));
                }
                step.passed_on = true;
                return yes();
            }
            // Our own yes is no word of the backend.
            Output::Heard(_) | Output::Settled { .. } | Output::Connect(_) => {}
            Output::Request(_) | Output::StartTls | Output::Report(_) | Output::Event(_) | Output::Close => {}
        }
        None
    }
}

fn because(reason: Reason, observed: bool) -> Because {
    Because { reason: reason.label().to_owned(), text: reason.text().to_owned(), observed }
}

fn note(reason: Reason, note: &str) -> String {
    if note.is_empty() { reason.text().to_owned() } else { format!("{} ({note})", reason.text()) }
}

/// Why the kernel would drop its packets, so that it hears nothing. `None` where it would not.
fn dropped(explanation: &Explanation, attempt: &Attempt, config: &Config) -> Option<Because> {
    let reason = Reason::from_label(explanation.kernel.as_ref()?.drop_reason.as_deref()?)?;
    // What is exempt in a file that isn't in force would be so in the kernel as well.
    if explanation.exempt && attempt.config.is_some() {
        return None;
    }
    // Behind a balancer the kernel sees the balancer's address.
    let mut direct = config.listen.iter().filter(|listen| listen.role == attempt.role && listen.balancers.is_empty());
    direct.next()?;
    let by = match (explanation.listed.first(), explanation.networks.first()) {
        (Some(Listing { list, entry, .. }), _) if reason == Reason::Listed => {
            format!("dropped in the kernel by block list {list} (entry {entry})")
        }
        (_, Some(decision)) if explanation.decision.is_none() => {
            format!("dropped in the kernel as a part of {}: {}", decision.source, reason.text())
        }
        _ => format!("dropped in the kernel: {}", reason.text()),
    };
    Some(Because { text: by, ..because(reason, false) })
}

/// How a client comes in at a port of the role that `attempt` names.
fn doors(config: &Config, attempt: &Attempt) -> Vec<String> {
    let role = attempt.role.label();
    let doors: Vec<_> = config.listen.iter().filter(|listen| listen.role == attempt.role).collect();
    if doors.is_empty() {
        return vec![format!("no [[listen]] has role = \"{role}\": nobody can connect so")];
    }
    let behind = |listen: &&&Listen| !listen.balancers.is_empty() && !listen.balancers.contains(attempt.ip);
    let through = doors.iter().filter(behind).map(|listen| {
        format!("listen {}: through a balancer (proxy_protocol), in whose header {} stands", listen.address, attempt.ip)
    });
    through.collect()
}

/// The rules that apply to `client`, in the words of the configuration.
fn rules(
    shared: &Shared,
    generation: &Generation,
    client: &Client,
    arrival: &Arrival,
    role: Role,
    explanation: &Explanation,
) -> Vec<String> {
    let config = generation.config();
    if client.exempt {
        return vec!["exempt: no limit, check, delay or ban applies".to_owned()];
    }
    if arrival.standing == Standing::Exempt {
        // Whom it speaks for is judged by the address in the PROXY header.
        return vec![
            "listen.proxy_protocol: one of the balancers; for itself no limit of connections applies".to_owned(),
        ];
    }
    let limits = &config.limits;
    let source = arrival.source;
    let (of_source, of_network) = shared.sources.of(source);
    let or_none = |limit: u32| if limit == 0 { "none".to_owned() } else { limit.to_string() };
    let (counters, now) = (shared.feedback.counters(), crate::clock::now());
    let mut rules = vec![
        match client.may_relay {
            true => "relay.networks: may send anywhere, checks of strangers don't apply".to_owned(),
            false => format!("relay.domains: may send to {}", config.relay.domains.join(", ")),
        },
        format!("limits.connections: {of_source} of {}", limits.connections),
        format!(
            "limits.network_connections: {of_network} of {} in {}",
            or_none(limits.network_connections),
            Network::of(source).text()
        ),
        format!(
            "limits.total_connections: {} of {}; {}",
            shared.sources.total(),
            generation.limits().total,
            match arrival.standing {
                Standing::Newcomer => "a tenth is kept for known senders, and this is none",
                Standing::Known | Standing::Exempt => "with the tenth that is kept for known senders",
            }
        ),
        format!(
            "limits.connections_per_minute: {} of {}",
            counters.connections.view(source, now),
            or_none(limits.connections_per_minute)
        ),
        format!(
            "limits.messages_per_hour: {} of {}",
            counters.messages.view(source, now),
            or_none(limits.messages_per_hour)
        ),
    ];
    for decision in &explanation.networks {
        rules.push(format!("decisions: blocked as a part of {}: {}", decision.source, decision.text));
    }
    for Listing { list, entry, .. } in &explanation.listed {
        rules.push(format!("blocklist {list}: entry {entry} matches"));
    }
    if let Some(ledger) = &explanation.ledger {
        let (left, share) = (ledger.unforgiven, ledger.share * 100.0);
        let (most, above) = (config.harvest.unknown_recipients, config.harvest.unknown_share * 100.0);
        rules.push(format!("harvest: {left} unforgiven unknown recipients of {most}, {share:.0} % of {above:.0} %"));
    }
    if client.may_relay || role != Role::Mx {
        return rules;
    }
    let checks = &config.checks;
    let wait = if explanation.familiar { Duration::ZERO } else { checks.greeting_delay };
    rules.push(format!("checks.greeting_delay: {} s", wait.as_secs_f64()));
    let mode = |mode: Mode| match mode {
        Mode::Off => "off",
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    };
    let lists = if config.dnsbl.is_empty() { "no [[dnsbl]]" } else { mode(checks.dnsbl) };
    for (name, text) in [
        ("early_talker", mode(checks.early_talker)),
        ("dnsbl", lists),
        ("ptr", mode(checks.ptr)),
        ("ptr_forward", mode(checks.ptr_forward)),
        ("sender_domain", mode(checks.sender_domain)),
    ] {
        rules.push(format!("checks.{name}: {text}"));
    }
    rules
}

/// The facts from DNS, in words.
fn told(found: &Found) -> Vec<String> {
    let mut told = Vec::new();
    told.extend(found.reverse.as_ref().map(|reverse| match reverse {
        Ok(Reverse::None) => "no reverse DNS entry".to_owned(),
        Ok(Reverse::Names { names, forward }) => {
            let back = match forward {
                None => String::new(),
                Some(Forward::Confirmed) => ", which points back".to_owned(),
                Some(Forward::Mismatch) => ", which does not point back".to_owned(),
                Some(Forward::Unknown(failure)) => format!(", and whether it points back is not known: {failure}"),
            };
            format!("reverse DNS entry: {}{back}", names.join(", "))
        }
        Err(failure) => format!("reverse DNS entry: {failure}"),
    }));
    told.extend(found.lists.iter().map(|list| match &list.found {
        Ok(Some(reply)) => format!("{} lists it: {reply}, weight {}", list.list, list.weight),
        Ok(None) => format!("{} does not list it", list.list),
        Err(failure) => format!("{}: {failure}", list.list),
    }));
    told.extend(found.sender.map(|sender| match sender {
        Ok(SenderDomain::Exists) => "the sender's domain exists".to_owned(),
        Ok(SenderDomain::Missing) => "the sender's domain does not exist".to_owned(),
        Ok(SenderDomain::NullMx) => "the sender's domain takes no mail".to_owned(),
        Err(failure) => format!("the sender's domain: {failure}"),
    }));
    told
}
