//! The attacks and failures that the session must stand, one test each, named after what is done to it.
//!
//! Cases that need a socket are tested elsewhere:
//!
//! - `tests/tests/whole/identity.rs`: PROXY headers.
//! - `tests/backends`: bytes behind the backend's 220 to STARTTLS, a reply without end, a backend that dies.
//! - `tests/backends/smuggling.rs`: the ends of message data.
//! - `tests/tests/whole`: all backends down, the stalled handshake.

use std::time::Duration;

use smtp_guard::config::{Config, Role};
use smtp_guard::offence::{Conduct, Digest};

use crate::dialogue::{check, check_in};
use crate::secure::{dovecot, setting};

const HELLO: &str = "C EHLO c\n < 250\n";
const MAIL: &str = "C EHLO c\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 2.1.0 Ok\n < 250\n";
const RCPT: &str = "C RCPT TO:<b@example.org>\n > RCPT\n B 250 2.1.5 Ok\n ! Known\n < 250\n";
const DATA: &str = "C DATA\n > DATA\n B 354 go\n < 354\n > Received\n";

fn nothing(_: &mut Config) {}

fn to_data(rest: &str) -> String {
    [MAIL, RCPT, DATA, rest].concat()
}

#[test]
fn bare_lf_or_cr_in_a_command() {
    for line in [r"D NOOP\n", r"D NO\rOP\r\n", r"D NO\0OP\r\n"] {
        let once = format!("{line}\n # refused protocol\n < 500 5.5.2\n");
        check(line, nothing, &once);
        let again = format!("{once} {line}\n ! Offence(Protocol)\n # ended protocol\n < 500\n .");
        check(line, nothing, &again);
    }
}

#[test]
fn control_characters_in_an_address_or_parameter() {
    for (line, reply) in [
        ("MAIL FROM:<a\u{1}b@c.example>", "500 5.5.2"),
        ("MAIL FROM:<\"a\u{7f}\"@c.example>", "500 5.5.2"),
        ("MAIL FROM:<a@c.example> AUTH=x+0Ay", "501 5.5.4"),
        ("MAIL FROM:<a@c.example> ENVID=x+0Dy", "501 5.5.4"),
        ("MAIL FROM:<a@c.example> ENVID=x+00y", "501 5.5.4"),
    ] {
        check_in(line, &setting(Role::Mx, true), dovecot, &format!("{HELLO}C {line}\n # refused protocol\n < {reply}"));
    }
    for line in ["RCPT TO:<b@example.org> ORCPT=rfc822;x+0Ay", "RCPT TO:<b@example.org> ORCPT=rfc822;x+0D+0AQUIT"] {
        check_in(
            line,
            &setting(Role::Mx, false),
            nothing,
            &format!("{MAIL}C {line}\n # refused protocol\n < 501 5.5.4"),
        );
    }
}

#[test]
fn odd_local_parts() {
    for address in
        ["<;cmd;>", "<|id@c.example>", "<a b@c.example>", "<a(b)@c.example>", "<\"\"@c.example>", "<a@b@c.example>"]
    {
        let refused = format!("{HELLO}C MAIL FROM:{address}\n # refused protocol\n < 501 5.1.7");
        // A pipe is an atom's character: such an address is passed on, as RFC 5321 has it, and quoted by nobody.
        let fine = address.starts_with("<|");
        let passed = format!("{HELLO}C MAIL FROM:{address}\n > MAIL FROM:<|id@c.example>|");
        check(address, nothing, if fine { &passed } else { &refused });
    }
}

