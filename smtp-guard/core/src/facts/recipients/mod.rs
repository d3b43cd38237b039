//! Knowledge of recipients: the operator's table of those that exist, and those that the backend said not to exist.

mod table;
mod unknowns;

pub use table::{Fault, KnownRecipients, MAX_FILE};
pub use unknowns::{LIFE, RECIPIENTS, Unknowns};
