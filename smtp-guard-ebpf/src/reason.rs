//! The one table of reasons: number, metric label, text, plane and kind can't drift apart.
//!
//! Other questions about a reason (is it a refusal, is the client to blame) are answered from its plane and its kind, by the
//! functions below. A new reason is one row.

/// Highest number of reasons that the per-CPU counters have room for.
pub const MAX_REASONS: u32 = 64;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal, $text:literal, $plane:ident, $kind:ident;)+) => {
        /// Why a packet, a connection, a command or a source was judged as it was.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name = $number,)+ }

        impl Reason {
            /// All reasons in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The label in metrics, logs and JSON.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// The words for an operator, as in `SMTP connection from x.x.x.x rejected: <text>`.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// The plane that judges by it.
            pub const fn plane(self) -> Plane {
                match self { $(Self::$name => Plane::$plane,)+ }
            }

            /// The kind of reason.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$name => Kind::$kind,)+ }
            }

            /// The reason with this number, as a map value holds it.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// The reason with this label, as the store and the admin API hold it.
            pub fn from_label(label: &str) -> Option<Self> {
                match label { $($label => Some(Self::$name),)+ _ => None }
            }
        }

        $(const _: () = assert!($number < MAX_REASONS);)+
    };
}

/// The plane that judges by a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    Kernel,
    User,
    Both,
}

/// The kind of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing is refused.
    Pass,
    /// The client broke a rule of the protocol, or asked for what it may not have.
    Fault,
    /// A limit of the client's own.
    Limit,
    /// A limit of a user who has logged in, and not of the source that he uses.
    User,
    /// A block list has the client's address.
    List,
    /// A check that may only observe.
    Check,
    /// A source is banned for it.
    Ban,
    /// A source is banned for it, or deferred where that would be wrong.
    BanOrDefer,
    /// Our trouble or a neighbour's: a slow client, no room, no backend, TLS that doesn't go with ours. No security line
    /// names the client, since tools that read these lines ban whom they name.
    Trouble,
}

impl Reason {
    /// The kernel's verdict on a packet for it, as metrics say it.
    pub const fn verdict(self) -> &'static str {
        match self.kind() {
            Kind::Pass => "pass",
            _ => "drop",
        }
    }

    /// Whether the user plane refuses for it.
    pub const fn is_refusal(self) -> bool {
        !matches!(self.kind(), Kind::Pass) && !matches!(self.plane(), Plane::Kernel)
    }

    /// Whether a check that may only observe refuses for it.
    pub const fn is_check(self) -> bool {
        matches!(self.kind(), Kind::Check)
    }

    /// Whether a ban is made for it.
    pub const fn is_ban(self) -> bool {
        matches!(self.kind(), Kind::Ban | Kind::BanOrDefer)
    }

    /// Whether a source or a network is deferred for it.
    pub const fn is_deferral(self) -> bool {
        matches!(self.kind(), Kind::BanOrDefer)
    }

    /// Whether a security line names the client.
    pub const fn is_offence(self) -> bool {
        !matches!(self.kind(), Kind::Pass | Kind::User | Kind::Trouble)
    }

    /// Whether it is about a user who has logged in, and not about the source that he uses.
    pub const fn is_of_user(self) -> bool {
        matches!(self.kind(), Kind::User)
    }
}

