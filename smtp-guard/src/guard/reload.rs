//! Another configuration while mail flows: prepared while nothing has changed, then applied as a whole, or not at all.
//!
//! # Order
//! The kernel guards the ports of both configurations while listeners change, so no packet is unfiltered. Sessions begin by the
//! new generation from one moment on, and keep theirs. After that, bans of sources that are exempt now end in both planes. A
//! listener that closes lets in every client that has connected.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{EARLIER, Guard, kernel};
use crate::config::{self, Change, Config, ConfigError};
use crate::descriptors::Budget;
use crate::edge::EdgeError;
use crate::events::What;
use crate::facts;
use crate::facts::recipients::{KnownRecipients, RecipientsError};
use crate::fleet::{FleetError, Settings};
use crate::observe::attempt::Candidate;
use crate::observe::http::{Http, HttpError};
use crate::observe::reload::Reloaded;
use crate::observe::status::LastReload;
use crate::relay::{BindError, Generation, StartError};
use crate::snapshot::Known;
use crate::webhook::{self, WebhookError};

/// Why nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Recipients(#[from] RecipientsError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the kernel plane can't be changed: {0}")]
    Kernel(#[from] EdgeError),
    #[error("the guard is stopping")]
    Stopping,
    #[error("the log says why: the reload broke off")]
    Broken,
}

impl ReloadError {
    /// As it is shown: of a bad file each fault with its place.
    pub fn text(&self) -> String {
        match self {
            Self::Config(ConfigError::Bad(report)) => report.render(false),
            other => other.to_string(),
        }
    }
}

/// The HTTP endpoint of `config`, if it is another one than that of `before`. One that is on the same port can't be bound beside
/// that: it is, when that has ended.
async fn bind_http(before: &Config, config: &Config) -> Result<Option<Http>, HttpError> {
    let same_port = |address: &SocketAddr| before.metrics.listen.is_some_and(|old| old.port() == address.port());
    match config.metrics.listen.filter(|_| config.metrics != before.metrics) {
        Some(address) if !same_port(&address) => Http::bind(address).await.map(Some),
        _ => Ok(None),
    }
}

/// A recipient table, and what it is to hold.
type Renewed = (Known, Arc<KnownRecipients>);

/// Everything that a configuration needs, made while nothing has changed.
struct Prepared {
    generation: Generation,
    budget: Budget,
    /// What the file of the recipient table holds now, where it is the same file.
    renewed: Option<Renewed>,
    fleet: Option<Settings>,
    receiver: Option<webhook::Settings>,
    changes: Vec<Change>,
}

impl Guard {
    /// Reads the configuration again and applies it; `dry_run`: only says what it would do. A bad one changes nothing.
    pub async fn reload(self: &Arc<Self>, dry_run: bool) -> Result<Reloaded, ReloadError> {
        // Whoever asked may go away; what was begun is done to its end.
        let guard = Arc::clone(self);
        let done = tokio::spawn(async move {
            let result = guard.try_reload(dry_run).await;
            if !dry_run {
                guard.tell(&result);
            }
            result
        });
        done.await.unwrap_or(Err(ReloadError::Broken))
    }

