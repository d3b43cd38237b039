//! The sources that offended last, for readers that ask every second: nobody wants to search a million for them.
//!
//! # Bounds
//! [`LATEST`] sources. One that is banned keeps its place until others push it out.

use std::collections::VecDeque;

use super::Keeper;
use crate::addr::Source;
use crate::decision::{LATEST, Suspect};
use crate::offence::Conduct;

/// Sources, the one that offended last at the back.
#[derive(Debug, Default)]
pub(super) struct Suspects(VecDeque<Source>);

impl Suspects {
    /// Notes what `source` did, if it speaks against the source.
    pub(super) fn note(&mut self, source: Source, conduct: &Conduct) {
        let is_good =
            matches!(conduct, Conduct::KnownRecipient { .. } | Conduct::Undelivered { .. } | Conduct::MessageAccepted);
        if is_good {
            return;
        }
        self.0.retain(|other| *other != source);
        if self.0.len() == LATEST {
            self.0.pop_front();
        }
        self.0.push_back(source);
    }

    /// The last one first.
    fn sources(&self) -> Vec<Source> {
        self.0.iter().rev().copied().collect()
    }
}

impl Keeper {
    /// Those that offended last, the worst first. What lies outside the window counts no longer.
    pub(in crate::feedback) fn suspects(&mut self) -> Vec<Suspect> {
        let now = crate::clock::now();
        let mut found = Vec::new();
        for source in self.suspects.sources() {
            let Some(view) = self.ledger.view(source, now) else { continue };
            if view.evidence.left() == 0 && view.failed_logins == 0 && view.offences.is_empty() {
                continue;
            }
            found.push(Suspect {
                source: self.text(&source.into()),
                unforgiven: view.evidence.left(),
                known_recipients: view.evidence.known,
                share: view.evidence.share(),
                failed_logins: view.failed_logins,
                accepted: view.accepted,
                offences: view.offences.iter().map(|(reason, _)| reason.label().to_owned()).collect(),
            });
        }
        found.sort_by_key(|suspect| {
            std::cmp::Reverse((suspect.unforgiven, suspect.failed_logins, suspect.offences.len()))
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_is_first_and_good_conduct_is_none() {
        let mut suspects = Suspects::default();
        let bad = Conduct::UnknownRecipient { recipient: "no@example.org".into(), returned: false };
        let source = |n: u64| Source::v4(u32::try_from(n).unwrap());
        (0..2 * LATEST as u64).for_each(|n| suspects.note(source(n), &bad));
        let last = |suspects: &Suspects| suspects.sources()[0];
        assert_eq!((suspects.sources().len(), last(&suspects)), (LATEST, source(2 * LATEST as u64 - 1)));
        suspects.note(source(100), &bad);
        suspects.note(source(101), &Conduct::MessageAccepted);
        assert_eq!((suspects.sources().len(), last(&suspects)), (LATEST, source(100)));
    }
}
