//! What is counted about samples of dropped packets. The packets themselves are in `smtp_guard_kernel_packets_total`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::Metrics;

pub(super) struct Drops {
    samples: Counter,
    lost: Counter,
}

impl Drops {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let (samples, lost) = (Counter::default(), Counter::default());
        registry.register("drop_samples", "Samples of dropped packets that were read", samples.clone());
        let help = "Samples of dropped packets that the full ring buffer had no room for";
        registry.register("drop_samples_lost", help, lost.clone());
        Self { samples, lost }
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
