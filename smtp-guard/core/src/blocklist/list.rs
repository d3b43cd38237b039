//! A list: the entries that were taken, and what became of the others.

use super::fault::{Fault, Refusal};
use super::format::{self, Format};
use super::protected::Protected;
use super::span::Span;
use super::spans::Spans;
use super::{MAX_ENTRIES, MAX_REFUSALS};
use crate::printable::printable;

/// What a file was read as.
#[derive(Clone, Debug)]
pub struct List {
    pub format: Format,
    pub(super) spans: Spans<()>,
    /// Entries that can't be read, are too wide, or touch what is protected.
    pub refused: usize,
    /// The first of them.
    pub refusals: Vec<Refusal>,
    /// What the file holds beside bans of addresses: other decisions, other kinds of sets.
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

/// A list that is being read.
#[derive(Debug)]
pub(super) struct Reading<'p> {
    protected: &'p Protected,
    spans: Spans<()>,
    added: usize,
    refusals: Vec<Refusal>,
    refused: usize,
    /// Of these, entries that can't be read, and the first.
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
            added: 0,
            refusals: Vec::new(),
            refused: 0,
            wrong: 0,
            first_wrong: None,
            taken: 0,
            skipped: 0,
        }
    }

    /// An address or a network.
    pub(super) fn entry(&mut self, line: usize, text: &[u8]) -> Result<(), Fault> {
        match std::str::from_utf8(text).map_err(|_| "no address or network").and_then(Span::parse) {
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
            self.spans.add(part, ());
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
        if self.refusals.len() < MAX_REFUSALS {
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
