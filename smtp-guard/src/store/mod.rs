//! Decisions and counters that survive a restart: SQLite in the state directory, written by one thread.
//!
//! Nobody waits for the disk: changes go through a bounded queue. What can't be written is kept and tried again; what
//! doesn't fit the queue is told to the caller, who comes back with it. A database that is damaged is set aside under another
//! name and a new one is begun. Where the disk is full, or the directory can't be used, mail goes on without a store: it is
//! tried again every [`RETRY`], and what it held is handed over late. Only what another guard or another user holds is an
//! error.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

use smtp_guard_ebpf::reason::Reason;
use tokio::sync::oneshot;

use crate::addr::Ipv6Prefix;
use crate::clock::WallTime;
use crate::decision::{Ban, Origin};
use crate::key;
use crate::offence::Digests;
use crate::rates::Key;

mod complaint;
mod database;
mod directory;

use complaint::Complaint;
use database::Database;

/// Changes that wait for the disk.
const QUEUE: usize = 65_536;
/// After a failed attempt, when the next one is made.
const RETRY: Duration = Duration::from_secs(5);

/// Why the store can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot use the state directory {directory}: {source}; set [state] directory to one that this user may write", directory = .directory.display())]
    Directory { directory: PathBuf, source: io::Error },
    #[error("another program has the state directory {directory}: {holder}; stop it, or set another [state] directory", directory = .directory.display())]
    InUse { directory: PathBuf, holder: String },
    #[error("{path} belongs to user {owner}, and this is user {user}: run as that user, or set another [state] directory", path = .path.display())]
    Foreign { path: PathBuf, owner: u32, user: u32 },
    #[error("{path} is no regular file: links and devices are not followed in the state directory; remove it", path = .path.display())]
    NotRegular { path: PathBuf },
    #[error("cannot open {path}: {source}", path = .path.display())]
    Database { path: PathBuf, source: rusqlite::Error },
    #[error("{path} is damaged: {what}", path = .path.display())]
    Damaged { path: PathBuf, what: String },
    #[error("{path} was written by a newer version of smtp-guard (schema {found}): update, or move the file away", path = .path.display())]
    Newer { path: PathBuf, found: i64 },
    #[error("cannot start the thread that writes the store: {0}")]
    Thread(io::Error),
}

impl StoreError {
    /// Whether the guard must not run with this state directory: somebody else has it.
    fn is_anothers(&self) -> bool {
        matches!(self, Self::InUse { .. } | Self::Foreign { .. } | Self::NotRegular { .. })
    }
}

/// The store. Dropping it writes what is queued.
#[derive(Debug)]
pub struct Store {
    changes: Option<SyncSender<Change>>,
    writer: Option<JoinHandle<()>>,
    /// No change will come any more.
    closing: Arc<AtomicBool>,
    /// Bans that wait in batches.
    in_batches: Arc<AtomicUsize>,
    state: State,
    digests: Digests,
}

/// How the store is: what it holds for its owner, and what is wrong with it. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct State(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    found: Option<Found>,
    trouble: Option<String>,
}

/// What a database held when it was opened.
#[derive(Debug, Default)]
pub struct Found {
    /// Also those that are over but not forgotten.
    pub bans: Vec<Ban>,
    /// The latest first.
    pub counters: Vec<Counter>,
    /// It is a new one: what is in force has to be saved again.
    pub begun: bool,
}

impl State {
    /// Why nothing is written now; `None`: all is well.
    pub fn trouble(&self) -> Option<String> {
        self.held().trouble.clone()
    }

    // A panic elsewhere can't leave it half changed.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum Change {
    Save(Box<Ban>),
    /// All of them or none.
    SaveAll(Batch),
    Remove(key::Key),
    /// `state` of `None`: nothing is counted any more.
    Count {
        kind: &'static str,
        key: Key,
        state: Option<String>,
        at: WallTime,
    },
    /// Forget bans that ended before this, and counters that were written before that.
    Purge {
        decisions: WallTime,
        counters: WallTime,
    },
    /// To be told when all that was handed over before it is written.
    Mark(oneshot::Sender<()>),
}

/// Bans that are written together, and that are counted as long as they wait.
#[derive(Debug)]
struct Batch {
    bans: Vec<Ban>,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bans.len(), Ordering::Relaxed);
    }
}

