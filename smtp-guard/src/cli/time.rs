//! Wall time and lengths of time for people. UTC throughout, so that hosts and their logs compare.

use std::time::Duration;

use crate::clock::WallTime;

const DAY_MS: i64 = 86_400_000;

/// `2026-08-01 12:30:05 UTC`, or `for ever`.
pub(super) fn utc(time: WallTime) -> String {
    if time.as_ms() == i64::MAX {
        return String::from("for ever");
    }
    let (year, month, day) = date(time.as_ms().div_euclid(DAY_MS));
    let second = time.as_ms().rem_euclid(DAY_MS) / 1000;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// `45s`, `12m 05s`, `3h 20m`, `6d 23h`.
pub(super) fn length(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// Year, month and day of a day since 1970-01-01, in the proleptic Gregorian calendar.
///
/// Years are counted from March here, so that the leap day is the last of its year and months follow one formula.
fn date(days: i64) -> (i64, i64, i64) {
    const DAYS_400_YEARS: i64 = 146_097;
    // 1970-01-01 is so many days after 0000-03-01.
    let days = days + 719_468;
    let day_of_era = days.rem_euclid(DAYS_400_YEARS);
    let leap_days = day_of_era / 1460 - day_of_era / 36_524 + day_of_era / (DAYS_400_YEARS - 1);
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = days.div_euclid(DAYS_400_YEARS) * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// Rounded up: a ban never ends before it was asked to.
pub(super) fn whole_seconds(length: Duration) -> u64 {
    length.as_secs() + u64::from(length.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ms: i64, text: &str) {
        assert_eq!(utc(WallTime::from_ms(ms)), text);
    }

    #[test]
    fn moments_are_dates() {
        check(0, "1970-01-01 00:00:00 UTC");
        check(-1, "1969-12-31 23:59:59 UTC");
        check(951_782_400_000, "2000-02-29 00:00:00 UTC");
        check(1_709_251_199_999, "2024-02-29 23:59:59 UTC");
        check(1_709_251_200_000, "2024-03-01 00:00:00 UTC");
        check(4_107_542_400_000, "2100-03-01 00:00:00 UTC");
        check(4_107_542_399_999, "2100-02-28 23:59:59 UTC");
        check(1_790_857_805_000, "2026-10-01 12:30:05 UTC");
        check(i64::MAX, "for ever");
    }

    #[test]
    fn every_day_follows_the_one_before() {
        let mut before = date(-800_000);
        for day in -799_999..800_000 {
            let (year, month, of_month) = date(day);
            let next = (year, month, of_month);
            assert!(next > before && (1..=12).contains(&month) && (1..=31).contains(&of_month), "{next:?}");
            assert!(of_month == before.2 + 1 || of_month == 1, "{before:?} {next:?}");
            before = next;
        }
    }

    #[test]
    fn lengths_are_short() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (65, "1m 05s"), (3600, "1h 00m"), (86_399, "23h 59m"), (604_800, "7d 00h")]
        {
            assert_eq!(length(seconds), text);
        }
    }
}
