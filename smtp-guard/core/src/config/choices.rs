//! Keys whose value is one word of several.

use serde::{Deserialize, Serialize};

/// The role of a socket: who connects to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Other mail servers.
    #[default]
    Mx,
    /// Users: STARTTLS, then AUTH, both required (RFC 6409).
    Submission,
    /// Users: TLS from the first byte (RFC 8314 3.3), then AUTH.
    Submissions,
}

impl Role {
    /// Each with its name in the configuration.
    pub const NAMES: [(&str, Self); 3] =
        [("mx", Self::Mx), ("submission", Self::Submission), ("submissions", Self::Submissions)];

    /// Its name in the configuration.
    pub fn label(self) -> &'static str {
        Self::NAMES.iter().find(|(_, role)| *role == self).map_or("mx", |(name, _)| name)
    }
}

/// The judge of credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthVia {
    /// The backend, over the session's connection to it.
    #[default]
    Backend,
    /// Dovecot, over its auth client socket.
    Dovecot,
    Off,
}

impl AuthVia {
    pub(super) const NAMES: [(&str, Self); 3] =
        [("backend", Self::Backend), ("dovecot", Self::Dovecot), ("off", Self::Off)];
}

/// TLS towards the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendTls {
    Off,
    /// Where it is offered; nothing is verified.
    #[default]
    Opportunistic,
    /// Always; nothing is verified.
    Required,
    /// Always, and the certificate must be good.
    Verified,
}

impl BackendTls {
    pub(super) const NAMES: [(&str, Self); 4] = [
        ("off", Self::Off),
        ("opportunistic", Self::Opportunistic),
        ("required", Self::Required),
        ("verified", Self::Verified),
    ];
}

/// The way in which the backend learns the client's address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    #[default]
    Xclient,
    #[serde(rename = "proxy-v1")]
    ProxyV1,
    #[serde(rename = "proxy-v2")]
    ProxyV2,
    /// From our Received header only.
    None,
}

impl Identity {
    pub(super) const NAMES: [(&str, Self); 4] =
        [("xclient", Self::Xclient), ("proxy-v1", Self::ProxyV1), ("proxy-v2", Self::ProxyV2), ("none", Self::None)];
}

/// The mail server whose words for "unknown recipient" are expected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    Postfix,
    Exim,
    Exchange,
    Kerio,
    Dovecot,
    Stalwart,
    OpenSmtpd,
    /// `550 5.1.1` and nothing else.
    #[default]
    Generic,
}

impl Profile {
    pub(super) const NAMES: [(&str, Self); 8] = [
        ("postfix", Self::Postfix),
        ("exim", Self::Exim),
        ("exchange", Self::Exchange),
        ("kerio", Self::Kerio),
        ("dovecot", Self::Dovecot),
        ("stalwart", Self::Stalwart),
        ("opensmtpd", Self::OpenSmtpd),
        ("generic", Self::Generic),
    ];
}

/// The mode of a check: what it does with what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Off,
    /// Log and count what would have been refused; refuse nothing.
    Observe,
    Enforce,
}

impl Mode {
    pub(super) const NAMES: [(&str, Self); 3] =
        [("off", Self::Off), ("observe", Self::Observe), ("enforce", Self::Enforce)];

    /// Whether anything is looked at.
    pub fn is_on(self) -> bool {
        self != Self::Off
    }
}

/// The group that something is granted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Granted {
    /// Exempt clients, those in `relay.networks`, and users who have logged in.
    #[default]
    Own,
    All,
    None,
}

impl Granted {
    pub(super) const NAMES: [(&str, Self); 3] = [("own", Self::Own), ("all", Self::All), ("none", Self::None)];
}

/// The place in the stack where XDP runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Driver, else generic.
    #[default]
    Auto,
    Driver,
    Generic,
}

impl XdpMode {
    pub(super) const NAMES: [(&str, Self); 3] =
        [("auto", Self::Auto), ("driver", Self::Driver), ("generic", Self::Generic)];
}

/// The directions in which an edge shares with its fleet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    #[default]
    Both,
    Receive,
    Send,
    Off,
}

impl Share {
    pub(super) const NAMES: [(&str, Self); 4] =
        [("both", Self::Both), ("receive", Self::Receive), ("send", Self::Send), ("off", Self::Off)];

    /// Whether others are told.
    pub fn sends(self) -> bool {
        matches!(self, Self::Both | Self::Send)
    }

    /// Whether others are followed.
    pub fn receives(self) -> bool {
        matches!(self, Self::Both | Self::Receive)
    }
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Json,
    Text,
    /// As text, but what tools look for in the words of Kerio Connect.
    Kerio,
}

impl LogFormat {
    pub(super) const NAMES: [(&str, Self); 3] = [("json", Self::Json), ("text", Self::Text), ("kerio", Self::Kerio)];
}

/// Readers of the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PageAccess {
    /// Where `metrics.listen` is an address of the loopback interface: whoever is on this host.
    #[default]
    Loopback,
    /// Whoever reaches `metrics.listen`.
    Everywhere,
    Off,
}

impl PageAccess {
    pub(super) const NAMES: [(&str, Self); 3] =
        [("loopback", Self::Loopback), ("everywhere", Self::Everywhere), ("off", Self::Off)];
}

/// An event, by the word that it has in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Banned,
    Lifted,
    LiftedMore,
    Deferred,
    Imported,
    AllLifted,
    ConnectionRefused,
    CommandRefused,
    Message,
    UserHeld,
    UserReleased,
    Reloaded,
    ReloadRefused,
    Backend,
    Blocklist,
    Kernel,
    Certificate,
    Fleet,
    FleetNode,
    Test,
}

impl EventKind {
    /// All that may be chosen, with their words.
    pub const NAMES: [(&str, Self); 19] = [
        ("banned", Self::Banned),
        ("lifted", Self::Lifted),
        ("lifted_more", Self::LiftedMore),
        ("deferred", Self::Deferred),
        ("imported", Self::Imported),
        ("all_lifted", Self::AllLifted),
        ("connection_refused", Self::ConnectionRefused),
        ("command_refused", Self::CommandRefused),
        ("message", Self::Message),
        ("user_held", Self::UserHeld),
        ("user_released", Self::UserReleased),
        ("reloaded", Self::Reloaded),
        ("reload_refused", Self::ReloadRefused),
        ("backend", Self::Backend),
        ("blocklist", Self::Blocklist),
        ("kernel", Self::Kernel),
        ("certificate", Self::Certificate),
        ("fleet", Self::Fleet),
        ("fleet_node", Self::FleetNode),
    ];

    /// Whether it is one of many: clients cause it, and it says who wrote to whom.
    pub const fn is_of_traffic(self) -> bool {
        matches!(self, Self::ConnectionRefused | Self::CommandRefused | Self::Message)
    }
}
