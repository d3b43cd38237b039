//! Mutes edges that ban too much: a faulty edge must not ban honest sources on all others.
//!
//! An edge that a botnet attacks bans thousands of sources in a minute, and is right. So each ban is weighed by what the
//! edge that hears of it knows itself ([`Weight`]):
//!
//! - evidence came before the ban;
//! - there was none;
//! - mail of the source is accepted here.
//!
//! Each kind has a limit of its own ([`limit`]). A ban that changes nothing here, since this edge has banned the source
//! already, counts for nothing.
//!
//! Decisions are counted by the minute in which they were made, not in which they are heard. An edge that was away tells at
//! once what it decided meanwhile. An edge stays muted for [`LASTS`] after the last minute that was too much. Its decisions
//! from that minute on until then are void for good: they are lifted, and never applied later. The server still holds them, so
//! they would be read there again when the muting ends.
//!
//! An edge that starts reads what the server holds, perhaps of an edge that was faulty hours ago. Such a minute is void
//! for as long as if it had been heard then, and nobody is muted for it now. The evidence is gone by then, so each ban
//! has the benefit of the doubt.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{DAY, NODES};
use crate::decision::Weight;

/// Bans of an edge in a minute of which this edge has seen nothing.
pub const DECISIONS: u32 = 600;
/// Bans of an edge in a minute before which evidence came.
pub const SEEN: u32 = 12_000;
/// Bans of an edge in a minute of sources whose mail is accepted.
pub const FRIENDS: u32 = 60;
/// How long an edge is muted after that, in ms.
pub const LASTS: i64 = 10 * MINUTE;

const MINUTE: i64 = 60_000;
/// Minutes of an edge that are counted: the newest.
const MINUTES: usize = 32;
/// Likewise while what the server holds is read.
const HELD: usize = 2048;
/// Times of an edge that are void, beside the last one.
const VOID: usize = 16;

/// How long these are remembered, in ms.
const PAST: i64 = 30 * DAY;

/// Bans of an edge in a minute that are not too many; `None`: any number.
pub const fn limit(weight: Weight) -> Option<u32> {
    match weight {
        Weight::Nothing => None,
        Weight::Friend => Some(FRIENDS),
        Weight::Unseen => Some(DECISIONS),
        Weight::Seen => Some(SEEN),
    }
}

/// Recent decisions by edge.
#[derive(Clone, Debug, Default)]
pub struct Mute {
    nodes: HashMap<String, Node>,
}

/// Bans by their weight.
type Counts = [u32; 4];

#[derive(Clone, Debug, Default)]
struct Node {
    decided: BTreeMap<i64, Counts>,
    /// Of what the server holds, while that is read.
    held: BTreeMap<i64, Counts>,
    /// The beginning of the minute for which it was muted last.
    since: i64,
    until: i64,
    /// The most that it decided in a minute since then, and of which weight.
    most: Option<(u32, Weight)>,
    /// What was void before: beginnings and ends.
    past: VecDeque<(i64, i64)>,
}

/// Why an edge is muted, and for how long; times are the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Muted {
    /// The beginning of the minute in which it decided too much.
    pub since: i64,
    pub until: i64,
    /// The most that it decided in a minute, and of which weight.
    pub decisions: u32,
    pub weight: Weight,
}

/// A time in which what an edge decides is void, from its beginning to before its end, by the server.
pub type Span = (i64, i64);

impl Mute {
    /// `decisions` more of `node` of this weight, made at `at`; what is void by that which wasn't before: that is too much for the first
    /// time, at `now`.
    pub fn note(&mut self, node: &str, weight: Weight, decisions: u32, at: i64, now: i64) -> Option<Span> {
        let most = limit(weight)?;
        let known = self.known(node)?;
        let decided = count(&mut known.decided, weight, decisions, at, MINUTES);
        let was = now < known.until;
        if decided <= most {
            return None;
        }
        if !was {
            known.begin(at.div_euclid(MINUTE).saturating_mul(MINUTE));
        }
        known.until = now.saturating_add(LASTS);
        known.most(decided, weight);
        (!was).then_some((known.since, known.until))
    }

