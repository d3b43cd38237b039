//! Limits of users who have logged in, as dialogues in virtual time; `dialogue` says how to read them. Who counts is the
//! driver; the session says what it is asked for and what became of it.

use smtp_guard::config::{Config, Role};

use crate::dialogue::{Setting, check_in};
use crate::secure::{dovecot, setting};

const LOGIN: &str = "
    C EHLO c
    < 250
    C AUTH PLAIN AHUAcA==
    > auth
    A accepted
    # authenticated u
    > drop
    < 235
";
const MAIL: &str = "
    C MAIL FROM:<u@example.org>
    > MAIL
    B 250 2.1.0 Ok
    < 250
";

fn check(name: &str, change: impl Fn(&mut Config), dialogue: &[&str]) {
    let setting = Setting { shows_settled: true, ..setting(Role::Submission, true) };
    let change = |config: &mut Config| {
        dovecot(config);
        change(config);
    };
    check_in(name, &setting, change, &dialogue.concat());
}

#[test]
fn a_user_over_a_limit_hears_450_at_mail_and_the_session_goes_on() {
    for (reason, words) in [
        ("user_message_rate", "Too many messages from your account"),
        ("user_networks", "Your account is used from too many networks"),
        ("user_held", "Your account is held"),
        ("message_rate", "Too many messages from your address"),
    ] {
        let refused =
            format!("C MAIL FROM:<u@example.org>\n > MAIL\n R {reason}\n # refused {reason}\n < 450 4.7.1 {words}\n");
        check(reason, |_| {}, &[LOGIN, &refused, MAIL, "C RCPT TO:<a@other.example>\n > RCPT"]);
    }
}

#[test]
fn a_recipient_over_the_limit_costs_only_itself() {
    let accepted = "
        C RCPT TO:<a@other.example>
        > RCPT
        B 250 2.1.5 Ok
        ! settled accepted=true
        ! KnownRecipient
        < 250
    ";
    let refused = "
        C RCPT TO:<b@other.example>
        > RCPT
        R user_recipient_rate
        # refused user_recipient_rate
        < 450 4.7.1 Too many recipients from your account
    ";
    // As many as there is room for in a message are free; each further one is a failed command.
    let failed = "
        C RCPT TO:<b@other.example>
        > RCPT
        R user_recipient_rate
        # refused user_recipient_rate
        T
        < 450 4.7.1
    ";
    check("the others go on", |_| {}, &[LOGIN, MAIL, accepted, refused, refused, "C DATA\n > DATA"]);
    let patient = |config: &mut Config| config.limits.failed_commands = 2;
    check("over and over", patient, &[LOGIN, MAIL, refused, refused, failed, "C RSET\n > RSET"]);
}

#[test]
fn it_is_told_what_became_of_a_recipient() {
    let rcpt = "C RCPT TO:<a@example.org>\n > RCPT\n";
    let table = [
        (
            "unknown",
            "B 550 5.1.1 no\n ! settled accepted=false\n ! Offence(UnknownRecipient)\n # refused unknown_recipient\n < 550",
        ),
        ("refused", "B 450 4.2.0 greylisted\n ! settled accepted=false\n # refused backend\n < 450"),
        ("lost", "B!\n ! settled accepted=false\n # refused backend_lost\n > drop\n < 451"),
        ("no answer", "T\n ! settled accepted=false\n # refused backend_lost\n > drop\n < 451"),
        ("421", "B 421 4.3.2 bye\n ! settled accepted=false\n # refused backend_lost\n > drop\n < 451"),
        ("senseless", "B 354 hm\n ! settled accepted=false\n # refused backend_lost\n > drop\n < 451"),
        // The driver knows by itself.
        ("client vanishes", "X\n > drop\n ."),
    ];
    for (name, text) in table {
        check(name, |_| {}, &[LOGIN, MAIL, rcpt, text]);
    }
}
