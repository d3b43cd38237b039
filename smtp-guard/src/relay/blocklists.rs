//! Block lists follow their files: what sessions ask and what the kernel drops is replaced as a whole.
//!
//! A file is looked at every `reload`. It is read when it has changed and looks the same twice: a file that is written in place
//! has half of its lines for a while. A list that can't be read changes nothing, whether it is there from before or not; it is
//! tried again at every look. Everything here that takes time runs beside the async threads.

mod follower;

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use self::follower::Follower;
use super::{Shared, Stop};
use crate::blocklist::{self, Protected, State, Table};
use crate::bound::Bound;
use crate::clock::Instant;
use crate::config::Config;
use crate::edge::lists::{self, Entry};
use crate::edge::{EdgeError, KernelPlane};
use crate::events::What;
use crate::observe::metrics::Metrics;

/// How often the kernel plane is looked at: one that was loaded again has no lists.
const LOOK: Duration = Duration::from_secs(5);
/// How long to wait after the kernel could not be written.
const RETRY: Duration = Duration::from_secs(60);

/// The lists of the configuration, and what has been seen of their files. Clones share it.
#[derive(Clone, Debug)]
pub struct Blocklists(Arc<Mutex<Lists>>);

/// Held only by threads that may wait: files are read meanwhile.
#[derive(Debug)]
struct Lists {
    followers: Vec<Follower>,
    kernel: Option<InKernel>,
    /// The addresses that the lists in force were held against.
    protected: Option<Protected>,
    /// A list was taken away.
    fewer: bool,
}

impl Blocklists {
    /// No list yet; `plane`: where they are enforced beside here.
    pub fn new(plane: Option<Arc<KernelPlane>>) -> Self {
        let kernel = plane.map(|plane| InKernel { plane, written: None, begun: false, due: Instant::from_ns(0) });
        Self(Arc::new(Mutex::new(Lists { followers: Vec::new(), kernel, protected: None, fewer: false })))
    }

    /// Follows the lists of `shared`'s current configuration. Those that weren't followed before, those whose files have
    /// changed, and those that an address touches which is protected now or no longer, are read and in force when this
    /// returns, as far as they can be read.
    pub async fn apply(&self, shared: &Arc<Shared>) {
        let config = Arc::clone(shared.current().config());
        self.aside(shared, move |lists, shared| {
            lists.adopt(&config, &shared.metrics);
            lists.look(shared, crate::clock::now());
        })
        .await;
    }

    /// Follows the files until `stop`.
    pub async fn watch(self, shared: Arc<Shared>, mut stop: Stop) {
        let mut pause = LOOK;
        loop {
            tokio::select! {
                biased;
                () = stop.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let looked = self.aside(&shared, |lists, shared| {
                let now = crate::clock::now();
                lists.look(shared, now);
                lists.followers.iter().map(|follower| follower.due.since(now)).min().unwrap_or(LOOK).min(LOOK)
            });
            let Some(next) = looked.await else { return };
            pause = next;
        }
    }

    /// Does `what` beside the async threads; `None`: it could not be done, and never can be again.
    async fn aside<T: Send + 'static>(
        &self,
        shared: &Arc<Shared>,
        what: impl FnOnce(&mut Lists, &Shared) -> T + Send + 'static,
    ) -> Option<T> {
        let (lists, shared) = (Arc::clone(&self.0), Arc::clone(shared));
        let done = tokio::task::spawn_blocking(move || {
            // One that panicked has left lists that were read or weren't; each is whole.
            what(&mut lists.lock().unwrap_or_else(PoisonError::into_inner), &shared)
        });
        match done.await {
            Ok(done) => Some(done),
            // It panicked, or the runtime ends.
            Err(error) => {
                tracing::error!(%error, "block lists are no longer read");
                None
            }
        }
    }
}

impl Lists {
    /// From here on the lists are those of `config`.
    fn adopt(&mut self, config: &Config, metrics: &Metrics) {
        let before = mem::take(&mut self.followers);
        let count = before.len();
        let mut before: Vec<_> = before.into_iter().map(Some).collect();
        let mut kept = 0;
        for list in &config.blocklist {
            let mut earlier = before.iter_mut().filter(|follower| follower.as_ref().is_some_and(|old| old.is_of(list)));
            let follower = match earlier.next().and_then(Option::take) {
                Some(mut follower) => {
                    kept += 1;
                    follower.hurry();
                    follower.every(list.reload)
                }
                None => Follower::new(list.clone()),
            };
            self.followers.push(follower);
        }
        self.fewer |= kept < count;
        metrics.blocklists(&config.blocklist.iter().map(|list| list.name.as_str()).collect::<Vec<_>>());
        let protected = Protected::new(config, &blocklist::own_addresses());
        if self.protected.as_ref().is_some_and(|before| *before != protected) {
            self.followers.iter_mut().for_each(Follower::begin_again);
            if let Some(kernel) = &mut self.kernel {
                // What is exempt was cut out of what it has.
                kernel.written = None;
            }
        }
        self.protected = Some(protected);
    }

