//! The ledger's entry of one source: everything that the rules look at, and nothing else.

use std::collections::VecDeque;
use std::time::Duration;

use smallvec::SmallVec;
use smtp_guard_ebpf::reason::Reason;

use super::distinct::Distinct;
use super::order::Place;
use super::rule::Evidence;
use crate::addr::Source;
use crate::clock::Instant;
use crate::config::Harvest;
use crate::offence::Digest;

/// Addresses kept as evidence.
pub const SAMPLE: usize = 10;
/// Other guards that are named for a source; more are followed, but not named.
pub(super) const NODES: usize = 8;
/// Messages that make a history, accepted at least a window before.
pub(super) const HISTORY: u32 = 10;
/// How long a history lasts without a message.
pub(super) const MEMORY: Duration = Duration::from_secs(30 * 24 * 3600);

/// The deeds of a source. Most sources send a message now and then and have nothing but a history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// When it was last heard of.
    pub(super) last: Instant,
    pub(super) history: History,
    pub(super) record: Option<Box<Record>>,
}

/// Mail that was accepted, by its age: what happened in this window says nothing about whom we deal with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    /// Messages at least a window old, messages that are becoming so, and messages since `turned`.
    pub(super) older: u32,
    pub(super) previous: u32,
    pub(super) current: u32,
    pub(super) turned: Instant,
    /// The second of the latest: a million of these are kept, and it is held against [`MEMORY`] only.
    pub(super) latest: u32,
}

/// The window, and what outlasts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// See [`super::rule`] for these four.
    pub(super) unknown: Distinct,
    pub(super) returned: Distinct,
    pub(super) known: Distinct,
    pub(super) probed: Distinct,
    /// The latest unknown recipients, at most [`SAMPLE`], newest first.
    pub(super) sample: SmallVec<[Box<str>; 1]>,
    /// Most sources with a record have none of it.
    pub(super) rare: Option<Box<Rare>>,
}

/// Counts of conduct that few sources show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rare {
    /// Everything else that was held against it in this window, and how often.
    pub(super) offences: Vec<(Reason, u64)>,
    /// Guards that have reported some of it, at most [`NODES`], and how often.
    pub(super) heard: Vec<(Box<str>, u64)>,
    /// Failed logins of the last `auth.failure_window`, at most `auth.failures`.
    pub(super) failed_logins: VecDeque<Instant>,
    /// Bans and deferrals in a row, those in doubt within a window of each other, and when the last of all ends.
    pub(super) trips: u32,
    pub(super) doubts: u32,
    pub(super) tripped_until: Instant,
}

/// In which order entries make room: the first of [`Self::ALL`] first. Who has had mail accepted has room of his own: who has only
/// knocked goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// No mail of it was ever accepted, and it has named no unknown recipient.
    Knocked,
    /// Banned before; nothing in the window.
    Remembered,
    /// It has named unknown recipients, or failed to log in.
    Suspect,
    /// Well on its way to a ban, and no mail of it was ever accepted.
    Offender,
    /// Mail of it was accepted; nothing in the window.
    Friend,
    /// Likewise, with something in the window.
    Active,
}

impl History {
    /// One more message at `now`.
    pub(super) fn accepted(&mut self, now: Instant, window: Duration) {
        self.turn(now, window);
        self.current = self.current.saturating_add(1);
        self.set_latest(now);
    }

    pub(super) fn latest(&self) -> Instant {
        Instant::default().after(Duration::from_secs(self.latest.into()))
    }

    pub(super) fn set_latest(&mut self, at: Instant) {
        self.latest = u32::try_from(at.since(Instant::default()).as_secs()).unwrap_or(u32::MAX);
    }

    /// Lets time pass.
    pub(super) fn turn(&mut self, now: Instant, window: Duration) {
        let passed = now.since(self.turned);
        if now.since(self.latest()) >= MEMORY {
            *self = Self::default();
        } else if passed >= window.saturating_mul(2) {
            self.older = self.total();
            (self.previous, self.current) = (0, 0);
        } else if passed >= window {
            self.older = self.older.saturating_add(self.previous);
            (self.previous, self.current) = (self.current, 0);
        } else {
            return;
        }
        self.turned = now;
    }

    /// Whether mail of it was ever accepted.
    pub(super) fn is_known(&self) -> bool {
        self.total() > 0
    }

