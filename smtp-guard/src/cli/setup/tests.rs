//! Questions, the file that follows from the answers, and what is said of the mail server.

use super::*;
use crate::config::Mode;

fn found(greeting: &str, xclient: bool) -> Found {
    Found { greeting: greeting.to_owned(), xclient, own: "192.0.2.5".parse().ok(), secured: true, ..Found::default() }
}

fn wanted(backend: &str) -> Wanted {
    Wanted {
        domains: vec![String::from("a.example")],
        backend: with_port(backend),
        hostname: None,
        ..Wanted::example()
    }
}

#[test]
fn servers_are_known_by_their_greeting() {
    for (greeting, xclient, profile, identity) in [
        ("mx ESMTP Postfix (Debian/GNU)", false, "postfix", "xclient"),
        ("mx ESMTP", true, "postfix", "xclient"),
        ("mx ESMTP Exim 4.96 Sat", false, "exim", "proxy-v2"),
        ("mx Microsoft ESMTP MAIL Service ready", false, "exchange", "none"),
        ("mx Kerio Connect 10 ESMTP ready", false, "kerio", "none"),
        ("mx ESMTP OpenSMTPD", false, "opensmtpd", "proxy-v2"),
        ("mx Dovecot ready.", false, "dovecot", "xclient"),
        ("mx ESMTP", false, "generic", "none"),
    ] {
        let software = software(&found(greeting, xclient));
        assert_eq!((word(&software).as_str(), word(&proposed(software)).as_str()), (profile, identity), "{greeting}");
    }
}

#[test]
fn the_file_is_valid_whatever_is_asked_for() {
    for (domains, backend, interface, networks, hostname, valid) in [
        ("example.org", "10.0.0.10", Some("eth0"), "", None, true),
        (
            "example.org, Example.com",
            "mail.example.org",
            None,
            "192.0.2.1 10.0.0.0/8,::1",
            Some("mx.example.org"),
            true,
        ),
        ("b\u{fc}cher.example", "2001:db8::1", None, "", None, true),
        ("exa\"mple", "10.0.0.10", None, "", None, false),
        ("example.org", "no host", None, "", None, false),
        ("example.org", "10.0.0.10", None, "10.0.0.0/33", None, false),
    ] {
        for observe in [false, true] {
            let wanted = Wanted {
                domains: split(domains),
                interface: interface.map(str::to_owned),
                exempt: split(networks),
                networks: split(networks),
                observe,
                hostname: hostname.map(str::to_owned),
                ..wanted(backend)
            };
            let text = configuration(&wanted, Profile::Postfix, Identity::Xclient, "greets with \"x\"\n[evil]");
            let config = Config::parse(Path::new("x"), &text, &config::machine());
            assert_eq!(config.is_ok(), valid, "{text} {config:?}");
            let Ok(config) = config else { continue };
            assert_eq!(
                [&config.exempt, &config.relay.networks].map(|networks| networks.iter().count()),
                [split(networks).len(); 2],
                "{text}"
            );
            assert_eq!(config.checks.sender_domain, if observe { Mode::Observe } else { Mode::Enforce }, "{text}");
        }
    }
}

#[test]
fn all_checks_that_can_observe_do() {
    let text = configuration(&Wanted { observe: true, ..wanted("10.0.0.10") }, Profile::Postfix, Identity::Xclient, "");
    let config = Config::parse(Path::new("x"), &text, &config::machine()).unwrap();
    let checks = serde_json::to_value(&config.checks).unwrap();
    let observing = checks.as_object().unwrap().iter().filter(|(_, mode)| *mode == "observe");
    let mut expected = CHECKS;
    expected.sort_unstable();
    assert_eq!(observing.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), expected);
    assert!(!text.contains("enforce\""), "{text}");
}

/// What is said to a person who gives `answers`, one a line, and what they come to.
fn conversation(arguments: &str, answers: &str) -> (String, anyhow::Result<Wanted>) {
    use clap::Parser as _;
    let words = ["smtp-guard", "setup"].into_iter().chain(arguments.split_whitespace());
    let super::super::Command::Setup(setup) = super::super::Arguments::try_parse_from(words).unwrap().command else {
        panic!("it is setup")
    };
    let mut out = Vec::new();
    let wanted = super::wanted(setup, Some(Person { answers: &mut answers.as_bytes(), out: &mut out }));
    (String::from_utf8(out).unwrap(), wanted)
}

#[test]
fn an_answer_that_is_wrong_is_asked_for_again() {
    const GOOD: [&str; 6] = ["example.org", "10.0.0.10", "none", "", "", "no"];
    for (question, wrong, says) in [
        (0, "", "relay.domains is empty"),
        (0, "exa\"mple", "\"exa\\\"mple\" is not a domain name; a name is made of letters"),
        (0, "example.org *.example.org", "wildcards are not supported"),
        (1, "", "write \"192.0.2.1:25\""),
        (1, "10.0.0.300", "backend.servers is not an address or name with a port"),
        (1, "mail:99999", "there is no port 99999"),
        (1, "127.0.0.1:25", "mail loop"),
        (2, "eth0 eth1", "\"eth0 eth1\" is not an interface name; `ip link` lists the names"),
        (3, "10.0.0.1/8", "write \"10.0.0.1\" or \"10.0.0.0/8\""),
        (3, "0.0.0.0/0", "exempt would make an open relay"),
        (4, "gateway", "relay.networks: \"gateway\" is not an address or network"),
        (5, "maybe", "answer yes or no"),
    ] {
        let mut answers = GOOD.to_vec();
        answers.insert(question, wrong);
        let (said, wanted) = conversation("", &answers.iter().map(|line| format!("{line}\n")).collect::<String>());
        assert!(said.contains(says), "no {says:?} for {wrong:?} in {said}");
        let wanted = wanted.unwrap();
        assert_eq!((wanted.domains, wanted.backend), (vec!["example.org".to_owned()], "10.0.0.10:25".to_owned()));
        assert_eq!((wanted.interface, wanted.exempt.len(), wanted.networks.len()), (None, 0, 0));
        assert!(!wanted.observe);
    }
    let (said, wanted) = conversation("--domain a.example", "10.0.0.10\n");
    assert!(!said.contains("Domains") && said.contains("Mail server"), "{said}");
    assert!(wanted.unwrap_err().to_string().contains("nothing was written"), "the answers end too soon");
}

