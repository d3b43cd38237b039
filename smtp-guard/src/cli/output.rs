//! Results on standard output: JSON for programs, aligned text for people.

use std::io::{self, Write as _};

use serde::Serialize;
use smtp_guard_core::webhook::WebhookStatus;

use super::{fleet, time};
use crate::blocklist::State;
use crate::clock::WallTime;
use crate::decision::Decision;
use crate::edge;
use crate::observe::bounds::Reached;
use crate::observe::log::{printable, printable_whole};
use crate::observe::status::{Certificate, Configuration, LastReload, Recipients, Server, Status, Wording};
use crate::rates::accounts::HeldUsers;

/// Writes one text and a line end. A closed pipe is an error here, and no panic.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// The version of all answers in JSON. It grows where a field goes or comes to mean something else; a new field is no new version.
pub(super) const VERSION: u32 = crate::events::VERSION;

/// An answer in JSON, which is an object: its version stands before its fields.
#[derive(Serialize)]
pub(super) struct Answer<'a, T> {
    version: u32,
    #[serde(flatten)]
    fields: &'a T,
}

impl<'a, T: Serialize> Answer<'a, T> {
    pub(super) fn of(fields: &'a T) -> Self {
        Self { version: VERSION, fields }
    }
}

/// Writes `value`, which is no list, as JSON, or `text`.
pub(super) fn show(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    let text = if json { serde_json::to_string_pretty(&Answer::of(value))? } else { text() };
    Ok(line(&text)?)
}

/// The answer of `decisions list --json`.
#[derive(Serialize)]
pub(super) struct Decisions<'a> {
    pub(super) decisions: &'a [Decision],
}

/// The answer of `decisions list --all`.
#[derive(Serialize)]
pub(super) struct Blocked<'a> {
    pub(super) decisions: &'a [Decision],
    pub(super) blocklists: &'a [State],
}

/// The text of `decisions list`: a table of decisions, and a line for each block list.
pub(super) fn blocked(blocked: &Blocked<'_>) -> String {
    blocked_at(blocked, crate::clock::wall())
}

fn blocked_at(Blocked { decisions, blocklists }: &Blocked<'_>, now: WallTime) -> String {
    let lists: Vec<_> = blocklists.iter().map(blocklist).collect();
    match (decisions.is_empty(), lists.is_empty()) {
        (true, true) => String::from("nobody is blocked"),
        (true, false) => format!("no decision is in force\n{}", lists.join("\n")),
        (false, true) => decisions_at(decisions, now),
        (false, false) => format!("{}\n{}", decisions_at(decisions, now), lists.join("\n")),
    }
}

/// A block list, and how much of it is in force.
fn blocklist(State { name, file, read, error }: &State) -> String {
    let file = printable(file.to_string_lossy().as_bytes());
    match (read, error) {
        (Some(read), None) => format!("block list {name}: {} in {file}", entries(read.entries)),
        (Some(read), Some(_)) => format!("block list {name}: {}, of an older version of {file}", entries(read.entries)),
        (None, _) => format!("block list {name}: not in force, as {file} could not be read (`smtp-guard status`)"),
    }
}

fn entries(entries: usize) -> String {
    format!("{entries} {}", if entries == 1 { "entry" } else { "entries" })
}

fn decisions_at(list: &[Decision], now: WallTime) -> String {
    let mut rows = vec![["SOURCE", "REASON", "BY", "UNTIL", "LEFT", "NUMBER", "TEXT"].map(String::from)];
    rows.extend(list.iter().map(|decision| {
        [
            decision.source.clone(),
            decision.reason.clone(),
            printable(decision.by().as_bytes()),
            time::utc(decision.until),
            left(decision.until, now),
            // As `explain` counts: the first ban is number 1.
            decision.repeat.saturating_add(1).to_string(),
            // It may quote what a client sent.
            printable(decision.text.as_bytes()),
        ]
    }));
    table(&rows)
}

