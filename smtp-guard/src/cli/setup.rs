//! `setup`: a first configuration. What only the administrator knows is asked for; the rest is found out by trying the mail
//! server. What can't be found out, or has to be changed there, is said with the next step.

use std::fs;
use std::io::{self, BufRead, IsTerminal as _, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use serde::Serialize;

use super::args::Json;
use super::{Failure, check, output, recipients, time};
use crate::addr::BackendAddr;
use crate::blocklist;
use crate::config::{self, Config, DEFAULT_PATH, Identity, Profile};
use crate::file::{self, FileError};
use crate::relay::probe::{self, Found, Unknown};
use crate::routes;

/// How long a connection to the mail server may take.
const CONNECT: Duration = Duration::from_secs(5);
/// The checks that can observe, in the order in which to enforce them.
const CHECKS: [&str; 5] = ["early_talker", "sender_domain", "dnsbl", "ptr", "ptr_forward"];

#[derive(Debug, Args)]
pub(super) struct Setup {
    /// A domain that mail is received for; can be repeated
    #[arg(long = "domain", value_name = "DOMAIN", value_parser = domains)]
    domains: Vec<String>,
    /// The mail server behind the guard: 10.0.0.10:25 or mail.example.org:2525
    #[arg(long, value_name = "HOST[:PORT]", value_parser = backend)]
    backend: Option<String>,
    /// The interface that mail comes in by, or none [default: that of the default route]
    #[arg(long, value_name = "INTERFACE", value_parser = interface)]
    interface: Option<String>,
    /// A host or network of yours that is never limited or banned, and may send anywhere; can be repeated
    #[arg(long = "exempt", value_name = "NETWORK", value_parser = exempt)]
    exempt: Vec<String>,
    /// A network whose hosts may send anywhere, within limits: what Postfix calls mynetworks; can be repeated
    #[arg(long = "relay-network", value_name = "NETWORK", value_parser = networks)]
    networks: Vec<String>,
    /// Let the checks of senders observe: they log what they would refuse, and refuse nothing
    #[arg(long)]
    observe: bool,
    /// The guard's name in SMTP [default: this host's]
    #[arg(long, value_name = "NAME", value_parser = hostname)]
    hostname: Option<String>,
    /// Ask nothing: find out what isn't given
    #[arg(long)]
    yes: bool,
    /// Show the file, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// File to write [default: --config, else /etc/smtp-guard/smtp-guard.toml; if that file sets nothing, 10-setup.toml in its directory .d]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: Json,
}

/// The answers before the mail server is asked.
#[derive(Debug, Serialize)]
struct Wanted {
    domains: Vec<String>,
    #[serde(rename = "server")]
    backend: String,
    interface: Option<String>,
    #[serde(rename = "exempt_networks")]
    exempt: Vec<String>,
    #[serde(rename = "relay_networks")]
    networks: Vec<String>,
    observe: bool,
    hostname: Option<String>,
}

/// The outcome of the set-up.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    wanted: Wanted,
    #[serde(rename = "probe")]
    found: Found,
    software: Profile,
    identity: Identity,
    /// Whether the mail server takes this identity now.
    ready: bool,
    /// Changes to make at the mail server.
    to_do: Vec<String>,
    /// Doubts, each with the next step.
    doubts: Vec<String>,
    #[serde(rename = "contents")]
    configuration: String,
    written: Option<PathBuf>,
}

/// Performs `setup`; `file` is that of `--config`.
pub(super) fn setup(setup: Setup, file: Option<&Path>) -> Result<(), Failure> {
    let path = match &setup.output {
        Some(path) => path.clone(),
        None => place(file.unwrap_or(Path::new(DEFAULT_PATH))),
    };
    let (dry_run, force, json) = (setup.dry_run, setup.force, setup.json.json);
    let asks = !setup.yes && io::stdin().is_terminal();
    let (mut answers, mut out) = (io::stdin().lock(), io::stderr());
    let person = asks.then_some(Person { answers: &mut answers, out: &mut out });
    let wanted = wanted(setup, person)?;
    let mut report = find_out(wanted, &path)?;
    if !dry_run {
        write(&path, &report.configuration, force)?;
        report.written = Some(path.clone());
    }
    output::show(json, &report, || text(&report))?;
    Ok(())
}

