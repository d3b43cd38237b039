//! Clients whose EHLO opens a connection to the backend already, before MAIL.

use smtp_guard::config::{Config, Role};

use crate::dialogue::{Setting, check_in};
use crate::secure;

const AT_EHLO: &str = "C EHLO c\n < 250\n > connect for c\n";

fn check(name: &str, setting: Setting, change: impl Fn(&mut Config), dialogue: &str) {
    check_in(name, &Setting { shows_connect: true, ..setting }, change, dialogue);
}

#[test]
fn nobody_but_a_likely_sender_causes_a_connection_before_mail() {
    let stranger = Setting::default;
    let familiar = || Setting { familiar: true, ..Setting::default() };
    let network = || ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    check("a stranger", stranger(), |_| {}, "C EHLO c\n < 250\n C HELO c\n < 250");
    check("familiar", familiar(), |_| {}, AT_EHLO);
    check("HELO", familiar(), |_| {}, "C HELO c\n < 250\n > connect for c");
    check("exempt", stranger(), |config| config.exempt = network(), AT_EHLO);
    check("a network of ours", stranger(), |config| config.relay.networks = network(), AT_EHLO);
    check("turned off", familiar(), |config| config.backend.connect_early = false, "C EHLO c\n < 250");
    check("another name", familiar(), |_| {}, &format!("{AT_EHLO}C EHLO d\n < 250\n > connect for d"));
    check("refused EHLO", familiar(), |_| {}, "C EHLO\n # refused\n < 501");
    let transaction = "C MAIL FROM:<a@c.example>\n > MAIL\n B 250 ok\n < 250\n C EHLO c\n > RSET\n B 250 ok\n < 250";
    check("within a transaction", familiar(), |_| {}, &format!("{AT_EHLO}{transaction}"));
    check("the guard stops", familiar(), |_| {}, "S\n < 421\n .");
}

#[test]
fn a_connection_before_mail_is_one_for_which_mail_may_come() {
    let submission = |secured| secure::setting(Role::Submission, secured);
    let network = |config: &mut Config| {
        secure::dovecot(config);
        config.relay.networks = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    };
    check("before TLS", submission(false), network, "C EHLO c\n < 250");
    check("before a login", submission(true), network, "C EHLO c\n < 250");
    let login = "C EHLO c\n < 250\n C AUTH PLAIN AHUAcA==\n > auth\n A accepted\n # authenticated u\n > drop\n < 235\n";
    check("a user", submission(true), secure::dovecot, &format!("{login}C EHLO c\n < 250\n > connect for c"));
    let familiar = Setting { familiar: true, ..secure::setting(Role::Mx, false) };
    let tls = format!("{AT_EHLO}C STARTTLS\n < 220\n * tls\n H\n > drop\n {AT_EHLO}");
    check("STARTTLS", familiar, |_| {}, &tls);
}
