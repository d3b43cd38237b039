//! Places that nobody waits for: one is free, or it isn't. The caller says how many there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Those that are taken.
#[derive(Debug, Default)]
pub(super) struct Slots {
    taken: AtomicUsize,
}

/// One of them; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Slots>);

impl Slots {
    /// One, if fewer than `limit` are taken.
    pub(super) fn take(self: &Arc<Self>, limit: usize) -> Option<Slot> {
        let taken =
            self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < limit).then(|| taken + 1));
        taken.is_ok().then(|| Slot(Arc::clone(self)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_taken_also_when_it_changes() {
        let slots = Arc::new(Slots::default());
        let (one, two) = (slots.take(2), slots.take(2));
        assert!(one.is_some() && two.is_some() && slots.take(2).is_none());
        drop(one);
        assert!(slots.take(1).is_none(), "one is taken still");
        drop(two);
        let one = slots.take(1);
        assert!(one.is_some() && slots.take(1).is_none());
        assert!(slots.take(2).is_some());
    }
}
