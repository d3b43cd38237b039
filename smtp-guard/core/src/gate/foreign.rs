//! Decisions that were made elsewhere: the one door by which they come in.
//!
//! Another guard may err, and knows nothing of what is exempt here: exempt and protected addresses win, whoever decided. What it
//! has heard from a third one is not heard again, so that no decision goes round in circles.

use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::{Effect, Grounds, Lifted, pardon};
use crate::addr::Ipv6Prefix;
use crate::blocklist::Protected;
use crate::clock::{Both, WallTime};
use crate::decision::{Ban, Decision, Name, Origin, one_line};
use crate::key::{Key, Who};
use crate::ledger::{Ledger, SAMPLE};
use crate::marks::Marks;
use crate::snapshot::Snapshot;

/// Bytes of each text of another guard that are kept.
const TEXT: usize = 500;

/// Why a decision of another guard isn't followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// The source is exempt here.
    Exempt,
    /// It touches what is in use here, or no address of the Internet.
    Protected,
    /// It has ended.
    Over,
    /// What is in force here stays.
    Outlasted,
    /// That guard has it from another one.
    SecondHand,
    /// It is no ban of anybody.
    Senseless,
    /// There is no room for it.
    Full,
}

impl Ignored {
    /// All of them, in their order.
    pub const ALL: [Self; 7] =
        [Self::Exempt, Self::Protected, Self::Over, Self::Outlasted, Self::SecondHand, Self::Senseless, Self::Full];

    /// As metrics and logs say it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Exempt => "exempt",
            Self::Protected => "protected",
            Self::Over => "over",
            Self::Outlasted => "outlasted",
            Self::SecondHand => "second_hand",
            Self::Senseless => "senseless",
            Self::Full => "full",
        }
    }
}

/// Judges `decision` of the guard `node` at `both`. `protected`: what no decision may touch. `held`: what is in force.
pub fn foreign<'a>(
    snapshot: &Snapshot,
    protected: &Protected,
    node: &Name,
    decision: &Decision,
    both: &Both,
    held: impl FnOnce(&Key) -> Option<&'a Ban>,
) -> Result<Effect, Ignored> {
    let prefix = snapshot.config().limits.ipv6_prefix;
    if decision.origin == Origin::Node(node.clone()).label() {
        return Err(Ignored::SecondHand);
    }
    let reason = Reason::from_label(&decision.reason).filter(|reason| reason.is_ban()).ok_or(Ignored::Senseless)?;
    let who: Who = decision.source.parse().map_err(|_| Ignored::Senseless)?;
    let key = Key::of(who, prefix).map_err(|_| Ignored::Senseless)?;
    if key.source().is_some_and(|source| snapshot.untouchable().touches(source, prefix)) {
        return Err(Ignored::Exempt);
    }
    if key.addresses(prefix).is_some_and(|net| protected.objection(net.into()).is_some()) {
        return Err(Ignored::Protected);
    }
    // Its clock may be ahead: what is left is never more than the whole.
    let left = |from: i64| u64::try_from(decision.until.as_ms().saturating_sub(from)).unwrap_or_default();
    let length = match decision.until.as_ms() {
        i64::MAX => Duration::from_nanos(u64::MAX),
        _ => Duration::from_millis(left(both.wall.as_ms()).min(left(decision.made.as_ms()))),
    };
    if length.is_zero() {
        return Err(Ignored::Over);
    }
    let origin = Origin::Node(node.clone());
    let stays = |ban: &Ban| {
        if decision.origin == Origin::Operator.label() {
            // An operator's word elsewhere is an operator's: the last one counts.
            return ban.origin.is_operator() && ban.made >= decision.made;
        }
        // Two that trip at once have decided once.
        let is_same = decision.origin == Origin::Ledger.label()
            && matches!(ban.origin, Origin::Ledger | Origin::Node(_))
            && (ban.reason, ban.repeat) == (reason, decision.repeat);
        is_same || ban.stays(&origin, both.wall_at(both.instant.after(length)))
    };
    if held(&key).is_some_and(stays) {
        return Err(Ignored::Outlasted);
    }
    let evidence = decision.evidence.iter().take(SAMPLE).map(|line| one_line(line, TEXT)).collect();
    let grounds = Grounds { reason, length, repeat: decision.repeat, evidence };
    Ok(Effect::Ban { key, origin, text: one_line(&decision.text, TEXT), grounds })
}

