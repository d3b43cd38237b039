//! The session as dialogues in virtual time, without a socket; `dialogue` says how to read them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

mod ahead;
mod attacks;
mod bounds;
mod checks;
mod chunks;
mod dialogue;
mod early;
mod secure;
mod users;

use std::time::Duration;

use dialogue::check;
use smtp_guard::config::Config;

const HELLO: &str = "
    C EHLO client.example
    < 250 mx.example.org
";
const ENVELOPE: &str = "
    C MAIL FROM:<a@client.example>
    > MAIL FROM:<a@client.example>|
    B 250 2.1.0 Ok
    < 250 2.1.0 Ok
    C RCPT TO:<b@example.org>
    > RCPT TO:<b@example.org>|
    B 250 2.1.5 Ok
    ! KnownRecipient
    < 250 2.1.5 Ok
";
const DATA: &str = "
    C DATA
    > DATA
    B 354 go
    < 354
    > Received: from client.example ([192.0.2.1])|\tby mx.example.org (smtp-guard) with ESMTP id id-1;|\tTue, 24 Nov 2026 11:00:00 +0000|
";

fn dialogue(parts: &[&str]) -> String {
    parts.concat()
}

#[test]
fn a_message_passes_and_250_is_the_backends() {
    let end = "
        D Subject: x\\r\\n\\r\\n..dot\\r\\n.\\r\\n
        > Subject: x||..dot|
        > .|
        B 250 2.0.0 queued as 1
        # message Accepted size=20 to=1
        ! MessageAccepted
        < 250 2.0.0 queued as 1
        C QUIT
        > QUIT
        < 221
        .
    ";
    check("accepted", |_| {}, &dialogue(&[HELLO, ENVELOPE, DATA, end]));
}

#[test]
fn the_trace_header_has_the_name_that_leads_back() {
    let named = DATA.replace("([192.0.2.1])", "(mail.client.example [192.0.2.1])");
    check("named", |_| {}, &dialogue(&[HELLO, ENVELOPE, "N mail.client.example\n", &named]));
}

#[test]
fn what_it_does_is_seen_from_outside() {
    let hello = "? command 0 -\n C EHLO client.example\n < 250 mx.example.org\n ? command 0 client.example\n";
    let mail = "C MAIL FROM:<a@client.example>\n > MAIL\n ? backend 0 client.example\n B 250 Ok\n < 250\n";
    let rcpt = "C RCPT TO:<b@example.org>\n > RCPT\n ? backend 0 client.example\n B 250 Ok\n ! Known\n < 250\n";
    let data = "C DATA\n > DATA\n ? backend 0 client.example\n B 354 go\n < 354\n > Received: from\n ? data 0 client.example\n";
    let dot = "D x\\r\\n.\\r\\n\n > x|\n > .|\n ? dot 0 client.example\n B 250 Ok\n # message Accepted\n ! MessageAccepted\n < 250\n";
    let end = "? command 1 client.example\n C QUIT\n > QUIT\n < 221\n .\n ? closing 1 client.example";
    check("a message", |_| {}, &dialogue(&[hello, mail, rcpt, data, dot, end]));
    let unknown = "C RCPT TO:<b@example.org>\n > RCPT\n B 550 5.1.1 no\n ! UnknownRecipient\n # refused unknown_recipient\n \
                   ? delay 0 client.example\n T\n < 550 5.1.1";
    let slow = |config: &mut Config| config.harvest.delay = Duration::from_secs(5);
    check("a refusal that waits", slow, &dialogue(&[hello, mail, unknown]));
    let late = "F late\n C RCPT TO:<b@example.org>\n ? checks 0 client.example\n F unknown\n";
    check(
        "facts that are looked up",
        |_| {},
        &dialogue(&[hello, mail, late, "! UnknownRecipient\n # refused unknown_recipient\n < 550"]),
    );
}

