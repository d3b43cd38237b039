//! What the guard shows of itself: metrics, logs, health over HTTP, and the socket that the command line talks to.
pub mod admin;
pub mod attempt;
pub mod bounds;
pub mod budget;
mod certificates;
pub mod drops;
pub mod follow;
mod format;
pub mod http;
mod kernel;
pub mod live;
pub mod log;
pub mod metrics;
pub mod reload;
mod serve;
mod socket;
pub mod status;
pub mod words;