#[test]
fn a_domain_without_a_dot_is_doubted() {
    let doubts: Vec<_> = of_domains(&split("exa mple.org")).collect();
    assert!(doubts.len() == 1 && doubts[0].starts_with("exa: this domain has no dot"), "{doubts:?}");
}

#[test]
fn what_is_to_be_done_names_the_setting() {
    let server = BackendAddr::Address("192.0.2.9:25".parse().unwrap());
    for (profile, identity, ready, part) in [
        (Profile::Postfix, Identity::Xclient, false, "smtpd_authorized_xclient_hosts = 192.0.2.5"),
        (Profile::Postfix, Identity::Xclient, true, "firewall: let 192.0.2.5 alone"),
        (Profile::Exim, Identity::ProxyV2, false, "hosts_proxy = 192.0.2.5"),
        (Profile::Dovecot, Identity::Xclient, false, "login_trusted_networks = 192.0.2.5"),
        (Profile::Exchange, Identity::None, true, "keep 192.0.2.5 out of its relay networks"),
    ] {
        let to_do = to_do(&server, profile, identity, ready, &found("", false));
        assert!(to_do.iter().any(|line| line.contains(part)), "{to_do:?}");
    }
}

#[test]
fn every_doubt_has_its_words() {
    let domain = |says| vec![probe::Domain { name: String::from("a.example"), says }];
    let refused = |recognised| Unknown::Refused { words: String::from("550 no"), recognised };
    for (found, identity, part) in [
        (Found { relays: true, ..found("", false) }, Identity::None, Some("(Postfix: mynetworks)")),
        (Found { relays: true, ..found("", false) }, Identity::Xclient, Some("open relay")),
        (Found { secured: false, ..found("", false) }, Identity::Xclient, Some("no STARTTLS")),
        (Found { domains: domain(Unknown::Taken), ..found("", false) }, Identity::Xclient, Some("takes any recipient")),
        (
            Found { domains: domain(refused(false)), ..found("", false) },
            Identity::Xclient,
            Some("can't be told from any other"),
        ),
        (
            Found { domains: domain(Unknown::Unclear), ..found("", false) },
            Identity::Xclient,
            Some("neither yes nor no"),
        ),
        (Found { domains: domain(refused(true)), ..found("", false) }, Identity::Xclient, None),
    ] {
        let doubts = doubts(&found, identity);
        let report = Report {
            wanted: wanted("192.0.2.9"),
            found,
            software: Profile::Postfix,
            identity,
            ready: true,
            to_do: Vec::new(),
            doubts: doubts.clone(),
            configuration: String::new(),
            written: None,
        };
        output::check_documented("setup", &report);
        assert_eq!(doubts.len(), usize::from(part.is_some()), "{doubts:?}");
        assert!(part.is_none_or(|part| doubts[0].contains(part)), "{doubts:?}");
    }
}

#[test]
fn a_file_that_sets_nothing_gets_a_drop_in() {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("guard.toml");
    assert_eq!(place(&main), main, "there is none");
    fs::write(&main, config::keys::packaged()).unwrap();
    assert_eq!(place(&main), folder.path().join("guard.toml.d/10-setup.toml"));
    fs::write(&main, "# x\nhostname = \"mx.example.org\"\n").unwrap();
    assert_eq!(place(&main), main, "it says something");
}

#[test]
fn a_file_that_is_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/smtp-guard.toml");
    write(&path, "a = 1 # x\nb = 2\n", false).unwrap();
    let error = write(&path, "a = 1\nb = 3\n", false).unwrap_err().to_string();
    assert!(error.ends_with("The difference:\n- b = 2\n+ b = 3"), "{error}");
    write(&path, "a = 1\nb = 3\n", true).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "a = 1\nb = 3\n");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("new/smtp-guard.toml", &link).unwrap();
    write(&link, "a = 2\n", true).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "a = 2\n");
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let huge = folder.path().join("huge");
    fs::File::create(&huge).unwrap().set_len(config::FILE_BYTES + 1).unwrap();
    let error = write(&huge, "a = 1\n", false).unwrap_err().to_string();
    assert!(error.contains("it has more than") && error.contains("--force"), "{error}");
    write(&huge, "a = 1\n", true).unwrap();
    let error = write(Path::new("/dev/null"), "a = 1\n", true).unwrap_err().to_string();
    assert!(error.contains("it is a device, not a regular file; name another file by --output"), "{error}");
}
