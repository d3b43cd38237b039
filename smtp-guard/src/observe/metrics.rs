//! Metrics. Their label values come from the table of reasons, so that logs, JSON and metrics can't drift apart.
//!
//! A handle holds every counter of the hot path itself: counting is one atomic addition, without a lock or a look-up by
//! text. Only labels that are in no table, and bounds that were reached, take the short read lock of their family.
//!
//! Counts live here. What is so now lives in the parts: `mirror` reads it at each scrape.
//!
//! The gauge of open connections is `smtp_guard_connections_active`, not `smtp_guard_connections`: OpenMetrics names the
//! counter `smtp_guard_connections_total` by that family already, and two families of one name are invalid.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use smtp_guard_ebpf::reason::{MAX_REASONS, Reason};

use super::bounds::Bounds;
use super::kernel::KernelCollector;
pub use super::kernel::KernelStats;
use crate::bound::Bound;
use crate::session::Outcome;

mod backend;
mod blocklists;
mod configuration;
mod drops;
mod mirror;
mod read;
mod recipients;

/// The handle that everything counts through. A clone is one reference count.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    connections: Counter,
    balancer_checks: Counter,
    messages: [Counter; Outcome::ALL.len()],
    rejections: ByReason,
    offences: ByReason,
    bans: ByReason,
    deferrals: ByReason,
    observed: ByReason,
    user_holds: ByReason,
    lookups: Labelled<Labels, Counter>,
    foreign: Labelled<Labels, Counter>,
    log_lines_lost: Counter,
    reports_dropped: Counter,
    ban_seconds: Histogram,
    bounds: Bounds,
    handshakes_failed: Labelled<Labels, Counter>,
    mirrored: mirror::Mirrored,
    configuration: configuration::Configuration,
    recipients: recipients::Recipients,
    backend: backend::Backend,
    blocklists: blocklists::Blocklists,
    drops: drops::Drops,
    kernel: Arc<OnceLock<Arc<dyn KernelStats>>>,
}

impl Metrics {
    /// Upper ends of the buckets of `smtp_guard_ban_seconds`, in seconds: the target is 1 ms.
    pub const BAN_SECONDS: [f64; 11] =
        [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];