/// Kinds of counters that are users'; all others are sources'.
pub const OF_USERS: [&str; 2] = ["user", "hold"];
/// The kind that is never too old: it is taken back by whoever made it.
pub const HOLD: &str = OF_USERS[1];

/// What was counted of a source or a user, in words of whoever counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub kind: String,
    pub key: Key,
    pub state: String,
}

/// The queue is full, or its thread is gone: the caller keeps the change and tries again.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Store {
    /// Opens the store in `directory`, which is created where it is missing. What can't be opened now is said and tried again;
    /// an error is only what must not be shared.
    pub fn open(directory: &Path, prefix: Ipv6Prefix) -> Result<Self, StoreError> {
        let state = State::default();
        let mut disk =
            Disk { directory: directory.to_owned(), prefix, lock: None, database: None, state: state.clone() };
        match disk.open() {
            Ok(_) => {}
            Err(error) if error.is_anothers() => return Err(error),
            Err(error) => {
                tracing::error!(%error, "mail goes on without a store: what is banned and counted now is lost at a restart; \
                    it is tried again every {} s", RETRY.as_secs());
                state.held().trouble = Some(error.to_string());
            }
        }
        let digests = Digests::new(directory::secret(directory));
        let (changes, queue) = sync_channel(QUEUE);
        let closing = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&closing);
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || Writer::new(queue, closed, disk).run())
            .map_err(StoreError::Thread)?;
        let in_batches = Arc::default();
        Ok(Self { changes: Some(changes), writer: Some(writer), closing, in_batches, state, digests })
    }

    /// What a database held that was opened since this was last asked: at the start, and where it could be opened late.
    pub fn take_found(&self) -> Option<Found> {
        self.state.held().found.take()
    }

    /// How addresses are digested by this installation: what it counts stays comparable.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// How it is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Keeps what is counted of `key`, in place of an earlier state of the same kind; `None` forgets it. Waits for
    /// room in the queue at most `patience`.
    pub fn count(
        &self,
        kind: &'static str,
        key: Key,
        state: Option<String>,
        at: WallTime,
        patience: Duration,
    ) -> Result<(), Full> {
        let Some(changes) = &self.changes else { return Err(Full) };
        let ends = std::time::Instant::now() + patience;
        let mut change = Change::Count { kind, key, state, at };
        loop {
            change = match changes.try_send(change) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(change)) if std::time::Instant::now() < ends => change,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(Full),
            };
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Keeps `ban`, in place of an earlier one of the same key.
    pub fn save(&self, ban: &Ban) -> Result<(), Full> {
        self.change(Change::Save(Box::new(ban.clone())))
    }

    /// Keeps all of `bans` in one transaction. No more of them wait than changes do.
    pub fn save_all(&self, bans: Vec<Ban>) -> Result<(), Full> {
        let waiting = self.in_batches.fetch_add(bans.len(), Ordering::Relaxed);
        let batch = Batch { bans, waiting: Arc::clone(&self.in_batches) };
        if waiting > 0 && waiting + batch.bans.len() > QUEUE { Err(Full) } else { self.change(Change::SaveAll(batch)) }
    }

    /// Forgets the ban of `key`.
    pub fn remove(&self, key: key::Key) -> Result<(), Full> {
        self.change(Change::Remove(key))
    }

    /// Forgets all bans that ended before `decisions`, and counters that were written before `counters`.
    pub fn purge(&self, decisions: WallTime, counters: WallTime) -> Result<(), Full> {
        self.change(Change::Purge { decisions, counters })
    }

    /// Resolves as soon as all that was handed over before is written; with an error when there is no room, or no hope.
    pub fn written(&self) -> oneshot::Receiver<()> {
        let (sender, written) = oneshot::channel();
        // Where the queue is full it is dropped at once.
        let _ = self.change(Change::Mark(sender));
        written
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
        // The thread ends when the queue is closed and empty, or can't be written.
        self.closing.store(true, Ordering::Relaxed);
        self.changes = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes the store has failed");
        }
    }
}

/// The state directory and the database in it, as far as they could be had.
struct Disk {
    directory: PathBuf,
    prefix: Ipv6Prefix,
    /// Held for as long as the store is open: only one guard may use a directory.
    lock: Option<fs::File>,
    database: Option<Database>,
    state: State,
}

