//! The kernel boundary: loading the programs, the pinned maps, the ban table that both planes are fed from.
//!
//! - [`load`] and [`unload`] are privileged and short; what they leave is pinned and needs no process.
//! - [`returned`] puts the program back on interfaces that were gone.
//! - [`KernelPlane`] is the pinned maps, opened. It works for whoever may open the files.
//! - [`lists`] writes block lists, whole sets of them.
//! - [`events`] reads what was dropped, by samples.
//! - [`bans`] is the only writer of the ban map, and what user space enforces where there is no kernel plane.

mod access;
mod ask;
mod attach;
mod banned;
pub mod bans;
mod error;
pub mod events;
pub mod interfaces;
pub mod lists;
mod load;
mod maps;
mod near;
mod netlink;
mod networks;
mod pins;
mod plane;
mod reconcile;
mod report;
mod status;
mod sweep;
mod sys;
#[cfg(test)]
mod tests;
mod versions;
mod watch;

pub use attach::Attached;
pub use banned::Written;
pub use error::EdgeError;
pub use load::{Loaded, load, load_present, objections, permitted, too_old, unload};
pub use plane::{KernelPlane, Refreshed};
pub use status::{Interface, MapFill, Packets, Status};
pub(crate) use sys::{let_receive_buffer_grow, let_window_grow, shortest_round_trip};
pub use watch::{Returned, missing, returned};
