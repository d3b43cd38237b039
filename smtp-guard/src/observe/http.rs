//! Metrics and health over HTTP, for scrapers and supervisors: `/metrics`, `/livez`, `/readyz`; and the status page
//! ([`super::page`]). Nothing can be changed here.
//!
//! On a loopback address it answers only requests for loopback names. Otherwise a page in a browser on this host could
//! read it under a name of the page's own that leads here (DNS rebinding).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::metrics::{Format, Metrics};
use super::page::Page;
use crate::bound::Bound;

/// Scrapes at once: each takes a thread and reads the kernel's maps. Health is answered beside them.
const SCRAPES: usize = 4;
/// How long a scrape may take.
const SCRAPE_WAIT: Duration = Duration::from_secs(10);

/// Whether all listeners are bound, as `/readyz` says it. Clones share it; it starts as not ready.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<AtomicBool>);

impl Ready {
    /// From now on `/readyz` says so.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Whether the guard is ready, as `/readyz` says.
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

    /// Serves at most `most` connections at once until the other end of `closing` is gone, and then what was asked before.
    pub async fn serve(self, metrics: Metrics, ready: Ready, page: Page, most: usize, closing: watch::Receiver<()>) {
        let only_loopback = self.address().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let scrapes = Arc::new(Semaphore::new(SCRAPES));
        metrics.bounds().limit(Bound::Scrapes, SCRAPES as u64);
        let router = Router::new()
            .route("/metrics", get(scrape))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .with_state(Served { metrics: metrics.clone(), ready, scrapes })
            .merge(page.routes(only_loopback))
            .layer(from_fn_with_state(only_loopback, only_loopback_names));
        super::serve::serve_until(closing, self.0, router, Bound::MetricsConnections, most, metrics).await;
    }
}

#[derive(Clone)]
struct Served {
    metrics: Metrics,
    ready: Ready,
    scrapes: Arc<Semaphore>,
}

/// Off the runtime's own threads: reading the kernel's maps takes system calls.
async fn scrape(State(Served { metrics, scrapes, .. }): State<Served>, asked: HeaderMap) -> Response {
    // Bytes that are no text name no format.
    let format = Format::accepted(asked.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()));
    let Ok(place) = scrapes.try_acquire_owned() else {
        metrics.bound_reached(Bound::Scrapes);
        return (StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once\n").into_response();
    };
    let encoding = tokio::task::spawn_blocking(move || {
        let text = metrics.encode(format);
        drop(place);
        text
    });
    match timeout(SCRAPE_WAIT, encoding).await {
        Ok(Ok(text)) => {
            ([(header::CONTENT_TYPE, format.content_type()), (header::VARY, "accept")], text).into_response()
        }
        Ok(Err(_)) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the kernel plane could not be read in time\n").into_response(),
    }
}

/// Refuses what is asked of another host than this one, if `only_loopback`.
async fn only_loopback_names(State(only_loopback): State<bool>, request: Request, next: Next) -> Response {
    let ours = names(&request).all(|name| name.is_some_and(|name| is_loopback_name(&name)));
    if only_loopback && !ours {
        let text = "only names of the loopback interface are answered here: ask for localhost or 127.0.0.1\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

/// The hosts that `request` says it is for, as they are compared: none, where it doesn't say; `None`: it is no name.
pub(super) fn names(request: &Request) -> impl Iterator<Item = Option<String>> {
    let name = |authority: &Authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        host.to_ascii_lowercase()
    };
    let named = request.headers().get_all(header::HOST).iter().map(HeaderValue::to_str);
    let named = named.map(move |host| Some(name(&host.ok()?.parse().ok()?)));
    request.uri().authority().map(|authority| Some(name(authority))).into_iter().chain(named)
}

/// Whether nothing but this host can be meant by `name`, one of [`names`].
pub(super) fn is_loopback_name(name: &str) -> bool {
    match name.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => {
            matches!(name, "localhost" | "localhost.localdomain" | "ip6-localhost" | "ip6-loopback")
                || name.ends_with(".localhost")
        }
    }
}

async fn readyz(State(Served { ready, .. }): State<Served>) -> (StatusCode, &'static str) {
    if ready.get() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the listeners are not bound\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PageAccess;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn check(ready: bool, path: &str, status: &str, body: &str) {
        let http = Http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = http.address().unwrap();
        let state = Ready::default();
        state.set(ready);
        let page = super::super::page::tests::page(PageAccess::Loopback);
        let (open, closing) = watch::channel(());
        let server = tokio::spawn(http.serve(Metrics::new(), state, page, 16, closing));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = if path.contains(' ') { path.to_owned() } else { format!("{path} HTTP/1.1\r\nHost: localhost") };
        let request = format!("GET {head}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.get(9..12) == Some(status), "{path}: {reply}");
        assert!(reply.contains(body), "{path}: {reply}");
        drop(open);
        server.await.unwrap();
    }

    #[tokio::test]
    async fn each_path_answers() {
        check(false, "/livez", "200", "ok\n").await;
        check(false, "/readyz", "503", "not bound").await;
        check(true, "/readyz", "200", "ok\n").await;
        check(true, "/metrics", "200", "smtp_guard_connections_total 0").await;
        check(true, "/metrics", "200", "content-type: text/plain; version=0.0.4; charset=utf-8\r\n").await;
        check(true, "/metrics", "200", "# TYPE smtp_guard_connections_total counter\n").await;
        let open = "/metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text";
        check(true, open, "200", "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n").await;
        check(true, open, "200", "# TYPE smtp_guard_connections counter\n").await;
        check(true, "/decisions", "404", "").await;
    }

    #[tokio::test]
    async fn e5_foreign_names_are_refused_on_loopback() {
        for host in ["127.0.0.1:9925", "127.9.9.9", "[::1]:9925", "LOCALHOST.", "guard.localhost:1", "ip6-localhost"] {
            check(true, &format!("/metrics HTTP/1.1\r\nHost: {host}"), "200", "smtp_guard_").await;
        }
        for host in [
            "rebound.example",
            "rebound.example:9925",
            "localhost.example",
            "notlocalhost",
            "192.0.2.1",
            "[2001:db8::1]",
            "",
            "localhost\r\nHost: rebound.example",
        ] {
            for path in ["/metrics", "/readyz", "/nothing"] {
                check(true, &format!("{path} HTTP/1.1\r\nHost: {host}"), "403", "ask for localhost").await;
            }
        }
        check(true, "http://rebound.example/metrics HTTP/1.1\r\nHost: localhost", "403", "").await;
        // Who doesn't say is no browser.
        check(true, "/livez HTTP/1.0\r\nAccept: */*", "200", "ok").await;
        assert!(!is_loopback_name("rebound.example") && is_loopback_name("localhost"));
    }

    #[tokio::test]
    async fn a_taken_address_is_named_with_the_way_out() {
        let http = Http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = http.address().unwrap();
        let error = Http::bind(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("choose a free"), "{error}");
    }
}
