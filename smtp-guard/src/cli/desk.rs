//! The operator's desk: what the admin API asks is answered by the ledger, or tried on the rules.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::decision::{Decision, Entry, Explanation, Imported, Kept, Name};
use crate::guard::{Guard, ReloadError};
use crate::key::Who;
use crate::observe::admin::{ACCOUNTS, Control, Refusal};
use crate::observe::attempt::{Attempt, Rehearsal};
use crate::observe::reload::Reloaded;
use crate::rates::accounts::{AccountList, AccountView, User};

/// Answers the admin API. Holds the guard's shared state for as long as it lives.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    guard: Arc<Guard>,
    /// Who asks.
    uid: Option<u32>,
}

impl Desk {
    pub(super) fn new(guard: Arc<Guard>) -> Self {
        Self { guard, uid: None }
    }
}

impl Control for Desk {
    fn asked_by(self, uid: Option<u32>) -> Self {
        Self { uid, ..self }
    }

    async fn decisions(&self) -> Result<Vec<Decision>, Refusal> {
        Ok(self.guard.shared().feedback.decisions().await?)
    }

    async fn latest(&self) -> Result<Vec<Decision>, Refusal> {
        Ok(self.guard.shared().feedback.latest().await?)
    }

    async fn add(&self, who: Who, length: Duration, text: String) -> Result<Kept<Decision>, Refusal> {
        Ok(self.guard.shared().feedback.add(who, length, text, self.uid).await?)
    }

    async fn import(&self, file: Name, entries: Vec<Entry>, text: String) -> Result<Kept<Imported>, Refusal> {
        Ok(self.guard.shared().feedback.import(file, entries, text).await?)
    }

    async fn delete(&self, who: Who) -> Result<Option<Kept<Decision>>, Refusal> {
        Ok(self.guard.shared().feedback.delete(who, self.uid).await?)
    }

    async fn delete_all(&self) -> Result<Kept<usize>, Refusal> {
        Ok(self.guard.shared().feedback.delete_all(self.uid).await?)
    }

    async fn explain(&self, ip: IpAddr) -> Result<Explanation, Refusal> {
        let explanation = self.guard.shared().feedback.explain(ip).await?;
        let kernel = self.guard.kernel_view(ip).await;
        Ok(Explanation { listed: self.guard.shared().blocklists.load().listings(ip), kernel, ..explanation })
    }

    async fn reload(&self, dry_run: bool) -> Result<Reloaded, Refusal> {
        self.guard.reload(dry_run).await.map_err(refusal)
    }

    async fn accounts(&self) -> Result<AccountList, Refusal> {
        Ok(self.guard.shared().accounts(ACCOUNTS))
    }

    async fn account(&self, user: User) -> Result<Option<AccountView>, Refusal> {
        Ok(self.guard.shared().account(&user))
    }

    async fn hold(&self, user: User, length: Option<Duration>, text: String) -> Result<AccountView, Refusal> {
        Ok(self.guard.shared().feedback.hold(user, length, text).await?)
    }

    async fn release(&self, user: User) -> Result<Option<AccountView>, Refusal> {
        Ok(self.guard.shared().feedback.release(user).await?)
    }

    async fn attempt(&self, attempt: Attempt) -> Result<Rehearsal, Refusal> {
        let (generation, by) = match &attempt.config {
            Some(candidate) => self.guard.candidate(candidate.clone()).await.map_err(refusal)?,
            None => (self.guard.shared().current(), None),
        };
        let explanation = self.explain(attempt.ip).await?;
        Ok(Rehearsal { by, ..self.guard.shared().rehearse(&attempt, generation, explanation).await })
    }
}

fn refusal(error: ReloadError) -> Refusal {
    match error {
        ReloadError::Stopping | ReloadError::Broken => Refusal::Unavailable(error.text()),
        error => Refusal::Bad(error.text()),
    }
}
