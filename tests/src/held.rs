//! Connections that are held open, by a process of their own.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::guard::netkit;
use crate::netns::{Host, World};

/// Connections that are held until this is dropped.
#[derive(Debug)]
pub struct Held {
    child: Child,
    /// The outcome, for messages.
    pub result: Value,
}

impl Held {
    /// Opens `count` connections at once from `host` to `address`.
    pub fn open(world: &World, host: Host, address: &str, count: u32) -> Self {
        let mut command = world.on(host, &netkit());
        command.args(["hold", address, &count.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child, result: serde_json::from_str(&line).unwrap() }
    }

    /// How many were `greeted`, `refused` (421), `dropped` (no answer to the SYN) or `closed`.
    pub fn count(&self, what: &str) -> u64 {
        self.result[what].as_u64().unwrap()
    }

    /// SIGKILL to the holder: its kernel closes the connections.
    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Closing its input ends it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
