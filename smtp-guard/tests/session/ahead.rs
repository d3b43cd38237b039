//! Pipelined commands, towards a backend that offers PIPELINING.

use smtp_guard::config::Config;
use smtp_guard::wire::ehlo::Capabilities;

use crate::dialogue::{Setting, check_in};

const HELLO: &str = "
    C EHLO client.example
    < 250 mx.example.org
";
const THREE: &str = "
    D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<b@example.org>\\r\\nDATA\\r\\n
    > MAIL FROM:<a@client.example>|
    > RCPT TO:<b@example.org>|
    > DATA
";

fn setting(familiar: bool) -> Setting {
    let backend = Capabilities { pipelining: true, ..Capabilities::default() };
    Setting { familiar, backend, ..Setting::default() }
}

fn check(name: &str, familiar: bool, change: impl Fn(&mut Config), parts: &[&str]) {
    check_in(name, &setting(familiar), change, &parts.concat());
}

#[test]
fn an_envelope_goes_out_at_once_and_is_answered_in_its_order() {
    let end = "
        B 250 2.1.0 Ok
        < 250 2.1.0 Ok
        B 250 2.1.5 Ok
        ! KnownRecipient
        < 250 2.1.5 Ok
        B 354 go
        < 354
        > Received: from client.example
        D x\\r\\n.\\r\\n
        > x|
        > .|
        B 250 2.0.0 queued
        # message Accepted size=3 to=1
        ! MessageAccepted
        < 250 2.0.0 queued
    ";
    for familiar in [false, true] {
        check("taken", familiar, |_| {}, &[HELLO, THREE, end]);
    }
}

#[test]
fn what_the_backend_refuses_is_refused() {
    let table = [
        (
            "MAIL",
            "B 550 5.7.1 no\n # refused backend\n < 550 5.7.1 no\n B 503 5.5.1 x\n T\n < 503 5.5.1 Need MAIL\n \
             B 503 5.5.1 x\n T\n < 503 5.5.1 Need MAIL\n C MAIL FROM:<>\n > MAIL",
        ),
        (
            "MAIL, and takes the rest",
            "B 550 5.7.1 no\n # refused backend\n < 550 5.7.1 no\n B 250 x\n > drop\n T\n < 503 5.5.1 Need MAIL\n \
             T\n < 503 5.5.1 Need MAIL\n C MAIL FROM:<>\n > MAIL",
        ),
        (
            "RCPT",
            "B 250 x\n < 250\n B 550 5.7.1 no\n # refused backend\n < 550 5.7.1 no\n B 554 5.5.1 no valid\n # refused protocol\n T\n \
             < 554 5.5.1 No valid recipients\n C RCPT TO:<c@example.org>\n > RCPT",
        ),
        (
            "an unknown one",
            "B 250 x\n < 250\n B 550 5.1.1 no\n ! UnknownRecipient\n # refused unknown_recipient\n < 550 5.1.1 no\n \
             B 554 5.5.1 no valid\n # refused protocol\n T\n < 554 5.5.1 No valid recipients",
        ),
        (
            "RCPT, and wants the message: no dot follows",
            "B 250 x\n < 250\n B 550 5.7.1 no\n # refused backend\n < 550 5.7.1 no\n B 354 go\n # refused protocol\n \
             # refused backend_lost\n > drop\n T\n < 554 5.5.1 No valid recipients\n C RCPT TO:<c@example.org>\n T\n < 451",
        ),
        (
            "DATA",
            "B 250 x\n < 250\n B 250 x\n ! Known\n < 250\n B 554 5.7.1 no\n > drop\n # refused backend\n < 554 5.7.1 no",
        ),
        ("nothing, and is gone", "B!\n # refused backend_lost\n > drop\n < 451\n T\n < 503\n T\n < 503"),
        ("421 to RCPT", "B 250 x\n < 250\n B 421 bye\n # refused backend_lost\n > drop\n < 451\n T\n < 451"),
        (
            "250 to DATA",
            "B 250 x\n < 250\n B 250 x\n ! Known\n < 250\n B 250 x\n # refused backend_lost\n > drop\n < 451",
        ),
        ("354 to RCPT", "B 250 x\n < 250\n B 354 x\n # refused backend_lost\n > drop\n < 451\n T\n < 451"),
    ];
    for (name, text) in table {
        check(name, true, |_| {}, &[HELLO, THREE, text]);
    }
}

#[test]
fn a_refusal_by_policy_answers_its_own_command() {
    let both = "
        D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<x@other.example>\\r\\nRCPT TO:<b@example.org>\\r\\nDATA\\r\\n
        > MAIL FROM:<a@client.example>|
        > RCPT TO:<b@example.org>|
        > DATA
        B 250 x
        < 250
        ! Offence(Relay)
        # refused relay
        < 554 5.7.1 Relay
        B 250 x
        ! Known
        < 250
        B 354 go
        < 354
        > Received
    ";
    check("relay", true, |_| {}, &[HELLO, both]);
    let trap = "
        D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<trap@example.org>\\r\\nRCPT TO:<b@example.org>\\r\\nDATA\\r\\n
        > MAIL FROM:<a@client.example>|
        B 250 x
        < 250
        ! Trap
        # refused trap
        < 550 5.1.1
        > RCPT TO:<b@example.org>|
        B 250 x
        ! Known
        < 250
        > drop
        # refused trap
        T
        < 550 5.7.1
    ";
    check("trap", true, |config| config.recipients.traps = vec!["trap@example.org".to_owned()], &[HELLO, trap]);
    let surplus = "
        D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<a@example.org>\\r\\nRCPT TO:<b@example.org>\\r\\nRCPT TO:<c@example.org>\\r\\nDATA\\r\\n
        > MAIL FROM:<a@client.example>|
        > RCPT TO:<a@example.org>|
        > RCPT TO:<b@example.org>|
        B 250 x
        < 250
        B 250 x
        ! Known
        < 250
        B 450 4.2.1 later
        # refused backend
        < 450 4.2.1 later
        > RCPT TO:<c@example.org>|
        > DATA
        B 250 x
        ! Known
        < 250
        B 354 go
        < 354
        > Received
    ";
    check("one more than there is room for, until one is refused", true, |_| {}, &[HELLO, surplus]);
}

