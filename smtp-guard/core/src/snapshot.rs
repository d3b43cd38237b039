//! Everything that was configured, in the shape that decisions need: made once, never changed, and of one generation.
//!
//! A session keeps the snapshot that it began with, so it never judges by two. Two things are found out while the guard runs:
//! the content of the recipient table, and [`Learned`]. They stay when a snapshot is followed by another.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use crate::addr::{NetSet, Source};
use crate::config::Config;
use crate::facts::recipients::KnownRecipients;
use crate::facts::unknown::Wording;
use crate::offence::{Digest, Digests};

/// A recipient table, replaced as a whole when its file changes.
pub type Known = Arc<ArcSwap<KnownRecipients>>;

/// One generation of what was configured.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    pub(crate) config: Arc<Config>,
    pub(crate) domains: HashSet<String>,
    pub(crate) traps: HashSet<String>,
    untouchable: NetSet,
    digests: Digests,
    /// `None`: the backend is asked for every recipient.
    pub(crate) known: Option<Known>,
    pub(crate) learned: Arc<Learned>,
}

/// Knowledge of the backend that the probe found out.
#[derive(Debug, Default)]
pub struct Learned {
    /// Domains of which it takes any recipient.
    catch_alls: ArcSwap<BTreeSet<String>>,
    /// How each server says that a recipient is unknown, by its address.
    wordings: ArcSwap<BTreeMap<String, Wording>>,
    /// In which words each server refuses a recipient that nobody has, recognised or not, by its address.
    refusals: ArcSwap<BTreeMap<String, String>>,
}

impl Snapshot {
    /// The first generation: of `config`, with the content of its recipient table, if it has one.
    pub fn new(config: Arc<Config>, known: Option<KnownRecipients>) -> Self {
        let known = known.map(|known| Arc::new(ArcSwap::from_pointee(known)));
        Self::compile(1, config, known, Digests::default(), Arc::default())
    }

    /// The same snapshot, with addresses digested by `digests`.
    #[must_use]
    pub fn with_digests(self, digests: Digests) -> Self {
        Self { digests, ..self }
    }

    /// The generation after this one: of `config`, whose recipient table is `known`.
    #[must_use]
    pub fn next(&self, config: Arc<Config>, known: Option<Known>) -> Self {
        Self::compile(self.generation + 1, config, known, self.digests, Arc::clone(&self.learned))
    }

    fn compile(
        generation: u64,
        config: Arc<Config>,
        known: Option<Known>,
        digests: Digests,
        learned: Arc<Learned>,
    ) -> Self {
        let domains = config.relay.domains.iter().map(|domain| domain.to_ascii_lowercase()).collect();
        let traps = config.recipients.traps.iter().cloned().collect();
        let untouchable = config.untouchable();
        Self { generation, config, domains, traps, untouchable, digests, known, learned }
    }

    /// Counted from 1, the start of the guard.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The configuration behind it.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// See [`Config::untouchable`].
    pub fn untouchable(&self) -> &NetSet {
        &self.untouchable
    }

    /// The source of `ip`: the key of its limits and bans.
    pub fn source(&self, ip: IpAddr) -> Source {
        self.config.limits.ipv6_prefix.source(ip)
    }

    /// The digest of `address`, as the ledger has it.
    pub fn digest(&self, address: &str) -> Digest {
        self.digests.of(address)
    }

    /// The secret that addresses are digested under.
    pub fn digests(&self) -> Digests {
        self.digests
    }

    /// The recipient table, as it is now.
    pub fn known(&self) -> Option<Arc<KnownRecipients>> {
        self.known.as_ref().map(|known| known.load_full())
    }

    /// The recipient table, to be followed or to be handed on.
    pub fn known_table(&self) -> Option<Known> {
        self.known.clone()
    }

    /// Domains that are served, although every recipient of theirs is refused: the table has no entry of them.
    pub fn domains_without_recipients(&self) -> Vec<String> {
        let missing = |known: Arc<KnownRecipients>| {
            known.missing(&self.config.relay.domains).into_iter().map(str::to_owned).collect()
        };
        self.known().map(missing).unwrap_or_default()
    }

    /// The findings of the probe.
    pub fn learned(&self) -> &Learned {
        &self.learned
    }

