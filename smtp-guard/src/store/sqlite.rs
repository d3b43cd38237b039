//! The store of the guard: SQLite in the state directory, written by one thread.
//!
//! Changes go through a bounded queue. What can't be written is kept and tried again. A database that is damaged is set aside
//! under another name and a new one is begun. Where the disk is full, or the directory can't be used, mail goes on without a
//! store. The store is tried again every [`RETRY`], and hands over late what it held. Only a store that another guard or
//! another user holds is an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fs, io};

use tokio::sync::oneshot;

use super::{Change, Found, Full, State, Store};
use crate::addr::Ipv6Prefix;
use crate::offence::Digests;

mod complaint;
mod database;
mod directory;

use complaint::Complaint;
use database::Database;

/// Changes that wait for the disk.
pub const QUEUE: usize = 65_536;
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
    #[error("{path} is not a regular file: links and devices are not followed in the state directory; remove it", path = .path.display())]
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

/// The store in a directory.
#[derive(Debug)]
pub struct Sqlite {
    orders: Option<SyncSender<Order>>,
    writer: Option<JoinHandle<()>>,
    /// No order will come any more.
    closing: Arc<AtomicBool>,
    /// Changes that wait in batches.
    in_batches: Arc<AtomicUsize>,
    state: State,
    digests: Digests,
}

/// An order for the thread.
#[derive(Debug)]
enum Order {
    One(Change),
    Many(Batch),
    /// To be told when all that was handed over before it is written.
    Mark(oneshot::Sender<()>),
}

/// Changes that are written together, and that are counted as long as they wait.
#[derive(Debug)]
struct Batch {
    changes: Vec<Change>,
    waiting: Arc<AtomicUsize>,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.changes.len(), Ordering::Relaxed);
    }
}

impl Order {
    fn changes(&self) -> &[Change] {
        match self {
            Self::One(change) => std::slice::from_ref(change),
            Self::Many(batch) => &batch.changes,
            Self::Mark(_) => &[],
        }
    }
}

impl Sqlite {
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
                tracing::error!(%error, "mail goes on without a store: new bans and counts would be lost at a restart; \
                    it is tried again every {} s", RETRY.as_secs());
                state.attempted(Some(error.to_string()));
            }
        }
        let digests = Digests::new(directory::secret(directory));
        let (orders, queue) = sync_channel(QUEUE);
        let closing = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&closing);
        let writer = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || Writer::new(queue, closed, disk).run())
            .map_err(StoreError::Thread)?;
        let in_batches = Arc::default();
        Ok(Self { orders: Some(orders), writer: Some(writer), closing, in_batches, state, digests })
    }

    /// How it is, for whoever shows it.
    pub fn state(&self) -> &State {
        &self.state
    }

    fn order(&self, mut order: Order, patience: Duration) -> Result<(), Full> {
        let Some(orders) = &self.orders else { return Err(Full) };
        let ends = Instant::now() + patience;
        loop {
            order = match orders.try_send(order) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(order)) if Instant::now() < ends => order,
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return Err(Full),
            };
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Store for Sqlite {
    /// Several changes are one transaction. No more of those wait than single ones do.
    fn hand_over(&self, mut changes: Vec<Change>, patience: Duration) -> Result<(), Full> {
        if changes.len() <= 1 {
            return changes.pop().map_or(Ok(()), |change| self.order(Order::One(change), patience));
        }
        let waiting = self.in_batches.fetch_add(changes.len(), Ordering::Relaxed);
        let batch = Batch { changes, waiting: Arc::clone(&self.in_batches) };
        if waiting > 0 && waiting + batch.changes.len() > QUEUE {
            return Err(Full);
        }
        self.order(Order::Many(batch), patience)
    }

    fn written(&self) -> oneshot::Receiver<()> {
        let (sender, written) = oneshot::channel();
        // Where the queue is full it is dropped at once.
        let _ = self.order(Order::Mark(sender), Duration::ZERO);
        written
    }

    fn take_found(&self) -> Option<Found> {
        self.state.take_found()
    }

    fn digests(&self) -> Digests {
        self.digests
    }
}

impl Drop for Sqlite {
    fn drop(&mut self) {
        // The thread ends when the queue is closed and empty, or can't be written.
        self.closing.store(true, Ordering::Relaxed);
        self.orders = None;
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
            let (database, begun) = Database::open(&path, self.prefix)?;
            let found = Found { changes: database.load(), begun };
            self.state.held().found = Some(found);
            self.database = Some(database);
        }
        let missing =
            || StoreError::Directory { directory: self.directory.clone(), source: io::ErrorKind::NotFound.into() };
        self.database.as_mut().ok_or_else(missing)
    }

    /// Writes the changes of all `orders`, or none. A database that turns out to be damaged is opened again the next time.
    fn write(&mut self, orders: &[Order]) -> Result<(), StoreError> {
        let path = self.directory.join("decisions.db");
        let applied = self.open()?.apply(orders.iter().flat_map(Order::changes));
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
    queue: Receiver<Order>,
    closing: Arc<AtomicBool>,
    disk: Disk,
    pending: Vec<Order>,
    /// After a failed attempt: not before.
    retry: Option<Instant>,
    complaint: Complaint,
}

impl Writer {
    fn new(queue: Receiver<Order>, closing: Arc<AtomicBool>, disk: Disk) -> Self {
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
                let lost: usize = self.pending.iter().map(|order| order.changes().len()).sum();
                tracing::error!(%error, lost, "cannot write the store; decisions are lost at this restart");
                return;
            }
            self.tell();
        }
    }

    fn write(&mut self) {
        let written = self.disk.write(&self.pending);
        self.disk.state.attempted(written.as_ref().err().map(ToString::to_string));
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

    /// Tells whoever waits that all pending changes are written.
    fn tell(&mut self) {
        for order in self.pending.drain(..) {
            if let Order::Mark(told) = order {
                // Whoever asked may have given up.
                let _ = told.send(());
            }
        }
    }

    /// Waits for orders and takes all there are, at most [`QUEUE`] of them. `false` when there will be no more.
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
            Ok(order) => self.pending.push(order),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        self.pending.extend(self.queue.try_iter().take(QUEUE - self.pending.len()));
        true
    }
}

#[cfg(test)]
mod tests;
