//! The running guard: its parts, how they are put together, and how they change.
//!
//! The configuration reaches the parts by [`reload`], at the start as well as later. First it is prepared: files are read
//! and addresses are bound, while nothing has changed yet. Then it is applied as a whole. What can't change is
//! [`crate::config::keys::needs_restart`].

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use smtp_guard_core::webhook::WebhookStatus;
use smtp_guard_ebpf::abi::Family;
use smtp_guard_ebpf::reason::Reason;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::blocklist::State;
use crate::bound;
use crate::clock::{Instant, WallTime};
use crate::config::{Change, Config, ConfigError};
use crate::decision::KernelView;
use crate::descriptors::{self, Budget};
use crate::edge::KernelPlane;
use crate::edge::bans::{BanTable, KernelBans};
use crate::events::{Bus, What};
use crate::facts;
use crate::feedback;
use crate::fleet::{Fleet, FleetStatus, Settings};
use crate::memory;
use crate::observe::admin;
use crate::observe::drops::Drops;
use crate::observe::http::{Http, Ready};
use crate::observe::live::SessionView;
use crate::observe::log::{self, LogControl, Lost};
use crate::observe::metrics::KernelStats;
use crate::observe::metrics::Metrics;
use crate::observe::page::Page;
use crate::observe::status::{
    Bans, Certificate, Configuration, Kernel, LastReload, Listener, Overview, Recipients, Running, Server,
};
use crate::offence::Digests;
use crate::rates::accounts::HeldUsers;
use crate::relay::{self, Blocklists, Bound, Doors, Generation, Inherited, Shared, Stop, Watchers};
use crate::snapshot::Snapshot;
use crate::store::{self, Sqlite, Store as _};
use crate::webhook::{self, Webhook};

mod bounds;
mod certificates;
mod fleet;
pub(crate) mod follow;
mod kernel;
mod manager;
mod meter;
mod page;
mod reload;

pub use reload::ReloadError;

/// How long the store may take to close.
const CLOSE: Duration = Duration::from_secs(10);
/// How long answers over HTTP that are under way may take at the end.
const LAST: Duration = Duration::from_secs(1);
/// How often lost lines of the log are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// Generations that sessions may still go by: older ones are not counted any more.
const EARLIER: usize = 1024;

/// Where the configuration comes from, each time it is read.
#[allow(missing_debug_implementations, reason = "a function has nothing to show")]
pub struct Source {
    /// As it is called; absolute.
    pub file: PathBuf,
    /// Reads it, with its drop-ins.
    pub read: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
}

/// The parts of a running guard.
pub struct Guard {
    shared: Arc<Shared>,
    plane: Arc<KernelPlane>,
    observed: Arc<kernel::Observed>,
    store: store::State,
    source: Source,
    fleet: Fleet,
    webhook: Webhook,
    /// What addresses are digested by where there is no fleet.
    digests: Digests,
    log: LogControl,
    ready: Ready,
    stop: Stop,
    started: Instant,
    drops: Arc<Drops>,
    /// Descriptors that were open when the places were shared out for the first time.
    open: u64,
    /// Changed by one reload at a time.
    parts: tokio::sync::Mutex<Parts>,
    seen: Mutex<Seen>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}

/// What changes with the configuration and isn't shared with sessions.
struct Parts {
    doors: Doors,
    watchers: Watchers,
    blocklists: Blocklists,
    http: Option<Web>,
}

/// The HTTP endpoint, which ends with this.
struct Web {
    task: JoinHandle<()>,
    open: watch::Sender<()>,
}

/// What `status` shows of the configuration.
#[derive(Debug)]
struct Seen {
    /// With what each has accepted.
    listeners: Vec<(SocketAddr, Arc<AtomicU64>)>,
    warnings: Vec<String>,
    since: WallTime,
    last: Option<LastReload>,
    /// Differences of the file that wait for a restart.
    waiting: Vec<Change>,
    earlier: Vec<Weak<Generation>>,
    /// Why the guard started without certificates that are configured, until they could be used.
    without_tls: Option<String>,
}

