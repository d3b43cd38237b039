//! What one session may take, however it goes about it.

use smtp_guard::config::Config;

use crate::dialogue::check;
use crate::{DATA, ENVELOPE, HELLO};

const MAIL: &str = "C EHLO c\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 2.1.0 Ok\n < 250\n";

fn nothing(_: &mut Config) {}

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
    check("recipients that are deferred, for ever", nothing, &format!("{envelope}{over}"));
    let exempt = |config: &mut Config| config.exempt = ["192.0.2.1/32".parse().unwrap()].into_iter().collect();
    check("an exempt client may", exempt, &format!("{envelope}W 200\n {deferred}W 299\n {deferred}"));
}

#[test]
fn a_transaction_that_is_lost_holds_nothing_up() {
    let lost = format!("{MAIL}B!\n # refused backend_lost\n > drop\n C RCPT TO:<b@example.org>\n < 451\n");
    let over = "W 3600\n C RCPT TO:<b@example.org>\n < 451\n # ended timeout\n < 421 4.4.2\n > drop\n .";
    check("the session's end", nothing, &format!("{lost}{over}"));
    check("a stop", nothing, &format!("{lost}S\n < 421 4.3.2\n > drop\n ."));
}

#[test]
fn what_was_sent_behind_a_mail_that_failed_is_not_held_against_the_client() {
    let behind =
        "C RCPT TO:<b@example.org>\n # refused protocol\n < 503\n".repeat(2) + "C DATA\n # refused protocol\n < 503\n";
    let counted = "C RCPT TO:<b@example.org>\n # refused protocol\n < 503\n C DATA\n # refused protocol\n T\n < 503\n";
    for (name, mail) in [
        ("backend lost", "C MAIL FROM:<>\n > MAIL\n B!\n # refused backend_lost\n > drop\n < 451\n"),
        ("backend defers", "C MAIL FROM:<>\n > MAIL\n B 450 4.7.1 later\n # refused backend\n < 450\n"),
    ] {
        check(name, nothing, &format!("C EHLO c\n < 250\n{mail}{behind}{counted}"));
    }
    let rset = "C RSET\n > RSET\n B 250 2.0.0 Ok\n < 250\n";
    check("none failed", nothing, &format!("{MAIL}{rset}{counted}"));
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
