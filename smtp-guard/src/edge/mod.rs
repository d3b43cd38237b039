//! The kernel boundary: loading the programs, the pinned maps, the ban table that both planes are fed from.
//!
//! - [`load`] and [`unload`] are privileged and short; what they leave is pinned and needs no process.
//! - [`KernelPlane`] is the pinned maps, opened. It works for whoever may open the files.
//! - [`lists`] writes block lists, whole sets of them.
//! - [`bans`] is the only writer of the ban map, and what user space enforces where there is no kernel plane.

mod banned;
pub mod bans;
mod error;
pub mod events;
pub mod lists;
mod load;
mod maps;
mod pins;
mod plane;
mod reconcile;
mod sys;
#[cfg(test)]
mod tests;

pub use banned::Written;
pub use error::EdgeError;
pub use load::{Attached, Loaded, load, permitted, unload};
pub use plane::{Interface, KernelPlane, Packets, Refreshed, Status};