/// Runs a guard by `config` until `stop`. It reads its configuration again from `source`, when it is asked to by `control` or
/// by `hangup`. `console` makes the command line's side of a guard that runs. Addresses that are among `inherited` are not bound.
pub async fn serve<C: admin::Control>(
    config: Config,
    source: Source,
    (log, lost): (LogControl, Lost),
    mut hangup: tokio::sync::mpsc::Receiver<()>,
    stop: Stop,
    inherited: Inherited,
    console: impl FnOnce(Arc<Guard>) -> C,
) -> anyhow::Result<()> {
    let (config, missing) = tokio::task::spawn_blocking(move || certificates::usable(config)).await?;
    // What can fail because of the operator comes first, before anything is begun.
    let store = Sqlite::open(&config.state.directory, config.limits.ipv6_prefix)?;
    let (store_state, digests) = (store.state().clone(), store.digests());
    let known = config.recipients.known.as_deref().map(facts::recipients::load).transpose()?;
    let settings = Settings::load(&config)?;
    let receiver = webhook::Settings::load(&config)?;
    // Taken, but nobody can connect yet.
    let bound = Bound::bind_or_inherit(&config.listen, inherited)?;
    let admin_socket = admin::Socket::bind(&config.admin.socket)?;
    let http = match config.metrics.listen {
        Some(address) => Some(Http::bind(address).await?),
        None => None,
    };
    let plane = kernel::open(&config);

    let metrics = Metrics::new();
    bounds::tell(&metrics, &config);
    let (counted, slow) = (metrics.clone(), metrics.clone());
    let events = Bus::new(move |what| counted.told(what), move || slow.bound_reached(bound::Bound::EventBus));
    let full = metrics.clone();
    let webhook = Webhook::new(events.clone(), move || full.bound_reached(bound::Bound::Webhook));
    webhook.apply(receiver, 0);
    if let Some(missing) = &missing {
        let text = missing.why.clone();
        events.publish(crate::clock::wall(), What::Certificate { usable: false, text });
    }
    let drops = Arc::new(Drops::new(config.limits.ipv6_prefix, metrics.clone()));
    let mut side = JoinSet::new();
    side.spawn(kernel::sweep(Arc::clone(&plane)));
    let kernel_bans = Arc::clone(&plane) as Arc<dyn KernelBans>;
    let bans = Arc::new(BanTable::new(Some(kernel_bans), config.edge.max_sources as usize));
    let (fleet, heard) = Fleet::new();
    let shared_digests = settings.as_ref().map_or(digests, |settings| settings.seal().digests());
    let snapshot = Arc::new(Snapshot::new(Arc::new(config), known).with_digests(shared_digests));
    let meter = Arc::new(meter::Counted(metrics.clone(), events.clone()));
    let told = Arc::new(fleet::Told(fleet.clone(), metrics.clone()));
    let (feedback, feedback_task) =
        feedback::start(Arc::clone(&snapshot), Arc::clone(&bans), Box::new(store), meter, told);
    side.spawn(fleet::follow(heard, feedback.clone()));
    side.spawn(fleet::watch(fleet.clone(), events.clone()));
    metrics.bounds().limit(bound::Bound::Fleet, smtp_guard_core::fleet::REPORTS as u64);
    // What is open by now stays open.
    let open = descriptors::open();
    let budget = Budget::with_open(snapshot.config(), open);
    let mut warnings: Vec<_> = snapshot.config().warnings().into_iter().chain(budget.warning()).collect();
    let shared = Shared::new(snapshot, feedback, metrics.clone(), events.clone(), bans, &budget.plan)?;
    shared.recipient_warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let observed = Arc::new(kernel::Observed::new(Arc::clone(&plane), &shared));
    metrics.kernel(Arc::clone(&observed) as Arc<dyn KernelStats>);
    kernel::watch(&plane, &shared, &drops)?;
    let blocklists = Blocklists::new(Some(Arc::clone(&plane)));
    blocklists.apply(&shared).await;
    // Only now, with kernel plane, bans and block lists in place: nobody slips in before they count and drop.
    let doors = bound.listen()?.open(&shared, &stop);
    if missing.is_none() {
        warnings.extend(doors.warnings());
    }
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut watchers = Watchers::default();
    watchers.follow(&shared, &stop);

    let ready = Ready::default();
    let listeners = doors.accepted();
    side.spawn(blocklists.clone().watch(Arc::clone(&shared), stop.clone()));
    side.spawn(count_lost_lines(lost, metrics.clone()));
    let sessions = Arc::clone(&shared);
    side.spawn(memory::give_back(move || sessions.connections()));
    let guard = Arc::new(Guard {
        shared: Arc::clone(&shared),
        plane,
        observed,
        store: store_state,
        source,
        fleet: fleet.clone(),
        webhook: webhook.clone(),
        digests,
        log,
        ready: ready.clone(),
        stop: stop.clone(),
        open,
        started: crate::clock::now(),
        drops,
        parts: tokio::sync::Mutex::new(Parts { doors, watchers, blocklists, http: None }),
        seen: Mutex::new(Seen {
            listeners,
            warnings,
            since: crate::clock::wall(),
            last: None,
            waiting: Vec::new(),
            earlier: Vec::new(),
            without_tls: missing.as_ref().map(|missing| missing.why.clone()),
        }),
    });
    let running = Arc::clone(&guard) as Arc<dyn Running>;
    metrics.mirror(Arc::downgrade(&running));
    guard.parts.lock().await.http = http.map(|http| guard.serve_http(http, budget.plan.http));
    announce(&shared, &guard.seen().listeners);
    fleet.apply(settings);
    side.spawn(admin::serve(admin_socket, console(Arc::clone(&guard)), guard.overview(), budget.plan.admin));
    ready.set(true);
    manager::ready().await;
    side.spawn(manager::watchdog(shared.feedback.clone()));
    if let Some(missing) = missing {
        side.spawn(certificates::wait_for(missing, Arc::clone(&guard)));
    }
    let reloading = Arc::clone(&guard);
    side.spawn(async move {
        while hangup.recv().await.is_some() {
            // The log says what came of it.
            let _ = reloading.reload(false).await;
        }
    });
    let mut stopping = stop;
    stopping.requested().await;
    ready.set(false);
    manager::stopping(shared.current().config().drain).await;
    let cut_off = guard.close().await;
    if cut_off > 0 {
        tracing::warn!(
            sessions = cut_off,
            "stopped with sessions under way; their senders keep what was not acknowledged"
        );
    }
    // Sessions that were cut off still hold handles to the ledger's task: it is told to end, and writes the store.
    shared.feedback.close().await;
    fleet.apply(None);
    // Beside the store: a receiver that hangs puts nothing off.
    let (closed, ()) = tokio::join!(tokio::time::timeout(CLOSE, feedback_task), webhook.finish());
    if closed.is_err() {
        tracing::warn!("the store was not closed in time");
    }
    side.shutdown().await;
    // A reload that a file stalls has it; it ends with the process.
    if let Ok(mut parts) = guard.parts.try_lock()
        && let Some(http) = parts.http.take()
    {
        http.end().await;
    }
    tracing::info!("stopped");
    Ok(())
}

