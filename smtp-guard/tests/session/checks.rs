//! The greeting that is held back, what checks make of what was found out, deferrals, and what is given up.

use std::time::Duration;

use smtp_guard::config::{Checks, Config, Dnsbl, Mode};

use super::dialogue::{Setting, check, check_in};

const MAIL: &str = "
    C EHLO client.example
    < 250
    C MAIL FROM:<a@client.example>
    > MAIL
    B 250 Ok
    < 250
";
const TAKEN: &str = "C RCPT TO:<b@example.org>\n > RCPT\n B 250 Ok\n ! Known\n < 250\n";
const RCPT: &str = "C RCPT TO:<b@example.org>\n";

fn nothing(_: &mut Config) {}

#[test]
fn strangers_wait_for_the_greeting_in_silence() {
    let early = |mode, delay| {
        move |config: &mut Config| {
            config.checks.early_talker = mode;
            config.checks.greeting_delay = Duration::from_secs(delay);
        }
    };
    let spoke = "D EHLO x\\r\\n\n";
    let refused = "! Offence(EarlyTalker)\n # ended early_talker\n < 554 5.5.1\n .";
    check("enforced", early(Mode::Enforce, 6), &format!("{spoke}{refused}"));
    check("observed", early(Mode::Observe, 6), &format!("{spoke}# observed early_talker\n T\n < 220\n < 250"));
    check("off", early(Mode::Off, 6), &format!("{spoke}T\n < 220\n < 250"));
    check("in silence", early(Mode::Enforce, 6), "T\n < 220\n C EHLO x\n < 250");
    check("vanishes", early(Mode::Enforce, 6), "X\n .");
    check("banned meanwhile", early(Mode::Enforce, 6), "K\n # ended harvest\n < 421\n .");
    check("the guard stops", early(Mode::Enforce, 6), "S\n < 421 4.3.2\n .");
    // The first line of these is the greeting at once.
    let at_once = "C EHLO x\n < 250";
    check("no delay", early(Mode::Enforce, 0), at_once);
    let familiar = Setting { familiar: true, ..Setting::default() };
    check_in("familiar", &familiar, early(Mode::Enforce, 6), at_once);
    let friend = |list: fn(&mut Config)| {
        move |config: &mut Config| {
            early(Mode::Enforce, 6)(config);
            list(config);
        }
    };
    check("exempt", friend(|config| config.exempt = ["192.0.2.0/24".parse().unwrap()].into_iter().collect()), at_once);
    check(
        "of a network of ours",
        friend(|config| config.relay.networks = ["192.0.2.0/24".parse().unwrap()].into_iter().collect()),
        at_once,
    );
}

/// All checks in `mode`, and one block list of weight 2.
fn all(mode: Mode) -> impl Fn(&mut Config) + Copy {
    move |config| {
        config.checks = Checks {
            sender_domain: mode,
            ptr: mode,
            ptr_forward: mode,
            early_talker: mode,
            dnsbl: mode,
            greeting_delay: Duration::ZERO,
            dnsbl_threshold: 2,
            ..Checks::default()
        };
        config.dnsbl = vec![Dnsbl {
            zone: "bl.example".to_owned(),
            name: "bl.example".to_owned(),
            weight: 2,
            replies: Vec::new(),
        }];
    }
}

#[test]
fn each_check_in_each_mode() {
    let table = [
        ("sender=exists", "", ""),
        ("sender=missing", "sender_domain", "450 4.1.8"),
        ("sender=null", "null_mx", "550 5.7.27"),
        ("sender=failed", "sender_lookup", "450 4.4.3"),
        ("ptr=none", "no_ptr", "450 4.7.1"),
        ("ptr=mismatch", "ptr_forward", "450 4.7.25"),
        // Not knowing is no reason.
        ("ptr=failed", "", ""),
        ("list=1", "", ""),
        ("list=2", "dnsbl", "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using bl.example"),
        ("list=1 list=1", "dnsbl", "554 5.7.1"),
        // Whoever keeps a list from being asked doesn't get past it; a list that fails refuses nobody.
        ("list=busy", "list_lookup", "450 4.4.3"),
        ("list=failed", "", ""),
        ("list=busy list=2", "dnsbl", "554 5.7.1"),
    ];
    for (found, reason, reply) in table {
        let (off, taken) = (format!("{MAIL}F {found}\n"), TAKEN);
        check(found, all(Mode::Off), &format!("{off}{taken}"));
        if reason.is_empty() {
            check(found, all(Mode::Enforce), &format!("{off}{taken}"));
            continue;
        }
        // Observed once for a message, refused for each recipient.
        let observed = format!("{RCPT}# observed {reason}\n > RCPT\n B 250 Ok\n ! Known\n < 250\n{TAKEN}");
        check(found, all(Mode::Observe), &format!("{off}{observed}"));
        let refused = format!("# refused {reason}\n < {reply}\n");
        let late = format!("# refused {reason}\n T\n < {reply}\n");
        check(found, all(Mode::Enforce), &format!("{off}{RCPT}{refused}{RCPT}{late}"));
        // The next message is judged again.
        let again = format!("{off}{RCPT}{refused}C RSET\n > RSET\n B 250 Ok\n < 250\n");
        let mail = "C MAIL FROM:<c@client.example>\n > MAIL\n B 250 Ok\n < 250\n F sender=exists\n";
        check(found, all(Mode::Enforce), &format!("{again}{mail}{TAKEN}"));
    }
    let both = format!("{MAIL}F ptr=none list=2\n{RCPT}# observed no_ptr\n # refused dnsbl\n < 554\n");
    check("all are judged, one refuses", all(Mode::Enforce), &both);
    let mixed = |config: &mut Config| {
        all(Mode::Enforce)(config);
        config.checks.dnsbl = Mode::Observe;
    };
    let text = format!("{MAIL}F ptr=none list=2\n{RCPT}# observed dnsbl\n # refused no_ptr\n < 450\n");
    check("what is only observed doesn't hide what is enforced", mixed, &text);
}

