//! `smtp-guard events`: what happened and what happens, a line each.

use super::admin_client::AdminClient;
use super::{output, time};
use crate::events::{Event, What};
use crate::observe::follow::{Follow, Line};

/// Shows the events that the guard has kept, or goes on with what happens until it is interrupted.
pub(super) fn events(client: &AdminClient, follow: bool, json: bool) -> anyhow::Result<()> {
    let mut last = None;
    loop {
        // A connection lives for a while only; the next one goes on where this one was.
        client.events(Follow { follow, after: last }, |line| {
            if let Line::Event(event) = &line {
                last = Some(event.number);
            }
            output::line(&if json { serde_json::to_string(&output::Answer::of(&line))? } else { text(&line) })?;
            Ok(())
        })?;
        if !follow {
            return Ok(());
        }
    }
}

fn text(line: &Line) -> String {
    match line {
        Line::Event(event) => event_text(event),
        Line::Lost { lost } => format!("... {lost} events were missed"),
    }
}

fn event_text(Event { at, what, .. }: &Event) -> String {
    format!("{}  {}", time::utc(*at), words(what))
}

/// `what` in a line of words, without anything that a terminal would obey.
pub(super) fn words(what: &What) -> String {
    let told = match what {
        What::Banned { source, text, duration_seconds, evidence, reason, .. } => {
            let evidence = if evidence.is_empty() { String::new() } else { format!("; {}", evidence.join("; ")) };
            format!("{source} banned for {}: {text} ({reason}){evidence}", time::length(*duration_seconds))
        }
        What::Lifted { source, reason, why } => format!("ban of {source} ({reason}) ended: {}", ended(why)),
        What::LiftedMore { count, why } => format!("{count} more bans ended: {}", ended(why)),
        What::Deferred { source, reason, duration_seconds, .. } => {
            format!("mail from {source} deferred for {}: {reason}", time::length(*duration_seconds))
        }
        What::Imported { added, refused, text } => {
            format!("{added} decisions imported by the operator, {refused} refused: {text}")
        }
        What::AllLifted { count } => format!("all {count} decisions lifted by the operator"),
        What::ConnectionRefused { client, reason, .. } => format!("connection from {client} refused: {reason}"),
        What::CommandRefused { client, reason, sender, recipient, reply, .. } => {
            let from = sender.as_deref().map(|sender| format!(", from {sender}")).unwrap_or_default();
            let to = recipient.as_deref().map(|recipient| format!(" to {recipient}")).unwrap_or_default();
            format!("command from {client} refused: {reason}{from}{to}: {reply}")
        }
        What::Message { client, outcome, sender, recipient_count, size_bytes, reply, .. } => {
            format!(
                "message from {client} {outcome}: from {sender}, {recipient_count} recipients, {size_bytes} bytes: {reply}"
            )
        }
        What::UserHeld { user, reason, source, text, .. } => {
            let source = source.as_deref().map(|source| format!("; the last one from {source}")).unwrap_or_default();
            format!("user {user} held ({reason}): {text}{source}")
        }
        What::UserReleased { user } => format!("user {user} released by the operator"),
        What::Reloaded { generation, changed, waiting } => {
            let list = |keys: &[String]| if keys.is_empty() { "nothing".to_owned() } else { keys.join(", ") };
            let waits =
                if waiting.is_empty() { String::new() } else { format!("; needs a restart: {}", list(waiting)) };
            format!("configuration {generation} in force: {} changed{waits}", list(changed))
        }
        What::ReloadRefused { error } => format!("configuration not reloaded: {error}"),
        What::Backend { server, answers: true } => format!("backend {server} answers"),
        What::Backend { server, answers: false } => format!("backend {server} does not answer"),
        What::Blocklist { list, entries, error: None, refused } => {
            format!("block list {list} read: {entries} entries, {refused} refused")
        }
        What::Blocklist { list, error: Some(error), .. } => format!("block list {list} can't be read: {error}"),
        What::Kernel { loaded: true, text } => format!("kernel plane loaded: {text}"),
        What::Kernel { loaded: false, text } => format!("kernel plane gone: {text}"),
        What::Certificate { usable: true, text } => format!("certificate: {text}"),
        What::Certificate { usable: false, text } => format!("certificate can't be used: {text}"),
        What::Fleet { connected: true, text } => format!("fleet's server answers: {text}"),
        What::Fleet { connected: false, text } => format!("fleet's server can't be used: {text}"),
        What::FleetNode { node, state, text } if text.is_empty() => format!("edge {node} of the fleet is {state}"),
        What::FleetNode { node, state, text } => format!("edge {node} of the fleet is {state}: {text}"),
        What::Test { text } => format!("nothing happened: {text}"),
    };
    told.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

fn ended(why: &str) -> &str {
    match why {
        "over" => "its time is over",
        "exempt" => "the source is exempt now",
        "operator" => "lifted by the operator",
        "room" => "a newer ban needed its room",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Seconds, WallTime};

    /// `what` as JSON and back, and its line.
    #[track_caller]
    fn check(what: What, json: &str, line: &str) {
        let event = Line::Event(Event { number: 7, at: WallTime::from_ms(0), what }.into());
        let written = serde_json::to_string(&event).unwrap();
        assert!(written.contains(json), "{written}");
        let Line::Event(told) = &event else { unreachable!() };
        let kind = serde_json::to_value(told.what.kind()).unwrap();
        assert_eq!(serde_json::to_value(told).unwrap()["event"], kind, "the configuration has the same word");
        assert_eq!(serde_json::from_str::<Line>(&written).unwrap(), event);
        output::check_documented("events", &event);
        let answer = serde_json::to_string(&output::Answer::of(&event)).unwrap();
        assert!(answer.starts_with("{\"version\":2,\"number\":"), "{answer}");
        assert_eq!(text(&event), format!("1970-01-01 00:00:00 UTC  {line}"));
    }

    #[test]
    fn each_kind_is_a_line() {
        let (source, reason) = (|| "192.0.2.1".to_owned(), || "harvest".into());
        let banned = What::Banned {
            source: source(),
            reason: reason(),
            origin: "ledger".into(),
            text: "directory harvest attack".to_owned(),
            duration_seconds: 3600,
            repeat: 0,
            took_seconds: Some(Seconds(std::time::Duration::from_micros(90))),
            evidence: vec!["no1@example.org".to_owned()],
        };
        let line = "192.0.2.1 banned for 1h 00m: directory harvest attack (harvest); no1@example.org";
        check(banned, "\"event\":\"banned\"", line);
        let lifted = What::Lifted { source: source(), reason: reason(), why: "over".into() };
        check(lifted, "\"why\":\"over\"", "ban of 192.0.2.1 (harvest) ended: its time is over");
        let more = What::LiftedMore { count: 9, why: "operator".into() };
        check(more, "\"count\":9", "9 more bans ended: lifted by the operator");
        let refused = What::ConnectionRefused { session: "a-1".to_owned(), client: source(), reason: reason() };
        check(refused, "\"session\":\"a-1\"", "connection from 192.0.2.1 refused: harvest");
        let backend = |answers| What::Backend { server: "192.0.2.7:25".to_owned(), answers };
        check(backend(true), "\"answers\":true", "backend 192.0.2.7:25 answers");
        check(backend(false), "\"answers\":false", "backend 192.0.2.7:25 does not answer");
        let list = |error: Option<&str>| What::Blocklist {
            list: "drop".to_owned(),
            entries: 5,
            refused: 1,
            error: error.map(str::to_owned),
        };
        check(list(None), "\"list\":\"drop\"", "block list drop read: 5 entries, 1 refused");
        check(list(Some("gone")), "\"error\":\"gone\"", "block list drop can't be read: gone");
        let reloaded = What::Reloaded {
            generation: 2,
            changed: vec!["limits.recipients".to_owned()],
            waiting: vec!["state.directory".to_owned()],
        };
        let line = "configuration 2 in force: limits.recipients changed; needs a restart: state.directory";
        check(reloaded, "\"generation\":2", line);
        check(
            What::Deferred {
                source: source(),
                reason: reason(),
                duration_seconds: 600,
                repeat: 0,
                evidence: vec!["no1@example.org".to_owned()],
            },
            "\"duration_seconds\":600",
            "mail from 192.0.2.1 deferred for 10m 00s: harvest",
        );
        let imported = What::Imported { added: 5, refused: 1, text: "imported from drop.txt".to_owned() };
        check(imported, "\"added\":5", "5 decisions imported by the operator, 1 refused: imported from drop.txt");
        check(What::AllLifted { count: 7 }, "\"count\":7", "all 7 decisions lifted by the operator");
        check(
            What::CommandRefused {
                session: "a-1".to_owned(),
                client: source(),
                reason: reason(),
                sender: Some("a@example.com".to_owned()),
                recipient: None,
                reply: "550 5.1.1 no".to_owned(),
            },
            "\"recipient\":null",
            "command from 192.0.2.1 refused: harvest, from a@example.com: 550 5.1.1 no",
        );
        check(
            What::Message {
                session: "a-1".to_owned(),
                client: source(),
                outcome: "accepted".into(),
                sender: "a@example.com".to_owned(),
                recipient_count: 2,
                size_bytes: 900,
                reply: "250 Ok".to_owned(),
            },
            "\"size_bytes\":900",
            "message from 192.0.2.1 accepted: from a@example.com, 2 recipients, 900 bytes: 250 Ok",
        );
        let held = What::UserHeld {
            user: "bob".to_owned(),
            reason: "user_held".into(),
            source: None,
            duration_seconds: None,
            text: "stolen password".to_owned(),
        };
        check(held, "\"duration_seconds\":null", "user bob held (user_held): stolen password");
        check(What::UserReleased { user: "bob".to_owned() }, "\"user\":\"bob\"", "user bob released by the operator");
        let refused = What::ReloadRefused { error: "line 3: no key".to_owned() };
        check(refused, "\"error\":", "configuration not reloaded: line 3: no key");
        let kernel = |loaded| What::Kernel { loaded, text: "on eth0".to_owned() };
        check(kernel(true), "\"loaded\":true", "kernel plane loaded: on eth0");
        check(kernel(false), "\"loaded\":false", "kernel plane gone: on eth0");
        let certificate = |usable| What::Certificate { usable, text: "/c.pem ends in 3 days".to_owned() };
        check(certificate(true), "\"usable\":true", "certificate: /c.pem ends in 3 days");
        check(certificate(false), "\"usable\":false", "certificate can't be used: /c.pem ends in 3 days");
        let fleet = |connected| What::Fleet { connected, text: "redis:6379".to_owned() };
        check(fleet(true), "\"connected\":true", "fleet's server answers: redis:6379");
        check(fleet(false), "\"connected\":false", "fleet's server can't be used: redis:6379");
        let node = |state: &'static str, text: &str| What::FleetNode {
            node: "mx2".to_owned(),
            state: state.into(),
            text: text.to_owned(),
        };
        check(node("silent", ""), "\"state\":\"silent\"", "edge mx2 of the fleet is silent");
        check(node("muted", "too much"), "\"node\":\"mx2\"", "edge mx2 of the fleet is muted: too much");
        check(What::Test { text: "a try".to_owned() }, "\"event\":\"test\"", "nothing happened: a try");
    }

    #[test]
    fn a_webhooks_body_is_documented() {
        let body = serde_json::json!({
            "hostname": "mx.example.org",
            "run": "5f",
            "batch": "5f-3",
            "lost": 2,
            "events": [Event { number: 7, at: WallTime::from_ms(0), what: What::AllLifted { count: 3 } }],
        });
        output::check_documented("webhook", &body);
    }

    #[test]
    fn what_was_missed_is_said() {
        let lost = Line::Lost { lost: 3 };
        assert_eq!(serde_json::from_str::<Line>("{\"lost\":3}").unwrap(), lost);
        output::check_documented("events", &lost);
        assert_eq!(text(&lost), "... 3 events were missed");
    }
}