#[test]
fn eight_bit_in_a_command_without_smtputf8() {
    let table = [
        ("C MAIL FROM:<\u{e9}@c.example>", "553 5.6.7"),
        ("C MAIL FROM:<a@c\u{e9}.example>", "553 5.6.7"),
        ("C EHLO \u{e9}", "500 5.5.2"),
        ("C NOOP \u{e9}", "500 5.5.2"),
    ];
    for (line, reply) in table {
        check_in(line, &setting(Role::Mx, false), nothing, &format!("{HELLO}{line}\n # refused protocol\n < {reply}"));
    }
    let rcpt = format!("{MAIL}C RCPT TO:<\u{e9}@example.org>\n # refused protocol\n < 553 5.6.7");
    check_in("RCPT without SMTPUTF8 at MAIL", &setting(Role::Mx, false), nothing, &rcpt);
    let with = format!(
        "{HELLO}C MAIL FROM:<\u{e9}@c.example> SMTPUTF8\n > MAIL FROM:<\u{e9}@c.example> SMTPUTF8|\n B 250 2.1.0 Ok\n < 250\n \
         C RCPT TO:<\u{e9}@example.org>\n > RCPT TO:<\u{e9}@example.org>|"
    );
    check_in("with SMTPUTF8", &setting(Role::Mx, false), nothing, &with);
    let offered = format!("{HELLO}C MAIL FROM:<\u{e9}@c.example> SMTPUTF8\n # refused protocol\n < 555 5.5.4");
    check("the backend can't", nothing, &offered);
}

#[test]
fn a_served_domain_in_its_international_form() {
    let serves = |config: &mut Config| config.relay.domains = vec!["xn--mnchen-3ya.example".to_owned()];
    let mail = format!("{HELLO}C MAIL FROM:<> SMTPUTF8\n > MAIL\n B 250 2.1.0 Ok\n < 250\n");
    for domain in ["m\u{fc}nchen.example", "M\u{dc}NCHEN.example", "XN--mnchen-3ya.example"] {
        let text = format!("{mail}C RCPT TO:<b@{domain}>\n > RCPT TO:<b@{domain}>|");
        check_in(domain, &setting(Role::Mx, false), serves, &text);
    }
    let other = format!("{mail}C RCPT TO:<b@m\u{f6}nchen.example>\n ! Offence(Relay)\n # refused relay\n < 554 5.7.1");
    check_in("another one", &setting(Role::Mx, false), serves, &other);
}

#[test]
fn an_escape_sequence_as_the_name() {
    check("terminal", nothing, "C EHLO x\u{1b}[2J\n # refused protocol\n < 500 5.5.2");
    let header = "C EHLO a(b)c;\"d\"\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 2.1.0 Ok\n < 250\n ".to_owned()
        + RCPT
        + "C DATA\n > DATA\n B 354 go\n < 354\n > Received: from a?b?c??d? ([192.0.2.1])|";
    check("header", nothing, &header);
}

#[test]
fn a_first_line_that_would_go_on_with_our_header() {
    for text in [" ([127.0.0.1]) by x", "\tid 1"] {
        check(text, nothing, &to_data(&format!("D {text}\\r\\n.\\r\\n\n > |{text}|\n > .|")));
    }
    check("later lines are the client's", nothing, &to_data("D a: b\\r\\n c\\r\\n.\\r\\n\n > a: b| c|\n > .|"));
}

#[test]
fn commands_behind_starttls() {
    let ahead = r"D STARTTLS\r\nRSET\r\n";
    let text = format!("{ahead}\n ! Offence(Pipelining)\n # ended pipelining\n < 554 5.5.0\n .");
    check_in("in one segment", &setting(Role::Mx, false), nothing, &text);
}

#[test]
fn pipelining_after_data_ehlo_starttls_auth() {
    let envelope = [MAIL, RCPT].concat();
    let table = [
        (envelope.as_str(), r"DATA\r\nSubject: x\r\n", " > drop\n"),
        ("", r"EHLO x\r\nMAIL FROM:<>\r\n", ""),
        (HELLO, r"AUTH PLAIN AHUAcA==\r\nMAIL FROM:<>\r\n", ""),
    ];
    for (before, ahead, dropped) in table {
        let end = format!("D {ahead}\n ! Offence(Pipelining)\n # ended pipelining\n < 554 5.5.0\n{dropped} .");
        check_in(ahead, &setting(Role::Mx, true), dovecot, &format!("{before}{end}"));
    }
    let allowed = format!(
        "{HELLO}D MAIL FROM:<>\\r\\nRCPT TO:<b@example.org>\\r\\nRSET\\r\\n\n > MAIL\n B 250 2.1.0 Ok\n < 250\n > RCPT\n \
         B 250 2.1.5 Ok\n ! Known\n < 250\n > RSET\n B 250 2.0.0 Ok\n < 250"
    );
    check("RSET, MAIL and RCPT may be", nothing, &allowed);
}

