//! Metrics and health over HTTP, for scrapers and supervisors: `/metrics`, `/livez`, `/readyz`. Nothing can be changed here.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::metrics::{CONTENT_TYPE, Metrics};

/// Whether all listeners are bound, as `/readyz` says it. Clones share it; it starts as not ready.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// From now on `/readyz` says so.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// What `/readyz` says.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The endpoint can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("metrics.listen {address}: {source}; choose a free address, or listen = \"\" for none")]
pub struct HttpError {
    address: SocketAddr,
    source: io::Error,
}

/// The bound endpoint.
#[derive(Debug)]
pub struct Http(TcpListener);

impl Http {
    /// Binds `address` (`metrics.listen`).
    pub async fn bind(address: SocketAddr) -> Result<Self, HttpError> {
        match TcpListener::bind(address).await {
            Ok(listener) => Ok(Self(listener)),
            Err(source) => Err(HttpError { address, source }),
        }
    }

    /// The address that was bound: of use where port 0 was asked for.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Serves until it is dropped.
    pub async fn serve(self, metrics: Metrics, ready: Ready) {
        let router = Router::new()
            .route("/metrics", get(scrape))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .with_state((metrics.clone(), ready));
        super::serve::serve(self.0, router, "metrics_connections", metrics).await;
    }
}

type Shared = State<(Metrics, Ready)>;

/// Off the runtime's own threads: reading the kernel's maps takes system calls.
async fn scrape(State((metrics, _)): Shared) -> Response {
    match tokio::task::spawn_blocking(move || metrics.encode()).await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn readyz(State((_, ready)): Shared) -> (StatusCode, &'static str) {
    if ready.get() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the listeners are not bound\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn check(ready: bool, path: &str, status: &str, body: &str) {
        let http = Http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = http.address().unwrap();
        let state = Ready::default();
        state.set(ready);
        let server = tokio::spawn(http.serve(Metrics::new(), state));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {reply}");
        assert!(reply.contains(body), "{path}: {reply}");
        server.abort();
    }

    #[tokio::test]
    async fn each_path_answers() {
        check(false, "/livez", "200", "ok\n").await;
        check(false, "/readyz", "503", "not bound").await;
        check(true, "/readyz", "200", "ok\n").await;
        check(true, "/metrics", "200", "smtp_guard_connections_total 0").await;
        check(true, "/metrics", "200", CONTENT_TYPE).await;
        check(true, "/decisions", "404", "").await;
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_the_way_out() {
        let http = Http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = http.address().unwrap();
        let error = Http::bind(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("choose a free"), "{error}");
    }
}
