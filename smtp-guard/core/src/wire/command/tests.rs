use proptest::prelude::*;

use super::*;

/// `expected`: the command written out again, or the reply's code and enhanced code.
fn check(line: &[u8], expected: Result<&str, &str>) {
    let found = parse(line).map(|command| command.to_string()).map_err(|error| error.reply().to_string());
    let name = line.escape_ascii().to_string();
    match (found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{name}"),
        (Err(found), Err(expected)) => assert!(found.starts_with(expected), "{name}: {found}"),
        (found, _) => panic!("{name}: {found:?}, expected {expected:?}"),
    }
}

#[test]
fn commands_are_written_anew() {
    check(b"ehlo mx.example", Ok("EHLO mx.example"));
    check(b"HELO [192.0.2.1]  ", Ok("HELO [192.0.2.1]"));
    check(b"EHLO odd_name!", Ok("EHLO odd_name!"));
    check(b"MAIL FROM:<a@b.example>", Ok("MAIL FROM:<a@b.example>"));
    check(b"mail from: <\"a\"@b.example>  size=12 body=8bitmime", Ok("MAIL FROM:<a@b.example> SIZE=12 BODY=8BITMIME"));
    check(b"MAIL FROM:<> BODY=7BIT", Ok("MAIL FROM:<> BODY=7BIT"));
    check(b"MAIL FROM:<> SIZE=99999999999999999999", Ok("MAIL FROM:<> SIZE=18446744073709551615"));
    check(b"rcpt to:<POSTMASTER>", Ok("RCPT TO:<postmaster>"));
    check(b"RCPT TO: <a@b.example>", Ok("RCPT TO:<a@b.example>"));
    check(
        b"MAIL FROM:<a@b> ret=hdrs envid=q+2Bq SMTPUTF8 requiretls auth=<>",
        Ok("MAIL FROM:<a@b> SMTPUTF8 REQUIRETLS RET=HDRS ENVID=q+2Bq"),
    );
    check("MAIL FROM:<\u{e9}@b.example> SMTPUTF8".as_bytes(), Ok("MAIL FROM:<\u{e9}@b.example> SMTPUTF8"));
    check("RCPT TO:<\u{e9}@b\u{e9}.example>".as_bytes(), Ok("RCPT TO:<\u{e9}@b\u{e9}.example>"));
    check(
        b"RCPT TO:<a@b> NOTIFY=failure,Success ORCPT=rfc822;a+2Bb@c",
        Ok("RCPT TO:<a@b> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb@c"),
    );
    check(b"RCPT TO:<a@b> NOTIFY=NEVER", Ok("RCPT TO:<a@b> NOTIFY=NEVER"));
    check(b"NOOP whatever", Ok("NOOP"));
    check(b"AUTH PLAIN c2VjcmV0", Ok("AUTH"));
}

#[test]
fn the_length_of_a_chunk_is_digits_or_nobody_knows_it() {
    for (line, expected) in [
        ("BDAT 0", Ok("BDAT 0")),
        ("bdat 12 last", Ok("BDAT 12 LAST")),
        (" BDAT\t12 \tLast ", Ok("BDAT 12 LAST")),
        ("BDAT 0012 LAST", Ok("BDAT 12 LAST")),
        ("BDAT 18446744073709551615", Ok("BDAT 18446744073709551615")),
        ("BDAT 18446744073709551616 LAST", Ok("BDAT 18446744073709551615 LAST")),
        ("BDAT 99999999999999999999999999", Ok("BDAT 18446744073709551615")),
        ("BDAT", Err("501 5.5.4")),
        ("BDAT LAST", Err("501 5.5.4")),
        ("BDAT +12", Err("501 5.5.4")),
        ("BDAT -1 LAST", Err("501 5.5.4")),
        ("BDAT 0x12", Err("501 5.5.4")),
        ("BDAT 1e3", Err("501 5.5.4")),
        ("BDAT 12LAST", Err("501 5.5.4")),
        ("BDAT 12,LAST", Err("501 5.5.4")),
        ("BDAT 1 2", Err("501 5.5.4")),
        ("BDAT 12 FIRST", Err("501 5.5.4")),
        ("BDAT 12 LAST LAST", Err("501 5.5.4")),
        ("BDAT:12", Err("500 5.5.2")),
        ("BDAT12", Err("500 5.5.2")),
        ("BDAT \u{661}", Err("501 5.5.4")),
        ("BDAT 12\u{7f}", Err("501 5.5.4")),
    ] {
        check(line.as_bytes(), expected);
    }
}

