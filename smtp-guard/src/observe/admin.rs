//! The admin API: JSON over HTTP/1 on a Unix socket that only the guard's user and group can open.
//!
//! | request | answer |
//! |---|---|
//! | GET /status | [`super::status::Status`] |
//! | GET /live | [`super::live::Live`] |
//! | GET /fleet | [`FleetView`]; 409 where there is no fleet |
//! | GET /events, [`Follow`] as query | [`super::follow::Line`]s, one a line |
//! | GET /decisions, [`Behind`] as query | a [`Part`] of the decisions in force |
//! | POST /decisions, [`Add`] | [`Kept`] with the [`Decision`] made |
//! | POST /decisions/import, [`Import`] | [`Kept`] with [`Imported`] |
//! | DELETE /decisions/{who}, [`Reach`] as query | [`Kept`] with the [`Decision`] lifted; 404 where there was none |
//! | DELETE /decisions, [`Reach`] as query | [`Kept`] with [`Deleted`] |
//! | GET /explain/{ip} | [`Explanation`] |
//! | GET /accounts | [`AccountList`] of at most [`ACCOUNTS`] users |
//! | GET /accounts/{user} | the [`AccountView`]; 404 where nothing is known |
//! | POST /accounts, [`Hold`] | the [`AccountView`] of the user, who is held now |
//! | DELETE /accounts/{user} | the [`AccountView`] that is forgotten; 404 where there was none |
//! | POST /try, [`Attempt`] | [`Rehearsal`] |
//! | POST /reload, [`Reload`] | [`Reloaded`]; 422 where the configuration can't be used |
//!
//! Errors are [`Failure`] with status 400 (bad request), 404, 405, 409 (refused: somebody who must not be blocked), 413, 422 or 503.

use std::net::IpAddr;
use std::time::Duration;

use axum::Extension;
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};

use super::attempt::{Attempt, Rehearsal};
use super::fleet::FleetView;
use super::follow::{self, FOLLOWERS, Follow, Followers};
use super::reload::{Reload, Reloaded};
pub use super::socket::{Socket, SocketError};
use super::status::Overview;
use crate::addr::{canonical, no_source};
use crate::bound::Bound;
use crate::config::FILE_BYTES;
use crate::decision::ControlError;
use crate::decision::{Decision, Entry, Explanation, Imported, Kept, Name, Operator, Part, Suspect};
use crate::gate::Ignored;
use crate::key::User;
use crate::key::Who;
use crate::rates::accounts::{AccountList, AccountView};

/// Bytes of a request's body.
const BODY: usize = 4096;
/// The most bytes of a request that imports.
const IMPORT_BODY: usize = 4 << 20;
/// Entries of one [`Import`]: so many keep others waiting for less than a tenth of a second.
pub const IMPORT_ENTRIES: usize = 8192;
/// The same where a configuration comes along, as a JSON string.
const CANDIDATE: usize = 2 * FILE_BYTES as usize + BODY;
/// Bytes of an operator's reason: what a log line shows of it.
pub const REASON_BYTES: usize = super::log::PRINTABLE_BYTES;
/// The longest ban that can be asked for: ten years.
pub const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The answer where there is none.
const NO_FLEET: &str = "this edge takes part in no fleet: set url, key_file and node in [fleet] (docs/fleet.md says how), \
                        then `smtp-guard check` and `smtp-guard reload`";

/// Users in one answer.
pub const ACCOUNTS: usize = 1000;

/// A user to be held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    pub user: String,
    /// 1 to [`LONGEST`]; none: until the user is released.
    pub seconds: Option<u64>,
    /// At most [`REASON_BYTES`], without control characters.
    pub reason: String,
}

/// A ban to be made by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Add {
    /// An address or a network.
    pub ip: Who,
    /// 1 to [`LONGEST`].
    pub seconds: u64,
    /// At most [`REASON_BYTES`], without control characters.
    pub reason: String,
    /// On this host only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

/// The reach of a decision or a lift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reach {
    /// On this host only.
    pub local: bool,
}

