//! The whole screen: what stands where, at each size.
//!
//! ```text
//! version, uptime, sessions, bans                         time, or how old this is
//! backend
//! kernel plane
//! the fleet, where there is one           (from 20 rows on)
//! drops a second, drawn over time          (from 20 rows on; where the guard is away: why)
//! kernel packets | refusals | messages
//! sources of drops, those with the worst score, or open sessions
//! latest bans
//! latest events                            (from 30 rows on)
//! keys, a question, or what came of an order
//! ```
//! Rows move only when the terminal changes its size. Below 60 columns or 15 rows nothing of it is of use.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Clear, Paragraph, Sparkline, SparklineBar, Wrap};

use super::model::{Pair, Tone, View, bans, events, sessions, sources, suspects};
use super::numbers::{compact, rate};
use super::state::{Mode, State, Table};
use super::theme::Theme;
use super::{panels, tables};
use crate::cli::time;
use crate::clock::{Instant, WallTime};
use crate::fleet::FleetStatus;
use crate::observe::log::printable;

/// Columns and rows below which there is only a message.
const SMALLEST: (u16, u16) = (60, 15);
/// Rows from which drops are drawn over time.
const TALL: u16 = 20;
/// ... and from which the latest events are shown, so many.
const TALLER: u16 = 30;
const EVENTS: u16 = 5;
/// Columns from which the time has its zone.
const WIDE: u16 = 80;

/// Draws `state` as it is at `now`.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, now: Instant, theme: Theme) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let (columns, rows) = SMALLEST;
        let text = format!(
            "`top` needs {columns}x{rows};\nthis terminal has {}x{}.\nEnlarge it, or press q and use `smtp-guard status`.",
            area.width, area.height
        );
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        // Nothing is confirmed unseen.
        let last = Rect { y: area.bottom().saturating_sub(1), height: area.height.min(1), ..area };
        if asked(state).is_some() {
            footer(frame, last, state, theme);
        }
        return;
    }
    let Some(pair) = state.pair() else {
        return waiting(frame, area, state, theme);
    };
    let fleet = pair.now.status.fleet.as_ref();
    let [head, backend, kernel, others, traffic, counts, dropped, banned, happened, keys] = rows(area, fleet.is_some());
    header(frame, head, state, &pair, now, theme);
    frame.render_widget(backend_line(&pair, theme), backend);
    // Where there is no row for it, what is wrong takes the kernel plane's.
    match &state.error {
        Some(error) if traffic.height == 0 => alarm(frame, kernel, error, theme),
        error => {
            frame.render_widget(kernel_line(&pair, theme), kernel);
            match error {
                Some(error) => alarm(frame, traffic, error, theme),
                None => over_time(frame, traffic, state, &pair, theme),
            }
        }
    }
    if let Some(fleet) = fleet.filter(|_| others.height > 0) {
        frame.render_widget(fleet_line(fleet, pair.now.at, theme), others);
    }
    panels::draw(frame, counts, &pair, theme);
    let selected = state.selected(Table::Sources);
    match state.view {
        View::Dropped => tables::sources(frame, dropped, &sources(pair.now, state.sort), selected, pair.now, theme),
        View::Worst => tables::suspects(frame, dropped, &suspects(pair.now), selected, theme),
        View::Sessions => tables::sessions(frame, dropped, &sessions(pair.now), selected, theme),
    }
    tables::bans(frame, banned, &bans(pair.now, state.wall(now)), state.selected(Table::Bans), pair.now, theme);
    if happened.height > 0 {
        tables::events(frame, happened, &events(pair.now, state.wall(now)), theme);
    }
    let pane = Rect { y: counts.y, height: keys.y.saturating_sub(counts.y), ..area };
    match &state.mode {
        Mode::Help => page(frame, pane, "KEYS", HELP.map(str::to_owned).iter(), theme),
        Mode::Explained { source, lines, top } => page(frame, pane, source, lines.iter().skip(*top), theme),
        Mode::Rows | Mode::Ban { .. } | Mode::Lift { .. } => {}
    }
    footer(frame, keys, state, theme);
}

/// Lines that the smallest screen holds.
const HELP: [&str; 10] = [
    "w            dropped sources, worst by score, open sessions",
    "j k, arrows  select a source",
    "e, Enter     explain it: why, until when, what is counted",
    "b            ban it; asks how long: 30s, 10m, 4h, 7d",
    "l            lift the ban on it; asks first",
    "p, space     pause, and go on",
    "s            sort dropped sources by rate, total, newest",
    "Esc, q       go back; without a selection, quit",
    "Orders are logged with your uid. Exempt addresses and the",
    "guard's own are refused, as by `smtp-guard decisions`.",
];

/// A page over the tables, with as many `lines` as there is room for.
fn page<'a>(frame: &mut Frame<'_>, area: Rect, title: &str, lines: impl Iterator<Item = &'a String>, theme: Theme) {
    frame.render_widget(Clear, area);
    let [bar, below] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(title.to_owned()).style(theme.bar()), bar);
    let text: Vec<_> = lines.take(usize::from(below.height)).map(|line| Line::from(line.clone())).collect();
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), below);
}

