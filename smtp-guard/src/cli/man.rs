//! Manual pages: one for each command, from what clap knows and what it doesn't, and smtp-guard.toml(5) from the table of keys.

use std::io;
use std::path::Path;

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};

use crate::config::keys::{Key, TABLES};

const SOURCE: &str = concat!("smtp-guard ", env!("CARGO_PKG_VERSION"));
const MANUAL: &str = "smtp-guard manual";

const FILES: &[(&str, &str)] = &[
    ("/etc/smtp-guard/smtp-guard.toml", "The configuration, unless --config or $SMTP_GUARD_CONFIG names another file."),
    ("/etc/smtp-guard/smtp-guard.toml.d/*.toml", "Drop-ins, read after it in the order of their names."),
    ("/run/smtp-guard/admin.sock", "The socket of the running guard (admin.socket)."),
    ("/var/lib/smtp-guard/", "Decisions and counts (state.directory)."),
    ("/sys/fs/bpf/smtp-guard/", "Programs and maps of the kernel plane (edge.pin_directory)."),
];

const STATUS: &[(&str, &str)] = &[
    ("0", "Done. explain exits with 0 whether somebody is blocked or not."),
    ("1", "Failed; standard error says why."),
    ("2", "Wrong usage."),
    ("78", "The configuration can't be used."),
];

/// Commands that run until they are told to end, and what signals do to them.
const SIGNALS: &[(&str, &[(&str, &str)])] = &[
    (
        "run",
        &[
            ("SIGTERM, SIGINT", "No new connections; sessions under way may end within drain."),
            ("SIGHUP", "The configuration is read again, as by smtp-guard-reload(1)."),
        ],
    ),
    (
        "edge watch",
        &[
            ("SIGTERM, SIGINT", "It ends; the kernel plane stays loaded."),
            ("SIGHUP", "The configuration is read again, and the kernel plane changed in place."),
        ],
    ),
    ("events", &[("SIGINT", "It ends.")]),
    ("top", &[("SIGTERM, SIGINT", "It ends, and the terminal is as it was.")]),
];

/// Examples, by command.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("", &["smtp-guard check", "smtp-guard status", "smtp-guard explain 192.0.2.1"]),
    ("run", &["smtp-guard run --config /etc/smtp-guard/smtp-guard.toml"]),
    ("setup", &["smtp-guard setup"]),
    ("check", &["runuser -u smtp-guard -- smtp-guard check"]),
    ("reload", &["smtp-guard reload --dry-run", "smtp-guard reload --wait"]),
    ("config", &["smtp-guard config diff"]),
    ("config show", &["smtp-guard config show --defaults"]),
    ("config diff", &["smtp-guard config diff --json"]),
    ("status", &["smtp-guard status --json"]),
    ("top", &["smtp-guard top --interval 500ms"]),
    ("events", &["smtp-guard events --follow"]),
    ("explain", &["smtp-guard explain 192.0.2.1", "smtp-guard explain bob@example.org"]),
    ("decisions", &["smtp-guard decisions list"]),
    ("decisions list", &["smtp-guard decisions list --json"]),
    ("decisions add", &["smtp-guard decisions add 192.0.2.0/24 --for 1d --reason \"abuse report\""]),
    ("decisions import", &["smtp-guard decisions import drop.txt --for 7d"]),
    ("decisions export", &["smtp-guard decisions export --format nft"]),
    ("decisions delete", &["smtp-guard decisions delete 192.0.2.1", "smtp-guard decisions delete --all"]),
    ("accounts", &["smtp-guard accounts list"]),
    ("accounts list", &["smtp-guard accounts list --json"]),
    ("accounts hold", &["smtp-guard accounts hold bob --for 1h --reason stolen"]),
    ("accounts release", &["smtp-guard accounts release bob"]),
    ("fleet", &["smtp-guard fleet status"]),
    ("fleet status", &["smtp-guard fleet status --json"]),
    ("try", &["smtp-guard try --from 192.0.2.1 --mail-from a@example.com --rcpt-to b@example.org"]),
    ("edge", &["smtp-guard edge status"]),
    ("edge load", &["smtp-guard edge load --interface eth0"]),
    ("edge watch", &["smtp-guard edge watch"]),
    ("edge unload", &["smtp-guard edge unload"]),
    ("edge status", &["smtp-guard edge status --json"]),
    ("recipients", &["smtp-guard recipients export-postfix --help"]),
    ("recipients export-postfix", &["smtp-guard recipients export-postfix --help"]),
    ("recipients export-exim", &["smtp-guard recipients export-exim --help"]),
    ("sink", &["smtp-guard sink --listen 127.0.0.1:2526 --maildir /tmp/maildir"]),
    ("man", &["smtp-guard man /usr/local/share/man/man1"]),
    ("completions", &["smtp-guard completions bash"]),
];

