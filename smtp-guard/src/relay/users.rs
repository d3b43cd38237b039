//! Counts of a user who has logged in, from the login to the last recipient. The limits are `rates::accounts`'.

use super::Shared;
use crate::addr::{ClientAddr, Ipv6Prefix};
use crate::config::Limits;
use crate::events::What;
use crate::gate::{self, Tally};
use crate::key::User;
use crate::ledger::networks::Network;
use crate::observe::log;
use crate::rates::accounts::{AccountList, AccountView, Accounts, HeldUsers, Over, Place};
use crate::snapshot::Snapshot;
use smtp_guard_ebpf::reason::Reason;

/// A user who has logged in, within one session.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) user: User,
    network: Network,
    /// The recipient that the mail server is asked for.
    asked: Option<Place>,
    /// Recipients that `try` asked for before: nobody counted them.
    rehearsed: u32,
    tally: Tally,
}

impl Login {
    /// `name` was accepted from `addr`. `None`: nobody is called so, and nothing is counted.
    pub(super) fn new(
        shared: &Shared,
        snapshot: &Snapshot,
        addr: ClientAddr,
        name: &str,
        tally: Tally,
    ) -> Option<Self> {
        // Whatever makes a source by the configuration, a network of a user is a /24 or a /48.
        let network = Network::of(addr.source(Ipv6Prefix::default()));
        let login = Self { user: User::new(name)?, network, asked: None, rehearsed: 0, tally };
        // Where it is a network too many, the login stands, and MAIL is refused.
        let _ = login.told(
            shared,
            addr,
            accounts(shared).login(&snapshot.config().limits, &login.user, network, crate::clock::now(), tally),
        );
        Some(login)
    }

    /// Counts one more recipient, unless the user has sent to as many as he may.
    pub(super) fn ask(&mut self, shared: &Shared, snapshot: &Snapshot, addr: ClientAddr) -> Result<(), Reason> {
        let mut limits = snapshot.config().limits.clone();
        let most = &mut limits.user_recipients_per_hour;
        if *most > 0 {
            // 0 would be no limit.
            *most = most.checked_sub(self.rehearsed).filter(|left| *left > 0).ok_or(Reason::UserRecipientRate)?;
        }
        let judged = accounts(shared).recipient(&limits, &self.user, crate::clock::now(), self.tally);
        self.asked = Some(self.told(shared, addr, judged)?);
        self.rehearsed += u32::from(self.tally == Tally::Peek);
        Ok(())
    }

    /// Settles the recipient that was asked for, if there is one: one that wasn't accepted doesn't count.
    pub(super) fn settle(&mut self, shared: &Shared, accepted: bool) {
        if let Some(place) = self.asked.take()
            && !accepted
        {
            accounts(shared).give_back(&self.user, place);
        }
    }

    /// Tells the operator, where it is the first time that the user is over his limit.
    fn told<T>(&self, shared: &Shared, addr: ClientAddr, judged: Result<T, Over>) -> Result<T, Reason> {
        judged.map_err(|Over { reason, first }| {
            if first && self.tally == Tally::Count {
                let source = shared.text_of(addr);
                log::held(self.user.name(), reason, &source);
                let what = What::UserHeld {
                    user: log::printable(self.user.name().as_bytes()),
                    reason: reason.label().into(),
                    source: Some(source),
                    duration_seconds: None,
                    text: reason.text().to_owned(),
                };
                shared.events.publish(crate::clock::wall(), what);
            }
            reason
        })
    }
}

impl Shared {
    /// Users that sent something lately or are held, at most `most`.
    pub fn accounts(&self, most: usize) -> AccountList {
        accounts(self).list(&limits(self), &crate::clock::both(), most)
    }

    /// Users who are held now.
    pub fn held_users(&self) -> HeldUsers {
        accounts(self).held(&limits(self), crate::clock::now())
    }

    /// The counts of `user`.
    pub fn account(&self, user: &User) -> Option<AccountView> {
        accounts(self).view(&limits(self), user, &crate::clock::both())
    }
}

