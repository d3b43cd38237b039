//! `smtp-guard run`: puts the parts together, serves until it is told to stop, and takes them apart again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smtp_guard_ebpf::abi::Family;
use smtp_guard_ebpf::reason::Reason;
use tokio::task::JoinSet;

use super::desk::Desk;
use super::follow::{self, Unloaded};
use super::{signals, sink};
use crate::addr::BackendAddr;
use crate::config::{Config, Edge};
use crate::descriptors;
use crate::edge::bans::{BanTable, KernelBans};
use crate::edge::events::Sample;
use crate::edge::{self, EdgeError, KernelPlane};
use crate::facts;
use crate::feedback::{self, Meter};
use crate::observe::drops::Drops;
use crate::observe::http::{Http, Ready};
use crate::observe::log::Lost;
use crate::observe::metrics::{KernelStats, Metrics};
use crate::observe::status::{About, Kernel};
use crate::observe::{admin, log};
use crate::policy::Rules;
use crate::relay::{self, Blocklists, Bound, Shared};
use crate::store::Store;

/// How long the store may take to close.
const CLOSE: Duration = Duration::from_secs(10);
/// How long threads that block are waited for at the end.
const STUCK: Duration = Duration::from_secs(1);
/// How often lost lines of the log are looked for.
const LOOK: Duration = Duration::from_secs(1);

/// Pace of removing sources without connections from the kernel's map: 2048 entries are looked at each time.
const SWEEP: Duration = Duration::from_secs(1);
/// Sweeps after which counts are held against sockets.
const RECONCILE: u64 = 60;

/// Runs the guard.
pub fn run(config: Config) -> anyhow::Result<()> {
    let logging = log::init(&config.log)?;
    let (stopper, stop) = relay::stop();
    // First of all: a signal during the start must not end it by accident.
    signals::watch(Some(Box::new(move |name| {
        tracing::info!(signal = name, "stopping: idle sessions hear 421, transactions may end");
        stopper.stop();
    })))?;
    descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(config, logging.lost(), stop));
    // A thread that waits for a file system which doesn't answer is not waited for.
    runtime.shutdown_timeout(STUCK);
    result
}