/// How long until `until`.
pub(super) fn left(until: WallTime, now: WallTime) -> String {
    if until.as_ms() == i64::MAX {
        return String::from("-");
    }
    let ms = until.as_ms().saturating_sub(now.as_ms()).max(0);
    time::length(ms.unsigned_abs().div_ceil(1000))
}

fn recipients(recipients: &Recipients) -> String {
    let known = match recipients.known {
        Some(entries) => format!("{entries} in the table"),
        None => "asked of the backend".to_owned(),
    };
    match recipients.catch_all.as_slice() {
        [] => known,
        domains => format!("{known}, which takes any of {}: no harvest is seen there", domains.join(", ")),
    }
}

fn server(server: &Server) -> String {
    let Server { address, answers, connections, round_trip_seconds: _ } = server;
    let answers = if *answers { "answers" } else { "does not answer" };
    format!("{address} ({answers}, {connections} connections)")
}

fn configuration(configuration: &Configuration) -> String {
    let Configuration { generation, since, last_reload, waiting, earlier_sessions } = configuration;
    let mut text = format!("generation {generation}, in force since {}", time::utc(*since));
    if *earlier_sessions > 0 {
        text.push_str(&format!("; {earlier_sessions} sessions go on by an earlier one"));
    }
    if let Some(LastReload { at, error: Some(_) }) = last_reload {
        text.push_str(&format!("; the file was refused at {} (`smtp-guard check`)", time::utc(*at)));
    }
    if !waiting.is_empty() {
        text.push_str(&format!("; needs a restart: {}", waiting.join(", ")));
    }
    text
}

/// The text of `status`.
pub(super) fn status(status: &Status) -> String {
    let messages = &status.messages;
    let kernel = if status.kernel.present { "enforcing" } else { "absent" };
    let pairs = [
        ("version", status.version.clone()),
        ("up", time::length(status.uptime_seconds)),
        ("configuration", configuration(&status.configuration)),
        ("listening on", status.listeners.join(", ")),
        ("backend", status.backend.iter().map(server).collect::<Vec<_>>().join(", ")),
        ("connections", status.connections.to_string()),
        ("recipients", recipients(&status.recipients)),
        (
            "messages",
            format!(
                "{} accepted, {} rejected, {} deferred, {} ambiguous",
                messages.accepted, messages.rejected, messages.deferred, messages.ambiguous
            ),
        ),
        ("bans", bans(status)),
        ("kernel plane", format!("{kernel}: {}", status.kernel.text)),
    ];
    let mut rows: Vec<_> = pairs.map(|(name, value)| [name.to_owned(), value]).into();
    rows.extend(status.certificates.iter().map(|Certificate { file, remaining_seconds, .. }| {
        let days = remaining_seconds.div_euclid(86_400);
        let ends = if days < 0 { format!("expired {} days ago", -days) } else { format!("ends in {days} days") };
        [format!("certificate {file}"), ends]
    }));
    rows.extend(held(&status.held_users));
    let trouble = status.tls_trouble.iter();
    rows.extend(trouble.map(|why| ["certificates".to_owned(), format!("last reload FAILED: {why}")]));
    rows.extend(status.blocklists.iter().map(|list| {
        let read = list.read.as_ref().map(|read| format!(", read at {}", time::utc(read.at)));
        [format!("block list {}", list.name), format!("{list}{}", read.unwrap_or_default())]
    }));
    let wordings = status.recipients.unknown_wordings.iter();
    rows.extend(
        wordings.map(|Wording { server, words }| [format!("unknown at {server}"), printable(words.as_bytes())]),
    );
    rows.extend(status.recipients.trouble.iter().map(|trouble| {
        let trouble = printable_whole(trouble);
        [
            "recipient table".to_owned(),
            format!("the changed file is not used: {trouble}; `smtp-guard check` looks at it"),
        ]
    }));
    rows.extend(status.fleet.iter().map(|fleet| ["fleet".to_owned(), fleet::line(fleet)]));
    rows.extend(status.webhook.iter().map(|status| ["webhook".to_owned(), webhook(status)]));
    rows.extend(status.dns_silent.then(|| ["DNS".to_owned(), "does not answer".to_owned()]));
    rows.extend(status.store_trouble.iter().map(|trouble| ["store".to_owned(), format!("not written: {trouble}")]));
    rows.extend(status.bounds.iter().map(bound));
    rows.extend(status.warnings.iter().map(|warning| ["warning".to_owned(), warning.clone()]));
    table(&rows)
}

