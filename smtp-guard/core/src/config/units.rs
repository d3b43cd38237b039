//! Sizes and durations as people write them: one whole number and one unit, `25MiB`, `6s`.

use std::time::Duration;

/// Largest first, so that a value is shown in the largest unit that it is a multiple of.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// In milliseconds, largest first.
const DURATIONS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// How a size is written, for error texts.
pub(crate) const SIZE_HELP: &str = "write a whole number and a unit (B, KiB, MiB, GiB): \"25MiB\"";

/// How a duration is written, for error texts.
pub const DURATION_HELP: &str = "write a whole number and a unit (ms, s, m, h, d): \"500ms\", \"6s\", \"1h\", \"7d\"";

/// Bytes of `text`; `None`: no size, or more than 64 bits.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    parse(text, &SIZES)
}

/// The duration of `text`; `None`: no duration, or more than 64 bits of milliseconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    parse(text, &DURATIONS).map(Duration::from_millis)
}

/// `bytes` as [`parse_size`] reads it.
pub(crate) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES, "B")
}

/// `duration`, without what is below a millisecond, as [`parse_duration`] reads it.
pub fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATIONS, "s")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    match units.iter().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => format!("0{zero}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, size: Option<u64>, duration_ms: Option<u64>) {
        assert_eq!(parse_size(text), size, "{text}");
        assert_eq!(parse_duration(text), duration_ms.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn one_number_and_one_unit() {
        check("25MiB", Some(25 << 20), None);
        check("1KiB", Some(1024), None);
        check("0B", Some(0), None);
        check("500ms", None, Some(500));
        check("6s", None, Some(6000));
        check("5m", None, Some(300_000));
        check("1h", None, Some(3_600_000));
        check("7d", None, Some(604_800_000));
        for bad in [
            "",
            "5",
            "s",
            "-1s",
            "1.5h",
            "1h30m",
            " 1s",
            "1 s",
            "1S",
            "25MB",
            "20000000000000000000s",
            "18446744073709551615d",
        ] {
            check(bad, None, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(value: u64) {
            prop_assert_eq!(parse_size(&show_size(value)), Some(value));
            let duration = Duration::from_millis(value);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Some(duration));
        }
    }
}
