//! `edge load | watch | unload | status`: the kernel plane without the proxy.

use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::args::{Edge, Interfaces};
use super::{blocklists, output, signals};
use crate::config::Config;
use crate::edge;
use crate::guard::follow::{self, Unloaded};
use crate::observe::log;

/// Performs `command` with what `config` says of the edge.
pub(super) fn edge(mut config: Config, command: Edge) -> anyhow::Result<()> {
    match command {
        Edge::Load { interfaces, json } => {
            choose(&mut config, interfaces)?;
            let loaded = edge::load(&config)?;
            let loaded =
                blocklists::fill(&config, loaded).context("the kernel plane is loaded, without block lists")?;
            output::show(json.json, &loaded, || loaded.text())
        }
        Edge::Watch { interfaces } => {
            choose(&mut config, interfaces)?;
            let _logging = log::init(&config.log)?;
            // A signal that ended it would have its unit unload the plane.
            signals::watch(None, None)?;
            let loaded = edge::load_present(&config)?;
            let said = loaded.to_string();
            let said = blocklists::fill(&config, loaded).map(|filled| filled.text()).unwrap_or_else(|error| {
                tracing::error!(error = %format!("{error:#}"), "the kernel plane is loaded, without block lists");
                said
            });
            said.lines().for_each(|line| tracing::info!("{line}"));
            // An error means that no service manager waits for it.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            // A signal ends it, and so does an unload by somebody else: who starts it again loads again.
            let config = Arc::new(config);
            Ok(follow::interfaces(move || Some(Arc::clone(&config)), Unloaded::End)?)
        }
        Edge::Unload { json } => {
            let removed = edge::unload(&config.edge.pin_directory)?;
            output::show(json.json, &removed, || match removed.as_slice() {
                [] => String::from("nothing was loaded"),
                removed => format!("removed:\n  {}", removed.join("\n  ")),
            })
        }
        Edge::Probe => {
            edge::permitted()?;
            edge::too_old().map_or(Ok(()), |why| Err(why.into()))
        }
        Edge::Status { json } => {
            let plane = edge::KernelPlane::open(&config.edge.pin_directory)?;
            let plane = plane.context("the kernel plane is not loaded; `smtp-guard edge load` loads it")?;
            let status = plane.status()?;
            output::show(json.json, &status, || output::tree(&status))
        }
    }
}

/// The interfaces of the command line come before those of the configuration; there has to be one.
fn choose(config: &mut Config, interfaces: Interfaces) -> anyhow::Result<()> {
    if !interfaces.interfaces.is_empty() {
        config.edge.interfaces = interfaces.interfaces;
    }
    if config.edge.interfaces.is_empty() {
        bail!("no interface: set edge.interfaces, or give --interface (`ip link` lists them)");
    }
    Ok(())
}
