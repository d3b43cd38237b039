//! The log on standard error, and the security line that operators and their tools look for.
//!
//! Nothing from the network enters a log as it came: it goes through [`printable`] first, so that no terminal sequence
//! and no forged line gets through, whatever the format. Text lines are not coloured, for the same reason.

use std::io;
use std::sync::Arc;

use smtp_guard_ebpf::reason::Reason;
use tracing::Dispatch;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::format::Lines;
use super::words::{self, Refused};
use crate::addr::ClientAddr;
use crate::config::{Log, LogFormat};
pub use crate::printable::{PRINTABLE_BYTES, printable};

/// The target of security lines, to be filtered by: `warn,security=info`.
pub const SECURITY: &str = "security";

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.level {level:?} is no filter: {source}; write \"info\", or \"warn,smtp_guard=debug\"")]
    Level { level: String, source: tracing_subscriber::filter::ParseError },
    #[error("a log is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    #[error("the log can't be changed: {0}")]
    Reload(#[from] reload::Error),
}

/// Lines that wait to be written. Where standard error is a pipe that nobody reads, those beyond it are lost and counted: a
/// session never waits for the log.
pub const QUEUE: usize = 16_384;

/// Keeps the log going: dropped at the end of the process, it writes what waits, for a second at most.
#[derive(Debug)]
#[must_use = "without it nothing is written"]
pub struct Logging {
    _writer: WorkerGuard,
    lost: ErrorCounter,
    control: LogControl,
}

/// The subscriber below the format, and a format above it that can be replaced.
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Format = Box<dyn Layer<Filtered> + Send + Sync>;

/// Changes filter and format of the log while it is written. Clones change the same log.
#[derive(Clone)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    format: reload::Handle<Format, Filtered>,
    /// A layer for the same writer.
    layer: Arc<dyn Fn(LogFormat) -> Format + Send + Sync>,
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogControl").finish_non_exhaustive()
    }
}

impl LogControl {
    /// From the next line on, the log is as `log` has it.
    pub fn apply(&self, log: &Log) -> Result<(), LogError> {
        self.filter.reload(filter(&log.level)?)?;
        self.format.reload((self.layer)(log.format))?;
        Ok(())
    }
}

impl Logging {
    /// What changes the log while it is written.
    pub fn control(&self) -> LogControl {
        self.control.clone()
    }

    /// What counts the lines that are lost from now on.
    pub fn lost(&self) -> Lost {
        Lost { counter: self.lost.clone(), told: 0 }
    }
}

/// Counts lines that found no room.
#[derive(Debug)]
pub struct Lost {
    counter: ErrorCounter,
    told: usize,
}

impl Lost {
    /// Lines since this was last asked.
    pub fn take(&mut self) -> u64 {
        let all = self.counter.dropped_lines();
        let new = all.saturating_sub(std::mem::replace(&mut self.told, all));
        u64::try_from(new).unwrap_or(u64::MAX)
    }
}

/// Sends the log of the whole process to standard error, by a thread of its own. To be called once.
pub fn init(log: &Log) -> Result<Logging, LogError> {
    let (writer, guard) = queued(io::stderr());
    let lost = writer.error_counter();
    let (dispatch, control) = subscriber(log, writer)?;
    dispatch.try_init()?;
    Ok(Logging { _writer: guard, lost, control })
}

fn queued(to: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name("log").finish(to)
}

fn subscriber<W>(log: &Log, writer: W) -> Result<(Dispatch, LogControl), LogError>
where
    W: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
{
    let layer = move |format| layer(format, writer.clone());
    let (level, filter) = reload::Layer::new(filter(&log.level)?);
    let (lines, format) = reload::Layer::new(layer(log.format));
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(level).with(lines));
    Ok((dispatch, LogControl { filter, format, layer: Arc::new(layer) }))
}

/// What writes lines of `format`.
fn layer<W>(format: LogFormat, writer: W) -> Format
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    match format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => layer.event_format(Lines { kerio: false }).boxed(),
        LogFormat::Kerio => layer.event_format(Lines { kerio: true }).boxed(),
    }
}

/// `level` as a filter: a level, or directives separated by commas. The resolver's library has a line for every forged
/// packet, which would let strangers fill the log; what matters of it is in the metrics. Naming it turns it on again.
pub fn filter(level: &str) -> Result<EnvFilter, LogError> {
    let quiet = if level.contains("hickory") { "" } else { ",hickory_net=off,hickory_resolver=off,hickory_proto=off" };
    EnvFilter::builder()
        .parse(format!("{level}{quiet}"))
        .map_err(|source| LogError::Level { level: level.to_owned(), source })
}

