//! Block lists from files: addresses and networks that other people found to send nothing but harm.
//!
//! The content of a file tells its format ([`Format`]). Each entry is judged by itself, and the report names line and
//! reason of each that is refused:
//!
//! - one that can't be read;
//! - one that is wider than /8 (IPv6 /16);
//! - one that touches a network which must never be blocked ([`Protected`]).
//!
//! A file is refused as a whole if it is no list. That is so if its format isn't known, or more than half of its entries can't
//! be read. It is also so if the file is cut short, or the count at its end is wrong. A caller that has an older version of the
//! list keeps that.
//!
//! Other modules read and follow the files, and write to the kernel.
//!
//! # Bounds
//! A file has at most [`MAX_FILE`] bytes, a list [`MAX_ENTRIES`] entries, all lists together [`MAX_TOTAL`]. The report
//! keeps [`MAX_REFUSALS`] refused entries of a list and counts the rest. In memory an entry takes 8 bytes (IPv6 32), and
//! while a file is read its bytes as well.
//!
//! # Not done
//! End times of entries in CrowdSec and ipset files are not followed in a list. An entry counts as long as the file holds
//! it, unless it was over when the file was written. Decisions that are read from a file ([`parse_entries`]) end at the
//! time in the file.

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
