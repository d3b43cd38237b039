//! The report of all that is wrong with a configuration: file, line, column, caret, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::files::{self, ConfigFile};

/// Problems that are shown; what comes after them is usually their consequence.
const SHOWN: usize = 50;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// Bytes of all files, one after the other; `None`: it is about something that no file holds.
    pub(super) span: Option<Range<usize>>,
    pub(super) message: String,
    /// Beside the caret; may be empty.
    pub(super) label: String,
    /// The next step.
    pub(super) help: String,
}

/// All that is wrong with a configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Report {
    /// Never empty; the main file comes first.
    files: Vec<ConfigFile>,
    /// Never empty; in the order of the files.
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(files: &[ConfigFile], mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|p| p.span.as_ref().map_or(usize::MAX, |s| s.start));
        problems.dedup();
        Self { files: files.to_vec(), problems }
    }

    /// The report as text, with colours for a terminal or without.
    pub fn render(&self, colours: bool) -> String {
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut text = String::new();
        let mut counts: Vec<(&ConfigFile, usize)> = Vec::new();
        for (shown, problem) in self.problems.iter().enumerate() {
            let Some((start, file)) = files::holding(&self.files, problem.span.as_ref().map_or(0, |span| span.start))
            else {
                continue;
            };
            match counts.iter_mut().find(|(other, _)| other.path == file.path) {
                Some((_, count)) => *count += 1,
                None => counts.push((file, 1)),
            }
            if shown < SHOWN {
                let path = file.path.to_string_lossy();
                text.push_str(&renderer.render(&problem.groups(&path, start, &file.text)));
                text.push_str("\n\n");
            }
        }
        let counts = counts.into_iter().map(|(file, count)| {
            let noun = if count == 1 { "error" } else { "errors" };
            format!("{}: {count} {noun}", file.path.display())
        });
        text.push_str(&counts.collect::<Vec<_>>().join("; "));
        if self.problems.len() > SHOWN {
            text.push_str(&format!(", the first {SHOWN} are shown"));
        }
        text
    }
}

/// One thing that is wrong, for programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub file: Option<PathBuf>,
    /// From 1; `None`: it is about something that the file doesn't hold.
    pub line: Option<usize>,
    /// The column, from 1, in characters.
    pub column: Option<usize>,
    pub message: String,
    /// The next step; may be empty.
    pub help: String,
}

impl Report {
    /// Everything that is wrong, in the order of the files.
    pub fn faults(&self) -> Vec<Fault> {
        let fault = |Problem { span, message, label, help }: &Problem| {
            let holding = files::holding(&self.files, span.as_ref().map_or(0, |span| span.start));
            let before = span.as_ref().zip(holding).map(|(span, (start, file))| {
                let at = file.text.floor_char_boundary(span.start.saturating_sub(start));
                &file.text[..at]
            });
            let message = if label.is_empty() { message.clone() } else { format!("{message}: {label}") };
            Fault {
                file: holding.map(|(_, file)| file.path.clone()),
                line: before.map(|before| before.matches('\n').count() + 1),
                column: before.map(|before| before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1),
                message,
                help: help.clone(),
            }
        };
        self.problems.iter().map(fault).collect()
    }
}

impl Problem {
    /// As it is shown; `source` is the file at `path`, whose first byte is byte `first` of all files.
    fn groups<'a>(&'a self, path: &'a str, first: usize, source: &'a str) -> Vec<Group<'a>> {
        let title = Level::ERROR.primary_title(self.message.as_str());
        let group = match &self.span {
            None => title.element(Origin::path(path)),
            Some(span) => {
                // A caret below an empty range would be invisible, and one past the end has no line.
                let end = source.len();
                let start = span.start.saturating_sub(first).min(end);
                let annotation = AnnotationKind::Primary.span(start..span.end.saturating_sub(first).clamp(start, end));
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