/// Follows another guard that lifted its ban of `source` at `lifted`: the ban ends here, too, and what was held
/// against the source is forgotten. A newer ban stays, and so does what a file of the operator's decided here. A clock that runs ahead
/// of `now` doesn't count.
pub fn foreign_lift<'a>(
    ledger: &mut Ledger,
    marks: &Marks,
    prefix: Ipv6Prefix,
    source: &str,
    (lifted, now): (WallTime, WallTime),
    held: impl FnOnce(&Key) -> Option<&'a Ban>,
) -> Result<Effect, Ignored> {
    let who: Who = source.parse().map_err(|_| Ignored::Senseless)?;
    let key = Key::of(who, prefix).map_err(|_| Ignored::Senseless)?;
    let stays = |ban: &Ban| matches!(ban.origin, Origin::File(_)) || ban.made > lifted.min(now);
    if held(&key).is_some_and(stays) {
        return Err(Ignored::Outlasted);
    }
    Ok(pardon(ledger, marks, key, Lifted::Node))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Instant;
    use crate::config::Config;
    use crate::offence::{Conduct, Digest};

    const NOW: i64 = 1_000_000;

    /// What another guard decided, in JSON but for what every decision has; the key and the seconds of what follows.
    #[track_caller]
    fn check(
        source: &str,
        reason: &str,
        origin: &str,
        until: i64,
        held: Option<(&str, i64)>,
        expected: Result<u64, Ignored>,
    ) {
        let mut config = Config::builtin();
        config.exempt = ["20.0.2.9/32", "2001:db8:9::1/128"].iter().map(|net| net.parse().unwrap()).collect();
        let protected = Protected::of_decisions(&config, &["20.0.113.1".parse().unwrap()]);
        let snapshot = Snapshot::new(Arc::new(config), None);
        let both = Both { instant: Instant::from_ns(5_000_000_000), wall: WallTime::from_ms(NOW) };
        let decision = Decision {
            source: source.to_owned(),
            reason: reason.to_owned(),
            text: "two\nlines".to_owned(),
            origin: origin.to_owned(),
            origin_name: None,
            made: WallTime::from_ms(NOW - 10_000),
            until: WallTime::from_ms(until),
            repeat: 1,
            evidence: vec!["x".repeat(1000); 1000],
        };
        let held = held.map(|(origin, until)| Ban {
            key: Key::of("20.0.2.1".parse().unwrap(), Default::default()).unwrap(),
            reason: Reason::Harvest,
            origin: origin.parse().unwrap(),
            made: both.wall,
            until: WallTime::from_ms(until),
            repeat: 0,
            text: Arc::default(),
            evidence: Default::default(),
        });
        let found = foreign(&snapshot, &protected, &Name::new("mx2"), &decision, &both, |_| held.as_ref());
        let seconds = found.map(|effect| {
            let Effect::Ban { origin, text, grounds, .. } = effect else { panic!("{effect:?}") };
            assert_eq!((origin.to_string().as_str(), text.as_str()), ("node:mx2", "two lines"));
            assert!(grounds.evidence.len() <= SAMPLE && grounds.evidence.iter().all(|line| line.len() <= TEXT));
            grounds.length.as_secs()
        });
        assert_eq!(seconds, expected, "{source} {reason} {origin} {until}");
    }

    #[test]
    fn a_decision_of_another_guard_enters_where_nothing_here_is_against_it() {
        use Ignored::*;
        let soon = NOW + 60_000;
        for source in ["20.0.2.1", "2001:db8::/64", "20.0.3.0/24"] {
            check(source, "harvest", "ledger", soon, None, Ok(60));
        }
        check("20.0.2.1", "operator", "operator", i64::MAX, None, Ok(u64::MAX / 1_000_000_000));
        check("20.0.2.1", "operator", "file", soon, None, Ok(60));
        for (source, why) in [
            ("20.0.2.9", Exempt),
            ("2001:db8:9::/64", Exempt),
            ("20.0.2.0/24", Protected),
            ("20.0.113.1", Protected),
            ("224.0.0.0/8", Protected),
            ("0.0.0.0/0", Senseless),
            ("nobody", Senseless),
        ] {
            check(source, "harvest", "ledger", i64::MAX, None, Err(why));
        }
        check("20.0.2.1", "deferred", "ledger", soon, None, Err(Senseless));
        check("20.0.2.1", "nonsense", "ledger", soon, None, Err(Senseless));
        check("20.0.2.1", "harvest", "node", soon, None, Err(SecondHand));
        check("20.0.2.1", "harvest", "ledger", NOW, None, Err(Over));
        check("20.0.2.1", "harvest", "ledger", i64::MIN, None, Err(Over));
        check("20.0.2.1", "harvest", "ledger", soon, Some(("ledger", soon)), Err(Outlasted));
        check("20.0.2.1", "harvest", "ledger", soon, Some(("node:mx3", soon - 1)), Ok(60));
        check("20.0.2.1", "operator", "operator", i64::MAX, Some(("operator", soon)), Err(Outlasted));
        check("20.0.2.1", "operator", "operator", soon, Some(("operator:local", soon)), Err(Outlasted));
        check("20.0.2.1", "harvest", "ledger", i64::MAX, Some(("operator:local", soon)), Err(Outlasted));
        check("20.0.2.1", "operator", "operator", soon, Some(("ledger", i64::MAX)), Ok(60));
        check("20.0.2.1", "operator", "operator", soon, Some(("file:drop.txt", i64::MAX)), Ok(60));
    }

    /// A decision of this trip that ends a minute from now, where one of that trip ends half a minute from now.
    #[track_caller]
    fn check_trip(origin: &str, reason: Reason, (held, made): (u32, u32), expected: bool) {
        let snapshot = Snapshot::new(Arc::new(Config::builtin()), None);
        let both = Both { instant: Instant::from_ns(5_000_000_000), wall: WallTime::from_ms(NOW) };
        let key = Key::of("20.0.2.1".parse().unwrap(), Default::default()).unwrap();
        let (text, evidence) = (Arc::default(), Default::default());
        let (until, origin) = (WallTime::from_ms(NOW + 30_000), origin.parse().unwrap());
        let held = Ban { key, reason, origin, made: both.wall, until, repeat: held, text, evidence };
        let mut decision = Decision::of(&held, Default::default());
        (decision.origin, decision.origin_name) = ("ledger".to_owned(), None);
        (decision.repeat, decision.reason) = (made, Reason::Harvest.label().to_owned());
        decision.until = WallTime::from_ms(NOW + 60_000);
        let protected = Protected::of_decisions(snapshot.config(), &[]);
        let found = foreign(&snapshot, &protected, &Name::new("mx2"), &decision, &both, |_| Some(&held));
        assert_eq!(found.is_ok(), expected, "{held:?}: {found:?}");
    }

    #[test]
    fn two_that_trip_at_once_have_decided_once() {
        check_trip("ledger", Reason::Harvest, (0, 0), false);
        check_trip("node:mx3", Reason::Harvest, (1, 1), false);
        check_trip("ledger", Reason::Harvest, (0, 1), true);
        check_trip("ledger", Reason::AuthFailures, (0, 0), true);
        check_trip("file:drop.txt", Reason::Harvest, (0, 0), true);
        check_trip("operator", Reason::Harvest, (0, 1), false);
    }

    #[test]
    fn a_lift_of_another_guard_ends_what_is_older_and_of_no_file() {
        let prefix = Ipv6Prefix::default();
        for (source, origin, made, ends) in [
            ("20.0.2.1", Some("ledger"), 4, Ok(())),
            ("20.0.2.1", Some("node:mx2"), 5, Ok(())),
            ("20.0.2.1", Some("node:mx3"), 5, Ok(())),
            ("20.0.2.1", Some("ledger"), 6, Err(Ignored::Outlasted)),
            ("20.0.2.1", Some("operator"), 4, Ok(())),
            ("20.0.2.1", Some("operator"), 6, Err(Ignored::Outlasted)),
            ("20.0.2.1", Some("file:drop.txt"), 4, Err(Ignored::Outlasted)),
            ("20.0.2.1", None, 0, Ok(())),
            ("20.0.3.0/24", Some("node:mx2"), 4, Ok(())),
            ("0.0.0.0/0", None, 0, Err(Ignored::Senseless)),
            ("nobody", None, 0, Err(Ignored::Senseless)),
        ] {
            let key = source.parse().ok().and_then(|who| Key::of(who, prefix).ok());
            let held = origin.zip(key.clone()).map(|(origin, key)| Ban {
                key,
                reason: Reason::Harvest,
                origin: origin.parse().unwrap(),
                made: WallTime::from_ms(made),
                until: WallTime::from_ms(i64::MAX),
                repeat: 0,
                text: Arc::default(),
                evidence: Default::default(),
            });
            let (mut ledger, marks) = (Ledger::new(Default::default(), Default::default(), 10), Marks::default());
            if let Some(source) = key.as_ref().and_then(Key::source) {
                ledger.observe(
                    source,
                    Conduct::KnownRecipient { recipient: Digest::of("a@example.org") },
                    Instant::default(),
                );
            }
            let known = ledger.len();
            // As the other guard's clock has it, and ours: the earlier one counts.
            let times = if made == 6 { (9, 5) } else { (5, 9) };
            let times = (WallTime::from_ms(times.0), WallTime::from_ms(times.1));
            let found = foreign_lift(&mut ledger, &marks, prefix, source, times, |asked| {
                held.as_ref().filter(|held| held.key == *asked)
            });
            let expected = ends.map(|()| Effect::Lift { key: key.unwrap(), why: Lifted::Node });
            assert_eq!(found, expected, "{source} {origin:?}");
            assert_eq!(ledger.len(), if ends.is_ok() { 0 } else { known }, "{source} {origin:?}");
        }
    }
}