#[test]
fn size_1_and_then_far_more() {
    let much = format!("D {}\\r\\n", "x".repeat(120));
    let text =
        to_data(&format!("{much}\n # refused message_size\n > drop\n D .\\r\\n\n # message Rejected\n < 552 5.3.4"));
    check("counted, not believed", nothing, &text.replace("MAIL FROM:<>", "MAIL FROM:<> SIZE=1"));
    let far =
        format!("D {}\\r\\n\n # message Rejected\n # ended message_size\n < 552 5.3.4\n > drop\n .", "x".repeat(160));
    check("and not swallowed for ever", nothing, &to_data(&far));
}

#[test]
fn auth_overlong_or_bad_or_in_clear_text_or_given_up() {
    let long = format!("{HELLO}C AUTH PLAIN {}\n # refused protocol\n < 500 5.5.2", "A".repeat(12_300));
    check_in("overlong", &setting(Role::Mx, true), dovecot, &long);
    for (response, reply) in [("not,base64", "501 5.5.2"), ("*", "501 5.7.0")] {
        let text = format!("{HELLO}C AUTH PLAIN\n < 334\n C {response}\n # refused protocol\n < {reply}");
        check_in(response, &setting(Role::Mx, true), dovecot, &text);
    }
    let clear = format!("{HELLO}C AUTH PLAIN AHUAcA==\n # refused protocol\n < 538 5.7.11");
    check_in("in clear text", &setting(Role::Submission, false), dovecot, &clear);
    let mail = format!("{HELLO}C MAIL FROM:<>\n # refused protocol\n < 530 5.7.0");
    check_in("mail without it", &setting(Role::Submission, true), dovecot, &mail);
}

#[test]
fn xclient_and_xforward_from_a_client() {
    for line in ["XCLIENT ADDR=10.0.0.1", "XFORWARD NAME=x", "xclient login=root"] {
        check(line, nothing, &format!("{HELLO}C {line}\n # refused protocol\n < 550 5.7.0"));
    }
}

#[test]
fn a_huge_command_line() {
    let text = format!(
        "{HELLO}C NOOP {}\n # refused protocol\n < 500 5.5.2 Line too long\n C NOOP\n < 250",
        "x".repeat(100_000)
    );
    check("dropped, once", nothing, &text);
}

#[test]
fn one_byte_now_and_then() {
    check("in a command", nothing, "D NO\n W 299\n D O\n T\n # ended timeout\n < 421 4.4.2\n .");
    let data = to_data(
        "W 170\n D x\\r\\n\n > x|\n W 10\n D x\\r\\n\n > x|\n W 0\n T\n # ended timeout\n < 421 4.4.2\n > drop\n .",
    );
    check("in DATA", nothing, &data);
    let exempt = |config: &mut Config| config.exempt = ["192.0.2.1/32".parse().unwrap()].into_iter().collect();
    let slow = to_data("W 170\n D x\\r\\n\n > x|\n W 170\n D x\\r\\n\n > x|\n W 170\n D .\\r\\n\n > .|");
    check("an exempt client may be slow", exempt, &slow);
}

#[test]
fn noop_rset_vrfy_loops() {
    for line in ["NOOP", "VRFY x", "RSET", "HELP"] {
        let many = format!("C {line}\n < 2\n").repeat(100);
        let end = format!("C {line}\n ! Offence(JunkCommands)\n # ended junk_commands\n < 421 4.7.0\n .");
        check(line, nothing, &(many + &end));
    }
}

#[test]
fn not_smtp_at_all() {
    for line in ["GET / HTTP/1.1", "POST /x HTTP/1.0", "CONNECT example.org:25 HTTP/1.1"] {
        check(line, nothing, &format!("C {line}\n ! Offence(NonSmtp)\n # ended non_smtp\n < 221\n ."));
    }
}

