//! What is counted about block lists. Their names are those of the configuration, so the labels are few.

use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Metrics;
use crate::blocklist::State;

type Labels = Vec<(&'static str, String)>;

pub(super) struct Blocklists {
    entries: Labelled<Labels, Gauge>,
    refused: Labelled<Labels, Gauge>,
    reloads: Labelled<Labels, Counter>,
    success: Labelled<Labels, Gauge>,
    /// For `status`.
    states: ArcSwap<Vec<State>>,
}

impl Blocklists {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let (entries, refused, success) = (Labelled::default(), Labelled::default(), Labelled::default());
        let reloads = Labelled::default();
        registry.register("blocklist_entries", "Entries in force, by block list", Clone::clone(&entries));
        registry.register("blocklist_refused", "Entries of the file that were refused", Clone::clone(&refused));
        let help = "Times that a block list was read, by list and result";
        registry.register("blocklist_reloads", help, Clone::clone(&reloads));
        let help = "When the block list was last read, in seconds since 1970-01-01 UTC";
        registry.register("blocklist_last_success_timestamp_seconds", help, Clone::clone(&success));
        Self { entries, refused, reloads, success, states: ArcSwap::default() }
    }
}

impl Metrics {
    /// The block lists as they stand now.
    pub fn blocklists(&self, states: Vec<State>) {
        let Blocklists { entries, refused, success, reloads, .. } = &self.0.blocklists;
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for state in &states {
            let labels = vec![("list", state.name.clone())];
            let read = state.read.as_ref();
            entries.get_or_create(&labels).set(number(read.map_or(0, |read| read.entries)));
            refused.get_or_create(&labels).set(number(read.map_or(0, |read| read.refused)));
            success.get_or_create(&labels).set(read.map_or(0, |read| read.at.as_ms() / 1000));
            // Shown from the start, at zero.
            for result in [true, false] {
                drop(reloads.get_or_create(&result_of(&state.name, result)));
            }
        }
        self.0.blocklists.states.store(Arc::new(states));
    }

    /// The block lists as they were last told.
    pub fn blocklist_states(&self) -> Vec<State> {
        self.0.blocklists.states.load().to_vec()
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
    use crate::blocklist::Read;
    use crate::clock::WallTime;

    #[test]
    fn each_list_is_counted_under_its_name() {
        let read =
            Read { at: WallTime::from_ms(7500), format: "netset".to_owned(), entries: 5, refused: 2, skipped: 0 };
        let state = |read| State { name: "drop".to_owned(), file: "/d".into(), read, error: None };
        check(|m| m.blocklists(vec![state(Some(read.clone()))]), "smtp_guard_blocklist_entries{list=\"drop\"} 5");
        check(|m| m.blocklists(vec![state(Some(read.clone()))]), "smtp_guard_blocklist_refused{list=\"drop\"} 2");
        let line = "smtp_guard_blocklist_last_success_timestamp_seconds{list=\"drop\"} 7";
        check(|m| m.blocklists(vec![state(Some(read.clone()))]), line);
        check(|m| m.blocklists(vec![state(None)]), "smtp_guard_blocklist_entries{list=\"drop\"} 0");
        let line = "smtp_guard_blocklist_reloads_total{list=\"drop\",result=\"failed\"} 0";
        check(|m| m.blocklists(vec![state(None)]), line);
        let line = "smtp_guard_blocklist_reloads_total{list=\"drop\",result=\"failed\"} 1";
        check(|m| m.blocklist_reloaded("drop", false), line);
    }
}
