//! Receive windows: how much the kernel takes from a client while we don't read.
//!
//! Nothing is read from a client while the backend doesn't take what was read before. What arrives meanwhile lies in the
//! kernel, and left to itself that takes hundreds of KiB for each session. A byte that was invited can't be sent back, so
//! windows start small and grow by what the backend has taken.
//!
//! | the backend took | the kernel may hold |
//! |---|---|
//! | nothing, or there is no transaction | [`START`] |
//! | 354 | [`OPEN`], within the session's part of [`EARLY`] |
//! | [`PROOF`], and the client is far | what the kernel finds right for the path, within a part of [`LATE`] that grows as long as as much is left for others |
//!
//! A client that is near loses little by a small window: 24 KiB in less than [`FAR_AFTER`] are 5 MB/s. It costs CPU time, though: each
//! stop wakes somebody. So there is room for 20 windows. What is sent to the backend is bounded by the same reasoning
//! ([`super::socket`]), and the right to more is given out here as well.
//!
//! A source may have as many sessions as there is room for windows and queues, and let each of them stand still. So newcomers leave a
//! quarter of [`EARLY`] and of [`QUEUES`] to others. What is left for clients that are far grows with the data of each, and needs no
//! such rule: whoever is given some leaves as much.
//!
//! The window stays as long as the connection to the backend does, and no longer than that may rest: the next message of a session begins
//! with it.
//!
//! # Limits
//! The kernel invites 64 KiB at the handshake, before we can say anything. A server that doesn't read takes less than
//! [`PROOF`] all the same, by its kernel's buffers and ours. A window that grew and is closed stays open for what was
//! invited already. Before Linux 5.14 windows grow to 64 KiB and not beyond.
//!
//! Room is not shared out by source or network. Known senders whose sessions stand still can hold all of [`EARLY`] and [`QUEUES`], and
//! newcomers all but the quarter. Others then send by small windows: a message of 1 MiB took 115 ms in place of 48 (debug build, loopback).
//!
//! # Rejected
//! To open a window with the first data, and not with the 354. Short messages would cost two system calls less. But long ones
//! took more of the processor (1 MiB a fifth more). A sender that meets a small window at first goes on in small steps.
//!
//! A small buffer at the listener: the window scale of a connection is chosen by it, and the window could never grow. The
//! same with TCP_WINDOW_CLAMP, which binds no memory besides: a thousand segments of a byte fill a window of 1,000 bytes.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socket2::{SockRef, Socket};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::socket;
use crate::bound::Bound;

/// Bytes of kernel memory for what a client has sent and we haven't read.
const START: usize = 24 * 1024;
/// A listener's window, so that the kernel invites ten segments, the first flight of a sender (RFC 6928).
const LISTEN: usize = 32 * 1024;
/// Message data that the backend took, until a window or a send queue may have of [`LATE`].
const PROOF: u64 = 192 * 1024;
/// The same of one message, until the send queue to a backend that is near may have of [`QUEUES`]: more than most messages have. One
/// that doesn't read at all may get so far; all of them together have no more than there is.
const QUEUE_PROOF: u64 = 8 * 1024;
/// An open window's size at first: as every socket has without us.
const OPEN: usize = 128 * 1024;
/// Kernel memory for all windows together whose backend has taken little yet; a session has [`PART`] of it.
const EARLY: usize = 2560 * 1024;
const PART: usize = OPEN;
/// Kernel memory for all windows together whose client is far and whose backend has taken much, and for the long send queues
/// of backends that are far.
const LATE: usize = 64 * 1024 * 1024;
/// Kernel memory for longer send queues to backends that are near: all together.
const QUEUES: usize = 3 * 1024 * 1024;
/// The part of [`EARLY`] and [`QUEUES`] that newcomers leave to others: one in four.
const RESERVE: usize = 4;
/// The shortest time that a segment and its acknowledgement take, for a peer to be far.
const FAR_AFTER: Duration = Duration::from_millis(5);
/// Looks at the kernel's size while a window is read once: each costs a system call.
const LOOKS: usize = 4;
/// A permit is for so many bytes.
const UNIT: usize = 1024;

