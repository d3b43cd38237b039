//! A real OpenSMTPD as the backend, or as a client: its own configuration, spool and mailboxes. Debian's opensmtpd,
//! unpacked.
//!
//! Its paths are compiled in, so in its room `/var/spool`, `/var/lib`, `/run` and `/usr/libexec` are folders of the test.
//! No DNS: there is none in the namespaces.
//!
//! As a server it offers no TLS: the version of Debian 12 fails at every handshake with that system's OpenSSL 3
//! (`missing private key`; OpenSMTPD issue 1171), whoever the client is. As a client it does speak TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mailboxes::{self, Mailboxes, OWNER, Server, USERS, files_below};
use crate::netns::{Host, World};
use crate::room::{Room, line_with, unpacked, with_users};

const PACKAGE: &str = "opensmtpd";
/// The users that are compiled into it; these numbers are nobody's on the machine.
const SYSTEM_USERS: [(&str, u32); 2] = [("opensmtpd", 64_120), ("opensmtpq", 64_121)];

/// The server.
#[derive(Debug)]
pub struct Opensmtpd {
    // Dropped in this order: the program ends before its folder goes.
    room: Room,
    mailboxes: Mailboxes,
    folder: tempfile::TempDir,
}

impl Opensmtpd {
    /// Starts it on the backend's port 25; `listen` are more options of its `listen` line, e.g. `proxy-v2`.
    pub fn start(world: &World, listen: &str) -> Self {
        let users: Vec<_> = USERS
            .iter()
            .map(|user| format!("\"{}\" = \"{OWNER}:{OWNER}:/nonexistent\"", user.split('@').next().unwrap()))
            .collect();
        let rest = format!(
            "table people {{ {} }}
action \"local\" maildir \"FOLDER/mail/%{{user.username}}@example.org\" userbase <people>
match from any for domain \"example.org\" action \"local\"
",
            users.join(", ")
        );
        Self::start_on(world, Host::Backend, World::BACKEND, listen, &rest)
    }

    /// Starts it as a client on the honest client's host: what it takes at 127.0.0.1:25 goes to `smarthost`; `relay` are
    /// more options of its relay action.
    pub fn client(world: &World, smarthost: &str, relay: &str) -> Self {
        let rest = format!(
            "action \"out\" relay host \"smtp://{smarthost}:25\" helo \"client.example\" {relay}
match from any for any action \"out\"
"
        );
        Self::start_on(world, Host::Client, "127.0.0.1", "", &rest)
    }

    fn start_on(world: &World, host: Host, address: &str, listen: &str, rest: &str) -> Self {
        let folder = mailboxes::folder();
        let path = folder.path();
        for name in ["spool", "lib/opensmtpd/empty", "run"] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        let mailboxes = Mailboxes::create(path.join("mail"), OWNER);
        let config = path.join("smtpd.conf");
        let text = format!("listen on {address} port 25 hostname backend.example.org {listen}\n{rest}");
        fs::write(&config, text.replace("FOLDER", &path.display().to_string())).unwrap();
        let words = [&program().display().to_string(), "-d", "-f", &config.display().to_string()];
        let room = Room::start(world, host, &binds(path), &words, path.join("log"));
        let mut opensmtpd = Self { room, mailboxes, folder };
        opensmtpd.room.wait_for_port(25);
        opensmtpd
    }
}

impl Server for Opensmtpd {
    fn version(&self) -> String {
        // `version: OpenSMTPD 6.8.0p2`
        let line = line_with(Command::new(program()).arg("-h"), "version:");
        line.trim_start_matches("version:").trim().to_owned()
    }

    fn mailboxes(&self) -> &Mailboxes {
        &self.mailboxes
    }

    fn queued(&self) -> usize {
        let spool = self.folder.path().join("spool/smtpd");
        files_below(spool.join("queue")) + files_below(spool.join("incoming"))
    }

    fn log(&self) -> String {
        self.room.output()
    }
}

fn program() -> PathBuf {
    unpacked(PACKAGE, "usr/sbin/smtpd")
}

fn binds(path: &Path) -> Vec<(PathBuf, &'static str)> {
    let mut binds = with_users(path, &SYSTEM_USERS).to_vec();
    binds.push((unpacked(PACKAGE, "usr/libexec"), "/usr/libexec"));
    for (name, place) in [("spool", "/var/spool"), ("lib", "/var/lib"), ("run", "/run")] {
        binds.push((path.join(name), place));
    }
    binds
}
