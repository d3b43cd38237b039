//! A real Dovecot on the backend's host: LMTP, submission, and the socket where its answers to logins are asked for.
//!
//! As a backend it stands behind a Postfix that hands all mail to it by LMTP ([`Behind`]): Dovecot itself takes mail
//! from other servers by LMTP only, and its submission wants a login. Clear-text logins are allowed: there is no TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::mailboxes::{self, Mailboxes, OWNER, Server, USERS};
use crate::netns::{Host, World};
use crate::postfix::Postfix;
use crate::process::run;
use crate::room::Room;

/// The server.
#[derive(Debug)]
pub struct Dovecot {
    // Dropped in this order: the program ends before its folder goes.
    room: Room,
    mailboxes: Mailboxes,
    folder: tempfile::TempDir,
}

impl Dovecot {
    pub const LMTP_PORT: u16 = 24;
    pub const SUBMISSION_PORT: u16 = 587;
    /// The password of every user: with a space, as people have them.
    pub const PASSWORD: &str = "s3cret pass";

    /// Starts it on the backend's host; `extra` is appended to dovecot.conf. What comes by submission goes on to the
    /// backend's port 25.
    pub fn start(world: &World, extra: &str) -> Self {
        let folder = mailboxes::folder();
        let path = folder.path();
        let users: String = USERS
            .iter()
            .map(|user| format!("{user}:{{PLAIN}}{}:{OWNER}:{OWNER}::/nonexistent\n", Self::PASSWORD))
            .collect();
        fs::write(path.join("users"), users).unwrap();
        let config = path.join("dovecot.conf");
        fs::write(&config, configuration(path, extra)).unwrap();
        let mailboxes = Mailboxes::create(path.join("mail"), OWNER);
        let words = ["dovecot", "-F", "-c", &config.display().to_string()];
        let room = Room::start(world, Host::Backend, &[], &words, path.join("log"));
        let mut dovecot = Self { room, mailboxes, folder };
        for port in [Self::LMTP_PORT, Self::SUBMISSION_PORT] {
            dovecot.room.wait_for_port(port);
        }
        dovecot
    }

    /// The unix socket of its auth client protocol.
    pub fn auth_socket(&self) -> PathBuf {
        self.folder.path().join("auth-client")
    }
}

impl Server for Dovecot {
    fn version(&self) -> String {
        // `2.3.19.1 (9b53102964)`
        let printed = run(Command::new("dovecot").arg("--version"), "").ok();
        format!("Dovecot {}", printed.split_whitespace().next().unwrap())
    }

    fn mailboxes(&self) -> &Mailboxes {
        &self.mailboxes
    }

    /// It has no queue.
    fn queued(&self) -> usize {
        0
    }

    fn log(&self) -> String {
        self.room.output()
    }
}

/// A Dovecot behind a Postfix, which asks it whether a recipient exists.
#[derive(Debug)]
pub struct Behind {
    postfix: Postfix,
    dovecot: Dovecot,
}

impl Behind {
    /// Starts both; `extra` is appended to main.cf.
    pub fn start(world: &World, extra: &str) -> Self {
        let dovecot = Dovecot::start(world, "");
        let hand_over = format!(
            "virtual_transport = lmtp:inet:{}:{}
virtual_mailbox_maps =
smtpd_recipient_restrictions = reject_unverified_recipient
unverified_recipient_reject_code = 550
address_verify_poll_count = 20
{extra}",
            World::BACKEND,
            Dovecot::LMTP_PORT
        );
        Self { postfix: Postfix::start(world, &hand_over), dovecot }
    }
}

impl Server for Behind {
    fn version(&self) -> String {
        format!("{} behind {}", self.dovecot.version(), self.postfix.version())
    }

    fn mailboxes(&self) -> &Mailboxes {
        self.dovecot.mailboxes()
    }

    fn queued(&self) -> usize {
        self.postfix.queued()
    }

    fn log(&self) -> String {
        self.postfix.log() + &self.dovecot.log()
    }
}

fn configuration(path: &Path, extra: &str) -> String {
    let path = path.display();
    let address = World::BACKEND;
    let (lmtp, submission) = (Dovecot::LMTP_PORT, Dovecot::SUBMISSION_PORT);
    format!(
        "base_dir = {path}/run
log_path = /dev/stderr
protocols = lmtp submission
listen = {address}
hostname = backend.example.org
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login
auth_failure_delay = 0
mail_location = maildir:{path}/mail/%u
first_valid_uid = 1
submission_relay_host = {address}
submission_relay_port = 25
passdb {{
  driver = passwd-file
  args = username_format=%u {path}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {path}/users
}}
service auth {{
  unix_listener {path}/auth-client {{
    mode = 0666
  }}
}}
service anvil {{
  # No penalty for failed logins of an address: tests have many.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
service submission-login {{
  inet_listener submission {{
    port = {submission}
  }}
}}
{extra}
"
    )
}