/// How it goes with the webhook.
fn webhook(status: &WebhookStatus) -> String {
    let WebhookStatus { server, events_waiting, events_delivered, events_dropped, trouble, last_success, .. } = status;
    let mut text = format!("{server}: {events_delivered} events delivered, {events_waiting} wait");
    if *events_dropped > 0 {
        text.push_str(&format!(", {events_dropped} LOST"));
    }
    if let Some(at) = last_success {
        text.push_str(&format!("; last taken at {}", time::utc(*at)));
    }
    if let Some(why) = trouble {
        text.push_str(&format!("; FAILED: {}", printable_whole(why)));
    }
    text
}

/// Who of the users is held, where somebody is.
fn held(users: &HeldUsers) -> Option<[String; 2]> {
    let HeldUsers { count, names } = users;
    let named: Vec<_> = names.iter().map(|name| printable(name.as_bytes())).collect();
    let more = if *count > named.len() as u64 { " and others" } else { "" };
    (*count > 0).then(|| {
        let text = format!("{count}: {}{more}; `smtp-guard accounts list` says why", named.join(", "));
        ["users held".to_owned(), text]
    })
}

/// How many bans.
fn bans(status: &Status) -> String {
    let Status { bans_active, networks_active, .. } = status;
    match networks_active {
        0 => bans_active.to_string(),
        networks => format!("{bans_active}, {networks} of them of networks"),
    }
}

/// A bound that was reached.
fn bound(reached: &Reached) -> [String; 2] {
    let limit = reached.limit.map(|limit| format!(" (limit {limit})")).unwrap_or_default();
    let what =
        if reached.what.is_empty() { String::new() } else { format!(" ({})", printable(reached.what.as_bytes())) };
    let times = if reached.count == 1 { "once".to_owned() } else { format!("{} times", reached.count) };
    [format!("bound {}{limit}", reached.name), format!("reached {times}, last at {}{what}", time::utc(reached.last))]
}

/// The text of `edge status`.
pub(super) fn edge(status: &edge::Status) -> String {
    let edge::Status { directory, abi, interfaces, bans_active, networks_active, sources, connections, kernel_packets } =
        status;
    let mut rows = vec![
        ["pinned in".to_owned(), format!("{} (ABI version {abi})", directory.display())],
        ["bans".to_owned(), {
            let of_sources = bans_active.saturating_sub(*networks_active);
            format!("{of_sources} of sources, {networks_active} of networks")
        }],
        ["connections".to_owned(), format!("{connections} of {sources} sources")],
    ];
    rows.extend(interfaces.iter().map(|edge::Interface { name, mode, attached }| {
        let state = if *attached { "attached" } else { "gone or unfiltered" };
        [format!("interface {name}"), format!("{state}, {mode}")]
    }));
    let mut text = table(&rows);
    if !kernel_packets.is_empty() {
        let mut rows = vec![["REASON", "FAMILY", "VERDICT", "PACKETS"].map(String::from)];
        rows.extend(kernel_packets.iter().map(|edge::Packets { reason, family, verdict, count }| {
            [(*reason).to_owned(), (*family).to_owned(), (*verdict).to_owned(), count.to_string()]
        }));
        text.push_str(&format!("\n\n{}", table(&rows)));
    }
    text
}

/// Columns aligned to the left, two spaces between them.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut lines = Vec::with_capacity(rows.len());
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
    }
    lines.join("\n")
}

