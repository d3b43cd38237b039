//! The values of arguments: what they may be, and what is said where they are not. The commands stand in the module above, those
//! of a group in the module of its name.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use crate::addr::{Ipv6Prefix, canonical, no_source};
use crate::config::Role;
use crate::config::units::{DURATION_HELP, parse_duration};
use crate::key::User;
use crate::key::Who;
use crate::observe::admin::{LONGEST, REASON_BYTES};

/// The subject of `explain`: an address or a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Address(IpAddr),
    User(User),
}

#[derive(Debug, Subcommand)]
pub(super) enum Edge {
    /// Load the programs, attach them to the interfaces and leave them there (needs root)
    Load {
        #[command(flatten)]
        interfaces: Interfaces,
        #[command(flatten)]
        json: Json,
    },
    /// Load, then stay, and filter interfaces as soon as they come back (needs root)
    ///
    /// On SIGHUP it reads the configuration again and replaces the loaded programs, without a gap. The kernel plane stays loaded when
    /// this ends: `smtp-guard edge unload` removes it. smtp-guard-edge.service runs this command as root beside the proxy, which
    /// runs as another user.
    Watch {
        #[command(flatten)]
        interfaces: Interfaces,
    },
    /// Detach the programs and remove all that belongs to them (needs root)
    Unload {
        /// Name everything that was removed
        #[arg(long, short)]
        verbose: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show what is attached, and its counts
    Status {
        #[command(flatten)]
        json: Json,
    },
    /// Say whether eBPF programs can be loaded here
    #[command(hide = true)]
    Probe,
    /// Succeed if edge.interfaces names an interface; for the unit, which is skipped otherwise
    #[command(hide = true)]
    Wanted,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Interfaces {
    /// Network interface, in place of edge.interfaces; can be repeated
    #[arg(long = "interface", value_name = "INTERFACE")]
    pub(super) interfaces: Vec<String>,
}

#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Json {
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// An address, or an IPv6 prefix that can be one source.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(canonical(ip));
    }
    match text.parse::<IpNet>() {
        Ok(IpNet::V4(net)) if net.prefix_len() == 32 => Ok(net.addr().into()),
        Ok(IpNet::V6(net)) if net.prefix_len() == 128 || Ipv6Prefix::RANGE.contains(&net.prefix_len()) => {
            Ok(canonical(net.addr().into()))
        }
        Ok(_) => Err(String::from("that is a network: give one address")),
        Err(_) => Err(String::from("give an address: 192.0.2.1 or 2001:db8::1")),
    }
}

/// An address, or else a user: whatever can't be meant for an address.
pub(super) fn subject(text: &str) -> Result<Subject, String> {
    let is_like_ip = !text.contains('@')
        && (text.contains(':') || text.contains(['.', '/']) && !text.contains(|c: char| c.is_alphabetic()));
    if is_like_ip { address(text).map(Subject::Address) } else { user(text).map(Subject::User) }
}

pub(super) fn user(text: &str) -> Result<User, String> {
    User::new(text).ok_or_else(|| String::from("give the name that the user logs in by"))
}

/// An address, or a prefix, that a connection can come from.
pub(super) fn client(text: &str) -> Result<IpAddr, String> {
    let ip = address(text)?;
    match no_source(ip) {
        Some(kind) => Err(format!("that is {kind}: no connection comes from it")),
        None => Ok(ip),
    }
}

/// An address or a network. What can't be blocked because of the configuration, the guard knows.
pub(super) fn somebody(text: &str) -> Result<Who, String> {
    let who = text.parse::<Who>()?;
    who.address().map_or(Ok(()), |ip| client(&ip.to_string()).map(drop))?;
    Ok(who)
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let length = parse_duration(text).ok_or(DURATION_HELP)?;
    if (Duration::from_secs(1)..=LONGEST).contains(&length) {
        Ok(length)
    } else {
        Err(format!("give 1s to {}d", LONGEST.as_secs() / 86_400))
    }
}

pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).ok_or(DURATION_HELP)?;
    if (Duration::from_millis(200)..=Duration::from_secs(60)).contains(&interval) {
        Ok(interval)
    } else {
        Err(String::from("give 200ms to 60s"))
    }
}

pub(super) fn role(text: &str) -> Result<Role, String> {
    let found = Role::NAMES.iter().find(|(name, _)| *name == text).map(|(_, role)| *role);
    found.ok_or_else(|| String::from("give mx, submission or submissions"))
}

pub(super) fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err(String::from("give a reason")),
        text if text.len() > REASON_BYTES => Err(format!("at most {REASON_BYTES} bytes")),
        text if text.chars().any(char::is_control) => Err(String::from("without control characters")),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use crate::cli::Arguments;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    /// `expected` is a part of the parsed arguments' debug form, or of the error.
    fn check(line: &str, expected: Result<&str, &str>) {
        let words = std::iter::once("smtp-guard").chain(line.split('|').filter(|w| !w.is_empty()));
        match (Arguments::try_parse_from(words), expected) {
            (Ok(arguments), Ok(part)) => {
                let debug = format!("{arguments:?}");
                assert!(debug.contains(part), "{line}: {debug}");
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{line}: {error}");
            }
            (got, _) => panic!("{line}: {got:?}"),
        }
    }

    #[test]
    fn commands_are_read() {
        check("run", Ok("Run"));
        check("run|--config|/x", Ok("/x"));
        check("--config|/x|check", Ok("/x"));
        check("config|show|--defaults|--json", Ok("defaults: true, json: Json { json: true }"));
        check("reload|--dry-run", Ok("Reload { dry_run: true, wait: false, json: Json { json: false } }"));
        check("config|diff", Ok("Diff"));
        check("status|--json", Ok("Status { json: Json { json: true } }"));
        check("top", Ok("Top { interval: 1s, json: false }"));
        check("top|--interval|500ms|--json", Ok("Top { interval: 500ms, json: true }"));
        check("explain|::ffff:192.0.2.1", Ok("192.0.2.1"));
        check("explain|2001:db8::/64", Ok("2001:db8::"));
        check("explain|Bob@Example.org", Ok("User(User(\"bob@example.org\"))"));
        for name in ["bob", "bob.smith", "dom/bob", "4711", "b:b@example.org"] {
            check(&format!("explain|{name}"), Ok("subject: User"));
        }
        check("accounts|list|--json", Ok("List { json: Json { json: true } }"));
        check("accounts|hold|Bob", Ok("user: User(\"bob\"), length: None, reason: \"no reason given\""));
        check("accounts|hold|bob|--for|1h|--reason|stolen", Ok("length: Some(3600s), reason: \"stolen\""));
        check("accounts|release|bob", Ok("Release { user: User(\"bob\"), json: Json { json: false } }"));
        check("try|--from|192.0.2.1|--user|Bob", Ok("user: Some(User(\"bob\"))"));
        check("try|--from|192.0.2.1", Ok("mail_from: None"));
        check("try|--from|192.0.2.1|--role|submissions", Ok("role: Submissions, tls: false"));
        check("try|--from|192.0.2.1|--mail-from=|--rcpt-to|a@b|--rcpt-to|c@d", Ok("rcpt_to: [\"a@b\", \"c@d\"]"));
        check("decisions|list", Ok("List"));
        check("decisions|add|192.0.2.1|--for|1h|--reason|too much", Ok("length: 3600s, reason: \"too much\""));
        check("decisions|add|192.0.2.1", Ok("length: 14400s, reason: \"blocked by the administrator\""));
        check("decisions|add|64:ff9b::192.0.2.1", Ok("who: Who(192.0.2.1/32)"));
        check("decisions|add|192.0.2.7/24", Ok("who: Who(192.0.2.0/24)"));
        check("decisions|add|2001:db8::/32|--for|1h|--reason|x", Ok("who: Who(2001:db8::/32)"));
        for ip in ["ff04:0:c000:201::1", "ff02::1/128", "224.0.0.1", "64:ff9b::224.0.0.1"] {
            check(&format!("decisions|add|{ip}|--for|1h|--reason|x"), Err("a multicast address: no connection comes"));
            check(&format!("try|--from|{ip}"), Err("a multicast address"));
        }
        check("try|--from|ff00::/64", Err("a multicast address"));
        check("decisions|add|0.0.0.0|--for|1h|--reason|x", Err("the unspecified address"));
        check("decisions|add|::|--for|1h|--reason|x", Err("the unspecified address"));
        check("decisions|add|255.255.255.255|--for|1h|--reason|x", Err("the broadcast address"));
        check("decisions|delete|192.0.2.1", Ok("who: Some(Who(192.0.2.1/32)), all: false"));
        check("decisions|delete|192.0.2.0/24", Ok("who: Some(Who(192.0.2.0/24)), all: false"));
        check(
            "decisions|import|/x|--for|7d|--reason|list",
            Ok("file: \"/x\", length: 604800s, reason: Some(\"list\")"),
        );
        check("decisions|import|-", Ok("file: \"-\", length: 14400s, reason: None"));
        check("decisions|export|--format|nft", Ok("format: Nft"));
        check("decisions|delete|192.0.2.1|--json", Ok("json: Json { json: true }"));
        check("decisions|add|192.0.2.1|--json", Ok("json: Json { json: true }"));
        check("decisions|delete|--all", Ok("who: None, all: true"));
        check("edge|load|--interface|lo|--interface|eth0", Ok("[\"lo\", \"eth0\"]"));
        check("edge|watch|--interface|eth0", Ok("Watch"));
        check("edge|unload", Ok("Unload"));
        check("edge|status|--json", Ok("Status"));
        check("sink|--listen|127.0.0.1:2526|--maildir|/m", Ok("127.0.0.1:2526"));
        check("completions|bash", Ok("Bash"));
    }

    #[test]
    fn wrong_usage_says_what_is_right() {
        check("", Err("Usage"));
        check("explain", Err("<IP or USER>"));
        check("reload|--wait|--dry-run", Err("cannot be used"));
        check("top|--interval|0s", Err("give 200ms"));
        check("top|--interval|1h", Err("give 200ms"));
        check("top|--interval|1", Err("a unit"));
        check("try", Err("--from"));
        check("try|--from|192.0.2.1|--role|smtp", Err("give mx, submission"));
        check("try|--from|192.0.2.1|--rcpt-to|a@b", Err("--mail-from"));
        for ip in ["192.0.2.300", "192.0.2", "2001:db8::x", "10.0.0.0/x"] {
            check(&format!("explain|{ip}").replace("/x", "/99"), Err("192.0.2.1"));
        }
        check("accounts|hold", Err("<USER>"));
        check("accounts|hold| ", Err("the name that the user logs in by"));
        check("accounts|hold|bob|--for|0s", Err("give 1s"));
        check("explain|10.0.0.0/8", Err("give one address"));
        check("decisions|add|192.0.2.0/33", Err("give an address or a network"));
        check("decisions|add|192.0.2.1-192.0.2.9", Err("give an address or a network"));
        check("decisions|add|192.0.2.1|--for|0s|--reason|x", Err("give 1s"));
        check("decisions|add|192.0.2.1|--for|1|--reason|x", Err("a unit"));
        check("decisions|add|192.0.2.1|--for|1h|--reason| ", Err("give a reason"));
        check("decisions|import", Err("<FILE>"));
        check("decisions|export", Err("--format"));
        check("decisions|export|--format|xml", Err("[possible values: plain, json, nft, ipset, crowdsec]"));
        check("decisions|delete", Err("<ADDRESS|NETWORK>"));
        check("decisions|delete|--all|192.0.2.1", Err("cannot be used"));
        check("sink|--listen|x|--maildir|/m", Err("invalid socket address"));
    }
}
