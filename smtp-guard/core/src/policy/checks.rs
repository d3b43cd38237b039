//! Checks of a stranger and its sender: what is found out, and what follows from it.
//!
//! A stranger is a client on an `mx` port that is not exempt, not in `relay.networks` and has not logged in. A known sender is one
//! as well. Look-ups begin at connect and at the first RCPT. They are judged at RCPT: by then the client may have logged in, and the log can name a
//! recipient. All checks are judged, also when one refuses, so that what `observe` counts doesn't depend on the others.
//!
//! A failed look-up is never "there is none": it refuses at most for now (450). It does so only where mail could not be
//! answered without the fact: for the sender's domain. Sometimes a list isn't even asked, because the client's own source or
//! network has too many look-ups. That is different: a client must not get past the lists by causing it.

use std::net::Ipv4Addr;

use smtp_guard_ebpf::reason::Reason;

use super::Client;
use crate::config::{Identity, Mode, Role};
use crate::facts::dns::{Failure, Forward, Reverse, SenderDomain};
use crate::snapshot::Snapshot;
use crate::wire::address::{Host, ReversePath};
use crate::wire::reply::Reply;

/// Names of a client that a line of the log has.
const NOTED: usize = 4;

/// Findings about a client. `None`: it was not asked.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub sender: Option<Result<SenderDomain, Failure>>,
    pub reverse: Option<Result<Reverse, Failure>>,
    pub lists: Vec<Listing>,
}

/// The word of one block list on the client.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The list's name, as it may be shown.
    pub list: Box<str>,
    pub weight: u32,
    /// The answer that lists it, or that it isn't listed.
    pub found: Result<Option<Ipv4Addr>, Failure>,
}

/// Questions that should be asked about a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub reverse: bool,
    /// Whether the reverse names lead back.
    pub forward: bool,
    pub lists: bool,
}

/// A finding that a check refuses, or would refuse.
#[derive(Clone, Debug)]
pub struct Finding {
    pub reason: Reason,
    pub reply: Reply,
    /// `false`: it is only observed.
    pub enforced: bool,
    /// More than the reply says, for the log.
    pub note: String,
}

impl Snapshot {
    /// Whether checks apply to `client`.
    pub fn is_stranger(&self, client: &Client, role: Role) -> bool {
        role == Role::Mx && !self.is_own(client)
    }

    /// The facts to find out about a client on a port of `role`, from the moment it connects.
    pub fn needs(&self, client: &Client, role: Role) -> Needs {
        if !self.is_stranger(client, role) {
            return Needs::default();
        }
        let checks = &self.config.checks;
        Needs {
            reverse: checks.ptr.is_on() || checks.ptr_forward.is_on(),
            forward: checks.ptr_forward.is_on(),
            lists: checks.dnsbl.is_on() && !self.config.dnsbl.is_empty(),
        }
    }

    /// Whether the name of a client on a port of `role` should be found out, from the moment it connects: for the backend, or where it is
    /// looked up anyway.
    pub fn names_client(&self, client: &Client, role: Role) -> bool {
        self.config.backend.identity == Identity::Xclient || self.needs(client, role).forward
    }

    /// The key of a sender's domain that should be looked up: not of bounces, of address literals, or of a domain of ours.
    pub fn domain_to_look_up(&self, client: &Client, role: Role, path: &ReversePath) -> Option<String> {
        let ReversePath::Mailbox(mailbox) = path else { return None };
        let name @ Host::Name(_) = mailbox.domain() else { return None };
        let wanted = self.config.checks.sender_domain.is_on() && self.is_stranger(client, role);
        (wanted && !self.serves(mailbox)).then(|| name.key().into_owned())
    }

