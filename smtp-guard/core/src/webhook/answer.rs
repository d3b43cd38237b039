//! The meaning of the receiver's answers.

use std::time::Duration;

use crate::clock::WallTime;

/// The longest wait that a receiver may ask for.
pub const LONGEST_WISH: Duration = Duration::from_secs(900);

/// The fate of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The receiver has it.
    Taken,
    /// Send again, not before this time has passed.
    Later(Duration),
    /// The receiver won't take it, however often it is sent.
    Refused,
}

/// Judges the status `code`; `wish`: how long the receiver asks to wait. Redirects are refusals: nobody else is told.
pub fn fate(code: u16, wish: Option<Duration>) -> Fate {
    match code {
        200..=299 => Fate::Taken,
        // Request Timeout, Too Early, Too Many Requests, and what is the server's own trouble.
        408 | 425 | 429 | 500..=599 => Fate::Later(wish.unwrap_or_default().min(LONGEST_WISH)),
        _ => Fate::Refused,
    }
}

/// The wait that `value` of Retry-After asks for (RFC 9110 10.2.3): seconds, or a date, which is held against `now`.
pub fn retry_after(value: &str, now: WallTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than there are seconds mean: as long as can be.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let at = jiff::fmt::rfc2822::parse(value).ok()?.timestamp().as_millisecond();
    Some(Duration::from_millis(u64::try_from(at.saturating_sub(now.as_ms())).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_means() {
        for (codes, expected) in [
            (200..=299, Fate::Taken),
            (300..=399, Fate::Refused),
            (400..=407, Fate::Refused),
            (408..=408, Fate::Later(Duration::ZERO)),
            (409..=424, Fate::Refused),
            (425..=425, Fate::Later(Duration::ZERO)),
            (426..=428, Fate::Refused),
            (429..=429, Fate::Later(Duration::ZERO)),
            (430..=499, Fate::Refused),
            (500..=599, Fate::Later(Duration::ZERO)),
            (0..=199, Fate::Refused),
            (600..=u16::MAX, Fate::Refused),
        ] {
            codes.for_each(|code| assert_eq!(fate(code, None), expected, "{code}"));
        }
        let seconds = Duration::from_secs;
        assert_eq!(fate(429, Some(seconds(7))), Fate::Later(seconds(7)));
        assert_eq!(
            fate(503, Some(seconds(86_400))),
            Fate::Later(LONGEST_WISH),
            "a receiver can't silence it for a day"
        );
        assert_eq!(fate(404, Some(seconds(7))), Fate::Refused);
        assert_eq!(fate(200, Some(seconds(7))), Fate::Taken);
    }

    #[test]
    fn a_wish_to_wait_is_read() {
        // 1994-11-06 08:49:37 UTC, less ten seconds.
        let now = WallTime::from_ms(784_111_777_000 - 10_000);
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        for (value, expected) in [
            ("120", seconds(120)),
            (" 7 ", seconds(7)),
            ("0", seconds(0)),
            ("99999999999999999999999", seconds(u64::MAX)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", seconds(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", seconds(0)),
            ("", None),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ] {
            assert_eq!(retry_after(value, now), expected, "{value:?}");
        }
    }
}
