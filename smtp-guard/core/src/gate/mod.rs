//! The place where decisions are made from what is counted and known, for the program, `try` and the trial.
//!
//! - [`admit`]: whether a connection is let in.
//! - [`message`]: whether a source or user may send one more message.
//! - [`known`]: the facts that a recipient is judged by.
//! - [`report`]: what follows from a report, as a list of [`Effect`]s. Others perform them without deciding anything.
//!
//! Everything is passed in: the snapshot to judge by, the counts, the moment, and whether a judgement counts ([`Tally`]).

mod admission;
mod effect;
mod foreign;
mod message;
mod place;
mod report;
mod resume;

pub use admission::{Arrival, Door, Standing, admit};
pub use effect::{Deferred, Effect, Grounds, Lifted};
pub use foreign::{Ignored, foreign, foreign_lift};
pub use message::{handshake, message, source_message};
pub use place::Place;
pub use report::{Known, SUM, befriend, clear, hear, known, pardon, report, settle};
pub use resume::resume;

pub use crate::offence::Heard;
pub use crate::rates::Tally;