/// Kernel memory that all sessions share for windows that are open.
#[derive(Debug)]
pub(super) struct Windows {
    early: Arc<Semaphore>,
    late: Arc<Semaphore>,
    queues: Arc<Semaphore>,
    far_after: Duration,
}

/// The receive window of one session.
#[derive(Debug)]
pub(super) struct Window {
    windows: Arc<Windows>,
    /// The client is no newcomer, or no longer.
    known: bool,
    /// Bytes that the backend took since the window was closed, and those of the message among them.
    taken: u64,
    message: u64,
    /// Whether the client is far; `None`: it wasn't looked at yet.
    far: Option<bool>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    /// Whether it counts in [`Windows::late`], or else in [`Windows::early`].
    late: bool,
    /// Bytes of kernel memory, and the right to them.
    room: usize,
    permit: OwnedSemaphorePermit,
    /// The kernel may not let it grow.
    held: bool,
    /// Bytes that were read since the kernel's size was looked at.
    unlooked: usize,
}

/// A window that is small can grow later (Linux 5.14): [`listens`] has found that out.
static LATER: AtomicBool = AtomicBool::new(false);

/// Lets the kernel invite little from clients that connect to `listener`.
pub(super) fn listens(listener: &Socket) -> io::Result<()> {
    if let_grow(listener).is_ok() {
        LATER.store(true, Ordering::Relaxed);
        set(SockRef::from(listener), LISTEN)?;
        // As long as the size is one that was set, the window scale would be chosen by it.
        let_grow(listener)?;
    }
    Ok(())
}

/// Lets the kernel hold little for a client that has just connected, whatever it sends.
pub(super) fn start(stream: &TcpStream) {
    if LATER.load(Ordering::Relaxed) {
        // Fails where the connection is gone.
        let _ = set(SockRef::from(stream), START);
    }
}

/// The kernel doubles what it is told, and refuses to change the size by itself from then on.
fn set(socket: SockRef<'_>, bytes: usize) -> io::Result<()> {
    socket.set_recv_buffer_size(bytes / 2)
}

/// Lets the kernel change the size by itself again.
fn let_grow(socket: &impl AsFd) -> io::Result<()> {
    crate::edge::let_receive_buffer_grow(socket.as_fd())
}

impl Windows {
    pub(super) fn new(metrics: &crate::observe::metrics::Metrics) -> Arc<Self> {
        metrics.bounds().limit(Bound::ReceiveWindows, LATE as u64);
        metrics.bounds().limit(Bound::SendQueues, QUEUES as u64);
        let room = |bytes: usize| Arc::new(Semaphore::new(bytes / UNIT));
        Arc::new(Self { early: room(EARLY), late: room(LATE), queues: room(QUEUES), far_after: FAR_AFTER })
    }

    /// Whether the peer of `stream` is too far away for what suffices on a short way.
    fn is_far(&self, stream: &TcpStream) -> bool {
        crate::edge::shortest_round_trip(stream.as_fd()).is_ok_and(|time| time >= self.far_after)
    }

