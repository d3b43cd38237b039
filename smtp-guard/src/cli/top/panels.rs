//! The three counts side by side: what the kernel judged, what user space refused, what became of messages.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table};

use super::model::{Count, Pair, Tone};
use super::numbers::{compact, rate};
use super::theme::Theme;

/// Columns from which totals stand beside rates.
const WIDE: u16 = 80;
/// Columns of a number.
const NUMBER: u16 = 5;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, pair: &Pair<'_>, theme: Theme) {
    let totals = area.width >= WIDE;
    // In the proportion that the longest names need.
    let widths = [28, 29, 21].map(Constraint::Fill);
    let [kernel, refused, messages] = Layout::horizontal(widths).spacing(1).areas(area);
    let absent = if pair.now.status.kernel.present { "no packets yet" } else { "no kernel plane" };
    let panel = |title, counts, none| Panel { title, counts, none, totals, marks: title == KERNEL };
    panel(KERNEL, pair.kernel(), absent).draw(frame, kernel, theme);
    panel("REFUSED", pair.rejections(), "nothing yet").draw(frame, refused, theme);
    panel("MESSAGES", pair.messages(), "").draw(frame, messages, theme);
}

const KERNEL: &str = "KERNEL PACKETS";

struct Panel {
    title: &'static str,
    counts: Vec<Count>,
    /// In place of no counts.
    none: &'static str,
    totals: bool,
    /// Whether bad rows have a mark, so that they show without colours.
    marks: bool,
}

impl Panel {
    fn draw(self, frame: &mut Frame<'_>, area: Rect, theme: Theme) {
        let columns = if self.totals { 3 } else { 2 };
        let widths = [Constraint::Fill(1), Constraint::Length(NUMBER), Constraint::Length(NUMBER)];
        let numbers = NUMBER * (columns - 1) + columns - 1;
        let width = usize::from(area.width.saturating_sub(numbers));
        let header = [Cell::from(self.title), right("/S"), right("TOTAL")];
        let header = Row::new(header.into_iter().take(columns.into())).style(theme.bar());
        let room = usize::from(area.height.saturating_sub(1));
        let mut rows: Vec<Row<'_>> = Vec::new();
        // The last row says how many more there are.
        let shown = if self.counts.len() > room { room.saturating_sub(1) } else { room };
        for count in self.counts.iter().take(shown) {
            rows.push(Row::new(self.cells(count, width, theme).into_iter().take(columns.into())));
        }
        if self.counts.len() > shown {
            rows.push(Row::new([Cell::from(format!("{} more", self.counts.len() - shown))]).style(theme.faint()));
        }
        if self.counts.is_empty() {
            rows.push(Row::new([Cell::from(self.none)]).style(theme.faint()));
        }
        let widths = widths.into_iter().take(columns.into());
        frame.render_widget(Table::new(rows, widths).header(header).column_spacing(1), area);
    }

    fn cells(&self, count: &Count, width: usize, theme: Theme) -> [Cell<'static>; 3] {
        let mark = match (self.marks, count.tone) {
            (false, _) => "",
            (true, Tone::Bad) => "× ",
            (true, _) => "  ",
        };
        let name = fit(&count.name, width.saturating_sub(mark.chars().count()));
        let style = if count.is_active() { theme.tone(count.tone) } else { Style::new() };
        let number = if count.is_active() { theme.strong() } else { theme.faint() };
        [
            Cell::from(Line::from(vec![Span::from(mark), Span::styled(name, style)])),
            right(&rate(count.per_second)).style(number),
            right(&compact(count.total)).style(theme.faint()),
        ]
    }
}

/// `text`, cut with an ellipsis where it has more than `width` characters.
pub(super) fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

pub(super) fn right(text: &str) -> Cell<'static> {
    Cell::from(Line::from(text.to_owned()).right_aligned())
}