async fn serve(mut config: Config, lost: Lost, stop: relay::Stop) -> anyhow::Result<()> {
    // What can fail because of the operator comes first, before anything is begun.
    let store = Store::open(&config.state.directory, config.limits.ipv6_prefix)?;
    let (store_state, digests) = (store.state().clone(), store.digests());
    let known = config.recipients.known.as_deref().map(facts::recipients::load).transpose()?;
    // Taken, but nobody can connect yet.
    let bound = Bound::bind(&config.listen)?;
    let admin_socket = admin::Socket::bind(&config.admin.socket)?;
    let http = match config.metrics.listen {
        Some(address) => Some(Http::bind(address).await?),
        None => None,
    };
    if config.backend.servers.is_empty() {
        start_sink(&mut config).await?;
    }
    let plane = kernel_plane(&config);

    let config = Arc::new(config);
    let metrics = Metrics::new();
    if let Some(plane) = &plane {
        metrics.kernel(Box::new(Observed { plane: Arc::clone(plane), wanted: config.edge.clone() }));
    }
    let drops = Arc::new(Drops::new(config.limits.ipv6_prefix, metrics.clone()));
    let mut side = JoinSet::new();
    if let Some(plane) = &plane {
        side.spawn(sweep(Arc::clone(plane)));
        watch_kernel(plane, &config, &drops)?;
    }
    let kernel_bans = plane.clone().map(|plane| plane as Arc<dyn KernelBans>);
    let bans = Arc::new(BanTable::new(kernel_bans, config.edge.max_sources as usize));
    let meter = Arc::new(Counted(metrics.clone()));
    let (feedback, feedback_task) = feedback::start(Arc::clone(&config), Arc::clone(&bans), store, meter);
    let rules = Arc::new(Rules::new(Arc::clone(&config), known).with_digests(digests));
    // What is open by now stays open.
    let budget = descriptors::Budget::of(&config);
    let plan = budget.plan;
    let warnings: Vec<_> = config.warnings().into_iter().chain(budget.warning()).collect();
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let shared = Shared::new(rules, feedback, metrics.clone(), bans, &plan)?;
    let blocklists = Blocklists::new(&shared, plane).read(&shared).await;
    let addresses = bound.addresses();
    // Only now, with kernel plane, bans and block lists in place: nobody slips in before they count and drop.
    let listeners = bound.listen()?;

    let about = About {
        started: crate::clock::now(),
        listeners: addresses.iter().map(ToString::to_string).collect(),
        backend: shared.backends(),
        certificates: shared.certificates(),
        metrics: metrics.clone(),
        bounds: metrics.bounds().clone(),
        store: store_state,
        warnings,
        drops,
    };
    let ready = Ready::default();
    side.spawn(follow_blocklists(blocklists, Arc::clone(&shared), stop.clone()));
    announce(&config, &about);
    side.spawn(admin::serve(admin_socket, Desk(Arc::clone(&shared)), about, plan.admin));
    if let Some(http) = http {
        side.spawn(http.serve(metrics, ready.clone(), plan.http));
    }
    side.spawn(count_lost_lines(lost, shared.metrics.clone()));
    ready.set(true);
    let cut_off = listeners.serve(Arc::clone(&shared), stop, config.drain).await;
    ready.set(false);
    if cut_off > 0 {
        tracing::warn!(
            sessions = cut_off,
            "stopped with sessions under way; their senders keep what was not acknowledged"
        );
    }
    // Sessions that were cut off still hold handles to the ledger's task: it is told to end, and writes the store.
    shared.feedback.close().await;
    if tokio::time::timeout(CLOSE, feedback_task).await.is_err() {
        tracing::warn!("the store was not closed in time");
    }
    side.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// The kernel plane, for scrape and status.
struct Observed {
    plane: Arc<KernelPlane>,
    wanted: Edge,
}

impl KernelStats for Observed {
    fn state(&self) -> Kernel {
        if let Some(why) = self.plane.absence() {
            return Kernel { present: false, text: why };
        }
        let carries = self.interfaces();
        let carries = |name: &String| carries.contains(&(name.clone(), true));
        let (on, off): (Vec<_>, Vec<_>) = self.wanted.interfaces.iter().cloned().partition(carries);
        let list = |names: &[String]| if names.is_empty() { "no interface".to_owned() } else { names.join(", ") };
        let mut text = format!("on {}, pinned in {}", list(&on), self.wanted.pin_directory.display());
        if !off.is_empty() {
            text.push_str(&format!("; gone or unfiltered: {}", list(&off)));
        }
        Kernel { present: true, text }
    }

    fn counters(&self) -> Vec<(Reason, Family, u64)> {
        // A scrape that can't read them shows none; the reason stands in the log of whoever changed the plane.
        self.plane.counters().unwrap_or_default()
    }

    fn sources(&self) -> Option<u64> {
        self.plane.established().ok().map(|sources| sources.len() as u64)
    }

    fn interfaces(&self) -> Vec<(String, bool)> {
        let interfaces = self.plane.interfaces().unwrap_or_default();
        interfaces.into_iter().map(|interface| (interface.name, interface.attached)).collect()
    }

    fn bans(&self) -> Option<u64> {
        let networks = self.plane.networks_in_map().ok()?.len();
        self.plane.bans_in_map().ok().map(|bans| (bans.len() + networks) as u64)
    }
}

/// What the ledger counts, in the metrics.
struct Counted(Metrics);

impl Meter for Counted {
    fn offence(&self, label: &'static str) {
        self.0.offence(label);
    }

    fn ban(&self, reason: Reason) {
        self.0.ban(reason);
    }

    fn deferral(&self, reason: Reason) {
        self.0.deferral(reason);
    }

    fn bans_active(&self, bans: usize, networks: usize) {
        self.0.bans_active(bans as u64, networks as u64);
    }

    fn store(&self, well: bool) {
        self.0.store(well);
    }

    fn report_dropped(&self) {
        self.0.report_dropped();
    }

    fn ban_latency(&self, time: Duration) {
        self.0.ban_latency(time);
    }

    fn bound_reached(&self, bound: &'static str) {
        self.0.bound_reached(bound);
    }
}

/// The kernel plane, if it is wanted. Where it isn't there, user space enforces until it is.
fn kernel_plane(config: &Config) -> Option<Arc<KernelPlane>> {
    if config.edge.interfaces.is_empty() {
        return None;
    }
    Some(Arc::new(match open_kernel_plane(config) {
        Ok(plane) => plane,
        Err(error) => {
            tracing::warn!(
                reason = %error,
                "no kernel plane: bans and limits are enforced in user space only, until one is loaded"
            );
            KernelPlane::awaited(&config.edge.pin_directory, &error)
        }
    }))
}

fn open_kernel_plane(config: &Config) -> Result<KernelPlane, EdgeError> {
    let directory = &config.edge.pin_directory;
    // Also where it is loaded: then programs, interfaces and settings become those of this version and configuration.
    let loaded = edge::load_present(config);
    let Some(plane) = KernelPlane::open(directory)? else {
        return Err(loaded.err().unwrap_or_else(|| EdgeError::NotLoaded { directory: directory.clone() }));
    };
    plane.configure(config)?;
    match loaded {
        Ok(loaded) => loaded.to_string().lines().for_each(|line| tracing::info!("{line}")),
        Err(error) => {
            tracing::info!(directory = %directory.display(), why = %error, "kernel plane taken over as it was loaded");
        }
    }
    Ok(plane)
}

/// Removes sources without connections from the kernel's map, so that it never fills up with them, and holds the counts
/// of the others against the sockets that there are.
async fn sweep(plane: Arc<KernelPlane>) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 1u64.. {
        tick.tick().await;
        if turn.is_multiple_of(RECONCILE) {
            let plane = Arc::clone(&plane);
            match tokio::task::spawn_blocking(move || plane.reconcile()).await {
                Ok(Ok(taken_back)) => {
                    for (source, connections) in taken_back {
                        tracing::warn!(?source, connections, "connections were counted that don't exist: taken back");
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "the kernel's counts were not held against the sockets"),
                Err(error) => tracing::debug!(%error, "the kernel's counts were not held against the sockets"),
            }
        }
        let plane = Arc::clone(&plane);
        // A plane that was unloaded meanwhile has nothing to sweep; the ledger's task says so in the log.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || plane.sweep_idle()).await {
            tracing::debug!(%error, "the kernel's map of sources was not swept");
        }
    }
}

