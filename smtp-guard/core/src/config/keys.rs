//! The one table of configuration keys: type, range, default, whether a reload changes it, and its sentence.
//!
//! From it come the ranges that `check` holds a file against, what `reload` says of keys that need a restart, the packaged
//! file and `docs/configuration.md` (`cargo xtask docs` writes both; a test says when they are out of date).
//! [`super::raw`] has the same keys with their types, and [`super::defaults`] takes the defaults from here; tests hold all against this.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::choices::{AuthVia, BackendTls, Granted, Identity, LogFormat, Mode, Profile, Role, XdpMode};
use super::units::{show_duration, show_size};
use crate::addr::Ipv6Prefix;

/// A table of the file.
#[derive(Debug)]
pub struct Table {
    /// Empty: keys that stand before all tables.
    pub name: &'static str,
    pub shown: Shown,
    pub doc: &'static str,
    pub keys: &'static [Key],
}

/// How the packaged file shows a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Once,
    /// One block for each entry, and one of them has to be there.
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
    /// There is no default, and the packaged file sets it.
    pub must: bool,
    /// Why it keeps its value until the guard is started anew; `None`: it changes while the guard runs.
    pub restart: Option<&'static str>,
    pub doc: &'static str,
}

/// What a key takes.
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
    fn text(self) -> String {
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

/// All of it, in the order of the packaged file.
#[rustfmt::skip]
pub const TABLES: &[Table] = &[
    Table { name: "", shown: Shown::Once, doc: "", keys: &[
        key("hostname", Text("host name"), "\"mx.example.org\"", "Our name in the greeting and in Received headers. Default: the host's own name.").example(),
        key("exempt", List("networks"), "[]", "Never limited, checked, delayed or banned: your own gateways, monitoring, mailing-list servers. Wins over everything, in the kernel too. Loopback is not exempt by itself."),
        key("drain", Time(0, 600 * SECOND), "\"10s\"", "How long transactions may go on after a stop; idle sessions hear 421 at once."),
    ] },
    Table { name: "listen", shown: Shown::Block, doc: "One block for each socket.", keys: &[
        key("address", Text("address and port"), "\"0.0.0.0:25\"", "Sockets are bound to one family each: [::]:25 takes IPv6 only.").must(),
        key("role", Choice(&names(&Role::NAMES)), "\"mx\"", "mx: mail from other servers. submission: users, who must use STARTTLS, then AUTH (port 587). submissions: the same with TLS from the first byte (port 465)."),
        key("proxy_protocol", List("networks"), "[]", "Balancers in front of us: from these a PROXY header (v1 or v2) is mandatory, everybody else is refused."),
    ] },
    Table { name: "tls", shown: Shown::Once, doc: "PEM files. Without them STARTTLS is not offered. They are read again when they change.", keys: &[
        key("certificate", Text("path"), "\"\"", "Our certificate first, then what leads to its root."),
        key("key", Text("path"), "\"\"", "The certificate's key."),
    ] },
    Table { name: "tls.also", shown: Shown::Example, doc: "A certificate with a key of another kind (RSA beside ECDSA), for clients that know only that.", keys: &[
        key("certificate", Text("path"), "\"/etc/smtp-guard/tls/rsa.pem\"", "As in [tls].").example(),
        key("key", Text("path"), "\"/etc/smtp-guard/tls/rsa.key\"", "As in [tls].").example(),
    ] },
    Table { name: "backend", shown: Shown::Once, doc: "The mail server behind the guard.", keys: &[
        key("servers", List("addresses or names, with ports"), "[\"127.0.0.1:10025\"]", "Address or name, with a port. The first that answers is taken; another takes over before a sender was accepted, never after. A name is looked up anew at each probe (each minute; every two seconds while no server answers).").must(),
        key("tls", Choice(&names(&BackendTls::NAMES)), "\"opportunistic\"", "off, opportunistic (where it is offered), required, or verified (and the certificate must be good)."),
        key("tls_ca", Text("path"), "\"\"", "For verified: a PEM file of the authorities to trust. Empty: the system's."),
        key("tls_name", Text("host name"), "\"\"", "For verified: the name in the certificate. Empty: the server's name or address."),
        key("identity", Choice(&names(&Identity::NAMES)), "\"xclient\"", "How the mail server learns the client's address: xclient, proxy-v1, proxy-v2, or none (from the Received header only). A mail server that doesn't play along is not used: it would take every client for the guard."),
        key("profile", Choice(&names(&Profile::NAMES)), "\"generic\"", "Whose wording of \"unknown recipient\" to expect: postfix, exim, exchange, kerio, dovecot, stalwart, opensmtpd, or generic (550 5.1.1 and nothing else)."),
        key("connect_timeout", Time(100, 300 * SECOND), "\"10s\"", "How long a server may take until it is connected."),
        key("connections", Number(1, MILLION), "90", "Connections to each server at once. Keep it below what the server takes (Postfix: 100). A client that finds none free waits for its turn; after four minutes it hears 451."),
    ] },
    Table { name: "replies", shown: Shown::Once, doc: "What clients hear beside the reason of a refusal. Refusals of ours end with the id of the session, which the log has in each line about it.", keys: &[
        key("contact", Text("text"), "\"\"", "Whom a sender may ask who was refused by policy (421, 450, 550 and 554): a page, an address or both, as in \"https://example.org/blocked or postmaster@example.org\". At most 128 printable ASCII characters. Empty: nothing is said."),
    ] },
    Table { name: "relay", shown: Shown::Once, doc: "Who may send where.", keys: &[
        key("domains", List("domains"), "[\"example.org\"]", "Mail to these domains is accepted from anyone. A subdomain is a domain of its own.").must(),
        key("networks", List("networks"), "[]", "These may send anywhere. A large part of the Internet in here would be an open relay, and is refused."),
        key("authenticated", Switch, "true", "Who has logged in may send anywhere."),
    ] },
    Table { name: "auth", shown: Shown::Once, doc: "Where passwords are judged; they are taken under TLS only.", keys: &[
        key("via", Choice(&names(&AuthVia::NAMES)), "\"backend\"", "backend (passed on over the client's own connection to it), dovecot, or off."),
        key("dovecot_socket", Text("path"), "\"/run/dovecot/auth-client\"", "Dovecot's socket for auth clients."),
        key("failures", Number(1, 1000), "10", "So many failed logins of a source within the window lead to a ban."),
        key("failure_window", Time(SECOND, DAY), "\"1m\"", "How long a failed login counts."),
        key("ban", Time(SECOND, LONGEST), "\"5m\"", "How long that ban lasts."),
    ] },
    Table { name: "recipients", shown: Shown::Once, doc: "", keys: &[
        key("known", Text("path"), "\"\"", "A file of one address or @domain a line: then unknown recipients never reach the backend. Empty: ask the backend. It is read again when it changes, as a whole or not at all: best written under another name and renamed. After a line that can't be used the old table stays, and the log says which line. While the backend is asked, an unknown recipient that it has refused to two sources and two senders is answered for it, for five minutes at most. A backend that takes any recipient (the guard tries a random one every hour, and warns) leaves no way to recognise who guesses: use a file then."),
        key("traps", List("addresses"), "[]", "Addresses that nobody uses, but that stand where harvesters look. Who asks for one is banned at once, so never put an address here that was ever in use."),
    ] },
    Table { name: "limits", shown: Shown::Once, doc: "For each source: an IPv4 address, or an IPv6 prefix.", keys: &[
        key("ipv6_prefix", Number(*Ipv6Prefix::RANGE.start() as u32, *Ipv6Prefix::RANGE.end() as u32), "64", "Length of that prefix, 32 to 64.").fixed("all that was counted is counted by it"),
        key("connections", Number(1, MILLION), "20", "Connections of one source at once; further ones hear 421."),
        key("connections_per_minute", Number(0, MILLION), "0", "Connections of one source in a minute, then 421. 0: no limit."),
        key("messages_per_hour", Number(0, MILLION), "0", "Messages of one source in an hour, counted at MAIL, then 450. 0: no limit. 1000 messages an hour are plenty for most senders."),
        key("user_messages_per_hour", Number(0, MILLION), "0", "Messages in an hour of each user who has logged in, wherever from. 0: no limit. Over one of these three limits a user is held: he hears 450 until there is room again, and nobody else does. A stolen password shows by all three. `smtp-guard accounts list` says what your users need."),
        key("user_recipients_per_hour", Number(0, MILLION), "0", "Accepted recipients of a user in an hour. 0: no limit."),
        key("user_networks_per_day", Number(0, 1000), "0", "Networks (IPv4 /24, IPv6 /48) that a user logs in from in a day. 0: no limit."),
        key("recipients", Number(1, 100_000), "100", "Accepted recipients in one message; further ones hear 452."),
        key("message_size", Size(1 << 10, 10 << 30), "\"25MiB\"", "Larger messages hear 552."),
        key("failed_commands", Number(1, 10_000), "20", "Failed commands in one session, then 421. From half of it on each failure costs one second."),
        key("junk_commands", Number(1, MILLION), "100", "RSET, NOOP, VRFY, HELP and repeated EHLO since the session's last accepted message, then 421."),
        key("total_connections", Number(1, MILLION), "10000", "Connections of the whole guard at once. A tenth is kept for senders whose mail was accepted before. When they are all taken, an idle connection of whoever holds most hears 421 in favour of the newcomer."),
        key("network_connections", Number(0, MILLION), "500", "Likewise of one IPv4 /24 or IPv6 /48. 0: no limit."),
        key("session_time", Time(60 * SECOND, DAY), "\"1h\"", "Length of a session; what is under way then may end."),
    ] },
    Table { name: "harvest", shown: Shown::Once, doc: "Directory harvesting: a source is banned when it asked for so many distinct unknown recipients within the window, and more than this share of all its recipients were unknown. Mail that was accepted forgives unknown recipients, and a source with a history of it, or one that leaves doubt, is deferred (450) where others are banned.", keys: &[
        key("unknown_recipients", Number(1, 1000), "10", "Distinct unknown recipients within the window, and ..."),
        key("unknown_share", Share, "0.5", "... more than this share of all recipients."),
        key("window", Time(SECOND, 7 * DAY), "\"1h\"", "How long an unknown recipient counts."),
        key("delay", Time(0, 60 * SECOND), "\"5s\"", "Before each reply that says \"unknown recipient\"."),
        key("ban", Time(SECOND, LONGEST), "\"1h\"", "The first ban; each repeat doubles it, up to ban_max."),
        key("ban_max", Time(SECOND, LONGEST), "\"7d\"", "The longest ban."),
    ] },
    Table { name: "checks", shown: Shown::Once, doc: "What is checked of strangers: not of exempt clients, not of those in relay.networks, not of users who have logged in. off; observe: log and count what would be refused, refuse nothing; or enforce.", keys: &[
        key("sender_domain", Choice(MODES), "\"enforce\"", "The sender's domain has MX, A or AAAA. Temporary DNS failures are answered 450."),
        key("ptr", Choice(MODES), "\"observe\"", "The client has a reverse DNS entry. Real mail is lost by this and the next: observe first."),
        key("ptr_forward", Choice(MODES), "\"off\"", "That entry points back to the client."),
        key("early_talker", Choice(MODES), "\"enforce\"", "The client speaks before the greeting."),
        key("greeting_delay", Time(0, GREETING), "\"6s\"", "How long it has to hold its tongue. Sources whose mail was accepted before don't wait."),
        key("dnsbl", Choice(MODES), "\"enforce\"", "The client's address is in block lists whose weights reach the threshold. Nothing is asked until [[dnsbl]] names one."),
        key("dnsbl_threshold", Number(1, MILLION), "2", "That threshold."),
        key("bare_newline", Choice(GRANTED), "\"own\"", "Whose bare LF in message data is repaired (printers and scripts send it): own (relay.networks, exempt clients, users who have logged in), all or none. Anybody else hears 550."),
        key("success_notices", Choice(GRANTED), "\"own\"", "Who may ask for notices of delivery (DSN, NOTIFY=SUCCESS): own, all or none. For anybody else the wish is left out."),
    ] },
    Table { name: "dnsbl", shown: Shown::Example, doc: "A block list in DNS; one [[dnsbl]] each. Without a weight a list reaches the threshold alone; without replies every answer in 127.0.0.0/8 from 127.0.0.2 on counts. A zone may hold a secret key: with a name it is shown nowhere, without one its first label is hidden where it has more than 20 letters and digits.", keys: &[
        key("zone", Text("domain"), "\"bl.example.net\"", "What is asked.").example(),
        key("name", Text("word"), "\"bl\"", "What refusals, log, metrics and `status` say. Default: the zone, without a key.").example(),
        key("weight", Number(1, MILLION), "2", "Default: checks.dnsbl_threshold.").example(),
        key("replies", List("answers or ranges of them"), "[\"127.0.0.2-127.0.0.11\"]", "Answers that mean \"listed\".").example(),
    ] },
    Table { name: "dns", shown: Shown::Once, doc: "", keys: &[
        key("servers", List("addresses"), "[]", "Name servers, as \"192.0.2.53\" or \"192.0.2.53:5353\"; a caching one nearby is best. Empty: the system's."),
        key("timeout", Time(PATIENCE, 60 * SECOND), "\"5s\"", "For all look-ups of one decision together."),
    ] },
    Table { name: "edge", shown: Shown::Once, doc: "The kernel plane: banned sources are dropped before the network stack sees them.", keys: &[
        key("interfaces", List("interfaces"), "[]", "Network interfaces that mail comes in by. Empty: no kernel plane, bans are enforced in user space."),
        key("mode", Choice(&names(&XdpMode::NAMES)), "\"auto\"", "auto (driver, else generic), driver or generic.").fixed("`smtp-guard edge load` puts the program there"),
        key("connections", Number(1, MILLION + 1), "50", "Ceiling of established connections for each source. Above limits.connections, so that a sender hears 421 first."),
        key("max_sources", Number(1, 16_000_000), "1_000_000", "Sources that the kernel's maps have room for.").fixed("maps and tables were made for so many"),
        key("pin_directory", Text("path"), "\"/sys/fs/bpf/smtp-guard\"", "On a BPF file system.").fixed("the kernel plane is pinned there"),
        key("group", Text("group"), "\"smtp-guard\"", "Group that may open the maps beside root, by name or number: that of the user whom the proxy runs as. Empty: none.").fixed("`smtp-guard edge load` hands the maps to it"),
    ] },
    Table { name: "blocklist", shown: Shown::Example, doc: "A file of addresses and networks that are dropped in the kernel, or hear 421 where there is no kernel plane; one [[blocklist]] each. netset, Spamhaus DROP (text or JSON lines), CrowdSec (CSV or JSON) or ipset save, told apart by content. It is looked at as often as reload says, and read again when it has changed, as a whole or not at all: best written under another name and renamed. Entries that touch an exempt, own or private network, or are wider than /8 (IPv6 /16), are refused; smtp-guard check and the log say which, by line.", keys: &[
        key("name", Text("word"), "\"drop\"", "What log, metrics and `explain` say.").example(),
        key("file", Text("path"), "\"/var/lib/smtp-guard/drop.netset\"", "The list.").example(),
        key("reload", Time(SECOND, 7 * DAY), "\"1h\"", "How often the file is looked at."),
    ] },
    Table { name: "metrics", shown: Shown::Once, doc: "", keys: &[
        key("listen", Text("address and port"), "\"127.0.0.1:9925\"", "HTTP: /metrics, /livez, /readyz. Empty: none."),
    ] },
    Table { name: "admin", shown: Shown::Once, doc: "", keys: &[
        key("socket", Text("path"), "\"/run/smtp-guard/admin.sock\"", "For smtp-guard status, explain and decisions; the guard's user and group may use it.").fixed("the command line finds the guard by it"),
    ] },
    Table { name: "state", shown: Shown::Once, doc: "", keys: &[
        key("directory", Text("path"), "\"/var/lib/smtp-guard\"", "What survives a restart.").fixed("the store is open there"),
    ] },
    Table { name: "log", shown: Shown::Once, doc: "", keys: &[
        key("format", Choice(&names(&LogFormat::NAMES)), "\"json\"", "json, text, or kerio (security lines in the words of Kerio Connect), on standard error."),
        key("level", Text("filter"), "\"info\"", "error, warn, info, debug or trace; or by module: \"warn,smtp_guard=debug\". Security lines are \"security\" at info."),
    ] },
];

/// The row of a key by its whole name: `limits.recipients`.
fn row(name: &str) -> Option<&'static Key> {
    let (table, key) = name.rsplit_once('.').unwrap_or(("", name));
    TABLES.iter().find(|row| row.name == table)?.keys.iter().find(|row| row.name == key)
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

/// Likewise of a duration.
pub(super) fn durations(name: &str) -> RangeInclusive<Duration> {
    match row(name).map(|row| row.kind) {
        Some(Time(low, high)) => Duration::from_millis(low)..=Duration::from_millis(high),
        _ => Duration::ZERO..=Duration::MAX,
    }
}

/// Likewise of a size.
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

/// The packaged file.
pub fn packaged() -> String {
    let mut text = String::from(
        "# smtp-guard configuration. `smtp-guard check` says what is wrong with it, with line and column.\n#\n\
         # What must be set: [[listen]], [backend].servers and [relay].domains. The three below are examples: make them yours.\n\
         # Everything else stands here commented out, with its default. The reference is docs/configuration.md.\n#\n\
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
            Shown::Once => writeln!(text, "[{}]", table.name),
            Shown::Block => writeln!(text, "[[{}]]", table.name),
            Shown::Example => writeln!(text, "#[[{}]]", table.name),
        };
        for key in table.keys {
            if says_more {
                comment(&mut text, key.doc);
            }
            let mark = if key.must { "" } else { "#" };
            _ = writeln!(text, "{mark}{indent}{} = {}", key.name, key.default);
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
         Everything is applied by `smtp-guard reload` while mail flows, but for the keys that say \"restart\".\n",
    );
    for table in TABLES {
        let heading = match (table.name, table.shown) {
            ("", _) => String::from("Before all tables"),
            (name, Shown::Once) => format!("`[{name}]`"),
            (name, Shown::Block | Shown::Example) => format!("`[[{name}]]`"),
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
