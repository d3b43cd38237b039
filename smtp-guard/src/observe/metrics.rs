//! Metrics. Their label values come from the table of reasons, so that logs, JSON and metrics can't drift apart.
//!
//! A handle holds every counter of the hot path itself, found by a number: counting is one atomic addition, without a look-up by
//! text. A time that is measured takes the short lock of its histogram. Each value of a label that is a fixed set has its series
//! from the start, at zero.
//!
//! Counts live here. What is so now lives in the parts: `mirror` reads it at each scrape. What is gone has no series any more.
//!
//! The gauge of open connections is `smtp_guard_connections_active`, not `smtp_guard_connections`. In OpenMetrics that is
//! already the family of the counter `smtp_guard_connections_total`, and two families of one name are invalid.
//!
//! `docs/metrics.md` is written from what is registered here, by `cargo xtask docs`.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::{Family as Labelled, MetricConstructor};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Metric, Registry};
use smtp_guard_ebpf::reason::{MAX_REASONS, Reason};

use super::bounds::Bounds;
use super::kernel::KernelCollector;
pub use super::kernel::{KernelStats, MapFill};
use crate::bound::Bound;
use crate::events::What;
use crate::facts::dns::{Kind, Told};
use crate::gate::Ignored;
use crate::offence::ReportKind;
use crate::session::{AuthVerdict, Outcome};

mod backend;
mod blocklists;
mod configuration;
mod drops;
mod latency;
mod mirror;
mod process;
mod read;
mod recipients;
mod text;
mod tls;
#[cfg(test)]
mod written;

pub use backend::How;
pub use latency::Verb;
pub use read::Timed;
pub use text::Format;
pub use tls::HandshakeFailure;

/// The handle that everything counts through. A clone is one reference count.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    process: Registry,
    connections: Counter,
    exempt_connections: Counter,
    balancer_checks: Counter,
    messages: [Counter; Outcome::ALL.len()],
    rejections: ByReason,
    reports: [Counter; ReportKind::LABELS.len()],
    bans: ByReason,
    deferrals: ByReason,
    observed: ByReason,
    user_holds: ByReason,
    auth: [Counter; AUTH.len()],
    lookups: [[Counter; Told::LABELS.len()]; Kind::ALL.len()],
    foreign: [Counter; FOREIGN.len()],
    log_lines_lost: Counter,
    reports_lost: Counter,
    bounds: Bounds,
    latency: latency::Latency,
    tls: tls::Tls,
    mirrored: mirror::Mirrored,
    configuration: configuration::Configuration,
    recipients: recipients::Recipients,
    backend: backend::Backend,
    blocklists: blocklists::Blocklists,
    drops: drops::Drops,
    kernel: Arc<OnceLock<Arc<dyn KernelStats>>>,
}

const AUTH: [&str; 3] = ["accepted", "rejected", "unavailable"];
/// What becomes of decisions of other guards: those that enter, then those that don't, in the order of [`Ignored::ALL`].
const FOREIGN: [&str; 1 + Ignored::ALL.len()] = {
    let mut labels = ["entered"; 1 + Ignored::ALL.len()];
    let mut at = 0;
    while at < Ignored::ALL.len() {
        assert!(Ignored::ALL[at] as usize == at);
        labels[at + 1] = Ignored::ALL[at].label();
        at += 1;
    }
    labels
};

