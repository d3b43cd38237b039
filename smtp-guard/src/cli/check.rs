//! `check`: the configuration, and all that it names, in one go.

use std::path::Path;

use anyhow::anyhow;

use super::{Failure, blocklists, output, setup};
use crate::config::{self, Config};
use crate::descriptors::Budget;
use crate::facts::recipients;
use crate::relay::probe;
use crate::{edge, relay};

/// Checks the configuration in `path` and the files that it names: better said now than at the next start.
pub(super) fn check(path: &Path, connects: bool) -> Result<(), Failure> {
    let config = config::load(path)?;
    let (mut errors, mut warnings) = examine(&config)?;
    if connects {
        connect(&config, &mut errors, &mut warnings)?;
    }
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    errors.iter().for_each(|error| eprintln!("error: {error}"));
    match errors.len() {
        0 => Ok(output::line(&format!("{}: the configuration is valid", path.display()))?),
        1 => Err(anyhow!("{}: what it names can't be used", path.display()).into()),
        count => Err(anyhow!("{}: {count} of what it names can't be used", path.display()).into()),
    }
}

/// Tries all servers of the backend as the guard does; says what was found.
fn connect(config: &Config, errors: &mut Vec<String>, warnings: &mut Vec<String>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for server in &config.backend.servers {
        match runtime.block_on(probe::look(config, server)) {
            Ok(found) => {
                let tls = if found.secured { "after STARTTLS" } else { "in clear text" };
                output::line(&format!("{server}: takes the guard, {tls}; greets with {:?}", found.greeting))?;
                warnings.extend(
                    setup::doubts(&found, config.backend.identity)
                        .into_iter()
                        .map(|doubt| format!("{server}: {doubt}")),
                );
            }
            Err(why) => errors.push(format!("{server} {why}")),
        }
    }
    Ok(())
}

/// What is wrong with the files that `config` names, all of it, and what is probably not meant so.
pub(super) fn examine(config: &Config) -> Result<(Vec<String>, Vec<String>), Failure> {
    let (mut errors, mut warnings) = (Vec::new(), config.warnings());
    if let Some(tls) = &config.tls {
        match relay::try_load(tls, crate::clock::wall()) {
            Ok(said) => warnings.extend(said),
            Err(error) => errors.push(error.to_string()),
        }
    }
    match config.recipients.known.as_deref().map(recipients::load).transpose() {
        Ok(None) => {}
        Ok(Some(table)) => warnings.extend(recipients::warnings(&table.missing(&config.relay.domains))),
        Err(error) => errors.push(error.to_string()),
    }
    errors.extend(blocklists::check(config)?);
    warnings.extend(Budget::of(config).warning());
    warnings.extend(edge::objections(config).into_iter().map(|objection| objection.to_string()));
    let missing = edge::missing(config);
    if !missing.is_empty() {
        warnings.push(format!(
            "edge.interfaces: there is no interface {} here, so nothing is filtered there until it comes (`ip link` shows those there are)",
            missing.join(", ")
        ));
    }
    Ok((errors, warnings))
}