    async fn try_reload(self: &Arc<Self>, dry_run: bool) -> Result<Reloaded, ReloadError> {
        let mut parts = self.parts.lock().await;
        if self.stop.is_requested() {
            return Err(ReloadError::Stopping);
        }
        let (before, file) = (self.shared.current(), self.source.file.display().to_string());
        // Files are read there.
        let guard = Arc::clone(self);
        let prepared =
            tokio::task::spawn_blocking(move || guard.prepare()).await.map_err(|_| ReloadError::Broken)??;
        let Prepared { generation, budget, renewed, fleet, receiver, changes } = prepared;
        let config = Arc::clone(generation.config());
        let table = renewed.as_ref().map(|(_, table)| Arc::clone(table)).or_else(|| generation.snapshot.known());
        let missing = table.as_ref().map(|table| table.missing(&config.relay.domains)).unwrap_or_default();
        let recipients = facts::recipients::warnings(&missing);
        let mut warnings: Vec<_> = config.warnings().into_iter().chain(budget.warning()).collect();
        let is_new = |address: SocketAddr| !parts.doors.configured().any(|open| open == address);
        let new: Vec<_> = config.listen.iter().filter(|listen| is_new(listen.address)).cloned().collect();
        let bound = parts.doors.bind(&new)?;
        let http = match bind_http(before.config(), &config).await {
            Ok(http) => http,
            Err(error) => {
                parts.doors.settle();
                return Err(error.into());
            }
        };
        if dry_run {
            warnings.extend(recipients);
            drop(bound);
            parts.doors.settle();
            let generation = before.snapshot.generation();
            let earlier_sessions = self.seen().earlier_sessions();
            return Ok(Reloaded { generation, dry_run, file, changes, warnings, earlier_sessions });
        }
        if let Err(error) = self.change_kernel(&before, &config).await {
            parts.doors.settle();
            return Err(error.into());
        }
        // From here on nothing can fail but what is said and goes on.
        let listeners = match bound.listen() {
            Ok(listeners) => listeners,
            Err(error) => {
                parts.doors.settle();
                return Err(error.into());
            }
        };
        if let Some((known, table)) = renewed {
            known.store(table);
        }
        let generation = Arc::new(generation);
        self.shared.adopt(Arc::clone(&generation));
        self.shared.recipients_read();
        if let Err(error) = self.shared.feedback.apply(Arc::clone(&generation.snapshot)).await {
            tracing::error!(%error, "the ledger keeps the former configuration");
        }
        self.fleet.apply(fleet);
        self.webhook.apply(receiver, self.shared.events.last());
        parts.doors.add(listeners);
        let goes = |address| !config.listen.iter().any(|listen| listen.address == address);
        parts.doors.close(goes).await;
        parts.doors.settle();
        warnings.extend(parts.doors.warnings());
        parts.watchers.follow(&self.shared, &self.stop);
        if config.metrics != before.config().metrics {
            if let Some(old) = parts.http.take() {
                // Its socket is closed then.
                old.end().await;
            }
            let http = match (http, config.metrics.listen) {
                (None, Some(address)) => match Http::bind(address).await {
                    Ok(http) => Some(http),
                    Err(error) => {
                        warnings.push(error.to_string());
                        None
                    }
                },
                (http, _) => http,
            };
            parts.http = http.map(|http| self.serve_http(http, budget.plan.http));
        }
        if let Err(error) = self.log.apply(&config.log) {
            tracing::error!(%error, "the log's settings can't be changed: the former ones stay");
        }
        warnings.extend(self.change_interfaces(&before, &config).await);
        // What is guarded no longer was guarded until its door was closed.
        if before.config().listen != config.listen {
            self.configure_kernel(Arc::clone(&config)).await.unwrap_or_else(|error| {
                warnings.push(format!("the kernel plane guards ports that are no longer listened on: {error}"));
            });
        }
        parts.blocklists.apply(&self.shared).await;
        let mut seen = self.seen();
        seen.listeners = parts.doors.accepted();
        // Those of the table are told as it is then.
        seen.warnings.clone_from(&warnings);
        warnings.extend(recipients);
        seen.since = crate::clock::wall();
        // It could not have been built without them.
        seen.without_tls = None;
        seen.waiting = changes.iter().filter(|change| change.restart.is_some()).cloned().collect();
        seen.earlier.retain(|generation| generation.strong_count() > 0);
        if seen.earlier.len() == EARLIER {
            seen.earlier.remove(0);
        }
        seen.earlier.push(Arc::downgrade(&before));
        drop(before);
        let earlier_sessions = seen.earlier_sessions();
        let generation = generation.snapshot.generation();
        Ok(Reloaded { generation, dry_run, file, changes, warnings, earlier_sessions })
    }

    /// Prepares `candidate`, to be tried; with its name and where it differs, unless it is in force.
    pub async fn candidate(
        self: &Arc<Self>,
        candidate: Candidate,
    ) -> Result<(Arc<Generation>, Option<String>), ReloadError> {
        let guard = Arc::clone(self);
        let built = move || {
            let Candidate { files } = candidate;
            let file = Config::merged(&files, &config::machine()).map_err(ConfigError::from)?;
            let before = guard.shared.current();
            if before.config().changes(&file).is_empty() {
                return Ok((before, None));
            }
            let Prepared { generation, changes, .. } = guard.build(&before, file)?;
            let keys: Vec<_> = changes.into_iter().map(|change| change.key).collect();
            let name = files.first().map(|file| file.path.display().to_string()).unwrap_or_default();
            let by = format!("{name}, which is not in force: {}", keys.join(", "));
            Ok((Arc::new(generation), Some(by)))
        };
        tokio::task::spawn_blocking(built).await.map_err(|_| ReloadError::Broken)?
    }

    /// Reads the configuration and what it names, and builds what it needs. Blocks.
    fn prepare(&self) -> Result<Prepared, ReloadError> {
        self.build(&self.shared.current(), (self.source.read)()?)
    }

