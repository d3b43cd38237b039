//! Facts about a client or a recipient, found out before policy decides.

pub mod dns;
pub mod recipients;
pub mod unknown;