/// A person who answers questions at a terminal.
struct Person<'a> {
    answers: &'a mut dyn BufRead,
    out: &'a mut dyn Write,
}

impl Person<'_> {
    /// The answer to `question`, or `proposal` where it is empty. Asks again until `judge` takes it.
    fn ask<T>(
        &mut self,
        question: &str,
        proposal: Option<&str>,
        judge: impl Fn(&str) -> Result<T, String>,
    ) -> anyhow::Result<T> {
        loop {
            match proposal {
                Some(proposal) => write!(self.out, "{question} [{proposal}]: ")?,
                None => write!(self.out, "{question}: ")?,
            }
            self.out.flush()?;
            let mut line = String::new();
            if self.answers.read_line(&mut line)? == 0 {
                bail!("there was no answer; nothing was written");
            }
            let answer = line.trim();
            match judge(if answer.is_empty() { proposal.unwrap_or_default() } else { answer }) {
                Ok(answer) => return Ok(answer),
                Err(why) => writeln!(self.out, "{why}")?,
            }
        }
    }
}

/// The wishes from the command line, and else from `person`, where somebody is at the terminal.
fn wanted(setup: Setup, mut person: Option<Person<'_>>) -> anyhow::Result<Wanted> {
    // What the command line has, or else what is answered.
    let mut text = |given: Option<String>, question: &str, proposal: Option<&str>, judge: Judge| match &mut person {
        _ if given.is_some() => Ok(given),
        Some(person) => person.ask(question, proposal, judge).map(Some),
        None => anyhow::Ok(proposal.map(str::to_owned)),
    };
    let listed = |given: Vec<String>| (!given.is_empty()).then(|| given.join(","));
    let domains = text(listed(setup.domains), "Domains that you receive mail for", None, domains)?
        .context("no domain: give --domain, once for each domain that you receive mail for")?;
    let backend = text(setup.backend, "Mail server behind the guard (host:port)", None, backend)?
        .context("no mail server: give --backend HOST:PORT")?;
    let found = routes::default_routes().into_iter().map(|route| route.interface).next();
    let question = "Interface that mail comes in by (none: no kernel plane)";
    let interface = text(setup.interface, question, found.as_deref(), interface)?;
    let question =
        "Hosts of your own: never limited or banned, may send to any domain (addresses or networks; none: empty)";
    let exempt = text(listed(setup.exempt), question, None, exempt)?.unwrap_or_default();
    let question = "Networks whose hosts may send anywhere, as mynetworks (none: empty)";
    let networks = text(listed(setup.networks), question, None, networks)?.unwrap_or_default();
    let observe = match &mut person {
        Some(person) if !setup.observe => {
            person.ask("Let checks of senders only observe at first (yes or no)", Some("yes"), yes)?
        }
        _ => setup.observe,
    };
    Ok(Wanted {
        domains: split(&domains),
        backend: with_port(&backend),
        interface: interface.as_deref().and_then(unless_none),
        exempt: split(&exempt),
        networks: split(&networks),
        observe,
        hostname: setup.hostname,
    })
}

/// Takes an option or an answer as it is, or says what is wrong with it.
type Judge = fn(&str) -> Result<String, String>;

fn domains(text: &str) -> Result<String, String> {
    judged(text, Wanted { domains: split(text), ..Wanted::example() })
}

fn backend(text: &str) -> Result<String, String> {
    judged(text, Wanted { backend: with_port(text), ..Wanted::example() })
}

fn interface(text: &str) -> Result<String, String> {
    judged(text, Wanted { interface: unless_none(text), ..Wanted::example() })
}

fn exempt(text: &str) -> Result<String, String> {
    judged(text, Wanted { exempt: split(text), ..Wanted::example() })
}

fn networks(text: &str) -> Result<String, String> {
    judged(text, Wanted { networks: split(text), ..Wanted::example() })
}

fn hostname(text: &str) -> Result<String, String> {
    judged(text, Wanted { hostname: Some(text.to_owned()), ..Wanted::example() })
}

