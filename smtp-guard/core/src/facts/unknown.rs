//! The test whether the backend's refusal of a recipient says that the recipient doesn't exist.
//!
//! Only positive recognition counts. A backend may delay to RCPT a refusal of the sender, of the client or of relaying. Such a
//! refusal must never be held against a sender as a wrong guess.

use crate::config::Profile;
use crate::wire::reply::Reply;

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

/// How one server says that a recipient is unknown, as it said it of two that nobody has: the code, the enhanced code, and the
/// words of the last line without what differs from one recipient to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wording {
    code: u16,
    enhanced: Option<(u8, u16, u16)>,
    words: String,
}

/// Status codes of RFC 3463 that are about policy, the mail system or the network: never about whether a mailbox exists.
const OTHER_SUBJECTS: [u16; 4] = [3, 4, 6, 7];

impl Wording {
    /// Learns from the replies to two random recipients; `None` where they differ, or speak of something else.
    pub fn learn(replies: [(&Reply, &str); 2]) -> Option<Self> {
        let [one, other] = replies.map(|(reply, recipient)| Self::of(reply, recipient));
        let is_about_mailboxes = one.enhanced.is_none_or(|(_, subject, _)| !OTHER_SUBJECTS.contains(&subject));
        (one == other && matches!(one.code / 100, 4 | 5) && is_about_mailboxes).then_some(one)
    }

    /// Whether `reply` says it of `recipient`.
    pub fn is_of(&self, reply: &Reply, recipient: &str) -> bool {
        reply.code().get() == self.code && Self::of(reply, recipient) == *self
    }

    fn of(reply: &Reply, recipient: &str) -> Self {
        let lower = reply.last_line().to_ascii_lowercase();
        let recipient = recipient.to_ascii_lowercase();
        let (local, domain) = recipient.rsplit_once('@').unwrap_or((&recipient, ""));
        let mut words = lower.replace(&recipient, "{recipient}");
        if local.len() > 2 {
            words = words.replace(local, "{local}");
        }
        if !domain.is_empty() {
            words = words.replace(domain, "{domain}");
        }
        // Times, queue ids and the like.
        let words = words.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
        // Sessions add `X.0.0` where a server says none, which says no more than the code.
        let enhanced = reply
            .enhanced()
            .map(|enhanced| enhanced.parts())
            .filter(|(_, subject, detail)| (*subject, *detail) != (0, 0));
        Self { code: reply.code().get(), enhanced, words }
    }
}

impl std::fmt::Display for Wording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some((class, subject, detail)) = self.enhanced {
            write!(f, " {class}.{subject}.{detail}")?;
        }
        write!(f, " {}", self.words)
    }
}