    /// Lets the send queue to a backend that has taken `taken` bytes of a message grow; `known`: the client is no newcomer. `far`: whether
    /// the backend is, once that was looked at. Returns the right to that, after which its pieces may be long, or the bound that
    /// was reached; nothing while it hasn't taken enough.
    pub(super) fn let_queue_grow(
        &self,
        stream: &TcpStream,
        taken: u64,
        known: bool,
        far: &mut Option<bool>,
    ) -> Option<Result<OwnedSemaphorePermit, Bound>> {
        if taken < QUEUE_PROOF {
            return None;
        }
        let (permit, bytes) = match *far.get_or_insert_with(|| self.is_far(stream)) {
            true if taken < PROOF => return None,
            true => {
                let permit = self.take_late(socket::FAR + socket::LONG_PIECE);
                (permit.ok_or(Bound::ReceiveWindows), socket::FAR)
            }
            false => {
                let held = socket::MIDDLE + socket::LONG_PIECE;
                let permit = Self::take_of(&self.queues, held, held + reserve(known, QUEUES));
                (permit.ok_or(Bound::SendQueues), socket::MIDDLE)
            }
        };
        if permit.is_ok() {
            // Where it fails, the queue stays as short as it is.
            let _ = SockRef::from(stream).set_send_buffer_size(bytes / 2);
        }
        Some(permit)
    }

    /// The right to `bytes` of [`EARLY`].
    fn take_early(&self, bytes: usize, known: bool) -> Option<OwnedSemaphorePermit> {
        Self::take_of(&self.early, bytes, bytes + reserve(known, EARLY))
    }

    /// The right to `bytes` of [`LATE`], of which as much must stay for others.
    fn take_late(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        Self::take_of(&self.late, bytes, 2 * bytes)
    }

    /// The right to `bytes` of `room`, of which `free` bytes must be left before.
    fn take_of(room: &Arc<Semaphore>, bytes: usize, free: usize) -> Option<OwnedSemaphorePermit> {
        let (units, needed) = (bytes / UNIT, free / UNIT);
        if room.available_permits() < needed {
            return None;
        }
        Arc::clone(room).try_acquire_many_owned(u32::try_from(units).ok()?).ok()
    }
}

/// Bytes of a room of `all` that a client leaves to others.
fn reserve(known: bool, all: usize) -> usize {
    if known { 0 } else { all / RESERVE }
}

impl Window {
    /// The window of a client that is `known`, or a newcomer.
    pub(super) fn new(windows: Arc<Windows>, known: bool) -> Self {
        Self { windows, known, taken: 0, message: 0, far: None, open: None }
    }

    /// Whether the client is no newcomer.
    pub(super) fn is_known(&self) -> bool {
        self.known
    }

    /// The client is no newcomer any more.
    pub(super) fn trust(&mut self) {
        self.known = true;
    }

    /// The client may send message data. `read`: bytes of it that were read since the last call; all of them were passed on.
    /// Returns the bound that keeps the window from growing, once at each step.
    pub(super) fn follow(&mut self, stream: &TcpStream, read: u64) -> Option<Bound> {
        let first = self.taken == 0 && read == 0;
        let before = self.taken;
        self.taken = before.saturating_add(read);
        self.message = self.message.saturating_add(read);
        let proved = self.taken >= PROOF;
        // Looked at once: it costs a system call.
        let late = proved && *self.far.get_or_insert_with(|| self.windows.is_far(stream));
        let Some(open) = &mut self.open else {
            let permit = if late { self.windows.take_late(PART) } else { self.windows.take_early(PART, self.known) };
            let Some(permit) = permit else {
                return (first || (proved && before < PROOF)).then_some(Bound::ReceiveWindows);
            };
            Open::begin(stream, late);
            // One that may not grow isn't looked at.
            self.open = Some(Open { late, room: PART, permit, held: !late, unlooked: 0 });
            return None;
        };
        if !open.late {
            if late && let Some(permit) = self.windows.take_late(open.room) {
                (open.late, open.permit) = (true, permit);
            } else {
                return None;
            }
        }
        open.unlooked = open.unlooked.saturating_add(usize::try_from(read).unwrap_or(usize::MAX));
        if open.unlooked < open.room / LOOKS {
            return None;
        }
        open.unlooked = 0;
        open.follow(stream, &self.windows)
    }

    /// Bytes of the message that the backend has taken.
    pub(super) fn message(&self) -> u64 {
        self.message
    }

    /// No message is under way.
    pub(super) fn rest(&mut self) {
        self.message = 0;
    }

