//! Keys with a rule of their own. All have the signature of [`Value::judge`], and their rows in [`super::keys`] name them.

use std::path::PathBuf;

use toml::Spanned;

use super::judge::{Judge, own_name_fault};
use super::keys;
use super::raw::{List, Text, list};
use super::value::Value;
use crate::addr::BackendAddr;
use crate::wire::host;

/// Bytes of a Unix socket's path: 108 with the final zero, less what the lock and the temporary name add.
const SOCKET_PATH: usize = 100;
/// Bytes of an interface's name: IFNAMSIZ with the final zero.
const INTERFACE: usize = 15;
/// Bytes of `replies.contact`: with it and a recipient's address a reply is still one line.
const CONTACT: usize = 128;
/// Servers that a fleet may name.
const FLEET_URLS: usize = 16;
/// Bytes of the name of a fleet or of a node.
const FLEET_WORD: usize = 64;
/// Bytes of the name of a group.
const GROUP: usize = 64;

pub(super) fn hostname(_: &str, raw: &Text, judge: &mut Judge) -> String {
    let Some(raw) = raw else {
        return judge.machine.hostname().unwrap_or_else(|own| {
            let message = format!("hostname is not set, and the host's own name {own:?} is not valid");
            judge.missing(None, message, "set hostname = \"mx.your-domain\"");
            String::new()
        });
    };
    let text = raw.get_ref().as_str();
    if let Some(help) = own_name_fault(text) {
        judge.wrong(raw.span(), format!("hostname: {text:?} is not a valid host name"), "", help);
    }
    host::key(text).unwrap_or_default().into_owned()
}

pub(super) fn servers(key: &str, raw: &List, judge: &mut Judge) -> Vec<BackendAddr> {
    let help = "name your mail server: [backend] servers = [\"10.0.0.10:25\"]";
    not_empty(raw, "backend.servers is empty: mail could go nowhere", help, judge);
    Value::judge(key, raw, judge)
}

pub(super) fn domains(key: &str, raw: &List, judge: &mut Judge) -> Vec<String> {
    let help = "name the domains that you receive mail for: [relay] domains = [\"example.org\"]";
    not_empty(raw, "relay.domains is empty: all mail would be refused", help, judge);
    let mut domains: Vec<_> = list(raw).filter_map(|domain| judge.domain(key, domain)).collect();
    domains.sort_unstable();
    domains.dedup();
    domains
}

fn not_empty(raw: &List, message: &str, help: &str, judge: &mut Judge) {
    if judge.whole && list(raw).next().is_none() {
        judge.missing(raw.as_ref().map(Spanned::span), message, help);
    }
}

pub(super) fn traps(key: &str, raw: &List, judge: &mut Judge) -> Vec<String> {
    list(raw).filter_map(|trap| judge.mailbox(key, trap)).collect()
}

/// Checks the contact: it stands in replies, which are lines of ASCII.
pub(super) fn contact(key: &str, raw: &Text, judge: &mut Judge) -> String {
    let Some(text) = raw else { return String::new() };
    let contact = text.get_ref();
    let fault = if contact.len() > CONTACT {
        Some(format!("{} bytes", contact.len()))
    } else {
        let odd = |c: &char| !c.is_ascii_graphic() && *c != ' ';
        contact.chars().find(odd).map(|c| format!("{c:?} can't stand in a reply"))
    };
    if let Some(fault) = fault {
        let help = format!("at most {CONTACT} printable ASCII characters: a page, an address, or both");
        judge.wrong(text.span(), format!("{key} can't stand in a reply"), fault, help);
    }
    contact.clone()
}

pub(super) fn interfaces(_: &str, raw: &List, judge: &mut Judge) -> Vec<String> {
    let mut interfaces: Vec<String> = Vec::new();
    for interface in list(raw) {
        let name = interface.get_ref();
        let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
        if name.is_empty() || name.len() > INTERFACE || name.contains(odd) || name == "." || name == ".." {
            let help = "`ip link` lists the names";
            judge.wrong(interface.span(), format!("edge.interfaces: {name:?} is not an interface name"), "", help);
        } else if interfaces.contains(name) {
            judge.wrong(interface.span(), format!("edge.interfaces names {name} twice"), "", "remove one of them");
        } else {
            interfaces.push(name.clone());
        }
    }
    interfaces
}

pub(super) fn pin_directory(key: &str, raw: &Text, judge: &mut Judge) -> PathBuf {
    let path = PathBuf::judge(key, raw, judge);
    if let Some(text) = raw
        && path.file_name().is_some_and(|name| name.as_encoded_bytes().contains(&b'.'))
    {
        let help = "choose another name: the BPF file system allows no dots in names";
        judge.wrong(text.span(), "edge.pin_directory: there is a dot in the last name", "", help);
    }
    path
}

