//! smtp-guard's user plane: an SMTP proxy that applies policy to every command and feeds offenders back to the kernel.
//!
//! Data flows one way; `ARCHITECTURE.md` draws it. Unsafe code is denied everywhere but in `edge::sys`, the one fence.

pub mod blocklist;
pub mod bound;
mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod edge;
pub mod events;
pub mod facts;
pub mod feedback;
pub mod file;
pub mod fleet;
pub mod guard;
mod memory;
pub mod observe;
pub mod relay;
pub mod routes;
pub mod stamp;
pub mod store;
pub mod webhook;
#[cfg(test)]
mod written;

pub use smtp_guard_core::{
    addr, decision, gate, key, ledger, marks, offence, policy, printable, rates, session, shards, snapshot, wire,
};
