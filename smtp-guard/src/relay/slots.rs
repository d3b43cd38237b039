//! Places that nobody waits for: one is free, or it isn't. How many there are can change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many at once.
#[derive(Debug)]
pub(super) struct Slots {
    taken: AtomicUsize,
    limit: AtomicUsize,
}

/// One of them; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Slot(Arc<Slots>);

impl Slots {
    /// `limit` at once.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), limit: AtomicUsize::new(limit) })
    }

    /// `limit` at once from here on. What is taken beyond it is given back in its own time.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// One, if one is free.
    pub(super) fn take(self: &Arc<Self>) -> Option<Slot> {
        let limit = self.limit.load(Ordering::Relaxed);
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
        let slots = Slots::new(2);
        let (one, two) = (slots.take(), slots.take());
        assert!(one.is_some() && two.is_some() && slots.take().is_none());
        slots.set_limit(1);
        drop(one);
        assert!(slots.take().is_none(), "one is taken still");
        drop(two);
        let one = slots.take();
        assert!(one.is_some() && slots.take().is_none());
        slots.set_limit(2);
        assert!(slots.take().is_some());
    }
}
