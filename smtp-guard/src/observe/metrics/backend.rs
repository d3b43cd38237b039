//! What is counted of connections to the backend.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Metrics, fixed};

pub(super) struct Backend {
    opened: Counter,
    reused: Counter,
}

impl Backend {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let help = "Connections to the backend that sessions were given: opened for one, or used again";
        let [opened, reused] = fixed(registry, "backend_connections", help, "how", ["opened", "reused"]);
        Self { opened, reused }
    }

    pub(super) fn counts(&self) -> [u64; 2] {
        [self.opened.get(), self.reused.get()]
    }
}

impl Metrics {
    /// A session was given a connection to the backend.
    pub fn backend_connection(&self, reused: bool) {
        if reused {
            self.0.backend.reused.inc()
        } else {
            self.0.backend.opened.inc()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn each_call_counts_under_its_name() {
        check(|m| m.backend_connection(false), "smtp_guard_backend_connections_total{how=\"opened\"} 1");
        check(|m| m.backend_connection(true), "smtp_guard_backend_connections_total{how=\"reused\"} 1");
        check(|_| (), "smtp_guard_backend_connections_total{how=\"reused\"} 0");
    }
}
