//! The packaged file, the defaults and what `config show` writes, held against each other; and any file at all.

use proptest::prelude::*;

use super::*;

const PACKAGED: &str = include_str!("../../../../../packaging/smtp-guard.toml");

/// The packaged file with every default that is commented out put in force.
fn uncommented() -> String {
    let is_key = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    };
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(key) if is_key(key) => key,
        _ => line,
    };
    PACKAGED.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn as_json(config: &Config) -> serde_json::Value {
    serde_json::to_value(config).unwrap()
}

#[test]
fn the_packaged_file_shows_the_defaults() {
    let shipped = as_json(&parse(PACKAGED).unwrap());
    let mut shown = as_json(&parse(&uncommented()).unwrap());
    // The one default that depends on the host.
    shown["hostname"] = shipped["hostname"].clone();
    assert_eq!(shipped, shown);
    let mut defaults = as_json(&Config::defaults(&Machine::default()));
    for (table, key) in [("backend", "servers"), ("relay", "domains")] {
        defaults[table][key] = shipped[table][key].clone();
    }
    defaults["listen"] = shipped["listen"].clone();
    assert_eq!(defaults, shipped);
}

#[test]
fn every_key_has_one_row() {
    let tables: &[(&str, &[&str], &[&str])] = &[
        (
            "",
            raw::Raw::KEYS,
            // Tables, not keys.
            &[
                "listen",
                "tls",
                "backend",
                "replies",
                "relay",
                "auth",
                "recipients",
                "limits",
                "harvest",
                "checks",
                "dnsbl",
                "dns",
                "edge",
                "blocklist",
                "metrics",
                "admin",
                "state",
                "log",
            ],
        ),
        ("listen", raw::Listen::KEYS, &[]),
        ("tls", raw::Tls::KEYS, &["also"]),
        ("tls.also", raw::Pair::KEYS, &[]),
        ("backend", raw::Backend::KEYS, &[]),
        ("replies", raw::Replies::KEYS, &[]),
        ("relay", raw::Relay::KEYS, &[]),
        ("auth", raw::Auth::KEYS, &[]),
        ("recipients", raw::Recipients::KEYS, &[]),
        ("limits", raw::Limits::KEYS, &[]),
        ("harvest", raw::Harvest::KEYS, &[]),
        ("checks", raw::Checks::KEYS, &[]),
        ("dnsbl", raw::Dnsbl::KEYS, &[]),
        ("dns", raw::Dns::KEYS, &[]),
        ("edge", raw::Edge::KEYS, &[]),
        ("blocklist", raw::Blocklist::KEYS, &[]),
        ("metrics", raw::Metrics::KEYS, &[]),
        ("admin", raw::Admin::KEYS, &[]),
        ("state", raw::State::KEYS, &[]),
        ("log", raw::Log::KEYS, &[]),
    ];
    assert_eq!(tables.len(), keys::TABLES.len());
    for (name, known, not_keys) in tables {
        let table = keys::TABLES.iter().find(|table| table.name == *name).unwrap();
        let mut rows: Vec<_> = table.keys.iter().map(|key| key.name).chain(not_keys.iter().copied()).collect();
        let mut known = known.to_vec();
        rows.sort_unstable();
        known.sort_unstable();
        assert_eq!(rows, known, "{name}");
        assert!(table.keys.iter().all(|key| !key.doc.is_empty()), "{name}");
    }
}

/// A value of each kind beyond its range is refused with the range of its row.
#[test]
fn ranges_are_those_of_the_rows() {
    use keys::{Kind, Shown};
    for table in keys::TABLES.iter().filter(|table| table.shown == Shown::Once) {
        for key in table.keys {
            let beyond = match key.kind {
                Kind::Number(_, high) => (u64::from(high) + 1).to_string(),
                Kind::Duration(_, high) => format!("\"{}ms\"", high + 1),
                Kind::Size(_, high) => format!("\"{}B\"", high + 1),
                Kind::Share => String::from("1.1"),
                Kind::Choice(_) => String::from("\"no such word\""),
                Kind::Switch | Kind::Text(_) | Kind::List(_) => continue,
            };
            let line = format!("{} = {beyond}\n", key.name);
            let heading = format!("[{}]\n", table.name);
            let text = match LEAST.contains(&heading) {
                true => LEAST.replace(&heading, &(heading.clone() + &line)),
                false if table.name.is_empty() => line + LEAST,
                false => format!("{LEAST}{heading}{line}"),
            };
            let report = parse(&text).unwrap_err().render(false);
            assert!(report.contains(key.name), "{}.{}: {report}", table.name, key.name);
        }
    }
}

#[test]
fn what_is_shown_is_read_as_the_same() {
    let text = "exempt = [\"10.0.0.0/8\", \"2001:db8::1\"]\n".to_owned()
        + LEAST
        + "networks = [\"192.0.2.0/24\"]\nauthenticated = false\n[tls]\ncertificate = \"/c\"\nkey = \"/k\"\n\
           [[tls.also]]\ncertificate = \"/d\"\nkey = \"/l\"\n[auth]\nvia = \"dovecot\"\n[recipients]\nknown = \"/r\"\n[limits]\nmessage_size = \"1025KiB\"\n\
           ipv6_prefix = 56\n[harvest]\nwindow = \"90s\"\nunknown_share = 0.25\n[edge]\ninterfaces = [\"lo\"]\n\
           mode = \"generic\"\n[checks]\nptr = \"enforce\"\n[[dnsbl]]\nzone = \"bl.example.net\"\nweight = 3\n\
           replies = [\"127.0.0.2\", \"127.0.0.4-127.0.0.9\"]\n[dns]\nservers = [\"192.0.2.53\", \"[::1]:54\"]\n\
           [[blocklist]]\nname = \"drop\"\nfile = \"/d\"\nreload = \"90s\"\n[metrics]\nlisten = \"\"\n[log]\nformat = \"text\"\n";
    for config in [parse(&text).unwrap(), parse(PACKAGED).unwrap()] {
        let again = parse(&config.to_toml().unwrap()).unwrap();
        assert_eq!(as_json(&again), as_json(&config));
        assert_eq!(format!("{again:?}"), format!("{config:?}"));
    }
}

#[test]
fn the_built_in_configuration_lacks_only_its_sink() {
    let mut config = Config::builtin();
    config.backend.servers = vec![BackendAddr::Address("127.0.0.1:2526".parse().unwrap())];
    let again = parse(&config.to_toml().unwrap()).unwrap();
    assert_eq!(as_json(&again), as_json(&config));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever stands in the file: it is read or refused, and the report can be shown.
    #[test]
    fn no_file_is_too_odd(at: prop::sample::Index, length in 0_usize..40, put in ".{0,12}") {
        let text: Vec<char> = uncommented().chars().collect();
        let at = at.index(text.len());
        let rest = &text[(at + length).min(text.len())..];
        let odd: String = text[..at].iter().copied().chain(put.chars()).chain(rest.iter().copied()).collect();
        if let Err(report) = parse(&odd) {
            prop_assert!(report.render(false).contains("error: "));
            prop_assert!(report.render(true).contains("test.toml"));
        }
    }
}
