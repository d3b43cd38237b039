//! STARTTLS, AUTH and what a submission port asks for, as dialogues in virtual time; `dialogue` says how to read them.

use std::time::Duration;

use smtp_guard::config::{AuthVia, BackendTls, Config, Granted, Role};
use smtp_guard::wire::ehlo::Capabilities;

use crate::dialogue::{Setting, check_in};

pub(crate) fn dovecot(config: &mut Config) {
    config.auth.via = AuthVia::Dovecot;
}

fn backend(config: &mut Config) {
    config.auth.via = AuthVia::Backend;
}

pub(crate) fn setting(role: Role, secured: bool) -> Setting {
    let backend = Capabilities {
        eight_bit_mime: true,
        smtputf8: true,
        dsn: true,
        requiretls: true,
        auth_plain: true,
        ..Capabilities::default()
    };
    Setting { role, tls: true, secured, backend, ..Setting::default() }
}

#[test]
fn ehlo_offers_what_can_be_used_now() {
    let clear = "C EHLO c\n < 250 mx.example.org / PIPELINING / SIZE 100 / STARTTLS / CHUNKING / 8BITMIME / SMTPUTF8 / DSN / LIMITS RCPTMAX=2 / ENH";
    check_in("in clear text", &setting(Role::Mx, false), backend, clear);
    let tls = "C EHLO c\n < 250 mx.example.org / PIPELINING / SIZE 100 / AUTH PLAIN LOGIN / CHUNKING / 8BITMIME / SMTPUTF8 / DSN / LIMITS";
    check_in("under TLS", &setting(Role::Mx, true), backend, tls);
    check_in(
        "under TLS, Dovecot",
        &Setting { backend: Capabilities::default(), ..setting(Role::Mx, true) },
        dovecot,
        "C EHLO c\n < 250 mx.example.org / PIPELINING / SIZE 100 / AUTH PLAIN LOGIN / CHUNKING / LIMITS",
    );
    check_in(
        "the backend has no AUTH",
        &Setting { backend: Capabilities::default(), ..setting(Role::Mx, true) },
        backend,
        "C EHLO c\n < 250 mx.example.org / PIPELINING / SIZE 100 / CHUNKING / LIMITS",
    );
    let verified = |config: &mut Config| config.backend.tls = BackendTls::Verified;
    check_in(
        "REQUIRETLS",
        &setting(Role::Mx, true),
        verified,
        "C EHLO c\n < 250 mx.example.org / PIPELINING / SIZE 100 / CHUNKING / 8BITMIME / SMTPUTF8 / DSN / REQUIRETLS / LIMITS\n \
         C MAIL FROM:<a@b> REQUIRETLS\n > MAIL FROM:<a@b> REQUIRETLS|",
    );
    check_in(
        "REQUIRETLS in clear text",
        &setting(Role::Mx, false),
        verified,
        "C EHLO c\n < 250 mx.example.org / PIPELINING / SIZE 100 / STARTTLS / CHUNKING / 8BITMIME / SMTPUTF8 / DSN / LIMITS\n \
         C MAIL FROM:<a@b> REQUIRETLS\n # refused protocol\n < 555 5.5.4",
    );
}

#[test]
fn starttls_forgets_what_was_said_in_clear_text() {
    let table = [
        (
            "EHLO again",
            "C EHLO c\n < 250\n C STARTTLS\n < 220 2.0.0\n * tls\n ? handshake 0 c\n H\n > drop\n ? command 0 - by TLS\n \
             C MAIL FROM:<a@b.example>\n # refused protocol\n < 503 5.5.1\n C EHLO d\n \
             < 250 mx.example.org / PIPELINING / SIZE 100 / AUTH\n ? command 0 d by TLS",
        ),
        (
            "a transaction is forgotten",
            "C EHLO c\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 Ok\n < 250\n C STARTTLS\n < 220\n * tls\n H\n > drop\n \
             C RCPT TO:<b@example.org>\n # refused protocol\n < 503",
        ),
        (
            "commands sent ahead (CVE-2011-0411)",
            "D STARTTLS\\r\\nRSET\\r\\n\n ! Offence(Pipelining)\n # ended pipelining\n < 554 5.5.0\n .",
        ),
        ("a second time", "C STARTTLS\n < 220\n * tls\n H\n > drop\n C STARTTLS\n # refused protocol\n < 503 5.5.1"),
        ("with an argument", "C STARTTLS now\n # refused protocol\n < 501"),
        ("the handshake fails", "C STARTTLS\n < 220\n * tls\n X\n ."),
        ("the handshake stalls", "C STARTTLS\n < 220\n * tls\n T\n # ended timeout\n < 421\n ."),
    ];
    for (name, text) in table {
        check_in(name, &setting(Role::Mx, false), backend, text);
    }
}

