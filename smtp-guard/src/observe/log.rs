//! The log on standard error, and the security line that operators and their tools look for.
//!
//! Text from the network goes through [`printable`] before it enters a log. So no terminal sequence and no forged line gets
//! through, whatever the format. Text lines are not coloured, for the same reason.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;
use tracing::Dispatch;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use super::format::{Lines, Prioritised};
use super::journal;
pub(crate) use super::words::one_word;
use super::words::{self, Refused};
use crate::addr::ClientAddr;
use crate::config::units::show_duration;
use crate::config::{Log, LogFormat};
use crate::decision::{Ban, Operator};
use crate::gate::Grounds;
pub use crate::printable::{PRINTABLE_BYTES, printable, printable_whole};

/// The target of security lines, to be filtered by: `warn,security=info`.
pub const SECURITY: &str = "security";

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.level {level:?} is not a log filter: {source}; write \"info\", or \"warn,smtp_guard=debug\"")]
    Level { level: String, source: tracing_subscriber::filter::ParseError },
    #[error("a log is set up already")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    #[error("the log can't be changed: {0}")]
    Reload(#[from] reload::Error),
}

/// Lines that wait to be written. Where standard error is a pipe that nobody reads, those beyond it are lost and counted: a
/// session never waits for the log.
pub const QUEUE: usize = 16_384;

/// After a write, how long lines are gathered for the next one. A thread that waited for each line would have to be woken for it.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes of one write.
const WRITE: usize = 16 * 1024;

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
    /// The control that changes the log while it is written.
    pub fn control(&self) -> LogControl {
        self.control.clone()
    }

    /// The counter of lines that are lost from now on.
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
    let (dispatch, control) = subscriber(log, writer, journal::is_standard_error())?;
    dispatch.try_init()?;
    Ok(Logging { _writer: guard, lost, control })
}

fn queued(to: impl io::Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    let to = Gathered(io::BufWriter::with_capacity(WRITE, to));
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name("log").finish(to)
}

/// Writes lines together that come one behind the other, each of them whole. One that comes alone is written at once.
struct Gathered<W: io::Write>(io::BufWriter<W>);

impl<W: io::Write> io::Write for Gathered<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    /// Called when no line waits.
    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        std::thread::sleep(GATHER);
        flushed
    }
}

/// `journal`: lines carry their priority.
fn subscriber<W>(log: &Log, writer: W, journal: bool) -> Result<(Dispatch, LogControl), LogError>
where
    W: for<'a> MakeWriter<'a> + Clone + Send + Sync + 'static,
{
    let layer = move |format| layer(format, writer.clone(), journal);
    let (level, filter) = reload::Layer::new(filter(&log.level)?);
    let (lines, format) = reload::Layer::new(layer(log.format));
    let dispatch = Dispatch::new(tracing_subscriber::registry().with(level).with(lines));
    Ok((dispatch, LogControl { filter, format, layer: Arc::new(layer) }))
}

/// What writes lines of `format`.
fn layer<W>(format: LogFormat, writer: W, journal: bool) -> Format
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    match format {
        LogFormat::Json => {
            layer.json().flatten_event(true).map_event_format(|format| Prioritised { format, journal }).boxed()
        }
        LogFormat::Text | LogFormat::Kerio => {
            let format = Lines { kerio: format == LogFormat::Kerio, journal };
            layer.event_format(Prioritised { format, journal }).boxed()
        }
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

/// The security line of a client that was turned away or whose session the guard ended: `connection from 192.0.2.1 rejected: too
/// many connections`.
///
/// `under_way`: it was let in before. In the `kerio` format the line is as Kerio Connect writes it, `SMTP connection from 192.0.2.1
/// rejected: too many connections`.
pub fn rejected(format: LogFormat, session: &str, client: ClientAddr, reason: Reason, under_way: bool) {
    let (ip, port, label, why) = (client.ip(), client.port(), reason.label(), reason.text());
    if format == LogFormat::Kerio {
        return tracing::info!(target: SECURITY, "{}", rejection(&ip, reason));
    }
    let what = if under_way { "ended" } else { "rejected" };
    tracing::info!(target: SECURITY, session, client = %ip, port, reason = label, "connection from {ip} {what}: {why}");
}

/// A ban that was made, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Banned<'a> {
    pub ban: &'a Ban,
    /// As the client or the operator knows it.
    pub who: &'a str,
    /// As bans are keyed.
    pub source: &'a str,
    pub length: Duration,
    /// From the report to the ban in force.
    pub took: Option<Duration>,
    /// The operator, where it was made by hand.
    pub by: Option<Operator>,
}

