//! Bytes to tokens and back: lines, commands, envelopes, addresses, message data, replies, EHLO, secrets, identities.
//!
//! No session state, no I/O, no clock. What is made here is valid: a token that came from the network and goes to the
//! backend is written out again from its parts, never copied.

pub mod address;
pub mod command;
pub mod data;
pub mod ehlo;
pub mod envelope;
pub mod host;
pub mod line;
pub mod proxy;
pub mod reply;
pub mod sasl;
pub mod xclient;
pub mod xtext;
