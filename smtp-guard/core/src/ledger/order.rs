//! The order in which entries make room: by class, and in a class by when they were last heard of.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::Duration;

use super::entry::Class;
use crate::addr::Source;
use crate::clock::Instant;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) class: Class,
    pub(super) last: Instant,
    pub(super) source: Source,
}

/// All entries. A set for each class, not the class in each element: that is a third less memory.
#[derive(Debug, Default)]
pub(super) struct Order([BTreeSet<(Instant, Source)>; Class::ALL.len()]);

impl Order {
    pub(super) fn enter(&mut self, place: Place) {
        if let Some(set) = self.0.get_mut(place.class as usize) {
            set.insert((place.last, place.source));
        }
    }

    /// Suspects and offenders are told apart by `harvest.unknown_recipients`, which may have been another when they entered.
    pub(super) fn leave(&mut self, place: Place) {
        let classes = match place.class {
            Class::Suspect | Class::Offender => [Class::Suspect, Class::Offender].as_slice(),
            _ => &[place.class],
        };
        for class in classes {
            if let Some(set) = self.0.get_mut(*class as usize) {
                set.remove(&(place.last, place.source));
            }
        }
    }

    /// The one that makes room first among strangers, or among friends.
    pub(super) fn first(&self, friends: bool) -> Option<Place> {
        Class::ALL.into_iter().filter(|class| class.is_friend() == friends).find_map(|class| {
            let (last, source) = *self.of(class)?.first()?;
            Some(Place { class, last, source })
        })
    }

    /// How many there are whose mail was accepted.
    pub(super) fn friends(&self) -> usize {
        let friends = Class::ALL.into_iter().filter(|class| class.is_friend());
        friends.filter_map(|class| self.of(class)).map(BTreeSet::len).sum()
    }

    /// Those of `class` that were silent for `age` or longer, at most `most` of them.
    pub(super) fn silent(&self, class: Class, now: Instant, age: Duration, most: usize) -> Vec<Source> {
        let all = self.of(class).into_iter().flatten();
        all.map_while(|(last, source)| (now.since(*last) >= age).then_some(*source)).take(most).collect()
    }

    /// At most `most` of those whose mail was accepted, the ones that were heard of last first, behind `after`.
    pub(super) fn latest_friends(&self, after: Option<(Instant, Source)>, most: usize) -> Vec<(Instant, Source)> {
        let range = (Bound::Unbounded, after.map_or(Bound::Unbounded, Bound::Excluded));
        let of = |class| self.of(class).into_iter().flat_map(move |all| all.range(range).rev().copied());
        let (mut friends, mut active) = (of(Class::Friend).peekable(), of(Class::Active).peekable());
        let next = || match (friends.peek(), active.peek()) {
            (Some(one), Some(other)) if one < other => active.next(),
            (Some(_), _) => friends.next(),
            (None, _) => active.next(),
        };
        std::iter::from_fn(next).take(most).collect()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(BTreeSet::len).sum()
    }

    fn of(&self, class: Class) -> Option<&BTreeSet<(Instant, Source)>> {
        self.0.get(class as usize)
    }
}
