//! Between sessions and ledger: a report to what follows from it, and what a recipient is judged by. The one place where the
//! ledger is asked, for the program and for the trial.
//!
//! Pure but for the marks, which sessions look at; `now` is passed in.

use super::{Deferred, Effect, Lifted};
use crate::addr::Source;
use crate::clock::{Both, Instant};
use crate::decision::Ban;
use crate::key::Key;
use crate::ledger::Ledger;
use crate::marks::Marks;
use crate::offence::{Conduct, Digest};

/// Knowledge by which a recipient is judged, but for look-ups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The source, its network or the sender hears 4xx.
    pub deferred: bool,
    /// The recipient doesn't exist: the backend has said so to others.
    pub unknown: bool,
}

/// What is known of a recipient that `source` names on behalf of `sender`. `is_unknown`: others were told that it doesn't exist.
pub fn known(marks: &Marks, source: Source, sender: Digest, now: Instant, is_unknown: impl FnOnce() -> bool) -> Known {
    let mark = marks.of(source, now);
    let deferred = mark.deferred_until.is_some() || marks.is_sender_deferred(source, sender, now);
    // What others were told answers strangers only: a backend may answer by sender, and a partner must not pay for that.
    let unknown = !deferred && !mark.familiar && is_unknown();
    Known { deferred, unknown }
}

/// Takes note of `conduct` of `source` at `now`: what follows, in the order in which it is to be performed. What is deferred by it
/// is deferred when this returns. `is_banned`: it is banned already. `is_exempt`: who must never be touched.
pub fn report(
    ledger: &mut Ledger,
    marks: &Marks,
    source: Source,
    conduct: Conduct,
    now: Instant,
    is_banned: bool,
    is_exempt: impl Fn(Source) -> bool,
) -> Vec<Effect> {
    // What was under way when the ban fell must not double it, nor the next one: the ledger would reckon with a ban that
    // nobody made. A message whose dot was sent may still be accepted.
    let accepted = conduct == Conduct::MessageAccepted;
    let asks = !accepted && !matches!(conduct, Conduct::Offence(_));
    if !accepted && is_banned || asks && marks.of(source, now).deferred_until.is_some() {
        return Vec::new();
    }
    let mut effects: Vec<Effect> = ledger.observe(source, conduct, now).into_iter().map(Effect::from).collect();
    effects.retain(|effect| !matches!(effect, Effect::Ban { key: Key::Source(banned), .. } if is_exempt(*banned)));
    for effect in &effects {
        let Effect::Defer { whom, grounds } = effect else { continue };
        let until = now.after(grounds.length);
        match *whom {
            Deferred::Source(source) => marks.defer(source, until),
            Deferred::Network(network) => marks.defer_network(network, until),
            Deferred::Sender(source, sender) => {
                // One that finds no room goes on to be refused at the trap.
                let _ = marks.defer_sender(source, sender, until);
            }
        }
    }
    // A message makes a history; where something follows, it may have lapsed meanwhile.
    if accepted || !effects.is_empty() {
        marks.history(source, ledger.is_familiar(source));
    }
    effects
}

/// Takes bans out of `effects` that must give way to what is in force at `both`, as `held` knows it.
pub fn settle<'a>(effects: &mut Vec<Effect>, both: &Both, held: impl Fn(Key) -> Option<&'a Ban>) {
    effects.retain(|effect| match effect {
        Effect::Ban { key, origin, grounds, .. } => {
            let until = both.wall_at(both.instant.after(grounds.length));
            !held(*key).is_some_and(|ban| ban.stays(origin, until))
        }
        Effect::Lift { .. } | Effect::Defer { .. } => true,
    });
}

/// Forgets what was held against `key`, and lifts its ban, whether there is one or not.
pub fn pardon(ledger: &mut Ledger, marks: &Marks, key: Key, why: Lifted) -> Effect {
    if let Key::Source(source) = key {
        ledger.forget(source);
        marks.forget(source, true);
    }
    Effect::Lift { key, why }
}

