//! Honest mail: smtp-source on the other side, smtp-sink at the edge, both on CPU 1, a connection for each message.
//!
//! Mail goes straight into smtp-sink, not through the guard's proxy. The way of a message is the same whatever drops the
//! flood, so the rows differ in the filter alone. Mail and flood come over the same cable, so the filter judges packets
//! of both. smtp-source sends the next message when one is done: its throughput is what CPU 1 has left.

use std::fs;
use std::time::Duration;

use crate::lab::{EDGE_ADDRESS, Lab};
use crate::process::{Program, wait, wait_for};

/// At once.
const SESSIONS: &str = "16";
/// Octets of a message.
const LENGTH: &str = "4096";
/// More than a row can see.
const MESSAGES: &str = "10000000";
const WARM_UP: Duration = Duration::from_millis(300);

pub(crate) struct Sink {
    program: Program,
}

impl Sink {
    pub(crate) fn start() -> Self {
        let program = Program::start(&["smtp-sink", "-u", "root", &format!("{EDGE_ADDRESS}:25"), "512"]);
        program.prefer();
        // `0: 0100004D0A:0019 00000000:0000 0A ...`: number, local, remote, state; 0A is LISTEN.
        wait_for("smtp-sink", || {
            let sockets = fs::read_to_string("/proc/thread-self/net/tcp").ok()?;
            sockets.lines().any(|line| line.contains(":0019 00000000:0000 0A")).then_some(())
        });
        Self { program }
    }
}

pub(crate) struct Source {
    program: Program,
}

impl Source {
    /// Starts sending, and waits until it does.
    pub(crate) fn start(lab: &Lab, sink: &mut Sink) -> Self {
        sink.program.assert_runs();
        let mut net = String::new();
        let server = format!("{EDGE_ADDRESS}:25");
        let words = [
            "smtp-source",
            "-s",
            SESSIONS,
            "-l",
            LENGTH,
            "-m",
            MESSAGES,
            "-f",
            "a@client.example",
            "-t",
            "b@edge.example",
            &server,
        ];
        let program = Program::start(&lab.inet_words(&mut net, &words));
        program.prefer();
        let before = sessions();
        wait_for("mail", || (sessions() > before).then_some(()));
        wait(WARM_UP);
        Self { program }
    }

    /// Why a message was refused or a session broke off: smtp-source ends then.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.program.ended()
    }
}

/// Connections that smtp-sink was given since it began. Each but the last 16 has delivered its message.
pub(crate) fn sessions() -> u64 {
    tcp("PassiveOpens")
}

/// A counter of the edge's TCP.
pub(crate) fn tcp(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find_map(|(found, value)| (found == name).then(|| value.parse().unwrap())).unwrap()
}
