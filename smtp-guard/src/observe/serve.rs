//! The bounded HTTP/1 server under both endpoints: so many connections, so long each, so long for a request's head.
//!
//! `axum::serve` has none of these bounds, and a client that says nothing would hold its place for ever.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::metrics::Metrics;

/// Connections of one endpoint at once; further ones wait in the accept queue.
const CONNECTIONS: usize = 16;
/// Until the head of a request is there.
const HEAD: Duration = Duration::from_secs(5);
/// The life of a connection, kept alive or not. Scrapers and the command line connect again.
const LIFE: Duration = Duration::from_secs(60);

/// Serves until it is dropped. `bound` names the endpoint where its connections are all taken.
pub(super) async fn serve<L>(mut listener: L, router: Router, bound: &'static str, metrics: Metrics)
where
    L: Listener,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    // Dropping the set ends the connections together with the server.
    let mut connections = JoinSet::new();
    loop {
        if places.available_permits() == 0 {
            metrics.bound_reached(bound);
        }
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (io, _) = listener.accept().await;
        while connections.try_join_next().is_some() {}
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(io), service);
            match tokio::time::timeout(LIFE, connection).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(endpoint = bound, %error, "HTTP connection ended"),
                Err(_) => tracing::debug!(endpoint = bound, "HTTP connection lived too long"),
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn connections_are_bounded_and_come_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Metrics::new();
        let router = Router::new().route("/", get(async || "here"));
        let server = tokio::spawn(serve(listener, router, "test_connections", metrics.clone()));
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let full = "smtp_guard_bound_reached_total{bound=\"test_connections\"} 1";
        while !metrics.encode().contains(full) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut late = TcpStream::connect(address).await.unwrap();
        late.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        idle.pop();
        let mut reply = String::new();
        late.read_to_string(&mut reply).await.unwrap();
        assert!(reply.ends_with("here"), "{reply}");
        server.abort();
    }
}
