//! Differences between two configurations, with why some of them can't change while the guard runs.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Config, keys};

/// A key with another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// As the file has it; an entry of a list of tables by its name: `listen[0.0.0.0:25].role`.
    pub key: String,
    /// `None`: it wasn't set.
    pub from: Option<String>,
    pub to: Option<String>,
    /// Why it keeps its value until the guard is started again; `None`: it changes while the guard runs.
    pub restart: Option<String>,
}

/// Tables of which there may be several, and what tells them apart.
const NAMED: &[(&str, &str)] = &[("listen", "address"), ("dnsbl", "name"), ("blocklist", "name")];

impl Config {
    /// The keys that differ in `new`, in their order.
    pub fn changes(&self, new: &Self) -> Vec<Change> {
        let (mut before, mut after) = (flat(self), flat(new));
        // A table that comes or goes is one change.
        let (lone_before, lone_after) = (lone(&before, &after), lone(&after, &before));
        join(&mut before, &lone_before);
        join(&mut after, &lone_after);
        let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let differs = keys.into_iter().filter(|key| before.get(*key) != after.get(*key));
        let mut changes: Vec<_> = differs
            .map(|key| Change {
                key: key.clone(),
                from: before.get(key).cloned(),
                to: after.get(key).cloned(),
                restart: keys::needs_restart(key).map(str::to_owned),
            })
            .collect();
        if self.dnsbl != new.dnsbl && !changes.iter().any(|change| change.key.starts_with("dnsbl")) {
            // What isn't shown is a key of the list's.
            let hidden = || Some(String::from("(not shown)"));
            changes.push(Change { key: String::from("dnsbl.zone"), from: hidden(), to: hidden(), restart: None });
        }
        changes
    }
}

/// All keys with their values as text.
fn flat(config: &Config) -> BTreeMap<String, String> {
    let mut flat = BTreeMap::new();
    // Everything in it can be written; a test shows all of it.
    if let Ok(Value::Object(keys)) = serde_json::to_value(config) {
        for (key, value) in keys {
            add(&mut flat, key, value);
        }
    }
    flat
}

/// The entry that `key` is of: `listen[0.0.0.0:25]`.
fn entry(key: &str) -> Option<&str> {
    key.find("].").map(|end| &key[..=end])
}

/// Entries of lists of tables that only `here` has.
fn lone(here: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> BTreeSet<String> {
    let entries =
        |flat: &BTreeMap<String, String>| flat.keys().filter_map(|key| entry(key)).map(str::to_owned).collect();
    let (here, there): (BTreeSet<_>, BTreeSet<_>) = (entries(here), entries(there));
    here.difference(&there).cloned().collect()
}

/// Makes one value of each of `entries`.
fn join(flat: &mut BTreeMap<String, String>, entries: &BTreeSet<String>) {
    for name in entries {
        let of_it = |key: &String| entry(key) == Some(name);
        let keys: Vec<_> = flat.keys().filter(|key| of_it(key)).cloned().collect();
        let values = keys.iter().filter_map(|key| Some((key.rsplit('.').next()?.to_owned(), flat.remove(key)?)));
        let values: Vec<_> = values.map(|(key, value)| format!("{key} = {value}")).collect();
        flat.insert(name.clone(), format!("{{ {} }}", values.join(", ")));
    }
}

fn add(flat: &mut BTreeMap<String, String>, key: String, value: Value) {
    match value {
        Value::Null => {}
        Value::Object(keys) => keys.into_iter().for_each(|(name, value)| add(flat, format!("{key}.{name}"), value)),
        Value::Array(tables) if tables.iter().all(Value::is_object) && NAMED.iter().any(|(name, _)| *name == key) => {
            let by = NAMED.iter().find(|(name, _)| *name == key).map_or("name", |(_, by)| *by);
            for table in tables {
                let name = table.get(by).and_then(Value::as_str).unwrap_or_default().to_owned();
                add(flat, format!("{key}[{name}]"), table);
            }
        }
        Value::String(text) => drop(flat.insert(key, format!("{text:?}"))),
        other => drop(flat.insert(key, other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Listen, Role};

    /// The keys that differ after `change`, those that need a restart with a `!`.
    #[track_caller]
    fn check(change: impl FnOnce(&mut Config), expected: &[&str]) {
        let before = Config::builtin();
        let mut after = before.clone();
        change(&mut after);
        let changes = before.changes(&after);
        let keys: Vec<_> = changes
            .iter()
            .map(|change| format!("{}{}", if change.restart.is_some() { "!" } else { "" }, change.key))
            .collect();
        assert_eq!(keys, expected);
        let kept = after.with_fixed_of(&before);
        assert!(before.changes(&kept).iter().all(|change| change.restart.is_none()), "{keys:?}");
    }

    #[test]
    fn differences_are_named_by_their_keys() {
        check(|_| {}, &[]);
        check(|config| config.limits.recipients = 7, &["limits.recipients"]);
        check(|config| config.relay.domains.push("b.example".into()), &["relay.domains"]);
        check(
            |config| {
                let listen = Listen { address: "127.0.0.1:2526".parse().unwrap(), ..config.listen[0].clone() };
                config.listen.push(listen);
            },
            &["listen[127.0.0.1:2526]"],
        );
        check(|config| config.listen[0].role = Role::Submission, &["listen[127.0.0.1:2525].role"]);
        check(|config| config.recipients.known = Some("/a".into()), &["recipients.known"]);
    }

    #[test]
    fn what_is_fixed_says_so_and_keeps_its_value() {
        check(|config| config.admin.socket = "/a".into(), &["!admin.socket"]);
        check(|config| config.edge.group = "a".into(), &["!edge.group"]);
        check(|config| config.edge.max_sources = 7, &["!edge.max_sources"]);
        check(|config| config.edge.mode = crate::config::XdpMode::Generic, &["!edge.mode"]);
        check(|config| config.edge.pin_directory = "/a".into(), &["!edge.pin_directory"]);
        check(|config| config.limits.ipv6_prefix = crate::addr::Ipv6Prefix::new(56).unwrap(), &["!limits.ipv6_prefix"]);
        check(|config| config.state.directory = "/a".into(), &["!state.directory"]);
        assert_eq!(keys::fixed().count(), 7, "a key that needs a restart has its line here");
    }
}
