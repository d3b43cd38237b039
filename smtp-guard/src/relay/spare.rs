//! Connections to one server that ended cleanly, and wait for the next client.
//!
//! A connection that is used again saves its handshake, greeting, EHLO and STARTTLS, and the server a process. No client
//! may notice it by anything else. So only a connection without doubt is kept ([`Channel::is_clean`]):
//!
//! - nothing is unread or unsent;
//! - there was no login;
//! - the server refused nothing on it: servers count errors for each connection, and delay one with many;
//! - the last answer was a yes to the dot. The 354 before it shows that guard and server are in step. A yes to RSET shows
//!   nothing: it may be one more answer to RCPT.
//!
//! One that was opened early and has carried nothing yet is as good as a new one.
//!
//! Which client may be the next depends on `backend.identity`:
//!
//! - `none`: any client.
//! - `xclient`: the server has to learn who the client is. If the server takes another XCLIENT, that is said first.
//!   Postfix doesn't: it judges the right to XCLIENT by the address that the last one named (measured with 3.7.11). There
//!   the next client must have the same address and name. Only known senders leave their connection, since few
//!   newcomers come back.
//! - PROXY: none. There can't be a second header, so such a connection ends with its client.
//!
//! A server may answer twice, the second time when the next client is served already. It can't be told from one that is
//! quick. It is out of step by one answer from then on, which shows when DATA isn't answered by 354: no message is lost
//! by that.
//!
//! # Bounds
//! A connection waits for [`IDLE`], and serves at most [`MESSAGES`] messages and [`LIFE`]. At most [`MOST`] wait for each
//! server; others end. A waiting connection holds no place of `backend.connections`, but counts among them. A client that is
//! given a place takes a waiting connection, or ends one where there would be too many.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant as TokioInstant, sleep_until};

use super::connect::Channel;
use crate::bound::Bound;
use crate::observe::metrics::Metrics;

/// How long a connection waits for its next client.
const IDLE: Duration = Duration::from_secs(2);
/// How long a connection may be used.
const LIFE: Duration = Duration::from_secs(300);
/// How many messages it may carry. Postfix' own clients bound it likewise.
const MESSAGES: u32 = 100;
/// Connections that wait for each server.
const MOST: usize = 64;

/// The waiting connections of one server.
#[derive(Debug)]
pub(super) struct Spares {
    list: Mutex<List>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct List {
    /// The one that waits for longest comes first.
    waiting: Vec<Spare>,
    /// Nothing may wait here any more.
    closed: bool,
    /// Somebody ends those whose time is over.
    swept: bool,
}

#[derive(Debug)]
struct Spare {
    channel: Channel,
    until: TokioInstant,
}

impl Spares {
    pub(super) fn new(metrics: Metrics) -> Arc<Self> {
        metrics.bounds().limit(Bound::BackendSpares, MOST as u64);
        Arc::new(Self { list: Mutex::default(), metrics })
    }

    /// Keeps `channel` for the next client, or returns it where that must not be.
    pub(super) fn lend(self: &Arc<Self>, mut channel: Channel) -> Result<(), Box<Channel>> {
        let worn = channel.messages >= MESSAGES || crate::clock::now().since(channel.opened) >= LIFE;
        let Ok(runtime) = Handle::try_current() else { return Err(Box::new(channel)) };
        let mut list = self.list();
        if worn || list.closed || !channel.is_clean() {
            return Err(Box::new(channel));
        }
        if list.waiting.len() >= MOST {
            self.metrics.bound_reached(Bound::BackendSpares);
            return Err(Box::new(channel));
        }
        // Whoever sends meanwhile has a use for that room.
        channel.shorten_queue();
        // After the connection waits here: whoever is given its place should find it.
        let room = channel.room.take();
        list.waiting.push(Spare { channel, until: TokioInstant::now() + IDLE });
        let sweeps = !std::mem::replace(&mut list.swept, true);
        drop(list);
        drop(room);
        if sweeps {
            runtime.spawn(sweep(Arc::clone(self)));
        }
        Ok(())
    }

