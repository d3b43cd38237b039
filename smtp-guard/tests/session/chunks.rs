//! Messages in chunks (BDAT, RFC 3030). A message may have 100 bytes, a session 3 failed commands, and the fourth ends it.

use smtp_guard::config::{Config, Granted};

use crate::dialogue::check;
use crate::{ENVELOPE, HELLO};

fn nothing(_: &mut Config) {}

const HEADER: &str = "Received: from client.example ([192.0.2.1])|\tby mx.example.org (smtp-guard) with ESMTP id id-1;|\tTue, 24 Nov 2026 11:00:00 +0000|";
const TAKEN: &str = "< 250 2.0.0 Chunk taken";
const QUEUED: &str = "B 250 2.0.0 queued as 1\n # message Accepted to=1\n ! MessageAccepted\n < 250 2.0.0 queued as 1";

/// What a client sends: `payload` as dialogues write it, after its length.
fn chunk(payload: &str, last: bool) -> String {
    let length = payload.len() - payload.matches('\\').count();
    format!("BDAT {length}{}\\r\\n{payload}", if last { " LAST" } else { "" })
}

/// A dialogue after an envelope that the backend has taken. In `text`, `[x]` is a chunk with `x` and `[x!]` the last one.
fn after_envelope(name: &str, change: impl Fn(&mut Config), text: &str) {
    let mut dialogue = [HELLO, ENVELOPE].concat();
    for line in text.lines().map(str::trim) {
        match line.strip_prefix("D ") {
            Some(sent) => {
                let pieces = sent.split_inclusive(']').map(|piece| match piece.split_once('[') {
                    Some((before, payload)) => {
                        let payload = payload.trim_end_matches(']');
                        let text = payload.trim_end_matches('!');
                        before.to_owned() + &chunk(text, text != payload)
                    }
                    None => piece.to_owned(),
                });
                dialogue.push_str(&format!("D {}\n", pieces.collect::<String>()));
            }
            None => dialogue.push_str(&format!("{line}\n")),
        }
    }
    let dialogue = dialogue.replace("OPEN ", "OPEN").replace("OPEN", &format!("> DATA\n B 354 go\n > {HEADER}"));
    check(name, change, &dialogue.replace("TAKEN", TAKEN).replace("QUEUED", QUEUED).replace(" to=1", ""));
}

#[test]
fn it_is_offered_but_where_it_is_switched_off() {
    let offer = "< 250 mx.example.org / PIPELINING / SIZE 100";
    check("offered", nothing, &format!("C EHLO c\n {offer} / CHUNKING / 8BITMIME / LIMITS"));
    let off = |config: &mut Config| config.checks.chunking = false;
    check("not offered", off, &format!("C EHLO c\n {offer} / 8BITMIME / LIMITS"));
    let text = "D BDAT 12 LAST\\r\\nRCPT TO:<x>\\r\\n\n # ended protocol\n < 521 5.5.1\n .";
    check("its payload is not read as commands", off, text);
    let binary = format!("{HELLO} C MAIL FROM:<a@client.example> BODY=BINARYMIME\n # refused protocol\n < 501 5.5.4");
    check("BINARYMIME isn't", nothing, &binary);
}

