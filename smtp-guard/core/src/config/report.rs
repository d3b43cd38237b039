//! What is wrong with a configuration file, all at once: file, line, column, caret, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

/// Problems that are shown; what comes after them is usually their consequence.
const SHOWN: usize = 50;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Bytes of the file; `None`: it is about something that the file doesn't hold.
    pub(super) span: Option<Range<usize>>,
    pub(super) message: String,
    /// Beside the caret; may be empty.
    pub(super) label: String,
    /// What to do.
    pub(super) help: String,
}

/// All that is wrong with one file.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    path: PathBuf,
    text: String,
    /// Never empty; in the order of the file.
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(path: &Path, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|p| p.span.as_ref().map_or(usize::MAX, |s| s.start));
        problems.dedup();
        Self { path: path.to_owned(), text: text.to_owned(), problems }
    }

    /// The report as text, with colours for a terminal or without.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let path = self.path.to_string_lossy();
        let mut text = String::new();
        for problem in self.problems.iter().take(SHOWN) {
            let groups = problem.groups(&path, &self.text);
            text.push_str(&renderer.render(&groups));
            text.push_str("\n\n");
        }
        let count = self.problems.len();
        let noun = if count == 1 { "error" } else { "errors" };
        text.push_str(&format!("{path}: {count} {noun}"));
        if count > SHOWN {
            text.push_str(&format!(", the first {SHOWN} are shown"));
        }
        text
    }
}

impl Problem {
    fn groups<'a>(&'a self, path: &'a str, source: &'a str) -> Vec<Group<'a>> {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let group = match &self.span {
            None => title.element(Origin::path(path)),
            Some(span) => {
                // A caret below an empty range would be invisible, and one past the end has no line.
                let end = source.len();
                let start = span.start.min(end);
                let annotation = AnnotationKind::Primary.span(start..span.end.clamp(start, end));
                let annotation = if self.label.is_empty() { annotation } else { annotation.label(self.label.as_str()) };
                title.element(Snippet::source(source).path(path).annotation(annotation))
            }
        };
        let group = if self.help.is_empty() { group } else { group.element(Level::HELP.message(self.help.as_str())) };
        vec![group]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}