impl Metrics {
    /// All metrics at zero, the kernel's absent.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("smtp_guard");
        registry.register_collector(Box::new(Build));
        let connections = counter(&mut registry, "connections", "Connections accepted");
        let help = "Connections accepted of clients that are exempt";
        let exempt_connections = counter(&mut registry, "exempt_connections", help);
        let help = "Connections of balancers that closed without a byte: they look whether the port is open";
        let balancer_checks = counter(&mut registry, "balancer_checks", help);
        let help = "Messages by what became of them";
        let messages = fixed(&mut registry, "messages", help, "outcome", Outcome::ALL.map(Outcome::label));
        let rejections = ByReason::register(&mut registry, "rejections", "Refusals by reason", Reason::is_refusal);
        let help = "Reports of sessions to the ledger, good and bad, by what they report";
        let reports = fixed(&mut registry, "ledger_reports", help, "report", labels_of_reports());
        let bans = ByReason::register(&mut registry, "bans", "Bans made, by reason", Reason::is_ban);
        let help = "Sources and networks that were deferred, by reason";
        let deferrals = ByReason::register(&mut registry, "deferrals", help, Reason::is_deferral);
        let help = "What checks that only observe would have refused, by reason";
        let observed = ByReason::register(&mut registry, "observed", help, Reason::is_check);
        let help = "Users that went over a limit or were held, by reason";
        let user_holds = ByReason::register(&mut registry, "user_holds", help, Reason::is_of_user);
        let auth = fixed(&mut registry, "auth_attempts", "Attempts to log in, by result", "result", AUTH);
        let lookups = Labelled::<Labels, Counter>::default();
        registry.register("dns_lookups", "Questions to DNS by kind and result", lookups.clone());
        let lookups = Kind::ALL.map(|kind| {
            Told::LABELS.map(|told| lookups.get_or_create_owned(&vec![("kind", kind.label()), ("result", told)]))
        });
        let help = "Decisions of other guards by what became of them";
        let foreign = fixed(&mut registry, "foreign_decisions", help, "outcome", FOREIGN);
        let help = "Lines of the log that were lost because standard error was not read";
        let log_lines_lost = counter(&mut registry, "log_lines_lost", help);
        let help = "Reports of sessions that the ledger's full channel had no room for";
        let reports_lost = counter(&mut registry, "ledger_reports_lost", help);
        let bounds = Bounds::default();
        registry.register_collector(Box::new(BoundsCollector(bounds.clone())));
        let latency = latency::Latency::register(&mut registry);
        let tls = tls::Tls::register(&mut registry);
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
            process: process::Process::registry(),
            connections,
            exempt_connections,
            balancer_checks,
            messages,
            rejections,
            reports,
            bans,
            deferrals,
            observed,
            user_holds,
            auth,
            lookups,
            foreign,
            log_lines_lost,
            reports_lost,
            bounds,
            latency,
            tls,
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

