use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::addr::Ipv6Prefix;
use crate::clock::{Both, WallTime};
use crate::config::Config;
use crate::decision::CountView;
use crate::shards::SHARDS;

fn at(seconds: u64) -> Instant {
    Instant::from_ns(seconds * 1_000_000_000)
}

fn both(seconds: u64) -> Both {
    Both { instant: at(seconds), wall: WallTime::from_ms(seconds as i64 * 1000) }
}

fn user(name: &str) -> User {
    User::new(name).unwrap()
}

fn network(n: u8) -> Network {
    Network::of(Ipv6Prefix::default().source([192, 0, n, 1].into()))
}

fn limits(messages: u32, recipients: u32, networks: u32) -> Limits {
    let mut limits = Config::builtin().limits;
    limits.user_messages_per_hour = messages;
    limits.user_recipients_per_hour = recipients;
    limits.user_networks_per_day = networks;
    limits
}

/// Each line is a moment in seconds, an event and what comes of it, under two messages, three recipients and two networks.
///
/// | event | |
/// |---|---|
/// | `in ann 1` | ann logs in from network 1 |
/// | `mail ann 1` | MAIL; `mail? ann 1`: only looks; `mail! ann 1`: the source has no room |
/// | `rcpt ann` | RCPT that the mail server accepts; `rcpt- ann`: refuses |
/// | `hold ann 60` `free ann` | the operator holds ann for 60 s, or releases her |
/// | `held ann` | who holds her, and until when |
fn check(text: &str) {
    let (accounts, limits) = (Accounts::default(), limits(2, 3, 2));
    for line in text.trim().lines() {
        let (event, expected) = line.split_once(" => ").unwrap();
        let words: Vec<_> = event.split_whitespace().collect();
        let now = at(words[0].parse().unwrap());
        let who = user(words[2]);
        let number = || words[3].parse::<u8>().unwrap();
        let mail = |tally, room| accounts.message(&limits, &who, network(number()), now, tally, || room);
        let judged = match words[1] {
            "in" => accounts.login(&limits, &who, network(number()), now, Tally::Count),
            "mail" => mail(Tally::Count, Room::Free),
            "mail?" => mail(Tally::Peek, Room::Free),
            "mail!" => mail(Tally::Count, Room::Full),
            "rcpt" => accounts.recipient(&limits, &who, now, Tally::Count).map(drop),
            "rcpt-" => {
                accounts.recipient(&limits, &who, now, Tally::Count).map(|place| accounts.give_back(&who, place))
            }
            "hold" => {
                let until = now.after(Duration::from_secs(number().into()));
                accounts.hold(who, Hold { since: now, until, text: "stolen".to_owned() }).unwrap();
                Ok(())
            }
            "free" => {
                assert!(accounts.release(&who), "{line}");
                Ok(())
            }
            "held" => {
                let held = accounts.view(&limits, &who, &Both { instant: now, ..both(now.as_ns() / 1_000_000_000) });
                let told = held.and_then(|view| view.held).map_or_else(
                    || "no".to_owned(),
                    |held| {
                        let seconds = |at: WallTime| at.as_ms().div_euclid(1000);
                        let (since, until) = (seconds(held.since), seconds(held.until));
                        format!("{} {} from {since} to {until}", held.origin, held.reason)
                    },
                );
                assert_eq!(told, expected, "{line}");
                continue;
            }
            other => panic!("{other}"),
        };
        let told = match judged {
            Ok(()) => "ok".to_owned(),
            Err(Over { reason, first }) => format!("{}{}", reason.label(), if first { " first" } else { "" }),
        };
        assert_eq!(told, expected, "{line}");
    }
}

#[test]
fn messages() {
    check(
        "0 mail ann 1 => ok
         1 mail! ann 1 => message_rate
         1 mail? ann 1 => ok
         1 mail? ann 1 => ok
         2 mail ann 1 => ok
         3 held ann => no
         3 mail? ann 1 => user_message_rate first
         3 mail ann 1 => user_message_rate first
         4 mail ann 1 => user_message_rate
         4 mail bob 1 => ok
         4 held ann => ledger user_message_rate from 3 to 3927
         3926 mail ann 1 => user_message_rate
         3928 held ann => no
         3928 mail ann 1 => ok
         3929 mail ann 1 => ok
         3930 mail ann 1 => user_message_rate
         9000 mail ann 1 => ok
         9000 mail ann 1 => ok
         9001 mail ann 1 => user_message_rate first",
    );
}

#[test]
fn recipients() {
    check(
        "0 rcpt- ann => ok
         0 rcpt- ann => ok
         0 rcpt ann => ok
         1 rcpt ann => ok
         2 rcpt- ann => ok
         2 rcpt ann => ok
         3 rcpt ann => user_recipient_rate first
         3 rcpt- ann => user_recipient_rate
         3 rcpt bob => ok
         3 mail ann 1 => ok
         3 held ann => ledger user_recipient_rate from 3 to 3927
         4000 rcpt ann => ok",
    );
}

