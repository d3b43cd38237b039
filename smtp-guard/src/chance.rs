//! Numbers that nobody can foresee, to tell runs apart and to spread what would come at once. They are no keys.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

/// A number that no other call has, nor another start.
pub(crate) fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}