/// `text`, if a file that has it is valid. All else in the file is, so what is wrong is about `text`.
fn judged(text: &str, wanted: Wanted) -> Result<String, String> {
    let file = configuration(&wanted, Profile::Generic, Identity::None, "");
    let Err(report) = Config::parse(Path::new(""), &file, &config::machine()) else { return Ok(text.to_owned()) };
    let faults = report.faults().into_iter().map(|fault| format!("{}; {}", fault.message, fault.help));
    Err(faults.collect::<Vec<_>>().join("\n"))
}

impl Wanted {
    /// Valid, whatever the machine is.
    fn example() -> Self {
        Self {
            domains: vec![String::from("example.org")],
            backend: String::from("192.0.2.1:25"),
            interface: None,
            exempt: Vec::new(),
            networks: Vec::new(),
            observe: false,
            hostname: Some(String::from("mx.example.org")),
        }
    }
}

/// Whether the answer is yes.
fn yes(answer: &str) -> Result<bool, String> {
    match answer.to_lowercase().as_str() {
        "y" | "yes" => Ok(true),
        "n" | "no" => Ok(false),
        _ => Err(String::from("answer yes or no")),
    }
}

fn unless_none(interface: &str) -> Option<String> {
    Some(interface).filter(|interface| !interface.is_empty() && *interface != "none").map(str::to_owned)
}

fn split(domains: &str) -> Vec<String> {
    let words = domains.split([',', ' ']).map(|word| word.trim().to_lowercase());
    words.filter(|word| !word.is_empty()).collect()
}

/// `10.0.0.10` with port 25.
fn with_port(backend: &str) -> String {
    let backend = backend.trim();
    match backend.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{backend}]:25"),
        Ok(IpAddr::V4(_)) => format!("{backend}:25"),
        Err(_) if !backend.contains(':') => format!("{backend}:25"),
        Err(_) => backend.to_owned(),
    }
}

/// Tries the mail server.
fn find_out(wanted: Wanted, path: &Path) -> Result<Report, Failure> {
    let read = |profile, identity, about: &str| -> Result<(Config, String), Failure> {
        let text = configuration(&wanted, profile, identity, about);
        let mut config = Config::parse(path, &text, &config::machine()).map_err(|report| {
            let path = path.display();
            super::complain(&format!("setup would have written {path} with these errors. Nothing was written."));
            config::ConfigError::from(report)
        })?;
        config.backend.connect_timeout = CONNECT;
        Ok((config, text))
    };
    let (plain, _) = read(Profile::Generic, Identity::None, "")?;
    let server = plain.backend.servers.first().cloned().context("no mail server")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let look = |config: &Config| runtime.block_on(probe::look(config, &server));
    // Its greeting says what it is; the words of its refusals are judged when that is known.
    let (identity, ready, first) = match look(&plain) {
        Ok(found) if found.xclient => {
            let (config, _) = read(Profile::Generic, Identity::Xclient, "")?;
            (Identity::Xclient, look(&config).is_ok(), found)
        }
        Ok(found) => (proposed(software(&found)), false, found),
        Err(why) => {
            let (mut taken, mut whys) = (None, vec![format!("{server} {why}")]);
            for identity in [Identity::ProxyV2, Identity::ProxyV1] {
                let (config, _) = read(Profile::Generic, identity, "")?;
                match look(&config) {
                    Ok(found) => {
                        taken = Some((identity, true, found));
                        break;
                    }
                    Err(why) => whys.push(format!("{server}, by {}: {why}", word(&identity))),
                }
            }
            whys.dedup();
            taken.ok_or_else(|| {
                anyhow!(
                    "the mail server can't be used; start it, or name another by --backend, then run setup again. \
                     Nothing was written.\n  {}",
                    whys.join("\n  ")
                )
            })?
        }
    };
    let ready = ready || identity == Identity::None;
    let profile = software(&first);
    let about = match first.greeting.is_empty() {
        true => String::new(),
        false => format!("greets with {:?}", first.greeting.chars().take(80).collect::<String>()),
    };
    let (config, configuration) = read(profile, identity, &about)?;
    // As the guard will come, where the server takes that already.
    let found = if ready { look(&config).unwrap_or(first) } else { judged_by(&config, &look, first) };
    let (to_do, mut doubts) = (to_do(&server, profile, identity, ready, &found), doubts(&found, identity));
    doubts.extend(of_domains(&wanted.domains));
    doubts.extend(of_this_host(&config, &server));
    doubts.extend(check::warnings(&config));
    Ok(Report { wanted, found, software: profile, identity, ready, to_do, doubts, configuration, written: None })
}

