//! Questions and orders about the selected source, as `explain` and `decisions` ask them. The guard decides and logs as it does
//! for those commands, with the operator's uid.

use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use crate::cli::admin_client::AdminClient;
use crate::cli::args::{Subject, somebody, subject};
use crate::cli::{explain, time};
use crate::observe::admin::Add;

/// An order of the operator's about a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    Explain(String),
    Ban(String, Duration),
    Lift(String),
}

/// The answer to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// Lines about this source.
    Explained(String, Vec<String>),
    /// A line that says what was done.
    Did(String),
}

/// Asks the guard. Blocks for as long as an answer may take.
pub(super) fn perform(client: &AdminClient, deed: &Deed) -> Result<Done, String> {
    let told = |error: anyhow::Error| format!("{error:#}");
    match deed {
        Deed::Explain(source) => match subject(source)? {
            Subject::Address(ip) => {
                let text = explain::text(ip, &client.explain(ip).map_err(told)?);
                Ok(Done::Explained(source.clone(), text.lines().map(str::to_owned).collect()))
            }
            Subject::User(_) => Err(format!("{source} is no address")),
        },
        Deed::Ban(source, length) => {
            let reason = Reason::Operator.text().to_owned();
            let add = Add { ip: somebody(source)?, seconds: time::whole_seconds(*length), reason, local: false };
            let made = client.add(&add).map_err(told)?;
            let unsaved = if made.saved { "" } else { "; not on disk yet" };
            Ok(Done::Did(format!("{} is blocked until {}{unsaved}", made.what.source, time::utc(made.what.until))))
        }
        Deed::Lift(source) => {
            let lifted = client.delete(somebody(source)?, false).map_err(told)?;
            let unsaved = if lifted.saved { "" } else { "; not on disk yet" };
            let late = match lifted.unconfirmed.as_slice() {
                [] => String::new(),
                late => format!("; not confirmed yet by {}", late.join(", ")),
            };
            Ok(Done::Did(format!("{} is no longer blocked{unsaved}{late}", lifted.what.source)))
        }
    }
}
