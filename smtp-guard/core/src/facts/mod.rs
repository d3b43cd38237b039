//! What is found out about a client or a recipient before policy decides.

pub mod dns;
pub mod recipients;
pub mod unknown;
