//! Rivals against the same traffic, as simple models of the rule that each documents. None of them delays a
//! greeting or looks at shares; a ban refuses connections and ends those that are there.
//!
//! - Kerio Connect, administrator's guide, "Security Options", "IP address based limits": the server that sends to more
//!   unknown recipients than the allowed number "is blocked for an hour". The number is the administrator's; 10 here.
//! - Postfix, postconf(5): `smtpd_hard_error_limit` (20), the errors that a client may make "without delivering mail"
//!   before it is disconnected, and from `smtpd_soft_error_limit` (10) on `smtpd_error_sleep_time` (1 s) before each
//!   reply. A session knows nothing of the one before.
//! - fail2ban, `jail.conf`: `maxretry = 5` within `findtime = 10m`, then `bantime = 10m`, with its `postfix` filter, which
//!   counts each "User unknown".

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use smtp_guard::clock::Instant;

use crate::gate::{Backend, Gate, Heard, Id, Line, Sanctions};
use crate::model::{HOUR, MINUTE, SECOND, Standing};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rival {
    /// So many refusals of a source within a time ban it for a time.
    Count { refusals: usize, within: Duration, ban: Duration },
    /// So many errors of a session end it; from half of it on they are answered late.
    Errors { limit: u32 },
}

pub(crate) const RIVALS: [(&str, Rival); 3] = [
    ("Kerio", Rival::Count { refusals: 10, within: HOUR, ban: HOUR }),
    ("Postfix", Rival::Errors { limit: 20 }),
    ("fail2ban", Rival::Count { refusals: 5, within: MINUTE.saturating_mul(10), ban: MINUTE.saturating_mul(10) }),
];

pub(crate) struct Plain {
    rival: Rival,
    sessions: HashMap<Id, Live>,
    refused: HashMap<IpAddr, VecDeque<Instant>>,
    bans: HashMap<IpAddr, Instant>,
    sanctions: Sanctions,
}

struct Live {
    source: IpAddr,
    sender: &'static str,
    errors: u32,
    held: Option<(u16, Instant)>,
}

impl Plain {
    pub(crate) fn new(rival: Rival) -> Self {
        Self {
            rival,
            sessions: HashMap::new(),
            refused: HashMap::new(),
            bans: HashMap::new(),
            sanctions: Sanctions::default(),
        }
    }

    /// A recipient of `id` was refused with `code`: the reply, or its end.
    fn refuse(&mut self, id: Id, code: u16, now: Instant, said: &mut Vec<(Id, Heard)>) {
        let Some(live) = self.sessions.get_mut(&id) else { return };
        match self.rival {
            Rival::Errors { limit } => {
                live.errors += 1;
                if live.errors >= limit {
                    self.sessions.remove(&id);
                    said.push((id, Heard::Closed));
                } else if live.errors > limit / 2 {
                    live.held = Some((code, now.after(SECOND)));
                } else {
                    said.push((id, Heard::Reply(code)));
                }
            }
            Rival::Count { .. } if code != 550 => said.push((id, Heard::Reply(code))),
            Rival::Count { refusals, within, ban } => {
                said.push((id, Heard::Reply(550)));
                let source = live.source;
                let seen = self.refused.entry(source).or_default();
                seen.retain(|at| now.since(*at) < within);
                seen.push_back(now);
                if seen.len() < refusals {
                    return;
                }
                seen.clear();
                self.bans.insert(source, now.after(ban));
                self.sanctions.ban(source, now);
                let mut ended: Vec<_> =
                    self.sessions.iter().filter(|(_, live)| live.source == source).map(|(id, _)| *id).collect();
                ended.sort_unstable();
                for id in ended {
                    self.sessions.remove(&id);
                    said.push((id, Heard::Closed));
                }
            }
        }
    }
}

impl Gate for Plain {
    fn connect(&mut self, id: Id, source: IpAddr, now: Instant, said: &mut Vec<(Id, Heard)>) -> bool {
        if self.bans.get(&source).is_some_and(|until| now < *until) {
            return false;
        }
        self.sessions.insert(id, Live { source, sender: "", errors: 0, held: None });
        said.push((id, Heard::Reply(220)));
        true
    }

    fn say(
        &mut self,
        id: Id,
        line: &Line,
        _more: bool,
        backend: &mut Backend,
        now: Instant,
        said: &mut Vec<(Id, Heard)>,
    ) {
        let Some(live) = self.sessions.get_mut(&id) else { return };
        let heard = match line {
            Line::Rcpt(recipient) => match backend.standing(*recipient, live.sender, now) {
                Standing::Exists => Heard::Reply(250),
                Standing::NotNow => return self.refuse(id, 450, now, said),
                Standing::Unknown => return self.refuse(id, 550, now, said),
            },
            Line::Data => Heard::Reply(354),
            Line::Message => {
                live.errors = 0;
                Heard::Reply(250)
            }
            Line::Mail(sender) => {
                live.sender = sender;
                Heard::Reply(250)
            }
            Line::Hello | Line::Login | Line::Reset => Heard::Reply(250),
            Line::Quit => {
                self.sessions.remove(&id);
                Heard::Closed
            }
        };
        said.push((id, heard));
    }

    fn due(&self, id: Id) -> Option<Instant> {
        self.sessions.get(&id)?.held.map(|(_, due)| due)
    }

    fn wake(&mut self, id: Id, _backend: &mut Backend, _now: Instant, said: &mut Vec<(Id, Heard)>) {
        if let Some((code, _)) = self.sessions.get_mut(&id).and_then(|live| live.held.take()) {
            said.push((id, Heard::Reply(code)));
        }
    }

    fn sanctions(&self) -> &Sanctions {
        &self.sanctions
    }
}
