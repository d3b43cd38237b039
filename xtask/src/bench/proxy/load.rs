//! What smtp-source sends.

/// A load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) name: &'static str,
    /// At once.
    sessions: u32,
    /// In all sessions together.
    pub(super) messages: u32,
    /// Of a message, in bytes.
    length: u32,
    recipients: u32,
    /// Whether a session sends many messages.
    stays: bool,
    pub(super) sender: &'static str,
}

const ONE: Load = Load {
    name: "one message a session",
    sessions: 50,
    messages: 2000,
    length: 4096,
    recipients: 1,
    stays: false,
    sender: "a@sender.example",
};

/// Those that are measured.
pub(super) const LOADS: &[Load] = &[
    ONE,
    Load { name: "many messages a session", messages: 4000, stays: true, ..ONE },
    Load { name: "messages of 1 MiB", sessions: 20, messages: 200, length: 1 << 20, ..ONE },
    Load { name: "20 recipients a message", messages: 600, recipients: 20, ..ONE },
];

/// Before the first round: DNS answers, the history of the client, and memory are there.
pub(super) const WARM: Load = Load { name: "to get warm", messages: 500, ..ONE };
/// For strace, which makes everything slow.
pub(super) const FEW: Load = Load { messages: 500, ..ONE };
pub(super) const FEW_IN_A_SESSION: Load = Load { name: "many messages a session", messages: 1000, stays: true, ..ONE };
/// One message.
pub(super) const PROBE: Load = Load { name: "a message", sessions: 1, messages: 1, ..ONE };
/// The same of a sender whose domain doesn't exist.
pub(super) const WITHOUT_DOMAIN: Load = Load { name: "a sender without a domain", sender: "a@absent.example", ..PROBE };

impl Load {
    /// Arguments of smtp-source.
    pub(super) fn arguments(&self, address: &str, port: u16) -> Vec<String> {
        let stays = self.stays.then(|| "-d".to_owned());
        let numbers = [("-s", self.sessions), ("-m", self.messages), ("-l", self.length), ("-r", self.recipients)];
        let numbers = numbers.into_iter().flat_map(|(flag, number)| [flag.to_owned(), number.to_string()]);
        let rest = ["-f", self.sender, "-t", "bob@example.org"].map(str::to_owned);
        stays.into_iter().chain(numbers).chain(rest).chain([format!("{address}:{port}")]).collect()
    }
}