/// Takes the marks off sources that had to make room in `ledger` since the last call, or whose history has lapsed: how many had
/// to make room, and how many reports found none.
pub fn clear(ledger: &mut Ledger, marks: &Marks) -> (usize, u64) {
    let evicted = ledger.take_evicted();
    for source in &evicted {
        marks.forget(*source, false);
    }
    // Its deferral goes on, and it may have a new history.
    for source in ledger.take_lapsed() {
        marks.history(source, ledger.is_familiar(source));
    }
    (evicted.len(), ledger.take_not_admitted())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::WallTime;
    use crate::config::{Auth, Harvest};
    use crate::decision::{Name, Origin};
    use crate::ledger::{Target, Verdict};
    use smtp_guard_ebpf::reason::Reason;

    const STRANGER: Source = Source::v4(1);

    fn at(seconds: u64) -> Instant {
        Instant::from_ns((1_000_000 + seconds) * 1_000_000_000)
    }

    fn unknown(n: u32) -> Conduct {
        Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into(), returned: false }
    }

    fn digest(n: u32) -> Digest {
        Digest::of(&format!("{n}@example.org"))
    }

    /// What is known of a recipient that others were told not to exist; and whether it was looked for.
    #[track_caller]
    fn check_known(prepare: impl FnOnce(&Marks), deferred: bool, unknown: bool) {
        let marks = Marks::default();
        prepare(&marks);
        let told = |others| known(&marks, STRANGER, digest(0), at(0), || others);
        assert_eq!(told(true), Known { deferred, unknown });
        assert_eq!(told(false), Known { deferred, unknown: false });
    }

    #[test]
    fn b10_what_others_were_told_answers_strangers_who_are_not_deferred() {
        check_known(|_| {}, false, true);
        check_known(|marks| marks.history(STRANGER, true), false, false);
        check_known(|marks| marks.defer(STRANGER, at(1)), true, false);
        check_known(|marks| marks.defer(STRANGER, at(0)), false, true);
        check_known(|marks| _ = marks.defer_sender(STRANGER, digest(0), at(1)), true, false);
        check_known(|marks| _ = marks.defer_sender(STRANGER, digest(1), at(1)), false, true);
    }

    fn ledger(max: usize) -> Ledger {
        Ledger::new(Harvest::default(), Auth::default(), max)
    }

    fn banned(effects: &[Effect]) -> Vec<Key> {
        let key = |effect: &Effect| if let Effect::Ban { key, .. } = effect { Some(*key) } else { None };
        effects.iter().filter_map(key).collect()
    }

    /// Neighbours of a source that trips are banned with it, and one of them may be the operator's already.
    #[test]
    fn what_the_operator_decided_is_not_decided_again() {
        let both = Both { instant: at(0), wall: WallTime::from_ms(0) };
        let effects = |n| Effect::from(verdict(Target::Ban(Source::v4(n))));
        let held = |origin, until| {
            let key = Source::v4(1).into();
            let (made, until, evidence) = (both.wall, WallTime::from_ms(until), Vec::new());
            Ban { key, reason: Reason::Operator, origin, made, until, repeat: 0, text: String::new(), evidence }
        };
        let hour = 3_600_000;
        for (origin, until, left) in [
            (Origin::Operator, 1, vec![2]),
            (Origin::File(Name::new("x")), 2 * hour, vec![2]),
            (Origin::Ledger, hour - 1, vec![1, 2]),
        ] {
            let (held, mut asked) = (held(origin, until), vec![effects(1), effects(2)]);
            settle(&mut asked, &both, |key| (key == held.key).then_some(&held));
            assert_eq!(banned(&asked), left.into_iter().map(|n| Key::from(Source::v4(n))).collect::<Vec<_>>());
        }
    }

    fn verdict(target: Target) -> Verdict {
        let length = Duration::from_secs(3600);
        Verdict { target, reason: Reason::Harvest, length, repeat: 0, evidence: Vec::new() }
    }

    #[test]
    fn who_is_pardoned_begins_anew() {
        let (mut ledger, marks) = (ledger(10), Marks::default());
        marks.defer(STRANGER, at(1));
        report(&mut ledger, &marks, STRANGER, Conduct::MessageAccepted, at(0), false, |_| false);
        let lift = Effect::Lift { key: STRANGER.into(), why: Lifted::Operator };
        assert_eq!(pardon(&mut ledger, &marks, STRANGER.into(), Lifted::Operator), lift);
        assert!(ledger.is_empty() && marks.of(STRANGER, at(0)).deferred_until.is_none());
    }

    /// Reports 20 unknown recipients: of how many the ledger was told.
    fn told(marks: &Marks, is_banned: bool, conduct: impl Fn(u32) -> Conduct) -> bool {
        let mut ledger = ledger(10);
        for n in 0..20 {
            report(&mut ledger, marks, STRANGER, conduct(n), at(0), is_banned, |_| false);
        }
        !ledger.is_empty()
    }

    #[test]
    fn what_was_under_way_when_a_source_was_blocked_is_not_counted_again() {
        let accepted = |_| Conduct::MessageAccepted;
        let login = |_| Conduct::Offence(Reason::AuthFailures);
        let (free, deferred) = (Marks::default(), Marks::default());
        deferred.defer(STRANGER, at(1));
        assert!(told(&free, false, unknown) && told(&free, false, accepted) && told(&free, false, login));
        assert!(!told(&free, true, unknown) && told(&free, true, accepted) && !told(&free, true, login));
        assert!(!told(&deferred, false, unknown) && told(&deferred, false, accepted) && told(&deferred, false, login));
    }

    #[test]
    fn bans_are_asked_for_and_deferrals_are_made_unless_the_source_is_exempt() {
        let effects = |marks: &Marks, ledger: &mut Ledger, exempt: bool| -> Vec<Effect> {
            (0..10).flat_map(|n| report(ledger, marks, STRANGER, unknown(n), at(0), false, |_| exempt)).collect()
        };
        let marks = Marks::default();
        assert_eq!(banned(&effects(&marks, &mut ledger(10), false)), [Key::Source(STRANGER)]);
        assert_eq!(effects(&marks, &mut ledger(10), true), []);
        assert_eq!(marks.of(STRANGER, at(0)).deferred_until, None);
        // A history: it is deferred, and has used that up.
        let mut ledger = ledger(10);
        let accept = |ledger: &mut Ledger, seconds| {
            report(ledger, &marks, STRANGER, Conduct::MessageAccepted, at(seconds), false, |_| false)
        };
        for _ in 0..10 {
            assert_eq!(accept(&mut ledger, 0), []);
        }
        assert!(marks.of(STRANGER, at(0)).familiar);
        let later = 3 * 3600;
        let asked: Vec<_> = (0..10)
            .flat_map(|n| report(&mut ledger, &marks, STRANGER, unknown(n), at(later), false, |_| true))
            .collect();
        assert_eq!(asked.len(), 1, "{asked:?}");
        let until = marks.of(STRANGER, at(later)).deferred_until;
        let Effect::Defer { whom: Deferred::Source(STRANGER), grounds } = &asked[0] else { panic!("{asked:?}") };
        assert_eq!(until, Some(at(later).after(grounds.length)));
        assert_eq!(marks.of(STRANGER, at(later).after(grounds.length + Duration::from_secs(1))).deferred_until, None);
    }

    #[test]
    fn a_history_that_has_lapsed_is_no_mark_any_more_where_something_follows() {
        let (mut ledger, marks) = (ledger(10), Marks::default());
        report(&mut ledger, &marks, STRANGER, Conduct::MessageAccepted, at(0), false, |_| false);
        let later = at(31 * 24 * 3600);
        let trap = Conduct::Trap { recipient: "trap@example.org".into(), sender: digest(0) };
        let asked = report(&mut ledger, &marks, STRANGER, trap, later, false, |_| false);
        assert_eq!(banned(&asked), [Key::Source(STRANGER)]);
        assert!(!marks.of(STRANGER, later).familiar);
    }

    /// A message at 0, then `meanwhile`, a sweep of the ledger at `seconds`: whether the source is a friend still, and whether
    /// the ledger knows it.
    #[track_caller]
    fn check_lapse(seconds: u64, meanwhile: impl FnOnce(&mut Ledger, &Marks), familiar: bool, known: bool) {
        let (mut ledger, marks) = (ledger(10), Marks::default());
        report(&mut ledger, &marks, STRANGER, Conduct::MessageAccepted, at(0), false, |_| false);
        meanwhile(&mut ledger, &marks);
        ledger.sweep(at(seconds));
        assert_eq!(clear(&mut ledger, &marks), (0, 0), "nobody made room");
        assert_eq!((marks.of(STRANGER, at(seconds)).familiar, !ledger.is_empty()), (familiar, known));
        assert_eq!(ledger.take_lapsed(), []);
    }

    #[test]
    fn a_history_that_lapses_in_silence_leaves_no_mark() {
        const DAY: u64 = 24 * 3600;
        let again = |conduct: Conduct, seconds| {
            move |ledger: &mut Ledger, marks: &Marks| {
                assert_eq!(report(ledger, marks, STRANGER, conduct, at(seconds), false, |_| false), []);
            }
        };
        check_lapse(29 * DAY, |_, _| {}, true, true);
        check_lapse(31 * DAY, |_, _| {}, false, false);
        // It was there when it lapsed, and what it did is remembered.
        check_lapse(31 * DAY, again(unknown(0), 31 * DAY), false, true);
        check_lapse(31 * DAY, again(Conduct::MessageAccepted, 31 * DAY), true, true);
        check_lapse(31 * DAY, |_, marks| marks.defer(STRANGER, at(32 * DAY)), false, false);
    }

    #[test]
    fn whoever_makes_room_in_the_ledger_has_no_mark_left() {
        let (mut ledger, marks) = (ledger(2), Marks::default());
        for n in 1..=3 {
            report(&mut ledger, &marks, Source::v4(n << 8), Conduct::MessageAccepted, at(n.into()), false, |_| false);
        }
        assert!(marks.of(Source::v4(1 << 8), at(3)).familiar, "until it is told");
        assert_eq!(clear(&mut ledger, &marks), (1, 0));
        assert_eq!([1, 2, 3].map(|n| marks.of(Source::v4(n << 8), at(3)).familiar), [false, true, true]);
        assert_eq!(clear(&mut ledger, &marks), (0, 0), "told once");
        // No room for one that has only knocked where all others are friends, but a stranger takes up to half of theirs.
        let mut full = self::ledger(1);
        for n in 0..3 {
            report(&mut full, &marks, Source::v4(1), unknown(n), at(0), false, |_| false);
        }
        for n in 2..4 {
            report(&mut full, &marks, Source::v4(n << 8), unknown(0), at(0), false, |_| false);
        }
        assert_eq!(clear(&mut full, &marks), (0, 2));
    }
}
