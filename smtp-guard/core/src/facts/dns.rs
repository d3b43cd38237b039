//! Answers of DNS about senders and clients, and the reasons for having none.

use std::io;

/// DNS on a sender's domain: whether mail can be sent back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderDomain {
    /// The domain has an MX, A or AAAA record.
    Exists,
    /// The domain has none of them, or can't be a domain.
    Missing,
    /// The domain declares that it takes no mail (RFC 7505).
    NullMx,
}

/// The names of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reverse {
    /// No PTR record, or none with a host name in it.
    None,
    /// One to sixteen host names, in lower case; `forward` is None when it wasn't asked for.
    Names { names: Vec<Box<str>>, forward: Option<Forward> },
}

/// The look-up of a client's names: whether one of them leads back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    Confirmed,
    Mismatch,
    /// The name could have one, and nothing is known.
    Unknown(Failure),
}

/// A look-up that gave no answer. All are temporary: the client hears 4xx and tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No answer before the deadline.
    #[error("no answer in time")]
    TimedOut,
    /// SERVFAIL: the server could not find out.
    #[error("the DNS server failed (SERVFAIL)")]
    ServFail,
    /// REFUSED: the server doesn't work for us.
    #[error("the DNS server refuses us (REFUSED)")]
    Refused,
    /// Any other code of an error, by its number.
    #[error("the DNS server answered with code {0}")]
    Code(u16),
    /// An answer that is none.
    #[error("the DNS server's answer can't be used: {0}")]
    Malformed(Flaw),
    /// The server can't be reached, or this machine has no socket for it.
    #[error("the DNS server can't be reached: {0}")]
    Network(io::ErrorKind),
    /// Too many look-ups under way.
    #[error("too many look-ups under way")]
    Busy,
    /// No server has answered for a while; this look-up was not even tried.
    #[error("no DNS server answers")]
    ServersSilent,
    /// The list answered with one of its error codes, 127.255.255.0/24: over its limit, or asked through a public resolver.
    #[error("the list refuses us")]
    ListRefuses,
}

/// A flaw of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("it can't be read")]
    Unreadable,
    /// Also when it stays truncated over TCP.
    #[error("it is truncated")]
    Truncated,
    /// The server is no resolver, or recursion is off for us.
    #[error("it refers to other servers")]
    Referral,
    /// More than eight look-ups for one chain of CNAMEs, or a circle.
    #[error("its aliases don't end")]
    Aliases,
    /// Nothing was asked: the name doesn't fit into a question.
    #[error("the name is too long for a question")]
    NameTooLong,
}

impl Failure {
    /// The labels in metrics, in the order of their numbers.
    pub const LABELS: [&'static str; 9] = [
        "timed_out",
        "servfail",
        "refused",
        "error_code",
        "malformed",
        "network",
        "busy",
        "servers_silent",
        "list_refuses",
    ];

    /// Its place among [`Self::LABELS`].
    pub const fn number(self) -> usize {
        match self {
            Self::TimedOut => 0,
            Self::ServFail => 1,
            Self::Refused => 2,
            Self::Code(_) => 3,
            Self::Malformed(_) => 4,
            Self::Network(_) => 5,
            Self::Busy => 6,
            Self::ServersSilent => 7,
            Self::ListRefuses => 8,
        }
    }

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        Self::LABELS[self.number()]
    }

    /// Whether no server said anything. An error of the machine's own (no more sockets) is not the servers' silence.
    pub fn is_silence(self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Network(kind) => matches!(
                kind,
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::NetworkDown
                    | io::ErrorKind::TimedOut
            ),
            _ => false,
        }
    }

    /// Whether a server said something, be it an error.
    pub fn is_heard(self) -> bool {
        match self {
            Self::ServFail | Self::Refused | Self::Code(_) => true,
            Self::Malformed(flaw) => flaw != Flaw::NameTooLong,
            _ => false,
        }
    }

    /// Whether the same question had better not be asked again at once. What is wrong with the machine or with all servers
    /// says nothing about the question.
    pub fn is_of_the_question(self) -> bool {
        self == Self::TimedOut || self.is_heard()
    }
}