#[test]
fn a_message_passes_and_250_to_its_end_is_the_backends() {
    let next = "C MAIL FROM:<>\n > MAIL";
    let table = [
        ("one chunk", r"[a: b\r\n\r\nc!]", "a: b||c", 9),
        ("whole lines", r"[a: b\r\n\r\nc\r\n!]", "a: b||c|", 11),
        ("dots are text", r"[.\r\n..\r\na\r\n.\r\n.!]", "..|...|a|..|..", 14),
        ("nothing at all", r"[!]", "", 0),
        ("a bare LF comes out as CRLF", r"[a\n.\nMAIL FROM:<>\n!]", "a|..|MAIL FROM:<>|", 20),
        ("an end, for whoever is lax", r"[a\n.\r\nb\r\n.\r\n!]", "a|..|b|..|", 12),
        ("a first line that would go on with our header", r"[ a\r\n!]", "| a|", 4),
    ];
    for (name, sent, goes, size) in table {
        let end = if goes.is_empty() || goes.ends_with('|') { ".|" } else { "|.|" };
        let text = format!(
            "D {sent}\n OPEN {goes}\n > {end}\n B 250 2.0.0 queued as 1\n # message Accepted size={size}\n ! MessageAccepted\n \
             < 250 2.0.0 queued as 1\n {next}"
        );
        after_envelope(name, nothing, &text);
    }
    let several = "
        D [Subject: x\\r]
        OPEN Subject: x
        TAKEN
        D [\\n]
        > |
        TAKEN
        D [\\r\\n.]
        > |..
        TAKEN
        C NOOP
        < 250
        D []
        TAKEN
        D [.\\r\\n!]
        > .|
        > .|
        QUEUED
    ";
    after_envelope("several, and lines cut by them", nothing, several);
    let ahead = "
        D [a\\r\\n][b\\r\\n!]RSET\\r\\n
        OPEN a|
        TAKEN
        > b|
        > .|
        QUEUED
        < 250
    ";
    after_envelope("several and the next command at once", nothing, ahead);
    let again = "
        D [a!]
        OPEN a
        > |.|
        QUEUED
        C MAIL FROM:<>
        > MAIL
        B 250 Ok
        < 250
        C RCPT TO:<b@example.org>
        > RCPT
        B 250 Ok
        ! KnownRecipient
        < 250
        D [.\\r\\n!]
        OPEN ..|
        > .|
        QUEUED
    ";
    after_envelope("a second message", nothing, again);
    let whole = "
        D MAIL FROM:<>\\r\\nRCPT TO:<b@example.org>\\r\\nBDAT 3 LAST\\r\\na\\r\\n
        > MAIL
        B 250 Ok
        < 250
        > RCPT
        B 250 Ok
        ! KnownRecipient
        < 250
        > DATA
        B 354 go
    ";
    check(
        "all of it at once",
        nothing,
        &format!("{HELLO}{whole} > {HEADER}a|\n > .|\n {}", QUEUED.replace(" to=1", "")),
    );
}

