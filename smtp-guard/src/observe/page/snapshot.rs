//! The page at a moment: counts, which make rates with those of the moment before, and the state now. Pure: time and
//! everything else is passed in.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::super::live::DropsView;
use super::super::metrics::{Metrics, Timed, Verb};
use super::super::status::{Bans, Overview, Status};
use super::{CANDIDATES, Near};
use crate::clock::{Both, Instant};
use crate::decision::Decision;
use crate::events::{Event, What};
use crate::facts::dns::{Kind, Told};
use crate::rates::accounts::AccountList;
use crate::session::Outcome;

/// Events that are shown.
const EVENTS: usize = 20;
/// Events among which those that are shown are looked for, and who may be near a limit.
pub(super) const LATELY: usize = 256;
/// Counts of longer ago say nothing about now.
const STALE: Duration = Duration::from_secs(60);

/// Counts since the start of the guard, or the load of the kernel plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) at: Instant,
    pub(super) connections: u64,
    /// In the order of [`Outcome::ALL`].
    pub(super) messages: [u64; Outcome::ALL.len()],
    pub(super) rejections: Vec<(Reason, u64)>,
    pub(super) observed: Vec<(Reason, u64)>,
    /// Packets that the kernel dropped, both families together.
    pub(super) drops: Vec<(Reason, u64)>,
    /// Connections to the backend, in the order of [`super::super::metrics::How`].
    pub(super) backend: [u64; 4],
    pub(super) replies: [Timed; Verb::ALL.len()],
    /// Questions by kind and result.
    pub(super) lookups: [[u64; Told::LABELS.len()]; Kind::ALL.len()],
    pub(super) dns: [Timed; Kind::ALL.len()],
}

impl Counts {
    fn read(metrics: &Metrics, packets: Vec<(Reason, u64)>, at: Instant) -> Self {
        Self {
            at,
            connections: metrics.connections_accepted(),
            messages: Outcome::ALL.map(|outcome| metrics.messages(outcome)),
            rejections: metrics.rejections(),
            observed: metrics.observed_counts(),
            drops: packets,
            backend: metrics.backend_connections(),
            replies: Verb::ALL.map(|verb| metrics.backend_timed(verb)),
            lookups: Kind::ALL.map(|kind| metrics.dns_lookups(kind)),
            dns: Kind::ALL.map(|kind| metrics.dns_timed(kind)),
        }
    }

    pub(super) fn dropped(&self) -> u64 {
        self.drops.iter().map(|(_, count)| count).sum()
    }

    pub(super) fn refused(&self) -> u64 {
        self.rejections.iter().map(|(_, count)| count).sum()
    }

    pub(super) fn accepted(&self) -> u64 {
        self.messages[Outcome::Accepted as usize]
    }
}

/// Counts of now, and those of a moment before where they are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    before: Option<&'a Counts>,
    pub(super) now: &'a Counts,
}

impl<'a> Pair<'a> {
    pub(super) fn new(before: Option<&'a Counts>, now: &'a Counts) -> Self {
        let comparable = |before: &&Counts| before.at < now.at && now.at.since(before.at) < STALE;
        Self { before: before.filter(comparable), now }
    }

    /// How much more of `count` there was in a second. `None`: nothing to compare with, or the kernel plane was loaded anew.
    pub(super) fn rate(&self, count: impl Fn(&Counts) -> u64) -> Option<f64> {
        let before = self.before?;
        let more = count(self.now).checked_sub(count(before))?;
        Some(more as f64 / self.now.at.since(before.at).as_secs_f64())
    }

    /// The mean of what was timed since the moment before, else since the start; `None`: nothing was.
    pub(super) fn mean(&self, timed: impl Fn(&Counts) -> Timed) -> Option<Duration> {
        let (now, before) = (timed(self.now), self.before.map(&timed).unwrap_or_default());
        let mean = |count: u64, ns: u64| Some(Duration::from_nanos(ns.checked_div(count)?));
        let lately = now.count.checked_sub(before.count).zip(now.ns.checked_sub(before.ns));
        lately.and_then(|(count, ns)| mean(count, ns)).or_else(|| mean(now.count, now.ns))
    }
}

