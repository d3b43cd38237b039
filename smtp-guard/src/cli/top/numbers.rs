//! Numbers that fit into a column.

const UNITS: [(&str, f64); 6] = [("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12), ("P", 1e15), ("E", 1e18)];

/// `n` in at most five characters: `9999`, `12.3k`, `1.23M`.
pub(super) fn compact(n: u64) -> String {
    if n < 10_000 {
        return n.to_string();
    }
    // What would be rounded up to four digits belongs to the next unit.
    let fits = |unit: &&(&str, f64)| n as f64 / unit.1 < 999.5;
    let (unit, size) = UNITS.iter().find(fits).unwrap_or(&UNITS[UNITS.len() - 1]);
    let value = n as f64 / size;
    match value {
        ..9.995 => format!("{value:.2}{unit}"),
        ..99.95 => format!("{value:.1}{unit}"),
        _ => format!("{value:.0}{unit}"),
    }
}

/// A rate in at most five characters; `-` where there is none yet.
pub(super) fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => String::from("-"),
        Some(rate) if rate < 0.05 => String::from("0"),
        Some(rate) if rate < 9.95 => format!("{rate:.1}"),
        // Saturating: no counter comes near.
        Some(rate) => compact(rate.round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (n, text) in [
            (0, "0"),
            (9999, "9999"),
            (10_000, "10.0k"),
            (12_345, "12.3k"),
            (99_949, "99.9k"),
            (99_950, "100k"),
            (999_499, "999k"),
            (999_500, "1.00M"),
            (1_234_567, "1.23M"),
            (9_999_999, "10.0M"),
            (98_700_000_000, "98.7G"),
            (u64::MAX, "18.4E"),
        ] {
            assert_eq!(compact(n), text, "{n}");
        }
        for shift in 0..64 {
            assert!(compact(1 << shift).len() <= 5 && compact((1u64 << shift) - 1).len() <= 5, "{shift}");
        }
    }

    #[test]
    fn rates_are_short() {
        for (per_second, text) in [
            (None, "-"),
            (Some(0.0), "0"),
            (Some(0.04), "0"),
            (Some(0.25), "0.2"),
            (Some(9.94), "9.9"),
            (Some(9.96), "10"),
            (Some(1234.4), "1234"),
            (Some(f64::MAX), "18.4E"),
        ] {
            assert_eq!(rate(per_second), text, "{per_second:?}");
        }
    }
}
