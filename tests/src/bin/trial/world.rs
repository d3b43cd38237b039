//! Clients in virtual time, in front of a gate: the guard, or one of the rivals.
//!
//! Everything that happens is an entry of one queue, ordered by time. A client says its next line when it has heard the
//! reply to the one before, puts off what is refused for now, and gives up what is refused for good.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::time::Duration;

use smtp_guard::clock::Instant;

use crate::gate::{Backend, Gate, Heard, Id, Line};
use crate::model::{Mail, Recipient, Scenario, Visit};

/// When a trial starts: long after the boot that instants are counted from.
const START: Instant = Instant::from_ns(1_000_000_000 * 24 * 3600 * 40);

/// The outcome of a trial. Messages are counted by their existing recipients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Distinct recipients that were asked for.
    pub(crate) tried: usize,
    /// Distinct recipients of which "unknown" was heard, in all and before the first ban or deferral.
    pub(crate) unknown: usize,
    pub(crate) unknown_before: usize,
    /// Existing recipients that an attacker was told of and didn't know, likewise.
    pub(crate) learned: usize,
    pub(crate) learned_before: usize,
    /// Honest messages: at once, later, never.
    pub(crate) prompt: u32,
    pub(crate) late: u32,
    pub(crate) lost: u32,
    pub(crate) bans: u32,
    pub(crate) deferrals: u32,
    /// From the scenario's beginning.
    pub(crate) first_ban: Option<Duration>,
    pub(crate) first_deferral: Option<Duration>,
    /// Sources banned: of honest senders, and all.
    pub(crate) friends_banned: usize,
    pub(crate) banned: usize,
}

/// What a client waits for the reply to.
#[derive(Clone, Debug)]
enum Stage {
    Greeting,
    Hello,
    Login,
    Mail,
    /// The recipient that was asked for.
    Rcpt(usize),
    Data,
    Message,
    Reset,
    Quit,
}

struct Client {
    visit: Visit,
    stage: Stage,
    /// Which mail it is at, and what became of its recipients.
    mail: usize,
    accepted: Vec<Recipient>,
    put_off: Vec<Recipient>,
}

#[derive(Debug)]
enum Act {
    Connect(Box<Visit>),
    Say(Id, Line),
    Wake(Id),
}

struct World<'a> {
    scenario: &'a Scenario,
    gate: &'a mut dyn Gate,
    backend: Backend,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    acts: HashMap<u64, Act>,
    clients: BTreeMap<Id, Client>,
    next: Id,
    number: u64,
    tried: HashSet<Recipient>,
    unknown: HashSet<Recipient>,
    learned: HashSet<Recipient>,
    outcome: Outcome,
}

/// Plays `scenario` before `gate`.
pub(crate) fn replay(scenario: &Scenario, gate: &mut dyn Gate) -> Outcome {
    let mut world = World {
        scenario,
        gate,
        backend: Backend::default(),
        queue: BinaryHeap::new(),
        acts: HashMap::new(),
        clients: BTreeMap::new(),
        next: 0,
        number: 0,
        tried: HashSet::new(),
        unknown: HashSet::new(),
        learned: HashSet::new(),
        outcome: Outcome::default(),
    };
    for visit in &scenario.visits {
        world.plan(START.after(visit.at), Act::Connect(Box::new(visit.clone())));
    }
    world.run();
    world.close()
}