/// What the backend says stays as it is: that it is no prefix of more, the end of the line shows.
#[test]
fn refusals_of_ours_name_the_recipient_the_contact_and_the_session() {
    let contact = |config: &mut Config| config.replies.contact = "postmaster@example.org".to_owned();
    let mail = "
        C MAIL FROM:<a@client.example>
        > MAIL
        B 250 2.1.0 Ok
        < 250
    ";
    let relay = "
        C RCPT TO:<x@elsewhere.example>
        ! Offence(Relay)
        # refused relay
        < 554 5.7.1 Relay access denied; contact postmaster@example.org (session id-1)
    ";
    let unknown = "
        C RCPT TO:<trap@example.org>
        ! Trap
        # refused trap
        T
        < 550 5.1.1 <trap@example.org>: Recipient address rejected: User unknown; contact postmaster@example.org (session id-1)
        C NONSENSE
        # refused protocol
        T
        < 500 5.5.2 Command not recognized (session id-1)
    ";
    let trap = |config: &mut Config| {
        contact(config);
        config.recipients.traps = vec!["trap@example.org".to_owned()];
    };
    check("ours", trap, &dialogue(&[HELLO, mail, relay, unknown]));
    check(
        "a ban",
        contact,
        "K\n # ended harvest\n < 421 4.7.0 Your address is blocked for now; contact postmaster@example.org (session id-1)\n .",
    );
    let backends = "
        C RCPT TO:<b@example.org>
        > RCPT TO:<b@example.org>|
        B 554 5.7.1 go away
        # refused backend
        < 554 5.7.1 go away
    ";
    check("the backend's", contact, &dialogue(&[HELLO, mail, backends]));
}

#[test]
fn order_of_commands() {
    let table = [
        ("MAIL before EHLO", "C MAIL FROM:<a@b.example>\n # refused protocol\n < 503 5.5.1"),
        ("RCPT before MAIL", "C EHLO x\n < 250\n C RCPT TO:<b@example.org>\n # refused protocol\n < 503 5.5.1"),
        ("DATA before MAIL", "C EHLO x\n < 250\n C DATA\n # refused protocol\n < 503 5.5.1"),
        ("XCLIENT", "C XCLIENT ADDR=1.2.3.4\n # refused protocol\n < 550 5.7.0"),
        ("GET", "C GET / HTTP/1.1\n ! Offence(NonSmtp)\n # ended non_smtp\n < 221\n ."),
        ("STARTTLS is not offered", "C STARTTLS\n # refused protocol\n < 502"),
        ("VRFY tells nothing", "C VRFY root\n < 252"),
        ("NOOP", "C NOOP\n < 250"),
        ("nonsense", "C BOGUS\n # refused protocol\n < 500"),
        ("a timeout ends it", "T\n # ended timeout\n < 421 4.4.2\n ."),
        ("a ban ends it", "K\n # ended harvest\n < 421 4.7.0\n ."),
        ("an idle session gives way", "G\n # ended total_connections\n < 421 4.3.2\n ."),
        ("a stop ends an idle session", "S\n < 421 4.3.2\n ."),
        (
            "ESMTP parameters need EHLO",
            "C HELO x\n < 250\n C MAIL FROM:<a@b.example> SIZE=1\n # refused protocol\n < 555",
        ),
        (
            "commands behind EHLO",
            "D EHLO x\\r\\nNOOP\\r\\n\n ! Offence(Pipelining)\n # ended pipelining\n < 554 5.5.0\n .",
        ),
    ];
    for (name, text) in table {
        check(name, |_| {}, text);
    }
}

