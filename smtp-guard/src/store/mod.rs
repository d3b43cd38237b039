//! Decisions and counters that survive a restart: SQLite in the state directory, written by one thread.
//!
//! Nobody waits for the disk: changes go through a bounded queue. What can't be written is kept and tried again; what
//! doesn't fit the queue is told to the caller, who comes back with it. A database that can't be read is set aside under
//! another name and a new one is begun: mail must go on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use smtp_guard_ebpf::reason::Reason;

use crate::addr::{Ipv6Prefix, Source};
use crate::clock::WallTime;
use crate::feedback::decision::{Ban, Origin};

mod database;

use database::Database;

/// Changes that wait for the disk.
const QUEUE: usize = 65_536;
/// After a failed write, when it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use the state directory {directory}: {source}; set [state] directory to one that this user may write", directory = .directory.display())]
    Directory { directory: PathBuf, source: io::Error },
    #[error("another smtp-guard runs with the state directory {directory} (process {pid}): stop it, or set another [state] directory", directory = .directory.display())]
    InUse { directory: PathBuf, pid: String },
    #[error("cannot open {path}: {source}", path = .path.display())]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error("{path} was written by a newer version of smtp-guard (schema {found}): update, or move the file away", path = .path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error("cannot start the thread that writes the store: {0}")]
    Thread(io::Error),
}

/// The store. Dropping it writes what is queued.
#[derive(Debug)]
pub struct Store {
    changes: Option<SyncSender<Change>>,
    writer: Option<JoinHandle<()>>,
    loaded: Vec<Ban>,
    counters: Vec<Counter>,
    /// Held for as long as the store is open: only one guard may use a directory.
    _lock: fs::File,
}

#[derive(Debug)]
enum Change {
    Save(Box<Ban>),
    Remove(Source),
    /// `state` of `None`: nothing is counted any more.
    Count {
        kind: &'static str,
        source: Source,
        state: Option<String>,
        at: WallTime,
    },
    /// Forget bans that ended before this, and counters that were written before that.
    Purge {
        decisions: WallTime,
        counters: WallTime,
    },
}

/// What was counted of a source, in words of whoever counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub kind: String,
    pub source: Source,
    pub state: String,
}

/// The queue is full, or its thread is gone: the caller keeps the change and tries again.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Store {
    /// Opens the store in `directory`, which is created where it is missing.
    pub fn open(directory: &Path, prefix: Ipv6Prefix) -> Result<Self, StoreError> {
        let lock = lock(directory)?;
        let mut database = Database::open(&directory.join("decisions.db"), prefix)?;
        let loaded = database.load();
        let counters = database.load_counters();
        let (changes, queue) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || write(&queue, &mut database))
            .map_err(StoreError::Thread)?;
        Ok(Self { changes: Some(changes), writer: Some(writer), loaded, counters, _lock: lock })
    }

    /// The bans that were in the store when it was opened, also those that are over but not forgotten. Once.
    pub fn take_loaded(&mut self) -> Vec<Ban> {
        std::mem::take(&mut self.loaded)
    }

    /// The counters that were in the store when it was opened, the latest first. Once.
    pub fn take_counters(&mut self) -> Vec<Counter> {
        std::mem::take(&mut self.counters)
    }

    /// Keeps what is counted of `source`, in place of an earlier state of the same kind; `None` forgets it. Waits for
    /// room in the queue at most `patience`.
    pub fn count(
        &self,
        kind: &'static str,
        source: Source,
        state: Option<String>,
        at: WallTime,
        patience: Duration,
    ) -> Result<(), Full> {
        let Some(changes) = &self.changes else { return Err(Full) };
        let ends = std::time::Instant::now() + patience;
        let mut change = Change::Count { kind, source, state, at };
        loop {
            change = match changes.try_send(change) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(change)) if std::time::Instant::now() < ends => change,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(Full),
            };
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Keeps `ban`, in place of an earlier one of the same source.
    pub fn save(&self, ban: &Ban) -> Result<(), Full> {
        self.change(Change::Save(Box::new(ban.clone())))
    }

    /// Forgets the ban of `source`.
    pub fn remove(&self, source: Source) -> Result<(), Full> {
        self.change(Change::Remove(source))
    }

    /// Forgets all bans that ended before `decisions`, and counters that were written before `counters`.
    pub fn purge(&self, decisions: WallTime, counters: WallTime) -> Result<(), Full> {
        self.change(Change::Purge { decisions, counters })
    }

    fn change(&self, change: Change) -> Result<(), Full> {
        let Some(changes) = &self.changes else { return Err(Full) };
        changes.try_send(change).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Full,
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The thread ends when the queue is closed and empty.
        self.changes = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes the store has failed");
        }
    }
}

