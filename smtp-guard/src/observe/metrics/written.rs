//! docs/metrics.md is written from what is registered; alert rules and dashboard may name nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use super::Format;
use super::tests::full;
use crate::written;

/// A family as it is shown.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    /// Labels, and the values of each.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// The meaning of labels whose values are the operator's or the machine's; the values of all others are listed.
const FREE: &[(&str, &str)] = &[
    ("abi", "number of the layout of the kernel's maps"),
    ("file", "path of a certificate, as configured"),
    ("interface", "name of a network interface"),
    ("limit", "key of `[limits]`"),
    ("list", "name of a block list, as configured"),
    ("listener", "address and port that is listened on"),
    ("node", "name of an edge of the fleet, as its configuration has it; at most 256"),
    ("server", "server of the backend, as configured"),
];

/// All families by name, as the classic format has them.
fn families() -> BTreeMap<String, Family> {
    let (metrics, _running) = full();
    let text = metrics.encode(Format::Classic);
    let mut families = BTreeMap::<String, Family>::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            last = name.to_owned();
            families.entry(last.clone()).or_default().help = help.trim_end_matches('.').to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert_eq!(name, last);
            families.entry(last.clone()).or_default().kind = kind.to_owned();
        } else if let Some((_, labels)) = line.split_once('{') {
            let family = families.get_mut(&last).unwrap();
            for label in labels.split_once('}').unwrap().0.split("\",") {
                let (name, value) = label.split_once("=\"").unwrap();
                let values = family.labels.entry(name.to_owned()).or_default();
                let value = value.trim_end_matches('"').to_owned();
                values.insert(value);
            }
        }
    }
    families
}

#[test]
fn what_is_written_of_the_metrics_is_up_to_date() {
    let families = families();
    let mut page = String::from(
        "# Metrics\n\n`cargo xtask docs` writes this page from what is registered in `smtp-guard/src/observe/metrics/`; don't edit it.\n\n\
         They are at `http://127.0.0.1:9925/metrics` (`metrics.listen`). The answer is Prometheus' classic text format; whoever asks\n\
         for `application/openmetrics-text` by `Accept` gets OpenMetrics. At most four scrapes run at once, each for ten seconds.\n\n\
         - Counters begin at zero with the process; those of the kernel plane with the plane.\n\
         - Each value of a label that is a fixed set has its series from the start. A series goes when its list, server, listener,\n  \
         certificate or interface has left the configuration.\n\
         - No label holds what a client sent: the number of series doesn't grow with what strangers do.\n\n\
         Alert rules are in [packaging/alerts.yml](../packaging/alerts.yml), a dashboard for Grafana in\n\
         [packaging/dashboard.json](../packaging/dashboard.json). When an alert fires, see [troubleshooting.md](troubleshooting.md).\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for (name, Family { kind, help, labels }) in &families {
        let labels: Vec<_> = labels.keys().filter(|label| *label != "le").map(|label| format!("`{label}`")).collect();
        writeln!(page, "| `{name}` | {kind} | {} | {help} |", labels.join(", ")).unwrap();
    }
    page.push_str("\n## Labels\n\n| label | of | values |\n|---|---|---|\n");
    for (label, meaning) in FREE {
        writeln!(page, "| `{label}` | all | {meaning} |").unwrap();
    }
    for (name, Family { labels, .. }) in &families {
        for (label, values) in labels.iter().filter(|(label, _)| *label != "le" && is_fixed(name, label)) {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            writeln!(page, "| `{label}` | `{name}` | {} |", values.join(", ")).unwrap();
        }
    }
    page.push_str("\nReasons are those of the log; `smtp-guard explain` says them in words.\n");
    written::check("docs/metrics.md", &page);
}

fn is_fixed(family: &str, label: &str) -> bool {
    let is_shown_elsewhere = family.ends_with("build_info") || family.ends_with("bound_limit");
    !is_shown_elsewhere && !FREE.iter().any(|(free, _)| *free == label)
}

#[test]
fn names_say_what_they_are() {
    for (name, Family { kind, help, .. }) in families() {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        assert!(name.starts_with("smtp_guard_") || name.starts_with("process_"), "{name}");
        assert!(!help.is_empty() && help.is_ascii(), "{name}: {help}");
    }
}

/// The metrics that `text` names.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("smtp_guard_") || word.starts_with("process_")).collect()
}

#[track_caller]
fn check_named(path: &str, least: usize) {
    let families = families();
    let text = fs::read_to_string(written::path(path)).unwrap();
    let named = named(&text);
    assert!(named.len() >= least, "{path} names {} metrics", named.len());
    for name in named {
        let is_of_histogram = ["_bucket", "_sum", "_count"].iter().any(|suffix| {
            let family = name.strip_suffix(suffix).and_then(|family| families.get(family));
            family.is_some_and(|family| family.kind == "histogram")
        });
        let exists = is_of_histogram || families.get(name).is_some_and(|family| family.kind != "histogram");
        assert!(exists, "{path} names {name}, which there is not");
    }
}

#[test]
fn alerts_and_dashboard_name_metrics_that_there_are() {
    check_named("packaging/alerts.yml", 12);
    check_named("packaging/dashboard.json", 20);
    serde_json::from_str::<serde_json::Value>(&fs::read_to_string(written::path("packaging/dashboard.json")).unwrap())
        .unwrap();
}
