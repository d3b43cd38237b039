//! Counts of block lists. Their names are those of the configuration, so the labels are few.

use std::sync::{Mutex, PoisonError};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::registry::Registry;

use super::Metrics;

type Labels = Vec<(&'static str, String)>;

pub(super) struct Blocklists {
    reloads: Labelled<Labels, Counter>,
    /// Those that have series.
    shown: Mutex<Vec<String>>,
}

impl Blocklists {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let reloads = Labelled::default();
        let help = "Times that a block list was read, by list and result";
        registry.register("blocklist_reloads", help, Clone::clone(&reloads));
        Self { reloads, shown: Mutex::default() }
    }
}

impl Metrics {
    /// The block lists are `lists`: their counts are shown from the start, at zero. Those of others are no longer shown.
    pub fn blocklists(&self, lists: &[&str]) {
        let Blocklists { reloads, shown } = &self.0.blocklists;
        // A panic elsewhere can't leave a name half changed.
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        for list in shown.iter().filter(|list| !lists.contains(&list.as_str())) {
            for result in [true, false] {
                reloads.remove(&result_of(list, result));
            }
        }
        for list in lists {
            for result in [true, false] {
                drop(reloads.get_or_create(&result_of(list, result)));
            }
        }
        *shown = lists.iter().map(ToString::to_string).collect();
    }

    /// The file of `list` was read, or could not be.
    pub fn blocklist_reloaded(&self, list: &str, loaded: bool) {
        self.0.blocklists.reloads.get_or_create(&result_of(list, loaded)).inc();
    }
}

fn result_of(list: &str, loaded: bool) -> Labels {
    let result = if loaded { "loaded" } else { "failed" };
    vec![("list", list.to_owned()), ("result", result.to_owned())]
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;
    use crate::observe::metrics::Format;

    #[test]
    fn each_list_is_counted_under_its_name() {
        let line = "smtp_guard_blocklist_reloads_total{list=\"drop\",result=\"failed\"} 0";
        check(|m| m.blocklists(&["drop"]), line);
        let line = "smtp_guard_blocklist_reloads_total{list=\"drop\",result=\"failed\"} 1";
        check(|m| m.blocklist_reloaded("drop", false), line);
    }

    #[test]
    fn a_list_that_is_gone_has_no_series() {
        let metrics = Metrics::new();
        metrics.blocklists(&["drop", "kept"]);
        metrics.blocklist_reloaded("kept", true);
        metrics.blocklists(&["kept", "new"]);
        let text = metrics.encode(Format::Classic);
        assert!(!text.contains("\"drop\"") && text.contains("list=\"new\",result=\"loaded\"} 0"), "{text}");
        assert!(text.contains("list=\"kept\",result=\"loaded\"} 1"), "{text}");
    }
}