impl World<'_> {
    fn plan(&mut self, at: Instant, act: Act) {
        self.number += 1;
        self.queue.push(Reverse((at, self.number)));
        self.acts.insert(self.number, act);
    }

    fn run(&mut self) {
        let end = START.after(self.scenario.ends);
        while let Some(Reverse((now, number))) = self.queue.pop() {
            let Some(act) = self.acts.remove(&number) else { continue };
            if now >= end {
                self.give_up(act);
                continue;
            }
            let mut said = Vec::new();
            let id = match act {
                Act::Connect(visit) => {
                    let id = self.next;
                    self.next += 1;
                    if !self.gate.connect(id, visit.source, now, &mut said) {
                        let mails = visit.mails.clone();
                        self.put_off(&visit, mails, now);
                        continue;
                    }
                    let client =
                        Client { visit: *visit, stage: Stage::Greeting, mail: 0, accepted: vec![], put_off: vec![] };
                    self.clients.insert(id, client);
                    id
                }
                Act::Say(id, line) => {
                    let Some(client) = self.clients.get(&id) else { continue };
                    let more = client.visit.pipelined && matches!(line, Line::Rcpt(_));
                    if let Line::Rcpt(recipient) = line {
                        self.tried.insert(recipient);
                    }
                    self.gate.say(id, &line, more, &mut self.backend, now, &mut said);
                    id
                }
                Act::Wake(id) => {
                    if self.gate.due(id).is_some_and(|due| due <= now) {
                        self.gate.wake(id, &mut self.backend, now, &mut said);
                    }
                    id
                }
            };
            for (id, heard) in said {
                self.hear(id, heard, now);
            }
            if let Some(due) = self.gate.due(id) {
                self.plan(due, Act::Wake(id));
            }
        }
    }

    /// `id` hears a reply, or the end.
    fn hear(&mut self, id: Id, heard: Heard, now: Instant) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        let Heard::Reply(code) = heard else {
            self.lose(client, now);
            return;
        };
        let class = code / 100;
        let next = match client.stage.clone() {
            Stage::Greeting => Some(Line::Hello),
            Stage::Hello if client.visit.login => {
                client.stage = Stage::Login;
                Some(Line::Login)
            }
            Stage::Hello | Stage::Login | Stage::Reset => self.next_mail(&mut client),
            Stage::Mail => match class {
                2 => self.next_recipient(&mut client, 0),
                _ => {
                    let recipients = client.current().recipients.clone();
                    for recipient in recipients {
                        self.settle(&mut client, recipient, class);
                    }
                    self.end_mail(&mut client, now);
                    self.next_mail(&mut client)
                }
            },
            Stage::Rcpt(index) => {
                let recipient = client.current().recipients[index];
                match class {
                    2 => {
                        self.learn(recipient, &client);
                        client.accepted.push(recipient);
                    }
                    _ => self.settle(&mut client, recipient, class),
                }
                self.next_recipient(&mut client, index + 1)
            }
            Stage::Data => {
                client.stage = Stage::Message;
                Some(Line::Message)
            }
            Stage::Message => {
                for recipient in std::mem::take(&mut client.accepted) {
                    self.settle(&mut client, recipient, class);
                }
                self.end_mail(&mut client, now);
                self.next_mail(&mut client)
            }
            Stage::Quit => None,
        };
        match next {
            Some(line) => {
                if matches!(line, Line::Hello) {
                    client.stage = Stage::Hello;
                }
                if matches!(line, Line::Reset) {
                    self.end_mail(&mut client, now);
                }
                let pace = if client.visit.pipelined && matches!(line, Line::Rcpt(_)) {
                    Duration::ZERO
                } else {
                    client.visit.pace
                };
                self.plan(now.after(pace), Act::Say(id, line));
                self.clients.insert(id, client);
            }
            None => self.lose(client, now),
        }
    }

    fn next_mail(&mut self, client: &mut Client) -> Option<Line> {
        match client.visit.mails.get(client.mail) {
            Some(mail) => {
                client.stage = Stage::Mail;
                Some(Line::Mail(mail.sender))
            }
            None => {
                client.stage = Stage::Quit;
                Some(Line::Quit)
            }
        }
    }

    fn next_recipient(&mut self, client: &mut Client, index: usize) -> Option<Line> {
        let (recipient, sends) = {
            let mail = client.current();
            (mail.recipients.get(index).copied(), mail.sends)
        };
        if let Some(recipient) = recipient {
            client.stage = Stage::Rcpt(index);
            return Some(Line::Rcpt(recipient));
        }
        if sends && !client.accepted.is_empty() {
            client.stage = Stage::Data;
            return Some(Line::Data);
        }
        client.stage = Stage::Reset;
        for recipient in std::mem::take(&mut client.accepted) {
            self.settle(client, recipient, 2);
        }
        Some(Line::Reset)
    }

    /// `recipient` of the current mail is done with, by a reply of `class`.
    fn settle(&mut self, client: &mut Client, recipient: Recipient, class: u16) {
        match class {
            2 | 3 if client.visit.honest && recipient.exists() => {
                if client.current().late {
                    self.outcome.late += 1;
                } else {
                    self.outcome.prompt += 1;
                }
            }
            2 | 3 => {}
            4 => client.put_off.push(recipient),
            _ if recipient.exists() && (client.visit.honest || !matches!(recipient, Recipient::Closed(_))) => {
                self.outcome.lost += u32::from(client.visit.honest)
            }
            _ => {
                self.unknown.insert(recipient);
                if self.gate.sanctions().first().is_none() {
                    self.outcome.unknown_before = self.unknown.len();
                }
            }
        }
    }

    fn learn(&mut self, recipient: Recipient, client: &Client) {
        let (Recipient::Mailbox(number) | Recipient::Greylisted(number)) = recipient else { return };
        if client.visit.honest || number < self.scenario.known_below {
            return;
        }
        self.learned.insert(recipient);
        if self.gate.sanctions().first().is_none() {
            self.outcome.learned_before = self.learned.len();
        }
    }

    /// The current mail is done with, but for what was put off.
    fn end_mail(&mut self, client: &mut Client, now: Instant) {
        let recipients = std::mem::take(&mut client.put_off);
        let mail = Mail { recipients, ..client.current().clone() };
        client.mail += 1;
        self.put_off(&client.visit, vec![mail], now);
    }

    /// The connection is over: what is left is put off.
    fn lose(&mut self, mut client: Client, now: Instant) {
        let mut left: Vec<Mail> = client.visit.mails.split_off(client.mail.min(client.visit.mails.len()));
        if let Some(mail) = left.first_mut() {
            let asked = match client.stage {
                Stage::Rcpt(index) => index,
                Stage::Data | Stage::Message => mail.recipients.len(),
                _ => 0,
            };
            mail.recipients.drain(..asked);
            if mail.sends {
                mail.recipients.append(&mut client.accepted);
            } else if client.visit.honest {
                // Who only asks has the answer.
                self.outcome.prompt += u32::try_from(client.accepted.len()).unwrap_or(u32::MAX);
            }
            mail.recipients.append(&mut client.put_off);
        }
        self.put_off(&client.visit, left, now);
    }

    fn put_off(&mut self, visit: &Visit, mut mails: Vec<Mail>, now: Instant) {
        mails.retain(|mail| !mail.recipients.is_empty());
        if mails.is_empty() {
            return;
        }
        for mail in &mut mails {
            mail.late = true;
        }
        let mut visit = Visit { mails, ..visit.clone() };
        if visit.retry.times == 0 {
            return self.give_up(Act::Connect(Box::new(visit)));
        }
        visit.retry.times -= 1;
        // A quarter earlier or later: what is put off together doesn't stay together.
        let share = u32::try_from(self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54).unwrap_or(0);
        let after = visit.retry.after * 3 / 4 + visit.retry.after * share / 2048;
        self.plan(now.after(after), Act::Connect(Box::new(visit)));
    }

    fn give_up(&mut self, act: Act) {
        if let Act::Connect(visit) = act
            && visit.honest
        {
            let left = visit.mails.iter().flat_map(|mail| &mail.recipients).filter(|recipient| recipient.exists());
            self.outcome.lost += u32::try_from(left.count()).unwrap_or(u32::MAX);
        }
    }

    fn close(mut self) -> Outcome {
        let end = START.after(self.scenario.ends);
        for client in std::mem::take(&mut self.clients).into_values() {
            self.lose(client, end);
        }
        while let Some(Reverse((_, number))) = self.queue.pop() {
            if let Some(act) = self.acts.remove(&number) {
                self.give_up(act);
            }
        }
        let sanctions = self.gate.sanctions();
        let begins = START.after(self.scenario.begins);
        let friends: HashSet<_> = self.scenario.visits.iter().filter(|visit| visit.honest).map(|v| v.source).collect();
        Outcome {
            tried: self.tried.len(),
            unknown: self.unknown.len(),
            learned: self.learned.len(),
            bans: sanctions.bans,
            deferrals: sanctions.deferrals,
            first_ban: sanctions.first_ban.map(|at| at.since(begins)),
            first_deferral: sanctions.first_deferral.map(|at| at.since(begins)),
            friends_banned: sanctions.banned.intersection(&friends).count(),
            banned: sanctions.banned.len(),
            ..self.outcome
        }
    }
}

impl Client {
    fn current(&self) -> &Mail {
        &self.visit.mails[self.mail]
    }
}