    /// Counts a decision that the server holds, whose evidence is gone, as [`Self::note`] does.
    pub fn note_held(&mut self, node: &str, weight: Weight, at: i64, now: i64) -> Option<Span> {
        let weight = if weight == Weight::Unseen { Weight::Seen } else { weight };
        let most = limit(weight)?;
        let known = self.known(node)?;
        let decided = count(&mut known.held, weight, 1, at, HELD);
        if decided <= most || known.is_void(at, now) {
            return None;
        }
        let since = at.div_euclid(MINUTE).saturating_mul(MINUTE);
        let until = since.saturating_add(MINUTE + LASTS);
        if now < until {
            known.begin(since);
            known.until = until;
            known.most(decided, weight);
        } else {
            known.remember((since, until));
        }
        Some((since, until))
    }

    /// All that the server held was read.
    pub fn forget_held(&mut self) {
        self.nodes.values_mut().for_each(|node| node.held = BTreeMap::new());
    }

    fn known(&mut self, node: &str) -> Option<&mut Node> {
        if self.nodes.len() >= NODES && !self.nodes.contains_key(node) {
            return None;
        }
        Some(self.nodes.entry(node.to_owned()).or_default())
    }

    /// Whether nobody listens to `node` at `now`.
    pub fn is_muted(&self, node: &str, now: i64) -> bool {
        self.nodes.get(node).is_some_and(|node| now < node.until)
    }

    /// Why and for how long nobody listens to `node` at `now`; `None`: it isn't muted.
    pub fn of(&self, node: &str, now: i64) -> Option<Muted> {
        let known = self.nodes.get(node).filter(|node| now < node.until)?;
        let (decisions, weight) = known.most.unwrap_or((0, Weight::Unseen));
        Some(Muted { since: known.since, until: known.until, decisions, weight })
    }

    /// Whether what `node` decided at `at` doesn't count at `now`.
    pub fn is_void(&self, node: &str, at: i64, now: i64) -> bool {
        self.nodes.get(node).is_some_and(|node| node.is_void(at, now))
    }

    /// When what edges decided was void, the latest of each first; at most `most`.
    pub fn void(&self, most: usize) -> impl Iterator<Item = (&str, Span)> {
        self.nodes
            .iter()
            .flat_map(|(name, node)| {
                let last = (node.until > 0).then_some((node.since, node.until));
                last.into_iter().chain(node.past.iter().copied()).map(|span| (name.as_str(), span))
            })
            .take(most)
    }

    /// Forgets edges that haven't decided anything for as long as minutes are counted, and weren't muted for a day, at `now`.
    pub fn expire(&mut self, now: i64) {
        let counts = now.saturating_sub(MINUTES as i64 * MINUTE).div_euclid(MINUTE);
        self.nodes.retain(|_, node| {
            node.past.retain(|(_, until)| now < until.saturating_add(PAST));
            let decided = node.decided.last_key_value().is_some_and(|(minute, _)| *minute >= counts);
            decided || !node.held.is_empty() || !node.past.is_empty() || now < node.until.saturating_add(DAY)
        });
    }

    /// Edges that nobody listens to at `now`, sorted.
    pub fn muted(&self, now: i64) -> Vec<String> {
        let mut muted: Vec<_> =
            self.nodes.iter().filter(|(_, node)| now < node.until).map(|(name, _)| name.clone()).collect();
        muted.sort_unstable();
        muted
    }
}

impl Node {
    /// It is muted for the minute that begins at `since`.
    fn begin(&mut self, since: i64) {
        if self.until > 0 {
            self.remember((self.since, self.until));
        }
        (self.since, self.most) = (since, None);
    }

    fn remember(&mut self, span: Span) {
        self.past.push_front(span);
        self.past.truncate(VOID);
    }

    fn most(&mut self, decisions: u32, weight: Weight) {
        if self.most.is_none_or(|(most, _)| decisions > most) {
            self.most = Some((decisions, weight));
        }
    }

    fn is_void(&self, at: i64, now: i64) -> bool {
        let holds = |(since, until): &Span| *since <= at && at < *until;
        now < self.until || holds(&(self.since, self.until)) || self.past.iter().any(holds)
    }
}

