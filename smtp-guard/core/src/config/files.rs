//! Several files that are one configuration: the main file, and drop-ins that are merged into it in their order.
//!
//! A table is merged key by key. An array of tables (`[[listen]]`) is appended to. Any other value, a list of texts included,
//! takes the place of an earlier one. All files share one space of byte positions, so that a problem is shown in its own file.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// A file of the configuration, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigFile {
    /// Names the file in a report.
    pub path: PathBuf,
    pub text: String,
}

impl ConfigFile {
    pub fn new(path: &Path, text: impl Into<String>) -> Self {
        Self { path: path.to_owned(), text: text.into() }
    }
}

/// Where each of `files` begins in the common space. Between two there is a byte that belongs to neither, so that an error at the
/// end of one is not one at the beginning of the next.
pub(super) fn starts(files: &[ConfigFile]) -> impl Iterator<Item = (usize, &ConfigFile)> {
    files.iter().scan(0, |next, file| {
        let start = *next;
        *next += file.text.len() + 1;
        Some((start, file))
    })
}

/// The file that holds the position `at`, and where that file begins.
pub(super) fn holding(files: &[ConfigFile], at: usize) -> Option<(usize, &ConfigFile)> {
    starts(files).take_while(|(start, _)| *start <= at).last()
}

/// `table` with its positions moved by `by`.
pub(super) fn moved(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    let place = |span: Range<usize>| span.start + by..span.end + by;
    let entries = table.into_iter().map(|(key, value)| {
        let span = place(key.span());
        (Spanned::new(span, key.into_inner()), moved_value(value, by))
    });
    entries.collect()
}

fn moved_value(value: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
    let span = value.span();
    let inner = match value.into_inner() {
        DeValue::Table(table) => DeValue::Table(moved(table, by)),
        DeValue::Array(array) => DeValue::Array(array.into_iter().map(|element| moved_value(element, by)).collect()),
        scalar => scalar,
    };
    Spanned::new(span.start + by..span.end + by, inner)
}

/// Merges `later` into `table`.
pub(super) fn merge<'a>(table: &mut DeTable<'a>, later: DeTable<'a>) {
    for (key, mut value) in later {
        match (table.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.get_mut()) {
            (Some(DeValue::Table(one)), DeValue::Table(other)) => merge(one, std::mem::take(other)),
            (Some(DeValue::Array(one)), DeValue::Array(other)) if of_tables(one) && of_tables(other) => {
                std::mem::replace(other, DeArray::new()).into_iter().for_each(|element| one.push(element));
            }
            _ => {
                // Taken out first: an insertion would leave the position of the earlier key.
                table.remove(key.get_ref().as_ref());
                table.insert(key, value);
            }
        }
    }
}

fn of_tables(array: &[Spanned<DeValue<'_>>]) -> bool {
    !array.is_empty() && array.iter().all(|element| element.get_ref().is_table())
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Machine};

    use super::*;

    const MAIN: &str = "[[listen]]\naddress = \"0.0.0.0:25\"\n[backend]\nservers = [\"10.0.0.10:25\"]\n[relay]\n\
                        domains = [\"example.org\"]\n[limits]\nrecipients = 50\nconnections = 10\n";

    fn parse(drop_ins: &[(&str, &str)]) -> Result<Config, String> {
        let main = ConfigFile::new(Path::new("main.toml"), MAIN);
        let more = drop_ins.iter().map(|(path, text)| ConfigFile::new(Path::new(path), *text));
        let files: Vec<_> = std::iter::once(main).chain(more).collect();
        Config::merged(&files, &Machine::default()).map_err(|report| report.render(false))
    }

    /// Whether `drop_ins` after [`MAIN`] are refused, with `expected` in the report.
    #[track_caller]
    fn refused(drop_ins: &[(&str, &str)], expected: &[&str]) {
        let report = parse(drop_ins).expect_err("it is refused");
        for expected in expected {
            assert!(report.contains(expected), "no {expected:?} in\n{report}");
        }
    }

    #[test]
    fn later_files_are_merged() {
        let config = parse(&[
            (
                "a.toml",
                "[limits]\nrecipients = 60\n[[listen]]\naddress = \"[::]:25\"\n[relay]\ndomains = [\"example.com\"]\n",
            ),
            ("b.toml", ""),
            ("c.toml", "hostname = \"mx.example.org\"\nlimits.recipients = 70\n"),
        ])
        .unwrap();
        assert_eq!(config.limits.recipients, 70, "the last file wins");
        assert_eq!(config.limits.connections, 10, "what a later file doesn't name stays");
        assert_eq!(config.relay.domains, ["example.com"], "a list takes the place of another");
        assert_eq!(config.listen.len(), 2, "an array of tables is appended to");
        assert_eq!(config.hostname, "mx.example.org");
    }

    #[test]
    fn problems_name_their_file() {
        let short = ("a.toml", "[limits]\nrecipient = 1\n");
        refused(&[short], &["--> a.toml:2:1", "did you mean `recipients`", "a.toml: 1 error"]);
        refused(
            &[short, ("b.toml", "\nexempt = [\"10.0.0.0\", \"x\"]\n[limits]\nrecipients = \"5\"\n")],
            &["--> a.toml:2:1", "--> b.toml:2:23", "--> b.toml:4:14", "a.toml: 1 error", "b.toml: 2 errors"],
        );
        refused(&[("a.toml", "hostname = mx"), ("b.toml", "x = [")], &["--> a.toml:1:12", "--> b.toml:1:", "not TOML"]);
        refused(
            &[("a.toml", "[[listen]]\naddress = \"0.0.0.0:25\"\n")],
            &["--> a.toml:2:11", "is taken by 0.0.0.0:25"],
        );
        // Of another type: the later one, which is wrong.
        refused(&[("a.toml", "limits = 5\n")], &["--> a.toml:1:10", "wrong type"]);
        refused(&[("a.toml", "[backend]\nservers = []\n")], &["--> a.toml:2:11", "backend.servers is empty"]);
    }

    #[test]
    fn what_is_overridden_is_not_judged() {
        let config = parse(&[("a.toml", "limits.recipients = 0\n"), ("b.toml", "limits.recipients = 5\n")]).unwrap();
        assert_eq!(config.limits.recipients, 5);
    }
}
