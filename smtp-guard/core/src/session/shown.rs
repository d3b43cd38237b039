//! The view of a session from outside, while it goes on.

use std::sync::Arc;

use super::{Session, Speaker, State};

/// The work of a session at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    /// Holds its greeting back.
    #[default]
    Greeting,
    /// Waits for a command.
    Command,
    /// Waits for facts about a recipient.
    Checks,
    /// Waits for the backend's answer to a command.
    Backend,
    /// Holds its own answer back.
    Delay,
    /// Waits for credentials.
    Login,
    /// Makes the TLS handshake.
    Handshake,
    /// Takes message data.
    Data,
    /// Waits for the backend's answer to a whole message.
    Dot,
    /// Ends.
    Closing,
}

impl Doing {
    /// All of them, in their order.
    pub const ALL: [Self; 10] = [
        Self::Greeting,
        Self::Command,
        Self::Checks,
        Self::Backend,
        Self::Delay,
        Self::Login,
        Self::Handshake,
        Self::Data,
        Self::Dot,
        Self::Closing,
    ];

    /// The label in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Greeting => "greeting",
            Self::Command => "command",
            Self::Checks => "checks",
            Self::Backend => "backend",
            Self::Delay => "delay",
            Self::Login => "login",
            Self::Handshake => "handshake",
            Self::Data => "data",
            Self::Dot => "dot",
            Self::Closing => "closing",
        }
    }
}

/// A session as it is seen from outside.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shown<'a> {
    pub doing: Doing,
    /// Messages that were accepted.
    pub accepted: u32,
    pub secured: bool,
    /// The client in its own words.
    pub speaker: Option<&'a Arc<Speaker>>,
}

impl Session {
    /// How it is now.
    pub fn shown(&self) -> Shown<'_> {
        let doing = match self.state {
            State::Greeting { .. } => Doing::Greeting,
            State::Ready => Doing::Command,
            State::Consulting(_) => Doing::Checks,
            State::Asked(_) | State::Due(_) => Doing::Backend,
            State::Held(_) => Doing::Delay,
            State::Auth(_) => Doing::Login,
            State::Securing => Doing::Handshake,
            State::Body(_) | State::Skipping(_) => Doing::Data,
            State::Dot { .. } => Doing::Dot,
            State::Closed => Doing::Closing,
        };
        Shown {
            doing,
            accepted: self.accepted_messages,
            secured: self.secured.is_some(),
            speaker: self.speaker.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_stand_at_their_place() {
        for (at, doing) in Doing::ALL.into_iter().enumerate() {
            assert_eq!(doing as usize, at, "{doing:?}");
        }
    }
}