#[test]
fn auth_in_all_its_forms() {
    let table = [
        (
            "PLAIN at once",
            "C AUTH PLAIN AHUAcA==\n > auth AHUAcA==\n A accepted\n # authenticated u\n > drop\n < 235 2.7.0",
        ),
        (
            "PLAIN in two steps",
            "C AUTH plain\n < 334 \n ? login 0 c by TLS\n C AHUAcA==\n > auth AHUAcA==\n A accepted\n # authenticated u\n > drop\n < 235\n \
             ? command 0 u by TLS",
        ),
        (
            "LOGIN",
            "C AUTH LOGIN\n < 334 VXNlcm5hbWU6\n C dQ==\n < 334 UGFzc3dvcmQ6\n C cA==\n > auth AHUAcA==\n A accepted\n # authenticated u\n > drop\n < 235",
        ),
        (
            "LOGIN with the name at once",
            "C AUTH LOGIN dQ==\n < 334 UGFzc3dvcmQ6\n C cA==\n > auth AHUAcA==\n A accepted\n # authenticated u\n > drop\n < 235",
        ),
        (
            "a wrong password waits",
            "C AUTH PLAIN AHUAcA==\n > auth\n A rejected\n ! Offence(AuthFailures)\n # refused auth_failures\n T\n < 535 5.7.8",
        ),
        ("nobody to ask", "C AUTH PLAIN AHUAcA==\n > auth\n A unavailable\n # refused backend_lost\n < 454 4.7.0"),
        ("the backend goes", "C AUTH PLAIN AHUAcA==\n > auth\n B!\n > drop\n # refused backend_lost\n < 454 4.7.0"),
        ("the backend is silent", "C AUTH PLAIN AHUAcA==\n > auth\n T\n > drop\n # refused backend_lost\n < 454 4.7.0"),
        ("cancelled", "C AUTH LOGIN\n < 334\n C *\n # refused protocol\n < 501 5.7.0"),
        ("not base64", "C AUTH PLAIN not,base64\n # refused protocol\n < 501 5.5.2"),
        ("not PLAIN", "C AUTH PLAIN dQ==\n ! Offence(AuthFailures)\n # refused auth_failures\n T\n < 535"),
        ("another mechanism", "C AUTH CRAM-MD5\n # refused protocol\n < 504 5.5.4"),
        ("no mechanism", "C AUTH\n # refused protocol\n < 501"),
        (
            "commands sent ahead",
            "D AUTH PLAIN AHUAcA==\\r\\nMAIL FROM:<>\\r\\n\n ! Offence(Pipelining)\n # ended pipelining\n < 554\n .",
        ),
        (
            "within a transaction",
            "C MAIL FROM:<>\n > MAIL\n B 250 Ok\n < 250\n C AUTH LOGIN\n # refused protocol\n < 503",
        ),
        ("a bare LF in the response", "C AUTH LOGIN\n < 334\n D dQ==\\n\n # refused protocol\n < 501"),
        ("no response", "C AUTH LOGIN\n < 334\n T\n # ended timeout\n < 421\n ."),
        (
            "twice",
            "C AUTH PLAIN AHUAcA==\n > auth\n A accepted\n # authenticated u\n > drop\n < 235\n C AUTH LOGIN\n # refused protocol\n < 503",
        ),
    ];
    for (name, text) in table {
        check_in(name, &setting(Role::Mx, true), dovecot, &format!("C EHLO c\n < 250\n {text}"));
    }
    let long = format!(
        "C EHLO c\n < 250\n C AUTH PLAIN {}\n # refused protocol\n < 500 5.5.2 Line too long",
        "A".repeat(13_000)
    );
    check_in("an endless response", &setting(Role::Mx, true), dovecot, &long);
    check_in(
        "before TLS",
        &setting(Role::Mx, false),
        dovecot,
        "C EHLO c\n < 250\n C AUTH PLAIN AHUAcA==\n # refused protocol\n < 538 5.7.11",
    );
    let off = |config: &mut Config| config.auth.via = AuthVia::Off;
    check_in(
        "off",
        &setting(Role::Mx, true),
        off,
        "C EHLO c\n < 250\n C AUTH PLAIN AHUAcA==\n # refused protocol\n < 502",
    );
    check_in("before EHLO", &setting(Role::Mx, true), dovecot, "C AUTH LOGIN\n # refused protocol\n < 503");
}