#[test]
fn what_is_not_delivered_is_said_by_every_answer() {
    let refused = "# message Rejected\n < 550 5.7.1 spam";
    let table = [
        ("refused at its end", format!("D [a!]\n OPEN a\n > |.|\n B 550 5.7.1 spam\n {refused}\n C MAIL FROM:<>\n > MAIL")),
        ("deferred at its end", "D [!]\n OPEN \n > .|\n B 452 full\n # message Deferred\n > drop\n < 452 4.0.0 full".to_owned()),
        ("lost at its end", "D [!]\n OPEN \n > .|\n B!\n # message Ambiguous\n > drop\n < 451".to_owned()),
        ("lost before its end", "D [!]\n OPEN \n > .|\n B-\n # message Deferred\n > drop\n < 451 4.4.2".to_owned()),
        ("silent at its end", "D [!]\n OPEN \n > .|\n T\n # message Ambiguous\n > drop\n < 451".to_owned()),
        (
            "refused between chunks",
            "D [a]\n OPEN a\n TAKEN\n B 554 5.6.0 no\n > drop\n D [NOOP\\r\\n]\n # message Rejected\n < 554 5.6.0 no\n \
             D [b]\n T\n < 554 5.6.0 no\n D [c!]\n T\n < 554 5.6.0 no\n C MAIL FROM:<>\n > MAIL"
                .to_owned(),
        ),
        (
            "lost between chunks",
            "D [a]\n OPEN a\n TAKEN\n B!\n > drop\n D [NOOP\\r\\n!]\n # message Deferred\n < 451 4.4.2\n C MAIL FROM:<>\n > MAIL"
                .to_owned(),
        ),
        (
            "lost between chunks, and more of them",
            "D [a]\n OPEN a\n TAKEN\n B!\n > drop\n D [b]\n # message Deferred\n < 451 4.4.2\n D [c!]\n T\n < 451 4.4.2".to_owned(),
        ),
        (
            "lost between chunks, and given up",
            "D [a]\n OPEN a\n TAKEN\n B!\n > drop\n C RSET\n > drop\n < 250\n C MAIL FROM:<>\n > MAIL".to_owned(),
        ),
        (
            "DATA is refused",
            "D [NOOP\\r\\n][b!]NOOP\\r\\n\n > DATA\n B 550 5.7.1 no\n # refused backend\n > drop\n < 550 5.7.1 no\n T\n < 550 5.7.1 no\n < 250"
                .to_owned(),
        ),
        (
            "DATA is put off",
            "D [NOOP\\r\\n!]\n > DATA\n B 450 later\n # refused backend\n > drop\n < 450 4.0.0 later\n C MAIL FROM:<>\n > MAIL"
                .to_owned(),
        ),
        (
            "lost at DATA",
            "D [a][b!]\n > DATA\n B!\n # refused backend_lost\n > drop\n < 451 4.4.2\n T\n < 451 4.4.2\n C MAIL FROM:<>\n > MAIL".to_owned(),
        ),
        ("silent at DATA", "D [a!]\n > DATA\n T\n # refused backend_lost\n > drop\n < 451".to_owned()),
        ("250 to DATA", "D [a!]\n > DATA\n B 250 hm\n # refused backend_lost\n > drop\n < 451 4.3.0".to_owned()),
        (
            "lost before its first chunk",
            "B!\n # refused backend_lost\n > drop\n D [a]\n < 451 4.4.2\n D [b]\n T\n < 451 4.4.2\n D [c!]\n T\n < 451 4.4.2\n \
             C MAIL FROM:<>\n > MAIL"
                .to_owned(),
        ),
        ("client vanishes between chunks", "D [a]\n OPEN a\n TAKEN\n X\n > drop\n .".to_owned()),
        (
            "client vanishes after its end",
            "D [!]\n OPEN \n > .|\n X\n B 250 Ok\n # message Accepted\n ! MessageAccepted\n .".to_owned(),
        ),
        ("banned between chunks", "D [a]\n OPEN a\n TAKEN\n K\n # ended harvest\n < 421\n > drop\n .".to_owned()),
        ("gives way between chunks", "D [a]\n OPEN a\n TAKEN\n G\n # ended total_connections\n < 421\n > drop\n .".to_owned()),
        ("a stop waits for its end", "D [a]\n OPEN a\n TAKEN\n S\n D [b!]\n > b\n > |.|\n QUEUED\n < 421\n .".to_owned()),
        (
            "a stop doesn't wait for what has failed",
            "D [a]\n OPEN a\n TAKEN\n B!\n > drop\n S\n < 421\n > drop\n .".to_owned(),
        ),
    ];
    for (name, text) in &table {
        after_envelope(name, nothing, text);
    }
}

#[test]
fn a_client_may_give_it_up_between_chunks() {
    let began = "D [a\\r\\n]\n OPEN a|\n TAKEN\n";
    let after = "C MAIL FROM:<>\n > MAIL";
    for (name, text) in [
        ("RSET", format!("{began} C RSET\n > drop\n < 250\n {after}")),
        ("EHLO", format!("{began} C EHLO again\n > drop\n < 250\n {after}")),
        ("QUIT", format!("{began} C QUIT\n > drop\n < 221\n .")),
        (
            "and a chunk behind RSET",
            format!("{began} D RSET\\r\\n[b!]\n > drop\n < 250\n # refused protocol\n < 503 5.5.1"),
        ),
        ("DATA", format!("{began} C DATA\n # refused protocol\n < 503 5.5.1\n D [b!]\n > b\n > |.|\n QUEUED")),
        ("RCPT", format!("{began} C RCPT TO:<b@example.org>\n # refused protocol\n < 503 5.5.1")),
        ("MAIL", format!("{began} C MAIL FROM:<>\n # refused protocol\n < 503 5.5.1")),
        (
            "BDAT behind DATA",
            "C DATA\n > DATA\n B 354 go\n < 354\n > Received\n D BDAT 1 LAST\\r\\n.\\r\\n\n > BDAT 1 LAST|\n > .|"
                .to_owned(),
        ),
    ] {
        after_envelope(name, nothing, &text);
    }
}

