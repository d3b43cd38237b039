//! Building blocks of profiles.

use std::net::IpAddr;
use std::time::Duration;

use crate::model::{DAY, HOUR, MINUTE, Mail, Random, Recipient, Retry, SECOND, Scenario, Site, Visit};

mod attacks;
mod honest;

/// All profiles with the traffic of `seed`: honest senders first.
pub(crate) fn all(seed: u64) -> Vec<Scenario> {
    let profiles = honest::PROFILES.iter().chain(attacks::PROFILES);
    profiles.map(|(name, make)| Maker::new(seed, name).make(*make)).collect()
}

/// A mail server: every quarter of an hour, for two days.
const SERVER: Retry = Retry { after: MINUTE.saturating_mul(15), times: 4 * 48 };
/// Whoever gives up at the first difficulty.
const NEVER: Retry = Retry { after: SECOND, times: 0 };
/// An attacker: after ten minutes, until the trial is over.
const STUBBORN: Retry = Retry { after: MINUTE.saturating_mul(10), times: 1000 };

const SENDER: &str = "someone@client.example";
const BOUNCE: &str = "";

/// Makes one scenario.
struct Maker {
    random: Random,
    scenario: Scenario,
    /// What the next sessions are like.
    retry: Retry,
    honest: bool,
    pipelined: bool,
    login: bool,
    sender: &'static str,
    sends: bool,
}

impl Maker {
    fn new(seed: u64, name: &'static str) -> Self {
        let scenario = Scenario {
            name,
            visits: Vec::new(),
            site: Site::default(),
            known_below: 0,
            begins: Duration::ZERO,
            ends: DAY * 7,
            single: false,
        };
        Self {
            random: Random::new(seed, name),
            scenario,
            retry: SERVER,
            honest: true,
            pipelined: false,
            login: false,
            sender: SENDER,
            sends: true,
        }
    }

    fn make(mut self, make: fn(&mut Self)) -> Scenario {
        make(&mut self);
        self.scenario
    }

    /// An attack from here on, for a day.
    fn attack(&mut self) {
        self.retry = STUBBORN;
        self.honest = false;
        self.scenario.ends = self.scenario.begins + DAY;
    }

    /// A session at `at` with a transaction for each of `mails`.
    fn visit(&mut self, at: Duration, source: IpAddr, mails: impl IntoIterator<Item = Vec<Recipient>>) {
        let (sender, sends) = (self.sender, self.sends);
        let mails = mails.into_iter().map(|recipients| Mail { sender, recipients, sends, late: false }).collect();
        let pace = Duration::from_millis(50);
        let Self { pipelined, login, retry, honest, .. } = *self;
        self.scenario.visits.push(Visit { at, source, mails, pace, login, pipelined, retry, honest });
    }

    /// `count` messages of one recipient each, at random within `span` after `from`; `stale` in a hundred of their
    /// recipients, out of many, don't exist, the others are out of `mailboxes`.
    fn traffic(&mut self, source: IpAddr, (from, span): (Duration, Duration), count: u32, stale: u32, mailboxes: u32) {
        for _ in 0..count {
            let at = from + self.random.within(span);
            let recipient = match self.random.percent(stale) {
                true => Recipient::Nobody(self.random.below(mailboxes)),
                false => Recipient::Mailbox(self.random.below(mailboxes)),
            };
            self.visit(at, source, [vec![recipient]]);
        }
    }

    /// Ten messages an hour for two days, all wanted. What is told of the time is told from the third on.
    fn history(&mut self, source: IpAddr) {
        self.traffic(source, (Duration::ZERO, DAY * 2), 480, 0, 100);
        self.scenario.begins = DAY * 2;
    }

    /// A session every `every`.
    fn every(&mut self, every: Duration, from: Duration, count: u32, source: IpAddr, recipients: &[Recipient]) {
        for n in 0..count {
            let at = from + every * n + self.random.within(every / 10);
            self.visit(at, source, [recipients.to_vec()]);
        }
    }
}
