//! The backend of one session: opened lazily, one connection, reused for that session's transactions.
//!
//! Requests go out as typed values. Those of an envelope go out when an answer is awaited, so that requests made at once are
//! one write. A server without PIPELINING gets one after the other. Answers come back through [`Backend::word`], which is
//! cancel safe. A connection whose state is in doubt is closed, never repaired; another server is tried only before MAIL was
//! accepted.
//!
//! Between two transactions a connection is kept for [`REST`] and then given back. Where the client has logged in over it, the connection
//! stays, and only its room in the kernel is given back. One that is given back serves the next client where nothing speaks against it
//! ([`super::spare`]). Where it turns out to be gone at that client's MAIL, a new one is opened: nobody has answered yet.
//! For clients that are likely to send mail a connection is opened before MAIL ([`Backend::connect_early`]). Until something is asked over
//! it, it is nobody's loss: what goes wrong with it is told to nobody, and MAIL opens another one.
//! A newcomer's place may also be needed while the client is idle within a transaction ([`super::places`]).

use std::collections::VecDeque;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::auth::Dialogue;
use tokio::runtime::Handle;
use tokio::time::{Instant as TokioInstant, sleep_until, timeout};

use super::connect::{Caller, Channel};
use super::inquiry::{Called, Naming};
use super::places::{Claim, Place, Who};
use super::pool::{Failure, Pool};
use super::socket;
use super::{Generation, Shared, dovecot};
use crate::addr::{BackendAddr, ClientAddr};
use crate::bound::Bound;
use crate::clock::Instant;
use crate::config::{AuthVia, Identity, Role};
use crate::gate::Standing;
use crate::observe::metrics::{How, Metrics, Verb};
use crate::policy::Client;
use crate::session::{AuthVerdict, Lost, Request, Speaker, Upstream};
use crate::wire::command::Command;
use crate::wire::data::BodyEncoder;
use crate::wire::envelope::{MailFrom, RcptTo};
use crate::wire::proxy::Ends;
use crate::wire::sasl::Credentials;

/// Encoded bytes gathered before they are written, although more may come.
const WRITE_CHUNK: usize = socket::PIECE;

/// How long a connection, or more room for it in the kernel, is kept without a transaction.
const REST: Duration = Duration::from_secs(5);
/// Connections that a session may have opened before MAIL: one more where the client has said another name under TLS.
const EARLY: u8 = 2;
/// How long one that is being opened early may take from there on when its session ends, to be closed politely.
const PARTING: Duration = Duration::from_secs(10);

type Opening = Pin<Box<dyn Future<Output = Result<Channel, Failure>> + Send>>;
type Ceded = Pin<Box<dyn Future<Output = ()> + Send>>;
type Asking = Pin<Box<dyn Future<Output = AuthVerdict> + Send>>;

/// The backend of one session.
pub(super) struct Backend {
    shared: Arc<Shared>,
    generation: Arc<Generation>,
    ends: Ends,
    /// Whether it is no newcomer: it came as none, or has become known since.
    known: bool,
    exempt: bool,
    link: Link,
    /// When a connection without a transaction is given back, or the room that it holds.
    rests_until: Option<TokioInstant>,
    /// That was done, and nothing was asked since.
    rested: bool,
    /// Dovecot is asked.
    asking: Option<Asking>,
    /// The client has logged in over a connection: another one would be a stranger's.
    bound: bool,
    /// Questions without an answer yet, and since when; as many as a session asks ahead.
    asked: VecDeque<(Verb, Instant)>,
    /// The client's name, for a backend that wants to hear it.
    naming: Option<Naming>,
    /// The server that was connected last.
    server: Option<BackendAddr>,
    /// Connections that were opened early.
    early: u8,
    /// Resolves when the place of the open connection is needed, once that is waited for. It outlasts a wait, since to begin it anew
    /// costs more than most waits do.
    ceded: Option<Ceded>,
}