/// Threads for what waits in the kernel; they end with the process.
fn watch_kernel(plane: &Arc<KernelPlane>, config: &Arc<Config>, drops: &Arc<Drops>) -> std::io::Result<()> {
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let config = Arc::clone(config);
    // That nothing is loaded is told by the ledger's task.
    thread("interfaces").spawn(move || follow::interfaces(&config, Unloaded::Wait))?;
    let (plane, drops) = (Arc::clone(plane), Arc::clone(drops));
    let take = move |samples: &[Sample], lost| {
        drops.take(samples, crate::clock::now());
        drops.lost(lost);
    };
    thread("drops").spawn(move || follow::events(&plane, take))?;
    Ok(())
}

/// Follows the files of the block lists, where there are any.
async fn follow_blocklists(blocklists: Option<Blocklists>, shared: Arc<Shared>, stop: relay::Stop) {
    if let Some(blocklists) = blocklists {
        blocklists.watch(shared, stop).await;
    }
}

/// Without a configuration file the built-in sink is the backend.
async fn start_sink(config: &mut Config) -> anyhow::Result<()> {
    let maildir = config.state.directory.join("maildir");
    let (address, sink) = sink::start(SocketAddr::from(([127, 0, 0, 1], 0)), &maildir).await?;
    tokio::spawn(sink);
    tracing::info!(%address, maildir = %maildir.display(), "no backend is configured: the built-in sink takes the mail");
    config.backend.servers.push(BackendAddr::Address(address));
    Ok(())
}

fn announce(config: &Config, about: &About) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listening = about.listeners.join(", "),
        backends = config.backend.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        metrics = config.metrics.listen.map(tracing::field::display),
        admin = %config.admin.socket.display(),
        "smtp-guard runs"
    );
}

/// Lines that were lost since standard error wasn't read are counted, and told where it is read again.
async fn count_lost_lines(mut lost: Lost, metrics: Metrics) {
    metrics.bounds().limit("log_lines", log::QUEUE as u64);
    loop {
        tokio::time::sleep(LOOK).await;
        let lost = lost.take();
        if lost > 0 {
            metrics.log_lines_lost(lost);
            tracing::error!(lost, "lines of this log were lost: standard error was not read fast enough");
        }
    }
}
