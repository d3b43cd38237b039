//! Interfaces that were gone and are back: a link ends with its interface, and a new one of the same name has none.
//!
//! Until the program is put on it, an interface that comes back is unfiltered. To look at every change of interfaces
//! ([`super::interfaces::Changes`]) keeps that time short.

use std::io;
use std::os::fd::AsFd;

use super::attach::{Attached, Links, modes, pinned_xdp};
use super::error::EdgeError;
use super::interfaces::{index_of, is_on};
use super::load::lock;
use super::pins::{Pins, XDP};
use super::sys;
use crate::config::Config;

/// The outcome of [`returned`].
#[derive(Debug, Default)]
pub struct Returned {
    /// Interfaces that have the program again.
    pub attached: Vec<Attached>,
    /// Interfaces that it can't be put on, and why.
    pub failed: Vec<(String, EdgeError)>,
}

/// Interfaces of `config` that don't exist now.
pub fn missing(config: &Config) -> Vec<String> {
    config.edge.interfaces.iter().filter(|name| index_of(name).is_none()).cloned().collect()
}

/// Puts the program that is loaded on those interfaces that exist and don't carry it: the ones that the last load wanted, and
/// `awaited`, which weren't there then. Fails where no plane is loaded, or this process may not.
pub fn returned(config: &Config, awaited: &[String]) -> Result<Returned, EdgeError> {
    let pins = Pins::new(&config.edge.pin_directory);
    let mut found = Returned::default();
    if bare(&pins, awaited)?.is_empty() {
        return Ok(found);
    }
    let _lock = lock(&config.edge.pin_directory)?;
    // Another one may have been faster, or have unloaded the plane.
    for (name, index) in bare(&pins, awaited)? {
        match attach(&pins, config, &name, index) {
            Ok(attached) => found.attached.push(attached),
            Err(error) => found.failed.push((name, error)),
        }
    }
    Ok(found)
}

/// Interfaces that exist and should carry the program, and don't. Where this process may not see whether it is ours, it is.
fn bare(pins: &Pins, awaited: &[String]) -> Result<Vec<(String, u32)>, EdgeError> {
    if !pins.program(XDP).exists() {
        return Err(EdgeError::NotLoaded { directory: pins.directory().to_owned() });
    }
    let links = pins.xdp_links().map_err(EdgeError::pin("reading", pins.directory()))?;
    let linked = |name: &str, index: u32| {
        links.iter().filter(|(linked, _, _)| linked == name).any(|(_, _, path)| match sys::open_pin(path) {
            Ok(link) => is_on(link.as_fd(), index),
            Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
        })
    };
    let names = links.iter().map(|(name, _, _)| name).chain(awaited);
    let mut bare: Vec<_> = names
        .filter_map(|name| Some((name.clone(), index_of(name)?)))
        .filter(|(name, index)| !linked(name, *index))
        .collect();
    bare.sort_unstable();
    bare.dedup();
    Ok(bare)
}

fn attach(pins: &Pins, config: &Config, name: &str, index: u32) -> Result<Attached, EdgeError> {
    let mut links = Links::open(pins, &[])?;
    let attached = links.attach(&mut pinned_xdp(&pins.program(XDP))?, name, index, modes(config.edge.mode))?;
    links.add()?;
    Ok(attached)
}
