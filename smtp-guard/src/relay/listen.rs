//! Listening sockets: accept, turn away clients that find no room, start a session for the rest.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use smtp_guard_ebpf::reason::Reason;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::balancer::HeaderError;
use super::drive::{Guest, drive};
use super::events::Subject;
use super::inherited::Inherited;
use super::sources::Seat;
use super::watchers::Watchers;
use super::{Generation, Shared, Stop, Stopper, admission, balancer, events, stop, window};
use crate::addr::ClientAddr;
use crate::bound;
use crate::config::{Listen, Role};
use crate::gate::Standing;
use crate::session::{Details, Event, replies};
use crate::wire::proxy::Ends;

/// Connections that the kernel may hold before we accept them.
const BACKLOG: i32 = 4096;
/// Bytes of replies that the kernel holds for a client that doesn't read them; left to itself it holds megabytes for each.
const SEND_BUFFER: usize = 64 * 1024;
/// How long a client that was turned away may take to close.
const LINGER: Duration = Duration::from_secs(1);
/// How long to wait when the process is out of descriptors: sessions that end make room.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// The addresses of the configuration, taken, while nobody can connect to them yet.
///
/// Between [`Self::bind`] and [`Self::listen`] the kernel plane and the block lists are put in place: a connection that the
/// kernel takes before would be in although a ceiling, a ban or a list is against it. (At a socket that a service manager
/// listens on, clients wait until then; whoever is banned or listed by then isn't let in.)
#[derive(Debug)]
pub struct Bound {
    sockets: Vec<Taken<Socket>>,
    inherited: Arc<Inherited>,
}

/// The listening sockets, before any client is served.
#[derive(Debug)]
pub struct Listeners {
    sockets: Vec<Taken<TcpListener>>,
    inherited: Arc<Inherited>,
}

/// A socket for one of the addresses.
#[derive(Debug)]
struct Taken<S> {
    socket: S,
    listen: Listen,
    /// Whether the service manager listens on when we don't.
    inherited: bool,
}

/// A socket that can't be bound: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {error}{advice}")]
pub struct BindError {
    address: SocketAddr,
    error: io::Error,
    advice: String,
}

impl Bound {
    /// Binds all addresses of the configuration, or none.
    pub fn bind(sockets: &[Listen]) -> Result<Self, BindError> {
        Self::bind_or_inherit(sockets, Inherited::default())
    }

    /// Binds the sockets, or takes over those that are among `inherited`.
    pub fn bind_or_inherit(sockets: &[Listen], inherited: Inherited) -> Result<Self, BindError> {
        Self::bind_where(sockets, &Arc::new(inherited), |_| false)
    }

    /// Binds the sockets; `beside`: where another socket of this process listens on the same port still, and was told to share it.
    fn bind_where(
        sockets: &[Listen],
        inherited: &Arc<Inherited>,
        beside: impl Fn(SocketAddr) -> bool,
    ) -> Result<Self, BindError> {
        let take = |listen: &Listen| {
            let (address, handed) = (listen.address, inherited.on(listen.address));
            let (is_inherited, socket) = match handed {
                Some(socket) => (true, socket),
                None => (false, bind(address, beside(address))),
            };
            match socket.and_then(|socket| prepare(&socket).map(|()| socket)) {
                Ok(socket) => Ok(Taken { socket, listen: listen.clone(), inherited: is_inherited }),
                Err(error) => Err(BindError { address, advice: advice(address, &error, inherited), error }),
            }
        };
        let sockets = sockets.iter().map(take).collect::<Result<_, _>>()?;
        Ok(Self { sockets, inherited: Arc::clone(inherited) })
    }

    /// The addresses that were bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|taken| taken.socket.local_addr().ok()?.as_socket()).collect()
    }

    /// Lets clients connect, to all addresses or none. To be called inside the tokio runtime.
    pub fn listen(self) -> Result<Listeners, BindError> {
        let Self { sockets, inherited } = self;
        let listen = |Taken { socket, listen, inherited: is_inherited }: Taken<Socket>| {
            let listening = socket.listen(BACKLOG).and_then(|()| TcpListener::from_std(socket.into()));
            match listening {
                Ok(socket) => Ok(Taken { socket, listen, inherited: is_inherited }),
                Err(error) => {
                    let address = listen.address;
                    Err(BindError { address, advice: advice(address, &error, &inherited), error })
                }
            }
        };
        let sockets = sockets.into_iter().map(listen).collect::<Result<_, _>>()?;
        Ok(Listeners { sockets, inherited })
    }
}