reasons! {
    // Kernel verdicts that pass.
    /// Not TCP to a guarded port: none of our business.
    NotGuarded = 0, "not_guarded", "not a guarded port", Kernel, Pass;
    /// Judged and passed.
    Clean = 1, "clean", "nothing against it", Kernel, Pass;
    /// Something would have refused it, but the exempt list won.
    Exempt = 2, "exempt", "exempt", Kernel, Pass;
    // Kernel verdicts that drop, beside the reasons of bans.
    /// The packet lies about its lengths, or its source can't be one.
    Malformed = 3, "malformed", "malformed packet", Kernel, Fault;
    /// The source's established connections reached the ceiling (kernel) or its limit (user space).
    Connections = 4, "connections", "too many connections", Both, Limit;
    /// A connection that couldn't be counted: the map of sources is full, or the kernel refused the callback.
    NotCounted = 5, "not_counted", "connection not counted", Kernel, Pass;
    /// A block list has its address.
    Listed = 6, "listed", "on a block list", Both, List;
    // Reasons of bans, which the kernel counts as well.
    /// Too many distinct unknown recipients.
    Harvest = 10, "harvest", "directory harvest attack", Both, BanOrDefer;
    /// Banned by the operator.
    Operator = 11, "operator", "blocked by the administrator", Both, Ban;
    /// Too many failed logins.
    AuthFailures = 12, "auth_failures", "too many failed logins", Both, Ban;
    /// Asked for an address that nobody uses.
    Trap = 13, "trap", "harvest of a trap address", Both, BanOrDefer;
    // Refusals of the user plane.
    /// Relaying denied.
    Relay = 20, "relay", "relaying denied", User, Fault;
    /// Recipient unknown.
    UnknownRecipient = 21, "unknown_recipient", "unknown recipient", User, Fault;
    /// Too many failed commands in a session.
    FailedCommands = 22, "failed_commands", "too many failed commands", User, Limit;
    /// Too many commands that do nothing in a session.
    JunkCommands = 23, "junk_commands", "too many junk commands", User, Limit;
    /// Message larger than the limit.
    MessageSize = 24, "message_size", "message too large", User, Limit;
    /// Too many recipients in a message.
    Recipients = 25, "recipients", "too many recipients", User, Limit;
    /// The whole guard's connection limit.
    TotalConnections = 26, "total_connections", "the guard is full", User, Trouble;
    /// Bare CR, bare LF or NUL in message data: the attempt that smuggles a second message.
    Smuggling = 27, "smuggling", "message data with bare CR, bare LF or NUL", User, Fault;
    /// A command that isn't SMTP (GET, POST, CONNECT).
    NonSmtp = 28, "non_smtp", "not an SMTP client", User, Fault;
    /// Syntax error, unknown command or command out of order.
    Protocol = 29, "protocol", "protocol error", User, Fault;
    /// The backend refused.
    Backend = 30, "backend", "refused by the backend", User, Fault;
    /// The backend could not be reached or broke off.
    BackendLost = 31, "backend_lost", "backend unavailable", User, Trouble;
    /// A deadline passed.
    Timeout = 32, "timeout", "timed out", User, Trouble;
    /// The guard is shutting down.
    Shutdown = 33, "shutdown", "shutting down", User, Trouble;
    /// Commands sent ahead where the reply must be awaited.
    Pipelining = 34, "pipelining", "improper pipelining", User, Fault;
    /// The TLS handshake failed or took too long.
    Tls = 35, "tls", "TLS handshake failed", User, Trouble;
    /// A connection to a port for balancers without a PROXY header, with a wrong one, or from somebody else.
    ProxyHeader = 36, "proxy_header", "no valid PROXY header", User, Fault;
    /// Too many connections of a source in a minute.
    ConnectionRate = 37, "connection_rate", "too many connections in a minute", Both, Limit;
    /// Too many messages of a source in an hour.
    MessageRate = 38, "message_rate", "too many messages in an hour", User, Limit;
    /// Too many connections of a network: an IPv4 /24 or an IPv6 /48.
    NetworkConnections = 39, "network_connections", "too many connections from the network", User, Trouble;
    /// The service manager listens on an address that the configuration doesn't serve.
    NoListener = 56, "no_listener", "no [[listen]] has the address", User, Trouble;
    // What checks refuse, or only observe.
    /// The sender's domain has no MX, A or AAAA.
    SenderDomain = 40, "sender_domain", "sender domain does not exist", User, Check;
    /// The sender's domain says that it takes no mail (RFC 7505).
    NullMx = 41, "null_mx", "sender domain takes no mail", User, Check;
    /// DNS gave no answer about the sender's domain.
    SenderLookup = 42, "sender_lookup", "sender domain could not be looked up", User, Check;
    /// The client has no reverse DNS entry.
    NoPtr = 43, "no_ptr", "no reverse DNS entry", User, Check;
    /// The client's reverse DNS entry doesn't point back to it.
    PtrForward = 44, "ptr_forward", "reverse DNS entry does not point back", User, Check;
    /// The client spoke before the greeting.
    EarlyTalker = 45, "early_talker", "spoke before the greeting", User, Check;
    /// The client is in DNS block lists.
    Dnsbl = 46, "dnsbl", "found in DNS blacklist", User, Check;
    /// After too many unknown recipients a source with a history of accepted mail, or its network, hears 4xx.
    Deferred = 47, "deferred", "too many unknown recipients before", User, Fault;
    /// Block lists could not be asked: the client's source or network has too many look-ups under way.
    ListLookup = 48, "list_lookup", "block lists could not be asked", User, Check;
    // Limits of users who have logged in.
    /// Too many messages of a user in an hour.
    UserMessageRate = 52, "user_message_rate", "too many messages of the user in an hour", User, User;
    /// Too many recipients of a user in an hour.
    UserRecipientRate = 53, "user_recipient_rate", "too many recipients of the user in an hour", User, User;
    /// A user logged in from too many networks in a day.
    UserNetworks = 54, "user_networks", "logins of the user from too many networks in a day", User, User;
    /// A user is held by the operator.
    UserHeld = 55, "user_held", "held by the administrator", User, User;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row of `reason` has these consequences: `refusal ban check deferral offence user`.
    #[track_caller]
    fn check(reason: Reason, expected: [bool; 6]) {
        let said = [
            reason.is_refusal(),
            reason.is_ban(),
            reason.is_check(),
            reason.is_deferral(),
            reason.is_offence(),
            reason.is_of_user(),
        ];
        assert_eq!(said, expected, "{}", reason.label());
    }

    #[test]
    fn our_own_trouble_is_nobodys_offence_and_rows_say_what_they_are() {
        const T: bool = true;
        const F: bool = false;
        for trouble in [
            Reason::BackendLost,
            Reason::TotalConnections,
            Reason::NetworkConnections,
            Reason::Timeout,
            Reason::Tls,
            Reason::Shutdown,
            Reason::NoListener,
        ] {
            check(trouble, [T, F, F, F, F, F]);
        }
        check(Reason::Harvest, [T, T, F, T, T, F]);
        check(Reason::Operator, [T, T, F, F, T, F]);
        check(Reason::Connections, [T, F, F, F, T, F]);
        check(Reason::FailedCommands, [T, F, F, F, T, F]);
        check(Reason::NoPtr, [T, F, T, F, T, F]);
        check(Reason::UserHeld, [T, F, F, F, F, T]);
        check(Reason::Malformed, [F, F, F, F, T, F]);
        check(Reason::Clean, [F, F, F, F, F, F]);
        assert_eq!((Reason::NotCounted.verdict(), Reason::Malformed.verdict()), ("pass", "drop"));
    }
}
