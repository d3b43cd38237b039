//! The place where decisions are made upon what is counted and known, for the program, `try` and the trial: who is let in
//! ([`admit`]), who may send one more message ([`message`]), what a recipient is judged by ([`known`]), and what follows from a
//! report ([`report`]): a list of [`Effect`]s, which others perform without deciding anything.
//!
//! Everything is passed in: the snapshot to judge by, what is counted, the moment, and whether a judgement counts ([`Tally`]).

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
