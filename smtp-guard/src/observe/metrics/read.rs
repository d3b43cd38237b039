//! Reads of the metrics by others than scrapers.

use smtp_guard_ebpf::reason::Reason;

use super::{ByReason, Metrics};

impl Metrics {
    /// Connections accepted since the start.
    pub fn connections_accepted(&self) -> u64 {
        self.0.connections.get()
    }

    /// Refusals since the start, by reason; reasons that never occurred are left out unless they are usual.
    pub fn rejections(&self) -> Vec<(Reason, u64)> {
        self.0.rejections.all()
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
    }
}