enum Link {
    None,
    /// `early`: before there was something to ask.
    Opening {
        opening: Opening,
        first: Option<First>,
        speaker: Arc<Speaker>,
        early: bool,
    },
    Open(Box<Connection>),
    /// A write failed: the loss is told once.
    Broken(Lost),
}

/// The reason to open a connection.
enum First {
    Envelope(Vec<Line>),
    Auth(Credentials),
}

/// A command of an envelope.
#[derive(Clone)]
enum Line {
    Mail(MailFrom),
    Rcpt(RcptTo),
    Data,
}

/// An open connection and what is under way on it.
struct Connection {
    channel: Channel,
    /// For whom it was opened.
    speaker: Arc<Speaker>,
    /// Whether it was opened early, and nothing was asked over it yet.
    early: bool,
    encoder: Option<BodyEncoder>,
    /// Whether the message is only the guard's own header yet, which goes out with the bytes that follow.
    header: bool,
    auth: Option<Dialogue>,
    /// The final dot is sent, and its answer isn't there.
    ending: bool,
    /// Nothing is under way on it: the last word was a yes to the dot.
    rests: bool,
    /// Answers that the server owes.
    awaited: u32,
    /// Lines that wait for an answer, since the server doesn't offer PIPELINING.
    held: VecDeque<Line>,
    /// The questions for a new connection if this one is lost before its first word: it has served others, or was opened early.
    retry: Option<(Vec<Line>, Arc<Speaker>)>,
}

impl Backend {
    pub(super) fn new(
        shared: Arc<Shared>,
        generation: Arc<Generation>,
        ends: Ends,
        client: &Client,
        role: Role,
        naming: Option<Naming>,
    ) -> Self {
        let known = !generation.snapshot.is_stranger(client, role);
        Self {
            shared,
            generation,
            ends,
            known,
            exempt: client.exempt,
            link: Link::None,
            rests_until: None,
            rested: false,
            asking: None,
            bound: false,
            asked: VecDeque::new(),
            naming,
            server: None,
            early: 0,
            ceded: None,
        }
    }

    /// Opens a connection for a MAIL of `speaker` that is likely to come, unless there is one.
    pub(super) fn connect_early(&mut self, speaker: Arc<Speaker>) {
        self.leave_another(&speaker);
        let who = self.who();
        // A history may have been forgotten meanwhile.
        let may = who.standing != Standing::Newcomer && !self.bound && self.asking.is_none() && self.early < EARLY;
        if !may || !matches!(self.link, Link::None) {
            return;
        }
        self.early += 1;
        (self.rests_until, self.rested) = (None, false);
        let pool = Arc::clone(&self.generation.pool);
        let calling = self.calling(Arc::clone(&speaker), who);
        let opening = Box::pin(async move {
            let caller = calling.await;
            pool.open_early(caller).await.ok_or(Failure::Lost(Lost::Unreachable))
        });
        self.link = Link::Opening { opening, first: None, speaker, early: true };
    }

    /// Whether the link was opened early, and nothing was asked over it yet.
    pub(super) fn is_early(&self) -> bool {
        match &self.link {
            Link::Opening { first: None, .. } => true,
            Link::Open(connection) => connection.early,
            _ => false,
        }
    }

    /// Leaves a connection over which the server was told another name of the client, where that counts.
    fn leave_another(&mut self, speaker: &Arc<Speaker>) {
        let before = match &self.link {
            Link::Opening { speaker, first: None, .. } => speaker,
            Link::Open(connection) => &connection.speaker,
            _ => return,
        };
        if !self.bound && self.generation.config().backend.identity != Identity::None && before != speaker {
            self.give_back();
        }
    }