impl Guard {
    /// The state that all sessions share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The kernel plane's verdict on connections from `ip`; `None` where it filters nowhere, or can't be asked.
    pub async fn kernel_view(&self, ip: IpAddr) -> Option<KernelView> {
        let observed = Arc::clone(&self.observed);
        tokio::task::spawn_blocking(move || observed.view(ip)).await.ok()?
    }

    /// The fleet, whether this edge takes part in one or not.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// What there is to be seen of it.
    fn overview(self: &Arc<Self>) -> Overview {
        Overview {
            started: self.started,
            running: Arc::clone(self) as Arc<dyn Running>,
            metrics: self.shared.metrics.clone(),
            events: self.shared.events.clone(),
            bounds: self.shared.metrics.bounds().clone(),
            drops: Arc::clone(&self.drops),
        }
    }

    /// Serves metrics, health and the status page, at most `most` connections at once.
    fn serve_http(self: &Arc<Self>, http: Http, most: usize) -> Web {
        let access = self.shared.current().config().metrics.page;
        let (open, closing) = watch::channel(());
        let page = Page::new(self.overview(), page::Desk(Arc::clone(self)), access, closing.clone());
        let task = tokio::spawn(http.serve(self.shared.metrics.clone(), self.ready.clone(), page, most, closing));
        Web { task, open }
    }

    /// Waits for the sessions under way, as long as `drain` says. How many were cut off.
    async fn close(&self) -> usize {
        // A reload under way isn't waited for: a file may stall it, and what it opens finds that the guard stops.
        relay::drained(&self.shared, self.shared.current().config().drain).await
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        // A panic elsewhere can't leave it half changed.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Web {
    /// Ends it, with its streams; what was asked before is answered, if that doesn't take longer than [`LAST`].
    async fn end(mut self) {
        drop(self.open);
        if tokio::time::timeout(LAST, &mut self.task).await.is_err() {
            self.task.abort();
            let _ = self.task.await;
        }
    }
}

impl Running for Guard {
    fn listeners(&self) -> Vec<Listener> {
        let listener = |(address, accepted): &(SocketAddr, Arc<AtomicU64>)| Listener {
            address: address.to_string(),
            accepted: accepted.load(Ordering::Relaxed),
        };
        self.seen().listeners.iter().map(listener).collect()
    }

