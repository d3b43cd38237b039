//! The packaged file, the defaults and what `config show` writes, held against each other; and any file at all.

use proptest::prelude::*;

use super::*;
use crate::addr::BackendAddr;

const PACKAGED: &str = include_str!("../../../../../packaging/smtp-guard.toml");

/// The packaged file with every default that is commented out put in force.
fn uncommented() -> String {
    let is_key = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    };
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(key) if is_key(key) || key == "[[listen]]" => key,
        _ => line,
    };
    PACKAGED.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn as_json(config: &Config) -> serde_json::Value {
    serde_json::to_value(config).unwrap()
}

#[test]
fn the_packaged_file_shows_the_defaults() {
    let shown = as_json(&parse(&uncommented()).unwrap());
    let mut defaults = as_json(&Config::defaults(&Machine::default()));
    for (table, key) in [("backend", "servers"), ("relay", "domains"), ("fleet", "node")] {
        defaults[table][key] = shown[table][key].clone();
    }
    // What has to be set, and what depends on the host.
    for key in ["listen", "hostname"] {
        defaults[key] = shown[key].clone();
    }
    assert_eq!(defaults, shown);
}

/// A package can tell by `check` that nobody has configured it.
#[test]
fn the_packaged_file_sets_nothing() {
    let missing = ["-: no [[listen]]", "-: backend.servers is empty", "-: relay.domains is empty"];
    check(PACKAGED, &missing);
    let set = PACKAGED.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '[']));
    assert_eq!(set.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn every_row_has_a_sentence() {
    for table in keys::TABLES {
        assert!(table.keys.iter().all(|key| !key.doc.is_empty()), "[{}]", table.name);
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
    for config in [parse(&text).unwrap(), parse(&uncommented()).unwrap()] {
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
