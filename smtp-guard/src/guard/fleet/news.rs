//! Differences between two looks at a fleet that are worth an event.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::WallTime;
use crate::events::What;
use crate::fleet::{FleetStatus, NodeView};

/// How long after the server has answered again edges are waited for: they say each second how they are.
const SETTLING: Duration = Duration::from_secs(10);

/// The fleet as it was told last.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Name of the fleet and of this edge; `None`: there is no fleet.
    of: Option<[String; 2]>,
    /// Whether the server answers; `None`: it was not asked yet.
    connected: Option<bool>,
    /// Other edges that were seen live.
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    live: bool,
    muted: bool,
}

impl News {
    /// Finds the news in `fleet`, as it is at `now`.
    pub(super) fn of(&mut self, fleet: Option<&FleetStatus>, now: WallTime) -> Vec<What> {
        let of = fleet.map(|fleet| [fleet.name.clone(), fleet.node.clone()]);
        if self.of != of {
            *self = Self { of, ..Self::default() };
        }
        let Some(fleet) = fleet else { return Vec::new() };
        let mut news = Vec::new();
        let connected = match (fleet.connected, &fleet.trouble) {
            (true, _) => Some((true, fleet.server.clone().unwrap_or_default())),
            (false, Some(trouble)) => Some((false, trouble.clone())),
            (false, None) => None,
        };
        if let Some((connected, text)) = connected
            && self.connected != Some(connected)
        {
            self.connected = Some(connected);
            news.push(What::Fleet { connected, text });
        }
        // Without the server nothing is heard of anybody.
        if !fleet.connected {
            return news;
        }
        let settled = now.as_ms().saturating_sub(fleet.since.as_ms()) >= SETTLING.as_millis() as i64;
        self.nodes.retain(|name, _| fleet.nodes.iter().any(|node| node.name == *name));
        for node in fleet.nodes.iter().filter(|node| node.name != fleet.node) {
            self.node(node, settled, &mut news);
        }
        news
    }

    fn node(&mut self, NodeView { name, live, muted, .. }: &NodeView, settled: bool, news: &mut Vec<What>) {
        let mut tell = |state: &'static str, text: &str| {
            news.push(What::FleetNode { node: name.clone(), state: state.into(), text: text.to_owned() });
        };
        let known = self.nodes.entry(name.clone()).or_default();
        if *live && !known.live {
            tell("live", "");
        } else if known.live && !live && settled {
            tell("silent", "");
        }
        known.live = *live || (known.live && !settled);
        match muted {
            Some(why) if !known.muted => tell("muted", &why.text),
            None if known.muted => tell("heard", ""),
            _ => {}
        }
        known.muted = muted.is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Seconds;
    use crate::fleet::{MutedView, Offset};

    fn fleet(connected: bool, trouble: Option<&str>, nodes: &[(&str, bool, bool)]) -> FleetStatus {
        let muted = MutedView { since: WallTime::from_ms(0), until: WallTime::from_ms(1), text: "too much".to_owned() };
        let node = |(name, live, is_muted): &(&str, bool, bool)| NodeView {
            name: (*name).to_owned(),
            program_version: String::new(),
            silent_seconds: Seconds(Duration::ZERO),
            live: *live,
            clock_offset_seconds: Offset(0),
            cursor: String::new(),
            muted: is_muted.then(|| muted.clone()),
            ignores: Vec::new(),
            kept: 0,
            lost: 0,
        };
        FleetStatus {
            name: "edge".to_owned(),
            node: "mx1".to_owned(),
            sends: true,
            receives: true,
            connected,
            since: WallTime::from_ms(0),
            trouble: trouble.map(str::to_owned),
            server: Some("redis:6379".to_owned()),
            clock_offset_seconds: None,
            kept: 0,
            lost: 0,
            reports_sent: 0,
            reports_heard: 0,
            decisions_known: 0,
            history_sources: 0,
            snapshots: 0,
            ignored: Vec::new(),
            nodes: nodes.iter().map(node).collect(),
        }
    }

    /// The news after each look, which comes so many seconds after the server began to answer or stopped.
    #[track_caller]
    fn check(looks: &[(i64, Option<FleetStatus>, &[&str])]) {
        let mut news = News::default();
        for (at, fleet, expected) in looks {
            let told = news.of(fleet.as_ref(), WallTime::from_ms(at * 1000)).into_iter().map(|what| match what {
                What::Fleet { connected, text } => format!("{connected} {text}"),
                What::FleetNode { node, state, text } => format!("{node} {state} {text}").trim_end().to_owned(),
                other => panic!("{other:?}"),
            });
            assert_eq!(told.collect::<Vec<_>>(), *expected, "{at}: {fleet:?}");
        }
    }

    #[test]
    fn differences_are_told_once() {
        let own = ("mx1", true, false);
        check(&[
            (0, None, &[]),
            (0, Some(fleet(false, None, &[])), &[]),
            (0, Some(fleet(true, None, &[own])), &["true redis:6379"]),
            (1, Some(fleet(true, None, &[own, ("mx2", true, false), ("mx3", false, false)])), &["mx2 live"]),
            (2, Some(fleet(true, None, &[own, ("mx2", true, true)])), &["mx2 muted too much"]),
            (3, Some(fleet(true, None, &[own, ("mx2", true, true)])), &[]),
            (4, Some(fleet(true, None, &[own, ("mx2", true, false)])), &["mx2 heard"]),
            (20, Some(fleet(true, None, &[own, ("mx2", false, false)])), &["mx2 silent"]),
            (21, Some(fleet(true, None, &[own, ("mx2", true, false)])), &["mx2 live"]),
            (0, Some(fleet(false, Some("refused"), &[own, ("mx2", false, false)])), &["false refused"]),
            (1, Some(fleet(false, Some("timed out"), &[own, ("mx2", false, false)])), &[]),
            // They are heard of again only in a moment.
            (0, Some(fleet(true, None, &[own, ("mx2", false, false)])), &["true redis:6379"]),
            (2, Some(fleet(true, None, &[own, ("mx2", true, false)])), &[]),
            (30, Some(fleet(true, None, &[own])), &[]),
            (31, None, &[]),
            (32, Some(fleet(false, Some("refused"), &[])), &["false refused"]),
        ]);
        let away = fleet(true, None, &[own, ("mx2", false, false)]);
        check(&[
            (1, Some(fleet(true, None, &[("mx2", true, false)])), &["true redis:6379", "mx2 live"]),
            (0, Some(fleet(false, Some("refused"), &[])), &["false refused"]),
            (1, Some(away.clone()), &["true redis:6379"]),
            (9, Some(away.clone()), &[]),
            (10, Some(away), &["mx2 silent"]),
        ]);
    }
}