#[test]
fn a5_white_space_and_missing_brackets_do_not_matter() {
    for line in [
        "MAIL FROM:  <a@b>",
        "MAIL FROM:\t<a@b>",
        "MAIL  FROM:<a@b>",
        "MAIL\tFROM:<a@b>",
        "MAIL FROM :<a@b>",
        "MAIL FROM : <a@b>",
        "MAIL FROM:<a@b>\t",
        "MAIL FROM:<a@b> \t ",
        " MAIL FROM:<a@b>",
        "\tmail from:<a@b>",
        "MAIL FROM:a@b",
        "MAIL FROM: a@b ",
        "MAIL FROM:< a@b >",
        "MAIL FROM:<a@b> SIZE=",
        "MAIL FROM:<a@b.>",
    ] {
        check(line.as_bytes(), Ok("MAIL FROM:<a@b>"));
    }
    check(b"MAIL FROM:<a@b>\tSIZE=1 \t BODY=7bit", Ok("MAIL FROM:<a@b> SIZE=1 BODY=7BIT"));
    check(b"MAIL FROM: <>  ", Ok("MAIL FROM:<>"));
    check(b"RCPT  TO :\ta@b \tNOTIFY=NEVER", Ok("RCPT TO:<a@b> NOTIFY=NEVER"));
    check(b"RCPT TO:postmaster", Ok("RCPT TO:<postmaster>"));
    check(b"EHLO\tmx.example \t", Ok("EHLO mx.example"));
    check(b"EHLO Office PC", Ok("EHLO Office"));
    check(b"DATA \t", Ok("DATA"));
    check(b"AUTH  PLAIN\tc2VjcmV0", Ok("AUTH"));
    // What would have two readings stays refused.
    check(b"MAIL FROM:", Err("501 5.1.7"));
    check(b"MAIL FROM:\t", Err("501 5.1.7"));
    check(b"MAIL FROM:<a\tb@c>", Err("501 5.1.7"));
    check(b"MAIL FROM:<a@b> <c@d>", Err("555 5.5.4"));
    check(b"MAIL FROM:a@b c@d", Err("555 5.5.4"));
    check(b"MAIL FROM<a@b>", Err("501 5.5.4"));
    check(b"MAIL FR OM:<a@b>", Err("501 5.5.4"));
    check(b"\x0cMAIL FROM:<a@b>", Err("500 5.5.2"));
    check(b" \t", Err("500 5.5.2"));
    check(b"RSET\tx", Err("501 5.5.4"));
}

