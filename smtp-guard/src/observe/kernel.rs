//! The kernel plane's metrics: read from its maps when somebody scrapes, not before.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use serde::{Deserialize, Serialize};
use smtp_guard_ebpf::abi::Family;
use smtp_guard_ebpf::reason::{Plane, Reason};

pub use crate::edge::MapFill;

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
    /// Sources that have established connections now, and how full the maps are; `None`: can't be read.
    fn fill(&self) -> Option<(u64, [MapFill; 3])>;
    /// Interfaces that are configured or that the plane was loaded for, and whether the program is on them.
    fn interfaces(&self) -> Vec<(String, bool)>;
    /// Whether the configuration wants a plane.
    fn wanted(&self) -> bool;
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
        let wanted = stats.wanted();
        if wanted {
            let gauge = ConstGauge::new(i64::from(stats.state().present));
            let help = "Whether the kernel plane enforces; absent where none is configured";
            gauge.encode(encoder.encode_descriptor("kernel_up", help, None, MetricType::Gauge)?)?;
        }
        // A descriptor without a metric would be a family without samples, so nothing is announced for nothing.
        let counted = stats.counters();
        if wanted || !counted.is_empty() {
            let help = "Packets that the kernel plane judged";
            let mut family = encoder.encode_descriptor("kernel_packets", help, None, MetricType::Counter)?;
            for (reason, of, packets) in with_zeros(counted) {
                let labels = [("reason", reason.label()), ("family", of.label()), ("verdict", reason.verdict())];
                ConstCounter::new(packets).encode(family.encode_family(&labels)?)?;
            }
        }
        let interfaces = stats.interfaces();
        if !interfaces.is_empty() {
            let help = "Whether the kernel plane is on an interface; 0 also where the interface is missing";
            let mut family = encoder.encode_descriptor("kernel_interface_attached", help, None, MetricType::Gauge)?;
            for (name, attached) in interfaces {
                let labels = [("interface", name.as_str())];
                ConstGauge::new(i64::from(attached)).encode(family.encode_family(&labels)?)?;
            }
        }
        let Some((sources, maps)) = stats.fill() else { return Ok(()) };
        let help = "Sources with established connections";
        gauge(sources).encode(encoder.encode_descriptor("kernel_sources", help, None, MetricType::Gauge)?)?;
        let families = [
            ("kernel_map_entries", "Entries of a map of the kernel, by map", true),
            ("kernel_map_capacity", "Entries that a map of the kernel has room for, by map", false),
        ];
        for (name, help, entries) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for map in &maps {
                gauge(if entries { map.entries } else { map.capacity })
                    .encode(family.encode_family(&[("map", map.map)])?)?;
            }
        }
        Ok(())
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// The kernel's counts, with zeros for whatever it could count and didn't.
fn with_zeros(counted: Vec<(Reason, Family, u64)>) -> Vec<(Reason, Family, u64)> {
    let kernels = Reason::ALL.iter().filter(|reason| reason.plane() != Plane::User);
    let possible = kernels.flat_map(|reason| [Family::V4, Family::V6].map(|family| (*reason, family)));
    let mut all: BTreeMap<_, _> = possible.map(|(reason, family)| ((reason, family.label()), (family, 0))).collect();
    for (reason, family, packets) in counted {
        all.insert((reason, family.label()), (family, packets));
    }
    all.into_iter().map(|((reason, _), (family, packets))| (reason, family, packets)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::observe::metrics::{Format, Metrics};

    #[track_caller]
    fn check(fake: Fake, line: &str) {
        let metrics = Metrics::new();
        assert!(!metrics.encode(Format::Open).contains("guard_kernel_s"), "nothing is announced for nothing");
        metrics.kernel(Arc::new(fake));
        let text = metrics.encode(Format::Open);
        assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
    }

    #[test]
    fn the_kernel_is_read_at_the_scrape() {
        let loaded = Fake::default;
        check(loaded(), "smtp_guard_kernel_packets_total{reason=\"harvest\",family=\"ipv6\",verdict=\"drop\"} 9");
        check(loaded(), "smtp_guard_kernel_packets_total{reason=\"exempt\",family=\"ipv4\",verdict=\"pass\"} 2");
        check(loaded(), "smtp_guard_kernel_packets_total{reason=\"listed\",family=\"ipv4\",verdict=\"drop\"} 0");
        check(loaded(), "smtp_guard_kernel_sources 3");
        check(loaded(), "smtp_guard_kernel_map_entries{map=\"bans\"} 4");
        check(loaded(), "smtp_guard_kernel_map_capacity{map=\"networks\"} 65536");
        check(loaded(), "smtp_guard_kernel_interface_attached{interface=\"eth0\"} 1");
        check(loaded(), "smtp_guard_kernel_up 1");
    }

    #[test]
    fn a_plane_that_is_missing_is_told() {
        let missing = || Fake { present: false };
        check(missing(), "smtp_guard_kernel_up 0");
        check(missing(), "smtp_guard_kernel_interface_attached{interface=\"eth0\"} 0");
        check(missing(), "smtp_guard_kernel_packets_total{reason=\"harvest\",family=\"ipv6\",verdict=\"drop\"} 0");
    }

    /// A plane that is configured, and there or not.
    pub(in crate::observe) struct Fake {
        present: bool,
    }

    impl Default for Fake {
        fn default() -> Self {
            Self { present: true }
        }
    }

    impl KernelStats for Fake {
        fn state(&self) -> Kernel {
            Kernel { present: self.present, text: "on eth0".to_owned() }
        }

        fn counters(&self) -> Vec<(Reason, Family, u64)> {
            let counted = vec![(Reason::Harvest, Family::V6, 9), (Reason::Exempt, Family::V4, 2)];
            if self.present { counted } else { Vec::new() }
        }

        fn fill(&self) -> Option<(u64, [MapFill; 3])> {
            let map = |map, entries, capacity| MapFill { map, entries, capacity };
            let maps = [map("bans", 4, 1000), map("networks", 0, 65_536), map("sources", 5, 1000)];
            self.present.then_some((3, maps))
        }

        fn interfaces(&self) -> Vec<(String, bool)> {
            vec![("eth0".to_owned(), self.present)]
        }

        fn wanted(&self) -> bool {
            true
        }
    }
}