#[test]
fn refused_chunks_are_read_to_their_length() {
    let payload = "[MAIL FROM:<evil@x>\\r\\n!]";
    let send = |text: &str| text.replace("PAYLOAD", &chunk("MAIL FROM:<evil@x>\\r\\n", true));
    check("before EHLO", nothing, &send("D PAYLOAD\n # refused protocol\n < 503 5.5.1\n C NOOP\n < 250"));
    check(
        "before MAIL",
        nothing,
        &send(&format!(
            "{HELLO} D PAYLOAD\n # refused protocol\n < 503 5.5.1\n D PAYLOADNOOP\\r\\n\n # refused protocol\n T\n < 503\n < 250"
        )),
    );
    check(
        "behind a MAIL that failed",
        nothing,
        &send(&format!(
            "{HELLO} D MAIL FROM:<>\\r\\nRCPT TO:<b@example.org>\\r\\nPAYLOADNOOP\\r\\n\n > MAIL\n B 451 4.3.0 no\n # refused backend\n \
             < 451 4.3.0 no\n T\n < 503 5.5.1\n T\n < 503 5.5.1\n < 250"
        )),
    );
    let mail = format!("{HELLO} C MAIL FROM:<>\n > MAIL\n B 250 Ok\n < 250\n");
    check(
        "without a recipient",
        nothing,
        &send(&format!(
            "{mail} D PAYLOADNOOP\\r\\n\n # refused protocol\n < 554 5.5.1\n < 250\n C RSET\n > RSET\n B 250 Ok\n < 250"
        )),
    );
    let rest = format!(
        "{mail} D {}\n # refused protocol\n < 554 5.5.1\n C RCPT TO:<b@example.org>\n # refused protocol\n T\n < 503\n D PAYLOAD\n \
         > RSET\n B 250 Ok\n < 554 5.5.1\n C MAIL FROM:<>\n > MAIL",
        chunk("x", false)
    );
    check("a message never begins with its second chunk", nothing, &send(&rest));
    let trap = |config: &mut Config| config.recipients.traps = vec!["trap@example.org".to_owned()];
    let trapped = format!(
        "C RCPT TO:<trap@example.org>\n ! Trap\n # refused trap\n < 550 5.1.1\n D {payload}\n > drop\n # refused trap\n T\n < 550 5.7.1\n C MAIL FROM:<>\n > MAIL"
    );
    after_envelope("for a trap", trap, &trapped);
    let more = "C RCPT TO:<trap@example.org>\n ! Trap\n # refused trap\n < 550 5.1.1\n D [a]\n > drop\n # refused trap\n T\n < 550 5.7.1\n D [b!]\n T\n < 550 5.7.1";
    after_envelope("for a trap, in more than one", trap, more);
}

#[test]
fn a_length_that_cannot_be_read_ends_the_session() {
    for line in [
        r"BDAT\r\n",
        r"BDAT +5\r\n",
        r"BDAT -5 LAST\r\n",
        r"BDAT 0x5\r\n",
        r"BDAT 5 FIRST\r\n",
        r"BDAT 5 LAST x\r\n",
        r"BDAT 5\n",
        r"BDAT 5\0\r\n",
    ] {
        let text = format!("D {line}QUIT\\r\\n\n # ended protocol\n < 501 5.5.4\n > drop\n .");
        after_envelope(line, nothing, &text);
    }
    let forms = [r"bdat 1 last\r\na", r"BDAT 0001 LAST\r\na", r" BDAT  1  Last \r\na"];
    for line in forms {
        after_envelope(line, nothing, &format!("D {line}\n OPEN a\n > |.|\n QUEUED"));
    }
}