/// Which part of the decisions is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behind {
    /// The last entry of the part before, as [`Part::next`] has it; none: the first part.
    pub after: Option<String>,
}

/// Bans to be made together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// At most [`IMPORT_ENTRIES`].
    pub entries: Vec<Entry>,
    /// Where an entry has none of its own.
    pub reason: String,
    /// The file that the entries were read from.
    #[serde(default)]
    pub file: String,
}

/// How many decisions were lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    pub deleted: usize,
}

/// Any answer that isn't 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub error: String,
}

/// The thing that the API acts on: the guard, or a stand-in where the API itself is tested.
pub trait Control: Clone + Send + Sync + 'static {
    /// A part of the decisions in force: what comes behind `after`.
    fn decisions(&self, after: Option<String>) -> impl Future<Output = Result<Part, Refusal>> + Send;
    /// The latest bans in force, the last one first, at most [`crate::decision::LATEST`]; cheap whatever there is.
    fn latest(&self) -> impl Future<Output = Result<Vec<Decision>, Refusal>> + Send;
    /// The sources that offended last, the worst first; likewise.
    fn suspects(&self) -> impl Future<Output = Result<Vec<Suspect>, Refusal>> + Send;
    /// Bans `who`; what must not be blocked is refused.
    fn add(
        &self,
        who: Who,
        length: Duration,
        text: String,
        by: Operator,
    ) -> impl Future<Output = Result<Kept<Decision>, Refusal>> + Send;
    /// Bans all that `entries` are about, at most [`IMPORT_ENTRIES`].
    fn import(
        &self,
        file: Name,
        entries: Vec<Entry>,
        text: String,
        by: Operator,
    ) -> impl Future<Output = Result<Kept<Imported>, Refusal>> + Send;
    /// Lifts the decision on `who`.
    fn delete(&self, who: Who, by: Operator) -> impl Future<Output = Result<Option<Kept<Decision>>, Refusal>> + Send;
    /// Lifts all decisions.
    fn delete_all(&self, by: Operator) -> impl Future<Output = Result<Kept<usize>, Refusal>> + Send;
    /// All that is known of `ip`.
    fn explain(&self, ip: IpAddr) -> impl Future<Output = Result<Explanation, Refusal>> + Send;
    /// Users that sent something lately or are held, at most [`ACCOUNTS`].
    fn accounts(&self) -> impl Future<Output = Result<AccountList, Refusal>> + Send;
    /// The counts of `user`.
    fn account(&self, user: User) -> impl Future<Output = Result<Option<AccountView>, Refusal>> + Send;
    /// Holds `user`, for `length` or until he is released.
    fn hold(
        &self,
        user: User,
        length: Option<Duration>,
        text: String,
        by: Operator,
    ) -> impl Future<Output = Result<AccountView, Refusal>> + Send;
    /// Forgets what is counted of `user`, and his hold.
    fn release(&self, user: User, by: Operator) -> impl Future<Output = Result<Option<AccountView>, Refusal>> + Send;
    /// Reads the configuration again and applies it, or says what that would change.
    fn reload(&self, dry_run: bool, by: Operator) -> impl Future<Output = Result<Reloaded, Refusal>> + Send;
    /// Rehearses a client.
    fn attempt(&self, attempt: Attempt) -> impl Future<Output = Result<Rehearsal, Refusal>> + Send;
}

/// Why the guard didn't do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A refusal: the text says why.
    Refused(String),
    /// Bad input, by argument or in a file: the text says where and why.
    Bad(String),
    /// No answer now: the ledger has stopped or doesn't answer.
    Unavailable(String),
}

