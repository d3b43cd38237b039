//! The one table of configuration keys: type, range, default, whether a reload changes it, and its sentence.
//!
//! A row says all of a key. These come from it:
//!
//! - the field of the valid struct, what is read of a file, its range and its default;
//! - what `config show` writes, and what `reload` says of keys that need a restart;
//! - the packaged file and `docs/configuration.md`: `cargo xtask docs` writes both, and a test fails if they are out of
//!   date.
//!
//! `tables.rs` has the macro, `value.rs` the types that a value may have, `check.rs` what is special about one key.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::blocklist::Blocklist;
use super::checks::Dnsbl;
use super::choices::{
    AuthVia, BackendTls, EventKind, Granted, Identity, LogFormat, Mode, PageAccess, Profile, Role, Share as Shared,
    XdpMode,
};
use super::listen::Listen;
use super::secure::{Pair, Tls};
use super::tables::tables;
use super::units::{show_duration, show_size};
use super::value::RawEntry;
use super::{check, checks, raw};
use crate::addr::{BackendAddr, Ipv6Prefix, NetSet};
use crate::webhook::Endpoint;

/// A table of the file.
#[derive(Debug)]
pub struct Table {
    /// Empty: keys that stand before all tables.
    pub name: &'static str,
    pub shown: Shown,
    pub doc: &'static str,
    pub keys: &'static [Key],
}

impl Table {
    /// The line that its keys stand below.
    fn heading(&self) -> String {
        match self.shown {
            Shown::Once => format!("[{}]", self.name),
            Shown::Block | Shown::Example => format!("[[{}]]", self.name),
        }
    }
}

/// The way in which the packaged file shows a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Once,
    /// One block for each entry, and one of them has to be there; the packaged file has it commented out.
    Block,
    /// One block for each entry; the packaged file has an example that is commented out.
    Example,
}

/// A key.
#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// As the file has it.
    pub default: &'static str,
    /// There is no default, or it is the host's; the packaged file has `default` as an example.
    pub example: bool,
    /// There is no default, and it has to be set; the packaged file has `default` as an example.
    pub must: bool,
    /// Why it keeps its value until the guard is started anew; `None`: it changes while the guard runs.
    pub restart: Option<&'static str>,
    pub doc: &'static str,
}

/// The kind of value that a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Text of a form with this name.
    Text(&'static str),
    /// A list of such texts.
    List(&'static str),
    Choice(&'static [&'static str]),
    Switch,
    Number(u32, u32),
    /// 0.0 to 1.0.
    Share,
    /// In milliseconds.
    Duration(u64, u64),
    /// In bytes.
    Size(u64, u64),
}

impl Kind {
    /// As the reference writes it.
    pub fn text(self) -> String {
        let duration = |ms| show_duration(Duration::from_millis(ms));
        match self {
            Self::Text(form) => form.to_owned(),
            Self::List(form) => format!("list of {form}"),
            Self::Choice(names) => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
            Self::Switch => String::from("true or false"),
            Self::Number(low, high) => format!("number, {low} to {high}"),
            Self::Share => String::from("number, 0.0 to 1.0"),
            Self::Duration(low, high) => format!("duration, {} to {}", duration(low), duration(high)),
            Self::Size(low, high) => format!("size, {} to {}", show_size(low), show_size(high)),
        }
    }
}

const SECOND: u64 = 1000;
const DAY: u64 = 86_400 * SECOND;
/// The longest ban: ten years.
const LONGEST: u64 = 3650 * DAY;
/// The longest greeting delay: clients wait five minutes (RFC 5321 4.5.3.2.1), and honest ones not much less.
const GREETING: u64 = 60 * SECOND;
/// Less than a second to wait says nothing about a server: there are two tries.
const PATIENCE: u64 = 2 * SECOND;
const MILLION: u32 = 1_000_000;

const MODES: &[&str] = &names(&Mode::NAMES);
const GRANTED: &[&str] = &names(&Granted::NAMES);

const fn names<T: Copy, const N: usize>(pairs: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut at = 0;
    while at < N {
        names[at] = pairs[at].0;
        at += 1;
    }
    names
}

