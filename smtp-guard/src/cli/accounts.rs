//! `accounts`, and `explain` of a user: in a table, and in plain sentences.

use std::time::Duration;

use axum::http::Method;
use clap::Subcommand;
use serde::Serialize;

use super::admin_client::AdminClient;
use super::args::{Json, duration, reason, user};
use super::output::{left, show, table};
use super::time;
use crate::clock::WallTime;
use crate::decision::CountView;
use crate::key::User;
use crate::observe::admin::Hold;
use crate::observe::log::printable;
use crate::rates::accounts::{AccountList, AccountView, HoldView};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List users who sent mail recently, their counts beside the limits, and held users
    List {
        #[command(flatten)]
        json: Json,
    },
    /// Hold a user: each further message hears 450, from any address, also in sessions under way
    Hold {
        /// The name that the user logs in by, in any case
        #[arg(value_parser = user)]
        user: User,
        /// Length of the hold: 30s, 10m, 1h, 7d; without it, until the user is released
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        length: Option<Duration>,
        /// Reason, shown by `explain` and in the log
        #[arg(long, value_name = "TEXT", default_value = "no reason given", value_parser = reason)]
        reason: String,
        #[command(flatten)]
        json: Json,
    },
    /// Release a user: end the hold, and forget the user's counts
    Release {
        /// The name that the user logs in by, in any case
        #[arg(value_parser = user)]
        user: User,
        #[command(flatten)]
        json: Json,
    },
}

/// The answer of `explain --json` about a user.
#[derive(Serialize)]
pub(super) struct Explained<'a> {
    /// The user is held: mail of him is deferred.
    blocked: bool,
    #[serde(flatten)]
    view: &'a AccountView,
}

impl<'a> Explained<'a> {
    pub(super) fn of(view: &'a AccountView) -> Self {
        Self { blocked: view.held.is_some(), view }
    }
}

/// Performs `command`.
pub(super) fn accounts(client: &AdminClient, command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { json } => {
            let list = client.accounts()?;
            show(json.json, &list, || listed(&list))
        }
        Command::Hold { user, length, reason, json } => {
            let hold = Hold { user: user.to_string(), seconds: length.map(time::whole_seconds), reason };
            let view = client.hold(&hold)?;
            let ends = || view.held.as_ref().map(ends).unwrap_or_default();
            show(json.json, &view, || format!("{} is held{}", name(&view), ends()))
        }
        Command::Release { user, json } => {
            let view = client.release(&user)?;
            show(json.json, &view, || format!("{} is released, and the user's counts are forgotten", name(&view)))
        }
    }
}

impl AdminClient {
    /// GET /accounts
    pub fn accounts(&self) -> anyhow::Result<AccountList> {
        self.ask(Method::GET, "/accounts", None::<&()>)
    }

    /// GET /accounts/{user}
    pub fn account(&self, user: &User) -> anyhow::Result<AccountView> {
        self.ask(Method::GET, &path_of(user), None::<&()>)
    }

    /// POST /accounts
    pub fn hold(&self, hold: &Hold) -> anyhow::Result<AccountView> {
        self.ask(Method::POST, "/accounts", Some(hold))
    }

    /// DELETE /accounts/{user}
    pub fn release(&self, user: &User) -> anyhow::Result<AccountView> {
        self.ask(Method::DELETE, &path_of(user), None::<&()>)
    }
}

/// The path of `user`, with all but letters and digits as `%xx`.
fn path_of(user: &User) -> String {
    let mut path = String::from("/accounts/");
    for byte in user.name().bytes() {
        match byte {
            b if b.is_ascii_alphanumeric() => path.push(char::from(b)),
            b => path.push_str(&format!("%{b:02X}")),
        }
    }
    path
}

fn name(view: &AccountView) -> String {
    printable(view.user.as_bytes())
}

fn ends(held: &HoldView) -> String {
    match held.until.as_ms() {
        i64::MAX => String::from(" until released"),
        _ => format!(" until {}", time::utc(held.until)),
    }
}

fn listed(list: &AccountList) -> String {
    if list.accounts.is_empty() {
        return String::from("no user has sent anything recently, and none is held");
    }
    let mut rows =
        vec![["USER", "MESSAGES", "RECIPIENTS", "NETWORKS", "HELD", "BY", "SINCE", "UNTIL"].map(String::from)];
    rows.extend(list.accounts.iter().map(|view| {
        let count = |at: usize| view.counts.get(at).map(against).unwrap_or_default();
        let held = |told: fn(&HoldView) -> String| view.held.as_ref().map_or_else(|| "-".to_owned(), told);
        [
            name(view),
            count(0),
            count(1),
            count(2),
            held(|held| held.reason.clone()),
            held(|held| held.origin.clone()),
            held(|held| time::utc(held.since)),
            held(|held| time::utc(held.until)),
        ]
    }));
    let more = match list.left_out {
        0 => String::new(),
        n => format!("\n... and {n} more, who sent less"),
    };
    table(&rows) + &more
}