/// A group that doesn't exist is no error: packages make it after the file is written.
pub(super) fn group(key: &str, raw: &Text, judge: &mut Judge) -> String {
    if let Some(text) = raw {
        let name = text.get_ref();
        let odd = |c: char| c == ':' || c == ',' || c.is_whitespace() || c.is_control();
        if name.len() > GROUP || name.contains(odd) {
            let help = "`getent group` lists the names; a number is taken as well";
            judge.wrong(text.span(), format!("edge.group: {name:?} is not the name of a group"), "", help);
        }
    }
    String::judge(key, raw, judge)
}

pub(super) fn socket(key: &str, raw: &Text, judge: &mut Judge) -> PathBuf {
    let socket = PathBuf::judge(key, raw, judge);
    let bytes = socket.as_os_str().len();
    if bytes > SOCKET_PATH
        && let Some(raw) = raw
    {
        let label = format!("{bytes} bytes");
        judge.wrong(raw.span(), "admin.socket is too long for a socket", label, format!("at most {SOCKET_PATH} bytes"));
    }
    socket
}

pub(super) fn level(key: &str, raw: &Text, judge: &mut Judge) -> String {
    if let Some(level) = raw
        && let Some(fault) = level_fault(level.get_ref())
    {
        let help = "write a level (error, warn, info, debug, trace, off), or \"warn,smtp_guard=debug\"";
        judge.wrong(level.span(), "log.level is not a log filter", fault, help);
    }
    String::judge(key, raw, judge)
}

/// A password in it would stand in `config show`, and in what a reload says.
pub(super) fn fleet_urls(key: &str, raw: &List, judge: &mut Judge) -> Vec<String> {
    let mut urls = Vec::new();
    for text in list(raw) {
        let url = text.get_ref();
        let rest = url.strip_prefix("redis://").or_else(|| url.strip_prefix("rediss://"));
        let (user, place) = rest.map(|rest| rest.rsplit_once('@').unwrap_or(("", rest))).unwrap_or_default();
        let place = place.trim_end_matches('/');
        let at = place.rsplit_once(':').map_or((place, Some(0)), |(host, port)| (host, port.parse::<u16>().ok()));
        let odd = |c: char| c == '/' || c == '?' || c == '#' || c == '@' || c.is_whitespace() || c.is_control();
        let fault = if user.contains(':') {
            Some("put the password into the file that fleet.password_file names")
        } else if at.0.is_empty() || at.1.is_none() || place.contains(odd) || user.contains(odd) {
            Some("write \"redis://10.0.0.5:6379\", or \"rediss://user@redis.example.org:6379\"")
        } else if urls.len() == FLEET_URLS {
            Some("name at most 16 servers")
        } else {
            None
        };
        match fault {
            Some(help) => {
                judge.wrong(text.span(), format!("{key} is not the URL of a Redis or Valkey server"), "", help)
            }
            None => urls.push(url.clone()),
        }
    }
    urls
}

pub(super) fn fleet_name(key: &str, raw: &Text, judge: &mut Judge) -> String {
    word(key, raw, judge).unwrap_or_else(|| keys::text(key).to_owned())
}

pub(super) fn fleet_sentinel(key: &str, raw: &Text, judge: &mut Judge) -> String {
    word(key, &raw.clone().filter(|text| !text.get_ref().is_empty()), judge).unwrap_or_default()
}

pub(super) fn fleet_node(key: &str, raw: &Text, judge: &mut Judge) -> String {
    let own = |judge: &Judge| judge.machine.hostname().unwrap_or_else(|_| String::from("localhost"));
    word(key, raw, judge).unwrap_or_else(|| own(judge))
}

/// A word that stands in keys of a server, in logs and in labels of metrics.
fn word(key: &str, raw: &Text, judge: &mut Judge) -> Option<String> {
    let text = raw.as_ref()?;
    let word = text.get_ref();
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !word.is_empty() && word.len() <= FLEET_WORD && word.chars().all(plain) {
        return Some(word.clone());
    }
    let help = format!("at most {FLEET_WORD} letters, digits, dots, hyphens and underscores");
    judge.wrong(text.span(), format!("{key} can't be {word:?}"), "", help);
    None
}

/// A filter takes any lone word for the name of a module, so that a misspelt level would turn everything on.
fn level_fault(level: &str) -> Option<String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let lone = |word: &&str| !word.contains(['=', '[']) && !LEVELS.contains(&word.to_ascii_lowercase().as_str());
    if let Some(word) = level.split(',').map(str::trim).find(lone) {
        return Some(format!("{word:?} is not a level"));
    }
    let parsed = tracing_subscriber::EnvFilter::builder().parse(level);
    parsed.err().map(|error| error.to_string())
}
