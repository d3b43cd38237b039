use proptest::prelude::*;

use super::*;

fn check(text: &str, expected: Result<&str, AddressError>) {
    let found = Mailbox::parse(text).map(|mailbox| mailbox.to_string());
    assert_eq!(found, expected.map(str::to_owned), "{text:?}");
}

#[test]
fn mailboxes() {
    check("a@b.example", Ok("a@b.example"));
    check("a.b+c@B.Example", Ok("a.b+c@B.Example"));
    check("!#$%&'*+-/=?^_`{|}~@x", Ok("!#$%&'*+-/=?^_`{|}~@x"));
    check("\"a b\"@x", Ok("\"a b\"@x"));
    check("\"a\"@x", Ok("a@x"));
    check("\"a\\\"\\b\"@x", Ok("\"a\\\"b\"@x"));
    check("\"a@b>\"@x", Ok("\"a@b>\"@x"));
    check("a@[192.0.2.1]", Ok("a@[192.0.2.1]"));
    check("a@[ipv6:2001:DB8::1]", Ok("a@[IPv6:2001:db8::1]"));
    for local in [
        "",
        ".a",
        "a.",
        "a..b",
        ";cmd;",
        "a b",
        "a\tb",
        "a(b",
        "a\u{85}",
        "a\u{2028}b",
        "\"\"",
        "\"a",
        "\"a\u{7}\"",
        "\"a\\",
    ] {
        let error = Mailbox::parse(&format!("{local}@x.example")).unwrap_err();
        assert!(
            matches!(error, AddressError::Local | AddressError::SourceRoute | AddressError::NoDomain),
            "{local:?}: {error}"
        );
    }
    for domain in [
        "",
        "-a",
        "a-",
        "a..b",
        ".a",
        "a.",
        "a_b",
        "[1.2.3]",
        "[1.2.3.4",
        "[x:1]",
        "a\u{2028}b.example",
        "-\u{e9}.example",
        "a b",
    ] {
        check(&format!("a@{domain}"), Err(AddressError::Domain));
    }
    check("@a,@b:c@d", Err(AddressError::SourceRoute));
    check("nobody", Err(AddressError::NoDomain));
    check(&format!("{}@x", "a".repeat(65)), Err(AddressError::TooLong));
    check(&format!("a@{}x", "b.".repeat(127)), Err(AddressError::TooLong));
    check(&format!("a@{}x", "b.".repeat(128)), Err(AddressError::Domain));
}

#[test]
fn international_mailboxes() {
    check("j\u{f6}rg@b\u{fc}cher.example", Ok("j\u{f6}rg@b\u{fc}cher.example"));
    let mailbox = Mailbox::parse("J\u{d6}RG@B\u{dc}CHER.Example").unwrap();
    assert_eq!(mailbox.key(), "j\u{f6}rg@xn--bcher-kva.example");
    assert!(!mailbox.is_ascii());
    assert!(!Mailbox::parse("a@b\u{fc}cher.example").unwrap().is_ascii());
    assert!(Mailbox::parse("a@xn--bcher-kva.example").unwrap().is_ascii());
}

#[test]
fn paths() {
    assert_eq!(ReversePath::parse("<> SIZE=1"), Ok((ReversePath::Null, " SIZE=1")));
    assert_eq!(ForwardPath::parse("<PostMaster>"), Ok((ForwardPath::Postmaster, "")));
    assert_eq!(ForwardPath::parse("<\"a>b\"@x>").unwrap().0.to_string(), "<\"a>b\"@x>");
    assert_eq!(ForwardPath::parse("<>"), Err(AddressError::NoDomain));
    for text in ["a@b", "<a@b", "", "<\"a@b>"] {
        assert_eq!(ReversePath::parse(text).unwrap_err(), AddressError::Brackets, "{text}");
    }
}

#[test]
fn ways_around_are_seen() {
    for (text, indirect) in [("a%b@x", true), ("b!a@x", true), ("\"a@b\"@x", true), ("a@x", false)] {
        assert_eq!(Mailbox::parse(text).unwrap().is_indirect(), indirect, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_canonical_form_means_the_same(text in "[ -~]{1,20}@[a-z0-9.\\[\\]:-]{1,12}") {
        if let Ok(mailbox) = Mailbox::parse(&text) {
            let written = mailbox.to_string();
            prop_assert_eq!(Mailbox::parse(&written), Ok(mailbox.clone()));
            let bracketed = format!("<{written}>");
            prop_assert_eq!(ForwardPath::parse(&bracketed), Ok((ForwardPath::Mailbox(mailbox), "")));
        }
    }

    #[test]
    fn any_text_is_survived(text in "\\PC{0,40}") {
        let _ = (Mailbox::parse(&text), ReversePath::parse(&text), ForwardPath::parse(&text));
    }
}
