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
fn the_packaged_file_names_every_supported_key() {
    let text = uncommented();
    let document: toml::Table = text.parse().unwrap();
    let tables = [
        ("backend", raw::Backend::KEYS),
        ("tls", raw::Tls::KEYS),
        ("relay", raw::Relay::KEYS),
        ("auth", raw::Auth::KEYS),
        ("recipients", raw::Recipients::KEYS),
        ("limits", raw::Limits::KEYS),
        ("harvest", raw::Harvest::KEYS),
        ("checks", raw::Checks::KEYS),
        ("dns", raw::Dns::KEYS),
        ("edge", raw::Edge::KEYS),
        ("metrics", raw::Metrics::KEYS),
        ("admin", raw::Admin::KEYS),
        ("state", raw::State::KEYS),
        ("log", raw::Log::KEYS),
    ];
    for (table, keys) in tables {
        for key in keys.iter().filter(|key| **key != "also") {
            assert!(document[table].get(key).is_some(), "{table}.{key} is missing");
        }
    }
    for key in raw::Listen::KEYS {
        assert!(document["listen"][0].get(key).is_some(), "listen.{key} is missing");
    }
    for key in raw::Pair::KEYS {
        assert!(PACKAGED.contains(&format!("#  {key} = ")), "tls.also.{key} is missing");
    }
    for key in raw::Dnsbl::KEYS {
        assert!(PACKAGED.contains(&format!("#  {key} = ")), "dnsbl.{key} is missing");
    }
    for key in raw::Blocklist::KEYS {
        assert!(PACKAGED.contains(&format!("#  {key} = ")), "blocklist.{key} is missing");
    }
    for key in raw::Raw::KEYS {
        // Empty by default, and shown as an example.
        let absent = ["dnsbl", "blocklist"].contains(key);
        assert_eq!(document.get(*key).is_none(), absent, "{key}");
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
