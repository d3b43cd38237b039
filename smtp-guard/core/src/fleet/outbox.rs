//! Messages that wait for the server: reports in their order, sums of what is good, and decisions.
//!
//! A report goes out as soon as nothing is under way. Reports that come meanwhile go with the next batch: the busier the
//! server, the larger the batches. The good of a source is summed up for a second. While the server is away reports wait for
//! ten minutes at most, and [`super::REPORTS`] of them; decisions wait as long as they are in force.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::message::Deed;
use super::{BATCH, CHANGES, REPORTS};
use crate::clock::Instant;
use crate::offence::{Conduct, Digests};

/// How long a report is worth sending.
pub const KEPT: Duration = Duration::from_secs(600);
/// How long the good of a source is summed up.
pub const SUM: Duration = Duration::from_secs(1);
/// Recipients of one sum: what is more goes with the next.
const RECIPIENTS: usize = 256;
/// Numbers in the reports of one batch, which bounds its length.
const NUMBERS: usize = 4096;

/// A report that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub source: String,
    pub at: Instant,
    pub what: Deed,
}

/// Waiting messages.
#[derive(Debug)]
pub struct Outbox<C> {
    reports: VecDeque<Waiting>,
    sums: HashMap<Arc<str>, Sum>,
    /// The sources of sums, in the order in which these began.
    begun: VecDeque<Arc<str>>,
    /// By source: of each the last one.
    changes: BTreeMap<String, C>,
    lost: u64,
}

#[derive(Debug)]
struct Sum {
    since: Instant,
    known: Vec<u64>,
    accepted: u32,
}

impl<C> Default for Outbox<C> {
    fn default() -> Self {
        let (reports, sums, begun) = (VecDeque::new(), HashMap::new(), VecDeque::new());
        Self { reports, sums, begun, changes: BTreeMap::new(), lost: 0 }
    }
}

impl<C> Outbox<C> {
    /// Takes `conduct` of `source` at `at`; `false`: there is no room, and it is counted.
    pub fn report(&mut self, source: &str, at: Instant, conduct: &Conduct, digests: &Digests) -> bool {
        if self.reports() >= REPORTS {
            self.lost += 1;
            return false;
        }
        match Deed::of(conduct, digests) {
            Some(what) => self.reports.push_back(Waiting { source: source.to_owned(), at, what }),
            None => {
                let Self { sums, begun, .. } = self;
                if !sums.contains_key(source) {
                    let source: Arc<str> = source.into();
                    begun.push_back(Arc::clone(&source));
                    sums.insert(source, Sum { since: at, known: Vec::new(), accepted: 0 });
                }
                let Some(sum) = sums.get_mut(source) else { return true };
                match conduct {
                    // So many recipients in a second say enough.
                    Conduct::KnownRecipient { recipient } => {
                        let number = recipient.number();
                        if sum.known.len() < RECIPIENTS && !sum.known.contains(&number) {
                            sum.known.push(number);
                        }
                    }
                    Conduct::MessageAccepted => sum.accepted = sum.accepted.saturating_add(1),
                    _ => {}
                }
            }
        }
        true
    }

    /// Takes a decision about `source`, in place of one that waits; `false`: there is no room, and it is counted.
    pub fn change(&mut self, source: &str, change: C) -> bool {
        if self.changes.len() >= CHANGES && !self.changes.contains_key(source) {
            self.lost += 1;
            return false;
        }
        self.changes.insert(source.to_owned(), change);
        true
    }

    /// The next batch of reports at `now`, which are no longer here; empty: there is nothing to send yet.
    pub fn take(&mut self, now: Instant) -> Vec<Waiting> {
        self.expire(now);
        for _ in 0..BATCH {
            let Some((source, Sum { since, known, accepted })) = self.oldest_sum(|since| now.since(since) >= SUM)
            else {
                break;
            };
            let what = Deed::Good { known, accepted };
            self.reports.push_back(Waiting { source: source.as_ref().to_owned(), at: since, what });
        }
        let (mut batch, mut numbers) = (Vec::new(), 0);
        while let Some(report) = self.reports.front() {
            numbers += 1 + match &report.what {
                Deed::Abandoned(list) | Deed::Undelivered(list) | Deed::Good { known: list, .. } => list.len(),
                _ => 0,
            };
            if batch.len() == BATCH || numbers > NUMBERS && !batch.is_empty() {
                break;
            }
            batch.extend(self.reports.pop_front());
        }
        batch
    }

    /// Gives up reports that have waited for too long at `now`.
    pub fn expire(&mut self, now: Instant) {
        let over = |at: Instant| now.since(at) >= KEPT;
        while self.reports.front().is_some_and(|report| over(report.at)) {
            self.reports.pop_front();
            self.lost += 1;
        }
        while self.oldest_sum(over).is_some() {
            self.lost += 1;
        }
    }

    /// Takes out the sum that began first, where that `is` so long ago.
    fn oldest_sum(&mut self, is: impl Fn(Instant) -> bool) -> Option<(Arc<str>, Sum)> {
        let source = self.begun.front()?;
        if !is(self.sums.get(source)?.since) {
            return None;
        }
        let sum = self.sums.remove_entry(&**source);
        self.begun.pop_front();
        sum
    }

    /// Puts `batch` back: it wasn't sent.
    pub fn put_back(&mut self, batch: Vec<Waiting>) {
        for report in batch.into_iter().rev() {
            self.reports.push_front(report);
        }
    }

