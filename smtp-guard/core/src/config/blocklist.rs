//! `[[blocklist]]`: files of addresses that are turned away.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};
use toml::Spanned;

use super::judge::Judge;
use super::value::{self, RawEntry, Value};

/// Lists; a connection is held against each of them.
const LISTS: usize = 64;
/// Bytes of a list's name, which stands in log, metrics and `explain`.
const NAME: usize = 64;

/// A block list in a file.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blocklist {
    pub name: String,
    pub file: PathBuf,
    /// How often the file is looked at.
    #[serde(serialize_with = "value::show")]
    pub reload: Duration,
}

impl Value for Vec<Blocklist> {
    type Raw = Vec<Spanned<RawEntry<Blocklist>>>;

    fn judge(_: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        blocklist(raw, judge)
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        self.serialize(out)
    }
}

fn blocklist(raw: &[Spanned<RawEntry<Blocklist>>], judge: &mut Judge) -> Vec<Blocklist> {
    let mut lists: Vec<Blocklist> = Vec::new();
    for entry in raw {
        let table = entry.get_ref();
        let reload = judge.duration("blocklist.reload", &table.reload);
        for (key, text) in [("name", &table.name), ("file", &table.file)] {
            if text.is_none() && judge.whole {
                let message = format!("[[blocklist]] without {key}");
                let help = "add name = \"drop\" and file = \"/var/lib/smtp-guard/drop.netset\"";
                judge.missing(Some(entry.span()), message, help);
            }
        }
        let file = judge.path("blocklist.file", &table.file);
        let (Some(text), Some(file)) = (&table.name, file) else { continue };
        let name = text.get_ref();
        if name.is_empty()
            || name.len() > NAME
            || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        {
            let help = format!("letters, digits, \".\", \"_\" and \"-\", at most {NAME} of them");
            judge.wrong(text.span(), format!("blocklist.name can't be {name:?}"), "", help);
        } else if lists.iter().any(|other| other.name == *name) {
            judge.wrong(text.span(), format!("blocklist.name {name} is given twice"), "", "rename one of the two");
        } else if let Some(other) = lists.iter().find(|other| other.file == file) {
            let message = format!("blocklist.file of {name} is that of {} as well", other.name);
            judge.wrong(text.span(), message, "", "remove one of the two");
        } else if lists.len() == LISTS {
            let message = format!("more than {LISTS} block lists");
            judge.wrong(text.span(), message, "", "join some of them into one file");
        } else {
            lists.push(Blocklist { name: name.clone(), file, reload });
        }
    }
    lists
}
