//! `decisions`: lists, makes and lifts blocks.

use std::path::PathBuf;
use std::time::Duration;

use axum::http::Method;
use clap::Subcommand;

use super::admin_client::{AdminClient, MANY};
use super::args::{Json, duration, reason, somebody};
use super::{export, import, output, time};
use crate::decision::{Decision, Imported, Kept, Part, join};
use crate::key::Who;
use crate::observe::admin::{Add, Deleted, Import};
use smtp_guard_ebpf::reason::Reason;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List all decisions in force, and the block lists with the number of their entries
    List {
        /// With --json: also the block lists
        #[arg(long, short)]
        all: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Block an address or a network
    ///
    /// A network can be /8 to /31, of IPv6 /16 to limits.ipv6_prefix. One that contains an exempt network, a balancer, a mail server
    /// or an address of this host is refused.
    Add {
        /// 192.0.2.1, 192.0.2.0/24, 2001:db8::1 or 2001:db8::/32; an IPv6 address stands for its whole prefix
        #[arg(value_name = "ADDRESS|NETWORK", value_parser = somebody)]
        who: Who,
        /// Length of the block: 30s, 10m, 1h, 7d
        #[arg(long = "for", value_name = "DURATION", value_parser = duration, default_value = "4h")]
        length: Duration,
        /// Reason, shown by `explain` and in the log
        #[arg(long, value_name = "TEXT", value_parser = reason, default_value = Reason::Operator.text())]
        reason: String,
        /// Block on this host only: other hosts of a fleet are not told
        #[arg(long)]
        local: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Block the entries of a file: addresses and networks, one a line; Spamhaus DROP, CrowdSec CSV or JSON, ipset save, or an export
    ///
    /// An entry ends at the time in the file, else after --for. A decision that lasts longer stays. Private and exempt entries, and
    /// those of this host, are refused, and listed with their lines. For lists that others keep up to date, use a block list in
    /// the configuration.
    Import {
        /// The file; - for standard input
        file: PathBuf,
        /// Length of blocks whose entry names no end: 30s, 10m, 1h, 7d
        #[arg(long = "for", value_name = "DURATION", value_parser = duration, default_value = "4h")]
        length: Duration,
        /// Reason [default: the name of the file]
        #[arg(long, value_name = "TEXT", value_parser = reason)]
        reason: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Write all bans in force, for a backup or for another program
    Export {
        #[arg(long, value_enum)]
        format: super::export::Format,
    },
    /// Lift the decision on an address or a network, or all
    ///
    /// It ends a deferral as well, and forgets what was held against the address. Mail that was accepted still counts for it.
    Delete {
        /// An address or a network, as `decisions list` shows it
        #[arg(value_name = "ADDRESS|NETWORK", required_unless_present = "all")]
        who: Option<Who>,
        /// Lift all decisions
        #[arg(long, conflicts_with = "who")]
        all: bool,
        /// Lift on this host only: other hosts of a fleet are not told
        #[arg(long)]
        local: bool,
        #[command(flatten)]
        json: Json,
    },
}

/// Performs `command`.
pub(super) fn decisions(client: &AdminClient, command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { all, json } => {
            let decisions = client.decisions()?;
            if json.json && !all {
                return output::show(true, &output::Decisions { decisions: &decisions }, String::new);
            }
            let blocklists = client.status()?.blocklists;
            let blocked = output::Blocked { decisions: &decisions, blocklists: &blocklists };
            output::show(json.json, &blocked, || output::blocked(&blocked))
        }
        Command::Add { who, length, reason, local, json } => {
            let made = client.add(&Add { ip: who, seconds: time::whole_seconds(length), reason, local })?;
            let until = time::utc(made.what.until);
            output::show(json.json, &made, || format!("{} is blocked until {until}", made.what.source))?;
            warn_unsaved(made.saved);
            Ok(())
        }
        Command::Import { file, length, reason, json } => {
            let report = import::import(client, &file, length, reason)?;
            output::show(json.json, &report, || report.text())?;
            warn_unsaved(report.saved);
            Ok(())
        }
        Command::Export { format } => {
            Ok(output::line(&export::text(format, &client.decisions()?, crate::clock::wall())?)?)
        }
        Command::Delete { who: Some(who), local, json, .. } => {
            let lifted = client.delete(who, local)?;
            output::show(json.json, &lifted, || format!("{} is no longer blocked", lifted.what.source))?;
            warn_unsaved(lifted.saved);
            if !lifted.unconfirmed.is_empty() {
                eprintln!("warning: lifted here, but not confirmed yet by {}", lifted.unconfirmed.join(", "));
            }
            Ok(())
        }
        Command::Delete { who: None, local, json, .. } => {
            let lifted = client.delete_all(local)?;
            output::show(json.json, &lifted, || format!("{} decisions lifted", lifted.what.deleted))?;
            warn_unsaved(lifted.saved);
            Ok(())
        }
    }
}

fn warn_unsaved(saved: bool) {
    if !saved {
        eprintln!("warning: this is in force, but not on disk yet; `smtp-guard status` says why");
    }
}

impl AdminClient {
    /// GET /decisions, as often as it takes: all in force, those that end soonest first.
    pub fn decisions(&self) -> anyhow::Result<Vec<Decision>> {
        let (mut decisions, mut path) = (Vec::new(), String::from("/decisions"));
        loop {
            let part: Part = self.ask_within(MANY, Method::GET, &path, None::<&()>)?;
            decisions.extend(part.decisions);
            match part.next {
                Some(next) => path = format!("/decisions?after={next}"),
                None => return Ok(join(decisions)),
            }
        }
    }

    /// POST /decisions
    pub fn add(&self, add: &Add) -> anyhow::Result<Kept<Decision>> {
        self.ask(Method::POST, "/decisions", Some(add))
    }

    /// POST /decisions/import
    pub fn import(&self, import: &Import) -> anyhow::Result<Kept<Imported>> {
        self.ask_within(MANY, Method::POST, "/decisions/import", Some(import))
    }

    /// DELETE /decisions/{who}
    pub fn delete(&self, who: Who, local: bool) -> anyhow::Result<Kept<Decision>> {
        self.ask(Method::DELETE, &format!("/decisions/{who}?local={local}"), None::<&()>)
    }

    /// DELETE /decisions
    pub fn delete_all(&self, local: bool) -> anyhow::Result<Kept<Deleted>> {
        self.ask_within(MANY, Method::DELETE, &format!("/decisions?local={local}"), None::<&()>)
    }
}
