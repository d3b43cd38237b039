//! Two snapshots to what stands in the rows of the screen. Pure: no clock, no terminal.
//!
//! A rate is the difference of two snapshots of the same guard over the time between them, by the guard's own clock. There is
//! none with one snapshot, and none after a restart of the guard. A counter has none if it went back because the kernel plane
//! was loaded again.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cli::{events, output, time};
use smtp_guard_ebpf::reason::Reason;

use crate::clock::WallTime;
use crate::decision::Decision;
use crate::events::Event;
use crate::observe::live::{Counted, DroppedSource, Live};
use crate::observe::log::printable;

/// The tone of a row: how grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Doubt,
    Plain,
}

/// A counter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Count {
    pub(super) name: String,
    pub(super) tone: Tone,
    pub(super) per_second: Option<f64>,
    pub(super) total: u64,
}

impl Count {
    /// Whether anything moves.
    pub(super) fn is_active(&self) -> bool {
        self.per_second.is_some_and(|rate| rate > 0.0)
    }
}

/// By what sources are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Rate,
    Total,
    Newest,
}

impl Sort {
    /// The one after it, in a ring.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Rate => Self::Total,
            Self::Total => Self::Newest,
            Self::Newest => Self::Rate,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Total => "total",
            Self::Newest => "newest",
        }
    }
}

/// The upper one of the two tables of sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum View {
    #[default]
    Dropped,
    Worst,
    Sessions,
}

impl View {
    /// The one after it, in a ring.
    pub(super) fn next(self) -> Self {
        match self {
            Self::Dropped => Self::Worst,
            Self::Worst => Self::Sessions,
            Self::Sessions => Self::Dropped,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Dropped => "dropped",
            Self::Worst => "worst",
            Self::Sessions => "sessions",
        }
    }
}

/// A snapshot, and the one before it of the same guard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    before: Option<&'a Live>,
    pub(super) now: &'a Live,
}

impl<'a> Pair<'a> {
    /// `before` counts only if it is of the same guard, and earlier.
    pub(super) fn new(before: Option<&'a Live>, now: &'a Live) -> Self {
        let comparable = |before: &&Live| before.instance == now.instance && before.uptime_seconds < now.uptime_seconds;
        Self { before: before.filter(comparable), now }
    }

    fn rate(&self, count: impl Fn(&Live) -> u64) -> Option<f64> {
        let before = self.before?;
        let seconds = (self.now.uptime_seconds.0 - before.uptime_seconds.0).as_secs_f64();
        count(self.now).checked_sub(count(before)).map(|more| more as f64 / seconds)
    }

    fn count(&self, name: &str, tone: Tone, count: impl Fn(&Live) -> u64) -> Count {
        let name = printable(name.as_bytes());
        Count { name, tone, per_second: self.rate(&count), total: count(self.now) }
    }

    /// Packets a second of one verdict, `pass` or `drop`.
    pub(super) fn packets(&self, verdict: &str) -> Option<f64> {
        self.rate(|live| live.kernel_packets.iter().filter(|p| p.verdict == verdict).map(|p| p.count).sum())
    }

    /// Refusals a second of user space.
    pub(super) fn refusals(&self) -> Option<f64> {
        self.rate(|live| live.rejections.iter().map(|counted| counted.count).sum())
    }

    /// The kernel's verdicts, both families together.
    pub(super) fn kernel(&self) -> Vec<Count> {
        let verdicts: BTreeMap<_, _> =
            self.now.kernel_packets.iter().map(|p| (p.reason.as_str(), p.verdict.as_str())).collect();
        let counts = verdicts.into_iter().map(|(reason, verdict)| {
            let tone = if verdict == "drop" { Tone::Bad } else { Tone::Good };
            self.count(reason, tone, |live| {
                live.kernel_packets.iter().filter(|p| p.reason == reason).map(|p| p.count).sum()
            })
        });
        ordered(counts.collect())
    }

    /// Refusals by the proxy, without reasons that never occurred.
    pub(super) fn rejections(&self) -> Vec<Count> {
        let refused = self.now.rejections.iter().filter(|counted| counted.count > 0);
        let counts = refused.map(|Counted { reason, .. }| {
            let of = |live: &Live| live.rejections.iter().find(|c| c.reason == *reason).map_or(0, |c| c.count);
            self.count(reason, Tone::Bad, of)
        });
        ordered(counts.collect())
    }

    /// Messages by outcome, and connections; always in this order.
    pub(super) fn messages(&self) -> Vec<Count> {
        vec![
            self.count("accepted", Tone::Good, |live| live.status.messages.accepted),
            self.count("rejected", Tone::Bad, |live| live.status.messages.rejected),
            self.count("deferred", Tone::Doubt, |live| live.status.messages.deferred),
            self.count("ambiguous", Tone::Doubt, |live| live.status.messages.ambiguous),
            self.count("sessions", Tone::Plain, |live| live.connections_total),
        ]
    }
}