    /// Something is asked: an early connection is one like any other from here on, unless its place was needed.
    fn use_early(&mut self, request: &Request) {
        let Link::Open(connection) = &mut self.link else { return };
        if !connection.early {
            return;
        }
        if !connection.place().is_none_or(Place::works) {
            return self.give_back();
        }
        connection.early = false;
        self.shared.metrics.backend_connection(How::Early);
        if matches!(request, Request::Mail(..)) {
            connection.retry = Some((Vec::new(), Arc::clone(&connection.speaker)));
        }
    }

    /// The backend has taken `taken` bytes of the message: the kernel may hold more for it, if that is enough and there is room. Returns
    /// the bound that leaves none. `known`: the client is no newcomer.
    pub(super) fn keeps_up(&mut self, taken: u64, known: bool) -> Option<Bound> {
        match &mut self.link {
            Link::Open(connection) => connection.channel.lengthen_queue(&self.shared.windows, taken, known),
            _ => None,
        }
    }

    /// Bytes that the backend takes in one write.
    pub(super) fn piece(&self) -> usize {
        match &self.link {
            Link::Open(connection) if connection.channel.has_long_queue() => socket::LONG_PIECE,
            _ => socket::PIECE,
        }
    }

    /// The server that was connected last.
    pub(super) fn server(&self) -> Option<&BackendAddr> {
        self.server.as_ref()
    }

    /// The client is no newcomer any more.
    pub(super) fn trust(&mut self) {
        self.known = true;
    }

    /// The session waits from `now` on for something that the backend has no part in. `open`: within a transaction; `data`: for
    /// message data.
    pub(super) fn waits(&mut self, open: bool, data: bool, now: Instant) {
        if let Link::Open(connection) = &self.link {
            connection.rests(data, now);
        }
        self.rests_until = match self.rests_until {
            _ if open || self.rested => None,
            None => Some(TokioInstant::now() + REST),
            since => since,
        };
    }

    /// The session is at work: its place stays, unless it was given away already.
    pub(super) fn works(&mut self) {
        if let Link::Open(connection) = &self.link
            && !connection.works()
        {
            self.link = Link::Broken(Lost::Busy);
        }
    }

    fn who(&self) -> Who {
        let addr = ClientAddr::new(self.ends.source);
        let standing = match self.exempt {
            true => Standing::Exempt,
            false if self.known || self.shared.mark(addr).familiar => Standing::Known,
            false => Standing::Newcomer,
        };
        Who { source: addr.source(self.shared.prefix), standing }
    }

