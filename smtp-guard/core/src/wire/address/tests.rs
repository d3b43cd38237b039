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
    for local in ["", ";cmd;", "a b", "a\tb", "a(b", "a\u{85}", "a\u{2028}b", "\"\"", "\"a", "\"a\u{7}\"", "\"a\\"] {
        let error = Mailbox::parse(&format!("{local}@x.example")).unwrap_err();
        assert!(
            matches!(error, AddressError::Local | AddressError::SourceRoute | AddressError::NoDomain),
            "{local:?}: {error}"
        );
    }
    for domain in ["", "a..b", ".a", "a..", ".", "[1.2.3]", "[1.2.3.4", "[x:1]", "a\u{2028}b.example", "a b"] {
        check(&format!("a@{domain}"), Err(AddressError::Domain));
    }
    check("@a,@b:c@d", Err(AddressError::SourceRoute));
    check("nobody", Err(AddressError::NoDomain));
    check(&format!("a@{}x", "b.".repeat(127)), Err(AddressError::Domain));
}

/// A mailbox that goes out as it came in.
fn check_kept(text: &str) {
    check(text, Ok(text));
    assert_eq!(format!("<{text}>"), ForwardPath::parse(&format!("<{text}> X")).unwrap().0.to_string());
}

#[test]
fn a1_local_parts_of_forwarders_and_lists_are_as_long_as_they_like() {
    for text in [
        // Automatic forwarding of a big provider.
        "firstname.lastname+caf_=firstname.lastname=company-holding.example@gmail.example",
        // SRS, twice over.
        "SRS1=HHHH=forwarder-with-a-long-name.example==HHH=TT=another-company.example=firstname.lastname@f.example",
        // VERP.
        "bounces+12345678-abcd-firstname.lastname=some-long-company-name.example.org@mail.sender.example",
        // A list's token, BATV, a private relay's address.
        "list-bounce-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef@lists.example",
        "prvs=1234567890=firstname.lastname.of.a.very.long.department.name.indeed@company.example",
        "IMCEAEX-_O=COMPANY_OU=EXCHANGE+20ADMINISTRATIVE+20GROUP+20+28FYDIBOHF23SPDLT+29_CN=RECIPIENTS_CN=X@company.example",
    ] {
        check_kept(text);
    }
    check_kept(&format!("{}@x", "a".repeat(1500)));
    check_kept(&format!("\"{}\"@x", "a b".repeat(400)));
}

#[test]
fn a3_dots_may_stand_anywhere_in_a_local_part() {
    for text in ["ILO-server01.@company.example", "taro..yamada@example.org", ".a@x", "...@x", "a.b.@x"] {
        check_kept(text);
    }
    assert_eq!(Mailbox::parse("\"taro..yamada\"@x").unwrap(), Mailbox::parse("taro..yamada@x").unwrap());
}

#[test]
fn a4_domains_of_real_senders_are_taken() {
    for text in ["return@bounce_mail.shop.example", "a@_x.example", "a@mail-.example", "a@-mail.example", "a@b_"] {
        check_kept(text);
    }
    check("a@Example.org.", Ok("a@Example.org"));
    assert_eq!(Mailbox::parse("A@Example.org.").unwrap().key(), "a@example.org");
}

#[test]
fn a5_paths_come_with_spaces_or_without_brackets() {
    for (text, expected) in [
        ("a@b", ("<a@b>", "")),
        ("a@b SIZE=1", ("<a@b>", " SIZE=1")),
        ("a@b\tSIZE=1", ("<a@b>", "\tSIZE=1")),
        ("\"a b\"@c SIZE=1", ("<\"a b\"@c>", " SIZE=1")),
        ("< a@b > SIZE=1", ("<a@b>", " SIZE=1")),
        ("<\ta@b>", ("<a@b>", "")),
        ("< >", ("<>", "")),
    ] {
        let (path, rest) = ReversePath::parse(text).unwrap();
        assert_eq!((path.to_string().as_str(), rest), expected, "{text:?}");
    }
    assert_eq!(ForwardPath::parse("postmaster"), Ok((ForwardPath::Postmaster, "")));
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
    for text in ["<a@b", "", "<\"a@b>", "\"a b@c"] {
        assert_eq!(ReversePath::parse(text).unwrap_err(), AddressError::Brackets, "{text}");
    }
    for text in ["a@b>", "<<a@b>>", "a<b@c", "a@b<c", "Some Body <a@b>", "a b@c"] {
        assert!(ReversePath::parse(text).is_err(), "{text}");
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
