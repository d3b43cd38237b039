//! The resolver: finds out facts from DNS for a session.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use smtp_guard_core::facts::dns::{Forward, Reverse, SenderDomain};
use tokio::time::Instant;

use super::Meter;
use super::answer::{Answer, Kind, Question, Told};
use super::asker::{self, Asker};
use super::names;
use super::race::race;
use super::shares::Party;
use super::zone::{Judgement, Zone, has_lie};
use super::{Error, Failure, Flaw};
use crate::bound::Bound;

/// How often is looked whether the system names other servers.
const LOOK: Duration = Duration::from_secs(5);

/// Finds out what DNS says. Cheap to clone; belongs to the tokio runtime it is first used in.
#[derive(Clone)]
pub struct Resolver {
    asker: Arc<Asker>,
    party: Party,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// Limits of the bounds that the [`Meter`] hears of.
    pub const BOUNDS: [(Bound, u64); 5] = asker::BOUNDS;

    /// Asks `servers`, or those of `/etc/resolv.conf` if there are none. Nothing is sent yet.
    pub fn new(servers: &[SocketAddr], meter: Arc<dyn Meter>) -> Result<Self, Error> {
        Ok(Self { asker: Arc::new(Asker::new(servers, meter)?), party: Party::own() })
    }

    /// Whether the servers are those of the system, which may change.
    pub fn is_of_system(&self) -> bool {
        self.asker.is_of_system()
    }

    /// Looks again and again whether the system names other servers, and asks those from then on. Never ends.
    pub async fn follow_system(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let asker = Arc::clone(&self.asker);
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || asker.look_again()).await {
                tracing::warn!(%error, "the system's DNS servers can't be used; the former ones are asked");
            }
        }
    }

    /// Whether no server answers, as far as is known.
    pub fn is_silent(&self) -> bool {
        self.asker.is_silent()
    }

    /// The same resolver, asking on behalf of `party`, whose share of places and questions bounds it.
    #[must_use]
    pub fn on_behalf(&self, party: Party) -> Self {
        Self { asker: Arc::clone(&self.asker), party }
    }

    /// Whether `domain` exists. It is in A-labels, without the dot at the end; what can't be a domain isn't looked up.
    pub async fn sender_domain(&self, domain: &str, deadline: Instant) -> Result<SenderDomain, Failure> {
        let Some(domain) = names::mail_domain(domain) else {
            return Ok(SenderDomain::Missing);
        };
        // A failure here could hide a null MX, so addresses wouldn't help.
        match self.ask(Question::new(Kind::Mx, domain.clone()), deadline).await? {
            Answer::NullMx => return Ok(SenderDomain::NullMx),
            Answer::NoName => return Ok(SenderDomain::Missing),
            Answer::NoData => {}
            Answer::Mx | Answer::Addresses(_) | Answer::Names(_) => return Ok(SenderDomain::Exists),
        }
        let both = [Kind::A, Kind::Aaaa].map(|kind| Question::new(kind, domain.clone())).into();
        let found = self.any(both, deadline, |answer| !answer.is_negative()).await?;
        Ok(if found { SenderDomain::Exists } else { SenderDomain::Missing })
    }

    /// The names of `client`; with `confirm`, also whether one of them leads back.
    pub async fn reverse(&self, client: IpAddr, confirm: bool, deadline: Instant) -> Result<Reverse, Failure> {
        let client = client.to_canonical();
        if client.is_loopback() {
            // RFC 6761 6.3: not a matter for servers.
            let forward = confirm.then_some(Forward::Confirmed);
            return Ok(Reverse::Names { names: vec!["localhost".into()], forward });
        }
        let names = match self.ask(Question::new(Kind::Ptr, names::pointer(client)), deadline).await? {
            Answer::Names(names) if !names.is_empty() => names,
            _ => return Ok(Reverse::None),
        };
        let forward = if confirm { Some(self.confirm(client, &names, deadline).await) } else { None };
        Ok(Reverse::Names { names: names.to_vec(), forward })
    }

    /// The name of `client`: one that leads back to its address. `None`: there is none.
    pub async fn name(&self, client: IpAddr, deadline: Instant) -> Result<Option<Box<str>>, Failure> {
        let client = client.to_canonical();
        if client.is_loopback() {
            return Ok(Some("localhost".into()));
        }
        let Answer::Names(names) = self.ask(Question::new(Kind::Ptr, names::pointer(client)), deadline).await? else {
            return Ok(None);
        };
        let kind = if client.is_ipv4() { Kind::A } else { Kind::Aaaa };
        let asked =
            names.iter().map(|name| async move { (name, self.ask(Question::new(kind, name.clone()), deadline).await) });
        let mut failed = None;
        let found = race(asked.collect(), |(name, answer)| match answer {
            Ok(Answer::Addresses(found)) if found.contains(&client) => Some(name.clone()),
            Ok(_) => None,
            Err(failure) => {
                failed = Some(failure);
                None
            }
        });
        match (found.await, failed) {
            (Some(name), _) => Ok(Some(name)),
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(None),
        }
    }

    async fn confirm(&self, client: IpAddr, names: &[Box<str>], deadline: Instant) -> Forward {
        let kind = if client.is_ipv4() { Kind::A } else { Kind::Aaaa };
        let questions = names.iter().map(|name| Question::new(kind, name.clone())).collect();
        let leads_back = |answer: &Answer| matches!(answer, Answer::Addresses(found) if found.contains(&client));
        match self.any(questions, deadline, leads_back).await {
            Ok(true) => Forward::Confirmed,
            Ok(false) => Forward::Mismatch,
            Err(failure) => Forward::Unknown(failure),
        }
    }

    /// The reply with which `zone` lists `client`.
    pub async fn listed(&self, zone: &Zone, client: IpAddr, deadline: Instant) -> Result<Option<Ipv4Addr>, Failure> {
        let client = client.to_canonical();
        let name = names::in_list(client, &zone.name).ok_or(Failure::Malformed(Flaw::NameTooLong))?;
        let Answer::Addresses(replies) = self.ask(Question::new(Kind::Dnsbl, name), deadline).await? else {
            return Ok(None);
        };
        if has_lie(&replies) {
            self.asker.meter().lookup(Kind::Dnsbl, Told::Lie);
        }
        match zone.judge(&replies) {
            Judgement::Listed(reply) => Ok(Some(reply)),
            Judgement::NotListed => Ok(None),
            Judgement::Refuses => {
                self.asker.meter().lookup(Kind::Dnsbl, Told::Failed(Failure::ListRefuses));
                Err(Failure::ListRefuses)
            }
        }
    }

    async fn ask(&self, question: Question, deadline: Instant) -> Result<Answer, Failure> {
        self.asker.ask(question, self.party, deadline).await
    }

    /// Whether the answer to one of `questions`, asked at once, is `wanted`: yes as soon as one is, a failure if one failed
    /// and none was.
    async fn any(
        &self,
        questions: Vec<Question>,
        deadline: Instant,
        wanted: impl Fn(&Answer) -> bool,
    ) -> Result<bool, Failure> {
        let asked = questions.into_iter().map(|question| self.ask(question, deadline)).collect();
        let mut failed = None;
        let found = race(asked, |result| match result {
            Ok(answer) => wanted(&answer).then_some(()),
            Err(failure) => {
                failed = Some(failure);
                None
            }
        });
        match (found.await, failed) {
            (Some(()), _) => Ok(true),
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(false),
        }
    }
}
