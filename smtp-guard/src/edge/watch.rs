//! Interfaces that were gone and are back: a link ends with its interface, and a new one of the same name has none.
//!
//! Until the program is put on it, an interface that comes back is unfiltered. Who looks at every change of interfaces
//! ([`super::interfaces::Changes`]) keeps that to milliseconds.

use std::os::fd::AsFd;

use super::attach::{Attached, Links, modes, pinned_xdp};
use super::error::EdgeError;
use super::interfaces::index_of;
use super::load::lock;
use super::pins::{Mode, Pins, XDP};
use super::sys;
use crate::config::Config;

/// What [`returned`] found.
#[derive(Debug, Default)]
pub struct Returned {
    /// Interfaces that have the program again.
    pub attached: Vec<Attached>,
    /// Interfaces that it can't be put on, and why.
    pub failed: Vec<(String, EdgeError)>,
}

/// Puts the program that is loaded on those interfaces of `config` that exist and don't carry it. Fails where no plane is
/// loaded, or this process may not.
pub fn returned(config: &Config) -> Result<Returned, EdgeError> {
    let pins = Pins::new(&config.edge.pin_directory);
    if !pins.program(XDP).exists() {
        return Err(EdgeError::NotLoaded { directory: pins.directory().to_owned() });
    }
    let mut found = Returned::default();
    let bare = |name: &&String| index_of(name).is_some_and(|index| !is_linked(&pins, name, index).unwrap_or(true));
    if !config.edge.interfaces.iter().any(|name| bare(&name)) {
        return Ok(found);
    }
    let _lock = lock(&pins)?;
    for name in &config.edge.interfaces {
        let Some(index) = index_of(name) else { continue };
        if is_linked(&pins, name, index)? {
            continue;
        }
        match attach(&pins, config, name, index) {
            Ok(attached) => found.attached.push(attached),
            Err(error) => found.failed.push((name.clone(), error)),
        }
    }
    Ok(found)
}

fn attach(pins: &Pins, config: &Config, name: &str, index: u32) -> Result<Attached, EdgeError> {
    for mode in [Mode::Driver, Mode::Generic] {
        Pins::remove(&pins.xdp_link(mode, name))?;
    }
    Links::new(pins, &[]).attach(&mut pinned_xdp(&pins.program(XDP))?, name, index, modes(config.edge.mode))
}

/// Whether a link of ours is on the interface `index`, which has that name now.
fn is_linked(pins: &Pins, name: &str, index: u32) -> Result<bool, EdgeError> {
    for mode in [Mode::Driver, Mode::Generic] {
        let path = pins.xdp_link(mode, name);
        if !path.exists() {
            continue;
        }
        let link = sys::open_pin(&path).map_err(EdgeError::pin("opening", &path))?;
        if sys::link_interface(link.as_fd()).map_err(EdgeError::pin("reading", &path))? == index {
            return Ok(true);
        }
    }
    Ok(false)
}
