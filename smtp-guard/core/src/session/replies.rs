//! The replies that are ours: each text stands here once. Enhanced codes by RFC 3463; none in greeting and EHLO.

use smtp_guard_ebpf::reason::Reason;

use super::Lost;
use crate::wire::reply::Reply;

/// Shape of the table: a name, its code, its enhanced code, its text.
macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident => $code:literal $enhanced:tt $text:literal;)+) => {
        $($(#[$doc])* pub fn $name() -> Reply { Reply::new($code, Some($enhanced), $text) })+
    };
}

replies! {
    reset => 250 (2, 0, 0) "Ok";
    /// The reply to a chunk that isn't the last one: it promises nothing.
    chunk_taken => 250 (2, 0, 0) "Chunk taken";
    noop => 250 (2, 0, 0) "Ok";
    vrfy => 252 (2, 5, 1) "Cannot VRFY, but will take a message and try";
    help => 214 (2, 0, 0) "See RFC 5321";
    bye => 221 (2, 0, 0) "Bye";
    /// The client isn't SMTP at all.
    not_smtp => 221 (2, 7, 0) "This is an SMTP server";

    ready_for_tls => 220 (2, 0, 0) "Ready to start TLS";
    authenticated => 235 (2, 7, 0) "Authentication successful";
    auth_failed => 535 (5, 7, 8) "Authentication failed";
    auth_unavailable => 454 (4, 7, 0) "Cannot check passwords now, try again later";
    auth_cancelled => 501 (5, 7, 0) "Authentication cancelled";
    auth_response => 501 (5, 5, 2) "Wrong response";
    auth_mechanism => 504 (5, 5, 4) "Mechanism was not offered";
    auth_needs_tls => 538 (5, 7, 11) "Encryption required: send STARTTLS first";
    auth_twice => 503 (5, 5, 1) "Already authenticated";
    auth_in_transaction => 503 (5, 5, 1) "AUTH is not allowed within a transaction";
    auth_required => 530 (5, 7, 0) "Authentication required";
    tls_required => 530 (5, 7, 0) "Send STARTTLS first";
    tls_twice => 503 (5, 5, 1) "TLS is active already";

    busy => 421 (4, 7, 0) "Too many connections from your address, try again later";
    full => 421 (4, 3, 2) "Too many connections, try again later";
    crowded => 421 (4, 7, 0) "Too many connections from your network, try again later";
    /// A session that makes room for another client.
    idle => 421 (4, 3, 2) "Too many connections and this one is idle, try again later";
    banned => 421 (4, 7, 0) "Your address is blocked for now";
    listed => 421 (4, 7, 0) "Your address is on a block list";
    no_listener => 421 (4, 3, 2) "No mail is taken at this address and port for now";
    shutdown => 421 (4, 3, 2) "Shutting down, try again soon";
    session_over => 421 (4, 4, 2) "This session has lasted long enough, connect again";
    login_lost => 421 (4, 4, 2) "Connection to the mail server was lost, log in again";
    timeout => 421 (4, 4, 2) "Timed out waiting for you";
    failed_commands => 421 (4, 7, 0) "Too many failed commands";
    junk_commands => 421 (4, 7, 0) "Too many commands without a message";

    backend_unreachable => 451 (4, 4, 1) "Mail server not reachable, try again later";
    backend_lost => 451 (4, 4, 2) "Connection to the mail server was lost, try again later";
    backend_timeout => 451 (4, 4, 2) "Mail server did not answer in time, try again later";
    backend_busy => 451 (4, 3, 2) "Mail server is busy, try again later";
    backend_nonsense => 451 (4, 3, 0) "Mail server gave no usable answer, try again later";

    early_talker => 554 (5, 5, 1) "You spoke before the greeting";
    deferred => 450 (4, 7, 1) "Too many unknown recipients from your address or its network, try again later";
    facts_late => 451 (4, 3, 0) "Could not look up what is needed, try again later";

    too_many_messages => 450 (4, 7, 1) "Too many messages from your address, try again later";
    user_messages => 450 (4, 7, 1) "Too many messages from your account, try again later";
    user_recipients => 450 (4, 7, 1) "Too many recipients from your account, try again later";
    user_networks => 450 (4, 7, 1) "Your account is used from too many networks, try again later";
    user_held => 450 (4, 7, 1) "Your account is held, ask your administrator";
    helo_first => 503 (5, 5, 1) "Send HELO or EHLO first";
    message_began => 503 (5, 5, 1) "The message has begun, send BDAT or RSET";
    nested_mail => 503 (5, 5, 1) "Nested MAIL command";
    mail_first => 503 (5, 5, 1) "Need MAIL command";
    no_recipients => 554 (5, 5, 1) "No valid recipients";
    not_implemented => 502 (5, 5, 1) "Command not implemented";
    chunking => 521 (5, 5, 1) "BDAT is not offered here";
    not_permitted => 550 (5, 7, 0) "Not permitted";
    unknown_parameter => 555 (5, 5, 4) "Parameter was not offered";
    pipelining => 554 (5, 5, 0) "Wait for the reply before you go on";
    trapped => 550 (5, 7, 1) "Message refused";
    smuggling => 550 (5, 6, 0) "Message data with bare CR, bare LF or NUL";
}

/// Has `reply` say of which session it is, so that one search in the log finds all of it, and, where it is a refusal by policy, whom
/// to ask: `550 5.7.1 ...; contact postmaster@example.org (session 0a1b2c3d4e5f6)`. The backend's words stay as they are. An empty
/// `contact` or `session` is left out.
pub fn sign(reply: &mut Reply, contact: &str, session: &str) {
    if !reply.is_ours() || !matches!(reply.code().class(), 4 | 5) {
        return;
    }
    let mut text = String::new();
    if !contact.is_empty() && is_by_policy(reply) {
        text.push_str(&format!("; contact {contact}"));
    }
    if !session.is_empty() {
        text.push_str(&format!(" (session {session})"));
    }
    if !text.is_empty() {
        reply.append(&text);
    }
}

/// Whether `reply` refuses for who the client is or whom it writes to: not for its protocol or for trouble of ours.
fn is_by_policy(reply: &Reply) -> bool {
    let subject = reply.enhanced().map(|enhanced| enhanced.parts().1);
    match reply.code().get() {
        421 => subject == Some(7),
        450 | 550 | 554 => true,
        _ => false,
    }
}

/// A step of AUTH: `text` in base64.
pub fn challenge(text: &'static str) -> Reply {
    Reply::new(334, None, text)
}

/// The reply to a client whose backend was lost: never more than 4xx.
pub fn lost(lost: Lost) -> Reply {
    match lost {
        Lost::Unreachable => backend_unreachable(),
        Lost::Closed | Lost::BeforeDot => backend_lost(),
        Lost::Timeout => backend_timeout(),
        Lost::Protocol => backend_nonsense(),
        Lost::Busy => backend_busy(),
    }
}

/// The reply to a client whose source or user has sent as much as it may.
pub fn over_rate(reason: Reason) -> Reply {
    match reason {
        Reason::UserMessageRate => user_messages(),
        Reason::UserRecipientRate => user_recipients(),
        Reason::UserNetworks => user_networks(),
        Reason::UserHeld => user_held(),
        _ => too_many_messages(),
    }
}

/// `220 hostname ESMTP`.
pub fn greeting(hostname: &str) -> Reply {
    Reply::new(220, None, format!("{hostname} ESMTP"))
}

/// The answer to HELO.
pub fn helo(hostname: &str) -> Reply {
    Reply::new(250, None, hostname.to_owned())
}

/// The answer to the client's DATA.
pub fn start_data() -> Reply {
    Reply::new(354, None, "End data with <CRLF>.<CRLF>")
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::reply::MAX_TEXT;

    #[track_caller]
    fn check(mut reply: Reply, contact: &str, session: &str, expected: &str) {
        sign(&mut reply, contact, session);
        let mut wire = BytesMut::new();
        reply.encode(&mut wire);
        let wire = String::from_utf8(wire.to_vec()).unwrap();
        assert_eq!(wire, format!("{expected}\r\n"));
        assert!(wire.split_inclusive("\r\n").all(|line| line.len() <= 512), "{wire}");
    }

    #[test]
    fn refusals_of_ours_say_whom_to_ask_and_which_session_it_was() {
        let (contact, session) = ("https://example.org/blocked or postmaster@example.org", "7h0k");
        let blocked = "421 4.7.0 Your address is blocked for now";
        check(banned(), contact, session, &format!("{blocked}; contact {contact} (session 7h0k)"));
        check(banned(), contact, "", &format!("{blocked}; contact {contact}"));
        check(banned(), "", session, &format!("{blocked} (session 7h0k)"));
        check(banned(), "", "", blocked);
        check(shutdown(), contact, session, "421 4.3.2 Shutting down, try again soon (session 7h0k)");
        check(helo_first(), contact, session, "503 5.5.1 Send HELO or EHLO first (session 7h0k)");
        check(
            user_held(),
            "x",
            session,
            "450 4.7.1 Your account is held, ask your administrator; contact x (session 7h0k)",
        );
        check(Reply::new(550, Some((5, 1, 1)), "no"), "x", session, "550 5.1.1 no; contact x (session 7h0k)");
        check(Reply::new(550, Some((5, 1, 1)), "no").passed_on(), "x", session, "550 5.1.1 no");
        for yes in [bye(), reset(), not_smtp()] {
            let expected = yes.to_string();
            check(yes, contact, session, &expected);
        }
    }

    #[test]
    fn a_line_stays_a_line() {
        let long = "x".repeat(MAX_TEXT - 10);
        let expected = format!("554-5.7.1 {long}\r\n554 5.7.1 contact y (session 7h0k)");
        check(Reply::new(554, Some((5, 7, 1)), long), "y", "7h0k", &expected);
    }
}