#[test]
fn networks() {
    check(
        "0 in ann 1 => ok
         10 in ann 2 => ok
         20 in ann 1 => ok
         20 mail ann 2 => ok
         30 in ann 3 => user_networks first
         31 in ann 4 => user_networks
         31 in bob 3 => ok
         32 mail ann 3 => user_networks
         32 mail ann 1 => user_networks
         33 mail bob 3 => ok
         40 held ann => ledger user_networks from 30 to 86420
         86419 mail ann 2 => user_networks
         86420 mail ann 2 => ok
         86421 in ann 3 => ok
         86422 mail ann 2 => ok
         86422 in ann 1 => user_networks first",
    );
    check(
        "0 in ann 1 => ok
         0 in ann 2 => ok
         0 in ann 3 => user_networks first
         80000 in ann 1 => ok
         80000 in ann 2 => ok
         80001 mail ann 2 => user_networks
         80001 held ann => ledger user_networks from 0 to 86400
         86400 mail ann 2 => ok
         86400 held ann => no",
    );
}

#[test]
fn operators() {
    check(
        "0 mail ann 1 => ok
         1 hold ann 60 => ok
         2 mail ann 1 => user_held
         2 mail? ann 1 => user_held
         2 rcpt ann => ok
         2 in ann 1 => ok
         2 mail bob 1 => ok
         3 held ann => operator user_held from 1 to 61
         61 mail ann 1 => ok
         62 mail ann 1 => user_message_rate first
         63 hold ann 60 => ok
         64 free ann => ok
         64 held ann => no
         65 mail ann 1 => ok
         66 mail ann 1 => ok
         67 mail ann 1 => user_message_rate first",
    );
}

#[test]
fn without_limits_all_is_counted_and_nothing_refused() {
    let (accounts, limits, ann) = (Accounts::default(), limits(0, 0, 0), user("ann"));
    for second in 0..1000 {
        let network = network((second % 100) as u8);
        assert_eq!(accounts.login(&limits, &ann, network, at(second), Tally::Count), Ok(()));
        assert_eq!(accounts.message(&limits, &ann, network, at(second), Tally::Count, || Room::Free), Ok(()));
        assert!(accounts.recipient(&limits, &ann, at(second), Tally::Count).is_ok());
    }
    let view = accounts.view(&limits, &ann, &both(1000)).unwrap();
    let count = |name: &str, count| CountView { name: name.to_owned(), count, limit: None };
    assert_eq!(
        view.counts,
        [
            count("user_messages_per_hour", 1000),
            count("user_recipients_per_hour", 1000),
            count("user_networks_per_day", NETWORKS as u64)
        ]
    );
    assert_eq!((view.networks[0].network.as_str(), view.networks[0].last.as_ms()), ("192.0.99.0/24", 999_000));
    assert_eq!(view.held, None);
    assert_eq!(accounts.view(&limits, &user("bob"), &both(1000)), None);
}

#[test]
fn lists_are_bounded_and_the_held_come_first() {
    let (accounts, limits) = (Accounts::default(), limits(10, 0, 0));
    for n in 0..50u64 {
        for _ in 0..=n.min(10) {
            let _ =
                accounts.message(&limits, &user(&format!("u{n:02}")), network(1), at(0), Tally::Count, || Room::Free);
        }
    }
    accounts.hold(user("zoe"), Hold { since: at(1), until: Instant::NEVER, text: String::new() }).unwrap();
    let list = accounts.list(&limits, &both(2), 42);
    let names: Vec<_> = list.accounts.iter().map(|account| account.user.as_str()).collect();
    assert_eq!((names[0], names[40], names[41], list.left_out), ("u10", "zoe", "u09", 9));
    assert!(list.accounts.iter().take(41).all(|account| account.held.is_some()) && list.accounts[41].held.is_none());
    assert_eq!(accounts.list(&limits, &both(86_402), 42).accounts.len(), 1, "who is silent isn't shown");
}

#[test]
fn who_is_held_is_not_forgotten_for_others() {
    let (accounts, limits, ann) = (Accounts::default(), limits(2, 0, 0), user("ann"));
    let mail =
        |user: &User, second| accounts.message(&limits, user, network(1), at(second), Tally::Count, || Room::Free);
    for _ in 0..3 {
        let _ = mail(&ann, 0);
    }
    for n in 0..USERS * 2 {
        assert_eq!(mail(&user(&format!("u{n}")), 1), Ok(()));
    }
    assert_eq!(mail(&ann, 2), Err(Over { reason: Reason::UserMessageRate, first: false }));
    let mut known = 0;
    accounts.users.each(|_, _| known += 1);
    assert!(known <= USERS.next_multiple_of(SHARDS), "{known}");
    assert_eq!(accounts.take_evicted() + known as u64, USERS as u64 * 2 + 1);
    let hold = Hold { since: at(0), until: Instant::NEVER, text: String::new() };
    for n in 0..HOLDS {
        accounts.hold(user(&format!("u{n}")), hold.clone()).unwrap();
    }
    assert_eq!(accounts.hold(ann, hold.clone()), Err(TooManyHolds));
    assert_eq!(accounts.hold(user("u1"), hold), Ok(()), "one that is held already");
}

