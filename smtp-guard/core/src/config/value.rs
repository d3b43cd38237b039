//! The types of values: each with what is read of it, how that is judged, and how `config show` writes it again.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::ser::{Error, Serialize, Serializer};

use super::choices::{
    AuthVia, BackendTls, EventKind, Granted, Identity, LogFormat, Mode, PageAccess, Profile, Role, Share, XdpMode,
};
use super::judge::Judge;
use super::units::{show_duration, show_size};
use super::{keys, raw};
use crate::addr::{BackendAddr, Ipv6Prefix, NetSet};
use crate::webhook::Endpoint;

/// A valid value of the configuration: of a key, or a table of them.
pub(super) trait Value: Sized {
    /// As it is read, with its position.
    type Raw: fmt::Debug + Default + DeserializeOwned;

    /// The valid value of `raw`; the default where nothing is set, or something wrong, which is left in `judge`. `key` is the whole
    /// name: `limits.connections`.
    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self;

    /// As [`Self::judge`] reads it.
    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error>;

    /// Of a table: gives the keys that need a restart the values that are in force.
    fn keep_fixed(&mut self, _running: &Self) {}
}

/// A table of which there may be several.
pub(super) trait Entry {
    type Raw: fmt::Debug + Default + DeserializeOwned;
}

/// The form in which a value is read.
pub(super) type Raw<T> = <T as Value>::Raw;

/// The form in which an entry is read.
pub(super) type RawEntry<T> = <T as Entry>::Raw;

/// For serde's `serialize_with`.
pub(super) fn show<T: Value, S: Serializer>(value: &T, out: S) -> Result<S::Ok, S::Error> {
    value.show(out)
}

impl Value for bool {
    type Raw = raw::Switch;

    fn judge(key: &str, raw: &Self::Raw, _: &mut Judge) -> Self {
        raw.as_ref().map_or_else(|| keys::text(key) == "true", |switch| *switch.get_ref())
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_bool(*self)
    }
}

impl Value for u32 {
    type Raw = raw::Number;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        judge.number(key, raw)
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u32(*self)
    }
}

/// A share.
impl Value for f64 {
    type Raw = raw::Share;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        judge.share(key, raw)
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_f64(*self)
    }
}

/// A size in bytes.
impl Value for u64 {
    type Raw = raw::Text;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        judge.size(key, raw)
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&show_size(*self))
    }
}

impl Value for Duration {
    type Raw = raw::Text;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        judge.duration(key, raw)
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(&show_duration(*self))
    }
}

impl Value for Ipv6Prefix {
    type Raw = raw::Number;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        Self::new(judge.number(key, raw)).unwrap_or_default()
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u8(self.length())
    }
}

/// Any text.
impl Value for String {
    type Raw = raw::Text;

    fn judge(key: &str, raw: &Self::Raw, _: &mut Judge) -> Self {
        raw.as_ref().map_or(keys::text(key), |text| text.get_ref()).to_owned()
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self)
    }
}

/// A domain; empty: none.
impl Value for Option<String> {
    type Raw = raw::Text;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        raw::filled(raw).and_then(|name| judge.domain(key, name))
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.as_deref().unwrap_or_default())
    }
}

/// Any texts.
impl Value for Vec<String> {
    type Raw = raw::List;

    fn judge(_: &str, raw: &Self::Raw, _: &mut Judge) -> Self {
        raw::list(raw).map(|text| text.get_ref().clone()).collect()
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self)
    }
}

impl Value for PathBuf {
    type Raw = raw::Text;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        judge.path(key, raw).unwrap_or_else(|| keys::text(key).into())
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        self.to_str().ok_or_else(|| S::Error::custom("a path that isn't UTF-8"))?.serialize(out)
    }
}

/// A path; empty: none.
impl Value for Option<PathBuf> {
    type Raw = raw::Text;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        raw::filled(raw).and_then(|_| judge.path(key, raw))
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            None => out.serialize_str(""),
            Some(path) => path.show(out),
        }
    }
}

/// An address of ours; empty: none.
impl Value for Option<SocketAddr> {
    type Raw = raw::Text;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        match raw {
            None => keys::text(key).parse().ok(),
            Some(text) => raw::filled(raw).and_then(|_| judge.socket(key, text)),
        }
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            None => out.serialize_str(""),
            Some(address) => out.collect_str(address),
        }
    }
}

impl Value for Vec<SocketAddr> {
    type Raw = raw::List;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        raw::list(raw).filter_map(|address| judge.socket(key, address)).collect()
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self)
    }
}

impl Value for Vec<BackendAddr> {
    type Raw = raw::List;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        raw::list(raw).filter_map(|server| judge.server(key, server)).collect()
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self.iter().map(BackendAddr::to_string))
    }
}

impl Value for NetSet {
    type Raw = raw::List;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        judge.networks(key, raw)
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self.iter())
    }
}

/// A place that HTTP requests go to; empty: none.
impl Value for Option<Endpoint> {
    type Raw = raw::Text;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        let text = raw::filled(raw)?;
        match Endpoint::parse(text.get_ref()) {
            Ok(endpoint) => Some(endpoint),
            Err(fault) => {
                let help = "write \"https://ops.example.org/smtp-guard\"";
                judge.wrong(text.span(), format!("{key} can't be used"), fault, help);
                None
            }
        }
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.as_ref().map(Endpoint::text).unwrap_or_default())
    }
}

impl Value for Vec<EventKind> {
    type Raw = raw::List;

    fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        let mut kinds = Self::new();
        for text in raw::list(raw) {
            let word = text.get_ref();
            match EventKind::NAMES.iter().find(|(name, _)| name == word) {
                Some((_, kind)) if kinds.contains(kind) => {
                    judge.wrong(text.span(), format!("{key} names {word} twice"), "", "remove one of them");
                }
                Some((_, kind)) => kinds.push(*kind),
                None => {
                    let names: Vec<_> = EventKind::NAMES.iter().map(|(name, _)| *name).collect();
                    let help = format!("choose from {}", names.join(", "));
                    judge.wrong(text.span(), format!("{key}: there is no event {word:?}"), "", help);
                }
            }
        }
        kinds
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(self)
    }
}

macro_rules! choices {
    ($($choice:ty),+) => {
        $(impl Value for $choice {
            type Raw = raw::Text;

            fn judge(key: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
                judge.choice(key, raw, &Self::NAMES)
            }

            fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                self.serialize(out)
            }
        })+
    };
}

choices!(AuthVia, BackendTls, Granted, Identity, LogFormat, Mode, PageAccess, Profile, Role, Share, XdpMode);
