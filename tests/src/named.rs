//! A real BIND as the DNS server: its own zone, away from any DNS server of the machine.
//!
//! It is the root of a small world of its own and resolves what it isn't the server for, so a zone whose servers are dead
//! hangs as it does on the Internet.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::netns::{Host, World};
use crate::room::{Room, line_with};

/// Paths that are compiled into it, and which AppArmor lets it use.
const CONFIG: &str = "/etc/bind";
const CACHE: &str = "/var/cache/bind";

/// Debian's built-in empty zones would hide the networks of the documentation, which the tests use.
const OPTIONS: &str = r#"options {
    directory "/var/cache/bind";
    listen-on port 53 { any; };
    listen-on-v6 { none; };
    pid-file none;
    session-keyfile none;
    recursion yes;
    allow-query { any; };
    allow-recursion { any; };
    dnssec-validation no;
    empty-zones-enable no;
    check-names primary ignore;
    check-mx ignore;
    notify no;
};
controls { };
zone "." { type primary; file "/etc/bind/root.zone"; };
"#;

/// The server, on the backend's host.
#[derive(Debug)]
pub struct Named {
    // Dropped in this order: the program ends before its folder goes.
    room: Room,
    folder: tempfile::TempDir,
}

impl Named {
    /// Starts it with `zone`, in which all names end with a dot. The zone `dead.` has servers that never answer.
    pub fn start(world: &World, zone: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["etc", "cache"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let server = World::BACKEND;
        let head = format!(
            "$TTL 60\n. SOA ns.root. hostmaster.root. 1 60 60 60 60\n. NS ns.root.\nns.root. A {server}\n\
             dead. NS ns.dead.\nns.dead. A 10.77.3.99\n"
        );
        fs::write(folder.path().join("etc/named.conf"), OPTIONS).unwrap();
        fs::write(folder.path().join("etc/root.zone"), head + zone).unwrap();
        let room = room(world, &folder);
        let mut named = Self { room, folder };
        named.wait();
        named
    }

    /// Kills it.
    pub fn kill9(&mut self) {
        self.room.kill9();
    }

    /// Starts it again after it was killed.
    pub fn restart(&mut self, world: &World) {
        fs::remove_file(self.folder.path().join("log")).unwrap();
        self.room = room(world, &self.folder);
        self.wait();
    }

    /// Stops it without killing it: its port stays open, and nobody answers there.
    pub fn freeze(&self) {
        self.room.freeze();
    }

    /// The end of [`Self::freeze`].
    pub fn thaw(&self) {
        self.room.thaw();
    }

    /// `BIND 9.18.49-1~deb12u3-Debian (Extended Support Version)`.
    pub fn version() -> String {
        line_with(Command::new("named").arg("-v"), "bind")
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.room.output()
    }

    fn wait(&mut self) {
        self.room.wait_for("running");
        self.room.wait_for_port(53);
    }
}

fn room(world: &World, folder: &tempfile::TempDir) -> Room {
    let path = folder.path();
    let binds: [(PathBuf, &str); 2] = [(path.join("etc"), CONFIG), (path.join("cache"), CACHE)];
    Room::start(world, Host::Backend, &binds, &["named", "-g", "-n", "1"], path.join("log"))
}
