//! What is known of recipients: the operator's table of those that exist.

mod table;

pub use table::{KnownRecipients, RecipientsError, Stamp};
