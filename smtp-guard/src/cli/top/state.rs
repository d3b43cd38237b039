//! The view's state between two drawings, and what keys do to it. Pure: time is passed in.
//!
//! # Bounds
//! Two snapshots, each as large as the guard's answer may be, and [`HISTORY`] rates. One order is under way at a time.

use std::collections::VecDeque;
use std::time::Duration;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::deeds::{Deed, Done};
use super::model::{Pair, Sort, View, bans, sessions, sources, suspects};
use crate::cli::args;
use crate::clock::{Instant, WallTime};
use crate::observe::live::Live;
use crate::observe::log::printable;

/// Rates that are remembered: as many as a wide terminal has columns.
const HISTORY: usize = 512;
/// Characters that [`printable`] takes at once, whatever they are.
const CHUNK: usize = 25;
/// Younger data needs no remark.
const FRESH: Duration = Duration::from_secs(3);

/// Characters of a length of time that is typed.
const TYPED: usize = 12;
/// The length of a ban that is offered.
const OFFERED: &str = "4h";

/// Whether the view goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    /// This is to be asked of the guard.
    Do(Deed),
    Quit,
}

/// A table that rows can be selected in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Sources,
    Bans,
}

/// The use of keys now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Rows,
    Help,
    /// About a source, from this line on.
    Explained {
        source: String,
        lines: Vec<String>,
        top: usize,
    },
    /// The length is being typed.
    Ban {
        source: String,
        length: String,
    },
    /// It is to be confirmed.
    Lift {
        source: String,
    },
}

