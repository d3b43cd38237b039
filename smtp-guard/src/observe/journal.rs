//! The systemd journal: whether standard error is a stream of it, and how a line says there how grave it is.
//!
//! A line begins with its priority in brackets (sd-daemon(3)), which the journal takes off. The journal's own socket would
//! carry fields as well. But a datagram to it waits for the journal, and the writer of the line is a session. So lines of all
//! formats go the one way they go without a journal: through a bounded queue to a thread.

use std::ffi::OsStr;

use tracing::Level;

/// Whether standard error is the stream that systemd has connected to the journal.
pub(crate) fn is_standard_error() -> bool {
    let Ok(status) = rustix::fs::fstat(rustix::stdio::stderr()) else { return false };
    is_stream(std::env::var_os("JOURNAL_STREAM").as_deref(), status.st_dev, status.st_ino)
}

/// Whether `stream`, the variable `JOURNAL_STREAM`, names this file (systemd.exec(5)): a service's variables are inherited by what has
/// its output somewhere else.
fn is_stream(stream: Option<&OsStr>, device: u64, inode: u64) -> bool {
    let Some((named, file)) = stream.and_then(OsStr::to_str).and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    named.parse() == Ok(device) && file.parse() == Ok(inode)
}

/// The priority of a line, as syslog counts it.
pub(crate) const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        _ => "<7>",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_known_by_its_device_and_inode() {
        for (stream, expected) in [
            (Some("8:1234"), true),
            (Some("8:1235"), false),
            (Some("9:1234"), false),
            (Some("8"), false),
            (Some("8:"), false),
            (Some("8:1234:1"), false),
            (Some(" 8:1234"), false),
            (Some(""), false),
            (None, false),
        ] {
            assert_eq!(is_stream(stream.map(OsStr::new), 8, 1234), expected, "{stream:?}");
        }
    }
}
