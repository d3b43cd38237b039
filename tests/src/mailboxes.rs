//! Where a mail server of the tests delivers: one maildir for each user, in the test's folder; and what all servers can
//! be asked.

use std::collections::HashSet;
use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use crate::postfix::header;
use crate::process::wait_for;

/// Recipients that exist on every server.
pub const USERS: [&str; 3] = ["alice@example.org", "bob@example.org", "carol@example.org"];

/// nobody: mailboxes belong to it where the server can deliver as any user.
pub(crate) const OWNER: u32 = 65534;

/// A folder that every program may look into, and that goes when it is dropped.
pub(crate) fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// The maildirs of [`USERS`].
#[derive(Debug)]
pub struct Mailboxes {
    folder: PathBuf,
}

impl Mailboxes {
    /// Makes the folder that the server makes the maildirs in, as the user `owner`.
    pub(crate) fn create(folder: PathBuf, owner: u32) -> Self {
        fs::create_dir(&folder).unwrap();
        chown(&folder, Some(owner), Some(owner)).unwrap();
        Self { folder }
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// All messages that were delivered, each as its file has it.
    pub fn messages(&self) -> Vec<String> {
        USERS.iter().flat_map(|user| self.messages_of(user)).collect()
    }

    /// Those of one user.
    pub fn messages_of(&self, user: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.join(user).join("new")).into_iter().flatten().flatten();
        entries.map(|entry| String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned()).collect()
    }
}

/// A real mail server that runs. Dropping it ends it and removes all that it made.
pub trait Server: Debug {
    /// Name and version, as the program itself says it.
    fn version(&self) -> String;

    /// Where it delivers.
    fn mailboxes(&self) -> &Mailboxes;

    /// Files in its queue.
    fn queued(&self) -> usize;

    /// What it logged.
    fn log(&self) -> String;

    /// Waits until `count` messages are delivered and nothing is queued any more; then there must be exactly so many,
    /// and no Message-Id twice in a mailbox.
    fn expect(&self, count: usize) -> Vec<String> {
        let delivered = || self.mailboxes().messages().len();
        let settled = || (self.queued() == 0 && delivered() >= count).then_some(());
        wait_for(&format!("{count} messages"), settled, || {
            format!("{} messages, {} queued\n{}", delivered(), self.queued(), self.log())
        });
        let messages = self.mailboxes().messages();
        assert_eq!(messages.len(), count, "messages doubled");
        for user in USERS {
            let mut seen = HashSet::new();
            for id in self.mailboxes().messages_of(user).iter().filter_map(|message| header(message, "Message-Id")) {
                assert!(seen.insert(id.clone()), "{user} has {id} twice");
            }
        }
        messages
    }
}

/// How many files are in `folder` and below it.
pub(crate) fn files_below(folder: PathBuf) -> usize {
    let mut folders = vec![folder];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => files += 1,
                Err(_) => {}
            }
        }
    }
    files
}
