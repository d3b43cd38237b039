//! Reads of the metrics by others than scrapers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::{ByReason, Metrics, Verb};
use crate::facts::dns::{Kind, Told};

/// How often something was timed, and for how long in all: two of them give the mean of what came between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timed {
    pub count: u64,
    pub ns: u64,
}

/// A [`Timed`] that goes on.
#[derive(Debug, Default)]
pub(super) struct Timing {
    count: AtomicU64,
    ns: AtomicU64,
}

impl Timing {
    pub(super) fn add(&self, time: Duration) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.ns.fetch_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Timed {
        Timed { count: self.count.load(Ordering::Relaxed), ns: self.ns.load(Ordering::Relaxed) }
    }
}

impl Metrics {
    /// Connections accepted since the start.
    pub fn connections_accepted(&self) -> u64 {
        self.0.connections.get()
    }

    /// Refusals since the start, by reason; reasons that never occurred are left out unless they are usual.
    pub fn rejections(&self) -> Vec<(Reason, u64)> {
        self.0.rejections.all()
    }

    /// Refusals that checks in `observe` would have made since the start, by reason; of those that never occurred, only usual ones.
    pub fn observed_counts(&self) -> Vec<(Reason, u64)> {
        self.0.observed.all()
    }

    /// Connections to the backend that sessions were given since the start, in the order of [`super::How`].
    pub fn backend_connections(&self) -> [u64; 4] {
        self.0.backend.counts()
    }

    /// How long the backend took to answer `verb`, since the start.
    pub fn backend_timed(&self, verb: Verb) -> Timed {
        self.0.latency.backend_timed[verb as usize].get()
    }

    /// How long DNS servers took to answer a question of this kind, since the start.
    pub fn dns_timed(&self, kind: Kind) -> Timed {
        self.0.latency.dns_timed[kind as usize].get()
    }

    /// Questions to DNS of this kind since the start, by result in the order of [`Told::LABELS`].
    pub fn dns_lookups(&self, kind: Kind) -> [u64; Told::LABELS.len()] {
        std::array::from_fn(|told| self.0.lookups[kind as usize][told].get())
    }
}

impl ByReason {
    fn all(&self) -> Vec<(Reason, u64)> {
        let count = |reason: Reason| match self.usual.get(reason as usize) {
            Some(Some(counter)) => Some(counter.get()),
            _ => Some(self.family.get(&vec![("reason", reason.label())])?.get()),
        };
        Reason::ALL.iter().filter_map(|reason| Some((*reason, count(*reason)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::How;
    use super::*;

    #[test]
    fn counts_are_read_back() {
        let metrics = Metrics::new();
        assert_eq!(metrics.connections_accepted(), 0);
        assert!(
            metrics.rejections().contains(&(Reason::Relay, 0)) && metrics.rejections().iter().all(|(_, n)| *n == 0)
        );
        metrics.connection_opened();
        metrics.rejected(Reason::Relay);
        // Not one of the usual ones.
        metrics.rejected(Reason::Clean);
        for expected in [(Reason::Relay, 1), (Reason::Clean, 1), (Reason::Harvest, 0)] {
            assert!(metrics.rejections().contains(&expected), "{expected:?}");
        }
        assert_eq!(metrics.connections_accepted(), 1);
        metrics.observed(Reason::NoPtr);
        assert!(metrics.observed_counts().contains(&(Reason::NoPtr, 1)));
        metrics.backend_connection(How::Reused);
        assert_eq!(metrics.backend_connections(), [0, 1, 0, 0]);
        metrics.dns_lookup(Kind::Mx, Told::NoName);
        assert_eq!((metrics.dns_lookups(Kind::Mx)[2], metrics.dns_lookups(Kind::A)[2]), (1, 0));
        metrics.backend_replied(Verb::Mail, Duration::from_nanos(5));
        metrics.backend_replied(Verb::Mail, Duration::from_nanos(6));
        metrics.dns_asked(Kind::Ptr, Duration::from_nanos(7));
        assert_eq!(metrics.backend_timed(Verb::Mail), Timed { count: 2, ns: 11 });
        assert_eq!(metrics.backend_timed(Verb::Dot), Timed::default());
        assert_eq!(metrics.dns_timed(Kind::Ptr), Timed { count: 1, ns: 7 });
    }
}