/// The answer of `command` that shows `value` is as docs/json.md has it.
#[cfg(test)]
#[track_caller]
pub(super) fn check_documented(command: &str, value: &impl Serialize) {
    let command: Vec<_> = command.split(' ').collect();
    super::json_page::Page::read().check_command(&command, &serde_json::to_value(Answer::of(value)).unwrap());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocklist::Read;

    fn decision(source: &str, text: &str, until_ms: i64) -> Decision {
        Decision {
            source: source.to_owned(),
            reason: String::from("harvest"),
            text: text.to_owned(),
            origin: String::from("ledger"),
            origin_name: None,
            made: WallTime::from_ms(0),
            until: WallTime::from_ms(until_ms),
            repeat: 1,
            evidence: Vec::new(),
        }
    }

    #[test]
    fn decisions_are_a_table() {
        let list = [decision("192.0.2.1", "guessing", 3_600_000), decision("2001:db8::/64", "\x1b[2J", i64::MAX)];
        let expected = "\
SOURCE         REASON   BY      UNTIL                    LEFT    NUMBER  TEXT
192.0.2.1      harvest  ledger  1970-01-01 01:00:00 UTC  1h 00m  2       guessing
2001:db8::/64  harvest  ledger  for ever                 -       2       \\x1b[2J";
        assert_eq!(decisions_at(&list, WallTime::from_ms(0)), expected);
    }

    /// What is said of the block lists, each with its entries and whether the last try failed.
    #[track_caller]
    fn check_lists(lists: &[(Option<usize>, bool)], expected: &str) {
        let read = |entries| Read { at: WallTime::from_ms(0), format: String::new(), entries, refused: 0, skipped: 0 };
        let state = |(entries, failed): &(Option<usize>, bool)| State {
            name: String::from("drop"),
            file: "/var/drop".into(),
            read: entries.map(read),
            error: failed.then(|| String::from("x")),
        };
        let blocklists: Vec<_> = lists.iter().map(state).collect();
        let text = blocked_at(&Blocked { decisions: &[], blocklists: &blocklists }, WallTime::from_ms(0));
        assert_eq!(text, expected);
    }

    #[test]
    fn that_a_list_drops_is_never_left_out() {
        check_lists(&[], "nobody is blocked");
        check_lists(
            &[(Some(1523), false), (Some(1), true), (None, true)],
            "\
no decision is in force
block list drop: 1523 entries in /var/drop
block list drop: 1 entry, of an older version of /var/drop
block list drop: not in force, as /var/drop could not be read (`smtp-guard status`)",
        );
        let decisions = [decision("192.0.2.1", "x", 0)];
        let state = State { name: String::from("a"), file: "/a".into(), read: None, error: None };
        let text = blocked_at(&Blocked { decisions: &decisions, blocklists: &[state] }, WallTime::from_ms(0));
        assert!(text.starts_with("SOURCE") && text.lines().count() == 3, "{text}");
    }

    #[test]
    fn users_who_are_held_are_named() {
        let check = |count, names: &[&str], expected: Option<&str>| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let row = held(&HeldUsers { count, names });
            assert_eq!(row.as_ref().map(|[_, text]| text.as_str()), expected);
        };
        check(0, &[], None);
        check(2, &["ann", "b\u{202e}b"], Some("2: ann, b\\u{202e}b; `smtp-guard accounts list` says why"));
        check(3, &["ann"], Some("3: ann and others; `smtp-guard accounts list` says why"));
    }

    #[test]
    fn the_kernel_plane_is_a_table() {
        let status = edge::Status {
            directory: "/sys/fs/bpf/x".into(),
            abi: 5,
            interfaces: vec![edge::Interface { name: "eth0".to_owned(), mode: "driver", attached: true }],
            bans_active: 3,
            networks_active: 1,
            sources: 3,
            connections: 4,
            kernel_packets: vec![edge::Packets { reason: "harvest", family: "ipv4", verdict: "drop", count: 9 }],
        };
        let expected = "\
pinned in       /sys/fs/bpf/x (ABI version 5)
bans            2 of sources, 1 of networks
connections     4 of 3 sources
interface eth0  attached, driver

REASON   FAMILY  VERDICT  PACKETS
harvest  ipv4    drop     9";
        assert_eq!(super::edge(&status), expected);
        check_documented("edge status", &status);
    }
}