    /// At most `most` decisions, which are no longer here.
    pub fn take_changes(&mut self, most: usize) -> Vec<(String, C)> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(change) = self.changes.pop_first()
        {
            taken.push(change);
        }
        taken
    }

    /// Puts a decision about `source` back that wasn't sent, unless there is a later one; where there is no room it is counted.
    pub fn put_change_back(&mut self, source: String, change: C) {
        if !self.changes.contains_key(&source) {
            self.change(&source, change);
        }
    }

    /// Whether something waits that needn't be summed up first.
    pub fn is_urgent(&self) -> bool {
        !self.changes.is_empty() || !self.reports.is_empty()
    }

    /// Reports that wait, each sum as one.
    pub fn reports(&self) -> usize {
        self.reports.len() + self.sums.len()
    }

    /// Decisions that wait.
    pub fn changes(&self) -> usize {
        self.changes.len()
    }

    /// The number of messages that found no room, or waited for too long.
    pub fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offence::Digest;
    use smtp_guard_ebpf::reason::Reason;

    fn at(ms: u64) -> Instant {
        Instant::from_ns(ms * 1_000_000)
    }

    fn digest(n: usize) -> Digest {
        Digest::of(&format!("{n}@example.org"))
    }

    fn outbox() -> Outbox<u32> {
        Outbox::default()
    }

    fn offence() -> Conduct {
        Conduct::Offence(Reason::AuthFailures)
    }

    /// Reports of one source at their ms; how many come with the batches that are taken at theirs, and how many are lost by then.
    #[track_caller]
    fn check(reports: &[(u64, Conduct)], batches: &[(u64, usize)], lost: u64) {
        let mut outbox = outbox();
        for (ms, conduct) in reports {
            outbox.report("a", at(*ms), conduct, &Digests::default());
        }
        for (ms, expected) in batches {
            assert_eq!(outbox.take(at(*ms)).len(), *expected, "at {ms}");
        }
        assert_eq!(outbox.lost(), lost);
    }

    #[test]
    fn what_is_bad_goes_at_once_and_what_is_good_as_sums() {
        let known = |n| Conduct::KnownRecipient { recipient: digest(n) };
        check(&[], &[(0, 0)], 0);
        check(&[(0, offence())], &[(0, 1), (0, 0)], 0);
        check(&[(0, known(1)), (1, known(2)), (2, Conduct::MessageAccepted)], &[(999, 0), (1000, 1), (9000, 0)], 0);
        check(&vec![(0, offence()); 600], &[(0, 256), (0, 256), (0, 88), (0, 0)], 0);
        check(&[(0, offence()), (1, known(1)), (599_999, offence())], &[(600_001, 1), (600_001, 0)], 2);
        check(&vec![(0, offence()); REPORTS + 3], &[(0, 256)], 3);
        let long = Conduct::Abandoned { recipients: (0..256).map(digest).collect() };
        check(&vec![(0, long); 40], &[(0, 15), (0, 15), (0, 10)], 0);
    }

    #[test]
    fn a_sum_has_each_recipient_once_and_all_messages() {
        let mut outbox = outbox();
        for n in 0..RECIPIENTS * 3 {
            for conduct in [Conduct::KnownRecipient { recipient: digest(n / 2) }, Conduct::MessageAccepted] {
                outbox.report("a", at(0), &conduct, &Digests::default());
            }
        }
        let taken = outbox.take(at(1000));
        let [Waiting { what: Deed::Good { known, accepted }, .. }] = &*taken else { panic!("{taken:?}") };
        assert_eq!((known.len(), *accepted as usize), (RECIPIENTS, RECIPIENTS * 3));
    }

    #[test]
    fn sums_of_many_sources_come_in_their_order_and_are_not_urgent() {
        let mut outbox = outbox();
        let accept = |outbox: &mut Outbox<u32>, n: u64| {
            outbox.report(&n.to_string(), at(n), &Conduct::MessageAccepted, &Digests::default());
        };
        for n in (0..600).chain(0..600) {
            accept(&mut outbox, n);
        }
        assert!(!outbox.is_urgent() && outbox.reports() == 600);
        let sources = |batch: Vec<Waiting>| batch.into_iter().map(|report| report.source.parse::<u64>().unwrap());
        assert!(sources(outbox.take(at(1009))).eq(0..10u64));
        // It begins again, behind the others.
        accept(&mut outbox, 0);
        assert!(sources(outbox.take(at(2000))).chain(sources(outbox.take(at(2000)))).eq(10..522));
        assert!(sources(outbox.take(at(2000))).eq((522..600).chain([0])));
        assert_eq!(outbox.reports(), 0);
        outbox.report("bad", at(2000), &offence(), &Digests::default());
        assert!(outbox.is_urgent());
    }

    #[test]
    fn what_was_not_sent_comes_again_in_its_order() {
        let mut outbox = outbox();
        (0..300).for_each(|n| _ = outbox.report(&n.to_string(), at(0), &offence(), &Digests::default()));
        let batch = outbox.take(at(1));
        outbox.put_back(batch.clone());
        assert_eq!(outbox.take(at(2)), batch);
    }

    #[test]
    fn of_decisions_the_last_one_waits() {
        let mut outbox = outbox();
        assert!(outbox.change("a", 1) && outbox.change("b", 2) && outbox.change("a", 3));
        let taken = outbox.take_changes(1);
        assert_eq!(taken, [("a".to_owned(), 3)]);
        outbox.change("a", 4);
        outbox.put_change_back("a".to_owned(), 3);
        outbox.put_change_back("c".to_owned(), 5);
        let all = |n: &str, change| (n.to_owned(), change);
        assert_eq!(outbox.take_changes(9), [all("a", 4), all("b", 2), all("c", 5)]);
        (0..CHANGES).for_each(|n| assert!(outbox.change(&n.to_string(), 0)));
        assert!(!outbox.change("x", 0) && outbox.change("0", 1));
        outbox.put_change_back("y".to_owned(), 0);
        assert_eq!((outbox.lost(), outbox.changes()), (2, CHANGES));
    }
}
