//! Our Received header (RFC 5321 4.4): the trace that carries the client's address to the backend.

use std::net::IpAddr;

use super::{Secured, Session};
use crate::clock::{Instant, WallTime};
use crate::wire::data::CleanBody;

/// The header for a message of `session` whose data begins at `now`. `None` only if it could not be made valid.
pub(super) fn header(session: &Session, now: Instant) -> Option<CleanBody> {
    let name = session.name.as_ref().map(|name| format!("{name} ")).unwrap_or_default();
    let address = match session.addr.ip() {
        IpAddr::V4(v4) => format!("{name}[{v4}]"),
        IpAddr::V6(v6) => format!("{name}[IPv6:{v6}]"),
    };
    let speaker = session.speaker.as_deref();
    let helo = speaker.map_or_else(|| "unknown".to_owned(), |speaker| speaker.helo.printable());
    let tls = match session.secured {
        Some(Secured { version, cipher }) => format!("\r\n\t(using {version} with cipher {cipher})"),
        None => String::new(),
    };
    let text = format!(
        "Received: from {helo} ({address}){tls}\r\n\tby {} (smtp-guard) with {} id {};\r\n\t{}\r\n",
        session.rules.config().hostname,
        protocol(session),
        session.id,
        date(session.clock.wall_at(now)),
    );
    CleanBody::header(&text).ok()
}

/// The name of what is spoken, as RFC 3848 and RFC 6531 register it.
fn protocol(session: &Session) -> String {
    let speaker = session.speaker.as_deref();
    let base = match session.transaction.as_ref().is_some_and(|transaction| transaction.smtputf8) {
        true => "UTF8SMTP",
        false if speaker.is_some_and(|speaker| speaker.esmtp) => "ESMTP",
        false => "SMTP",
    };
    let secured = if session.secured.is_some() { "S" } else { "" };
    let authenticated = if speaker.is_some_and(|speaker| speaker.login.is_some()) { "A" } else { "" };
    format!("{base}{secured}{authenticated}")
}

/// `Tue, 24 Nov 2026 11:00:00 +0000` (RFC 5322 3.3).
fn date(at: WallTime) -> String {
    let timestamp = jiff::Timestamp::from_millisecond(at.as_ms()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    timestamp.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_date_is_that_of_rfc_5322() {
        assert_eq!(date(WallTime::from_ms(1_795_518_000_000)), "Tue, 24 Nov 2026 11:00:00 +0000");
    }
}
