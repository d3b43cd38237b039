//! `smtp-guard run`: puts the parts together, serves until it is told to stop, and takes them apart again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::sink;
use crate::addr::BackendAddr;
use crate::config::Config;
use crate::edge::bans::BanTable;
use crate::edge::{self, KernelPlane};
use crate::facts::recipients::KnownRecipients;
use crate::feedback;
use crate::observe::metrics::Metrics;
use crate::observe::{admin, http, log};
use crate::policy::Rules;
use crate::relay::{self, Listeners, Shared};
use crate::store::Store;

/// How long sessions may go on after the guard was told to stop. A client whose message is cut off keeps it and comes
/// back; 10 s lets nearly all of them finish.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs the guard.
pub fn run(config: Config) -> anyhow::Result<()> {
    log::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config))
}

async fn serve(mut config: Config) -> anyhow::Result<()> {
    // What can fail because of the operator comes first, before anything is begun.
    let store = Store::open(&config.state.directory)?;
    let known = config.recipients.known.as_deref().map(KnownRecipients::load).transpose()?;
    let listeners = Listeners::bind(config.listen.iter().map(|listen| listen.address))?;
    let admin_socket = admin::bind(&config.admin)?;
    let http_socket = http::bind(&config.metrics).await?;
    if config.backend.servers.is_empty() {
        start_sink(&mut config).await?;
    }
    let (kernel, kernel_note) = kernel_plane(&config);

    let config = Arc::new(config);
    let metrics = Metrics::new();
    if let Some(kernel) = &kernel {
        metrics.watch_kernel(Arc::clone(kernel));
    }
    let kernel_bans = kernel.clone().map(|plane| plane as Arc<dyn edge::bans::KernelBans>);
    let bans = Arc::new(BanTable::new(kernel_bans, config.edge.max_sources as usize));
    let (feedback, feedback_task) =
        feedback::start(Arc::clone(&config), Arc::clone(&bans), store, Arc::new(metrics.clone()));
    let rules = Arc::new(Rules::new(Config::clone(&config), known));
    let shared = Shared::new(rules, feedback.clone(), metrics.clone(), bans);

    let (stopper, stop) = relay::stop();
    let addresses = listeners.addresses();
    let admin_state = admin::State::new(Arc::clone(&config), feedback, metrics.clone(), &addresses, kernel_note);
    let side: [JoinHandle<()>; 2] = [
        tokio::spawn(admin::serve(admin_socket, admin_state)),
        tokio::spawn(http::serve(http_socket, metrics.clone())),
    ];
    announce(&config, &addresses);
    metrics.ready(true);
    tokio::spawn(async move {
        wait_for_signal().await;
        stopper.stop();
    });
    let cut_off = listeners.serve(Arc::clone(&shared), stop, DRAIN).await;
    metrics.ready(false);
    if cut_off > 0 {
        tracing::warn!(sessions = cut_off, "stopped with sessions under way; their senders keep what was not acknowledged");
    }
    // The ledger's task ends when the last handle to it is gone: then the store is written and closed.
    for task in side {
        task.abort();
        let _ = task.await;
    }
    drop(shared);
    if tokio::time::timeout(DRAIN, feedback_task).await.is_err() {
        tracing::warn!("the store was not closed in time");
    }
    let _ = std::fs::remove_file(&config.admin.socket);
    tracing::info!("stopped");
    Ok(())
}

/// The kernel plane, if it is wanted and can be had. Otherwise why not, for log and status: user space enforces then.
fn kernel_plane(config: &Config) -> (Option<Arc<KernelPlane>>, Option<String>) {
    if config.edge.interfaces.is_empty() {
        return (None, Some("no [edge] interfaces are configured".to_owned()));
    }
    match open_kernel_plane(config) {
        Ok(plane) => (Some(Arc::new(plane)), None),
        Err(error) => {
            let note = error.to_string();
            tracing::warn!(reason = note, "no kernel plane: bans and limits are enforced in user space only");
            (None, Some(note))
        }
    }
}

fn open_kernel_plane(config: &Config) -> Result<KernelPlane, edge::EdgeError> {
    let directory = &config.edge.pin_directory;
    if let Some(plane) = KernelPlane::open(directory)? {
        plane.configure(config)?;
        tracing::info!(directory = %directory.display(), "kernel plane taken over");
        return Ok(plane);
    }
    let loaded = edge::load(config)?;
    for line in loaded.to_string().lines() {
        tracing::info!("{line}");
    }
    KernelPlane::open(directory)?.ok_or_else(|| edge::EdgeError::NotLoaded { directory: directory.clone() })
}

/// Without a configuration file the built-in sink is the backend.
async fn start_sink(config: &mut Config) -> anyhow::Result<()> {
    let maildir = config.state.directory.join("maildir");
    let (address, sink) = sink::start(SocketAddr::from(([127, 0, 0, 1], 0)), &maildir).await?;
    tokio::spawn(sink);
    tracing::info!(%address, maildir = %maildir.display(), "no backend is configured: the built-in sink takes the mail");
    config.backend.servers.push(BackendAddr(address));
    Ok(())
}

fn announce(config: &Config, addresses: &[SocketAddr]) {
    let backends: Vec<String> = config.backend.servers.iter().map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listening = ?addresses,
        backends = backends.join(", "),
        metrics = ?config.metrics.listen,
        admin = %config.admin.socket.display(),
        "smtp-guard runs"
    );
}

/// SIGTERM and SIGINT stop the guard; what drains then is bounded by [`DRAIN`].
async fn wait_for_signal() {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match signals {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping: idle sessions hear 421, transactions may end");
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "cannot watch for signals");
            std::future::pending::<()>().await;
        }
    }
}
