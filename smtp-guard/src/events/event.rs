//! An event, as it is published and as it goes over the admin socket.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::clock::{Seconds, WallTime};
use crate::config::EventKind;

/// A word of a small, fixed set: a reason's label, an outcome.
pub type Word = Cow<'static, str>;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Counted from 1, the start of the guard, without a gap.
    pub number: u64,
    pub at: WallTime,
    #[serde(flatten)]
    pub what: What,
}

/// An event's content. Texts from the network are escaped and short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A source or a network is blocked.
    Banned {
        source: String,
        reason: Word,
        origin: Word,
        text: String,
        duration_seconds: u64,
        repeat: u32,
        /// From the report to the ban in force.
        took_seconds: Option<Seconds>,
        evidence: Vec<String>,
    },
    /// A ban ended. `why`: `over`, `exempt`, `operator`, `node` or `room`.
    Lifted { source: String, reason: Word, why: Word },
    /// So many more bans ended at the same moment for the same reason.
    LiftedMore { count: u64, why: Word },
    /// A source, a network or a sender hears 4xx.
    Deferred { source: String, reason: Word, duration_seconds: u64, repeat: u32, evidence: Vec<String> },
    /// The operator imported decisions.
    Imported { added: u64, refused: u64, text: String },
    /// The operator lifted all decisions.
    AllLifted { count: u64 },
    /// A connection was refused, or ended by the guard. At most 200 a second of these and of refused commands together.
    ConnectionRefused { session: String, client: String, reason: Word },
    /// A command was refused.
    CommandRefused {
        session: String,
        client: String,
        reason: Word,
        sender: Option<String>,
        recipient: Option<String>,
        reply: String,
    },
    /// The outcome of a message.
    Message {
        session: String,
        client: String,
        outcome: Word,
        sender: String,
        recipient_count: u64,
        size_bytes: u64,
        reply: String,
    },
    /// A user is held, by a limit or by the operator.
    UserHeld { user: String, reason: Word, source: Option<String>, duration_seconds: Option<u64>, text: String },
    /// The operator released a user.
    UserReleased { user: String },
    /// Another configuration is in force.
    Reloaded { generation: u64, changed: Vec<String>, waiting: Vec<String> },
    /// The configuration was read again and can't be used.
    ReloadRefused { error: String },
    /// A server of the backend answers, or doesn't any more.
    Backend { server: String, answers: bool },
    /// A block list was read, or can't be.
    Blocklist { list: String, entries: u64, refused: u64, error: Option<String> },
    /// The kernel plane was loaded, or is gone and why.
    Kernel { loaded: bool, text: String },
    /// Our certificates were read again, can't be used as they are in their files, or end soon.
    Certificate { usable: bool, text: String },
    /// The fleet's server answers, or doesn't and why.
    Fleet { connected: bool, text: String },
    /// Another edge of the fleet. `state`: `live`, `silent`, `muted` (it isn't listened to) or `heard` (it is again).
    FleetNode { node: String, state: Word, text: String },
    /// Nothing happened: `check --connect` tries whoever is told of events.
    Test { text: String },
}

impl What {
    /// Which event it is.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Banned { .. } => EventKind::Banned,
            Self::Lifted { .. } => EventKind::Lifted,
            Self::LiftedMore { .. } => EventKind::LiftedMore,
            Self::Deferred { .. } => EventKind::Deferred,
            Self::Imported { .. } => EventKind::Imported,
            Self::AllLifted { .. } => EventKind::AllLifted,
            Self::ConnectionRefused { .. } => EventKind::ConnectionRefused,
            Self::CommandRefused { .. } => EventKind::CommandRefused,
            Self::Message { .. } => EventKind::Message,
            Self::UserHeld { .. } => EventKind::UserHeld,
            Self::UserReleased { .. } => EventKind::UserReleased,
            Self::Reloaded { .. } => EventKind::Reloaded,
            Self::ReloadRefused { .. } => EventKind::ReloadRefused,
            Self::Backend { .. } => EventKind::Backend,
            Self::Blocklist { .. } => EventKind::Blocklist,
            Self::Kernel { .. } => EventKind::Kernel,
            Self::Certificate { .. } => EventKind::Certificate,
            Self::Fleet { .. } => EventKind::Fleet,
            Self::FleetNode { .. } => EventKind::FleetNode,
            Self::Test { .. } => EventKind::Test,
        }
    }
}
