//! Which generation of the configuration is in force, and what became of reloads.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Labels, Metrics, labelled};
use crate::clock::WallTime;

pub(super) struct Configuration {
    generation: Gauge,
    since: Gauge,
    applied: Counter,
    refused: Counter,
}

impl Configuration {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let generation = Gauge::default();
        let help = "Generation of the configuration in force, counted from 1 at the start";
        registry.register("config_generation", help, generation.clone());
        let since = Gauge::default();
        let help = "When the configuration in force was applied, in seconds since 1970";
        registry.register("config_applied_timestamp_seconds", help, since.clone());
        let reloads: Labelled<Labels, Counter> =
            labelled(registry, "config_reloads", "Times that the configuration was read again, by result");
        let counter = |result| reloads.get_or_create_owned(&vec![("result", result)]);
        Self { generation, since, applied: counter("applied"), refused: counter("refused") }
    }
}

impl Metrics {
    /// `generation` is in force since `since`.
    pub fn configuration(&self, generation: u64, since: WallTime) {
        self.0.configuration.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.0.configuration.since.set(since.as_ms() / 1000);
    }

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