impl From<ControlError> for Refusal {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Unavailable(_) => Self::Unavailable(error.to_string()),
            ControlError::NoPlace(_) => Self::Bad(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

/// Serves the API on `socket`, at most `most` connections at once, until it is dropped, which removes the socket.
pub async fn serve<C: Control>(socket: Socket, control: C, overview: Overview, most: usize) {
    let metrics = overview.metrics.clone();
    metrics.bounds().limit(Bound::EventFollowers, FOLLOWERS as u64);
    let (listener, guard) = socket.into_parts();
    super::serve::serve(listener, router(control, overview), Bound::AdminConnections, most, metrics).await;
    drop(guard);
}

#[derive(Clone)]
struct Served<C> {
    control: C,
    overview: Overview,
    followers: Followers,
}

fn router<C: Control>(control: C, overview: Overview) -> Router {
    Router::new()
        .route("/status", get(status::<C>))
        .route("/live", get(live::<C>))
        .route("/fleet", get(fleet::<C>))
        .route("/events", get(events::<C>))
        .route("/decisions", get(list::<C>).post(add::<C>).delete(delete_all::<C>))
        .route("/decisions/{*who}", axum::routing::delete(delete::<C>))
        .route("/explain/{ip}", get(explain::<C>))
        .route("/accounts", get(accounts::<C>).post(hold::<C>))
        .route("/accounts/{user}", get(account::<C>).delete(release::<C>))
        .route("/try", axum::routing::post(attempt::<C>).layer(DefaultBodyLimit::max(CANDIDATE)))
        .route("/reload", axum::routing::post(reload::<C>))
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such path"))
        .method_not_allowed_fallback(async || problem(StatusCode::METHOD_NOT_ALLOWED, "no such method on this path"))
        .layer(DefaultBodyLimit::max(BODY))
        .route(
            "/decisions/import",
            axum::routing::post(import::<C>)
                .layer(DefaultBodyLimit::max(IMPORT_BODY))
                .fallback(async || problem(StatusCode::METHOD_NOT_ALLOWED, "no such method on this path")),
        )
        .with_state(Served { control, overview, followers: Followers::default() })
}

async fn status<C: Control>(State(shared): State<Served<C>>) -> Response {
    look(move || shared.overview.status(crate::clock::now())).await
}

async fn live<C: Control>(State(shared): State<Served<C>>) -> Response {
    let (bans, suspects) = match tokio::join!(shared.control.latest(), shared.control.suspects()) {
        (Ok(bans), Ok(suspects)) => (bans, suspects),
        (Err(refusal), _) | (_, Err(refusal)) => return refusal.into_response(),
    };
    look(move || shared.overview.live(&crate::clock::both(), bans, suspects)).await
}

async fn fleet<C: Control>(State(shared): State<Served<C>>) -> Response {
    let Some(fleet) = shared.overview.running.fleet() else {
        return Refusal::Refused(NO_FLEET.to_owned()).into_response();
    };
    let exempted = shared.overview.metrics.foreign_ignored(Ignored::Exempt);
    let (mut view, mut after) = (FleetView::new(fleet, exempted), None);
    loop {
        let part = match shared.control.decisions(after).await {
            Ok(part) => part,
            Err(refusal) => return refusal.into_response(),
        };
        view.count(&part.decisions);
        after = part.next;
        if after.is_none() {
            return Json(view).into_response();
        }
    }
}

async fn events<C: Control>(State(shared): State<Served<C>>, query: Result<Query<Follow>, QueryRejection>) -> Response {
    let follow = match asked(query) {
        Ok(follow) => follow,
        Err(problem) => return problem,
    };
    follow::answer(&shared.overview.events, &shared.followers, follow).unwrap_or_else(|| {
        shared.overview.metrics.bound_reached(Bound::EventFollowers);
        problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("{FOLLOWERS} others follow events: there is no room for more"),
        )
    })
}

/// Off the runtime's own threads: reading the kernel's maps takes system calls.
async fn look<T: Serialize + Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(what).await {
        Ok(seen) => Json(seen).into_response(),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the guard could not be looked at: its log says why"),
    }
}

async fn list<C: Control>(State(shared): State<Served<C>>, behind: Result<Query<Behind>, QueryRejection>) -> Response {
    match asked(behind) {
        Ok(Behind { after }) => answer(shared.control.decisions(after).await),
        Err(problem) => problem,
    }
}

