//! `recipients export-postfix` and `export-exim`: the recipient table, from what the mail server has.
//!
//! # Safe direction
//! An address that is missing in the table is refused, and a sender who is refused can't be made good. In some cases nobody can
//! tell who exists: a map that can't be listed, a catch-all, an unusual delimiter. Then the domain becomes `@domain`, and the
//! mail server is asked as without a table. Each such domain is named, with the reason.

mod exim;
mod host;
mod output;
mod postfix;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::{Serialize, Serializer};

use self::host::Host;
pub(super) use self::output::{target, write};
use super::args::Json;
use crate::wire::host as name;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Export from Postfix: local users, aliases, virtual and relay maps
    ExportPostfix {
        /// Postfix' configuration directory [default: as postconf finds it]
        #[arg(long, short, value_name = "DIRECTORY")]
        config_directory: Option<PathBuf>,
        /// Map that says nothing about which recipients exist, as main.cf names it, such as pcre:/etc/postfix/rewrite; can be repeated
        #[arg(long = "ignore-map", value_name = "TYPE:NAME")]
        ignored: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Export from Exim: users, aliases and the files that its routers look up, each address verified by Exim
    ExportExim {
        /// Exim's configuration file [default: as Exim finds it]
        #[arg(long, short = 'C', value_name = "FILE")]
        config_file: Option<PathBuf>,
        /// Exim's program
        #[arg(long, value_name = "PROGRAM", default_value = "exim4")]
        exim: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// Only this domain; can be repeated [default: all that the mail server serves]
    #[arg(long = "domain", value_name = "DOMAIN")]
    domains: Vec<String>,
    /// Ask the mail server on this host, by ssh (with keys: no password is asked for); nothing has to be installed there
    #[arg(long, value_name = "[USER@]HOST")]
    ssh: Option<String>,
    /// Write the table there, as a whole or not at all [default: standard output]
    #[arg(long, short, value_name = "FILE", conflicts_with = "json")]
    output: Option<PathBuf>,
    /// Replace the table even if less than half of its entries are left
    #[arg(long, requires = "output")]
    force: bool,
    #[command(flatten)]
    json: Json,
}

/// Performs `command`.
pub(super) fn recipients(command: Command) -> anyhow::Result<()> {
    let (export, common) = match command {
        Command::ExportPostfix { config_directory, ignored, common } => {
            let host = Host::new(common.ssh.as_deref());
            (postfix::export(&host, config_directory.as_deref(), &ignored)?, common)
        }
        Command::ExportExim { config_file, exim, common } => {
            let host = Host::new(common.ssh.as_deref());
            (exim::export(&host, config_file.as_deref(), &exim, &common.domains)?, common)
        }
    };
    let export = export.only(&common.domains)?;
    export.notes.iter().for_each(|note| eprintln!("warning: {note}"));
    for (domain, served) in &export.domains {
        if let Some(why) = &served.all {
            eprintln!("warning: {domain} becomes @{domain}, any recipient: {why}");
        }
    }
    if export.domains.is_empty() {
        bail!("the mail server serves no domain that could be found: name it by --domain");
    }
    match &common.output {
        Some(path) => {
            let written = output::replace(path, &export.text(), common.force)
                .with_context(|| format!("{} is left as it was", path.display()))?;
            eprintln!("{}: {written}", path.display());
            Ok(())
        }
        None => super::output::show(common.json.json, &export, || export.text().trim_end().to_owned()),
    }
}

/// The recipients of a mail server.
#[derive(Debug, Default, Serialize)]
struct Export {
    /// `Postfix on mail.example.org`.
    server: String,
    #[serde(rename = "served", serialize_with = "as_list")]
    domains: BTreeMap<String, Served>,
    /// Notes for the operator.
    notes: BTreeSet<String>,
}

/// The domains as a list: in answers, names of fields are ours.
fn as_list<S: Serializer>(domains: &BTreeMap<String, Served>, out: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Named<'a> {
        domain: &'a str,
        #[serde(flatten)]
        served: &'a Served,
    }
    out.collect_seq(domains.iter().map(|(domain, served)| Named { domain, served }))
}