impl Listeners {
    /// Begins to accept, until `stop`.
    pub fn open(self, shared: &Arc<Shared>, stop: &Stop) -> Doors {
        let inherited = Arc::clone(&self.inherited);
        let (shared, stop) = (Arc::clone(shared), stop.clone());
        let mut doors = Doors { shared, stop, open: Vec::new(), unserved: Vec::new(), inherited };
        doors.add(self);
        doors.watch_unserved();
        doors
    }

    /// Serves the current generation alone until `stop`, then waits at most `drain` for what is under way. Returns the number
    /// of sessions cut off.
    pub async fn serve(self, shared: Arc<Shared>, stop: Stop, drain: Duration) -> usize {
        let mut watchers = Watchers::default();
        watchers.follow(&shared, &stop);
        self.open(&shared, &stop).serve(|| drain).await
    }
}

/// The listening sockets in service.
#[derive(Debug)]
pub struct Doors {
    shared: Arc<Shared>,
    stop: Stop,
    open: Vec<Door>,
    /// Those that were handed over, and that the configuration doesn't serve.
    unserved: Vec<Unserved>,
    inherited: Arc<Inherited>,
}

/// A socket that was handed over and isn't served: it can't be closed, so whoever connects is turned away at once.
#[derive(Debug)]
struct Unserved {
    address: SocketAddr,
    /// Ends it when it is dropped.
    _close: Stopper,
}

/// One of them.
#[derive(Debug)]
struct Door {
    /// As it was configured.
    configured: SocketAddr,
    /// As it was bound.
    address: SocketAddr,
    /// Its task has it, and closes it when it ends.
    socket: Weak<TcpListener>,
    close: Stopper,
    task: JoinHandle<()>,
    /// Connections that came in here.
    accepted: Arc<AtomicU64>,
}

impl Door {
    /// Whether nobody else can listen on `address` while this does.
    fn is_in_the_way_of(&self, address: SocketAddr) -> bool {
        let (mine, its) = (self.address, address);
        let same = mine.ip() == its.ip() || mine.ip().is_unspecified() || its.ip().is_unspecified();
        mine.is_ipv4() == its.is_ipv4() && mine.port() == its.port() && same
    }

    /// Whether other sockets of this user may listen on the same port.
    fn share(&self, with_others: bool) {
        if let Some(socket) = self.socket.upgrade() {
            // An error shows when the other one is bound.
            let _ = SockRef::from(&*socket).set_reuse_port(with_others);
        }
    }
}

impl Doors {
    /// Binds `sockets`, all or none, also beside doors that are in their way and will be closed: `0.0.0.0:25` in place of
    /// `127.0.0.1:25`. [`Self::settle`] has to follow, once those are closed, or nothing comes of it.
    pub fn bind(&self, sockets: &[Listen]) -> Result<Bound, BindError> {
        for door in &self.open {
            if sockets.iter().any(|listen| door.is_in_the_way_of(listen.address)) {
                door.share(true);
            }
        }
        let beside = |address| self.open.iter().any(|door| door.is_in_the_way_of(address));
        Bound::bind_where(sockets, &self.inherited, beside).inspect_err(|_| self.settle())
    }

    /// From here on no other socket of this user may listen on the same ports.
    pub fn settle(&self) {
        for door in &self.open {
            door.share(false);
        }
    }

    /// Serves `listeners` as well.
    pub fn add(&mut self, listeners: Listeners) {
        let taken = |address| listeners.sockets.iter().any(|taken| taken.listen.address == address);
        self.unserved.retain(|unserved| !taken(unserved.address));
        for Taken { socket, listen, inherited } in listeners.sockets {
            let (close, closing) = stop();
            // An error means that the socket is no use, as accept will say.
            let address = socket.local_addr().unwrap_or(listen.address);
            let configured = listen.address;
            let accepted = Arc::<AtomicU64>::default();
            let (shared, stop, counter) = (Arc::clone(&self.shared), self.stop.clone(), Arc::clone(&accepted));
            let entrance = Entrance { shared, stop, listen: Arc::new(listen), accepted: counter, inherited };
            let listener = Arc::new(socket);
            let socket = Arc::downgrade(&listener);
            let task = tokio::spawn(entrance.accept(listener, closing));
            self.open.push(Door { configured, address, socket, close, task, accepted });
        }
    }