#[test]
fn too_much_is_not_listened_to() {
    let much = "x".repeat(60);
    let closed = "# ended message_size\n < 552 5.3.4\n > drop\n .";
    for size in ["151", "9223372036854775808", "99999999999999999999999 LAST"] {
        let text = format!("D BDAT {size}\\r\\nxx\n # message Rejected\n {closed}");
        after_envelope("announced", nothing, &text);
        check(
            "announced without a transaction",
            nothing,
            &format!("D BDAT {size}\\r\\n\n # ended message_size\n < 552 5.3.4\n ."),
        );
    }
    let text = format!(
        "D [{much}{much}!]\n # refused message_size\n > drop\n # message Rejected\n < 552 5.3.4\n C MAIL FROM:<>\n > MAIL"
    );
    after_envelope("a little too much is read", nothing, &text);
    let text = format!(
        "D [{much}]\n OPEN {much}\n TAKEN\n D [{much}]\n # refused message_size\n > drop\n # message Rejected\n < 552 5.3.4\n \
         D [x!]\n T\n < 552 5.3.4"
    );
    after_envelope("all chunks count", nothing, &text);
    let text = format!("D [{much}]\n OPEN {much}\n TAKEN\n D BDAT 91\\r\\n\n # message Rejected\n {closed}");
    after_envelope("all chunks count towards what is listened to", nothing, &text);
    let text = format!(
        "D [{much}]\n OPEN {much}\n TAKEN\n D [{much}]\n # refused message_size\n > drop\n # message Rejected\n < 552 5.3.4\n \
         D [{much}]\n # ended message_size\n < 552 5.3.4\n > drop\n ."
    );
    after_envelope("also those that are refused", nothing, &text);
    let grows = format!(
        "D [{}!]\n OPEN {}|\n # refused message_size\n > drop\n # message Rejected\n < 552 5.3.4",
        "\\n".repeat(60),
        "|".repeat(49)
    );
    after_envelope("bytes that are repaired count as they go out", nothing, &grows);
}

#[test]
fn a_flaw_is_said_at_the_end_of_its_chunk() {
    let strict = |config: &mut Config| config.checks.bare_newline = Granted::None;
    let report = "! Offence(Smuggling)\n # refused smuggling\n # message Rejected\n > drop\n";
    for (name, payload, goes) in
        [("CR", r"a\rb", "a"), ("NUL", r"a\0b", "a"), ("CR before a dot", r"a\r\n.\rb", "a|..")]
    {
        let text = format!("D [{payload}!]\n OPEN {goes}\n {report} < 550 5.6.0\n C MAIL FROM:<>\n > MAIL");
        after_envelope(name, nothing, &text);
        let text = format!(
            "D [{payload}]\n OPEN {goes}\n {report} < 550 5.6.0\n D [RSET\\r\\n!]\n T\n < 550 5.6.0\n C MAIL FROM:<>\n > MAIL"
        );
        after_envelope(name, nothing, &text);
    }
    let text = format!("D [a\\nb!]\n OPEN a\n {report} < 550 5.6.0");
    after_envelope("LF, where nobody's is repaired", strict, &text);
    let text = format!("D [a\\r]\n OPEN a\n TAKEN\n D [b!]\n {report} < 550 5.6.0");
    after_envelope("CR, as the next chunk shows", nothing, &text);
    let text = format!("D [a\\r!]\n OPEN a\n {report} < 550 5.6.0");
    after_envelope("CR, as the end shows", nothing, &text);
}

#[test]
fn a_client_is_as_slow_between_chunks_as_within_one() {
    after_envelope(
        "within",
        nothing,
        "D [x]\n OPEN x\n TAKEN\n W 170\n D BDAT 2\\r\\nx\n > x\n W 9\n D x\n > x\n TAKEN\n W 0\n T\n # ended timeout\n < 421\n > drop\n .",
    );
    after_envelope(
        "between",
        nothing,
        "D [x]\n OPEN x\n TAKEN\n W 170\n C NOOP\n < 250\n W 10\n D [x]\n > x\n TAKEN\n W 0\n T\n # ended timeout\n < 421\n > drop\n .",
    );
    after_envelope(
        "a chunk that doesn't come",
        nothing,
        "D BDAT 5\\r\\n\n OPEN \n W 0\n T\n # ended timeout\n < 421\n > drop\n .",
    );
    check("a refused chunk that doesn't come", nothing, "D BDAT 5\\r\\nab\n W 0\n T\n # ended timeout\n < 421\n .");
    let empty = format!("D [a]\n OPEN a\n TAKEN\n {}", "D []\n TAKEN\n".repeat(100));
    after_envelope(
        "chunks without bytes",
        nothing,
        &format!("{empty} D []\n ! Offence(JunkCommands)\n # ended junk_commands\n < 421\n > drop\n ."),
    );
}
