//! Loads, and their senders.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{client, run};

/// Seconds after which a load is given up.
const LONGEST: &str = "300";

/// A load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) name: &'static str,
    pub(super) client: Client,
    pub(super) beside: Beside,
    /// At once.
    sessions: u32,
    /// In all sessions together.
    pub(super) messages: u32,
    /// Of a message, in bytes.
    length: u32,
    recipients: u32,
    /// Whether a session sends many messages.
    stays: bool,
    sender: &'static str,
}

/// The sender of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// smtp-source: one command at a time.
    Source,
    /// The same through stunnel, which speaks TLS to the peer.
    Tls,
    /// Our own, whose envelope goes out at once.
    Pipelining,
    /// Our own, whose recipients don't exist. A recipient counts as a message.
    Refused,
}

/// The company of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    Nothing,
    /// Clients that take their time.
    Slow,
    /// A harvest, and a flood of connections.
    Attack,
}

impl Beside {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Slow => "three slow clients",
            Self::Attack => "a harvest and a flood of connections",
        }
    }
}

const ONE: Load = Load {
    name: "one message a session",
    client: Client::Source,
    beside: Beside::Nothing,
    sessions: 50,
    messages: 2000,
    length: 4096,
    recipients: 1,
    stays: false,
    sender: "a@sender.example",
};

/// Those that are measured.
pub(super) const LOADS: &[Load] = &[
    ONE,
    Load { name: "many messages a session", messages: 4000, stays: true, ..ONE },
    Load { name: "messages of 1 MiB", sessions: 20, messages: 200, length: 1 << 20, ..ONE },
    Load { name: "20 recipients a message", messages: 600, recipients: 20, ..ONE },
    Load { name: "one message a session, pipelining", client: Client::Pipelining, ..ONE },
    Load { name: "one message a session, TLS", client: Client::Tls, sessions: 20, messages: 500, ..ONE },
    Load { name: "refused recipients", client: Client::Refused, messages: 20_000, recipients: 50, ..ONE },
    Load { name: "one message a session beside slow clients", beside: Beside::Slow, ..ONE },
    Load { name: "one message a session beside a harvest and a flood", beside: Beside::Attack, ..ONE },
];

/// Before the first round: DNS answers, the history of the client, and memory are there.
pub(super) const WARM: Load = Load { name: "to get warm", messages: 500, ..ONE };
/// For strace, which makes everything slow.
pub(super) const FEW: Load = Load { messages: 500, ..ONE };
pub(super) const FEW_IN_A_SESSION: Load = Load { name: "many messages a session", messages: 1000, stays: true, ..ONE };
/// One message.
pub(super) const PROBE: Load = Load { name: "a message", sessions: 1, messages: 1, ..ONE };
/// The same of a sender whose domain doesn't exist.
pub(super) const WITHOUT_DOMAIN: Load = Load { name: "a sender without a domain", sender: "a@absent.example", ..PROBE };

impl Load {
    /// Sends it all. Whatever isn't answered as it should be is an error.
    pub(super) fn send(&self, from: Ipv4Addr, to: SocketAddr) -> anyhow::Result<()> {
        match self.client {
            Client::Source | Client::Tls => {
                let mut command = Command::new("timeout");
                command.args([LONGEST, "smtp-source"]).args(self.arguments(to));
                run(&mut command)
            }
            Client::Pipelining => {
                self.in_threads(self.messages, || client::message(from, to, true, Duration::ZERO).map(drop))
            }
            Client::Refused => {
                self.in_threads(self.messages / self.recipients, || client::refused(from, to, self.recipients))
            }
        }
    }

    fn arguments(&self, to: SocketAddr) -> Vec<String> {
        let stays = self.stays.then(|| "-d".to_owned());
        let numbers = [("-s", self.sessions), ("-m", self.messages), ("-l", self.length), ("-r", self.recipients)];
        let numbers = numbers.into_iter().flat_map(|(flag, number)| [flag.to_owned(), number.to_string()]);
        let rest = ["-f", self.sender, "-t", "bob@example.org"].map(str::to_owned);
        stays.into_iter().chain(numbers).chain(rest).chain([to.to_string()]).collect()
    }

    /// So many sessions, some at once; the first error ends it.
    fn in_threads(&self, sessions: u32, session: impl Fn() -> anyhow::Result<()> + Sync) -> anyhow::Result<()> {
        let begun = AtomicU32::new(0);
        let work = || {
            while begun.fetch_add(1, Ordering::Relaxed) < sessions {
                session()?;
            }
            anyhow::Ok(())
        };
        thread::scope(|threads| {
            let all: Vec<_> = (0..self.sessions).map(|_| threads.spawn(work)).collect();
            all.into_iter().try_for_each(|thread| match thread.join() {
                Ok(outcome) => outcome,
                Err(_) => bail!("a client panicked"),
            })
        })
        .with_context(|| self.name)
    }
}
