//! What became of reloads. Which generation is in force `mirror` reads.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::registry::Registry;

use super::{Labels, Metrics, labelled};

pub(super) struct Configuration {
    applied: Counter,
    refused: Counter,
}

impl Configuration {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let reloads: Labelled<Labels, Counter> =
            labelled(registry, "config_reloads", "Times that the configuration was read again, by result");
        let counter = |result| reloads.get_or_create_owned(&vec![("result", result)]);
        Self { applied: counter("applied"), refused: counter("refused") }
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