/// Recipients of one domain.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Served {
    /// Why any recipient is taken.
    all: Option<String>,
    /// Local parts that exist, in lower case.
    users: BTreeSet<String>,
}

impl Export {
    fn new(server: String) -> Self {
        Self { server, ..Self::default() }
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.insert(note.into());
    }

    /// Adds `user` of `domain`, if that is served.
    fn add(&mut self, user: &str, domain: &str) {
        if user.is_empty() || user.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@' || c == '"') {
            return self.note(format!("{user:?} of {domain} is not an address that the table can hold"));
        }
        if let Some(served) = domain_key(domain).and_then(|domain| self.domains.get_mut(&domain)) {
            served.users.insert(user.to_lowercase());
        }
    }

    /// Takes any recipient of `domain`, if that is served.
    fn take_all(&mut self, domain: &str, why: &str) {
        if let Some(served) = domain_key(domain).and_then(|domain| self.domains.get_mut(&domain)) {
            served.all.get_or_insert_with(|| why.to_owned());
        }
    }

    /// Only `domains`, or all where none is named.
    fn only(mut self, domains: &[String]) -> anyhow::Result<Self> {
        if domains.is_empty() {
            return Ok(self);
        }
        let wanted: BTreeSet<_> = domains
            .iter()
            .map(|domain| domain_key(domain).with_context(|| format!("{domain} is not a domain")))
            .collect::<Result<_, _>>()?;
        for domain in &wanted {
            if !self.domains.contains_key(domain) {
                bail!("{} doesn't serve the domain {domain}; --domain names one that it serves", self.server);
            }
        }
        self.domains.retain(|domain, _| wanted.contains(domain));
        Ok(self)
    }

    /// As `recipients.known` reads it.
    fn text(&self) -> String {
        let mut text =
            format!("# Recipients of {}, by `smtp-guard recipients`. Changes by hand are lost.\n", self.server);
        for (domain, served) in &self.domains {
            if let Some(why) = &served.all {
                text.push_str(&format!("@{domain} # {}\n", why.replace('\n', " ")));
                continue;
            }
            // The mail server answers for it; RFC 5321 section 4.5.1 wants it to be there.
            let postmaster = (!served.users.contains("postmaster")).then_some("postmaster");
            for user in served.users.iter().map(String::as_str).chain(postmaster) {
                text.push_str(&format!("{user}@{domain}\n"));
            }
        }
        text
    }
}

/// `domain` as the table has it.
fn domain_key(domain: &str) -> Option<String> {
    name::key(domain.trim_end_matches('.')).map(|domain| domain.to_ascii_lowercase())
}

/// The keys of a table of `user:password:...`.
fn names(passwd: &str) -> impl Iterator<Item = &str> {
    passwd.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name).filter(|name| !name.is_empty())
}

/// Lines of a file as Postfix and Exim read them: those that begin with white space go on with the one before.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line.trim_end().to_owned()),
        }
    }
    lines
}

/// The keys of a file of `key: value` or `key value`.
fn keys(text: &str) -> Vec<String> {
    let key = |line: &String| {
        let line = line.trim();
        let (key, quoted) = match line.strip_prefix('"') {
            Some(rest) => (rest.split('"').next().unwrap_or_default(), true),
            None => (line.split(|c: char| c.is_whitespace()).next().unwrap_or_default(), false),
        };
        let key = if quoted { key } else { key.split_once(": ").map_or(key, |(key, _)| key).trim_end_matches(':') };
        // `key:value`, without white space between.
        let key = if key.contains('@') { key } else { key.split(':').next().unwrap_or_default() };
        key.to_owned()
    };
    logical_lines(text).iter().map(key).filter(|key| !key.is_empty()).collect()
}

#[cfg(test)]
mod tests;