/// Writes all pages into `directory`.
pub(super) fn write(command: Command, directory: &Path) -> io::Result<()> {
    for (name, page) in pages(command)? {
        std::fs::write(directory.join(name), page)?;
    }
    Ok(())
}

/// The page of the program itself.
pub(super) fn first(command: Command) -> io::Result<String> {
    let mut command = command;
    command.build();
    page(&command, &[])
}

/// All pages by the names of their files.
fn pages(mut command: Command) -> io::Result<Vec<(String, String)>> {
    command.build();
    let mut pages = vec![(String::from("smtp-guard.toml.5"), configuration())];
    walk(&command, &mut Vec::new(), &mut pages)?;
    Ok(pages)
}

fn walk<'a>(command: &'a Command, path: &mut Vec<&'a str>, pages: &mut Vec<(String, String)>) -> io::Result<()> {
    pages.push((format!("{}.1", file_name(path)), page(command, path)?));
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help") {
        path.push(below.get_name());
        walk(below, path, pages)?;
        path.pop();
    }
    Ok(())
}

fn file_name(path: &[&str]) -> String {
    [&["smtp-guard"], path].concat().join("-")
}

fn page(command: &Command, path: &[&str]) -> io::Result<String> {
    let (words, name) = (path.join(" "), file_name(path));
    let mut text = Vec::new();
    let renamed = command.clone().display_name(name.clone()).disable_help_subcommand(true);
    // Short, so that the header fits into 80 columns.
    let title = if name.len() > 24 { "SMTP-GUARD".to_owned() } else { name.to_uppercase() };
    let man = Man::new(renamed);
    text.extend_from_slice(title_line(&title, 1).as_bytes());
    man.render_name_section(&mut text)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    roff.text(synopsis(command, path));
    roff.to_writer(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    let mut roff = Roff::new();
    let below: Vec<_> =
        command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help").collect();
    if !below.is_empty() {
        roff.control("SH", ["COMMANDS"]);
        for command in &below {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            entry(&mut roff, &format!("{}-{}(1)", name, command.get_name()), &about);
        }
    }
    if let Some((_, examples)) = EXAMPLES.iter().find(|(of, _)| *of == words) {
        roff.control("SH", ["EXAMPLES"]);
        for (at, example) in examples.iter().enumerate() {
            if at > 0 {
                roff.control("PP", []);
            }
            roff.text([roman("$ "), bold(*example)]);
        }
    }
    section(&mut roff, "FILES", FILES);
    if let Some((_, signals)) = SIGNALS.iter().find(|(of, _)| *of == words) {
        section(&mut roff, "SIGNALS", signals);
    }
    section(&mut roff, "EXIT STATUS", STATUS);
    roff.control("SH", ["SEE ALSO"]);
    let above = path.split_last().map(|(_, above)| format!("{}(1), ", file_name(above))).unwrap_or_default();
    roff.text([roman(format!("{above}smtp-guard.toml(5)"))]);
    roff.to_writer(&mut text)?;
    String::from_utf8(text).map_err(io::Error::other)
}

/// How `command` is called, with every argument.
fn synopsis(command: &Command, path: &[&str]) -> Vec<Inline> {
    let mut line = vec![bold([&["smtp-guard"], path].concat().join(" "))];
    let shown = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    for arg in command.get_arguments().filter(shown) {
        let value = || {
            let names = arg.get_value_names().unwrap_or_default();
            names.first().map_or_else(|| arg.get_id().to_string().to_uppercase(), ToString::to_string)
        };
        let takes = arg.get_action().takes_values();
        let word = match arg.get_long() {
            Some(long) if takes => format!("--{long} {}", value()),
            Some(long) => format!("--{long}"),
            None => value(),
        };
        let word = if arg.is_required_set() { word } else { format!("[{word}]") };
        let repeated = matches!(arg.get_action(), clap::ArgAction::Append);
        line.push(roman(format!(" {word}{}", if repeated { "..." } else { "" })));
    }
    if command.get_subcommands().next().is_some() {
        line.push(roman(" COMMAND ..."));
    }
    line
}

fn section(roff: &mut Roff, name: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [name]);
    entries.iter().for_each(|(term, text)| entry(roff, term, text));
}

