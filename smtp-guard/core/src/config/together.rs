//! Checks of several keys together: ceilings in the wrong order, mail loops, addresses taken twice.

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use super::Config;
use super::judge::Judge;
use super::raw::list;
use super::value::Raw;

/// Holds the valid values of `config` against each other; `raw` has their positions.
pub(super) fn together(raw: &Raw<Config>, config: &Config, judge: &mut Judge) {
    if config.edge.connections <= config.limits.connections {
        let key = raw.edge.connections.as_ref().or(raw.limits.connections.as_ref());
        if let Some(span) = key.map(Spanned::span) {
            let label = format!("edge has {}, limits has {}", config.edge.connections, config.limits.connections);
            let help = "raise edge.connections: an honest sender must hear the proxy's 421 before the kernel drops its packets";
            judge.wrong(span, "edge.connections must be above limits.connections", label, help);
        }
    }
    if config.harvest.ban_max < config.harvest.ban
        && let Some(span) = raw.harvest.ban_max.as_ref().or(raw.harvest.ban.as_ref()).map(Spanned::span)
    {
        let help = "harvest.ban is the first ban, harvest.ban_max the longest: raise ban_max, or lower ban";
        judge.wrong(span, "harvest.ban_max is below harvest.ban", "", help);
    }
    for text in list(&raw.backend.servers) {
        let Some(server) = parsed(text) else { continue };
        if let Some(own) = config.listen.iter().find(|own| reaches(server, own.address)) {
            let label = format!("[[listen]] has {}", own.address);
            let help = "name the mail server behind the guard, on another address or port";
            judge.wrong(text.span(), format!("mail loop: {server} is the guard itself"), label, help);
        }
    }
    super::secure::together(raw, config, judge);
    for text in list(&raw.recipients.traps) {
        let domain = text.get_ref().rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
        if !config.relay.domains.is_empty() && !config.relay.domains.contains(&domain) {
            let help = "a trap has to be in one of relay.domains";
            judge.wrong(
                text.span(),
                "recipients.traps: nobody can send there",
                format!("{domain} is not served"),
                help,
            );
        }
    }
    if !config.fleet.url.is_empty() && config.fleet.key_file.is_none() && judge.whole {
        let help = "make one by `openssl rand -hex 32`, and give it to all edges: [fleet] key_file = \"/etc/smtp-guard/fleet.key\"";
        judge.missing(raw.fleet.url.as_ref().map(Spanned::span), "a fleet without fleet.key_file", help);
    }
    if config.events.webhook.is_some() && config.events.secret_file.is_none() && judge.whole {
        let help = "make one by `openssl rand -hex 32`: [events] secret_file = \"/etc/smtp-guard/webhook.key\"";
        let span = raw.events.webhook.as_ref().map(Spanned::span);
        judge.missing(span, "a webhook without events.secret_file: nobody could tell who sent a request", help);
    }
    if let (Some(text), Some(address)) = (&raw.metrics.listen, config.metrics.listen)
        && let Some(own) = config.listen.iter().find(|own| overlap(own.address, address))
    {
        let label = format!("[[listen]] has {}", own.address);
        judge.wrong(text.span(), format!("metrics.listen {address} is taken"), label, "choose another port");
    }
}

/// Whether two sockets can't be bound both. (Of different families they can: ours are bound to one family each.)
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.is_ipv4() == b.is_ipv4() && (a.ip() == b.ip() || any)
}

/// Whether a connection to `server` ends at our own `listen`, as far as the file alone can tell.
fn reaches(server: SocketAddr, listen: SocketAddr) -> bool {
    // Connecting to the unspecified address means this host.
    let this_host = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let any = listen.ip().is_unspecified() && listen.is_ipv4() == server.is_ipv4() && this_host(server.ip());
    let nowhere = server.ip().is_unspecified() && listen.ip().is_loopback() && listen.is_ipv4() == server.is_ipv4();
    server.port() == listen.port() && (server.ip() == listen.ip() || any || nowhere)
}

fn parsed(text: &Spanned<String>) -> Option<SocketAddr> {
    let address = text.get_ref().parse::<SocketAddr>().ok()?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}
