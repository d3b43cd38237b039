//! Counts of connections to the backend.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Metrics, fixed};

pub(super) struct Backend {
    opened: Counter,
    reused: Counter,
    early: Counter,
    unused: Counter,
}

/// The way in which a connection to the backend came to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// At MAIL or AUTH.
    Opened,
    /// It has served another client before.
    Reused,
    /// Before MAIL, which came then.
    Early,
    /// Before MAIL, which did not come.
    Unused,
}

impl Backend {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let help = "Connections to the backend that sessions were given: opened for one at MAIL, used again, opened early at EHLO, or opened early for a MAIL that did not come";
        let [opened, reused, early, unused] =
            fixed(registry, "backend_connections", help, "how", ["opened", "reused", "early", "unused"]);
        Self { opened, reused, early, unused }
    }

    /// In the order of [`How`].
    pub(super) fn counts(&self) -> [u64; 4] {
        [&self.opened, &self.reused, &self.early, &self.unused].map(Counter::get)
    }
}

impl Metrics {
    /// A session was given a connection to the backend.
    pub fn backend_connection(&self, how: How) {
        let backend = &self.0.backend;
        let counter = match how {
            How::Opened => &backend.opened,
            How::Reused => &backend.reused,
            How::Early => &backend.early,
            How::Unused => &backend.unused,
        };
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::How;

    #[test]
    fn each_call_counts_under_its_name() {
        check(|m| m.backend_connection(How::Opened), "smtp_guard_backend_connections_total{how=\"opened\"} 1");
        check(|m| m.backend_connection(How::Reused), "smtp_guard_backend_connections_total{how=\"reused\"} 1");
        check(|m| m.backend_connection(How::Early), "smtp_guard_backend_connections_total{how=\"early\"} 1");
        check(|m| m.backend_connection(How::Unused), "smtp_guard_backend_connections_total{how=\"unused\"} 1");
        check(|_| (), "smtp_guard_backend_connections_total{how=\"reused\"} 0");
    }
}
