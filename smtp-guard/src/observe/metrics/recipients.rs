//! What is counted about recipients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Labels, Metrics, labelled};

pub(super) struct Recipients {
    entries: Gauge,
    loaded: Counter,
    failed: Counter,
    remembered: Counter,
    catch_alls: Gauge,
    /// By name, for `status`.
    named: ArcSwap<Vec<String>>,
    /// How each server says that a recipient is unknown, for `status`.
    wordings: Mutex<BTreeMap<String, String>>,
}

impl Recipients {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let entries = Gauge::default();
        registry.register("recipients_known", "Entries of the recipient table", entries.clone());
        let help = "Times that a changed recipient table was read again, by result";
        let reloads: Labelled<Labels, Counter> = labelled(registry, "recipients_reloads", help);
        let counter = |result| reloads.get_or_create_owned(&vec![("result", result)]);
        let remembered = Counter::default();
        let help = "Unknown recipients that were answered from what the backend had told others";
        registry.register("recipients_remembered", help, remembered.clone());
        let catch_alls = Gauge::default();
        let help = "Domains of which the backend takes any recipient, so that unknown ones can't be told apart";
        registry.register("catch_all_domains", help, catch_alls.clone());
        let named = ArcSwap::default();
        Self {
            entries,
            loaded: counter("loaded"),
            failed: counter("failed"),
            remembered,
            catch_alls,
            named,
            wordings: Mutex::default(),
        }
    }
}

impl Metrics {
    /// The recipient table has so many entries.
    pub fn recipients_known(&self, entries: usize) {
        self.0.recipients.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
    }

    /// Entries of the recipient table, if there is one.
    pub fn known_recipients(&self) -> Option<u64> {
        u64::try_from(self.0.recipients.entries.get()).ok().filter(|entries| *entries > 0)
    }

    /// The backend takes any recipient of these domains.
    pub fn catch_alls(&self, domains: Vec<String>) {
        self.0.recipients.catch_alls.set(i64::try_from(domains.len()).unwrap_or(i64::MAX));
        self.0.recipients.named.store(Arc::new(domains));
    }

    /// Domains of which the backend takes any recipient.
    pub fn catch_all_domains(&self) -> Vec<String> {
        self.0.recipients.named.load().to_vec()
    }

    /// `server` says that a recipient is unknown in these words. `true`: that is new.
    pub fn unknown_wording(&self, server: &str, words: &str) -> bool {
        let mut wordings = self.0.recipients.wordings.lock().unwrap_or_else(PoisonError::into_inner);
        wordings.insert(server.to_owned(), words.to_owned()).as_deref() != Some(words)
    }

    /// How each server says that a recipient is unknown, as far as it was asked.
    pub fn unknown_wordings(&self) -> BTreeMap<String, String> {
        self.0.recipients.wordings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

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
        check(|m| m.recipients_known(7), "smtp_guard_recipients_known 7");
        check(|m| m.recipients_reloaded(true), "smtp_guard_recipients_reloads_total{result=\"loaded\"} 1");
        check(|m| m.recipients_reloaded(true), "smtp_guard_recipients_reloads_total{result=\"failed\"} 0");
        check(|m| m.catch_alls(vec!["example.org".to_owned()]), "smtp_guard_catch_all_domains 1");
        check(|m| m.recipient_remembered(), "smtp_guard_recipients_remembered_total 1");
        check(|m| m.recipients_reloaded(false), "smtp_guard_recipients_reloads_total{result=\"failed\"} 1");
    }
}