/// The limits of `user`, and whether he is held, in the words of the configuration.
pub(super) fn told(shared: &Shared, user: &User) -> Vec<String> {
    let none = AccountView { user: user.to_string(), counts: Vec::new(), networks: Vec::new(), held: None };
    let view = shared.account(user).unwrap_or(none);
    let limits = limits(shared);
    let limits = [
        ("user_messages_per_hour", limits.user_messages_per_hour),
        ("user_recipients_per_hour", limits.user_recipients_per_hour),
        ("user_networks_per_day", limits.user_networks_per_day),
    ];
    let mut told: Vec<_> = limits
        .into_iter()
        .map(|(name, most)| {
            let count = view.counts.iter().find(|count| count.name == name).map_or(0, |count| count.count);
            let most = if most == 0 { "none".to_owned() } else { most.to_string() };
            format!("limits.{name}: {count} of {most}")
        })
        .collect();
    told.extend(view.held.map(|held| format!("user {user} is held by {}: {}", held.origin, held.text)));
    told
}

/// Whether one more message may come from `addr`, and of the user who has `login`: `gate::message`, and the operator is told.
pub(super) fn message(
    shared: &Shared,
    snapshot: &Snapshot,
    addr: ClientAddr,
    login: Option<&Login>,
    tally: Tally,
) -> Result<(), Reason> {
    let user = login.map(|login| (&login.user, login.network));
    let counters = shared.feedback.counters();
    let judged = gate::message(snapshot, counters, addr.source(shared.prefix), user, crate::clock::now(), tally);
    match login {
        Some(login) => login.told(shared, addr, judged),
        None => judged.map_err(|over| over.reason),
    }
}

fn accounts(shared: &Shared) -> &Accounts {
    &shared.feedback.counters().accounts
}

