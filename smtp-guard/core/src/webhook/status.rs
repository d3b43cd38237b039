//! The webhook as `status` and metrics show it.

use serde::{Deserialize, Serialize};

use crate::clock::WallTime;

/// How it goes with the receiver. Counts are since the start of the guard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookStatus {
    /// Scheme, host and port.
    pub server: String,
    /// Events that wait, those included that are under way.
    pub events_waiting: u64,
    /// Events that the receiver has taken.
    pub events_delivered: u64,
    /// Events that it will never hear of: there was no room, or it refused them.
    pub events_dropped: u64,
    /// Requests that were not taken.
    pub requests_failed: u64,
    /// When it took some last; `None`: never.
    pub last_success: Option<WallTime>,
    /// Why it didn't take the last request; `None`: it did, or there was none.
    pub trouble: Option<String>,
}
