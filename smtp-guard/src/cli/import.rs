//! `decisions import`: a file of others, or of our own, as decisions of the operator.
//!
//! The file is read here, whole; the guard gets its entries a few thousand at a time, so that nobody else waits for long. Each
//! part is in force and on disk when the next one goes: what is broken off leaves what was done.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::admin_client::AdminClient;
use crate::blocklist::{Entries, Left, MAX_ENTRY_REFUSALS, MAX_FILE, Refusal, parse_entries};
use crate::decision::Entry;
use crate::file;
use crate::key::Who;
use crate::observe::admin::{IMPORT_ENTRIES, Import, LONGEST, REASON_BYTES};
use crate::observe::log::printable;

/// The outcome of an import.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    format: &'static str,
    /// In force now.
    added: usize,
    /// Decisions in force last longer.
    outlasted: usize,
    /// No bans of addresses, or over.
    skipped: usize,
    refused: usize,
    /// The first of those, by their lines.
    refusals: Vec<Refusal>,
    pub(super) saved: bool,
}

/// Entries of the file, one by one as the guard takes them.
struct Asked {
    line: usize,
    entry: Entry,
}

/// Puts what `file` holds in force, for `length` where it doesn't say for how long, because of `reason`.
pub(super) fn import(
    client: &AdminClient,
    file: &Path,
    length: Duration,
    reason: Option<String>,
) -> anyhow::Result<Report> {
    let bytes = read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let entries =
        parse_entries(&bytes, crate::clock::wall()).with_context(|| format!("{} can't be used", file.display()))?;
    drop(bytes);
    let said = reason.unwrap_or_else(|| fit(&format!("imported from {}", name(file))));
    send(client, &name(file), entries, length, &said)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file != Path::new("-") {
        return Ok(file::read(file, MAX_FILE)?.0);
    }
    let mut bytes = Vec::new();
    io::stdin().lock().take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("it has more than {MAX_FILE} bytes");
    }
    Ok(bytes)
}

fn name(file: &Path) -> String {
    match file.file_name() {
        _ if file == Path::new("-") => "standard input".to_owned(),
        Some(name) => printable(name.as_encoded_bytes()),
        None => file.display().to_string(),
    }
}

fn send(client: &AdminClient, file: &str, entries: Entries, length: Duration, reason: &str) -> anyhow::Result<Report> {
    let Entries { format, entries, refused, refusals, skipped } = entries;
    let mut report = Report { format: format.label(), refused, refusals, skipped, saved: true, ..Report::default() };
    let all = entries.len();
    let mut asked = entries.into_iter().flat_map(|timed| {
        let seconds = seconds(timed.left, length);
        let text = timed.text.map(|text| fit(&text));
        let line = timed.line;
        timed
            .span
            .nets()
            .map(move |net| Asked { line, entry: Entry { who: Who::from(net), seconds, text: text.clone() } })
    });
    let mut done = 0;
    let mut progress = Progress::new(all);
    loop {
        let (lines, entries): (Vec<usize>, Vec<Entry>) =
            asked.by_ref().take(IMPORT_ENTRIES).map(|asked| (asked.line, asked.entry)).unzip();
        if entries.is_empty() {
            break;
        }
        done += entries.len();
        let named: Vec<Who> = entries.iter().map(|entry| entry.who).collect();
        let answer = client.import(&Import { entries, reason: reason.to_owned(), file: file.to_owned() });
        let answer = answer
            .inspect_err(|_| progress.end())
            .with_context(|| format!("{} decisions are in force, and no more were made", report.added))?;
        report.added += answer.what.added;
        report.outlasted += answer.what.outlasted;
        report.saved &= answer.saved;
        for (place, why) in answer.what.refused {
            report.refused += 1;
            if let (Some(line), Some(who)) = (lines.get(place), named.get(place))
                && report.refusals.len() < MAX_ENTRY_REFUSALS
            {
                report.refusals.push(Refusal { line: *line, entry: who.to_string(), why });
            }
        }
        progress.at(done);
    }
    progress.end();
    report.refusals.sort_by_key(|refusal| refusal.line);
    Ok(report)
}

/// Whole seconds, rounded up; `None`: for ever.
fn seconds(left: Left, length: Duration) -> Option<u64> {
    let length = match left {
        Left::Unsaid => length,
        Left::For(length) => length,
        Left::Ever => return None,
    };
    Some(super::time::whole_seconds(length).clamp(1, LONGEST.as_secs()))
}

/// `text` as the guard takes it.
fn fit(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean[..clean.floor_char_boundary(REASON_BYTES)].trim().to_owned()
}

impl Report {
    /// One line, and the lines that were refused.
    pub(super) fn text(&self) -> String {
        let Self { format, added, outlasted, skipped, refused, refusals, saved: _ } = self;
        let mut text = format!("{format}: {added} decisions are in force");
        for (count, what) in
            [(outlasted, "outlasted by one that was there"), (skipped, "no bans, or over"), (refused, "refused")]
        {
            if *count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        for refusal in refusals {
            text += &format!("\nrefused: {refusal}");
        }
        if *refused > refusals.len() {
            text += &format!("\nand {} more", refused - refusals.len());
        }
        text
    }
}

/// How far it is, on a terminal.
struct Progress {
    all: usize,
    shown: bool,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { all, shown: all > IMPORT_ENTRIES && io::stderr().is_terminal() }
    }

    fn at(&mut self, done: usize) {
        if self.shown {
            // A terminal that is gone needs no progress.
            _ = write!(io::stderr(), "\r{done} of {}", self.all);
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.shown) {
            _ = writeln!(io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_documented() {
        let refusal = Refusal { line: 1, entry: String::from("x"), why: String::from("no address") };
        let report = Report { format: "netset", refusals: vec![refusal], ..Report::default() };
        crate::cli::output::check_documented("decisions import", &report);
    }
}