/// The security line of a ban: `banned 198.51.100.77 for 1h: directory harvest attack (10 distinct unknown recipients of 10)`, or
/// `operator (uid 0) blocked 192.0.2.0/24 for 4h: spam run`. In the `kerio` format as in [`rejected`].
pub fn banned(format: LogFormat, banned: &Banned<'_>) {
    let Banned { ban, who, source, length, took, by } = *banned;
    if format == LogFormat::Kerio {
        return tracing::warn!(target: SECURITY, "{}", rejection(&who, ban.reason));
    }
    let evidence: Vec<_> = ban.evidence.iter().map(|line| printable(line.as_bytes())).collect();
    let text = printable(ban.text.as_bytes());
    let sentence = match by {
        Some(by) if text.is_empty() => format!("{by} blocked {who} for {}", show_duration(length)),
        Some(by) => format!("{by} blocked {who} for {}: {text}", show_duration(length)),
        None => {
            let grounds = evidence.first().map(|grounds| format!(" ({grounds})")).unwrap_or_default();
            format!("banned {who} for {}: {}{grounds}", show_duration(length), ban.reason.text())
        }
    };
    tracing::warn!(
        target: SECURITY,
        client = who,
        source,
        reason = ban.reason.label(),
        origin = ban.origin.label(),
        uid = by.and_then(|by| by.uid),
        text,
        seconds = length.as_secs(),
        repeat = ban.repeat,
        took_us = took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        evidence = evidence.join("; "),
        "{sentence}"
    );
}

