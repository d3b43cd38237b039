//! Bounds of one session, however it tries to take more.

use std::time::Duration;

use smtp_guard::config::{Config, Granted};

use crate::dialogue::check;
use crate::{DATA, ENVELOPE, HELLO};

const MAIL: &str = "C EHLO c\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 2.1.0 Ok\n < 250\n";

fn nothing(_: &mut Config) {}

/// Nobody is paced.
fn patient(config: &mut Config) {
    config.limits.failed_commands = 1000;
}

#[test]
fn postmaster_without_a_domain_counts_as_a_recipient() {
    let taken = "C RCPT TO:<postmaster>\n > RCPT\n B 250 2.1.5 Ok\n < 250\n".repeat(2);
    let text = format!("{MAIL}{taken}C RCPT TO:<postmaster>\n # refused recipients\n < 452 4.5.3");
    check("two are the limit", nothing, &text);
}

#[test]
fn a_session_ends_although_a_transaction_is_open() {
    let deferred = "C RCPT TO:<b@example.org>\n > RCPT\n B 450 4.2.0 greylisted\n # refused backend\n < 450\n";
    let envelope = format!("{MAIL}W 3700\n {deferred}W 299\n {deferred}W 100\n {deferred}");
    let over = format!("W 200\n {deferred} # ended timeout\n < 421 4.4.2\n > drop\n .");
    check("recipients that are deferred, for ever", patient, &format!("{envelope}{over}"));
    let exempt = |config: &mut Config| config.exempt = ["192.0.2.1/32".parse().unwrap()].into_iter().collect();
    check("an exempt client may", exempt, &format!("{envelope}W 200\n {deferred}W 299\n {deferred}"));
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    for seconds in [60, 90, 300] {
        let configured = |config: &mut Config| config.limits.session_time = Duration::from_secs(seconds);
        let noop = "C NOOP\n < 250\n";
        let text = format!("C EHLO c\n < 250\n W {}\n {noop} T\n # ended timeout\n < 421 4.4.2\n .", seconds - 1);
        check("idle", configured, &text);
        let text = format!("C EHLO c\n < 250\n W {seconds}\n {noop} # ended timeout\n < 421 4.4.2\n .");
        check("busy", configured, &text);
    }
}

#[test]
fn a_transaction_that_is_lost_holds_nothing_up() {
    let lost = format!("{MAIL}B!\n # refused backend_lost\n > drop\n C RCPT TO:<b@example.org>\n < 451\n");
    let over = "W 3600\n C RCPT TO:<b@example.org>\n < 451\n # ended timeout\n < 421 4.4.2\n > drop\n .";
    check("the session's end", patient, &format!("{lost}{over}"));
    check("a stop", nothing, &format!("{lost}S\n < 421 4.3.2\n > drop\n ."));
}

#[test]
fn a13_what_was_sent_behind_a_mail_that_failed_is_neither_logged_nor_held_against_the_client() {
    let few = |config: &mut Config| config.limits.failed_commands = 20;
    let behind = "C RCPT TO:<b@example.org>\n < 503\n".repeat(2) + "C DATA\n < 503\n";
    let counted = "C RCPT TO:<b@example.org>\n # refused protocol\n < 503\n C DATA\n # refused protocol\n < 503\n";
    for (name, mail) in [
        ("backend lost", "C MAIL FROM:<>\n > MAIL\n B!\n # refused backend_lost\n > drop\n < 451\n"),
        ("backend defers", "C MAIL FROM:<>\n > MAIL\n B 450 4.7.1 later\n # refused backend\n < 450\n"),
    ] {
        check(name, few, &format!("C EHLO c\n < 250\n{mail}{behind}{counted}"));
    }
    let rset = "C RSET\n > RSET\n B 250 2.0.0 Ok\n < 250\n";
    check("none failed", few, &format!("{MAIL}{rset}{counted}"));
}

#[test]
fn c7_free_failing_answers_are_paced_like_failed_commands() {
    let ten = |config: &mut Config| {
        config.limits.failed_commands = 20;
        config.limits.recipients = 100;
    };
    let deferred = "C RCPT TO:<b@example.org>\n > RCPT\n B 450 4.2.0 greylisted\n # refused backend\n";
    let lost = "C RCPT TO:<b@example.org>\n";
    let free = |what: &str, reply: &str, times| format!("{what} < {reply}\n").repeat(times);
    let late = |what: &str, reply: &str, times| format!("{what} W 0\n T\n < {reply}\n").repeat(times);
    let greylisted = format!("{MAIL}{}{}", free(deferred, "450", 9), late(deferred, "450", 30));
    check("the backend's 4xx", ten, &greylisted);
    let gone = format!("{MAIL}B!\n # refused backend_lost\n > drop\n{}{}", free(lost, "451", 9), late(lost, "451", 30));
    check("RCPT after the backend was lost", ten, &gone);
    let mixed = format!(
        "{}C EHLO c\n < 250\n{}",
        free("C BOGUS\n # refused protocol\n", "500", 9),
        &MAIL["C EHLO c\n < 250\n ".len()..]
    );
    check("failed commands count along", ten, &format!("{mixed}{}", late(deferred, "450", 1)));
    let own = move |config: &mut Config| {
        ten(config);
        config.relay.networks = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    };
    check("a host of ours is not paced", own, &format!("{MAIL}{}", free(deferred, "450", 40)));
}

