//! Files and names in a configuration that can't be used, told where the configuration names them.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::files::{ConfigFile, starts};
use super::report::{Problem, Report};

/// A file or directory that the configuration names, and why it can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// As in `tls.key`.
    pub key: &'static str,
    /// The key's value.
    pub value: String,
    pub message: String,
    /// The next step.
    pub help: String,
}

impl Report {
    /// All of `unusable`, each at the place of `files` that names it; without a place where a default does.
    pub fn of_unusable(files: &[ConfigFile], unusable: Vec<Unusable>) -> Self {
        let problem = |Unusable { key, value, message, help }: Unusable| {
            let span = span(files, key, &value);
            Problem { span, message: format!("{key}: {message}"), label: String::new(), help }
        };
        Self::new(files, unusable.into_iter().map(problem).collect())
    }
}

/// Where `key` says `value` last.
fn span(files: &[ConfigFile], key: &str, value: &str) -> Option<Range<usize>> {
    let path: Vec<_> = key.split('.').collect();
    let (first, rest) = path.split_first()?;
    let in_file = |(start, file): (usize, &ConfigFile)| {
        let document = DeTable::parse(&file.text).ok()?;
        let span = place(document.get_ref().get(*first)?, rest, value)?;
        Some(span.start + start..span.end + start)
    };
    starts(files).filter_map(in_file).last()
}

/// Where in `found`, below `path`, it says `value`: also in one of several tables, or in a list.
fn place(found: &Spanned<DeValue<'_>>, path: &[&str], value: &str) -> Option<Range<usize>> {
    match (path, found.get_ref()) {
        ([], DeValue::String(text)) => (text == value).then(|| found.span()),
        (_, DeValue::Array(elements)) => elements.iter().find_map(|element| place(element, path, value)),
        ([first, rest @ ..], DeValue::Table(table)) => place(table.get(*first)?, rest, value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check(key: &'static str, value: &str, place: &str) {
        let main = "[tls]\nkey = \"/k\"\n[[blocklist]]\nname = \"a\"\nfile = \"/a\"\n[[blocklist]]\nfile = \"/b\"\n";
        let files = [
            ConfigFile::new(Path::new("main.toml"), main),
            ConfigFile::new(Path::new("more.toml"), "\ntls.certificate = \"/c\"\ntls.key = \"/k2\"\n"),
        ];
        let unusable = Unusable { key, value: value.to_owned(), message: "is no use".to_owned(), help: String::new() };
        let text = Report::of_unusable(&files, vec![unusable]).render(false);
        assert!(text.contains(place) && text.contains(&format!("{key}: is no use")), "no {place:?} in\n{text}");
    }

    #[test]
    fn each_is_told_where_it_is_named() {
        check("tls.key", "/k", "--> main.toml:2:7");
        check("tls.key", "/k2", "--> more.toml:3:11");
        check("tls.certificate", "/c", "--> more.toml:2:19");
        check("blocklist.file", "/a", "--> main.toml:5:8");
        check("blocklist.file", "/b", "--> main.toml:7:8");
        check("state.directory", "/var/lib/x", "--> main.toml");
    }
}
