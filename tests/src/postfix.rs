//! A real Postfix as the backend, or as a client: its own configuration, queue and mailboxes, away from any Postfix of
//! the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::mailboxes::{self, Mailboxes, OWNER, Server, files_below};
use crate::netns::{Host, World};
use crate::process::run;
use crate::room::Room;

/// The server.
#[derive(Debug)]
pub struct Postfix {
    // Dropped in this order: the program ends before its folder goes.
    room: Room,
    mailboxes: Mailboxes,
    folder: tempfile::TempDir,
}

impl Postfix {
    /// Recipients that exist.
    pub const USERS: [&str; 3] = mailboxes::USERS;

    /// Starts it on the backend's port 25; `extra` is appended to main.cf.
    pub fn start(world: &World, extra: &str) -> Self {
        Self::start_on(world, Host::Backend, extra)
    }

    /// Starts it as a client on the honest client's host: what it takes at 127.0.0.1:25 goes to `smarthost`.
    pub fn client(world: &World, smarthost: &str, extra: &str) -> Self {
        let client = format!(
            "myhostname = client.example\ninet_interfaces = 127.0.0.1\nvirtual_mailbox_domains =\n\
             relayhost = [{smarthost}]:25\nsmtpd_relay_restrictions = permit_mynetworks, reject\n{extra}"
        );
        Self::start_on(world, Host::Client, &client)
    }

    fn start_on(world: &World, host: Host, extra: &str) -> Self {
        let folder = mailboxes::folder();
        let path = folder.path();
        for name in ["etc", "queue", "data"] {
            fs::create_dir(path.join(name)).unwrap();
        }
        run(Command::new("chown").arg("postfix").arg(path.join("data")), "").ok();
        fs::write(path.join("etc/main.cf"), main_cf(path, extra)).unwrap();
        fs::write(path.join("etc/master.cf"), MASTER_CF).unwrap();
        let users: String = Self::USERS.iter().map(|user| format!("{user} {user}/\n")).collect();
        fs::write(path.join("etc/users"), users).unwrap();
        let mailboxes = Mailboxes::create(path.join("mail"), OWNER);
        let config = path.join("etc").display().to_string();
        let room = Room::start(world, host, &[], &["postfix", "-c", &config, "start-fg"], path.join("log"));
        let mut postfix = Self { room, mailboxes, folder };
        postfix.room.wait_for("daemon started");
        postfix
    }

    /// Kills it with all that it started, and starts it again with the same queue.
    pub fn kill9_and_restart(&mut self, world: &World) {
        self.room.kill9();
        let log = self.folder.path().join("log");
        // Emptied, so that the next start can be waited for; and for postsuper, which tidies up after the crash, as an
        // ordinary user, and ends with an error where it can't write what it found.
        fs::write(&log, "").unwrap();
        fs::set_permissions(&log, fs::Permissions::from_mode(0o666)).unwrap();
        let config = self.folder.path().join("etc").display().to_string();
        self.room = Room::start(world, Host::Backend, &[], &["postfix", "-c", &config, "start-fg"], log);
        self.room.wait_for("daemon started");
    }

    /// All messages that were delivered, each as its file has it.
    pub fn messages(&self) -> Vec<String> {
        self.mailboxes.messages()
    }

    /// Waits until `count` messages are delivered and nothing is queued any more; then there must be exactly so many,
    /// and no Message-Id twice in a mailbox.
    pub fn expect(&self, count: usize) -> Vec<String> {
        Server::expect(self, count)
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.room.output()
    }
}

impl Server for Postfix {
    fn version(&self) -> String {
        format!("Postfix {}", run(Command::new("postconf").args(["-h", "mail_version"]), "").ok().trim())
    }

    fn mailboxes(&self) -> &Mailboxes {
        &self.mailboxes
    }

    fn queued(&self) -> usize {
        let queue = self.folder.path().join("queue");
        ["incoming", "active", "deferred"].map(|name| files_below(queue.join(name))).iter().sum()
    }

    fn log(&self) -> String {
        self.log()
    }
}

/// The first value of the header `name`, unfolded, in any case.
pub fn header(message: &str, name: &str) -> Option<String> {
    let mut lines = message.lines().take_while(|line| !line.is_empty()).peekable();
    while let Some(line) = lines.next() {
        let Some((found, value)) = line.split_once(':') else {
            continue;
        };
        if found.eq_ignore_ascii_case(name) {
            let mut value = value.trim().to_owned();
            while let Some(folded) = lines.next_if(|line| line.starts_with([' ', '\t'])) {
                value.push(' ');
                value.push_str(folded.trim());
            }
            return Some(value);
        }
    }
    None
}

/// The settings; `extra` replaces what it names.
fn main_cf(path: &Path, extra: &str) -> String {
    let path = path.display();
    let defaults = format!(
        "compatibility_level = 3.6
queue_directory = {path}/queue
data_directory = {path}/data
maillog_file = {path}/log
maillog_file_prefixes = {path}
myhostname = backend.example.org
mydestination =
mynetworks = 127.0.0.1/32
inet_interfaces = all
virtual_mailbox_domains = example.org
virtual_mailbox_base = {path}/mail
virtual_mailbox_maps = texthash:{path}/etc/users
virtual_uid_maps = static:{OWNER}
virtual_gid_maps = static:{OWNER}
smtpd_relay_restrictions = reject_unauth_destination
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
disable_dns_lookups = yes
smtpd_peername_lookup = no
alias_maps =
alias_database =
biff = no
"
    );
    let key = |line: &str| line.split('=').next().unwrap().trim().to_owned();
    let replaced: Vec<_> = extra.lines().map(key).collect();
    let kept = defaults.lines().filter(|line| !replaced.contains(&key(line)));
    kept.chain(extra.lines()).map(|line| format!("{line}\n")).collect()
}

const MASTER_CF: &str = "\
smtp      inet  n - n - 100 smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
tlsmgr    unix  - - n 1000? 1 tlsmgr
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
local     unix  - n n - - local
virtual   unix  - n n - - virtual
lmtp      unix  - - n - - lmtp
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
";
