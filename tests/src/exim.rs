//! A real Exim as the backend, or as a client: its own configuration, spool and mailboxes. Debian's exim4-daemon-heavy,
//! unpacked.
//!
//! It runs unprivileged but for its daemon, so mailboxes belong to its own user; that user exists in its room only. No
//! DNS: there is none in the namespaces. TLS is not offered unless `extra` sets `tls_` options.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use crate::mailboxes::{self, Mailboxes, Server, files_below};
use crate::netns::{Host, World};
use crate::pki::Pair;
use crate::process::{Run, run};
use crate::room::{Room, unpacked, with_users};

const PACKAGE: &str = "exim4-daemon-heavy";
/// Number of the user that is compiled into it; nobody's on the machine.
const OWNER: u32 = 64_110;

/// The server.
#[derive(Debug)]
pub struct Exim {
    // Dropped in this order: the program ends before its folder goes.
    room: Room,
    mailboxes: Mailboxes,
    folder: tempfile::TempDir,
}

impl Exim {
    /// Starts it on the backend's port 25; `extra` are more main options, e.g. `hosts_proxy = 10.77.3.1`.
    pub fn start(world: &World, extra: &str) -> Self {
        Self::start_on(world, Host::Backend, World::BACKEND, extra, BACKEND)
    }

    /// Starts it as a client on the honest client's host: what it takes at 127.0.0.1:25 goes to `smarthost`.
    pub fn client(world: &World, smarthost: &str, extra: &str) -> Self {
        Self::start_on(world, Host::Client, "127.0.0.1", extra, &CLIENT.replace("SMARTHOST", smarthost))
    }

    fn start_on(world: &World, host: Host, address: &str, extra: &str, rest: &str) -> Self {
        let folder = mailboxes::folder();
        let path = folder.path();
        fs::create_dir(path.join("bin")).unwrap();
        fs::write(path.join("mainlog"), "").unwrap();
        fs::create_dir(path.join("spool")).unwrap();
        for name in ["mainlog", "spool"] {
            chown(path.join(name), Some(OWNER), Some(OWNER)).unwrap();
        }
        let mailboxes = Mailboxes::create(path.join("mail"), OWNER);
        let config = path.join("exim.conf");
        fs::write(&config, main_options(path, address, extra) + &rest.replace("FOLDER", &path.display().to_string()))
            .unwrap();
        // Exim starts itself again, also as its own user: from a place that this user may enter.
        let bin = path.join("bin");
        let program = bin.join("exim4").display().to_string();
        let place = bin.display().to_string();
        let binds = binds(path, &place);
        let words = [&program, "-C", &config.display().to_string(), "-bdf", "-q1m"];
        let room = Room::start(world, host, &binds, &words, path.join("mainlog"));
        let mut exim = Self { room, mailboxes, folder };
        exim.room.wait_for_port(25);
        exim
    }

    /// Runs `words` where Exim is installed as the server is; `EXIM` and `CONFIG` among them are its program and configuration.
    pub fn beside(&self, world: &World, host: Host, words: &[&str]) -> Run {
        let path = self.folder.path();
        let place = path.join("bin").display().to_string();
        let (program, config) = (format!("{place}/exim4"), path.join("exim.conf").display().to_string());
        let replaced = |word: &&str| match *word {
            "EXIM" => program.clone(),
            "CONFIG" => config.clone(),
            word => word.to_owned(),
        };
        let words: Vec<_> = words.iter().map(replaced).collect();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        run(&mut Room::command(world, host, &binds(path, &place), &words), "")
    }
}

/// What Exim sees in place of what is there.
fn binds<'a>(path: &Path, place: &'a str) -> Vec<(PathBuf, &'a str)> {
    let mut binds = with_users(path, &[("Debian-exim", OWNER)]).to_vec();
    binds.push((unpacked(PACKAGE, "usr/sbin"), place));
    binds
}

/// Lines of `extra` for a backend that offers STARTTLS with `pair`. Its own user reads the files, so all may.
pub fn tls(pair: &Pair) -> String {
    pair.open_to_all();
    format!(
        "tls_advertise_hosts = *\ntls_certificate = {}\ntls_privatekey = {}\n",
        pair.certificate.display(),
        pair.key.display()
    )
}

/// Lines of `extra` for a client that sends nothing in clear text. It verifies nothing.
pub const REQUIRE_TLS: &str = "REQUIRE_TLS = yes\n";

impl Server for Exim {
    fn version(&self) -> String {
        // It tells nobody its version where its user doesn't exist; `... exim 4.96 daemon started: pid=...`
        let log = self.room.output();
        let before = log.split(" daemon started").next().unwrap();
        format!("Exim {}", before.rsplit(' ').next().unwrap())
    }

    fn mailboxes(&self) -> &Mailboxes {
        &self.mailboxes
    }

    fn queued(&self) -> usize {
        files_below(self.folder.path().join("spool/input"))
    }

    fn log(&self) -> String {
        let others = ["paniclog", "rejectlog"].map(|name| fs::read_to_string(self.folder.path().join(name)));
        others.into_iter().flatten().fold(self.room.output(), |log, other| log + &other)
    }
}

fn main_options(path: &Path, address: &str, extra: &str) -> String {
    let path = path.display();
    let tls = if extra.contains("tls_") { "" } else { "tls_advertise_hosts =" };
    format!(
        "exim_path = {path}/bin/exim4
spool_directory = {path}/spool
log_file_path = {path}/%slog
pid_file_path = {path}/spool/pid
primary_hostname = backend.example.org
local_interfaces = {address}
daemon_smtp_ports = 25
deliver_drop_privilege = true
host_lookup =
rfc1413_query_timeout = 0s
smtp_accept_max = 100
write_rejectlog = false
acl_smtp_rcpt = recipient
{tls}
{extra}
"
    )
}

/// As in the configuration that comes with Exim: relaying is refused, then recipients are verified by routing.
const BACKEND: &str = "
begin acl
recipient:
  require message = relay not permitted
          domains = example.org
  require verify = recipient
  accept

begin routers
users:
  driver = accept
  domains = example.org
  local_parts = alice : bob : carol
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = FOLDER/mail/$local_part_data@$domain_data
  maildir_format
  create_directory
  delivery_date_add
  envelope_to_add
  return_path_add
";

const CLIENT: &str = "
begin acl
recipient:
  accept hosts = 127.0.0.1

begin routers
smarthost:
  driver = manualroute
  route_list = * SMARTHOST
  transport = smtp

begin transports
smtp:
  driver = smtp
  helo_data = client.example
  .ifdef REQUIRE_TLS
  hosts_require_tls = *
  tls_verify_certificates =
  .endif
";