#[test]
fn a7_an_accepted_message_earns_new_junk_commands() {
    let few = |config: &mut Config| config.limits.junk_commands = 3;
    let noop = "C NOOP\n < 250\n";
    let accepted = "D .\\r\\n\n > .|\n B 250 2.0.0 Ok\n # message Accepted\n ! MessageAccepted\n < 250\n";
    let message = [HELLO, ENVELOPE, DATA, accepted].concat();
    let more = [ENVELOPE, DATA, accepted].concat();
    let end = "C NOOP\n ! Offence(JunkCommands)\n # ended junk_commands\n < 421\n .";
    check("accepted", few, &[&message, &noop.repeat(3), &more, &noop.repeat(3), end].concat());
    let refused = accepted.replace(
        "B 250 2.0.0 Ok\n # message Accepted\n ! MessageAccepted\n < 250",
        "B 550 5.7.1 no\n # message Rejected\n < 550",
    );
    let message = [HELLO, ENVELOPE, DATA, &refused].concat();
    check("refused", few, &[&message, &noop.repeat(3), end].concat());
    check(
        "RSET between messages, for ever",
        few,
        &[HELLO, &[ENVELOPE, DATA, accepted, "C RSET\n < 250\n"].concat().repeat(150)].concat(),
    );
}

#[test]
fn a10_a_bare_lf_is_repaired_for_clients_of_our_own() {
    let granted = |granted: Granted, networks: &'static [&'static str]| {
        move |config: &mut Config| {
            config.checks.bare_newline = granted;
            config.relay.networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        }
    };
    let ours: &[&str] = &["192.0.2.0/24"];
    let repaired = "D x\\ny\\n.\\nz\\r\\n.\\r\\n\n > x|y|..|z|\n > .|\n B 250 Ok\n # message Accepted size=12\n ! MessageAccepted\n < 250";
    let refused = "D x\\ny\\n.\\nz\\r\\n.\\r\\n\n ! Offence(Smuggling)\n # refused smuggling\n # message Rejected\n > drop\n < 550 5.6.0";
    for (who, what, networks, expected) in [
        ("a host of ours", Granted::Own, ours, repaired),
        ("a stranger", Granted::Own, &[][..], refused),
        ("a stranger", Granted::All, &[][..], repaired),
        ("a host of ours", Granted::None, ours, refused),
    ] {
        let message = [HELLO, ENVELOPE, DATA, expected].concat();
        check(&format!("{who}, {what:?}"), granted(what, networks), &message);
    }
    let bare_cr =
        "D x\\ry\\r\\n.\\r\\n\n ! Offence(Smuggling)\n # refused smuggling\n # message Rejected\n > drop\n < 550 5.6.0";
    check("a bare CR never", granted(Granted::All, ours), &[HELLO, ENVELOPE, DATA, bare_cr].concat());
}

#[test]
fn a_lost_backend_is_not_asked_as_fast_as_the_client_can() {
    let lost = "C MAIL FROM:<>\n > MAIL\n B!\n # refused backend_lost\n > drop\n";
    let text = format!("C EHLO c\n < 250\n{lost} < 451\n{lost} W 1\n T\n < 451\n{lost} T\n < 451");
    check("from the second time on it waits", nothing, &text);
    let exempt = |config: &mut Config| config.exempt = ["192.0.2.1/32".parse().unwrap()].into_iter().collect();
    check("an exempt client doesn't", exempt, &format!("C EHLO c\n < 250\n{lost} < 451\n{lost} < 451"));
}

#[test]
fn c2_a_session_that_gives_way_loses_nothing() {
    // In a transaction: 421, and nothing is reported about the client.
    let stalled = "
        G
        # ended total_connections
        < 421 4.3.2
        > drop
        .
    ";
    check("stalled in a transaction", |_| {}, &[HELLO, ENVELOPE, stalled].concat());
    let after_the_dot = "
        D Subject: x\\r\\n\\r\\ndot\\r\\n.\\r\\n
        > Subject: x||dot|
        > .|
        G
        B 250 2.0.0 queued as 1
        # message Accepted size=19 to=1
        ! MessageAccepted
        < 250 2.0.0 queued as 1
        < 421 4.3.2
        .
    ";
    check("after the dot", |_| {}, &[HELLO, ENVELOPE, DATA, after_the_dot].concat());
}