/// The writer: one transaction for all that waits.
fn write(queue: &Receiver<Change>, database: &mut Database) {
    let mut pending: Vec<Change> = Vec::new();
    let mut open = true;
    while open || !pending.is_empty() {
        if open {
            open = gather(queue, &mut pending);
        }
        match database.apply(&pending) {
            Ok(()) => pending.clear(),
            Err(error) if open => {
                tracing::error!(%error, waiting = pending.len(), "cannot write the store; trying again")
            }
            Err(error) => {
                tracing::error!(%error, lost = pending.len(), "cannot write the store; decisions are lost at this restart");
                return;
            }
        }
    }
}

/// Waits for changes and takes all there are, at most [`QUEUE`] of them. `false` when there will be no more.
fn gather(queue: &Receiver<Change>, pending: &mut Vec<Change>) -> bool {
    if pending.len() >= QUEUE {
        std::thread::sleep(RETRY);
        return true;
    }
    let first = if pending.is_empty() {
        queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
    } else {
        queue.recv_timeout(RETRY)
    };
    match first {
        Ok(change) => pending.push(change),
        Err(RecvTimeoutError::Timeout) => return true,
        Err(RecvTimeoutError::Disconnected) => return false,
    }
    while pending.len() < QUEUE
        && let Ok(change) = queue.try_recv()
    {
        pending.push(change);
    }
    true
}

fn lock(directory: &Path) -> Result<fs::File, StoreError> {
    let failed = |source| StoreError::Directory { directory: directory.to_owned(), source };
    fs::create_dir_all(directory).map_err(failed)?;
    let path = directory.join("lock");
    let file = fs::File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let pid = fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
        return Err(StoreError::InUse { directory: directory.to_owned(), pid });
    }
    fs::write(&path, format!("{}\n", std::process::id())).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban(n: u32) -> Ban {
        Ban {
            source: Source::v4(n),
            reason: Reason::Harvest,
            origin: Origin::Ledger,
            made: WallTime::from_ms(1000),
            until: WallTime::from_ms(i64::from(n)),
            repeat: 3,
            text: "it's \"quoted\"".to_owned(),
            evidence: vec!["unknown: a@example.org".to_owned()],
        }
    }

    fn open(directory: &Path) -> Store {
        Store::open(directory, Ipv6Prefix::default()).unwrap()
    }

    #[test]
    fn bans_survive_and_removed_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let v6 = Ban { source: Ipv6Prefix::default().source("2001:db8::1".parse().unwrap()), ..ban(9) };
        for ban in [&ban(5), &ban(6), &ban(7), &v6] {
            store.save(ban).unwrap();
        }
        store.save(&Ban { repeat: 4, ..ban(6) }).unwrap();
        store.remove(Source::v4(7)).unwrap();
        for n in [1, 2] {
            store
                .count(
                    "messages",
                    Source::v4(n),
                    Some(n.to_string()),
                    WallTime::from_ms(i64::from(n) * 10),
                    Duration::ZERO,
                )
                .unwrap();
        }
        store.count("ledger", Source::v4(2), Some("x".to_owned()), WallTime::from_ms(30), Duration::ZERO).unwrap();
        store.count("ledger", Source::v4(2), None, WallTime::from_ms(30), Duration::ZERO).unwrap();
        store.purge(WallTime::from_ms(6), WallTime::from_ms(20)).unwrap();
        drop(store);
        let mut store = open(directory.path());
        let mut loaded = store.take_loaded();
        loaded.sort_by_key(|ban| ban.until);
        assert_eq!(loaded, [Ban { repeat: 4, ..ban(6) }, v6]);
        let kept = Counter { kind: "messages".to_owned(), source: Source::v4(2), state: "2".to_owned() };
        assert_eq!(store.take_counters(), [kept]);
    }

    #[test]
    fn a_store_of_the_first_version_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.db");
        drop(open(directory.path()));
        let old = rusqlite::Connection::open(&path).unwrap();
        old.execute_batch("DROP TABLE counters; PRAGMA user_version = 1;").unwrap();
        drop(old);
        let store = open(directory.path());
        store.count("ledger", Source::v4(1), Some("x".to_owned()), WallTime::from_ms(1), Duration::ZERO).unwrap();
        drop(store);
        assert_eq!(open(directory.path()).take_counters().len(), 1);
    }

    #[test]
    fn a_second_guard_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _store = open(directory.path());
        let error = Store::open(directory.path(), Ipv6Prefix::default()).unwrap_err();
        assert!(error.to_string().contains(&format!("(process {})", std::process::id())), "{error}");
    }

    #[test]
    fn a_broken_database_is_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("decisions.db"), "not a database, by far not one at all".repeat(100)).unwrap();
        let store = open(directory.path());
        store.save(&ban(5)).unwrap();
        drop(store);
        assert_eq!(open(directory.path()).take_loaded(), [ban(5)]);
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().any(|name| name.to_string_lossy().contains("broken")), "{names:?}");
    }

    #[test]
    fn twenty_thousand_bans_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        for n in 0..20_000 {
            while store.save(&ban(n)).is_err() {
                std::thread::yield_now();
            }
        }
        drop(store);
        assert_eq!(open(directory.path()).take_loaded().len(), 20_000);
    }
}
