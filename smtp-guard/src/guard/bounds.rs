//! The sizes of what is bounded for the whole run. What a reload may change is told by its generation; what a part makes for itself, by
//! that part.

use crate::blocklist;
use crate::bound::Bound;
use crate::config::Config;
use crate::descriptors;
use crate::edge::bans::NETWORKS;
use crate::events;
use crate::facts::recipients::RECIPIENTS;
use crate::observe::log;
use crate::observe::metrics::Metrics;
use crate::rates::HANDSHAKES;
use crate::rates::accounts::USERS;
use crate::store;

/// Tells `metrics` of them.
pub(super) fn tell(metrics: &Metrics, config: &Config) {
    let sources = u64::from(config.edge.max_sources);
    for (bound, limit) in [
        (Bound::Accept, descriptors::limit()),
        (Bound::Bans, sources),
        (Bound::BlocklistEntries, blocklist::MAX_ENTRIES as u64),
        (Bound::BlocklistFile, blocklist::MAX_FILE),
        (Bound::EventBus, events::KEPT as u64),
        (Bound::Fleet, smtp_guard_core::fleet::REPORTS as u64),
        (Bound::KernelBans, sources),
        (Bound::KernelLists, blocklist::MAX_TOTAL as u64),
        (Bound::KernelNetworks, smtp_guard_ebpf::abi::NETWORK_ENTRIES.into()),
        (Bound::Ledger, sources),
        (Bound::LedgerOffenders, sources),
        (Bound::LogLines, log::QUEUE as u64),
        (Bound::Networks, NETWORKS as u64),
        (Bound::Store, store::QUEUE as u64),
        (Bound::StoreCounters, store::QUEUE as u64),
        (Bound::TlsHandshakes, HANDSHAKES.into()),
        (Bound::UnknownRecipients, RECIPIENTS as u64),
        (Bound::Users, USERS as u64),
        (Bound::Webhook, smtp_guard_core::webhook::QUEUE as u64),
    ] {
        metrics.bounds().limit(bound, limit);
    }
}
