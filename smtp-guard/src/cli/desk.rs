//! The operator's desk: what the admin API asks is answered by the ledger, or tried on the rules.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::decision::{Decision, Entry, Explanation, Imported, Kept};
use crate::key::Who;
use crate::observe::admin::{Control, Refusal};
use crate::observe::attempt::{Attempt, Rehearsal};
use crate::relay::Shared;

/// Answers the admin API. Holds the guard's shared state for as long as it lives.
#[derive(Clone, Debug)]
pub(super) struct Desk(pub(super) Arc<Shared>);

impl Control for Desk {
    async fn decisions(&self) -> Result<Vec<Decision>, Refusal> {
        Ok(self.0.feedback.decisions().await?)
    }

    async fn latest(&self) -> Result<Vec<Decision>, Refusal> {
        Ok(self.0.feedback.latest().await?)
    }

    async fn add(&self, who: Who, length: Duration, text: String) -> Result<Kept<Decision>, Refusal> {
        Ok(self.0.feedback.add(who, length, text).await?)
    }

    async fn import(&self, entries: Vec<Entry>, text: String) -> Result<Kept<Imported>, Refusal> {
        Ok(self.0.feedback.import(entries, text).await?)
    }

    async fn delete(&self, who: Who) -> Result<Option<Kept<Decision>>, Refusal> {
        Ok(self.0.feedback.delete(who).await?)
    }

    async fn delete_all(&self) -> Result<Kept<usize>, Refusal> {
        Ok(self.0.feedback.delete_all().await?)
    }

    async fn explain(&self, ip: IpAddr) -> Result<Explanation, Refusal> {
        let explanation = self.0.feedback.explain(ip).await?;
        Ok(Explanation { listed: self.0.blocklists.load().listings(ip), ..explanation })
    }

    async fn attempt(&self, attempt: Attempt) -> Result<Rehearsal, Refusal> {
        let explanation = self.explain(attempt.ip).await?;
        Ok(self.0.rehearse(&attempt, explanation).await)
    }
}