    /// The client of an accepted connection is exempt.
    pub fn exempt_connection(&self) {
        self.0.exempt_connections.inc();
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

    /// A session reported something to the ledger.
    pub fn reported(&self, kind: ReportKind) {
        self.0.reports[kind as usize].inc();
    }

    /// Counts `what` is about to be told to those who follow events. What they are told of in part only is counted by itself.
    pub fn told(&self, what: &What) {
        let (by_reason, reason, more) = match what {
            What::Banned { reason, .. } => (&self.0.bans, Reason::from_label(reason), 1),
            What::Imported { added, .. } => (&self.0.bans, Some(Reason::Operator), *added),
            What::Deferred { reason, .. } => (&self.0.deferrals, Reason::from_label(reason), 1),
            What::UserHeld { reason, .. } => (&self.0.user_holds, Reason::from_label(reason), 1),
            _ => return,
        };
        // The words of the guard itself are all labels.
        if let Some(reason) = reason {
            by_reason.inc_by(reason, more);
        }
    }

    /// A check that only observes would have refused.
    pub fn observed(&self, reason: Reason) {
        self.0.observed.inc(reason);
    }

    /// A decision of another guard came in; `ignored`: why it isn't followed.
    pub fn foreign(&self, ignored: Option<Ignored>) {
        self.0.foreign[ignored.map_or(0, |why| why as usize + 1)].inc();
    }

    /// Decisions of other guards that were not followed for this reason, since the start.
    pub fn foreign_ignored(&self, why: Ignored) -> u64 {
        self.0.foreign[why as usize + 1].get()
    }

    /// An attempt to log in was judged.
    pub fn auth_attempt(&self, verdict: AuthVerdict) {
        let number = match verdict {
            AuthVerdict::Accepted => 0,
            AuthVerdict::Rejected => 1,
            AuthVerdict::Unavailable => 2,
        };
        self.0.auth[number].inc();
    }

    /// A question to DNS has its result.
    pub fn dns_lookup(&self, kind: Kind, told: Told) {
        self.0.lookups[kind as usize][told.number()].inc();
    }

    /// So many lines of the log were lost.
    pub fn log_lines_lost(&self, lines: u64) {
        self.0.log_lines_lost.inc_by(lines);
        self.bound_reached(Bound::LogLines);
    }

    /// A report found the ledger's channel full.
    pub fn report_lost(&self) {
        self.0.reports_lost.inc();
    }

    /// A buffer, queue, map or list had no more room. `bound` says which.
    pub fn bound_reached(&self, bound: Bound) {
        self.0.bounds.reached(bound);
    }

    /// The bounds that were reached: the state that the metric mirrors.
    pub fn bounds(&self) -> &Bounds {
        &self.0.bounds
    }

    /// Adds the kernel plane to what is scraped. Only the first call counts.
    pub fn kernel(&self, stats: Arc<dyn KernelStats>) {
        if self.0.kernel.set(stats).is_err() {
            tracing::warn!("the kernel plane's metrics are registered already");
        }
    }

    /// Everything, in `format`.
    pub fn encode(&self, format: Format) -> String {
        let mut text = String::with_capacity(32 * 1024);
        let encoded = encode_registry(&mut text, &self.0.registry)
            .and_then(|()| encode_registry(&mut text, &self.0.process))
            .and_then(|()| encode_eof(&mut text));
        match (encoded, format) {
            (Ok(()), Format::Open) => text,
            (Ok(()), Format::Classic) => text::classic(&text),
            // Writing to a String can't fail; a collector that does must not take the rest down silently.
            (Err(fmt::Error), _) => {
                tracing::error!("the metrics could not be encoded");
                String::from(if format == Format::Open { "# EOF\n" } else { "" })
            }
        }
    }
}

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

fn counter(registry: &mut Registry, name: &'static str, help: &'static str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

/// A counter for each of `values`, which are all that `label` can be.
fn fixed<const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: [&'static str; N],
) -> [Counter; N] {
    fixed_of(registry, name, help, Labelled::<Labels, Counter>::default(), label, values)
}

/// Likewise, of `family`.
fn fixed_of<M: Clone, C: MetricConstructor<M> + Clone, const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    family: Labelled<Labels, M, C>,
    label: &'static str,
    values: [&'static str; N],
) -> [M; N]
where
    Labelled<Labels, M, C>: Metric,
{
    registry.register(name, help, family.clone());
    values.map(|value| family.get_or_create_owned(&vec![(label, value)]))
}

fn labels_of_reports() -> [&'static str; ReportKind::LABELS.len()] {
    std::array::from_fn(|number| ReportKind::LABELS[number])
}

/// Shows which version runs.
#[derive(Debug)]
struct Build;

impl Collector for Build {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The version that runs, and that of the maps it shares with the kernel plane; always 1";
        let mut family = encoder.encode_descriptor("build_info", help, None, MetricType::Gauge)?;
        let abi = smtp_guard_ebpf::abi::ABI_VERSION.to_string();
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("abi", abi.as_str())];
        ConstGauge::new(1i64).encode(family.encode_family(&labels)?)
    }
}

/// Shows how often bounds were reached, and the limits of those that have one.
#[derive(Debug)]
struct BoundsCollector(Bounds);