    /// Whether one of them `suits`.
    pub(super) fn has(&self, suits: impl Fn(&Channel) -> bool) -> bool {
        self.list().waiting.iter().any(|spare| suits(&spare.channel))
    }

    /// Takes the connection that waits for the shortest time among those that `suit`: those not needed end by themselves.
    pub(super) fn take(&self, suits: impl Fn(&Channel) -> bool) -> Option<Channel> {
        let mut list = self.list();
        let found = list.waiting.iter().rposition(|spare| suits(&spare.channel))?;
        Some(list.waiting.remove(found).channel)
    }

    /// Ends those that wait for longest, until at most `most` wait.
    pub(super) fn trim(&self, most: usize) {
        let mut list = self.list();
        let surplus = list.waiting.len().saturating_sub(most);
        let ended: Vec<_> = list.waiting.drain(..surplus).collect();
        drop(list);
        // Closed before another one is opened.
        drop(ended);
    }

    /// Ends what waits. Nothing waits here from now on.
    pub(super) fn close(&self) {
        let mut list = self.list();
        list.closed = true;
        let waiting = std::mem::take(&mut list.waiting);
        drop(list);
        end(waiting);
    }

    pub(super) fn waiting(&self) -> usize {
        self.list().waiting.len()
    }

    // Nothing in between can panic and leave it half changed.
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends connections whose time is over, until none waits.
async fn sweep(spares: Arc<Spares>) {
    loop {
        let next = {
            let mut list = spares.list();
            let now = TokioInstant::now();
            let over = list.waiting.iter().take_while(|spare| spare.until <= now).count();
            end(list.waiting.drain(..over).collect());
            let Some(first) = list.waiting.first() else {
                list.swept = false;
                return;
            };
            first.until
        };
        sleep_until(next).await;
    }
}

/// Each on its own: a server that doesn't read must not hold the others up.
fn end(spares: Vec<Spare>) {
    let Ok(runtime) = Handle::try_current() else { return };
    for spare in spares {
        runtime.spawn(spare.channel.quit());
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    use socket2::SockRef;

    use super::super::connect::{Caller, Connector};
    use super::super::socket;
    use super::super::window::Windows;
    use super::*;
    use crate::addr::BackendAddr;
    use crate::config::{Config, Identity};

    /// A server that says yes to everything.
    fn serve(listener: &TcpListener) -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.write_all(b"220 x\r\n")?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            line?;
            stream.write_all(b"250 x\r\n")?;
        }
        Ok(())
    }

    /// How many long queues there is room for.
    fn room(windows: &Windows, stream: &tokio::net::TcpStream) -> usize {
        std::iter::from_fn(|| windows.let_queue_grow(stream, u64::MAX, true, &mut None)?.ok()).collect::<Vec<_>>().len()
    }

    #[tokio::test]
    async fn c4_a_connection_that_waits_holds_no_room_for_a_long_queue() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = BackendAddr::Address(listener.local_addr().unwrap());
        let other = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        std::thread::spawn(move || serve(&listener));
        let mut config = Config::builtin();
        config.backend.identity = Identity::None;
        let connector = Connector::new(Arc::new(config)).unwrap();
        let addresses = connector.addresses(&server).await.unwrap();
        let mut channel = connector.open(&server, &addresses, &Caller::Probe).await.unwrap();
        let other = other.await.unwrap();
        let (windows, spares) = (Windows::new(&Metrics::new()), Spares::new(Metrics::new()));
        let all = room(&windows, &other);
        for _ in 0..2 {
            assert_eq!(channel.lengthen_queue(&windows, u64::MAX, true), None);
            assert!(channel.has_long_queue() && room(&windows, &other) < all);
            spares.lend(channel).unwrap();
            assert_eq!(room(&windows, &other), all);
            channel = spares.take(|_| true).unwrap();
            let held = SockRef::from(channel.stream.socket().unwrap()).send_buffer_size().unwrap();
            assert!(!channel.has_long_queue() && held <= socket::NEAR, "{held}");
        }
    }
}