#[test]
fn backend_reply_of_the_wrong_class() {
    for (name, text) in [
        (
            "354 to MAIL",
            format!("{HELLO}C MAIL FROM:<>\n > MAIL\n B 354 go\n # refused backend_lost\n > drop\n < 451 4.3.0"),
        ),
        (
            "250 to DATA",
            [MAIL, RCPT, "C DATA\n > DATA\n B 250 ok\n # refused backend_lost\n > drop\n < 451 4.3.0"].concat(),
        ),
        ("354 at the dot", to_data("D .\\r\\n\n > .|\n B 354 go\n # message Ambiguous\n > drop\n < 451 4.3.0")),
    ] {
        check(name, nothing, &text);
    }
}

#[test]
fn backend_421_at_rcpt() {
    let text = format!(
        "{MAIL}C RCPT TO:<b@example.org>\n > RCPT\n B 421 4.3.2 bye\n # refused backend_lost\n > drop\n < 451 4.4.2\n \
                        C DATA\n T\n < 451 4.4.2\n C NOOP\n < 250"
    );
    check("the client's session stays", nothing, &text);
}

#[test]
fn backend_5xx_in_the_middle_of_data() {
    let text = to_data(
        "D x\\r\\n\n > x|\n B 554 5.6.0 no\n > drop\n D more\\r\\nRSET\\r\\n.\\r\\n\n # message Rejected\n < 554 5.6.0 no",
    );
    check("remembered, swallowed, passed on", nothing, &text);
}

#[test]
fn backend_dies_before_and_after_the_dot() {
    check("before", nothing, &to_data("D x\\r\\n\n > x|\n B!\n > drop\n D .\\r\\n\n # message Deferred\n < 451 4.4.2"));
    check("after", nothing, &to_data("D .\\r\\n\n > .|\n B!\n # message Ambiguous\n > drop\n < 451 4.4.2"));
}

#[test]
fn client_vanishes_before_and_after_the_dot() {
    check("before: no dot is invented", nothing, &to_data("D x\\r\\n\n > x|\n X\n > drop\n ."));
    check(
        "after: the outcome is known",
        nothing,
        &to_data("D .\\r\\n\n > .|\n X\n B 250 2.0.0 Ok\n # message Accepted\n ! MessageAccepted\n ."),
    );
}

#[test]
fn every_exit_from_a_transaction_resets_it() {
    // After each of these a new transaction begins with nothing of the old one.
    let exits = [
        ("RSET", "C RSET\n > RSET\n B 250 2.0.0 Ok\n < 250\n"),
        ("EHLO", "C EHLO c\n > RSET\n B 250 2.0.0 Ok\n < 250\n"),
        (
            "refused at the dot",
            "C DATA\n > DATA\n B 354 go\n < 354\n > Received\n D .\\r\\n\n > .|\n B 554 5.7.1 no\n # message Rejected\n < 554\n",
        ),
        (
            "a flaw",
            "C DATA\n > DATA\n B 354 go\n < 354\n > Received\n D a\\nb\\r\\n.\\r\\n\n ! Offence(Smuggling)\n # refused smuggling\n # message Rejected\n > drop\n < 550\n",
        ),
        ("DATA refused", "C DATA\n > DATA\n B 554 5.5.1 no\n > drop\n # refused backend\n < 554\n"),
        ("lost at DATA", "C DATA\n > DATA\n B!\n # refused backend_lost\n > drop\n < 451\n"),
    ];
    for (name, exit) in exits {
        let text = [MAIL, RCPT, exit, "C RCPT TO:<c@example.org>\n # refused protocol\n"].concat();
        // The second failure of a session waits.
        let waits = matches!(name, "a flaw" | "DATA refused");
        let text = text + if waits { "T\n" } else { "" } + "< 503 5.5.1\n C MAIL FROM:<>\n > MAIL FROM:<>|";
        check(name, |config| config.harvest.delay = Duration::ZERO, &text);
    }
}

#[test]
fn one_address_under_many_names_is_one_known_recipient() {
    for (recipient, user) in [("b+1@example.org", "b"), ("B+x+y@example.org", "b"), ("+b@example.org", "+b")] {
        let known = Conduct::KnownRecipient { recipient: Digest::of(&format!("{user}@example.org")) };
        let text = format!("{MAIL}C RCPT TO:<{recipient}>\n > RCPT\n B 250 2.1.5 Ok\n ! {known:?}\n < 250");
        check(recipient, nothing, &text);
    }
}