    fn look(&mut self, shared: &Shared, now: Instant) {
        let (mut tried, mut changed) = (self.fewer, mem::take(&mut self.fewer));
        // Addresses may have come to this host since.
        let mut protected: Option<Protected> = None;
        for at in 0..self.followers.len() {
            if !self.followers[at].is_to_be_read(now) {
                continue;
            }
            let protected =
                protected.get_or_insert_with(|| Protected::new(shared.current().config(), &blocklist::own_addresses()));
            let others = self.followers.iter().enumerate().filter(|(other, _)| *other != at);
            let others = others.filter_map(|(_, other)| other.list.as_ref()).map(|list| list.len()).sum();
            let follower = &mut self.followers[at];
            let before = follower.state();
            let is_new = follower.read(protected, others, &shared.metrics, now);
            changed |= is_new;
            let State { name: list, read, error, .. } = follower.state();
            // A list that can't be read is told once.
            if is_new || error != before.error {
                let (entries, refused) = read.map_or((0, 0), |read| (read.entries as u64, read.refused as u64));
                shared.events.publish(crate::clock::wall(), What::Blocklist { list, entries, refused, error });
            }
            tried = true;
        }
        if tried {
            let states: Vec<_> = self.followers.iter().map(Follower::state).collect();
            shared.blocklist_states.store(Arc::new(states));
        }
        if changed {
            let named = self.followers.iter().filter_map(Follower::named).collect();
            let table = Arc::new(Table::new(named));
            shared.blocklists.store(Arc::clone(&table));
            let prefix = shared.prefix;
            shared.sources.ban_all(Reason::Listed, |source| table.covers(prefix.net(source).into()));
        }
        if let Some(kernel) = &mut self.kernel {
            let all_read = self.followers.iter().all(|follower| follower.list.is_some());
            kernel.follow(changed, all_read, shared, now);
        }
    }
}

/// The kernel's part.
#[derive(Debug)]
struct InKernel {
    plane: Arc<KernelPlane>,
    /// The map that holds our lists as they are.
    written: Option<u32>,
    /// Whether anything was tried yet.
    begun: bool,
    due: Instant,
}

impl InKernel {
    /// Writes the lists where they have changed, or where the plane was loaded again.
    fn follow(&mut self, changed: bool, all_read: bool, shared: &Shared, now: Instant) {
        if changed {
            (self.written, self.due) = (None, now);
        }
        let Some(id) = lists::id(&self.plane) else { return };
        if self.written == Some(id) || now < self.due {
            return;
        }
        let begun = mem::replace(&mut self.begun, true);
        match fill(&self.plane, &shared.blocklists.load(), begun || all_read) {
            Ok(filled) => {
                self.written = Some(id);
                match filled {
                    Filled::Nothing => {}
                    Filled::Written(entries) if all_read => {
                        tracing::info!(entries, "block lists written to the kernel plane");
                    }
                    // What was taken off one list must not stay blocked because of another.
                    Filled::Written(entries) => tracing::warn!(
                        entries,
                        "block lists written to the kernel plane, without those that can't be read: their former entries are gone"
                    ),
                    Filled::Kept => tracing::warn!(
                        "not all block lists could be read: the kernel keeps the block lists of the last load until they can be"
                    ),
                }
            }
            Err(error) => {
                if matches!(error, EdgeError::ListsTooLarge { .. }) {
                    shared.metrics.bound_reached(Bound::KernelLists);
                }
                tracing::error!(%error, "the block lists are enforced in user space only");
                self.due = now.after(RETRY);
            }
        }
    }
}

/// The outcome of [`fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// There is nothing to be listed, and nothing was.
    Nothing,
    /// So many entries are in force.
    Written(usize),
    /// Nothing: the kernel holds lists that not all could be read of again.
    Kept,
}

/// Writes `table` to the kernel. Where it isn't `whole`, lists that are there already are better than a part of them.
pub fn fill(plane: &KernelPlane, table: &Table, whole: bool) -> Result<Filled, EdgeError> {
    let holds = lists::head(plane)?.any;
    if !holds && table.is_empty() {
        return Ok(Filled::Nothing);
    }
    if holds && !whole {
        return Ok(Filled::Kept);
    }
    lists::replace(plane, table.nets().map(|(list, net)| Entry { net, list }))?;
    Ok(Filled::Written(table.len()))
}