    /// Closes those that `goes` says of the address that they were configured with. Whoever has connected is let in; sessions
    /// go on.
    pub async fn close(&mut self, goes: impl Fn(SocketAddr) -> bool) {
        let (gone, open): (Vec<_>, Vec<_>) = self.open.drain(..).partition(|door| goes(door.configured));
        self.open = open;
        for door in gone {
            door.close.stop();
            // An error means that it has ended by a panic.
            let _ = door.task.await;
        }
        self.watch_unserved();
    }

    /// Turns away who comes to a socket that was handed over and has no door.
    fn watch_unserved(&mut self) {
        let watched: Vec<_> = self.configured().chain(self.unserved.iter().map(|unserved| unserved.address)).collect();
        for address in self.inherited.addresses().filter(|address| !watched.contains(address)) {
            let listener = self.inherited.on(address).unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
            let listener = listener.and_then(|socket| {
                prepare(&socket)?;
                TcpListener::from_std(socket.into())
            });
            match listener {
                Ok(listener) => {
                    let (close, closing) = stop();
                    tokio::spawn(turn_all_away(listener, Arc::clone(&self.shared), self.stop.clone(), closing));
                    self.unserved.push(Unserved { address, _close: close });
                }
                Err(error) => {
                    tracing::warn!(%address, %error, "clients of a socket that isn't served can't be turned away")
                }
            }
        }
    }

    /// Warnings about sockets that the service manager listens on, and that nobody serves.
    pub fn warnings(&self) -> Vec<String> {
        let unserved = |address: &SocketAddr| !self.configured().any(|configured| configured == *address);
        let warning = |address| {
            format!(
                "the service manager listens on {address}, and no [[listen]] has that address: clients there hear 421; \
                 add one and reload, or take ListenStream={address} out of smtp-guard.socket (`systemctl edit --full`)"
            )
        };
        self.inherited.addresses().filter(unserved).map(warning).collect()
    }

    /// The addresses as they were bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|door| door.address).collect()
    }

    /// The addresses as they were bound, and what counts the connections that come in there.
    pub fn accepted(&self) -> Vec<(SocketAddr, Arc<AtomicU64>)> {
        self.open.iter().map(|door| (door.address, Arc::clone(&door.accepted))).collect()
    }

    /// The addresses as they were configured.
    pub fn configured(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.open.iter().map(|door| door.configured)
    }

    /// Serves until the guard stops, then waits at most `drain` for what is under way. Returns the number of sessions cut off.
    pub async fn serve(mut self, drain: impl FnOnce() -> Duration) -> usize {
        self.stop.requested().await;
        for door in &mut self.open {
            let _ = (&mut door.task).await;
        }
        drained(&self.shared, drain()).await
    }
}

/// Waits at most `drain` until no session is left. Returns how many are.
pub async fn drained(shared: &Shared, drain: Duration) -> usize {
    // Sessions are tasks of their own and hold a seat each.
    let empty = async {
        while shared.connections() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = timeout(drain, empty).await;
    shared.connections() as usize
}

fn bind(address: SocketAddr, beside: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        // `[::]:25` and `0.0.0.0:25` stand side by side, each for its own family.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(beside)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sets what is accepted inherits.
fn prepare(socket: &Socket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    // A reply must not wait for more to be sent; failing to set it costs time, nothing else.
    let _ = socket.set_tcp_nodelay(true);
    window::listens(socket)
}

/// The next step where `address` can't be had for `error`, as the end of a sentence.
fn advice(address: SocketAddr, error: &io::Error, inherited: &Inherited) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse if inherited.covers(address) => format!(
            "; the socket [::]:{} of the service manager takes IPv4 as well: set BindIPv6Only=ipv6-only in \
             smtp-guard.socket, and ListenStream={address}",
            address.port()
        ),
        io::ErrorKind::AddrInUse => {
            "; another program holds it (`ss -ltnp` shows which): stop that, or change [[listen]]".to_owned()
        }
        io::ErrorKind::PermissionDenied => format!(
            "; systemd has to listen on ports below 1024: add ListenStream={address} (`systemctl edit smtp-guard.socket`, below \
             [Socket]) and `systemctl restart smtp-guard.socket smtp-guard.service`; without systemd they need root or \
             CAP_NET_BIND_SERVICE"
        ),
        io::ErrorKind::AddrNotAvailable => "; no interface has that address (`ip address` shows them)".to_owned(),
        _ => String::new(),
    }
}

/// Where clients of one listening socket come in.
struct Entrance {
    shared: Arc<Shared>,
    stop: Stop,
    /// As it was configured last.
    listen: Arc<Listen>,
    accepted: Arc<AtomicU64>,
    /// The next process accepts whoever has connected when this one stops.
    inherited: bool,
}

