//! Decisions of CrowdSec as CSV (RFC 4180), with a header: `cscli decisions list -o raw` has scope and value in one column
//! (`Ip:192.0.2.1`), what `cscli decisions import` takes has them in two.

use std::borrow::Cow;

use super::crowdsec::Decision;
use crate::blocklist::fault::Fault;
use crate::blocklist::list::Reading;

/// Where in a record the parts stand.
#[derive(Debug, Default)]
struct Columns {
    /// Scope and value in one.
    both: Option<usize>,
    value: Option<usize>,
    scope: Option<usize>,
    kind: Option<usize>,
    duration: Option<usize>,
    simulated: Option<usize>,
}

impl Columns {
    /// `None`: `record` is no header of such a file.
    fn of(record: &[Cow<'_, [u8]>]) -> Option<Self> {
        let at = |names: &[&str]| {
            let is = |field: &Cow<'_, [u8]>| {
                names.iter().any(|name| field.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
            };
            record.iter().position(is)
        };
        let columns = Self {
            both: at(&["ip"]),
            value: at(&["value"]),
            scope: at(&["scope"]),
            kind: at(&["action", "type"]),
            duration: at(&["expiration", "duration"]),
            simulated: at(&["simulated"]),
        };
        let listed = columns.both.is_some() && columns.kind.is_some();
        (listed || columns.value.is_some()).then_some(columns)
    }
}

/// Whether `line` is the header of such a file.
pub(super) fn is_header(line: &[u8]) -> bool {
    let mut records = Records { rest: line, line: 1 };
    records.next().is_some_and(|(_, record)| Columns::of(&record).is_some())
}

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), Fault> {
    let mut records = Records { rest: bytes, line: 1 };
    let mut columns = None;
    for (line, record) in &mut records {
        if let [only] = record.as_slice()
            && only.trim_ascii().is_empty()
        {
            continue;
        }
        let Some(columns) = &columns else {
            // Comments may stand before it.
            columns = Columns::of(&record);
            continue;
        };
        judge(columns, line, &record, reading)?;
    }
    Ok(())
}

fn judge(columns: &Columns, line: usize, record: &[Cow<'_, [u8]>], reading: &mut Reading<'_>) -> Result<(), Fault> {
    let field = |column: Option<usize>| {
        let field = column.and_then(|column| record.get(column))?;
        std::str::from_utf8(field).ok().map(str::trim)
    };
    let (scope, value) = match columns.value {
        Some(_) => (field(columns.scope), field(columns.value)),
        None => match field(columns.both).and_then(|both| both.split_once(':')) {
            Some((scope, value)) => (Some(scope), Some(value)),
            None => (None, None),
        },
    };
    let Some(value) = value else {
        let shown = columns.value.or(columns.both).and_then(|column| record.get(column)).or(record.first());
        reading.wrong(line, shown.map_or(b"".as_slice(), |field| field), "no scope and value");
        return Ok(());
    };
    let simulated = field(columns.simulated).is_some_and(|simulated| simulated.eq_ignore_ascii_case("true"));
    let (kind, duration) = (field(columns.kind), field(columns.duration));
    Decision { scope, kind, value, duration, until: None, simulated }.judge(line, reading)
}

/// Records with the lines that they begin in.
struct Records<'a> {
    rest: &'a [u8],
    line: usize,
}

impl<'a> Iterator for Records<'a> {
    type Item = (usize, Vec<Cow<'a, [u8]>>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let line = self.line;
        let mut fields = Vec::new();
        loop {
            let (field, length) = field(self.rest);
            self.line += memchr::memchr_iter(b'\n', &self.rest[..length]).count();
            self.rest = &self.rest[length..];
            fields.push(field);
            match self.rest.split_first() {
                Some((b',', rest)) => self.rest = rest,
                Some((_, rest)) => {
                    self.line += 1;
                    self.rest = rest;
                    return Some((line, fields));
                }
                None => return Some((line, fields)),
            }
        }
    }
}

/// The field that `bytes` begin with, and its length there; a comma, a line's end or nothing follows.
fn field(bytes: &[u8]) -> (Cow<'_, [u8]>, usize) {
    let plain = |from: usize| memchr::memchr2(b',', b'\n', &bytes[from..]).map_or(bytes.len(), |at| from + at);
    if bytes.first() != Some(&b'"') {
        let end = plain(0);
        return (Cow::Borrowed(bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end])), end);
    }
    let mut text = Vec::new();
    let mut at = 1;
    // Two quotes stand for one; a quote that nothing closes ends with the file.
    while let Some(quote) = memchr::memchr(b'"', &bytes[at..]).map(|quote| at + quote) {
        text.extend_from_slice(&bytes[at..quote]);
        at = quote + 1;
        if bytes.get(at) != Some(&b'"') {
            // What stands behind the closing quote belongs to no field.
            return (Cow::Owned(text), plain(at));
        }
        text.push(b'"');
        at += 1;
    }
    (Cow::Owned(text), bytes.len())
}
