//! The status page on the metrics listener: what `top` shows and more, in a browser. Nothing can be changed there.
//!
//! | path | answer |
//! |---|---|
//! | `/` | the page, complete without JavaScript |
//! | `/page/stream` | server-sent events: what has changed, once a second at most |
//! | `/page/…` | style, script, icon, and uPlot as it was released ([`assets`]) |
//!
//! # Who may read it
//! The page shows addresses of clients, and recipients that they asked for. So it is there only where `metrics.listen` is a
//! loopback address, unless `metrics.page` says otherwise. A web site in the operator's browser can't read it. Names of other
//! hosts are refused (DNS rebinding), no other origin may read it, and no stream is begun on behalf of one. Its text comes from
//! strangers. It is escaped as it is written ([`text`]), and the page's policy lets nothing run that isn't in the binary.
//!
//! # What it costs
//! Nothing while nobody looks: no snapshot, no history, no timer. While somebody does, one snapshot a second is taken and written once,
//! whoever reads it ([`feed`]). [`STREAMS`] pages are live at once; a reader that takes nothing for ten seconds is closed. A stream
//! ends within a minute, as every connection here does, and the page comes back. When the guard ends, streams end by a whole event.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use super::follow::Parts;
use super::status::Overview;
use crate::bound::Bound;
use crate::config::PageAccess;
use crate::decision::Decision;
use crate::rates::accounts::AccountList;

mod assets;
mod feed;
mod snapshot;
mod text;
mod view;

use feed::Feed;

/// Pages that are live at once.
pub const STREAMS: usize = 8;
/// Users that are asked for, those who are held first.
pub const USERS: usize = 64;
/// Sources that are looked at to find those near a limit.
pub const CANDIDATES: usize = 32;

/// Nothing but what is in the binary, and nothing of it in line.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

const OFF: &str = "the status page is off (metrics.page = \"off\")\n";
const NOT_HERE: &str = "the status page is answered on loopback addresses only, since addresses of clients stand on it: \
                        let metrics.listen be 127.0.0.1 and come by an SSH tunnel, or set metrics.page = \"everywhere\"\n";
const FOREIGN: &str =
    "the status page is answered under an IP address, localhost or this guard's hostname only: ask for one of these\n";
const OTHERS: &str = "the stream of the status page is for the page itself\n";

/// The page's questions to the guard, beside [`Overview`].
pub trait Desk: Clone + Send + Sync + 'static {
    /// Our name.
    fn hostname(&self) -> String;
    /// The latest bans in force, the last one first, at most [`crate::decision::LATEST`]; nothing where nobody answers.
    fn latest(&self) -> impl Future<Output = Vec<Decision>> + Send;
    /// Users who are held, then those who sent most, at most [`USERS`]. Takes locks for a while: not for a thread of the runtime.
    fn users(&self) -> AccountList;
    /// Who has used half of a limit or more: of `candidates`, and of those who hold connections now.
    fn near(&self, candidates: Vec<IpAddr>) -> impl Future<Output = Vec<Near>> + Send;
}

/// Somebody near a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Near {
    /// A source, a network or a user, as text.
    pub who: String,
    /// The key of the limit in the configuration.
    pub limit: String,
    pub count: u64,
    pub most: u64,
}

impl Near {
    /// Whether `count` is half of `most` or more; 0: there is no limit.
    pub fn is(count: u64, most: u64) -> bool {
        most > 0 && count.saturating_mul(2) >= most
    }
}

/// The page, to be put on a listener.
#[derive(Debug)]
pub struct Page {
    served: Router,
    access: PageAccess,
    hostname: Arc<str>,
}

impl Page {
    /// A page of what `overview` and `desk` say, for whom `access` lets in. Its streams end when the other end of `closing` is gone.
    pub fn new<D: Desk>(overview: Overview, desk: D, access: PageAccess, closing: watch::Receiver<()>) -> Self {
        overview.metrics.bounds().limit(Bound::PageStreams, STREAMS as u64);
        let hostname = desk.hostname().into();
        Self::of(Arc::new(Feed::new(overview, desk, closing)), access, hostname)
    }

    fn of<D: Desk>(feed: Arc<Feed<D>>, access: PageAccess, hostname: Arc<str>) -> Self {
        let served = Router::new().route("/", get(page::<D>)).route("/page/stream", get(stream::<D>)).with_state(feed);
        Self { served: assets::routes(served), access, hostname }
    }

    /// Its routes on a listener, which is reached by this host alone or not.
    pub(super) fn routes(self, is_loopback: bool) -> Router {
        let refusal = match (self.access, is_loopback) {
            (PageAccess::Off, _) => Some((StatusCode::NOT_FOUND, OFF)),
            (PageAccess::Loopback, false) => Some((StatusCode::FORBIDDEN, NOT_HERE)),
            (PageAccess::Loopback, true) | (PageAccess::Everywhere, _) => None,
        };
        let routes = match refusal {
            Some(refusal) => Router::new().route("/", get(async move || refusal)),
            None => self.served.layer(from_fn_with_state(self.hostname, only_our_names)),
        };
        routes.layer(from_fn(protect))
    }
}

async fn page<D: Desk>(State(feed): State<Arc<Feed<D>>>) -> Response {
    match feed.look().await {
        Some(frame) => {
            let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CACHE_CONTROL, "no-store")];
            (headers, view::page(&frame)).into_response()
        }
        None => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the guard could not be looked at: its log says why\n").into_response()
        }
    }
}

async fn stream<D: Desk>(State(feed): State<Arc<Feed<D>>>, asked: HeaderMap) -> Response {
    // Browsers say on whose behalf they ask. Another site couldn't read the answer, but it could take all places.
    if asked.get("sec-fetch-site").is_some_and(|site| site != "same-origin") {
        return (StatusCode::FORBIDDEN, OTHERS).into_response();
    }
    match feed.stream() {
        Some(parts) => {
            let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
            (headers, Body::new(Parts(parts))).into_response()
        }
        None => {
            let text = format!("{STREAMS} pages are live already: close one of them\n");
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

/// Refuses what is asked of a name that somebody else could let point here.
async fn only_our_names(State(hostname): State<Arc<str>>, request: Request, next: Next) -> Response {
    let is_ours = |name: &str| {
        super::http::is_loopback_name(name) || name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case(&hostname)
    };
    if super::http::names(&request).all(|name| name.is_some_and(|name| is_ours(&name))) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, FOREIGN).into_response()
    }
}

async fn protect(request: Request, next: Next) -> Response {
    let mut answer = next.run(request).await;
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
pub(in crate::observe) mod tests;