#[test]
fn of_strangers_without_a_history_one_recipient_at_a_time_is_asked() {
    let guesses = "
        D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<a@example.org>\\r\\nRCPT TO:<b@example.org>\\r\\nRCPT TO:<c@example.org>\\r\\n
        > MAIL FROM:<a@client.example>|
        > RCPT TO:<a@example.org>|
        B 250 x
        < 250
        B 550 5.1.1 no
        ! UnknownRecipient
        # refused unknown_recipient
        < 550
        > RCPT TO:<b@example.org>|
        F deferred
        B 550 5.1.1 no
        ! UnknownRecipient
        # refused unknown_recipient
        T
        < 550
        # refused deferred
        T
        < 450 4.7.1
    ";
    check("guesses", false, |_| {}, &[HELLO, guesses]);
    let checked = "
        F sender=missing
        D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<a@example.org>\\r\\nDATA\\r\\n
        > MAIL FROM:<a@client.example>|
        B 250 x
        < 250
        # refused sender_domain
        < 450
        # refused protocol
        T
        < 554 5.5.1
    ";
    let enforced = |config: &mut Config| config.checks.sender_domain = smtp_guard::config::Mode::Enforce;
    check("what a check refuses isn't asked", false, enforced, &[HELLO, checked]);
    let deferred = "
        F deferred
        D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<a@example.org>\\r\\n
        > MAIL FROM:<a@client.example>|
        B 250 x
        < 250
        # refused deferred
        < 450 4.7.1
    ";
    check("nor one that is deferred", false, |_| {}, &[HELLO, deferred]);
}

#[test]
fn what_changes_meanwhile_counts() {
    let deferred = "
        D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<a@example.org>\\r\\nRCPT TO:<b@example.org>\\r\\nDATA\\r\\n
        > MAIL FROM:<a@client.example>|
        > RCPT TO:<a@example.org>|
        > RCPT TO:<b@example.org>|
        > DATA
        B 250 x
        < 250
        B 250 x
        ! Known
        < 250
        F deferred
    ";
    let no = "
        B 550 5.1.1 no
        # refused deferred
        < 450 4.7.1
        B 354 go
        < 354
        > Received
    ";
    let yes = "
        B 250 x
        # refused deferred
        < 450 4.7.1
        # refused backend_lost
        > drop
        T
        < 451 4.4.2
    ";
    check("the backend refused it, too", true, |_| {}, &[HELLO, deferred, no]);
    check("the backend took it", true, |_| {}, &[HELLO, deferred, yes]);
    let banned = "K\n # ended harvest\n < 421\n > drop\n .";
    check("a ban", true, |_| {}, &[HELLO, deferred, banned]);
    let gone = "B!\n # refused backend_lost\n > drop\n < 451\n T\n < 451 4.4.2";
    check("the backend is lost", true, |_| {}, &[HELLO, deferred, gone]);
    let held = "
        D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<a@example.org>\\r\\nRCPT TO:<b@example.org>\\r\\nDATA\\r\\n
        > MAIL FROM:<a@client.example>|
        > RCPT TO:<a@example.org>|
        > RCPT TO:<b@example.org>|
        > DATA
        B 250 x
        < 250
        B 550 5.1.1 no
        ! UnknownRecipient
        # refused unknown_recipient
        B 250 x
        B 354 go
        T
        < 550
        ! Known
        < 250
        < 354
        > Received
    ";
    let late = |config: &mut Config| config.harvest.delay = std::time::Duration::from_secs(5);
    check("answers wait for their turn", true, late, &[HELLO, held]);
    let unasked =
        held.replace("B 354 go\n", "B 354 go\n        B 250 what\n        # refused backend_lost\n        > drop\n");
    let unasked = unasked.split("        T\n").next().unwrap().to_owned() + "T\n < 550\n T\n < 451\n T\n < 451";
    check("one more than was asked", true, late, &[HELLO, &unasked]);
}

#[test]
fn a_client_that_has_logged_in_or_a_backend_without_pipelining_is_asked_for_one_at_a_time() {
    let one = "
        D MAIL FROM:<a@client.example>\\r\\nRCPT TO:<b@example.org>\\r\\nDATA\\r\\n
        > MAIL FROM:<a@client.example>|
        B 250 x
        < 250
        > RCPT TO:<b@example.org>|
        B 250 x
        ! Known
        < 250
        > DATA
    ";
    let plain = Setting { familiar: true, backend: Capabilities::default(), ..Setting::default() };
    // Cut, since nothing is asked ahead.
    check_in("no PIPELINING", &plain, |_| {}, &[HELLO, one].concat());
}
