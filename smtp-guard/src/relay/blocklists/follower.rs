//! One block list and its file: when it is looked at, when it is read, and what is kept of it.

use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::blocklist::{self, Fault, List, ListError, MAX_TOTAL, Named, Protected, Read, State};
use crate::clock::Instant;
use crate::config::Blocklist;
use crate::observe::metrics::Metrics;
use crate::stamp::{self, Stamp};

/// How long a changed file must look the same, unless `reload` is shorter.
const REST: Duration = Duration::from_secs(5);
/// One list.
#[derive(Debug)]
pub(super) struct Follower {
    name: String,
    file: PathBuf,
    reload: Duration,
    /// In force.
    pub(super) list: Option<Arc<List>>,
    read: Option<Read>,
    /// Why it could not be read when that was last tried.
    error: Option<String>,
    /// The file as it was when it was read, or when it turned out that it can't be used. `None`: there was no file.
    settled: Option<Stamp>,
    /// As it was at the last look.
    last: Option<Stamp>,
    /// Whether anything was tried yet.
    begun: bool,
    pub(super) due: Instant,
}

impl Follower {
    pub(super) fn new(list: Blocklist) -> Self {
        let Blocklist { name, file, reload } = list;
        Self {
            name,
            file,
            reload,
            list: None,
            read: None,
            error: None,
            settled: None,
            last: None,
            begun: false,
            due: Instant::from_ns(0),
        }
    }

    /// Whether it follows `list`'s file under its name.
    pub(super) fn is_of(&self, list: &Blocklist) -> bool {
        self.name == list.name && self.file == list.file
    }

    /// The same, looking every `reload`.
    pub(super) fn every(self, reload: Duration) -> Self {
        let due = if reload < self.reload { Instant::from_ns(0) } else { self.due };
        Self { reload, due, ..self }
    }

    /// Reads the file at the next look, as it is found, if it isn't what was read.
    pub(super) fn hurry(&mut self) {
        if self.error.is_some() || stamp::of(&self.file) != self.settled {
            self.begin_again();
        }
    }

    /// Reads the file at the next look, as it is found.
    pub(super) fn begin_again(&mut self) {
        (self.begun, self.due) = (false, Instant::from_ns(0));
    }

    /// Looks at the file, if it is time to. At the start it is read as it is found.
    pub(super) fn is_to_be_read(&mut self, now: Instant) -> bool {
        if now < self.due {
            return false;
        }
        let stamp = stamp::of(&self.file);
        let at_rest = mem::replace(&mut self.last, stamp) == stamp;
        if !mem::replace(&mut self.begun, true) {
            return true;
        }
        // What failed may have failed for another reason than the file's content.
        let is_news = stamp != self.settled || self.error.is_some();
        self.due = now.after(if is_news && !at_rest { REST.min(self.reload) } else { self.reload });
        is_news && at_rest
    }

    /// Reads the file; `true`: there is another list now.
    pub(super) fn read(&mut self, protected: &Protected, others: usize, metrics: &Metrics, now: Instant) -> bool {
        self.due = now.after(self.reload);
        let loaded = blocklist::load(&self.file, protected).and_then(|(list, stamp)| {
            if list.len() + others > MAX_TOTAL {
                return Err(ListError::Content { path: self.file.clone(), fault: Fault::TooManyTogether });
            }
            Ok((list, stamp))
        });
        metrics.blocklist_reloaded(&self.name, loaded.is_ok());
        match loaded {
            Ok((list, stamp)) => {
                (self.settled, self.last) = (Some(stamp), Some(stamp));
                self.take(list);
                true
            }
            Err(error) => {
                self.refuse(&error, metrics, now);
                false
            }
        }
    }

    fn take(&mut self, list: List) {
        let name = &self.name;
        let read = Read::of(&list, crate::clock::wall());
        for refusal in &list.refusals {
            let (line, entry, reason) = (refusal.line, &refusal.entry, &refusal.why);
            tracing::warn!(
                list = name,
                line,
                entry,
                reason,
                "block list {name}: line {line}: {entry} is refused: {reason}"
            );
        }
        let Read { format, entries, refused, skipped, .. } = &read;
        tracing::info!(list = name, format, entries, refused, skipped, "block list {name} read: {read}");
        (self.list, self.read, self.error) = (Some(Arc::new(list)), Some(read), None);
    }

    fn refuse(&mut self, error: &ListError, metrics: &Metrics, now: Instant) {
        if let Some(bound) = error.bound() {
            metrics.bound_reached(bound);
        }
        if error.is_passing() {
            self.due = now.after(REST.min(self.reload));
        }
        self.settled = self.last;
        let text = error.to_string();
        // Said once, and again when something else is wrong with it.
        if self.error.as_ref() != Some(&text) {
            let what = if self.list.is_some() {
                "its last version stays in force"
            } else {
                "no version of it was read before"
            };
            tracing::error!(list = self.name, error = text, "block list {} can't be read, {what}", self.name);
        }
        self.error = Some(text);
    }

