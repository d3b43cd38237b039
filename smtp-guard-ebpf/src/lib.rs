//! The half of the kernel plane that needs no kernel: the ABI that both planes share and the packet logic.
//!
//! Everything here runs on the host as well, where the tests drive it with byte slices.
#![no_std]
#![forbid(unsafe_code)]

pub mod abi;
pub mod decide;
pub mod event;
pub mod filter;
pub mod frame;
pub mod lists;
pub mod near;
pub mod parse;
pub mod rate;
pub mod reason;
