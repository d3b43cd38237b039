//! `decisions export`: the bans in force, in the formats of others.
//!
//! | format | what reads it | ends |
//! |---|---|---|
//! | plain | nearly everything; `decisions import` | not said |
//! | json | `decisions import` | exact |
//! | nft | `nft -f`: two sets in a table of their own | in seconds |
//! | ipset | `ipset restore`; `decisions import` | in seconds, 24 days at most |
//! | crowdsec | `cscli decisions import -i FILE --format json`; `decisions import` | in seconds; ten years for those without |
//!
//! Deferrals are no bans and stay out.

use std::fmt::Write as _;
use std::net::IpAddr;

use clap::ValueEnum;
use serde::Serialize;
use smtp_guard_ebpf::reason::Reason;

use crate::blocklist::Span;
use crate::clock::WallTime;
use crate::decision::Decision;
use crate::key::Who;
use crate::observe::admin::LONGEST;

/// The most seconds that ipset takes.
const IPSET_SECONDS: u64 = 2_147_483;
/// Entries that an ipset has room for in any case.
const IPSET_ROOM: usize = 65_536;

/// The form of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// An address or network a line
    Plain,
    /// Everything that is known of each; `decisions import` reads it
    Json,
    /// Sets for `nft -f`
    Nft,
    /// Sets for `ipset restore`
    Ipset,
    /// JSON for `cscli decisions import`
    Crowdsec,
}

/// One that is written: who, and how many seconds are left; `None`: it doesn't end.
struct Row<'a> {
    decision: &'a Decision,
    who: Who,
    seconds: Option<u64>,
}

impl<'a> Row<'a> {
    fn of(decision: &'a Decision, now: WallTime) -> Option<Self> {
        let until = decision.until.as_ms();
        let ms = u64::try_from(until.saturating_sub(now.as_ms())).unwrap_or(0);
        let seconds = (until != i64::MAX).then(|| ms.div_ceil(1000).max(1));
        Some(Self { decision, who: decision.source.parse().ok()?, seconds })
    }
}

/// `decisions` in `format`, without a line end at the end.
pub(super) fn text(format: Format, decisions: &[Decision], now: WallTime) -> anyhow::Result<String> {
    let bans = decisions.iter().filter(|decision| decision.reason != Reason::Deferred.label());
    let rows: Vec<_> = bans.filter_map(|decision| Row::of(decision, now)).collect();
    match format {
        Format::Plain => Ok(lines(rows.iter().map(|row| row.who.to_string()))),
        Format::Json => objects(rows.iter().map(|row| row.decision)),
        Format::Nft => Ok(nft(&rows)),
        Format::Ipset => Ok(ipset(&rows)),
        Format::Crowdsec => objects(rows.iter().map(Crowdsec::of)),
    }
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.collect::<Vec<_>>().join("\n")
}

/// A JSON array with an object a line.
fn objects(values: impl Iterator<Item = impl Serialize>) -> anyhow::Result<String> {
    let objects: Vec<_> = values.map(|value| serde_json::to_string(&value)).collect::<Result<_, _>>()?;
    Ok(format!("[{}]", objects.join(",\n")))
}

/// As `cscli decisions import` wants it.
#[derive(Serialize)]
struct Crowdsec<'a> {
    duration: String,
    reason: &'a str,
    scope: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    value: String,
}

impl<'a> Crowdsec<'a> {
    fn of(row: &Row<'a>) -> Self {
        Self {
            duration: format!("{}s", row.seconds.unwrap_or(LONGEST.as_secs())),
            reason: &row.decision.text,
            scope: if row.who.address().is_some() { "ip" } else { "range" },
            kind: "ban",
            value: row.who.to_string(),
        }
    }
}