#[test]
fn envelope() {
    let mail = "
        C MAIL FROM:<a@client.example>
        > MAIL FROM:<a@client.example>|
        B 250 Ok
        < 250 2.0.0 Ok
    ";
    let table = [
        ("nested MAIL", "C MAIL FROM:<b@client.example>\n # refused protocol\n < 503"),
        ("relay denied", "C RCPT TO:<x@other.example>\n ! Offence(Relay)\n # refused relay\n < 554 5.7.1"),
        ("percent hack", "C RCPT TO:<x%other.example@example.org>\n ! Offence(Relay)\n # refused relay\n < 554 5.7.1"),
        (
            "an address in the clothes of another",
            "C RCPT TO:<imceasmtp-x+40other+2Eexample@example.org>\n ! Offence(Relay)\n # refused relay\n < 554 5.7.1",
        ),
        (
            "unknown recipient",
            "C RCPT TO:<No@example.org>\n > RCPT TO:<No@example.org>|\n B 550 5.1.1 no such user\n \
             ! UnknownRecipient { recipient: \"no@example.org\", returned: false }\n # refused unknown_recipient\n < 550 5.1.1 no such user",
        ),
        (
            "postmaster never counts as unknown",
            "C RCPT TO:<Postmaster>\n > RCPT TO:<postmaster>|\n B 550 5.1.1 no\n # refused backend\n < 550 5.1.1",
        ),
        (
            "backend says 421 at RCPT",
            "C RCPT TO:<b@example.org>\n > RCPT TO:<b@example.org>|\n B 421 4.3.2 bye\n # refused backend_lost\n > drop\n \
             < 451 4.4.2\n C RCPT TO:<c@example.org>\n T\n < 451\n C DATA\n T\n < 451\n C MAIL FROM:<>\n > MAIL FROM:<>|",
        ),
        (
            "too many recipients, the accepted ones go on",
            "C RCPT TO:<b@example.org>\n > RCPT\n B 250 Ok\n ! Known\n < 250\n C RCPT TO:<c@example.org>\n > RCPT\n B 250 Ok\n \
             ! Known\n < 250\n C RCPT TO:<d@example.org>\n # refused recipients\n < 452 4.5.3\n C DATA\n > DATA",
        ),
        ("no recipient at DATA", "C DATA\n # refused protocol\n < 554 5.5.1"),
        (
            "RSET undoes it",
            "C RSET\n > RSET\n B 250 Ok\n < 250\n C RCPT TO:<b@example.org>\n # refused protocol\n < 503",
        ),
        ("EHLO undoes it", "C EHLO again\n > RSET\n B 250 Ok\n < 250 mx.example.org"),
        ("QUIT in a transaction", "C QUIT\n > drop\n < 221\n ."),
        ("client vanishes", "X\n > drop\n ."),
        ("a stop waits for the transaction", "S\n C RSET\n > RSET\n B 250 Ok\n < 250\n < 421\n ."),
        (
            "354 to RCPT makes no sense",
            "C RCPT TO:<b@example.org>\n > RCPT\n B 354 hm\n # refused backend_lost\n > drop\n < 451 4.3.0",
        ),
        ("backend silent", "C RCPT TO:<b@example.org>\n > RCPT\n T\n # refused backend_lost\n > drop\n < 451 4.4.2"),
        ("backend leaves while idle", "B!\n # refused backend_lost\n > drop\n C RCPT TO:<b@example.org>\n < 451 4.4.2"),
    ];
    for (name, text) in table {
        check(name, |_| {}, &dialogue(&[HELLO, mail, text]));
    }
    check(
        "size declared",
        |_| {},
        &dialogue(&[HELLO, "C MAIL FROM:<a@b.example> SIZE=101\n # refused message_size\n < 552 5.3.4"]),
    );
    check(
        "as many messages as it may",
        |_| {},
        &dialogue(&[
            HELLO,
            "C MAIL FROM:<a@b.example>\n > MAIL\n R\n # refused message_rate\n < 450 4.7.1\n C MAIL FROM:<>\n > MAIL",
        ]),
    );
    check(
        "backend down",
        |_| {},
        &dialogue(&[HELLO, "C MAIL FROM:<>\n > MAIL\n B!\n # refused backend_lost\n > drop\n < 451"]),
    );
}

