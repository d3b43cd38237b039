//! `smtp-guard fleet status`: how the fleet is, as this edge sees it; and what `check --connect` found of its servers, in words.

use clap::Subcommand;

use std::io;

use super::args::Json;
use super::{output, time};
use crate::clock::WallTime;
use crate::fleet::probe::{Found, Looked};
use crate::fleet::{FleetStatus, NodeView, Offset};
use crate::observe::fleet::FleetView;
use crate::observe::log::printable;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show whether the fleet's server answers, the edges, and what they share
    ///
    /// The exit code is 0 whether the server answers or not: read `connected` in the JSON.
    Status {
        #[command(flatten)]
        json: Json,
    },
}

/// The fleet in one line, for `status` and `top`.
pub(super) fn line(fleet: &FleetStatus) -> String {
    line_at(fleet, crate::clock::wall())
}

fn line_at(fleet: &FleetStatus, now: WallTime) -> String {
    let mut line = format!("{}: {}", shown(&fleet.name), connection(fleet, now));
    let (live, all) = (fleet.live(), fleet.nodes.len());
    if fleet.connected {
        line.push_str(&format!("; {live} of {all} edges are there"));
    }
    for (count, what) in [(fleet.muted() as u64, "muted"), (fleet.kept, "reports wait"), (fleet.lost, "reports lost")] {
        if count > 0 {
            line.push_str(&format!("; {count} {what}"));
        }
    }
    line
}

/// Whether the server answers, since when, and why not.
fn connection(fleet: &FleetStatus, now: WallTime) -> String {
    let server = fleet.server.as_deref().map(shown);
    let lasts = now.as_ms().saturating_sub(fleet.since.as_ms()).max(0).unsigned_abs() / 1000;
    let since = format!("since {} ({})", time::utc(fleet.since), time::length(lasts));
    match (fleet.connected, &fleet.trouble) {
        (true, _) => format!("connected to {} {since}", server.unwrap_or_default()),
        (false, None) => format!("connecting {since}"),
        (false, Some(why)) => format!("NOT connected {since}, this edge judges alone: {}", shown(why)),
    }
}

/// The text of `fleet status`.
pub(super) fn text(view: &FleetView) -> String {
    text_at(view, crate::clock::wall())
}

fn text_at(FleetView { fleet, in_force, exempted }: &FleetView, now: WallTime) -> String {
    let shares = match (fleet.sends, fleet.receives) {
        (true, true) => "tells the others what it sees, and follows them",
        (true, false) => "only tells (share = \"send\")",
        (false, _) => "only follows (share = \"receive\")",
    };
    let of: Vec<_> = in_force.iter().map(|of| format!("{} of {}", of.count, shown(&of.name))).collect();
    let of = if of.is_empty() { String::from("none") } else { of.join(", ") };
    let own_clock = fleet.clock_offset_seconds.map_or_else(|| String::from("not known yet"), clock);
    let mut rows = vec![
        ["fleet".to_owned(), line_at(fleet, now)],
        ["this edge".to_owned(), format!("{}, {shares}", shown(&fleet.node))],
        ["clock".to_owned(), format!("{own_clock} (less the server's)")],
        [
            "reports".to_owned(),
            format!(
                "{} sent, {} heard; {} wait for the server, {} lost",
                fleet.reports_sent, fleet.reports_heard, fleet.kept, fleet.lost
            ),
        ],
        [
            "decisions".to_owned(),
            format!(
                "in force here of other edges: {of}; {exempted} ignored, as the source is exempt here; {} known",
                fleet.decisions_known
            ),
        ],
        [
            "history".to_owned(),
            format!("{} sources were familiar only by what others remember, at the start", fleet.history_sources),
        ],
    ];
    let ignored = fleet.ignored.iter().filter(|ignored| ignored.count > 0);
    let ignored: Vec<_> = ignored.map(|ignored| format!("{} {}", ignored.count, shown(&ignored.reason))).collect();
    if !ignored.is_empty() {
        rows.push(["messages".to_owned(), format!("ignored: {}", ignored.join(", "))]);
    }
    let mut nodes = vec![["NODE", "VERSION", "HEARD", "CLOCK", "WAITING", "LOST", "STATE"].map(String::from)];
    nodes.extend(fleet.nodes.iter().map(|node| {
        [
            shown(&node.name),
            shown(&node.program_version),
            format!("{} ago", time::length(node.silent_seconds.0.as_secs())),
            clock(node.clock_offset_seconds),
            node.kept.to_string(),
            node.lost.to_string(),
            state(node, &fleet.node),
        ]
    }));
    format!("{}\n\n{}", output::table(&rows), output::table(&nodes))
}

/// Says what was found of a server.
pub(super) fn say(looked: &Looked) -> io::Result<()> {
    let Looked { server, found, troubles, doubts } = looked;
    for text in found.iter().filter(|_| troubles.is_empty()).flat_map(found_of) {
        output::line(&format!("{server}: {text}"))?;
    }
    doubts.iter().for_each(|doubt| eprintln!("warning: {server}: {doubt}"));
    troubles.iter().for_each(|trouble| eprintln!("error: {server}: {trouble}"));
    Ok(())
}

/// The good findings about a server.
fn found_of(found: &Found) -> Vec<String> {
    let Found { software, software_version, user, secured, answer_seconds, clock_offset_seconds, edges } = found;
    let tls = if *secured { "by TLS" } else { "in clear text" };
    let ms = answer_seconds.0.as_secs_f64() * 1000.0;
    let key = match edges.as_slice() {
        [] => String::from("no other edge has been here yet, so the key can't be compared"),
        edges => format!("the key is the same as that of {}", edges.join(", ")),
    };
    let mut lines = vec![
        format!("{software} {software_version}, {tls}, as user {user}; answers in {ms:.1} ms"),
        String::from("all that the guard needs is allowed"),
    ];
    lines.extend(clock_offset_seconds.map(|offset| format!("the clock here less its clock: {}", clock(offset))));
    lines.push(key);
    lines
}