async fn add<C: Control>(
    State(shared): State<Served<C>>,
    Extension(by): Extension<Operator>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let add: Add = match read(body, "ban") {
        Ok(add) => add,
        Err(problem) => return problem,
    };
    let by = Operator { local: add.local, ..by };
    match add.check() {
        Ok((who, length, text)) => answer(shared.control.add(who, length, text, by).await),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error),
    }
}

async fn import<C: Control>(
    State(shared): State<Served<C>>,
    Extension(by): Extension<Operator>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let import: Import = match read(body, "import") {
        Ok(import) => import,
        Err(problem) => return problem,
    };
    match import.check() {
        Ok(()) => answer(shared.control.import(Name::new(&import.file), import.entries, import.reason, by).await),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error),
    }
}

async fn delete<C: Control>(
    State(shared): State<Served<C>>,
    Extension(by): Extension<Operator>,
    UrlPath(who): UrlPath<String>,
    reach: Result<Query<Reach>, QueryRejection>,
) -> Response {
    let by = match asked(reach) {
        Ok(Reach { local }) => Operator { local, ..by },
        Err(problem) => return problem,
    };
    let Ok(who) = who.parse::<Who>() else {
        let shown = super::log::printable(who.as_bytes());
        return problem(StatusCode::BAD_REQUEST, &format!("{shown:?} is not an address or network"));
    };
    match shared.control.delete(who, by).await {
        Ok(None) => problem(StatusCode::NOT_FOUND, &format!("{who} is not blocked")),
        Ok(Some(decision)) => Json(decision).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn delete_all<C: Control>(
    State(shared): State<Served<C>>,
    Extension(by): Extension<Operator>,
    reach: Result<Query<Reach>, QueryRejection>,
) -> Response {
    let by = match asked(reach) {
        Ok(Reach { local }) => Operator { local, ..by },
        Err(problem) => return problem,
    };
    let deleted = shared.control.delete_all(by).await;
    answer(deleted.map(|Kept { what: deleted, saved, unconfirmed }| Kept {
        what: Deleted { deleted },
        saved,
        unconfirmed,
    }))
}

async fn explain<C: Control>(State(shared): State<Served<C>>, UrlPath(ip): UrlPath<String>) -> Response {
    match address(&ip) {
        Ok(ip) => answer(shared.control.explain(ip).await),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error),
    }
}

async fn accounts<C: Control>(State(shared): State<Served<C>>) -> Response {
    answer(shared.control.accounts().await)
}

async fn account<C: Control>(State(shared): State<Served<C>>, UrlPath(name): UrlPath<String>) -> Response {
    match user(&name) {
        Ok(user) => known(&user, shared.control.account(user.clone()).await),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error),
    }
}

async fn hold<C: Control>(
    State(shared): State<Served<C>>,
    Extension(by): Extension<Operator>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let hold: Hold = match read(body, "hold") {
        Ok(hold) => hold,
        Err(problem) => return problem,
    };
    match hold.check() {
        Ok((user, length, text)) => answer(shared.control.hold(user, length, text, by).await),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error),
    }
}

async fn release<C: Control>(
    State(shared): State<Served<C>>,
    Extension(by): Extension<Operator>,
    UrlPath(name): UrlPath<String>,
) -> Response {
    match user(&name) {
        Ok(user) => known(&user, shared.control.release(user.clone(), by).await),
        Err(error) => problem(StatusCode::BAD_REQUEST, &error),
    }
}

