//! The figures of ARCHITECTURE.md's table "What bounds what", held against the constants that they come from.
//!
//! A row names in its column "set by" the constants whose values its column "at most" gives, in the same order. A row without a constant
//! gives no figure. So a changed constant, and a figure that nobody can look up, are both faults. The constants are read from the source:
//! most of them are private to their file.

use std::collections::BTreeMap;

/// The heading of the section whose tables are read.
const SECTION: &str = "### What bounds what";

/// Faults of the tables in `text`, each with its line. `sources`: the Rust files by their paths; `keys`: the page of all keys; `bounds`: the
/// file of all labels.
pub(super) fn judge(text: &str, sources: &BTreeMap<String, String>, keys: &str, bounds: &str) -> Vec<(usize, String)> {
    let lines = text.lines().zip(1..).skip_while(|(line, _)| *line != SECTION).skip(1);
    let mut faults = Vec::new();
    for (line, number) in lines.take_while(|(line, _)| !line.starts_with('#')) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let ["", what, most, set_by, counted, ""] = *cells else { continue };
        if most == "at most" || most.starts_with('-') {
            continue;
        }
        let mut fault = |why: String| faults.push((number, format!("{what}: {why}")));
        let mut expected = Vec::new();
        for name in code(set_by) {
            match value(sources, name) {
                Ok(value) => expected.push(value),
                Err(why) => fault(format!("`{name}`: {why}")),
            }
        }
        let found = figures(most);
        if found != expected {
            fault(format!("says {found:?}, and the constants are {expected:?}"));
        }
        for key in code(most) {
            let name = key.rsplit('.').next().unwrap_or(key);
            if !keys.contains(&format!("\n| `{name}` |")) {
                fault(format!("there is no key `{key}`"));
            }
        }
        for label in code(counted) {
            if !bounds.contains(&format!("= \"{label}\",")) {
                fault(format!("`bound.rs` has no `{label}`"));
            }
        }
    }
    faults
}

/// The pieces of code in `text`.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The figures in `text` outside of code: numbers, with their unit where one follows. Times are in seconds.
fn figures(text: &str) -> Vec<u64> {
    let plain: Vec<_> = text.split('`').step_by(2).collect();
    let plain = plain.join(" ");
    let words: Vec<_> =
        plain.split_ascii_whitespace().map(|word| word.trim_matches(['(', ')', ';', ':', ','])).collect();
    let units = words.iter().skip(1).map(|word| Some(*word)).chain([None]);
    words.iter().zip(units).filter_map(|(word, unit)| number(word, unit.map_or(1, factor))).collect()
}

/// The value of a unit's name; 1 of any other word.
fn factor(word: &str) -> u64 {
    match word {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "million" => 1_000_000,
        "minutes" => 60,
        "hours" => 3600,
        _ => 1,
    }
}

/// `word` as a number, with "," between thousands and "." before a fraction of `unit`.
fn number(word: &str, unit: u64) -> Option<u64> {
    let word = word.replace(',', "");
    let (whole, fraction) = word.split_once('.').unwrap_or((&word, "0"));
    let tenths = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = unit.checked_mul(fraction.parse().ok()?)?.checked_div(tenths)?;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(part)
}

/// The value of the constant `name`: its module, `::`, its name, and `.` before a field of it.
fn value(sources: &BTreeMap<String, String>, name: &str) -> Result<u64, String> {
    let (module, constant) = name.rsplit_once("::").ok_or("has no module")?;
    let module = module.replace("::", "/");
    let ends = [format!("/{module}.rs"), format!("/{module}/mod.rs")];
    let (constant, field) = constant.split_once('.').map_or((constant, None), |(name, field)| (name, Some(field)));
    let mut found = sources
        .iter()
        .filter(|(path, _)| ends.iter().any(|end| path.ends_with(end)))
        .filter_map(|(path, source)| Some((path, source, declaration(source, constant)?)));
    let (path, source, expression) = found.next().ok_or("there is no such constant")?;
    if let Some((other, ..)) = found.next() {
        return Err(format!("is in {path} and in {other}: name more of its module"));
    }
    let expression = match field {
        None => expression,
        Some(field) => expression.split_once(&format!("{field}:")).ok_or("has no such field")?.1,
    };
    let tokens = tokens(expression);
    let mut reader = Reader { tokens: &tokens, sources, source };
    reader.sum().ok_or_else(|| format!("`{}` can't be read as a number", expression.trim()))
}

/// What stands behind the "=" of the constant or static `name` in `source`.
fn declaration<'a>(source: &'a str, name: &str) -> Option<&'a str> {
    let starts = ["const", "static"].map(|kind| format!("{kind} {name}:"));
    let offset = starts.iter().find_map(|start| source.find(start.as_str()))?;
    let (_, behind) = source.get(offset..)?.split_once('=')?;
    behind.split(';').next()
}