    /// The session has no connection to the backend, or none in use.
    pub(super) fn close(&mut self, stream: Option<&TcpStream>) {
        self.taken = 0;
        if self.open.take().is_some()
            && let Some(stream) = stream
        {
            start(stream);
        }
    }
}

impl Open {
    /// Opens the window to [`OPEN`]. `late`: the kernel may choose the size from there on.
    fn begin(stream: &TcpStream, late: bool) {
        // Where one of them fails, the window stays as large as it is.
        let _ = set(SockRef::from(stream), OPEN);
        let _ = crate::edge::let_window_grow(stream.as_fd(), OPEN);
        if late {
            let _ = let_grow(stream);
        }
    }

    /// Looks how far the kernel has gone, and makes room for more or bids it stop.
    fn follow(&mut self, stream: &TcpStream, windows: &Windows) -> Option<Bound> {
        let size = SockRef::from(stream).recv_buffer_size().ok()?;
        if size < self.room - self.room / 4 && !self.held {
            return None;
        }
        if let Some(more) = windows.take_late(self.room) {
            self.room *= 2;
            self.permit.merge(more);
            if std::mem::take(&mut self.held) {
                // Where it fails, the window stays as large as it is.
                let _ = let_grow(stream);
            }
            return None;
        }
        // At its room, and not beyond: between two looks it could go far.
        if size < self.room || self.held {
            return None;
        }
        self.held = true;
        let _ = set(SockRef::from(stream), self.room);
        Some(Bound::ReceiveWindows)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use socket2::{Domain, Type};

    use super::*;
    use crate::observe::metrics::Metrics;

    /// Whoever is there counts as far.
    fn far() -> Arc<Windows> {
        let mut windows = Arc::into_inner(Windows::new(&Metrics::new())).unwrap();
        windows.far_after = Duration::ZERO;
        Arc::new(windows)
    }

    /// A client's end, and ours as the guard has it.
    async fn connected() -> (TcpStream, TcpStream) {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.set_nonblocking(true).unwrap();
        listens(&listener).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(1).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener.into()).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        start(&ours);
        (client, ours)
    }

    /// Bytes that wait to be read once `client` can't send any more.
    async fn queued(client: &TcpStream, ours: &TcpStream) -> usize {
        while tokio::time::timeout(Duration::from_millis(500), client.writable()).await.is_ok() {
            let _ = client.try_write(&[b'x'; 4096]);
        }
        let mut room = vec![MaybeUninit::uninit(); 4 * 1024 * 1024];
        SockRef::from(ours).peek(&mut room).unwrap()
    }

    /// How much lies in the kernel for a client that sends without end, once the backend has taken `taken` bytes and no
    /// more. `room`: of each kind, as much as there is, or nothing.
    async fn check(name: &str, data: bool, taken: u64, room: [bool; 2], most: usize) {
        let windows = far();
        let all = [&windows.early, &windows.late].map(|room| u32::try_from(room.available_permits()).unwrap());
        let rooms = [Arc::clone(&windows.early), Arc::clone(&windows.late)];
        let mut held = Vec::new();
        for ((semaphore, all), free) in rooms.into_iter().zip(all).zip(room) {
            if !free {
                held.push(semaphore.try_acquire_many_owned(all).unwrap());
            }
        }
        let (client, ours) = connected().await;
        let mut window = Window::new(Arc::clone(&windows), true);
        if data {
            window.follow(&ours, 0);
            window.follow(&ours, taken);
        }
        let queued = queued(&client, &ours).await;
        assert!(queued > 0 && queued <= most, "{name}: {queued} of {most}");
        drop(held);
        window.close(Some(&ours));
        let left = [&windows.early, &windows.late].map(|room| u32::try_from(room.available_permits()).unwrap());
        assert_eq!(left, all, "{name}: room comes back");
    }

