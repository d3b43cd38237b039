//! Decisions that were made before this guard began: what the store and the kernel's map have of them.

use std::time::Duration;

use super::{Effect, Lifted, pardon};
use crate::clock::Both;
use crate::decision::{Ban, Origin};
use crate::key::Key;
use crate::ledger::Ledger;
use crate::marks::Marks;

/// Resumes `bans` at `both`, lifts first, and those that are over. `saved`: they come from the store. `is_exempt`: who must
/// never be banned. `is_held`: what is in force already is newer and stays.
pub fn resume(
    ledger: &mut Ledger,
    marks: &Marks,
    mut bans: Vec<Ban>,
    saved: bool,
    both: &Both,
    is_exempt: impl Fn(&Key) -> bool,
    is_held: impl Fn(&Key) -> bool,
) -> (Vec<Effect>, Vec<Ban>) {
    bans.sort_by_key(|ban| ban.made);
    let (mut lifted, mut resumed, mut over) = (Vec::new(), Vec::new(), Vec::new());
    for ban in bans {
        // By a clock that is behind it would last too long.
        let length = u64::try_from(ban.until.as_ms().saturating_sub(ban.made.as_ms())).unwrap_or_default();
        let until = both.instant_at(ban.until).min(both.instant.after(Duration::from_millis(length)));
        if let (true, Origin::Ledger, Some(source)) = (saved, &ban.origin, ban.key.source()) {
            ledger.remember_ban(source, ban.repeat, until, both.instant);
        }
        if is_exempt(&ban.key) {
            lifted.push(pardon(ledger, marks, ban.key, Lifted::Exempt));
        } else if is_held(&ban.key) {
            continue;
        } else if until <= both.instant {
            over.push(ban);
        } else {
            let ban = Box::new(Ban { until: both.wall_at(until), ..ban });
            resumed.push(Effect::Resume { ban, until, saved });
        }
    }
    lifted.extend(resumed);
    (lifted, over)
}

#[cfg(test)]
mod tests {
    use smtp_guard_ebpf::reason::Reason;

    use super::*;
    use crate::addr::Source;
    use crate::clock::{Instant, WallTime};

    const NOW: i64 = 1_000_000;

    fn ban(n: u32, made: i64, until: i64) -> Ban {
        Ban {
            key: Source::v4(n).into(),
            reason: Reason::Harvest,
            origin: Origin::Ledger,
            made: WallTime::from_ms(made),
            until: WallTime::from_ms(until),
            repeat: 2,
            text: std::sync::Arc::default(),
            evidence: Default::default(),
        }
    }

    /// What follows from a ban of source 1: `lift`, `over`, `held`, or how many ms it goes on; and the trips that the ledger knows.
    #[track_caller]
    fn check(ban: Ban, saved: bool, exempt: bool, held: bool, expected: &str, trips: u32) {
        let both = Both { instant: Instant::from_ns(5_000_000_000), wall: WallTime::from_ms(NOW) };
        let (mut ledger, marks) = (Ledger::new(Default::default(), Default::default(), 10), Marks::default());
        let (effects, over) = resume(&mut ledger, &marks, vec![ban.clone()], saved, &both, |_| exempt, |_| held);
        let found = match (&effects[..], &over[..]) {
            ([Effect::Lift { key, why: Lifted::Exempt }], []) if *key == ban.key => "lift".to_owned(),
            ([], [over]) if *over == ban => "over".to_owned(),
            ([], []) => "held".to_owned(),
            ([Effect::Resume { ban: resumed, until, saved: told }], []) => {
                assert_eq!((resumed.made, *told, resumed.until), (ban.made, saved, both.wall_at(*until)));
                match *until {
                    Instant::NEVER => "for ever".to_owned(),
                    until => until.since(both.instant).as_millis().to_string(),
                }
            }
            found => panic!("{found:?}"),
        };
        let known = ledger.view(Source::v4(1), both.instant).map_or(0, |view| view.trips);
        assert_eq!((found.as_str(), known), (expected, trips), "{ban:?}");
    }

    #[test]
    fn what_was_decided_before_goes_on_until_its_end() {
        check(ban(1, NOW - 50, NOW + 50), true, false, false, "50", 3);
        check(ban(1, NOW - 50, i64::MAX), true, false, false, "for ever", 3);
        check(ban(1, NOW - 50, NOW), true, false, false, "over", 3);
        check(ban(1, NOW - 50, NOW + 1), true, false, false, "1", 3);
        check(ban(1, NOW - 50, NOW + 50), true, false, true, "held", 3);
        check(ban(1, NOW - 50, NOW + 50), true, true, false, "lift", 0);
        check(ban(1, NOW - 50, NOW - 10), true, true, false, "lift", 0);
        // A clock that is behind: never longer than it was to last.
        check(ban(1, NOW + 900, NOW + 950), true, false, false, "50", 3);
        check(ban(1, NOW + 950, NOW + 900), true, false, false, "over", 3);
        // The kernel's map doesn't say who made it, nor for which time.
        check(ban(1, NOW, NOW + 50), false, false, false, "50", 0);
        check(Ban { origin: Origin::Operator, ..ban(1, NOW, NOW + 50) }, true, false, false, "50", 0);
    }

    #[test]
    fn lifts_come_first_and_bans_in_the_order_in_which_they_were_made() {
        let both = Both { instant: Instant::from_ns(0), wall: WallTime::from_ms(0) };
        let (mut ledger, marks) = (Ledger::new(Default::default(), Default::default(), 10), Marks::default());
        let bans = vec![ban(1, 3, 100), ban(2, 1, 100), ban(3, 2, 100), ban(4, 5, 100)];
        let is_exempt = |key: &Key| *key == Source::v4(4).into();
        let (effects, _) = resume(&mut ledger, &marks, bans, true, &both, is_exempt, |_| false);
        let keys: Vec<_> = effects
            .iter()
            .map(|effect| match effect {
                Effect::Lift { key, .. } => key.clone(),
                Effect::Resume { ban, .. } => ban.key.clone(),
                effect => panic!("{effect:?}"),
            })
            .collect();
        assert_eq!(keys, [4, 2, 3, 1].map(|n| Key::from(Source::v4(n))));
    }
}
