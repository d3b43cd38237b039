//! `explain` in plain sentences: why, on what evidence, until when, and how to lift it.

use std::net::IpAddr;

use axum::http::Method;
use serde::Serialize;

use super::admin_client::AdminClient;
use super::output::left;
use super::time;
use crate::blocklist::Listing;
use crate::clock::WallTime;
use crate::decision::{Decision, Explanation, KernelView, LedgerView};
use crate::observe::log::{printable, printable_whole};
use smtp_guard_ebpf::reason::Reason;

impl AdminClient {
    /// GET /explain/{ip}
    pub fn explain(&self, ip: IpAddr) -> anyhow::Result<Explanation> {
        self.ask(Method::GET, &format!("/explain/{ip}"), None::<&()>)
    }
}

/// The answer of `explain --json` about an address.
#[derive(Serialize)]
pub(super) struct Explained<'a> {
    /// Whether it gets no session: by a ban, a block list, or an entry of the kernel's.
    blocked: bool,
    #[serde(flatten)]
    explanation: &'a Explanation,
}

impl<'a> Explained<'a> {
    pub(super) fn of(explanation: &'a Explanation) -> Self {
        let Explanation { exempt, decision, networks, listed, kernel, .. } = explanation;
        let bans = decision.iter().chain(networks).any(|decision| decision.reason != Reason::Deferred.label());
        let dropped = kernel.as_ref().is_some_and(|kernel| kernel.drop_reason.is_some());
        Self { blocked: !exempt && (bans || !listed.is_empty() || dropped), explanation }
    }
}

/// The text of `explain` about `ip`.
pub(super) fn text(ip: IpAddr, explanation: &Explanation) -> String {
    text_at(ip, explanation, crate::clock::wall())
}

fn text_at(ip: IpAddr, explanation: &Explanation, now: WallTime) -> String {
    let mut lines = Vec::new();
    if explanation.source != ip.to_string() {
        lines.push(format!("{ip} is counted as {}.", explanation.source));
    }
    match &explanation.decision {
        Some(decision) => blocked(ip, decision, now, &mut lines),
        None if explanation.listed.is_empty() && explanation.networks.is_empty() => {
            unknown(ip, explanation, &mut lines);
        }
        None => {}
    }
    explanation.networks.iter().for_each(|decision| within(ip, decision, now, &mut lines));
    listed(ip, explanation, &mut lines);
    enforced(explanation, &mut lines);
    if explanation.exempt {
        lines.push(String::from("It is exempt: it is never limited, checked, delayed or banned."));
    }
    if explanation.may_relay {
        lines.push(String::from("It is in relay.networks: it may send anywhere, and checks of strangers don't apply."));
    }
    if let Some(deferral) = &explanation.deferral {
        deferred(ip, &explanation.source, deferral, now, &mut lines);
    }
    match &explanation.ledger {
        Some(ledger) => seen(ledger, explanation, &mut lines),
        None => lines.push(String::from("The guard has counted nothing of this source.")),
    }
    if explanation.familiar {
        lines.push(String::from("Its mail was accepted before: it doesn't wait for the greeting."));
    }
    for count in &explanation.counts {
        lines.push(format!("limits.{}: {}.", count.name, super::accounts::against(count)));
    }
    match explanation.connections {
        Some(1) => lines.push(String::from("It has 1 connection now.")),
        Some(count) => lines.push(format!("It has {count} connections now.")),
        None => {}
    }
    lines.extend(explanation.notes.iter().map(|note| printable_whole(note)));
    lines.join("\n")
}

fn blocked(ip: IpAddr, decision: &Decision, now: WallTime, lines: &mut Vec<String>) {
    let reason = Reason::from_label(&decision.reason).map_or(decision.reason.as_str(), |reason| reason.text());
    lines.push(format!("{ip} is blocked: {reason}."));
    why(decision, reason, lines);
    evidence(decision, lines);
    let (by, number) = (by(decision), decision.repeat.saturating_add(1));
    lines.push(format!("Made {} by {by}; ban number {number} of this source.", time::utc(decision.made)));
    lines.push(end(decision, now));
    lines.push(format!("To lift it now: smtp-guard decisions delete {ip}"));
    lines.push(format!(
        "If it is blocked again: \"Help one sender\" in {}. `exempt` is the widest way: the address may then send anywhere.",
        super::page("bans.md")
    ));
}