/// The areas from top to bottom. What isn't shown has no height.
fn rows(area: Rect, has_fleet: bool) -> [Rect; 10] {
    let traffic = u16::from(area.height >= TALL);
    let fleet = u16::from(has_fleet && area.height >= TALL);
    let happened = if area.height >= TALLER { 1 + EVENTS } else { 0 };
    // Three lines of header, three headings, the keys.
    let free = area.height.saturating_sub(7 + fleet + traffic + happened);
    let counts = (free * 2 / 5).clamp(4, 14);
    let banned = (free - counts) / 2;
    let heights = [1, 1, 1, fleet, traffic, 1 + counts, 1 + free - counts - banned, 1 + banned, happened, 1];
    Layout::vertical(heights.map(Constraint::Length)).areas(area)
}

/// No snapshot yet.
fn waiting(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    let [_, middle, keys] =
        Layout::vertical([Constraint::Percentage(40), Constraint::Fill(1), Constraint::Length(1)]).areas(area);
    let text = match &state.error {
        None => Text::from("Asking the guard ..."),
        Some(error) => Text::from(vec![
            Line::styled(error.clone(), theme.tone(Tone::Bad)),
            Line::from(""),
            Line::from(format!("It is asked again every {}.", seconds(state.interval))),
        ]),
    };
    frame.render_widget(Paragraph::new(text).centered().wrap(Wrap { trim: true }), middle);
    footer(frame, keys, state, theme);
}

fn header(frame: &mut Frame<'_>, area: Rect, state: &State, pair: &Pair<'_>, now: Instant, theme: Theme) {
    let right = if state.is_old(now) {
        let age = time::length(state.age(now).as_secs());
        Span::styled(format!(" {}{age} old ", if state.paused { "PAUSED, " } else { "" }), theme.alarm())
    } else {
        // `2026-08-01 12:30:05 UTC` without the date, or only its clock.
        let at = time::utc(pair.now.at);
        let clock = at.get(11..if area.width < WIDE { 19 } else { at.len() }).unwrap_or_default();
        Span::styled(clock.to_owned(), theme.faint())
    };
    let width = u16::try_from(right.width()).unwrap_or(area.width);
    let [left, corner] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).spacing(1).areas(area);
    let status = &pair.now.status;
    let version = format!("smtp-guard {}", printable(status.version.as_bytes()));
    let mut line = Line::from(Span::styled(version, theme.strong()));
    let held = match status.held_users.count {
        0 => String::new(),
        count => format!("  {} held", counted(count, "user")),
    };
    for text in [
        format!("  up {}", time::length(status.uptime_seconds)),
        format!("  {}", counted(status.connections, "session")),
        match status.networks_active {
            0 => format!("  {}", counted(status.bans_active, "ban")),
            networks => format!("  {} ({})", counted(status.bans_active, "ban"), counted(networks, "network")),
        },
        held,
    ] {
        // Whole or not at all.
        if line.width() + text.len() <= usize::from(left.width) {
            line.push_span(text);
        }
    }
    frame.render_widget(line, left);
    frame.render_widget(right, corner);
}

