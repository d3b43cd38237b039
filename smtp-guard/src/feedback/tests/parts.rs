//! Decisions as they are told: in parts.

use super::*;
use crate::decision::join;

/// All decisions in force, as the command line puts them together.
pub(super) async fn all(feedback: &Feedback) -> Vec<Decision> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let part = feedback.decisions(after).await.unwrap();
        found.extend(part.decisions);
        after = part.next;
        if after.is_none() {
            return join(found);
        }
    }
}

/// Likewise, `most` at a time.
fn in_parts(keeper: &Keeper, most: usize) -> Vec<Decision> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let part = keeper.decisions(after.as_deref(), most).unwrap();
        assert!(part.decisions.len() <= most);
        found.extend(part.decisions);
        after = part.next;
        if after.is_none() {
            return join(found);
        }
    }
}

pub(super) fn held(keeper: &Keeper) -> Vec<Decision> {
    in_parts(keeper, 3)
}

#[test]
fn decisions_are_told_in_parts_each_once_and_users_are_not() {
    let world = World::new();
    let marks = Arc::new(Marks::default());
    let mut keeper = Keeper::new(
        Arc::new(Snapshot::new(Arc::clone(&world.config), None)),
        Arc::new(BanTable::new(None, 100)),
        world.disk.open(),
        Arc::new(Counted::default()),
        Arc::new(Alone),
        Arc::clone(&marks),
        Arc::new(Counters::new(&world.config)),
    );
    assert_eq!(in_parts(&keeper, 1), []);
    let hour = Duration::from_secs(3600);
    let banned = ["20.0.2.3", "20.0.2.1", "2001:db8:7::/64", "20.0.2.2", "30.0.0.0/16", "2001:db9::/32"];
    for (hours, who) in (1..).zip(banned) {
        keeper.add(who.parse().unwrap(), hour * hours, String::from("x"), BY).unwrap();
    }
    keeper.hold(crate::key::User::new("bob").unwrap(), None, String::from("x"), BY).unwrap();
    let source = |text: &str| Ipv6Prefix::default().source(text.parse().unwrap());
    let later = |hours| crate::clock::now().after(hour * hours);
    for (hours, who) in (1..).zip(["40.0.0.2", "40.0.0.1", "2001:dba::1", "20.0.2.1"]) {
        marks.defer(source(who), later(hours));
    }
    marks.history(source("40.0.0.9"), true);
    for (hours, who) in (5..).zip(["50.0.1.1", "50.0.0.1"]) {
        marks.defer_network(Network::of(source(who)), later(hours));
    }
    let deferred = ["40.0.0.2", "40.0.0.1", "2001:dba::/64", "20.0.2.1", "50.0.1.0/24", "50.0.0.0/24"];
    let expected: Vec<_> = banned.into_iter().chain(deferred).collect();
    for most in 1..=20 {
        let told = in_parts(&keeper, most);
        assert_eq!(told.iter().map(|decision| decision.source.as_str()).collect::<Vec<_>>(), expected, "{most}");
    }
    // What the last part ended with may be over by now.
    keeper.delete("20.0.2.2".parse().unwrap(), BY).unwrap();
    let rest = keeper.decisions(Some("ban:20.0.2.2"), 1).unwrap();
    assert_eq!((rest.decisions[0].source.as_str(), rest.next.as_deref()), ("20.0.2.3", Some("ban:20.0.2.3")));
    assert!(matches!(keeper.decisions(Some("20.0.2.2"), 1), Err(ControlError::NoPlace(_))));
}