/// The same as `first`, with the profile of `config`; as an ordinary client, since the server doesn't take the identity yet.
fn judged_by(config: &Config, look: &impl Fn(&Config) -> Result<Found, String>, first: Found) -> Found {
    let mut config = config.clone();
    config.backend.identity = Identity::None;
    look(&config).unwrap_or(first)
}

/// The server's software, by its greeting.
fn software(found: &Found) -> Profile {
    let greeting = found.greeting.to_lowercase();
    let names = [
        ("postfix", Profile::Postfix),
        ("exim", Profile::Exim),
        ("microsoft esmtp", Profile::Exchange),
        ("kerio", Profile::Kerio),
        ("dovecot", Profile::Dovecot),
        ("stalwart", Profile::Stalwart),
        ("opensmtpd", Profile::OpenSmtpd),
    ];
    let named = names.iter().find(|(name, _)| greeting.contains(name)).map(|(_, profile)| *profile);
    named.unwrap_or(if found.xclient { Profile::Postfix } else { Profile::Generic })
}

/// The best identity for a server that takes none yet.
fn proposed(profile: Profile) -> Identity {
    match profile {
        Profile::Postfix | Profile::Dovecot => Identity::Xclient,
        Profile::Exim | Profile::OpenSmtpd | Profile::Stalwart => Identity::ProxyV2,
        Profile::Exchange | Profile::Kerio | Profile::Generic => Identity::None,
    }
}

/// The word that the configuration has for it.
fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The file.
fn configuration(wanted: &Wanted, profile: Profile, identity: Identity, about: &str) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = |all: &[String]| all.iter().map(|one| quoted(one)).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "# Written by `smtp-guard setup` at {}. After a change: `smtp-guard check`, then `smtp-guard reload`.\n\
         # What isn't set here has its default: docs/configuration.md, or `smtp-guard config show`.\n\n",
        time::utc(crate::clock::wall())
    );
    if let Some(hostname) = &wanted.hostname {
        text.push_str(&format!("hostname = {}\n\n", quoted(hostname)));
    }
    if !wanted.exempt.is_empty() {
        text.push_str(&format!(
            "exempt = [{}]    # never limited, never banned, may send anywhere\n\n",
            list(&wanted.exempt)
        ));
    }
    text.push_str("[[listen]]\naddress = \"0.0.0.0:25\"\n\n");
    // Without IPv6 the file is not there, or empty.
    if fs::read_to_string("/proc/net/if_inet6").is_ok_and(|interfaces| !interfaces.is_empty()) {
        text.push_str("[[listen]]\naddress = \"[::]:25\"\n\n");
    }
    // In a comment nothing of the server's may end the line.
    let about: String = about.chars().filter(|c| !c.is_control()).collect();
    let comment = if about.is_empty() { about } else { format!("    # {about}") };
    text.push_str(&format!(
        "[backend]\nservers = [{}]{comment}\nidentity = {}    # how it learns the client's address\nprofile = {}\n\n",
        quoted(&wanted.backend),
        quoted(&word(&identity)),
        quoted(&word(&profile)),
    ));
    text.push_str(&format!("[relay]\ndomains = [{}]\n", list(&wanted.domains)));
    if !wanted.networks.is_empty() {
        text.push_str(&format!("networks = [{}]    # may send anywhere\n", list(&wanted.networks)));
    }
    if let Some(interface) = &wanted.interface {
        text.push_str(&format!("\n[edge]\ninterfaces = [{}]    # where the kernel drops bans\n", quoted(interface)));
    }
    if wanted.observe {
        text.push_str("\n# Checks log what they would refuse, and refuse nothing. Enforce them one by one: docs/rollout.md.\n[checks]\n");
        CHECKS.iter().for_each(|check| text.push_str(&format!("{check} = \"observe\"\n")));
    }
    text
}