    fn servers(&self) -> Vec<Server> {
        self.shared.servers()
    }

    fn connections(&self) -> u64 {
        self.shared.open()
    }

    fn sessions(&self, most: usize) -> Vec<SessionView> {
        self.shared.seen_sessions(most)
    }

    fn connections_limit(&self) -> u64 {
        self.shared.current().places().into()
    }

    fn limits(&self) -> Vec<(&'static str, u64)> {
        let current = self.shared.current();
        let limits = &current.config().limits;
        let numbers = [
            ("connections", limits.connections),
            ("connections_per_minute", limits.connections_per_minute),
            ("failed_commands", limits.failed_commands),
            ("junk_commands", limits.junk_commands),
            ("messages_per_hour", limits.messages_per_hour),
            ("network_connections", limits.network_connections),
            ("recipients", limits.recipients),
            ("total_connections", limits.total_connections),
            ("user_messages_per_hour", limits.user_messages_per_hour),
            ("user_networks_per_day", limits.user_networks_per_day),
            ("user_recipients_per_hour", limits.user_recipients_per_hour),
        ];
        let size = [("message_size", limits.message_size)];
        numbers.map(|(name, limit)| (name, u64::from(limit))).into_iter().chain(size).collect()
    }

    fn bans(&self) -> Bans {
        self.shared.bans_in_force()
    }

    fn held_users(&self) -> HeldUsers {
        self.shared.held_users()
    }

    fn recipients(&self) -> Recipients {
        self.shared.recipients()
    }

    fn fleet(&self) -> Option<FleetStatus> {
        self.fleet.status()
    }

    fn webhook(&self) -> Option<WebhookStatus> {
        self.webhook.status()
    }

    fn is_dns_silent(&self) -> bool {
        self.shared.is_dns_silent()
    }

    fn store_trouble(&self) -> Option<String> {
        self.store.trouble()
    }

    fn store_failures(&self) -> u64 {
        self.store.failures()
    }

    fn blocklists(&self) -> Vec<State> {
        self.shared.blocklist_states()
    }

    fn kernel(&self) -> Kernel {
        self.observed.state()
    }

    fn packets(&self) -> Vec<(Reason, Family, u64)> {
        self.observed.counters()
    }

    fn certificates(&self, now: WallTime) -> Vec<Certificate> {
        self.shared.certificates(now)
    }

    fn tls_trouble(&self) -> Option<String> {
        self.seen().without_tls.clone().or_else(|| self.shared.tls_trouble())
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = self.seen().warnings.clone();
        // The table may have changed since.
        warnings.extend(self.shared.recipient_warnings());
        warnings
    }

    fn configuration(&self) -> Configuration {
        let seen = self.seen();
        Configuration {
            generation: self.shared.current().snapshot.generation(),
            since: seen.since,
            last_reload: seen.last.clone(),
            waiting: seen.waiting.iter().map(|change| change.key.clone()).collect(),
            earlier_sessions: seen.earlier_sessions(),
        }
    }
}

impl Seen {
    /// Sessions that go by an earlier generation.
    fn earlier_sessions(&self) -> u64 {
        self.earlier.iter().filter_map(Weak::upgrade).map(|generation| generation.sessions()).sum()
    }
}

fn announce(shared: &Shared, listeners: &[(SocketAddr, Arc<AtomicU64>)]) {
    let generation = shared.current();
    let config = generation.config();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listening = listeners.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(", "),
        backends = config.backend.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        metrics = config.metrics.listen.map(tracing::field::display),
        admin = %config.admin.socket.display(),
        "smtp-guard runs"
    );
}

/// Lines that were lost since standard error wasn't read are counted, and told where it is read again.
async fn count_lost_lines(mut lost: Lost, metrics: Metrics) {
    metrics.bounds().limit(bound::Bound::LogLines, log::QUEUE as u64);
    loop {
        tokio::time::sleep(LOOK).await;
        let lost = lost.take();
        if lost > 0 {
            metrics.log_lines_lost(lost);
            tracing::error!(lost, "lines of this log were lost: standard error was not read fast enough");
        }
    }
}
