//! The ways in which a connection ends, one table for client and server.

use fastrand::Rng;

/// Bytes that the side sends which is to leave some unread, or has half a connection left.
pub const TEXT: usize = 1000;

/// The peer at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Peer {
    /// A server that ends connections as it is asked to.
    StandIn,
    /// The guard, where a client has only its own ends and QUIT.
    Guard,
}

/// A way to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// FIN of the client, then of the server.
    ClientCloses,
    ServerCloses,
    ClientResets,
    ServerResets,
    /// FIN of the client; the server answers through its half, then closes.
    ClientHalfCloses,
    ServerHalfCloses,
    /// The client closes with data unread: its kernel sends RST.
    ClientLeavesUnread,
    ServerLeavesUnread,
    /// It stays in the accept queue until the listener is closed.
    NeverAccepted,
}

/// What is known of an end.
struct Row {
    end: End,
    /// What the client says to the server to have it.
    command: u8,
    label: &'static str,
    /// In so many of [`ALL`] connections.
    share: u32,
}

const fn row(end: End, command: u8, label: &'static str, share: u32) -> Row {
    Row { end, command, label, share }
}

const TABLE: [Row; End::COUNT] = [
    row(End::ClientCloses, b'c', "closed by the client", 24),
    row(End::ServerCloses, b's', "closed by the server", 16),
    row(End::ClientResets, b'r', "reset by the client", 14),
    row(End::ServerResets, b'R', "reset by the server", 12),
    row(End::ClientHalfCloses, b'h', "half closed by the client", 9),
    row(End::ServerHalfCloses, b'H', "half closed by the server", 9),
    row(End::ClientLeavesUnread, b'u', "closed unread by the client", 4),
    row(End::ServerLeavesUnread, b'U', "closed unread by the server", 4),
    row(End::NeverAccepted, b'n', "never accepted", 8),
];

/// Sum of the shares.
const ALL: u32 = 100;

const _: () = {
    let (mut n, mut sum) = (0, 0);
    while n < TABLE.len() {
        assert!(TABLE[n].end as usize == n, "the table is in the order of the ends");
        sum += TABLE[n].share;
        n += 1;
    }
    assert!(sum == ALL);
};

impl End {
    pub const COUNT: usize = 9;

    /// One by chance, in the shares of the table.
    pub fn pick(chance: &mut Rng, peer: Peer) -> Self {
        let mut left = chance.u32(0..ALL);
        let found = TABLE.iter().find(|row| {
            let found = left < row.share;
            left = left.saturating_sub(row.share);
            found
        });
        let end = found.map_or(Self::ClientCloses, |row| row.end);
        match (peer, end) {
            (Peer::Guard, Self::ServerResets | Self::ServerHalfCloses | Self::ServerLeavesUnread) => Self::ServerCloses,
            (Peer::Guard, Self::NeverAccepted) => Self::ClientCloses,
            _ => end,
        }
    }

    /// The one that the client's first byte asks for.
    pub fn of(command: u8) -> Option<Self> {
        TABLE.iter().find(|row| row.command == command).map(|row| row.end)
    }

    /// Whether the server's side ends it by RST.
    pub fn resets(self) -> bool {
        matches!(self, Self::ServerResets | Self::ServerLeavesUnread | Self::NeverAccepted)
    }

    pub fn command(self) -> u8 {
        TABLE[self as usize].command
    }

    /// All of them, as they are called in a report.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        TABLE.iter().map(|row| row.label)
    }
}
