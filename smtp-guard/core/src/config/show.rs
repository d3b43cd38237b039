//! The valid configuration as a file again: `config show` writes what `check` reads.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use serde::ser::{Error, Serialize, Serializer};

use super::units::{show_duration, show_size};
use super::{Backend, Config, Machine, Tls};
use crate::addr::{BackendAddr, Ipv6Prefix, NetSet};

impl Config {
    /// As TOML, which [`Config::parse`] reads as the same again.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// All defaults on `machine`. The three keys that a real file must set are empty here, and the hostname is the host's own.
    pub fn defaults(machine: &Machine) -> Self {
        let mut config = Self::builtin_on(machine);
        config.listen.clear();
        config.relay.domains.clear();
        config.backend = Backend::default();
        config.auth = super::Auth::default();
        config.checks = super::Checks::default();
        config.admin = super::Admin::default();
        config.state = super::State::default();
        config.log = super::Log::default();
        config
    }
}

pub(super) fn duration<S: Serializer>(value: &Duration, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&show_duration(*value))
}

pub(super) fn size<S: Serializer>(value: &u64, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(&show_size(*value))
}

pub(super) fn prefix<S: Serializer>(value: &Ipv6Prefix, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_u8(value.length())
}

pub(super) fn networks<S: Serializer>(value: &NetSet, out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(value.iter())
}

pub(super) fn servers<S: Serializer>(value: &[BackendAddr], out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(value.iter().map(BackendAddr::to_string))
}

pub(super) fn ranges<S: Serializer>(value: &[RangeInclusive<Ipv4Addr>], out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(value.iter().map(|range| format!("{}-{}", range.start(), range.end())))
}

pub(super) fn resolvers<S: Serializer>(value: &[SocketAddr], out: S) -> Result<S::Ok, S::Error> {
    out.collect_seq(value)
}

/// Nothing is the empty text.
pub(super) fn optional<S: Serializer>(value: &Option<PathBuf>, out: S) -> Result<S::Ok, S::Error> {
    match value {
        None => out.serialize_str(""),
        Some(path) => path.to_str().ok_or_else(|| S::Error::custom("a path that isn't UTF-8"))?.serialize(out),
    }
}

/// Nothing is the empty text.
pub(super) fn optional_name<S: Serializer>(value: &Option<String>, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(value.as_deref().unwrap_or_default())
}

/// Nothing is a pair of empty texts.
pub(super) fn optional_tls<S: Serializer>(value: &Option<Tls>, out: S) -> Result<S::Ok, S::Error> {
    value
        .clone()
        .unwrap_or_else(|| Tls { certificate: PathBuf::new(), key: PathBuf::new(), also: Vec::new() })
        .serialize(out)
}

/// Nothing is the empty text.
pub(super) fn optional_address<S: Serializer>(value: &Option<SocketAddr>, out: S) -> Result<S::Ok, S::Error> {
    match value {
        None => out.serialize_str(""),
        Some(address) => out.collect_str(address),
    }
}
