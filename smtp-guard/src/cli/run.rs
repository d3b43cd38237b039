//! `smtp-guard run`: sets up log, signals and the built-in sink, and runs the guard until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::desk::Desk;
use super::{signals, sink};
use crate::addr::BackendAddr;
use crate::config::{self, Config};
use crate::observe::log;
use crate::relay::Inherited;
use crate::{descriptors, guard, relay};

/// How long threads that block are waited for at the end.
const STUCK: Duration = Duration::from_secs(1);

/// Runs the guard by `config`, which was found in `file` or in its place.
pub fn run(config: Config, file: Option<PathBuf>) -> anyhow::Result<()> {
    // Before there are threads: the environment tells of them, and is changed.
    let (inherited, errors) = Inherited::take();
    let logging = log::init(&config.log)?;
    errors.iter().for_each(|error| tracing::warn!(%error, "a socket of the service manager can't be used"));
    let (stopper, stop) = relay::stop();
    // One that waits is as good as several.
    let (hang_up, hangup) = tokio::sync::mpsc::channel(1);
    // First of all: a signal during the start must not end it by accident.
    let end = move |name| {
        tracing::info!(
            signal = name,
            "stopping: idle sessions are closed with 421, transactions under way may be completed"
        );
        stopper.stop();
    };
    signals::watch(Some(Box::new(end)), Some(Box::new(move || _ = hang_up.try_send(()))))?;
    descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let sink = if config.backend.servers.is_empty() { Some(start_sink(&config).await?) } else { None };
        let with_sink = move |mut config: Config| {
            if config.backend.servers.is_empty() {
                config.backend.servers.extend(sink.clone());
            }
            config
        };
        let first = with_sink(config);
        let source = guard::Source {
            file: config::named(file.as_deref()),
            read: Box::new(move || config::find(file.as_deref()).map(|(config, _)| with_sink(config))),
        };
        guard::serve(first, source, (logging.control(), logging.lost()), hangup, stop, inherited, Desk).await
    });
    // A thread that waits for a file system which doesn't answer is not waited for.
    runtime.shutdown_timeout(STUCK);
    result
}

/// Without a configuration file the built-in sink is the backend.
async fn start_sink(config: &Config) -> anyhow::Result<BackendAddr> {
    let maildir = config.state.directory.join("maildir");
    let (address, sink) = sink::start(SocketAddr::from(([127, 0, 0, 1], 0)), &maildir).await?;
    tokio::spawn(sink);
    tracing::info!(%address, maildir = %maildir.display(), "no backend is configured: the built-in sink takes the mail");
    Ok(BackendAddr::Address(address))
}