/// `3 of 100`, or `3` where there is no limit.
pub(super) fn against(count: &CountView) -> String {
    match count.limit {
        None => count.count.to_string(),
        Some(limit) => format!("{} of {limit}", count.count),
    }
}

/// All that is known of a user, in sentences.
pub(super) fn explained(view: &AccountView) -> String {
    explained_at(view, crate::clock::wall())
}

fn explained_at(view: &AccountView, now: WallTime) -> String {
    let name = name(view);
    let mut lines = Vec::new();
    match &view.held {
        None => lines.push(format!("User {name} is not held.")),
        Some(held) => {
            lines.push(format!("User {name} is held: {}.", printable(held.text.as_bytes())));
            let by = if held.origin == "operator" { "the administrator" } else { "the guard itself" };
            lines.push(format!("Since {}, by {by} [{}].", time::utc(held.since), held.reason));
            lines.push(match held.until.as_ms() {
                i64::MAX => String::from("It does not end by itself."),
                _ => format!("It ends by itself at {}, in {}.", time::utc(held.until), left(held.until, now)),
            });
            lines.push(format!("To lift it now: smtp-guard accounts release {name}"));
            lines.push(String::from("If the password may be stolen, change it first."));
        }
    }
    lines.extend(view.counts.iter().map(|count| {
        let none = if count.limit.is_none() { ", no limit" } else { "" };
        format!("limits.{}: {}{none}.", count.name, against(count))
    }));
    lines.extend(view.networks.iter().map(|seen| format!("  from {}, last {}", seen.network, time::utc(seen.last))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::check_documented;
    use crate::rates::accounts::NetworkSeen;

    fn view(held: Option<HoldView>) -> AccountView {
        let count = |name: &str, count, limit| CountView { name: name.to_owned(), count, limit };
        AccountView {
            user: "bob".to_owned(),
            counts: vec![
                count("user_messages_per_hour", 3, Some(100)),
                count("user_recipients_per_hour", 12, None),
                count("user_networks_per_day", 1, Some(5)),
            ],
            networks: vec![NetworkSeen { network: "192.0.2.0/24".to_owned(), last: WallTime::from_ms(1000) }],
            held,
        }
    }

    fn held(origin: &str, until: i64) -> HoldView {
        HoldView {
            reason: "user_held".to_owned(),
            text: "stolen\npassword".to_owned(),
            origin: origin.to_owned(),
            since: WallTime::from_ms(0),
            until: WallTime::from_ms(until),
        }
    }

    #[test]
    fn a_list_is_a_table() {
        let list = |accounts, left_out| listed(&AccountList { accounts, left_out });
        assert_eq!(list(Vec::new(), 0), "no user has sent anything recently, and none is held");
        let expected = "\
USER  MESSAGES  RECIPIENTS  NETWORKS  HELD       BY      SINCE                    UNTIL
bob   3 of 100  12          1 of 5    user_held  ledger  1970-01-01 00:00:00 UTC  for ever
bob   3 of 100  12          1 of 5    -          -       -                        -
... and 7 more, who sent less";
        assert_eq!(list(vec![view(Some(held("ledger", i64::MAX))), view(None)], 7), expected);
        let mut accounts = vec![view(Some(held("ledger", i64::MAX))), view(Some(held("operator", 1))), view(None)];
        check_documented("accounts hold", &accounts[0]);
        accounts.iter_mut().for_each(|view| view.networks.clear());
        check_documented("accounts list", &AccountList { accounts, left_out: 7 });
    }

    #[test]
    fn a_user_is_explained_in_sentences() {
        let counts = "\
limits.user_messages_per_hour: 3 of 100.
limits.user_recipients_per_hour: 12, no limit.
limits.user_networks_per_day: 1 of 5.
  from 192.0.2.0/24, last 1970-01-01 00:00:01 UTC";
        let check = |held: Option<HoldView>, expected: &str| {
            check_documented("explain bob", &Explained::of(&view(held.clone())));
            assert_eq!(explained_at(&view(held), WallTime::from_ms(0)), format!("{expected}\n{counts}"));
        };
        check(None, "User bob is not held.");
        let rest = "To lift it now: smtp-guard accounts release bob\nIf the password may be stolen, change it first.";
        check(
            Some(held("operator", i64::MAX)),
            &format!(
                "User bob is held: stolen\\x0apassword.\nSince 1970-01-01 00:00:00 UTC, by the administrator [user_held].\n\
                 It does not end by itself.\n{rest}"
            ),
        );
        check(
            Some(held("ledger", 60_000)),
            &format!(
                "User bob is held: stolen\\x0apassword.\nSince 1970-01-01 00:00:00 UTC, by the guard itself [user_held].\n\
                 It ends by itself at 1970-01-01 00:01:00 UTC, in 1m 00s.\n{rest}"
            ),
        );
    }
}
