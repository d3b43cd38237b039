//! The gate between clients and mailboxes, as both sides see it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use smtp_guard::clock::Instant;

use crate::model::{GREYLIST, PARTNER, Recipient, Standing};

/// A connection.
pub(crate) type Id = usize;

/// A client's line.
#[derive(Clone, Debug)]
pub(crate) enum Line {
    Hello,
    /// The right password.
    Login,
    Mail(&'static str),
    Rcpt(Recipient),
    Data,
    /// Message data and its dot.
    Message,
    Reset,
    Quit,
}

/// The answer that a client hears.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Heard {
    Reply(u16),
    /// Nothing comes after it. A last reply that announces it (421, 221, 554) is no [`Heard::Reply`].
    Closed,
}

/// A gate between clients and mailboxes.
pub(crate) trait Gate {
    /// `false`: the connection is refused.
    fn connect(&mut self, id: Id, source: IpAddr, now: Instant, said: &mut Vec<(Id, Heard)>) -> bool;
    fn say(
        &mut self,
        id: Id,
        line: &Line,
        more: bool,
        backend: &mut Backend,
        now: Instant,
        said: &mut Vec<(Id, Heard)>,
    );
    /// When it has something to say without being spoken to.
    fn due(&self, id: Id) -> Option<Instant>;
    fn wake(&mut self, id: Id, backend: &mut Backend, now: Instant, said: &mut Vec<(Id, Heard)>);
    /// What it has done against sources.
    fn sanctions(&self) -> &Sanctions;
}

/// A gate's sanctions against sources.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sanctions {
    pub(crate) first_ban: Option<Instant>,
    pub(crate) first_deferral: Option<Instant>,
    pub(crate) bans: u32,
    pub(crate) deferrals: u32,
    pub(crate) banned: HashSet<IpAddr>,
}

impl Sanctions {
    pub(crate) fn ban(&mut self, source: IpAddr, now: Instant) {
        self.first_ban.get_or_insert(now);
        self.bans += 1;
        self.banned.insert(source);
    }

    pub(crate) fn defer(&mut self, now: Instant) {
        self.first_deferral.get_or_insert(now);
        self.deferrals += 1;
    }

    pub(crate) fn first(&self) -> Option<Instant> {
        [self.first_ban, self.first_deferral].into_iter().flatten().min()
    }
}

/// The mail server behind the gate.
#[derive(Debug, Default)]
pub(crate) struct Backend {
    asked: HashMap<Recipient, Instant>,
}

impl Backend {
    pub(crate) fn standing(&mut self, recipient: Recipient, sender: &str, now: Instant) -> Standing {
        match recipient {
            Recipient::Mailbox(_) => Standing::Exists,
            Recipient::Closed(_) if sender == PARTNER => Standing::Exists,
            Recipient::Nobody(_) | Recipient::Chosen(_) | Recipient::Closed(_) | Recipient::Trap => Standing::Unknown,
            Recipient::Greylisted(_) => {
                let first = *self.asked.entry(recipient).or_insert(now);
                if now.since(first) < GREYLIST { Standing::NotNow } else { Standing::Exists }
            }
        }
    }
}
