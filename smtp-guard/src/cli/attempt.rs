//! `try` in plain lines: what the client would hear, after how long, and why.

use std::time::Duration;

use axum::http::Method;

use super::admin_client::{AdminClient, LOOKUPS};
use crate::observe::attempt::{Attempt, Rehearsal, Step};
use crate::observe::log::printable_whole;

impl AdminClient {
    /// POST /try
    pub fn attempt(&self, attempt: &Attempt) -> anyhow::Result<Rehearsal> {
        self.ask_within(LOOKUPS, Method::POST, "/try", Some(attempt))
    }
}

/// The text of `try`: what would happen to `attempt`.
pub(super) fn text(attempt: &Attempt, rehearsal: &Rehearsal) -> String {
    let mut lines = vec![format!("What would happen to {} now; nothing was sent or counted.", attempt.ip)];
    if let Some(by) = &rehearsal.by {
        lines.push(format!("Judged by {}", printable_whole(by)));
    }
    lines.extend(rehearsal.rules.iter().map(|rule| format!("  {}", printable_whole(rule))));
    lines.extend(rehearsal.found.iter().map(|found| format!("  DNS: {}", printable_whole(found))));
    for step in &rehearsal.steps {
        told(step, &mut lines);
    }
    lines.join("\n")
}

fn told(step: &Step, lines: &mut Vec<String>) {
    let said = if step.said.is_empty() { "connects".to_owned() } else { printable_whole(&step.said) };
    lines.push(format!("> {said}"));
    for because in &step.because {
        let verb = if because.observed { "observed" } else { "because" };
        lines.push(format!("  {verb}: {} [{}]", printable_whole(&because.text), because.reason));
    }
    let waits = match step.wait_seconds.0 {
        Duration::ZERO => String::new(),
        waits => format!(" (after {} s)", waits.as_secs_f64()),
    };
    match &step.heard {
        Some(_) if step.passed_on && step.because.iter().all(|because| because.observed) => {
            lines.push(format!("< the mail server's own reply{waits}"));
        }
        Some(heard) => lines.push(format!("< {}{waits}", printable_whole(heard))),
        None => lines.push(format!("< silence: the connection times out{waits}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decision::Explanation;
    use crate::observe::attempt::Because;

    #[test]
    fn steps_in_lines() {
        let explanation = Explanation {
            source: "192.0.2.1".to_owned(),
            exempt: false,
            may_relay: false,
            familiar: false,
            decision: None,
            networks: Vec::new(),
            listed: Vec::new(),
            deferred_until: None,
            deferral: None,
            ledger: None,
            counts: Vec::new(),
            connections: None,
            kernel: None,
            notes: Vec::new(),
        };
        let because =
            |observed| Because { reason: "no_ptr".to_owned(), text: "no reverse DNS entry".to_owned(), observed };
        let step =
            |said: &str, heard: &str| Step { said: said.to_owned(), heard: Some(heard.to_owned()), ..Step::default() };
        let rehearsal = Rehearsal {
            by: None,
            explanation,
            rules: vec![format!("checks.ptr: observe{}", " in full".repeat(20))],
            found: vec!["no reverse DNS entry".to_owned()],
            steps: vec![
                Step {
                    wait_seconds: crate::clock::Seconds(Duration::from_secs(6)),
                    ..step("", "220 mx.example.org ESMTP")
                },
                Step { passed_on: true, because: vec![because(true)], ..step("RCPT TO:<a@example.org>", "250 Ok") },
                Step { because: vec![because(false)], ..step("RCPT TO:<b@example.org>", "450 4.7.1 no") },
            ],
        };
        crate::cli::output::check_documented("try", &rehearsal);
        let attempt = Attempt {
            ip: "192.0.2.1".parse().unwrap(),
            helo: "x".to_owned(),
            mail_from: None,
            rcpt_to: Vec::new(),
            user: None,
            role: crate::config::Role::Mx,
            tls: false,
            config: None,
        };
        let expected = format!(
            "\
What would happen to 192.0.2.1 now; nothing was sent or counted.
  checks.ptr: observe{}
  DNS: no reverse DNS entry
> connects
< 220 mx.example.org ESMTP (after 6 s)
> RCPT TO:<a@example.org>
  observed: no reverse DNS entry [no_ptr]
< the mail server's own reply
> RCPT TO:<b@example.org>
  because: no reverse DNS entry [no_ptr]
< 450 4.7.1 no",
            " in full".repeat(20)
        );
        assert_eq!(text(&attempt, &rehearsal), expected);
    }
}
