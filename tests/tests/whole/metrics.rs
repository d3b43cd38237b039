//! The metrics of a guard at work, before Prometheus' own tool.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
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
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(file("packaging/dashboard.json")).unwrap()).unwrap();
    let mut rules = String::from("groups:\n- name: dashboard\n  rules:\n");
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut queries = 0;
    for target in targets {
        let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m");
        rules += &format!("  - record: q:{queries}\n    expr: {}\n", Value::from(query)).replace("q:", "query:q");
        queries += 1;
    }
    assert!(queries > 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.yml");
    fs::write(&path, rules).unwrap();
    check(&path);
}