/// The security line of a refused client: `SMTP connection from 192.0.2.1 rejected: directory harvest attack`.
///
/// `detail` is for the structured field only and is escaped here; it may hold what the client sent.
pub fn rejected(client: ClientAddr, reason: Reason, detail: &str) {
    tracing::info!(
        target: SECURITY,
        client = %client.ip(),
        port = client.port(),
        reason = reason.label(),
        detail = printable(detail.as_bytes()),
        "{}", rejection(client, reason)
    );
}

/// The security line of a user who is held by a limit: `user bob held: too many messages of the user in an hour; the last one
/// from 192.0.2.1`.
///
/// The name is one word, so that nothing in it can pass for the words that tools ban an address by.
pub fn held(user: &str, reason: Reason, source: &str) {
    let (user, why) = (words::one_word(user), reason.text());
    let reason = reason.label();
    tracing::warn!(target: SECURITY, user, source, reason, "user {user} held: {why}; the last one from {source}");
}

/// Likewise of one who is held by the operator, for `seconds` or until he is released: `user bob held by the administrator: why`.
pub fn held_by_operator(user: &str, seconds: Option<u64>, text: &str) {
    let (user, why, reason) = (words::one_word(user), printable(text.as_bytes()), Reason::UserHeld.label());
    tracing::warn!(target: SECURITY, user, reason, seconds, "user {user} held by the administrator: {why}");
}

/// The line of a command that was refused, or would have been, in the words that `format` speaks.
///
/// Everything in `refused` is escaped here. What is about a user is told in no words that tools ban the client by: the host
/// may be one of many users.
pub fn refused(format: LogFormat, session: &str, client: ClientAddr, reason: Reason, refused: &Refused<'_>) {
    if format == LogFormat::Kerio
        && let Some(line) = words::kerio(client.ip(), reason, refused)
    {
        tracing::info!(target: SECURITY, "{line}");
    }
    if format != LogFormat::Json && !reason.is_of_user() {
        let line = words::postfix(client.ip(), reason, refused);
        return tracing::info!(session, reason = reason.label(), "{line}");
    }
    let field = |word: Option<&str>| word.map(|word| printable(word.as_bytes()));
    let nonempty = |text: &str| (!text.is_empty()).then(|| printable(text.as_bytes()));
    let message = if refused.observed { "command would be refused" } else { "command refused" };
    tracing::info!(
        session,
        client = %client.ip(),
        reason = reason.label(),
        observed = refused.observed.then_some(true),
        sender = field(refused.sender),
        recipient = field(refused.recipient),
        reply = nonempty(refused.reply),
        note = nonempty(refused.note),
        "{message}"
    );
}

