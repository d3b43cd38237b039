//! Tables and properties of replies: what backends say, and what never gets out.

use proptest::prelude::*;

use super::*;

fn decode(data: &[u8], piece: usize) -> Vec<Result<Reply, ReplyError>> {
    let (mut decoder, mut buf, mut replies) = (ReplyDecoder::new(), BytesMut::new(), Vec::new());
    for piece in data.chunks(piece.max(1)) {
        buf.extend_from_slice(piece);
        while let Some(reply) = decoder.next(&mut buf) {
            let failed = reply.is_err();
            replies.push(reply);
            if failed {
                return replies;
            }
        }
        assert!(buf.len() <= MAX_REPLY, "not bounded");
    }
    replies
}

fn check(data: &[u8], expected: &[Result<&str, ReplyError>]) {
    for piece in [1, 2, 5, data.len()] {
        let found: Vec<_> = decode(data, piece).into_iter().map(|reply| reply.map(|reply| reply.to_string())).collect();
        let expected: Vec<_> = expected.iter().map(|reply| reply.map(str::to_owned)).collect();
        assert_eq!(found, expected, "{:?} by {piece}", data.escape_ascii().to_string());
    }
}

#[test]
fn replies_of_backends() {
    check(b"250 Ok\r\n", &[Ok("250 Ok")]);
    check(b"250\r\n", &[Ok("250 ")]);
    check(b"250-a\r\n250-b\r\n250 c\r\n221 Bye\r\n", &[Ok("250 a / b / c"), Ok("221 Bye")]);
    check(b"550-5.1.1 no\r\n550 5.1.1 user\r\n", &[Ok("550 5.1.1 no / user")]);
    check(b"550 5.1.1\r\n", &[Ok("550 5.1.1 ")]);
    check(b"550-5.1.1 no\r\n550 see /help\r\n", &[Ok("550 5.1.1 no / see /help")]);
    check(b"550-see /help\r\n550 5.1.1 no\r\n", &[Ok("550 5.1.1 see /help / no")]);
    check(b"550 4.1.1 mixed classes\r\n", &[Ok("550 4.1.1 mixed classes")]);
    check(b"354 5.1.1 is text\r\n", &[Ok("354 5.1.1 is text")]);
    check(b"250 x\x1b[2J\xff\r\n", &[Ok("250 x?[2J???")]);
    check(b"250 Ok\n", &[Err(ReplyError::LineEnd)]);
    check(b"250 O\rk\r\n", &[Err(ReplyError::LineEnd)]);
    check(b"250-Ok\r250 Ok\r\n", &[Err(ReplyError::LineEnd)]);
    check(b"250 Ok\r\r\n", &[Err(ReplyError::LineEnd)]);
    check(b"\r250 Ok\r\n", &[Err(ReplyError::LineEnd)]);
    check(b"hello\r\n", &[Err(ReplyError::Code)]);
    check(b"199 x\r\n", &[Err(ReplyError::Code)]);
    check(b"2500 x\r\n", &[Err(ReplyError::Code)]);
    check(b"+50 x\r\n", &[Err(ReplyError::Code)]);
    check(b"250-a\r\n550 b\r\n", &[Err(ReplyError::Mixed)]);
    check(&b"250-x\r\n".repeat(MAX_LINES + 1), &[Err(ReplyError::TooManyLines)]);
    check(&[b"250 ".as_slice(), &[b'x'; MAX_REPLY]].concat(), &[Err(ReplyError::TooLong)]);
    let line = [b"250-".as_slice(), &[b'x'; 1000], b"\r\n"].concat();
    check(&line.repeat(MAX_REPLY / line.len() + 1), &[Err(ReplyError::TooLong)]);
}

/// A connection that another client may use owes nothing and has said nothing more.
#[test]
fn between_two_replies_nothing_of_one_was_read() {
    for (data, between) in [
        (&b""[..], true),
        (b"250 Ok\r\n", true),
        (b"250-a\r\n250 b\r\n", true),
        (b"2", false),
        (b"250 Ok\r\n2", false),
        (b"250-a\r\n", false),
        (b"250-a\r\n250", false),
        (b"hello\r\n", false),
        (&[b'2'; MAX_REPLY + 1], false),
    ] {
        let (mut decoder, mut buf) = (ReplyDecoder::new(), BytesMut::from(data));
        while decoder.next(&mut buf).is_some() {}
        assert_eq!(decoder.is_between(), between, "{:?}", data.get(..20).unwrap_or(data).escape_ascii().to_string());
    }
}

/// Unknown recipients are recognised by the enhanced code: a refusal of the client must not be turned into one.
#[test]
fn of_enhanced_codes_that_differ_none_is_believed() {
    for text in [
        "550-5.7.1 blocked\r\n550 5.1.1 unknown\r\n",
        "550-5.1.1 unknown\r\n550 5.7.1 blocked\r\n",
        "550-5.1.1 a\r\n550-b\r\n550-5.1.1 c\r\n550 5.1.2 d\r\n",
    ] {
        let replies = decode(text.as_bytes(), 7);
        let [Ok(reply)] = &replies[..] else { panic!("{replies:?}") };
        assert_eq!(reply.enhanced(), None, "{text:?}");
        // What the client hears is what the backend said.
        let mut out = BytesMut::new();
        reply.encode(&mut out);
        assert_eq!(out, text);
    }
    let replies = decode(b"550-5.1.1 a\r\n550 05.01.001 b\r\n", 7);
    assert_eq!(replies, [Ok(Reply::new(550, Some((5, 1, 1)), "a").and("b"))]);
}

