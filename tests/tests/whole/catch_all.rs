//! Whether the backend takes any recipient of a domain: found out by the guard itself, beside the sessions.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use smtp_guard_tests::{Guard, Postfix, World, wait_for, wait_up_to};

/// What `status` says of the domains of which any recipient is taken.
fn catch_alls(guard: &Guard<'_>) -> serde_json::Value {
    guard.json(&["status"])["recipients"]["catch_all"].clone()
}

#[test]
#[ignore = "needs root and BPF"]
fn a_catch_all_is_recognised() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "virtual_alias_maps = inline:{ {@example.org = alice@example.org} }");
    let guard = Guard::start(&world, &[]);
    let seen = || (catch_alls(&guard) == serde_json::json!(["example.org"])).then_some(());
    // It is what was found so twice.
    wait_up_to(Duration::from_secs(90), "the catch-all in status", seen, || guard.log());
    assert_eq!(guard.metric("smtp_guard_catch_all_domains"), 1.0);
    let log = guard.log();
    assert!(log.contains("takes any recipient of this domain") && log.contains("[recipients] known"), "{log}");
    assert!(guard.command(&["status"]).ok().contains("takes any of example.org"));
}

#[test]
#[ignore = "needs root and BPF"]
fn a_server_that_refuses_unknown_recipients_is_none() {
    let world = World::new();
    let postfix = Postfix::start(&world, "");
    let guard = Guard::start(&world, &[]);
    // The guard's own question, with the empty sender.
    let asked = || postfix.log().contains("User unknown in virtual mailbox table; from=<>").then_some(());
    wait_for("the question in the backend's log", asked, || postfix.log());
    let hits = || guard.log().contains("takes any recipient");
    assert!(catch_alls(&guard).as_array().unwrap().is_empty() && !hits(), "{}", guard.log());
    assert_eq!(guard.metric("smtp_guard_catch_all_domains"), 0.0);
    assert!(postfix.messages().is_empty());
}
