//! The bounds of the program: the one table of what can be full.
//!
//! Whoever refuses or drops something for want of room names its row, by `Metrics::bound_reached`. The label is the value of
//! `bound` in `smtp_guard_bound_reached_total` and the name in `status`; `docs/configuration.md` lists all of them.
//!
//! What a bound's limit is the part says that has it, since some of them are configured.

macro_rules! bounds {
    ($($name:ident = $label:literal, $text:literal;)+) => {
        /// Something that there is only so much of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bound { $(#[doc = $text] $name,)+ }

        impl Bound {
            /// All bounds in the order of their labels.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name in metrics, logs and JSON.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The thing that it bounds, and what happens beyond.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

bounds! {
    Accept = "accept", "descriptors of the process: new connections wait";
    AdminConnections = "admin_connections", "connections to the admin socket: the longest idle is closed";
    BackendConnections = "backend_connections", "connections to a server of the backend: clients wait for their turn";
    BackendSpares = "backend_spares", "connections to a server of the backend that wait for their next client: further ones end";
    Bans = "bans", "sources in the table of bans: the ban that ends soonest is lifted";
    BlocklistEntries = "blocklist_entries", "entries of a block list or of all of them: the file is refused";
    BlocklistFile = "blocklist_file", "bytes of a block list's file: the file is refused";
    CatchAllDomains = "catch_all_domains", "domains that are tried for a catch-all in an hour: each is tried less often";
    DnsListLookups = "dns_list_lookups", "look-ups in DNS block lists under way: the client hears 450";
    DnsLookups = "dns_lookups", "look-ups of domains and names in DNS under way: the client hears 450";
    DnsMemory = "dns_memory", "answers of DNS that are remembered: another answer is forgotten";
    DnsQuestions = "dns_questions", "questions to DNS that one source or network causes: the client hears 450";
    DnsRecords = "dns_records", "records kept of one answer of DNS: the rest is left out";
    DropLines = "drop_lines", "log lines a second about dropped packets: lines are left out";
    DropSources = "drop_sources", "sources whose dropped packets are told apart: another source is forgotten";
    EventBus = "event_bus", "events that are kept for followers: a follower that is too slow misses the oldest";
    EventFollowers = "event_followers", "followers of events at once: a further one hears 503";
    Fleet = "fleet", "reports that wait for the fleet's server: further ones, and decisions, are not told to other edges";
    Handshakes = "handshakes", "TLS handshakes under way: the client is closed";
    KernelBans = "kernel_bans", "bans in the kernel's map: the ban is in force in user space only";
    KernelLists = "kernel_lists", "entries of the kernel's block lists: the old lists stay";
    KernelNetworks = "kernel_networks", "networks in the kernel's map of bans: the ban is in force in user space only";
    Ledger = "ledger", "sources in the ledger: an idle source is forgotten";
    LedgerOffenders = "ledger_offenders", "sources in the ledger, all of them active: a new source is not counted";
    LogBackend = "log_backend", "log lines a second about failed connections to the backend: lines are left out";
    LogEnds = "log_ends", "log lines a second about sessions that ended: lines are left out";
    LogLines = "log_lines", "log lines that wait to be written: lines are lost and counted";
    LogRefusals = "log_refusals", "log lines a second about refusals: lines are left out";
    MetricsConnections = "metrics_connections", "connections to the HTTP endpoint: the longest idle is closed";
    NetworkConnections = "network_connections", "connections of one IPv4 /24 or IPv6 /48: the client hears 421";
    Networks = "networks", "networks that are banned: the new ban is refused";
    PageStreams = "page_streams", "status pages that are live at once: a further one stands still and tries again";
    ProxyHeaders = "proxy_headers", "connections that have sent no PROXY header yet: a new one is closed";
    ReceiveWindows = "receive_windows", "kernel memory for receive windows that grow: the client sends more slowly";
    Scrapes = "scrapes", "scrapes under way: the scraper hears 503";
    SendQueues = "send_queues", "kernel memory for longer send queues to the backend: message data goes out in smaller pieces";
    Store = "store", "changes that wait for the disk: they are saved later";
    StoreCounters = "store_counters", "changed counters that wait for the disk: a crash would lose the change";
    TlsHandshakes = "tls_handshakes", "TLS handshakes of one source in a minute: each further one waits a second";
    TotalConnections = "total_connections", "connections of the whole guard: the client hears 421";
    TurnedAway = "turned_away", "clients that were turned away and haven't closed: the next one is closed without a reply";
    UnknownRecipients = "unknown_recipients", "unknown recipients that are remembered: the rest is asked of the backend";
    Users = "users", "users whose messages are counted: another user is forgotten";
    Webhook = "webhook", "events that wait for the webhook: the oldest is told to nobody";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct_and_in_order() {
        let labels: Vec<_> = Bound::ALL.iter().map(|bound| bound.label()).collect();
        assert!(labels.is_sorted_by(|a, b| a < b), "{labels:?}");
    }
}
