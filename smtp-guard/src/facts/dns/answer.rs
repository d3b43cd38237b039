//! Questions, and the little that is kept of an answer. Pure: hickory's result goes in, a bounded [`Reading`] comes out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::names;
use super::{Failure, Flaw};

/// Addresses kept of one answer. More than 256 don't fit into what anybody publishes for one host.
pub(super) const MAX_ADDRESSES: usize = 256;
/// Names kept of a PTR answer: each may be looked up once more. Hosts with a dozen are real.
const MAX_NAMES: usize = 16;
/// Names of a chain of CNAMEs that are looked at in one answer.
const MAX_CHAIN: usize = 16;

/// A question to DNS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) kind: Kind,
    /// Lower case, checked by `names`, without the dot at the end.
    pub(super) name: Box<str>,
}

/// The kind of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Mx,
    A,
    Aaaa,
    Ptr,
    /// An A record of a list: apart from [`Kind::A`] for the metrics.
    Dnsbl,
}

/// The outcome of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The memory had the answer; what it was isn't counted again.
    Cached,
    Found,
    NoName,
    NoData,
    /// PTR records without a host name in them.
    Unusable,
    /// A list answered with an address outside 127.0.0.0/8. Counted at each use of the answer, as [`Failure::ListRefuses`].
    Lie,
    Failed(Failure),
}

impl Told {
    /// The labels in metrics, in the order of their numbers; those of failures come last.
    pub const LABELS: [&'static str; 6 + Failure::LABELS.len()] = {
        let mut labels =
            ["cached", "found", "no_name", "no_data", "unusable", "lie", "", "", "", "", "", "", "", "", ""];
        let mut at = 0;
        while at < Failure::LABELS.len() {
            labels[6 + at] = Failure::LABELS[at];
            at += 1;
        }
        labels
    };

    /// Its place among [`Self::LABELS`].
    pub const fn number(self) -> usize {
        match self {
            Self::Cached => 0,
            Self::Found => 1,
            Self::NoName => 2,
            Self::NoData => 3,
            Self::Unusable => 4,
            Self::Lie => 5,
            Self::Failed(failure) => 6 + failure.number(),
        }
    }

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        Self::LABELS[self.number()]
    }
}

impl Kind {
    /// All kinds in their order.
    pub const ALL: [Self; 5] = [Self::Mx, Self::A, Self::Aaaa, Self::Ptr, Self::Dnsbl];

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::A => "a",
            Self::Aaaa => "aaaa",
            Self::Ptr => "ptr",
            Self::Dnsbl => "dnsbl",
        }
    }

    pub(super) fn record_type(self) -> RecordType {
        match self {
            Self::Mx => RecordType::MX,
            Self::A | Self::Dnsbl => RecordType::A,
            Self::Aaaa => RecordType::AAAA,
            Self::Ptr => RecordType::PTR,
        }
    }
}

impl Question {
    pub(super) fn new(kind: Kind, name: Box<str>) -> Self {
        Self { kind, name }
    }

    /// As hickory wants it: with the dot at the end, so nothing is appended.
    pub(super) fn wire_name(&self) -> Result<Name, Failure> {
        let mut name = Name::from_labels(self.name.split('.').map(str::as_bytes))
            .map_err(|_| Failure::Malformed(Flaw::NameTooLong))?;
        name.set_fqdn(true);
        Ok(name)
    }
}

/// An answer. At most 4.5 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// NXDOMAIN: nothing of any type.
    NoName,
    /// The name may exist; nothing of this type does.
    NoData,
    Mx,
    /// RFC 7505: exactly one MX record, with preference 0 and the root as its host.
    NullMx,
    Addresses(Arc<[IpAddr]>),
    /// Host names; empty if the PTR records hold none.
    Names(Arc<[Box<str>]>),
}

impl Answer {
    pub(super) fn told(&self) -> Told {
        match self {
            Self::NoName => Told::NoName,
            Self::NoData => Told::NoData,
            Self::Names(names) if names.is_empty() => Told::Unusable,
            Self::Mx | Self::NullMx | Self::Addresses(_) | Self::Names(_) => Told::Found,
        }
    }

    pub(super) fn is_negative(&self) -> bool {
        matches!(self, Self::NoName | Self::NoData)
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::NoName | Self::NoData | Self::Mx | Self::NullMx => 0,
            Self::Addresses(addresses) => size_of_val::<[IpAddr]>(addresses),
            Self::Names(names) => names.iter().map(|name| size_of::<Box<str>>() + name.len()).sum(),
        }
    }
}

/// An answer as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) answer: Answer,
    /// How long its zone wants it to be remembered.
    pub(super) ttl: Duration,
    /// Records were left out, because there were too many.
    pub(super) is_cut: bool,
}

