//! Whether the backend's refusal of a recipient says that the recipient doesn't exist.
//!
//! Only positive recognition counts: a refusal of the sender, of the client or of relaying that the backend delays to
//! RCPT must never be held against a sender as a wrong guess.

use crate::config::Profile;

/// Status code of RFC 3463: bad destination mailbox address.
const BAD_MAILBOX: (u8, u16, u16) = (5, 1, 1);

/// Judges the last line of the reply to `RCPT TO:<recipient>`: its code, its enhanced code and its text after that.
pub fn is_unknown(profile: Profile, code: u16, enhanced: Option<(u8, u16, u16)>, text: &str, recipient: &str) -> bool {
    match profile {
        Profile::Generic => code == 550 && enhanced == Some(BAD_MAILBOX),
        Profile::Postfix => code == 550 && enhanced == Some(BAD_MAILBOX) && postfix(text, recipient),
    }
}

/// `<r>: Recipient address rejected: User unknown in ... table`, where `r` is the recipient that we asked about.
fn postfix(text: &str, recipient: &str) -> bool {
    let Some(rest) = text.strip_prefix('<') else {
        return false;
    };
    let Some((named, rest)) = rest.split_once(">: ") else {
        return false;
    };
    named.eq_ignore_ascii_case(recipient) && rest.starts_with("Recipient address rejected: User unknown")
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
