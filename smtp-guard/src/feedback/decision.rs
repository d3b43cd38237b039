//! (being built elsewhere)
use crate::clock::WallTime;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Decision {
    pub source: String,
    pub reason: String,
    pub text: String,
    pub origin: String,
    pub made: WallTime,
    pub until: WallTime,
    pub repeat: u32,
    pub evidence: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LedgerView {
    pub unknown_recipients: u32,
    pub recipients: u32,
    pub share: f64,
    pub accepted: u64,
    pub window_started: WallTime,
    pub sample: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    pub source: String,
    pub exempt: bool,
    pub decision: Option<Decision>,
    pub ledger: Option<LedgerView>,
    pub connections: Option<u64>,
    pub notes: Vec<String>,
}
