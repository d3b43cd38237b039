//! `check`: the configuration, and all that it names, in one go.

use std::path::Path;

use anyhow::anyhow;

use super::{Failure, blocklists, output};
use crate::config::{self, Config};
use crate::descriptors::Budget;
use crate::facts::recipients;
use crate::{edge, relay};

/// Checks the configuration in `path` and the files that it names: better said now than at the next start.
pub(super) fn check(path: &Path) -> Result<(), Failure> {
    let config = config::load(path)?;
    let (errors, warnings) = examine(&config)?;
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    errors.iter().for_each(|error| eprintln!("error: {error}"));
    match errors.len() {
        0 => Ok(output::line(&format!("{}: the configuration is valid", path.display()))?),
        1 => Err(anyhow!("{}: a file that it names can't be used", path.display()).into()),
        count => Err(anyhow!("{}: {count} files that it names can't be used", path.display()).into()),
    }
}

/// What is wrong with the files that `config` names, all of it, and what is probably not meant so.
fn examine(config: &Config) -> Result<(Vec<String>, Vec<String>), Failure> {
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
