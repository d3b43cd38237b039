//! A ban as it is decided, kept and told.

use serde::{Deserialize, Serialize};
use smtp_guard_ebpf::reason::Reason;

use crate::addr::{Ipv6Prefix, Source};
use crate::clock::WallTime;

/// A ban, as the guard holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    pub source: Source,
    pub reason: Reason,
    pub origin: Origin,
    pub made: WallTime,
    pub until: WallTime,
    /// How many bans of this source came before it without a pause; each doubles the length.
    pub repeat: u32,
    /// In the words of who made it.
    pub text: String,
    /// What it rests on, at most [`crate::feedback::ledger::SAMPLE`] entries.
    pub evidence: Vec<String>,
}

/// Who decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The ledger, by its rule.
    Ledger,
    /// The operator, by `decisions add`.
    Operator,
}

impl Origin {
    /// As the store and the API write it.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Operator => "operator",
        }
    }

    /// The origin with this label.
    pub fn from_label(label: &str) -> Option<Self> {
        [Self::Ledger, Self::Operator].into_iter().find(|origin| origin.label() == label)
    }
}

/// A ban, as the command line and the API show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// `192.0.2.1`, or `2001:db8::/64`.
    pub source: String,
    /// Label of the [`Reason`].
    pub reason: String,
    pub text: String,
    /// `ledger` or `operator`.
    pub origin: String,
    pub made: WallTime,
    pub until: WallTime,
    pub repeat: u32,
    pub evidence: Vec<String>,
}

impl Decision {
    /// `ban` with its source as text under `prefix`.
    pub fn of(ban: &Ban, prefix: Ipv6Prefix) -> Self {
        Self {
            source: prefix.display(ban.source),
            reason: ban.reason.label().to_owned(),
            text: ban.text.clone(),
            origin: ban.origin.label().to_owned(),
            made: ban.made,
            until: ban.until,
            repeat: ban.repeat,
            evidence: ban.evidence.clone(),
        }
    }
}

/// What the ledger knows of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LedgerView {
    /// Distinct unknown recipients in the window.
    pub unknown_recipients: u32,
    /// Distinct recipients in the window, known and unknown.
    pub recipients: u32,
    /// Unknown ones among them, 0.0 to 1.0.
    pub share: f64,
    /// Messages accepted since the ledger knows the source.
    pub accepted: u64,
    pub window_started: WallTime,
    /// Some of the unknown recipients.
    pub sample: Vec<String>,
}

/// All that is known of an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub source: String,
    pub exempt: bool,
    pub decision: Option<Decision>,
    pub ledger: Option<LedgerView>,
    /// Established connections as the kernel plane counts them; `None` without one.
    pub connections: Option<u64>,
    pub notes: Vec<String>,
}