impl Disk {
    /// The database; what it holds is handed over when it is opened.
    fn open(&mut self) -> Result<&mut Database, StoreError> {
        if self.database.is_none() {
            directory::prepare(&self.directory)?;
            if self.lock.is_none() {
                self.lock = Some(directory::lock(&self.directory)?);
            }
            let path = self.directory.join("decisions.db");
            directory::own_file(&path)?;
            let (mut database, begun) = Database::open(&path, self.prefix)?;
            let found = Found { bans: database.load(), counters: database.load_counters(), begun };
            self.state.held().found = Some(found);
            self.database = Some(database);
        }
        let missing =
            || StoreError::Directory { directory: self.directory.clone(), source: io::ErrorKind::NotFound.into() };
        self.database.as_mut().ok_or_else(missing)
    }

    /// Writes all `changes`, or none. A database that turns out to be damaged is opened anew the next time.
    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let path = self.directory.join("decisions.db");
        let applied = self.open()?.apply(changes);
        applied.map_err(|source| {
            if database::is_damaged(&source) {
                self.database = None;
            }
            StoreError::Database { path, source }
        })
    }
}

/// The thread that writes: one transaction for all that waits.
struct Writer {
    queue: Receiver<Change>,
    closing: Arc<AtomicBool>,
    disk: Disk,
    pending: Vec<Change>,
    /// After a failed attempt: not before.
    retry: Option<Instant>,
    complaint: Complaint,
}

impl Writer {
    fn new(queue: Receiver<Change>, closing: Arc<AtomicBool>, disk: Disk) -> Self {
        let retry = disk.database.is_none().then(|| Instant::now() + RETRY);
        Self { queue, closing, disk, pending: Vec::new(), retry, complaint: Complaint::default() }
    }

    fn run(mut self) {
        while self.gather() {
            if self.retry.is_none_or(|retry| Instant::now() >= retry) {
                self.write();
            }
        }
        // What is left in the queue when it is closed; a disk that fails now has had its chance.
        loop {
            self.pending.extend(self.queue.try_iter().take(QUEUE.saturating_sub(self.pending.len())));
            if self.pending.is_empty() {
                return;
            }
            if let Err(error) = self.disk.write(&self.pending) {
                let lost = self.pending.len();
                tracing::error!(%error, lost, "cannot write the store; decisions are lost at this restart");
                return;
            }
            self.tell();
        }
    }

    fn write(&mut self) {
        let written = self.disk.write(&self.pending);
        self.disk.state.held().trouble = written.as_ref().err().map(ToString::to_string);
        match written {
            Ok(()) => {
                self.tell();
                self.retry = None;
                if self.complaint.end() {
                    tracing::info!("the store is written again");
                }
            }
            Err(error) => {
                let now = Instant::now();
                self.retry = Some(now + RETRY);
                if let Some(times) = self.complaint.again(now) {
                    tracing::error!(%error, waiting = self.pending.len(), times, "cannot write the store; trying again");
                }
            }
        }
    }

    /// What was pending is written.
    fn tell(&mut self) {
        for change in self.pending.drain(..) {
            if let Change::Mark(told) = change {
                // Whoever asked may have given up.
                let _ = told.send(());
            }
        }
    }