#[test]
fn checks_are_for_strangers_and_not_for_postmaster() {
    let found = "F sender=missing ptr=none list=2\n";
    let postmaster = "C RCPT TO:<Postmaster@Example.ORG>\n > RCPT\n B 250 Ok\n < 250\n";
    check("postmaster", all(Mode::Enforce), &format!("{MAIL}{found}{postmaster}"));
    check("postmaster alone", all(Mode::Enforce), &format!("{MAIL}F deferred\nC RCPT TO:<postmaster>\n > RCPT"));
    let relay = format!("{MAIL}{found}C RCPT TO:<x@other.example>\n ! Offence(Relay)\n # refused relay\n < 554\n");
    check("what can never work is said first", all(Mode::Enforce), &relay);
    let friend = |config: &mut Config| {
        all(Mode::Enforce)(config);
        config.relay.networks = ["192.0.2.1/32".parse().unwrap()].into_iter().collect();
    };
    check("of a network of ours", friend, &format!("{MAIL}{found}{TAKEN}"));
}

#[test]
fn a_backend_that_leaves_while_facts_are_looked_up_is_not_asked() {
    let text = format!("{MAIL}F late\n{RCPT}B!\n # refused backend_lost\n > drop\n F sender=exists\n < 451 4.4.2\n");
    check("leaves", nothing, &text);
    let late = format!("{MAIL}F late\n{RCPT}T\n < 451 4.3.0\n F sender=exists\n{TAKEN}");
    check("facts that never come", nothing, &late);
}

#[test]
fn who_is_deferred_hears_4xx_for_every_recipient_and_loses_nothing() {
    let deferred = format!("{RCPT}# refused deferred\n T\n < 450 4.7.1\n");
    let delay = |config: &mut Config| config.harvest.delay = Duration::from_secs(5);
    // However often: it is not the client's failure. And it ends in the middle of a message.
    let text = format!("{MAIL}F deferred\n{}F sender=exists\n{TAKEN}", deferred.repeat(10));
    check("deferred", delay, &text);
}

#[test]
fn b8_what_is_given_up_or_refused_is_told_to_the_ledger_and_what_was_sent_is_not() {
    let given = "! Abandoned { recipients: [Digest(";
    let table = [
        ("RSET", format!("C RSET\n {given}\n > RSET\n B 250 Ok\n < 250")),
        ("EHLO", format!("C EHLO again\n {given}\n > RSET\n B 250 Ok\n < 250")),
        ("QUIT", format!("C QUIT\n {given}\n > drop\n < 221\n .")),
        ("vanishes", format!("X\n {given}\n > drop\n .")),
        ("says nothing more", format!("T\n # ended timeout\n < 421\n {given}\n > drop\n .")),
        (
            "vanishes in the data",
            format!("C DATA\n > DATA\n B 354 go\n < 354\n > Received\n D x\\r\\n\n > x|\n X\n {given}\n > drop\n ."),
        ),
        ("is lost", "B!\n # refused backend_lost\n > drop\n C RSET\n ! Undelivered\n < 250".to_owned()),
        (
            "is refused at the dot",
            format!("C DATA\n > DATA\n B 354 go\n < 354\n > Received\n D .\\r\\n\n > .|\n B 550 spam\n {given}\n # message Rejected\n < 550\n C QUIT\n > QUIT\n < 221\n ."),
        ),
        (
            "has a flaw",
            format!("C DATA\n > DATA\n B 354 go\n < 354\n > Received\n D x\\ny\\r\\n.\\r\\n\n ! Offence(Smuggling)\n # refused smuggling\n {given}\n # message Rejected\n > drop\n < 550"),
        ),
        (
            "is put off at the dot",
            "C DATA\n > DATA\n B 354 go\n < 354\n > Received\n D .\\r\\n\n > .|\n B 451 later\n ! Undelivered\n # message Deferred\n > drop\n < 451".to_owned(),
        ),
        ("is refused at DATA", "C DATA\n > DATA\n B 451 no\n ! Undelivered\n > drop\n # refused backend\n < 451".to_owned()),
    ];
    for (name, text) in table {
        let setting = Setting { shows_abandoned: true, ..Setting::default() };
        check_in(name, &setting, nothing, &format!("{MAIL}{TAKEN}{text}\n"));
    }
}