/// The security line of a deferral: `deferred mail from 198.51.100.77 for 10m: directory harvest attack (...)`; in the `kerio`
/// format `SMTP mail from 198.51.100.77 deferred: directory harvest attack`.
pub fn deferred(format: LogFormat, who: &str, grounds: &Grounds) {
    let Grounds { reason, length, repeat, evidence } = grounds;
    if format == LogFormat::Kerio {
        return tracing::warn!(target: SECURITY, "SMTP mail from {who} deferred: {}", reason.text());
    }
    let evidence: Vec<_> = evidence.iter().map(|line| printable(line.as_bytes())).collect();
    let shown = evidence.first().map(|grounds| format!(" ({grounds})")).unwrap_or_default();
    let (seconds, length, why) = (length.as_secs(), show_duration(*length), reason.text());
    let (reason, evidence) = (reason.label(), evidence.join("; "));
    tracing::warn!(
        target: SECURITY, client = who, reason, seconds, repeat, evidence, "deferred mail from {who} for {length}: {why}{shown}"
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

/// Logs that the operator holds a user, for `length` or until the release: `operator (uid 0) held user bob for 1h: why`.
pub fn held_by_operator(by: Operator, user: &str, length: Option<Duration>, text: &str) {
    let (user, text, reason) = (words::one_word(user), printable(text.as_bytes()), Reason::UserHeld.label());
    let seconds = length.map(|length| length.as_secs());
    let end = length.map(|length| format!(" for {}", show_duration(length))).unwrap_or_default();
    let why = if text.is_empty() { String::new() } else { format!(": {text}") };
    tracing::warn!(target: SECURITY, user, reason, uid = by.uid, seconds, text, "{by} held user {user}{end}{why}");
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

/// Kerio's words for a client that is turned away.
fn rejection(client: &dyn std::fmt::Display, reason: Reason) -> String {
    format!("SMTP connection from {client} rejected: {}", reason.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::decision::Origin;

    /// What `tell` logs in each format: whether it is one line that ends in these words, or in `kerio` those.
    #[track_caller]
    fn check(words: &str, kerio: &str, tell: impl Fn(LogFormat)) {
        let text = written(LogFormat::Text, || tell(LogFormat::Text));
        assert!(text.contains(&format!(": {words} ")) && text.lines().count() == 1, "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&written(LogFormat::Json, || tell(LogFormat::Json))).unwrap();
        assert_eq!(json["message"], words, "{json}");
        let line = written(LogFormat::Kerio, || tell(LogFormat::Kerio));
        assert!(
            line.starts_with('[') && line.ends_with(&format!("] {kerio}\n")) && line.lines().count() == 1,
            "{line}"
        );
    }

    fn ban(reason: Reason, origin: Origin, text: &str, evidence: &[&str]) -> Ban {
        Ban {
            key: crate::addr::Source::v4(0xc633_644d).into(),
            reason,
            origin,
            made: WallTime::from_ms(0),
            until: WallTime::from_ms(3_600_000),
            repeat: 0,
            text: text.into(),
            evidence: evidence.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn a_ban_a_refusal_and_an_operators_change_are_three_sentences() {
        let who = "198.51.100.77";
        let hour = Duration::from_secs(3600);
        let by_rule = ban(Reason::Harvest, Origin::Ledger, "", &["10 distinct unknown recipients of 10", "<a\n@x>"]);
        check(
            "banned 198.51.100.77 for 1h: directory harvest attack (10 distinct unknown recipients of 10)",
            "SMTP connection from 198.51.100.77 rejected: directory harvest attack",
            |format| {
                let took = Some(Duration::from_micros(90));
                banned(format, &Banned { ban: &by_rule, who, source: who, length: hour, took, by: None });
            },
        );
        let by_hand = ban(Reason::Operator, Origin::Operator, "spam run", &[]);
        let by = Some(Operator { uid: Some(0), local: false });
        check(
            "operator (uid 0) blocked 192.0.2.0/24 for 4h: spam run",
            "SMTP connection from 192.0.2.0/24 rejected: blocked by the administrator",
            |format| {
                let who = "192.0.2.0/24";
                banned(format, &Banned { ban: &by_hand, who, source: who, length: hour * 4, took: None, by });
            },
        );
        for (under_way, words) in [(false, "rejected"), (true, "ended")] {
            for (addr, ip) in [("[::ffff:192.0.2.1]:1", "192.0.2.1"), ("[2001:db8::1]:25", "2001:db8::1")] {
                let client = ClientAddr::new(addr.parse().unwrap());
                check(
                    &format!("connection from {ip} {words}: directory harvest attack"),
                    &format!("SMTP connection from {ip} rejected: directory harvest attack"),
                    |format| rejected(format, "id-1", client, Reason::Harvest, under_way),
                );
            }
        }
        let evidence = vec!["3 distinct unknown recipients of 5".to_owned()];
        let grounds = Grounds { reason: Reason::Harvest, length: hour / 6, repeat: 0, evidence };
        check(
            "deferred mail from 198.51.100.77 for 10m: directory harvest attack (3 distinct unknown recipients of 5)",
            "SMTP mail from 198.51.100.77 deferred: directory harvest attack",
            |format| deferred(format, who, &grounds),
        );
    }

    /// Reason, evidence, the operator's words and who he is are fields of their own.
    #[test]
    fn what_a_ban_rests_on_is_in_its_fields() {
        let by_hand = ban(Reason::Operator, Origin::Operator, "spam\u{9b} run", &["one\r", "two"]);
        let by = Some(Operator { uid: Some(1000), local: false });
        let line = written(LogFormat::Json, || {
            let length = Duration::from_secs(60);
            banned(LogFormat::Json, &Banned { ban: &by_hand, who: "a", source: "b", length, took: None, by });
        });
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        for (key, value) in [
            ("reason", "operator"),
            ("origin", "operator"),
            ("text", "spam\\x9b run"),
            ("evidence", "one\\x0d; two"),
            ("client", "a"),
            ("source", "b"),
        ] {
            assert_eq!(json[key], value, "{line}");
        }
        assert_eq!((&json["uid"], &json["seconds"]), (&1000.into(), &60.into()), "{line}");
    }

    #[test]
    fn a_level_is_a_filter() {
        for (level, ok) in
            [("info", true), ("warn,smtp_guard=debug", true), ("a=b=c", false), ("smtp_guard=loud", false)]
        {
            assert_eq!(filter(level).is_ok(), ok, "{level}");
        }
    }

    /// What a log of `format` and `level` holds after a ban for a nasty reason.
    fn logged(format: LogFormat, level: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let level = level.to_owned();
        let (dispatch, _) = subscriber(&Log { format, level }, Arc::new(file.reopen().unwrap()), false).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            let ban = ban(Reason::Operator, Origin::Operator, "RCPT TO:<a\u{9b}31m\r\n\x1b[2J>", &[]);
            let (who, by) = ("192.0.2.1", Some(Operator::default()));
            banned(format, &Banned { ban: &ban, who, source: who, length: Duration::from_secs(60), took: None, by });
        });
        std::fs::read_to_string(file.path()).unwrap()
    }

    /// What a log of `format` holds after `log`.
    fn written(format: LogFormat, log: impl FnOnce()) -> String {
        written_for(false, format, log)
    }

    /// Likewise; `journal`: as the journal gets it.
    fn written_for(journal: bool, format: LogFormat, log: impl FnOnce()) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log_to = Log { format, level: "trace".to_owned() };
        let (dispatch, _) = subscriber(&log_to, Arc::new(file.reopen().unwrap()), journal).unwrap();
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
            let line = written(format, || {
                held_by_operator(
                    Operator { uid: Some(0), local: false },
                    "bob",
                    Some(Duration::from_secs(60)),
                    "stolen\npassword",
                );
            });
            assert!(line.contains("operator (uid 0) held user bob for 1m: stolen\\"), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
    }

    /// A pipe that nobody reads, and what tells how many lines are to be written to it.
    struct Stuck(std::sync::mpsc::Receiver<()>, std::sync::mpsc::Sender<u64>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.1.send(bytes.iter().filter(|byte| **byte == b'\n').count() as u64);
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
        let (begun, being_written) = std::sync::mpsc::channel();
        let (writer, guard) = queued(Stuck(stuck, begun));
        let counter = writer.error_counter();
        let (dispatch, control) =
            subscriber(&Log { format: LogFormat::Text, level: "info".to_owned() }, writer, false).unwrap();
        let logging = Logging { lost: counter, _writer: guard, control };
        let mut lost = logging.lost();
        let lines = QUEUE as u64 + 1_000;
        tracing::dispatcher::with_default(&dispatch, || (0..lines).for_each(|n| tracing::info!(n, "line")));
        // Besides those that wait some are being written, and one may have found no room among them.
        let written = being_written.recv().unwrap();
        let lost_lines = lost.take();
        assert!((1_000 - written - 1..=1_000).contains(&lost_lines), "{lost_lines} lost, {written} being written");
        assert_eq!(lost.take(), 0, "told once");
        drop(read);
    }

    #[test]
    fn format_and_level_change_while_it_is_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = |format, level: &str| Log { format, level: level.to_owned() };
        let text = log(LogFormat::Text, "info");
        let (dispatch, control) = subscriber(&text, Arc::new(file.reopen().unwrap()), false).unwrap();
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

    /// What is left of a line when the journal has taken its priority off.
    #[test]
    fn the_journal_hears_how_grave_a_line_is_in_each_format() {
        for format in [LogFormat::Json, LogFormat::Text, LogFormat::Kerio] {
            let written = written_for(true, format, || {
                tracing::error!(n = 1, "one");
                tracing::warn!("two");
                tracing::info!(target: SECURITY, "three");
                tracing::debug!("four");
                tracing::trace!("five");
            });
            let lines: Vec<_> = written.lines().map(|line| line.split_at(3)).collect();
            assert_eq!(
                lines.iter().map(|line| line.0).collect::<Vec<_>>(),
                ["<3>", "<4>", "<6>", "<7>", "<7>"],
                "{written}"
            );
            for (line, word) in lines.iter().map(|line| line.1).zip(["one", "two", "three", "four", "five"]) {
                match format {
                    LogFormat::Json => {
                        let json: serde_json::Value = serde_json::from_str(line).unwrap();
                        assert_eq!(json["message"], word);
                    }
                    LogFormat::Kerio if word == "three" => assert!(line.starts_with('[') && line.ends_with("] three")),
                    LogFormat::Text | LogFormat::Kerio => {
                        let text = ["error: one n=1", "warning: two", "three", "debug: four", "trace: five"];
                        assert!(text.contains(&line), "no time and no process, which the journal has: {line}");
                    }
                }
            }
        }
    }

    #[test]
    fn both_formats_hold_the_line_and_nothing_unescaped() {
        let json = logged(LogFormat::Json, "info");
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        for (key, expected) in [
            ("target", "security"),
            ("level", "WARN"),
            ("message", "operator blocked 192.0.2.1 for 1m: RCPT TO:<a\\x9b31m\\x0d\\x0a\\x1b[2J>"),
            ("client", "192.0.2.1"),
            ("reason", "operator"),
            ("text", "RCPT TO:<a\\x9b31m\\x0d\\x0a\\x1b[2J>"),
        ] {
            assert_eq!(value[key], expected, "{json}");
        }
        let text = logged(LogFormat::Text, "error,security=warn");
        assert!(text.contains("]: warning: operator blocked 192.0.2.1 for 1m: RCPT TO:"), "{text}");
        for log in [json, text] {
            assert_eq!(log.chars().filter(|c| c.is_control()).collect::<String>(), "\n", "{log:?}");
        }
        assert_eq!(logged(LogFormat::Text, "error"), "");
    }
}