    /// Whether it is somebody whose mail has been accepted for some time. Trust is used up: each of the `trips` in a row
    /// has taken [`HISTORY`] messages of it.
    pub(super) fn is_trusted(&self, trips: u32) -> bool {
        self.older >= HISTORY.saturating_mul(trips.saturating_add(1))
    }

    /// All messages that count.
    pub(super) fn total(&self) -> u32 {
        self.older.saturating_add(self.previous).saturating_add(self.current)
    }
}

impl Entry {
    /// Lets time pass: what is older than the window of `rule` is forgotten, and logins that failed longer than `logins` ago.
    /// `true`: its history has lapsed by that.
    pub(super) fn expire(&mut self, now: Instant, rule: &Harvest, logins: Duration) -> bool {
        let was_known = self.history.is_known();
        self.history.turn(now, rule.window);
        self.expire_record(now, rule, logins);
        was_known && !self.history.is_known()
    }

    fn expire_record(&mut self, now: Instant, rule: &Harvest, logins: Duration) {
        let (window, ban_memory) = (rule.window, rule.ban_max);
        let Some(record) = &mut self.record else { return };
        if now.since(self.last) >= window
            && let Some(rare) = &mut record.rare
        {
            rare.offences.clear();
            rare.heard.clear();
        }
        record.unknown.expire(now, window);
        record.returned.expire(now, window);
        record.known.expire(now, window);
        record.probed.expire(now, window);
        if record.unknown.count() + record.returned.count() == 0 {
            record.sample.clear();
        }
        if let Some(rare) = &mut record.rare {
            rare.failed_logins.retain(|at| now.since(*at) < logins);
            if now.since(rare.tripped_until) >= ban_memory {
                rare.trips = 0;
            }
            if now.since(rare.tripped_until) >= window {
                rare.doubts = 0;
            }
            if rare.is_empty() {
                record.rare = None;
            }
        }
        if record.is_over() {
            self.record = None;
        }
    }

    pub(super) fn class(&self, limit: u32) -> Class {
        match &self.record {
            Some(_) if self.history.is_known() => Class::Active,
            None if self.history.is_known() => Class::Friend,
            Some(record) if record.unknown.count() >= limit.div_ceil(4).max(1) => Class::Offender,
            Some(record) if record.is_suspect() => Class::Suspect,
            Some(record) if record.trips() > 0 => Class::Remembered,
            Some(_) | None => Class::Knocked,
        }
    }

    /// Where it stands in the order of who makes room.
    pub(super) fn place(&self, source: Source, rule: &Harvest) -> Place {
        Place { class: self.class(rule.unknown_recipients), last: self.last, source }
    }

    /// See [`Rare::trips`].
    pub(super) fn trips(&self) -> u32 {
        self.record.as_ref().map_or(0, |record| record.trips())
    }

    /// See [`History::is_trusted`].
    pub(super) fn is_trusted(&self) -> bool {
        self.history.is_trusted(self.trips())
    }

    pub(super) fn evidence(&self) -> Evidence {
        self.record.as_ref().map(|record| record.evidence()).unwrap_or_default()
    }
}

impl Class {
    pub(super) const ALL: [Self; 6] =
        [Self::Knocked, Self::Remembered, Self::Suspect, Self::Offender, Self::Friend, Self::Active];

    /// Whether mail of it was accepted.
    pub(super) fn is_friend(self) -> bool {
        matches!(self, Self::Friend | Self::Active)
    }
}

impl Record {
    pub(super) fn evidence(&self) -> Evidence {
        Evidence {
            unknown: self.unknown.count(),
            returned: self.returned.count(),
            known: self.known.count(),
            probed: self.probed.count(),
        }
    }

    /// `recipient`, of this digest, doesn't exist. Asked for both ways it counts as what is stronger.
    pub(super) fn unknown(&mut self, recipient: Box<str>, digest: Digest, returned: bool, now: Instant) {
        let new = if returned {
            !self.unknown.contains(digest) && self.returned.insert(digest, now)
        } else {
            let known = self.returned.remove(digest);
            self.unknown.insert(digest, now) && !known
        };
        if new {
            self.sample.truncate(SAMPLE - 1);
            self.sample.insert(0, recipient);
        }
    }

