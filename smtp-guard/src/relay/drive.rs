//! The driver of one session: reads, steps, performs, waits. All decisions are the session's.
//!
//! # Bounds of one session
//! - From the client: what was read and not yet used, at most a piece ([`super::socket`]) and a line.
//! - Towards the backend: at most a chunk to write, and what one chunk read makes.
//! - Towards the client: one reply and [`WRITE_CHUNK`].
//!
//! Nothing is read while there is something that can't be passed on.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use smtp_guard_ebpf::reason::Reason;
use tokio::net::TcpStream;
use tokio::time::{Instant as TokioInstant, Sleep};

use super::backend::Backend;
use super::events::{Subject, Sum};
use super::farewell::{self, FAREWELL};
use super::generation::Kept;
use super::inquiry::{Inquiry, Naming};
use super::socket::Socket;
use super::sources::{Seat, Wake};
use super::stream::{Stream, in_time};
use super::users::{self, Login};
use super::window::Window;
use super::{Generation, Shared, Stop, events, handshakes, tls};
use crate::addr::ClientAddr;
use crate::bound::Bound;
use crate::clock::Instant;
use crate::config::{Identity, Role};
use crate::offence::{Digest, Report};
use crate::policy::Client;
use crate::policy::checks::Found;
use crate::rates::Tally;
use crate::session::{Doing, Outcome, Shown};
use crate::session::{Event, Input, Intake, Message, Opening, Output, Request, Secured, Session, Upstream, Wants};
use crate::wire::line::LineDecoder;
use crate::wire::proxy::Ends;

/// Bytes read from the client at once while it sends commands.
const COMMAND_READ: usize = 2 * 1024;
/// The part of a write that message data leaves free: bytes that were kept back, and dots that are put before
/// dots, should not become a write of their own.
const BODY_SLACK: usize = 512;
/// How long the client may take to read what is written to it at once.
const WRITE_WAIT: Duration = Duration::from_secs(300);
/// How long a client whose place was needed may take to read why.
const HURRY: Duration = Duration::from_secs(1);
/// The wait before a TLS handshake when its source has begun too many in a minute.
const HANDSHAKE_PACE: Duration = Duration::from_secs(1);
/// Replies gathered before they are written, although more commands wait.
const WRITE_CHUNK: usize = 16 * 1024;

/// A client that was let in.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) stream: TcpStream,
    /// The client and the listener; behind a balancer as that saw them.
    pub(super) ends: Ends,
    pub(super) role: Role,
    pub(super) seat: Seat,
    /// The one that it was let in by.
    pub(super) generation: Kept,
}

/// Runs a session to its end.
pub(super) async fn drive(guest: Guest, shared: Arc<Shared>, mut stop: Stop) {
    let Guest { stream, ends, role, mut seat, generation } = guest;
    let addr = ClientAddr::new(ends.source);
    let (id, began) = (shared.next_id(), crate::clock::now());
    tracing::debug!(session = id, client = %addr.ip(), port = addr.port(), listener = %ends.destination, "session began");
    let socket = Socket::client(stream);
    let (stream, secured) = match role {
        Role::Mx | Role::Submission => (Stream::clear(socket), None),
        Role::Submissions => {
            seat.shows(Shown { doing: Doing::Handshake, ..Shown::default() });
            let (lines, unread) = (LineDecoder::new(), BytesMut::new());
            // In memory of its own here and below: it would be the largest part of each session.
            match Box::pin(handshake(&shared, &generation, &mut seat, addr, socket, lines, &unread)).await {
                Ok((stream, secured)) => (stream, Some(secured)),
                Err(error) => {
                    let subject = Subject::at_the_door(&id, addr, ends.destination).inside();
                    return handshake_failed(&shared, &subject, &error);
                }
            }
        }
    };
    let mut out = Vec::with_capacity(4);
    let familiar = shared.mark(addr).familiar;
    let opening = Opening {
        id: id.clone(),
        addr,
        role,
        secured,
        rules: Arc::clone(&generation.snapshot),
        backend: generation.pool.capabilities(),
        familiar,
        clock: crate::clock::both(),
    };
    let client = generation.snapshot.client(addr.ip());
    let mut inquiry = Inquiry::default();
    inquiry.about_client(&shared, &generation, addr, generation.snapshot.needs(&client, role));
    if generation.snapshot.names_client(&client, role) {
        inquiry.about_name(&shared, &generation, addr);
    }
    let session = Session::open(opening, &mut out);
    let known = familiar || !generation.snapshot.is_stranger(&client, role);
    let tells_name = generation.config().backend.identity == Identity::Xclient;
    let mut driver = Driver {
        id,
        addr,
        listener: ends.destination,
        began,
        name: None,
        sum: Sum::default(),
        backend: Backend::new(
            Arc::clone(&shared),
            Arc::clone(&generation),
            ends,
            &client,
            role,
            inquiry.naming().filter(|_| tells_name).cloned(),
        ),
        window: Window::new(Arc::clone(&shared.windows), known),
        shared,
        generation,
        stream,
        session,
        out,
        read: 0,
        intake: Intake::default(),
        unsent: BytesMut::new(),
        told_stop: false,
        upgrade: false,
        over_rate: None,
        login: None,
        client,
        role,
        inquiry,
        consulted: None,
        about: None,
    };
    // A client that went away is no error of ours; the session has settled what was under way.
    let _ = driver.run(&mut seat, &mut stop).await;
}

