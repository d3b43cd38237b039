//! The metrics of a guard at work, before Prometheus' own tool.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use smtp_guard_tests::pki::Pki;
use smtp_guard_tests::process::{Program, wait_for};
use smtp_guard_tests::room::unpacked;
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, World, guard::netkit, run};

const OPEN: &str = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Has promtool check `metrics`.
#[track_caller]
fn judge(metrics: &str) {
    let judged = run(Command::new("promtool").args(["check", "metrics"]), metrics);
    assert!(judged.code() == 0 && judged.stderr.is_empty(), "{judged:#?}\n{metrics}");
}

#[test]
#[ignore = "needs root and BPF"]
fn promtool_has_nothing_against_either_format() {
    let world = World::new();
    let _sink = Sink::start(&world, 25, &[]);
    let mut guard = Guard::start(&world, &[("edge.interfaces", "[\"att0\", \"cli0\"]")]);
    let edge = format!("{}:25", World::EDGE_FOR_CLIENT);
    run(world.on(Host::Client, &netkit()).args(["mail", &edge, "message", "2"]), "").ok();
    let classic = guard.metrics();
    judge(&classic);
    assert!(classic.contains("# TYPE smtp_guard_connections_total counter\n"), "{classic}");
    let open = guard.metrics_as(OPEN);
    assert!(open.contains("# TYPE smtp_guard_connections counter\n") && open.ends_with("# EOF\n"), "{open}");
    // The tool reads the classic format only. There a counter's family is called as its samples are.
    let counters = open.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"));
    let renamed = counters.fold(open.clone(), |text, name| {
        text.replace(&format!("# TYPE {name} "), &format!("# TYPE {name}_total "))
            .replace(&format!("# HELP {name} "), &format!("# HELP {name}_total "))
    });
    judge(renamed.trim_end_matches("# EOF\n"));

    for verb in ["connect", "mail", "rcpt", "dot"] {
        let count = guard.metric(&format!("smtp_guard_backend_reply_seconds_count{{verb=\"{verb}\"}}"));
        assert!(count >= 1.0, "{verb}: {count} in {classic}");
    }
    let at_least_one = [
        "smtp_guard_decision_seconds_count",
        "smtp_guard_session_seconds_count",
        "smtp_guard_message_size_bytes_count",
        "smtp_guard_listener_connections_total{listener=\"0.0.0.0:25\"}",
        "smtp_guard_ledger_reports_total{report=\"message_accepted\"}",
        "smtp_guard_kernel_up",
        "smtp_guard_kernel_map_capacity{map=\"bans\"}",
        "process_open_fds",
        "process_resident_memory_bytes",
    ];
    for name in at_least_one {
        assert!(guard.metric(name) >= 1.0, "{name} in {classic}");
    }

    // What is gone has no series; what is configured and missing has one.
    guard.configure(&[("edge.interfaces", "[\"att0\", \"eth9\"]")]);
    guard.command(&["reload"]);
    assert_eq!(guard.metric("smtp_guard_kernel_interface_attached{interface=\"eth9\"}"), 0.0);
    guard.kill9();
}

#[test]
#[ignore = "needs root and promtool"]
fn promtool_takes_the_alert_rules_and_every_query_of_the_dashboard() {
    let check = |path: &Path| run(Command::new("promtool").args(["check", "rules"]).arg(path), "").ok();
    check(&file("packaging/alerts.yml"));
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    let queries = queries("5m");
    assert!(queries.len() > 50, "{}", queries.len());
    for (number, query) in queries.into_iter().enumerate() {
        rules += &format!("  - record: query:q{number}\n    expr: {}\n", Value::from(query));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.yml");
    fs::write(&path, rules).unwrap();
    check(&path);
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(file("packaging/dashboard.json")).unwrap()).unwrap()
}

/// All queries of the dashboard, for all instances and jobs, with rates over `interval`.
fn queries(interval: &str) -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let plain =
        |query: &str| query.replace("$__rate_interval", interval).replace("$instance", ".*").replace("$job", ".*");
    targets.map(|target| plain(target["expr"].as_str().unwrap())).collect()
}

#[test]
#[ignore = "needs root and promtool"]
fn each_alert_fires_where_it_should_and_nowhere_else() {
    let tests = file("tests/tests/whole/alerts.test.yml");
    run(Command::new("promtool").args(["test", "rules"]).arg(&tests), "").ok();
    let (rules, tests) =
        (fs::read_to_string(file("packaging/alerts.yml")).unwrap(), fs::read_to_string(tests).unwrap());
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    for alert in alerts {
        let fires =
            tests.contains(&format!("alertname=\"{alert}\"")) || tests.contains(&format!("alertname: {alert}\n"));
        assert!(fires, "no test has {alert} fire");
    }
}