#[test]
fn who_has_logged_in_may_relay_and_who_failed_may_not() {
    const LOGIN: &str =
        "C EHLO c\n < 250\n C AUTH PLAIN AHUAcA==\n > auth\n A accepted\n # authenticated u\n > drop\n < 235\n";
    const MAIL: &str = "C MAIL FROM:<a@b.example>\n > MAIL FROM:<a@b.example>| for u\n B 250 Ok\n < 250\n";
    let relayed = format!("{LOGIN}{MAIL}C RCPT TO:<x@elsewhere.example>\n > RCPT TO:<x@elsewhere.example>|");
    check_in("relays", &setting(Role::Submission, true), dovecot, &relayed);
    let not = |config: &mut Config| {
        dovecot(config);
        config.relay.authenticated = false;
    };
    let refused = format!("{LOGIN}{MAIL}C RCPT TO:<x@elsewhere.example>\n ! Offence(Relay)\n # refused relay\n < 554");
    check_in("doesn't relay", &setting(Role::Submission, true), not, &refused);
    let trusted = |config: &mut Config| {
        dovecot(config);
        config.relay.networks = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    };
    let failed = "C EHLO c\n < 250\n C AUTH PLAIN AHUAcA==\n > auth\n A rejected\n ! Offence(AuthFailures)\n # refused auth_failures\n T\n < 535\n \
                  C MAIL FROM:<a@b.example>\n > MAIL\n B 250 Ok\n < 250\n C RCPT TO:<x@elsewhere.example>\n ! Offence(Relay)\n # refused relay\n T\n < 554";
    check_in("a failed login doesn't fall back to the network", &setting(Role::Mx, true), trusted, failed);
    let slow = |config: &mut Config| {
        dovecot(config);
        config.harvest.delay = Duration::from_secs(5);
    };
    let unknown = format!(
        "{LOGIN}{MAIL}C RCPT TO:<no@example.org>\n > RCPT\n B 550 5.1.1 no\n ! Offence(UnknownRecipient)\n # refused unknown_recipient\n < 550"
    );
    check_in("b5: no delay for users, and no harvest", &setting(Role::Submission, true), slow, &unknown);
}

#[test]
fn a_login_over_the_backend_ends_with_its_connection() {
    let login = "C EHLO c\n < 250\n C AUTH PLAIN AHUAcA==\n > auth\n A accepted\n # authenticated u\n < 235\n";
    let lost = format!(
        "{login}B!\n > drop\n C MAIL FROM:<a@b.example>\n > MAIL\n B!\n # refused backend_lost\n > drop\n # ended backend_lost\n < 421 4.4.2\n ."
    );
    check_in("lost", &setting(Role::Submission, true), backend, &lost);
}