impl Reading {
    fn negative(answer: Answer, ttl: Option<u32>) -> Self {
        Self { answer, ttl: Duration::from_secs(ttl.unwrap_or_default().into()), is_cut: false }
    }
}

/// Reads what hickory found for `name`.
pub(super) fn read(kind: Kind, name: &Name, result: Result<Lookup, NetError>) -> Result<Reading, Failure> {
    match result {
        Ok(lookup) => Ok(read_records(kind, name, lookup.answers())),
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => read_none(name, &none),
        Err(error) => Err(failure(&error)),
    }
}

fn read_records(kind: Kind, name: &Name, records: &[Record]) -> Reading {
    let chain = chain(name, records);
    let belongs = |record: &&Record| record.dns_class == DNSClass::IN && chain.contains(&&record.name);
    let of_type = |record: &&Record| record.record_type() == kind.record_type();
    let found: Vec<&RData> = records.iter().filter(belongs).filter(of_type).map(|record| &record.data).collect();
    if found.is_empty() {
        return Reading::negative(Answer::NoData, None);
    }
    let ttl = records.iter().filter(belongs).map(|record| record.ttl).min().unwrap_or_default();
    let (answer, is_cut) = match kind {
        Kind::Mx => (exchanges(&found), false),
        Kind::A | Kind::Aaaa | Kind::Dnsbl => addresses(&found),
        Kind::Ptr => host_names(&found),
    };
    Reading { answer, ttl: Duration::from_secs(ttl.into()), is_cut }
}

/// `name`, and what it is an alias of according to `records`. A circle ends where it closes.
fn chain<'a>(name: &'a Name, records: &'a [Record]) -> Vec<&'a Name> {
    let mut chain = vec![name];
    while let Some(last) = chain.last().copied().filter(|_| chain.len() < MAX_CHAIN) {
        let next = records.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *last => Some(&target.0),
            _ => None,
        });
        match next {
            Some(next) if !chain.contains(&next) => chain.push(next),
            _ => break,
        }
    }
    chain
}

fn exchanges(found: &[&RData]) -> Answer {
    match found {
        [RData::MX(only)] if only.preference == 0 && only.exchange.is_root() => Answer::NullMx,
        _ => Answer::Mx,
    }
}

fn addresses(found: &[&RData]) -> (Answer, bool) {
    let addresses = found.iter().filter_map(|data| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    });
    (Answer::Addresses(addresses.take(MAX_ADDRESSES).collect()), found.len() > MAX_ADDRESSES)
}

fn host_names(found: &[&RData]) -> (Answer, bool) {
    let mut names: Vec<Box<str>> = Vec::new();
    for name in found.iter().filter_map(|data| match data {
        RData::PTR(target) => names::host_name(target.0.iter()),
        _ => None,
    }) {
        if names.contains(&name) {
            continue;
        }
        if names.len() == MAX_NAMES {
            return (Answer::Names(names.into()), true);
        }
        names.push(name);
    }
    (Answer::Names(names.into()), false)
}

fn read_none(name: &Name, none: &NoRecords) -> Result<Reading, Failure> {
    match none.response_code {
        ResponseCode::NXDomain => Ok(Reading::negative(Answer::NoName, none.negative_ttl)),
        // Said by a server that doesn't recurse. Taken for "no data" it would make every domain a missing one.
        ResponseCode::NoError if none.soa.is_none() && none.ns.is_some() => Err(Failure::Malformed(Flaw::Referral)),
        // hickory's word for a chain that it gave up. A server that says so of a chain's end without an SOA looks the same.
        ResponseCode::NoError if none.soa.is_none() && none.query.name() != name => {
            Err(Failure::Malformed(Flaw::Aliases))
        }
        ResponseCode::NoError => Ok(Reading::negative(Answer::NoData, none.negative_ttl)),
        code => Err(of_code(code)),
    }
}

pub(super) fn failure(error: &NetError) -> Failure {
    match error {
        NetError::Timeout => Failure::TimedOut,
        NetError::Busy => Failure::Busy,
        NetError::Io(error) => Failure::Network(error.kind()),
        NetError::NoConnections => Failure::Network(std::io::ErrorKind::NotConnected),
        NetError::Dns(DnsError::ResponseCode(code)) => of_code(*code),
        NetError::Truncated => Failure::Malformed(Flaw::Truncated),
        NetError::Proto(_) | NetError::QueryCaseMismatch | NetError::ForeignClassRecord { .. } => {
            Failure::Malformed(Flaw::Unreadable)
        }
        // hickory's own words, as when a connection closed under a question.
        _ => Failure::Network(std::io::ErrorKind::Other),
    }
}

fn of_code(code: ResponseCode) -> Failure {
    match code {
        ResponseCode::ServFail => Failure::ServFail,
        ResponseCode::Refused => Failure::Refused,
        code => Failure::Code(code.into()),
    }
}

#[cfg(test)]
mod tests;
