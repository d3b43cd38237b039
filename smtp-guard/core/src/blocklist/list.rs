//! A list: the entries that were taken, and what became of the others.

use std::time::Duration;

use super::fault::{Fault, Refusal};
use super::format::{self, Format};
use super::protected::Protected;
use super::span::Span;
use super::spans::Spans;
use super::{MAX_ENTRIES, MAX_ENTRY_REFUSALS, MAX_REFUSALS};
use crate::clock::WallTime;
use crate::printable::printable;

/// A list, as a file was read.
#[derive(Clone, Debug)]
pub struct List {
    pub format: Format,
    pub(super) spans: Spans<()>,
    /// Entries that can't be read, are too wide, or touch what is protected.
    pub refused: usize,
    /// The first of them.
    pub refusals: Vec<Refusal>,
    /// Entries of the file that are no bans of addresses: other decisions, other kinds of sets.
    pub skipped: usize,
}

impl List {
    /// Entries that are in force; one that lies within another doesn't count.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entries, in their order.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        self.spans.iter()
    }
}

/// Reads the content of a file. What touches `protected` is refused.
pub fn parse(bytes: &[u8], protected: &Protected) -> Result<List, Fault> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let format = Format::of(bytes).ok_or(Fault::Unrecognised)?;
    let mut reading = Reading::new(protected);
    format::read(format, bytes, &mut reading)?;
    reading.finish(format)
}

/// Reads the content of a file for decisions: entries one by one, with the time that is left of each at `now` where the file
/// says that. What isn't on the Internet is refused, unless the file is of our own making.
pub fn parse_entries(bytes: &[u8], now: WallTime) -> Result<Entries, Fault> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let format = Format::of(bytes).ok_or(Fault::Unrecognised)?;
    let protected = if format == Format::Decisions { Protected::none() } else { Protected::internet() };
    let mut reading = Reading { entries: Some(Vec::new()), now: Some(now), ..Reading::new(&protected) };
    format::read(format, bytes, &mut reading)?;
    let entries = reading.entries.take().unwrap_or_default();
    let List { format, refused, refusals, skipped, .. } = reading.finish(format)?;
    Ok(Entries { format, entries, refused, refusals, skipped })
}

/// Entries of a file that was read for decisions.
#[derive(Clone, Debug)]
pub struct Entries {
    pub format: Format,
    /// In the order of the file.
    pub entries: Vec<Timed>,
    /// Entries that can't be read, are too wide, or are about what isn't on the Internet.
    pub refused: usize,
    /// The first of them, at most [`MAX_ENTRY_REFUSALS`].
    pub refusals: Vec<Refusal>,
    /// Entries of the file that are no bans of addresses, and those that are over.
    pub skipped: usize,
}

/// An entry with how long it is to last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timed {
    /// From 1.
    pub line: usize,
    pub span: Span,
    pub left: Left,
    /// Why, where the file says that.
    pub text: Option<String>,
}

/// The time that an entry is to last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// The file doesn't say.
    Unsaid,
    For(Duration),
    Ever,
}

/// A list that is being read.
#[derive(Debug)]
pub(super) struct Reading<'p> {
    protected: &'p Protected,
    spans: Spans<()>,
    /// Instead of `spans`, where each entry counts.
    entries: Option<Vec<Timed>>,
    /// The time, where that matters.
    now: Option<WallTime>,
    /// The end of the next entries.
    left: Left,
    text: Option<String>,
    added: usize,
    refusals: Vec<Refusal>,
    refused: usize,
    /// The number of entries that can't be read, and the first of them.
    wrong: usize,
    first_wrong: Option<Refusal>,
    taken: usize,
    skipped: usize,
}

impl<'p> Reading<'p> {
    fn new(protected: &'p Protected) -> Self {
        Self {
            protected,
            spans: Spans::default(),
            entries: None,
            now: None,
            left: Left::Unsaid,
            text: None,
            added: 0,
            refusals: Vec::new(),
            refused: 0,
            wrong: 0,
            first_wrong: None,
            taken: 0,
            skipped: 0,
        }
    }

    /// Sets the end and the reason of the entries that follow.
    pub(super) fn say(&mut self, left: Left, text: Option<&str>) {
        self.left = left;
        self.text = text.filter(|_| self.now.is_some()).map(str::to_owned);
    }

    /// The time by which entries end; `None`: no matter, as every entry counts that the file holds.
    pub(super) fn now(&self) -> Option<WallTime> {
        self.now
    }

    /// An address or a network.
    pub(super) fn entry(&mut self, line: usize, text: &[u8]) -> Result<(), Fault> {
        match std::str::from_utf8(text).map_err(|_| "not an address or network").and_then(Span::parse) {
            Ok(span) => self.span(line, text, span),
            Err(why) => {
                self.wrong(line, text, why);
                Ok(())
            }
        }
    }

    /// An entry that was read.
    pub(super) fn span(&mut self, line: usize, text: &[u8], span: Span) -> Result<(), Fault> {
        self.parts(line, text, span, [span])
    }

    /// An entry of which only `parts` are meant.
    pub(super) fn parts(
        &mut self,
        line: usize,
        text: &[u8],
        whole: Span,
        parts: impl IntoIterator<Item = Span> + Clone,
    ) -> Result<(), Fault> {
        if whole.is_too_wide() {
            self.refuse(line, text, "wider than /8 (IPv6: /16)".to_owned());
            return Ok(());
        }
        if let Some(objection) = parts.clone().into_iter().find_map(|part| self.protected.objection(part)) {
            self.refuse(line, text, objection);
            return Ok(());
        }
        self.taken += 1;
        for part in parts {
            if self.added == MAX_ENTRIES {
                return Err(Fault::TooMany);
            }
            self.added += 1;
            match &mut self.entries {
                Some(entries) => entries.push(Timed { line, span: part, left: self.left, text: self.text.clone() }),
                None => self.spans.add(part, ()),
            }
        }
        Ok(())
    }

    /// An entry that can't be read.
    pub(super) fn wrong(&mut self, line: usize, text: &[u8], why: &str) {
        self.wrong += 1;
        if self.first_wrong.is_none() {
            self.first_wrong = Some(refusal(line, text, why.to_owned()));
        }
        self.refuse(line, text, why.to_owned());
    }

    /// Something that is no ban of an address.
    pub(super) fn skip(&mut self) {
        self.skipped += 1;
    }

    fn refuse(&mut self, line: usize, text: &[u8], why: String) {
        self.refused += 1;
        let most = if self.entries.is_some() { MAX_ENTRY_REFUSALS } else { MAX_REFUSALS };
        if self.refusals.len() < most {
            self.refusals.push(refusal(line, text, why));
        }
    }

    fn finish(mut self, format: Format) -> Result<List, Fault> {
        let entries = self.taken + self.refused;
        if self.wrong * 2 > entries
            && let Some(first) = self.first_wrong
        {
            return Err(Fault::MostlyWrong { wrong: self.wrong, entries, first: Box::new(first) });
        }
        self.spans.settle();
        Ok(List { format, spans: self.spans, refused: self.refused, refusals: self.refusals, skipped: self.skipped })
    }
}

fn refusal(line: usize, text: &[u8], why: String) -> Refusal {
    Refusal { line, entry: printable(text), why }
}
