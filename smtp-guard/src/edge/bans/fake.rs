//! A ban map in memory that fails, goes and comes on demand.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;

use smtp_guard_ebpf::reason::Reason;

use super::KernelBans;
use crate::addr::Source;
use crate::clock::Instant;
use crate::config::Config;
use crate::edge::{EdgeError, Refreshed, Written};
use crate::key::Net;

/// Networks that it has room for.
pub(crate) const NETWORKS: usize = 8;

#[derive(Default)]
pub(crate) struct Fake {
    bans: Mutex<HashMap<Source, (Instant, Reason)>>,
    networks: Mutex<HashMap<Net, (Instant, Reason)>>,
    state: Mutex<State>,
    ready: Mutex<bool>,
}

#[derive(Clone, Copy, Default)]
pub(crate) enum State {
    #[default]
    Works,
    /// Writing fails.
    Broken,
    NotLoaded,
    /// Works from the next look on, which finds it loaded again.
    Loaded,
}

impl Fake {
    pub(crate) fn set(&self, state: State) {
        *self.state.lock().unwrap() = state;
    }

    fn check(&self) -> Result<(), EdgeError> {
        match *self.state.lock().unwrap() {
            State::Works => Ok(()),
            State::Broken => Err(EdgeError::NotWritten { entry: "fault".to_owned() }),
            State::NotLoaded | State::Loaded => Err(EdgeError::NotLoaded { directory: PathBuf::from("fake") }),
        }
    }

    /// Whether something was written, be it no ban at all: then the next write takes no longer than a ban may.
    pub(crate) fn is_ready(&self) -> bool {
        *self.ready.lock().unwrap()
    }

    /// As somebody else would: whatever the state.
    pub(crate) fn put(&self, source: Source, until: Instant, reason: Reason) {
        self.bans.lock().unwrap().insert(source, (until, reason));
    }
}

impl KernelBans for Fake {
    fn ban(&self, source: Source, until: Instant, reason: Reason) -> Result<(), EdgeError> {
        self.check()?;
        self.put(source, until, reason);
        Ok(())
    }

    fn ban_all(&self, bans: &[(Source, Instant, Reason)]) -> Result<Written, EdgeError> {
        self.check()?;
        *self.ready.lock().unwrap() = true;
        bans.iter().try_for_each(|(source, until, reason)| self.ban(*source, *until, *reason))?;
        Ok(Written { written: bans.len(), displaced: 0 })
    }

    fn unban_all(&self, sources: &[Source]) -> Result<usize, EdgeError> {
        self.check()?;
        let mut bans = self.bans.lock().unwrap();
        Ok(sources.iter().filter(|source| bans.remove(source).is_some()).count())
    }

    fn bans(&self) -> Result<Vec<(Source, Instant, Reason)>, EdgeError> {
        Ok(self.bans.lock().unwrap().iter().map(|(s, (u, r))| (*s, *u, *r)).collect())
    }

    fn ban_networks(&self, bans: &[(Net, Instant, Reason)]) -> Result<Vec<Net>, EdgeError> {
        self.check()?;
        let mut networks = self.networks.lock().unwrap();
        let mut outside = Vec::new();
        for (net, until, reason) in bans {
            if networks.len() < NETWORKS || networks.contains_key(net) {
                networks.insert(*net, (*until, *reason));
            } else {
                outside.push(*net);
            }
        }
        Ok(outside)
    }

    fn unban_networks(&self, nets: &[Net]) -> Result<(), EdgeError> {
        self.check()?;
        let mut networks = self.networks.lock().unwrap();
        nets.iter().for_each(|net| {
            networks.remove(net);
        });
        Ok(())
    }

    fn networks(&self) -> Result<Vec<(Net, Instant, Reason)>, EdgeError> {
        Ok(self.networks.lock().unwrap().iter().map(|(net, (until, reason))| (*net, *until, *reason)).collect())
    }

    fn established_of(&self, _source: Source) -> Result<u64, EdgeError> {
        Ok(0)
    }

    fn refresh(&self, _config: &Config) -> Result<Refreshed, EdgeError> {
        let mut state = self.state.lock().unwrap();
        match *state {
            State::Works | State::Broken => Ok(Refreshed::Same),
            State::NotLoaded => Ok(Refreshed::Gone),
            State::Loaded => {
                *state = State::Works;
                Ok(Refreshed::Anew)
            }
        }
    }
}
