//! The outcome of a message.

/// The outcome of a message, in the only four ways there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The backend said 250 to the dot.
    Accepted,
    /// Refused for good (5xx).
    Rejected,
    /// Refused for now (4xx); nothing was delivered.
    Deferred,
    /// The backend was lost after the dot and before its reply: it may have been delivered.
    Ambiguous,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Rejected, Self::Deferred, Self::Ambiguous];

    /// The label in metrics, logs and JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Deferred => "deferred",
            Self::Ambiguous => "ambiguous",
        }
    }
}
