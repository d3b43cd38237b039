//! The status page's questions to the guard, beside its state: the latest bans, users, and who is near a limit.

use std::net::IpAddr;
use std::sync::Arc;

use super::Guard;
use crate::decision::Decision;
use crate::observe::page::{CANDIDATES, Desk as Asked, Near, USERS};
use crate::rates::accounts::AccountList;

/// Answers the page.
#[derive(Clone, Debug)]
pub(super) struct Desk(pub(super) Arc<Guard>);

impl Asked for Desk {
    fn hostname(&self) -> String {
        self.0.shared.current().config().hostname.clone()
    }

    async fn latest(&self) -> Vec<Decision> {
        self.0.shared.feedback.latest().await.unwrap_or_default()
    }

    fn users(&self) -> AccountList {
        self.0.shared.accounts(USERS)
    }

    async fn near(&self, candidates: Vec<IpAddr>) -> Vec<Near> {
        let shared = &self.0.shared;
        let mut near: Vec<_> = shared
            .crowded(CANDIDATES)
            .into_iter()
            .map(|(who, limit, count, most)| Near {
                who,
                limit: limit.to_owned(),
                count: count.into(),
                most: most.into(),
            })
            .collect();
        let current = shared.current();
        let config = current.config();
        for ip in candidates {
            let Ok(known) = shared.feedback.explain(ip).await else { break };
            if known.exempt || known.decision.is_some() || !known.networks.is_empty() {
                continue;
            }
            let ledger = known.ledger.as_ref().map(|ledger| {
                [
                    ("harvest.unknown_recipients", u64::from(ledger.unforgiven), config.harvest.unknown_recipients),
                    ("auth.failures", u64::from(ledger.failed_logins), config.auth.failures),
                ]
            });
            let ledger =
                ledger.into_iter().flatten().map(|(limit, count, most)| (limit.to_owned(), count, u64::from(most)));
            let counts = known
                .counts
                .iter()
                .map(|count| (format!("limits.{}", count.name), count.count, count.limit.unwrap_or_default()));
            let close = ledger.chain(counts).filter(|(_, count, most)| Near::is(*count, *most));
            near.extend(close.map(|(limit, count, most)| Near { who: known.source.clone(), limit, count, most }));
        }
        near
    }
}
