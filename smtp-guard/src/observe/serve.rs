//! The bounded HTTP/1 server under both endpoints: so many connections, so long each, so long for a request's head.
//!
//! `axum::serve` has none of these bounds, and a client that says nothing would hold its place for ever. When all places are
//! taken, the connection that has been idle longest is closed in favour of the new one. So connections that say nothing, or
//! don't read, can't keep a supervisor's question waiting.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::metrics::Metrics;
use crate::bound::Bound;
use crate::decision::Operator;

/// Until the head of a request is there.
const HEAD: Duration = Duration::from_secs(5);
/// The life of a connection, kept alive or not. Scrapers and the command line connect again.
const LIFE: Duration = Duration::from_secs(60);
/// How often to look for a connection that is idle, while all are being answered.
const PACE: Duration = Duration::from_millis(20);

/// Serves until it is dropped, at most `most` connections at once. `bound` names the endpoint where they are all taken. Each
/// request carries what [`Peer::identify`] makes of its connection.
pub(super) async fn serve<L>(listener: L, router: Router, bound: Bound, most: usize, metrics: Metrics)
where
    L: Listener,
    L::Io: Peer,
{
    let (_open, closing) = watch::channel(());
    serve_until(closing, listener, router, bound, most, metrics).await;
}

/// Resolves when the other end of `closing` is gone. Cancel safe.
pub(super) async fn over(closing: &mut watch::Receiver<()>) {
    while closing.changed().await.is_ok() {}
}

/// Serves like [`serve`] until `closing` is [`over`], and then until all that was asked is answered.
pub(super) async fn serve_until<L>(
    mut closing: watch::Receiver<()>,
    mut listener: L,
    router: Router,
    bound: Bound,
    most: usize,
    metrics: Metrics,
) where
    L: Listener,
    L::Io: Peer,
{
    metrics.bounds().limit(bound, most as u64);
    // Dropping the set ends the connections together with the server.
    let mut tasks = JoinSet::new();
    let mut open: HashMap<Id, Connection> = HashMap::new();
    loop {
        let (io, _) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = over(&mut closing) => break,
        };
        let peer = io.identify();
        let mut told = false;
        loop {
            while let Some(ended) = tasks.try_join_next_with_id() {
                open.remove(&ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            if open.len() < most {
                break;
            }
            if !std::mem::replace(&mut told, true) {
                metrics.bound_reached(bound);
            }
            match longest_idle(&open) {
                Some(id) => _ = open.remove(&id).map(|connection| connection.task.abort()),
                None => tokio::time::sleep(PACE).await,
            }
        }
        let idle = Arc::new(Idle::new());
        let (service, seen) = (TowerToHyperService::new(router.clone()), Arc::clone(&idle));
        let service = service_fn(move |mut request: Request<Incoming>| {
            seen.ends();
            request.extensions_mut().insert(peer);
            let (answer, seen) = (service.call(request), Arc::clone(&seen));
            async move {
                let answer = answer.await;
                seen.begins();
                answer
            }
        });
        let mut closing = closing.clone();
        let task = tasks.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(io), service);
            let mut connection = pin!(connection);
            let served = async {
                tokio::select! {
                    ended = connection.as_mut() => return ended,
                    () = over(&mut closing) => connection.as_mut().graceful_shutdown(),
                }
                connection.await
            };
            match tokio::time::timeout(LIFE, served).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(endpoint = bound.label(), %error, "HTTP connection ended"),
                Err(_) => tracing::debug!(endpoint = bound.label(), "HTTP connection lived too long"),
            }
        });
        open.insert(task.id(), Connection { task, idle });
    }
    drop(listener);
    while tasks.join_next().await.is_some() {}
}

/// Facts about the peer that connects.
pub(super) trait Peer {
    fn identify(&self) -> Operator;
}

impl Peer for TcpStream {
    /// Nobody in particular: the way is open to the whole host.
    fn identify(&self) -> Operator {
        Operator::default()
    }
}

impl Peer for UnixStream {
    /// The user that the peer ran as when it connected (`SO_PEERCRED`).
    fn identify(&self) -> Operator {
        Operator { uid: self.peer_cred().ok().map(|peer| peer.uid()), local: false }
    }
}

/// An open connection.
struct Connection {
    task: AbortHandle,
    idle: Arc<Idle>,
}

/// Since when nothing is asked on a connection, in ns of [`Instant`]; [`ASKED`]: a request is being answered.
struct Idle(AtomicU64);

const ASKED: u64 = u64::MAX;

impl Idle {
    fn new() -> Self {
        Self(AtomicU64::new(crate::clock::now().as_ns()))
    }

    fn begins(&self) {
        self.0.store(crate::clock::now().as_ns(), Ordering::Relaxed);
    }

    fn ends(&self) {
        self.0.store(ASKED, Ordering::Relaxed);
    }
}

fn longest_idle(open: &HashMap<Id, Connection>) -> Option<Id> {
    let idle = open.iter().map(|(id, connection)| (connection.idle.0.load(Ordering::Relaxed), *id));
    idle.filter(|(since, _)| *since != ASKED).min_by_key(|(since, _)| *since).map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    const MOST: usize = 8;
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    /// `others` connections that each say `said`, then one question: the answer to it.
    async fn check(others: usize, said: &[u8]) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::new();
        let router = Router::new().route("/", get(async || "here"));
        let server = tokio::spawn(serve(listener, router, Bound::MetricsConnections, MOST, metrics.clone()));
        let mut held = Vec::new();
        for _ in 0..others {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            held.push(stream);
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut reply = String::new();
        late.read_to_string(&mut reply).await.unwrap();
        assert!(reply.ends_with("here"), "{reply}");
        let reached = metrics.bounds().view();
        assert_eq!(reached.first().map_or(0, |bound| bound.count), (others + 1).saturating_sub(MOST) as u64);
        // Whoever came before is closed from the oldest on, and no more than needed.
        let mut open = 0;
        for mut stream in held {
            let mut byte = [0; 512];
            let closed = async { while stream.read(&mut byte).await.is_ok_and(|read| read > 0) {} };
            open += usize::from(tokio::time::timeout(Duration::from_millis(50), closed).await.is_err());
        }
        assert_eq!(open, others.min(MOST - 1));
        server.abort();
    }

    #[tokio::test]
    async fn c6_idle_connections_make_room() {
        check(0, b"").await;
        check(MOST - 1, b"").await;
        check(64, b"").await;
        check(64, b"GET /").await;
        check(64, REQUEST).await;
    }
}