/// Changes to make at the server.
fn to_do(server: &BackendAddr, profile: Profile, identity: Identity, ready: bool, found: &Found) -> Vec<String> {
    let own = found.own.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let mut to_do = Vec::new();
    match identity {
        _ if ready && identity != Identity::None => {}
        Identity::Xclient if profile == Profile::Dovecot => {
            to_do.push(format!("Dovecot at {server}: login_trusted_networks = {own}"));
        }
        Identity::Xclient => {
            to_do.push(format!("Postfix at {server}, in main.cf: smtpd_authorized_xclient_hosts = {own}"));
            to_do.push(String::from("then: postfix reload. Until it is done, senders hear 451"));
        }
        Identity::ProxyV1 | Identity::ProxyV2 => {
            let line = match profile {
                Profile::Exim => format!("Exim at {server}: hosts_proxy = {own}"),
                Profile::OpenSmtpd => format!("OpenSMTPD at {server}: listen on ... proxy-v2"),
                _ => format!("the mail server at {server}: let it expect the PROXY protocol, version 2, from {own}"),
            };
            to_do.push(line);
            to_do.push(String::from("Until it is done, senders hear 451"));
        }
        Identity::None => {
            to_do.push(format!(
                "the mail server at {server}: keep {own} out of its relay networks, and out of limits by address: all mail \
                 comes from there, and only a Received header has the client's address"
            ));
        }
    }
    match own.is_loopback() {
        true => to_do.push(String::from(
            "on one host: let the mail server listen on the loopback address only (Postfix: 127.0.0.1:2525 in master.cf), so that nobody goes past the guard",
        )),
        false => to_do.push(format!("firewall: let {own} alone connect to {server}; whoever reaches it directly isn't filtered")),
    }
    to_do
}

/// Doubts about the server, each with the next step.
pub(super) fn doubts(found: &Found, identity: Identity) -> Vec<String> {
    let mut doubts = Vec::new();
    let own = found.own.map_or_else(|| String::from("the guard"), |own| own.to_string());
    if found.relays && identity == Identity::None {
        doubts.push(format!(
            "the mail server takes mail for other domains from {own}: take {own} out of its relay networks (Postfix: mynetworks), or \
             the guard's relay.domains is all that keeps it from being an open relay"
        ));
    } else if found.relays {
        doubts.push(String::from(
            "the mail server takes mail for other domains from a stranger: it may be an open relay (Postfix: smtpd_relay_restrictions)",
        ));
    }
    if !found.secured && found.own.is_some_and(|own| !own.is_loopback()) {
        doubts.push(String::from(
            "the mail server offers no STARTTLS: mail goes to it in clear text; set backend.tls = \"required\" once it does",
        ));
    }
    for probe::Domain { name, says } in &found.domains {
        match says {
            Unknown::Taken => doubts.push(format!(
                "{name}: the mail server takes any recipient, so no harvest is seen there: list its recipients (`smtp-guard recipients`, \
                 recipients.known), or let it refuse unknown recipients"
            )),
            Unknown::Refused { words, recognised: false } => doubts.push(format!(
                "{name}: its refusal of a recipient that nobody has can't be told from any other ({words}): is the domain served \
                 there? Else set backend.profile, or list its recipients (recipients.known)"
            )),
            Unknown::Unclear => {
                doubts.push(format!("{name}: the mail server says neither yes nor no to a recipient: its log may say why"));
            }
            Unknown::Refused { recognised: true, .. } => {}
        }
    }
    doubts
}

/// Doubts about the domains.
fn of_domains(domains: &[String]) -> impl Iterator<Item = String> {
    let odd = domains.iter().filter(|domain| !domain.contains('.'));
    odd.map(|domain| {
        format!("{domain}: this domain has no dot; if it is a part of another one, correct relay.domains (spaces and commas part a list)")
    })
}