    /// Waits for changes and takes all there are, at most [`QUEUE`] of them. `false` when there will be no more.
    fn gather(&mut self) -> bool {
        if self.closing.load(Ordering::Relaxed) {
            return false;
        }
        // While it must wait it looks up now and then: a full backlog on a failing disk must not hide the end.
        let wait =
            self.retry.map(|retry| retry.saturating_duration_since(Instant::now()).min(Duration::from_millis(200)));
        if self.pending.len() >= QUEUE {
            std::thread::sleep(wait.unwrap_or_default());
            return true;
        }
        let first = match wait {
            Some(wait) => self.queue.recv_timeout(wait),
            None => self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(change) => self.pending.push(change),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        self.pending.extend(self.queue.try_iter().take(QUEUE - self.pending.len()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Source;

    fn ban(n: u32) -> Ban {
        Ban {
            key: Source::v4(n).into(),
            reason: Reason::Harvest,
            origin: Origin::Ledger,
            made: WallTime::from_ms(1000),
            until: WallTime::from_ms(i64::from(n)),
            repeat: 3,
            text: "it's \"quoted\"".to_owned(),
            evidence: vec!["unknown: a@example.org".to_owned()],
        }
    }

    fn key(text: &str) -> key::Key {
        key::Key::of(text.parse().unwrap(), Ipv6Prefix::default()).unwrap()
    }

    fn open(directory: &Path) -> Store {
        Store::open(directory, Ipv6Prefix::default()).unwrap()
    }

    #[test]
    fn bans_survive_and_removed_ones_do_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let v6 = Ban { key: key("2001:db8::1"), ..ban(9) };
        let networks = ["198.51.100.0/24", "2001:db8:8000::/33"].map(|net| Ban { key: key(net), ..ban(10) });
        store.save_all(networks.to_vec()).unwrap();
        store.save_all(vec![Ban { key: key("203.0.113.0/24"), ..ban(11) }]).unwrap();
        store.remove(key("203.0.113.0/24")).unwrap();
        for ban in [&ban(5), &ban(6), &ban(7), &v6] {
            store.save(ban).unwrap();
        }
        store.save(&Ban { repeat: 4, ..ban(6) }).unwrap();
        store.remove(Source::v4(7).into()).unwrap();
        for n in [1, 2] {
            store
                .count(
                    "messages",
                    Key::Source(Source::v4(n)),
                    Some(n.to_string()),
                    WallTime::from_ms(i64::from(n) * 10),
                    Duration::ZERO,
                )
                .unwrap();
        }
        store
            .count("ledger", Key::Source(Source::v4(2)), Some("x".to_owned()), WallTime::from_ms(30), Duration::ZERO)
            .unwrap();
        store.count("ledger", Key::Source(Source::v4(2)), None, WallTime::from_ms(30), Duration::ZERO).unwrap();
        store.purge(WallTime::from_ms(6), WallTime::from_ms(20)).unwrap();
        drop(store);
        let mut found = found(directory.path());
        found.bans.sort_by_key(|ban| (ban.until, ban.key));
        let [net_v4, net_v6] = networks;
        assert_eq!(found.bans, [Ban { repeat: 4, ..ban(6) }, v6, net_v4, net_v6]);
        let kept = Counter { kind: "messages".to_owned(), key: Key::Source(Source::v4(2)), state: "2".to_owned() };
        assert_eq!((found.counters, found.begun), (vec![kept], false));
    }

    #[test]
    fn what_is_told_to_be_written_is_there_whatever_becomes_of_the_writer() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        store.save_all((1..=1000).map(ban).collect()).unwrap();
        store.written().blocking_recv().unwrap();
        let there = rusqlite::Connection::open(directory.path().join("decisions.db")).unwrap();
        let rows: i64 = there.query_row("SELECT count(*) FROM decisions", [], |row| row.get(0)).unwrap();
        assert_eq!((rows, store.in_batches.load(Ordering::Relaxed)), (1000, 0));
    }

    #[test]
    fn an_older_version_does_not_take_a_network_for_a_source() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.db");
        drop(open(directory.path()));
        let old = rusqlite::Connection::open(&path).unwrap();
        assert_eq!(old.pragma_query_value::<i64, _>(None, "user_version", |row| row.get(0)).unwrap(), 3);
        // Of the second version: its sources of IPv6 are what they were, whatever their length.
        old.execute_batch("PRAGMA user_version = 2").unwrap();
        for source in ["192.0.2.1", "2001:db8::/64", "2001:db8:1::/48", "2001:db8:2::/60"] {
            let insert = "INSERT INTO decisions VALUES (?1, 'harvest', 'ledger', 0, 1, 0, '', '[]')";
            old.execute(insert, [source]).unwrap();
        }
        drop(old);
        let mut keys: Vec<_> = found(directory.path()).bans.into_iter().map(|ban| ban.key).collect();
        keys.sort_unstable();
        let expected = ["192.0.2.1", "2001:db8::/64", "2001:db8:1::/48", "2001:db8:2::/60"].map(key);
        assert_eq!(keys, {
            let mut all = expected.to_vec();
            all.sort_unstable();
            all
        });
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
        store
            .count("ledger", Key::Source(Source::v4(1)), Some("x".to_owned()), WallTime::from_ms(1), Duration::ZERO)
            .unwrap();
        drop(store);
        assert_eq!(found(directory.path()).counters.len(), 1);
    }

    #[test]
    fn a_second_guard_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let _store = open(directory.path());
        let error = Store::open(directory.path(), Ipv6Prefix::default()).unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
    }

