//! Colours, of the sixteen that every terminal has; with NO_COLOR only bold, dim and reversed.

use std::ffi::OsStr;

use ratatui::style::{Color, Modifier, Style};

use super::model::Tone;

#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    colour: bool,
}

impl Theme {
    /// By the value of NO_COLOR: any that isn't empty turns colours off (no-color.org).
    pub(super) fn new(no_color: Option<&OsStr>) -> Self {
        Self { colour: no_color.is_none_or(OsStr::is_empty) }
    }

    fn paint(self, foreground: Color) -> Style {
        if self.colour { Style::new().fg(foreground) } else { Style::new() }
    }

    pub(super) fn tone(self, tone: Tone) -> Style {
        match tone {
            Tone::Good => self.paint(Color::Green),
            Tone::Bad => self.paint(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Doubt => self.paint(Color::Yellow),
            Tone::Plain => Style::new(),
        }
    }

    /// The heading of a table.
    pub(super) fn bar(self) -> Style {
        if self.colour {
            Style::new().fg(Color::Black).bg(Color::Cyan)
        } else {
            Style::new().add_modifier(Modifier::REVERSED)
        }
    }

    /// The style of an alarm: nobody can overlook it.
    pub(super) fn alarm(self) -> Style {
        if self.colour {
            Style::new().fg(Color::White).bg(Color::Red).add_modifier(Modifier::BOLD)
        } else {
            Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
        }
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn faint(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// The row that keys act on.
    pub(super) fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// A source.
    pub(super) fn source(self) -> Style {
        self.paint(Color::Cyan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_color_means_none() {
        for (value, colours) in [(None, true), (Some(""), true), (Some("1"), false), (Some("0"), false)] {
            let theme = Theme::new(value.map(OsStr::new));
            let tones = [Tone::Good, Tone::Bad, Tone::Doubt].map(|tone| theme.tone(tone));
            for style in [theme.bar(), theme.alarm(), theme.source()].into_iter().chain(tones) {
                assert_eq!(style.fg.is_some(), colours, "{value:?}");
            }
            assert!(theme.bar() != Style::new() && theme.alarm() != theme.bar(), "headings stand out either way");
        }
    }
}
