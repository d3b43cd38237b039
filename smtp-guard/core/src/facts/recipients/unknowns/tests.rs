use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const ROOM: usize = 4;

/// One thing that happens, `after` seconds after the last.
#[derive(Clone, Copy, Debug)]
struct Event {
    after: u64,
    recipient: u8,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Refused { source: u32, sender: u8 },
    Accepted,
}

fn at(seconds: u64) -> Instant {
    Instant::from_ns(seconds * 1_000_000_000)
}

fn refuse(memory: &mut Unknowns, recipient: u8, source: u32, sender: u8, now: Instant) -> bool {
    let sender = Digest::of(&sender.to_string());
    memory.refused(&recipient.to_string(), Source::v4(source), sender, now)
}

/// Refusals to (source, sender) at a second, then what is known of the recipient at `ask`.
fn check(refusals: &[(u32, u8, u64)], ask: u64, unknown: bool) {
    let mut memory = Unknowns::new(ROOM);
    for (source, sender, second) in refusals {
        assert!(!refuse(&mut memory, 0, *source, *sender, at(*second)));
    }
    assert_eq!(memory.is_unknown("0", at(ask)), unknown, "{refusals:?} at {ask}");
    memory.accepted("0");
    assert!(!memory.is_unknown("0", at(ask)) && memory.is_empty() && memory.order.is_empty());
}

#[test]
fn two_sources_and_two_senders_are_believed_for_five_minutes() {
    check(&[], 0, false);
    check(&[(1, 1, 0)], 0, false);
    check(&[(1, 1, 0), (1, 1, 1)], 1, false);
    check(&[(1, 1, 0), (2, 1, 1)], 1, false);
    check(&[(1, 1, 0), (1, 2, 1)], 1, false);
    check(&[(1, 1, 0), (2, 2, 1)], 1, true);
    check(&[(1, 1, 0), (1, 2, 1), (2, 1, 2)], 2, true);
    check(&[(1, 1, 0), (2, 2, 299)], 299, true);
    check(&[(1, 1, 0), (2, 2, 299)], 300, false);
    check(&[(1, 1, 0), (2, 2, 300)], 300, false);
    check(&[(1, 1, 0), (2, 2, 1), (3, 3, 300)], 300, false);
    check(&[(1, 1, 0), (2, 2, 300), (1, 1, 301)], 301, true);
}

#[test]
fn the_oldest_makes_room() {
    let mut memory = Unknowns::new(2);
    for (recipient, forgot) in [(1, false), (2, false), (2, false), (3, true)] {
        assert_eq!(refuse(&mut memory, recipient, 1, 1, at(0)), forgot, "{recipient}");
    }
    for recipient in [1, 2, 3] {
        // Those that are there are confirmed by it, the one that was forgotten begins again and takes another's place.
        refuse(&mut memory, recipient, 2, 2, at(1));
    }
    assert_eq!(["1", "2", "3"].map(|recipient| memory.is_unknown(recipient, at(1))), [false, false, false]);
    assert_eq!(memory.len(), 2);
    assert!(!refuse(&mut memory, 9, 1, 1, at(1000)), "those whose time is over had no room left to lose");
    assert_eq!((memory.len(), memory.order.len()), (1, 1));
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let refused = (0..3u32, 0..3u8).prop_map(|(source, sender)| What::Refused { source, sender });
    let what = prop_oneof![9 => refused, 1 => Just(What::Accepted)];
    let event = (prop_oneof![4 => 0..5u64, 1 => 0..400u64], 0..8u8, what);
    proptest::collection::vec(event.prop_map(|(after, recipient, what)| Event { after, recipient, what }), 0..200)
}

proptest! {
    /// Whatever it is told: it says `unknown` only if within the last five minutes, and since the recipient was last
    /// accepted, two sources and two senders heard so; and it never holds more than it has room for.
    #[test]
    fn it_never_goes_by_one_word_or_an_old_one(events in events()) {
        let mut memory = Unknowns::new(ROOM);
        let mut told: BTreeMap<u8, Vec<(u64, u32, u8)>> = BTreeMap::new();
        let mut second = 0;
        for Event { after, recipient, what } in events {
            second += after;
            match what {
                What::Refused { source, sender } => {
                    refuse(&mut memory, recipient, source, sender, at(second));
                    told.entry(recipient).or_default().push((second, source, sender));
                }
                What::Accepted => {
                    memory.accepted(&recipient.to_string());
                    told.remove(&recipient);
                    prop_assert!(!memory.is_unknown(&recipient.to_string(), at(second)));
                }
            }
            prop_assert!(memory.len() <= ROOM && memory.order.len() == memory.len());
            for recipient in 0..8 {
                if !memory.is_unknown(&recipient.to_string(), at(second)) {
                    continue;
                }
                let recent = || told.get(&recipient).into_iter().flatten().filter(|(then, ..)| second - then < 300);
                let sources: BTreeSet<_> = recent().map(|(_, source, _)| source).collect();
                let senders: BTreeSet<_> = recent().map(|(.., sender)| sender).collect();
                prop_assert!(sources.len() > 1 && senders.len() > 1, "{recipient} at {second}: {told:?}");
            }
        }
    }
}