    #[tokio::test]
    async fn c4_little_lies_in_the_kernel_for_a_client_whose_backend_takes_nothing() {
        check("commands", false, 0, [true, true], START).await;
        check("354", true, 0, [true, true], OPEN).await;
        check("354, and no room", true, 0, [false, true], START).await;
        check("a little taken", true, 4096, [true, true], PART).await;
        check("a little taken, and no room", true, 4096, [false, true], START).await;
        check("much taken", true, PROOF, [true, true], 4 * PART).await;
        check("much taken, and no room", true, PROOF, [false, false], START).await;
        check("much taken, and room for those with little", true, PROOF, [true, false], PART).await;
    }

    #[tokio::test]
    async fn c4_all_windows_together_have_a_bound() {
        let windows = far();
        let mut open = Vec::new();
        for n in 0..40 {
            let (client, ours) = connected().await;
            // Newcomers came before.
            let mut window = Window::new(Arc::clone(&windows), n >= 20);
            let told = window.follow(&ours, 0).is_some();
            assert_eq!(told, window.open.is_none());
            open.push((client, ours, window));
        }
        let count = |open: &[(TcpStream, TcpStream, Window)]| open.iter().filter(|(.., w)| w.open.is_some()).count();
        assert_eq!((count(&open[..20]), count(&open)), (EARLY / PART * 3 / 4, EARLY / PART));
        for (_, ours, window) in &mut open {
            window.follow(ours, PROOF);
        }
        // Those that have shown that they are served leave room for others.
        assert_eq!(count(&open), 40);
        assert_eq!(windows.early.available_permits(), EARLY / UNIT);
    }

    /// `clients`, known or newcomers, each with a backend that is near or far: for how many the queue may be long, and which bound the
    /// others reach.
    async fn check_queues(far_after: Duration, clients: &[(bool, usize)], bound: Bound, expected: &[usize]) {
        let mut windows = Arc::into_inner(Windows::new(&Metrics::new())).unwrap();
        windows.far_after = far_after;
        let (_client, backend) = connected().await;
        let mut long = Vec::new();
        for ((known, clients), expected) in clients.iter().zip(expected) {
            let before = long.len();
            for _ in 0..*clients {
                match windows.let_queue_grow(&backend, PROOF, *known, &mut None).unwrap() {
                    Ok(permit) => long.push(permit),
                    Err(reached) => assert_eq!(reached, bound),
                }
            }
            assert_eq!(long.len() - before, *expected, "{clients} clients, known: {known}");
        }
    }

    #[tokio::test]
    async fn c4_newcomers_leave_room_for_long_queues_to_others() {
        let near = Duration::MAX;
        check_queues(near, &[(false, 30), (true, 30), (false, 1)], Bound::SendQueues, &[15, 5, 0]).await;
        check_queues(near, &[(true, 30), (false, 1)], Bound::SendQueues, &[20, 0]).await;
        check_queues(Duration::ZERO, &[(false, 300), (true, 1)], Bound::ReceiveWindows, &[226, 0]).await;
    }

    #[tokio::test]
    async fn c4_a_window_grows_as_long_as_the_backend_takes_all() {
        let (client, ours) = connected().await;
        let sending = tokio::spawn(async move {
            for _ in 0..2048 {
                client.writable().await.unwrap();
                let _ = client.try_write(&[b'x'; 64 * 1024]);
            }
        });
        let mut window = Window::new(far(), false);
        let mut room = vec![0; 16 * 1024];
        let mut read = 0;
        loop {
            window.follow(&ours, read);
            ours.readable().await.unwrap();
            match ours.try_read(&mut room) {
                Ok(0) => break,
                Ok(more) => read = more as u64,
                Err(_) => read = 0,
            }
        }
        sending.await.unwrap();
        let open = window.open.unwrap();
        assert!(open.late);
        let size = SockRef::from(&ours).recv_buffer_size().unwrap();
        assert!(size >= OPEN, "{size}");
    }
}