/// A line that says what came of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) text: String,
    pub(super) failed: bool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) interval: Duration,
    pub(super) sort: Sort,
    pub(super) paused: bool,
    pub(super) view: View,
    pub(super) mode: Mode,
    /// Until the next key.
    pub(super) note: Option<Note>,
    /// An order is under way.
    pub(super) busy: bool,
    selected: Option<(Table, String)>,
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
        Self {
            interval,
            sort: Sort::default(),
            paused: false,
            view: View::default(),
            mode: Mode::Rows,
            note: None,
            busy: false,
            selected: None,
            error: None,
            before: None,
            now: None,
            history,
        }
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
        if key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL) {
            return Flow::Quit;
        }
        self.note = None;
        match std::mem::take(&mut self.mode) {
            Mode::Rows => self.key_among_rows(key.code),
            // Any key closes it.
            Mode::Help => Flow::Go,
            Mode::Explained { source, lines, top } => {
                let last = lines.len().saturating_sub(1);
                let top = match key.code {
                    KeyCode::Down | KeyCode::Char('j') => (top + 1).min(last),
                    KeyCode::Up | KeyCode::Char('k') => top.saturating_sub(1),
                    KeyCode::Char('b') => return self.offer_ban(source),
                    KeyCode::Char('l') => return self.offer_lift(source),
                    _ => return Flow::Go,
                };
                self.mode = Mode::Explained { source, lines, top };
                Flow::Go
            }
            Mode::Ban { source, length } => self.key_while_typing(key.code, source, length),
            Mode::Lift { source } => match key.code {
                KeyCode::Char('y') => self.order(Deed::Lift(source)),
                _ => Flow::Go,
            },
        }
    }

    fn key_among_rows(&mut self, code: KeyCode) -> Flow {
        match code {
            KeyCode::Esc if self.selected.is_some() => self.selected = None,
            KeyCode::Char('q') | KeyCode::Esc => return Flow::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('w') => (self.view, self.selected) = (self.view.next(), None),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Char('e' | 'b' | 'l') | KeyCode::Enter => {
                let Some((_, source)) = self.selected.clone() else {
                    self.note =
                        Some(Note { text: "select a row first, by j and k or the arrows".to_owned(), failed: true });
                    return Flow::Go;
                };
                return match code {
                    KeyCode::Char('b') => self.offer_ban(source),
                    KeyCode::Char('l') => self.offer_lift(source),
                    _ => self.order(Deed::Explain(source)),
                };
            }
            _ => {}
        }
        Flow::Go
    }

    fn key_while_typing(&mut self, code: KeyCode, source: String, mut length: String) -> Flow {
        match code {
            KeyCode::Enter => match args::duration(&length) {
                Ok(time) => return self.order(Deed::Ban(source, time)),
                Err(why) => self.note = Some(Note { text: safe(&why), failed: true }),
            },
            KeyCode::Esc => return Flow::Go,
            KeyCode::Backspace => _ = length.pop(),
            KeyCode::Char(c) if c.is_ascii_alphanumeric() && length.len() < TYPED => length.push(c),
            _ => {}
        }
        self.mode = Mode::Ban { source, length };
        Flow::Go
    }

    fn offer_ban(&mut self, source: String) -> Flow {
        self.mode = Mode::Ban { source, length: OFFERED.to_owned() };
        Flow::Go
    }

    fn offer_lift(&mut self, source: String) -> Flow {
        self.mode = Mode::Lift { source };
        Flow::Go
    }

    fn order(&mut self, deed: Deed) -> Flow {
        if self.busy {
            self.note = Some(Note { text: "the guard has not answered the last one yet".to_owned(), failed: true });
            return Flow::Go;
        }
        self.busy = true;
        Flow::Do(deed)
    }

    /// An order was carried out, or not.
    pub(super) fn done(&mut self, done: Result<Done, String>) {
        self.busy = false;
        match done {
            Ok(Done::Explained(source, lines)) => {
                let lines = lines.iter().map(|line| safe(line)).collect();
                // What is being typed goes on.
                if matches!(self.mode, Mode::Rows | Mode::Explained { .. }) {
                    self.mode = Mode::Explained { source: safe(&source), lines, top: 0 };
                }
            }
            Ok(Done::Did(text)) => self.note = Some(Note { text: safe(&text), failed: false }),
            Err(text) => self.note = Some(Note { text: safe(&text), failed: true }),
        }
    }

    /// All rows that can be selected, in the order of the screen.
    fn rows(&self) -> Vec<(Table, String)> {
        let Some(pair) = self.pair() else { return Vec::new() };
        let sources: Vec<_> = match self.view {
            View::Dropped => sources(pair.now, self.sort).into_iter().map(|row| row.source).collect(),
            View::Worst => suspects(pair.now).into_iter().map(|row| row.source).collect(),
            View::Sessions => sessions(pair.now).into_iter().map(|row| row.source).collect(),
        };
        let sources = sources.into_iter().map(|source| (Table::Sources, source));
        let bans = bans(pair.now, pair.now.at).into_iter().map(|row| (Table::Bans, row.source));
        let mut rows: Vec<_> = sources.chain(bans).collect();
        // A source that is dropped for two reasons, or has two sessions, is selected as one.
        let mut seen = std::collections::HashSet::new();
        rows.retain(|row| seen.insert((row.0 == Table::Bans, row.1.clone())));
        rows
    }

    /// Selects the row so many below the selected one; the first or the last where there is none.
    fn select(&mut self, by: isize) {
        let rows = self.rows();
        let at = rows.iter().position(|row| Some(row) == self.selected.as_ref());
        let next = match at {
            Some(at) => at.saturating_add_signed(by).min(rows.len().saturating_sub(1)),
            None if by < 0 => rows.len().saturating_sub(1),
            None => 0,
        };
        self.selected = rows.get(next).cloned();
    }

    /// The source that is selected in `table`.
    pub(super) fn selected(&self, table: Table) -> Option<&str> {
        self.selected.as_ref().filter(|(of, _)| *of == table).map(|(_, source)| source.as_str())
    }

    /// Whether a row is selected at all.
    pub(super) fn has_selected(&self) -> bool {
        self.selected.is_some()
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

    /// What `keys` come to, after an answer with two sources of drops and two bans: each is typed, and `>` is an arrow down.
    #[track_caller]
    fn check_keys(keys: &str, flow: Flow, look: impl Fn(&State) -> bool) {
        let mut state = state();
        state.answer(Ok(live(1000)), at(1));
        let mut last = Flow::Go;
        for key in keys.chars() {
            let code = match key {
                '>' => KeyCode::Down,
                '<' => KeyCode::Up,
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                other => KeyCode::Char(other),
            };
            last = state.key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        assert_eq!(last, flow, "{keys:?}: {state:?}");
        assert!(look(&state), "{keys:?}: {state:?}");
    }

    #[test]
    fn rows_are_selected_in_the_order_of_the_screen() {
        let is = |table, source: Option<&'static str>| move |state: &State| state.selected(table) == source;
        check_keys("", Flow::Go, |state| !state.has_selected());
        check_keys(">", Flow::Go, is(Table::Sources, Some("203.0.113.7")));
        check_keys("jj", Flow::Go, is(Table::Sources, Some("2001:db8:1:2::/64")));
        check_keys("jjj", Flow::Go, is(Table::Bans, Some("203.0.113.7")));
        check_keys("jjj", Flow::Go, is(Table::Sources, None));
        check_keys("jjjjjjjjk", Flow::Go, is(Table::Bans, Some("203.0.113.7")));
        check_keys("<", Flow::Go, is(Table::Bans, Some("2001:db8:1:2::/64")));
        check_keys("jkkk", Flow::Go, is(Table::Sources, Some("203.0.113.7")));
        check_keys("js", Flow::Go, is(Table::Sources, Some("203.0.113.7")));
        check_keys("wj", Flow::Go, is(Table::Sources, Some("198.51.100.9")));
        check_keys("wjjj", Flow::Go, is(Table::Bans, Some("203.0.113.7")));
        check_keys("wwj", Flow::Go, is(Table::Sources, Some("198.51.100.9")));
        check_keys("wwjj", Flow::Go, is(Table::Sources, Some("192.0.2.44")));
        check_keys("wwjjj", Flow::Go, is(Table::Bans, Some("203.0.113.7")));
        check_keys("wwwj", Flow::Go, is(Table::Sources, Some("203.0.113.7")));
        check_keys("jww", Flow::Go, |state| !state.has_selected());
        check_keys("j\x1b", Flow::Go, |state| !state.has_selected());
        check_keys("j\x1b\x1b", Flow::Quit, |_| true);
    }

    #[test]
    fn what_changes_something_is_confirmed() {
        let source = || String::from("203.0.113.7");
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let rows = |state: &State| state.mode == Mode::Rows;
        check_keys("je", Flow::Do(Deed::Explain(source())), rows);
        check_keys("j\n", Flow::Do(Deed::Explain(source())), rows);
        for keys in ["e", "b", "l"] {
            check_keys(keys, Flow::Go, |state| rows(state) && state.note.as_ref().is_some_and(|note| note.failed));
        }
        check_keys("jb\n", Flow::Do(Deed::Ban(source(), hours(4))), rows);
        check_keys("jb\x08\x08\x08\x0812h\n", Flow::Do(Deed::Ban(source(), hours(12))), rows);
        check_keys("jb\x1b", Flow::Go, rows);
        check_keys("jb\x1b\n", Flow::Do(Deed::Explain(source())), rows);
        let typing = |state: &State| matches!(state.mode, Mode::Ban { .. }) && state.note.is_some();
        check_keys("jb\x08\n", Flow::Go, typing);
        check_keys("jbq\n", Flow::Go, typing);
        let bounded = |state: &State| matches!(&state.mode, Mode::Ban { length, .. } if length.len() == TYPED);
        check_keys("jb1111111111111111111111", Flow::Go, bounded);
        check_keys("jl", Flow::Go, |state| state.mode == Mode::Lift { source: source() });
        check_keys("jly", Flow::Do(Deed::Lift(source())), rows);
        for keys in ["jln", "jl\n", "jl\x1b", "jlq"] {
            check_keys(keys, Flow::Go, rows);
        }
        check_keys("jeje", Flow::Go, |state| {
            state.note.as_ref().is_some_and(|note| note.text.contains("not answered"))
        });
        check_keys("?", Flow::Go, |state| state.mode == Mode::Help);
        check_keys("?q", Flow::Go, rows);
    }

    #[test]
    fn what_came_of_it_is_shown_and_safe() {
        let mut state = state();
        let key = |state: &mut State, c| state.key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::NONE));
        state.busy = true;
        state.done(Err(String::from("exempt\x1b[2J")));
        assert_eq!(state.note, Some(Note { text: String::from("exempt\\x1b[2J"), failed: true }));
        assert!(!state.busy);
        key(&mut state, 'x');
        assert_eq!(state.note, None, "until the next key");
        let lines = || vec![String::from("one\x1b[2J"), String::from("two")];
        state.done(Ok(Done::Explained(String::from("192.0.2.1"), lines())));
        let Mode::Explained { lines: shown, top: 0, .. } = &state.mode else { panic!("{state:?}") };
        assert_eq!(*shown, ["one\\x1b[2J", "two"]);
        for (c, expected) in [('j', 1), ('j', 1), ('k', 0), ('k', 0)] {
            key(&mut state, c);
            assert!(matches!(state.mode, Mode::Explained { top, .. } if top == expected), "{state:?}");
        }
        assert_eq!(key(&mut state, 'q'), Flow::Go, "it closes the pane only");
        assert_eq!(state.mode, Mode::Rows);
        // An answer that comes late takes away nothing that was begun.
        let typing = Mode::Ban { source: String::new(), length: String::new() };
        state.mode = typing.clone();
        state.done(Ok(Done::Explained(String::new(), lines())));
        assert_eq!(state.mode, typing);
        state.done(Ok(Done::Did(String::from("192.0.2.1 is no longer blocked"))));
        assert!(state.note.is_some_and(|note| !note.failed));
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