impl Collector for BoundsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.all();
        let mut family =
            encoder.encode_descriptor("bound_reached", "Times that a bound was reached", None, MetricType::Counter)?;
        for (bound, _, count) in &all {
            ConstCounter::new(*count).encode(family.encode_family(&[("bound", bound.label())])?)?;
        }
        let mut limits = all.iter().filter_map(|(bound, limit, _)| Some((bound, (*limit)?))).peekable();
        if limits.peek().is_none() {
            return Ok(());
        }
        let help = "What a bound is, where it is the same for all";
        let mut family = encoder.encode_descriptor("bound_limit", help, None, MetricType::Gauge)?;
        for (bound, limit) in limits {
            let gauge = ConstGauge::new(i64::try_from(limit).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("bound", bound.label())])?)?;
        }
        Ok(())
    }
}

/// One counter for each reason, found by the reason's number.
struct ByReason {
    usual: [Option<Counter>; MAX_REASONS as usize],
    family: Labelled<Labels, Counter>,
}

impl ByReason {
    /// The `usual` reasons are shown from the start, at zero, and count without a lock; others appear with their first
    /// count.
    fn register(registry: &mut Registry, name: &'static str, help: &'static str, usual: fn(Reason) -> bool) -> Self {
        let family = Labelled::<Labels, Counter>::default();
        registry.register(name, help, family.clone());
        let counter = |number| {
            let reason = Reason::from_number(u32::try_from(number).ok()?).filter(|reason| usual(*reason))?;
            Some(family.get_or_create_owned(&vec![("reason", reason.label())]))
        };
        Self { usual: std::array::from_fn(counter), family }
    }

    fn inc(&self, reason: Reason) {
        self.inc_by(reason, 1);
    }

