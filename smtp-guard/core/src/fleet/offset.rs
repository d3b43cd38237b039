//! The server's time, by which all edges agree: how far it is from this machine's clock.
//!
//! A question takes a while, and the answer was read somewhere in between. So of the last [`SAMPLES`] answers that with the shortest
//! way counts: it is wrong by half of that way at most. The clock here is [`Instant`], which nobody sets; where the wall clock is set,
//! nothing changes but what is shown.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{Both, Instant};

/// Answers that are held against each other.
const SAMPLES: usize = 8;

/// The server's time less ours.
#[derive(Clone, Debug, Default)]
pub struct Offset {
    samples: VecDeque<(Duration, i64)>,
    best: Option<i64>,
}

impl Offset {
    /// The server said `server` ms; it was asked at `asked`, and its answer came at `heard`.
    pub fn note(&mut self, asked: Instant, server: i64, heard: Instant) {
        let way = heard.since(asked);
        let middle = ms(asked).saturating_add(i64::try_from(way.as_millis() / 2).unwrap_or(i64::MAX));
        self.samples.push_back((way, server.saturating_sub(middle)));
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        self.best = self.samples.iter().min_by_key(|(way, _)| *way).map(|(_, offset)| *offset);
    }

    /// Forgets all: another server may have another clock.
    pub fn forget(&mut self) {
        self.samples.clear();
    }

    /// The server's time at `at`, in ms; `None`: it was never asked.
    pub fn server(&self, at: Instant) -> Option<i64> {
        Some(if at == Instant::NEVER { i64::MAX } else { ms(at).saturating_add(self.best?) })
    }

    /// The moment here of the server's time `server`.
    pub fn here(&self, server: i64) -> Option<Instant> {
        let best = self.best?;
        if server == i64::MAX {
            return Some(Instant::NEVER);
        }
        let ms = u64::try_from(server.saturating_sub(best)).unwrap_or_default();
        Some(Instant::from_ns(ms.saturating_mul(1_000_000)))
    }

    /// This wall clock less the server's, in ms.
    pub fn of_wall(&self, both: &Both) -> Option<i64> {
        Some(both.wall.as_ms().saturating_sub(self.server(both.instant)?))
    }
}

fn ms(at: Instant) -> i64 {
    i64::try_from(at.as_ns() / 1_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;

    fn at(ms: u64) -> Instant {
        Instant::from_ns(ms * 1_000_000)
    }

    /// Questions and answers: asked, the server's time, heard; and the server's time at 10 s.
    #[track_caller]
    fn check(answers: &[(u64, i64, u64)], expected: Option<i64>) {
        let mut offset = Offset::default();
        answers.iter().for_each(|(asked, server, heard)| offset.note(at(*asked), *server, at(*heard)));
        assert_eq!(offset.server(at(10_000)), expected, "{answers:?}");
        if let Some(server) = expected {
            assert_eq!(offset.here(server), Some(at(10_000)));
            let both = Both { instant: at(10_000), wall: WallTime::from_ms(server + 7) };
            assert_eq!(offset.of_wall(&both), Some(7));
        }
    }

    #[test]
    fn the_answer_with_the_shortest_way_counts() {
        check(&[], None);
        check(&[(1000, 501_000, 1000)], Some(510_000));
        check(&[(1000, 501_050, 1100)], Some(510_000));
        check(&[(1000, 501_090, 1100), (2000, 502_001, 2002), (3000, 503_300, 3400)], Some(510_000));
        // The machine's clock drifts against the server's: what is older than eight answers no longer counts.
        let drifts: Vec<_> =
            std::iter::once((0, 500_000, 0)).chain((1..9).map(|n| (n, 600_001 + n as i64, n + 2))).collect();
        check(&drifts, Some(610_000));
    }

    #[test]
    fn ends_of_time_stay_what_they_are() {
        let mut offset = Offset::default();
        assert_eq!(offset.here(i64::MAX), None);
        offset.note(at(1), 1_000_000, at(1));
        assert_eq!(offset.server(Instant::NEVER), Some(i64::MAX));
        assert_eq!(offset.here(i64::MAX), Some(Instant::NEVER));
        assert_eq!(offset.here(i64::MIN), Some(at(0)));
        // While another server is asked, the former one's time goes on.
        offset.forget();
        assert_eq!(offset.server(at(1)), Some(1_000_000));
        offset.note(at(9), 5, at(9));
        assert_eq!(offset.server(at(9)), Some(5));
    }
}
