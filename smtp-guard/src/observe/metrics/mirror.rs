//! Gauges of what is so now: read out of the parts at each scrape, where `status` reads them as well.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use smtp_guard_core::webhook::WebhookStatus;

use super::Metrics;
use crate::blocklist::{Read, State};
use crate::fleet::FleetStatus;
use crate::observe::status::{Bans, Listener, Running};

/// Whoever knows the parts, once the guard is put together.
pub(super) type Mirrored = Arc<OnceLock<Weak<dyn Running>>>;

#[derive(Debug)]
pub(super) struct Mirror(pub(super) Mirrored);

impl Metrics {
    /// Shows what `running` knows, as long as it is there. Only the first call counts.
    pub fn mirror(&self, running: Weak<dyn Running>) {
        let _ = self.0.mirrored.set(running);
    }
}

impl Collector for Mirror {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(running) = self.0.get().and_then(Weak::upgrade) else { return Ok(()) };
        let (Bans { all, networks }, recipients, configuration) =
            (running.bans(), running.recipients(), running.configuration());
        let since = configuration.since.as_ms() / 1000;
        let gauges = [
            ("connections_active", "Connections open now", number(running.connections())),
            ("connections_limit", "Connections that may be open at once", number(running.connections_limit())),
            ("bans_active", "Bans in force now, of sources and networks", number(all)),
            ("network_bans_active", "Bans of networks in force now", number(networks)),
            ("users_held", "Users who are held now, by limits or by operators", number(running.held_users().count)),
            ("dns_up", "Whether a DNS server answers, as far as is known", i64::from(!running.is_dns_silent())),
            (
                "store_up",
                "Whether decisions and counts are written to disk",
                i64::from(running.store_trouble().is_none()),
            ),
            (
                "recipient_table_entries",
                "Entries of the recipient table; 0 where there is none and the backend is asked",
                number(recipients.known.unwrap_or_default()),
            ),
            (
                "tls_up",
                "Whether our certificates can be used as they are in their files now",
                i64::from(running.tls_trouble().is_none()),
            ),
            (
                "catch_all_domains",
                "Domains of which the backend takes any recipient, so that unknown ones can't be told apart",
                number(recipients.catch_all.len() as u64),
            ),
            (
                "config_generation",
                "Generation of the configuration in force, counted from 1 at the start",
                number(configuration.generation),
            ),
            (
                "config_applied_timestamp_seconds",
                "When the configuration in force was applied, in seconds since 1970",
                since,
            ),
            (
                "config_last_reload_successful",
                "Whether the configuration that was read last is in force",
                i64::from(configuration.last_reload.as_ref().is_none_or(|last| last.error.is_none())),
            ),
            (
                "config_last_reload_timestamp_seconds",
                "When the configuration was read last, in seconds since 1970",
                configuration.last_reload.as_ref().map_or(since, |last| last.at.as_ms() / 1000),
            ),
        ];
        for (name, help, value) in gauges {
            ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let help = "Times that decisions and counts could not be written to disk";
        let failures = ConstCounter::new(running.store_failures());
        failures.encode(encoder.encode_descriptor("store_write_failures", help, None, MetricType::Counter)?)?;
        if let Some(read) = recipients.last_read {
            let help = "When the recipient table in force was read, in seconds since 1970";
            let name = "recipients_last_success_timestamp_seconds";
            let gauge = ConstGauge::new(read.as_ms() / 1000);
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let help = "Limits of the configuration, by the key in [limits]; 0: no limit";
        let limits = running.limits();
        family(&mut encoder, "limit", help, "limit", limits.iter().map(|(name, limit)| (*name, number(*limit))))?;
        let listeners = running.listeners();
        if !listeners.is_empty() {
            let help = "Connections accepted, by the address that is listened on";
            let mut family = encoder.encode_descriptor("listener_connections", help, None, MetricType::Counter)?;
            for Listener { address, accepted } in &listeners {
                ConstCounter::new(*accepted).encode(family.encode_family(&[("listener", address.as_str())])?)?;
            }
        }
        let servers = running.servers();
        let up = servers.iter().map(|server| (server.address.as_str(), i64::from(server.answers)));
        let help = "Whether the server answered when it was last looked at";
        family(&mut encoder, "backend_up", help, "server", up)?;
        let connections = servers.iter().map(|server| (server.address.as_str(), i64::from(server.connections)));
        let help = "Connections to the server that are open on behalf of clients";
        family(&mut encoder, "backend_connections_active", help, "server", connections)?;
        let certificates = running.certificates(crate::clock::wall());
        let ends =
            certificates.iter().map(|certificate| (certificate.file.as_str(), certificate.not_after.as_ms() / 1000));
        let help = "When our certificate ends, in seconds since 1970";
        family(&mut encoder, "tls_certificate_not_after_timestamp_seconds", help, "file", ends)?;
        let states = running.blocklists();
        let of = |value: fn(&Read) -> i64| {
            states.iter().map(move |State { name, read, .. }| (name.as_str(), read.as_ref().map_or(0, value)))
        };
        let entries = of(|read| number(read.entries as u64));
        family(&mut encoder, "blocklist_entries", "Entries in force, by block list", "list", entries)?;
        let refused = of(|read| number(read.refused as u64));
        family(&mut encoder, "blocklist_rejected_entries", "Entries of the file that were refused", "list", refused)?;
        let help = "When the block list was last read, in seconds since 1970-01-01 UTC";
        let last = of(|read| read.at.as_ms() / 1000);
        family(&mut encoder, "blocklist_last_success_timestamp_seconds", help, "list", last)?;
        running.webhook().map_or(Ok(()), |status| webhook(&mut encoder, &status))?;
        running.fleet().map_or(Ok(()), |status| fleet(&mut encoder, &status))
    }
}

/// The webhook, where there is one.
fn webhook(encoder: &mut DescriptorEncoder<'_>, webhook: &WebhookStatus) -> fmt::Result {
    let last = webhook.last_success.map_or(0, |at| at.as_ms() / 1000);
    let gauges = [
        ("webhook_up", "Whether the webhook took the last request", i64::from(webhook.trouble.is_none())),
        ("webhook_events_waiting", "Events that wait for the webhook", number(webhook.events_waiting)),
        (
            "webhook_last_success_timestamp_seconds",
            "When the webhook took events last, in seconds since 1970; 0: never since the start",
            last,
        ),
    ];
    for (name, help, value) in gauges {
        ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    let counters = [
        ("webhook_events_delivered", "Events that the webhook took", webhook.events_delivered),
        (
            "webhook_events_dropped",
            "Events that the webhook will never hear of: there was no room, or it refused them",
            webhook.events_dropped,
        ),
        ("webhook_requests_failed", "Requests that the webhook did not take", webhook.requests_failed),
    ];
    for (name, help, value) in counters {
        ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    Ok(())
}

/// The fleet, where this edge takes part in one. Edges are those that carry the fleet's key, at most 256.
fn fleet(encoder: &mut DescriptorEncoder<'_>, fleet: &FleetStatus) -> fmt::Result {
    let gauges = [
        ("fleet_connected", "Whether the fleet's server answers", i64::from(fleet.connected)),
        ("fleet_nodes", "Edges of the fleet that were heard of lately, this one included", number(fleet.live() as u64)),
        ("fleet_kept", "Reports and decisions that wait for the fleet's server", number(fleet.kept)),
        (
            "fleet_decisions_known",
            "Sources and networks about which the fleet has decided something",
            number(fleet.decisions_known),
        ),
        (
            "fleet_history_sources",
            "Sources that were familiar only by what the fleet remembered when this edge started",
            number(fleet.history_sources),
        ),
    ];
    for (name, help, value) in gauges {
        ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    let counters = [
        ("fleet_lost", "Reports and decisions for the fleet that found no room or waited for too long", fleet.lost),
        ("fleet_reports_sent", "Reports that were told to other edges", fleet.reports_sent),
        ("fleet_reports_heard", "Reports of other edges that were heard", fleet.reports_heard),
    ];
    for (name, help, value) in counters {
        ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    let help = "Messages of the fleet that were ignored, by reason";
    let mut ignored = encoder.encode_descriptor("fleet_messages_ignored", help, None, MetricType::Counter)?;
    for of in &fleet.ignored {
        ConstCounter::new(of.count).encode(ignored.encode_family(&[("reason", of.reason.as_str())])?)?;
    }
    if let Some(offset) = fleet.clock_offset_seconds {
        let help = "This host's wall clock less that of the fleet's server, in seconds";
        let gauge = ConstGauge::new(f64::from(offset));
        gauge.encode(encoder.encode_descriptor("fleet_clock_offset_seconds", help, None, MetricType::Gauge)?)?;
    }
    let nodes = || fleet.nodes.iter();
    let lag = nodes().map(|node| (node.name.as_str(), node.silent_seconds.0.as_secs_f64()));
    let help = "How long ago an edge said how it is, in seconds";
    family(encoder, "fleet_node_lag_seconds", help, "node", lag)?;
    let offset = nodes().map(|node| (node.name.as_str(), f64::from(node.clock_offset_seconds)));
    let help = "The wall clock of an edge less that of the fleet's server, in seconds";
    family(encoder, "fleet_node_clock_offset_seconds", help, "node", offset)?;
    let muted = nodes().map(|node| (node.name.as_str(), i64::from(node.muted.is_some())));
    family(encoder, "fleet_node_muted", "Whether this edge doesn't listen to an edge", "node", muted)
}

/// One gauge for each of `values`, by its label; a family without any isn't announced.
fn family<'a, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: impl Iterator<Item = (&'a str, V)>,
) -> fmt::Result {
    let mut values = values.peekable();
    if values.peek().is_none() {
        return Ok(());
    }
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (value_of, value) in values {
        ConstGauge::new(value).encode(family.encode_family(&[(label, value_of)])?)?;
    }
    Ok(())
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::observe::metrics::Format;
    use crate::observe::status::tests::Fake;

    #[track_caller]
    fn check(running: Fake, line: &str) {
        let (metrics, running) = (Metrics::new(), Arc::new(running) as Arc<dyn Running>);
        metrics.mirror(Arc::downgrade(&running));
        let text = metrics.encode(Format::Open);
        assert!(text.lines().any(|other| other == line), "no {line:?} in\n{text}");
        drop(running);
        assert!(!metrics.encode(Format::Open).contains(line), "nobody is there to say so");
    }

    #[test]
    fn what_is_so_now_is_read_at_the_scrape() {
        let read =
            Read { at: WallTime::from_ms(7500), format: "netset".to_owned(), entries: 5, refused: 2, skipped: 0 };
        let list = |read| Fake {
            blocklists: vec![State { name: "drop".to_owned(), file: "/d".into(), read, error: None }],
            ..Fake::default()
        };
        check(Fake { connections: 3, ..Fake::default() }, "smtp_guard_connections_active 3");
        check(Fake { bans: Bans { all: 7, networks: 2 }, ..Fake::default() }, "smtp_guard_bans_active 7");
        check(Fake { bans: Bans { all: 7, networks: 2 }, ..Fake::default() }, "smtp_guard_network_bans_active 2");
        check(Fake { known: Some(7), ..Fake::default() }, "smtp_guard_recipient_table_entries 7");
        check(Fake { known: Some(7), ..Fake::default() }, "smtp_guard_recipients_last_success_timestamp_seconds 6");
        check(Fake::default(), "smtp_guard_recipient_table_entries 0");
        check(Fake::default(), "smtp_guard_connections_limit 500");
        check(Fake::default(), "smtp_guard_limit{limit=\"recipients\"} 100");
        check(Fake::default(), "smtp_guard_listener_connections_total{listener=\"192.0.2.1:25\"} 5");
        check(Fake::default(), "smtp_guard_store_write_failures_total 2");
        check(Fake::default(), "smtp_guard_backend_connections_active{server=\"192.0.2.7:25\"} 3");
        check(Fake::default(), "smtp_guard_config_last_reload_successful 0");
        check(Fake::default(), "smtp_guard_config_last_reload_timestamp_seconds 12");
        let catch_all = vec!["example.org".to_owned()];
        check(Fake { catch_all, ..Fake::default() }, "smtp_guard_catch_all_domains 1");
        check(Fake::default(), "smtp_guard_store_up 0");
        check(Fake::default(), "smtp_guard_dns_up 0");
        check(Fake::default(), "smtp_guard_tls_up 0");
        check(Fake::default(), "smtp_guard_backend_up{server=\"192.0.2.7:25\"} 1");
        check(Fake::default(), "smtp_guard_config_generation 1");
        check(Fake::default(), "smtp_guard_config_applied_timestamp_seconds 9");
        check(Fake::default(), "smtp_guard_tls_certificate_not_after_timestamp_seconds{file=\"/c.pem\"} 11");
        for line in [
            "up 0",
            "events_waiting 3",
            "events_delivered_total 40",
            "events_dropped_total 2",
            "requests_failed_total 5",
            "last_success_timestamp_seconds 8",
        ] {
            check(Fake::default(), &format!("smtp_guard_webhook_{line}"));
        }
        check(list(Some(read.clone())), "smtp_guard_blocklist_entries{list=\"drop\"} 5");
        check(list(Some(read.clone())), "smtp_guard_blocklist_rejected_entries{list=\"drop\"} 2");
        check(list(Some(read)), "smtp_guard_blocklist_last_success_timestamp_seconds{list=\"drop\"} 7");
        check(list(None), "smtp_guard_blocklist_entries{list=\"drop\"} 0");
        for line in [
            "connected 1",
            "nodes 2",
            "kept 5",
            "lost_total 3",
            "decisions_known 7",
            "history_sources 4",
            "reports_sent_total 120",
            "reports_heard_total 98",
            "messages_ignored_total{reason=\"form\"} 0",
            "messages_ignored_total{reason=\"code\"} 2",
            "clock_offset_seconds -0.012",
            "node_lag_seconds{node=\"mx2\"} 1.1",
            "node_clock_offset_seconds{node=\"mx2\"} 90.25",
            "node_muted{node=\"mx1\"} 0",
            "node_muted{node=\"mx2\"} 1",
        ] {
            let fleet = Some(crate::observe::fleet::tests::status());
            check(Fake { fleet, ..Fake::default() }, &format!("smtp_guard_fleet_{line}"));
        }
    }
}
