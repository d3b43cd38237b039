//! Policy. Pure: facts and rules in, a decision out; no I/O, no session, no clock of its own.
//!
//! A [`Permit`] can only be made here, and the session can't forward without one: a check that was forgotten doesn't
//! compile. The exempt list is asked first in every decision and always wins.

use std::borrow::Cow;
use std::net::IpAddr;

use smtp_guard_ebpf::reason::Reason;

use crate::config::{Granted, Profile};
use crate::facts::unknown;
use crate::snapshot::Snapshot;
use crate::wire::address::{ForwardPath, Host, Mailbox};
use crate::wire::reply::Reply;

pub mod checks;

/// Bytes of a path (RFC 5321 4.5.3.1.3) that a reply names.
const SHOWN: usize = 256;

/// A decision: go on with the proof of it, or the refusal.
#[derive(Debug)]
pub enum Ruling<T = Permit> {
    Permit(T),
    Refuse(Refusal),
}

/// Proof that policy permitted an envelope part to be forwarded. Only this module makes one.
#[derive(Debug)]
pub struct Permit(());

/// A refusal: why, and what the client hears.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub reason: Reason,
    pub reply: Reply,
}

/// The client, settled once at connect.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub ip: IpAddr,
    /// On the exempt list: never limited, checked, delayed or banned.
    pub exempt: bool,
    /// May send anywhere.
    pub may_relay: bool,
    /// Has logged in.
    pub authenticated: bool,
}

impl Client {
    /// Notes a login. `may_relay`: logged-in clients may send anywhere.
    pub fn authenticate(&mut self, may_relay: bool) {
        self.authenticated = true;
        self.may_relay |= may_relay;
    }

    /// Notes a failed login: being in a trusted network doesn't help any more. Exempt stays exempt.
    pub fn forget_network(&mut self) {
        self.may_relay &= self.exempt;
    }
}

/// The standing of a recipient, for the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In the recipient table, or nothing is known of it: the backend decides.
    Open,
    /// The domain's backend takes any recipient: its yes proves nothing.
    CatchAll,
    /// `postmaster` of a served domain: never counts as unknown.
    Postmaster,
}

impl Refusal {
    /// The refusal of the recipient `path` that doesn't exist, in our own words.
    pub fn unknown_recipient(path: &ForwardPath) -> Self {
        Self { reason: Reason::UnknownRecipient, reply: unknown_recipient(path) }
    }
}

impl Snapshot {
    /// Whether `reply` to RCPT says that `recipient` (without angle brackets) doesn't exist: by the profile, or in the words that
    /// a server has for it.
    pub fn says_unknown(&self, reply: &Reply, recipient: &str) -> bool {
        let enhanced = reply.enhanced().map(|enhanced| enhanced.parts());
        unknown::is_unknown(self.profile(), reply.code().get(), enhanced, reply.last_line(), recipient)
            || self.learned.wordings().values().any(|wording| wording.is_of(reply, recipient))
    }

    /// Whether `client` is one of ours: exempt, in a trusted network, or logged in.
    pub fn is_own(&self, client: &Client) -> bool {
        client.exempt || client.may_relay || client.authenticated
    }

    /// Whether a bare LF in message data of `client` is repaired.
    pub fn repairs_newlines(&self, client: &Client) -> bool {
        self.grants(self.config.checks.bare_newline, client)
    }

    /// Whether a bare LF in chunks is repaired: nobody can take it for an end there, so whoever sends it.
    pub fn repairs_chunks(&self) -> bool {
        self.config.checks.bare_newline != Granted::None
    }

    /// Whether `client` may ask for notices of delivery.
    pub fn grants_notices(&self, client: &Client) -> bool {
        self.grants(self.config.checks.success_notices, client)
    }

    fn grants(&self, granted: Granted, client: &Client) -> bool {
        match granted {
            Granted::All => true,
            Granted::Own => self.is_own(client),
            Granted::None => false,
        }
    }

    /// The profile that unknown-recipient replies are read by.
    pub fn profile(&self) -> Profile {
        self.config.backend.profile
    }

    /// The client at `ip`: exempt, trusted or a stranger.
    pub fn client(&self, ip: IpAddr) -> Client {
        let exempt = self.config.exempt.contains(ip);
        Client { ip, exempt, may_relay: exempt || self.config.relay.networks.contains(ip), authenticated: false }
    }

