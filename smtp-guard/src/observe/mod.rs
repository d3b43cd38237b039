//! What the guard shows of itself: metrics, logs, health over HTTP, and the socket that the command line talks to.

pub mod log;
pub mod metrics;
