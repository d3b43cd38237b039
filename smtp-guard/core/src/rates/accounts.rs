//! Accounts of users who log in: what they send, from how many networks, and holds. A stolen password is used to send.
//!
//! # The limits
//! Messages and recipients of an hour, and networks (IPv4 /24, IPv6 /48) of a day that he logs in or sends from. Messages are
//! counted at MAIL. Recipients are counted before the mail server is asked for them, and given back when it refuses. So
//! recipients that many sessions ask for at once never exceed the limit together. What is refused isn't counted. The limits are
//! passed in: they may change while mail flows.
//!
//! Whoever is over a limit is held until its window has room: he hears 450, and nobody else does. A network too many holds
//! the user from all his networks, since nobody knows which of them is the thief's. An operator's hold lasts as long as he
//! said, whatever is counted.
//!
//! # Bounds
//! [`USERS`] users. To make room, some are looked at, and the one of them that isn't held and sent least is forgotten.
//! [`HOLDS`] holds of operators, and none makes room for another. Networks of a user: as many as the limit lets (1,000 at
//! most), [`NETWORKS`] where there is none. A network takes 16 bytes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smtp_guard_ebpf::reason::Reason;

use super::sharded::Sharded;
use super::told::Told;
use super::window::{Pace, Slice, Window};
use super::{Room, Tally};
use crate::clock::Instant;
use crate::config::Limits;
use crate::key::User;
use crate::ledger::networks::Network;
use crate::offence::{Digest, Digests, Sum};

mod saved;
mod view;

pub use view::{AccountList, AccountView, HeldUsers, HoldView, NetworkSeen};

/// Users that are counted at once.
pub const USERS: usize = 65_536;
/// Holds of operators at once.
pub const HOLDS: usize = 4096;
/// Recipients that one word of another guard gives back.
const GIVEN_BACK: u32 = 1000;
/// Networks of a user that are told apart where there is no limit.
const NETWORKS: usize = 64;

const HOUR: Duration = Duration::from_secs(3600);
/// How long something counts in a window of an hour, at most.
const COUNTS: Duration = Duration::from_secs(3600 * 12 / 11 + 1);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A user is over a limit, or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    pub reason: Reason,
    /// For the first time within the limit's window: the operator is told.
    pub first: bool,
}

/// Proof that a recipient was counted, to give it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(Option<Slice>);

/// A hold by an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub since: Instant,
    /// [`Instant::NEVER`]: until he is released.
    pub until: Instant,
    pub text: String,
}

/// The holds are as many as there may be.
#[derive(Debug, PartialEq, Eq)]
pub struct TooManyHolds;

/// All users.
#[derive(Debug)]
pub struct Accounts {
    users: Sharded<User, Account>,
    holds: Mutex<HashMap<User, Hold>>,
    /// Whether there may be one.
    any_hold: AtomicBool,
    pace: Pace,
    told: Told<User>,
    /// What others have counted of users, by what their names are digested to: it counts with the next thing that the user does here.
    heard: Mutex<HashMap<Digest, (Window, Window)>>,
    /// By which; while there are others.
    digests: Mutex<Option<Digests>>,
    /// Whether something was heard.
    any_heard: AtomicBool,
}

/// The limits, in the order of [`Account::over`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Messages,
    Recipients,
    Networks,
}

/// A user, as far as something is counted of him.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Account {
    messages: Window,
    recipients: Window,
    /// Each with the moment that it was last sent or logged in from.
    networks: Vec<(Network, Instant)>,
    /// When he went over each limit.
    over: [Option<Refused>; 3],
}

/// He went over a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    /// The first time of a series.
    since: Instant,
    last: Instant,
}

impl Default for Accounts {
    fn default() -> Self {
        Self {
            users: Sharded::new(USERS),
            holds: Mutex::default(),
            any_hold: AtomicBool::new(false),
            pace: Pace::of(HOUR),
            told: Told::default(),
            heard: Mutex::default(),
            digests: Mutex::default(),
            any_heard: AtomicBool::new(false),
        }
    }
}

