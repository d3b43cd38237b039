//! The rule against directory harvests: one pure function over what one source, or one network, did in the window.
//!
//! # What it looks at
//! All counts are of *distinct* recipients within `harvest.window`: a sender that retries one dead address learns
//! nothing.
//! - `unknown`: those that don't exist.
//! - `returned`: those that don't exist and were asked for by notifications (`<>`) only. Anyone who forges our name makes
//!   honest servers send them, so this is weak evidence.
//! - `known`: those that exist, and were sent a message or still may be. Accepting a recipient isn't enough to stay here.
//!   A client that gives the transaction up, or has the message refused, has learned that the address exists and has
//!   delivered nothing. Its recipients become
//! - `probed`: those that exist and were asked for without a message.
//!
//! # The rule
//! Accepted mail forgives: each known recipient beyond the first [`FLOOR`] takes [`FORGIVES`] unknown ones off, of which
//! [`LEFT_PERCENT`] % are always left. The floor is there so that an attacker can't dilute a harvest with the one or two
//! addresses that he knows. The percentage is there so that volume alone never makes immune.
//!
//! 1. **Harvest**: at least `harvest.unknown_recipients` unknown ones are left, *and* they are more than
//!    `harvest.unknown_share` of what is left and known together. Two signals, because each alone is wrong. A bare count bans a
//!    big provider whose users have old address books. A bare share bans a small sender after one typing error.
//! 2. **Probing**: at least `harvest.unknown_recipients` were probed, and at least a quarter as many were unknown. This
//!    is for lists so good that the share stays low: a client that only asks and never sends is no sender.
//! 3. **Doubt**: number and share are reached without what accepted mail forgives. With ten unknown ones and four known
//!    ones, nobody can tell a lucky guesser from a newsletter to a domain that has lost four of ten mailboxes. It is
//!    stopped all the same, because a lucky guesser learns most. It is only deferred, because a wrong deferral costs just
//!    ten minutes.
//! 4. **Returned**: one of these three holds for unknown and returned recipients together. It is deferred. Only a source
//!    whose mail was never accepted, and that goes on after the deferral, is banned.
//!
//! A source that was banned before has less credit: each ban or deferral in a row halves the number, down to a quarter
//! ([`CREDIT`]). The doubtful ones don't count there.
//!
//! A network (/24, /48) is judged by the first rule with [`NETWORK`] times the number, of at least [`SPREAD`] sources:
//! see [`super::networks`].
//!
//! # What follows from it, with the default of 10
//! The tenth unknown recipient trips, unless ten are known by then: where a tenth exist, that is so four times in a
//! million. Of those that trip there, nine of ten are banned and the others deferred. `cargo xtask trial` replays these:
//!
//! | sender | banned | deferred |
//! |---|---|---|
//! | newsletter to 200 of which 40 % are stale | three of 1,000 | three of ten |
//! | big provider of which 30 % are stale, never seen before | | one of twenty |
//! | list of 50 like it | | one of 100 |

use crate::config::Harvest;

/// Known recipients that forgive nothing.
pub const FLOOR: u32 = 2;
/// Unknown recipients that one known one forgives.
pub const FORGIVES: u32 = 2;
/// The least share of the unknown recipients that is left.
pub const LEFT_PERCENT: u32 = 40;
/// How often the number of a source is halved at most.
const CREDIT: u32 = 2;
/// A network trips at so many times the number of a source ...
pub const NETWORK: u32 = 3;
/// ... of at least so many sources.
pub const SPREAD: usize = 3;

/// Distinct recipients of a source, or of a network, in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    pub unknown: u32,
    pub returned: u32,
    pub known: u32,
    pub probed: u32,
}

/// Which part of the rule tripped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grounds {
    Harvest,
    Probing,
    Doubt,
    /// Not without recipients that were returned. `probing`: by the second rule.
    Returned {
        probing: bool,
    },
}

impl Evidence {
    /// With what was returned counted like the rest.
    pub fn with_returned(self) -> Self {
        Self { unknown: self.unknown.saturating_add(self.returned), returned: 0, ..self }
    }

    /// Unknown recipients after what accepted mail forgives.
    pub fn left(self) -> u32 {
        let forgiven = self.known.saturating_sub(FLOOR).saturating_mul(FORGIVES);
        let least = u64::from(self.unknown) * u64::from(LEFT_PERCENT);
        self.unknown.saturating_sub(forgiven).max(u32::try_from(least.div_ceil(100)).unwrap_or(u32::MAX))
    }