#[test]
fn data() {
    let big = format!("D {}\\r\\n.\\r\\n", "x".repeat(120));
    let table = [
        ("refused at the dot", "D x\\r\\n.\\r\\n\n > x|\n > .|\n B 550 5.7.1 spam\n # message Rejected\n < 550 5.7.1 spam".to_owned()),
        ("deferred at the dot", "D .\\r\\n\n > .|\n B 452 full\n # message Deferred\n > drop\n < 452 4.0.0 full".to_owned()),
        ("421 at the dot", "D .\\r\\n\n > .|\n B 421 4.3.0 bye\n # message Deferred\n > drop\n < 451".to_owned()),
        ("dies at the dot", "D .\\r\\n\n > .|\n B!\n # message Ambiguous\n > drop\n < 451".to_owned()),
        ("died before the dot", "D .\\r\\n\n > .|\n B-\n # message Deferred\n > drop\n < 451 4.4.2".to_owned()),
        ("silent at the dot", "D .\\r\\n\n > .|\n T\n # message Ambiguous\n > drop\n < 451".to_owned()),
        ("354 at the dot", "D .\\r\\n\n > .|\n B 354 again\n # message Ambiguous\n > drop\n < 451 4.3.0".to_owned()),
        ("550 in DATA", "D x\\r\\n\n > x|\n B 550 5.6.0 no\n > drop\n D y\\r\\n.\\r\\n\n # message Rejected\n < 550 5.6.0 no".to_owned()),
        ("dies in DATA", "D x\\r\\n\n > x|\n B!\n > drop\n D y\\r\\n.\\r\\n\n # message Deferred\n < 451 4.4.2".to_owned()),
        ("bare LF", "D x\\ny\\r\\n.\\r\\n\n ! Offence(Smuggling)\n # refused smuggling\n # message Rejected\n > drop\n < 550 5.6.0".to_owned()),
        ("too large", format!("{big}\n # refused message_size\n > drop\n # message Rejected\n < 552 5.3.4")),
        ("client vanishes before the dot", "D x\\r\\n\n > x|\n X\n > drop\n .".to_owned()),
        ("client vanishes after the dot", "D .\\r\\n\n > .|\n X\n B 250 Ok\n # message Accepted\n ! MessageAccepted\n .".to_owned()),
        ("cut off after the dot", "D .\\r\\n\n > .|\n S\n S!\n # message Ambiguous".to_owned()),
        ("cut off before the dot", "D x\\r\\n\n > x|\n S\n S!".to_owned()),
        ("banned after the dot", "D .\\r\\n\n > .|\n K\n B 250 Ok\n # message Accepted\n ! MessageAccepted\n < 250\n < 421\n .".to_owned()),
    ];
    for (name, text) in &table {
        check(name, |_| {}, &dialogue(&[HELLO, ENVELOPE, DATA, text]));
    }
    let pause = "W 170\n D x\\r\\n\n > x|\n W 9\n D x\\r\\n\n > x|\n W 0\n T\n # ended timeout\n < 421\n > drop\n .";
    check("a byte now and then", |_| {}, &dialogue(&[HELLO, ENVELOPE, DATA, pause]));
    let busy = "W 100\n D x\\r\\n\n > x|\n W 79\n D .\\r\\n\n > .|";
    check("slow, but within the grace", |_| {}, &dialogue(&[HELLO, ENVELOPE, DATA, busy]));
    let far = format!("D {}\\r\\n", "x".repeat(200));
    let text = format!("{far}\n # message Rejected\n # ended message_size\n < 552\n > drop\n .");
    check("far too large is not listened to", |_| {}, &dialogue(&[HELLO, ENVELOPE, DATA, &text]));
}