    /// All that `found` gives reason to refuse, what is enforced first.
    pub fn judge(&self, client: &Client, role: Role, found: &Found) -> Vec<Finding> {
        if !self.is_stranger(client, role) {
            return Vec::new();
        }
        let checks = &self.config.checks;
        let mut findings: Vec<_> = [
            (checks.dnsbl, self.listed(client, found).or_else(|| self.lists_not_asked(found))),
            (checks.ptr, no_ptr(found)),
            (checks.ptr_forward, mismatch(found)),
            (checks.sender_domain, sender(found)),
        ]
        .into_iter()
        .filter(|(mode, _)| mode.is_on())
        .filter_map(|(mode, finding)| Some((mode, finding?)))
        .map(|(mode, (reason, reply, note))| Finding { reason, reply, enforced: mode == Mode::Enforce, note })
        .collect();
        findings.sort_by_key(|finding| !finding.enforced);
        findings
    }

    fn listed(&self, client: &Client, found: &Found) -> Option<(Reason, Reply, String)> {
        let hits = || found.lists.iter().filter_map(|list| Some((list, list.found.ok()??)));
        let weight = hits().fold(0u32, |sum, (list, _)| sum.saturating_add(list.weight));
        if weight < self.config.checks.dnsbl_threshold {
            return None;
        }
        let names: Vec<_> = hits().map(|(list, _)| list.list.as_ref()).collect();
        let note = hits().map(|(list, reply)| format!("{}={reply}", list.list)).collect::<Vec<_>>().join(" ");
        let text = format!("Service unavailable; Client host [{}] blocked using {}", client.ip, names.join(", "));
        Some((Reason::Dnsbl, Reply::new(554, Some((5, 7, 1)), text), note))
    }

    /// The lists that there was no place for could make the client a listed one.
    fn lists_not_asked(&self, found: &Found) -> Option<(Reason, Reply, String)> {
        let busy = || found.lists.iter().filter(|list| list.found == Err(Failure::Busy));
        let possible = found.lists.iter().filter(|list| matches!(list.found, Ok(Some(_)) | Err(Failure::Busy)));
        let weight = possible.fold(0u32, |sum, list| sum.saturating_add(list.weight));
        if busy().next().is_none() || weight < self.config.checks.dnsbl_threshold {
            return None;
        }
        let names: Vec<_> = busy().map(|list| list.list.as_ref()).collect();
        let text = "Client host could not be looked up, try again later";
        Some((Reason::ListLookup, Reply::new(450, Some((4, 4, 3)), text), names.join(" ")))
    }
}

fn no_ptr(found: &Found) -> Option<(Reason, Reply, String)> {
    let Some(Ok(Reverse::None)) = &found.reverse else { return None };
    let reply = Reply::new(450, Some((4, 7, 1)), "Client host rejected: your address has no reverse DNS entry");
    Some((Reason::NoPtr, reply, String::new()))
}

fn mismatch(found: &Found) -> Option<(Reason, Reply, String)> {
    match &found.reverse {
        Some(Ok(Reverse::Names { names, forward: Some(Forward::Mismatch) })) => {
            let reply = Reply::new(
                450,
                Some((4, 7, 25)),
                "Client host rejected: your reverse DNS entry does not point back to you",
            );
            let shown = &names[..names.len().min(NOTED)];
            let more = if names.len() > NOTED { format!(" and {} more", names.len() - NOTED) } else { String::new() };
            Some((Reason::PtrForward, reply, format!("ptr={}{more}", shown.join(","))))
        }
        _ => None,
    }
}

fn sender(found: &Found) -> Option<(Reason, Reply, String)> {
    Some(match found.sender? {
        Ok(SenderDomain::Exists) => return None,
        Ok(SenderDomain::Missing) => {
            let reply = Reply::new(450, Some((4, 1, 8)), "Sender address rejected: Domain not found");
            (Reason::SenderDomain, reply, String::new())
        }
        Ok(SenderDomain::NullMx) => {
            let reply = Reply::new(550, Some((5, 7, 27)), "Sender address rejected: Domain takes no mail (null MX)");
            (Reason::NullMx, reply, String::new())
        }
        Err(failure) => {
            let text = "Sender address rejected: Domain could not be looked up, try again later";
            (Reason::SenderLookup, Reply::new(450, Some((4, 4, 3)), text), failure.to_string())
        }
    })
}
