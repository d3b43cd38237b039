//! Settings that the programs work with, logged once, when they are loaded. Nothing on the path of packets logs.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::{error, info, warn};
use smtp_guard_ebpf::abi::ABI_VERSION;

use crate::maps;

/// Logs settings, ports, lists and bans. `false` where the settings are missing or of another version.
#[inline(always)]
pub(crate) fn report(ctx: &XdpContext) -> bool {
    let Some(settings) = maps::settings() else {
        error!(ctx, "there are no settings");
        return false;
    };
    if settings.abi != ABI_VERSION {
        error!(ctx, "the settings are of version {}, this program is of version {}", settings.abi, ABI_VERSION);
        return false;
    }
    match settings.connections {
        0 => info!(ctx, "no ceiling of connections"),
        ceiling => info!(ctx, "at most {} connections of a source", ceiling),
    }
    match settings.rate_burst_ns.checked_div(settings.rate_interval_ns) {
        Some(burst) => info!(ctx, "at most {} new connections of a source in a minute", burst),
        None => info!(ctx, "no limit of new connections"),
    }
    match maps::guarded_ports() {
        0 => warn!(ctx, "no port is guarded"),
        ports => info!(ctx, "guarded ports: {}", ports),
    }
    if !maps::any_listed() {
        info!(ctx, "no block list is in force");
    }
    if maps::exact_ns() == 0 {
        error!(ctx, "the clock stands still");
        return false;
    }
    true
}