#[test]
fn after_an_error_the_decoder_is_inert() {
    for (wrong, rest) in [(&b"hello\r\n"[..], 0), (b"250 Ok\n", 0), (&[b'2'; MAX_REPLY + 1], MAX_REPLY + 1)] {
        let (mut decoder, mut buf) = (ReplyDecoder::new(), BytesMut::from(wrong));
        assert!(matches!(decoder.next(&mut buf), Some(Err(_))));
        assert_eq!(buf.len(), rest);
        buf.extend_from_slice(b"\r\n250 Ok\r\n");
        let before = buf.clone();
        assert_eq!((decoder.next(&mut buf), decoder.next(&mut buf)), (None, None));
        assert_eq!(buf, before);
    }
}

#[test]
fn what_is_logged_is_bounded() {
    let data = [b"250-x\r\n".repeat(MAX_LINES - 1), b"250 x\r\n".to_vec()].concat();
    let long = [b"250 5.0.0 ".as_slice(), &[b'x'; MAX_REPLY - 100], b"\r\n"].concat();
    for data in [data, long, [b"250-5.0.0 ".as_slice(), &[b'x'; 470], b"\r\n250 5.0.0 y\r\n"].concat()] {
        let replies = decode(&data, data.len());
        let [Ok(reply)] = &replies[..] else { panic!("{replies:?}") };
        let shown = reply.to_string();
        assert!(shown.len() == MAX_SHOWN || !shown.ends_with("..."), "{}", shown.len());
        assert!(shown.len() <= MAX_SHOWN && shown.starts_with("250 "));
    }
    let longest = Reply::new(250, None, "x".repeat(MAX_TEXT)).and("y".repeat(MAX_SHOWN - 4 - MAX_TEXT - 3));
    assert_eq!(longest.to_string().len(), MAX_SHOWN);
    assert!(longest.to_string().ends_with('y'));
    assert!(longest.and("").to_string().ends_with("..."));
}

#[test]
fn an_enhanced_code_that_contradicts_the_code_is_left_out() {
    for (code, enhanced, kept) in [
        (250, (2, 1, 5), true),
        (550, (5, 999, 999), true),
        (550, (2, 1, 5), false),
        (451, (5, 1, 5), false),
        (354, (3, 0, 0), false),
        (550, (5, 1000, 0), false),
        (550, (5, 0, 1000), false),
        (999, (9, 0, 0), false),
        // It becomes 451.
        (999, (4, 3, 0), true),
    ] {
        assert_eq!(Reply::new(code, Some(enhanced), "").enhanced().is_some(), kept, "{code} {enhanced:?}");
    }
}

#[test]
fn nothing_but_one_clean_reply_gets_out() {
    let mut out = BytesMut::new();
    Reply::new(550, Some((5, 1, 1)), "a\r\n250 Ok\0\u{e9}").and("x".repeat(1000)).encode(&mut out);
    let text = String::from_utf8(out.to_vec()).unwrap();
    assert_eq!(text, format!("550-5.1.1 a??250 Ok???\r\n550 5.1.1 {}\r\n", "x".repeat(MAX_TEXT)));
    assert!(text.lines().all(|line| line.len() <= 510));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_decoded(
        code in 200u16..600, subject in 0u16..1000, detail in 0u16..1000, with in any::<bool>(),
        texts in prop::collection::vec("[ -~]{0,40}", 1..5), piece in 1usize..9,
    ) {
        let class = (code / 100) as u8;
        let enhanced = (with && class != 3).then_some((class, subject, detail));
        let mut texts = texts.into_iter();
        let mut reply = Reply::new(code, enhanced, texts.next().unwrap_or_default());
        for text in texts {
            reply = reply.and(text);
        }
        // A text that begins like an enhanced code is read as one.
        prop_assume!(enhanced.is_some() || reply.lines().all(|text| super::enhanced(code, text.as_bytes()).0.is_none()));
        let mut out = BytesMut::new();
        reply.encode(&mut out);
        prop_assert_eq!(decode(&out, piece), vec![Ok(reply)]);
    }

    #[test]
    fn any_bytes_are_survived(data in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
        decode(&data, piece);
    }
}

#[test]
fn a_reply_without_an_enhanced_code_gets_the_plainest() {
    for (reply, expected) in [
        (Reply::new(550, None, "Unrouteable address"), "550 5.0.0 Unrouteable address"),
        (Reply::new(250, None, "Ok").and("more"), "250 2.0.0 Ok / more"),
        (Reply::new(550, Some((5, 1, 1)), "no"), "550 5.1.1 no"),
        (Reply::new(354, None, "go"), "354 go"),
    ] {
        assert_eq!(reply.with_enhanced().to_string(), expected);
    }
}