#[test]
fn what_is_not_a_command_is_refused_rightly() {
    check(b"", Err("500 5.5.2"));
    check(b"BOGUS", Err("500 5.5.2"));
    check(b"AVERYLONGVERB x", Err("500 5.5.2"));
    check(b"MAILFROM:<a@b>", Err("500 5.5.2"));
    check(b"EHLO", Err("501 5.5.4"));
    check(b"EHLO x\x1b[2J", Err("500 5.5.2"));
    check(b"MAIL FROM:<\xc3\xa9@b.example>", Err("553 5.6.7"));
    check(b"MAIL FROM:<\xe9@b.example> SMTPUTF8", Err("500 5.5.2"));
    check(b"MAIL FROM:<a\xc2\x85@b.example> SMTPUTF8", Err("500 5.5.2"));
    check(b"MAIL FROM:<a@b> SMTPUTF8=1", Err("501 5.5.4"));
    check(b"EHLO \xc3\xa9.example", Err("500 5.5.2"));
    check(b"AUTH", Err("501 5.5.4"));
    check(b"AUTH PLAIN a b", Err("501 5.5.4"));
    check(b"MAIL", Err("501 5.5.4"));
    check(b"MAIL FRO", Err("501 5.5.4"));
    check(b"MAIL FROM:<;cmd;>", Err("501 5.1.7"));
    check(b"MAIL FROM:<a@b>SIZE=1", Err("501 5.5.4"));
    check(b"MAIL FROM:<a@b> SIZE=1 SIZE=1", Err("501 5.5.4"));
    check(b"MAIL FROM:<a@b> SIZE=-1", Err("501 5.5.4"));
    check(b"MAIL FROM:<a@b> BODY=BINARYMIME", Err("501 5.5.4"));
    check(b"MAIL FROM:<a@b> AUTH=x+0Ay", Err("501 5.5.4"));
    check(b"MAIL FROM:<a@b> AUTH", Err("501 5.5.4"));
    check(b"MAIL FROM:<a@b> RET=ALL", Err("501 5.5.4"));
    check(b"MAIL FROM:<a@b> ENVID=x+0Dy", Err("501 5.5.4"));
    check(b"MAIL FROM:<a@b> ENVID=", Err("501 5.5.4"));
    check(b"MAIL FROM:<a@b> XVERP", Err("555 5.5.4"));
    check(b"RCPT TO:<a@b> NOTIFY=NEVER,DELAY", Err("501 5.5.4"));
    check(b"RCPT TO:<a@b> NOTIFY=DELAY,DELAY", Err("501 5.5.4"));
    check(b"RCPT TO:<a@b> ORCPT=rfc822", Err("501 5.5.4"));
    check(b"RCPT TO:<a@b> ORCPT=;x", Err("501 5.5.4"));
    check(b"RCPT TO:<a@b> SIZE=1", Err("555 5.5.4"));
    check(b"RCPT TO:<>", Err("501 5.1.3"));
    check(b"RCPT TO:<@a:b@c>", Err("501 5.1.3"));
    check(b"RCPT TO:<a@b> ORCPT=rfc822;x+0Ay", Err("501 5.5.4"));
    check(b"DATA now", Err("501 5.5.4"));
    check(b"RSET x", Err("501 5.5.4"));
    assert!(parse(b"get / HTTP/1.1").unwrap_err().is_other_protocol());
    assert!(parse(b"POST /\xff HTTP/1.1").unwrap_err().is_other_protocol());
    for flaw in [LineFlaw::TooLong, LineFlaw::BareLf, LineFlaw::BareCr, LineFlaw::Nul] {
        assert!(CommandError::from(flaw).reply().to_string().starts_with("500 5.5.2"));
    }
}

#[test]
fn a_name_is_safe_in_a_header() {
    let helo = Helo::new("a(b)<c>;\"d\"\\").unwrap();
    assert_eq!(helo.printable(), "a?b??c???d??");
    assert_eq!(Helo::new(&"x".repeat(255)).unwrap().printable().len(), 100);
    assert!(Helo::new(&"x".repeat(256)).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_means_the_same(
        verb in prop::sample::select(vec!["MAIL FROM:", "RCPT TO:", "EHLO ", "HELO ", "NOOP", "VRFY", "DATA"]),
        rest in "(<[ -~]{0,12}@[a-z.-]{1,8}>|<>|[!-~]{0,12})( [A-Z0-9=]{1,10}){0,2}",
    ) {
        if let Ok(command) = parse(format!("{verb}{rest}").as_bytes()) {
            let mut out = BytesMut::new();
            command.encode(&mut out);
            prop_assert!(out.ends_with(b"\r\n") && out.iter().filter(|byte| **byte == b'\n').count() == 1);
            prop_assert_eq!(parse(&out[..out.len() - 2]), Ok(command));
        }
    }

    #[test]
    fn any_bytes_are_survived(line in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = parse(&line).map_err(|error| error.reply());
    }
}
