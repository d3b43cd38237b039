//! The tables below: sources of dropped packets, the worst ones or open sessions, the latest bans, and on a tall screen the latest events.

use ratatui::Frame;
use ratatui::layout::{Constraint, Rect};
use ratatui::style::Style;
use ratatui::widgets::{Cell, Row, Table};

use super::model::{BanRow, EventRow, SessionRow, SourceRow, SuspectRow};
use super::numbers::{compact, rate};
use super::panels::{fit, right};
use super::theme::Theme;
use crate::observe::live::Live;

/// Columns of a source: the longest IPv6 prefix.
const SOURCE: u16 = 24;
/// Columns of the label of a ban's reason.
const REASON: u16 = 13;
/// Columns of a length of time.
const AGO: u16 = 8;
/// Columns from which all of a table is shown.
const WIDE: u16 = 80;
/// ... and from which there is room for what is good to know.
const WIDER: u16 = 100;

/// A column: heading, width, from which width of the table on it is shown, and whether it is a number.
type Column = (&'static str, Constraint, u16, bool);

/// Draws the sources of drops; the row of `selected` stands out, and in sight.
pub(super) fn sources(
    frame: &mut Frame<'_>,
    area: Rect,
    rows: &[SourceRow],
    selected: Option<&str>,
    live: &Live,
    theme: Theme,
) {
    let selected = selected.and_then(|selected| rows.iter().position(|row| row.source == selected));
    let columns: [Column; 7] = [
        ("DROPPED SOURCES", Constraint::Length(SOURCE), 0, false),
        ("REASON", Constraint::Fill(1), 0, false),
        ("PORT", Constraint::Length(5), WIDE, true),
        ("SAMPLES", Constraint::Length(8), WIDER, true),
        ("PACKETS", Constraint::Length(8), WIDE, true),
        ("/S", Constraint::Length(6), 0, true),
        ("FOR", Constraint::Length(7), 0, true),
    ];
    let none = if live.status.kernel.present {
        "no samples of dropped packets in the last minute"
    } else {
        "no kernel plane: user space refuses, nothing is dropped"
    };
    let cells = |row: &SourceRow| {
        [
            Cell::from(row.source.clone()).style(theme.source()),
            Cell::from(if area.width >= WIDER { row.words.clone() } else { row.reason.clone() }),
            right(&row.port.to_string()).style(theme.faint()),
            right(&compact(row.samples)).style(theme.faint()),
            right(&compact(row.packets)),
            right(&rate(Some(row.per_second))).style(theme.strong()),
            right(&row.lasts),
        ]
    };
    table(frame, area, columns, rows.iter().map(cells), selected, none, theme);
}

/// Draws the sources that offended lately, with their score, likewise.
pub(super) fn suspects(frame: &mut Frame<'_>, area: Rect, rows: &[SuspectRow], selected: Option<&str>, theme: Theme) {
    let selected = selected.and_then(|selected| rows.iter().position(|row| row.source == selected));
    let columns: [Column; 6] = [
        ("WORST SOURCES", Constraint::Length(SOURCE), 0, false),
        ("OFFENCES", Constraint::Fill(1), 0, false),
        ("LOGINS", Constraint::Length(6), 0, true),
        ("ACCEPTED", Constraint::Length(8), WIDE, true),
        ("UNKNOWN", Constraint::Length(7), 0, true),
        ("SHARE", Constraint::Length(5), 0, true),
    ];
    let cells = |row: &SuspectRow| {
        [
            Cell::from(row.source.clone()).style(theme.source()),
            Cell::from(row.offences.clone()).style(theme.faint()),
            right(&compact(row.logins.into())),
            right(&compact(row.accepted.into())).style(theme.faint()),
            right(&compact(row.unknown.into())).style(theme.strong()),
            right(&row.share),
        ]
    };
    table(frame, area, columns, rows.iter().map(cells), selected, "nobody has offended lately", theme);
}

/// Draws open sessions, likewise.
pub(super) fn sessions(frame: &mut Frame<'_>, area: Rect, rows: &[SessionRow], selected: Option<&str>, theme: Theme) {
    let selected = selected.and_then(|selected| rows.iter().position(|row| row.source == selected));
    let columns: [Column; 6] = [
        ("OPEN SESSIONS", Constraint::Length(SOURCE), 0, false),
        ("CLIENT", Constraint::Fill(1), 0, false),
        ("TLS", Constraint::Length(3), WIDE, false),
        ("DOES", Constraint::Length(9), 0, false),
        ("ACCEPTED", Constraint::Length(8), WIDE, true),
        ("FOR", Constraint::Length(7), 0, true),
    ];
    let cells = |row: &SessionRow| {
        [
            Cell::from(row.source.clone()).style(theme.source()),
            Cell::from(row.who.clone()).style(theme.faint()),
            Cell::from(if row.tls { "yes" } else { "no" }).style(theme.faint()),
            Cell::from(row.doing.clone()),
            right(&compact(row.accepted.into())),
            right(&row.lasts).style(theme.strong()),
        ]
    };
    table(frame, area, columns, rows.iter().map(cells), selected, "nobody is connected", theme);
}

/// Draws the latest bans, likewise.
pub(super) fn bans(
    frame: &mut Frame<'_>,
    area: Rect,
    rows: &[BanRow],
    selected: Option<&str>,
    live: &Live,
    theme: Theme,
) {
    let selected = selected.and_then(|selected| rows.iter().position(|row| row.source == selected));
    // What takes the room that is left over.
    let reason = if area.width >= WIDE { Constraint::Length(REASON) } else { Constraint::Fill(1) };
    let columns: [Column; 6] = [
        ("LATEST BANS", Constraint::Length(SOURCE), 0, false),
        ("REASON", reason, 0, false),
        ("BY", Constraint::Length(8), WIDER, false),
        ("TEXT", Constraint::Fill(1), WIDE, false),
        ("MADE AGO", Constraint::Length(8), 0, true),
        ("LEFT", Constraint::Length(7), 0, true),
    ];
    let none = if live.status.bans_active == 0 { "nobody is banned" } else { "none of late" };
    let by = if area.width >= WIDER { 9 } else { 0 };
    let text = usize::from(area.width.saturating_sub(SOURCE + REASON + by + 8 + 7 + 4));
    let cells = |row: &BanRow| {
        [
            Cell::from(row.source.clone()).style(theme.source()),
            Cell::from(row.reason.clone()),
            Cell::from(row.by.clone()).style(theme.faint()),
            Cell::from(fit(&row.text, text)).style(theme.faint()),
            right(&row.made).style(theme.faint()),
            right(&row.left).style(theme.strong()),
        ]
    };
    table(frame, area, columns, rows.iter().map(cells), selected, none, theme);
}

pub(super) fn events(frame: &mut Frame<'_>, area: Rect, rows: &[EventRow], theme: Theme) {
    let columns: [Column; 2] =
        [("LATEST EVENTS", Constraint::Fill(1), 0, false), ("AGO", Constraint::Length(AGO), 0, true)];
    let width = usize::from(area.width.saturating_sub(AGO + 1));
    let cells = |row: &EventRow| [Cell::from(fit(&row.words, width)), right(&row.ago).style(theme.faint())];
    table(frame, area, columns, rows.iter().map(cells), None, "nothing yet", theme);
}

/// A heading and as many `rows` as there is room for; without one, `none`.
fn table<const N: usize>(
    frame: &mut Frame<'_>,
    area: Rect,
    columns: [Column; N],
    rows: impl Iterator<Item = [Cell<'static>; N]>,
    selected: Option<usize>,
    none: &'static str,
    theme: Theme,
) {
    let shown = columns.map(|(_, _, from, _)| area.width >= from);
    let kept = |cells: [Cell<'static>; N]| -> Vec<Cell<'static>> {
        cells.into_iter().zip(shown).filter_map(|(cell, shown)| shown.then_some(cell)).collect()
    };
    let header = columns.map(|(name, _, _, is_number)| if is_number { right(name) } else { Cell::from(name) });
    let header = Row::new(kept(header)).style(theme.bar());
    let widths: Vec<_> =
        columns.iter().zip(shown).filter_map(|((_, width, ..), shown)| shown.then_some(*width)).collect();
    let room = usize::from(area.height.saturating_sub(1));
    // The selected one is the last in sight, or further up.
    let skipped = selected.map_or(0, |at| (at + 1).saturating_sub(room));
    let style = |at| if Some(at) == selected { theme.selected() } else { Style::new() };
    let rows: Vec<_> = rows
        .enumerate()
        .skip(skipped)
        .take(usize::from(area.height))
        .map(|(at, cells)| Row::new(kept(cells)).style(style(at)))
        .collect();
    if rows.is_empty() {
        // It may be longer than the first column.
        frame.render_widget(Table::new([] as [Row<'_>; 0], widths).header(header).column_spacing(1), area);
        let below = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
        return frame.render_widget(ratatui::text::Line::styled(none, theme.faint()), below);
    }
    frame.render_widget(Table::new(rows, widths).header(header).column_spacing(1), area);
}
