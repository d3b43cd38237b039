//! Users as the command line and the API show them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use smtp_guard_ebpf::reason::Reason;

use super::{Account, Accounts, DAY, Hold, User};
use crate::clock::{Both, Instant, WallTime};
use crate::config::Limits;
use crate::decision::{CountView, Origin};

/// A view of what is known of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    pub user: String,
    /// Messages, recipients and networks.
    pub counts: Vec<CountView>,
    /// Where he logs in and sends from, the latest first; left out in lists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkSeen>,
    /// He hears 450.
    pub held: Option<HoldView>,
}

/// A network of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSeen {
    /// `192.0.2.0/24` or `2001:db8::/48`.
    pub network: String,
    pub last: WallTime,
}

/// The hold on a user, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// Label of the [`Reason`].
    pub reason: String,
    pub text: String,
    /// `ledger`: by a limit; `operator`.
    pub origin: String,
    pub since: WallTime,
    /// The end of time: until he is released.
    pub until: WallTime,
}

/// Users that sent something lately, or are held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountList {
    /// Held users first, then those who sent most.
    pub accounts: Vec<AccountView>,
    /// Users that there was no room for in the answer.
    pub left_out: usize,
}

/// The users that are held now, by limits or by operators.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldUsers {
    pub count: u64,
    /// The first of them, in the order of their names: at most [`HeldUsers::NAMED`].
    pub names: Vec<String>,
}

impl HeldUsers {
    /// Users that are named.
    pub const NAMED: usize = 10;
}

impl Accounts {
    /// The users who are held at `now`.
    pub fn held(&self, limits: &Limits, now: Instant) -> HeldUsers {
        let holds = self.holds();
        let mut held: BTreeSet<_> =
            holds.iter().filter(|(_, hold)| now < hold.until).map(|(user, _)| user.clone()).collect();
        drop(holds);
        self.users.each(|user, account| {
            if account.held(limits, self.pace, now).is_some() {
                held.insert(user.clone());
            }
        });
        let names = held.iter().take(HeldUsers::NAMED).map(User::to_string).collect();
        HeldUsers { count: held.len() as u64, names }
    }

    /// The counts of `user`; `None`: there are none.
    pub fn view(&self, limits: &Limits, user: &User, both: &Both) -> Option<AccountView> {
        let hold = self.hold_of(user, both.instant);
        let mut account = match (self.users.get(user), &hold) {
            (None, None) => return None,
            (account, _) => account.unwrap_or_default(),
        };
        let mut view = self.shown(limits, user, &mut account, hold.as_ref(), both);
        account.networks.sort_unstable_by_key(|(network, last)| (std::cmp::Reverse(*last), *network));
        view.networks = account
            .networks
            .iter()
            .map(|(network, last)| NetworkSeen { network: network.text(), last: both.wall_at(*last) })
            .collect();
        Some(view)
    }

    /// At most `most` users of whom something counts, or who are held.
    pub fn list(&self, limits: &Limits, both: &Both, most: usize) -> AccountList {
        let (now, slice) = (both.instant, self.pace.slice(both.instant));
        let mut holds = self.holds().clone();
        holds.retain(|_, hold| now < hold.until);
        let mut rows = Vec::new();
        self.users.each(|user, account| {
            let held = holds.contains_key(user) || account.held(limits, self.pace, now).is_some();
            let sent = account.messages.total(slice).saturating_add(account.recipients.total(slice));
            let seen = account.networks.iter().any(|(_, last)| now.since(*last) < DAY);
            if held || sent > 0 || seen {
                rows.push((std::cmp::Reverse((held, sent)), user.clone()));
            }
        });
        let counted: std::collections::HashSet<_> = rows.iter().map(|(_, user)| user.clone()).collect();
        let others = holds.keys().filter(|user| !counted.contains(user));
        rows.extend(others.map(|user| (std::cmp::Reverse((true, 0)), user.clone())));
        rows.sort_unstable();
        let left_out = rows.len().saturating_sub(most);
        rows.truncate(most);
        let shown = rows.into_iter().map(|(_, user)| {
            let mut account = self.users.get(&user).unwrap_or_default();
            self.shown(limits, &user, &mut account, holds.get(&user), both)
        });
        AccountList { accounts: shown.collect(), left_out }
    }

    fn shown(
        &self,
        limits: &Limits,
        user: &User,
        account: &mut Account,
        hold: Option<&Hold>,
        both: &Both,
    ) -> AccountView {
        let slice = self.pace.slice(both.instant);
        let by_limit = account.held(limits, self.pace, both.instant);
        let view = |reason: Reason, text: &str, origin: Origin, since: Instant, until: Instant| HoldView {
            reason: reason.label().to_owned(),
            text: text.to_owned(),
            origin: origin.label().to_owned(),
            since: both.wall_at(since),
            until: both.wall_at(until),
        };
        let held = match (hold, by_limit) {
            (Some(hold), _) => Some(view(Reason::UserHeld, &hold.text, Origin::Operator, hold.since, hold.until)),
            (None, Some((limit, since, until))) => {
                Some(view(limit.reason(), limit.reason().text(), Origin::Ledger, since, until))
            }
            (None, None) => None,
        };
        let count = |name: &str, count: u64, limit: u32| CountView {
            name: name.to_owned(),
            count,
            limit: (limit > 0).then_some(limit.into()),
        };
        let counts = vec![
            count("user_messages_per_hour", account.messages.total(slice).into(), limits.user_messages_per_hour),
            count("user_recipients_per_hour", account.recipients.total(slice).into(), limits.user_recipients_per_hour),
            count("user_networks_per_day", account.networks.len() as u64, limits.user_networks_per_day),
        ];
        AccountView { user: user.to_string(), counts, networks: Vec::new(), held }
    }
}
