//! Counts the kernel plane's samples of dropped packets, for log lines and `smtp-guard top`.
//!
//! A sample is one dropped packet and says how many it stands for: itself, and those that its CPU dropped since the
//! sample before it. All of these are charged to the sampled packet's source and reason.
//!
//! The kernel takes samples by time, not by source. So the sampled packet is as good as drawn by lot from those that it stands
//! for. A source's charge is an estimate without bias, and the better the more samples it rests on. One sample alone says
//! little: in the midst of a flood, an honest client that drew the lot is charged with a share of the flood, once. That is why
//! `samples` stands beside `packets` wherever an estimate is shown, and why nobody is banned by it.
//!
//! The end of a flood may leave packets without a sample, at most those that a CPU drops between two samples. They are
//! charged to the next source that is dropped. The exact counts by reason are the kernel's own
//! ([`super::metrics::KernelStats`]).
//!
//! # Bounds
//! [`SOURCES`] pairs of source and reason (see [`table`]), the last [`LATEST`] samples, a log line a minute for each pair
//! and [`LINES`] a second for all. What finds no room is counted as a bound that was reached (`drop_sources`,
//! `drop_lines`); the next line says how many were left out.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smtp_guard_ebpf::reason::{MAX_REASONS, Reason};

use super::budget::Budget;
use super::live::{Dropped, DroppedReason, DroppedSource, DropsView};
use super::metrics::Metrics;
use crate::addr::Ipv6Prefix;
use crate::bound::Bound;
use crate::clock::{Both, Instant};
use crate::edge::events::Sample;

mod table;

use table::{Key, Table};

/// The target of lines about dropped packets, to be filtered by: `info,kernel_drops=off`. Not [`super::log::SECURITY`]:
/// nothing is refused here that wasn't refused before.
pub const TARGET: &str = "kernel_drops";

/// Pairs of source and reason that are counted.
const SOURCES: usize = 4096;
/// Samples that are kept as they came.
const LATEST: usize = 64;
/// Older samples waited in the ring buffer while nobody read it: they are no news, and no part of a rate.
const STALE: Duration = Duration::from_secs(5);
/// Log lines a second.
const LINES: u32 = 20;
/// Sources that are shown.
const SHOWN: usize = 64;

/// Takes samples, and says what they amount to. Shared behind an `Arc`.
#[derive(Debug)]
pub struct Drops {
    prefix: Ipv6Prefix,
    metrics: Metrics,
    lines: Budget,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    sources: Table,
    /// Samples and packets by the reason's number.
    reasons: [(u64, u64); MAX_REASONS as usize],
    latest: VecDeque<Sample>,
    samples: u64,
    lost: u64,
    /// As last told.
    lost_in_all: Option<u64>,
}

/// A log line that is to be written, and how many were left out before it.
struct Line {
    sample: Sample,
    left_out: u64,
}

impl Drops {
    /// Nothing yet. Sources of IPv6 are distinguished by `prefix`.
    pub fn new(prefix: Ipv6Prefix, metrics: Metrics) -> Self {
        metrics.bounds().limit(Bound::DropSources, SOURCES as u64);
        metrics.bounds().limit(Bound::DropLines, LINES.into());
        let inner = Inner {
            sources: Table::new(SOURCES),
            reasons: [(0, 0); MAX_REASONS as usize],
            latest: VecDeque::with_capacity(LATEST),
            samples: 0,
            lost: 0,
            lost_in_all: None,
        };
        Self { prefix, metrics, lines: Budget::new(LINES), inner: Mutex::new(inner) }
    }

    /// Takes `samples` at `now`, in the order in which they were read, and logs those that are news.
    ///
    /// To be called by one reader, with a `now` that never goes back. It takes a lock for the time of the counting, not
    /// for that of the logging.
    pub fn take(&self, samples: &[Sample], now: Instant) {
        for Line { sample, left_out } in self.count(samples, now) {
            log(&self.prefix.display(self.prefix.source(sample.ip)), &sample, left_out);
        }
    }

    /// So many samples found the ring buffer full since the kernel plane was loaded; the packets themselves are counted by
    /// the kernel. What was lost before the first call nobody was there to read.
    pub fn lost(&self, in_all: u64) {
        let mut inner = self.inner();
        let before = inner.lost_in_all.replace(in_all).unwrap_or(in_all);
        // Fewer than before: the plane was loaded again.
        let more = in_all.checked_sub(before).unwrap_or(in_all);
        inner.lost = inner.lost.saturating_add(more);
        self.metrics.drop_samples_lost(more);
    }

    fn count(&self, samples: &[Sample], now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut inner = self.inner();
        for sample in samples {
            inner.keep(sample);
            if now.since(sample.at) > STALE {
                continue;
            }
            let key = Key { source: self.prefix.source(sample.ip), reason: sample.reason };
            let added = inner.sources.add(key, sample.port, sample.stands_for, now);
            if added.displaced {
                self.metrics.bound_reached(Bound::DropSources);
            }
            if added.line_due {
                match self.lines.take(now) {
                    Some(left_out) => {
                        inner.sources.line_written(key, now);
                        lines.push(Line { sample: *sample, left_out });
                    }
                    None => self.metrics.bound_reached(Bound::DropLines),
                }
            }
        }
        self.metrics.drop_samples(samples.len() as u64);
        lines
    }

    /// All of it at `both`.
    pub fn view(&self, both: &Both) -> DropsView {
        let inner = self.inner();
        let sources = inner.sources.top(SHOWN, both.instant).into_iter().map(|top| DroppedSource {
            source: self.prefix.display(top.key.source),
            reason: top.key.reason.label().to_owned(),
            port: top.port,
            per_second: top.per_second,
            packets: top.packets,
            samples: top.samples,
            since: both.wall_at(top.since),
            last: both.wall_at(top.last),
        });
        let reasons = Reason::ALL.iter().map(|reason| (reason, inner.reasons[*reason as usize]));
        let reasons = reasons.filter(|(_, (samples, _))| *samples > 0).map(|(reason, (samples, packets))| {
            let reason = reason.label().to_owned();
            DroppedReason { reason, packets, samples }
        });
        let latest = inner.latest.iter().rev().map(|sample| Dropped {
            at: both.wall_at(sample.at),
            ip: sample.ip,
            port: sample.port,
            reason: sample.reason.label().to_owned(),
            stands_for: sample.stands_for,
        });
        DropsView {
            samples: inner.samples,
            lost: inner.lost,
            by_source: sources.collect(),
            by_reason: reasons.collect(),
            latest: latest.collect(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(&mut self, sample: &Sample) {
        let (samples, packets) = &mut self.reasons[sample.reason as usize];
        *samples += 1;
        *packets = packets.saturating_add(sample.stands_for);
        if self.latest.len() == LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back(*sample);
        self.samples += 1;
    }
}

/// `The kernel drops packets from 192.0.2.1 to port 25: directory harvest attack`
///
/// No filter of fail2ban may take it for a refusal: who stands in it is blocked already. A test runs them over it.
pub fn words(ip: IpAddr, port: u16, reason: Reason) -> String {
    format!("The kernel drops packets from {ip} to port {port}: {}", reason.text())
}

fn log(source: &str, sample: &Sample, left_out: u64) {
    let Sample { ip, port, reason, stands_for, .. } = *sample;
    tracing::info!(
        target: TARGET,
        source,
        ip = %ip,
        port,
        reason = reason.label(),
        packets = stands_for,
        left_out = (left_out > 0).then_some(left_out),
        "{}", words(ip, port, reason)
    );
}

#[cfg(test)]
mod tests;