/// Sorts moving rows first, bad before good, then by total: rows that do the same keep their places.
fn ordered(mut counts: Vec<Count>) -> Vec<Count> {
    counts.sort_by_key(|count| (!count.is_active(), count.tone != Tone::Bad, std::cmp::Reverse(count.total)));
    counts
}

/// A source whose packets are dropped.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SourceRow {
    pub(super) source: String,
    /// Label and words of the reason.
    pub(super) reason: String,
    pub(super) words: String,
    pub(super) per_second: f64,
    pub(super) packets: u64,
    pub(super) samples: u64,
    pub(super) port: u16,
    /// How long it has been dropped.
    pub(super) lasts: String,
}

/// The sources with the most drops.
pub(super) fn sources(live: &Live, sort: Sort) -> Vec<SourceRow> {
    let mut sources: Vec<&DroppedSource> = live.drops.by_source.iter().collect();
    sources.sort_by(|a, b| match sort {
        Sort::Rate => b.per_second.total_cmp(&a.per_second),
        Sort::Total => b.packets.cmp(&a.packets),
        Sort::Newest => b.since.cmp(&a.since),
    });
    let rows = sources.into_iter().map(|source| SourceRow {
        source: printable(source.source.as_bytes()),
        reason: printable(source.reason.as_bytes()),
        words: words(&source.reason),
        per_second: source.per_second,
        packets: source.packets,
        samples: source.samples,
        port: source.port,
        lasts: since(source.since, live.at),
    });
    rows.collect()
}

/// The words of the reason `label`; one that isn't known here stays as it is.
fn words(label: &str) -> String {
    Reason::from_label(label).map_or_else(|| printable(label.as_bytes()), |reason| reason.text().to_owned())
}

/// A ban.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BanRow {
    pub(super) source: String,
    pub(super) reason: String,
    pub(super) left: String,
    pub(super) made: String,
    pub(super) by: String,
    pub(super) text: String,
}

/// The latest bans at `wall`, without those that have ended.
pub(super) fn bans(live: &Live, wall: WallTime) -> Vec<BanRow> {
    let rows = live.decisions.iter().filter(|ban| ban.until > wall).map(|ban: &Decision| BanRow {
        source: printable(ban.source.as_bytes()),
        reason: printable(ban.reason.as_bytes()),
        left: output::left(ban.until, wall),
        made: since(ban.made, wall),
        by: printable(ban.by().as_bytes()),
        text: printable(ban.text.as_bytes()),
    });
    rows.collect()
}

/// A source that offended lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SuspectRow {
    pub(super) source: String,
    /// Unknown recipients that count, and which share of all they are.
    pub(super) unknown: u32,
    pub(super) share: String,
    pub(super) logins: u32,
    pub(super) accepted: u32,
    pub(super) offences: String,
}

/// The sources that offended lately, the worst first.
pub(super) fn suspects(live: &Live) -> Vec<SuspectRow> {
    let rows = live.suspects.iter().map(|suspect| SuspectRow {
        source: printable(suspect.source.as_bytes()),
        unknown: suspect.unforgiven,
        share: format!("{:.0}%", suspect.share * 100.0),
        logins: suspect.failed_logins,
        accepted: suspect.accepted,
        offences: printable(suspect.offences.join(", ").as_bytes()),
    });
    rows.collect()
}

/// An open session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionRow {
    pub(super) source: String,
    /// The user, or what the client calls itself.
    pub(super) who: String,
    pub(super) doing: String,
    pub(super) accepted: u32,
    pub(super) tls: bool,
    pub(super) lasts: String,
}

/// Open sessions, as the guard orders them.
pub(super) fn sessions(live: &Live) -> Vec<SessionRow> {
    let rows = live.sessions.iter().map(|session| SessionRow {
        source: printable(session.source.as_bytes()),
        who: match (&session.user, &session.helo) {
            (Some(user), _) => format!("user {}", printable(user.as_bytes())),
            (None, helo) => printable(helo.as_deref().unwrap_or_default().as_bytes()),
        },
        doing: printable(session.state.as_bytes()),
        accepted: session.messages_accepted,
        tls: session.tls,
        lasts: time::length(session.age_seconds.0.as_secs()),
    });
    rows.collect()
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventRow {
    pub(super) ago: String,
    pub(super) words: String,
}

/// Recent events, at `wall`.
pub(super) fn events(live: &Live, wall: WallTime) -> Vec<EventRow> {
    let row = |event: &Arc<Event>| EventRow { ago: since(event.at, wall), words: events::words(&event.what) };
    live.events.iter().map(row).collect()
}

fn since(then: WallTime, now: WallTime) -> String {
    time::length(now.as_ms().saturating_sub(then.as_ms()).max(0).unsigned_abs() / 1000)
}

#[cfg(test)]
pub(super) mod tests;