/// How `node` is, as `own` sees it.
fn state(node: &NodeView, own: &str) -> String {
    let is_own = node.name == own;
    let is_there = match (is_own, node.live) {
        (true, _) => "this edge",
        (false, true) => "there",
        (false, false) => "silent",
    };
    let mut state = vec![is_there.to_owned()];
    if let Some(muted) = &node.muted {
        state.push(format!("muted here until {}: {}", time::utc(muted.until), shown(&muted.text)));
    }
    if !node.ignores.is_empty() {
        let ignored: Vec<_> = node.ignores.iter().map(|name| shown(name)).collect();
        state.push(format!("doesn't listen to {}", ignored.join(", ")));
    }
    if node.cursor.is_empty() {
        state.push(String::from("doesn't follow"));
    }
    state.join("; ")
}

fn clock(Offset(ms): Offset) -> String {
    format!("{}{}.{:03} s", if ms < 0 { '-' } else { '+' }, ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000)
}

/// Words of another edge or a server, without anything that a terminal would obey.
fn shown(text: &str) -> String {
    printable(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::fleet::OfNode;
    use crate::observe::fleet::tests::status;

    const NOW: WallTime = WallTime::from_ms(65_000);

    #[test]
    fn a_fleet_is_a_line_some_rows_and_a_table() {
        let of = |name: &str, count| OfNode { name: name.to_owned(), count };
        let view = FleetView { fleet: status(), in_force: vec![of("mx2", 1), of("mx3", 2)], exempted: 4 };
        let expected = "\
fleet      edge: connected to 192.0.2.10:6379 since 1970-01-01 00:00:00 UTC (1m 05s); 2 of 3 edges are there; 1 muted; 5 reports wait; 3 reports lost
this edge  mx1, tells the others what it sees, and follows them
clock      -0.012 s (less the server's)
reports    120 sent, 98 heard; 5 wait for the server, 3 lost
decisions  in force here of other edges: 1 of mx2, 2 of mx3; 4 ignored, as the source is exempt here; 7 known
history    4 sources were familiar only by what others remember, at the start
messages   ignored: 2 code

NODE  VERSION  HEARD       CLOCK      WAITING  LOST  STATE
mx1   0.1.0    0s ago      -0.012 s   0        0     this edge
mx2   0.1.0    1s ago      +90.250 s  0        9     there; muted here until 1970-01-01 00:10:00 UTC: it made 812 decisions in a minute; 600 are the most; doesn't listen to mx1
mx3   0.1.0    2h 05m ago  +0.000 s   0        0     silent";
        assert_eq!(text_at(&view, NOW), expected);
        output::check_documented("fleet status", &view);
        output::check_documented(
            "fleet status",
            &FleetView::new(
                FleetStatus {
                    connected: false,
                    trouble: Some("x".to_owned()),
                    server: None,
                    clock_offset_seconds: None,
                    ..status()
                },
                0,
            ),
        );
    }

    #[test]
    fn each_finding_is_a_line() {
        let found = Found {
            software: "redis".to_owned(),
            software_version: "7.0.15".to_owned(),
            user: "fleet".to_owned(),
            secured: true,
            answer_seconds: crate::clock::Seconds(std::time::Duration::from_micros(420)),
            clock_offset_seconds: Some(Offset(3)),
            edges: vec!["mx1".to_owned(), "mx2".to_owned()],
        };
        let lines = [
            "redis 7.0.15, by TLS, as user fleet; answers in 0.4 ms",
            "all that the guard needs is allowed",
            "the clock here less its clock: +0.003 s",
            "the key is the same as that of mx1, mx2",
        ];
        assert_eq!(found_of(&found), lines);
        let none = Found { edges: Vec::new(), clock_offset_seconds: None, ..found };
        assert_eq!(found_of(&none)[2], "no other edge has been here yet, so the key can't be compared");
    }

    /// The line of a fleet that was changed.
    #[track_caller]
    fn check(change: impl FnOnce(&mut FleetStatus), expected: &str) {
        let mut fleet = FleetStatus { kept: 0, lost: 0, nodes: status().nodes[..1].to_vec(), ..status() };
        change(&mut fleet);
        assert_eq!(line_at(&fleet, NOW), expected);
    }

    #[test]
    fn the_line_says_first_whether_the_server_answers() {
        const SINCE: &str = "since 1970-01-01 00:00:00 UTC (1m 05s)";
        check(|_| {}, &format!("edge: connected to 192.0.2.10:6379 {SINCE}; 1 of 1 edges are there"));
        check(|fleet| fleet.connected = false, &format!("edge: connecting {SINCE}"));
        let fails = |fleet: &mut FleetStatus| {
            (fleet.connected, fleet.kept) = (false, 7);
            fleet.trouble = Some("\x1b[2Jrefused".to_owned());
        };
        check(fails, &format!("edge: NOT connected {SINCE}, this edge judges alone: \\x1b[2Jrefused; 7 reports wait"));
        // A clock that was set back.
        check(
            |fleet| fleet.since = WallTime::from_ms(70_000),
            "edge: connected to 192.0.2.10:6379 since 1970-01-01 00:01:10 UTC (0s); 1 of 1 edges are there",
        );
    }
}
