//! `ipset save`: sets as the commands that make them.
//!
//! Sets of addresses and of networks count (`hash:ip`, `hash:net`, `bitmap:ip`); the entries of others (with ports, interfaces,
//! MAC addresses, sets) are skipped. An entry with `nomatch` is an exception. Within its set the longest prefix decides. So the
//! exception is cut out of every wider entry, and leaves those within it alone.
//!
//! The file is gone through twice: for sets and their exceptions, then for the entries.

use std::collections::HashMap;
use std::time::Duration;

use super::lines;
use crate::blocklist::MAX_ENTRIES;
use crate::blocklist::fault::Fault;
use crate::blocklist::list::{Left, Reading};
use crate::blocklist::span::Span;

/// Sets of one file.
const SETS: usize = 4096;

/// A set of addresses or networks.
#[derive(Default)]
struct Set {
    /// Its entries are skipped.
    other: bool,
    /// Every address stands for its network of this length.
    netmask: Option<u8>,
    /// The end of entries that name none.
    timeout: Option<u64>,
    except_v4: Vec<(u128, u128)>,
    except_v6: Vec<(u128, u128)>,
}

/// The command of a line.
enum Command<'a> {
    Nothing,
    Create { name: &'a [u8], kind: &'a [u8], options: Words<'a> },
    Add { name: &'a [u8], value: &'a [u8], options: Words<'a> },
    Odd(&'static str),
}

pub(super) fn read(bytes: &[u8], reading: &mut Reading<'_>) -> Result<(), Fault> {
    let sets = sets(bytes)?;
    for (number, line) in lines(bytes) {
        let (name, value, options) = match command(line) {
            Command::Add { name, value, options } => (name, value, options),
            Command::Nothing | Command::Create { .. } => continue,
            Command::Odd(why) => {
                reading.wrong(number, line, why);
                continue;
            }
        };
        match sets.get(name) {
            None => reading.wrong(number, line, "no set of this name is created"),
            Some(set) if set.other => reading.skip(),
            Some(set) => match set.span(value) {
                Err(why) => reading.wrong(number, value, why),
                Ok(_) if is_exception(options) => {}
                Ok(span) => {
                    reading.say(left(timeout(options).or(set.timeout)), None);
                    set.add(number, value, span, reading)?;
                }
            },
        }
    }
    Ok(())
}

/// The sets by their names, with their exceptions in order.
fn sets(bytes: &[u8]) -> Result<HashMap<&[u8], Set>, Fault> {
    let mut sets: HashMap<&[u8], Set> = HashMap::new();
    let mut exceptions = 0;
    for (_, line) in lines(bytes) {
        match command(line) {
            Command::Create { name, kind, options } => {
                if sets.len() == SETS {
                    return Err(Fault::TooMany);
                }
                sets.insert(name, Set::new(kind, options));
            }
            Command::Add { name, value, options } if is_exception(options) => {
                // One that can't be read is reported when the entries are read.
                let set = sets.get_mut(name).filter(|set| !set.other);
                let Some((set, span)) = set.and_then(|set| set.span(value).ok().map(|span| (set, span))) else {
                    continue;
                };
                for net in span.nets() {
                    exceptions += 1;
                    set.except(net.into());
                }
                if exceptions > MAX_ENTRIES {
                    return Err(Fault::TooMany);
                }
            }
            _ => {}
        }
    }
    for set in sets.values_mut() {
        set.except_v4.sort_unstable();
        set.except_v6.sort_unstable();
    }
    Ok(sets)
}

fn command(line: &[u8]) -> Command<'_> {
    let mut words = Words(line);
    match words.next() {
        None => Command::Nothing,
        Some(word) if word.starts_with(b"#") => Command::Nothing,
        Some(b"create") => match (words.next(), words.next()) {
            (Some(name), Some(kind)) => Command::Create { name, kind, options: words },
            _ => Command::Odd("no name and type of a set"),
        },
        Some(b"add") => match (words.next(), words.next()) {
            (Some(name), Some(value)) => Command::Add { name, value, options: words },
            _ => Command::Odd("no entry"),
        },
        Some(_) => Command::Odd("neither create nor add"),
    }
}

/// Seconds that are left of an entry.
fn timeout(mut options: Words<'_>) -> Option<u64> {
    options.find(|option| *option == b"timeout")?;
    options.next().and_then(number)
}

fn number(word: &[u8]) -> Option<u64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// 0 is for ever in a set whose entries end.
fn left(timeout: Option<u64>) -> Left {
    match timeout {
        None => Left::Unsaid,
        Some(0) => Left::Ever,
        Some(seconds) => Left::For(Duration::from_secs(seconds)),
    }
}

fn is_exception(mut options: Words<'_>) -> bool {
    options.any(|option| option == b"nomatch")
}

impl Set {
    fn new(kind: &[u8], mut options: Words<'_>) -> Self {
        let mut set = Self { other: !matches!(kind, b"hash:ip" | b"hash:net" | b"bitmap:ip"), ..Self::default() };
        while let Some(option) = options.next() {
            match option {
                b"netmask" => {
                    set.netmask = options.next().and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
                    set.other |= set.netmask.is_none();
                }
                b"timeout" => set.timeout = options.next().and_then(number),
                b"bitmask" => set.other = true,
                _ => {}
            }
        }
        set
    }

    fn span(&self, value: &[u8]) -> Result<Span, &'static str> {
        let value = std::str::from_utf8(value).map_err(|_| "not an address or network")?;
        if let Some((first, last)) = value.split_once('-') {
            return Span::parse_range(first, last);
        }
        match self.netmask {
            Some(length) => Span::parse(&format!("{value}/{length}")),
            None => Span::parse(value),
        }
    }

    fn except(&mut self, span: Span) {
        match span {
            Span::V4 { first, last } => self.except_v4.push((first.into(), last.into())),
            Span::V6 { first, last } => self.except_v6.push((first, last)),
        }
    }

    fn add(&self, number: usize, value: &[u8], span: Span, reading: &mut Reading<'_>) -> Result<(), Fault> {
        if self.except_v4.is_empty() && self.except_v6.is_empty() || span.is_too_wide() {
            return reading.span(number, value, span);
        }
        // By networks: which of entry and exception has the longer prefix is what decides.
        for net in span.nets().map(Span::from) {
            let parts: Vec<Span> = match net {
                Span::V4 { first, last } => {
                    // What was IPv4 stays below its last address.
                    let part = |(first, last)| Span::V4 { first: first as u32, last: last as u32 };
                    without(first.into(), last.into(), &self.except_v4).into_iter().map(part).collect()
                }
                Span::V6 { first, last } => {
                    let part = |(first, last)| Span::V6 { first, last };
                    without(first, last, &self.except_v6).into_iter().map(part).collect()
                }
            };
            reading.parts(number, value, net, parts)?;
        }
        Ok(())
    }
}

/// The parts of the network from `first` to `last` without the exceptions within it.
fn without(first: u128, last: u128, except: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let begin = except.partition_point(|(from, _)| *from < first);
    let mut left = Vec::new();
    let mut next = Some(first);
    for &(from, to) in except[begin..].iter().take_while(|(from, _)| *from <= last) {
        let Some(at) = next else { break };
        // A wider exception: this entry's prefix is the longer one.
        if to > last {
            continue;
        }
        if from > at {
            left.push((at, from - 1));
        }
        next = to.checked_add(1).map(|behind| behind.max(at));
    }
    left.extend(next.filter(|at| *at <= last).map(|at| (at, last)));
    left
}

/// Words with spaces between them; what stands in quotes is one, with its quotes.
#[derive(Clone, Copy)]
struct Words<'a>(&'a [u8]);

impl<'a> Iterator for Words<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0.trim_ascii_start();
        if text.is_empty() {
            return None;
        }
        let end = match text.strip_prefix(b"\"") {
            Some(quoted) => memchr::memchr(b'"', quoted).map(|at| at + 2),
            None => text.iter().position(u8::is_ascii_whitespace),
        };
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.0 = rest;
        Some(word)
    }
}
