//! A place among the decisions in force, which are told in parts.

use crate::addr::{Ipv6Prefix, Source};
use crate::decision::ControlError;
use crate::key::Key;
use crate::ledger::networks::Network;

/// A place among all decisions: the last one of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Ban(Key),
    /// A source that is deferred.
    Source(Source),
    /// A network that is deferred.
    Network(Network),
}

impl Place {
    /// As text: `ban:192.0.2.1`, `source:192.0.2.1` or `network:192.0.2.0/24`.
    pub fn text(&self, prefix: Ipv6Prefix) -> String {
        match self {
            Self::Ban(key) => format!("ban:{}", key.text(prefix)),
            Self::Source(source) => format!("source:{}", prefix.display(*source)),
            Self::Network(network) => format!("network:{}", network.text()),
        }
    }

    /// The place that `text` is.
    pub fn read(text: &str, prefix: Ipv6Prefix) -> Result<Self, ControlError> {
        let place = text.split_once(':').and_then(|(kind, key)| match kind {
            "ban" => Key::read(key, prefix).map(Self::Ban),
            "source" => Key::read(key, prefix)?.source().map(Self::Source),
            "network" => Network::read(key).map(Self::Network),
            _ => None,
        });
        place.ok_or_else(|| ControlError::NoPlace(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_its_text() {
        let prefix = Ipv6Prefix::default();
        for text in [
            "ban:192.0.2.1",
            "ban:2001:db8::/64",
            "ban:192.0.2.0/24",
            "source:192.0.2.1",
            "source:2001:db8::/64",
            "network:192.0.2.0/24",
            "network:2001:db8::/48",
        ] {
            assert_eq!(Place::read(text, prefix).unwrap().text(prefix), text);
        }
        for text in ["", "ban", "ban:", "192.0.2.1", "source:192.0.2.0/24", "network:x", "user:bob"] {
            assert!(matches!(Place::read(text, prefix), Err(ControlError::NoPlace(_))), "{text}");
        }
    }
}