    /// Whether [`Self::word`] may have something to say.
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.link, Link::None) || self.asking.is_some()
    }

    /// From here on the time of `request` is measured, if there will be an answer to it. What opens a connection waits for that.
    fn begins(&mut self, request: &Request) {
        let verb = match request {
            Request::Mail(..) => Verb::Mail,
            Request::Auth(..) => Verb::Auth,
            Request::Rcpt(..) => Verb::Rcpt,
            Request::Data => Verb::Data,
            Request::End(_) => Verb::Dot,
            Request::Reset | Request::Drop | Request::Quit => return self.asked.clear(),
            Request::Body(_) => return,
        };
        self.asked.push_back((verb, crate::clock::now()));
    }

    /// Notes that the oldest question is answered.
    fn answered(&mut self) {
        if let Some((verb, since)) = self.asked.pop_front() {
            self.shared.metrics.backend_replied(verb, crate::clock::now().since(since));
        }
    }

    /// Performs a request. A failure is told by [`Self::word`].
    pub(super) async fn perform(&mut self, request: Request) {
        if matches!(request, Request::Drop) && self.is_early() {
            // Nothing was begun over it. What time it has goes on.
            self.asking = None;
            return self.asked.clear();
        }
        // Until the session waits for its client again.
        (self.rests_until, self.rested) = (None, false);
        self.begins(&request);
        match &request {
            Request::Auth(..) if self.generation.config().auth.via == AuthVia::Dovecot => {}
            Request::Mail(_, _, speaker) | Request::Auth(_, speaker) => {
                self.leave_another(speaker);
                self.use_early(&request);
            }
            _ => {}
        }
        match (request, &mut self.link) {
            (Request::Drop, _) => {
                // A verdict that comes later has nobody to hear it.
                (self.link, self.asking) = (Link::None, None);
            }
            (Request::Auth(credentials, _), _) if self.generation.config().auth.via == AuthVia::Dovecot => {
                let socket = self.generation.config().auth.dovecot_socket.clone();
                let Ends { source, destination } = self.ends;
                self.asking = Some(Box::pin(dovecot::ask(socket, credentials, source, destination)));
            }
            (Request::Mail(..), Link::None) if self.bound => self.link = Link::Broken(Lost::Closed),
            (Request::Mail(mail, _, speaker), Link::None) => {
                self.open(First::Envelope(vec![Line::Mail(mail)]), speaker, false);
            }
            (Request::Mail(mail, ..), Link::Opening { first: first @ None, .. }) => {
                *first = Some(First::Envelope(vec![Line::Mail(mail)]));
            }
            (Request::Auth(credentials, _), Link::Opening { first: first @ None, .. }) => {
                *first = Some(First::Auth(credentials));
            }
            (Request::Rcpt(rcpt, _), Link::Opening { first: Some(First::Envelope(lines)), .. }) => {
                lines.push(Line::Rcpt(rcpt));
            }
            (Request::Data, Link::Opening { first: Some(First::Envelope(lines)), .. }) => lines.push(Line::Data),
            (Request::Auth(credentials, speaker), Link::None) => self.open(First::Auth(credentials), speaker, true),
            (Request::Quit, Link::Open(_) | Link::Opening { .. }) => self.give_back(),
            (request, Link::Open(connection)) => {
                if let Err(lost) = connection.send(request).await {
                    self.link = Link::Broken(lost);
                }
            }
            (Request::Quit, _) => self.link = Link::None,
            // A write of the data failed, and the session has not heard of it yet.
            (Request::End(_), Link::Broken(lost)) => *lost = Lost::BeforeDot,
            // Body of a message whose backend is gone: the loss is told by `word`.
            (_, Link::None | Link::Opening { .. } | Link::Broken(_)) => {}
        }
    }

    fn open(&mut self, first: First, speaker: Arc<Speaker>, fresh: bool) {
        let pool: Arc<Pool> = Arc::clone(&self.generation.pool);
        let calling = self.calling(Arc::clone(&speaker), self.who());
        let opening = Box::pin(async move {
            let caller = calling.await;
            pool.open(caller, fresh).await
        });
        self.link = Link::Opening { opening, first: Some(first), speaker, early: false };
    }

    /// The client as a connection is opened for it, once it is known what it is called. That is before a place is taken: nobody
    /// else waits for it.
    fn calling(&self, speaker: Arc<Speaker>, who: Who) -> impl Future<Output = Caller> + Send + use<> {
        let (ends, naming) = (self.ends, self.naming.clone());
        async move {
            let called = match naming {
                Some(naming) => naming.settle().await,
                None => Called::Unknown,
            };
            Caller::Client { speaker, ends, who, called }
        }
    }

    /// Leaves the connection to the next client, or closes it politely beside the session; its place is free once that is done.
    fn give_back(&mut self) {
        let newcomer = self.who().standing == Standing::Newcomer;
        let link = std::mem::replace(&mut self.link, Link::None);
        let Ok(runtime) = Handle::try_current() else { return };
        match link {
            Link::Open(connection) => {
                if connection.early {
                    self.shared.metrics.backend_connection(How::Unused);
                }
                if let Some(channel) = connection.lend(newcomer) {
                    runtime.spawn(channel.quit());
                }
            }
            Link::Opening { opening, first: None, speaker, .. } => {
                runtime.spawn(part(opening, speaker, self.shared.metrics.clone()));
            }
            _ => {}
        }
    }

    /// Whether there is no connection, or one that nobody has used for [`REST`].
    pub(super) fn has_rested(&self) -> bool {
        self.rested || !self.is_live()
    }

    /// The backend's next word; `None` once it has rested. Cancel safe; pending while there is no connection.
    pub(super) async fn word(&mut self) -> Option<Upstream> {
        if let Some(asking) = &mut self.asking {
            let verdict = asking.await;
            self.asking = None;
            self.answered();
            return Some(Upstream::Auth(verdict));
        }
        loop {
            match &mut self.link {
                Link::None => std::future::pending().await,
                Link::Broken(lost) => return Some(Upstream::Lost(*lost)),
                Link::Opening { opening, first, speaker, early } => {
                    match opening.as_mut().await.and_then(still_ours(*early && first.is_some())) {
                        Err(_) if *early => match (first.take(), Arc::clone(speaker)) {
                            (None, _) => self.link = Link::None,
                            (Some(first @ First::Auth(_)), speaker) => self.open(first, speaker, true),
                            (Some(first), speaker) => self.open(first, speaker, false),
                        },
                        Err(Failure::Lost(lost)) => self.link = Link::Broken(lost),
                        Err(Failure::Refused(reply)) => {
                            self.link = Link::None;
                            return Some(Upstream::Reply(reply));
                        }
                        Ok(channel) => {
                            // Until here it was the connection that was waited for.
                            if let Some((_, since)) = self.asked.front() {
                                let now = crate::clock::now();
                                self.shared.metrics.backend_replied(Verb::Connect, now.since(*since));
                                self.asked.iter_mut().for_each(|(_, since)| *since = now);
                            }
                            self.server.clone_from(&channel.server);
                            self.ceded = None;
                            let mut connection = Connection::new(channel, Arc::clone(speaker));
                            connection.early = *early && first.is_none();
                            if *early && !connection.early {
                                self.shared.metrics.backend_connection(How::Early);
                            }
                            let begun = match first.take() {
                                Some(First::Envelope(lines)) => {
                                    if connection.channel.reused || *early {
                                        connection.retry = Some((Vec::new(), Arc::clone(speaker)));
                                    }
                                    lines.into_iter().try_for_each(|line| connection.queue(line))
                                }
                                Some(First::Auth(credentials)) => connection.queue_auth(credentials),
                                None => Ok(()),
                            };
                            self.link = match begun {
                                Ok(()) => Link::Open(Box::new(connection)),
                                Err(lost) => Link::Broken(lost),
                            };
                        }
                    }
                }
                Link::Open(connection) => {
                    let rested = async {
                        match self.rests_until {
                            Some(until) => sleep_until(until).await,
                            None => std::future::pending().await,
                        }
                    };
                    let ceded = self.ceded.get_or_insert_with(|| match connection.place() {
                        Some(place) => Box::pin(place.ceded()),
                        None => Box::pin(std::future::pending()),
                    });
                    let heard = tokio::select! {
                        biased;
                        heard = connection.word() => heard,
                        () = ceded => Err(Lost::Busy),
                        () = rested => {
                            (self.rests_until, self.rested) = (None, true);
                            if self.bound {
                                connection.channel.shorten_queue();
                            } else {
                                self.give_back();
                            }
                            return None;
                        }
                    };
                    if connection.early {
                        match heard {
                            // Its place is needed.
                            Err(Lost::Busy) => self.give_back(),
                            // The server is gone, or says what nobody has asked.
                            _ => {
                                self.shared.metrics.backend_connection(How::Unused);
                                self.link = Link::None;
                            }
                        }
                        continue;
                    }
                    match heard {
                        Ok(word) => {
                            self.answered();
                            self.bound |= matches!(word, Upstream::Auth(AuthVerdict::Accepted));
                            return Some(word);
                        }
                        Err(lost) => match connection.retry.take().filter(|_| is_gone(lost)) {
                            Some((lines, speaker)) => self.open(First::Envelope(lines), speaker, true),
                            None => self.link = Link::Broken(lost),
                        },
                    }
                }
            }
        }
    }
}