impl Accounts {
    /// `user` has logged in from `network` at `now`. The login stands; where that is one network too many he is held.
    pub fn login(
        &self,
        limits: &Limits,
        user: &User,
        network: Network,
        now: Instant,
        tally: Tally,
    ) -> Result<(), Over> {
        self.judge(user, now, tally, |account| {
            account.check_network(limits, network, now)?;
            account.touch(limits, network, now);
            Ok(())
        })
    }

    /// Whether `user` may send a message from `network` at `now`. `source` judges it, too, and counts it, where he may.
    pub fn message(
        &self,
        limits: &Limits,
        user: &User,
        network: Network,
        now: Instant,
        tally: Tally,
        source: impl FnOnce() -> Room,
    ) -> Result<(), Over> {
        if self.hold_of(user, now).is_some() {
            return Err(Over { reason: Reason::UserHeld, first: false });
        }
        let slice = self.pace.slice(now);
        let judged = self.judge(user, now, tally, |account| {
            account.check_network(limits, network, now)?;
            account.check_held(now)?;
            account.check(Limit::Messages, limits.user_messages_per_hour, slice, now)?;
            if source() == Room::Full {
                return Err(Over { reason: Reason::MessageRate, first: false });
            }
            account.touch(limits, network, now);
            account.messages.add(slice);
            Ok(())
        });
        if judged.is_ok() && tally == Tally::Count {
            self.told.note(user, 1, 0);
        }
        judged
    }

    /// Whether `user` may send to one more recipient at `now`. A recipient that is refused elsewhere is given back.
    pub fn recipient(&self, limits: &Limits, user: &User, now: Instant, tally: Tally) -> Result<Place, Over> {
        let slice = self.pace.slice(now);
        let judged = self.judge(user, now, tally, |account| {
            account.check(Limit::Recipients, limits.user_recipients_per_hour, slice, now)?;
            account.recipients.add(slice);
            Ok(Place((tally == Tally::Count).then_some(slice)))
        });
        if judged.is_ok() && tally == Tally::Count {
            self.told.note(user, 0, 1);
        }
        judged
    }

    /// The recipient that has `place` was refused: it doesn't count.
    pub fn give_back(&self, user: &User, place: Place) {
        if let Some(slice) = place.0 {
            self.users.amend(user, |account| account.recipients.take_back(slice));
            self.told.note(user, 0, -1);
        }
    }

    /// Whether other guards are to be told what is counted here, and by which digests.
    pub fn share(&self, digests: Option<Digests>) {
        self.told.set(digests.is_some());
        *lock(&self.digests) = digests;
    }

    /// Takes the sums that others are to be told, by the digests of users, and how many counts found no room among it.
    pub fn take_told(&self) -> (Vec<(Digest, Sum)>, u64) {
        let (sums, lost) = self.told.take();
        let Some(digests) = *lock(&self.digests) else { return (Vec::new(), lost) };
        (sums.into_iter().map(|(user, sum)| (digest(&digests, &user), sum)).collect(), lost)
    }

    /// Another guard has counted `sum` of a user at `at`. `false`: there is no room for one more.
    pub fn hear(&self, user: Digest, sum: Sum, at: Instant, now: Instant) -> bool {
        let (slice, now) = (self.pace.slice(at), self.pace.slice(now));
        let mut heard = lock(&self.heard);
        if heard.len() >= USERS && !heard.contains_key(&user) {
            // Most of these were here only then.
            heard.retain(|_, (messages, recipients)| messages.total(now) > 0 || recipients.total(now) > 0);
            if heard.len() >= USERS {
                return false;
            }
        }
        let (messages, recipients) = heard.entry(user).or_default();
        messages.total(now);
        messages.add_past(slice, sum.messages);
        recipients.total(now);
        if sum.recipients < 0 {
            (0..sum.recipients.unsigned_abs().min(GIVEN_BACK)).for_each(|_| recipients.take_back(slice));
        } else {
            recipients.add_past(slice, sum.recipients.unsigned_abs());
        }
        self.any_heard.store(true, Ordering::Relaxed);
        true
    }