/// Figures that take longer to find out, and change less often.
#[derive(Clone, Debug)]
pub(super) struct Slow {
    pub(super) at: Instant,
    pub(super) status: Status,
    pub(super) users: AccountList,
    /// Sources, networks and users, those nearest first.
    pub(super) near: Vec<Near>,
}

impl Slow {
    pub(super) fn new(at: Instant, status: Status, users: AccountList, near: Vec<Near>) -> Self {
        let counts = users.accounts.iter().filter(|user| user.held.is_none());
        let counts = counts.flat_map(|user| user.counts.iter().map(|count| (&user.user, count)));
        let users_near = counts.filter_map(|(user, count)| {
            let most = count.limit.filter(|most| Near::is(count.count, *most))?;
            Some(Near { who: user.clone(), limit: format!("limits.{}", count.name), count: count.count, most })
        });
        let mut all: Vec<_> = near.into_iter().chain(users_near).collect();
        let share = |near: &Near| near.count as f64 / near.most as f64;
        all.sort_by(|a, b| share(b).total_cmp(&share(a)).then_with(|| (&a.who, &a.limit).cmp(&(&b.who, &b.limit))));
        Self { at, status, users, near: all }
    }
}

/// A moment.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) both: Both,
    pub(super) uptime: Duration,
    pub(super) hostname: String,
    pub(super) connections: u64,
    pub(super) connections_limit: u64,
    pub(super) bans: Bans,
    pub(super) counts: Counts,
    pub(super) decisions: Vec<Decision>,
    pub(super) drops: DropsView,
    pub(super) events: Vec<Arc<Event>>,
    pub(super) slow: Arc<Slow>,
}

impl Snapshot {
    /// The moment `both`. Reads the kernel's counters: not for a thread of the runtime.
    pub(super) fn take(
        overview: &Overview,
        both: Both,
        hostname: String,
        decisions: Vec<Decision>,
        slow: Arc<Slow>,
    ) -> Self {
        let mut drops: Vec<(Reason, u64)> = Vec::new();
        let dropped = overview.running.packets().into_iter().filter(|(reason, ..)| reason.verdict() == "drop");
        for (reason, _, count) in dropped {
            match drops.iter_mut().find(|(other, _)| *other == reason) {
                Some((_, sum)) => *sum += count,
                None => drops.push((reason, count)),
            }
        }
        Self {
            both,
            uptime: both.instant.since(overview.started),
            hostname,
            connections: overview.running.connections(),
            connections_limit: overview.running.connections_limit(),
            bans: overview.running.bans(),
            counts: Counts::read(&overview.metrics, drops, both.instant),
            decisions: decisions.into_iter().filter(|ban| ban.until > both.wall).collect(),
            drops: overview.drops.view(&both),
            events: notable(overview.events.latest(LATELY)),
            slow,
        }
    }
}

/// The latest of `events` but for messages that were accepted, which would leave no room for others.
fn notable(events: Vec<Arc<Event>>) -> Vec<Arc<Event>> {
    let accepted = |what: &What| matches!(what, What::Message { outcome, .. } if outcome == Outcome::Accepted.label());
    events.into_iter().filter(|event| !accepted(&event.what)).take(EVENTS).collect()
}

/// Whether `what` changes something that is looked at seldom: then that is looked at now.
pub(super) fn is_news(what: &What) -> bool {
    match what {
        What::UserHeld { .. }
        | What::UserReleased { .. }
        | What::Reloaded { .. }
        | What::ReloadRefused { .. }
        | What::Backend { .. }
        | What::Blocklist { .. }
        | What::Certificate { .. }
        | What::Fleet { .. }
        | What::FleetNode { .. }
        | What::Kernel { .. } => true,
        What::Banned { .. }
        | What::Lifted { .. }
        | What::LiftedMore { .. }
        | What::Deferred { .. }
        | What::Imported { .. }
        | What::AllLifted { .. }
        | What::ConnectionRefused { .. }
        | What::CommandRefused { .. }
        | What::Message { .. }
        | What::Test { .. } => false,
    }
}

