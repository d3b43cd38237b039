//! Judgement of single values: each returns what is valid, or the default after noting what is wrong.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use toml::Spanned;

use super::Machine;
use super::keys;
use super::raw::{List, Number, Share, Text};
use super::report::Problem;
use super::units::{DURATION_HELP, SIZE_HELP, parse_duration, parse_size, show_duration, show_size};
use crate::addr::{BackendAddr, NetSet, canonical_net};
use crate::wire::address::Mailbox;
use crate::wire::host;

/// An IPv4 network wider than this is no organisation's: 10.0.0.0/8 is the widest in private use.
const WIDEST_V4: u8 = 8;
/// The same for IPv6, but for the unique local addresses. (2002::/16 would hold all of IPv4.)
const WIDEST_V6: u8 = 19;

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Judge {
    pub(super) problems: Vec<Problem>,
    /// The form of the file is good, and nothing was taken out of it. Else nothing is missing: it may be what was taken out.
    pub(super) whole: bool,
    pub(super) machine: Machine,
}

impl Judge {
    /// For `machine`; it judges no whole file yet.
    pub(super) fn new(machine: &Machine) -> Self {
        Self { machine: machine.clone(), ..Self::default() }
    }

    pub(super) fn wrong(
        &mut self,
        span: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problems.push(Problem {
            span: Some(span),
            message: message.into(),
            label: label.into(),
            help: help.into(),
        });
    }

