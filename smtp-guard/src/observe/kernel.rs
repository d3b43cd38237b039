//! The kernel plane's metrics: read from its maps when somebody scrapes, not before.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::{Deserialize, Serialize};
use smtp_guard_ebpf::abi::Family;
use smtp_guard_ebpf::reason::Reason;

/// Whether the kernel plane enforces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    pub present: bool,
    /// Where it is attached, or why it isn't there.
    pub text: String,
}

/// The kernel plane as the metrics read it, at each scrape.
pub trait KernelStats: Send + Sync + 'static {
    /// Whether the plane enforces now, and where; or why it doesn't.
    fn state(&self) -> Kernel;
    /// Packets since the plane was loaded, by reason and family. Families and reasons without packets may be left out.
    fn counters(&self) -> Vec<(Reason, Family, u64)>;
    /// Sources that have established connections now; `None`: can't be read.
    fn sources(&self) -> Option<u64>;
    /// Interfaces that the plane was loaded for, and whether the program is on them.
    fn interfaces(&self) -> Vec<(String, bool)>;
    /// Entries of the map of bans, expired ones included until they are swept; `None`: can't be read.
    fn bans(&self) -> Option<u64>;
}

/// Reads the kernel plane when somebody scrapes, not before.
pub(super) struct KernelCollector(Arc<OnceLock<Arc<dyn KernelStats>>>);

impl KernelCollector {
    pub(super) fn new(stats: Arc<OnceLock<Arc<dyn KernelStats>>>) -> Self {
        Self(stats)
    }
}

impl fmt::Debug for KernelCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelCollector")
    }
}

impl Collector for KernelCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(stats) = self.0.get() else { return Ok(()) };
        // A descriptor without a metric would be a family without samples, so nothing is announced for nothing.
        let counters = stats.counters();
        if !counters.is_empty() {
            let help = "Packets that the kernel plane judged";
            let mut family = encoder.encode_descriptor("kernel_packets", help, None, MetricType::Counter)?;
            for (reason, address_family, packets) in counters {
                let labels =
                    [("reason", reason.label()), ("family", address_family.label()), ("verdict", reason.verdict())];
                ConstCounter::new(packets).encode(family.encode_family(&labels)?)?;
            }
        }
        let interfaces = stats.interfaces();
        if !interfaces.is_empty() {
            let help = "Whether the kernel plane is on an interface";
            let mut family = encoder.encode_descriptor("kernel_interface_attached", help, None, MetricType::Gauge)?;
            for (name, attached) in interfaces {
                let labels = [("interface", name.as_str())];
                ConstGauge::new(i64::from(attached)).encode(family.encode_family(&labels)?)?;
            }
        }
        let gauges = [
            ("kernel_sources", "Sources with established connections", stats.sources()),
            ("kernel_bans", "Entries of the kernel's map of bans", stats.bans()),
        ];
        for (name, help, value) in gauges {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::observe::metrics::Metrics;

    #[track_caller]
    fn check(line: &str) {
        let metrics = Metrics::new();
        assert!(!metrics.encode().contains("kernel"), "nothing is announced for nothing");
        metrics.kernel(Arc::new(Fake));
        let text = metrics.encode();
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }

    #[test]
    fn the_kernel_is_read_at_the_scrape() {
        check("smtp_guard_kernel_packets_total{reason=\"harvest\",family=\"ipv6\",verdict=\"drop\"} 9");
        check("smtp_guard_kernel_packets_total{reason=\"exempt\",family=\"ipv4\",verdict=\"pass\"} 2");
        check("smtp_guard_kernel_sources 3");
        check("smtp_guard_kernel_interface_attached{interface=\"eth0\"} 1");
    }

    pub(in crate::observe) struct Fake;

    impl KernelStats for Fake {
        fn state(&self) -> Kernel {
            Kernel { present: true, text: "on eth0".to_owned() }
        }

        fn counters(&self) -> Vec<(Reason, Family, u64)> {
            vec![(Reason::Harvest, Family::V6, 9), (Reason::Exempt, Family::V4, 2)]
        }

        fn sources(&self) -> Option<u64> {
            Some(3)
        }

        fn interfaces(&self) -> Vec<(String, bool)> {
            vec![("eth0".to_owned(), true)]
        }

        fn bans(&self) -> Option<u64> {
            None
        }
    }
}
