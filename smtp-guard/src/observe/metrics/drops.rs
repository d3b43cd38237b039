//! Counts of samples of dropped packets. The packets themselves are in `smtp_guard_kernel_packets_total`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Metrics, counter};

pub(super) struct Drops {
    samples: Counter,
    lost: Counter,
}

impl Drops {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let help = "Samples of dropped packets that were read";
        let samples = counter(registry, "kernel_drop_samples", help);
        let help = "Samples of dropped packets that the full ring buffer had no room for";
        Self { samples, lost: counter(registry, "kernel_drop_samples_lost", help) }
    }
}

impl Metrics {
    /// So many samples came.
    pub fn drop_samples(&self, samples: u64) {
        self.0.drops.samples.inc_by(samples);
    }

    /// So many were lost on their way.
    pub fn drop_samples_lost(&self, samples: u64) {
        self.0.drops.lost.inc_by(samples);
    }
}