/// A client that leaves without QUIT leaves its connection to the next all the same.
impl Drop for Backend {
    fn drop(&mut self) {
        if self.is_early() || matches!(&self.link, Link::Open(connection) if connection.rests) {
            self.give_back();
        }
    }
}

/// Makes the place of an early connection, where it `counts` by now, one like any other; an error where it was needed for others.
fn still_ours(counts: bool) -> impl FnOnce(Channel) -> Result<Channel, Failure> {
    move |channel| match &channel.room {
        Some(Claim::Client(place)) if counts && !place.works() => Err(Failure::Lost(Lost::Busy)),
        _ => Ok(channel),
    }
}

/// Ends what was being opened for a MAIL that did not come, as politely as if it had been used.
async fn part(opening: Opening, speaker: Arc<Speaker>, metrics: Metrics) {
    let Ok(Ok(channel)) = timeout(PARTING, opening).await else { return };
    metrics.backend_connection(How::Unused);
    let mut connection = Connection::new(channel, speaker);
    connection.early = true;
    // Only those who are no newcomers have one.
    if let Some(channel) = connection.lend(false) {
        channel.quit().await;
    }
}

/// Whether the server may have closed the connection while it waited, or said something then.
fn is_gone(lost: Lost) -> bool {
    matches!(lost, Lost::Closed | Lost::Protocol)
}

