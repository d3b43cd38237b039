//! The look-ups of one session: about the client from the moment it connects, about a sender from its first recipient on.
//!
//! They run beside the session and never hold the greeting. Each has one deadline, `dns.timeout` after it began, and by
//! then is answered or failed; a session that ends takes them along. A look-up that finds no place, or whose source has
//! asked too much, tries again until then.

use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout};

use super::{Generation, Shared};
use crate::addr::ClientAddr;
use crate::config::Dnsbl;
use crate::facts::dns::{Failure, Party, Resolver, Reverse, SenderDomain, Standing, Zone};
use crate::ledger::networks::Network;
use crate::policy::checks::{Found, Listing, Needs};

/// Until a look-up without a place tries again for the first time. Each further pause is twice as long.
const PAUSE: Duration = Duration::from_millis(100);

/// The questions about a client: its reverse names, and what the lists say.
type AboutClient = (Option<Result<Reverse, Failure>>, Vec<Listing>);

/// How long opening a connection to the backend waits for the client's name, which has been looked for since the client connected.
const NAME_WAIT: Duration = Duration::from_secs(1);

/// The client's name, as far as DNS says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Called {
    /// A name that leads back to it.
    Name(Arc<str>),
    Nothing,
    /// DNS couldn't say.
    Unknown,
}

/// A client's name, once it is found out. Clones wait for the same.
#[derive(Clone, Debug)]
pub(super) struct Naming(watch::Receiver<Option<Called>>);

impl Naming {
    /// The name, if it is there.
    pub(super) fn now(&self) -> Option<Arc<str>> {
        match &*self.0.borrow() {
            Some(Called::Name(name)) => Some(Arc::clone(name)),
            _ => None,
        }
    }

    /// Waits for the client's name, [`NAME_WAIT`] at most.
    pub(super) async fn settle(mut self) -> Called {
        match timeout(NAME_WAIT, self.0.wait_for(Option::is_some)).await {
            Ok(Ok(called)) => called.clone().unwrap_or(Called::Unknown),
            // In time there is no answer, or whoever asked is gone.
            Ok(Err(_)) | Err(_) => Called::Unknown,
        }
    }
}

/// The look-ups of one session.
#[derive(Debug, Default)]
pub(super) struct Inquiry {
    name: Lookup<()>,
    naming: Option<Naming>,
    client: Lookup<AboutClient>,
    /// The domain of the last MAIL, until it is looked up.
    domain: Option<String>,
    /// The look-up for the last MAIL.
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
    pub(super) fn about_client(&mut self, shared: &Shared, generation: &Generation, client: ClientAddr, needs: Needs) {
        let Some(resolver) = resolver(shared, generation, client).filter(|_| needs != Needs::default()) else { return };
        let lists = needs.lists.then(|| (Arc::clone(&generation.zones), Arc::clone(generation.config())));
        let deadline = Instant::now() + generation.config().dns.timeout;
        let client = client.ip();
        self.client.begin(async move {
            let reverse = async {
                if !needs.reverse {
                    return None;
                }
                Some(patiently(deadline, || resolver.reverse(client, needs.forward, deadline)).await)
            };
            let lists = async {
                match &lists {
                    Some((zones, config)) => ask_lists(&resolver, zones, &config.dnsbl, client, deadline).await,
                    None => Vec::new(),
                }
            };
            tokio::join!(reverse, lists)
        });
    }

    /// Begins to find out what `client` is called. Nobody waits for that but who opens a connection to the backend.
    pub(super) fn about_name(&mut self, shared: &Shared, generation: &Generation, client: ClientAddr) {
        let Some(resolver) = resolver(shared, generation, client) else { return };
        let deadline = Instant::now() + generation.config().dns.timeout;
        let (told, naming) = watch::channel(None);
        self.naming = Some(Naming(naming));
        let client = client.ip();
        self.name.begin(async move {
            let called = match patiently(deadline, || resolver.name(client, deadline)).await {
                Ok(Some(name)) => Called::Name(name.into()),
                Ok(None) => Called::Nothing,
                Err(_) => Called::Unknown,
            };
            told.send_replace(Some(called));
        });
    }

    /// The look-up of the client's name, if there is one.
    pub(super) fn naming(&self) -> Option<&Naming> {
        self.naming.as_ref()
    }

