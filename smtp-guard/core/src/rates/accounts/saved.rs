//! Users as the store keeps them: JSON, times in ms since 1970. What can't be read is left out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::window;
use super::{Account, Accounts, DAY, Refused, User, Window};
use crate::clock::{Both, Stored};
use crate::ledger::networks::Network;

/// Networks of a user that are believed: the highest limit.
const LIST: usize = 1000;

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    messages: window::Saved,
    recipients: window::Saved,
    networks: Vec<(String, Stored)>,
    /// Since when, and when last, for each limit.
    over: [Option<(Stored, Stored)>; 3],
}

impl Accounts {
    /// At most `most` users that changed since they were last told here, as the store keeps them; `None`: nothing counts.
    pub fn take_changed(&self, most: usize, both: &Both) -> Vec<(User, Option<String>)> {
        let slice = self.pace.slice(both.instant);
        self.users.take_changed(most, |account| {
            account.networks.retain(|(_, last)| both.instant.since(*last) < DAY);
            let sent = account.messages.total(slice).saturating_add(account.recipients.total(slice));
            let counts = sent > 0 || !account.networks.is_empty();
            counts.then(|| {
                let networks = account.networks.iter();
                let saved = Saved {
                    messages: account.messages.saved(self.pace, both),
                    recipients: account.recipients.saved(self.pace, both),
                    networks: networks.map(|(network, last)| (network.text(), both.wall_at(*last).into())).collect(),
                    over: account.over.map(|refused| {
                        refused.map(|refused| (both.wall_at(refused.since).into(), both.wall_at(refused.last).into()))
                    }),
                };
                serde_json::to_string(&saved).unwrap_or_default()
            })
        })
    }

    /// Takes back what [`Self::take_changed`] gave. Times that lie ahead are taken for now.
    pub fn restore(&self, user: User, text: &str, both: &Both) {
        let Ok(saved) = serde_json::from_str::<Saved>(text) else { return };
        // The store rounds down to ms: what happened counts a little longer, never shorter.
        let past = |at: Stored| both.instant_at(at.into()).after(Duration::from_millis(1)).min(both.instant);
        let windows = [saved.messages, saved.recipients].map(|saved| Window::read(saved, self.pace, both));
        let [Some(messages), Some(recipients)] = windows else { return };
        let networks = saved.networks.into_iter().take(LIST);
        let mut account = Account {
            messages,
            recipients,
            networks: networks.filter_map(|(text, last)| Some((Network::read(&text)?, past(last)))).collect(),
            over: saved.over.map(|over| over.map(|(since, last)| Refused { since: past(since), last: past(last) })),
        };
        account.networks.retain(|(_, last)| both.instant.since(*last) < DAY);
        let slice = self.pace.slice(both.instant);
        // Of users who are silent the store has more than there is room for.
        if account.messages.total(slice) > 0 || account.recipients.total(slice) > 0 || !account.networks.is_empty() {
            self.users.restore(user, account);
        }
    }
}
