//! All that is known of an address, put together.

use std::net::IpAddr;

use super::Keeper;
use crate::addr::Source;
use crate::clock::Both;
use crate::decision::{CountView, Decision, Explanation, LedgerView, NetworkView};
use crate::ledger::networks::Network;

impl Keeper {
    /// The deferral of `source` at `both`, or of its network.
    pub(super) fn deferral(&self, source: Source, both: &Both) -> Option<Decision> {
        let until = self.marks.of(source, both.instant).deferred_until?;
        let (own, network) = (self.text(&source.into()), Network::of(source).text());
        let is_of_network = !self.deferrals.knows(&own, both.instant) && self.deferrals.knows(&network, both.instant);
        Some(self.deferrals.decision(if is_of_network { network } else { own }, both, until))
    }

    /// Explains `ip`: decisions and counts.
    pub(in crate::feedback) fn explain(&mut self, ip: IpAddr) -> Explanation {
        let both = crate::clock::both();
        let source = self.prefix().source(ip);
        let mut notes = Vec::new();
        let view = self.ledger.view(source, both.instant);
        if let Some(view) = &view {
            notes.extend(view.offences.iter().map(|(reason, count)| match count {
                1 => format!("{}: once", reason.text()),
                _ => format!("{}: {count} times", reason.text()),
            }));
            notes.extend(view.heard.iter().map(|(node, count)| format!("reported by {node}: {count} times")));
        }
        let connections = self.table.kernel().and_then(|kernel| match kernel.established_of(source) {
            Ok(connections) => Some(connections),
            // None is configured, so none is missed.
            Err(_) if self.snapshot.config().edge.interfaces.is_empty() => None,
            Err(error) => {
                notes.push(error.to_string());
                None
            }
        });
        let mark = self.marks.of(source, both.instant);
        let limits = &self.snapshot.config().limits;
        let counts = [
            ("connections_per_minute", &self.counters.connections, limits.connections_per_minute),
            ("messages_per_hour", &self.counters.messages, limits.messages_per_hour),
        ];
        Explanation {
            source: self.text(&source.into()),
            exempt: self.snapshot.config().exempt.contains(ip),
            may_relay: self.snapshot.config().relay.networks.contains(ip),
            familiar: mark.familiar,
            decision: self.decisions.get(&source.into()).map(|ban| Decision::of(ban, self.prefix())),
            networks: self.networks_of(source).map(|ban| Decision::of(ban, self.prefix())).collect(),
            // The lists are the relay's to ask.
            listed: Vec::new(),
            deferred_until: mark.deferred_until.map(|until| both.wall_at(until)),
            deferral: self.deferral(source, &both),
            ledger: view.map(|view| LedgerView {
                unknown_recipients: view.evidence.unknown,
                unforgiven: view.evidence.left(),
                known_recipients: view.evidence.known,
                probed_recipients: view.evidence.probed,
                share: view.evidence.share(),
                accepted: view.accepted,
                trusted: view.trusted,
                window_started: view.since.map(|since| both.wall_at(since)),
                sample: view.sample,
                failed_logins: view.failed_logins,
                trips: view.trips,
                neighbours: view.network.map(|(network, evidence, sources)| NetworkView {
                    network: network.text(),
                    unforgiven: evidence.left(),
                    known_recipients: evidence.known,
                    sources,
                }),
            }),
            counts: counts
                .into_iter()
                .filter(|(.., most)| *most > 0)
                .map(|(name, rates, most)| CountView {
                    name: name.to_owned(),
                    count: rates.view(source, both.instant).into(),
                    limit: Some(most.into()),
                })
                .collect(),
            connections,
            // The kernel plane is asked by whoever holds it.
            kernel: None,
            notes,
        }
    }
}