/// The TLS handshake with a client, if there is room for one more and nothing was sent ahead of it.
async fn handshake(
    shared: &Shared,
    generation: &Generation,
    seat: &mut Seat,
    addr: ClientAddr,
    socket: Socket,
    lines: LineDecoder,
    unread: &BytesMut,
) -> io::Result<(Stream, Secured)> {
    let (Some(tls), Some(proof)) = (&generation.tls, lines.finish(unread)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let accepting = async {
        if shared.hastens_handshakes(&generation.snapshot.client(addr.ip())) {
            shared.metrics.bound_reached(Bound::TlsHandshakes);
            tokio::time::sleep(HANDSHAKE_PACE).await;
        }
        let Some(_room) = shared.handshakes.take(generation.handshakes()) else {
            shared.metrics.bound_reached(Bound::Handshakes);
            return Err(io::ErrorKind::ResourceBusy.into());
        };
        let accepted = tls.accept(socket, proof).await?;
        shared.metrics.tls_session(accepted.1.version == tls::NEWEST);
        Ok(accepted)
    };
    tokio::select! {
        biased;
        _ = seat.woken() => Err(io::ErrorKind::ConnectionAborted.into()),
        accepted = accepting => accepted,
    }
}

fn handshake_failed(shared: &Shared, subject: &Subject<'_>, error: &io::Error) {
    let (id, addr) = (subject.id, subject.client);
    let failure = handshakes::reason(error);
    let (reason, meaning) = (failure.label(), failure.text());
    shared.metrics.handshake_failed(failure);
    match shared.handshakes_told.is_due(addr.source(shared.prefix), crate::clock::now()) {
        Some(left_out) => {
            tracing::info!(session = id, client = %addr.ip(), reason, %error, left_out, "TLS handshake failed: {meaning}");
        }
        None => tracing::debug!(session = id, client = %addr.ip(), reason, %error, "TLS handshake failed"),
    }
    events::observe(shared, subject, Event::Ended { reason: Reason::Tls });
}

fn woken(wake: Wake) -> Input {
    match wake {
        Wake::Banned(reason) => Input::Banned(reason),
        Wake::GiveWay => Input::GiveWay,
    }
}

/// Whether the client is no newcomer after `event`.
fn is_history(event: &Event) -> bool {
    matches!(event, Event::Authenticated { .. } | Event::Message(Message { outcome: Outcome::Accepted, .. }))
}

/// Settles the recipient that was asked for, with the part that counts it.
fn settle(shared: &Shared, login: &mut Option<Login>, accepted: bool) {
    if let Some(login) = login {
        login.settle(shared, accepted);
    }
}

/// The subject of a driver's session. (A function would borrow all of it, also what is being drained.)
macro_rules! subject {
    ($driver:ident) => {
        Subject {
            id: &$driver.id,
            client: $driver.addr,
            listener: $driver.listener,
            under_way: true,
            speaker: $driver.session.speaker(),
            secured: $driver.session.secured(),
            name: $driver.name.as_deref(),
            server: $driver.backend.server(),
        }
    };
}

struct Driver {
    id: String,
    addr: ClientAddr,
    /// The listener that the client connected to.
    listener: SocketAddr,
    began: Instant,
    /// The client's name, once that is known.
    name: Option<Arc<str>>,
    sum: Sum,
    shared: Arc<Shared>,
    /// The one that the session began with.
    generation: Kept,
    stream: Stream,
    window: Window,
    /// Bytes of message data that were read last, and not yet told to the window.
    read: u64,
    session: Session,
    backend: Backend,
    out: Vec<Output>,
    intake: Intake,
    unsent: BytesMut,
    /// The guard's stop is told once: the session remembers it.
    told_stop: bool,
    /// The session wants TLS from here on.
    upgrade: bool,
    /// Why MAIL or RCPT was not passed on: source or user has sent as much as it may for now.
    over_rate: Option<Reason>,
    /// The login, unless the client is exempt.
    login: Option<Login>,
    /// As it was when it came; who has logged in since is the session's to know.
    client: Client,
    role: Role,
    inquiry: Inquiry,
    /// The session waits for facts; `true`: also for look-ups.
    consulted: Option<bool>,
    /// The sender and, where that matters, the recipient: the subject of the facts.
    about: Option<(Digest, Option<Box<str>>)>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.session.cut_off(&mut self.out);
        self.learn_name();
        for output in std::mem::take(&mut self.out) {
            match output {
                Output::Event(event) => {
                    self.sum.add(&event);
                    events::observe(&self.shared, &subject!(self), event);
                }
                Output::Settled { accepted } => settle(&self.shared, &mut self.login, accepted),
                _ => {}
            }
        }
        settle(&self.shared, &mut self.login, false);
        self.shared.metrics.session_ended(crate::clock::now().since(self.began));
        events::ended(&self.shared, &subject!(self), self.role, &self.sum, self.began);
    }
}

