//! `[[listen]]`: the sockets that clients connect to.

use std::net::SocketAddr;

use serde::{Serialize, Serializer};
use toml::Spanned;

use super::choices::Role;
use super::judge::Judge;
use super::together::overlap;
use super::value::{self, RawEntry, Value};
use crate::addr::NetSet;

/// One listening socket.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listen {
    pub address: SocketAddr,
    pub role: Role,
    /// Not empty: a PROXY header is mandatory from these peers, and every other peer is refused.
    #[serde(rename = "proxy_protocol", serialize_with = "value::show")]
    pub balancers: NetSet,
}

impl Value for Vec<Listen> {
    type Raw = Vec<Spanned<RawEntry<Listen>>>;

    fn judge(_: &str, raw: &Self::Raw, judge: &mut Judge) -> Self {
        if raw.is_empty() && judge.whole {
            judge.missing(None, "no [[listen]]: nobody could connect", "add [[listen]] with address = \"0.0.0.0:25\"");
        }
        let mut listen = Self::with_capacity(raw.len());
        for entry in raw {
            let table = entry.get_ref();
            let role = Role::judge("listen.role", &table.role, judge);
            let balancers = judge.networks("listen.proxy_protocol", &table.proxy_protocol);
            let Some(text) = &table.address else {
                if judge.whole {
                    judge.missing(Some(entry.span()), "[[listen]] without address", "add address = \"0.0.0.0:25\"");
                }
                continue;
            };
            let Some(address) = judge.socket("listen.address", text) else {
                continue;
            };
            if let Some(other) = listen.iter().find(|other: &&Listen| overlap(other.address, address)) {
                let message = format!("listen.address {address} is taken by {} above", other.address);
                judge.wrong(text.span(), message, "", "remove one of the two");
                continue;
            }
            listen.push(Listen { address, role, balancers });
        }
        listen
    }

    fn show<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        self.serialize(out)
    }
}