    /// Forgets what was found out about domains and servers that are none of this configuration's. For the generation that comes
    /// into force.
    pub fn forget_others(&self) {
        let servers: HashSet<_> = self.config.backend.servers.iter().map(ToString::to_string).collect();
        let served = |domain: &String| self.known.is_none() && self.domains.contains(domain);
        self.learned
            .catch_alls
            .rcu(|domains| domains.iter().filter(|domain| served(domain)).cloned().collect::<BTreeSet<_>>());
        self.learned.wordings.rcu(|all| of(&servers, all));
        self.learned.refusals.rcu(|all| of(&servers, all));
    }
}

/// The parts of `all` about `servers`.
fn of<T: Clone>(servers: &HashSet<String>, all: &BTreeMap<String, T>) -> BTreeMap<String, T> {
    all.iter()
        .filter(|(server, _)| servers.contains(*server))
        .map(|(server, said)| (server.clone(), said.clone()))
        .collect()
}

impl Learned {
    /// Domains of which the backend takes any recipient, as far as that is known.
    pub fn catch_alls(&self) -> Guard<Arc<BTreeSet<String>>> {
        self.catch_alls.load()
    }

    /// From the next recipient on, the backend takes any recipient of `domain`, or no longer does. `true`: that is new.
    pub fn set_catch_all(&self, domain: &str, takes_any: bool) -> bool {
        let before = self.catch_alls.rcu(|domains| {
            let mut domains = domains.as_ref().clone();
            if takes_any {
                domains.insert(domain.to_owned());
            } else {
                domains.remove(domain);
            }
            domains
        });
        before.contains(domain) != takes_any
    }

    /// The backend has refused `recipient`, a normalised address, as unknown: it doesn't take any recipient of that domain, whatever
    /// was found before. The domain, if that is new.
    pub fn contradict(&self, recipient: &str) -> Option<String> {
        let domain = recipient.rsplit('@').next().unwrap_or_default();
        let held = self.catch_alls().contains(domain);
        (held && self.set_catch_all(domain, false)).then(|| domain.to_owned())
    }

    /// How each server says that a recipient is unknown, by its address.
    pub fn wordings(&self) -> Guard<Arc<BTreeMap<String, Wording>>> {
        self.wordings.load()
    }

    /// From the next recipient on, `wordings` count beside the profile.
    pub fn set_wordings(&self, wordings: BTreeMap<String, Wording>) {
        self.wordings.store(Arc::new(wordings));
    }

    /// In which words each server refuses a recipient that nobody has, to be shown.
    pub fn refusals(&self) -> Guard<Arc<BTreeMap<String, String>>> {
        self.refusals.load()
    }

    /// `server` refuses a recipient that nobody has in these words. `true`: that is new.
    pub fn set_refusal(&self, server: &str, words: &str) -> bool {
        let before = self.refusals.rcu(|refusals| {
            let mut refusals = refusals.as_ref().clone();
            refusals.insert(server.to_owned(), words.to_owned());
            refusals
        });
        before.get(server).map(String::as_str) != Some(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A generation hands on what was found out, and not what is configured.
    #[test]
    fn what_was_found_out_stays_and_what_was_configured_changes() {
        let digests = Digests::new([7; 16]);
        let mut config = Config::builtin();
        config.relay.domains = vec!["Example.org".to_owned()];
        config.exempt = ["192.0.2.1/32".parse().unwrap()].into_iter().collect();
        let known = KnownRecipients::read("a@example.org\n".as_bytes(), 100).unwrap();
        let first = Snapshot::new(Arc::new(config.clone()), Some(known)).with_digests(digests);
        assert!(first.learned().set_catch_all("example.org", true));
        config.relay.domains = vec!["example.net".to_owned()];
        config.exempt = NetSet::default();
        let second = first.next(Arc::new(config), first.known_table());
        assert_eq!([first.generation(), second.generation()], [1, 2]);
        for snapshot in [&first, &second] {
            assert_eq!(snapshot.digest("a@example.org"), digests.of("a@example.org"));
            assert!(snapshot.learned().catch_alls().contains("example.org"));
            assert_eq!(snapshot.known().map(|known| known.len()), Some(1));
        }
        assert!(first.domains.contains("example.org") && !second.domains.contains("example.org"));
        let source = first.source([192, 0, 2, 1].into());
        assert_eq!(source, Source::v4(0xc000_0201));
        second.learned().set_refusal("192.0.2.7:25", "no such user");
        second.forget_others();
        assert!(second.learned().catch_alls().is_empty() && second.learned().refusals().is_empty());
        let exempt = |snapshot: &Snapshot| snapshot.untouchable().touches(source, Default::default());
        assert_eq!([exempt(&first), exempt(&second)], [true, false]);
    }
}