    /// Something that should be there and isn't.
    pub(super) fn missing(&mut self, span: Option<Range<usize>>, message: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem { span, message: message.into(), label: String::new(), help: help.into() });
    }

    pub(super) fn number<T>(&mut self, key: &str, raw: &Number) -> T
    where
        T: TryFrom<i64> + Default,
    {
        let default = keys::text(key).replace('_', "").parse().ok().and_then(|number: i64| T::try_from(number).ok());
        let default = default.unwrap_or_default();
        let Some(raw) = raw else { return default };
        let value = *raw.get_ref();
        let range = keys::numbers(key);
        let allowed = i64::from(*range.start())..=i64::from(*range.end());
        match T::try_from(value) {
            Ok(valid) if allowed.contains(&value) => valid,
            _ => {
                self.range(key, raw.span(), &value, allowed.start(), allowed.end());
                default
            }
        }
    }

    pub(super) fn share(&mut self, key: &str, raw: &Share) -> f64 {
        let default = keys::text(key).parse().unwrap_or_default();
        let Some(raw) = raw else { return default };
        if (0.0..=1.0).contains(raw.get_ref()) {
            return *raw.get_ref();
        }
        let label = format!("{} is out of range", raw.get_ref());
        self.wrong(raw.span(), format!("{key} must be 0 to 1"), label, "write a number from 0.0 to 1.0: 0.5 is half");
        default
    }

    pub(super) fn duration(&mut self, key: &str, raw: &Text) -> Duration {
        let default = parse_duration(keys::text(key)).unwrap_or_default();
        let Some(raw) = raw else { return default };
        let range = keys::durations(key);
        match parse_duration(raw.get_ref()) {
            Some(value) if range.contains(&value) => return value,
            Some(value) => {
                let [value, low, high] = [value, *range.start(), *range.end()].map(show_duration);
                self.range(key, raw.span(), &value, &low, &high);
            }
            None => self.wrong(raw.span(), format!("{key} is not a duration"), "", DURATION_HELP),
        }
        default
    }

    pub(super) fn size(&mut self, key: &str, raw: &Text) -> u64 {
        let default = parse_size(keys::text(key)).unwrap_or_default();
        let Some(raw) = raw else { return default };
        let range = keys::sizes(key);
        match parse_size(raw.get_ref()) {
            Some(value) if range.contains(&value) => return value,
            Some(value) => {
                let [value, low, high] = [value, *range.start(), *range.end()].map(show_size);
                self.range(key, raw.span(), &value, &low, &high);
            }
            None => self.wrong(raw.span(), format!("{key} is not a size"), "", SIZE_HELP),
        }
        default
    }

    fn range<T: fmt::Display>(&mut self, key: &str, span: Range<usize>, value: &T, low: &T, high: &T) {
        let message = format!("{key} must be {low} to {high}");
        let help = match key {
            "dnsbl.weight" => {
                "weights are positive numbers; a list without weight reaches checks.dnsbl_threshold alone"
            }
            _ => "write a value in this range, or leave the key out for its default",
        };
        self.wrong(span, message, format!("{value} is out of range"), help);
    }

    /// One of `choices`, of which there are some.
    pub(super) fn choice<T: Copy, const N: usize>(&mut self, key: &str, raw: &Text, choices: &[(&str, T); N]) -> T {
        let default = choices.iter().find(|(name, _)| *name == keys::text(key)).unwrap_or(&choices[0]).1;
        let Some(raw) = raw else { return default };
        let word = raw.get_ref().as_str();
        if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
            return *value;
        }
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        let help = format!("choose one of {}", names.join(", "));
        self.wrong(raw.span(), format!("{key} can't be {word:?}"), "", help);
        default
    }

    pub(super) fn socket(&mut self, key: &str, raw: &Spanned<String>) -> Option<SocketAddr> {
        if self.has_no_port(key, raw) {
            return None;
        }
        match raw.get_ref().parse::<SocketAddr>() {
            Ok(address) => Some(SocketAddr::new(address.ip().to_canonical(), address.port())),
            Err(_) => {
                let help = "write IP:port: \"192.0.2.1:25\" or \"[2001:db8::1]:25\"; host names are not looked up";
                self.wrong(raw.span(), format!("{key} is not an address and port"), "", help);
                None
            }
        }
    }

    /// A server by address or name, with its port.
    pub(super) fn server(&mut self, key: &str, raw: &Spanned<String>) -> Option<BackendAddr> {
        if self.has_no_port(key, raw) {
            return None;
        }
        if raw.get_ref().parse::<SocketAddr>().is_ok() {
            return self.socket(key, raw).map(BackendAddr::Address);
        }
        let help = "write \"192.0.2.1:25\", \"[2001:db8::1]:25\" or \"mail.example.org:25\"";
        let parts = raw.get_ref().rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
        match parts.and_then(|(name, port)| Some((server_name(name)?, port))) {
            Some((name, port)) => return Some(BackendAddr::Name(name, port)),
            None => self.wrong(raw.span(), format!("{key} is not an address or name with a port"), "", help),
        }
        None
    }

    /// Whether the number behind the last colon is no port, which is wrong then.
    pub(super) fn has_no_port(&mut self, key: &str, raw: &Spanned<String>) -> bool {
        let Some((host, port)) = raw.get_ref().rsplit_once(':') else { return false };
        // The end of an IPv6 address without a port is none.
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let is_wrong =
            is_number && (!host.contains(':') || host.ends_with(']')) && !matches!(port.parse::<u16>(), Ok(1..));
        if is_wrong {
            self.wrong(raw.span(), format!("{key}: there is no port {port}"), "", "write a port from 1 to 65535");
        }
        is_wrong
    }

    /// An absolute path; `None` where there is none that is valid.
    pub(super) fn path(&mut self, key: &str, raw: &Text) -> Option<PathBuf> {
        let raw = raw.as_ref()?;
        let path = PathBuf::from(raw.get_ref());
        if path.is_absolute() && !raw.get_ref().contains('\0') {
            return Some(path);
        }
        let help = "write the whole path, from the root: \"/var/lib/...\"";
        self.wrong(raw.span(), format!("{key} is not an absolute path"), "", help);
        None
    }

    /// Networks that are trusted, so that all of the Internet must not be among them.
    pub(super) fn networks(&mut self, key: &str, raw: &List) -> NetSet {
        let Some(list) = raw else { return NetSet::default() };
        let mut nets = Vec::with_capacity(list.get_ref().len());
        for item in list.get_ref() {
            let Some(net) = self.network(key, item) else { continue };
            if too_wide(net) {
                self.open_relay(key, item.span(), &format!("{net} is a large part of the Internet"));
            } else {
                nets.push(net);
            }
        }
        let v4: Vec<_> = nets.iter().filter_map(|net| if let IpNet::V4(v4) = net { Some(*v4) } else { None }).collect();
        let v4 = Ipv4Net::aggregate(&v4);
        let v6: Vec<_> = nets.iter().filter_map(|net| if let IpNet::V6(v6) = net { Some(*v6) } else { None }).collect();
        let v6 = Ipv6Net::aggregate(&v6);
        let addresses: u64 = v4.iter().map(|net| 1 << (32 - net.prefix_len())).sum();
        let merged = v4.into_iter().map(IpNet::V4).chain(v6.into_iter().map(IpNet::V6));
        if addresses > 1 << 30 || merged.into_iter().any(too_wide) {
            self.open_relay(key, list.span(), "together they are a large part of the Internet");
        }
        nets.into_iter().collect()
    }

    fn open_relay(&mut self, key: &str, span: Range<usize>, label: &str) {
        let help = match key {
            "listen.proxy_protocol" => "anybody could claim any address: name only your balancers",
            "exempt" => {
                "exempt clients are never checked or banned, and may send anywhere: name only hosts and networks that you run"
            }
            _ => "anybody could send anywhere: name only the networks whose users you answer for",
        };
        self.wrong(span, format!("{key} would make an open relay"), label, help);
    }

    fn network(&mut self, key: &str, raw: &Spanned<String>) -> Option<IpNet> {
        let text = raw.get_ref().as_str();
        let help = "write an address or a network: \"192.0.2.1\", \"10.0.0.0/8\", \"2001:db8::/32\"";
        let Some(net) = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) else {
            self.wrong(raw.span(), format!("{key}: {text:?} is not an address or network"), "", help);
            return None;
        };
        if net.trunc() != net {
            let (addr, whole) = (net.addr(), net.trunc());
            let message = format!("{key}: {net} is neither an address nor a whole network");
            self.wrong(raw.span(), message, "", format!("write \"{addr}\" or \"{whole}\""));
            return None;
        }
        Some(canonical_net(net))
    }

    /// An address, as it is compared.
    pub(super) fn mailbox(&mut self, key: &str, raw: &Spanned<String>) -> Option<String> {
        match Mailbox::parse(raw.get_ref()) {
            Ok(mailbox) => Some(mailbox.key()),
            Err(error) => {
                let message = format!("{key}: {:?} is not a mail address: {error}", raw.get_ref());
                self.wrong(raw.span(), message, "", "write the whole address: \"nobody@example.org\"");
                None
            }
        }
    }

    /// A domain, as [`host::key`] has it.
    pub(super) fn domain(&mut self, key: &str, raw: &Spanned<String>) -> Option<String> {
        let text = raw.get_ref().as_str();
        match domain_fault(text) {
            None => host::key(text).map(Cow::into_owned),
            Some(help) => {
                self.wrong(raw.span(), format!("{key}: {text:?} is not a domain name"), "", help);
                None
            }
        }
    }
}

