//! `reload` and `config diff`: asks the running guard, and shows what changed or would.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::Duration;

use axum::http::Method;
use serde::Serialize;

use super::admin_client::{AdminClient, LOOKUPS};
use super::output;
use crate::config::{self, Change};
use crate::observe::log::printable;
use crate::observe::reload::{Reload, Reloaded};

impl AdminClient {
    /// POST /reload
    pub fn reload(&self, reload: Reload) -> anyhow::Result<Reloaded> {
        self.ask_within(LOOKUPS, Method::POST, "/reload", Some(&reload))
    }
}

/// How often is asked whether sessions of earlier generations are left.
const LOOK: Duration = Duration::from_millis(500);

/// Has the guard read its configuration again. `wait`: until no session goes by an earlier one.
pub(super) fn reload(client: &AdminClient, dry_run: bool, wait: bool, json: bool) -> anyhow::Result<()> {
    let mut reloaded = client.reload(Reload { dry_run })?;
    if wait && !dry_run {
        reloaded.earlier_sessions = wait_for_sessions(client)?;
    }
    output::show(json, &reloaded, || text(&reloaded))?;
    if !json {
        reloaded.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    Ok(())
}

/// What `config diff --json` shows.
#[derive(Serialize)]
struct Difference<'a> {
    changes: &'a [Change],
}

/// Shows what the file says otherwise than what is in force.
pub(super) fn difference(client: &AdminClient, json: bool) -> anyhow::Result<()> {
    let Reloaded { changes, warnings, .. } = client.reload(Reload { dry_run: true })?;
    output::show(json, &Difference { changes: &changes }, || match changes.as_slice() {
        [] => String::from("the file says what is in force"),
        changes => lines(changes).join("\n"),
    })?;
    if !json {
        warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    Ok(())
}

/// A warning where the guard that runs goes by another configuration than `file`, by which the kernel plane was just loaded.
pub(super) fn difference_to(file: Option<&Path>) -> Option<String> {
    let (socket, _) = config::find_socket(file).ok()?;
    let client = AdminClient::new(socket);
    // Without a guard, or with one that doesn't answer, there is nothing to agree with.
    let asked = client.status().and_then(|_| client.reload(Reload { dry_run: true }));
    let Reloaded { changes, .. } = asked.ok()?;
    let keys: Vec<_> = changes.iter().filter(|change| change.restart.is_none()).map(|c| c.key.as_str()).collect();
    (!keys.is_empty()).then(|| {
        let keys = keys.join(", ");
        format!("the running guard goes by another configuration ({keys}); `smtp-guard reload` makes both planes agree")
    })
}

fn wait_for_sessions(client: &AdminClient) -> anyhow::Result<u64> {
    let shown = io::stderr().is_terminal();
    let mut last = None;
    loop {
        let left = client.status()?.configuration.earlier_sessions;
        if shown && last != Some(left) {
            // A terminal that is gone needs no progress.
            let _ = write!(io::stderr(), "\r\x1b[Ksessions that go on by an earlier configuration: {left}");
            let _ = io::stderr().flush();
        }
        if left == 0 {
            if shown && last.is_some() {
                eprintln!();
            }
            return Ok(0);
        }
        last = Some(left);
        thread::sleep(LOOK);
    }
}

fn text(reloaded: &Reloaded) -> String {
    let Reloaded { generation, dry_run, changes, earlier_sessions, .. } = reloaded;
    let mut text = vec![match (dry_run, changes.is_empty()) {
        (true, true) => format!("the file says what is in force (generation {generation})"),
        (true, false) => format!("the file can be used in place of generation {generation}; it would change:"),
        (false, true) => format!("generation {generation} is in force; the configuration says the same as before"),
        (false, false) => format!("generation {generation} is in force; changed:"),
    }];
    text.extend(lines(changes).into_iter().map(|line| format!("  {line}")));
    if *earlier_sessions > 0 {
        text.push(format!("sessions that go on by the configuration that they began with: {earlier_sessions}"));
    }
    text.join("\n")
}

/// A line for each: `limits.recipients: 100 -> 50`.
fn lines(changes: &[Change]) -> Vec<String> {
    let value = |value: &Option<String>| match value {
        Some(value) => printable(value.as_bytes()),
        None => String::from("not set"),
    };
    let line = |change: &Change| {
        let Change { key, from, to, restart } = change;
        let line = format!("{key}: {} -> {}", value(from), value(to));
        match restart {
            Some(why) => format!("{line}; needs a restart: {why}"),
            None => line,
        }
    };
    changes.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, from: Option<&str>, to: Option<&str>, restart: Option<&str>) -> Change {
        let own = |text: &str| text.to_owned();
        Change { key: key.to_owned(), from: from.map(own), to: to.map(own), restart: restart.map(own) }
    }

    #[test]
    fn what_changed_is_shown_with_what_waits_for_a_restart() {
        let changes = vec![
            change("limits.recipients", Some("100"), Some("50"), None),
            change("recipients.known", None, Some("\"/a\x1b\""), None),
            change("state.directory", Some("\"/a\""), Some("\"/b\""), Some("the store is open there")),
        ];
        let reloaded = Reloaded { generation: 3, dry_run: false, changes, warnings: Vec::new(), earlier_sessions: 12 };
        assert_eq!(
            text(&reloaded),
            "generation 3 is in force; changed:\n  limits.recipients: 100 -> 50\n  \
             recipients.known: not set -> \"/a\\x1b\"\n  \
             state.directory: \"/a\" -> \"/b\"; needs a restart: the store is open there\n\
             sessions that go on by the configuration that they began with: 12"
        );
        output::check_documented("reload", &reloaded);
        output::check_documented("config diff", &Difference { changes: &reloaded.changes });
        let dry = Reloaded { dry_run: true, changes: Vec::new(), earlier_sessions: 0, ..reloaded };
        assert_eq!(text(&dry), "the file says what is in force (generation 3)");
    }
}
