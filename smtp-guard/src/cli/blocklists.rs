//! Block lists where no guard runs: what `check` says of them, and what `edge load` fills the kernel with.

use std::sync::Arc;

use serde::Serialize;

use super::output;
use crate::blocklist::{self, List, ListError, Named, Protected, Read, State, Table};
use crate::config::{Blocklist, Config};
use crate::edge::{KernelPlane, Loaded};
use crate::observe::log::printable_whole;
use crate::relay::{self, Filled};

/// Reads all lists and says what they hold; those that can't be used are returned.
pub(super) fn check(config: &Config) -> anyhow::Result<Vec<(&Blocklist, ListError)>> {
    let mut failed = Vec::new();
    for (list, result) in config.blocklist.iter().zip(read(config)) {
        match result {
            Ok(read) => output::line(&described(&list.name, &read))?,
            Err(error) => failed.push((list, error)),
        }
    }
    Ok(failed)
}

fn read(config: &Config) -> impl Iterator<Item = Result<List, ListError>> {
    let protected = (!config.blocklist.is_empty()).then(|| Protected::new(config, &blocklist::own_addresses()));
    let read = move |list: &crate::config::Blocklist| {
        Some(blocklist::load(&list.file, protected.as_ref()?).map(|(list, _)| list))
    };
    config.blocklist.iter().filter_map(read)
}

/// A list and the entries of it that were refused.
fn described(name: &str, list: &List) -> String {
    let mut lines = vec![format!("block list {name}: {}", Read::of(list, crate::clock::wall()))];
    lines.extend(list.refusals.iter().map(|refusal| format!("  refused: {}", printable_whole(&refusal.to_string()))));
    if list.refused > list.refusals.len() {
        lines.push(format!("  and {} more", list.refused - list.refusals.len()));
    }
    lines.join("\n")
}

/// The answer of `edge load`, with block lists.
#[derive(Debug, Serialize)]
pub(super) struct LoadedWithLists {
    #[serde(flatten)]
    loaded: Loaded,
    blocklists: Vec<State>,
    /// Entries of all lists in the kernel; `None`: it keeps those that it had.
    #[serde(rename = "entries")]
    listed: Option<usize>,
}

/// Fills the kernel plane, which was loaded just now, with the lists of `config`.
pub(super) fn fill(config: &Config, loaded: Loaded) -> anyhow::Result<LoadedWithLists> {
    let (mut blocklists, mut named) = (Vec::new(), Vec::new());
    for (list, result) in config.blocklist.iter().zip(read(config)) {
        let (name, file) = (list.name.clone(), list.file.clone());
        let (read, error) = match result {
            Ok(list) => {
                let read = Read::of(&list, crate::clock::wall());
                named.push(Named { name: name.clone(), file: file.clone(), list: Arc::new(list) });
                (Some(read), None)
            }
            Err(error) => (None, Some(error.to_string())),
        };
        blocklists.push(State { name, file, read, error });
    }
    let mut listed = Some(0);
    if let Some(plane) = KernelPlane::open(&config.edge.pin_directory)? {
        plane.configure(config)?;
        let whole = named.len() == blocklists.len();
        listed = match relay::fill(&plane, &Table::new(named), whole)? {
            Filled::Nothing => Some(0),
            Filled::Written(entries) => Some(entries),
            Filled::Kept => None,
        };
    }
    Ok(LoadedWithLists { loaded, blocklists, listed })
}

impl LoadedWithLists {
    pub(super) fn text(&self) -> String {
        let mut lines = vec![self.loaded.to_string()];
        lines.extend(self.blocklists.iter().map(|list| format!("block list {}: {list}", list.name)));
        match self.listed {
            _ if self.blocklists.is_empty() => {}
            Some(entries) => lines.push(format!("entries of block lists in the kernel: {entries}")),
            None => lines.push("not all block lists could be read: the kernel keeps those it had".to_owned()),
        }
        lines.join("\n")
    }
}