    /// All metrics at zero, the kernel's absent.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("smtp_guard");
        let connections = Counter::default();
        registry.register("connections", "Connections accepted", connections.clone());
        let balancer_checks = Counter::default();
        let help = "Connections of balancers that closed without a byte: they look whether the port is open";
        registry.register("balancer_checks", help, balancer_checks.clone());
        let messages = labelled(&mut registry, "messages", "Messages by what became of them");
        let rejections = labelled(&mut registry, "rejections", "Refusals by reason");
        let offences = labelled(&mut registry, "offences", "Offences that were reported to the ledger");
        let bans = labelled(&mut registry, "bans", "Bans made, by reason");
        let deferrals = labelled(&mut registry, "deferrals", "Sources and networks that were deferred, by reason");
        let observed =
            labelled(&mut registry, "observed", "What checks that only observe would have refused, by reason");
        let user_holds = labelled(&mut registry, "user_holds", "Users that went over a limit or were held, by reason");
        let foreign = labelled(&mut registry, "foreign_decisions", "Decisions of other guards by what became of them");
        let lookups = labelled(&mut registry, "dns_lookups", "Questions to DNS by kind and result");
        let log_lines_lost = Counter::default();
        let help = "Lines of the log that were lost because standard error was not read";
        registry.register("log_lines_lost", help, log_lines_lost.clone());
        let reports_dropped = Counter::default();
        let help = "Reports that the ledger's full channel had no room for";
        registry.register("reports_dropped", help, reports_dropped.clone());
        let ban_seconds = Histogram::new(Self::BAN_SECONDS);
        let help = "Seconds from the offence that crossed the line to the ban in force";
        registry.register("ban_seconds", help, ban_seconds.clone());
        let bounds = Bounds::default();
        registry.register_collector(Box::new(BoundsCollector(bounds.clone())));
        let handshakes_failed =
            labelled(&mut registry, "tls_handshakes_failed", "TLS handshakes with clients that failed, by reason");
        let mirrored = mirror::Mirrored::default();
        registry.register_collector(Box::new(mirror::Mirror(Arc::clone(&mirrored))));
        let configuration = configuration::Configuration::register(&mut registry);
        let recipients = recipients::Recipients::register(&mut registry);
        let backend = backend::Backend::register(&mut registry);
        let blocklists = blocklists::Blocklists::register(&mut registry);
        let drops = drops::Drops::register(&mut registry);
        let kernel = Arc::new(OnceLock::new());
        registry.register_collector(Box::new(KernelCollector::new(Arc::clone(&kernel))));
        Self(Arc::new(Inner {
            registry,
            connections,
            balancer_checks,
            messages: Outcome::ALL.map(|o| messages.get_or_create_owned(&vec![("outcome", o.label())])),
            rejections: ByReason::new(rejections, "reason", Reason::is_refusal),
            offences: ByReason::new(offences, "conduct", Reason::is_refusal),
            bans: ByReason::new(bans, "reason", Reason::is_ban),
            deferrals: ByReason::new(deferrals, "reason", Reason::is_deferral),
            observed: ByReason::new(observed, "reason", Reason::is_check),
            user_holds: ByReason::new(user_holds, "reason", Reason::is_of_user),
            lookups,
            foreign,
            log_lines_lost,
            reports_dropped,
            ban_seconds,
            bounds,
            handshakes_failed,
            mirrored,
            configuration,
            recipients,
            backend,
            blocklists,
            drops,
            kernel,
        }))
    }

    /// A client's connection was accepted.
    pub fn connection_opened(&self) {
        self.0.connections.inc();
    }

    /// A balancer connected to see whether somebody listens, and said nothing.
    pub fn balancer_check(&self) {
        self.0.balancer_checks.inc();
    }

    /// A message ended so.
    pub fn message(&self, outcome: Outcome) {
        self.0.messages[outcome as usize].inc();
    }

    /// Messages that ended so, since the start.
    pub fn messages(&self, outcome: Outcome) -> u64 {
        self.0.messages[outcome as usize].get()
    }

    /// Something was refused.
    pub fn rejected(&self, reason: Reason) {
        self.0.rejections.inc(reason);
    }

    /// An offence was reported; `conduct` is a reason's label, or a word of its own.
    pub fn offence(&self, conduct: &'static str) {
        match Reason::from_label(conduct) {
            Some(reason) => self.0.offences.inc(reason),
            None => self.0.offences.inc_other(conduct),
        }
    }

    /// A ban was made.
    pub fn ban(&self, reason: Reason) {
        self.0.bans.inc(reason);
    }

    /// A source or a network hears 4xx from now on.
    pub fn deferral(&self, reason: Reason) {
        self.0.deferrals.inc(reason);
    }

    /// A check that only observes would have refused.
    pub fn observed(&self, reason: Reason) {
        self.0.observed.inc(reason);
    }

    /// A user went over a limit for the first time in a while, or was held by the operator.
    pub fn user_held(&self, reason: Reason) {
        self.0.user_holds.inc(reason);
    }

    /// A decision of another guard came in; the word is of a small, fixed set.
    pub fn foreign(&self, outcome: &'static str) {
        self.0.foreign.get_or_create(&vec![("outcome", outcome)]).inc();
    }

    /// A question to DNS has its result. Both words are of small, fixed sets.
    pub fn dns_lookup(&self, kind: &'static str, result: &'static str) {
        self.0.lookups.get_or_create(&vec![("kind", kind), ("result", result)]).inc();
    }

    /// So many lines of the log were lost.
    pub fn log_lines_lost(&self, lines: u64) {
        self.0.log_lines_lost.inc_by(lines);
        self.bound_reached(Bound::LogLines);
    }

    /// A report found the ledger's channel full.
    pub fn report_dropped(&self) {
        self.0.reports_dropped.inc();
    }

    /// Time from the offence that crossed the line to its ban in force.
    pub fn ban_latency(&self, latency: Duration) {
        self.0.ban_seconds.observe(latency.as_secs_f64());
    }

    /// A buffer, queue, map or list had no more room. `bound` says which.
    pub fn bound_reached(&self, bound: Bound) {
        self.0.bounds.reached(bound);
    }

    /// What was reached: the state that the metric mirrors.
    pub fn bounds(&self) -> &Bounds {
        &self.0.bounds
    }

    /// A TLS handshake with a client failed. The set of reasons is small and fixed.
    pub fn handshake_failed(&self, reason: &'static str) {
        self.0.handshakes_failed.get_or_create(&vec![("reason", reason)]).inc();
    }

    /// Adds the kernel plane to what is scraped. Only the first call counts.
    pub fn kernel(&self, stats: Arc<dyn KernelStats>) {
        if self.0.kernel.set(stats).is_err() {
            tracing::warn!("the kernel plane's metrics are registered already");
        }
    }

    /// Everything, as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(8192);
        match encode(&mut text, &self.0.registry) {
            Ok(()) => text,
            // Writing to a String can't fail; a collector that does must not take the rest down silently.
            Err(fmt::Error) => {
                tracing::error!("the metrics could not be encoded");
                String::from("# EOF\n")
            }
        }
    }
}

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

type Labels = Vec<(&'static str, &'static str)>;

