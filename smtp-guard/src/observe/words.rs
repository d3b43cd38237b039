//! Refusals in words that tools know already: those of Postfix for text, those of Kerio Connect for `kerio`.
//!
//! fail2ban's own filters match both (`filter.d/postfix.conf`, `filter.d/kerio.conf`; a test runs them). They find the client
//! by its place in the line. So no text of the client's may make a second place like it. Addresses go in as one word without
//! spaces, and in Postfix' words the client comes first.

use std::fmt::Write as _;
use std::net::IpAddr;

use smtp_guard_ebpf::reason::Reason;

use super::log::printable;

/// A refused command. All of it may hold the client's words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Refused<'a> {
    pub sender: Option<&'a str>,
    pub recipient: Option<&'a str>,
    /// The reply without its line ends.
    pub reply: &'a str,
    pub note: &'a str,
    /// Nothing was refused: a check only observes.
    pub observed: bool,
}

/// `NOQUEUE: reject: RCPT from unknown[192.0.2.1]: 550 5.1.1 ...; from=<...> to=<...>`.
pub fn postfix(client: IpAddr, reason: Reason, refused: &Refused<'_>) -> String {
    if reason == Reason::AuthFailures {
        return format!(
            "warning: unknown[{client}]: SASL LOGIN authentication failed: {}",
            printable(refused.note.as_bytes())
        );
    }
    let verb = if refused.observed { "reject_warning" } else { "reject" };
    let stage = match (refused.sender, refused.recipient) {
        (_, Some(_)) => "RCPT",
        (Some(_), None) => "MAIL",
        (None, None) => "CONNECT",
    };
    let mut line = format!("NOQUEUE: {verb}: {stage} from unknown[{client}]: {}", printable(refused.reply.as_bytes()));
    // Infallible: a String takes everything.
    for (name, word) in [("from", refused.sender), ("to", refused.recipient)] {
        if let Some(word) = word {
            _ = write!(line, "; {name}={}", one_word(word));
        }
    }
    if !refused.note.is_empty() {
        _ = write!(line, "; {}", printable(refused.note.as_bytes()));
    }
    line
}

/// Kerio's security line, where it has one for `reason`.
pub fn kerio(client: IpAddr, reason: Reason, refused: &Refused<'_>) -> Option<String> {
    let [sender, recipient] = [refused.sender, refused.recipient].map(|word| one_word(word.unwrap_or("<>")));
    Some(match reason {
        _ if refused.observed => return None,
        Reason::UnknownRecipient | Reason::Trap => {
            format!("Attempt to deliver to unknown recipient {recipient}, from {sender}, IP address {client}")
        }
        Reason::Relay => format!("Relay attempt from IP address {client}"),
        Reason::Dnsbl => {
            let zone = refused.note.split('=').next().unwrap_or_default();
            format!("IP address {client} found in DNS blacklist {}, mail from {sender} to {recipient}", one_word(zone))
        }
        Reason::NoPtr => format!(
            "Client with IP address {client} has no reverse DNS entry, connection rejected before SMTP greeting"
        ),
        Reason::SenderDomain => {
            format!("Message from IP address {client}, sender {sender} rejected: sender domain does not exist")
        }
        Reason::AuthFailures => format!("Failed SMTP login from {client}"),
        _ => return None,
    })
}

/// `text` without a space or anything that isn't printable.
pub(crate) fn one_word(text: &str) -> String {
    printable(text.as_bytes()).replace(' ', "\\x20")
}

/// The backend's own name for a message, where it says one in `reply` as Postfix, Exim or OpenSMTPD do.
pub fn queue_id(reply: &str) -> Option<&str> {
    let after = |mark: &str| reply.split_once(mark).map(|(_, rest)| rest);
    let word = after("queued as ").or_else(|| after(" id=")).or_else(|| {
        let rest = reply.strip_suffix(" Message accepted for delivery")?;
        rest.rsplit(' ').next()
    })?;
    let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(word.len());
    (end > 0).then(|| &word[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `reason` about an unknown recipient of the client 192.0.2.1, in both words.
    fn check(reason: Reason, refused: &Refused<'_>, text: &str, kerio_line: Option<&str>) {
        let client = "192.0.2.1".parse().unwrap();
        assert_eq!(postfix(client, reason, refused), text);
        assert_eq!(kerio(client, reason, refused).as_deref(), kerio_line);
    }

    #[test]
    fn words_of_others() {
        let refused = Refused {
            sender: Some("<a@client.example>"),
            recipient: Some("<no@example.org>"),
            reply: "550 5.1.1 Recipient address rejected: User unknown",
            ..Refused::default()
        };
        let line = "NOQUEUE: reject: RCPT from unknown[192.0.2.1]: 550 5.1.1 Recipient address rejected: User unknown; \
                    from=<a@client.example>; to=<no@example.org>";
        let kerio =
            "Attempt to deliver to unknown recipient <no@example.org>, from <a@client.example>, IP address 192.0.2.1";
        check(Reason::UnknownRecipient, &refused, line, Some(kerio));
        check(Reason::Trap, &refused, line, Some(kerio));
        check(Reason::Relay, &refused, line, Some("Relay attempt from IP address 192.0.2.1"));
        check(Reason::Backend, &refused, line, None);
        let observed = Refused { observed: true, ..refused };
        check(Reason::NoPtr, &observed, &line.replace("reject:", "reject_warning:"), None);
        let mail = Refused { recipient: None, ..refused };
        let line = line.replace("RCPT", "MAIL").replace("; to=<no@example.org>", "");
        let kerio =
            "Message from IP address 192.0.2.1, sender <a@client.example> rejected: sender domain does not exist";
        check(Reason::SenderDomain, &mail, &line, Some(kerio));
        let login = Refused { note: "user=bob", ..Refused::default() };
        let line = "warning: unknown[192.0.2.1]: SASL LOGIN authentication failed: user=bob";
        check(Reason::AuthFailures, &login, line, Some("Failed SMTP login from 192.0.2.1"));
    }

    #[test]
    fn backends_say_what_they_call_a_message() {
        for (reply, id) in [
            ("250 2.0.0 Ok: queued as 4XyZ0k3Bcdz9", Some("4XyZ0k3Bcdz9")),
            ("250 2.0.0 OK id=1tGfXy-0000000012B-3abc", Some("1tGfXy-0000000012B-3abc")),
            ("250 2.0.0 7c1a0e5f Message accepted for delivery", Some("7c1a0e5f")),
            ("250 2.0.0 Ok: queued as ", None),
            ("250 2.0.0 Ok", None),
        ] {
            assert_eq!(queue_id(reply), id, "{reply}");
        }
    }

    #[test]
    fn nobody_can_be_framed() {
        let nasty = "<\"x>, from <y>, IP address 198.51.100.1\n\"@example.org>";
        let refused = Refused { sender: Some(nasty), recipient: Some(nasty), reply: "550 no", ..Refused::default() };
        let client = "192.0.2.1".parse().unwrap();
        let line = kerio(client, Reason::UnknownRecipient, &refused).unwrap();
        assert!(line.ends_with(", IP address 192.0.2.1") && line.matches(", IP address ").count() == 1, "{line}");
        let line = postfix(client, Reason::UnknownRecipient, &refused);
        assert_eq!(line.find("192.0.2.1"), Some("NOQUEUE: reject: RCPT from unknown[".len()), "{line}");
        assert!(!line.contains('\n'));
    }
}
