//! Commands, configurations, keys and metrics that README and docs name: each must be one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use smtp_guard_core::config::keys::{Kind, TABLES};
use smtp_guard_core::config::{Config, ConfigFile, Machine};

use super::Arguments;
use crate::written;

/// The least that is valid. A listener that no page has: blocks of several files are added up.
const LEAST: &str = "listen = [{ address = \"127.0.0.1:1\" }]\nbackend.servers = [\"10.0.0.10:25\"]\nrelay.domains = [\"example.org\"]\n";

/// Words in capitals that stand for a value, where not any word is one.
const STANDS_FOR: &[(&str, &str)] = &[
    ("IP", "192.0.2.1"),
    ("ADDRESS", "192.0.2.1"),
    ("NETWORK", "192.0.2.0/24"),
    ("SHELL", "bash"),
    ("DURATION", "1s"),
];

/// The pages whose words are about the program as it is now.
fn pages() -> Vec<(String, String)> {
    let names = fs::read_dir(written::path("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| format!("docs/{}", name.to_string_lossy())).filter(|name| name.ends_with(".md"));
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"].map(str::to_owned);
    let existing = top.into_iter().chain(names).filter(|name| written::path(name).exists());
    existing
        .map(|name| {
            let text = fs::read_to_string(written::path(&name)).unwrap();
            (name, text)
        })
        .collect()
}

/// Code of a page: what stands in a block of a language, or in a sentence.
enum Code {
    Block(String, String),
    Word(String),
}

fn code(page: &str) -> Vec<Code> {
    let (mut found, mut block) = (Vec::new(), None);
    for event in Parser::new(page) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                block = Some((language.to_string(), String::new()));
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Indented)) => block = Some((String::new(), String::new())),
            Event::Text(text) => {
                if let Some((_, code)) = &mut block {
                    code.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => {
                found.extend(block.take().map(|(language, text)| Code::Block(language, text)))
            }
            Event::Code(word) => found.push(Code::Word(word.to_string())),
            _ => {}
        }
    }
    found
}

/// The commands `smtp-guard ...` of `line`, without what a shell makes of it.
fn commands(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap_or(line);
    let mut found = Vec::new();
    for part in line.split(['|', ';', '>', '<', '&', '(', ')']) {
        let words = words(part);
        // Behind a command that runs another one; `--` is the end of its own options.
        let Some(start) = words.iter().rposition(|word| word == "smtp-guard" || word == "/usr/bin/smtp-guard") else {
            continue;
        };
        let before = words.get(..start).unwrap_or(&[]);
        let runs = ["runuser", "sudo", "ssh"].iter().any(|runner| before.first().is_some_and(|word| word == runner));
        // In a drawing it is no command.
        let drawn = words.get(start.saturating_add(1)).is_some_and(|word| !word.is_ascii());
        if drawn {
            continue;
        }
        if runs || before.is_empty() || before.iter().all(|word| word.contains('=')) {
            found.push(words.get(start..).unwrap_or(&[]).to_vec());
        }
    }
    found
}

