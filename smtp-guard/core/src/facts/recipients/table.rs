//! The recipient table: a file of one address or `@domain` a line, blank lines and comments (`#`) between them.
//!
//! It is read line by line into one piece of text, with an index beside it. So a million addresses cost what their text does
//! and 8 MiB, also while they are read. It is whole or it isn't there: a line that can't be used, and a file that changes while
//! it is read, are errors.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufRead, Read as _};

use crate::clock::WallTime;
use crate::stamp::Stamp;
use crate::wire::address::{Host, Mailbox};

/// Bytes of the file: a million addresses are about 30 MB.
pub const MAX_FILE: u64 = 256 * 1024 * 1024;
/// Bytes of a line: an address has 254, the rest is comment.
const MAX_LINE: usize = 4096;

/// The recipients that exist.
#[derive(Default)]
pub struct KnownRecipients {
    /// `local@domain` or `@domain`, lower case, each with [`END`] behind it.
    text: Vec<u8>,
    /// A hash table of places in `text`, each plus one; 0 is free. A power of two, at most half full.
    index: Vec<u32>,
    hasher: RandomState,
    /// Hashes of the domains that have an entry, sorted.
    domains: Vec<u64>,
    len: usize,
    stamp: Option<Stamp>,
    read: WallTime,
}

/// The byte behind each entry, which is in none.
const END: u8 = b'\n';
// What a lower-case or international form adds to an address is at most twice its length.
const _: () = assert!(MAX_FILE * 3 < u32::MAX as u64);

impl KnownRecipients {
    /// A table of what `lines` holds; `room`: bytes that its text will need, about.
    pub fn read(mut lines: impl BufRead, room: usize) -> Result<Self, Fault> {
        let mut table = Self { text: Vec::with_capacity(room), ..Self::default() };
        let (mut number, mut entries, mut line) = (0, 0, Vec::new());
        loop {
            line.clear();
            if lines.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line).map_err(Fault::Read)? == 0 {
                break;
            }
            number += 1;
            let bad = || Fault::Line(number, String::from_utf8_lossy(&line).trim().chars().take(80).collect());
            if line.len() > MAX_LINE {
                return Err(bad());
            }
            let whole = std::str::from_utf8(&line).map_err(|_| bad())?;
            let entry = without_comment(whole).trim();
            if !entry.is_empty() {
                table.push(entry).ok_or_else(bad)?;
                entries += 1;
            }
        }
        table.text.shrink_to_fit();
        table.build_index(entries);
        Ok(table)
    }

    /// Appends `entry` as [`crate::wire::address::Mailbox::key`] would have it. `None`: it is no entry.
    fn push(&mut self, entry: &str) -> Option<()> {
        if entry.starts_with('"') {
            self.text.extend_from_slice(Mailbox::parse(entry).ok()?.key().as_bytes());
            self.text.push(END);
            return Some(());
        }
        let (local, domain) = entry.rsplit_once('@')?;
        if domain.is_empty() || entry.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return None;
        }
        if entry.is_ascii() && !domain.ends_with('.') {
            let start = self.text.len();
            self.text.extend_from_slice(entry.as_bytes());
            self.text[start..].make_ascii_lowercase();
        } else {
            let domain = Host::parse(domain)?;
            self.text.extend_from_slice(local.to_lowercase().as_bytes());
            self.text.push(b'@');
            self.text.extend_from_slice(domain.key().as_bytes());
        }
        self.text.push(END);
        Some(())
    }

    fn build_index(&mut self, entries: usize) {
        self.index = vec![0; (entries * 2).next_power_of_two()];
        let mut start = 0;
        while let Some(length) = memchr::memchr(END, &self.text[start..]) {
            if let Err(free) = self.find(&self.text[start..start + length]) {
                // It fits: see MAX_FILE.
                self.index[free] = u32::try_from(start).unwrap_or_default() + 1;
                self.len += 1;
                let entry = &self.text[start..start + length];
                let domain = memchr::memrchr(b'@', entry).map_or(entry, |at| &entry[at + 1..]);
                let domain = self.hasher.hash_one(domain);
                // Neighbours are mostly of one domain.
                if self.domains.last() != Some(&domain) {
                    self.domains.push(domain);
                }
            }
            start += length + 1;
        }
        self.domains.sort_unstable();
        self.domains.dedup();
        self.domains.shrink_to_fit();
    }

    /// Where in the index `entry` is, or the free place where it would be.
    fn find(&self, entry: &[u8]) -> Result<usize, usize> {
        let mask = self.index.len() - 1;
        let mut at = self.hasher.hash_one(entry) as usize & mask;
        loop {
            let Some(start) = self.index[at].checked_sub(1) else { return Err(at) };
            let found = &self.text[start as usize..];
            if found.get(entry.len()) == Some(&END) && found.starts_with(entry) {
                return Ok(at);
            }
            at = (at + 1) & mask;
        }
    }

    fn contains(&self, entry: &str) -> bool {
        !self.is_empty() && self.find(entry.as_bytes()).is_ok()
    }

    /// Whether `recipient` exists; it is `local@domain` in lower case. `user+anything` may be an address of `user`: the
    /// backend knows, and asking it costs nobody a message.
    pub fn lookup(&self, recipient: &str) -> bool {
        if self.contains(recipient) {
            return true;
        }
        let Some(at) = recipient.rfind('@') else {
            return false;
        };
        let (local, domain) = recipient.split_at(at);
        let user = local.split_once('+').map(|(user, _)| [user, domain].concat());
        self.contains(domain) || user.is_some_and(|user| self.contains(&user))
    }

    /// Those of `domains`, in lower case, that have no entry: every recipient of theirs is refused.
    pub fn missing<'a>(&self, domains: &'a [String]) -> Vec<&'a str> {
        let has = |domain: &str| self.domains.binary_search(&self.hasher.hash_one(domain.as_bytes())).is_ok();
        domains.iter().map(String::as_str).filter(|domain| !has(domain)).collect()
    }

    /// Distinct addresses and domains in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it is empty; a table that was loaded never is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.text.capacity() + self.index.capacity() * size_of::<u32>() + self.domains.capacity() * size_of::<u64>()
    }

    /// The same table, read from a file that was `stamp` then.
    #[must_use]
    pub fn with_stamp(self, stamp: Stamp) -> Self {
        Self { stamp: Some(stamp), ..self }
    }

    /// The same table, read at `now`.
    #[must_use]
    pub fn read_at(self, now: WallTime) -> Self {
        Self { read: now, ..self }
    }

    /// When it was read.
    pub fn last_read(&self) -> WallTime {
        self.read
    }

    /// The file that it was read from, as that was then.
    pub fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }
}

/// The text before a `#` at the start of the line or behind white space: the local part of an address may hold one.
fn without_comment(line: &str) -> &str {
    let begins = |at: &usize| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    let comment = line.match_indices('#').map(|(at, _)| at).find(begins);
    &line[..comment.unwrap_or(line.len())]
}

/// Without the addresses, which are people's.
impl fmt::Debug for KnownRecipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownRecipients").field("len", &self.len).finish_non_exhaustive()
    }
}

/// A fault of a table, before it is known of which file.
#[derive(Debug)]
pub enum Fault {
    Read(io::Error),
    /// The line's number, from 1, and what stands in it.
    Line(usize, String),
}
