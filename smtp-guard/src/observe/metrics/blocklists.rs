//! What is counted about block lists. Their names are those of the configuration, so the labels are few.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::registry::Registry;

use super::Metrics;

type Labels = Vec<(&'static str, String)>;

pub(super) struct Blocklists {
    reloads: Labelled<Labels, Counter>,
}

impl Blocklists {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let reloads = Labelled::default();
        let help = "Times that a block list was read, by list and result";
        registry.register("blocklist_reloads", help, Clone::clone(&reloads));
        Self { reloads }
    }
}

impl Metrics {
    /// There is a block list of this name: its counts are shown from the start, at zero.
    pub fn blocklist(&self, list: &str) {
        for result in [true, false] {
            drop(self.0.blocklists.reloads.get_or_create(&result_of(list, result)));
        }
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

    #[test]
    fn each_list_is_counted_under_its_name() {
        let line = "smtp_guard_blocklist_reloads_total{list=\"drop\",result=\"failed\"} 0";
        check(|m| m.blocklist("drop"), line);
        let line = "smtp_guard_blocklist_reloads_total{list=\"drop\",result=\"failed\"} 1";
        check(|m| m.blocklist_reloaded("drop", false), line);
    }
}