    /// `recipient` exists.
    pub(super) fn known(&mut self, recipient: Digest, now: Instant) {
        self.probed.remove(recipient);
        self.known.insert(recipient, now);
    }

    /// `recipients` exist and were given no message.
    pub(super) fn abandoned(&mut self, recipients: &[Digest], now: Instant) {
        for recipient in recipients {
            self.known.remove(*recipient);
            self.probed.insert(*recipient, now);
        }
    }

    /// `recipients` exist, and nothing follows from it.
    pub(super) fn undelivered(&mut self, recipients: &[Digest]) {
        for recipient in recipients {
            self.known.remove(*recipient);
        }
    }

    pub(super) fn offence(&mut self, reason: Reason) {
        let offences = &mut self.rare().offences;
        match offences.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count = count.saturating_add(1),
            None => offences.push((reason, 1)),
        }
    }

    /// The guard `node` has reported something.
    pub(super) fn heard(&mut self, node: &str) {
        let heard = &mut self.rare().heard;
        if let Some((_, count)) = heard.iter_mut().find(|(known, _)| **known == *node) {
            *count = count.saturating_add(1);
        } else if heard.len() < NODES {
            heard.push((node.into(), 1));
        }
    }

    /// Which guards have reported some of it, in words.
    pub(super) fn reporters(&self) -> Option<String> {
        let heard = self.rare.iter().flat_map(|rare| &rare.heard);
        let names: Vec<_> = heard.map(|(node, count)| format!("{node} ({count} times)")).collect();
        (!names.is_empty()).then(|| format!("also reported by {}", names.join(", ")))
    }

    /// A new trip, or one `in_doubt`: how many of these came before it without a pause.
    pub(super) fn trip(&mut self, in_doubt: bool) -> u32 {
        let rare = self.rare();
        let count = if in_doubt { &mut rare.doubts } else { &mut rare.trips };
        let repeat = *count;
        *count = repeat.saturating_add(1);
        rare.heard.clear();
        self.unknown.clear();
        self.returned.clear();
        self.known.clear();
        self.probed.clear();
        self.sample.clear();
        repeat
    }

    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// See [`Rare::trips`].
    fn trips(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.trips)
    }

    /// Something that leads to a ban where there is more of it.
    pub(super) fn is_suspect(&self) -> bool {
        self.unknown.count() + self.returned.count() > 0
            || self.rare.as_ref().is_some_and(|rare| !rare.failed_logins.is_empty())
    }

    /// Nothing in the window, and nothing that outlasts it.
    fn is_over(&self) -> bool {
        let rare = self.rare.as_ref().is_none_or(|rare| rare.is_over());
        rare && !self.is_suspect() && self.known.count() == 0 && self.probed.count() == 0
    }
}

impl Rare {
    pub(super) fn is_empty(&self) -> bool {
        self.is_over() && self.heard.is_empty()
    }

    /// Nothing that is kept for its own sake: who has reported something is of no use without it.
    fn is_over(&self) -> bool {
        self.trips == 0 && self.doubts == 0 && self.offences.is_empty() && self.failed_logins.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> Instant {
        Instant::from_ns(seconds * 1_000_000_000)
    }

    /// Messages accepted at `seconds`; whether that is a history, and still known, at the second `then`.
    fn check(seconds: impl IntoIterator<Item = u64>, then: u64, trusted: bool, known: bool) {
        let mut history = History::default();
        for second in seconds {
            history.accepted(at(second), WINDOW);
        }
        history.turn(at(then), WINDOW);
        assert_eq!((history.is_trusted(0), history.is_known()), (trusted, known), "{history:?}");
    }

    #[test]
    fn a_history_is_made_of_mail_from_before() {
        let day = 24 * 3600;
        check([], day, false, false);
        check([day], day, false, true);
        // However many: not within the same window.
        check((0..1000).map(|n| day + n), day + 1001, false, true);
        check((0..1000).map(|n| day + n), day + 3700, false, true);
        check((0..1000).map(|n| day + n), day + 7300, true, true);
        check((0..9).map(|n| day + n), day + 7300, false, true);
        check((1..11).map(|n| n * day), 11 * day, true, true);
        // A message a day, then silence.
        check((1..31).map(|n| n * day), 58 * day, true, true);
        check((1..31).map(|n| n * day), 61 * day, false, false);
    }
}
