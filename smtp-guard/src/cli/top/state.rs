//! The view's state between two drawings, and what keys do to it. Pure: time is passed in.
//!
//! # Bounds
//! Two snapshots, each as large as the guard's answer may be, and [`HISTORY`] rates.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::model::{Pair, Sort};
use crate::clock::{Instant, WallTime};
use crate::observe::live::Live;
use crate::observe::log::printable;

/// Rates that are remembered: as many as a wide terminal has columns.
const HISTORY: usize = 512;
/// Characters that [`printable`] takes at once, whatever they are.
const CHUNK: usize = 25;
/// Younger data needs no remark.
const FRESH: Duration = Duration::from_secs(3);

/// Whether the view goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Quit,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) interval: Duration,
    pub(super) sort: Sort,
    pub(super) paused: bool,
    /// Why the last question has no answer.
    pub(super) error: Option<String>,
    before: Option<Live>,
    now: Option<(Live, Instant)>,
    /// Packets a second that the kernel dropped, or what user space refused where there is no kernel plane; the last one
    /// in front.
    history: VecDeque<u64>,
}

impl State {
    /// Nothing is known yet; the guard is asked every `interval`.
    pub(super) fn new(interval: Duration) -> Self {
        let history = VecDeque::with_capacity(HISTORY);
        Self { interval, sort: Sort::default(), paused: false, error: None, before: None, now: None, history }
    }

    /// The guard answered at `now`, or didn't.
    pub(super) fn answer(&mut self, answer: Result<Live, String>, now: Instant) {
        let live = match answer {
            Ok(live) => live,
            Err(error) => {
                self.error = Some(safe(&error));
                return;
            }
        };
        self.error = None;
        if self.paused {
            return;
        }
        self.before = self.now.take().map(|(live, _)| live);
        self.now = Some((live, now));
        let moves = self.pair().and_then(|pair| if self.has_kernel() { pair.packets("drop") } else { pair.refusals() });
        if let Some(rate) = moves {
            self.history.truncate(HISTORY - 1);
            self.history.push_front(rate.round() as u64);
        }
    }

    /// Acts on `key`.
    pub(super) fn key(&mut self, key: KeyEvent) -> Flow {
        if key.kind == KeyEventKind::Release {
            return Flow::Go;
        }
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Flow::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Flow::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            _ => {}
        }
        Flow::Go
    }

    /// The last snapshot, with the one before it.
    pub(super) fn pair(&self) -> Option<Pair<'_>> {
        self.now.as_ref().map(|(live, _)| Pair::new(self.before.as_ref(), live))
    }

    /// How old the last snapshot is at `now`.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.now.as_ref().map_or(Duration::ZERO, |(_, received)| now.since(*received))
    }

    /// Whether that has to be said.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.error.is_some() || self.paused || self.age(now) > FRESH.max(self.interval * 2)
    }

    /// Wall time at `now`, by the guard's clock.
    pub(super) fn wall(&self, now: Instant) -> WallTime {
        let at = self.now.as_ref().map_or(0, |(live, _)| live.at.as_ms());
        WallTime::from_ms(at.saturating_add(i64::try_from(self.age(now).as_millis()).unwrap_or(i64::MAX)))
    }

    pub(super) fn has_kernel(&self) -> bool {
        self.now.as_ref().is_some_and(|(live, _)| live.status.kernel.present)
    }

    /// See the field; the last one first.
    pub(super) fn history(&self) -> impl Iterator<Item = u64> + '_ {
        self.history.iter().copied()
    }
}

/// All of `text`, safe to show.
fn safe(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(CHUNK).map(|chunk| printable(String::from_iter(chunk).as_bytes())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::live;
    use super::*;
    use proptest::prelude::*;

    const START: Instant = Instant::from_ns(1_000_000_000_000);

    fn at(seconds: u64) -> Instant {
        START.after(Duration::from_secs(seconds))
    }

    fn state() -> State {
        State::new(Duration::from_secs(1))
    }

    /// What `key` makes of a fresh state.
    #[track_caller]
    fn check(code: KeyCode, modifiers: KeyModifiers, flow: Flow, paused: bool, sort: Sort) {
        let mut state = state();
        assert_eq!(state.key(KeyEvent::new(code, modifiers)), flow, "{code:?}");
        assert_eq!((state.paused, state.sort), (paused, sort), "{code:?}");
        let released = KeyEvent { kind: KeyEventKind::Release, ..KeyEvent::new(code, modifiers) };
        assert_eq!(state.key(released), Flow::Go, "{code:?}");
        assert_eq!((state.paused, state.sort), (paused, sort), "released {code:?}");
    }

    #[test]
    fn keys_do_what_stands_below() {
        const NONE: KeyModifiers = KeyModifiers::NONE;
        check(KeyCode::Char('q'), NONE, Flow::Quit, false, Sort::Rate);
        check(KeyCode::Esc, NONE, Flow::Quit, false, Sort::Rate);
        check(KeyCode::Char('c'), KeyModifiers::CONTROL, Flow::Quit, false, Sort::Rate);
        check(KeyCode::Char('c'), NONE, Flow::Go, false, Sort::Rate);
        check(KeyCode::Char('p'), NONE, Flow::Go, true, Sort::Rate);
        check(KeyCode::Char(' '), NONE, Flow::Go, true, Sort::Rate);
        check(KeyCode::Char('s'), NONE, Flow::Go, false, Sort::Total);
        check(KeyCode::Enter, NONE, Flow::Go, false, Sort::Rate);
    }

    #[test]
    fn a_guard_that_is_away_leaves_what_was_known_and_says_so() {
        let mut state = state();
        state.answer(Err(String::from("no guard answers\x1b[2J")), at(0));
        assert_eq!(state.error.as_deref(), Some("no guard answers\\x1b[2J"));
        assert!(state.pair().is_none() && state.is_old(at(0)));
        state.answer(Ok(live(1000)), at(1));
        assert!(state.error.is_none() && !state.is_old(at(2)) && state.is_old(at(5)));
        state.answer(Err(String::from("away")), at(6));
        assert!(state.is_old(at(6)));
        assert_eq!(
            (state.pair().unwrap().now.uptime_seconds.0.as_millis(), state.age(at(9))),
            (1000, Duration::from_secs(8))
        );
        assert_eq!(state.wall(at(9)).as_ms(), live(1000).at.as_ms() + 8000);
    }

    #[test]
    fn what_is_paused_stands_still() {
        let mut state = state();
        state.answer(Ok(live(1000)), at(1));
        state.key(KeyEvent::new(KeyCode::Char('p'), KeyModifiers::NONE));
        state.answer(Ok(live(2000)), at(2));
        assert_eq!((state.pair().unwrap().now.uptime_seconds.0.as_millis(), state.is_old(at(2))), (1000, true));
        state.key(KeyEvent::new(KeyCode::Char('p'), KeyModifiers::NONE));
        state.answer(Ok(live(3000)), at(3));
        assert_eq!((state.pair().unwrap().now.uptime_seconds.0.as_millis(), state.is_old(at(3))), (3000, false));
    }

    #[test]
    fn history_is_bounded() {
        let mut state = state();
        for second in 0..2 * HISTORY as u64 {
            state.answer(Ok(live(second * 1000)), at(second));
        }
        assert_eq!(state.history().count(), HISTORY);
    }

    proptest! {
        #[test]
        fn errors_are_safe_to_show(text in any::<String>()) {
            prop_assert!(safe(&text).chars().all(|c| !c.is_control()));
        }
    }
}
