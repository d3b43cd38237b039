//! Shapes of a log line other than JSON.
//!
//! Text: `2026-11-25T00:36:15.123Z smtp-guard[4711]: message name=value ...`, as a syslog file has it; a level above info
//! stands before the message. Kerio: security lines as Kerio Connect writes them, `[25/Nov/2026 00:36:15] message`, with
//! nothing behind the message; all others as text. Lines for the journal begin with their priority, and of text only the message and
//! what follows it is left: `<4>warning: message name=value`.

use std::fmt;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::journal::priority;
use super::log::SECURITY;

/// Writes lines of text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines {
    pub(super) kerio: bool,
    /// The journal has time and process of each line itself.
    pub(super) journal: bool,
}

/// Writes lines of another format, with their priority for the journal.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prioritised<F> {
    pub(super) format: F,
    pub(super) journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for Prioritised<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if self.journal {
            out.write_str(priority(*event.metadata().level()))?;
        }
        self.format.format_event(context, out, event)
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut seen = Seen::default();
        event.record(&mut seen);
        let now = Timestamp::now();
        let metadata = event.metadata();
        if self.kerio && metadata.target() == SECURITY {
            let local = now.to_zoned(jiff::tz::TimeZone::system());
            return writeln!(out, "[{}] {}", local.strftime("%d/%b/%Y %H:%M:%S"), seen.message);
        }
        let level = match *metadata.level() {
            Level::ERROR => "error: ",
            Level::WARN => "warning: ",
            Level::INFO => "",
            Level::DEBUG => "debug: ",
            Level::TRACE => "trace: ",
        };
        if self.journal {
            return writeln!(out, "{level}{}{}", seen.message, seen.fields);
        }
        let (stamp, pid) = (now.strftime("%Y-%m-%dT%H:%M:%S.%3fZ"), std::process::id());
        writeln!(out, "{stamp} smtp-guard[{pid}]: {level}{}{}", seen.message, seen.fields)
    }
}

/// The message, and the other fields as ` name=value`.
#[derive(Default)]
struct Seen {
    message: String,
    fields: String,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        // Infallible: a String takes everything.
        _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        use fmt::Write as _;
        // Words as they are, everything else in quotes: a value can't pass for two.
        let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'=');
        _ = match field.name() {
            "message" => write!(self.message, "{value}"),
            name if plain => write!(self.fields, " {name}={value}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
