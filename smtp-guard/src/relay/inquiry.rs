//! The look-ups of one session: about the client from the moment it connects, about a sender from MAIL on.
//!
//! They run beside the session and never hold the greeting. Each has one deadline, `dns.timeout` after it began, and by
//! then is answered or failed; a session that ends takes them along.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::task::{JoinError, JoinHandle};
use tokio::time::Instant;

use super::Shared;
use crate::facts::dns::{Failure, Resolver, Reverse, SenderDomain, Zone};
use crate::policy::checks::{Found, Listing, Needs};

/// What is asked about a client: its reverse names, and what the lists say.
type AboutClient = (Option<Result<Reverse, Failure>>, Vec<Listing>);

/// The look-ups of one session.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    client: Lookup<AboutClient>,
    /// Of the last MAIL.
    sender: Lookup<Option<Result<SenderDomain, Failure>>>,
}

/// A look-up under way, or what came of it. Dropping it ends it.
#[derive(Debug, Default)]
struct Lookup<T> {
    task: Option<JoinHandle<T>>,
    done: T,
}

impl Inquiry {
    /// Begins what `needs` asks for about `client`.
    pub(super) fn about_client(&mut self, shared: &Shared, client: IpAddr, needs: Needs) {
        let Some(resolver) = shared.resolver.clone().filter(|_| needs != Needs::default()) else { return };
        let zones = needs.lists.then(|| Arc::clone(&shared.zones));
        let deadline = Instant::now() + shared.config.dns.timeout;
        self.client.begin(async move {
            let reverse = async {
                if needs.reverse { Some(resolver.reverse(client, needs.forward, deadline).await) } else { None }
            };
            let lists = async {
                match &zones {
                    Some(zones) => ask_lists(&resolver, zones, client, deadline).await,
                    None => Vec::new(),
                }
            };
            tokio::join!(reverse, lists)
        });
    }

    /// Begins to look up the `domain` of a sender, if there is one to look up, in place of that of an earlier one.
    pub(super) fn about_sender(&mut self, shared: &Shared, domain: Option<&str>) {
        self.sender = Lookup::default();
        if let (Some(resolver), Some(domain)) = (shared.resolver.clone(), domain.map(str::to_owned)) {
            let deadline = Instant::now() + shared.config.dns.timeout;
            self.sender.begin(async move { Some(resolver.sender_domain(&domain, deadline).await) });
        }
    }

    /// Everything that was found out, once it is there. Cancel safe.
    pub(super) async fn found(&mut self) -> Found {
        let (reverse, lists) = self.client.settle().await.clone();
        Found { sender: *self.sender.settle().await, reverse, lists }
    }
}

/// Asks all lists at once.
async fn ask_lists(resolver: &Resolver, zones: &Arc<[Zone]>, client: IpAddr, deadline: Instant) -> Vec<Listing> {
    let mut asked = tokio::task::JoinSet::new();
    for index in 0..zones.len() {
        let (resolver, zones) = (resolver.clone(), Arc::clone(zones));
        asked.spawn(async move { (index, resolver.listed(&zones[index], client, deadline).await) });
    }
    let mut found: Vec<_> = asked.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    let listing = |(index, found): (usize, _)| {
        let Zone { name, weight, .. } = &zones[index];
        Listing { zone: name.clone(), weight: *weight, found }
    };
    found.into_iter().map(listing).collect()
}

impl<T: Default + Send + 'static> Lookup<T> {
    fn begin(&mut self, lookup: impl Future<Output = T> + Send + 'static) {
        self.done = T::default();
        if let Some(earlier) = self.task.replace(tokio::spawn(lookup)) {
            earlier.abort();
        }
    }

    async fn settle(&mut self) -> &T {
        if let Some(task) = &mut self.task {
            // A look-up that panicked has found out nothing, which is how it is judged.
            let result: Result<T, JoinError> = task.await;
            self.done = result.unwrap_or_default();
            self.task = None;
        }
        &self.done
    }
}

impl<T> Drop for Lookup<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