fn ipset(rows: &[Row<'_>]) -> String {
    let mut text = Vec::new();
    for (set, family, is_v4) in [("smtp-guard-v4", "inet", true), ("smtp-guard-v6", "inet6", false)] {
        let rows: Vec<_> = rows.iter().filter(|row| row.who.net().addr().is_ipv4() == is_v4).collect();
        let room = rows.len().max(IPSET_ROOM);
        text.push(format!("create {set} hash:net family {family} maxelem {room} timeout 0"));
        text.extend(rows.iter().map(|row| {
            let seconds = row.seconds.unwrap_or(0).min(IPSET_SECONDS);
            format!("add {set} {} timeout {seconds}", row.who)
        }));
    }
    lines(text.into_iter())
}

fn nft(rows: &[Row<'_>]) -> String {
    let mut text = String::from("table inet smtp_guard {");
    for (set, kind, is_v4) in [("v4", "ipv4_addr", true), ("v6", "ipv6_addr", false)] {
        let of_family = rows.iter().filter(|row| row.who.net().addr().is_ipv4() == is_v4);
        let spans = apart(of_family.map(|row| (ends(row.who), row.seconds)).collect());
        // Infallible: a String takes everything.
        _ = write!(text, "\n\tset {set} {{\n\t\ttype {kind}\n\t\tflags interval,timeout\n");
        let elements = spans.into_iter().map(|((first, last), seconds)| {
            let span = match is_v4 {
                // What was IPv4 stays below its last address.
                true => Span::V4 { first: first as u32, last: last as u32 },
                false => Span::V6 { first, last },
            };
            match seconds {
                Some(seconds) => format!("{span} timeout {seconds}s"),
                None => span.to_string(),
            }
        });
        let elements: Vec<_> = elements.collect();
        if !elements.is_empty() {
            _ = writeln!(text, "\t\telements = {{\n\t\t\t{}\n\t\t}}", elements.join(",\n\t\t\t"));
        }
        text.push_str("\t}");
    }
    text + "\n}"
}

fn ends(who: Who) -> (u128, u128) {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    let (first, last) = Span::from(who.net()).ends();
    (number(first), number(last))
}

/// The same without overlaps, which sets of nftables don't take: each address for as long as the longest that has it.
fn apart(mut spans: Vec<((u128, u128), Option<u64>)>) -> Vec<((u128, u128), Option<u64>)> {
    // Networks lie within each other or apart: the wider one comes first.
    spans.sort_unstable_by_key(|((first, last), _)| (*first, std::cmp::Reverse(*last)));
    let mut found: Vec<((u128, u128), Option<u64>)> = Vec::new();
    let mut emit = |first: u128, last: u128, seconds| match found.last_mut() {
        _ if first > last => {}
        Some(((_, before), same)) if *same == seconds && before.checked_add(1) == Some(first) => *before = last,
        _ => found.push(((first, last), seconds)),
    };
    let mut open: Vec<(u128, Option<u64>)> = Vec::new();
    let mut next = Some(0);
    let mut close = |open: &mut Vec<(u128, Option<u64>)>, next: &mut Option<u128>, until: Option<u128>| {
        while let Some((last, seconds)) = open.pop_if(|(last, _)| until.is_none_or(|until| *last < until)) {
            if let Some(first) = *next {
                emit(first, last, seconds);
            }
            *next = last.checked_add(1).max(*next);
        }
        if let (Some(&(_, seconds)), Some(first), Some(until)) = (open.last(), *next, until)
            && first < until
        {
            emit(first, until - 1, seconds);
        }
    };
    for ((first, last), seconds) in spans {
        close(&mut open, &mut next, Some(first));
        let around = open.last().map(|(_, around)| *around);
        // None is the longest.
        let longest = |a: Option<u64>, b: Option<u64>| Some(a?.max(b?));
        open.push((last, around.map_or(seconds, |around| longest(around, seconds))));
        next = Some(first);
    }
    close(&mut open, &mut next, None);
    found
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::blocklist::{Left, parse_entries};

    const NOW: WallTime = WallTime::from_ms(1_000_000);

    fn decision(source: &str, seconds: Option<i64>) -> Decision {
        Decision {
            source: source.to_owned(),
            reason: String::from("operator"),
            text: String::from("a \"reason\", with a comma"),
            origin: String::from("operator"),
            origin_name: None,
            made: WallTime::from_ms(0),
            until: seconds.map_or(WallTime::from_ms(i64::MAX), |seconds| NOW.later(seconds * 1000)),
            repeat: 0,
            evidence: Vec::new(),
        }
    }

    fn decisions() -> Vec<Decision> {
        let deferred = Decision { reason: String::from("deferred"), ..decision("192.0.2.77", Some(9)) };
        vec![
            decision("192.0.2.1", Some(60)),
            decision("198.51.100.0/24", Some(3600)),
            decision("198.51.100.7", Some(7200)),
            decision("2001:db8::/64", Some(60)),
            decision("2001:db9::/32", None),
            deferred,
        ]
    }

    /// An export in `format` is read again as the same, with ends as far as the format has them.
    #[track_caller]
    fn check(format: Format, left: impl Fn(Option<i64>) -> Left) {
        let text = text(format, &decisions(), NOW).unwrap();
        let read = parse_entries(text.as_bytes(), NOW).unwrap_or_else(|fault| panic!("{fault}: {text}"));
        let found: Vec<_> = read.entries.iter().map(|entry| (entry.span.to_string(), entry.left)).collect();
        let expected = [
            ("192.0.2.1", Some(60)),
            ("198.51.100.0/24", Some(3600)),
            ("198.51.100.7", Some(7200)),
            ("2001:db8::/64", Some(60)),
            ("2001:db9::/32", None),
        ];
        let expected: Vec<_> = expected.iter().map(|(who, seconds)| ((*who).to_owned(), left(*seconds))).collect();
        assert_eq!((found, read.refused, read.skipped), (expected, 0, 0), "{text}");
    }

    #[test]
    fn what_is_exported_is_imported_as_the_same() {
        let seconds = |seconds: i64| Left::For(Duration::from_secs(seconds.unsigned_abs()));
        check(Format::Plain, |_| Left::Unsaid);
        check(Format::Json, |left| left.map_or(Left::Ever, seconds));
        check(Format::Ipset, |left| left.map_or(Left::Ever, seconds));
        check(Format::Crowdsec, |left| left.map_or(Left::For(LONGEST), seconds));
        let json = text(Format::Json, &decisions(), NOW).unwrap();
        let read = parse_entries(json.as_bytes(), NOW).unwrap();
        assert_eq!(read.entries[0].text.as_deref(), Some("a \"reason\", with a comma"));
        for format in Format::value_variants() {
            let nothing = text(*format, &[], NOW).unwrap();
            if *format != Format::Nft && *format != Format::Plain {
                assert_eq!(parse_entries(nothing.as_bytes(), NOW).unwrap().entries, [], "{nothing}");
            }
        }
    }

    #[test]
    fn sets_of_nftables_have_no_overlaps() {
        let expected = "\
table inet smtp_guard {
\tset v4 {
\t\ttype ipv4_addr
\t\tflags interval,timeout
\t\telements = {
\t\t\t192.0.2.1 timeout 60s,
\t\t\t198.51.100.0-198.51.100.6 timeout 3600s,
\t\t\t198.51.100.7 timeout 7200s,
\t\t\t198.51.100.8-198.51.100.255 timeout 3600s
\t\t}
\t}
\tset v6 {
\t\ttype ipv6_addr
\t\tflags interval,timeout
\t\telements = {
\t\t\t2001:db8::/64 timeout 60s,
\t\t\t2001:db9::/32
\t\t}
\t}
}";
        assert_eq!(text(Format::Nft, &decisions(), NOW).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn each_address_keeps_its_longest(
            nets in prop::collection::vec((0u32..64, 26u8..=32, prop::option::of(1u64..4)), 0..10),
        ) {
            let who = |octet: u32, length: u8| format!("192.0.2.{octet}/{length}").parse::<Who>().unwrap();
            let spans: Vec<_> = nets.iter().map(|(octet, length, left)| (ends(who(*octet, *length)), *left)).collect();
            let apart = apart(spans.clone());
            prop_assert!(apart.windows(2).all(|pair| pair[0].0.1 < pair[1].0.0), "{:?}", apart);
            for address in 0xc000_0200u128..0xc000_0240 {
                let holds = |((first, last), _): &&((u128, u128), Option<u64>)| (*first..=*last).contains(&address);
                let longest = spans.iter().filter(holds).map(|(_, left)| left.unwrap_or(u64::MAX)).max();
                prop_assert_eq!(apart.iter().find(holds).map(|(_, left)| left.unwrap_or(u64::MAX)), longest);
            }
        }
    }
}