const fn key(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { name, kind, default, example: false, must: false, restart: None, doc }
}

impl Key {
    const fn example(mut self) -> Self {
        self.example = true;
        self
    }

    const fn must(mut self) -> Self {
        self.must = true;
        self
    }

    const fn fixed(mut self, why: &'static str) -> Self {
        self.restart = Some(why);
        self
    }
}

use Kind::{Choice, Duration as Time, List, Number, Share, Size, Switch, Text};

#[rustfmt::skip]
tables! {
    /// Everything that was configured, checked and with defaults filled in.
    table Config("", Once, "") holding {
        listen: Vec<Listen>, tls: Option<Tls>, backend: Backend, replies: Replies, relay: Relay, auth: Auth, recipients: Recipients, limits: Limits,
        harvest: Harvest, checks: Checks, dnsbl: Vec<Dnsbl>, dns: Dns, edge: Edge, blocklist: Vec<Blocklist>, fleet: Fleet,
        events: Events, metrics: Metrics, admin: Admin, state: State, log: Log,
    } {
        hostname: String = key(Text("host name"), "\"mx.example.org\"", "Our name in the greeting and in Received headers. Default: the host's own name.").example() by check::hostname,
        exempt: NetSet = key(List("networks"), "[]", "Never limited, checked, delayed or banned, and may send anywhere: your own gateways, monitoring, mailing-list servers. Wins over everything, in the kernel too. Loopback is not exempt by itself."),
        drain: Duration = key(Time(0, 600 * SECOND), "\"10s\"", "How long transactions may go on after a stop. Idle sessions hear 421 at once."),
    }

    entry Listen("listen", Block, "One block for each socket.") {
        address: raw::Text = key(Text("address and port"), "\"0.0.0.0:25\"", "Address and port to listen on. A socket is for one family: [::]:25 takes IPv6 only.").must(),
        role: raw::Text = key(Choice(&names(&Role::NAMES)), "\"mx\"", "mx: mail from other servers. submission: mail from users (port 587), who must send STARTTLS and then AUTH. submissions: the same with TLS from the first byte (port 465)."),
        proxy_protocol: raw::List = key(List("networks"), "[]", "Balancers in front of the guard. They must send a PROXY header (v1 or v2); every other address is refused."),
    }

    entry Tls("tls", Once, "Certificate and key, as PEM files. Without them STARTTLS is not offered. They are read again when they change.") holding { also: Vec<Spanned<RawEntry<Pair>>> } {
        certificate: raw::Text = key(Text("path"), "\"\"", "The guard's certificate first, then the intermediate ones up to the root."),
        key: raw::Text = key(Text("path"), "\"\"", "The certificate's key."),
    }

    entry Pair("tls.also", Example, "A certificate with a key of another kind (RSA beside ECDSA), for clients that know only that.") {
        certificate: raw::Text = key(Text("path"), "\"/etc/smtp-guard/tls/rsa.pem\"", "As in [tls].").example(),
        key: raw::Text = key(Text("path"), "\"/etc/smtp-guard/tls/rsa.key\"", "As in [tls].").example(),
    }

    /// The mail server behind us.
    table Backend("backend", Once, "The mail server behind the guard.") {
        // Never empty, but for `run` without a file, where the built-in sink takes this place.
        servers: Vec<BackendAddr> = key(List("addresses or names, with ports"), "[\"127.0.0.1:10025\"]", "Address or name, with a port. The first that answers is used. Failover is possible until MAIL FROM was accepted, never after. A name is looked up again at each probe: every minute, or every two seconds while no server answers.").must() by check::servers,
        tls: BackendTls = key(Choice(&names(&BackendTls::NAMES)), "\"opportunistic\"", "off, opportunistic (if the server offers it), required, or verified (required, with a certificate that can be verified)."),
        tls_ca: Option<PathBuf> = key(Text("path"), "\"\"", "For verified: a PEM file of the authorities to trust. Empty: the system's."),
        tls_name: Option<String> = key(Text("host name"), "\"\"", "For verified: the name in the certificate. Empty: the server's name or address."),
        identity: Identity = key(Choice(&names(&Identity::NAMES)), "\"xclient\"", "How the mail server learns the client's address: xclient, proxy-v1, proxy-v2, or none (from the Received header only). A mail server that rejects this method is not used, since all mail would seem to come from the guard: senders hear 451."),
        profile: Profile = key(Choice(&names(&Profile::NAMES)), "\"generic\"", "The mail server's wording of \"unknown recipient\": postfix, exim, exchange, kerio, dovecot, stalwart, opensmtpd, or generic (550 5.1.1 and nothing else)."),
        connect_timeout: Duration = key(Time(100, 300 * SECOND), "\"10s\"", "Longest wait for a connection to a server."),
        connections: u32 = key(Number(1, MILLION), "90", "Connections to each server at once. Keep it below the server's own limit (Postfix: 100). A client that finds none free waits for its turn; after four minutes it hears 451."),
        reuse: bool = key(Switch, "true", "Whether a connection that ended cleanly serves the next client. It waits for two seconds, and ends after 100 messages or five minutes. With identity = \"none\" it serves any client. With xclient it serves any client if the server takes a second XCLIENT, else (Postfix) the same client only. With PROXY headers nothing is used again."),
        connect_early: bool = key(Switch, "true", "Whether a connection is opened at EHLO, and not at MAIL, for clients that are likely to send mail: exempt ones, relay.networks, and known senders. Such a client waits less. Nothing is opened if a connection waits that can be used again, or if half of backend.connections are in use. An unused connection serves the next client, or ends with QUIT after five seconds."),
    }

    /// What clients hear beside the reason of a refusal.
    table Replies("replies", Once, "Text that clients hear beside the reason of a refusal. Refusals of the guard end with the id of the session; each log line about the session has it, too.") {
        // Printable ASCII.
        contact: String = key(Text("text"), "\"\"", "Contact for senders that were refused by policy (421, 450, 550 and 554). A page, an address or both: \"https://example.org/blocked or postmaster@example.org\". At most 128 printable ASCII characters. Empty: no contact is named.") by check::contact,
    }

    /// Who may send where.
    table Relay("relay", Once, "Relaying: the senders that may send to each domain.") {
        // Lower case, without a final dot, sorted.
        domains: Vec<String> = key(List("domains"), "[\"example.org\"]", "Mail to these domains is accepted from anyone. A subdomain is a domain of its own.").must() by check::domains,
        networks: NetSet = key(List("networks"), "[]", "Clients that may send anywhere. A large part of the Internet would make an open relay, and is refused."),
        authenticated: bool = key(Switch, "true", "Users who have logged in may send anywhere."),
    }

    /// Where credentials are judged.
    table Auth("auth", Once, "Logins of users. Passwords are taken under TLS only.") {
        via: AuthVia = key(Choice(&names(&AuthVia::NAMES)), "\"backend\"", "The judge of passwords: backend (over the client's own connection to it), dovecot, or off."),
        dovecot_socket: PathBuf = key(Text("path"), "\"/run/dovecot/auth-client\"", "Dovecot's socket for auth clients, for via = \"dovecot\"."),
        failures: u32 = key(Number(1, 1000), "10", "Failed logins of a source within the window that lead to a ban."),
        failure_window: Duration = key(Time(SECOND, DAY), "\"1m\"", "How long a failed login counts."),
        ban: Duration = key(Time(SECOND, LONGEST), "\"5m\"", "How long a ban for failed logins lasts."),
    }

    /// What is known of the backend's recipients.
    table Recipients("recipients", Once, "") {
        known: Option<PathBuf> = key(Text("path"), "\"\"", "A file with one address or @domain a line. All other recipients in relay.domains are refused, and never reach the backend. Empty: the backend is asked. The file is read again when it changes, as a whole or not at all: write it under another name and rename it. If a line can't be used, the old table stays, and the log names the line. Without a file, the guard remembers a recipient that the backend has refused to two sources and two senders, and refuses it itself for up to five minutes. If the backend accepts any recipient, guessing can't be recognised: use a file then. The guard tries a random recipient every hour, and warns."),
        // As `wire::address::Mailbox::key` has them.
        traps: Vec<String> = key(List("addresses"), "[]", "Addresses that nobody uses, placed where harvesters look for addresses. A source that asks for one is banned at once, so never name an address that was ever in use.") by check::traps,
    }

    /// Limits for each source, session and message.
    table Limits("limits", Once, "Limits for each source: an IPv4 address, or an IPv6 prefix. The keys user_... are for each user, and total_connections is for the whole guard.") {
        ipv6_prefix: Ipv6Prefix = key(Number(*Ipv6Prefix::RANGE.start() as u32, *Ipv6Prefix::RANGE.end() as u32), "64", "Length of the IPv6 prefix that is one source.").fixed("all that was counted is counted by it"),
        connections: u32 = key(Number(1, MILLION), "20", "Connections of one source at once; further ones hear 421."),
        connections_per_minute: u32 = key(Number(0, MILLION), "0", "Connections of one source in a minute, then 421. 0: no limit."),
        messages_per_hour: u32 = key(Number(0, MILLION), "0", "Messages of one source in an hour, counted at MAIL, then 450. 0: no limit. 1000 messages an hour are plenty for most senders."),
        user_messages_per_hour: u32 = key(Number(0, MILLION), "0", "Messages in an hour of each user who has logged in, from any address. 0: no limit. A user over one of the three limits of users is held: this user alone hears 450 until there is room again. A stolen password shows in all three. `smtp-guard accounts list` shows what your users need."),
        user_recipients_per_hour: u32 = key(Number(0, MILLION), "0", "Accepted recipients of a user in an hour. 0: no limit."),
        user_networks_per_day: u32 = key(Number(0, 1000), "0", "Networks (IPv4 /24, IPv6 /48) that a user logs in from in a day. 0: no limit."),
        recipients: u32 = key(Number(1, 100_000), "100", "Accepted recipients in one message; further ones hear 452."),
        // As decoded.
        message_size: u64 = key(Size(1 << 10, 10 << 30), "\"25MiB\"", "Larger messages hear 552."),
        failed_commands: u32 = key(Number(1, 10_000), "20", "Failed commands in one session, then 421. From half of this number on, each failure costs one second."),
        junk_commands: u32 = key(Number(1, MILLION), "100", "RSET, NOOP, VRFY, HELP and repeated EHLO since the session's last accepted message; then 421."),
        total_connections: u32 = key(Number(1, MILLION), "10000", "Connections of the whole guard at once. A tenth is kept for known senders, whose mail was accepted in the last 30 days. When all are taken, an idle newcomer of the network that holds most connections hears 421, and a new client gets its place."),
        network_connections: u32 = key(Number(0, MILLION), "500", "Connections of one IPv4 /24 or IPv6 /48 at once. 0: no limit."),
        session_time: Duration = key(Time(60 * SECOND, DAY), "\"1h\"", "Longest session. A transaction under way may still end."),
    }

    /// When unknown recipients are a harvest.
    table Harvest("harvest", Once, "Directory harvesting is asking for many addresses to find out which exist. A source is banned when it reaches both figures within the window. A source with a history (ten or more accepted messages from before the window) is deferred (450) instead, and so are cases of doubt: docs/bans.md.") {
        unknown_recipients: u32 = key(Number(1, 1000), "10", "Distinct unknown recipients that a source asks for within the window."),
        unknown_share: f64 = key(Share, "0.5", "Share of unknown recipients among all that the source asked for: more than this."),
        window: Duration = key(Time(SECOND, 7 * DAY), "\"1h\"", "How long an unknown recipient counts."),
        delay: Duration = key(Time(0, 60 * SECOND), "\"5s\"", "Delay before each reply that says \"unknown recipient\"."),
        ban: Duration = key(Time(SECOND, LONGEST), "\"1h\"", "The first ban; each repeat doubles it, up to ban_max."),
        ban_max: Duration = key(Time(SECOND, LONGEST), "\"7d\"", "The longest ban."),
    }

    /// What is checked of clients that are strangers: not exempt, not in `relay.networks`, not logged in.
    table Checks("checks", Once, "Checks of strangers: all clients except exempt ones, those in relay.networks, and users who have logged in. off, observe (log and count what would be refused, and refuse nothing) or enforce.") {
        sender_domain: Mode = key(Choice(MODES), "\"enforce\"", "The sender's domain has MX, A or AAAA. Temporary DNS failures are answered 450."),
        ptr: Mode = key(Choice(MODES), "\"observe\"", "The client has a reverse DNS entry. This check and the next one refuse some honest servers: observe first."),
        ptr_forward: Mode = key(Choice(MODES), "\"off\"", "The client's reverse DNS name has the client's address."),
        early_talker: Mode = key(Choice(MODES), "\"enforce\"", "The client waits for the greeting before it speaks."),
        greeting_delay: Duration = key(Time(0, GREETING), "\"6s\"", "Delay of the greeting for newcomers: strangers of whom no mail was accepted in the last 30 days. It holds also while early_talker observes."),
        dnsbl: Mode = key(Choice(MODES), "\"enforce\"", "The client's address is not in DNS block lists whose weights reach the threshold. Nothing is asked until [[dnsbl]] names a list."),
        dnsbl_threshold: u32 = key(Number(1, MILLION), "2", "Sum of weights at which a client is refused."),
        bare_newline: Granted = key(Choice(GRANTED), "\"own\"", "Senders whose bare LF in message data is repaired, as printers and scripts send it. own (relay.networks, exempt clients, users who have logged in), all or none. Anybody else hears 550. In chunks (BDAT), whose length is known, it is repaired for everybody, except with none."),
        chunking: bool = key(Switch, "true", "Whether CHUNKING (BDAT, RFC 3030) is offered. Without it, some large senders return mail with a bare LF to its author. The mail server needs no CHUNKING: all mail goes to it by DATA."),
        success_notices: Granted = key(Choice(GRANTED), "\"own\"", "Senders that may ask for notices of delivery (DSN, NOTIFY=SUCCESS): own, all or none. Anybody else's request is left out; the message is accepted."),
    }

    entry Dnsbl("dnsbl", Example, "A block list in DNS; one [[dnsbl]] each. Without a weight, a list reaches the threshold alone. Without replies, every answer in 127.0.0.0/8 from 127.0.0.2 on counts. A zone may contain a secret key. With a name, the zone is shown nowhere. Without one, its first label is hidden if it has more than 20 letters and digits.") {
        zone: raw::Text = key(Text("domain"), "\"bl.example.net\"", "The zone that is asked.").example(),
        name: raw::Text = key(Text("word"), "\"bl\"", "The list's name in refusals, log, metrics and `status`. Default: the zone, without a key.").example(),
        weight: raw::Number = key(Number(1, MILLION), "2", "What a listing counts. Default: checks.dnsbl_threshold.").example(),
        replies: raw::List = key(List("answers or ranges of them"), "[\"127.0.0.2-127.0.0.11\"]", "Answers that mean \"listed\".").example(),
    }

    /// Who is asked.
    table Dns("dns", Once, "") {
        servers: Vec<SocketAddr> = key(List("addresses"), "[]", "Name servers, as \"192.0.2.53\" or \"192.0.2.53:5353\"; a caching one nearby is best. Empty: the system's.") by checks::resolvers,
        timeout: Duration = key(Time(PATIENCE, 60 * SECOND), "\"5s\"", "Longest wait for all look-ups of one decision together."),
    }

    /// The kernel plane.
    table Edge("edge", Once, "The kernel plane of this host: packets of banned sources are dropped before the network stack sees them.") {
        interfaces: Vec<String> = key(List("interfaces"), "[]", "Network interfaces at which mail arrives. Empty: no kernel plane; the proxy enforces bans with a 421.") by check::interfaces,
        mode: XdpMode = key(Choice(&names(&XdpMode::NAMES)), "\"auto\"", "XDP mode of the programs: auto (driver if possible, else generic), driver or generic.").fixed("`smtp-guard edge load` puts the program there"),
        connections: u32 = key(Number(1, MILLION + 1), "50", "Ceiling in the kernel of established connections for each source. It must be above limits.connections, so that a sender hears 421 first."),
        max_sources: u32 = key(Number(1, 16_000_000), "1_000_000", "Sources that the kernel's maps have room for.").fixed("maps and tables were made for so many"),
        // Programs and maps are below it, in a directory named after the ABI version.
        pin_directory: PathBuf = key(Text("path"), "\"/sys/fs/bpf/smtp-guard\"", "Directory on a BPF file system for the loaded programs and maps.").fixed("the kernel plane is pinned there") by check::pin_directory,
        group: String = key(Text("group"), "\"smtp-guard\"", "Group that may open the maps beside root, by name or number: the group of the proxy's user. Empty: none.").fixed("`smtp-guard edge load` hands the maps to it") by check::group,
    }

    entry Blocklist("blocklist", Example, "A file of addresses and networks to block; one [[blocklist]] each. The kernel drops their packets; without a kernel plane they hear 421. Formats, recognised by content: netset, Spamhaus DROP (text or JSON lines), CrowdSec (CSV or JSON), ipset save. A changed file is read again, as a whole or not at all: write it under another name and rename it. Entries that touch an exempt, own or private network, or are wider than /8 (IPv6 /16), are refused. `smtp-guard check` and the log name their lines.") {
        name: raw::Text = key(Text("word"), "\"drop\"", "The list's name in log, metrics and `explain`.").example(),
        file: raw::Text = key(Text("path"), "\"/var/lib/smtp-guard/drop.netset\"", "The file of the list.").example(),
        reload: raw::Text = key(Time(SECOND, 7 * DAY), "\"1m\"", "How often the file is looked at; `smtp-guard reload` looks at once."),
    }

    /// Other guards that judge as one with this one.
    table Fleet("fleet", Once, "Several hosts with smtp-guard, each called an edge here, judge as one: they share reports and decisions through a Redis or Valkey server. No session ever waits for that server; while it is away, each edge goes on alone.") {
        url: Vec<String> = key(List("URLs"), "[]", "redis://host:port, or rediss:// for TLS. An ACL user stands before an @: \"rediss://fleet@redis.example.org:6379\". Of several servers the first that answers is used. Empty: no fleet.") by check::fleet_urls,
        sentinel: String = key(Text("word"), "\"\"", "Name of the master, if url names sentinels. Empty: url names the server itself.") by check::fleet_sentinel,
        password_file: Option<PathBuf> = key(Text("path"), "\"\"", "A file that holds the password and nothing else. Empty: none."),
        tls_ca: Option<PathBuf> = key(Text("path"), "\"\"", "For rediss: a PEM file of the authorities to trust. Empty: the system's."),
        name: String = key(Text("word"), "\"edge\"", "The fleet's name. Several fleets may share a server under different names.") by check::fleet_name,
        node: String = key(Text("word"), "\"mx1\"", "This edge's name; each edge needs another one. Default: the host's own name.").example() by check::fleet_node,
        key_file: Option<PathBuf> = key(Text("path"), "\"\"", "A file with the fleet's key, the same on all edges. Messages that are not authenticated under this key are ignored, and addresses are digested (hashed) under it. At least 32 bytes, as `openssl rand -hex 32` writes them."),
        share: Shared = key(Choice(&names(&Shared::NAMES)), "\"both\"", "both, receive (take over the others' decisions and reports, send none), send (send, and take over none) or off."),
        sample: bool = key(Switch, "true", "Whether decisions that are sent name unknown recipients in clear, as evidence. Reports never do."),
    }

    /// Who is told of events.
    table Events("events", Once, "Events that are sent to a program of yours by HTTP: docs/events.md. Mail doesn't wait for it, also if it doesn't answer.") {
        webhook: Option<Endpoint> = key(Text("URL"), "\"\"", "Where events are sent by POST: \"https://ops.example.org/smtp-guard\"; http only within this host or a network that you trust. Redirects are not followed. Empty: nowhere."),
        secret_file: Option<PathBuf> = key(Text("path"), "\"\"", "A file with the secret that signs requests (HMAC-SHA256). At least 32 bytes, as `openssl rand -hex 32` writes them. White space at its ends doesn't count."),
        tls_ca: Option<PathBuf> = key(Text("path"), "\"\"", "For https: a PEM file of the authorities to trust. Empty: the system's."),
        kinds: Vec<EventKind> = key(List("events"), "[]", "Events to send, by their names in docs/json.md: [\"banned\", \"lifted\"]. Empty: all except connection_refused, command_refused and message, which are frequent and name senders and recipients."),
        timeout: Duration = key(Time(100, 60 * SECOND), "\"10s\"", "Longest wait for an answer; then the request is sent again later."),
    }

    /// The HTTP endpoint for metrics and health.
    table Metrics("metrics", Once, "") {
        listen: Option<SocketAddr> = key(Text("address and port"), "\"127.0.0.1:9925\"", "Where HTTP is served: /metrics, /livez, /readyz, and the status page on /. Empty: nowhere."),
        page: PageAccess = key(Choice(&names(&PageAccess::NAMES)), "\"loopback\"", "Who may read the status page, which shows addresses of clients and recipients. loopback: it is served only if listen is a loopback address. everywhere: anyone who reaches listen can read it. off: nobody."),
    }

    /// The socket of the command line.
    table Admin("admin", Once, "") {
        socket: PathBuf = key(Text("path"), "\"/run/smtp-guard/admin.sock\"", "Socket by which commands (status, explain, decisions, ...) reach the running guard. The guard's user and group may use it.").fixed("the command line finds the guard by it") by check::socket,
    }

    /// What survives a restart.
    table State("state", Once, "") {
        directory: PathBuf = key(Text("path"), "\"/var/lib/smtp-guard\"", "Bans, counts and the secret that addresses are digested under: all that survives a restart.").fixed("the store is open there"),
    }

    /// The log on standard error.
    table Log("log", Once, "") {
        format: LogFormat = key(Choice(&names(&LogFormat::NAMES)), "\"json\"", "json, text, or kerio (security lines in the words of Kerio Connect), on standard error."),
        level: String = key(Text("filter"), "\"info\"", "error, warn, info, debug or trace; or by module: \"warn,smtp_guard=debug\". Lines about bans and refusals are \"security\" at info: \"warn,security=info\" keeps them.") by check::level,
    }
}

