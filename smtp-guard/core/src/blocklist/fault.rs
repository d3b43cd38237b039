//! Faults of a list, and of an entry of one.

use std::fmt;

use serde::Serialize;

use super::{MAX_ENTRIES, MAX_TOTAL};

/// A fault in the content of a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error(
        "its first lines are of no format that is known (netset, Spamhaus DROP as text or JSON lines, CrowdSec CSV or \
         JSON, ipset save): see whether they are an error page, and fetch it again"
    )]
    Unrecognised,
    #[error("it has more than {MAX_ENTRIES} entries: split it into several, or join its networks (`iprange`)")]
    TooMany,
    #[error("all lists together have more than {MAX_TOTAL} entries: leave some out")]
    TooManyTogether,
    #[error("{wrong} of its {entries} entries can't be read, the first is {first}; fetch it again")]
    MostlyWrong { wrong: usize, entries: usize, first: Box<Refusal> },
    #[error("it ends without its count of records, so it was cut short; fetch it again")]
    NoCount,
    #[error(
        "line {line} says that {said} records stand before it, and there are {found}: some are missing; fetch it again"
    )]
    Count { line: usize, said: u64, found: u64 },
    #[error("{0}; it is not JSON, or was cut short: fetch it again")]
    Json(String),
}

/// An entry that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// From 1.
    pub line: usize,
    /// As it stands there, printable and cut short.
    pub entry: String,
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.entry, self.why)
    }
}
