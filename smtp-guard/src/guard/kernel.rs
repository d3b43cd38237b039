//! The kernel plane beside the proxy: opened where it is wanted, watched, and changed with the configuration.
//!
//! There is always a handle of it. While `edge.interfaces` is empty it isn't ours, and what is pinned there is left alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use smtp_guard_ebpf::abi::Family;
use smtp_guard_ebpf::decide::Verdict;
use smtp_guard_ebpf::reason::Reason;

use super::follow::{self, Unloaded};
use crate::config::{Config, Edge};
use crate::decision::KernelView;
use crate::edge::events::Sample;
use crate::edge::{self, EdgeError, KernelPlane};
use crate::observe::drops::Drops;
use crate::observe::metrics::{KernelStats, MapFill};
use crate::observe::status::Kernel;
use crate::relay::Shared;

/// Pace of removing sources without connections from the kernel's map: 2048 entries are looked at each time.
const SWEEP: Duration = Duration::from_secs(1);
/// Sweeps after which counts are held against sockets.
const RECONCILE: u64 = 60;

/// The plane as `config` wants it. Where it isn't there, user space enforces until it is.
pub(super) fn open(config: &Config) -> Arc<KernelPlane> {
    let directory = &config.edge.pin_directory;
    if config.edge.interfaces.is_empty() {
        return Arc::new(KernelPlane::awaited(directory, &EdgeError::NotWanted));
    }
    Arc::new(match take_over(config) {
        Ok(plane) => plane,
        Err(error) => {
            tracing::warn!(
                reason = %error,
                "no kernel plane: bans and limits are enforced in user space only, until one is loaded"
            );
            KernelPlane::awaited(directory, &error)
        }
    })
}

fn take_over(config: &Config) -> Result<KernelPlane, EdgeError> {
    let directory = &config.edge.pin_directory;
    // Also where it is loaded: then programs, interfaces and settings become those of this version and configuration.
    let loaded = edge::load_present(config);
    let Some(plane) = KernelPlane::open(directory)? else {
        return Err(loaded.err().unwrap_or_else(|| EdgeError::NotLoaded { directory: directory.clone() }));
    };
    plane.configure(config)?;
    match loaded {
        Ok(loaded) => loaded.to_string().lines().for_each(|line| tracing::info!("{line}")),
        Err(error) => {
            // The usual case: the proxy's user may use the maps, and not load programs.
            tracing::info!(directory = %directory.display(), "using the kernel plane loaded by smtp-guard edge");
            tracing::debug!(%error, "this user can't load the kernel plane again");
        }
    }
    Ok(plane)
}

/// Puts the program on the interfaces of `new` and takes it off the others; `Err`: what the operator has to do.
pub(super) fn change_interfaces(new: &Config) -> Result<(), String> {
    let directory = &new.edge.pin_directory;
    if new.edge.interfaces.is_empty() {
        return match edge::unload(directory) {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(format!("edge.interfaces: the kernel plane stays loaded ({error}): `smtp-guard edge unload`"))
            }
        };
    }
    let loaded = edge::load_present(new);
    // The ledger's task finds it by itself, and writes the bans in force.
    let there = matches!(KernelPlane::open(directory), Ok(Some(_)));
    match loaded {
        Ok(loaded) => {
            loaded.to_string().lines().for_each(|line| tracing::info!("{line}"));
            Ok(())
        }
        Err(error) if there => Err(format!("edge.interfaces: they stay as they are ({error}): `smtp-guard edge load`")),
        Err(error) => Err(format!("edge.interfaces: no kernel plane is loaded ({error}): `smtp-guard edge load`")),
    }
}

/// The kernel plane, for scrape and status.
pub(super) struct Observed {
    plane: Arc<KernelPlane>,
    shared: Weak<Shared>,
}

impl Observed {
    pub(super) fn new(plane: Arc<KernelPlane>, shared: &Arc<Shared>) -> Self {
        Self { plane, shared: Arc::downgrade(shared) }
    }

    fn wanted_edge(&self) -> Edge {
        self.shared.upgrade().map(|shared| shared.current().config().edge.clone()).unwrap_or_default()
    }

    /// Asks the plane by `read`, if it is ours and there.
    fn ask<T>(&self, read: impl FnOnce(&KernelPlane) -> Result<T, EdgeError>) -> Option<T> {
        // A scrape that can't read it shows none; the reason stands in the log of whoever changed the plane.
        self.plane.is_current().then(|| read(&self.plane).ok())?
    }
}

