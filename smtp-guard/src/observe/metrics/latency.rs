//! Histograms: the time that things take, and the size of messages.

use std::time::Duration;

use prometheus_client::metrics::family::Family as Labelled;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::read::Timing;
use super::{Labels, Metrics};
use crate::facts::dns::Kind;

/// Questions to the backend whose time is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// From the wish for a connection to its last EHLO; the wait for a place included.
    Connect,
    Mail,
    Rcpt,
    Data,
    /// The end of a message's data: until it is taken or refused.
    Dot,
    Auth,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Connect, Self::Mail, Self::Rcpt, Self::Data, Self::Dot, Self::Auth];
    const LABELS: [&'static str; 6] = ["connect", "mail", "rcpt", "data", "dot", "auth"];

    /// Its label in metrics.
    pub const fn label(self) -> &'static str {
        Self::LABELS[self as usize]
    }
}

/// Upper ends of buckets in seconds, for what the guard does itself.
const OWN: [f64; 11] = [0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.01, 0.1];
/// Likewise for what others are waited for.
const OTHERS: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0];
/// Likewise of sessions.
const SESSIONS: [f64; 9] = [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
/// Upper ends of buckets in bytes.
const SIZES: [f64; 9] = [1e3, 5e3, 2e4, 1e5, 5e5, 2e6, 1e7, 2.5e7, 1e8];
/// Upper ends of the buckets of `smtp_guard_ban_latency_seconds`, in seconds: the target is 1 ms.
const BAN_SECONDS: [f64; 11] = [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];

/// All histograms.
pub(super) struct Latency {
    decision: Histogram,
    backend: [Histogram; Verb::LABELS.len()],
    dns: [Histogram; Kind::ALL.len()],
    /// The same, to be read back.
    pub(super) backend_timed: [Timing; Verb::LABELS.len()],
    pub(super) dns_timed: [Timing; Kind::ALL.len()],
    ban: Histogram,
    session: Histogram,
    size: Histogram,
}

impl Latency {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let help = "Time to decide on a command, without look-ups and waiting, in seconds";
        let decision = single(registry, "decision_seconds", help, &OWN);
        let help = "Time until the backend answered, by what it was asked, in seconds";
        let backend = fixed(registry, "backend_reply_seconds", help, "verb", Verb::LABELS);
        let help = "Time of questions that DNS servers were asked, by kind, in seconds";
        let dns = fixed(registry, "dns_lookup_seconds", help, "kind", Kind::ALL.map(Kind::label));
        let help = "Time from the report that crossed the line to the ban in force in kernel and proxy, in seconds";
        let ban = single(registry, "ban_latency_seconds", help, &BAN_SECONDS);
        let help = "Length of sessions, in seconds";
        let session = single(registry, "session_seconds", help, &SESSIONS);
        let size =
            single(registry, "message_size_bytes", "Size of messages whose data came to its end, in bytes", &SIZES);
        Self {
            decision,
            backend,
            dns,
            backend_timed: Default::default(),
            dns_timed: Default::default(),
            ban,
            session,
            size,
        }
    }
}

fn single(registry: &mut Registry, name: &'static str, help: &'static str, ends: &[f64]) -> Histogram {
    let histogram = Histogram::new(ends.iter().copied());
    registry.register(name, help, histogram.clone());
    histogram
}

/// One for each of `values`, of what others are waited for.
fn fixed<const N: usize>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: [&'static str; N],
) -> [Histogram; N] {
    let family = Labelled::<Labels, Histogram>::new_with_constructor(|| Histogram::new(OTHERS));
    super::fixed_of(registry, name, help, family, label, values)
}

impl Metrics {
    /// A command was decided on.
    pub fn decided(&self, time: Duration) {
        self.0.latency.decision.observe(time.as_secs_f64());
    }

    /// The backend answered.
    pub fn backend_replied(&self, verb: Verb, time: Duration) {
        self.0.latency.backend[verb as usize].observe(time.as_secs_f64());
        self.0.latency.backend_timed[verb as usize].add(time);
    }

    /// A question that DNS servers were asked has come to its end.
    pub fn dns_asked(&self, kind: Kind, time: Duration) {
        self.0.latency.dns[kind as usize].observe(time.as_secs_f64());
        self.0.latency.dns_timed[kind as usize].add(time);
    }

    /// A ban is in force, so long after the report that crossed the line.
    pub fn ban_latency(&self, time: Duration) {
        self.0.latency.ban.observe(time.as_secs_f64());
    }

    /// A session has ended.
    pub fn session_ended(&self, length: Duration) {
        self.0.latency.session.observe(length.as_secs_f64());
    }

    /// The data of a message came to its end.
    pub fn message_size(&self, bytes: u64) {
        self.0.latency.size.observe(bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;
    use super::*;

    #[test]
    fn each_time_is_in_its_bucket() {
        let us = Duration::from_micros;
        check(|m| m.decided(us(15)), "smtp_guard_decision_seconds_bucket{le=\"0.00002\"} 1");
        check(|m| m.decided(us(15)), "smtp_guard_decision_seconds_bucket{le=\"0.00001\"} 0");
        check(|m| m.ban_latency(us(300)), "smtp_guard_ban_latency_seconds_bucket{le=\"0.0005\"} 1");
        check(|m| m.ban_latency(us(300)), "smtp_guard_ban_latency_seconds_bucket{le=\"0.0002\"} 0");
        check(|m| m.session_ended(us(300)), "smtp_guard_session_seconds_count 1");
        check(|m| m.message_size(1500), "smtp_guard_message_size_bytes_bucket{le=\"5000.0\"} 1");
        check(|m| m.dns_asked(Kind::Ptr, us(1)), "smtp_guard_dns_lookup_seconds_count{kind=\"ptr\"} 1");
        check(|_| {}, "smtp_guard_dns_lookup_seconds_count{kind=\"mx\"} 0");
        for (verb, label) in [
            (Verb::Connect, "connect"),
            (Verb::Mail, "mail"),
            (Verb::Rcpt, "rcpt"),
            (Verb::Data, "data"),
            (Verb::Dot, "dot"),
            (Verb::Auth, "auth"),
        ] {
            let line = format!("smtp_guard_backend_reply_seconds_count{{verb=\"{label}\"}} 1");
            check(|m| m.backend_replied(verb, us(1)), &line);
        }
    }
}