    /// Builds what `file` needs in place of `before`. Blocks.
    fn build(&self, before: &Arc<Generation>, file: Config) -> Result<Prepared, ReloadError> {
        let changes = before.config().changes(&file);
        let config = Arc::new(file.with_fixed_of(before.config()));
        let (known, renewed) = known(before, &config)?;
        let fleet = Settings::load(&config)?;
        let receiver = webhook::Settings::load(&config)?;
        let digests = fleet.as_ref().map_or(self.digests, |fleet| fleet.seal().digests());
        let snapshot = Arc::new(before.snapshot.next(config, known).with_digests(digests));
        let budget = Budget::with_open(snapshot.config(), self.open);
        let generation =
            Generation::build(snapshot, budget.plan, Some(before), &self.shared.metrics, &self.shared.events)?;
        Ok(Prepared { generation, budget, renewed, fleet, receiver, changes })
    }

    /// What the kernel has is that of `config`, and as well what of `before` is still in use. Where that fails it has what it had.
    async fn change_kernel(&self, before: &Generation, config: &Arc<Config>) -> Result<(), EdgeError> {
        let mut both = Config::clone(config);
        both.listen.extend(before.config().listen.iter().cloned());
        match self.configure_kernel(Arc::new(both)).await {
            Ok(()) => Ok(()),
            Err(error) => {
                if let Err(error) = self.configure_kernel(Arc::clone(before.config())).await {
                    tracing::error!(%error, "the kernel plane may have settings of two configurations");
                }
                Err(error)
            }
        }
    }

    async fn configure_kernel(&self, config: Arc<Config>) -> Result<(), EdgeError> {
        let plane = Arc::clone(&self.plane);
        let configure = move || if plane.is_current() { plane.configure(&config) } else { Ok(()) };
        // A panic is in the log.
        tokio::task::spawn_blocking(configure).await.unwrap_or(Ok(()))
    }

    /// What the operator has to do, if it can't be done here.
    async fn change_interfaces(&self, before: &Generation, config: &Arc<Config>) -> Option<String> {
        if before.config().edge.interfaces == config.edge.interfaces {
            return None;
        }
        let config = Arc::clone(config);
        let change = move || kernel::change_interfaces(&config);
        tokio::task::spawn_blocking(change).await.ok()?.err()
    }

    /// Tells log, metrics and `status` what came of a reload.
    fn tell(&self, result: &Result<Reloaded, ReloadError>) {
        let error = result.as_ref().err().map(ReloadError::text);
        let what = match result {
            Ok(Reloaded { generation, changes, .. }) => {
                let (waiting, live): (Vec<_>, Vec<_>) = changes.iter().partition(|change| change.restart.is_some());
                let keys = |changes: Vec<&Change>| changes.into_iter().map(|change| change.key.clone()).collect();
                What::Reloaded { generation: *generation, changed: keys(live), waiting: keys(waiting) }
            }
            Err(error) => What::ReloadRefused { error: error.text().lines().next().unwrap_or_default().to_owned() },
        };
        self.shared.events.publish(crate::clock::wall(), what);
        match result {
            Ok(Reloaded { generation, changes, warnings, .. }) => {
                let live: Vec<_> =
                    changes.iter().filter(|change| change.restart.is_none()).map(|c| c.key.as_str()).collect();
                tracing::info!(generation, changed = live.join(", "), "configuration reloaded");
                for Change { key, restart, .. } in changes {
                    if let Some(why) = restart {
                        tracing::warn!(key, "needs a restart: {key} ({why})");
                    }
                }
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Err(_) => {
                let error = error.as_deref().unwrap_or_default();
                tracing::error!("the configuration was not reloaded, and all stays as it was: {error}");
            }
        }
        self.shared.metrics.reloaded(result.is_ok());
        self.seen().last = Some(LastReload { at: crate::clock::wall(), error });
    }
}

/// The recipient table of `config`, and what that of `before` is to hold, where it is of the same file: that is followed in any
/// case, by sessions of all generations.
fn known(before: &Generation, config: &Config) -> Result<(Option<Known>, Option<Renewed>), RecipientsError> {
    let Some(path) = &config.recipients.known else { return Ok((None, None)) };
    let table = Arc::new(facts::recipients::load(path)?);
    let same = before.config().recipients.known.as_ref() == Some(path);
    Ok(match before.snapshot.known_table().filter(|_| same) {
        Some(known) => (Some(Arc::clone(&known)), Some((known, table))),
        None => (Some(Arc::new(arc_swap::ArcSwap::new(table))), None),
    })
}
