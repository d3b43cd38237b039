//! Threads beside the kernel plane: interfaces that come back, and what is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Config;
use crate::edge::events::{Events, Sample};
use crate::edge::interfaces::Changes;
use crate::edge::{self, EdgeError, KernelPlane, Returned};

/// How often interfaces are looked at when nothing is said to have changed: what was lost mustn't be lost for ever.
const LOOK: Duration = Duration::from_secs(2);
/// How often is looked whether the plane was loaded again, and has another ring buffer.
const REOPEN: Duration = Duration::from_secs(5);
/// How long samples gather before they are taken: each by itself would cost three system calls. The ring buffer has room for
/// as many as a hundred CPUs tell in that time.
const GATHER: Duration = Duration::from_millis(20);
/// Samples that are taken at once.
const SAMPLES: usize = 4096;

/// The step of [`interfaces`] where nothing is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unloaded {
    /// Ends with the error.
    End,
    /// Goes on: it may be loaded some day.
    Wait,
}

/// The interfaces of `config` that don't exist now: told, as a name that is misspelt never will.
fn awaited(config: &Config) -> Vec<String> {
    let missing = edge::missing(config);
    if !missing.is_empty() {
        tracing::warn!(
            interfaces = missing.join(", "),
            "there is no such interface yet (`ip link` shows those there are)"
        );
    }
    missing
}

/// Puts the program on the interfaces of `config` that are missing or go, as soon as they are there; until there is none. Where this process may
/// not, says which are unfiltered. Blocks; see [`Unloaded`].
pub(crate) fn interfaces(mut config: impl FnMut() -> Option<Arc<Config>>, unloaded: Unloaded) -> Result<(), EdgeError> {
    let mut told: Option<(Vec<String>, Vec<String>)> = None;
    let changes = Changes::new();
    if let Err(error) = &changes {
        tracing::warn!(%error, "the kernel doesn't report changes of interfaces: the guard looks at them every two seconds");
    }
    let mut known = Known::default();
    while let Some(config) = config() {
        let config = config.as_ref();
        let wait = || {
            if !changes.as_ref().is_ok_and(|changes| changes.wait(LOOK).is_ok()) {
                std::thread::sleep(LOOK);
            }
        };
        if config.edge.interfaces.is_empty() {
            wait();
            continue;
        }
        if told.as_ref().is_none_or(|(wanted, _)| *wanted != config.edge.interfaces) {
            told = Some((config.edge.interfaces.clone(), awaited(config)));
        }
        let awaited = told.as_ref().map(|(_, awaited)| awaited.as_slice()).unwrap_or_default();
        match edge::returned(config, awaited) {
            Ok(returned) => known.tell_returned(returned),
            Err(error @ EdgeError::NotLoaded { .. }) => match unloaded {
                Unloaded::End => return Err(error),
                Unloaded::Wait => {}
            },
            Err(error) => known.tell_failure("", &error),
        }
        let plane = KernelPlane::open(&config.edge.pin_directory).ok().flatten();
        let interfaces = plane.and_then(|plane| plane.interfaces().ok()).unwrap_or_default();
        known.tell_state(interfaces.into_iter().map(|interface| (interface.name, interface.attached)));
        wait();
    }
    Ok(())
}

/// Hands `take` what the kernel dropped, by samples, and how many samples were lost so far. Blocks, and never ends.
pub(crate) fn events(plane: &KernelPlane, take: impl Fn(&[Sample], u64)) -> ! {
    loop {
        match Events::open(plane) {
            Ok(mut events) => {
                while events.is_current(plane) {
                    match events.wait(REOPEN) {
                        Ok(true) => {
                            std::thread::sleep(GATHER);
                            take(&events.take(SAMPLES), events.lost().unwrap_or(0));
                        }
                        Ok(false) => {}
                        Err(_) => break,
                    }
                }
            }
            // A plane that was unloaded is told by the ledger's task.
            Err(error) => tracing::debug!(%error, "drops in the kernel can't be read"),
        }
        std::thread::sleep(REOPEN);
    }
}

/// Interfaces that were reported, so that each is reported once.
#[derive(Debug, Default)]
struct Known {
    failures: HashMap<String, String>,
    attached: HashMap<String, bool>,
}

impl Known {
    fn tell_returned(&mut self, Returned { attached, failed }: Returned) {
        for attached in attached {
            self.failures.remove(&attached.name);
            tracing::warn!(interface = attached.name, "interface came back: {attached}");
        }
        for (name, error) in failed {
            self.tell_failure(&name, &error);
        }
    }

    fn tell_failure(&mut self, name: &str, error: &EdgeError) {
        let error = error.to_string();
        if self.failures.insert(name.to_owned(), error.clone()).as_ref() != Some(&error) {
            tracing::error!(interface = name, error, "the program can't be put on interfaces that come back");
        }
    }

    fn tell_state(&mut self, interfaces: impl Iterator<Item = (String, bool)>) {
        for (name, attached) in interfaces {
            match (self.attached.insert(name.clone(), attached), attached) {
                (Some(false), true) => tracing::info!(interface = name, "interface is filtered again"),
                (None | Some(true), false) => tracing::warn!(
                    interface = name,
                    "interface is gone or unfiltered; where it is back, `smtp-guard edge load` as root filters it"
                ),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once() {
        let mut known = Known::default();
        let look = |known: &mut Known, attached| {
            known.tell_state([("eth0".to_owned(), attached)].into_iter());
            known.attached["eth0"]
        };
        assert_eq!([true, true, false, true].map(|attached| look(&mut known, attached)), [true, true, false, true]);
        let failed = |known: &mut Known| {
            let failed = vec![("eth1".to_owned(), EdgeError::UnknownInterface { name: "eth1".to_owned() })];
            known.tell_returned(Returned { attached: Vec::new(), failed });
            known.failures.len()
        };
        assert_eq!([failed(&mut known), failed(&mut known)], [1, 1]);
    }
}
