//! The latest deferrals as they were made: when, and on what evidence. Marks, which sessions read, know only until when.
//!
//! # Bounds
//! [`KEPT`] deferrals. One that was pushed out by later ones is shown without its evidence, as if made now.

use std::collections::HashMap;

use crate::clock::{Both, Instant, WallTime};
use crate::decision::Decision;
use crate::gate::Grounds;

/// Deferrals that are remembered.
const KEPT: usize = 1024;

/// By the source or network as text.
#[derive(Debug, Default)]
pub(super) struct Deferrals(HashMap<String, Noted>);

#[derive(Debug)]
struct Noted {
    made: WallTime,
    until: Instant,
    repeat: u32,
    evidence: Vec<String>,
}

impl Deferrals {
    /// `who` was deferred at `both`.
    pub(super) fn note(&mut self, who: String, grounds: &Grounds, both: &Both) {
        if self.0.len() >= KEPT && !self.0.contains_key(&who) {
            let soonest = self.0.iter().min_by_key(|(who, noted)| (noted.until, *who)).map(|(who, _)| who.clone());
            soonest.and_then(|who| self.0.remove(&who));
        }
        let Grounds { length, repeat, evidence, .. } = grounds;
        let (until, evidence) = (both.instant.after(*length), evidence.clone());
        self.0.insert(who, Noted { made: both.wall, until, repeat: *repeat, evidence });
    }

    /// `who` isn't deferred any more.
    pub(super) fn forget(&mut self, who: &str) {
        self.0.remove(who);
    }

    /// Nobody is.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The deferral of `who` until `until`, at `both`.
    pub(super) fn decision(&self, who: String, both: &Both, until: Instant) -> Decision {
        let decision = Decision::deferral(who, both, until);
        match self.0.get(&decision.source).filter(|noted| both.instant < noted.until) {
            Some(Noted { made, repeat, evidence, .. }) => {
                Decision { made: *made, repeat: *repeat, evidence: evidence.clone(), ..decision }
            }
            None => decision,
        }
    }

    /// Whether that of `who` is known, and in force at `now`.
    pub(super) fn knows(&self, who: &str, now: Instant) -> bool {
        self.0.get(who).is_some_and(|noted| now < noted.until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use smtp_guard_ebpf::reason::Reason;

    use super::*;

    fn at(seconds: u64) -> Both {
        let wall = WallTime::from_ms(i64::try_from(seconds).unwrap() * 1000);
        Both { instant: Instant::from_ns(seconds * 1_000_000_000), wall }
    }

    fn grounds(seconds: u64) -> Grounds {
        let evidence = vec![format!("for {seconds} s")];
        Grounds { reason: Reason::Harvest, length: Duration::from_secs(seconds), repeat: 1, evidence }
    }

    /// When the deferral of `who` was made, and by which evidence, as it is shown at `now`.
    #[track_caller]
    fn check(deferrals: &Deferrals, who: &str, now: u64, made: u64, evidence: &[&str]) {
        let decision = deferrals.decision(who.to_owned(), &at(now), at(9999).instant);
        assert_eq!(decision.made, at(made).wall);
        assert_eq!(decision.evidence, evidence);
        assert_eq!((decision.source.as_str(), decision.until), (who, at(9999).wall));
        assert_eq!(deferrals.knows(who, at(now).instant), !evidence.is_empty());
        assert_eq!(decision.repeat, u32::from(!evidence.is_empty()));
    }

    #[test]
    fn a_deferral_keeps_its_evidence_until_its_end() {
        let mut deferrals = Deferrals::default();
        check(&deferrals, "a", 5, 5, &[]);
        deferrals.note("a".to_owned(), &grounds(10), &at(5));
        check(&deferrals, "a", 14, 5, &["for 10 s"]);
        check(&deferrals, "a", 15, 15, &[]);
        check(&deferrals, "b", 14, 14, &[]);
        deferrals.note("a".to_owned(), &grounds(20), &at(8));
        check(&deferrals, "a", 27, 8, &["for 20 s"]);
        deferrals.forget("a");
        check(&deferrals, "a", 9, 9, &[]);
        deferrals.note("a".to_owned(), &grounds(10), &at(5));
        deferrals.clear();
        check(&deferrals, "a", 9, 9, &[]);
    }

    #[test]
    fn the_one_that_ends_soonest_makes_room() {
        let mut deferrals = Deferrals::default();
        for n in 0..KEPT as u64 {
            deferrals.note(format!("{n}"), &grounds(1000 + (n + 7) % KEPT as u64), &at(0));
        }
        // It is there: nobody has to go.
        deferrals.note("3".to_owned(), &grounds(5000), &at(0));
        deferrals.note("new".to_owned(), &grounds(3000), &at(0));
        assert_eq!(deferrals.0.len(), KEPT);
        for (who, kept) in [("new", true), ("3", true), ("1016", true), ("1017", false), ("1018", true)] {
            assert_eq!(deferrals.knows(who, at(1).instant), kept, "{who}");
        }
    }
}