impl Connection {
    fn new(channel: Channel, speaker: Arc<Speaker>) -> Self {
        Self {
            channel,
            speaker,
            early: false,
            encoder: None,
            header: false,
            auth: None,
            ending: false,
            rests: false,
            awaited: 0,
            held: VecDeque::new(),
            retry: None,
        }
    }

    /// Leaves the connection to the next client; else it is to be closed.
    fn lend(self, newcomer: bool) -> Option<Channel> {
        let Self { channel, rests, early, .. } = self;
        let useful = (rests || early) && (!newcomer || channel.serves_anyone());
        let home = channel.home.clone().filter(|_| useful);
        match home {
            Some(home) => home.lend(channel).err().map(|channel| *channel),
            None => Some(channel),
        }
    }

    fn place(&self) -> Option<&Place> {
        match &self.channel.room {
            Some(Claim::Client(place)) => Some(place),
            _ => None,
        }
    }

    /// The session waits for message data from `now` on, or for something else that the backend has no part in.
    fn rests(&self, data: bool, now: Instant) {
        match self.place().filter(|_| !self.ending && !self.early) {
            Some(place) if data => place.rests(now),
            Some(place) => place.lingers(now),
            None => {}
        }
    }

    /// The session is at work. `false`: its place was given away.
    fn works(&self) -> bool {
        self.ending || self.early || self.place().is_none_or(Place::works)
    }

