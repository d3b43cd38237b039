//! The driver of one session: reads, steps, performs, waits. All decisions are the session's.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant as TokioInstant, Sleep, timeout};

use super::backend::Backend;
use super::sources::Seat;
use super::{Shared, Stop, events};
use crate::addr::ClientAddr;
use crate::clock::{Both, Instant};
use crate::offence::Report;
use crate::session::{Input, Output, Session, Wants};
use crate::wire::command;
use crate::wire::data::{BodyDecoder, Chunk};
use crate::wire::line::{Line, LineDecoder};

/// Bytes read from the client at once while it sends commands, and while it sends message data.
const COMMAND_READ: usize = 2 * 1024;
const BODY_READ: usize = 32 * 1024;
/// How long one write to the client may make no progress.
const WRITE_WAIT: Duration = Duration::from_secs(300);
/// Replies gathered before they are written, although more commands wait.
const WRITE_CHUNK: usize = 16 * 1024;
/// After the last reply, how long to wait for the client to read it: closing at once could destroy it.
const LINGER: Duration = Duration::from_secs(2);

/// Runs a session to its end.
pub(super) async fn drive(stream: TcpStream, addr: ClientAddr, mut seat: Seat, shared: Arc<Shared>, mut stop: Stop) {
    let mut out = Vec::with_capacity(4);
    let id = shared.next_id();
    let session = Session::open(
        id.clone(),
        addr,
        Arc::clone(&shared.rules),
        shared.capabilities.load_full(),
        Both::now(),
        &mut out,
    );
    let mut driver = Driver {
        id,
        addr,
        backend: Backend::new(Arc::clone(&shared.config)),
        shared,
        stream,
        session,
        out,
        lines: LineDecoder::new(),
        body: None,
        unread: BytesMut::new(),
        unsent: BytesMut::new(),
        told_stop: false,
    };
    // A client that went away is no error of ours; the session has settled what was under way.
    let _ = driver.run(&mut seat, &mut stop).await;
}

struct Driver {
    id: String,
    addr: ClientAddr,
    shared: Arc<Shared>,
    stream: TcpStream,
    session: Session,
    backend: Backend,
    out: Vec<Output>,
    lines: LineDecoder,
    body: Option<BodyDecoder>,
    unread: BytesMut,
    unsent: BytesMut,
    /// The guard's stop is told once: the session remembers it.
    told_stop: bool,
}

impl Driver {
    async fn run(&mut self, seat: &mut Seat, stop: &mut Stop) -> io::Result<()> {
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        loop {
            self.perform().await;
            if self.session.wants() == Wants::Closed {
                return self.linger().await;
            }
            // Before what waits in the buffer: a ban must not come after a thousand guesses that were sent ahead.
            if let Some(reason) = seat.try_banned() {
                self.step(Input::Banned(reason));
                continue;
            }
            if let Some(input) = self.next_token() {
                self.step(input);
                continue;
            }
            if self.flush().await.is_err() {
                // Nobody will read it; the session may have something to settle with the backend all the same.
                self.unsent.clear();
                self.step(Input::ClientGone);
                continue;
            }
            if let Some(input) = self.wait(seat, stop, sleep.as_mut()).await {
                self.step(input);
            }
        }
    }

    fn step(&mut self, input: Input) {
        self.session.step(input, Instant::now(), &mut self.out);
    }

    /// Performs the outputs in their order.
    async fn perform(&mut self) {
        for output in self.out.drain(..) {
            match output {
                Output::Reply(reply) => reply.encode(&mut self.unsent),
                Output::Request(request) => self.backend.perform(request).await,
                Output::Report(conduct) => {
                    let report = Report { client: self.addr, at: Instant::now(), conduct };
                    self.shared.feedback.report(report);
                }
                Output::Event(event) => events::observe(&self.shared, &self.id, self.addr, event),
                Output::Close => {}
            }
        }
    }

    /// The next input that the bytes read so far make, if the session wants one.
    fn next_token(&mut self) -> Option<Input> {
        if self.unsent.len() > WRITE_CHUNK {
            return None;
        }
        match self.session.wants() {
            Wants::Command => {
                self.body = None;
                let command = match self.lines.next(&mut self.unread)? {
                    Line::Text(line) => command::parse(&line),
                    Line::Flawed(flaw) => Err(flaw.into()),
                };
                Some(Input::Command { command, more: !self.unread.is_empty() })
            }
            Wants::Body => {
                let decoder = self.body.get_or_insert_with(BodyDecoder::new);
                let before = decoder.size();
                match decoder.next(&mut self.unread) {
                    Some(Chunk::Body(body)) => Some(Input::Body(body)),
                    Some(Chunk::End(end)) => Some(Input::BodyEnd(end)),
                    // Data of a flawed message: nothing comes out, but it counts.
                    None => (decoder.size() > before).then(|| Input::Swallowed(decoder.size())),
                }
            }
            Wants::Nothing | Wants::Closed => None,
        }
    }

    /// Waits for whatever comes first; `None` when bytes were read. A ban and the guard's own stop come before the rest.
    async fn wait(&mut self, seat: &mut Seat, stop: &mut Stop, mut sleep: Pin<&mut Sleep>) -> Option<Input> {
        let wants = self.session.wants();
        let now = Instant::now();
        sleep.as_mut().reset(TokioInstant::now() + self.session.deadline().since(now));
        let read = match wants {
            Wants::Body => BODY_READ,
            _ => COMMAND_READ,
        };
        let reading = matches!(wants, Wants::Command | Wants::Body);
        if reading {
            self.unread.reserve(read);
        }
        tokio::select! {
            biased;
            reason = seat.banned() => Some(Input::Banned(reason)),
            () = stop.requested(), if !self.told_stop => {
                self.told_stop = true;
                Some(Input::Shutdown)
            }
            word = self.backend.word(), if self.backend.is_live() => Some(Input::Upstream(word)),
            read = self.stream.read_buf(&mut self.unread), if reading => match read {
                Ok(0) | Err(_) => Some(Input::ClientGone),
                Ok(_) => None,
            },
            () = sleep => Some(Input::Deadline),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match timeout(WRITE_WAIT, self.stream.write_buf(&mut self.unsent)).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Ok(())
    }

    /// Sends the last replies and waits a little for the client to close: closing a socket with unread data resets the
    /// connection, and the client would never see why.
    async fn linger(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await?;
        let mut sink = [0; 1024];
        let drained = async {
            // Bounded in bytes as well as in time: nobody is listened to for ever.
            for _ in 0..64 {
                if self.stream.read(&mut sink).await? == 0 {
                    break;
                }
            }
            io::Result::Ok(())
        };
        match timeout(LINGER, drained).await {
            Ok(result) => result,
            // It keeps its side open: without a reset the kernel would hold the socket, and its slot, for a minute.
            Err(_) => self.stream.set_zero_linger(),
        }
    }
}