/// The words of a command; quotes keep several together.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut quoted, mut word) = (Vec::new(), false, None::<String>);
    for c in text.chars() {
        match c {
            '"' | '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Whether the words are a command. One that stands in a sentence may be without what it must be given.
fn is_command(words: &[String], complete: bool) -> Result<(), String> {
    let given = |word: &String| {
        let known = STANDS_FOR.iter().find(|(name, _)| name == word);
        known.map_or_else(|| word.trim_end_matches(',').to_owned(), |(_, value)| (*value).to_owned())
    };
    let Err(error) = Arguments::try_parse_from(words.iter().filter(|word| complete || *word != "...").map(given))
    else {
        return Ok(());
    };
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::TooFewValues
            if !complete =>
        {
            Ok(())
        }
        // An option that is named without its value.
        ErrorKind::InvalidValue if !complete && error.to_string().contains("a value is required") => Ok(()),
        _ => Err(error.to_string()),
    }
}

#[test]
fn commands_are_found_in_lines_and_judged() {
    for (line, expected) in [
        ("smtp-guard status   # shows it", Some(true)),
        ("runuser -u smtp-guard -- smtp-guard check --connect", Some(true)),
        ("ssh mail smtp-guard decisions export --format json | smtp-guard decisions import -", Some(true)),
        ("smtp-guard decisions add 192.0.2.0/24 --reason \"spam run\"", Some(true)),
        ("smtp-guard explain IP", Some(true)),
        ("smtp-guard explain", Some(false)),
        ("smtp-guard decision list", Some(false)),
        ("smtp-guard check --conect", Some(false)),
        ("systemctl restart smtp-guard", None),
        ("smtp-guard \u{2500}\u{2500}> Postfix", None),
    ] {
        let found = commands(line);
        let good = (!found.is_empty()).then(|| found.iter().all(|words| is_command(words, true).is_ok()));
        assert_eq!(good, expected, "{line}");
    }
    assert!(is_command(&words("smtp-guard explain"), false).is_ok(), "a sentence may name a command alone");
}

#[test]
fn commands_are_commands() {
    let mut found = 0;
    for (name, page) in pages() {
        for code in code(&page) {
            let (lines, complete): (Vec<_>, _) = match &code {
                Code::Block(_, text) => (text.lines().collect(), true),
                Code::Word(word) => (vec![word.as_str()], false),
            };
            for command in lines.into_iter().flat_map(commands) {
                is_command(&command, complete).unwrap_or_else(|error| panic!("{name}: {}: {error}", command.join(" ")));
                found += 1;
            }
        }
    }
    assert!(found > 100, "{found} commands");
}

#[test]
fn configurations_are_valid() {
    let mut found = 0;
    for (name, page) in pages() {
        for code in code(&page) {
            let Code::Block(language, text) = code else { continue };
            let is_toml = language == "toml" || language.is_empty() && text.starts_with('[') && text.contains(" = ");
            // The same brackets are in a unit of systemd and in a jail of fail2ban.
            if !is_toml || text.contains("ExecStart") || text.contains("filter  =") {
                continue;
            }
            let files = [("least.toml", LEAST), (name.as_str(), text.as_str())];
            let files = files.map(|(path, text)| ConfigFile::new(Path::new(path), text));
            if let Err(report) = Config::merged(&files, &Machine::default()) {
                panic!("{name}:\n{text}\n{}", report.render(false));
            }
            found += 1;
        }
    }
    assert!(found > 3, "{found} configurations");
}

#[test]
fn keys_are_keys() {
    let mut keys = BTreeSet::new();
    for table in TABLES {
        keys.extend(table.keys.iter().map(|key| format!("{}.{}", table.name, key.name)));
    }
    for (name, page) in pages() {
        for code in code(&page) {
            let Code::Word(word) = code else { continue };
            let key = word.split([' ', '=']).next().unwrap_or("");
            let Some((table, _)) = key.rsplit_once('.') else { continue };
            let plain = key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.'));
            if plain && TABLES.iter().any(|known| !table.is_empty() && known.name == table) && !key.ends_with(".rs") {
                assert!(keys.contains(key), "{name}: {key} is no key of the configuration");
            }
        }
    }
}

/// The roll-out begins with all checks on `observe`: its file must name each key that can.
#[test]
fn the_rollout_observes_by_every_check() {
    let page = fs::read_to_string(written::path("docs/rollout.md")).unwrap();
    let observing = |kind: &Kind| matches!(kind, Kind::Choice(names) if names.contains(&"observe"));
    let mut found = 0;
    for table in TABLES {
        for key in table.keys.iter().filter(|key| observing(&key.kind)) {
            let line = format!("{} = \"observe\"", key.name);
            assert!(
                table.name == "checks" && page.contains(&line),
                "docs/rollout.md lacks {}.{}",
                table.name,
                key.name
            );
            found += 1;
        }
    }
    assert!(found > 0 && page.contains("Only the five checks") == (found == 5), "{found} checks");
}

#[test]
fn metrics_are_metrics() {
    let known = fs::read_to_string(written::path("docs/metrics.md")).unwrap();
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let known: BTreeSet<_> = known.split(|c| !plain(c)).filter(|word| word.starts_with("smtp_guard_")).collect();
    for (name, page) in pages() {
        for word in page.split(|c| !plain(c)).filter(|word| word.starts_with("smtp_guard_")) {
            let exists =
                known.contains(word) || word.ends_with('_') && known.iter().any(|known| known.starts_with(word));
            assert!(exists || name == "ARCHITECTURE.md", "{name}: there is no metric {word}");
        }
    }
}

/// A list of commands shows the first line alone.
#[test]
fn help_begins_with_a_noun_or_a_verb() {
    let mut faults = Vec::new();
    judge(&Arguments::command(), &mut faults);
    assert!(faults.is_empty(), "{faults:#?}");
}

fn judge(command: &clap::Command, faults: &mut Vec<String>) {
    let about = command.get_about().map(|text| (command.get_name().to_owned(), text.to_string()));
    let arguments = command.get_arguments().filter_map(|argument| {
        Some((format!("{} {}", command.get_name(), argument.get_id()), argument.get_help()?.to_string()))
    });
    for (name, text) in about.into_iter().chain(arguments) {
        let first = text.split_whitespace().next().unwrap_or("");
        if ["What", "Who", "Whom", "Whose", "It", "Its", "They", "That", "Of"].contains(&first) {
            faults.push(format!("{name}: {text}"));
        }
    }
    command.get_subcommands().for_each(|command| judge(command, faults));
}
