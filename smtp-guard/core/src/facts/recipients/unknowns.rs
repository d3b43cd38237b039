//! Recipients that the backend has refused as unknown, remembered for a few minutes. A dictionary that is spread over a botnet
//! asks for the same names over and over.
//!
//! A backend may refuse a recipient to one client, or for one sender, only. A gateway that remembered such an answer
//! blocked real users. So an answer is believed only after it was given to two sources and to two senders. It is believed
//! for [`LIFE`] after the first of them at most, and no longer once the backend has accepted the recipient. Only the
//! backend's own answers count: what this memory answers teaches it nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use smtp_guard_ebpf::abi::Source;

use crate::clock::Instant;
use crate::offence::Digest;

/// How long the answers to one recipient count, from the first of them on.
pub const LIFE: Duration = Duration::from_secs(300);
/// Recipients that are remembered. For one more the oldest is forgotten. An address has 254 bytes at most: 25 MB.
pub const RECIPIENTS: usize = 65_536;

/// The memory. Pure: time is passed in.
#[derive(Debug)]
pub struct Unknowns {
    room: usize,
    /// By the normalised address.
    heard: HashMap<Arc<str>, Heard>,
    /// By the number of the first answer: the oldest first.
    order: BTreeMap<u64, Arc<str>>,
    next: u64,
}

/// The answers about one recipient.
#[derive(Clone, Copy, Debug)]
struct Heard {
    number: u64,
    first: Instant,
    source: Source,
    sender: Digest,
    /// Also by another source, and of another sender.
    confirmed: (bool, bool),
}

impl Default for Unknowns {
    fn default() -> Self {
        Self::new(RECIPIENTS)
    }
}

impl Unknowns {
    /// A memory for `room` recipients.
    pub fn new(room: usize) -> Self {
        Self { room: room.max(1), heard: HashMap::new(), order: BTreeMap::new(), next: 0 }
    }

    /// The backend has told `source`, on behalf of `sender`, that `recipient` doesn't exist. True if another recipient had
    /// to be forgotten before its time.
    pub fn refused(&mut self, recipient: &str, source: Source, sender: Digest, now: Instant) -> bool {
        self.expire(now);
        if let Some(heard) = self.heard.get_mut(recipient) {
            heard.confirmed.0 |= heard.source != source;
            heard.confirmed.1 |= heard.sender != sender;
            return false;
        }
        let full = self.heard.len() >= self.room;
        if full {
            self.forget_oldest();
        }
        let recipient: Arc<str> = recipient.into();
        let number = self.next;
        self.next += 1;
        self.order.insert(number, Arc::clone(&recipient));
        self.heard.insert(recipient, Heard { number, first: now, source, sender, confirmed: (false, false) });
        full
    }

    /// The backend has accepted `recipient`.
    pub fn accepted(&mut self, recipient: &str) {
        if let Some(heard) = self.heard.remove(recipient) {
            self.order.remove(&heard.number);
        }
    }

    /// Whether `recipient` can be answered for: the backend would say that it doesn't exist.
    pub fn is_unknown(&self, recipient: &str, now: Instant) -> bool {
        let heard = self.heard.get(recipient).filter(|heard| heard.is_fresh(now));
        heard.is_some_and(|heard| heard.confirmed == (true, true))
    }

    /// Recipients that are remembered.
    pub fn len(&self) -> usize {
        self.heard.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.heard.is_empty()
    }

    /// All have the same time to live, so the oldest end first.
    fn expire(&mut self, now: Instant) {
        while let Some((_, oldest)) = self.order.first_key_value()
            && self.heard.get(oldest).is_none_or(|heard| !heard.is_fresh(now))
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, oldest)) = self.order.pop_first() {
            self.heard.remove(&oldest);
        }
    }
}

impl Heard {
    fn is_fresh(&self, now: Instant) -> bool {
        now.since(self.first) < LIFE
    }
}

#[cfg(test)]
mod tests;