    /// The share of unknown recipients after forgiveness, 0.0 to 1.0.
    pub fn share(self) -> f64 {
        let (left, known) = (f64::from(self.left()), f64::from(self.known));
        if left + known == 0.0 { 0.0 } else { left / (left + known) }
    }
}

/// The rule for one source that has tripped `repeat` times in a row before; see the head of this file.
pub fn judge(rule: &Harvest, evidence: Evidence, repeat: u32) -> Option<Grounds> {
    let limit = rule.unknown_recipients.max(1).div_ceil(1 << repeat.min(CREDIT));
    by_own(rule, Evidence { returned: 0, ..evidence }, limit).or_else(|| {
        let all = by_own(rule, evidence.with_returned(), limit)?;
        Some(Grounds::Returned { probing: all == Grounds::Probing })
    })
}

/// The first three of the rules.
fn by_own(rule: &Harvest, evidence: Evidence, limit: u32) -> Option<Grounds> {
    let unforgiven =
        f64::from(evidence.unknown) > rule.unknown_share * (f64::from(evidence.unknown) + f64::from(evidence.known));
    if is_harvest(rule, evidence, limit) {
        Some(Grounds::Harvest)
    } else if evidence.probed >= limit && evidence.unknown >= limit.div_ceil(4) {
        Some(Grounds::Probing)
    } else if evidence.unknown >= limit && unforgiven {
        Some(Grounds::Doubt)
    } else {
        None
    }
}

/// The rule for a network, of which `sources` named unknown recipients.
pub fn judge_network(rule: &Harvest, evidence: Evidence, sources: usize) -> bool {
    sources >= SPREAD && is_harvest(rule, evidence, rule.unknown_recipients.max(1).saturating_mul(NETWORK))
}

fn is_harvest(rule: &Harvest, evidence: Evidence, limit: u32) -> bool {
    evidence.left() >= limit && evidence.share() > rule.unknown_share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(unknown: u32, known: u32, probed: u32, grounds: Option<Grounds>) {
        let evidence = Evidence { unknown, known, probed, returned: 0 };
        assert_eq!(judge(&Harvest::default(), evidence, 0), grounds, "{evidence:?}");
    }

    #[test]
    fn who_was_banned_before_has_less_credit() {
        for (repeat, limit) in [(0, 10), (1, 5), (2, 3), (3, 3), (u32::MAX, 3)] {
            let trips = |unknown| judge(&Harvest::default(), Evidence { unknown, ..Evidence::default() }, repeat);
            assert_eq!((trips(limit - 1), trips(limit)), (None, Some(Grounds::Harvest)), "{repeat}");
        }
    }

    #[test]
    fn the_rule_by_its_corners() {
        check(9, 0, 0, None);
        check(10, 0, 0, Some(Grounds::Harvest));
        // Two known addresses forgive nothing.
        check(10, 2, 0, Some(Grounds::Harvest));
        // In doubt ...
        check(10, 3, 0, Some(Grounds::Doubt));
        check(10, 9, 0, Some(Grounds::Doubt));
        check(10, 10, 0, None);
        check(12, 3, 0, Some(Grounds::Harvest));
        // However much mail: two fifths are left, and then the share decides whether there is doubt.
        check(25, 9, 0, Some(Grounds::Harvest));
        check(25, 10, 0, Some(Grounds::Doubt));
        check(25, 25, 0, None);
        check(1000, 390, 0, Some(Grounds::Harvest));
        check(1000, 400, 0, Some(Grounds::Doubt));
        check(1000, 1000, 0, None);
        check(u32::MAX, 0, 0, Some(Grounds::Harvest));
        check(u32::MAX, u32::MAX, 0, None);
        // Asking without sending.
        check(2, 0, 100, None);
        check(3, 0, 9, None);
        check(3, 0, 10, Some(Grounds::Probing));
        check(3, 1000, 10, Some(Grounds::Probing));
    }

    #[test]
    fn a_network_needs_more_of_more_sources() {
        let rule = Harvest::default();
        for (unknown, known, sources, trips) in
            [(29, 0, 29, false), (30, 0, 2, false), (30, 0, 3, true), (30, 2, 30, true), (30, 30, 30, false)]
        {
            let evidence = Evidence { unknown, known, ..Evidence::default() };
            assert_eq!(judge_network(&rule, evidence, sources), trips, "{evidence:?} of {sources}");
        }
    }
}
