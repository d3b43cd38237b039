//! Figures that `smtp-guard fleet status` shows beside [`FleetStatus`]: what became of the others' decisions here.

use serde::{Deserialize, Serialize};

use crate::decision::{Decision, Name, Origin};
use crate::fleet::FleetStatus;

/// The fleet as this edge sees it, and what other edges' decisions came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetView {
    #[serde(flatten)]
    pub fleet: FleetStatus,
    /// Decisions of other edges that are in force here, by the edge.
    pub in_force: Vec<OfNode>,
    /// Decisions and reports of other edges that were ignored since the start, as this edge exempts the source.
    pub exempted: u64,
}

/// So many of one edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfNode {
    pub name: String,
    pub count: u64,
}

impl FleetView {
    /// The view of `fleet`, where no decision is in force.
    pub fn new(fleet: FleetStatus, exempted: u64) -> Self {
        Self { fleet, in_force: Vec::new(), exempted }
    }

    /// Counts `decisions` that are in force as well: they come in parts.
    pub fn count(&mut self, decisions: &[Decision]) {
        let node = Origin::Node(Name::new("")).label();
        for decision in decisions.iter().filter(|decision| decision.origin == node) {
            let name = decision.origin_name.as_deref().unwrap_or_default();
            match self.in_force.binary_search_by(|of| of.name.as_str().cmp(name)) {
                Ok(at) => self.in_force.get_mut(at).into_iter().for_each(|of| of.count += 1),
                Err(at) => self.in_force.insert(at, OfNode { name: name.to_owned(), count: 1 }),
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use smtp_guard_core::fleet::message::Fault;

    use super::*;
    use crate::clock::{Seconds, WallTime};
    use crate::fleet::{Ignored, MutedView, NodeView, Offset};

    /// A fleet of three, of which `mx2` is muted and `mx3` silent.
    pub(crate) fn status() -> FleetStatus {
        let node = |name: &str, silent, live, offset| NodeView {
            name: name.to_owned(),
            program_version: "0.1.0".to_owned(),
            silent_seconds: Seconds(Duration::from_millis(silent)),
            live,
            clock_offset_seconds: Offset(offset),
            cursor: "5-0".to_owned(),
            muted: None,
            ignores: Vec::new(),
            kept: 0,
            lost: 0,
        };
        let muted = MutedView {
            since: WallTime::from_ms(0),
            until: WallTime::from_ms(600_000),
            text: "it made 812 decisions in a minute; 600 are the most".to_owned(),
        };
        FleetStatus {
            name: "edge".to_owned(),
            node: "mx1".to_owned(),
            sends: true,
            receives: true,
            connected: true,
            since: WallTime::from_ms(0),
            trouble: None,
            server: Some("192.0.2.10:6379".to_owned()),
            clock_offset_seconds: Some(Offset(-12)),
            kept: 5,
            lost: 3,
            reports_sent: 120,
            reports_heard: 98,
            decisions_known: 7,
            history_sources: 4,
            snapshots: 1,
            ignored: Fault::ALL
                .map(|fault| Ignored {
                    reason: fault.label().to_owned(),
                    count: if fault == Fault::Code { 2 } else { 0 },
                })
                .into(),
            nodes: vec![
                node("mx1", 300, true, -12),
                NodeView {
                    muted: Some(muted),
                    ignores: vec!["mx1".to_owned()],
                    lost: 9,
                    ..node("mx2", 1100, true, 90_250)
                },
                node("mx3", 7_500_000, false, 0),
            ],
        }
    }

    /// Decisions of others are in force like this, where decisions have these origins.
    #[track_caller]
    fn check(origins: &[(&str, Option<&str>)], expected: &[(&str, u64)]) {
        let decision = |(origin, name): &(&str, Option<&str>)| Decision {
            source: "192.0.2.1".to_owned(),
            reason: "harvest".to_owned(),
            text: String::new(),
            origin: (*origin).to_owned(),
            origin_name: name.map(str::to_owned),
            made: WallTime::from_ms(0),
            until: WallTime::from_ms(1),
            repeat: 0,
            evidence: Vec::new(),
        };
        let decisions: Vec<_> = origins.iter().map(decision).collect();
        let mut view = FleetView::new(status(), 4);
        decisions.chunks(2).for_each(|part| view.count(part));
        let found: Vec<_> = view.in_force.iter().map(|of| (of.name.as_str(), of.count)).collect();
        assert_eq!(found, expected);
        let json = serde_json::to_string(&view).unwrap();
        assert_eq!(serde_json::from_str::<FleetView>(&json).unwrap(), view);
    }

    #[test]
    fn what_other_edges_decided_is_counted_by_edge() {
        check(&[], &[]);
        check(
            &[
                ("ledger", None),
                ("node", Some("mx3")),
                ("operator", None),
                ("file", Some("mx2")),
                ("node", Some("mx2")),
                ("node", Some("mx3")),
            ],
            &[("mx2", 1), ("mx3", 2)],
        );
    }
}