impl Observed {
    /// The plane's verdict on connections from `ip`; `None`: it filters nowhere. Takes system calls.
    pub(super) fn view(&self, ip: IpAddr) -> Option<KernelView> {
        self.interfaces().iter().any(|(_, attached)| *attached).then_some(())?;
        let verdict = self.ask(|plane| plane.verdict(ip))?;
        Some(match verdict {
            Verdict::Drop(reason, _) => KernelView { drop_reason: Some(reason.label().to_owned()), exempt: false },
            Verdict::Pass(reason, _) => KernelView { drop_reason: None, exempt: reason == Reason::Exempt },
            Verdict::Ignore => KernelView { drop_reason: None, exempt: false },
        })
    }
}

impl KernelStats for Observed {
    fn state(&self) -> Kernel {
        if let Some(why) = self.plane.absence() {
            return Kernel { present: false, text: why };
        }
        let (carries, wanted) = (self.interfaces(), self.wanted_edge());
        let carries = |name: &String| carries.contains(&(name.clone(), true));
        let (on, off): (Vec<_>, Vec<_>) = wanted.interfaces.iter().cloned().partition(carries);
        let list = |names: &[String]| if names.is_empty() { "no interface".to_owned() } else { names.join(", ") };
        let mut text = format!("on {}, pinned in {}", list(&on), wanted.pin_directory.display());
        if !off.is_empty() {
            text.push_str(&format!("; gone or unfiltered: {}", list(&off)));
        }
        Kernel { present: true, text }
    }

    fn counters(&self) -> Vec<(Reason, Family, u64)> {
        self.ask(KernelPlane::counters).unwrap_or_default()
    }

    fn fill(&self) -> Option<(u64, [MapFill; 3])> {
        self.ask(KernelPlane::fill)
    }

    fn interfaces(&self) -> Vec<(String, bool)> {
        let found = self.ask(KernelPlane::interfaces).unwrap_or_default();
        let mut all: BTreeMap<_, _> = self.wanted_edge().interfaces.into_iter().map(|name| (name, false)).collect();
        all.extend(found.into_iter().map(|interface| (interface.name, interface.attached)));
        all.into_iter().collect()
    }

    fn wanted(&self) -> bool {
        !self.wanted_edge().interfaces.is_empty()
    }
}

/// Removes sources without connections from the kernel's map, so that it never fills up with them, and holds the counts
/// of the others against the sockets that there are.
pub(super) async fn sweep(plane: Arc<KernelPlane>) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for turn in 1u64.. {
        tick.tick().await;
        if turn.is_multiple_of(RECONCILE) {
            let plane = Arc::clone(&plane);
            let reconcile = move || if plane.is_current() { plane.reconcile() } else { Ok(Vec::new()) };
            match tokio::task::spawn_blocking(reconcile).await {
                Ok(Ok(taken_back)) => {
                    for (source, connections) in taken_back {
                        tracing::warn!(
                            ?source,
                            connections,
                            "the kernel counted connections that don't exist: corrected"
                        );
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "the kernel's counts were not compared with the sockets"),
                Err(error) => tracing::debug!(%error, "the kernel's counts were not compared with the sockets"),
            }
        }
        let plane = Arc::clone(&plane);
        let sweep = move || if plane.is_current() { plane.sweep_idle() } else { Ok(0) };
        // A plane that was unloaded meanwhile has nothing to sweep; the ledger's task says so in the log.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(sweep).await {
            tracing::debug!(%error, "the kernel's map of sources was not swept");
        }
    }
}

/// Threads for what waits in the kernel; they end with the process.
pub(super) fn watch(plane: &Arc<KernelPlane>, shared: &Arc<Shared>, drops: &Arc<Drops>) -> std::io::Result<()> {
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    let current = Arc::downgrade(shared);
    let config = move || current.upgrade().map(|shared| Arc::clone(shared.current().config()));
    // That nothing is loaded is told by the ledger's task.
    thread("interfaces").spawn(move || follow::interfaces(config, Unloaded::Wait))?;
    let (plane, drops) = (Arc::clone(plane), Arc::clone(drops));
    let take = move |samples: &[Sample], lost| {
        drops.take(samples, crate::clock::now());
        drops.lost(lost);
    };
    thread("drops").spawn(move || follow::events(&plane, take))?;
    Ok(())
}