#[test]
fn who_is_held_is_counted_and_the_first_are_named() {
    let (accounts, limits) = (Accounts::default(), limits(1, 0, 0));
    for name in ["bob", "joe"] {
        for _ in 0..2 {
            let _ = accounts.message(&limits, &user(name), network(1), at(10), Tally::Count, || Room::Free);
        }
    }
    let hold = Hold { since: at(10), until: at(20), text: String::new() };
    for name in ["ann", "bob"] {
        accounts.hold(user(name), hold.clone()).unwrap();
    }
    let check = |seconds, count, names: &[&str]| {
        let held = accounts.held(&limits, at(seconds));
        assert_eq!((held.count, held.names), (count, names.iter().map(|name| (*name).to_owned()).collect()));
    };
    check(19, 3, &["ann", "bob", "joe"]);
    check(20, 2, &["bob", "joe"]);
    check(10_000, 0, &[]);
    for n in 0..20 {
        accounts.hold(user(&format!("u{n:02}")), Hold { until: Instant::NEVER, ..hold.clone() }).unwrap();
    }
    let first: Vec<_> = (0..HeldUsers::NAMED).map(|n| format!("u{n:02}")).collect();
    check(10_000, 20, &first.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn counts_survive_a_restart_of_the_machine() {
    let (before, limits, ann) = (Accounts::default(), limits(2, 3, 2), user("ann"));
    for n in [1, 2, 3] {
        let _ = before.login(&limits, &ann, network(n), at(5000), Tally::Count);
        let _ = before.recipient(&limits, &ann, at(5000), Tally::Count);
    }
    let saved = before.take_changed(10, &both(5100));
    assert!(before.take_changed(10, &both(5100)).is_empty(), "told once");
    assert_eq!(saved.len(), 1);
    // Booted again: the same wall time is another moment.
    let now = Both { instant: at(90_000), wall: both(5100).wall };
    let after = Accounts::default();
    for (user, text) in saved {
        after.restore(user, &text.unwrap(), &now);
    }
    assert_eq!(
        after.message(&limits, &ann, network(1), now.instant, Tally::Count, || Room::Free),
        Err(Over { reason: Reason::UserNetworks, first: false })
    );
    assert_eq!(
        after.recipient(&limits, &ann, now.instant, Tally::Count),
        Err(Over { reason: Reason::UserRecipientRate, first: true })
    );
    for nonsense in ["", "{}", "[]"] {
        after.restore(user("bob"), nonsense, &now);
    }
    assert_eq!(after.view(&limits, &user("bob"), &now), None);
    assert!(after.release(&ann) && !after.release(&ann));
    assert_eq!(after.take_changed(10, &now), [(ann, None)], "the store forgets it");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Logins, MAIL and RCPT in random order: no trailing window has more than the limit of what was let through.
    #[test]
    fn no_trailing_window_has_more_than_the_limit(
        most in (1u32..6, 1u32..6, 1u32..4), steps in prop::collection::vec((0u64..2000, 0u8..4, 0u8..6), 1..300),
    ) {
        let (accounts, limits, ann) = (Accounts::default(), limits(most.0, most.1, most.2), user("ann"));
        let (mut now, mut messages, mut recipients) = (0, VecDeque::new(), VecDeque::new());
        let mut networks = BTreeMap::new();
        for (step, event, from) in steps {
            now += step;
            match event {
                0 => _ = accounts.login(&limits, &ann, network(from), at(now), Tally::Count),
                1 => {
                    if accounts.message(&limits, &ann, network(from), at(now), Tally::Count, || Room::Free).is_ok() {
                        messages.push_back(now);
                        networks.insert(from, now);
                    }
                }
                2 => {
                    if accounts.recipient(&limits, &ann, at(now), Tally::Count).is_ok() {
                        recipients.push_back(now);
                    }
                }
                _ => {
                    // Given back some time after it was asked for; what was let through meanwhile is as if it hadn't been.
                    if let Ok(place) = accounts.recipient(&limits, &ann, at(now), Tally::Count) {
                        now += step;
                        accounts.give_back(&ann, place);
                    }
                }
            }
            messages.retain(|sent| sent + 3600 > now);
            recipients.retain(|sent| sent + 3600 > now);
            networks.retain(|_, sent| *sent + 86_400 > now);
            prop_assert!(messages.len() <= most.0 as usize);
            prop_assert!(recipients.len() <= most.1 as usize);
            prop_assert!(networks.len() <= most.2 as usize);
        }
    }
}