/// The text behind `<recipient>` and then `words` at the start of `text`. Of an international address `text` has a `?` for
/// each byte that isn't ASCII ([`crate::wire::reply::Reply::new`]), whatever the byte was.
fn after<'a>(text: &'a str, recipient: &str, words: &str) -> Option<&'a str> {
    let text = text.strip_prefix('<')?;
    let (named, rest) = text.as_bytes().split_at_checked(recipient.len())?;
    let same = |(named, ours): (&u8, u8)| named.eq_ignore_ascii_case(&ours) || !ours.is_ascii() && *named == b'?';
    let ours = named.iter().zip(recipient.bytes()).all(same) && rest.starts_with(b">");
    if ours { text.get(recipient.len() + 1..)?.strip_prefix(words) } else { None }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::wire::reply::ReplyDecoder;

    fn check(profile: Profile, code: u16, enhanced: (u8, u16, u16), text: &str, unknown: bool) {
        let found = is_unknown(profile, code, Some(enhanced), text, "no@example.org");
        assert_eq!(found, unknown, "{profile:?} {code} {enhanced:?} {text}");
    }

    /// The same of a reply as it arrives: decoded, and cleaned of all that isn't ASCII.
    fn check_reply(profile: Profile, bytes: &str, recipient: &str, unknown: bool) {
        let reply = ReplyDecoder::new().next(&mut BytesMut::from(bytes)).unwrap().unwrap();
        let enhanced = reply.enhanced().map(|enhanced| enhanced.parts());
        let found = is_unknown(profile, reply.code().get(), enhanced, reply.last_line(), recipient);
        assert_eq!(found, unknown, "{profile:?} {recipient} {bytes}");
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
    fn an_address_is_found_as_the_server_names_it() {
        for (recipient, named, unknown) in [
            ("jörg@example.org", "<jörg@example.org>", true),
            ("jörg@example.org", "<JÖRG@EXAMPLE.ORG>", true),
            ("jörg@example.org", "<j??rg@example.org>", true),
            ("jörg@example.org", "<jorg@example.org>", false),
            ("jörg@example.org", "<j?rg@example.org>", false),
            ("jorg@example.org", "<jörg@example.org>", false),
            ("no@bücher.example", "<no@bücher.example>", true),
            ("j?rg@example.org", "<jxrg@example.org>", false),
            ("\"a>b\"@example.org", "<\"a>b\"@example.org>", true),
            ("jörg@example.org", "<jörg", false),
            ("jörg@example.org", "<jörg@example.org", false),
        ] {
            let postfix = format!("550 5.1.1 {named}: Recipient address rejected: User unknown\r\n");
            check_reply(Profile::Postfix, &postfix, recipient, unknown);
            let dovecot = format!("550 5.1.1 {named} User doesn't exist: x\r\n");
            check_reply(Profile::Dovecot, &dovecot, recipient, unknown);
        }
    }

    #[test]
    fn only_the_last_line_is_about_the_recipient() {
        let sender =
            "550-Verification failed for <a@b.example>\r\n550-Unrouteable address\r\n550 Sender verify failed\r\n";
        check_reply(Profile::Exim, sender, "no@example.org", false);
        check_reply(Profile::Exim, "550-Sorry\r\n550 Unrouteable address\r\n", "no@example.org", true);
        check_reply(Profile::Exchange, "550-5.1.10 x\r\n550 5.1.10 y\r\n", "no@example.org", true);
        check_reply(Profile::Exchange, "550-5.1.10 x\r\n550 5.7.1 y\r\n", "no@example.org", false);
    }

    fn reply(text: &str) -> Reply {
        ReplyDecoder::new().next(&mut BytesMut::from(format!("{text}\r\n").as_bytes())).unwrap().unwrap()
    }

    /// A server that answers `says` (`{r}`: the recipient) is learned like this, and that is recognised of another.
    fn check_learned(says: &str, learned: bool) {
        let [one, other] = ["qwertzuiop@example.org", "asdfghjkl@example.org"];
        let said =
            |recipient: &str| reply(&says.replace("{r}", recipient).replace("{n}", &recipient.len().to_string()));
        let wording = Wording::learn([(&said(one), one), (&said(other), other)]);
        assert_eq!(wording.is_some(), learned, "{says}");
        if let Some(wording) = wording {
            let bob = said("bob@example.org");
            assert!(wording.is_of(&bob, "bob@example.org"), "{says}");
            assert!(wording.is_of(&bob.with_enhanced(), "bob@example.org"), "{says}: as sessions have it");
            assert!(!wording.is_of(&said("carol@example.org"), "bob@example.org") || !says.contains("{r}"), "{says}");
            assert!(!wording.is_of(&reply("550 5.7.1 Relay access denied"), "bob@example.org"), "{says}");
        }
    }

    #[test]
    fn b7_what_a_server_says_of_nobody_is_learned() {
        check_learned("550 No such user here", true);
        check_learned("550 No such user <{r}> here", true);
        check_learned("553 5.1.1 unknown or illegal alias: {r}", true);
        check_learned("450 4.1.1 <{r}>: Recipient address rejected: User unknown in local recipient table", true);
        check_learned("551 5.1.6 Recipient has moved", true);
        check_learned("550 5.2.1 Mailbox unavailable (id {n})", true);
        check_learned("554 5.7.1 <{r}>: Relay access denied", false);
        check_learned("451 4.3.0 Try again", false);
        check_learned("450 4.7.1 Greylisted, come back", false);
        check_learned("250 2.1.5 Ok", false);
        check_learned("550 {r} {r}x{n}", true);
        let mixed = Wording::learn([(&reply("550 No such user"), "a@b"), (&reply("550 Go away"), "c@b")]);
        assert_eq!(mixed, None, "not the same twice");
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