/// Clients that were refused something recently, by `events`, the latest first: these may be near a limit.
pub(super) fn candidates(events: &[Arc<Event>]) -> Vec<IpAddr> {
    let mut known = HashSet::new();
    let clients = events.iter().filter_map(|event| match &event.what {
        What::CommandRefused { client, .. } | What::ConnectionRefused { client, .. } => client.parse::<IpAddr>().ok(),
        _ => None,
    });
    clients.filter(|ip| known.insert(*ip)).take(CANDIDATES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;

    fn counts(seconds: u64, accepted: u64, drops: u64) -> Counts {
        let mut counts =
            Counts::read(&Metrics::new(), vec![(Reason::Harvest, drops)], Instant::from_ns(seconds * 1_000_000_000));
        counts.messages[Outcome::Accepted as usize] = accepted;
        counts
    }

    /// The rates of accepted messages and of drops, from `before` to `now`.
    #[track_caller]
    fn check(before: Option<Counts>, now: Counts, accepted: Option<f64>, drops: Option<f64>) {
        let pair = Pair::new(before.as_ref(), &now);
        assert_eq!((pair.rate(Counts::accepted), pair.rate(Counts::dropped)), (accepted, drops));
    }

    #[test]
    fn rates_are_differences_over_time() {
        check(None, counts(10, 5, 5), None, None);
        check(Some(counts(8, 5, 100)), counts(10, 9, 700), Some(2.0), Some(300.0));
        // The kernel plane was loaded anew.
        check(Some(counts(8, 5, 900)), counts(10, 9, 0), Some(2.0), None);
        check(Some(counts(10, 5, 0)), counts(10, 5, 0), None, None);
        check(Some(counts(8, 5, 0)), counts(68, 5, 0), None, None);
    }

    #[test]
    fn a_mean_is_of_late_where_anything_was_timed() {
        let (mut before, mut now) = (counts(8, 0, 0), counts(10, 0, 0));
        before.replies[0] = Timed { count: 10, ns: 1000 };
        now.replies[0] = Timed { count: 12, ns: 1040 };
        let later = Counts { at: Instant::from_ns(11_000_000_000), ..now.clone() };
        let mean = |before: Option<&Counts>, now: &Counts, verb: usize| {
            Pair::new(before, now).mean(|counts| counts.replies[verb])
        };
        assert_eq!(mean(Some(&before), &now, 0), Some(Duration::from_nanos(20)));
        assert_eq!(mean(Some(&now), &later, 0), Some(Duration::from_nanos(86)));
        assert_eq!(mean(None, &now, 0), Some(Duration::from_nanos(86)));
        assert_eq!(mean(None, &now, 1), None);
    }

    #[test]
    fn whoever_was_refused_may_be_near_a_limit() {
        let refused = |number, client: &str| {
            let (session, client) = (String::new(), client.to_owned());
            let what = What::ConnectionRefused { session, client, reason: "connections".into() };
            Arc::new(Event { number, at: WallTime::from_ms(0), what })
        };
        let events =
            [refused(3, "192.0.2.1"), refused(2, "2001:db8::1"), refused(1, "192.0.2.1"), refused(0, "nobody")];
        assert_eq!(candidates(&events), ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let many: Vec<_> = (0..100).map(|n| refused(n, &format!("192.0.2.{n}"))).collect();
        assert_eq!(candidates(&many).len(), CANDIDATES);
        for (count, most, near) in [(0, 0, false), (9, 20, false), (10, 20, true), (1, 1, true)] {
            assert_eq!(Near::is(count, most), near, "{count} of {most}");
        }
    }
}
