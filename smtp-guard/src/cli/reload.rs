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

/// Has the guard read its configuration again. `file`: the one that the command was given. `wait`: until no session goes by an
/// earlier configuration.
pub(super) fn reload(
    client: &AdminClient,
    file: Option<&Path>,
    asked: Reload,
    wait: bool,
    json: bool,
) -> anyhow::Result<()> {
    let mut reloaded = client.reload(asked)?;
    reloaded.warnings.extend(another(file, &reloaded.file));
    if wait && !asked.dry_run {
        reloaded.earlier_sessions = wait_for_sessions(client)?;
    }
    output::show(json, &reloaded, || text(&reloaded))?;
    if !json {
        warn(&reloaded.warnings);
    }
    Ok(())
}

fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
}

/// A warning where the command was given `file` and the guard reads `read`.
fn another(file: Option<&Path>, read: &str) -> Option<String> {
    let given = config::named(Some(file?));
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    (real(&given) != real(Path::new(read))).then(|| {
        let (given, read) = (printable(given.as_os_str().as_encoded_bytes()), printable(read.as_bytes()));
        format!(
            "the guard reads {read}, not {given}: what that says was not looked at. Change {read}, or start the guard with \
             --config {given}; `smtp-guard check --config {given}` and `try` judge it before"
        )
    })
}

/// The answer of `config diff --json`.
#[derive(Serialize)]
struct Difference<'a> {
    file: &'a str,
    changes: &'a [Change],
    warnings: &'a [String],
}

/// Shows what the guard's file says otherwise than what is in force. `given`: the file that the command was given.
pub(super) fn difference(client: &AdminClient, given: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let Reloaded { file, changes, mut warnings, .. } = client.reload(Reload { dry_run: true })?;
    warnings.extend(another(given, &file));
    let difference = Difference { file: &file, changes: &changes, warnings: &warnings };
    output::show(json, &difference, || match changes.as_slice() {
        [] => format!("{} says what is in force", printable(file.as_bytes())),
        changes => lines(changes).join("\n"),
    })?;
    if !json {
        warn(&warnings);
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
    let Reloaded { generation, dry_run, file, changes, earlier_sessions, .. } = reloaded;
    let file = printable(file.as_bytes());
    let mut text = vec![match (dry_run, changes.is_empty()) {
        (true, true) => format!("{file} says what is in force (generation {generation})"),
        (true, false) => format!("{file} can be used in place of generation {generation}; it would change:"),
        (false, true) => format!("generation {generation} is in force; {file} says the same as before"),
        (false, false) => format!("generation {generation} is in force, by {file}; changed:"),
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
        let file = "/etc/g.toml".to_owned();
        let reloaded =
            Reloaded { generation: 3, dry_run: false, file, changes, warnings: Vec::new(), earlier_sessions: 12 };
        assert_eq!(
            text(&reloaded),
            "generation 3 is in force, by /etc/g.toml; changed:\n  limits.recipients: 100 -> 50\n  \
             recipients.known: not set -> \"/a\\x1b\"\n  \
             state.directory: \"/a\" -> \"/b\"; needs a restart: the store is open there\n\
             sessions that go on by the configuration that they began with: 12"
        );
        output::check_documented("reload", &reloaded);
        output::check_documented(
            "config diff",
            &Difference { file: &reloaded.file, changes: &reloaded.changes, warnings: &[] },
        );
        assert_eq!(another(None, &reloaded.file), None);
        assert_eq!(another(Some(Path::new("/etc/../etc/g.toml")), "/etc/../etc/g.toml"), None);
        let warning = another(Some(Path::new("/etc/h.toml")), &reloaded.file).unwrap();
        assert!(warning.starts_with("the guard reads /etc/g.toml, not /etc/h.toml: "), "{warning}");
        let dry = Reloaded { dry_run: true, changes: Vec::new(), earlier_sessions: 0, ..reloaded };
        assert_eq!(text(&dry), "/etc/g.toml says what is in force (generation 3)");
    }
}