    pub(super) fn named(&self) -> Option<Named> {
        let list = Arc::clone(self.list.as_ref()?);
        Some(Named { name: self.name.clone(), file: self.file.clone(), list })
    }

    pub(super) fn state(&self) -> State {
        State { name: self.name.clone(), file: self.file.clone(), read: self.read.clone(), error: self.error.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;

    const RELOAD: Duration = Duration::from_secs(3600);

    struct World {
        _folder: tempfile::TempDir,
        follower: Follower,
        metrics: Metrics,
        now: Instant,
    }

    impl World {
        fn new(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("drop");
            fs::write(&file, text).unwrap();
            let follower = Follower::new(Blocklist { name: "drop".to_owned(), file, reload: RELOAD });
            Self { _folder: folder, follower, metrics: Metrics::new(), now: Instant::from_ns(7) }
        }

        /// The next look, when it is due: whether the file was read, and how long after the last look that was.
        fn look(&mut self) -> (bool, Duration) {
            let waited = self.follower.due.since(self.now);
            self.now = self.now.max(self.follower.due);
            let protected = Protected::new(&Config::builtin(), &[]);
            let is_read = self.follower.is_to_be_read(self.now);
            if is_read {
                self.follower.read(&protected, 0, &self.metrics, self.now);
            }
            assert!(self.follower.due > self.now, "there is time until the next look");
            (is_read, waited)
        }

        fn entries(&self) -> Option<usize> {
            self.follower.list.as_ref().map(|list| list.len())
        }
    }

    /// A list of one entry becomes `text` (`None`: its file goes), and is looked at until it was read: the entries then, and
    /// whether there is something to complain about.
    fn check(text: Option<&str>, entries: usize, complaint: bool) {
        let mut world = World::new("198.51.100.7\n");
        assert_eq!((world.look(), world.entries()), ((true, Duration::ZERO), Some(1)), "read as it is found");
        assert_eq!(world.look(), (false, RELOAD), "it hasn't changed");
        match text {
            Some(text) => fs::write(&world.follower.file, text).unwrap(),
            None => fs::remove_file(&world.follower.file).unwrap(),
        }
        assert_eq!(world.look(), (false, RELOAD), "{text:?}: not before it is at rest");
        assert_eq!(world.look(), (true, REST), "{text:?}");
        assert_eq!((world.entries(), world.follower.error.is_some()), (Some(entries), complaint), "{text:?}");
        assert_eq!(world.look(), (complaint, RELOAD), "{text:?}: what failed is tried again");
    }

    #[test]
    fn a_changed_file_is_read_whole_or_not_at_all() {
        check(Some("198.51.100.8\n198.51.100.9\n"), 2, false);
        check(Some("# Spamhaus EDROP\n#\n"), 0, false);
        check(Some("; Spamhaus EDROP 2026/11/28\n\n; Expires: never\n"), 0, false);
        check(Some("<html>"), 1, true);
        check(Some("\n\n"), 1, true);
        check(Some("# an error page\n<html>"), 1, true);
        check(Some(""), 1, true);
        check(Some("{\"cidr\":\"198.51.100.8/32\"}\n"), 1, true);
        check(None, 1, true);
    }

    #[test]
    fn a_file_that_is_not_there_at_the_start_is_taken_up_later() {
        let mut world = World::new("");
        fs::remove_file(&world.follower.file).unwrap();
        assert_eq!((world.look().0, world.entries()), (true, None));
        assert!(world.follower.state().to_string().starts_with("not in force: cannot read the block list"));
        fs::write(&world.follower.file, "198.51.100.7").unwrap();
        assert_eq!([world.look(), world.look()], [(false, RELOAD), (true, REST)]);
        assert_eq!((world.entries(), world.follower.error.as_deref()), (Some(1), None));
        assert_eq!(world.follower.state().to_string(), "netset, 1 entry");
    }

    #[test]
    fn all_lists_together_are_bounded() {
        let mut world = World::new("198.51.100.7");
        assert!(world.follower.is_to_be_read(world.now));
        let protected = Protected::new(&Config::builtin(), &[]);
        assert!(!world.follower.read(&protected, MAX_TOTAL, &world.metrics, world.now));
        assert!(
            world
                .metrics
                .encode(crate::observe::metrics::Format::Open)
                .contains("bound_reached_total{bound=\"blocklist_entries\"} 1")
        );
    }
}