/// The row of a key by its whole name: `limits.recipients`.
fn row(name: &str) -> Option<&'static Key> {
    let (table, key) = name.rsplit_once('.').unwrap_or(("", name));
    TABLES.iter().find(|row| row.name == table)?.keys.iter().find(|row| row.name == key)
}

/// Where a key of this name stands, as words that follow "belongs"; `None`: there is no such key.
pub(super) fn place(name: &str) -> Option<String> {
    let tables: Vec<_> = TABLES.iter().filter(|table| table.keys.iter().any(|key| key.name == name)).collect();
    let headings: Vec<_> = tables.iter().map(|table| table.heading()).collect();
    match headings.split_last()? {
        _ if tables.iter().any(|table| table.name.is_empty()) => {
            Some(String::from("at the top of the file, before the first [...]"))
        }
        (only, []) => Some(format!("below {only}")),
        (last, others) => Some(format!("below {} or {last}", others.join(", "))),
    }
}

/// Why the key with this whole name keeps its value until the guard is started anew; `None`: it changes while the guard runs.
pub fn needs_restart(name: &str) -> Option<&'static str> {
    row(name)?.restart
}

/// The whole names of all keys that need a restart.
pub fn fixed() -> impl Iterator<Item = String> {
    let keys = TABLES.iter().flat_map(|table| table.keys.iter().map(move |key| (table.name, key)));
    keys.filter(|(_, key)| key.restart.is_some()).map(|(table, key)| format!("{table}.{}", key.name))
}