    /// MAIL: the declared size, in bytes, against the limit.
    pub fn mail(&self, client: &Client, declared_size: Option<u64>) -> Ruling {
        match declared_size {
            Some(size) if !client.exempt && size > self.config.limits.message_size => {
                Ruling::Refuse(self.message_too_large())
            }
            _ => Ruling::Permit(Permit(())),
        }
    }

    /// RCPT, before anything has to be found out: whether `client` may send to `path` at all.
    pub fn relay(&self, client: &Client, path: &ForwardPath) -> Option<Refusal> {
        let ForwardPath::Mailbox(mailbox) = path else { return None };
        let open = client.may_relay || self.serves(mailbox) && !mailbox.is_indirect();
        (!open)
            .then(|| Refusal { reason: Reason::Relay, reply: Reply::new(554, Some((5, 7, 1)), "Relay access denied") })
    }

    /// Whether `path` is `postmaster` of a served domain: accepted from everyone (RFC 5321 4.5.1).
    pub fn is_postmaster(&self, path: &ForwardPath) -> bool {
        match path {
            ForwardPath::Postmaster => true,
            ForwardPath::Mailbox(mailbox) => mailbox.local().eq_ignore_ascii_case("postmaster") && self.serves(mailbox),
        }
    }

    /// RCPT: relay, number of recipients accepted so far, traps, recipient table. The order is that of the costs to the
    /// sender: what can never work is said before what may work later.
    pub fn recipient(&self, client: &Client, path: &ForwardPath, accepted: u32) -> Ruling<(Permit, Standing)> {
        if let Some(refusal) = self.relay(client, path) {
            return Ruling::Refuse(refusal);
        }
        if !client.exempt && accepted >= self.config.limits.recipients {
            return refuse(Reason::Recipients, Reply::new(452, Some((4, 5, 3)), "Too many recipients"));
        }
        let mailbox = match path {
            ForwardPath::Mailbox(mailbox) if !self.is_postmaster(path) => mailbox,
            _ => return Ruling::Permit((Permit(()), Standing::Postmaster)),
        };
        // A user, or a host of ours, that writes there is mistaken, not harvesting.
        let trapped = !self.traps.is_empty() && self.traps.contains(&mailbox.key()) && self.serves(mailbox);
        if trapped && !self.is_own(client) {
            return refuse(Reason::Trap, unknown_recipient(path));
        }
        match &self.known {
            Some(known) if self.serves(mailbox) && !known.load().lookup(&mailbox.key()) => {
                Ruling::Refuse(Refusal::unknown_recipient(path))
            }
            _ => Ruling::Permit((Permit(()), self.standing(mailbox))),
        }
    }

    fn standing(&self, mailbox: &Mailbox) -> Standing {
        let catch_alls = self.learned.catch_alls();
        let is_any = !catch_alls.is_empty() && catch_alls.contains(&*mailbox.domain().key());
        if is_any { Standing::CatchAll } else { Standing::Open }
    }

    /// Message data: bytes so far against the limit.
    pub fn data(&self, client: &Client, size: u64) -> Option<Refusal> {
        (!client.exempt && size > self.config.limits.message_size).then(|| self.message_too_large())
    }

    fn serves(&self, mailbox: &Mailbox) -> bool {
        match mailbox.domain() {
            // As the configuration has it: an international name in its ASCII form.
            name @ Host::Name(_) => self.domains.contains(&*name.key()),
            Host::Literal(_) => false,
        }
    }

    fn message_too_large(&self) -> Refusal {
        let text = format!("Message larger than {} bytes", self.config.limits.message_size);
        Refusal { reason: Reason::MessageSize, reply: Reply::new(552, Some((5, 3, 4)), text) }
    }
}

/// Names the recipient, as a sender's notification of many needs. One that can't be read in a reply is left out.
fn unknown_recipient(path: &ForwardPath) -> Reply {
    const WORDS: &str = "Recipient address rejected: User unknown";
    let named = path.to_string();
    let shown = named.len() <= SHOWN && named.bytes().all(|byte| byte.is_ascii_graphic());
    let text = if shown { Cow::Owned(format!("{named}: {WORDS}")) } else { Cow::Borrowed(WORDS) };
    Reply::new(550, Some((5, 1, 1)), text)
}

fn refuse<T>(reason: Reason, reply: Reply) -> Ruling<T> {
    Ruling::Refuse(Refusal { reason, reply })
}
