//! From the file's shape to a valid [`Config`]: what each key may be, and what they may be together.
//!
//! Everything that is wrong is found in one go. Where the form of the file was wrong already, nothing is reported as
//! missing: it may be what was taken out.

use std::path::PathBuf;

use toml::Spanned;

use super::blocklist::blocklist;
use super::checks::{checks, dns, dnsbl};
use super::keys;
use super::raw::{self, List, Raw};
use super::secure::{auth, tls};
use super::together::{overlap, together};
use super::values::{Judge, own_name_fault};
use super::{
    Admin, Backend, BackendTls, Config, Edge, Harvest, Identity, Limits, Listen, Log, LogFormat, Machine, Metrics,
    Profile, Recipients, Relay, Replies, Role, State, XdpMode,
};
use crate::addr::Ipv6Prefix;
use crate::wire::host;

/// Bytes of a Unix socket's path: 108 with the final zero, less what the lock and the temporary name add.
const SOCKET_PATH: usize = 100;
/// Bytes of an interface's name: IFNAMSIZ with the final zero.
const INTERFACE: usize = 15;
/// Bytes of `replies.contact`: with it and a recipient's address a reply is still one line.
const CONTACT: usize = 128;
/// Bytes of the name of a group.
const GROUP: usize = 64;

/// The configuration of `raw`. `whole`: nothing was taken out of it. What is wrong is left in `judge`.
pub(super) fn check(raw: &Raw, whole: bool, machine: &Machine, judge: &mut Judge) -> Config {
    let checks = checks(&raw.checks, judge);
    let config = Config {
        hostname: hostname(raw, machine, judge),
        drain: judge.duration("drain", &raw.drain),
        exempt: judge.networks("exempt", &raw.exempt),
        tls: tls(&raw.tls, judge),
        auth: auth(&raw.auth, judge),
        listen: listen(&raw.listen, whole, judge),
        backend: backend(&raw.backend, whole, judge),
        replies: Replies { contact: contact(&raw.replies.contact, judge) },
        relay: relay(&raw.relay, whole, judge),
        recipients: Recipients {
            known: match &raw.recipients.known {
                Some(path) if path.get_ref().is_empty() => None,
                path => judge.path("recipients.known", path),
            },
            traps: list(&raw.recipients.traps).filter_map(|trap| judge.mailbox("recipients.traps", trap)).collect(),
        },
        limits: limits(&raw.limits, judge),
        harvest: harvest(&raw.harvest, judge),
        dns: dns(&raw.dns, judge),
        dnsbl: dnsbl(&raw.dnsbl, checks.dnsbl_threshold, whole, judge),
        checks,
        edge: edge(&raw.edge, judge),
        blocklist: blocklist(&raw.blocklist, whole, judge),
        metrics: metrics(&raw.metrics, judge),
        admin: admin(&raw.admin, judge),
        state: State {
            directory: judge
                .path("state.directory", &raw.state.directory)
                .unwrap_or_else(|| State::default().directory),
        },
        log: log(&raw.log, judge),
    };
    together(raw, &config, judge);
    config
}

fn hostname(raw: &Raw, machine: &Machine, judge: &mut Judge) -> String {
    let Some(raw) = &raw.hostname else {
        return machine.hostname().unwrap_or_else(|own| {
            let message = format!("hostname is not set, and the host's own name {own:?} is no valid one");
            judge.missing(None, message, "set hostname = \"mx.your-domain\"");
            String::new()
        });
    };
    let text = raw.get_ref().as_str();
    if let Some(help) = own_name_fault(text) {
        judge.wrong(raw.span(), format!("hostname: {text:?} is no host name"), "", help);
    }
    host::key(text).unwrap_or_default().into_owned()
}

fn listen(raw: &[Spanned<raw::Listen>], whole: bool, judge: &mut Judge) -> Vec<Listen> {
    if raw.is_empty() && whole {
        judge.missing(None, "no [[listen]]: nobody could connect", "add [[listen]] with address = \"0.0.0.0:25\"");
    }
    let mut listen: Vec<Listen> = Vec::with_capacity(raw.len());
    for entry in raw {
        let table = entry.get_ref();
        let role = judge.choice("listen.role", &table.role, &Role::NAMES);
        let balancers = judge.networks("listen.proxy_protocol", &table.proxy_protocol);
        let Some(text) = &table.address else {
            if whole {
                judge.missing(Some(entry.span()), "[[listen]] without address", "add address = \"0.0.0.0:25\"");
            }
            continue;
        };
        let Some(address) = judge.socket("listen.address", text) else {
            continue;
        };
        if let Some(other) = listen.iter().find(|other| overlap(other.address, address)) {
            let message = format!("listen.address {address} is taken by {} above", other.address);
            judge.wrong(text.span(), message, "", "remove one of the two");
            continue;
        }
        listen.push(Listen { address, role, balancers });
    }
    listen
}

