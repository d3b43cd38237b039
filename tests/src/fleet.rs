//! Edges of a fleet. Each has a world of its own, in which attacker and client have the same addresses: one source that comes to all
//! edges.

use std::fs;

use crate::guard::{Guard, netkit};
use crate::netns::{Host, World};
use crate::process::{run, wait_for};

/// The files that all edges read: the fleet's key, and recipients.
#[derive(Debug)]
pub struct Files(tempfile::TempDir);

impl Files {
    /// In a folder of their own.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("key"), "5".repeat(64)).unwrap();
        fs::write(folder.path().join("other"), "6".repeat(64)).unwrap();
        fs::write(folder.path().join("password"), "PASSWORD\n").unwrap();
        fs::write(folder.path().join("known"), "alice@example.org\n").unwrap();
        Self(folder)
    }

    /// Where `name` is, as the configuration has it.
    pub fn path(&self, name: &str) -> String {
        format!("\"{}\"", self.0.path().join(name).display())
    }
}

impl Default for Files {
    fn default() -> Self {
        Self::new()
    }
}

/// The guard of the `number`th world, called `mxN`, with changes of its own.
pub fn edge<'w>(world: &'w World, number: usize, url: &str, files: &Files, more: &[(&str, &str)]) -> Guard<'w> {
    let mut guard = configured(world, number, url, files, more);
    guard.command(&["edge", "load"]).ok();
    guard.run();
    guard
}

/// The same, which doesn't run yet.
pub fn configured<'w>(world: &'w World, number: usize, url: &str, files: &Files, more: &[(&str, &str)]) -> Guard<'w> {
    let (url, node) = (format!("[\"{url}\"]"), format!("\"mx{}\"", number + 1));
    let (key, known) = (files.path("key"), files.path("known"));
    let mut changes =
        vec![("fleet.url", &*url), ("fleet.node", &*node), ("fleet.key_file", &*key), ("recipients.known", &*known)];
    changes.extend(more);
    Guard::configured(world, &changes)
}

/// Asks the edge of `world` for recipients that nobody has, those from `first` to before `end`; how many are refused as such.
pub fn guess(world: &World, first: usize, end: usize) -> usize {
    let mut lines = vec!["EHLO attacker.example".to_owned(), "MAIL FROM:<x@attacker.example>".to_owned()];
    lines.extend((first..end).map(|n| format!("RCPT TO:<guess{n}@example.org>")));
    lines.push("QUIT".to_owned());
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let said = run(world.on(Host::Attacker, &netkit()).args(["dialogue", &edge]), &lines.join("\n")).ok();
    said.lines().filter(|line| line.starts_with("550 5.1.1")).count()
}

/// The author of the decision about the attacker on this edge.
pub fn decision(guard: &Guard) -> Option<String> {
    let decisions = guard.json(&["decisions", "list"])["decisions"].clone();
    let found = decisions.as_array().unwrap().iter().find(|decision| decision["source"] == World::ATTACKER)?.clone();
    let by = [&found["origin"], &found["origin_name"]].map(|text| text.as_str().unwrap_or_default());
    Some(by.join(" ").trim().to_owned())
}

/// When the attacker was banned on this edge, each time, in us.
pub fn bans(guard: &Guard) -> Vec<i64> {
    let log = guard.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let banned = lines.filter(|line| line["source"] == World::ATTACKER && line["seconds"].is_number());
    banned.map(|line| micros(line["timestamp"].as_str().unwrap())).collect()
}

/// The time of day in `2026-01-31T12:34:56.789012Z`, in us.
pub fn micros(timestamp: &str) -> i64 {
    let (_, time) = timestamp.trim_end_matches('Z').split_once('T').unwrap();
    let (clock, fraction) = time.split_once('.').unwrap();
    let seconds = clock.split(':').fold(0, |sum, part| sum * 60 + part.parse::<i64>().unwrap());
    seconds * 1_000_000 + format!("{fraction:0<6.6}").parse::<i64>().unwrap()
}

/// Whether the kernel of this edge drops the attacker.
pub fn drops(guard: &Guard) -> bool {
    guard.json(&["explain", World::ATTACKER])["kernel"]["drop_reason"].is_string()
}

/// Waits until it `is_so` for `guard`.
pub fn wait_until(guard: &Guard, what: &str, is_so: impl Fn(&Guard) -> bool) {
    wait_for(what, || is_so(guard).then_some(()), || guard.log());
}

/// Waits until `guard` takes part.
pub fn joined(guard: &Guard) {
    wait_until(guard, "the fleet's decisions are in force", |guard| {
        guard.log().contains("the fleet's decisions are in force")
    });
}