/// The range of a number. A key without a row would take any; a test holds that all have one.
pub(super) fn numbers(name: &str) -> RangeInclusive<u32> {
    match row(name).map(|row| row.kind) {
        Some(Number(low, high)) => low..=high,
        _ => 0..=u32::MAX,
    }
}

/// The range of a duration's key.
pub(super) fn durations(name: &str) -> RangeInclusive<Duration> {
    match row(name).map(|row| row.kind) {
        Some(Time(low, high)) => Duration::from_millis(low)..=Duration::from_millis(high),
        _ => Duration::ZERO..=Duration::MAX,
    }
}

/// The range of a size's key.
pub(super) fn sizes(name: &str) -> RangeInclusive<u64> {
    match row(name).map(|row| row.kind) {
        Some(Size(low, high)) => low..=high,
        _ => 0..=u64::MAX,
    }
}

/// The default as text, without quotes.
pub(super) fn text(name: &str) -> &'static str {
    row(name).map_or("", |row| row.default).trim_matches('"')
}

/// The packaged file. It sets nothing, so that a package can tell whether it was configured.
pub fn packaged() -> String {
    let mut text = String::from(
        "# smtp-guard configuration. `smtp-guard check` names every error with line, column and what to do.\n#\n\
         # Nothing is set here yet. What must be set: [[listen]] address, [backend] servers and [relay] domains.\n\
         # All other keys are here with their defaults. The reference is docs/configuration.md.\n#\n\
         # The files smtp-guard.toml.d/*.toml are read after this one, in the order of their names. Tables are merged,\n\
         # [[blocks]] are added, and of a key that is set twice the later value counts, lists included.\n#\n\
         # Sizes: \"25MiB\" (B, KiB, MiB, GiB). Durations: \"500ms\", \"6s\", \"5m\", \"1h\", \"7d\". Addresses: single or CIDR, IPv4 or IPv6.\n",
    );
    for table in TABLES {
        text.push('\n');
        comment(&mut text, table.doc);
        let (indent, says_more) = match table.shown {
            Shown::Once | Shown::Block => ("", true),
            Shown::Example => ("  ", false),
        };
        // Infallible: a String takes everything.
        _ = match table.shown {
            _ if table.name.is_empty() => Ok(()),
            Shown::Once => writeln!(text, "{}", table.heading()),
            Shown::Block | Shown::Example => writeln!(text, "#{}", table.heading()),
        };
        for key in table.keys {
            if says_more {
                comment(&mut text, key.doc);
            }
            _ = writeln!(text, "#{indent}{} = {}", key.name, key.default);
        }
    }
    text
}