impl Driver {
    async fn run(&mut self, seat: &mut Seat, stop: &mut Stop) -> io::Result<()> {
        // Both outlast a wait: to begin them anew costs more than most waits do.
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        let mut stopping = pin!(stop.requested());
        loop {
            self.perform(seat).await;
            if self.session.wants() == Wants::Closed {
                let wait = if seat.has_ceded() { HURRY } else { FAREWELL };
                return farewell::linger(&mut self.stream, &mut self.unsent, wait).await;
            }
            if let Some(reason) = self.over_rate.take() {
                self.step(Input::OverRate(reason));
                continue;
            }
            if self.consulted == Some(false) {
                self.feed_facts(None);
                continue;
            }
            // Before what waits in the buffer: a ban must not come after a thousand guesses that were sent ahead.
            if let Some(wake) = seat.try_woken() {
                self.step(woken(wake));
                continue;
            }
            // Then replies go out first.
            let crowded = self.unsent.len() > WRITE_CHUNK;
            if !crowded && let Some(input) = self.intake.next(&self.session) {
                self.step(input);
                continue;
            }
            if self.flush().await.is_err() {
                // Nobody will read it; the session may have something to settle with the backend all the same.
                self.unsent.clear();
                self.step(Input::ClientGone);
                continue;
            }
            if crowded {
                continue;
            }
            if self.upgrade {
                if !self.secure(seat).await {
                    self.step(Input::ClientGone);
                }
                continue;
            }
            if let Some(input) = self.wait(seat, stopping.as_mut(), sleep.as_mut()).await {
                self.step(input);
            }
        }
    }

    fn step(&mut self, input: Input) {
        let is_command = matches!(input, Input::Command { .. });
        if let Input::Upstream(Upstream::Auth(verdict)) = &input {
            self.shared.metrics.auth_attempt(*verdict);
        }
        let now = crate::clock::now();
        self.session.step(input, now, &mut self.out);
        if is_command {
            self.shared.metrics.decided(crate::clock::now().since(now));
        }
    }

