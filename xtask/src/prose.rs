//! The words of the project, checked: links lead somewhere, sentences can be read at once, comments begin with what they are about, and
//! the figures of the table of bounds are those of the code.
//!
//! `cargo xtask prose` prints each fault as `FILE:LINE: SENTENCE`, with the reason and what to write instead. Pages that are written
//! from tables in the code are read as well: mend the table.

pub(crate) mod page;

mod comments;
mod figures;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::bail;

use page::Page;

use crate::structure::rust_files;

/// Paths that exist on one machine only.
const MACHINE: &[&str] = &["/root", "/home/"];

/// Pages whose sentences are not judged: what has been released stays as it was written.
const RELEASED: &[&str] = &["CHANGELOG.md"];

/// The page whose figures come from the code, the page of all keys, and the table of all bounds.
const TABLE: &str = "ARCHITECTURE.md";
const KEYS: &str = "docs/configuration.md";
const BOUNDS: &str = "smtp-guard/src/bound.rs";
/// The folder of the tests of the whole, which bound nothing.
const WHOLE: &str = "tests/";

/// Checks all pages and all comments below `root`.
pub(crate) fn check(root: &Path) -> anyhow::Result<()> {
    let pages = pages(root)?;
    let mut faults = Vec::new();
    let files: Vec<_> = rust_files(root).iter().map(|file| relative(root, file)).collect();
    for (name, text) in &pages {
        faults.extend(judge(name, text, &pages, &files, &|path| root.join(path).exists()));
    }
    let mut sources = BTreeMap::new();
    for name in &files {
        let source = fs::read_to_string(root.join(name))?;
        let found = comments::judge(&source);
        faults.extend(found.into_iter().map(|(line, fault)| format!("{name}:{line}: {fault}")));
        if !name.starts_with(WHOLE) {
            sources.insert(name.clone(), source);
        }
    }
    let text = |name: &str| pages.get(name).map_or("", String::as_str);
    let bounds = sources.get(BOUNDS).map_or("", String::as_str);
    let found = figures::judge(text(TABLE), &sources, text(KEYS), bounds);
    faults.extend(found.into_iter().map(|(line, fault)| format!("{TABLE}:{line}: {fault}")));
    if !faults.is_empty() {
        bail!("{} faults in what is written:\n{}", faults.len(), faults.join("\n"));
    }
    Ok(())
}

/// All pages of Markdown, by their paths below `root`.
pub(crate) fn pages(root: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut pages = BTreeMap::new();
    for folder in ["", "docs", "packaging"] {
        for entry in fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                pages.insert(relative(root, &path), fs::read_to_string(&path)?);
            }
        }
    }
    Ok(pages)
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned()
}

/// Faults of the page `name` among `pages`. `files`: Rust files that it may name; `exists` knows of all others.
fn judge(
    name: &str,
    text: &str,
    pages: &BTreeMap<String, String>,
    files: &[String],
    exists: &dyn Fn(&Path) -> bool,
) -> Vec<String> {
    let page = Page::read(text);
    let mut faults = Vec::new();
    let mut fault = |line: usize, what: &str, why: &str| faults.push(format!("{name}:{line}: {what}\n    {why}"));
    for (line, target) in &page.links {
        if let Some(why) = link(name, target, pages, exists) {
            fault(*line, target, &why);
        }
    }
    for (index, line) in text.lines().enumerate() {
        if let Some(path) = MACHINE.iter().find(|path| line.contains(**path)) {
            fault(index.saturating_add(1), line.trim(), &format!("{path} is a path of one machine: leave it out"));
        }
    }
    if RELEASED.contains(&name) {
        return faults;
    }
    let mut seen = BTreeSet::new();
    for (line, word) in page.words.iter().filter(|(_, word)| is_rust_file(word)) {
        let known = files.iter().any(|file| file == word || file.ends_with(&format!("/{word}")));
        if !known && seen.insert(word) {
            fault(*line, word, "there is no such file: name it as it is called now");
        }
    }
    for sentence in &page.sentences {
        for why in words::judge(sentence) {
            fault(sentence.line, &sentence.text, &why);
        }
    }
    faults
}

fn is_rust_file(word: &str) -> bool {
    word.ends_with(".rs") && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '-'))
}