/// `doc` as lines of a comment.
fn comment(text: &mut String, doc: &str) {
    const WIDTH: usize = 120;
    let mut line = String::from("#");
    for word in doc.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > 1 {
        text.push_str(&line);
        text.push('\n');
    }
}

/// The reference of all keys, as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration\n\n`cargo xtask docs` writes this page from `smtp-guard/core/src/config/keys.rs`; don't edit it.\n\n\
         `smtp-guard reload` applies changes while mail flows. Only keys with \"restart\" in the column \"changes\" need a restart.\n\n\
         # Several files\n\nThe main file is `/etc/smtp-guard/smtp-guard.toml`, or the file that `--config` names. After it, the files in the directory\n\
         of the same name with `.d` are read: `/etc/smtp-guard/smtp-guard.toml.d/*.toml`, at most 64, in the order of their names.\n\n\
         - Tables are merged key by key.\n\
         - Blocks (`[[listen]]`, `[[dnsbl]]`, `[[blocklist]]`, `[[tls.also]]`) are added to those that are there.\n\
         - A key that is set twice takes its last value. A list counts as one value: it replaces the earlier list.\n\n\
         `smtp-guard config show` shows the configuration that all files together make. All files together have at most 1 MiB. The main file must exist; it may be empty.\n\n\
         # Keys\n",
    );
    for table in TABLES {
        let heading = match table.name {
            "" => String::from("Before all tables"),
            _ => format!("`{}`", table.heading()),
        };
        _ = write!(text, "\n## {heading}\n\n");
        if !table.doc.is_empty() {
            _ = write!(text, "{}\n\n", table.doc);
        }
        text.push_str("| key | takes | default | changes | |\n|---|---|---|---|---|\n");
        for key in table.keys {
            let default = match key.example || key.must {
                true => format!("none; for example `{}`", key.default),
                false => format!("`{}`", key.default),
            };
            let changes = key.restart.map_or_else(|| String::from("at a reload"), |why| format!("restart: {why}"));
            _ = writeln!(text, "| `{}` | {} | {default} | {changes} | {} |", key.name, key.kind.text(), key.doc);
        }
    }
    text
}
