//! The kernel's figures of this process, under the names that all exporters use.

use std::fmt;
use std::fs::File;
use std::io::Read as _;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use rustix::param::page_size;
use rustix::time::{ClockId, clock_gettime};

use crate::descriptors;

/// Bytes of a file in /proc that are read: it has a line of a few numbers.
const READ: u64 = 512;

/// Shows this process.
#[derive(Debug)]
pub(super) struct Process {
    /// When it began, in seconds since 1970: when the metrics were made, which is a moment later.
    started: f64,
}

impl Process {
    /// In a registry of its own, since the names have no prefix.
    pub(super) fn registry() -> Registry {
        let started = crate::clock::wall().as_ms() as f64 / 1000.0;
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Self { started }));
        registry
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        let help = "Processor time of this process, in user space and in the kernel, in seconds";
        let family = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(seconds).encode(family)?;
        let help = "When this process began, in seconds since 1970";
        let family = encoder.encode_descriptor("process_start_time_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(self.started).encode(family)?;
        let (size, resident) = memory();
        let gauges = [
            ("process_virtual_memory_bytes", "Address space of this process, in bytes", size),
            ("process_resident_memory_bytes", "Memory of this process that is in RAM, in bytes", resident),
            ("process_open_fds", "File descriptors that this process has open", Some(descriptors::open())),
            ("process_max_fds", "File descriptors that this process may have open", Some(descriptors::limit())),
            ("process_threads", "Threads of this process", threads()),
        ];
        for (name, help, value) in gauges {
            // Without /proc there is nothing to say.
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// Address space and memory in RAM, in bytes.
fn memory() -> (Option<u64>, Option<u64>) {
    let text = read("/proc/self/statm").unwrap_or_default();
    let mut bytes = text.split(' ').map(|pages| pages.parse::<u64>().ok()?.checked_mul(page_size() as u64));
    (bytes.next().flatten(), bytes.next().flatten())
}

fn threads() -> Option<u64> {
    Some(std::fs::read_dir("/proc/self/task").ok()?.count() as u64)
}

fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(READ).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there() {
        let (size, resident) = memory();
        let (size, resident) = (size.unwrap(), resident.unwrap());
        assert!(size >= resident && resident > 1 << 20, "{size} {resident}");
        assert!(threads().unwrap() >= 1);
        assert_eq!(read("/proc/self/missing"), None);
    }
}