fn backend_line(pair: &Pair<'_>, theme: Theme) -> Line<'static> {
    let mut spans = vec![Span::styled("backend       ", theme.faint())];
    for (index, server) in pair.now.status.backend.iter().enumerate() {
        let (word, tone) = if server.answers { ("up", Tone::Good) } else { ("down", Tone::Bad) };
        let comma = if index > 0 { ", " } else { "" };
        spans.push(Span::from(format!("{comma}{} ", printable(server.address.as_bytes()))));
        spans.push(Span::styled(word, theme.tone(tone)));
    }
    Line::from(spans)
}

fn kernel_line(pair: &Pair<'_>, theme: Theme) -> Line<'static> {
    let kernel = &pair.now.status.kernel;
    let (word, tone) = if kernel.present { ("enforcing", Tone::Good) } else { ("absent", Tone::Doubt) };
    let lost = match pair.now.drops.lost {
        0 => String::new(),
        lost => format!(" ({} samples lost)", compact(lost)),
    };
    Line::from(vec![
        Span::styled("kernel plane  ", theme.faint()),
        Span::styled(word, theme.tone(tone)),
        Span::styled(lost, theme.tone(Tone::Doubt)),
        Span::from(format!(" {}", printable(kernel.text.as_bytes()))),
    ])
}

fn fleet_line(fleet: &FleetStatus, now: WallTime, theme: Theme) -> Line<'static> {
    let (word, tone) = if fleet.connected { ("connected", Tone::Good) } else { ("not connected", Tone::Bad) };
    let seconds = now.as_ms().saturating_sub(fleet.since.as_ms()).max(0).unsigned_abs() / 1000;
    let mut doubts = Vec::new();
    for (count, what) in [(fleet.muted() as u64, "muted"), (fleet.kept, "waiting"), (fleet.lost, "lost")] {
        if count > 0 {
            doubts.push(format!(", {} {what}", compact(count)));
        }
    }
    let (live, all) = (fleet.live(), fleet.nodes.len());
    let live_tone = if live < all { Tone::Doubt } else { Tone::Plain };
    let trouble = fleet.trouble.iter().map(|why| format!(" {}", printable(why.as_bytes())));
    Line::from(vec![
        Span::styled("fleet         ", theme.faint()),
        Span::styled(word, theme.tone(tone)),
        Span::from(format!(" {}, ", time::length(seconds))),
        Span::styled(format!("{live} of {}", counted(all as u64, "edge")), theme.tone(live_tone)),
        Span::styled(doubts.concat(), theme.tone(Tone::Doubt)),
        Span::from(trouble.collect::<String>()),
    ])
}

/// Packets that are dropped, with the last minutes drawn beside them; refusals where there is no kernel plane.
fn over_time(frame: &mut Frame<'_>, area: Rect, state: &State, pair: &Pair<'_>, theme: Theme) {
    let (name, now, right) = match state.has_kernel() {
        true => ("dropped", pair.packets("drop"), format!("passed {}/s", rate(pair.packets("pass")))),
        false => ("refused", pair.refusals(), String::new()),
    };
    let left = format!("{name:12}  {:>5}/s", rate(now));
    let width = |text: &str| Constraint::Length(u16::try_from(text.len()).unwrap_or(0));
    let [label, line, passed] =
        Layout::horizontal([width(&left), Constraint::Fill(1), width(&right)]).spacing(1).areas(area);
    let moves = now.is_some_and(|rate| rate > 0.0);
    let style = if moves { theme.tone(Tone::Bad) } else { theme.faint() };
    frame.render_widget(Span::styled(left, style), label);
    // The last one at the right end.
    let mut data: Vec<_> = state.history().take(usize::from(line.width)).map(SparklineBar::from).collect();
    data.reverse();
    let missing = usize::from(line.width) - data.len();
    let data = std::iter::repeat_n(SparklineBar::from(0), missing).chain(data);
    frame.render_widget(Sparkline::default().data(data).style(theme.tone(Tone::Bad)), line);
    frame.render_widget(Span::styled(right, theme.faint()), passed);
}

fn alarm(frame: &mut Frame<'_>, area: Rect, error: &str, theme: Theme) {
    frame.render_widget(Paragraph::new(error.to_owned()).style(theme.alarm()), area);
}

/// What is asked for before something is done.
fn asked(state: &State) -> Option<String> {
    match &state.mode {
        Mode::Ban { source, length } => Some(format!("Ban {source} for {length}_  Enter: yes, Esc: no")),
        Mode::Lift { source } => Some(format!("Lift the ban on {source}?  y: yes, Esc: no")),
        Mode::Rows | Mode::Help | Mode::Explained { .. } => None,
    }
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State, theme: Theme) {
    // What is wrong with the answer stands before the question.
    if let Some(note) = &state.note {
        let style = theme.tone(if note.failed { Tone::Bad } else { Tone::Good });
        return frame.render_widget(Line::styled(note.text.clone(), style), area);
    }
    if let Some(asked) = asked(state) {
        return frame.render_widget(Line::styled(asked, theme.alarm()), area);
    }
    if state.busy {
        return frame.render_widget(Line::styled("asking the guard ...", theme.faint()), area);
    }
    let mut spans = Vec::new();
    let pause = if state.paused { "go on" } else { "pause" };
    let own = |words: [(&'static str, &str); 5]| words.map(|(key, action)| (key, action.to_owned())).to_vec();
    let keys = match &state.mode {
        Mode::Explained { .. } => own([("j", "down"), ("k", "up"), ("b", "ban"), ("l", "lift"), ("q", "back")]),
        _ if state.has_selected() => own([("q", "quit"), ("e", "explain"), ("b", "ban"), ("l", "lift"), ("?", "help")]),
        _ => vec![
            ("q", "quit".to_owned()),
            ("p", pause.to_owned()),
            ("s", sorted(state)),
            ("w", state.view.next().label().to_owned()),
            ("?", "help".to_owned()),
        ],
    };
    for (key, action) in keys {
        spans.extend([Span::styled(format!(" {key} "), theme.bar()), Span::from(format!(" {action}  "))]);
    }
    let line = Line::from(spans);
    let right = format!("every {}", seconds(state.interval));
    // Whole or not at all.
    let width = if line.width() + right.len() < usize::from(area.width) { right.len() } else { 0 };
    let width = u16::try_from(width).unwrap_or(area.width);
    let [left, corner] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).areas(area);
    frame.render_widget(line, left);
    frame.render_widget(Span::styled(right, theme.faint()), corner);
}

fn sorted(state: &State) -> String {
    format!("by {}", state.sort.label())
}

fn counted(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn seconds(interval: std::time::Duration) -> String {
    format!("{} s", interval.as_secs_f64())
}

#[cfg(test)]
mod tests;
