//! Entries of the ledger as the store keeps them: JSON, times in ms since 1970.
//!
//! What can't be read is left out: counts begin again for that source, which is no worse than never having seen it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use smtp_guard_ebpf::reason::Reason;

use super::distinct::Distinct;
use super::entry::{Entry, History, NODES, Rare, Record, SAMPLE};
use crate::clock::{Both, Stored};
use crate::offence::Digest;

/// Elements of a list that are believed; ours have at most 128.
const LIST: usize = 1024;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    last: Stored,
    /// Older, previous, current.
    history: (u32, u32, u32),
    turned: Stored,
    latest: Stored,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<SavedRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRecord {
    unknown: SavedSet,
    #[serde(default)]
    returned: SavedSet,
    known: SavedSet,
    probed: SavedSet,
    sample: Vec<Box<str>>,
    /// By the label of the reason.
    offences: Vec<(String, u64)>,
    /// Guards that reported some of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    heard: Vec<(Box<str>, u64)>,
    failed_logins: Vec<Stored>,
    trips: u32,
    #[serde(default)]
    doubts: u32,
    tripped_until: Stored,
}

/// The level of the sample, and what is in it.
type SavedSet = (u32, Vec<(u64, Stored)>);

/// `entry` as text.
pub(super) fn write(entry: &Entry, both: &Both) -> String {
    let at = |moment| Stored::from(both.wall_at(moment));
    let set = |set: &Distinct| {
        let (level, seen) = set.parts();
        (level, seen.iter().map(|(digest, moment)| (digest.number(), at(*moment))).collect())
    };
    let saved = Saved {
        last: at(entry.last),
        history: (entry.history.older, entry.history.previous, entry.history.current),
        turned: at(entry.history.turned),
        latest: at(entry.history.latest()),
        record: entry.record.as_ref().map(|record| {
            let none = Rare::default();
            let rare = record.rare.as_deref().unwrap_or(&none);
            SavedRecord {
                unknown: set(&record.unknown),
                returned: set(&record.returned),
                known: set(&record.known),
                probed: set(&record.probed),
                sample: record.sample.to_vec(),
                offences: rare.offences.iter().map(|(reason, count)| (reason.label().to_owned(), *count)).collect(),
                heard: rare.heard.clone(),
                failed_logins: rare.failed_logins.iter().map(|moment| at(*moment)).collect(),
                trips: rare.trips,
                doubts: rare.doubts,
                tripped_until: at(rare.tripped_until),
            }
        }),
    };
    // Nothing in it can fail to be JSON.
    serde_json::to_string(&saved).unwrap_or_default()
}

/// Reads the text of [`write`], maybe from before a restart of the machine. Times that lie ahead are taken for now.
pub(super) fn read(text: &str, both: &Both) -> Option<Entry> {
    let saved: Saved = serde_json::from_str(text).ok()?;
    let past = |at: Stored| both.instant_at(at.into()).min(both.instant);
    let set = |(level, seen): SavedSet| {
        let seen = seen.into_iter().take(LIST).map(|(number, at)| (Digest::from_number(number), past(at)));
        Distinct::from_parts(level, seen)
    };
    let (older, previous, current) = saved.history;
    let mut history = History { older, previous, current, turned: past(saved.turned), ..History::default() };
    history.set_latest(past(saved.latest));
    Some(Entry {
        last: past(saved.last),
        history,
        record: saved.record.map(|record| {
            let offences = record.offences.into_iter().take(LIST);
            let rare = Rare {
                offences: offences.filter_map(|(label, n)| Some((Reason::from_label(&label)?, n))).collect(),
                failed_logins: record.failed_logins.into_iter().take(LIST).map(past).collect::<VecDeque<_>>(),
                heard: record.heard.into_iter().take(NODES).collect(),
                trips: record.trips,
                doubts: record.doubts,
                tripped_until: both.instant_at(record.tripped_until.into()),
            };
            Box::new(Record {
                unknown: set(record.unknown),
                returned: set(record.returned),
                known: set(record.known),
                probed: set(record.probed),
                sample: record.sample.into_iter().take(SAMPLE).collect(),
                rare: (!rare.is_empty()).then(|| Box::new(rare)),
            })
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Instant, WallTime};

    #[test]
    fn entries_come_back_as_they_were_also_after_a_restart_of_the_machine() {
        let second = |n: u64| Instant::from_ns(n * 1_000_000_000);
        let before = Both { instant: second(5000), wall: WallTime::from_ms(1_000_000_000) };
        let mut entry = Entry { last: second(4990), ..Entry::default() };
        entry.history.accepted(second(4000), std::time::Duration::from_secs(3600));
        let record = entry.record();
        record.heard("mx2");
        record.unknown("no@example.org".into(), Digest::of("no@example.org"), false, second(4990));
        record.unknown("back@example.org".into(), Digest::of("back@example.org"), true, second(4990));
        record.known(Digest::of("yes@example.org"), second(4980));
        record.abandoned(&[Digest::of("maybe@example.org")], second(4985));
        record.offence(Reason::Protocol);
        record.rare().failed_logins.push_back(second(4970));
        let text = write(&entry, &before);
        assert_eq!(read(&text, &before), Some(entry.clone()));
        // Booted 4,000 s ago instead of 5,000: what lies before the boot is its beginning.
        let after = Both { instant: second(4000), wall: before.wall };
        let restored = read(&text, &after).unwrap();
        assert_eq!(restored.last, second(3990));
        assert_eq!(restored.evidence(), entry.evidence());
        for nonsense in ["", "{}", "[]", "{\"last\":1,\"history\":[1,2],\"turned\":0,\"latest\":0}"] {
            assert_eq!(read(nonsense, &before), None);
        }
    }
}
