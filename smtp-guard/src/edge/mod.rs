//! The kernel boundary.
pub mod bans;