/// What is wrong with a link from the page `name` to `target`.
fn link(name: &str, target: &str, pages: &BTreeMap<String, String>, exists: &dyn Fn(&Path) -> bool) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        let encrypted = target.starts_with("https://") || target.starts_with("mailto:");
        return (!encrypted).then(|| "a link to another site: https, please".to_owned());
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let path = if file.is_empty() { PathBuf::from(name) } else { joined(name, file)? };
    if !exists(&path) {
        return Some("there is no such file".to_owned());
    }
    let anchor = anchor?;
    let page = pages.get(&path.to_string_lossy().into_owned()).map(|text| Page::read(text))?;
    (!page.anchors.contains(anchor)).then(|| format!("{} has no heading #{anchor}", path.display()))
}

/// The path below the root that `file` is, seen from the page `name`.
fn joined(name: &str, file: &str) -> Option<PathBuf> {
    let mut path = Path::new(name).parent()?.to_owned();
    for part in Path::new(file).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(part) => path.push(part),
            _ => {}
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::root;

    #[test]
    fn the_text_is_held_to_it() {
        check(&root()).unwrap();
    }

    #[test]
    fn links_and_names_are_followed() {
        let pages = [("README.md", "# Top\n"), ("docs/a.md", "# Who exists\n")];
        let pages: BTreeMap<_, _> = pages.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        let exists = |path: &Path| pages.contains_key(&*path.to_string_lossy()) || path == Path::new("LICENSE");
        for (name, text, faults) in [
            ("README.md", "[a](docs/a.md#who-exists)", 0),
            ("README.md", "[a](docs/a.md#nobody)", 1),
            ("README.md", "[a](docs/b.md)", 1),
            ("README.md", "[a](#top)", 0),
            ("docs/a.md", "[a](../README.md#top) [b](../LICENSE)", 0),
            ("docs/a.md", "[a](README.md)", 1),
            ("docs/a.md", "[a](https://example.org) [b](mailto:a@example.org)", 0),
            ("docs/a.md", "[a](http://example.org)", 1),
            ("docs/a.md", "See `core/src/line.rs` and `a/b.rs`.", 1),
            ("docs/a.md", "It lies in /home/x.", 1),
            ("CHANGELOG.md", "Who asks is told by `gone.rs`, and says so.", 0),
        ] {
            let files = ["smtp-guard/core/src/line.rs".to_owned()];
            let found = judge(name, text, &pages, &files, &exists);
            assert_eq!(found.len(), faults, "{name}: {text}: {found:?}");
        }
    }

    /// The commands `cargo xtask ...` of all pages, each with its place.
    #[test]
    fn commands_of_the_project_are_commands() {
        use clap::Parser as _;
        let all = pages(&root()).unwrap();
        for (name, text) in all.iter().filter(|(name, _)| !RELEASED.contains(&name.as_str())) {
            let page = Page::read(text);
            let lines = page.blocks.iter().flat_map(|block| block.text.lines().map(move |line| (block.line, line)));
            let words = page.words.iter().map(|(line, word)| (*line, word.as_str()));
            for (line, command) in lines.chain(words) {
                let Some(command) = command.trim().strip_prefix("cargo xtask ") else { continue };
                let words: Vec<_> = command.split(" #").next().unwrap_or("").split_whitespace().collect();
                let parsed = crate::Arguments::try_parse_from(std::iter::once("xtask").chain(words.iter().copied()));
                let asks = |kind| matches!(kind, clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
                if let Err(error) = parsed
                    && !asks(error.kind())
                {
                    panic!("{name}:{line}: cargo xtask {command}: {error}");
                }
            }
        }
    }

    /// Blocks without a language are commands where their first line is one.
    #[test]
    fn blocks_of_commands_are_read_by_a_shell() {
        const COMMANDS: &[&str] =
            &["cargo ", "smtp-guard ", "systemctl ", "install ", "strip ", "ssh ", "dpkg ", "runuser ", "apt "];
        let mut found = 0;
        for (name, text) in pages(&root()).unwrap() {
            for block in Page::read(&text).blocks {
                let is_shell = matches!(block.language.as_str(), "sh" | "bash")
                    || block.language.is_empty() && COMMANDS.iter().any(|command| block.text.starts_with(command));
                if is_shell {
                    let output = Command::new("bash").args(["-n", "-c", &block.text]).output().unwrap();
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(output.status.success(), "{name}:{}: {said}", block.line);
                    found += 1;
                }
            }
        }
        assert!(found > 5, "{found} blocks of commands");
    }
}
