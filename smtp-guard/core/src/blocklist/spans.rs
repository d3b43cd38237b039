//! Sets of spans, each with something that is known of it: sorted and apart, so that one is found by halving.

use std::cmp::Reverse;
use std::fmt;
use std::net::IpAddr;

use super::span::Span;

/// An address as a number.
trait Number: Copy + Ord {
    /// The next one; `None` at the end.
    fn after(self) -> Option<Self>;
}

impl Number for u32 {
    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn after(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Spans of both families. To be settled before anything is looked for.
#[derive(Clone, PartialEq)]
pub(super) struct Spans<T> {
    v4: Vec<(u32, u32, T)>,
    v6: Vec<(u128, u128, T)>,
}

impl<T> Default for Spans<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

/// Millions of them would be of no use.
impl<T> fmt::Debug for Spans<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("v4", &self.v4.len()).field("v6", &self.v6.len()).finish()
    }
}

impl<T: Copy> Spans<T> {
    pub(super) fn add(&mut self, span: Span, known: T) {
        match span {
            Span::V4 { first, last } => self.v4.push((first, last, known)),
            Span::V6 { first, last } => self.v6.push((first, last, known)),
        }
    }

    /// Sorts them. One that lies within another goes, and one that overlaps another is cut; those that only touch stay
    /// apart, so that an address is found in the entry that the file has.
    pub(super) fn settle(&mut self) {
        settle(&mut self.v4);
        settle(&mut self.v6);
    }

    pub(super) fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// The span that holds `ip`, which must be IPv4 where it is that within IPv6.
    pub(super) fn find(&self, ip: IpAddr) -> Option<(Span, T)> {
        self.touching(ip.into())
    }

    /// A span that shares an address with `span`.
    pub(super) fn touching(&self, span: Span) -> Option<(Span, T)> {
        match span {
            Span::V4 { first, last } => {
                touching(&self.v4, first, last).map(|(first, last, known)| (Span::V4 { first, last }, known))
            }
            Span::V6 { first, last } => {
                touching(&self.v6, first, last).map(|(first, last, known)| (Span::V6 { first, last }, known))
            }
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Span> + '_ {
        let v4 = self.v4.iter().map(|(first, last, _)| Span::V4 { first: *first, last: *last });
        v4.chain(self.v6.iter().map(|(first, last, _)| Span::V6 { first: *first, last: *last }))
    }
}

fn settle<A: Number, T: Copy>(spans: &mut Vec<(A, A, T)>) {
    spans.sort_unstable_by_key(|(first, last, _)| (*first, Reverse(*last)));
    let mut end: Option<A> = None;
    spans.retain_mut(|(first, last, _)| {
        if let Some(end) = end
            && *first <= end
        {
            // `end` is below `last`, so there is one after it.
            match end.after() {
                Some(after) if end < *last => *first = after,
                _ => return false,
            }
        }
        end = Some(*last);
        true
    });
    spans.shrink_to_fit();
}

fn touching<A: Number, T: Copy>(spans: &[(A, A, T)], first: A, last: A) -> Option<(A, A, T)> {
    let at = spans.partition_point(|span| span.1 < first);
    spans.get(at).filter(|span| span.0 <= last).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(first: u32, last: u32) -> Span {
        Span::V4 { first, last }
    }

    #[test]
    fn entries_that_touch_stay_apart_and_those_within_go() {
        let mut spans = Spans::default();
        for (first, last) in
            [(10, 19), (20, 29), (12, 14), (25, 35), (0, 0), (u32::MAX, u32::MAX), (u32::MAX - 1, u32::MAX)]
        {
            spans.add(v4(first, last), ());
        }
        spans.settle();
        let expected = [v4(0, 0), v4(10, 19), v4(20, 29), v4(30, 35), v4(u32::MAX - 1, u32::MAX)];
        assert_eq!(spans.iter().collect::<Vec<_>>(), expected);
    }

    proptest! {
        #[test]
        fn as_sets_of_addresses(
            added in prop::collection::vec((0u32..200, 0u32..20), 0..20), asked in (0u32..220, 0u32..9), v6: bool,
        ) {
            let span = |first: u32, last: u32| match v6 {
                false => v4(first, last),
                true => Span::V6 { first: u128::from(first) << 64, last: u128::from(last) << 64 },
            };
            let mut spans = Spans::default();
            for (first, more) in &added {
                spans.add(span(*first, first + more), ());
            }
            spans.settle();
            prop_assert!(spans.len() <= added.len());
            let (from, to) = (asked.0, asked.0 + asked.1);
            let touches = added.iter().any(|(first, more)| *first <= to && first + more >= from);
            prop_assert_eq!(spans.touching(span(from, to)).is_some(), touches);
            let holds = added.iter().any(|(first, more)| (*first..=first + more).contains(&from));
            prop_assert_eq!(spans.find(span(from, from).ends().0).is_some(), holds);
        }
    }
}
