//! Knowledge about recipients beside the rules: the recipient table follows its file, and what the backend said of a
//! recipient is remembered.
//!
//! A change is taken up once the file has looked the same twice. A file that is written in place has half of its lines
//! for a while, and half a table refuses real users. A file that can't be used changes nothing.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Generation, Shared, Stop};
use crate::addr::ClientAddr;
use crate::bound::Bound;
use crate::facts::recipients::{KnownRecipients, RecipientsError};
use crate::observe::metrics::Metrics;
use crate::session::Heard;
use crate::snapshot::Known;
use crate::stamp::{self, Stamp};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Reads the recipient table again whenever its file has changed, until `stop`.
pub(super) async fn watch(shared: Arc<Shared>, generation: Arc<Generation>, mut stop: Stop) {
    let (path, known) = (generation.config().recipients.known.clone(), generation.snapshot.known_table());
    drop(generation);
    let (Some(path), Some(known)) = (path, known) else { return };
    let table = known.load_full();
    let mut follower = Follower { path, settled: table.stamp(), last: table.stamp() };
    drop(table);
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        follower = match tokio::task::spawn_blocking(move || follower.look()).await {
            Ok((follower, None)) => follower,
            Ok((follower, Some(result))) => {
                let trouble = result.as_ref().err().map(|error| Arc::new(error.to_string()));
                let is_read = trouble.is_none();
                settle(&known, &shared.metrics, result);
                shared.recipients_trouble.store(trouble);
                if is_read {
                    shared.recipient_warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
                }
                follower
            }
            // It panicked, or the runtime ends.
            Err(error) => return tracing::error!(%error, "the recipient table is no longer read again"),
        };
    }
}

impl Shared {
    /// Hears the backend's answer about a recipient to the client at `addr`.
    pub(super) fn hear(&self, addr: ClientAddr, heard: &Heard) {
        let mut unknowns = self.unknowns.lock().unwrap_or_else(PoisonError::into_inner);
        if !heard.unknown {
            unknowns.accepted(&heard.recipient);
            return;
        }
        self.contradict(&heard.recipient);
        let source = addr.source(self.prefix);
        if unknowns.refused(&heard.recipient, source, heard.sender, crate::clock::now()) {
            self.metrics.bound_reached(Bound::UnknownRecipients);
        }
    }

    /// Whether the backend is known to refuse `recipient`.
    pub(super) fn is_unknown(&self, recipient: &str) -> bool {
        let unknowns = self.unknowns.lock().unwrap_or_else(PoisonError::into_inner);
        unknowns.is_unknown(recipient, crate::clock::now())
    }
}

/// Puts a table in the place of the old one, if it can be used.
fn settle(known: &Known, metrics: &Metrics, result: Result<KnownRecipients, RecipientsError>) {
    metrics.recipients_reloaded(result.is_ok());
    match result {
        Ok(table) => {
            tracing::info!(entries = table.len(), "recipient table read again");
            known.store(Arc::new(table));
        }
        Err(error) => tracing::warn!(%error, "the changed recipient table can't be used; the old one stays"),
    }
}

/// The state of the file that was seen last.
#[derive(Debug)]
struct Follower {
    path: PathBuf,
    /// As it was when it was read, or when it turned out that it can't be used. `None`: there was no file.
    settled: Option<Stamp>,
    /// As it was at the last look.
    last: Option<Stamp>,
}

impl Follower {
    /// Looks at the file; the table, or why there is none, if it has changed and is at rest. Blocks.
    fn look(mut self) -> (Self, Option<Result<KnownRecipients, RecipientsError>>) {
        let now = stamp::of(&self.path);
        let at_rest = std::mem::replace(&mut self.last, now) == now;
        if !at_rest || now == self.settled {
            return (self, None);
        }
        let result = crate::facts::recipients::load(&self.path);
        // One that changed while it was read is looked at again.
        if !result.as_ref().is_err_and(RecipientsError::is_passing) {
            self.settled = now;
        }
        (self, Some(result))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;
    use crate::policy::Ruling;
    use crate::snapshot::Snapshot;
    use crate::wire::address::ForwardPath;

    struct World {
        _folder: tempfile::TempDir,
        path: PathBuf,
        rules: Snapshot,
        metrics: Metrics,
        follower: Option<Follower>,
    }

    impl World {
        fn new(text: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("recipients");
            fs::write(&path, text).unwrap();
            let table = crate::facts::recipients::load(&path).unwrap();
            let stamp = table.stamp();
            let mut config = Config::builtin();
            config.relay.domains = vec!["example.org".to_owned()];
            let rules = Snapshot::new(Arc::new(config), Some(table));
            let follower = Some(Follower { path: path.clone(), settled: stamp, last: stamp });
            Self { _folder: folder, path, rules, metrics: Metrics::new(), follower }
        }

        /// One look; whether it led to an attempt to read.
        fn look(&mut self) -> bool {
            let (follower, result) = self.follower.take().unwrap().look();
            self.follower = Some(follower);
            let read = result.is_some();
            if let Some(result) = result {
                settle(&self.rules.known_table().unwrap(), &self.metrics, result);
            }
            read
        }

        fn exists(&self, user: &str) -> bool {
            let client = self.rules.client([192, 0, 2, 1].into());
            let (path, _) = ForwardPath::parse(&format!("<{user}@example.org>")).unwrap();
            matches!(self.rules.recipient(&client, &path, 0), Ruling::Permit(_))
        }
    }

    /// From a table that knows `old`: the file is made `text` (or removed), and looked at three times. Who exists then, and
    /// how often it was loaded and failed to.
    fn check(text: Option<&str>, exists: [bool; 2], loaded: u32, failed: u32) {
        let mut world = World::new("old@example.org\n");
        assert!(!world.look(), "it hasn't changed");
        match text {
            Some(text) => fs::write(&world.path, text).unwrap(),
            None => fs::remove_file(&world.path).unwrap(),
        }
        let looks = [world.look(), world.look(), world.look()];
        let read = loaded + failed > 0;
        assert_eq!(looks, [false, read, false], "{text:?}: read once, and not before it is at rest");
        assert_eq!([world.exists("old"), world.exists("new")], exists, "{text:?}");
        let metrics = world.metrics.encode(crate::observe::metrics::Format::Open);
        for (result, times) in [("loaded", loaded), ("failed", failed)] {
            let line = format!("smtp_guard_recipients_reloads_total{{result=\"{result}\"}} {times}\n");
            assert!(metrics.contains(&line), "{text:?}: no {line} in\n{metrics}");
        }
    }

    #[test]
    fn a_changed_table_is_taken_up_whole_or_not_at_all() {
        check(Some("new@example.org # and nobody else\n"), [false, true], 1, 0);
        check(Some("old@example.org\nnew@example.org\n"), [true, true], 1, 0);
        check(Some("new@example.org\nnonsense\n"), [true, false], 0, 1);
        check(Some("# nobody any more\n"), [true, false], 0, 1);
        check(Some(""), [true, false], 0, 1);
        check(None, [true, false], 0, 1);
    }

    #[test]
    fn a_file_that_is_still_written_is_waited_for() {
        let mut world = World::new("old@example.org\n");
        let mut text = String::new();
        for n in 0..3 {
            text += &format!("new{n}@example.org\n");
            fs::write(&world.path, &text).unwrap();
            assert!(!world.look(), "{n}: it grows");
        }
        assert!(world.exists("old"));
        assert!(world.look() && world.exists("new2") && !world.exists("old"));
    }
}
