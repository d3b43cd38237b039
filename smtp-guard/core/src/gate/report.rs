//! Between sessions and ledger: a report to what follows from it, and what a recipient is judged by. The one place where the
//! ledger is asked, for the program and for the trial.
//!
//! Pure but for the marks, which sessions look at; `now` is passed in.

use super::{Deferred, Effect, Lifted};
use crate::addr::Source;
use crate::clock::{Both, Instant};
use crate::decision::{Ban, Name};
use crate::key::Key;
use crate::ledger::{Friend, Ledger};
use crate::marks::Marks;
use crate::offence::{Conduct, Digest, Heard};

/// Knowledge by which a recipient is judged, but for look-ups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The source, its network or the sender hears 4xx.
    pub deferred: bool,
    /// The recipient doesn't exist: the backend has said so to others.
    pub unknown: bool,
}

/// Facts about a recipient that `source` names on behalf of `sender`. `is_unknown`: others were told that it doesn't exist.
pub fn known(marks: &Marks, source: Source, sender: Digest, now: Instant, is_unknown: impl FnOnce() -> bool) -> Known {
    let mark = marks.of(source, now);
    let deferred = mark.deferred_until.is_some() || marks.is_sender_deferred(source, sender, now);
    // What others were told answers strangers only: a backend may answer by sender, and a partner must not pay for that.
    let unknown = !deferred && !mark.familiar && is_unknown();
    Known { deferred, unknown }
}

/// Takes note of `conduct` of `source` at `now`: what follows, in the order in which it is to be performed. What is deferred by it
/// is deferred when this returns. `is_banned`: it is banned already. `is_spared`: who must never be touched, and
/// neighbours that are banned already: these don't trip with it.
pub fn report(
    ledger: &mut Ledger,
    marks: &Marks,
    source: Source,
    conduct: Conduct,
    now: Instant,
    is_banned: bool,
    is_spared: impl Fn(Source) -> bool,
) -> Vec<Effect> {
    report_of(None, ledger, marks, source, conduct, now, is_banned, &is_spared)
}

/// Recipients and messages of one [`Heard::Sums`] that count.
pub const SUM: usize = 256;

