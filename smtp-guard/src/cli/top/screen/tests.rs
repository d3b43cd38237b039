//! Screens as they are seen, drawn into memory.

use std::ffi::OsStr;
use std::time::Duration;

use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;

use super::super::model::tests::live;
use super::*;
use crate::fleet::FleetStatus;
use crate::observe::live::Live;

fn at(seconds: u64) -> Instant {
    Instant::from_ns((1000 + seconds) * 1_000_000_000)
}

/// After twenty answers, the last of them at 19 s.
fn state(change: impl Fn(&mut Live)) -> State {
    let mut state = State::new(Duration::from_secs(1));
    for second in 0..20 {
        let mut live = live(10_000 + second * 1000);
        change(&mut live);
        state.answer(Ok(live), at(second));
    }
    state
}

fn drawn(state: &State, (columns, rows): (u16, u16), no_color: Option<&str>) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(frame, state, at(19), Theme::new(no_color.map(OsStr::new)))).unwrap();
    terminal.backend().buffer().clone()
}

fn text(buffer: &Buffer) -> String {
    let rows = buffer.content().chunks(buffer.area.width.into());
    let line = |row: &[ratatui::buffer::Cell]| row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>();
    rows.map(|row| line(row).trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn check(state: &State, size: (u16, u16), expected: &str) {
    let text = text(&drawn(state, size, None));
    assert!(text.trim_end() == expected.trim_end(), "{text}\n\ninstead of\n\n{expected}");
}

/// Each of `parts` stands on the screen.
#[track_caller]
fn check_parts(state: &State, size: (u16, u16), parts: &[&str]) {
    let text = text(&drawn(state, size, None));
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[test]
fn eighty_by_twenty_four() {
    check(
        &state(|_| {}),
        (80, 24),
        "\
smtp-guard 0.1.0  up 29s  12 sessions  3 bans                       12:30:34 UTC
backend       10.0.0.10:25 up, 10.0.0.11:25 down
kernel plane  enforcing on eth0, pinned in /sys/fs/bpf/smtp-guard
dropped       98.5k/s                           ███████████████████ passed 400/s
KERNEL PACKETS      /S TOTAL REFUSED              /S TOTAL MESSAGES     /S TOTAL
× harvest        98.5k 3.86M unknown_recipient   2.0    68 accepted    3.0  1087
  clean            400  112k relay                 0    30 rejected      0    20
× listed             0 4.00M                               deferred      0     7
                                                           ambiguous     0     0
                                                           sessions    8.0  5232

DROPPED SOURCES          REASON                     PORT  PACKETS     /S     FOR
203.0.113.7              harvest                      25     500k  97.0k  1m 05s
2001:db8:1:2::/64        harvest                      25     900k    500  1h 01m



LATEST BANS              REASON        TEXT                     MADE AGO    LEFT
203.0.113.7              harvest       directory harvest attac…   1m 00s  1h 00m
2001:db8:1:2::/64        harvest       directory harvest attac…   2h 00m  1m 30s



 q  quit   p  pause   s  by rate   w  worst   ?  help                  every 1 s",
    );
}

#[test]
fn the_smallest_with_the_guard_away() {
    let mut state = state(|_| {});
    state.answer(Err(String::from("no guard answers at /run/smtp-guard/admin.sock")), at(19));
    state.key(KeyEvent::new(KeyCode::Char('p'), KeyModifiers::NONE));
    state.key(KeyEvent::new(KeyCode::Char('s'), KeyModifiers::NONE));
    check(
        &state,
        (60, 15),
        "\
smtp-guard 0.1.0  up 29s  12 sessions        PAUSED, 0s old
backend       10.0.0.10:25 up, 10.0.0.11:25 down
no guard answers at /run/smtp-guard/admin.sock
KERNEL PACKETS     /S REFUSED            /S MESSAGES      /S
× harvest       98.5k unknown_recipi…   2.0 accepted     3.0
  clean           400 relay               0 rejected       0
× listed            0                       deferred       0
                                            2 more
DROPPED SOURCES          REASON                   /S     FOR
2001:db8:1:2::/64        harvest                 500  1h 01m
203.0.113.7              harvest               97.0k  1m 05s
LATEST BANS              REASON             MADE AGO    LEFT
203.0.113.7              harvest              1m 00s  1h 00m
2001:db8:1:2::/64        harvest              2h 00m  1m 30s
 q  quit   p  go on   s  by total   w  worst   ?  help",
    );
}

#[test]
fn what_else_can_be_seen() {
    let wide = ["SAMPLES", "directory harvest attack  ", "BY", "ledger", "attack\\x1b[2J"];
    check_parts(&state(|_| {}), (120, 40), &wide);
    check_parts(&state(|_| {}), (80, 30), &["LATEST EVENTS", "backend 10.0.0.11:25?[2J does not answer"]);
    check_parts(&state(|live| live.events.clear()), (80, 30), &["nothing yet"]);
    let without = state(|live| {
        live.status.kernel.present = false;
        live.status.bans_active = 0;
        (live.kernel_packets, live.drops.by_source, live.decisions) = Default::default();
    });
    let parts = ["absent ", "no kernel plane ", "refused         2.0/s", "nothing is dropped", "nobody is banned"];
    check_parts(&without, (80, 24), &parts);
    check_parts(&state(|live| live.status.held_users.count = 2), (100, 24), &["3 bans  2 users held"]);
    check_parts(&state(|live| live.drops.lost = 7), (80, 24), &["(7 samples lost)"]);
    let fleet = |change: fn(&mut FleetStatus)| {
        state(move |live| {
            let mut fleet = crate::observe::fleet::tests::status();
            fleet.since = WallTime::from_ms(live.at.as_ms() - 65_000);
            change(&mut fleet);
            live.status.fleet = Some(fleet);
        })
    };
    let parts = ["\nfleet         connected 1m 05s, 2 of 3 edges, 1 muted, 5 waiting, 3 lost\ndropped "];
    check_parts(&fleet(|_| {}), (80, 20), &parts);
    let away = fleet(|fleet| {
        (fleet.connected, fleet.trouble) = (false, Some("refused\x1b[2J".to_owned()));
        (fleet.kept, fleet.lost) = (0, 0);
        fleet.nodes.truncate(1);
    });
    check_parts(&away, (80, 24), &["\nfleet         not connected 1m 05s, 1 of 1 edge refused\\x1b[2J\n"]);
    let mut none = State::new(Duration::from_millis(500));
    check_parts(&none, (80, 24), &["Asking the guard ...", " q  quit"]);
    none.answer(Err(String::from("no guard answers")), at(19));
    check_parts(&none, (80, 24), &["no guard answers", "asked again every 0.5 s"]);
    for size in [(59, 15), (60, 14), (20, 5)] {
        check_parts(&none, size, &["`top` needs 60x15;"]);
    }
}

/// After these keys, as in the test of the state.
fn after(keys: &str) -> State {
    let mut state = state(|_| {});
    for key in keys.chars() {
        state.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
    }
    state
}

#[test]
fn the_selected_row_and_questions_are_seen_at_each_size() {
    const SIZES: [(u16, u16); 4] = [(60, 15), (80, 24), (100, 30), (200, 60)];
    for size in SIZES {
        for (keys, source) in
            [("j", "203.0.113.7"), ("jj", "2001:db8:1:2::/64"), ("jjj", "203.0.113.7"), ("k", "2001:db8:1:2::/64")]
        {
            for no_color in [None, Some("1")] {
                let buffer = drawn(&after(keys), size, no_color);
                let is_reversed =
                    |cell: &ratatui::buffer::Cell| cell.modifier.contains(ratatui::style::Modifier::REVERSED);
                let rows = buffer.content().chunks(size.0.into());
                // Without colours headings are reversed as well; they begin with other words.
                let marked = rows.filter(|row| row.iter().all(is_reversed));
                let starts = |row: &[ratatui::buffer::Cell]| {
                    row.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().starts_with(source)
                };
                assert_eq!(marked.filter(|row| starts(row)).count(), 1, "{keys} {size:?} {no_color:?}");
            }
        }
        check_parts(&after("j"), size, &[" e  explain   b  ban   l  lift   ?  help"]);
        check_parts(&after("jjb"), size, &["Ban 2001:db8:1:2::/64 for 4h_  Enter: yes, Esc: no"]);
        check_parts(&after("jjl"), size, &["Lift the ban on 2001:db8:1:2::/64?  y: yes, Esc: no"]);
        check_parts(&after("?"), size, &["KEYS", "b            ban it", "refused, as by `smtp-guard decisions`."]);
        check_parts(&after("b"), size, &["select a row first"]);
        check_parts(&after("w"), size, &["WORST SOURCES", "198.51.100.9 ", " early_talker ", "  7   88%"]);
        let parts = ["OPEN SESSIONS", "198.51.100.9 ", " user bob", " command ", " 2h 00m\n", "mx.\\x1b[2J ", " dot "];
        check_parts(&after("ww"), size, &parts);
        check_parts(&after("je"), size, &["asking the guard ..."]);
        let mut explained = after("je");
        let lines = (0..99).map(|n| format!("line {n} of what is known")).collect();
        explained.done(Ok(super::super::deeds::Done::Explained(String::from("203.0.113.7"), lines)));
        check_parts(&explained, size, &["line 0 of", " b  ban   l  lift   q  back"]);
        explained.key(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE));
        check_parts(&explained, size, &["\nline 1 of"]);
        explained.done(Err(String::from("203.0.113.7 is exempt")));
        check_parts(&explained, size, &["203.0.113.7 is exempt"]);
    }
    check_parts(&after("jb"), (50, 10), &["`top` needs 60x15;", "Ban 203.0.113.7 for 4h_"]);
}

#[test]
fn the_selected_row_stays_in_sight() {
    let mut many = state(|live| {
        let one = live.decisions[0].clone();
        live.decisions =
            (0..60).map(|n| crate::decision::Decision { source: format!("203.0.113.{n}"), ..one.clone() }).collect();
    });
    for _ in 0..3 {
        many.key(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE));
    }
    for n in 0..60 {
        check_parts(&many, (80, 24), &[&format!("203.0.113.{n} ")]);
        many.key(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE));
    }
}