    /// A store of 2,000 bans that `damage` befell: how many of them are found, and whether it was set aside.
    fn check_damaged(damage: impl FnOnce(&Path), bans: usize, aside: bool) {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        (1..=2000).for_each(|n| store.save(&ban(n)).unwrap());
        drop(store);
        damage(&directory.path().join("decisions.db"));
        let store = open(directory.path());
        let kept = store.take_found().unwrap();
        assert_eq!((kept.bans.len(), kept.begun), (bans, aside));
        store.save(&ban(5000)).unwrap();
        store
            .count("ledger", Key::Source(Source::v4(1)), Some("x".to_owned()), WallTime::from_ms(1), Duration::ZERO)
            .unwrap();
        drop(store);
        let again = found(directory.path());
        assert_eq!((again.bans.len(), again.counters.len()), (bans + 1, 1), "it is written again");
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.iter().any(|name| name.to_string_lossy().contains("broken")), aside, "{names:?}");
    }

    /// Zeros in the place of a page.
    fn zero(path: &Path, offset: usize) {
        let mut bytes = fs::read(path).unwrap();
        bytes[offset..offset + 4096].fill(0);
        fs::write(path, bytes).unwrap();
    }

    fn sql(path: &Path, text: &str) {
        rusqlite::Connection::open(path).unwrap().execute_batch(text).unwrap();
    }

    #[test]
    fn d4_a_damaged_database_is_set_aside_and_one_bad_row_is_one_bad_row() {
        check_damaged(|path| fs::write(path, "not a database, by far not one at all".repeat(100)).unwrap(), 0, true);
        check_damaged(|path| zero(path, 4096), 0, true);
        check_damaged(|path| zero(path, 8192), 0, true);
        check_damaged(|path| sql(path, "DROP TABLE counters"), 2000, false);
        check_damaged(|path| sql(path, "DROP TABLE decisions"), 0, false);
        check_damaged(|path| sql(path, "ALTER TABLE decisions RENAME COLUMN repeat TO times"), 0, true);
        check_damaged(|path| sql(path, "UPDATE decisions SET repeat = -1 WHERE source = '0.0.0.7'"), 1999, false);
        check_damaged(|path| sql(path, "UPDATE decisions SET repeat = 1 << 40 WHERE source = '0.0.0.7'"), 1999, false);
        check_damaged(
            |path| sql(path, "UPDATE decisions SET reason = 'x', evidence = '{' WHERE source = '0.0.0.7'"),
            1999,
            false,
        );
        check_damaged(|path| sql(path, "UPDATE decisions SET source = 'nobody' WHERE source = '0.0.0.7'"), 1999, false);
    }

    #[test]
    fn d3_mail_goes_on_without_a_store_and_what_it_held_comes_late() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.db");
        let store = open(directory.path());
        store.save(&ban(5)).unwrap();
        drop(store);
        let newer = rusqlite::Connection::open(&path).unwrap();
        newer.pragma_update(None, "user_version", 99).unwrap();
        let store = open(directory.path());
        assert!(store.state().trouble().unwrap().contains("newer version"));
        assert!(store.take_found().is_none());
        store.save(&ban(6)).unwrap();
        newer.pragma_update(None, "user_version", database::SCHEMA).unwrap();
        let found = wait_for(|| store.take_found());
        assert_eq!(found.bans, [ban(5)]);
        wait_for(|| store.state().trouble().is_none().then_some(()));
        drop((store, newer));
        assert_eq!(self::found(directory.path()).bans.len(), 2);
    }

    #[test]
    fn d9_the_end_is_seen_although_a_full_backlog_can_not_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let (changes, queue) = sync_channel(QUEUE);
        let closing = Arc::new(AtomicBool::new(false));
        let state = State::default();
        // A directory that can't be made.
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let disk = Disk { directory: file.join("x"), prefix: Ipv6Prefix::default(), lock: None, database: None, state };
        let mut writer = Writer::new(queue, Arc::clone(&closing), disk);
        writer.pending = (0..QUEUE).map(|_| Change::Remove(Source::v4(1).into())).collect();
        assert!(writer.gather());
        closing.store(true, Ordering::Relaxed);
        drop(changes);
        assert!(!writer.gather());
        writer.run();
    }

    /// What the store in `directory` holds.
    fn found(directory: &Path) -> Found {
        open(directory).take_found().unwrap()
    }

    fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let ends = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < ends, "in time");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[test]
    fn twenty_thousand_bans_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        for n in 1..=20_000 {
            while store.save(&ban(n)).is_err() {
                std::thread::yield_now();
            }
        }
        drop(store);
        assert_eq!(found(directory.path()).bans.len(), 20_000);
    }
}
