//! Numbers, times and text of strangers, as the page writes them. Escaping for HTML is the template's; this is about what can be seen.

use std::fmt::Write as _;
use std::time::Duration;

use maud::{Markup, html};

use crate::clock::WallTime;

/// Characters of a text that are shown.
const MOST: usize = 300;
/// Between groups of digits: a narrow space, at which no line is broken.
const GROUP: char = '\u{202f}';

/// `text` without anything that can't be seen or turns the direction of writing; at most [`MOST`] characters of it.
pub(super) fn safe(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars().take(MOST) {
        match c {
            ' '..='~' => shown.push(c),
            // Debug escapes exactly what has no glyph of its own: separators, marks, unassigned characters.
            _ if c.is_control() => shown.extend(c.escape_default()),
            _ => shown.extend(c.escape_debug()),
        }
    }
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

/// `12 345`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 * GROUP.len_utf8());
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(GROUP);
        }
        text.push(digit);
    }
    text
}

/// A number a second: `0`, `0.4`, `12 345`; `–` where it isn't known yet.
pub(super) fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => String::from("–"),
        Some(rate) if rate <= 0.0 => String::from("0"),
        Some(rate) if rate < 9.95 => format!("{:.1}", rate.max(0.1)),
        Some(rate) => number(rate.round() as u64),
    }
}

/// `7 of 20` as a share: `35 %`; `–` of nothing.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::from("–");
    }
    format!("{:.0} %", part as f64 * 100.0 / whole as f64)
}

/// `0.42 ms`, `17 ms`, `1.2 s`.
pub(super) fn latency(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        0.0..9.995 => format!("{ms:.2} ms"),
        9.995..999.5 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

/// `45 s`, `12 min`, `3 h 20 min`, `6 d 23 h`. The script writes lengths in the same way.
pub(super) fn length(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `at`, seen from `now`: `12 min ago`. The script keeps it true.
pub(super) fn ago(at: WallTime, now: WallTime) -> Markup {
    let ms = now.as_ms().saturating_sub(at.as_ms()).max(0);
    html! { time datetime=(stamp(at)) title=(utc(at)) data-ago { (length(ms.unsigned_abs() / 1000)) " ago" } }
}

/// The time that is left until `at`: `12 min`. The script keeps it true.
pub(super) fn left(at: WallTime, now: WallTime) -> Markup {
    if at == WallTime::NEVER {
        return html! { "for ever" };
    }
    let ms = at.as_ms().saturating_sub(now.as_ms()).max(0);
    html! { time datetime=(stamp(at)) title=(utc(at)) data-left { (length(ms.unsigned_abs().div_ceil(1000))) } }
}

/// As HTML has it.
pub(super) fn stamp(at: WallTime) -> String {
    format(at, "%Y-%m-%dT%H:%M:%SZ")
}

/// `2026-08-01 12:30:05 UTC`.
pub(super) fn utc(at: WallTime) -> String {
    format(at, "%Y-%m-%d %H:%M:%S UTC")
}

fn format(at: WallTime, format: &str) -> String {
    let timestamp = jiff::Timestamp::from_millisecond(at.as_ms().max(0)).unwrap_or(jiff::Timestamp::MAX);
    let mut text = String::new();
    // Writing to a String can't fail, and the format is known.
    _ = write!(text, "{}", timestamp.strftime(format));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(shown: &str, expected: &str) {
        assert_eq!(shown, expected);
    }

    #[test]
    fn numbers_and_lengths_are_read_at_a_glance() {
        check(&number(0), "0");
        check(&number(999), "999");
        check(&number(1000), "1\u{202f}000");
        check(&number(12_345_678), "12\u{202f}345\u{202f}678");
        check(&rate(None), "–");
        check(&rate(Some(0.0)), "0");
        check(&rate(Some(0.01)), "0.1");
        check(&rate(Some(9.94)), "9.9");
        check(&rate(Some(9.96)), "10");
        check(&rate(Some(51_234.4)), "51\u{202f}234");
        check(&share(1, 0), "–");
        check(&share(1, 3), "33 %");
        check(&latency(Duration::from_micros(420)), "0.42 ms");
        check(&latency(Duration::from_millis(17)), "17 ms");
        check(&latency(Duration::from_millis(1230)), "1.2 s");
        for (seconds, expected) in
            [(59, "59 s"), (60, "1 min"), (3599, "59 min"), (12_000, "3 h 20 min"), (602_000, "6 d 23 h")]
        {
            check(&length(seconds), expected);
        }
        let (at, now) = (WallTime::from_ms(1_000), WallTime::from_ms(61_500));
        let ago = ago(at, now).into_string();
        assert!(ago.contains("datetime=\"1970-01-01T00:00:01Z\"") && ago.contains(">1 min ago<"), "{ago}");
        assert!(left(now, at).into_string().contains(">1 min<"));
        check(&left(WallTime::NEVER, now).into_string(), "for ever");
        check(&left(at, now).into_string().replace(|c| c != '0', "").is_empty().to_string(), "false");
    }

    #[test]
    fn text_of_strangers_is_cut_and_visible() {
        check(&safe("mx.example.org"), "mx.example.org");
        check(&safe("grüße"), "grüße");
        check(&safe("a\r\n\0\x1b[2J"), "a\\r\\n\\u{0}\\u{1b}[2J");
        check(&safe("\u{202e}x\u{200b}\u{9b}"), "\\u{202e}x\\u{200b}\\u{9b}");
        check(&safe(&"a".repeat(MOST)), &"a".repeat(MOST));
        check(&safe(&"a".repeat(MOST + 1)), &format!("{}…", "a".repeat(MOST)));
    }

    proptest! {
        #[test]
        fn nothing_leaves_its_place(text in any::<String>()) {
            let shown = safe(&text);
            prop_assert!(shown.chars().all(|c| !c.is_control()));
            let written = html! { p title=(shown) { (shown) } }.into_string();
            let inner = written.strip_prefix("<p title=\"").and_then(|rest| rest.strip_suffix("</p>")).unwrap();
            let (attribute, content) = inner.split_once("\">").unwrap();
            for part in [attribute, content] {
                prop_assert!(!part.contains(['<', '>', '"']), "{}", part);
            }
            prop_assert_eq!(attribute, content);
        }
    }
}