    fn learn_name(&mut self) {
        if self.name.is_none() {
            self.name = self.inquiry.naming().and_then(Naming::now);
            if let Some(name) = &self.name {
                self.session.set_name(name);
            }
        }
    }

    /// Performs the outputs in their order.
    async fn perform(&mut self, seat: &mut Seat) {
        self.learn_name();
        seat.shows(self.session.shown());
        for output in self.out.drain(..) {
            match output {
                Output::Reply(reply) => {
                    if self.unsent.len() > WRITE_CHUNK / 2 {
                        // If it fails, so does the next attempt, and there it is dealt with.
                        let _ = self.stream.send(&mut self.unsent, WRITE_WAIT).await;
                    }
                    reply.encode(&mut self.unsent);
                }
                Output::StartTls => self.upgrade = true,
                Output::Consult { lookups, recipient, sender } => {
                    if lookups {
                        self.inquiry.begin(&self.shared, &self.generation, self.addr);
                    }
                    (self.consulted, self.about) = (Some(lookups), Some((sender, recipient)));
                }
                Output::Heard(heard) => self.shared.hear(self.addr, &heard),
                Output::Settled { accepted } => settle(&self.shared, &mut self.login, accepted),
                // What a session can't know from itself alone.
                Output::Request(Request::Rcpt(rcpt, permit)) => {
                    let judged = self
                        .login
                        .as_mut()
                        .map_or(Ok(()), |login| login.ask(&self.shared, &self.generation.snapshot, self.addr));
                    match judged {
                        Ok(()) => self.backend.perform(Request::Rcpt(rcpt, permit)).await,
                        Err(reason) => self.over_rate = Some(reason),
                    }
                }
                Output::Request(Request::Mail(mail, permit, speaker)) => {
                    if !self.client.exempt
                        && let Err(reason) = users::message(
                            &self.shared,
                            &self.generation.snapshot,
                            self.addr,
                            self.login.as_ref(),
                            Tally::Count,
                        )
                    {
                        self.over_rate = Some(reason);
                        continue;
                    }
                    let domain = self.generation.snapshot.domain_to_look_up(&self.client, self.role, &mail.path);
                    self.inquiry.about_sender(domain);
                    self.backend.perform(Request::Mail(mail, permit, speaker)).await;
                }
                Output::Request(request) => self.backend.perform(request).await,
                Output::Connect(speaker) => self.backend.connect_early(speaker),
                Output::Report(conduct) => {
                    let report = Report { client: self.addr, at: crate::clock::now(), conduct };
                    self.shared.feedback.report(report);
                }
                Output::Event(event) => {
                    if let Event::Authenticated { user } = &event
                        && !self.client.exempt
                    {
                        self.login = Login::new(&self.shared, &self.generation.snapshot, self.addr, user, Tally::Count);
                    }
                    if is_history(&event) {
                        seat.trust();
                        self.backend.trust();
                        self.window.trust();
                    }
                    self.sum.add(&event);
                    events::observe(&self.shared, &subject!(self), event);
                }
                Output::Close => {}
            }
        }
    }

    fn feed_facts(&mut self, found: Option<Found>) {
        self.consulted = None;
        let Some((sender, recipient)) = self.about.take() else { return };
        let mut facts = self.shared.facts(self.addr, sender, recipient.as_deref());
        if facts.unknown {
            self.shared.metrics.recipient_remembered();
        }
        facts.found = found.map(Arc::new);
        self.step(Input::Facts(facts));
    }