#[test]
fn a_submission_port_asks_for_tls_and_a_login() {
    let table = [
        (false, "C MAIL FROM:<a@b.example>\n # refused protocol\n < 530 5.7.0 Send STARTTLS"),
        (false, "C AUTH LOGIN\n # refused protocol\n < 538"),
        (true, "C MAIL FROM:<a@b.example>\n # refused protocol\n < 530 5.7.0 Auth"),
        (true, "C STARTTLS\n # refused protocol\n < 503"),
    ];
    for (secured, text) in table {
        for role in [Role::Submission, Role::Submissions] {
            check_in(text, &setting(role, secured), dovecot, &format!("C EHLO c\n < 250\n {text}"));
        }
    }
    check_in(
        "exempt clients too",
        &setting(Role::Submission, true),
        |config| config.exempt = ["192.0.2.0/24".parse().unwrap()].into_iter().collect(),
        "C EHLO c\n < 250\n C MAIL FROM:<>\n # refused protocol\n < 530",
    );
}

#[test]
fn b11_only_clients_of_our_own_may_ask_for_notices_of_delivery() {
    let stranger: &[&str] = &[];
    let ours: &[&str] = &["192.0.2.0/24"];
    for (granted, networks, asked, sent) in [
        (Granted::Own, stranger, "NOTIFY=SUCCESS,FAILURE,DELAY", "NOTIFY=FAILURE,DELAY"),
        (Granted::Own, stranger, "NOTIFY=SUCCESS", "NOTIFY=NEVER"),
        (Granted::Own, stranger, "NOTIFY=NEVER", "NOTIFY=NEVER"),
        (Granted::Own, stranger, "NOTIFY=FAILURE ORCPT=rfc822;x@y", "NOTIFY=FAILURE ORCPT=rfc822;x@y"),
        (Granted::Own, stranger, "ORCPT=rfc822;x@y", "ORCPT=rfc822;x@y"),
        (Granted::Own, ours, "NOTIFY=SUCCESS", "NOTIFY=SUCCESS"),
        (Granted::All, stranger, "NOTIFY=SUCCESS", "NOTIFY=SUCCESS"),
        (Granted::None, ours, "NOTIFY=SUCCESS,DELAY", "NOTIFY=DELAY"),
    ] {
        let change = |config: &mut Config| {
            config.checks.success_notices = granted;
            config.relay.networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        };
        let dialogue = format!(
            "C EHLO c\n < 250\n C MAIL FROM:<a@b.example> RET=FULL ENVID=x\n > MAIL FROM:<a@b.example> RET=FULL ENVID=x|\n \
             B 250 Ok\n < 250\n C RCPT TO:<b@example.org> {asked}\n > RCPT TO:<b@example.org> {sent}|"
        );
        check_in(asked, &setting(Role::Mx, false), change, &dialogue);
    }
    let user = "C EHLO c\n < 250\n C AUTH PLAIN AHVzZXIAcGFzcw==\n > auth\n A accepted\n # authenticated user\n > drop\n < 235\n \
                C MAIL FROM:<a@b.example>\n > MAIL\n B 250 Ok\n < 250\n \
                C RCPT TO:<b@other.example> NOTIFY=SUCCESS\n > RCPT TO:<b@other.example> NOTIFY=SUCCESS|";
    check_in("a user", &setting(Role::Mx, true), dovecot, user);
}

#[test]
fn b5_users_and_own_hosts_are_never_harvesters() {
    let told = "C RCPT TO:<no@example.org>\n > RCPT\n B 550 5.1.1 no\n ! Offence(UnknownRecipient)\n # refused unknown_recipient\n < 550";
    let patient = |config: &mut Config| {
        dovecot(config);
        config.limits.failed_commands = 100;
        config.relay.networks = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    };
    let mail = "C MAIL FROM:<a@b.example>\n > MAIL\n B 250 Ok\n < 250\n ";
    let many = format!("C EHLO c\n < 250\n {mail}{}", format!("{told}\n ").repeat(10));
    check_in("a host of ours", &setting(Role::Mx, true), patient, &many);
    let failed = "C EHLO c\n < 250\n C AUTH PLAIN AHUAcA==\n > auth\n A rejected\n ! Offence(AuthFailures)\n # refused auth_failures\n T\n < 535\n ";
    check_in("one that failed to log in", &setting(Role::Mx, true), patient, &format!("{failed}{mail}{told}"));
    let deferred = format!("F deferred\n C EHLO c\n < 250\n {mail}{told}");
    check_in("it doesn't wait for what a stranger at its address did", &setting(Role::Mx, true), patient, &deferred);
}
