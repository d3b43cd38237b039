//! The valid configuration: what the rest of the program sees. `keys` is the table of all keys; raw text ends in `raw`, judgement
//! in `judge` and `check`.

mod blocklist;
mod check;
mod checks;
mod choices;
mod defaults;
mod difference;
mod files;
mod judge;
pub mod keys;
mod listen;
mod named;
mod raw;
mod report;
mod secure;
mod tables;
#[cfg(test)]
mod tests;
mod together;
pub mod units;
mod value;
mod warnings;

use std::path::Path;

use crate::addr::NetSet;
pub use blocklist::Blocklist;
pub use checks::Dnsbl;
pub use choices::{
    AuthVia, BackendTls, EventKind, Granted, Identity, LogFormat, Mode, PageAccess, Profile, Role, Share, XdpMode,
};
pub use defaults::Machine;
pub use difference::Change;
pub use files::ConfigFile;
pub use keys::{
    Admin, Auth, Backend, Checks, Config, Dns, Edge, Events, Fleet, Harvest, Limits, Log, Metrics, Recipients, Relay,
    Replies, State,
};
pub use listen::Listen;
pub use named::Unusable;
pub use report::{Fault, Report};
pub use secure::{Pair, Tls};
use value::Value;

impl Config {
    /// The configuration in `text`, for `machine`. `path` only names it in the report.
    pub fn parse(path: &Path, text: &str, machine: &Machine) -> Result<Self, Report> {
        Self::merged(&[ConfigFile::new(path, text)], machine)
    }

    /// The configuration in `files`, for `machine`: each file is merged into those before it.
    pub fn merged(files: &[ConfigFile], machine: &Machine) -> Result<Self, Report> {
        let mut judge = judge::Judge::new(machine);
        let Some(raw) = raw::read(files, &mut judge.problems) else {
            return Err(Report::new(files, judge.problems));
        };
        judge.whole = judge.problems.is_empty();
        let config = Self::judged(&raw, &mut judge);
        if judge.problems.is_empty() { Ok(config) } else { Err(Report::new(files, judge.problems)) }
    }

    /// All defaults on `machine`. The three keys that a real file must set are empty here.
    pub fn defaults(machine: &Machine) -> Self {
        Self::judged(&value::Raw::<Self>::default(), &mut judge::Judge::new(machine))
    }

    /// What each key is, then what they are together. What is wrong is left in `judge`.
    fn judged(raw: &value::Raw<Self>, judge: &mut judge::Judge) -> Self {
        let mut config = Self::judge("", raw, judge);
        checks::weigh(&mut config);
        together::together(raw, &config, judge);
        config
    }

    /// As TOML, which [`Config::parse`] reads as the same again.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// This configuration with what needs a restart as `running` has it.
    #[must_use]
    pub fn with_fixed_of(mut self, running: &Self) -> Self {
        self.keep_fixed(running);
        self
    }

    /// Addresses that the kernel plane and bans must leave alone: the exempt list, and the balancers, behind whom everybody is.
    pub fn untouchable(&self) -> NetSet {
        let balancers = self.listen.iter().flat_map(|listen| listen.balancers.iter());
        self.exempt.iter().chain(balancers).collect()
    }
}