/// Those of now, for whoever looks.
fn limits(shared: &Shared) -> Limits {
    shared.current.load().config().limits.clone()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{AuthVia, Config, Role};
    use crate::descriptors::Plan;
    use crate::observe::attempt::{Attempt, Step};
    use crate::observe::metrics::Metrics;
    use crate::snapshot::Snapshot;

    /// A guard with a ledger of its own, where a user may send two messages to two recipients from one network.
    fn guard() -> Arc<Shared> {
        let mut config = Config::builtin();
        config.auth.via = AuthVia::Dovecot;
        config.exempt = ["192.0.2.9/32".parse().unwrap()].into_iter().collect();
        config.limits.user_messages_per_hour = 2;
        config.limits.user_recipients_per_hour = 2;
        config.limits.user_networks_per_day = 1;
        config.limits.messages_per_hour = 5;
        let config = Arc::new(config);
        let bans = Arc::new(crate::edge::bans::BanTable::new(None, 10));
        let feedback = crate::feedback::tests::alone(&config, &bans);
        let rules = Arc::new(Snapshot::new(config, None));
        let metrics = Metrics::new();
        let counted = metrics.clone();
        let events = crate::events::Bus::new(move |what| counted.told(what), || {});
        Shared::new(rules, feedback, metrics, events, bans, &Plan::whole(100)).unwrap()
    }

    fn addr(ip: &str) -> ClientAddr {
        ClientAddr::new(format!("{ip}:4000").parse().unwrap())
    }

    fn metric(shared: &Shared, line: &str) -> bool {
        shared.metrics.encode(crate::observe::metrics::Format::Open).lines().any(|other| other == line)
    }

    #[tokio::test]
    async fn limits_are_one_users_in_all_his_sessions() {
        let shared = guard();
        let snapshot = Arc::clone(&shared.current().snapshot);
        let here = addr("192.0.2.1");
        let login = |name: &str| Login::new(&shared, &snapshot, here, name, Tally::Count).unwrap();
        let (mut one, mut two, bob) = (login("Ann"), login(" ann "), login("bob"));
        let mail = |login: Option<&Login>| message(&shared, &snapshot, here, login, Tally::Count);
        assert_eq!([mail(Some(&one)), mail(Some(&two))], [Ok(()), Ok(())]);
        assert_eq!([mail(Some(&one)), mail(Some(&two))], [Err(Reason::UserMessageRate); 2]);
        assert_eq!(mail(Some(&bob)), Ok(()), "another user of the same host");
        assert_eq!([mail(None), mail(None)], [Ok(()); 2], "what a user was refused doesn't count for the host");
        assert_eq!([mail(Some(&bob)), mail(None)], [Err(Reason::MessageRate); 2]);
        assert_eq!(shared.account(&bob.user).unwrap().counts[0].count, 1, "nor the other way round");
        // Recipients that are asked for at once count until they are refused.
        assert_eq!([one.ask(&shared, &snapshot, here), two.ask(&shared, &snapshot, here)], [Ok(()), Ok(())]);
        one.settle(&shared, false);
        assert_eq!(one.ask(&shared, &snapshot, here), Ok(()));
        one.settle(&shared, true);
        assert_eq!(one.ask(&shared, &snapshot, here), Err(Reason::UserRecipientRate));
        two.settle(&shared, false);
        two.settle(&shared, false);
        assert_eq!(
            [one.ask(&shared, &snapshot, here), two.ask(&shared, &snapshot, here)],
            [Ok(()), Err(Reason::UserRecipientRate)]
        );
        // From elsewhere he gets in, and is held.
        let thief = Login::new(&shared, &snapshot, addr("198.51.100.1"), "ann", Tally::Count).unwrap();
        assert_eq!(message(&shared, &snapshot, here, Some(&thief), Tally::Count), Err(Reason::UserNetworks));
        for reason in ["user_message_rate", "user_recipient_rate", "user_networks"] {
            assert!(metric(&shared, &format!("smtp_guard_user_holds_total{{reason=\"{reason}\"}} 1")), "{reason}");
        }
        let held: Vec<_> = shared.accounts(10).accounts.into_iter().map(|one| (one.user, one.held.is_some())).collect();
        assert_eq!(held, [("ann".to_owned(), true), ("bob".to_owned(), false)]);
        assert_eq!(shared.held_users(), HeldUsers { count: 1, names: vec!["ann".to_owned()] });
    }

    async fn attempt(shared: &Shared, ip: &str, user: Option<&str>) -> (Vec<String>, Vec<Step>) {
        let attempt = Attempt {
            ip: ip.parse().unwrap(),
            helo: "client.example".to_owned(),
            mail_from: Some("ann@example.org".to_owned()),
            rcpt_to: ["x", "y", "z"].map(|name| format!("{name}@elsewhere.example")).into(),
            user: user.map(str::to_owned),
            role: Role::Mx,
            tls: false,
            config: None,
        };
        let explanation = shared.feedback.explain(attempt.ip).await.unwrap();
        let rehearsal = shared.rehearse(&attempt, shared.current(), explanation).await;
        (rehearsal.rules, rehearsal.steps)
    }

    #[tokio::test]
    async fn try_plays_a_user_without_a_password_and_counts_nothing() {
        let shared = guard();
        let heard = |steps: &[Step]| -> Vec<String> {
            steps.iter().map(|step| step.heard.clone().unwrap_or_default().chars().take(9).collect()).collect()
        };
        let (_, steps) = attempt(&shared, "192.0.2.1", None).await;
        assert_eq!(
            heard(&steps)[2..],
            ["250 2.0.0", "554 5.7.1", "554 5.7.1", "554 5.7.1"],
            "a stranger may not relay"
        );
        for _ in 0..5 {
            let (rules, steps) = attempt(&shared, "192.0.2.1", Some("Ann")).await;
            assert_eq!(steps[2].said, "AUTH as Ann");
            assert_eq!(heard(&steps)[2..], ["235 2.7.0", "250 2.0.0", "250 2.0.0", "250 2.0.0", "450 4.7.1"]);
            assert!(rules.contains(&"limits.user_messages_per_hour: 0 of 2".to_owned()), "{rules:?}");
        }
        assert!(shared.accounts(10).accounts.is_empty());
        shared
            .feedback
            .hold(User::new("ann").unwrap(), None, "stolen".to_owned(), crate::decision::Operator::default())
            .await
            .unwrap();
        let (rules, steps) = attempt(&shared, "192.0.2.1", Some("ann")).await;
        assert_eq!(heard(&steps)[3], "450 4.7.1");
        assert_eq!(steps[3].because[0].reason, "user_held");
        assert!(rules.contains(&"user ann is held by operator: stolen".to_owned()), "{rules:?}");
        let (_, steps) = attempt(&shared, "192.0.2.9", Some("ann")).await;
        assert_eq!(heard(&steps)[3..], ["250 2.0.0"; 4], "an exempt client is never limited");
    }
}
