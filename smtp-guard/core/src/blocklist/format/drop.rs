//! Spamhaus DROP as JSON lines: a record for each network, and at the end how many there are. Files that were joined have
//! several such ends; each counts what stands since the one before.

use std::borrow::Cow;

use serde::Deserialize;

use super::lines;
use crate::blocklist::fault::Fault;
use crate::blocklist::list::Reading;

/// A line of either kind.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    cidr: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    records: Option<u64>,
}

impl Record<'_> {
    fn is_end(&self) -> bool {
        self.kind.as_deref() == Some("metadata")
    }
}

/// Whether `line` is one of such a file.
pub(super) fn is_line(line: &[u8]) -> bool {
    serde_json::from_slice::<Record<'_>>(line).is_ok_and(|record| record.cidr.is_some() || record.is_end())
}

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), Fault> {
    let (mut found, mut ended) = (0, false);
    for (number, line) in lines(bytes) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let record = serde_json::from_slice::<Record<'_>>(line);
        if let Ok(record) = &record
            && record.is_end()
        {
            match record.records {
                Some(said) if said == found => {}
                Some(said) => return Err(Fault::Count { line: number, said, found }),
                None => return Err(Fault::NoCount),
            }
            (found, ended) = (0, true);
            continue;
        }
        (found, ended) = (found + 1, false);
        match record.ok().and_then(|record| record.cidr) {
            Some(cidr) => reading.entry(number, cidr.as_bytes())?,
            None => reading.wrong(number, line, "no record with a cidr"),
        }
    }
    if ended { Ok(()) } else { Err(Fault::NoCount) }
}