/// Reads the dashboard by the types that Grafana is made of, and writes it again: what these don't know would be missing.
const BY_GRAFANAS_TYPES: &str = "\
import json, sys
from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
ours = json.load(open(sys.argv[1]))
again = json.loads(JSONEncoder().encode(Dashboard.from_json(ours)))
def lost(one, other, path):
    if isinstance(one, dict):
        return [x for key in one for x in (lost(one[key], other[key], path + [key]) if key in other else [path + [key]])]
    if isinstance(one, list):
        if len(one) != len(other): return [path]
        return [x for n, (a, b) in enumerate(zip(one, other)) for x in lost(a, b, path + [n])]
    return [] if one == other else [path]
print(lost(ours, again, []))
";

#[test]
#[ignore = "needs root and what cargo xtask test fetches"]
fn grafanas_own_types_take_the_dashboard_as_it_is() {
    let types = unpacked("grafana", "grafana_foundation_sdk").parent().unwrap().to_owned();
    let mut python = Command::new("/usr/bin/python3");
    python.env("PYTHONPATH", types).args(["-c", BY_GRAFANAS_TYPES]).arg(file("packaging/dashboard.json"));
    assert_eq!(run(&mut python, "").ok().trim(), "[]", "what they don't know");

    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut taken = std::collections::BTreeSet::new();
    let mut ids = std::collections::BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel:#}");
        let [x, y, width, height] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + width <= 24, "{panel:#}");
        for (column, row) in (x..x + width).flat_map(|column| (y..y + height).map(move |row| (column, row))) {
            assert!(taken.insert((column, row)), "two panels at {column}, {row}: {panel:#}");
        }
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(panel["type"] == "row", targets.is_empty(), "{panel:#}");
        let names: std::collections::BTreeSet<_> =
            targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert_eq!(names.len(), targets.len(), "{panel:#}");
        assert!(targets.iter().all(|target| target["datasource"]["uid"] == "${datasource}"), "{panel:#}");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn a_real_prometheus_answers_every_query_of_the_dashboard() {
    let (world, pki, temporary) = (World::new(), Pki::new(), tempfile::tempdir().unwrap());
    let folder = temporary.path();
    fs::write(folder.join("key"), "0123456789abcdef0123456789abcdef").unwrap();
    let _sink = Sink::start(&world, 25, &[]);
    // Of a fleet and a webhook there are numbers also where nobody answers.
    let key = format!("\"{}\"", folder.join("key").display());
    let tls = pki.issue("mx", &["mx.example.org"]).guard();
    let guard = Guard::start(
        &world,
        &[
            ("fleet.url", "[\"redis://127.0.0.1:6379\"]"),
            ("fleet.key_file", &key),
            ("events.webhook", "\"http://127.0.0.1:8080/\""),
            ("events.secret_file", &key),
            ("+", &tls),
        ],
    );
    let config = folder.join("prometheus.yml");
    let text = format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{}]\nscrape_configs:\n\
         - job_name: smtp-guard\n  static_configs: [{{targets: [\"127.0.0.1:9925\"]}}]\n",
        file("packaging/alerts.yml").canonicalize().unwrap().display()
    );
    fs::write(&config, text).unwrap();
    let mut prometheus = world.on(Host::Edge, "prometheus");
    prometheus.arg(format!("--config.file={}", config.display()));
    prometheus.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    prometheus.arg("--web.listen-address=127.0.0.1:9090");
    let mut server = Program::start(&mut prometheus, folder.join("prometheus.log"));
    let ask = |query: &str| {
        run(world.on(Host::Edge, "promtool").args(["query", "instant", "http://127.0.0.1:9090", query]), "")
    };
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h"]).ok();
    let edge = format!("{}:25", World::EDGE_FOR_CLIENT);
    run(world.on(Host::Client, &netkit()).args(["mail", &edge, "message", "2"]), "").ok();
    wait_for(
        "scrapes",
        || (ask("count_over_time(smtp_guard_build_info[1m]) > 3").stdout.contains("=>")).then_some(()),
        || server.output(),
    );
    // What has no series here: other edges of the fleet, and the clock of a server that doesn't answer.
    let elsewhere = ["smtp_guard_fleet_node_", "smtp_guard_fleet_clock_offset_seconds"];
    for query in queries("30s") {
        let answer = ask(&query);
        assert!(answer.code() == 0 && answer.stderr.is_empty(), "{query}: {answer:#?}");
        let may_be_empty = query.ends_with("> 0") || elsewhere.iter().any(|name| query.contains(name));
        assert!(may_be_empty || answer.stdout.contains("=>"), "{query}: nothing");
    }
    // The rules are evaluated over the same data.
    wait_for(
        "an alert",
        || ask("ALERTS{alertname=\"SmtpGuardWebhookFails\"}").stdout.contains("pending").then_some(()),
        || ask("ALERTS").stdout,
    );
    server.end();
}