/// Counts `decisions` more in the minute of `at`: how many these are now. Of `most` minutes the newest are kept.
fn count(minutes: &mut BTreeMap<i64, Counts>, weight: Weight, decisions: u32, at: i64, most: usize) -> u32 {
    let counts = minutes.entry(at.div_euclid(MINUTE)).or_default();
    let count = &mut counts[weight as usize];
    *count = count.saturating_add(decisions);
    let count = *count;
    while minutes.len() > most {
        minutes.pop_first();
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decisions of `mx1`: how many, when they were made, when they are heard, and whether it is muted then.
    #[track_caller]
    fn check(steps: &[(u32, i64, i64, bool)]) {
        let mut mute = Mute::default();
        for (decisions, at, now, expected) in steps {
            let was = mute.is_muted("mx1", now * 1000);
            let begins = mute.note("mx1", Weight::Unseen, *decisions, at * 1000, now * 1000).is_some();
            assert_eq!(mute.is_muted("mx1", now * 1000), *expected, "{steps:?} at {now}");
            assert!(!begins || !was && *expected, "it is told once: {steps:?} at {now}");
            assert!(!mute.is_muted("mx2", now * 1000));
        }
    }

    #[test]
    fn who_decides_more_than_600_times_a_minute_is_muted_for_ten_minutes() {
        check(&[
            (600, 0, 0, false),
            (600, 60, 60, false),
            (1, 61, 61, true),
            (0, 660, 660, true),
            (0, 720, 720, false),
        ]);
        check(&[(601, 0, 0, true), (601, 120, 120, true), (0, 719, 719, true), (0, 721, 721, false)]);
        // It was away for ten minutes, and tells at once.
        check(&(0..10).map(|minute| (600, minute * 60, 600, false)).collect::<Vec<_>>());
        check(&(0..700).map(|n| (1, 0, n / 100, n >= 600)).collect::<Vec<_>>());
    }

    /// Decisions of `mx1`, with the second of each; why it is muted at the end of the last one, by seconds.
    #[track_caller]
    fn check_why(steps: &[(u32, i64)], expected: Option<(i64, i64, u32)>) {
        let mut mute = Mute::default();
        steps.iter().for_each(|(decisions, at)| _ = mute.note("mx1", Weight::Unseen, *decisions, at * 1000, at * 1000));
        let now = steps.last().map_or(0, |(_, at)| at * 1000);
        let why = mute.of("mx1", now);
        assert_eq!(why.map(|why| (why.since / 1000, why.until / 1000, why.decisions)), expected, "{steps:?}");
    }

    #[test]
    fn who_is_muted_is_so_for_the_most_that_it_decided() {
        check_why(&[], None);
        check_why(&[(600, 70)], None);
        check_why(&[(601, 70)], Some((60, 670, 601)));
        check_why(&[(601, 70), (90, 71), (702, 130), (602, 190)], Some((60, 790, 702)));
        // Another time.
        check_why(&[(900, 70), (601, 1000)], Some((960, 1600, 601)));
        check_why(&[(900, 70), (1, 670)], None);
    }

    /// Whether what was decided at this second counts, of an edge that was muted from the second 120 to 730 for a ban at 130.
    #[track_caller]
    fn check_void(at: i64, now: i64, expected: bool) {
        let mut mute = Mute::default();
        assert_eq!(mute.note("mx1", Weight::Unseen, 601, 130_000, 130_000), Some((120_000, 730_000)));
        assert_eq!(mute.is_void("mx1", at * 1000, now * 1000), expected, "{at} at {now}");
        assert!(!mute.is_void("mx2", at * 1000, now * 1000));
    }

    #[test]
    fn what_was_decided_while_muted_is_void_for_good() {
        check_void(119, 729, true);
        check_void(119, 730, false);
        check_void(120, 730, true);
        check_void(729, 100_000, true);
        check_void(730, 730, false);
    }

    #[test]
    fn edges_that_have_left_make_room() {
        const NOW: i64 = 10 * DAY;
        let mut mute = Mute::default();
        for n in 0..NODES {
            mute.note(&format!("mx{n}"), Weight::Unseen, if n == 0 { 601 } else { 1 }, NOW, NOW);
        }
        mute.note("new", Weight::Unseen, 601, NOW, NOW);
        assert!(!mute.is_muted("new", NOW), "there is no room");
        mute.expire(NOW + 31 * MINUTE);
        assert_eq!(mute.nodes.len(), NODES);
        mute.expire(NOW + 33 * MINUTE);
        assert_eq!(mute.nodes.keys().collect::<Vec<_>>(), ["mx0"]);
        assert!(mute.note("new", Weight::Unseen, 601, NOW, NOW).is_some());
        mute.expire(NOW + DAY + LASTS);
        assert!(mute.nodes.is_empty());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut mute = Mute::default();
        for n in 0..1000 {
            mute.note(&format!("mx{n}"), Weight::Unseen, 601, n, n);
            mute.note("mx0", Weight::Unseen, 1, n * MINUTE, n);
            mute.note_held("mx0", Weight::Friend, n * MINUTE, n);
        }
        assert_eq!(mute.nodes.len(), NODES);
        assert_eq!(mute.nodes["mx0"].decided.len(), MINUTES);
        assert_eq!(mute.nodes["mx0"].held.len(), 1000);
        assert_eq!(mute.muted(0).len(), NODES);
    }

    /// How many bans of each weight in a minute are not too many, and that one more is.
    #[test]
    fn what_an_edge_may_decide_depends_on_what_is_known_of_it() {
        for (weight, most) in [
            (Weight::Nothing, None),
            (Weight::Friend, Some(60)),
            (Weight::Unseen, Some(600)),
            (Weight::Seen, Some(12_000)),
        ] {
            let mut mute = Mute::default();
            let some = most.unwrap_or(1_000_000);
            assert_eq!(mute.note("mx1", weight, some, 0, 0), None, "{weight:?}");
            assert_eq!(mute.note("mx1", weight, 1, 59_999, 59_999).is_some(), most.is_some(), "{weight:?}");
            let why = mute.of("mx1", 59_999).map(|why| (why.decisions, why.weight));
            assert_eq!(why, most.map(|most| (most + 1, weight)));
        }
        // A botnet: what is known to be bad doesn't count with what isn't.
        let mut mute = Mute::default();
        for (weight, decisions) in [(Weight::Seen, 11_000), (Weight::Unseen, 600), (Weight::Friend, 60)] {
            assert_eq!(mute.note("mx1", weight, decisions, 0, 0), None);
        }
    }

    /// What an edge that starts at `now` makes of so many held decisions of this weight, which were made at `at`; in minutes.
    #[track_caller]
    fn check_held(weight: Weight, decisions: u32, at: i64, now: i64, void: Option<(i64, i64)>, muted: bool) {
        let (mut mute, at, now) = (Mute::default(), at * MINUTE, now * MINUTE);
        let spans: Vec<_> = (0..decisions).filter_map(|_| mute.note_held("mx1", weight, at, now)).collect();
        assert_eq!(spans, void.map(|(from, to)| (from * MINUTE, to * MINUTE)).into_iter().collect::<Vec<_>>());
        assert_eq!((mute.is_muted("mx1", now), mute.is_void("mx1", at, now)), (muted, void.is_some()));
        assert_eq!(mute.void(9).count(), spans.len());
        mute.forget_held();
        mute.expire(now);
        assert_eq!(mute.is_void("mx1", at, now), void.is_some(), "it is remembered");
    }

    #[test]
    fn what_was_too_much_before_an_edge_started_is_void_and_mutes_nobody_later() {
        check_held(Weight::Unseen, 12_000, 5, 100, None, false);
        check_held(Weight::Unseen, 12_001, 5, 100, Some((5, 16)), false);
        check_held(Weight::Friend, 60, 5, 100, None, false);
        check_held(Weight::Friend, 70, 5, 100, Some((5, 16)), false);
        check_held(Weight::Friend, 70, 5, 15, Some((5, 16)), true);
        check_held(Weight::Nothing, 20_000, 5, 5, None, false);
    }
}