/// Takes note of what the guard `node` has `heard` of `source`: what follows, as by [`report`]. A source that is exempt here is left
/// alone, whatever others say.
#[expect(clippy::too_many_arguments, reason = "they are what `report` has, and the node")]
pub fn hear(
    node: &Name,
    ledger: &mut Ledger,
    marks: &Marks,
    source: Source,
    heard: Heard,
    now: Instant,
    is_banned: impl Fn(Source) -> bool,
    is_exempt: impl Fn(Source) -> bool,
) -> Vec<Effect> {
    if is_exempt(source) {
        return Vec::new();
    }
    let spared = |source| is_banned(source) || is_exempt(source);
    let mut take = |conduct| report_of(Some(node), ledger, marks, source, conduct, now, is_banned(source), &spared);
    match heard {
        Heard::Conduct(conduct) => take(conduct),
        Heard::Sums { known, accepted } => {
            let known = known.iter().take(SUM).map(|recipient| Conduct::KnownRecipient { recipient: *recipient });
            let accepted = (0..accepted).take(SUM).map(|_| Conduct::MessageAccepted);
            known.chain(accepted).flat_map(take).collect()
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "they are what `report` has, and the node")]
fn report_of(
    node: Option<&Name>,
    ledger: &mut Ledger,
    marks: &Marks,
    source: Source,
    conduct: Conduct,
    now: Instant,
    is_banned: bool,
    is_spared: &dyn Fn(Source) -> bool,
) -> Vec<Effect> {
    // What was under way when the ban fell must not double it, nor the next one: the ledger would reckon with a ban that
    // nobody made. A message whose dot was sent may still be accepted.
    let accepted = conduct == Conduct::MessageAccepted;
    let asks = !accepted && !matches!(conduct, Conduct::Offence(_));
    if !accepted && is_banned || asks && marks.of(source, now).deferred_until.is_some() {
        return Vec::new();
    }
    let verdicts = ledger.observe_of(node, source, conduct, now, is_spared);
    let mut effects: Vec<Effect> = verdicts.into_iter().map(Effect::from).collect();
    effects.retain(|effect| !matches!(effect, Effect::Ban { key: Key::Source(banned), .. } if is_spared(*banned)));
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

/// Takes note of what another guard remembers: of sources whose mail it has accepted. How many of them are familiar by that. One that is
/// known here, or [`is_spared`](report), is left as it is.
pub fn befriend(
    ledger: &mut Ledger,
    marks: &Marks,
    friends: &[Friend],
    now: Instant,
    is_spared: impl Fn(Source) -> bool,
) -> usize {
    let new = friends.iter().filter(|friend| !is_spared(friend.source));
    let new = new.filter(|friend| {
        let is_new = ledger.befriend(friend, now);
        if is_new {
            marks.history(friend.source, true);
        }
        is_new
    });
    new.count()
}

/// Takes bans out of `effects` that must give way to what is in force at `both`, as `held` knows it.
pub fn settle<'a>(effects: &mut Vec<Effect>, both: &Both, held: impl Fn(&Key) -> Option<&'a Ban>) {
    effects.retain(|effect| match effect {
        Effect::Ban { key, origin, grounds, .. } => {
            let until = both.wall_at(both.instant.after(grounds.length));
            !held(key).is_some_and(|ban| ban.stays(origin, until))
        }
        Effect::Resume { .. } | Effect::Lift { .. } | Effect::Defer { .. } => true,
    });
}

/// Forgets what was held against `key`, and lifts its ban, whether there is one or not. Accepted mail still speaks for it.
pub fn pardon(ledger: &mut Ledger, marks: &Marks, key: Key, why: Lifted) -> Effect {
    if let Some(source) = key.source() {
        ledger.forget(source);
        marks.forget(source, true);
        if ledger.is_familiar(source) {
            marks.history(source, true);
        }
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
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::WallTime;
    use crate::config::{Auth, Harvest};
    use crate::decision::Origin;
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
        let key = |effect: &Effect| if let Effect::Ban { key, .. } = effect { Some(key.clone()) } else { None };
        effects.iter().filter_map(key).collect()
    }

    /// Neighbours of a source that trips are banned with it, and one of them may be the operator's already.
    #[test]
    fn what_the_operator_decided_is_not_decided_again() {
        let both = Both { instant: at(0), wall: WallTime::from_ms(0) };
        let effects = |n| Effect::from(verdict(Target::Ban(Source::v4(n))));
        let held = |origin, until| {
            let key = Source::v4(1).into();
            let (made, until, evidence) = (both.wall, WallTime::from_ms(until), Default::default());
            Ban { key, reason: Reason::Operator, origin, made, until, repeat: 0, text: Arc::default(), evidence }
        };
        let hour = 3_600_000;
        for (origin, until, left) in [
            (Origin::Operator, 1, vec![2]),
            (Origin::Local, 1, vec![2]),
            (Origin::File(Name::new("x")), 2 * hour, vec![2]),
            (Origin::Ledger, hour - 1, vec![1, 2]),
        ] {
            let (held, mut asked) = (held(origin, until), vec![effects(1), effects(2)]);
            settle(&mut asked, &both, |key| (*key == held.key).then_some(&held));
            assert_eq!(banned(&asked), left.into_iter().map(|n| Key::from(Source::v4(n))).collect::<Vec<_>>());
        }
    }

    fn verdict(target: Target) -> Verdict {
        let length = Duration::from_secs(3600);
        Verdict { target, reason: Reason::Harvest, length, repeat: 0, evidence: Vec::new() }
    }

    /// A neighbour that is banned already, or exempt, and that trips with its network: its next ban is no longer for that.
    #[test]
    fn a_ban_that_nobody_makes_is_not_reckoned_with() {
        for spared in [None, Some(Source::v4(0x0102_0301))] {
            let (mut ledger, marks) = (ledger(100), Marks::default());
            let is_spared = |source| Some(source) == spared;
            let mut effects = Vec::new();
            // Four names each, from one /24, until it trips at the thirtieth.
            for n in 0..30 {
                let source = Source::v4(0x0102_0301 + n % 8);
                effects.extend(report(&mut ledger, &marks, source, unknown(n), at(n.into()), false, is_spared));
            }
            let first = Source::v4(0x0102_0301);
            let is_banned = banned(&effects).contains(&first.into());
            let trips = ledger.view(first, at(30)).unwrap().trips;
            assert_eq!((is_banned, trips > 0), (spared.is_none(), spared.is_none()), "{spared:?}");
        }
    }

    /// A neighbour of whom another guard reports, which was banned or exempted since it asked for names.
    #[test]
    fn what_others_report_bans_no_neighbour_that_is_spared() {
        let (first, node) = (Source::v4(0x0102_0301), Name::new("mx2"));
        for (is_banned, is_exempt) in [(false, false), (true, false), (false, true)] {
            let (mut ledger, marks) = (ledger(100), Marks::default());
            let mut effects = Vec::new();
            for n in 0..30 {
                let heard = Heard::Conduct(unknown(n));
                let since = |spared: bool| move |source| spared && source == first && n > 24;
                let source = Source::v4(first.0 as u32 + n % 8);
                let (banned, exempt) = (since(is_banned), since(is_exempt));
                effects.extend(hear(&node, &mut ledger, &marks, source, heard, at(n.into()), banned, exempt));
            }
            let (keys, spared) = (banned(&effects), is_banned || is_exempt);
            assert_eq!((keys.contains(&first.into()), keys.is_empty()), (!spared, false), "{is_banned} {is_exempt}");
        }
    }

    /// What follows from what another guard has heard: how many bans, and whether the reporter is named in each.
    #[track_caller]
    fn check_heard(heard: &[Heard], exempt: bool, is_banned: bool, expected: usize) -> Ledger {
        let (mut ledger, marks, node) = (ledger(10), Marks::default(), Name::new("mx2"));
        let hears =
            |heard: &Heard| hear(&node, &mut ledger, &marks, STRANGER, heard.clone(), at(0), |_| is_banned, |_| exempt);
        let effects: Vec<_> = heard.iter().flat_map(hears).collect();
        assert_eq!(banned(&effects).len(), expected, "{heard:?}");
        for effect in &effects {
            let (Effect::Ban { grounds, .. } | Effect::Defer { grounds, .. }) = effect else { panic!("{effect:?}") };
            assert!(grounds.evidence.iter().any(|line| line.contains("mx2")), "{grounds:?}");
        }
        ledger
    }

    #[test]
    fn what_another_guard_reports_is_judged_as_our_own_and_told_apart() {
        let names = |n| (0..n).map(|n| Heard::Conduct(unknown(n))).collect::<Vec<_>>();
        let sums = |known, accepted| Heard::Sums { known: (0..known).map(digest).collect(), accepted };
        let trap = Heard::Conduct(Conduct::Trap { recipient: "trap@example.org".into(), sender: digest(0) });
        check_heard(&names(10), false, false, 1);
        check_heard(&names(10), true, false, 0);
        check_heard(&names(10), false, true, 0);
        check_heard(std::slice::from_ref(&trap), false, false, 1);
        check_heard(&vec![Heard::Conduct(Conduct::Offence(Reason::AuthFailures)); 50], false, false, 5);
        // Who sends good mail there is no harvester, and a trap defers one sender of his.
        check_heard(&[vec![sums(1000, 5000)], names(10)].concat(), false, false, 0);
        check_heard(&[sums(0, 1), trap], false, false, 0);
        let mut ledger = check_heard(&[vec![sums(1000, 5000)], names(2)].concat(), false, false, 0);
        let view = ledger.view(STRANGER, at(0)).unwrap();
        assert_eq!((view.accepted, view.evidence.unknown, view.evidence.known > 100), (SUM as u32, 2, true));
        assert_eq!(view.heard, [("mx2".into(), SUM as u64 + 2)]);
        let mut ledger = check_heard(&[sums(0, 3)], true, false, 0);
        assert_eq!(ledger.view(STRANGER, at(0)), None, "an exempt source is left alone");
    }

    /// Deferrals need not be told: what they follow from is.
    #[test]
    fn what_another_guard_reports_defers_here_as_there() {
        let (mut ledger, marks, node) = (ledger(10), Marks::default(), Name::new("mx2"));
        let known = Heard::Sums { known: (50..54).map(digest).collect(), accepted: 0 };
        let heard = std::iter::once(known).chain((0..10).map(|n| Heard::Conduct(unknown(n))));
        let effects: Vec<_> = heard
            .flat_map(|heard| hear(&node, &mut ledger, &marks, STRANGER, heard, at(0), |_| false, |_| false))
            .collect();
        assert!(matches!(&effects[..], [Effect::Defer { .. }]), "{effects:?}");
        assert!(marks.of(STRANGER, at(0)).deferred_until.is_some());
    }

    /// What an edge that starts knows of a source that another one remembers so: whether it is familiar, and whether ten guesses have
    /// it banned or deferred, each time.
    #[track_caller]
    fn check_friend(aged: u32, accepted: u32, days: u64, before: &[Conduct], familiar: bool, trips: &[&str]) {
        let (mut ledger, marks) = (ledger(10), Marks::default());
        let now = at(40 * 24 * 3600);
        let latest = at((40 - days) * 24 * 3600);
        for conduct in before {
            report(&mut ledger, &marks, STRANGER, conduct.clone(), now, false, |_| false);
        }
        let friend = Friend { source: STRANGER, aged, accepted, latest };
        let new = befriend(&mut ledger, &marks, &[friend], now, |_| false);
        assert_eq!(befriend(&mut ledger, &marks, &[friend], now, |_| false), 0, "it is known");
        assert_eq!((new == 1, marks.of(STRANGER, now).familiar), (familiar && before.is_empty(), familiar));
        let mut found = Vec::new();
        for round in 0..trips.len() as u64 {
            // A deferral is over by then.
            let later = now.after(Duration::from_secs(round * 2 * 3600));
            for n in 0..10 {
                let banned = found.last() == Some(&"ban");
                let effects = report(&mut ledger, &marks, STRANGER, unknown(100 + n), later, banned, |_| false);
                found.extend(effects.iter().map(|effect| match effect {
                    Effect::Ban { .. } => "ban",
                    Effect::Defer { .. } => "defer",
                    Effect::Resume { .. } | Effect::Lift { .. } => "else",
                }));
            }
        }
        assert_eq!(found, trips, "{aged} of {accepted}, {days} days ago");
    }

    #[test]
    fn what_another_guard_remembers_makes_familiar_and_vouches_for_one_trip() {
        check_friend(0, 0, 0, &[], false, &["ban"]);
        check_friend(0, 1, 0, &[], true, &["ban"]);
        check_friend(9, 50, 0, &[], true, &["ban"]);
        check_friend(10, 10, 1, &[], true, &["defer", "ban"]);
        // A mad one doesn't vouch for more.
        check_friend(u32::MAX, u32::MAX, 0, &[], true, &["defer", "ban"]);
        check_friend(u32::MAX, 1, 0, &[], true, &["ban"]);
        check_friend(10, 10, 30, &[], false, &["ban"]);
        // What happened here says more.
        check_friend(10, 10, 0, &[unknown(0)], false, &["ban"]);
        check_friend(0, 0, 0, &[Conduct::MessageAccepted], true, &["ban"]);
    }

    #[test]
    fn what_others_remember_takes_half_of_the_room_and_spares_nobody() {
        let (mut ledger, marks) = (ledger(10), Marks::default());
        let friends: Vec<_> = (1..20)
            .map(|n| Friend { source: Source::v4(n << 8), aged: 1, accepted: 1, latest: at(u64::from(n)) })
            .collect();
        let spared = Source::v4(1 << 8);
        assert_eq!(befriend(&mut ledger, &marks, &friends, at(100), |source| source == spared), 5);
        assert!(!ledger.knows(spared) && ledger.knows(Source::v4(2 << 8)));
        // They are told on, the latest first, in parts.
        let (first, place) = ledger.friends(None, 3);
        let (second, end) = ledger.friends(place, 3);
        let all: Vec<_> = first.iter().chain(&second).copied().collect();
        assert_eq!(all, friends[1..6].iter().rev().copied().collect::<Vec<_>>());
        assert!(place.is_some() && end.is_none());
    }

    #[test]
    fn who_is_pardoned_begins_anew_with_the_mail_that_was_accepted() {
        for accepted in [0, 320] {
            let (mut ledger, marks) = (ledger(10), Marks::default());
            let hear = |ledger: &mut Ledger, conduct, seconds| {
                report(ledger, &marks, STRANGER, conduct, at(seconds), false, |_| false)
            };
            for _ in 0..accepted {
                assert_eq!(hear(&mut ledger, Conduct::MessageAccepted, 0), []);
            }
            let later = 3 * 3600;
            let trip = |asked: Vec<Effect>| match &asked[..] {
                [Effect::Ban { grounds, .. }] => ("ban", grounds.repeat),
                [Effect::Defer { grounds, .. }] => ("deferral", grounds.repeat),
                other => panic!("{other:?}"),
            };
            let expected = if accepted > 0 { "deferral" } else { "ban" };
            // Each time as if it were the first.
            for _ in 0..3 {
                let asked = (0..10).flat_map(|n| hear(&mut ledger, unknown(n), later)).collect();
                assert_eq!(trip(asked), (expected, 0));
                let lift = Effect::Lift { key: STRANGER.into(), why: Lifted::Operator };
                assert_eq!(pardon(&mut ledger, &marks, STRANGER.into(), Lifted::Operator), lift);
                let mark = marks.of(STRANGER, at(later));
                assert_eq!((mark.familiar, mark.deferred_until), (accepted > 0, None));
                assert_eq!(ledger.is_empty(), accepted == 0);
            }
        }
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
