//! A webhook, without its I/O: what waits for the receiver, when it is tried, what an answer means, and the signature of
//! a request.
//!
//! # What is promised
//! | | |
//! |---|---|
//! | order | one request at a time, the oldest events first |
//! | at least once | a request is sent again, with the same number and the same events, until it is answered |
//! | bounds | [`QUEUE`] events wait; the oldest give way, and the next request says how many are missing |
//! | pace | at most [`BATCH`] events a request, which waits [`GATHER`] for more; after a failure longer and longer, up to [`PAUSES`] |
//!
//! # Designs rejected
//! - A queue on disk. What must not be lost is in the log and in the store. A receiver that was away for hours wants the
//!   present state, not each ban that has ended since.
//! - Several requests at once: a lift would overtake its ban.

mod answer;
mod endpoint;
mod outbox;
mod signature;
mod status;

pub use answer::{Fate, LONGEST_WISH, fate, retry_after};
pub use endpoint::Endpoint;
pub use outbox::{BATCH, Batch, GATHER, Outbox, PAUSES, QUEUE};
pub use signature::{SECRET, Secret};
pub use status::WebhookStatus;
