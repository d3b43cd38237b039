//! Counts of reloads. `mirror` reads which generation is in force.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Metrics, fixed};

pub(super) struct Configuration {
    applied: Counter,
    refused: Counter,
}

impl Configuration {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let help = "Times that the configuration was read again, by result";
        let [applied, refused] = fixed(registry, "config_reloads", help, "result", ["applied", "refused"]);
        Self { applied, refused }
    }
}

impl Metrics {
    /// The configuration was read again, and applied or refused.
    pub fn reloaded(&self, applied: bool) {
        let Configuration { applied: well, refused, .. } = &self.0.configuration;
        if applied {
            well.inc()
        } else {
            refused.inc()
        };
    }
}
