//! The one table of reasons: number, metric label and text can't drift apart.

/// Highest number of reasons that the per-CPU counters have room for.
pub const MAX_REASONS: u32 = 64;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $label:literal, $text:literal;)+) => {
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

impl Reason {
    /// Whether it is about a user who has logged in, and not about the source that he uses.
    pub const fn is_of_user(self) -> bool {
        matches!(self, Self::UserMessageRate | Self::UserRecipientRate | Self::UserNetworks | Self::UserHeld)
    }
}

reasons! {
    // Kernel verdicts that pass.
    /// Not TCP to a guarded port: none of our business.
    NotGuarded = 0, "not_guarded", "not a guarded port";
    /// Judged and passed.
    Clean = 1, "clean", "nothing against it";
    /// Something would have refused it, but the exempt list won.
    Exempt = 2, "exempt", "exempt";
    // Kernel verdicts that drop, beside the reasons of bans.
    /// The packet lies about its lengths, or its source can't be one.
    Malformed = 3, "malformed", "malformed packet";
    /// The source's established connections reached the ceiling (kernel) or its limit (user space).
    Connections = 4, "connections", "too many connections";
    /// A connection that couldn't be counted: the map of sources is full, or the kernel refused the callback.
    NotCounted = 5, "not_counted", "connection not counted";
    /// A block list has its address.
    Listed = 6, "listed", "on a block list";
    // Reasons of bans, which the kernel counts as well.
    /// Too many distinct unknown recipients.
    Harvest = 10, "harvest", "directory harvest attack";
    /// Banned by the operator.
    Operator = 11, "operator", "blocked by the administrator";
    /// Too many failed logins.
    AuthFailures = 12, "auth_failures", "too many failed logins";
    /// Asked for an address that nobody uses.
    Trap = 13, "trap", "harvest of a trap address";
    // Refusals of the user plane.
    /// Relaying denied.
    Relay = 20, "relay", "relaying denied";
    /// Recipient unknown.
    UnknownRecipient = 21, "unknown_recipient", "unknown recipient";
    /// Too many failed commands in a session.
    FailedCommands = 22, "failed_commands", "too many failed commands";
    /// Too many commands that do nothing in a session.
    JunkCommands = 23, "junk_commands", "too many junk commands";
    /// Message larger than the limit.
    MessageSize = 24, "message_size", "message too large";
    /// Too many recipients in a message.
    Recipients = 25, "recipients", "too many recipients";
    /// The whole guard's connection limit.
    TotalConnections = 26, "total_connections", "the guard is full";
    /// Bare CR, bare LF or NUL in message data: the attempt that smuggles a second message.
    Smuggling = 27, "smuggling", "message data with bare CR, bare LF or NUL";
    /// A command that isn't SMTP (GET, POST, CONNECT).
    NonSmtp = 28, "non_smtp", "not an SMTP client";
    /// Syntax error, unknown command or command out of order.
    Protocol = 29, "protocol", "protocol error";
    /// The backend refused.
    Backend = 30, "backend", "refused by the backend";
    /// The backend could not be reached or broke off.
    BackendLost = 31, "backend_lost", "backend unavailable";
    /// A deadline passed.
    Timeout = 32, "timeout", "timed out";
    /// The guard is shutting down.
    Shutdown = 33, "shutdown", "shutting down";
    /// Commands sent ahead where the reply must be awaited.
    Pipelining = 34, "pipelining", "improper pipelining";
    /// The TLS handshake failed or took too long.
    Tls = 35, "tls", "TLS handshake failed";
    /// A connection to a port for balancers without a PROXY header, with a wrong one, or from somebody else.
    ProxyHeader = 36, "proxy_header", "no valid PROXY header";
    /// Too many connections of a source in a minute.
    ConnectionRate = 37, "connection_rate", "too many connections in a minute";
    /// Too many messages of a source in an hour.
    MessageRate = 38, "message_rate", "too many messages in an hour";
    /// Too many connections of a network: an IPv4 /24 or an IPv6 /48.
    NetworkConnections = 39, "network_connections", "too many connections from the network";
    // What checks refuse, or only observe.
    /// The sender's domain has no MX, A or AAAA.
    SenderDomain = 40, "sender_domain", "sender domain does not exist";
    /// The sender's domain says that it takes no mail (RFC 7505).
    NullMx = 41, "null_mx", "sender domain takes no mail";
    /// DNS gave no answer about the sender's domain.
    SenderLookup = 42, "sender_lookup", "sender domain could not be looked up";
    /// The client has no reverse DNS entry.
    NoPtr = 43, "no_ptr", "no reverse DNS entry";
    /// The client's reverse DNS entry doesn't point back to it.
    PtrForward = 44, "ptr_forward", "reverse DNS entry does not point back";
    /// The client spoke before the greeting.
    EarlyTalker = 45, "early_talker", "spoke before the greeting";
    /// The client is in DNS block lists.
    Dnsbl = 46, "dnsbl", "found in DNS blacklist";
    /// After too many unknown recipients a source with a history of accepted mail, or its network, hears 4xx.
    Deferred = 47, "deferred", "too many unknown recipients before";
    /// Block lists could not be asked: the client's source or network has too many look-ups under way.
    ListLookup = 48, "list_lookup", "block lists could not be asked";
    // Limits of users who have logged in.
    /// Too many messages of a user in an hour.
    UserMessageRate = 52, "user_message_rate", "too many messages of the user in an hour";
    /// Too many recipients of a user in an hour.
    UserRecipientRate = 53, "user_recipient_rate", "too many recipients of the user in an hour";
    /// A user logged in from too many networks in a day.
    UserNetworks = 54, "user_networks", "logins of the user from too many networks in a day";
    /// A user is held by the operator.
    UserHeld = 55, "user_held", "held by the administrator";
}
