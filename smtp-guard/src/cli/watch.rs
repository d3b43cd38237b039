//! `edge watch`: loads the kernel plane and stays, for interfaces that come back and for another configuration. What is loaded
//! stays when it ends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use sd_notify::NotifyState;

use super::args::Interfaces;
use super::{blocklists, edge, signals};
use crate::config::{self, Config};
use crate::guard::follow::{self, Unloaded};
use crate::observe::log::{self, LogControl, Logging};

/// Watches by `config`, which was found in `file` or in its place, until a signal ends the process.
pub(super) fn watch(mut config: Config, file: Option<PathBuf>, interfaces: Interfaces) -> anyhow::Result<()> {
    edge::choose(&mut config, interfaces.clone())?;
    let logging = log::init(&config.log)?;
    let control = logging.control();
    let logging = Arc::new(Mutex::new(Some(logging)));
    let result = watch_until_unloaded(config, file, interfaces, control, &logging);
    close(&logging);
    result
}

/// Watches; `logging` is closed where the process is ended by a signal.
fn watch_until_unloaded(
    config: Config,
    file: Option<PathBuf>,
    interfaces: Interfaces,
    control: LogControl,
    logging: &Arc<Mutex<Option<Logging>>>,
) -> anyhow::Result<()> {
    let current = Arc::new(ArcSwap::from_pointee(config));
    let changing = Arc::clone(&current);
    let reload = move || match again(file.as_deref(), &interfaces) {
        Ok(config) => {
            if let Err(error) = control.apply(&config.log) {
                tracing::error!(%error, "the log's settings can't be changed: the former ones stay");
            }
            changing.store(Arc::new(config));
        }
        Err(error) => tracing::error!("the kernel plane was not loaded again, and the former one stays: {error:#}"),
    };
    let open = Arc::clone(logging);
    signals::watch(Some(Box::new(move |name| end(name, &open))), Some(Box::new(reload)))?;
    load(&current.load())?;
    // An error means that no service manager waits for it.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let mut pulse = Pulse::new();
    // It is asked for the configuration at each turn, which takes two seconds at most.
    let config = move || {
        pulse.beat();
        Some(current.load_full())
    };
    // A signal ends it, and so does an unload by somebody else: who starts it again loads again.
    Ok(follow::interfaces(config, Unloaded::End)?)
}

/// Loads the kernel plane and fills in the block lists.
fn load(config: &Config) -> anyhow::Result<()> {
    let loaded = crate::edge::load_present(config)?;
    let said = loaded.to_string();
    let said = blocklists::fill(config, loaded).map(|filled| filled.text()).unwrap_or_else(|error| {
        tracing::error!(error = %format!("{error:#}"), "the kernel plane is loaded, without block lists");
        said
    });
    said.lines().for_each(|line| tracing::info!("{line}"));
    Ok(())
}

/// Reads the configuration again and loads the plane by it, without a gap.
fn again(file: Option<&Path>, interfaces: &Interfaces) -> anyhow::Result<Config> {
    let (mut config, _) = config::find(file)?;
    edge::choose(&mut config, interfaces.clone())?;
    if is_replaced() {
        // Its programs are those of the former version: the new one may have loaded its own by now.
        tracing::warn!(
            "this program was replaced by another version, which loads its own plane: restart the unit \
             (`systemctl restart smtp-guard-edge`)"
        );
        return Ok(config);
    }
    load(&config).context("loading")?;
    Ok(config)
}

/// Whether the file that this program was started from is gone.
fn is_replaced() -> bool {
    std::fs::read_link("/proc/self/exe").is_ok_and(|path| path.to_string_lossy().ends_with(" (deleted)"))
}

/// Acts on a signal that ends a daemon.
fn end(signal: &str, logging: &Mutex<Option<Logging>>) {
    tracing::info!(
        signal,
        "stopping: the kernel plane stays loaded, and keeps dropping banned and listed sources; `smtp-guard edge unload` removes it"
    );
    // An error means that no service manager listens.
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    close(logging);
    std::process::exit(0);
}

/// Writes what waits of the log.
fn close(logging: &Mutex<Option<Logging>>) {
    drop(logging.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Tells the service manager that this process is alive, as often as the unit wants to hear it (`WatchdogSec=`).
struct Pulse {
    pace: Option<Duration>,
    last: Option<Instant>,
}

impl Pulse {
    fn new() -> Self {
        Self { pace: sd_notify::watchdog_enabled().map(|patience| patience / 4), last: None }
    }

    fn beat(&mut self) {
        let Some(pace) = self.pace else { return };
        if self.last.is_none_or(|last| last.elapsed() >= pace) {
            self.last = Some(Instant::now());
            // An error means that nobody hears it.
            let _ = sd_notify::notify(&[NotifyState::Watchdog]);
        }
    }
}
