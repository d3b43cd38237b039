//! The file as it is written: the keys of [`super::keys`] with their positions, and no judgement but their types.
//!
//! No `flatten` and no untagged enums: both lose the position.
//!
//! Serde stops at the first error. So the key that it stumbled over is reported and taken out, and the rest is read again,
//! until all of it is read. Every key is optional here, which makes that sound.

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer};

use super::Config;
use super::files::{self, ConfigFile};
use super::report::Problem;
use super::{keys, value};

/// The whole file.
type Raw = value::Raw<Config>;

pub(super) type Text = Option<Spanned<String>>;
pub(super) type List = Option<Spanned<Vec<Spanned<String>>>>;
pub(super) type Number = Option<Spanned<i64>>;
pub(super) type Share = Option<Spanned<f64>>;
pub(super) type Switch = Option<Spanned<bool>>;

/// A text that isn't empty: empty means not set.
pub(super) fn filled(raw: &Text) -> Option<&Spanned<String>> {
    raw.as_ref().filter(|text| !text.get_ref().is_empty())
}

/// The texts of a list.
pub(super) fn list(raw: &List) -> impl Iterator<Item = &Spanned<String>> {
    raw.iter().flat_map(|list| list.get_ref())
}

/// Reads `files`, merged; what is wrong with their form goes to `problems`. `None`: one is no TOML, so nothing more can be said.
pub(super) fn read(files: &[ConfigFile], problems: &mut Vec<Problem>) -> Option<Raw> {
    let mut document = DeTable::new();
    for (start, file) in files::starts(files) {
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        problems.extend(not_toml(&file.text, start, errors));
        files::merge(&mut document, files::moved(table.into_inner(), start));
    }
    if !problems.is_empty() {
        return None;
    }
    let length = files.iter().map(|file| file.text.len() + 1).sum();
    let mut document = Spanned::new(0..length, document);
    loop {
        let error = match Raw::deserialize(Deserializer::from(document.clone())) {
            Ok(raw) => return Some(raw),
            Err(error) => error,
        };
        problems.push(explain(&error));
        let removed = error.span().is_some_and(|span| remove(document.get_mut(), span.start));
        if !removed {
            return None;
        }
    }
}

/// The parser's errors in `text`, which begins at `start`.
fn not_toml(text: &str, start: usize, mut errors: Vec<toml::de::Error>) -> Vec<Problem> {
    // The parser goes on after an error and may stumble over its consequences: the first of each line is enough.
    let line = |error: &toml::de::Error| error.span().map(|span| text[..span.start].matches('\n').count());
    errors.sort_by_key(|error| error.span().map(|span| span.start));
    errors.dedup_by_key(|error| line(error));
    let mut problems = Vec::new();
    for error in errors {
        // A list without its end takes in all that follows, and each line of that would be an error.
        let is_list = error.message().contains("array");
        let help = match error.message() {
            _ if is_list => "a list ends with ]: is that missing above?",
            "duplicate key" => {
                "it stands above already: remove one of the two; all keys of a table stand below one [...]"
            }
            _ => "text stands in double quotes, lists in [ ], one key = value on each line",
        };
        problems.push(Problem {
            span: error.span().map(|span| span.start + start..span.end + start),
            message: format!("not TOML: {}", error.message()),
            label: String::new(),
            help: help.to_owned(),
        });
        if is_list {
            break;
        }
    }
    problems
}

/// Serde's error in the user's words.
fn explain(error: &toml::de::Error) -> Problem {
    let span = error.span();
    let message = error.message();
    let mut words = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field")
        && let Some(unknown) = words.next()
    {
        let known: Vec<_> = words.collect();
        return Problem {
            span,
            message: format!("unknown key `{unknown}`"),
            label: String::from("no such key here"),
            help: match (keys::place(unknown), nearest(unknown, &known)) {
                (Some(place), _) => format!("`{unknown}` belongs {place}"),
                (None, Some(key)) => format!("did you mean `{key}`?"),
                (None, None) => format!("known here: {}", known.join(", ")),
            },
        };
    }
    let (found, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    Problem {
        span,
        message: found.replacen("invalid type", "wrong type", 1).replace("sequence", "list").replace("map", "table"),
        label: String::new(),
        help: match expected {
            "" => String::new(),
            "a string" => String::from("write text in double quotes, as in \"25MiB\" or \"6s\""),
            "a sequence" => String::from("write a list: [\"...\", \"...\"], or [[...]] for a list of tables"),
            "i64" => String::from("write a whole number, without quotes"),
            "a boolean" => String::from("write true or false, without quotes"),
            "f64" => String::from("write a number, without quotes"),
            _ if expected.starts_with("struct") => String::from("write a table: [name], then key = value on each line"),
            _ => format!("expected {expected}"),
        },
    }
}

/// The key that `unknown` was probably meant to be.
fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown = unknown.to_lowercase().replace('-', "_");
    let near = |key: &&str| (unknown.len().max(key.len()) / 3).max(1);
    let distance = |key: &&str| strsim::osa_distance(&unknown, key);
    let best = known.iter().copied().min_by_key(distance)?;
    (distance(&best) <= near(&best)).then_some(best)
}

/// Takes the innermost key or element at byte `at` out of `table`; `false`: there is none.
fn remove(table: &mut DeTable<'_>, at: usize) -> bool {
    if table.iter_mut().any(|(_, value)| remove_inside(value.get_mut(), at)) {
        return true;
    }
    let found = table
        .iter()
        .find(|(key, value)| key.span().contains(&at) || value.span().contains(&at))
        .map(|(key, _)| key.clone());
    found.is_some_and(|key| table.remove(&key).is_some())
}

fn remove_inside(value: &mut DeValue<'_>, at: usize) -> bool {
    match value {
        DeValue::Table(table) => remove(table, at),
        DeValue::Array(array) => {
            if array.iter_mut().any(|element| remove_inside(element.get_mut(), at)) {
                return true;
            }
            let before = array.len();
            let rest =
                std::mem::replace(array, DeArray::new()).into_iter().filter(|e| !e.span().contains(&at)).collect();
            *array = rest;
            array.len() < before
        }
        _ => false,
    }
}
