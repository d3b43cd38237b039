//! The formats that lists come in, distinguished by what stands in the file.

mod crowdsec;
mod csv;
mod drop;
mod ipset;
mod ours;
mod text;

use serde::Serialize;

use super::fault::Fault;
use super::list::Reading;
use super::span::Span;

/// Lines of text among which an entry must be, for the file to be a list.
const LOOKED_AT: usize = 20;

/// The format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// An address or network a line, `#` before comments: FireHOL and most others.
    Netset,
    /// `192.0.2.0/24 ; SBL1`.
    DropText,
    /// `{"cidr":"192.0.2.0/24",...}` a line, and at the end how many.
    DropJson,
    /// `cscli decisions list -o raw`, or what `cscli decisions import` takes.
    CrowdsecCsv,
    /// `cscli decisions list -o json`, or what its API answers.
    CrowdsecJson,
    IpsetSave,
    /// `smtp-guard decisions export --format json`, or `decisions list --json`.
    Decisions,
}

impl Format {
    /// As people call it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Netset => "netset",
            Self::DropText => "Spamhaus DROP, text",
            Self::DropJson => "Spamhaus DROP, JSON lines",
            Self::CrowdsecCsv => "CrowdSec, CSV",
            Self::CrowdsecJson => "CrowdSec, JSON",
            Self::IpsetSave => "ipset save",
            Self::Decisions => "smtp-guard, JSON",
        }
    }

    /// The format of `bytes`; `None`: none of these. A file of nothing but comments is a list without entries: that is how
    /// Spamhaus publishes one that is empty.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        if ours::begins(bytes) {
            return Some(Self::Decisions);
        }
        let (mut semicolons, mut comments) = (false, false);
        let mut looked_at = 0;
        for (_, line) in lines(bytes) {
            let line = line.trim_ascii();
            match line.first() {
                None => continue,
                Some(b'#') => {
                    comments = true;
                    continue;
                }
                Some(b';') => {
                    (semicolons, comments) = (true, true);
                    continue;
                }
                Some(_) => {}
            }
            if looked_at == 0
                && let Some(format) = Self::of_first_line(line)
            {
                return Some(format);
            }
            let (entry, sign) = text::entry(line);
            if std::str::from_utf8(entry).is_ok_and(|entry| Span::parse(entry).is_ok()) {
                let semicolons = sign == Some(b';') || semicolons && sign.is_none();
                return Some(if semicolons { Self::DropText } else { Self::Netset });
            }
            looked_at += 1;
            if looked_at == LOOKED_AT {
                break;
            }
        }
        let only_comments = comments && looked_at == 0;
        only_comments.then_some(if semicolons { Self::DropText } else { Self::Netset })
    }

    /// The format, if the first line alone shows it.
    fn of_first_line(line: &[u8]) -> Option<Self> {
        if line[0] == b'{' && drop::is_line(line) {
            return Some(Self::DropJson);
        }
        if matches!(line[0], b'{' | b'[') || line == b"null" {
            return Some(Self::CrowdsecJson);
        }
        if line.starts_with(b"create ") || line.starts_with(b"add ") {
            return Some(Self::IpsetSave);
        }
        csv::is_header(line).then_some(Self::CrowdsecCsv)
    }
}

/// Reads `bytes`, which are of `format`.
pub(super) fn read(format: Format, bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), Fault> {
    match format {
        Format::Netset | Format::DropText => text::read(bytes, reading),
        Format::DropJson => drop::read(bytes, reading),
        Format::CrowdsecCsv => csv::read(bytes, reading),
        Format::CrowdsecJson => crowdsec::read(bytes, reading),
        Format::IpsetSave => ipset::read(bytes, reading),
        Format::Decisions => ours::read(bytes, reading),
    }
}

/// The lines with their numbers, without CR and LF at their ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut rest = Some(bytes);
    let lines = std::iter::from_fn(move || {
        let now = rest?;
        match memchr::memchr(b'\n', now) {
            Some(end) => {
                rest = Some(&now[end + 1..]);
                Some(&now[..end])
            }
            None => {
                rest = None;
                Some(now)
            }
        }
    });
    (1..).zip(lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)))
}
