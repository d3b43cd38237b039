//! Our Received header (RFC 5321 4.4): the trace that carries the client's address to the backend.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use jiff::fmt::rfc2822;
use jiff::tz::TimeZone;

use super::{Secured, Session};
use crate::clock::{Instant, WallTime};
use crate::wire::data::CleanBody;

/// Bytes of a usual header with a name, TLS and an IPv6 address.
const USUAL: usize = 320;

/// The header for a message of `session` whose data begins at `now`. `None` only if it could not be made valid.
pub(super) fn header(session: &Session, now: Instant) -> Option<CleanBody> {
    let mut text = String::with_capacity(USUAL);
    write(&mut text, session, now).ok()?;
    CleanBody::header(&text).ok()
}

/// Writes piece by piece: each message has this header, and text that is made only to be copied costs more than the rest of it.
fn write(text: &mut String, session: &Session, now: Instant) -> fmt::Result {
    text.push_str("Received: from ");
    match session.speaker.as_deref() {
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
    text.push_str("\r\n\tby ");
    text.push_str(&session.rules.config().hostname);
    text.push_str(" (smtp-guard) with ");
    protocol(text, session);
    write!(text, " id {};\r\n\t", session.id)?;
    text.push_str(&date(session.clock.wall_at(now)));
    text.push_str("\r\n");
    Ok(())
}

/// The name of what is spoken, as RFC 3848 and RFC 6531 register it.
fn protocol(text: &mut String, session: &Session) {
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
fn date(at: WallTime) -> String {
    let timestamp = jiff::Timestamp::from_millisecond(at.as_ms()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    rfc2822::to_string(&timestamp.to_zoned(TimeZone::UTC)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing;

    /// The header of a message that came after these lines, and its lines as they should be.
    #[track_caller]
    fn check(lines: &[&str], secured: Option<Secured>, expected: &str) {
        let opening = crate::session::Opening { secured, ..testing::opening(testing::snapshot(|_| {})) };
        let (now, mut out) = (opening.clock.instant, Vec::new());
        let mut session = Session::open(opening, &mut out);
        for line in lines {
            session.step(testing::line(line, false), now, &mut out);
        }
        let header = header(&session, now).unwrap();
        let date = "Tue, 24 Nov 2026 11:00:00 +0000";
        assert_eq!(String::from_utf8_lossy(&header), format!("{expected} id id-1;\r\n\t{date}\r\n"), "{lines:?}");
    }

    #[test]
    fn the_header_says_who_came_how() {
        let by = "\r\n\tby mx.example.org (smtp-guard) with";
        check(&[], None, &format!("Received: from unknown ([192.0.2.1]){by} SMTP"));
        check(&["HELO c.example"], None, &format!("Received: from c.example ([192.0.2.1]){by} SMTP"));
        check(&["EHLO c.example"], None, &format!("Received: from c.example ([192.0.2.1]){by} ESMTP"));
        let using = "\r\n\t(using TLSv1.3 with cipher TLS13_AES_256_GCM_SHA384)";
        let secured = Some(testing::SECURED);
        check(&["EHLO c(x)"], secured, &format!("Received: from c?x? ([192.0.2.1]){using}{by} ESMTPS"));
    }

    #[test]
    fn the_date_is_that_of_rfc_5322() {
        for (ms, expected) in
            [(1_795_518_000_000, "Tue, 24 Nov 2026 11:00:00 +0000"), (0, "Thu, 1 Jan 1970 00:00:00 +0000")]
        {
            assert_eq!(date(WallTime::from_ms(ms)), expected);
        }
    }
}