/// By a decision about its network.
fn within(ip: IpAddr, decision: &Decision, now: WallTime, lines: &mut Vec<String>) {
    let reason = Reason::from_label(&decision.reason).map_or(decision.reason.as_str(), |reason| reason.text());
    let net = &decision.source;
    lines.push(format!("{ip} is blocked as a part of {net}: {reason}."));
    why(decision, reason, lines);
    lines.push(format!("Made {} by {}.", time::utc(decision.made), by(decision)));
    lines.push(end(decision, now));
    lines.push(format!("To lift it now: smtp-guard decisions delete {net}"));
}

fn evidence(decision: &Decision, lines: &mut Vec<String>) {
    lines.extend(decision.evidence.iter().map(|line| format!("  {}", printable_whole(line))));
}

fn why(decision: &Decision, reason: &str, lines: &mut Vec<String>) {
    if !decision.text.is_empty() && decision.text != reason {
        lines.push(format!("Why: {}", printable_whole(&decision.text)));
    }
}

fn by(decision: &Decision) -> String {
    let name = printable(decision.origin_name.as_deref().unwrap_or_default().as_bytes());
    match decision.origin.as_str() {
        "operator" => "the administrator".to_owned(),
        "ledger" => "the guard itself".to_owned(),
        "file" => format!("the administrator, from {name}"),
        "node" => format!("the guard {name}"),
        other => printable(other.as_bytes()),
    }
}

fn end(decision: &Decision, now: WallTime) -> String {
    if decision.until.as_ms() == i64::MAX {
        return String::from("It does not end by itself.");
    }
    format!("It ends by itself at {}, in {}.", time::utc(decision.until), left(decision.until, now))
}

/// `source` is that of `ip`; its network may be what is deferred.
fn deferred(ip: IpAddr, source: &str, deferral: &Decision, now: WallTime, lines: &mut Vec<String>) {
    let part = if deferral.source == source { String::new() } else { format!(" as a part of {}", deferral.source) };
    let (until, left) = (time::utc(deferral.until), left(deferral.until, now));
    lines.push(format!("{ip} is deferred{part}, not banned: recipients hear 450 until {until}, for {left}."));
    evidence(deferral, lines);
    if !deferral.evidence.is_empty() {
        lines.push(format!("Made {} by {}.", time::utc(deferral.made), by(deferral)));
    }
    lines.push(format!("To lift it now: smtp-guard decisions delete {ip}"));
    lines.push(format!(
        "It comes again with the next unknown recipients: \"Help one sender\" in {}.",
        super::page("bans.md")
    ));
}

/// Blocked by nothing that this guard knows of; the kernel may have something that somebody else wrote.
fn unknown(ip: IpAddr, explanation: &Explanation, lines: &mut Vec<String>) {
    let Some(reason) = explanation.kernel.as_ref().and_then(|kernel| kernel.drop_reason.as_deref()) else {
        // What is said of a deferral says it.
        lines.extend(explanation.deferral.is_none().then(|| format!("{ip} is not blocked.")));
        return;
    };
    let words = Reason::from_label(reason).map_or(reason, |reason| reason.text());
    lines.push(format!("{ip} is dropped in the kernel: {words}."));
    match Reason::from_label(reason) {
        Some(Reason::Listed) => lines.push(String::from(
            "The kernel has block lists that this guard has not read: `smtp-guard reload` reads the files, and writes them to the kernel.",
        )),
        Some(Reason::Connections | Reason::ConnectionRate) => {
            lines.push(String::from("It gets in again when it has fewer connections."));
        }
        _ => lines.push(String::from("Another program than this guard wrote that into the kernel's maps.")),
    }
}

fn listed(ip: IpAddr, explanation: &Explanation, lines: &mut Vec<String>) {
    for Listing { list, file, entry } in &explanation.listed {
        lines.push(format!("{ip} is blocked by block list {list} (entry {entry} in {}).", file.display()));
    }
    if !explanation.listed.is_empty() {
        lines.push(String::from(
            "To let it in: add the address to `exempt` in the configuration, or take the entry out of the file; then `smtp-guard reload`.",
        ));
    }
}