    async fn send(&mut self, request: Request) -> Result<(), Lost> {
        if self.awaited == 0 && !self.channel.unread.is_empty() {
            if matches!(request, Request::Body(_)) {
                // A refusal in the middle of the data, even together with the 354: `word` tells it, and the session
                // sends nothing more.
                return Ok(());
            }
            // A reply that nobody asked for would be taken for the answer to this.
            return Err(if matches!(request, Request::End(_)) { Lost::BeforeDot } else { Lost::Protocol });
        }
        self.rests = false;
        let unsent = &mut self.channel.unsent;
        match request {
            Request::Mail(mail, ..) => return self.queue(Line::Mail(mail)),
            Request::Rcpt(rcpt, _) => return self.queue(Line::Rcpt(rcpt)),
            Request::Data => return self.queue(Line::Data),
            Request::Auth(credentials, _) => return self.queue_auth(credentials),
            Request::Reset => {
                Command::Rset.encode(unsent);
                self.awaited += 1;
                return Ok(());
            }
            Request::Body(body) => {
                self.header = self.encoder.is_none();
                let encoder = self.encoder.get_or_insert_with(BodyEncoder::new);
                encoder.encode(&body, unsent);
                if unsent.len() < WRITE_CHUNK {
                    return Ok(());
                }
            }
            Request::End(end) => {
                if self.channel.room.as_ref().is_some_and(|room| matches!(room, Claim::Client(place) if !place.ends()))
                {
                    return Err(Lost::BeforeDot);
                }
                (self.ending, self.header) = (true, false);
                self.awaited += 1;
                let encoder = self.encoder.take().unwrap_or_default();
                // A flawed end never comes here: the session drops the connection instead. If it did, so do we.
                encoder.finish(end, unsent).map_err(|_| Lost::Protocol)?;
            }
            Request::Drop | Request::Quit => return Err(Lost::Closed),
        }
        self.channel.flush().await
    }

    /// Asks for `line`, once the server may be asked.
    fn queue(&mut self, line: Line) -> Result<(), Lost> {
        if let Some((lines, _)) = &mut self.retry {
            lines.push(line.clone());
        }
        if self.awaited > 0 && !self.channel.capabilities.pipelining {
            self.held.push_back(line);
            return Ok(());
        }
        self.encode(line)
    }

    fn encode(&mut self, line: Line) -> Result<(), Lost> {
        let Channel { capabilities, unsent, .. } = &mut self.channel;
        // What was offered, but by another server, or by this one in better days, would be broken silently if it were left out.
        match line {
            Line::Mail(mail) if !capabilities.takes(mail.uses()) => return Err(Lost::Protocol),
            Line::Rcpt(rcpt) if !capabilities.takes(rcpt.uses()) => return Err(Lost::Protocol),
            Line::Mail(mut mail) => {
                mail.size = mail.size.filter(|_| capabilities.size.is_some());
                Command::Mail(mail).encode(unsent);
            }
            Line::Rcpt(rcpt) => Command::Rcpt(rcpt).encode(unsent),
            Line::Data => Command::Data.encode(unsent),
        }
        self.awaited += 1;
        Ok(())
    }

    /// The capabilities know no AUTH where passwords must not go ([`super::connect`]).
    fn queue_auth(&mut self, credentials: Credentials) -> Result<(), Lost> {
        let dialogue = Dialogue::begin(&self.channel.capabilities, credentials, &mut self.channel.unsent);
        self.auth = Some(dialogue.ok_or(Lost::Protocol)?);
        self.channel.spoiled = true;
        Ok(())
    }

    async fn word(&mut self) -> Result<Upstream, Lost> {
        loop {
            if self.awaited == 0
                && let Some(line) = self.held.pop_front()
            {
                self.encode(line)?;
            }
            let reply = if self.header { self.channel.hear().await? } else { self.channel.word().await? };
            self.awaited = self.awaited.saturating_sub(1);
            if self.retry.is_some() && reply.code().get() == 421 {
                // It had waited for too long.
                return Err(Lost::Closed);
            }
            self.retry = None;
            let yes = reply.code().class() == 2;
            self.channel.spoiled |= !matches!(reply.code().class(), 2 | 3);
            self.rests = std::mem::take(&mut self.ending) && yes && self.awaited == 0;
            if self.rests {
                self.channel.messages += 1;
                if let Some(place) = self.place() {
                    place.earned(crate::clock::now());
                }
            }
            let Some(dialogue) = self.auth.take() else {
                return Ok(Upstream::Reply(reply));
            };
            match dialogue.go_on(&reply, &mut self.channel.unsent)? {
                ControlFlow::Continue(dialogue) => self.auth = Some(dialogue),
                ControlFlow::Break(verdict) => return Ok(Upstream::Auth(verdict)),
            }
        }
    }
}
