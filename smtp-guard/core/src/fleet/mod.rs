//! A fleet: several edges that judge as one. Pure: messages are bytes, time is passed in, who sends them is elsewhere.
//!
//! Edges share what happened, not counters. Each appends its reports to one stream and hears those of the others. So the same
//! rule decides everywhere on the same evidence. Decisions are shared beside it. Nobody waits for anybody: a message that is
//! lost, late or repeated changes nothing that another one doesn't mend.
//!
//! # Time
//! All times in messages are those of the server that edges share ([`offset`]): no edge's clock is trusted by another.
//!
//! # What is trusted
//! A message carries a code under the fleet's key ([`message`]). Anyone who has that key may decide for all, except about what
//! each edge exempts. An edge that decides too much is muted by the others ([`mute`]). A message that is repeated counts once:
//! evidence by its number ([`member`]), decisions by their time ([`merge`]).

pub mod member;
pub mod merge;
pub mod message;
pub mod mute;
pub mod offset;
pub mod outbox;
pub mod stale;
pub mod status;

/// Reports that wait for the server.
pub const REPORTS: usize = 65_536;
/// Reports of one message.
pub const BATCH: usize = 256;
/// Decisions that wait for the server.
pub const CHANGES: usize = 131_072;
/// Sources whose decisions are known of the fleet.
pub const DECISIONS: usize = 1 << 20;
/// Edges of a fleet; what further ones say is ignored.
pub const NODES: usize = 256;

/// Sources of one part of an edge's history.
pub const PART: usize = 2_048;
/// Parts of it: 100,000 sources.
pub const PARTS: usize = 49;

/// How long an edge is remembered that says nothing, in ms.
const DAY: i64 = 86_400_000;