/// Doubts about this host.
fn of_this_host(config: &Config, server: &BackendAddr) -> Vec<String> {
    let mut doubts = Vec::new();
    if let BackendAddr::Address(address) = server {
        let ours = address.ip().is_loopback() || blocklist::own_addresses().contains(&address.ip());
        if ours && config.listen.iter().any(|listen| listen.address.port() == address.port()) {
            doubts.push(format!(
                "the mail server has port {} of this host, which the guard is to listen on: move it to another port (such as \
                 127.0.0.1:2525), and name that by --backend",
                address.port()
            ));
        }
    }
    if config.tls.is_none() {
        doubts.push(String::from("no STARTTLS is offered to clients: set [tls] certificate and key"));
    }
    if config.edge.interfaces.is_empty() {
        doubts.push(String::from(
            "no interface: bans hold in user space only; `ip route` shows the interface, edge.interfaces names it",
        ));
    }
    doubts
}

/// Where the configuration of `main` is written: a drop-in, where the file that is there sets nothing. That is the package's, which
/// brings a newer one with each version.
fn place(main: &Path) -> PathBuf {
    let sets_nothing = |text: String| text.lines().all(|line| line.is_empty() || line.starts_with(['#', '[']));
    if file::read(main, config::FILE_BYTES).is_ok_and(|(text, _)| String::from_utf8(text).is_ok_and(sets_nothing)) {
        return config::drop_in_directory(main).join("10-setup.toml");
    }
    main.to_owned()
}

/// Writes the file, unless one is there that says otherwise.
fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    let path = &recipients::target(path).with_context(|| format!("{} can't be written", path.display()))?;
    match file::read(path, config::FILE_BYTES) {
        Ok((before, _)) if !force => {
            let difference = difference(&String::from_utf8_lossy(&before), text);
            bail!("{} is there already; --force replaces it. The difference:\n{difference}", path.display());
        }
        Err(error @ FileError::NotRegular(_)) => {
            bail!("{} can't be written: {error}; name another file by --output", path.display());
        }
        Err(error) if !error.is_missing() && !force => {
            bail!("{} is there already, and can't be read: {error}; --force replaces it", path.display());
        }
        Err(error) if error.is_missing() => {
            if let Some(directory) = path.parent() {
                fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
            }
        }
        _ => {}
    }
    recipients::write(path, text.as_bytes()).with_context(|| format!("{} can't be written", path.display()))
}

/// Lines of `before` that are gone, and lines of `after` that are new; comments don't count.
fn difference(before: &str, after: &str) -> String {
    fn lines(text: &str) -> impl Iterator<Item = &str> {
        text.lines()
            .map(|line| line.split(" #").next().unwrap_or_default().trim())
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
    }
    let gone = lines(before).filter(|line| !lines(after).any(|other| other == *line)).map(|line| format!("- {line}"));
    let new = lines(after).filter(|line| !lines(before).any(|other| other == *line)).map(|line| format!("+ {line}"));
    let all: Vec<_> = gone.chain(new).collect();
    if all.is_empty() { String::from("none but in comments and order") } else { all.join("\n") }
}

fn text(report: &Report) -> String {
    let Report { wanted, found, software, identity, ready, to_do, doubts, configuration, written } = report;
    let mut lines = vec![format!(
        "{} is {} ({:?}); it {} {}, {}.",
        wanted.backend,
        word(software),
        found.greeting,
        if *ready { "takes" } else { "does not take" },
        match identity {
            Identity::None => String::from("mail as from any client"),
            identity => format!("the client's address by {}", word(identity)),
        },
        if found.secured { "with STARTTLS" } else { "in clear text" },
    )];
    for probe::Domain { name, says } in &found.domains {
        if let Unknown::Refused { words, recognised: true } = says {
            lines.push(format!("Unknown recipients of {name} are recognised: {words}"));
        }
    }
    match written {
        Some(path) => lines.push(format!("{} is written.", path.display())),
        None => lines.push(format!("The file:\n\n{}", configuration.trim_end())),
    }
    lines.push(String::from("\nTo be done:"));
    lines.extend(to_do.iter().map(|line| format!("  - {line}")));
    if !doubts.is_empty() {
        lines.push(String::from("Doubts:"));
        lines.extend(doubts.iter().map(|line| format!("  - {line}")));
    }
    let observe = if wanted.observe { "" } else { "let checks observe and " };
    lines.push(format!(
        "Next: `smtp-guard check --connect`, then {observe}start the services: {}.",
        super::page("rollout.md")
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests;