impl Entrance {
    /// Accepts until the guard stops, or until `closing`.
    async fn accept(mut self, listener: Arc<TcpListener>, mut closing: Stop) {
        // Given up where descriptors run out all the same, so that one client at a time hears of it.
        let mut spare = spare();
        let mut stop = self.stop.clone();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.requested() => {
                    if self.inherited {
                        return;
                    }
                    break;
                }
                () = closing.requested() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    spare = spare.or_else(self::spare);
                    self.welcome(stream, peer, spare.is_some());
                }
                // The client was gone before we came to it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    self.shared.metrics.bound_reached(bound::Bound::Accept);
                    tracing::debug!(%error, "cannot accept a connection; trying again");
                    if spare.take().is_none() {
                        tokio::time::sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        }
        // Whom the kernel has connected already would be reset with the socket. (Where the guard stops they hear 421.)
        while let Ok((socket, peer)) = SockRef::from(&*listener).accept() {
            if socket.set_nonblocking(true).is_ok()
                && let (Ok(stream), Some(peer)) = (TcpStream::from_std(socket.into()), peer.as_socket())
            {
                self.welcome(stream, peer, true);
            }
        }
    }

    /// Lets `stream` in by the generation that is the current one now. `room`: there are descriptors left.
    fn welcome(&mut self, stream: TcpStream, peer: SocketAddr, room: bool) {
        let shared = &self.shared;
        shared.opened();
        self.accepted.fetch_add(1, Ordering::Relaxed);
        window::start(&stream);
        let generation = shared.current();
        // One that is about to be closed is what it was.
        if let Some(listen) = generation.listen(self.listen.address).filter(|listen| **listen != *self.listen) {
            self.listen = Arc::new(listen.clone());
        }
        let listen = &self.listen;
        // An error means that the client is gone already; the address is for the backend only.
        let destination = stream.local_addr().unwrap_or(listen.address);
        let ends = Ends { source: peer, destination };
        if !room {
            return turn_away(stream, ends, listen.role, Reason::TotalConnections, shared);
        }
        if listen.balancers.is_empty() {
            admit(stream, ends, listen, shared, generation, &self.stop);
        } else {
            behind_balancer(stream, ends, listen, shared, generation, &self.stop);
        }
    }
}

