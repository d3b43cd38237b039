//! Files read for decisions: how long each entry is to last, and what is refused.

use std::time::Duration;

use crate::blocklist::{Fault, Format, Left, parse_entries};
use crate::clock::WallTime;

/// 2026-01-01 00:00:00 UTC.
const NOW: WallTime = WallTime::from_ms(1_767_225_600_000);

/// What is read of `text`: each entry's line, span and time that is left; and the lines that are refused, with a part of why.
#[track_caller]
fn check(text: &str, format: Format, entries: &[(usize, &str, Left)], refused: &[(usize, &str)], skipped: usize) {
    let read = parse_entries(text.as_bytes(), NOW).unwrap();
    let found: Vec<_> = read.entries.iter().map(|entry| (entry.line, entry.span.to_string(), entry.left)).collect();
    let expected: Vec<_> = entries.iter().map(|(line, span, left)| (*line, (*span).to_owned(), *left)).collect();
    assert_eq!((read.format, found, read.skipped), (format, expected, skipped), "{text}");
    let lines: Vec<_> = read.refusals.iter().map(|refusal| refusal.line).collect();
    assert_eq!(lines, refused.iter().map(|(line, _)| *line).collect::<Vec<_>>(), "{:?}", read.refusals);
    assert!(read.refusals.iter().zip(refused).all(|(found, (_, why))| found.why.contains(why)), "{:?}", read.refusals);
}

fn for_seconds(seconds: u64) -> Left {
    Left::For(Duration::from_secs(seconds))
}

#[test]
fn entries_end_when_the_file_says() {
    check(
        "# list\n192.0.2.1\n198.51.100.0/24\n10.0.0.0/8\n192.0.2.1\nx\n1.0.0.0/7\n",
        Format::Netset,
        &[(2, "192.0.2.1", Left::Unsaid), (3, "198.51.100.0/24", Left::Unsaid), (5, "192.0.2.1", Left::Unsaid)],
        &[(4, "not a public address (private)"), (6, "not an address or network"), (7, "wider than /8")],
        0,
    );
    check(
        "create a hash:net family inet timeout 300\nadd a 192.0.2.1 timeout 60\nadd a 192.0.2.0/25 timeout 0\nadd a 192.0.2.2\n\
         create b hash:ip\nadd b 198.51.100.1-198.51.100.2\n",
        Format::IpsetSave,
        &[
            (2, "192.0.2.1", for_seconds(60)),
            (3, "192.0.2.0/25", Left::Ever),
            (4, "192.0.2.2", for_seconds(300)),
            (6, "198.51.100.1-198.51.100.2", Left::Unsaid),
        ],
        &[],
        0,
    );
    check(
        "id,source,ip,reason,action,country,as,events_count,expiration,simulated,alert_id\n\
         1,crowdsec,Ip:192.0.2.1,x,ban,,,1,3h59m58.5s,false,1\n2,crowdsec,Ip:192.0.2.2,x,ban,,,1,-5s,false,1\n\
         3,crowdsec,Range:198.51.100.0/24,x,ban,,,1,soon,false,1\n4,crowdsec,Ip:192.0.2.3,x,captcha,,,1,1h,false,1\n",
        Format::CrowdsecCsv,
        &[(2, "192.0.2.1", Left::For(Duration::from_millis(14_398_500)))],
        &[(4, "its duration can't be read")],
        2,
    );
    check(
        "[{\"value\":\"192.0.2.1\",\"duration\":\"1h\",\"until\":\"2030-01-01T00:00:00Z\"},\n\
         {\"value\":\"192.0.2.2\",\"until\":\"2026-01-01T00:01:00Z\"},\n\
         {\"value\":\"192.0.2.3\",\"until\":\"2025-01-01T00:01:00Z\"},\n{\"value\":\"192.0.2.4\"}]",
        Format::CrowdsecJson,
        &[(1, "192.0.2.1", for_seconds(3600)), (2, "192.0.2.2", for_seconds(60)), (4, "192.0.2.4", Left::Unsaid)],
        &[],
        1,
    );
    let ours = |source: &str, reason: &str, until: i64| {
        format!("{{\"source\":\"{source}\",\"reason\":\"{reason}\",\"text\":\"\",\"until\":{until},\"made\":0}}")
    };
    let (soon, over) = (NOW.as_ms() + 90_000, NOW.as_ms());
    let all = [
        ours("10.0.0.1", "harvest", soon),
        ours("192.0.2.0/24", "operator", i64::MAX),
        ours("192.0.2.1", "operator", over),
        ours("192.0.2.2", "deferred", soon),
        ours("nobody", "operator", soon),
    ];
    check(
        &format!(" [\n{}\n]", all.join(",\n")),
        Format::Decisions,
        &[(2, "10.0.0.1", for_seconds(90)), (3, "192.0.2.0/24", Left::Ever)],
        &[(6, "not an address or network")],
        2,
    );
}

#[test]
fn what_is_no_list_is_none() {
    assert!(matches!(parse_entries(b"<html>", NOW), Err(Fault::Unrecognised)));
    let mostly = b"192.0.2.1\nx\ny\nz\n";
    assert!(matches!(parse_entries(mostly, NOW), Err(Fault::MostlyWrong { .. })));
}
