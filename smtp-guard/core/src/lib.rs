//! The pure part of smtp-guard, which decides everything: bytes to tokens, rules, the session, the ledger.
//!
//! Nothing here reads a file, a socket or a clock: facts and time are passed in, and what is to be done is returned. The
//! compiler holds that: no crate that does I/O is among the dependencies, and `clippy.toml` beside `Cargo.toml` forbids
//! what of the standard library would.

pub mod addr;
pub mod blocklist;
pub mod clock;
pub mod config;
pub mod decision;
pub mod facts;
pub mod fleet;
pub mod gate;
pub mod key;
pub mod ledger;
pub mod marks;
pub mod offence;
pub mod policy;
pub mod printable;
pub mod rates;
pub mod session;
pub mod shards;
pub mod snapshot;
pub mod stamp;
pub mod webhook;
pub mod wire;
