//! Facts about a client or a recipient, found before policy decides.

pub mod dns;
pub mod recipients;

pub use smtp_guard_core::facts::unknown;
