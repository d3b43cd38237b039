//! Block lists from files: addresses and networks that other people found to send nothing but harm.
//!
//! What a file holds is told by its content ([`Format`]). Each entry is judged by itself: one that can't be read, that is
//! wider than /8 (IPv6 /16), or that touches a network which must never be blocked ([`Protected`]) is refused, and the
//! report says in which line and why. A file is refused as a whole where it is no list: its format isn't known, more than
//! half of its entries can't be read, it is cut short, or the count that it ends with is wrong. Whoever has an older
//! version of the list keeps that.
//!
//! Who reads and follows the files is elsewhere, and so is who writes to the kernel.
//!
//! # Bounds
//! A file [`MAX_FILE`] bytes, a list [`MAX_ENTRIES`] entries, all lists together [`MAX_TOTAL`]; of what is refused in a
//! list, [`MAX_REFUSALS`] are kept for the report and the rest is counted. In memory an entry takes 8 bytes (IPv6 32), and
//! while it is read the file's bytes as well.
//!
//! # Not done
//! How long an entry of CrowdSec or ipset is still to last is not followed in a list: it counts as long as the file holds it,
//! unless it was over when the file was written. Decisions that are read from a file ([`parse_entries`]) end when it says.

mod fault;
mod format;
mod list;
mod protected;
mod span;
mod spans;
mod state;
mod table;
#[cfg(test)]
mod tests;

pub use fault::{Fault, Refusal};
pub use format::Format;
pub use list::{Entries, Left, List, Timed, parse, parse_entries};
pub use protected::Protected;
pub use span::Span;
pub use state::{Read, State};
pub use table::{Listing, Named, Table};

/// Bytes of a file: several million entries as text.
pub const MAX_FILE: u64 = 128 * 1024 * 1024;
/// Entries of a list.
pub const MAX_ENTRIES: usize = 4_000_000;
/// Entries of all lists.
pub const MAX_TOTAL: usize = 8_000_000;
/// Refused entries of a list that the report names.
pub const MAX_REFUSALS: usize = 20;
/// The same for a file that is read for decisions, by somebody who looks.
pub const MAX_ENTRY_REFUSALS: usize = 1000;