#[test]
fn limits_of_a_session() {
    let failed = "
        C BOGUS
        # refused protocol
        < 500
        C BOGUS
        # refused protocol
        T
        < 500
        C BOGUS
        # refused protocol
        T
        < 500
        C BOGUS
        # refused protocol
        ! Offence(FailedCommands)
        # ended failed_commands
        < 421 4.7.0
        .
    ";
    check("failed commands: late from half of the limit, then the end", |_| {}, failed);
    let exempt = "C BOGUS\n # refused protocol\n < 500\n".repeat(10);
    check(
        "an exempt client is not limited",
        |c| c.exempt = ["192.0.2.0/24".parse().unwrap()].into_iter().collect(),
        &exempt,
    );
    let surplus = "C EHLO x\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 Ok\n < 250\n".to_owned()
        + &"C RCPT TO:<b@example.org>\n > RCPT\n B 250 Ok\n ! Known\n < 250\n".repeat(2)
        + &"C RCPT TO:<b@example.org>\n # refused recipients\n < 452\n".repeat(3)
        + &"C RCPT TO:<b@example.org>\n # refused recipients\n T\n < 452\n".repeat(2)
        + "C RCPT TO:<b@example.org>\n # refused recipients\n ! Offence(FailedCommands)\n # ended failed_commands\n < 421\n > drop\n .";
    check("recipients that there is no room for, over and over", |_| {}, &surplus);
    let flaws = "D NOOP\\n\n # refused protocol\n < 500 5.5.2\n D NO\\0OP\\r\\n\n ! Offence(Protocol)\n # ended protocol\n < 500 5.5.2\n .";
    check("bare LF, and then NUL", |_| {}, flaws);
    let over = "C EHLO x\n < 250\n W 3500\n C NOOP\n < 250\n T\n # ended timeout\n < 421\n .";
    check("the session has lasted long enough", |_| {}, over);
    let under_way = "C EHLO x\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 Ok\n < 250\n W 4000\n C RSET\n > RSET\n B 250 Ok\n \
                     < 250\n # ended timeout\n < 421 4.4.2\n .";
    check("... but what is under way may end", |_| {}, under_way);
    let junk = "C NOOP\n < 250\n".repeat(100) + "C RSET\n ! Offence(JunkCommands)\n # ended junk_commands\n < 421\n .";
    check("junk commands", |_| {}, &junk);
    let helo =
        "C EHLO x\n < 250\n".repeat(101) + "C EHLO x\n ! Offence(JunkCommands)\n # ended junk_commands\n < 421\n .";
    check("EHLO over and over", |_| {}, &helo);
    let delayed = "C EHLO x\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 Ok\n < 250\n C RCPT TO:<no@example.org>\n > RCPT\n \
                   B 550 5.1.1 no\n ! UnknownRecipient\n # refused unknown_recipient\n T\n < 550 5.1.1";
    check("unknown recipients wait", |c| c.harvest.delay = Duration::from_secs(5), delayed);
    let banned = "C EHLO x\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 Ok\n < 250\n C RCPT TO:<no@example.org>\n > RCPT\n \
                  B 550 5.1.1 no\n ! UnknownRecipient\n # refused unknown_recipient\n K\n # ended harvest\n < 421\n > drop\n .";
    check("a ban comes before a reply that is held back", |c| c.harvest.delay = Duration::from_secs(5), banned);
}

#[test]
fn a_trap_is_told_to_the_ledger_and_looks_like_any_unknown_recipient() {
    let trapped = |config: &mut Config| {
        config.recipients.traps = vec!["trap@example.org".to_owned()];
        config.harvest.delay = Duration::from_secs(5);
    };
    let mail = "C EHLO x\n < 250\n C MAIL FROM:<a@client.example>\n > MAIL\n B 250 2.1.0 Ok\n < 250\n";
    let told = "C RCPT TO:<Trap@Example.org>\n ! Trap { recipient: \"trap@example.org\"\n # refused trap\n T\n < 550 5.1.1 <Trap@Example.org>: Recipient address rejected: User unknown";
    check("a stranger", trapped, &format!("{mail}{told}"));
    let both = "C RCPT TO:<b@example.org>\n > RCPT\n B 250 2.1.5 Ok\n ! Known\n < 250\n";
    let refused = "C DATA\n > drop\n # refused trap\n W 0\n T\n < 550 5.7.1 Message refused";
    let patient = move |config: &mut Config| {
        trapped(config);
        config.limits.failed_commands = 4;
    };
    check("b3: the message is refused to all of them", patient, &format!("{mail}{both}{told}\n{refused}"));
    let returned = "C RCPT TO:<Trap@Example.org>\n ! UnknownRecipient { recipient: \"trap@example.org\", returned: true }\n # refused unknown_recipient\n T\n < 550 5.1.1";
    for sender in ["", "MAILER-DAEMON@client.example", "Postmaster@client.example"] {
        let mail = mail.replace("<a@client.example>", &format!("<{sender}>"));
        check("b3: what was forged in the trap's name comes back", trapped, &format!("{mail}{returned}"));
    }
    let exempt = move |config: &mut Config| {
        trapped(config);
        config.exempt = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    };
    let ours = move |config: &mut Config| {
        trapped(config);
        config.relay.networks = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    };
    let passed = format!("{mail}C RCPT TO:<trap@example.org>\n > RCPT TO:<trap@example.org>|");
    check("an exempt client", exempt, &passed);
    check("a host of ours", ours, &passed);
}