/// Where what was said is enforced.
fn enforced(explanation: &Explanation, lines: &mut Vec<String>) {
    let Explanation { decision, networks, listed, kernel, .. } = explanation;
    if decision.is_none() && networks.is_empty() && listed.is_empty() {
        return;
    }
    lines.push(String::from(match kernel {
        Some(KernelView { drop_reason: Some(_), .. }) => "The kernel drops its packets: it hears nothing.",
        Some(KernelView { exempt: true, .. }) => {
            "The kernel lets it in, as its exempt list has the address: it hears 421. `smtp-guard reload` makes both planes agree."
        }
        Some(KernelView { .. }) => "The kernel does not drop its packets: it hears 421.",
        None => "No kernel plane drops its packets: it hears 421.",
    }));
}

fn seen(ledger: &LedgerView, explanation: &Explanation, lines: &mut Vec<String>) {
    let all = ledger.unknown_recipients.saturating_add(ledger.known_recipients);
    // Zeroes would read as if nothing had been held against it.
    match ledger.window_started {
        Some(started) => lines.push(format!(
            "Since {}: {} unknown recipients of {all}, {} asked for without a message.",
            time::utc(started),
            ledger.unknown_recipients,
            ledger.probed_recipients,
        )),
        None if explanation.decision.is_some() => lines.push(String::from("Counting restarted with the ban.")),
        None if explanation.deferral.is_some() => lines.push(String::from("Counting restarted with the deferral.")),
        None => lines.push(String::from("No recipients of it count now.")),
    }
    lines.push(format!("Messages accepted: {}.", ledger.accepted));
    if ledger.unknown_recipients > 0 {
        let (left, share) = (ledger.unforgiven, ledger.share * 100.0);
        lines.push(format!("Accepted mail taken into account: {left} unknown recipients, {share:.0} %."));
    }
    if !ledger.sample.is_empty() {
        let sample: Vec<_> = ledger.sample.iter().map(|recipient| printable(recipient.as_bytes())).collect();
        lines.push(format!("Some of them: {}", sample.join(", ")));
    }
    if ledger.failed_logins > 0 {
        lines.push(format!("Recent failed logins: {}.", ledger.failed_logins));
    }
    if ledger.trips > 0 {
        lines.push(format!("Bans and deferrals that make the next one longer: {}.", ledger.trips));
    }
    if ledger.trusted {
        lines.push(String::from("It has a history of accepted mail: where others are banned it is deferred."));
    }
    if let Some(network) = &ledger.neighbours {
        lines.push(format!(
            "Its network {}: {} unknown recipients from {} source{}, {} known ones.",
            network.network,
            network.unforgiven,
            network.sources,
            if network.sources == 1 { "" } else { "s" },
            network.known_recipients
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::{CountView, NetworkView};

    fn check(ip: &str, explanation: &Explanation, expected: &str) {
        crate::cli::output::check_documented("explain 192.0.2.1", &Explained::of(explanation));
        let text = text_at(ip.parse().unwrap(), explanation, WallTime::from_ms(1_800_000));
        assert_eq!(text, expected);
    }

    fn check_part(explanation: Explanation, part: &str) {
        let text = text_at("192.0.2.1".parse().unwrap(), &explanation, WallTime::from_ms(0));
        assert!(text.contains(part), "no {part:?} in {text}");
    }

    fn kernel(drops: Option<&str>, exempt: bool) -> Option<KernelView> {
        Some(KernelView { drop_reason: drops.map(str::to_owned), exempt })
    }

    fn nothing(source: &str) -> Explanation {
        Explanation {
            source: source.to_owned(),
            exempt: false,
            may_relay: false,
            familiar: false,
            decision: None,
            networks: Vec::new(),
            listed: Vec::new(),
            deferred_until: None,
            deferral: None,
            ledger: None,
            counts: Vec::new(),
            connections: None,
            kernel: None,
            notes: Vec::new(),
        }
    }

    #[test]
    fn what_was_counted_before_a_ban_is_not_forgotten_in_words() {
        let decision = Decision {
            source: String::from("192.0.2.1"),
            reason: String::from("harvest"),
            text: String::new(),
            origin: String::from("ledger"),
            origin_name: None,
            made: WallTime::from_ms(0),
            until: WallTime::from_ms(3_600_000),
            repeat: 0,
            evidence: Vec::new(),
        };
        let ledger = LedgerView {
            unknown_recipients: 0,
            unforgiven: 0,
            known_recipients: 0,
            probed_recipients: 0,
            share: 0.0,
            accepted: 0,
            trusted: false,
            window_started: None,
            sample: Vec::new(),
            failed_logins: 0,
            trips: 1,
            neighbours: Some(NetworkView {
                network: String::from("192.0.2.0/24"),
                unforgiven: 9,
                known_recipients: 0,
                sources: 1,
            }),
        };
        let banned =
            Explanation { decision: Some(decision.clone()), ledger: Some(ledger.clone()), ..nothing("192.0.2.1") };
        check_part(banned.clone(), "Counting restarted with the ban.\n");
        check_part(banned, "9 unknown recipients from 1 source, 0 known ones.");
        let deferral = Decision {
            source: String::from("192.0.2.0/24"),
            reason: String::from("deferred"),
            evidence: vec![String::from("unknown: a\nb@example.org")],
            ..decision
        };
        let deferred = Explanation {
            deferred_until: Some(deferral.until),
            deferral: Some(deferral.clone()),
            ledger: Some(ledger.clone()),
            ..nothing("192.0.2.1")
        };
        check(
            "192.0.2.1",
            &deferred,
            "\
192.0.2.1 is deferred as a part of 192.0.2.0/24, not banned: recipients hear 450 until 1970-01-01 01:00:00 UTC, for 30m 00s.
  unknown: a\\x0ab@example.org
Made 1970-01-01 00:00:00 UTC by the guard itself.
To lift it now: smtp-guard decisions delete 192.0.2.1
It comes again with the next unknown recipients: \"Help one sender\" in docs/bans.md (packaged in /usr/share/doc/smtp-guard).
Counting restarted with the deferral.
Messages accepted: 0.
Bans and deferrals that make the next one longer: 1.
Its network 192.0.2.0/24: 9 unknown recipients from 1 source, 0 known ones.",
        );
        let of_itself = Decision { source: String::from("192.0.2.1"), evidence: Vec::new(), ..deferral };
        let text = "192.0.2.1 is deferred, not banned: recipients hear 450 until 1970-01-01 01:00:00 UTC, for 1h 00m.\nTo lift it";
        check_part(Explanation { deferral: Some(of_itself), ..deferred }, text);
        check_part(
            Explanation { ledger: Some(ledger), ..nothing("192.0.2.1") },
            "No recipients of it count now.\nMessages accepted: 0.",
        );
    }

    #[test]
    fn everything_is_said_in_sentences() {
        check(
            "192.0.2.1",
            &nothing("192.0.2.1"),
            "192.0.2.1 is not blocked.\nThe guard has counted nothing of this source.",
        );
        let blocked = Explanation {
            decision: Some(Decision {
                source: String::from("2001:db8::/64"),
                reason: String::from("harvest"),
                text: String::from("directory harvest attack"),
                origin: String::from("ledger"),
                origin_name: None,
                made: WallTime::from_ms(0),
                until: WallTime::from_ms(3_600_000),
                repeat: 1,
                evidence: vec![String::from("10 unknown\nrecipients")],
            }),
            ledger: Some(LedgerView {
                unknown_recipients: 10,
                unforgiven: 10,
                known_recipients: 2,
                probed_recipients: 1,
                share: 0.8333,
                accepted: 0,
                trusted: true,
                window_started: Some(WallTime::from_ms(0)),
                sample: vec![String::from("a@example.org")],
                failed_logins: 2,
                trips: 1,
                neighbours: Some(NetworkView {
                    network: String::from("2001:db8::/48"),
                    unforgiven: 12,
                    known_recipients: 3,
                    sources: 4,
                }),
            }),
            familiar: true,
            kernel: Some(KernelView { drop_reason: Some(String::from("harvest")), exempt: false }),
            counts: vec![CountView { name: String::from("messages_per_hour"), count: 7, limit: Some(1000) }],
            connections: Some(1),
            ..nothing("2001:db8::/64")
        };
        check(
            "2001:db8::1",
            &blocked,
            "\
2001:db8::1 is counted as 2001:db8::/64.
2001:db8::1 is blocked: directory harvest attack.
  10 unknown\\x0arecipients
Made 1970-01-01 00:00:00 UTC by the guard itself; ban number 2 of this source.
It ends by itself at 1970-01-01 01:00:00 UTC, in 30m 00s.
To lift it now: smtp-guard decisions delete 2001:db8::1
If it is blocked again: \"Help one sender\" in docs/bans.md (packaged in /usr/share/doc/smtp-guard). `exempt` is the widest way: the address may then send anywhere.
The kernel drops its packets: it hears nothing.
Since 1970-01-01 00:00:00 UTC: 10 unknown recipients of 12, 1 asked for without a message.
Messages accepted: 0.
Accepted mail taken into account: 10 unknown recipients, 83 %.
Some of them: a@example.org
Recent failed logins: 2.
Bans and deferrals that make the next one longer: 1.
It has a history of accepted mail: where others are banned it is deferred.
Its network 2001:db8::/48: 12 unknown recipients from 4 sources, 3 known ones.
Its mail was accepted before: it doesn't wait for the greeting.
limits.messages_per_hour: 7 of 1000.
It has 1 connection now.",
        );
        let network = Decision {
            source: String::from("192.0.2.0/24"),
            reason: String::from("operator"),
            text: String::from("spam of a whole network"),
            origin: String::from("operator"),
            origin_name: None,
            made: WallTime::from_ms(0),
            until: WallTime::from_ms(3_600_000),
            repeat: 0,
            evidence: Vec::new(),
        };
        check(
            "192.0.2.1",
            &Explanation { networks: vec![network], ..nothing("192.0.2.1") },
            "\
192.0.2.1 is blocked as a part of 192.0.2.0/24: blocked by the administrator.
Why: spam of a whole network
Made 1970-01-01 00:00:00 UTC by the administrator.
It ends by itself at 1970-01-01 01:00:00 UTC, in 30m 00s.
To lift it now: smtp-guard decisions delete 192.0.2.0/24
No kernel plane drops its packets: it hears 421.
The guard has counted nothing of this source.",
        );
        let entry = Listing { list: "drop".to_owned(), file: "/var/drop".into(), entry: "192.0.2.0/24".to_owned() };
        check(
            "192.0.2.1",
            &Explanation { listed: vec![entry.clone()], kernel: kernel(Some("listed"), false), ..nothing("192.0.2.1") },
            "\
192.0.2.1 is blocked by block list drop (entry 192.0.2.0/24 in /var/drop).
To let it in: add the address to `exempt` in the configuration, or take the entry out of the file; then `smtp-guard reload`.
The kernel drops its packets: it hears nothing.
The guard has counted nothing of this source.",
        );
        check_part(
            Explanation { listed: vec![entry], kernel: kernel(None, true), ..nothing("192.0.2.1") },
            "exempt list has the address",
        );
        let part = "is dropped in the kernel: on a block list.\nThe kernel has block lists that this guard has not read: `smtp-guard reload`";
        check_part(Explanation { kernel: kernel(Some("listed"), false), ..nothing("192.0.2.1") }, part);
        let part = "is dropped in the kernel: too many connections.\nIt gets in again";
        check_part(Explanation { kernel: kernel(Some("connections"), false), ..nothing("192.0.2.1") }, part);
        check_part(Explanation { kernel: kernel(None, false), ..nothing("192.0.2.1") }, "is not blocked");
        let exempt = Explanation { exempt: true, ..nothing("192.0.2.1") };
        check(
            "192.0.2.1",
            &exempt,
            "192.0.2.1 is not blocked.\nIt is exempt: it is never limited, checked, delayed or banned.\nThe guard has counted nothing of this source.",
        );
    }
}