fn labelled(registry: &mut Registry, name: &'static str, help: &'static str) -> Labelled<Labels, Counter> {
    let family = Labelled::default();
    registry.register(name, help, family.clone());
    family
}

/// Shows the bounds that were reached.
#[derive(Debug)]
struct BoundsCollector(Bounds);

impl Collector for BoundsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let reached = self.0.view();
        if reached.is_empty() {
            return Ok(());
        }
        let help = "Times that a bound was reached";
        let mut family = encoder.encode_descriptor("bound_reached", help, None, MetricType::Counter)?;
        for bound in reached {
            ConstCounter::new(bound.count).encode(family.encode_family(&[("bound", bound.name.as_str())])?)?;
        }
        Ok(())
    }
}

/// One counter for each reason, found by the reason's number.
struct ByReason {
    usual: [Option<Counter>; MAX_REASONS as usize],
    label: &'static str,
    family: Labelled<Labels, Counter>,
}

impl ByReason {
    /// The `usual` reasons are shown from the start, at zero, and count without a lock; others appear with their first
    /// count.
    fn new(family: Labelled<Labels, Counter>, label: &'static str, usual: fn(Reason) -> bool) -> Self {
        let counter = |number| {
            let reason = Reason::from_number(u32::try_from(number).ok()?).filter(|reason| usual(*reason))?;
            Some(family.get_or_create_owned(&vec![(label, reason.label())]))
        };
        Self { usual: std::array::from_fn(counter), label, family }
    }

    fn inc(&self, reason: Reason) {
        match self.usual.get(reason as usize) {
            Some(Some(counter)) => _ = counter.inc(),
            _ => self.inc_other(reason.label()),
        }
    }

    fn inc_other(&self, value: &'static str) {
        self.family.get_or_create(&vec![(self.label, value)]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::Running;

    #[track_caller]
    pub(super) fn check(count: impl FnOnce(&Metrics), line: &str) {
        let metrics = Metrics::new();
        count(&metrics);
        let text = metrics.encode();
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn each_call_counts_under_its_name() {
        check(|m| m.connection_opened(), "smtp_guard_connections_total 1");
        check(|m| m.balancer_check(), "smtp_guard_balancer_checks_total 1");
        for outcome in Outcome::ALL {
            let line = format!("smtp_guard_messages_total{{outcome=\"{}\"}} 1", outcome.label());
            check(|m| m.message(outcome), &line);
        }
        for &reason in Reason::ALL {
            let line = format!("smtp_guard_rejections_total{{reason=\"{}\"}} 1", reason.label());
            check(|m| m.rejected(reason), &line);
            let line = format!("smtp_guard_offences_total{{conduct=\"{}\"}} 1", reason.label());
            check(|m| m.offence(reason.label()), &line);
        }
        check(|m| m.offence("odd"), "smtp_guard_offences_total{conduct=\"odd\"} 1");
        check(|m| m.ban(Reason::Harvest), "smtp_guard_bans_total{reason=\"harvest\"} 1");
        check(|m| m.deferral(Reason::Trap), "smtp_guard_deferrals_total{reason=\"trap\"} 1");
        check(|m| m.observed(Reason::NoPtr), "smtp_guard_observed_total{reason=\"no_ptr\"} 1");
        check(|m| m.user_held(Reason::UserNetworks), "smtp_guard_user_holds_total{reason=\"user_networks\"} 1");
        check(|m| m.foreign("exempt"), "smtp_guard_foreign_decisions_total{outcome=\"exempt\"} 1");
        check(|m| m.dns_lookup("mx", "found"), "smtp_guard_dns_lookups_total{kind=\"mx\",result=\"found\"} 1");
        check(|m| m.log_lines_lost(3), "smtp_guard_log_lines_lost_total 3");
        check(|m| m.report_dropped(), "smtp_guard_reports_dropped_total 1");
        check(|m| m.ban_latency(Duration::from_micros(300)), "smtp_guard_ban_seconds_bucket{le=\"0.0005\"} 1");
        check(|m| m.ban_latency(Duration::from_micros(300)), "smtp_guard_ban_seconds_bucket{le=\"0.0002\"} 0");
        for &bound in Bound::ALL {
            let line = format!("smtp_guard_bound_reached_total{{bound=\"{}\"}} 1", bound.label());
            check(|m| m.bound_reached(bound), &line);
        }
    }

    #[test]
    fn no_family_is_announced_twice() {
        let metrics = Metrics::new();
        metrics.kernel(Arc::new(super::super::kernel::tests::Fake));
        let running: Arc<dyn Running> = Arc::new(super::super::status::tests::Fake::default());
        metrics.mirror(Arc::downgrade(&running));
        let text = metrics.encode();
        let mut names: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup_by_key(|n| n.split(' ').next());
        assert_eq!(names.len(), all, "{names:?}");
    }
}
