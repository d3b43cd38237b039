//! The operator's desk: what the admin API asks is answered by the ledger, or tried on the rules.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::decision::{Decision, Entry, Explanation, Imported, Kept, Name, Operator, Part, Suspect};
use crate::guard::{Guard, ReloadError};
use crate::key::User;
use crate::key::Who;
use crate::observe::admin::{ACCOUNTS, Control, Refusal};
use crate::observe::attempt::{Attempt, Rehearsal};
use crate::observe::reload::Reloaded;
use crate::rates::accounts::{AccountList, AccountView};

/// How long a lift waits for the other edges of a fleet.
const CONFIRMED: Duration = Duration::from_secs(1);

/// Answers the admin API. Holds the guard's shared state for as long as it lives.
#[derive(Clone, Debug)]
pub(super) struct Desk(pub(super) Arc<Guard>);

impl Control for Desk {
    async fn decisions(&self, after: Option<String>) -> Result<Part, Refusal> {
        Ok(self.0.shared().feedback.decisions(after).await?)
    }

    async fn latest(&self) -> Result<Vec<Decision>, Refusal> {
        Ok(self.0.shared().feedback.latest().await?)
    }

    async fn suspects(&self) -> Result<Vec<Suspect>, Refusal> {
        Ok(self.0.shared().feedback.suspects().await?)
    }

    async fn add(&self, who: Who, length: Duration, text: String, by: Operator) -> Result<Kept<Decision>, Refusal> {
        Ok(self.0.shared().feedback.add(who, length, text, by).await?)
    }

    async fn import(
        &self,
        file: Name,
        entries: Vec<Entry>,
        text: String,
        by: Operator,
    ) -> Result<Kept<Imported>, Refusal> {
        Ok(self.0.shared().feedback.import(file, entries, text, by).await?)
    }

    async fn delete(&self, who: Who, by: Operator) -> Result<Option<Kept<Decision>>, Refusal> {
        let lifted = self.0.shared().feedback.delete(who, by).await?;
        let Some(mut lifted) = lifted else { return Ok(None) };
        if !by.local
            && let Some(late) = self.0.fleet().unconfirmed(&lifted.what.source, CONFIRMED).await
        {
            lifted.unconfirmed = late.nodes;
            lifted.unconfirmed.extend(late.waits.then(|| "the fleet's server".to_owned()));
        }
        Ok(Some(lifted))
    }

    async fn delete_all(&self, by: Operator) -> Result<Kept<usize>, Refusal> {
        Ok(self.0.shared().feedback.delete_all(by).await?)
    }

    async fn explain(&self, ip: IpAddr) -> Result<Explanation, Refusal> {
        let explanation = self.0.shared().feedback.explain(ip).await?;
        let kernel = self.0.kernel_view(ip).await;
        Ok(Explanation { listed: self.0.shared().blocklists.load().listings(ip), kernel, ..explanation })
    }

    async fn reload(&self, dry_run: bool, by: Operator) -> Result<Reloaded, Refusal> {
        if !dry_run {
            tracing::info!(uid = by.uid, "{by} asks for the configuration to be read again");
        }
        self.0.reload(dry_run).await.map_err(refusal)
    }

    async fn accounts(&self) -> Result<AccountList, Refusal> {
        Ok(self.0.shared().accounts(ACCOUNTS))
    }

    async fn account(&self, user: User) -> Result<Option<AccountView>, Refusal> {
        Ok(self.0.shared().account(&user))
    }

    async fn hold(
        &self,
        user: User,
        length: Option<Duration>,
        text: String,
        by: Operator,
    ) -> Result<AccountView, Refusal> {
        Ok(self.0.shared().feedback.hold(user, length, text, by).await?)
    }

    async fn release(&self, user: User, by: Operator) -> Result<Option<AccountView>, Refusal> {
        Ok(self.0.shared().feedback.release(user, by).await?)
    }

    async fn attempt(&self, attempt: Attempt) -> Result<Rehearsal, Refusal> {
        let (generation, by) = match &attempt.config {
            Some(candidate) => self.0.candidate(candidate.clone()).await.map_err(refusal)?,
            None => (self.0.shared().current(), None),
        };
        let explanation = self.explain(attempt.ip).await?;
        Ok(Rehearsal { by, ..self.0.shared().rehearse(&attempt, generation, explanation).await })
    }
}

fn refusal(error: ReloadError) -> Refusal {
    match error {
        ReloadError::Stopping | ReloadError::Broken => Refusal::Unavailable(error.text()),
        error => Refusal::Bad(error.text()),
    }
}