    /// The `domain` of a sender, if there is one to look up, in place of that of an earlier one. Nothing is asked yet: a
    /// MAIL alone costs no question.
    pub(super) fn about_sender(&mut self, domain: Option<String>) {
        self.sender = Lookup::default();
        self.domain = domain;
    }

    /// A recipient is to be judged: begins to look up the sender's domain, unless that was done.
    pub(super) fn begin(&mut self, shared: &Shared, generation: &Generation, client: ClientAddr) {
        if let (Some(domain), Some(resolver)) = (self.domain.take(), resolver(shared, generation, client)) {
            let deadline = Instant::now() + generation.config().dns.timeout;
            self.sender
                .begin(async move { Some(patiently(deadline, || resolver.sender_domain(&domain, deadline)).await) });
        }
    }

    /// Gives up what look-ups that are done needed: an idle session needs only what they found.
    pub(super) fn tidy(&mut self) {
        self.name.tidy();
        self.client.tidy();
        self.sender.tidy();
    }

    /// Everything that was found out, once it is there. Cancel safe.
    pub(super) async fn found(&mut self) -> Found {
        let (reverse, lists) = self.client.settle().await.clone();
        Found { sender: *self.sender.settle().await, reverse, lists }
    }
}

/// The resolver to ask, on behalf of `client`.
fn resolver(shared: &Shared, generation: &Generation, client: ClientAddr) -> Option<Resolver> {
    let resolver = generation.resolver.as_ref()?;
    let source = client.source(shared.prefix);
    let standing = if shared.mark(client).familiar { Standing::Known } else { Standing::Newcomer };
    Some(resolver.on_behalf(Party { source, network: Network::of(source).first(), standing }))
}

/// The result of `look_up`, once it has a place; until `deadline`.
async fn patiently<T, F>(deadline: Instant, look_up: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut pause = PAUSE;
    loop {
        let found = look_up().await;
        if !matches!(found, Err(Failure::Busy)) || Instant::now() + pause >= deadline {
            return found;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// Asks all lists at once; `named` are the same lists.
async fn ask_lists(
    resolver: &Resolver,
    zones: &Arc<[Zone]>,
    named: &[Dnsbl],
    client: IpAddr,
    deadline: Instant,
) -> Vec<Listing> {
    let mut asked = tokio::task::JoinSet::new();
    for index in 0..zones.len() {
        let (resolver, zones) = (resolver.clone(), Arc::clone(zones));
        asked.spawn(
            async move { (index, patiently(deadline, || resolver.listed(&zones[index], client, deadline)).await) },
        );
    }
    let mut found: Vec<_> = asked.join_all().await;
    found.sort_by_key(|(index, _)| *index);
    let listing = |(index, found): (usize, _)| {
        let Dnsbl { name, weight, .. } = &named[index];
        Listing { list: name.as_str().into(), weight: *weight, found }
    };
    found.into_iter().map(listing).collect()
}

impl<T: Default + Send + 'static> Lookup<T> {
    /// Begins a look-up. A remembered answer is there at once, and needs no task.
    fn begin(&mut self, lookup: impl Future<Output = T> + Send + 'static) {
        let mut lookup = Box::pin(lookup);
        let (done, task) = match lookup.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => (done, None),
            // The task asks it again, and is woken.
            Poll::Pending => (T::default(), Some(tokio::spawn(lookup))),
        };
        self.done = done;
        if let Some(earlier) = std::mem::replace(&mut self.task, task) {
            earlier.abort();
        }
    }

    async fn settle(&mut self) -> &T {
        if let Some(task) = &mut self.task {
            let result = task.await;
            self.keep(result);
        }
        &self.done
    }

    /// A task keeps its memory until nobody can ask it any more.
    fn tidy(&mut self) {
        if let Some(task) = &mut self.task
            && let Poll::Ready(result) = pin!(task).poll(&mut Context::from_waker(Waker::noop()))
        {
            self.keep(result);
        }
    }

    /// A look-up that panicked has found out nothing, which is how it is judged.
    fn keep(&mut self, result: Result<T, JoinError>) {
        (self.done, self.task) = (result.unwrap_or_default(), None);
    }
}

impl<T> Drop for Lookup<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
