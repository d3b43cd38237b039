//! `edge load | watch | unload | status`: the kernel plane without the proxy.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use tracing::Level;

use super::admin_client::BadConfiguration;
use super::args::{Edge, Interfaces};
use super::{FAILED, Failure, blocklists, output};
use crate::config::{self, Config};
use crate::edge;
use crate::observe::{journal, log};

/// Performs `command` with what `config`, which was found in `file` or in its place, says of the edge.
pub(super) fn edge(mut config: Config, file: Option<PathBuf>, command: Edge) -> anyhow::Result<()> {
    match command {
        Edge::Load { interfaces, json } => {
            choose(&mut config, interfaces)?;
            let loaded = edge::load(&config)?;
            let loaded =
                blocklists::fill(&config, loaded).context("the kernel plane is loaded, without block lists")?;
            if journal::is_standard_error() && !json.json {
                // Beside the lines of `edge watch`, and as these are.
                let _logging = log::init(&config.log)?;
                loaded.text().lines().for_each(|line| tracing::info!("{line}"));
                super::reload::difference_to(file.as_deref()).iter().for_each(|warning| tracing::warn!("{warning}"));
                return Ok(());
            }
            output::show(json.json, &loaded, || loaded.text())?;
            super::reload::difference_to(file.as_deref()).iter().for_each(|warning| eprintln!("warning: {warning}"));
            Ok(())
        }
        Edge::Watch { interfaces } => super::watch::watch(config, file, interfaces),
        Edge::Unload { verbose, json } => {
            let removed = edge::unload(&config.edge.pin_directory)?;
            output::show(json.json, &Removed { removed: &removed }, || match removed.as_slice() {
                [] => String::from("nothing was loaded"),
                removed if verbose => format!("removed:\n  {}", removed.join("\n  ")),
                removed => format!("the kernel plane is unloaded: {} links, programs and maps removed", removed.len()),
            })
        }
        Edge::Probe => {
            edge::permitted()?;
            edge::too_old().map_or(Ok(()), |why| Err(why.into()))
        }
        // Answered before: it is no matter of a configuration that can be used.
        Edge::Wanted => Ok(()),
        Edge::Status { json } => {
            let plane = edge::KernelPlane::open(&config.edge.pin_directory)?;
            let plane = plane.context("the kernel plane is not loaded; `smtp-guard edge load` loads it")?;
            let status = plane.status()?;
            output::show(json.json, &status, || output::edge(&status))
        }
    }
}

/// Whether the configuration in `file`, or in its place, has anything to filter. One that can't be used is for those to complain
/// about who need it.
pub(super) fn wanted(file: Option<&Path>) -> Result<(), Failure> {
    let Ok((config, _)) = config::find(file) else { return Ok(()) };
    if config.edge.interfaces.is_empty() {
        super::say(
            Level::INFO,
            "edge.interfaces is not set: there is nothing to filter in the kernel, and the proxy enforces bans itself; set it, and \
             then `systemctl start smtp-guard-edge`",
        );
        return Err(Failure::Told(FAILED));
    }
    Ok(())
}

/// The answer of `edge unload --json`.
#[derive(Serialize)]
struct Removed<'a> {
    /// Links, programs and maps.
    removed: &'a [String],
}

/// The interfaces of the command line come before those of the configuration; there has to be one.
pub(super) fn choose(config: &mut Config, interfaces: Interfaces) -> anyhow::Result<()> {
    if !interfaces.interfaces.is_empty() {
        config.edge.interfaces = interfaces.interfaces;
    }
    if config.edge.interfaces.is_empty() {
        // As of a bad configuration: its unit isn't started again and again then.
        let error = "no interface: set edge.interfaces, or give --interface (`ip link` lists them)";
        return Err(BadConfiguration::new(error).into());
    }
    Ok(())
}