    /// Waits for whatever comes first; `None` when bytes were read, or the backend's connection has rested. A ban and the guard's own stop
    /// come before the others.
    async fn wait(
        &mut self,
        seat: &mut Seat,
        stopping: Pin<&mut impl Future<Output = ()>>,
        mut sleep: Pin<&mut Sleep>,
    ) -> Option<Input> {
        let wants = self.session.wants();
        let now = crate::clock::now();
        self.session.waiting(now);
        let deadline = self.session.deadline();
        // Of a client that sends a line without end and without a pause there is always something to read: its time ends all the same.
        let due = matches!(wants, Wants::Command | Wants::Response) && deadline <= now;
        let left = TokioInstant::now() + deadline.since(now);
        // One that comes too early is set anew then.
        if sleep.is_elapsed() || sleep.deadline() > left {
            sleep.as_mut().reset(left);
        }
        let deadline = poll_fn(|cx| {
            loop {
                ready!(sleep.as_mut().poll(cx));
                let left = deadline.since(crate::clock::now());
                if left.is_zero() {
                    return Poll::Ready(());
                }
                sleep.as_mut().reset(TokioInstant::now() + left);
            }
        });
        // Between two chunks the next one comes behind a short command.
        let data = wants == Wants::Body || (wants == Wants::Command && self.session.is_in_chunks());
        let read = if data { self.backend.piece() - BODY_SLACK } else { COMMAND_READ };
        let reading = !due && matches!(wants, Wants::Command | Wants::Silence | Wants::Response | Wants::Body);
        let consulted = self.consulted.is_some();
        self.follow_window(data);
        let open = self.session.is_under_way();
        if wants == Wants::Command && !open {
            // An idle session keeps no more than it has to.
            self.inquiry.tidy();
            (self.out, self.unsent) = (Vec::new(), BytesMut::new());
        }
        if self.session.is_at_work() {
            seat.works();
        } else {
            seat.waits(open, now);
        }
        if self.session.asks_backend() {
            self.backend.works();
        } else {
            self.backend.waits(open, wants == Wants::Body, now);
        }
        let input = tokio::select! {
            biased;
            wake = seat.woken() => Some(woken(wake)),
            () = stopping, if !self.told_stop => {
                self.told_stop = true;
                Some(Input::Shutdown)
            }
            found = self.inquiry.found(), if consulted => {
                self.feed_facts(Some(found));
                None
            }
            word = self.backend.word(), if self.backend.is_live() => word.map(Input::Upstream),
            read = self.stream.read_into(&mut self.intake.unread, read), if reading => match read {
                Ok(0) | Err(_) => Some(Input::ClientGone),
                Ok(read) => {
                    self.read += if data { read as u64 } else { 0 };
                    None
                }
            },
            () = deadline => Some(Input::Deadline),
        };
        // What comes now may take long, as connecting to the backend does.
        seat.works();
        self.backend.works();
        input
    }

    /// Lets the client send ahead as the backend keeps up. Whatever was read is passed on by now.
    fn follow_window(&mut self, data: bool) {
        let read = std::mem::take(&mut self.read);
        if data {
            let window = self.stream.socket().and_then(|socket| self.window.follow(socket, read));
            let queue = self.backend.keeps_up(self.window.message(), self.window.is_known());
            for bound in [window, queue].into_iter().flatten() {
                self.shared.metrics.bound_reached(bound);
            }
            return;
        }
        self.window.rest();
        if self.backend.has_rested() {
            self.window.close(self.stream.socket());
        }
    }

    /// Bounded as a whole: a client that reads a byte now and then must not hold its place by that.
    async fn flush(&mut self) -> io::Result<()> {
        in_time(WRITE_WAIT, self.stream.send(&mut self.unsent, WRITE_WAIT)).await
    }

    /// Makes the TLS handshake after our 220 was sent. `false`: it failed, and there is no client any more.
    async fn secure(&mut self, seat: &mut Seat) -> bool {
        self.upgrade = false;
        let lines = std::mem::take(&mut self.intake.lines);
        let Some(socket) = self.stream.take_clear() else {
            return false;
        };
        let unread = &self.intake.unread;
        let mut shaking = Box::pin(handshake(&self.shared, &self.generation, seat, self.addr, socket, lines, unread));
        let shaken = loop {
            tokio::select! {
                biased;
                shaken = &mut shaking => break shaken,
                // Whatever else the backend says is forgotten after the handshake.
                _ = self.backend.word(), if self.backend.is_early() => {}
            }
        };
        drop(shaking);
        match shaken {
            Ok((stream, secured)) => {
                self.stream = stream;
                self.step(Input::Secured(secured));
                true
            }
            Err(error) => {
                self.sum.reason = Some(Reason::Tls);
                handshake_failed(&self.shared, &subject!(self), &error);
                false
            }
        }
    }
}
