//! Our own decisions as JSON: what `decisions export` and `decisions list --json` write. Deferrals are no bans and are skipped.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::crowdsec::Place;
use crate::blocklist::fault::Fault;
use crate::blocklist::list::{Left, Reading};
use crate::clock::WallTime;

/// A decision, as far as it is read.
#[derive(Deserialize)]
struct Decision<'a> {
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Cow<'a, str>,
    until: WallTime,
}

/// An entry as `decisions list --json` writes it.
#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(borrow)]
    decisions: Vec<&'a RawValue>,
}

/// Whether `bytes` begin as such a file does: other formats have other things in their source.
pub(super) fn begins(bytes: &[u8]) -> bool {
    const EXPORTED: [&str; 5] = ["[", "{", "\"source\"", ":", "\""];
    // Both versions that there were; the times of either are read.
    const LISTED: [[&str; 8]; 2] = [
        ["{", "\"version\"", ":", "1", ",", "\"decisions\"", ":", "["],
        ["{", "\"version\"", ":", "2", ",", "\"decisions\"", ":", "["],
    ];
    let begins_with = |parts: &[&str]| {
        let mut rest = bytes;
        parts.iter().all(|part| {
            rest = rest.trim_ascii_start();
            rest.strip_prefix(part.as_bytes()).is_some_and(|after| {
                rest = after;
                true
            })
        })
    };
    begins_with(&EXPORTED) || LISTED.iter().any(|listed| begins_with(listed))
}

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| Fault::Json(error.to_string()))?;
    let elements = if text.trim_ascii_start().starts_with('{') {
        serde_json::from_str(text).map(|listed: Listed<'_>| listed.decisions)
    } else {
        serde_json::from_str(text)
    };
    let elements: Vec<&RawValue> = elements.map_err(|error| Fault::Json(error.to_string()))?;
    let mut place = Place::new(text);
    for raw in elements {
        let line = place.line_of(raw);
        let Ok(decision) = serde_json::from_str::<Decision<'_>>(raw.get()) else {
            reading.wrong(line, raw.get().as_bytes(), "no decision");
            continue;
        };
        let now = reading.now();
        let left = match decision.until {
            WallTime::NEVER => Left::Ever,
            until => {
                let ms = now.map_or(1, |now| until.as_ms().saturating_sub(now.as_ms()));
                Left::For(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
            }
        };
        if decision.reason == "deferred" || left == Left::For(Duration::ZERO) {
            reading.skip();
            continue;
        }
        reading.say(left, Some(&*decision.text).filter(|text| !text.is_empty()));
        reading.entry(line, decision.source.as_bytes())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::blocklist::list::Left;
    use crate::blocklist::parse_entries;
    use crate::clock::WallTime;

    #[test]
    fn what_is_exported_and_what_is_listed_are_read_alike() {
        for (version, until) in
            [(1, "5000"), (1, "9223372036854775807"), (2, "\"1970-01-01T00:00:05.000Z\""), (2, "null")]
        {
            let list = format!("[{{\"source\": \"192.0.2.1\", \"reason\": \"harvest\", \"until\": {until}}}]");
            let listed = format!("{{\n  \"version\": {version},\n  \"decisions\": {list},\n  \"blocklists\": []\n}}");
            for text in [list, listed] {
                let read = parse_entries(text.as_bytes(), WallTime::from_ms(0)).unwrap();
                assert_eq!((read.format.label(), read.entries.len()), ("smtp-guard, JSON", 1), "{text}");
                let left = if until == "5000" || until.starts_with('"') {
                    Left::For(std::time::Duration::from_secs(5))
                } else {
                    Left::Ever
                };
                assert_eq!(read.entries[0].left, left, "{text}");
            }
        }
    }
}