/// The key of a server's name. What ends in digits only is a mistyped address.
fn server_name(name: &str) -> Option<Box<str>> {
    let key = host::key(name)?;
    let digits = key.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    (!digits).then(|| key.into())
}

/// The fault of a domain name, as what to do about it. [`host::key`] defines a name.
pub(super) fn domain_fault(text: &str) -> Option<&'static str> {
    if text.starts_with("*.") {
        return Some("wildcards are not supported: name each domain and subdomain");
    }
    if text.contains('@') {
        return Some("write only the part behind the @");
    }
    if text.parse::<IpAddr>().is_ok() || text.starts_with('[') {
        return Some("write a name, not an address");
    }
    if host::key(text).is_none() {
        return Some(
            "a name is made of letters, digits, hyphens and underscores, in parts of at most 63 separated by dots",
        );
    }
    None
}

/// The fault of a name that we call ourselves by: servers refuse what RFC 1123 2.1 doesn't know.
pub(super) fn own_name_fault(text: &str) -> Option<&'static str> {
    let odd = |label: &str| label.contains('_') || label.starts_with('-') || label.ends_with('-');
    let help = "others may refuse such a name: use letters, digits, and hyphens between them";
    domain_fault(text).or_else(|| text.split('.').any(odd).then_some(help))
}

fn too_wide(net: IpNet) -> bool {
    // Unique local and link-local addresses reach nobody outside.
    const LOCAL: [(u16, u16); 2] = [(0xfc00, 0xfe00), (0xfe80, 0xffc0)];
    match net {
        IpNet::V4(v4) => v4.prefix_len() < WIDEST_V4,
        IpNet::V6(v6) => {
            let first = v6.addr().segments()[0];
            let local = LOCAL.iter().any(|(net, mask)| first & mask == *net && v6.prefix_len() >= 7);
            v6.prefix_len() < WIDEST_V6 && !local
        }
    }
}