    fn inc_by(&self, reason: Reason, more: u64) {
        match self.usual.get(reason as usize) {
            Some(Some(counter)) => _ = counter.inc_by(more),
            _ => _ = self.family.get_or_create(&vec![("reason", reason.label())]).inc_by(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::status::Running;

    /// Everything that can be shown.
    pub(super) fn full() -> (Metrics, Arc<dyn Running>) {
        let metrics = Metrics::new();
        metrics.kernel(Arc::new(super::super::kernel::tests::Fake::default()));
        metrics.bounds().limit(Bound::TotalConnections, 500);
        metrics.blocklists(&["drop"]);
        let running: Arc<dyn Running> = Arc::new(super::super::status::tests::Fake::full());
        metrics.mirror(Arc::downgrade(&running));
        (metrics, running)
    }

    #[track_caller]
    pub(super) fn check(count: impl FnOnce(&Metrics), line: &str) {
        let metrics = Metrics::new();
        count(&metrics);
        let text = metrics.encode(Format::Open);
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        assert!(text.ends_with("# EOF\n"));
        let text = metrics.encode(Format::Classic);
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        assert!(!text.contains("# EOF"));
    }

    #[test]
    fn what_is_told_is_counted() {
        let check = |what: What, line: &str| check(|m| m.told(&what), line);
        let (source, text, evidence) = (String::new, String::new, Vec::new);
        let word = |reason: Reason| reason.label().into();
        let (reason, origin) = (word(Reason::Harvest), "ledger".into());
        check(
            What::Banned {
                source: source(),
                reason,
                origin,
                text: text(),
                duration_seconds: 1,
                repeat: 0,
                took_seconds: None,
                evidence: evidence(),
            },
            "smtp_guard_bans_total{reason=\"harvest\"} 1",
        );
        let imported = What::Imported { added: 3, refused: 1, text: text() };
        check(imported, "smtp_guard_bans_total{reason=\"operator\"} 3");
        let deferred = What::Deferred {
            source: source(),
            reason: word(Reason::Trap),
            duration_seconds: 1,
            repeat: 0,
            evidence: evidence(),
        };
        check(deferred, "smtp_guard_deferrals_total{reason=\"trap\"} 1");
        let reason = word(Reason::UserNetworks);
        let held = What::UserHeld { user: source(), reason, source: None, duration_seconds: None, text: text() };
        check(held, "smtp_guard_user_holds_total{reason=\"user_networks\"} 1");
        check(What::UserReleased { user: source() }, "smtp_guard_user_holds_total{reason=\"user_networks\"} 0");
    }

    #[test]
    fn each_call_counts_under_its_name() {
        check(|m| m.connection_opened(), "smtp_guard_connections_total 1");
        check(|m| m.exempt_connection(), "smtp_guard_exempt_connections_total 1");
        check(|m| m.balancer_check(), "smtp_guard_balancer_checks_total 1");
        for outcome in Outcome::ALL {
            let line = format!("smtp_guard_messages_total{{outcome=\"{}\"}} 1", outcome.label());
            check(|m| m.message(outcome), &line);
        }
        for &reason in Reason::ALL {
            let line = format!("smtp_guard_rejections_total{{reason=\"{}\"}} 1", reason.label());
            check(|m| m.rejected(reason), &line);
        }
        let kind = ReportKind::EarlyTalker;
        check(|m| m.reported(kind), "smtp_guard_ledger_reports_total{report=\"early_talker\"} 1");
        check(|m| m.observed(Reason::NoPtr), "smtp_guard_observed_total{reason=\"no_ptr\"} 1");
        for (ignored, outcome) in std::iter::once(None).chain(Ignored::ALL.map(Some)).zip(FOREIGN) {
            let line = format!("smtp_guard_foreign_decisions_total{{outcome=\"{outcome}\"}} 1");
            check(|m| m.foreign(ignored), &line);
        }
        for (verdict, result) in
            [AuthVerdict::Accepted, AuthVerdict::Rejected, AuthVerdict::Unavailable].into_iter().zip(AUTH)
        {
            let line = format!("smtp_guard_auth_attempts_total{{result=\"{result}\"}} 1");
            check(|m| m.auth_attempt(verdict), &line);
        }
        for kind in Kind::ALL {
            let line = format!("smtp_guard_dns_lookups_total{{kind=\"{}\",result=\"found\"}} 1", kind.label());
            check(|m| m.dns_lookup(kind, Told::Found), &line);
        }
        check(|m| m.log_lines_lost(3), "smtp_guard_log_lines_lost_total 3");
        check(|m| m.report_lost(), "smtp_guard_ledger_reports_lost_total 1");
        for &bound in Bound::ALL {
            let line = format!("smtp_guard_bound_reached_total{{bound=\"{}\"}} 1", bound.label());
            check(|m| m.bound_reached(bound), &line);
        }
        let limit = |m: &Metrics| m.bounds().limit(Bound::Users, 7);
        check(limit, "smtp_guard_bound_limit{bound=\"users\"} 7");
        let version = env!("CARGO_PKG_VERSION");
        let abi = smtp_guard_ebpf::abi::ABI_VERSION;
        check(|_| {}, &format!("smtp_guard_build_info{{version=\"{version}\",abi=\"{abi}\"}} 1"));
    }

    #[test]
    fn each_value_of_a_fixed_set_is_there_from_the_start() {
        for line in [
            "smtp_guard_dns_lookups_total{kind=\"aaaa\",result=\"timed_out\"} 0",
            "smtp_guard_dns_lookups_total{kind=\"dnsbl\",result=\"list_refuses\"} 0",
            "smtp_guard_ledger_reports_total{report=\"message_accepted\"} 0",
            "smtp_guard_bound_reached_total{bound=\"total_connections\"} 0",
            "smtp_guard_auth_attempts_total{result=\"unavailable\"} 0",
            "smtp_guard_rejections_total{reason=\"relay\"} 0",
            "smtp_guard_config_reloads_total{result=\"refused\"} 0",
        ] {
            check(|_| {}, line);
        }
    }

    #[test]
    fn no_family_is_announced_twice() {
        let (metrics, _running) = full();
        let text = metrics.encode(Format::Open);
        let mut names: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup_by_key(|n| n.split(' ').next());
        assert_eq!(names.len(), all, "{names:?}");
    }
}
