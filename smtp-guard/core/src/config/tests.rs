//! Files, good and bad, and what is said of them.

mod packaged;

use super::*;

/// The least that a file must hold; `check` appends to it.
const LEAST: &str = "\
[[listen]]
address = \"0.0.0.0:25\"
[backend]
servers = [\"10.0.0.10:25\"]
[relay]
domains = [\"example.org\"]
";

/// Lines of [`LEAST`]: what a case appends begins below them.
const LINES: usize = 6;

fn parse(text: &str) -> Result<Config, Report> {
    Config::parse(Path::new("test.toml"), text, &Machine::default())
}

/// Whether `text` is refused with all of `expected`: `line:column: message`, where the message may be a part of the
/// title, of the label or of the help; and with no other problem.
fn check(text: &str, expected: &[&str]) {
    let report = match parse(text) {
        Ok(_) if expected.is_empty() => return,
        Ok(config) => panic!("accepted:\n{text}\n{config:?}"),
        Err(report) => report.render(false),
    };
    let problems: Vec<_> = report.split("\n\n").filter(|part| part.starts_with("error: ")).collect();
    for expected in expected {
        let (position, message) = expected.split_once(": ").unwrap();
        let arrow = match position {
            "-" => String::from("--> test.toml"),
            position => format!("--> test.toml:{position}"),
        };
        let fits = |problem: &str| problem.lines().any(|line| line.trim() == arrow) && problem.contains(message);
        assert!(problems.iter().any(|problem| fits(problem)), "no {expected:?} in\n{report}\nof\n{text}");
    }
    assert_eq!(problems.len(), expected.len(), "{report}\nof\n{text}");
}

/// As [`check`], for what is appended to [`LEAST`]; lines count from the first that is appended.
fn check_more(more: &str, expected: &[&str]) {
    let shifted: Vec<_> = expected
        .iter()
        .map(|expected| match expected.split_once(':') {
            Some((line, rest)) if line != "-" => format!("{}:{rest}", line.parse::<usize>().unwrap() + LINES),
            _ => (*expected).to_owned(),
        })
        .collect();
    check(&format!("{LEAST}{more}"), &shifted.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn the_form_is_checked() {
    check("", &["-: no [[listen]]", "-: backend.servers is empty", "-: relay.domains is empty"]);
    check("hostname = mx", &["1:12: not TOML"]);
    check("a = 1\na = 2", &["2:1: remove one of the two"]);
    check_more("[relay]\n", &["1:2: below one [...]"]);
    check("exmpt = []", &["1:1: did you mean `exempt`?"]);
    check("colour = 1", &["1:1: known here: hostname"]);
    check_more("exempt = []", &["1:1: `exempt` belongs at the top of the file, before the first [...]"]);
    check_more("[checks]\nhostname = \"mx.example.org\"", &["2:1: belongs at the top of the file"]);
    check("networks = []", &["1:1: `networks` belongs below [relay]"]);
    check_more("[limits]\nban = \"1h\"", &["2:1: belongs below [auth] or [harvest]"]);
    check_more("[limits]\nzone = \"a.example\"", &["2:1: belongs below [[dnsbl]]"]);
    check_more("[limits]\nname = \"a\"", &["2:1: belongs below [[dnsbl]], [[blocklist]] or [fleet]"]);
    check("listen = \"0.0.0.0:25\"", &["1:10: [[...]] for a list of tables"]);
    check("limits = 5", &["1:10: write a table"]);
    check_more("[limit]\n", &["1:2: did you mean `limits`?"]);
    check_more("[limits]\nConnections = 5", &["2:1: did you mean `connections`?"]);
    check_more("[limits]\nmessage-size = \"1MiB\"", &["2:1: did you mean `message_size`?"]);
    check_more("[limits]\nconnections = \"20\"", &["2:15: whole number, without quotes"]);
    check_more("[limits]\nconnections = 2.5", &["2:15: whole number"]);
    check_more("[limits]\nmessage_size = 5", &["2:16: text in double quotes"]);
    check_more("[harvest]\nunknown_share = \"half\"", &["2:17: write a number"]);
    check_more("[edge]\ninterfaces = \"eth0\"", &["2:14: write a list"]);
    check_more("[edge]\ninterfaces = [\"eth0\", 1]", &["2:23: wrong type: integer `1`"]);
}

#[test]
fn a_webhook_is_checked() {
    let url = "[events]\nsecret_file = \"/k\"\nwebhook = ";
    check_more(&format!("{url}\"https://ops.example.org/h\""), &[]);
    check_more(&format!("{url}\"\""), &[]);
    check_more(&format!("{url}\"ops.example.org\""), &["3:11: write \"https://"]);
    check_more(&format!("{url}\"https://ann:pw@ops.example.org\""), &["3:11: a name or a password"]);
    check_more(&format!("{url}\"ftp://ops.example.org\""), &["3:11: neither http nor https"]);
    check_more("[events]\nwebhook = \"https://ops.example.org/h\"", &["2:11: without events.secret_file"]);
    check_more("[events]\nsecret_file = \"key\"", &["2:15: not an absolute path"]);
    check_more("[events]\nkinds = [\"banned\", \"bans\"]", &["2:20: there is no event \"bans\""]);
    check_more("[events]\nkinds = [\"banned\", \"banned\"]", &["2:20: names banned twice"]);
    check_more("[events]\nkinds = [\"test\"]", &["2:10: there is no event"]);
    check_more("[events]\ntimeout = \"5m\"", &["2:11: events.timeout must be 100ms to 1m"]);
    check_more("[events]\nwebhok = 1", &["2:1: did you mean `webhook`?"]);
}

#[test]
fn all_errors_are_found_at_once() {
    check(
        "hostnme = \"x\"\nexempt = [5, \"nonsense\"]\n[[listen]]\naddress = \"here\"\nrole = \"mx\"\nrol = 1\n\
         [limits]\nconnections = 0\nrecipients = \"x\"\n[edge]\nmode = \"fast\"\n",
        &[
            "1:1: did you mean `hostname`?",
            "2:11: wrong type: integer `5`",
            "2:14: is not an address or network",
            "4:11: is not an address and port",
            "6:1: did you mean `role`?",
            "8:15: limits.connections must be 1 to 1000000",
            "9:14: whole number",
            "11:8: edge.mode can't be \"fast\"",
        ],
    );
    let endless = "a = [\"x\"\n".to_owned() + &"b = 1\n".repeat(30);
    check(&endless, &["2:1: a list ends with ]"]);
    check("a = \nb = 2 3\nc = [\"\n", &["1:5: not TOML", "2:5: not TOML", "3:7: not TOML"]);
}

#[test]
fn values_are_checked() {
    check(
        "hostname = \"bad_name\"",
        &["1:12: is not a valid host name", "-: no [[listen]]", "-: backend.servers", "-: relay.domains"],
    );
    check_more("[limits]\nipv6_prefix = 31", &["2:15: must be 32 to 64"]);
    check_more("[limits]\nipv6_prefix = 65", &["2:15: must be 32 to 64"]);
    check_more("[limits]\nconnections = -1", &["2:15: -1 is out of range"]);
    check_more("[limits]\nmessage_size = \"0B\"", &["2:16: must be 1KiB to 10GiB"]);
    check_more("[limits]\nmessage_size = \"25MB\"", &["2:16: (B, KiB, MiB, GiB)"]);
    check_more("[limits]\nrecipients = 0", &["2:14: out of range"]);
    check_more("[limits]\nfailed_commands = 0", &["2:19: out of range"]);
    check_more("[limits]\ntotal_connections = 0", &["2:21: out of range"]);
    check_more("[limits]\nnetwork_connections = -1", &["2:23: out of range"]);
    check_more("[limits]\ntotal_connections = 9223372036854775807", &["2:21: out of range"]);
    check_more("[harvest]\nunknown_share = 1.1", &["2:17: must be 0 to 1"]);
    check_more("[harvest]\nunknown_share = 50", &["2:17: 0.5 is half"]);
    check_more("[harvest]\nunknown_share = nan", &["2:17: must be 0 to 1"]);
    check_more("[harvest]\nunknown_share = -0.1", &["2:17: must be 0 to 1"]);
    check_more("[harvest]\nunknown_share = 1", &[]);
    check_more("[harvest]\nunknown_recipients = 0", &["2:22: out of range"]);
    check_more("[harvest]\nwindow = \"0s\"", &["2:10: must be 1s to 7d"]);
    check_more("[harvest]\ndelay = \"0s\"", &[]);
    check_more("[harvest]\nban = \"1 hour\"", &["2:7: harvest.ban is not a duration"]);
    check_more("[harvest]\nban = \"2d\"\nban_max = \"1d\"", &["3:11: ban_max is below"]);
    check_more("[harvest]\nban = \"8d\"", &["2:7: ban_max is below"]);
    check_more("[edge]\nmax_sources = 0", &["2:15: out of range"]);
    check_more(
        "[edge]\ninterfaces = [\"a/b\", \"lo\", \"lo\"]",
        &["2:15: not an interface name", "2:28: names lo twice"],
    );
    check_more("[edge]\npin_directory = \"bpf\"", &["2:17: absolute path"]);
    check_more("[edge]\npin_directory = \"/sys/fs/bpf/a.b\"", &["2:17: a dot in the last name"]);
    check_more("[edge]\ngroup = \"a b\"", &["2:9: not the name of a group"]);
    check_more("[edge]\npin_directory = \"\"", &["2:17: absolute path"]);
    check_more("[recipients]\nknown = \"recipients\"", &["2:9: the whole path"]);
    check_more("[recipients]\nknown = \"\"", &[]);
    check_more("[recipients]\ntraps = [\"Trap@Example.ORG\"]", &[]);
    check_more("[recipients]\ntraps = [\"trap\"]", &["2:10: is not a mail address", "2:10: nobody can send there"]);
    check_more("[recipients]\ntraps = [\"trap@elsewhere.example\"]", &["2:10: elsewhere.example is not served"]);
    check_more("[metrics]\nlisten = \":9925\"", &["2:10: not an address and port"]);
    check_more("[metrics]\nlisten = \"127.0.0.1:0\"", &["2:10: there is no port 0"]);
    check_more("[dns]\nservers = [\"[2001:db8::53]:66000\"]", &["2:12: dns.servers: there is no port 66000"]);
    check_more("[log]\nlevel = \"inof\"", &["2:9: \"inof\" is not a level"]);
    check_more("[log]\nlevel = \"warn,smtp_guard=loud\"", &["2:9: is not a log filter"]);
    check_more("[log]\nlevel = \"warn,security=info,smtp_guard::relay=debug\"", &[]);
    let long = format!("[admin]\nsocket = \"/{}\"", "x".repeat(100));
    check_more(&long, &["2:10: 101 bytes"]);
}

#[test]
fn a_contact_fits_into_a_reply() {
    let contact = |text: &str| format!("[replies]\ncontact = \"{text}\"\n");
    check_more(&contact("https://example.org/blocked or postmaster@example.org"), &[]);
    check_more(&contact(""), &[]);
    check_more(&contact(&"x".repeat(128)), &[]);
    check_more(&contact(&"x".repeat(129)), &["2:11: 129 bytes"]);
    check_more(&contact("b\u{fc}ro@example.org"), &["2:11: can't stand in a reply"]);
    check_more(&contact("a\\r\\nb"), &["2:11: can't stand in a reply"]);
}

#[test]
fn addresses_and_names_are_checked() {
    let listen = |address: &str| format!("[[listen]]\naddress = \"{address}\"");
    check_more(&listen("0.0.0.0:25"), &["2:11: taken by 0.0.0.0:25"]);
    check_more(&listen("127.0.0.1:25"), &["2:11: taken by 0.0.0.0:25"]);
    check_more(&listen("[::]:25"), &[]);
    check_more(&listen("127.0.0.1:2525"), &[]);
    check_more(&listen("mx.example.org:25"), &["2:11: host names are not looked up"]);
    for address in ["0.0.0.0:99999", "[::]:65536", "0.0.0.0:0"] {
        check_more(&listen(address), &["2:11: write a port from 1 to 65535"]);
    }
    check_more("[[listen]]\n", &["1:1: without address"]);

    let two = |servers: &str, domains: &str| {
        format!(
            "[[listen]]\naddress = \"0.0.0.0:25\"\n[backend]\nservers = [{servers}]\n[relay]\ndomains = [{domains}]\n"
        )
    };
    check(&two("", "\"a.org\""), &["4:11: backend.servers is empty"]);
    // A13: containers have names.
    for server in ["mail:25", "mail_server:25", "mx.example.org:10025", "[2001:db8::1]:25", "localhost:26"] {
        check(&two(&format!("{server:?}"), "\"a.org\""), &[]);
    }
    for server in ["mail:0", "mail:70000", "10.0.0.1:65536", "[2001:db8::1]:0"] {
        check(&two(&format!("{server:?}"), "\"a.org\""), &["4:12: write a port from 1 to 65535"]);
    }
    for server in ["mail", "mail:", "10.0.0.300:25", "ma il:25", ":25", "2001:db8::1"] {
        check(&two(&format!("{server:?}"), "\"a.org\""), &["4:12: mail.example.org:25"]);
    }
    check(&two("\"10.0.0.1:25\"", ""), &["6:11: relay.domains is empty"]);
    check(&two("\"127.0.0.1:25\"", "\"a.org\""), &["4:12: mail loop"]);
    check(&two("\"0.0.0.0:25\"", "\"a.org\""), &["4:12: mail loop"]);
    check(&two("\"[::ffff:127.0.0.1]:25\"", "\"a.org\""), &["4:12: mail loop"]);
    check(&two("\"127.0.0.1:10025\", \"[::1]:25\"", "\"a.org\""), &[]);
    check(&two("\"10.0.0.1\"", "\"a.org\""), &["4:12: not an address or name with a port"]);
    for (domain, help) in [
        ("*.a.org", "wildcards"),
        ("@a.org", "behind the @"),
        ("192.0.2.1", "not an address"),
        ("[192.0.2.1]", "not an address"),
        ("a..org", "letters, digits"),
        ("", "letters, digits"),
        ("a b", "letters, digits"),
    ] {
        check(&two("\"10.0.0.1:25\"", &format!("\"{domain}\"")), &[&format!("6:12: {help}")]);
    }
    let config =
        parse(&two("\"10.0.0.1:25\"", "\"B.Example.ORG.\", \"a.org\", \"b.example.org\", \"grün.org\"")).unwrap();
    assert_eq!(config.relay.domains, ["a.org", "b.example.org", "xn--grn-ioa.org"], "as look-ups have them");
}

#[test]
fn an_open_relay_is_refused() {
    for (nets, expected) in [
        ("\"0.0.0.0/0\"", Some("2:13: open relay")),
        ("\"::/0\"", Some("2:13: open relay")),
        ("\"0.0.0.0/1\", \"10.0.0.0/8\"", Some("2:13: open relay")),
        ("\"2000::/3\"", Some("2:13: open relay")),
        ("\"2002::/16\"", Some("2:13: open relay")),
        ("\"::ffff:0:0/96\"", Some("2:13: open relay")),
        ("\"::ffff:0.0.0.0/97\"", Some("2:13: open relay")),
        ("\"10.0.0.0/8\", \"11.0.0.0/8\"", Some("2:12: together")),
        ("\"10.0.0.0/8\", \"192.168.0.0/16\", \"fc00::/7\", \"fe80::/10\", \"2001:db8::/32\"", None),
        ("\"::ffff:10.0.0.0/104\", \"127.0.0.1\", \"::1\"", None),
        ("\"10.1.2.3/8\"", Some("2:13: write \"10.1.2.3\" or \"10.0.0.0/8\"")),
        ("\"10.0.0.0/33\"", Some("2:13: not an address or network")),
        ("\"gateway\"", Some("2:13: not an address or network")),
    ] {
        // A second [relay] would be a duplicate: exempt and networks are judged by the same rules.
        let text = format!("exempt = []\nnetworks = [{nets}]").replace("exempt = []\n", "");
        let relay = format!("{LEAST}{text}\n");
        let expected: Vec<_> = expected.iter().map(|e| format!("{}{}", LINES + 1, &e[1..])).collect();
        check(&relay, &expected.iter().map(String::as_str).collect::<Vec<_>>());
        let exempt = format!("\nexempt   = [{nets}]\n{LEAST}");
        let expected: Vec<_> = expected.iter().map(|e| e.replacen(&(LINES + 1).to_string(), "2", 1)).collect();
        check(&exempt, &expected.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn what_is_valid_alone_may_be_wrong_together() {
    check_more("[limits]\nconnections = 50", &["2:15: must be above limits.connections"]);
    check_more("[edge]\nconnections = 20", &["2:15: edge has 20, limits has 20"]);
    check_more("[limits]\nconnections = 60\n[edge]\nconnections = 61", &[]);
    check_more("[metrics]\nlisten = \"127.0.0.1:25\"", &["2:10: is taken"]);
}

#[test]
fn profiles_are_checked() {
    let backend = |line: &str| LEAST.replace("[relay]", &format!("{line}\n[relay]"));
    check(&backend("profile = \"qmail\""), &["5:11: choose one of \"postfix\", \"exim\""]);
}

#[test]
fn checks_are_checked() {
    for key in ["sender_domain", "ptr", "ptr_forward", "early_talker", "dnsbl"] {
        for mode in ["off", "observe", "enforce"] {
            check_more(&format!("[checks]\n{key} = \"{mode}\""), &[]);
        }
        let column = key.len() + 4;
        check_more(&format!("[checks]\n{key} = \"on\""), &[&format!("2:{column}: choose one of \"off\", \"observe\"")]);
    }
    check_more("[checks]\ngreeting_delay = \"61s\"", &["2:18: must be 0s to 1m"]);
    check_more("[checks]\ndnsbl_threshold = 0", &["2:19: out of range"]);
    check_more("[dns]\ntimeout = \"0s\"", &["2:11: must be 2s to 1m"]);
    check_more("[dns]\nservers = [\"192.0.2.53\", \"192.0.2.53:54\", \"::1\", \"[::1]:54\"]", &[]);
    check_more(
        "[dns]\nservers = [\"dns.example\", \"0.0.0.0\", \"192.0.2.1:0\"]",
        &[
            "2:12: \"dns.example\" is not the address of a name server",
            "2:27: is not the address of a name server",
            "2:38: dns.servers: there is no port 0",
        ],
    );
    let zone = |more: &str| format!("[[dnsbl]]\nzone = \"bl.example.net\"\n{more}");
    check_more(&zone("weight = 2\nreplies = [\"127.0.0.2-127.0.0.11\", \"127.0.0.20\"]"), &[]);
    check_more(&zone("replies = [\"127.0.0.9-127.0.0.2\"]"), &["3:12: is not an answer of a DNS block list"]);
    check_more(&zone("replies = [\"10.0.0.1\"]"), &["3:12: within 127.0.0.0/8"]);
    check_more(&zone("weight = 0"), &["3:10: out of range"]);
    check_more(&zone("weight = -2"), &["3:10: weights are positive numbers"]);
    check_more(&zone(&zone("")), &["4:8: is named twice"]);
    check_more(&zone("replies = [\"127.0.0.0-127.0.0.1\"]"), &["3:12: from 127.0.0.2 on"]);
    check_more("[[dnsbl]]\nweight = 1", &["1:1: without zone"]);
    check_more("[[dnsbl]]\nzone = \"no zone\"", &["2:8: is not a domain name"]);
    check_more(&zone("name = \"zen\""), &[]);
    check_more(&zone("name = \"two words\""), &["3:8: can't be"]);
    check_more(&zone(&format!("name = \"bl\"\n{}", zone("name = \"bl2\""))), &["6:8: is named twice"]);
    check_more(
        "[[dnsbl]]\nzone = \"a.example\"\nname = \"bl\"\n[[dnsbl]]\nzone = \"b.example\"\nname = \"bl\"",
        &["6:8: is given twice"],
    );
    check_more("[[dnsbl]]\nzone = \"(not shown)\"\nname = \"bl\"", &["2:8: isn't shown"]);
    let many: String = (0..17).map(|n| format!("[[dnsbl]]\nzone = \"bl{n}.example.net\"\n")).collect();
    check_more(&many, &["34:8: more than 16 block lists"]);
}

#[test]
fn a_fleet_is_checked() {
    let fleet = |more: &str| format!("[fleet]\nkey_file = \"/k\"\n{more}");
    let url = |url: &str| fleet(&format!("url = [\"{url}\"]"));
    check_more(&fleet(""), &[]);
    for good in ["redis://10.0.0.5", "redis://[2001:db8::1]:6379", "rediss://fleet@redis.example.org:6380/"] {
        check_more(&url(good), &[]);
    }
    for bad in
        ["", "10.0.0.5:6379", "http://a", "redis://", "redis://a:b", "redis://a/0", "redis://a b", "redis://a@b@c"]
    {
        check_more(&url(bad), &["3:8: fleet.url is not the URL of a Redis or Valkey server"]);
    }
    check_more(&url("redis://fleet:secret@a"), &["3:8: put the password into the file"]);
    let many = vec!["\"redis://a\""; 17].join(",");
    check_more(&fleet(&format!("url = [{many}]")), &["3:200: name at most 16 servers"]);
    check_more("[fleet]\nurl = [\"redis://a\"]", &["2:7: a fleet without fleet.key_file"]);
    for name in ["", "a b", "{a}", &"x".repeat(65)] {
        check_more(&fleet(&format!("name = \"{name}\"")), &["3:8: fleet.name can't be"]);
        check_more(&fleet(&format!("node = \"{name}\"")), &["3:8: fleet.node can't be"]);
    }
    check_more(&fleet("sentinel = \"\"\nshare = \"receive\"\nsample = false"), &[]);
    check_more(&fleet("share = \"all\""), &["3:9: fleet.share can't be"]);
}

#[test]
fn block_lists_are_checked() {
    let list =
        |name: &str, file: &str, more: &str| format!("[[blocklist]]\nname = \"{name}\"\nfile = \"{file}\"\n{more}");
    check(&format!("blocklist = []\n{LEAST}"), &[]);
    check_more(&(list("drop", "/a", "") + &list("drop-2.b_c", "/b", "reload = \"1s\"")), &[]);
    check_more("[[blocklist]]\nname = \"drop\"", &["1:1: [[blocklist]] without file"]);
    check_more("[[blocklist]]\nfile = \"/a\"", &["1:1: [[blocklist]] without name"]);
    check_more("[[blocklist]]\nfle = \"/a\"", &["2:1: did you mean `file`?"]);
    check_more(&list("drop", "a", ""), &["3:8: blocklist.file is not an absolute path"]);
    check_more(&list("", "/a", ""), &["2:8: blocklist.name can't be"]);
    check_more(&list("two words", "/a", ""), &["2:8: blocklist.name can't be"]);
    check_more(&list(&"x".repeat(65), "/a", ""), &["2:8: at most 64"]);
    check_more(&(list("drop", "/a", "") + &list("drop", "/b", "")), &["5:8: blocklist.name drop is given twice"]);
    check_more(&(list("a", "/a", "") + &list("b", "/a", "")), &["5:8: that of a as well"]);
    check_more(&list("drop", "/a", "reload = \"0s\""), &["4:10: must be 1s to 7d"]);
    check_more(&list("drop", "/a", "reload = \"8d\""), &["4:10: must be 1s to 7d"]);
    let many: String = (0..65).map(|n| list(&format!("l{n}"), &format!("/{n}"), "")).collect();
    check_more(&many, &["194:8: more than 64 block lists"]);
}

#[test]
fn secrets_go_nowhere_in_clear_text() {
    const TLS: &str = "[tls]\ncertificate = \"/c\"\nkey = \"/k\"\n";
    let backend = |line: &str, more: &str| LEAST.replace("[relay]", &format!("{line}\n[relay]")) + more;
    let submission = "[[listen]]\naddress = \"0.0.0.0:587\"\nrole = \"submission\"\n";
    check_more(submission, &["3:8: a submission port needs TLS"]);
    check_more(&format!("{submission}{TLS}"), &[]);
    check_more(&format!("{submission}{TLS}[auth]\nvia = \"off\""), &["3:8: a submission port needs [auth]"]);
    check_more("[tls]\ncertificate = \"/c\"", &["2:15: tls.key is not set"]);
    check_more("[tls]\nkey = \"/k\"", &["2:7: tls.certificate is not set"]);
    check_more("[tls]\ncertificate = \"c\"\nkey = \"/k\"", &["2:15: tls.certificate is not an absolute path"]);
    check_more("[tls]\ncertificate = \"\"\nkey = \"\"", &[]);
    // A12: a second certificate, of another kind.
    let also = |more: &str| format!("{TLS}[[tls.also]]\n{more}\n");
    check_more(&also("certificate = \"/d\"\nkey = \"/l\""), &[]);
    check_more(&also("certificate = \"/d\""), &["5:15: tls.also.key is not set"]);
    check_more(&also("certificate = \"d\"\nkey = \"/l\""), &["5:15: tls.also.certificate is not an absolute path"]);
    check_more(&also(""), &["4:1: [[tls.also]] without certificate and key"]);
    check_more("[[tls.also]]\ncertificate = \"/d\"\nkey = \"/l\"", &["1:1: [[tls.also]] without [tls]"]);
    check(&backend("tls = \"off\"", "[auth]\nvia = \"backend\""), &["4:12: in clear text"]);
    check(&backend("tls = \"off\"", "[auth]\nvia = \"dovecot\""), &[]);
    check(&backend("tls = \"off\"", ""), &[]);
    check(&backend("tls = \"off\"", "").replace("10.0.0.10", "127.0.0.1").replace(":25\"]\ntls", ":26\"]\ntls"), &[]);
    check(&backend("tls = \"required\"", "[auth]\nvia = \"backend\""), &[]);
    check(&backend("tls_name = \"mx.example.org\"", ""), &["5:12: backend.tls_name has no effect"]);
    check(&backend("tls_ca = \"/ca\"", ""), &["5:10: backend.tls_ca has no effect"]);
    check(&backend("tls = \"verified\"\ntls_ca = \"/ca\"\ntls_name = \"mx.example.org\"", ""), &[]);
    check(&backend("tls = \"always\"", ""), &["5:7: choose one of \"off\", \"opportunistic\""]);
    check(&backend("identity = \"proxy\"", ""), &["5:12: \"proxy-v2\""]);
    check_more("[auth]\nvia = \"pam\"", &["2:7: choose one of \"backend\", \"dovecot\""]);
    check_more("authenticated = 1", &["1:17: true or false"]);
    let behind = |list: &str| format!("[[listen]]\naddress = \"0.0.0.0:24\"\nproxy_protocol = [{list}]");
    check_more(&behind("\"192.0.2.10\""), &[]);
    check_more(&behind("\"0.0.0.0/0\""), &["3:19: name only your balancers"]);
    check(&format!("drain = \"1h\"\n{LEAST}"), &["1:9: drain must be 0s to 10m"]);
}

#[test]
fn a8_a_list_is_shown_by_its_name_or_without_its_key() {
    let key = "abcdefghijklmnopqrstuvwxy7";
    let keyed = format!("{key}.zen.dq.example");
    for (zone, name, shown) in [
        ("bl.example.net", "", "bl.example.net"),
        ("BL.example.net.", "", "bl.example.net"),
        ("bl.example.net", "zen", "zen"),
        (keyed.as_str(), "", "*.zen.dq.example"),
        (keyed.as_str(), "zen", "zen"),
        ("a2345678901234567890.example", "", "a2345678901234567890.example"),
        ("a23456789012345678901.example", "", "*.example"),
        ("a2-3456789012345678901.example", "", "*.example"),
    ] {
        let name = if name.is_empty() { String::new() } else { format!("name = \"{name}\"\n") };
        let config = parse(&format!("{LEAST}[[dnsbl]]\nzone = \"{zone}\"\n{name}")).unwrap();
        assert_eq!(config.dnsbl[0].name, shown);
        assert_eq!(config.dnsbl[0].zone, zone.trim_end_matches('.').to_ascii_lowercase());
        let all = config.to_toml().unwrap() + &format!("{config:?}");
        assert_eq!(all.contains(&config.dnsbl[0].zone), shown == config.dnsbl[0].zone, "{zone}: {all}");
    }
    // Nor in what is said of a file that is wrong.
    let twice = format!("[[dnsbl]]\nzone = \"{keyed}\"\nname = \"bl\"\n").repeat(2);
    let broken = format!("[[dnsbl]]\nzone = \"{key}..zen.example\"\nname = \"bl\"\n");
    for text in [twice, broken] {
        let report = parse(&(LEAST.to_owned() + &text)).unwrap_err().to_string();
        assert!(report.contains("bl") && !report.contains(key), "{report}");
    }
}
