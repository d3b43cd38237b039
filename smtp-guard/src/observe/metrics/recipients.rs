//! Counts of recipients.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use super::{Metrics, counter, fixed};

pub(super) struct Recipients {
    loaded: Counter,
    failed: Counter,
    remembered: Counter,
}

impl Recipients {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let help = "Times that a changed recipient table was read again, by result";
        let [failed, loaded] = fixed(registry, "recipients_reloads", help, "result", ["failed", "loaded"]);
        let help = "Unknown recipients that were answered from what the backend had told others";
        Self { loaded, failed, remembered: counter(registry, "recipients_remembered", help) }
    }
}

impl Metrics {
    /// The recipient table had changed, and could be read again or not.
    pub fn recipients_reloaded(&self, loaded: bool) {
        let Recipients { loaded: done, failed, .. } = &self.0.recipients;
        if loaded { done } else { failed }.inc();
    }

    /// A recipient was known to be unknown: the backend isn't asked.
    pub fn recipient_remembered(&self) {
        self.0.recipients.remembered.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn each_call_counts_under_its_name() {
        check(|m| m.recipients_reloaded(true), "smtp_guard_recipients_reloads_total{result=\"loaded\"} 1");
        check(|m| m.recipients_reloaded(true), "smtp_guard_recipients_reloads_total{result=\"failed\"} 0");
        check(|m| m.recipient_remembered(), "smtp_guard_recipients_remembered_total 1");
        check(|m| m.recipients_reloaded(false), "smtp_guard_recipients_reloads_total{result=\"failed\"} 1");
    }
}