pub(super) fn backend(raw: &raw::Backend, whole: bool, judge: &mut Judge) -> Backend {
    let servers: Vec<_> = list(&raw.servers).filter_map(|server| judge.server("backend.servers", server)).collect();
    if whole && list(&raw.servers).next().is_none() {
        let help = "name your mail server: [backend] servers = [\"10.0.0.10:25\"]";
        judge.missing(raw.servers.as_ref().map(Spanned::span), "backend.servers is empty: mail could go nowhere", help);
    }
    Backend {
        servers,
        tls: judge.choice("backend.tls", &raw.tls, &BackendTls::NAMES),
        tls_ca: filled(&raw.tls_ca).and_then(|_| judge.path("backend.tls_ca", &raw.tls_ca)),
        tls_name: filled(&raw.tls_name).and_then(|name| judge.domain("backend.tls_name", name)),
        identity: judge.choice("backend.identity", &raw.identity, &Identity::NAMES),
        connect_timeout: judge.duration("backend.connect_timeout", &raw.connect_timeout),
        connections: judge.number("backend.connections", &raw.connections),
        profile: judge.choice("backend.profile", &raw.profile, &Profile::NAMES),
    }
}

fn relay(raw: &raw::Relay, whole: bool, judge: &mut Judge) -> Relay {
    let mut domains: Vec<_> = list(&raw.domains).filter_map(|domain| judge.domain("relay.domains", domain)).collect();
    domains.sort_unstable();
    domains.dedup();
    if whole && list(&raw.domains).next().is_none() {
        let help = "name the domains that you receive mail for: [relay] domains = [\"example.org\"]";
        judge.missing(
            raw.domains.as_ref().map(Spanned::span),
            "relay.domains is empty: all mail would be refused",
            help,
        );
    }
    Relay {
        domains,
        networks: judge.networks("relay.networks", &raw.networks),
        authenticated: raw.authenticated.as_ref().is_none_or(|switch| *switch.get_ref()),
    }
}

pub(super) fn limits(raw: &raw::Limits, judge: &mut Judge) -> Limits {
    let prefix = judge.number("limits.ipv6_prefix", &raw.ipv6_prefix);
    Limits {
        ipv6_prefix: Ipv6Prefix::new(prefix).unwrap_or_default(),
        connections: judge.number("limits.connections", &raw.connections),
        connections_per_minute: judge.number("limits.connections_per_minute", &raw.connections_per_minute),
        messages_per_hour: judge.number("limits.messages_per_hour", &raw.messages_per_hour),
        user_messages_per_hour: judge.number("limits.user_messages_per_hour", &raw.user_messages_per_hour),
        user_recipients_per_hour: judge.number("limits.user_recipients_per_hour", &raw.user_recipients_per_hour),
        user_networks_per_day: judge.number("limits.user_networks_per_day", &raw.user_networks_per_day),
        recipients: judge.number("limits.recipients", &raw.recipients),
        message_size: judge.size("limits.message_size", &raw.message_size),
        failed_commands: judge.number("limits.failed_commands", &raw.failed_commands),
        junk_commands: judge.number("limits.junk_commands", &raw.junk_commands),
        total_connections: judge.number("limits.total_connections", &raw.total_connections),
        network_connections: judge.number("limits.network_connections", &raw.network_connections),
        session_time: judge.duration("limits.session_time", &raw.session_time),
    }
}

pub(super) fn harvest(raw: &raw::Harvest, judge: &mut Judge) -> Harvest {
    let harvest = Harvest {
        unknown_recipients: judge.number("harvest.unknown_recipients", &raw.unknown_recipients),
        unknown_share: judge.share("harvest.unknown_share", &raw.unknown_share),
        window: judge.duration("harvest.window", &raw.window),
        delay: judge.duration("harvest.delay", &raw.delay),
        ban: judge.duration("harvest.ban", &raw.ban),
        ban_max: judge.duration("harvest.ban_max", &raw.ban_max),
    };
    if harvest.ban_max < harvest.ban
        && let Some(span) = raw.ban_max.as_ref().or(raw.ban.as_ref()).map(Spanned::span)
    {
        let help = "ban is the first one, ban_max what it doubles up to: raise ban_max";
        judge.wrong(span, "harvest.ban_max is below harvest.ban", "", help);
    }
    harvest
}

