//! Whether the backend's refusal of a recipient says that the recipient doesn't exist.
//!
//! Only positive recognition counts: a refusal of the sender, of the client or of relaying that the backend delays to
//! RCPT must never be held against a sender as a wrong guess.

use crate::config::Profile;

/// Status code of RFC 3463: bad destination mailbox address.
const BAD_MAILBOX: (u8, u16, u16) = (5, 1, 1);

/// Judges the last line of the reply to `RCPT TO:<recipient>`: its code, its enhanced code and its text after that.
///
/// Texts are those that the servers were recorded with; where a server names the recipient, it must be ours.
pub fn is_unknown(profile: Profile, code: u16, enhanced: Option<(u8, u16, u16)>, text: &str, recipient: &str) -> bool {
    if code != 550 {
        return false;
    }
    let bad_mailbox = enhanced == Some(BAD_MAILBOX);
    match profile {
        // Of Kerio Connect no words were recorded.
        Profile::Generic | Profile::Kerio => bad_mailbox,
        // `<r>: Recipient address rejected: User unknown in ... table`, or what another server said when it was asked.
        Profile::Postfix => {
            bad_mailbox
                && after(text, recipient, ": Recipient address rejected: ")
                    .is_some_and(|rest| rest.starts_with("User unknown") || rest.starts_with("undeliverable address: "))
        }
        // The same words on an earlier line belong to a sender that could not be verified.
        Profile::Exim => text == "Unknown user" || text == "Unrouteable address",
        Profile::Exchange => match enhanced {
            Some((5, 1, 1 | 10)) => true,
            // Online. `Relay Access Denied` has the same code.
            Some((5, 4, 1)) => text.starts_with("Recipient address rejected: Access denied"),
            _ => false,
        },
        Profile::Dovecot => bad_mailbox && after(text, recipient, " User doesn't exist").is_some(),
        Profile::Stalwart => enhanced == Some((5, 1, 2)) && text == "Mailbox does not exist.",
        Profile::OpenSmtpd => {
            text == "Invalid recipient"
                || text.strip_prefix("Invalid recipient: ").is_some_and(|rest| after(rest, recipient, "") == Some(""))
        }
    }
}

/// What follows `<recipient>` and then `words` at the start of `text`.
fn after<'a>(text: &'a str, recipient: &str, words: &str) -> Option<&'a str> {
    let (named, rest) = text.strip_prefix('<')?.split_once('>')?;
    if named.eq_ignore_ascii_case(recipient) { rest.strip_prefix(words) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(profile: Profile, code: u16, enhanced: (u8, u16, u16), text: &str, unknown: bool) {
        let found = is_unknown(profile, code, Some(enhanced), text, "no@example.org");
        assert_eq!(found, unknown, "{profile:?} {code} {enhanced:?} {text}");
    }

    #[test]
    fn postfix_in_its_own_words() {
        let table = [
            (
                550,
                (5, 1, 1),
                "<no@example.org>: Recipient address rejected: User unknown in virtual mailbox table",
                true,
            ),
            (
                550,
                (5, 1, 1),
                "<No@Example.org>: Recipient address rejected: User unknown in local recipient table",
                true,
            ),
            (550, (5, 1, 1), "<no@example.org>: Recipient address rejected: User unknown", true),
            (550, (5, 1, 1), "<other@example.org>: Recipient address rejected: User unknown", false),
            (554, (5, 7, 1), "<no@example.org>: Relay access denied", false),
            (450, (4, 1, 1), "<no@example.org>: Recipient address rejected: User unknown", false),
            (550, (5, 1, 0), "<a@b.example>: Sender address rejected: User unknown in virtual mailbox table", false),
            (550, (5, 1, 1), "<a@b.example>: Sender address rejected: User unknown", false),
            (554, (5, 7, 1), "<host[192.0.2.1]>: Client host rejected: Access denied", false),
            (550, (5, 1, 1), "User unknown: see <no@example.org>: Recipient address rejected: User unknown", false),
        ];
        for (code, enhanced, text, unknown) in table {
            check(Profile::Postfix, code, enhanced, text, unknown);
        }
    }

    #[test]
    fn the_others_in_their_words() {
        const NONE: (u8, u16, u16) = (5, 0, 0);
        let table = [
            (
                Profile::Postfix,
                BAD_MAILBOX,
                "<no@example.org>: Recipient address rejected: undeliverable address: host 10.77.3.2[10.77.3.2] said: 550 5.1.1 <no@example.org> User doesn't exist: no@example.org (in reply to RCPT TO command)",
                true,
            ),
            (Profile::Exim, NONE, "Unrouteable address", true),
            (Profile::Exim, NONE, "Unknown user", true),
            (Profile::Exim, NONE, "Sender verify failed", false),
            (Profile::Exim, NONE, "relay not permitted", false),
            (Profile::Exim, NONE, "Unrouteable address, or so it says", false),
            (
                Profile::Exchange,
                (5, 1, 10),
                "RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
                true,
            ),
            (Profile::Exchange, BAD_MAILBOX, "User unknown", true),
            (Profile::Exchange, (5, 4, 1), "Recipient address rejected: Access denied. AS(201806281)", true),
            (Profile::Exchange, (5, 4, 1), "Relay Access Denied", false),
            (Profile::Exchange, (5, 7, 1), "Unable to relay", false),
            (Profile::Kerio, BAD_MAILBOX, "whatever", true),
            (Profile::Kerio, (5, 7, 1), "whatever", false),
            (Profile::Dovecot, BAD_MAILBOX, "<no@example.org> User doesn't exist: no@example.org", true),
            (Profile::Dovecot, BAD_MAILBOX, "<other@example.org> User doesn't exist: other@example.org", false),
            (Profile::Dovecot, (5, 2, 2), "<no@example.org> Quota exceeded", false),
            (Profile::Stalwart, (5, 1, 2), "Mailbox does not exist.", true),
            (Profile::Stalwart, (5, 1, 2), "Relay not allowed.", false),
            (Profile::OpenSmtpd, NONE, "Invalid recipient", true),
            (Profile::OpenSmtpd, NONE, "Invalid recipient: <no@example.org>", true),
            (Profile::OpenSmtpd, NONE, "Invalid recipient: <other@example.org>", false),
            (Profile::OpenSmtpd, NONE, "Invalid sender", false),
        ];
        for (profile, enhanced, text, unknown) in table {
            check(profile, 550, enhanced, text, unknown);
            check(profile, 450, enhanced, text, false);
            check(profile, 554, enhanced, text, false);
        }
    }

    #[test]
    fn generic_goes_by_the_codes() {
        for (code, enhanced, unknown) in [
            (550, (5, 1, 1), true),
            (550, (5, 7, 1), false),
            (550, (5, 2, 1), false),
            (554, (5, 1, 1), false),
            (450, (4, 1, 1), false),
        ] {
            check(Profile::Generic, code, enhanced, "whatever", unknown);
        }
        assert!(!is_unknown(Profile::Generic, 550, None, "5.1.1 looks like it", "no@example.org"));
    }
}