    /// What others have counted of `user` counts in his account from now on.
    fn take_heard(&self, user: &User, now: Slice) {
        if !self.any_heard.load(Ordering::Relaxed) {
            return;
        }
        let Some(digests) = *lock(&self.digests) else { return };
        let found = {
            let mut heard = lock(&self.heard);
            let found = heard.remove(&digest(&digests, user));
            self.any_heard.store(!heard.is_empty(), Ordering::Relaxed);
            found
        };
        if let Some((messages, recipients)) = found {
            let weight = |account: &mut Account| account.messages.total(now);
            self.users.change(user, weight, |account| {
                account.messages.join(messages, now);
                account.recipients.join(recipients, now);
                ((), true)
            });
        }
    }

    /// Holds `user` from his next message on, in place of a hold that he has.
    pub fn hold(&self, user: User, hold: Hold) -> Result<(), TooManyHolds> {
        let mut holds = self.holds();
        let full = holds.len() >= HOLDS;
        match holds.entry(user) {
            Entry::Vacant(_) if full => return Err(TooManyHolds),
            Entry::Vacant(entry) => _ = entry.insert(hold),
            Entry::Occupied(mut entry) => _ = entry.insert(hold),
        }
        self.any_hold.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Ends the operator's hold of `user`.
    pub fn end_hold(&self, user: &User) {
        self.holds().remove(user);
    }

    /// Forgets what is counted of `user` and his hold. `false`: there was nothing.
    pub fn release(&self, user: &User) -> bool {
        let held = self.holds().remove(user).is_some();
        self.users.remove(user).is_some() || held
    }

    /// The operator's hold of `user`, if it is in force at `now`.
    pub fn hold_of(&self, user: &User, now: Instant) -> Option<Hold> {
        // Nearly always there is none: then no session waits for another here.
        if !self.any_hold.load(Ordering::Relaxed) {
            return None;
        }
        self.holds().get(user).filter(|hold| now < hold.until).cloned()
    }

    /// Forgets holds that are over at `now`, and says whose they were.
    pub fn sweep(&self, now: Instant) -> Vec<User> {
        if !self.any_hold.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut holds = self.holds();
        let over: Vec<_> = holds.iter().filter(|(_, hold)| hold.until <= now).map(|(user, _)| user.clone()).collect();
        for user in &over {
            holds.remove(user);
        }
        self.any_hold.store(!holds.is_empty(), Ordering::Relaxed);
        over
    }

    /// How many users made room for others since this was last asked.
    pub fn take_evicted(&self) -> u64 {
        self.users.take_evicted()
    }

    fn judge<T>(
        &self,
        user: &User,
        now: Instant,
        tally: Tally,
        judge: impl FnOnce(&mut Account) -> Result<T, Over>,
    ) -> Result<T, Over> {
        let slice = self.pace.slice(now);
        self.take_heard(user, slice);
        if tally == Tally::Peek {
            return judge(&mut self.users.get(user).unwrap_or_default());
        }
        let weight = |account: &mut Account| {
            let held = account.over.iter().flatten().any(|refused| now.since(refused.last) < COUNTS);
            (held, account.messages.total(slice).saturating_add(account.recipients.total(slice)))
        };
        self.users.change(user, weight, |account| {
            let judged = judge(account);
            // Of what is refused, only that he is over his limit has to be kept.
            let changed = judged.as_ref().err().is_none_or(|over| over.first);
            (judged, changed)
        })
    }

    fn holds(&self) -> MutexGuard<'_, HashMap<User, Hold>> {
        lock(&self.holds)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere can't leave a hold, or a count, half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the name of `user` is digested to: to something else than an address of the same text.
fn digest(digests: &Digests, user: &User) -> Digest {
    digests.of(&format!("user {}", user.name()))
}

impl Limit {
    const ALL: [Self; 3] = [Self::Messages, Self::Recipients, Self::Networks];

    const fn reason(self) -> Reason {
        match self {
            Self::Messages => Reason::UserMessageRate,
            Self::Recipients => Reason::UserRecipientRate,
            Self::Networks => Reason::UserNetworks,
        }
    }

    const fn window(self) -> Duration {
        match self {
            Self::Messages | Self::Recipients => COUNTS,
            Self::Networks => DAY,
        }
    }
}

impl Account {
    /// Whether there is room for one more message or recipient.
    fn check(&mut self, limit: Limit, most: u32, slice: Slice, now: Instant) -> Result<(), Over> {
        let window = if limit == Limit::Recipients { &mut self.recipients } else { &mut self.messages };
        // Also without a limit: what is added next is added to this slice.
        let total = window.total(slice);
        if most > 0 && total >= most { Err(self.refuse(limit, now)) } else { Ok(()) }
    }

    /// Whether `network` is one of his, or there is room for it.
    fn check_network(&mut self, limits: &Limits, network: Network, now: Instant) -> Result<(), Over> {
        self.networks.retain(|(_, last)| now.since(*last) < DAY);
        if !self.is_full_of_networks(limits) {
            // He is held no longer, also when this network fills it up again.
            self.over[Limit::Networks as usize] = None;
            return Ok(());
        }
        let is_known = self.networks.iter().any(|(known, _)| *known == network);
        if is_known { Ok(()) } else { Err(self.refuse(Limit::Networks, now)) }
    }

    /// Whether no other network was too many. Only such ones make the hold last longer.
    fn check_held(&self, now: Instant) -> Result<(), Over> {
        match self.over[Limit::Networks as usize] {
            Some(refused) if now.since(refused.last) < DAY => {
                Err(Over { reason: Limit::Networks.reason(), first: false })
            }
            _ => Ok(()),
        }
    }

    fn is_full_of_networks(&self, limits: &Limits) -> bool {
        let most = limits.user_networks_per_day as usize;
        most > 0 && self.networks.len() >= most
    }

    /// Takes note that `network` is used.
    fn touch(&mut self, limits: &Limits, network: Network, now: Instant) {
        if let Some((_, last)) = self.networks.iter_mut().find(|(known, _)| *known == network) {
            *last = now.max(*last);
            return;
        }
        if limits.user_networks_per_day == 0 && self.networks.len() >= NETWORKS {
            let oldest = (0..self.networks.len()).min_by_key(|at| self.networks[*at].1);
            oldest.map(|oldest| self.networks.swap_remove(oldest));
        }
        self.networks.push((network, now));
    }

    fn refuse(&mut self, limit: Limit, now: Instant) -> Over {
        let over = &mut self.over[limit as usize];
        let first = over.is_none_or(|refused| now.since(refused.last) >= limit.window());
        let since = over.filter(|_| !first).map_or(now, |refused| refused.since);
        *over = Some(Refused { since, last: now });
        Over { reason: limit.reason(), first }
    }

    /// The limit that holds him at `now`, since when and until when, if nothing else is counted meanwhile.
    fn held(&mut self, limits: &Limits, pace: Pace, now: Instant) -> Option<(Limit, Instant, Instant)> {
        let slice = pace.slice(now);
        self.networks.retain(|(_, last)| now.since(*last) < DAY);
        let held = Limit::ALL.into_iter().filter_map(|limit| {
            let refused = self.over[limit as usize].filter(|refused| now.since(refused.last) < limit.window())?;
            let room = |window: &mut Window, most: u32| {
                (most > 0 && window.total(slice) >= most).then(|| window.room_at(most, pace))
            };
            let until = match limit {
                Limit::Messages => room(&mut self.messages, limits.user_messages_per_hour)?,
                Limit::Recipients => room(&mut self.recipients, limits.user_recipients_per_hour)?,
                Limit::Networks if self.is_full_of_networks(limits) => {
                    let mut seen: Vec<_> = self.networks.iter().map(|(_, last)| *last).collect();
                    seen.sort_unstable_by_key(|last| Reverse(*last));
                    let leaves = seen.get(limits.user_networks_per_day as usize - 1)?.after(DAY);
                    leaves.min(refused.last.after(DAY))
                }
                Limit::Networks => return None,
            };
            Some((limit, refused.since, until))
        });
        held.max_by_key(|(_, _, until)| *until)
    }
}

#[cfg(test)]
mod tests;