#[test]
fn no_color_means_no_colours() {
    let mut away = state(|_| {});
    away.answer(Err(String::from("away")), at(19));
    for (state, no_color, coloured) in [(&away, Some("1"), false), (&away, None, true)] {
        let buffer = drawn(state, (80, 24), no_color);
        let found = buffer.content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        assert_eq!(found, coloured, "{no_color:?}");
    }
}

#[test]
fn any_size_is_drawn() {
    let mut away = state(|_| {});
    away.answer(Err("x".repeat(500)), at(19));
    for state in [&state(|_| {}), &away, &State::new(Duration::from_secs(1)), &after("jb"), &after("?"), &after("je")] {
        for columns in [1, 2, 10, 59, 60, 61, 79, 80, 99, 100, 133, 250] {
            for rows in [1, 2, 5, 14, 15, 16, 19, 20, 23, 24, 50, 80] {
                drawn(state, (columns, rows), None);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the guard says, nothing of it is a control character on the terminal.
    #[test]
    fn nothing_unprintable_is_shown(text in "\\PC{0,10}[\u{0}-\u{9f}\u{202e}\u{2028}]{1,9}") {
        let hostile = state(|live| {
            live.status.version.clone_from(&text);
            live.status.kernel.text.clone_from(&text);
            live.status.backend[0].address.clone_from(&text);
            live.kernel_packets[0].reason.clone_from(&text);
            live.rejections[0].reason.clone_from(&text);
            live.decisions[0].source.clone_from(&text);
            live.decisions[0].text.clone_from(&text);
            live.decisions[0].origin.clone_from(&text);
            live.drops.by_source[0].source.clone_from(&text);
            live.drops.by_source[0].reason.clone_from(&text);
            live.sessions[0].source.clone_from(&text);
            live.sessions[0].user = Some(text.clone());
            live.sessions[1].helo = Some(text.clone());
            live.sessions[1].state.clone_from(&text);
        });
        let mut hostile = hostile;
        for _ in 0..3 {
            let buffer = drawn(&hostile, (120, 40), None);
            let bad = |c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{2028}');
            prop_assert!(!buffer.content().iter().any(|cell| cell.symbol().contains(bad)));
            hostile.key(KeyEvent::new(KeyCode::Char('w'), KeyModifiers::NONE));
        }
    }
}
