//! Reasons why there is no resolver.

use hickory_resolver::net::NetError;

/// Why there is no resolver.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot prepare the DNS resolver: {0}")]
    Build(#[source] Box<NetError>),
}
