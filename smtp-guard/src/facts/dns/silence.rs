//! Reports about servers that don't answer. Pure: time is passed in.
//!
//! A look-up without an answer may be a client's dead zone. So it only leads to a question that every resolver answers, once
//! a minute at most. Only if that has no answer either, the operator is told.

use std::time::{Duration, Instant};

/// Time between two lines, and between two questions.
const PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Silence {
    asked: Option<Instant>,
    told: Option<Instant>,
    /// No server answers, as far as is known.
    is_on: bool,
}

impl Silence {
    /// A look-up had no answer at `now`. `true`: it is time to ask whether a server lives.
    pub(super) fn is_suspected(&mut self, now: Instant) -> bool {
        let due = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= PAUSE);
        if due {
            self.asked = Some(now);
        }
        due
    }

    /// No server answers at `now`. `true`: a line is due.
    pub(super) fn is_certain(&mut self, now: Instant) -> bool {
        self.is_on = true;
        let due = self.told.is_none_or(|told| now.saturating_duration_since(told) >= PAUSE);
        if due {
            self.told = Some(now);
        }
        due
    }

    /// A server has answered. `true`: none had.
    pub(super) fn ends(&mut self) -> bool {
        std::mem::take(&mut self.is_on)
    }

    /// Whether no server answers, as far as is known.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_a_minute_and_only_when_it_is_certain() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(silence.is_suspected(at(0)) && !silence.is_on(), "a dead zone of somebody else");
        assert!(!silence.is_suspected(at(59)));
        assert!(silence.is_suspected(at(60)));
        assert!(silence.is_certain(at(60)) && silence.is_on());
        assert!(!silence.is_certain(at(61)));
        assert!(silence.ends() && !silence.is_on() && !silence.ends());
        assert!(!silence.is_certain(at(100)), "it flaps");
        assert!(silence.is_certain(at(120)));
    }
}