fn entry(roff: &mut Roff, term: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(term)]);
    roff.text([roman(text)]);
}

/// smtp-guard.toml(5).
fn configuration() -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["NAME"]);
    roff.text([roman("smtp-guard.toml - configuration of smtp-guard(1)")]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "A file in TOML. Durations are written as 500ms, 6s, 1h or 7d, sizes as 25MiB, networks in CIDR. \
         smtp-guard-check(1) names every error with line and column; smtp-guard-config-show(1) shows what is in force. \
         A reload changes all but what is marked: needs a restart.",
    )]);
    for table in TABLES {
        roff.control(
            "SH",
            [if table.name.is_empty() { String::from("TOP LEVEL") } else { table.name.to_uppercase() }]
                .iter()
                .map(String::as_str),
        );
        if !table.doc.is_empty() {
            roff.text([roman(plain(table.doc))]);
        }
        for Key { name, kind, default, example, must, restart, doc } in table.keys {
            let mut text = format!("{}. ", plain(&kind.text()));
            text += &match (must, example) {
                (true, _) => String::from("It has to be set. "),
                (false, true) => String::from("There is no default. "),
                (false, false) => format!("Default: {default}. "),
            };
            text += &plain(doc);
            if let Some(why) = restart {
                text += &format!(" It needs a restart: {}.", plain(why));
            }
            entry(&mut roff, name, &text);
        }
    }
    section(&mut roff, "FILES", FILES);
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("smtp-guard(1), smtp-guard-check(1), smtp-guard-reload(1)")]);
    title_line("SMTP-GUARD.TOML", 5) + &roff.to_roff()
}

/// The line that a page begins with. A page has no date of its own, and an empty one needs its quotation marks.
fn title_line(title: &str, section: u8) -> String {
    format!(".TH \"{title}\" \"{section}\" \"\" \"{SOURCE}\" \"{MANUAL}\"\n")
}

/// Without the marks of Markdown.
fn plain(text: &str) -> String {
    text.replace('`', "")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Arguments;

    #[test]
    fn each_command_has_a_page_with_all_sections() {
        let pages = pages(Arguments::command()).unwrap();
        assert!(pages.len() > 25, "{}", pages.len());
        for (name, page) in pages.iter().filter(|(name, _)| name.ends_with(".1")) {
            for section in ["SYNOPSIS", "DESCRIPTION", "EXAMPLES", "FILES", "\"EXIT STATUS\"", "\"SEE ALSO\""] {
                assert!(page.contains(&format!(".SH {section}")), "{name} has no {section}:\n{page}");
            }
            let title = page.lines().find(|line| line.starts_with(".TH")).unwrap();
            assert!(title.len() < 100, "{title}");
        }
        let of = |name: &str| &pages.iter().find(|(file, _)| file == name).unwrap().1;
        assert!(of("smtp-guard-run.1").contains(".SH SIGNALS") && of("smtp-guard-run.1").contains("SIGHUP"));
        let add = of("smtp-guard-decisions-add.1").replace('\\', "");
        assert!(add.contains("ADDRESS|NETWORK") && add.contains("[--for DURATION]"), "{add}");
        let keys = TABLES.iter().flat_map(|table| table.keys);
        let reference = of("smtp-guard.toml.5").replace('\\', "");
        keys.for_each(|key| assert!(reference.contains(&format!("fB{}fR", key.name)), "{}", key.name));
    }
}