#[test]
fn what_the_backend_told_others_is_for_strangers_who_ask_for_that_recipient() {
    let refused = "! UnknownRecipient\n # refused unknown_recipient\n < 550 5.1.1 <b@example.org>: Recipient address rejected: User unknown";
    check("a stranger", nothing, &format!("{MAIL}F unknown\n{RCPT}{refused}"));
    check("and the next one", nothing, &format!("{MAIL}F unknown\n{RCPT}{refused}\nF sender=exists\n{TAKEN}"));
    check("is deferred first", nothing, &format!("{MAIL}F deferred unknown\n{RCPT}# refused deferred\n < 450"));
    let listed = |config: &mut Config| all(Mode::Enforce)(config);
    check("is checked first", listed, &format!("{MAIL}F unknown list=2\n{RCPT}# refused dnsbl\n < 554 5.7.1"));
    let trap = |config: &mut Config| config.recipients.traps = vec!["b@example.org".to_owned()];
    check("a trap", trap, &format!("{MAIL}F unknown\n{RCPT}! Trap\n # refused trap\n < 550 5.1.1"));
    let trusted = |config: &mut Config| {
        config.relay.networks = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    };
    check("of a network of ours", trusted, &format!("{MAIL}F unknown\n{TAKEN}"));
    let exempt = |config: &mut Config| config.exempt = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    check("exempt", exempt, &format!("{MAIL}F unknown\n{TAKEN}"));
    let postmaster = "C RCPT TO:<postmaster@example.org>\n > RCPT\n B 250 Ok\n < 250";
    check("postmaster", nothing, &format!("{MAIL}F unknown\n{postmaster}"));
}

#[test]
fn only_what_the_backend_says_to_strangers_is_remembered_as_unknown() {
    let setting = Setting { shows_heard: true, ..Setting::default() };
    let asked = "C RCPT TO:<\"B\"@Example.org>\n > RCPT\n";
    let unknown = "! UnknownRecipient\n # refused unknown_recipient\n < 550 5.1.1";
    let check =
        |name, change: fn(&mut Config), heard: &str| check_in(name, &setting, change, &format!("{MAIL}{heard}"));
    let told = format!("{asked}B 550 5.1.1 no\n ! heard b@example.org unknown=true\n {unknown}");
    check("to a stranger", nothing, &told);
    let networks = |config: &mut Config| {
        config.relay.networks = ["192.0.2.0/24".parse().unwrap()].into_iter().collect();
    };
    let own = unknown.replace("UnknownRecipient\n", "Offence(UnknownRecipient)\n");
    check("b5: to a network of ours", networks, &format!("{asked}B 550 5.1.1 no\n {own}"));
    check("from memory", nothing, &format!("F unknown\n{RCPT}{unknown}"));
    check("another refusal", nothing, &format!("{asked}B 550 5.7.1 no\n # refused backend\n < 550 5.7.1"));
    check("not now", nothing, &format!("{asked}B 450 4.1.1 no\n # refused backend\n < 450 4.1.1"));
    let accepted = format!("{asked}B 250 Ok\n ! Known\n ! heard b@example.org unknown=false\n < 250");
    check("accepted", nothing, &accepted);
    check("accepted of a network of ours", networks, &accepted);
    check("postmaster", nothing, "C RCPT TO:<postmaster>\n > RCPT\n B 550 5.1.1 no\n # refused backend\n < 550 5.1.1");
}

#[test]
fn where_any_recipient_is_taken_none_proves_anything() {
    let setting = |catch_alls| Setting { catch_alls, shows_abandoned: true, ..Setting::default() };
    let taken = "C RCPT TO:<b@Example.org>\n > RCPT\n B 250 Ok\n";
    let reset = "> RSET\n B 250 Ok\n < 250";
    let any = format!("{MAIL}{taken}< 250\n C RSET\n {reset}");
    check_in("it is", &setting(&["example.org"]), nothing, &any);
    let known = format!("{MAIL}{taken}! Known\n < 250\n C RSET\n ! Abandoned\n {reset}");
    check_in("another is", &setting(&["example.com"]), nothing, &known);
    let refused =
        format!("{MAIL}{RCPT}> RCPT\n B 550 5.1.1 no\n ! UnknownRecipient\n # refused unknown_recipient\n < 550 5.1.1");
    check_in("b6: not that one, and a clear refusal counts", &setting(&["example.org"]), nothing, &refused);
    let remembered = format!("{MAIL}F unknown\n{RCPT}> RCPT\n B 250 Ok\n < 250");
    check_in("not any more", &setting(&["example.org"]), nothing, &remembered);
}