fn known(user: &User, found: Result<Option<AccountView>, Refusal>) -> Response {
    match found {
        Ok(None) => {
            let name = super::log::printable(user.name().as_bytes());
            problem(StatusCode::NOT_FOUND, &format!("nothing is counted of a user {name}, and he is not held"))
        }
        Ok(Some(view)) => Json(view).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn reload<C: Control>(
    State(shared): State<Served<C>>,
    Extension(by): Extension<Operator>,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match read::<Reload>(body, "reload") {
        Ok(Reload { dry_run }) => answer(shared.control.reload(dry_run, by).await),
        Err(problem) => problem,
    }
}

async fn attempt<C: Control>(State(shared): State<Served<C>>, body: Result<Bytes, BytesRejection>) -> Response {
    match read::<Attempt>(body, "attempt") {
        Ok(attempt) => {
            let attempt = match client(attempt.ip) {
                Ok(ip) => Attempt { ip, ..attempt },
                Err(error) => return problem(StatusCode::BAD_REQUEST, &error),
            };
            answer(shared.control.attempt(attempt).await)
        }
        Err(problem) => problem,
    }
}

/// The body, which is to be a `what`.
#[allow(clippy::result_large_err, reason = "a response either way")]
fn read<T: serde::de::DeserializeOwned>(body: Result<Bytes, BytesRejection>, what: &str) -> Result<T, Response> {
    let body = body.map_err(|rejection| problem(rejection.status(), &rejection.body_text()))?;
    serde_json::from_slice(&body)
        .map_err(|error| problem(StatusCode::BAD_REQUEST, &format!("the body is not a valid {what}: {error}")))
}

/// The query, or a refusal.
#[allow(clippy::result_large_err, reason = "a response either way")]
fn asked<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Response> {
    query.map(|Query(asked)| asked).map_err(|rejection| problem(StatusCode::BAD_REQUEST, &rejection.body_text()))
}

impl Add {
    fn check(self) -> Result<(Who, Duration, String), String> {
        let length = length(self.seconds)?;
        self.ip.address().map(client).transpose()?;
        Ok((self.ip, length, reason(self.reason)?))
    }
}

impl Import {
    fn check(&self) -> Result<(), String> {
        if self.entries.len() > IMPORT_ENTRIES {
            return Err(format!("more than {IMPORT_ENTRIES} entries at once"));
        }
        is_reason(&self.reason)?;
        for Entry { who: _, seconds, text } in &self.entries {
            seconds.map_or(Ok(()), |seconds| length(seconds).map(drop))?;
            text.as_deref().map_or(Ok(()), is_reason)?;
        }
        Ok(())
    }
}

impl Hold {
    fn check(self) -> Result<(User, Option<Duration>, String), String> {
        let length = self.seconds.map(length).transpose()?;
        Ok((user(&self.user)?, length, reason(self.reason)?))
    }
}

fn length(seconds: u64) -> Result<Duration, String> {
    match (1..=LONGEST.as_secs()).contains(&seconds) {
        true => Ok(Duration::from_secs(seconds)),
        false => Err(format!("seconds must be 1 to {}", LONGEST.as_secs())),
    }
}

fn reason(text: String) -> Result<String, String> {
    is_reason(&text).map(|()| text)
}

fn is_reason(text: &str) -> Result<(), String> {
    if text.len() > REASON_BYTES {
        return Err(format!("the reason is longer than {REASON_BYTES} bytes"));
    }
    if text.chars().any(char::is_control) { Err(String::from("the reason holds control characters")) } else { Ok(()) }
}

fn user(name: &str) -> Result<User, String> {
    User::new(name).ok_or_else(|| format!("{:?} is not the name of a user", super::log::printable(name.as_bytes())))
}

/// `ip` as a source is known by, if it can be one.
fn client(ip: IpAddr) -> Result<IpAddr, String> {
    match no_source(ip) {
        Some(kind) => Err(format!("{ip} is {kind}: no connection comes from it")),
        None => Ok(canonical(ip)),
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) => Ok(canonical(ip)),
        Err(_) => Err(format!("{:?} is not an IP address", super::log::printable(text.as_bytes()))),
    }
}

fn answer<T: Serialize>(result: Result<T, Refusal>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

fn problem(status: StatusCode, error: &str) -> Response {
    let error = error.to_owned();
    (status, Json(Failure { error })).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(error) => problem(StatusCode::CONFLICT, &error),
            Self::Bad(error) => problem(StatusCode::UNPROCESSABLE_ENTITY, &error),
            Self::Unavailable(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error),
        }
    }
}