/// Says 421 to all that come to `listener` until `closing`: then others serve whoever waits there, or the next process does.
async fn turn_all_away(listener: TcpListener, shared: Arc<Shared>, mut stop: Stop, mut closing: Stop) {
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.requested() => return,
            () = closing.requested() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, source)) => {
                shared.opened();
                // An error means that the client is gone already.
                let destination = stream.local_addr().unwrap_or(source);
                turn_away(stream, Ends { source, destination }, Role::Mx, Reason::NoListener, &shared);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(_) => {
                shared.metrics.bound_reached(bound::Bound::Accept);
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

/// A descriptor for one more connection, if there is any left.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Lets in only balancers that are trusted, and finds out who stands behind them.
fn behind_balancer(
    mut stream: TcpStream,
    itself: Ends,
    listen: &Arc<Listen>,
    shared: &Arc<Shared>,
    generation: Arc<Generation>,
    stop: &Stop,
) {
    let peer = ClientAddr::new(itself.source);
    if !listen.balancers.contains(peer.ip()) {
        return refuse(&stream, itself, "not one of the balancers", shared);
    }
    let Some(room) = shared.headers.take(generation.plan.closing) else {
        shared.metrics.bound_reached(bound::Bound::ProxyHeaders);
        return refuse(&stream, itself, "too many connections without a header", shared);
    };
    let (listen, shared, stop) = (Arc::clone(listen), Arc::clone(shared), stop.clone());
    tokio::spawn(async move {
        match balancer::header(&mut stream, itself).await {
            Ok(ends) => admit(stream, ends, &listen, &shared, generation, &stop),
            Err(HeaderError::Silent) => {
                tracing::debug!(client = %peer.ip(), "a balancer looked whether the port is open");
                shared.metrics.balancer_check();
                shared.closed();
            }
            Err(error) => refuse(&stream, itself, &error.to_string(), &shared),
        }
        drop(room);
    });
}

/// Resets a connection on a port for balancers: whoever it is speaks no SMTP yet.
fn refuse(stream: &TcpStream, ends: Ends, why: &str, shared: &Shared) {
    let id = shared.next_id();
    let subject = Subject::at_the_door(&id, ClientAddr::new(ends.source), ends.destination);
    events::observe(shared, &subject, Event::Refused { reason: Reason::ProxyHeader, details: Details::note(why) });
    shared.closed();
    // An error here only means that the end is less abrupt.
    let _ = stream.set_zero_linger();
}

/// Starts a session, or says why not.
fn admit(
    stream: TcpStream,
    ends: Ends,
    listen: &Listen,
    shared: &Arc<Shared>,
    generation: Arc<Generation>,
    stop: &Stop,
) {
    let (addr, role, now) = (ClientAddr::new(ends.source), listen.role, crate::clock::now());
    let arrival = admission::arrival(shared, &generation, addr, [listen], now);
    if arrival.standing == Standing::Exempt {
        shared.metrics.exempt_connection();
    }
    let admitted = admission::admit(shared, &generation, &arrival, now);
    match admitted.as_ref().map_or_else(|reason| Some(*reason), Seat::displaced) {
        Some(Reason::TotalConnections) => shared.metrics.bound_reached(bound::Bound::TotalConnections),
        Some(Reason::NetworkConnections) => shared.metrics.bound_reached(bound::Bound::NetworkConnections),
        _ => {}
    }
    let seat = match admitted {
        Ok(seat) => seat,
        Err(reason) => return turn_away(stream, ends, role, reason, shared),
    };
    let guest = Guest { stream, ends, role, seat, generation: generation.keep() };
    let (shared, stop) = (Arc::clone(shared), stop.clone());
    tokio::spawn(async move {
        drive(guest, Arc::clone(&shared), stop).await;
        shared.closed();
    });
}

/// Says 421 and closes. A client that doesn't take the hint is cut off after [`LINGER`], so that its slot is free again
/// in both planes: a socket that only we have closed would live on in the kernel for a minute.
fn turn_away(mut stream: TcpStream, ends: Ends, role: Role, reason: Reason, shared: &Arc<Shared>) {
    let id = shared.next_id();
    let subject = Subject::at_the_door(&id, ClientAddr::new(ends.source), ends.destination);
    events::observe(shared, &subject, Event::Ended { reason });
    shared.closed();
    // An error here only means that an earlier end is less gentle.
    let _ = stream.set_zero_linger();
    if role == Role::Submissions {
        // It expects TLS: words in clear text would tell it nothing.
        return;
    }
    let mut bytes = BytesMut::new();
    let mut reply = admission::reply(reason);
    replies::sign(&mut reply, &shared.current.load().config().replies.contact, &id);
    reply.encode(&mut bytes);
    // Nothing was sent yet, so the kernel takes it at once; where it doesn't there is nobody to be told.
    let _ = SockRef::from(&stream).send(&bytes);
    let Some(seat) = shared.turned_away.take(shared.current.load().plan.closing) else {
        shared.metrics.bound_reached(bound::Bound::TurnedAway);
        return;
    };
    tokio::spawn(async move {
        let farewell = async {
            stream.shutdown().await?;
            // What it says is of no interest, only that it closes; at most one line is waited for.
            stream.read(&mut [0; 512]).await
        };
        let _ = timeout(LINGER, farewell).await;
        drop((stream, seat));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::NetSet;

    #[tokio::test]
    async fn what_is_set_for_a_listener_holds_for_its_clients() {
        let bound = bound();
        let address = bound.addresses()[0];
        let listeners = bound.listen().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let (server, _) = listeners.sockets[0].socket.accept().await.unwrap();
        let held = socket2::SockRef::from(&server).send_buffer_size().unwrap();
        // The kernel takes twice as much, for its own records.
        assert!(held <= 2 * SEND_BUFFER, "{held}");
        assert!(server.nodelay().unwrap());
    }

    fn bound() -> Bound {
        let address = "127.0.0.1:0".parse().unwrap();
        Bound::bind(&[Listen { address, role: Role::Mx, balancers: NetSet::default() }]).unwrap()
    }

    #[tokio::test]
    async fn f5_nobody_is_connected_before_the_guard_listens() {
        let bound = bound();
        let address = bound.addresses()[0];
        let refused = TcpStream::connect(address).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _listeners = bound.listen().unwrap();
        assert!(TcpStream::connect(address).await.is_ok());
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_found_before_anything_else_is_begun() {
        let bound = bound();
        let address = bound.addresses()[0];
        let _listeners = bound.listen().unwrap();
        let error = Bound::bind(&[Listen { address, role: Role::Mx, balancers: NetSet::default() }]).unwrap_err();
        assert!(error.to_string().contains("another program holds it"), "{error}");
    }
}