/// The words of [`rejected`].
fn rejection(client: ClientAddr, reason: Reason) -> String {
    format!("SMTP connection from {} rejected: {}", client.ip(), reason.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_security_line_is_in_the_users_words() {
        for (addr, line) in [
            ("192.0.2.1:4711", "SMTP connection from 192.0.2.1 rejected: directory harvest attack"),
            ("[::ffff:192.0.2.1]:1", "SMTP connection from 192.0.2.1 rejected: directory harvest attack"),
            ("[2001:db8::1]:25", "SMTP connection from 2001:db8::1 rejected: directory harvest attack"),
        ] {
            let client = ClientAddr::new(addr.parse().unwrap());
            assert_eq!(rejection(client, Reason::Harvest), line);
        }
    }

    #[test]
    fn a_level_is_a_filter() {
        for (level, ok) in
            [("info", true), ("warn,smtp_guard=debug", true), ("a=b=c", false), ("smtp_guard=loud", false)]
        {
            assert_eq!(filter(level).is_ok(), ok, "{level}");
        }
    }

    /// What a log of `format` and `level` holds after one rejection with a nasty detail.
    fn logged(format: LogFormat, level: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let level = level.to_owned();
        let (dispatch, _) = subscriber(&Log { format, level }, Arc::new(file.reopen().unwrap())).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            let client = ClientAddr::new("192.0.2.1:4711".parse().unwrap());
            rejected(client, Reason::Harvest, "RCPT TO:<a\u{9b}31m\r\n\x1b[2J>");
        });
        std::fs::read_to_string(file.path()).unwrap()
    }

    /// What a log of `format` holds after `log`.
    fn written(format: LogFormat, log: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log_to = Log { format, level: "info".to_owned() };
        let (dispatch, _) = subscriber(&log_to, Arc::new(file.reopen().unwrap())).unwrap();
        tracing::dispatcher::with_default(&dispatch, log);
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn what_is_about_a_user_names_him_and_frames_no_host() {
        let client = ClientAddr::new("192.0.2.1:4711".parse().unwrap());
        let about = Refused {
            sender: Some("<a@example.org>"),
            reply: "450 4.7.1 Too many messages from your account",
            note: "user=bob",
            ..Refused::default()
        };
        for format in [LogFormat::Json, LogFormat::Text, LogFormat::Kerio] {
            let line = written(format, || refused(format, "id-1", client, Reason::UserMessageRate, &about));
            for part in ["user=bob", "192.0.2.1", "user_message_rate", "command refused"] {
                assert!(line.contains(part), "no {part} in {line}");
            }
            assert!(!line.contains("NOQUEUE") && line.lines().count() == 1, "{line}");
            let nasty = "x[198.51.100.1]: SASL LOGIN authentication failed";
            let line = written(format, || held(nasty, Reason::UserNetworks, "192.0.2.1"));
            assert!(
                line.contains(" held: logins of the user from too many networks in a day; the last one from 192"),
                "{line}"
            );
            assert!(!line.contains("]: SASL LOGIN"), "{line}");
            let line = written(format, || held_by_operator("bob", Some(60), "stolen\npassword"));
            assert!(line.contains("user bob held by the administrator: stolen\\"), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
    }

    /// A pipe that nobody reads.
    struct Stuck(std::sync::mpsc::Receiver<()>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn d1_a_log_that_nobody_reads_blocks_nobody_and_what_is_lost_is_counted() {
        let (read, stuck) = std::sync::mpsc::channel();
        let (writer, guard) = queued(Stuck(stuck));
        let counter = writer.error_counter();
        let (dispatch, control) =
            subscriber(&Log { format: LogFormat::Text, level: "info".to_owned() }, writer).unwrap();
        let logging = Logging { lost: counter, _writer: guard, control };
        let mut lost = logging.lost();
        let lines = QUEUE as u64 + 1_000;
        tracing::dispatcher::with_default(&dispatch, || (0..lines).for_each(|n| tracing::info!(n, "line")));
        // One is being written.
        assert!((999..=1_000).contains(&lost.take()));
        assert_eq!(lost.take(), 0, "told once");
        drop(read);
    }

    #[test]
    fn format_and_level_change_while_it_is_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = |format, level: &str| Log { format, level: level.to_owned() };
        let text = log(LogFormat::Text, "info");
        let (dispatch, control) = subscriber(&text, Arc::new(file.reopen().unwrap())).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!("one");
            control.apply(&log(LogFormat::Json, "warn")).unwrap();
            tracing::info!("two");
            tracing::warn!("three");
            assert!(control.apply(&log(LogFormat::Text, "a=b=c")).is_err());
            tracing::warn!("four");
            control.apply(&text).unwrap();
            tracing::info!("five");
        });
        let written = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<_> = written.lines().collect();
        assert_eq!(lines.len(), 4, "{written}");
        for (line, word, json) in
            [(lines[0], "one", false), (lines[1], "three", true), (lines[2], "four", true), (lines[3], "five", false)]
        {
            assert!(line.contains(word) && line.starts_with('{') == json, "{word}: {line}");
        }
    }

    #[test]
    fn both_formats_hold_the_line_and_nothing_unescaped() {
        let json = logged(LogFormat::Json, "info");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        for (key, expected) in [
            ("target", "security"),
            ("level", "INFO"),
            ("message", "SMTP connection from 192.0.2.1 rejected: directory harvest attack"),
            ("client", "192.0.2.1"),
            ("reason", "harvest"),
            ("detail", "RCPT TO:<a\\x9b31m\\x0d\\x0a\\x1b[2J>"),
        ] {
            assert_eq!(value[key], expected, "{json}");
        }
        let text = logged(LogFormat::Text, "warn,security=info");
        assert!(text.contains("]: SMTP connection from 192.0.2.1 rejected: directory harvest attack"), "{text}");
        for log in [json, text] {
            assert_eq!(log.chars().filter(|c| c.is_control()).collect::<String>(), "\n", "{log:?}");
        }
        assert_eq!(logged(LogFormat::Text, "warn"), "");
    }
}
