//! `setup` and `check --connect` before real mail servers.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::PathBuf;

use serde_json::Value;
use smtp_guard_tests::{
    Exim, Host, Opensmtpd, Postfix, Run, World,
    guard::{binary, check_answer},
    run,
};

/// The edge, as the backend sees it.
const EDGE: &str = "10.77.3.1";

/// Where `setup` writes.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("smtp-guard.toml")
    }

    fn setup(&self, world: &World, more: &[&str]) -> Run {
        let backend = format!("{}:25", World::BACKEND);
        let mut command = world.on(Host::Edge, &binary());
        command.args([
            "setup",
            "--yes",
            "--domain",
            "example.org",
            "--interface",
            "att0",
            "--hostname",
            "mx.example.org",
        ]);
        command.args(["--backend", &backend, "--output"]).arg(self.file()).args(more);
        run(&mut command, "")
    }

    fn check(&self, world: &World) -> Run {
        run(world.on(Host::Edge, &binary()).args(["check", "--connect", "--config"]).arg(self.file()), "")
    }
}

/// What `setup` finds of the mail server that runs in `world`: software, identity, whether that is taken, and a part of what it says
/// is to be done or doubtful.
#[track_caller]
fn check(world: &World, software: &str, identity: &str, ready: bool, parts: &[&str]) {
    let place = Place::new();
    let report: Value = serde_json::from_str(&place.setup(world, &["--json"]).ok()).unwrap();
    check_answer(&["setup"], &report);
    assert_eq!(report["software"], software, "{report:#}");
    assert_eq!(report["identity"], identity, "{report:#}");
    assert_eq!(report["ready"], ready, "{report:#}");
    let said = format!("{} {}", report["to_do"], report["doubts"]);
    for part in parts {
        let (part, wanted) = part.strip_prefix('!').map_or((*part, true), |part| (part, false));
        assert_eq!(said.contains(part), wanted, "{part:?} in {report:#}");
    }
    let says = &report["probe"]["domains_asked"][0];
    assert_eq!(says["recognised"], true, "{report:#}");
    // What it wrote is what the guard would start with: where the server takes that, nothing is wrong.
    let checked = place.check(world);
    assert_eq!(checked.code(), if ready { 0 } else { 1 }, "{checked:#?}");
    if ready {
        assert!(checked.stdout.contains("takes the guard, in clear text"), "{checked:#?}");
    }
}

#[test]
#[ignore = "needs root"]
fn postfix_is_found_out() {
    let world = World::new();
    let authorised = format!("smtpd_authorized_xclient_hosts = {EDGE}");
    let still_to_do = ["!smtpd_authorized_xclient_hosts", "no STARTTLS", "firewall", "!relay"];
    {
        let _postfix = Postfix::start(&world, &authorised);
        check(&world, "postfix", "xclient", true, &still_to_do);
    }
    {
        let _postfix = Postfix::start(&world, "");
        check(&world, "postfix", "xclient", false, &[&authorised]);
    }
    {
        let _postfix =
            Postfix::start(&world, "smtpd_upstream_proxy_protocol = haproxy\nsmtpd_upstream_proxy_timeout = 3s");
        check(&world, "postfix", "proxy-v2", true, &["!haproxy"]);
    }
}

#[test]
#[ignore = "needs root"]
fn what_is_doubtful_at_the_mail_server_is_said() {
    let world = World::new();
    let relaying =
        format!("mynetworks = {}/32\nsmtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination", EDGE);
    let _postfix = Postfix::start(&world, &relaying);
    let place = Place::new();
    place.setup(&world, &[]).ok();
    let identity_none = fs::read_to_string(place.file()).unwrap().replace("\"xclient\"", "\"none\"");
    fs::write(place.file(), identity_none).unwrap();
    let checked = place.check(&world);
    assert!(checked.stderr.contains("out of its relay networks (Postfix: mynetworks)"), "{checked:#?}");
    // A file that is there stays, and the difference is shown.
    let refused = place.setup(&world, &[]);
    assert!(
        refused.code() == 1 && refused.stderr.contains("- identity = \"none\"\n+ identity = \"xclient\""),
        "{refused:#?}"
    );
    place.setup(&world, &["--force"]).ok();
    let shown = place.setup(&world, &["--dry-run"]);
    assert!(shown.stdout.contains("interfaces = [\"att0\"]"), "{shown:#?}");
}

#[test]
#[ignore = "needs root"]
fn exim_is_found_out() {
    let world = World::new();
    {
        let _exim = Exim::start(&world, &format!("hosts_proxy = {}\n", EDGE));
        check(&world, "exim", "proxy-v2", true, &["!hosts_proxy"]);
    }
    let _exim = Exim::start(&world, "");
    check(&world, "exim", "proxy-v2", false, &[&format!("hosts_proxy = {}", EDGE)]);
}

#[test]
#[ignore = "needs root"]
fn opensmtpd_is_found_out() {
    let world = World::new();
    let _opensmtpd = Opensmtpd::start(&world, "proxy-v2");
    check(&world, "opensmtpd", "proxy-v2", true, &["!listen on"]);
}

#[test]
#[ignore = "needs root"]
fn a_mail_server_that_is_down_is_said_and_nothing_is_written() {
    let world = World::new();
    let place = Place::new();
    let refused = place.setup(&world, &[]);
    assert!(refused.code() == 1 && refused.stderr.contains("cannot be connected"), "{refused:#?}");
    assert!(refused.stderr.contains("Nothing was written") && !place.file().exists(), "{refused:#?}");
}