/// Names with their paths, numbers, and signs.
fn tokens(expression: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':');
        let length = match first {
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            '<' if rest.starts_with("<<") => 2,
            c => c.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        tokens.push(token);
        rest = behind.trim_start();
    }
    tokens
}

/// Reads an expression: sums, products and shifts of numbers and constants, and what is made of one number.
struct Reader<'a> {
    tokens: &'a [&'a str],
    sources: &'a BTreeMap<String, String>,
    /// The file that the expression stands in.
    source: &'a str,
}

impl Reader<'_> {
    fn takes(&mut self, sign: &str) -> bool {
        let is_next = self.tokens.first() == Some(&sign);
        if is_next {
            self.next();
        }
        is_next
    }

    fn next(&mut self) -> Option<&str> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn sum(&mut self) -> Option<u64> {
        let mut value = self.product()?;
        loop {
            if self.takes("+") {
                value = value.checked_add(self.product()?)?;
            } else if self.takes("<<") {
                value = value.checked_shl(u32::try_from(self.product()?).ok()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<u64> {
        let mut value = self.one()?;
        while self.takes("*") {
            value = value.checked_mul(self.one()?)?;
        }
        Some(value)
    }

    fn one(&mut self) -> Option<u64> {
        let word = self.next()?.to_owned();
        let value = if word.starts_with(|c: char| c.is_ascii_digit()) {
            word.replace('_', "").parse().ok()?
        } else if self.takes("(") {
            if !matches!(word.as_str(), "Duration::from_secs" | "Budget::new") {
                return None;
            }
            let value = self.sum()?;
            self.takes(")").then_some(value)?
        } else if word.contains("::") {
            let parts: Vec<_> = word.rsplit("::").take(2).collect();
            value(self.sources, &format!("{}::{}", parts.get(1)?, parts.first()?)).ok()?
        } else {
            let tokens = tokens(declaration(self.source, &word)?);
            Reader { tokens: &tokens, ..*self }.sum()?
        };
        if self.takes("as") {
            self.next()?;
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `row` of the table, where the code is as below, has so many faults.
    #[track_caller]
    fn check(row: &str, faults: usize) {
        let sources = [
            ("a/src/line.rs", "pub const MAX: usize = 2048;\nconst WAIT: Duration = Duration::from_secs(3 * 60);"),
            (
                "a/src/places.rs",
                "static ENDS: Budget = Budget::new(200);\nconst L: Limits = Limits { total: 256, of: 64 };",
            ),
            (
                "a/src/b/mod.rs",
                "const ALL: usize = 4 * x::line::MAX as usize + OF;\npub(super) const OF: u32 = 1 << 4;",
            ),
            ("a/src/wire/proxy.rs", "const MAX: usize = 3;"),
            ("a/src/other/proxy.rs", "const MAX: usize = 4;\nconst BAD: &str = \"x\";"),
        ];
        let sources = sources.map(|(path, source)| (path.to_owned(), source.to_owned())).into();
        let text = format!(
            "{SECTION}\n| of it | at most | set by | counted as |\n|---|---|---|---|\n{row}\n\n## Next\n| a | 9 | | |\n"
        );
        let found = judge(&text, &sources, "\n| `drain` | ...", "Users = \"users\", ...");
        assert_eq!(found.len(), faults, "{row}: {found:?}");
    }

    #[test]
    fn figures_are_those_of_the_constants() {
        for (row, faults) in [
            ("| a | 2 KiB | `line::MAX` | |", 0),
            ("| a | 2,048 | `line::MAX` | |", 0),
            ("| a | 3 KiB | `line::MAX` | |", 1),
            ("| a | 2 KiB, after 3 minutes | `line::MAX`, `line::WAIT` | |", 0),
            ("| a | 2 KiB, after 3 minutes | `line::WAIT`, `line::MAX` | |", 1),
            ("| a | 2 KiB, after 3 minutes | `line::MAX` | |", 1),
            ("| a | 200 a second; 256 (64 each) | `places::ENDS`, `places::L.total`, `places::L.of` | |", 0),
            ("| a | 8,208 | `b::ALL` | |", 0),
            ("| a | 0.5 KiB | `line::MAX` | |", 1),
            ("| a | half of all | | |", 0),
            ("| a | 5 | | |", 1),
            ("| a | 2 KiB | `line::MIN` | |", 2),
            ("| a | 3 | `proxy::MAX` | |", 2),
            ("| a | 3 | `wire::proxy::MAX` | |", 0),
            ("| a | 3 | `proxy::BAD` | |", 2),
            ("| a | `limits.drain` | | |", 0),
            ("| a | `limits.gone` | | |", 1),
            ("| a | all | | `users` |", 0),
            ("| a | all | | `user` |", 1),
        ] {
            check(row, faults);
        }
    }
}
