//! Our Received header (RFC 5321 4.4): the trace that carries the client's address to the backend.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use super::{Secured, Session};
use crate::clock::{Instant, WallTime};
use crate::wire::data::CleanBody;

/// Longer ones are rare.
const USUAL: usize = 256;

/// The header for a message of `session` whose data begins at `now`. `None` only if it could not be made valid.
pub(super) fn header(session: &Session, now: Instant) -> Option<CleanBody> {
    let mut text = String::with_capacity(USUAL);
    write(session, now, &mut text).ok()?;
    CleanBody::header(&text).ok()
}

fn write(session: &Session, now: Instant, text: &mut String) -> fmt::Result {
    text.push_str("Received: from ");
    match &session.speaker {
        Some(speaker) => text.push_str(&speaker.helo.printable()),
        None => text.push_str("unknown"),
    }
    text.push_str(" (");
    if let Some(name) = &session.name {
        text.push_str(name);
        text.push(' ');
    }
    match session.addr.ip() {
        IpAddr::V4(v4) => write!(text, "[{v4}])")?,
        IpAddr::V6(v6) => write!(text, "[IPv6:{v6}])")?,
    }
    if let Some(Secured { version, cipher }) = session.secured {
        write!(text, "\r\n\t(using {version} with cipher {cipher})")?;
    }
    for part in ["\r\n\tby ", &session.rules.config().hostname, " (smtp-guard) with "] {
        text.push_str(part);
    }
    protocol(session, text);
    for part in [" id ", &session.id, ";\r\n\t"] {
        text.push_str(part);
    }
    date(session.clock.wall_at(now), text)?;
    text.push_str("\r\n");
    Ok(())
}

/// The name of what is spoken, as RFC 3848 and RFC 6531 register it.
fn protocol(session: &Session, text: &mut String) {
    let speaker = session.speaker.as_deref();
    text.push_str(match session.transaction.as_ref().is_some_and(|transaction| transaction.smtputf8) {
        true => "UTF8SMTP",
        false if speaker.is_some_and(|speaker| speaker.esmtp) => "ESMTP",
        false => "SMTP",
    });
    if session.secured.is_some() {
        text.push('S');
    }
    if speaker.is_some_and(|speaker| speaker.login.is_some()) {
        text.push('A');
    }
}

/// `Tue, 24 Nov 2026 11:00:00 +0000` (RFC 5322 3.3).
fn date(at: WallTime, text: &mut String) -> fmt::Result {
    const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let timestamp = jiff::Timestamp::from_millisecond(at.as_ms()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let at = jiff::tz::Offset::UTC.to_datetime(timestamp);
    let name =
        |names: &[&'static str], number: i8| names.get(usize::try_from(number).unwrap_or(0)).copied().unwrap_or("");
    let day = name(&DAYS, at.weekday().to_monday_zero_offset());
    let month = name(&MONTHS, at.month() - 1);
    write!(text, "{day}, {:02} {month} {:04} ", at.day(), at.year())?;
    write!(text, "{:02}:{:02}:{:02} +0000", at.hour(), at.minute(), at.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_rfc_5322() {
        for (ms, expected) in [
            (1_795_518_000_000, "Tue, 24 Nov 2026 11:00:00 +0000"),
            (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
            (1_709_251_199_999, "Thu, 29 Feb 2024 23:59:59 +0000"),
            (1_798_329_599_000, "Sat, 26 Dec 2026 23:59:59 +0000"),
        ] {
            let mut text = String::new();
            date(WallTime::from_ms(ms), &mut text).unwrap();
            assert_eq!(text, expected);
            let timestamp = jiff::Timestamp::from_millisecond(ms).unwrap();
            assert_eq!(text, timestamp.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string());
        }
    }
}