pub(super) fn edge(raw: &raw::Edge, judge: &mut Judge) -> Edge {
    let mut interfaces: Vec<String> = Vec::new();
    for interface in list(&raw.interfaces) {
        let name = interface.get_ref();
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > INTERFACE || name.contains(odd) || name == "." || name == ".." {
            let help = "`ip link` lists the names";
            judge.wrong(interface.span(), format!("edge.interfaces: {name:?} is no interface name"), "", help);
        } else if interfaces.contains(name) {
            judge.wrong(interface.span(), format!("edge.interfaces names {name} twice"), "", "remove one of them");
        } else {
            interfaces.push(name.clone());
        }
    }
    Edge {
        interfaces,
        mode: judge.choice("edge.mode", &raw.mode, &XdpMode::NAMES),
        connections: judge.number("edge.connections", &raw.connections),
        max_sources: judge.number("edge.max_sources", &raw.max_sources),
        pin_directory: pin_directory(&raw.pin_directory, judge)
            .unwrap_or_else(|| keys::text("edge.pin_directory").into()),
        group: group(&raw.group, judge).unwrap_or_else(|| keys::text("edge.group").into()),
    }
}

fn pin_directory(raw: &raw::Text, judge: &mut Judge) -> Option<PathBuf> {
    let path = judge.path("edge.pin_directory", raw)?;
    if let Some(text) = raw
        && path.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b'.'))
    {
        let help = "the BPF filesystem takes no names with a dot";
        judge.wrong(text.span(), "edge.pin_directory: a dot in the last name", "", help);
        return None;
    }
    Some(path)
}

/// A group that doesn't exist is no error: packages make it after the file is written.
fn group(raw: &raw::Text, judge: &mut Judge) -> Option<String> {
    let text = raw.as_ref()?;
    let name = text.get_ref();
    let odd = |c: char| c == ':' || c == ',' || c.is_whitespace() || c.is_control();
    if name.len() > GROUP || name.contains(odd) {
        let help = "`getent group` lists the names; a number is taken as well";
        judge.wrong(text.span(), format!("edge.group: {name:?} is no name of a group"), "", help);
    }
    Some(name.clone())
}

fn metrics(raw: &raw::Metrics, judge: &mut Judge) -> Metrics {
    match &raw.listen {
        None => Metrics::default(),
        Some(text) if text.get_ref().is_empty() => Metrics { listen: None },
        Some(text) => Metrics { listen: judge.socket("metrics.listen", text) },
    }
}

fn admin(raw: &raw::Admin, judge: &mut Judge) -> Admin {
    let Some(socket) = judge.path("admin.socket", &raw.socket) else {
        return Admin::default();
    };
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_PATH
        && let Some(raw) = &raw.socket
    {
        let label = format!("{bytes} bytes");
        judge.wrong(raw.span(), "admin.socket is too long for a socket", label, format!("at most {SOCKET_PATH} bytes"));
    }
    Admin { socket }
}

fn log(raw: &raw::Log, judge: &mut Judge) -> Log {
    let default = Log::default();
    let level = match &raw.level {
        None => default.level,
        Some(level) => {
            if let Some(fault) = level_fault(level.get_ref()) {
                let help = "write a level (error, warn, info, debug, trace, off), or \"warn,smtp_guard=debug\"";
                judge.wrong(level.span(), "log.level is no filter", fault, help);
            }
            level.get_ref().clone()
        }
    };
    Log { format: judge.choice("log.format", &raw.format, &LogFormat::NAMES), level }
}

/// A filter takes any lone word for the name of a module, so that a misspelt level would turn everything on.
fn level_fault(level: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let lone = |word: &&str| !word.contains(['=', '[']) && !LEVELS.contains(&word.to_ascii_lowercase().as_str());
    if let Some(word) = level.split(',').map(str::trim).find(lone) {
        return Some(format!("{word:?} is no level"));
    }
    let parsed = tracing_subscriber::EnvFilter::builder().parse(level);
    parsed.err().map(|error| error.to_string())
}

/// It stands in replies, which are lines of ASCII.
fn contact(raw: &raw::Text, judge: &mut Judge) -> String {
    let Some(text) = filled(raw) else { return String::new() };
    let contact = text.get_ref();
    let fault = if contact.len() > CONTACT {
        Some(format!("{} bytes", contact.len()))
    } else {
        let odd = |c: &char| !c.is_ascii_graphic() && *c != ' ';
        contact.chars().find(odd).map(|c| format!("{c:?} can't stand in a reply"))
    };
    if let Some(fault) = fault {
        let help = format!("at most {CONTACT} printable ASCII characters: a page, an address, or both");
        judge.wrong(text.span(), "replies.contact can't stand in a reply", fault, help);
    }
    contact.clone()
}

/// A text that isn't empty: empty means not set.
fn filled(raw: &raw::Text) -> Option<&Spanned<String>> {
    raw.as_ref().filter(|text| !text.get_ref().is_empty())
}

pub(super) fn list(raw: &List) -> impl Iterator<Item = &Spanned<String>> {
    raw.iter().flat_map(|list| list.get_ref())
}
