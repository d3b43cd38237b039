//! A server that greets everyone, in the guard's place: what the kernel plane does then is its own doing.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use crate::guard::netkit;
use crate::netns::{Host, World};

/// The server on port 25 of the edge, until this is dropped.
#[derive(Debug)]
pub struct StandIn {
    child: Child,
}

impl StandIn {
    /// Starts it, for both families by one socket.
    pub fn start(world: &World) -> Self {
        let mut command = world.on(Host::Edge, &netkit());
        command.args(["listen", "[::]:25"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Closing its input ends it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
