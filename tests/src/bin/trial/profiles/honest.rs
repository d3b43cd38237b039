//! Senders whose mail is wanted.

use std::time::Duration;

use smtp_guard::offence::Digests;

use super::{BOUNCE, DAY, HOUR, MINUTE, Maker, NEVER, SECOND};
use crate::model::{Recipient, Retry, v4};

type Profile = (&'static str, fn(&mut Maker));

pub(super) const PROFILES: &[Profile] = &[
    ("big provider, 1 % stale", |make| provider(make, 1)),
    ("big provider, 30 % stale", |make| provider(make, 30)),
    ("big provider, 30 % stale, never seen before", |make| {
        make.traffic(v4(0, 1), (Duration::ZERO, HOUR * 4), 1200, 30, 2000);
    }),
    ("provider's pool over a /24, 30 % stale, never seen before", |make| {
        for _ in 0..1200 {
            let host = 1 + make.random.below(100);
            let at = make.random.within(HOUR * 4);
            make.traffic(v4(0, host), (at, SECOND), 1, 30, 2000);
        }
    }),
    ("mailing list, 30 % stale of 50 in one message, first contact", |make| {
        let mut subscribers: Vec<_> =
            (0..50).map(|n| if n < 15 { Recipient::Nobody(n) } else { Recipient::Mailbox(n) }).collect();
        for at in (1..50).rev() {
            let other = make.random.below(at + 1);
            subscribers.swap(at as usize, other as usize);
        }
        make.visit(Duration::ZERO, v4(0, 1), [subscribers]);
    }),
    ("newsletter to a migrated domain, 40 % stale, a message each, first contact", |make| {
        for n in 0..20 {
            let mails: Vec<_> =
                make.random.list(10, 60).into_iter().map(|recipient| vec![other(recipient, n)]).collect();
            make.visit(MINUTE * n, v4(0, 1), mails);
        }
    }),
    ("forwarder, mail of 5 users and spam to 4 dead addresses", |make| {
        for _ in 0..400 {
            let at = make.random.within(DAY);
            let recipient = match make.random.percent(50) {
                true => Recipient::Nobody(make.random.below(4)),
                false => Recipient::Mailbox(make.random.below(5)),
            };
            make.visit(at, v4(0, 1), [vec![recipient]]);
        }
    }),
    ("secondary MX with a history, passes a dictionary attack of 300 on", |make| {
        make.history(v4(0, 1));
        let from = make.scenario.begins;
        for n in 0..30 {
            let names: Vec<_> = make.random.list(10, 1).into_iter().map(|name| vec![other(name, n)]).collect();
            make.visit(from + MINUTE * 2 * n, v4(0, 1), names);
        }
        make.traffic(v4(0, 1), (from, DAY), 240, 0, 100);
    }),
    ("office behind NAT, a broken client tries one dead address 500 times", |make| {
        make.retry = NEVER;
        make.every(MINUTE, Duration::ZERO, 500, v4(0, 1), &[Recipient::Nobody(0)]);
        make.retry = super::SERVER;
        make.traffic(v4(0, 1), (Duration::ZERO, HOUR * 8), 80, 0, 40);
    }),
    ("office behind NAT, 20 users, 8 typing errors in an hour", |make| {
        make.traffic(v4(0, 1), (Duration::ZERO, HOUR), 40, 0, 40);
        make.traffic(v4(0, 1), (Duration::ZERO, HOUR), 8, 100, 2000);
    }),
    ("bounces of spam forged in our name, from 300 servers, 1 to 3 each", |make| {
        make.sender = BOUNCE;
        for host in 0..300 {
            let (source, count) = (v4(0, host * 256), 1 + make.random.below(3));
            make.traffic(source, (Duration::ZERO, HOUR * 3), count, 100, 5000);
        }
    }),
    ("the same from one provider with a history, 60 an hour for 6 hours", |make| {
        make.history(v4(0, 1));
        let from = make.scenario.begins;
        make.traffic(v4(0, 1), (from, DAY), 240, 0, 100);
        make.sender = BOUNCE;
        make.traffic(v4(0, 1), (from, HOUR * 6), 360, 100, 5000);
    }),
    ("small server that has sent 3 messages, returns 30 mails forged in our name", |make| {
        make.traffic(v4(0, 1), (Duration::ZERO, DAY), 3, 0, 100);
        make.scenario.begins = DAY;
        make.sender = BOUNCE;
        make.traffic(v4(0, 1), (DAY, HOUR), 30, 100, 5000);
        make.sender = super::SENDER;
        make.traffic(v4(0, 1), (DAY, DAY), 10, 0, 100);
    }),
    ("server with 5 messages beside four that ask for 30 names of a /24, returns one forged mail", |make| {
        make.traffic(v4(0, 200), (Duration::ZERO, DAY), 5, 0, 100);
        make.scenario.begins = DAY;
        make.sender = BOUNCE;
        make.traffic(v4(0, 200), (DAY, MINUTE), 1, 100, 5000);
        make.sender = super::SENDER;
        make.traffic(v4(0, 200), (DAY, DAY), 20, 0, 100);
        make.attack();
        make.sends = false;
        for host in 1..=4 {
            let names = (0..30).map(|n| Recipient::Nobody(host * 100 + n)).collect();
            make.visit(DAY + MINUTE * host, v4(0, host), [names]);
        }
    }),
    ("provider with 26 messages, one customer writes to a trap three times", |make| {
        make.traffic(v4(0, 1), (Duration::ZERO, DAY), 26, 0, 100);
        make.scenario.begins = DAY;
        make.traffic(v4(0, 1), (DAY, DAY), 60, 0, 100);
        (make.sender, make.retry) = ("customer@client.example", NEVER);
        make.every(HOUR, DAY, 3, v4(0, 1), &[Recipient::Trap]);
    }),
    ("provider never seen before, one customer names 130 addresses that he chose by their digests", |make| {
        make.traffic(v4(0, 1), (Duration::ZERO, HOUR * 4), 1200, 1, 2000);
        (make.sender, make.retry) = ("customer@client.example", NEVER);
        for recipient in chosen(make, 130) {
            let at = HOUR + make.random.within(HOUR);
            make.visit(at, v4(0, 1), [vec![recipient]]);
        }
    }),
    ("host of ours, names 200 colleagues who have left in an hour", |make| {
        make.scenario.site.own = Some(v4(0, 1));
        make.traffic(v4(0, 1), (Duration::ZERO, HOUR), 60, 0, 100);
        make.traffic(v4(0, 1), (Duration::ZERO, HOUR), 200, 100, 5000);
    }),
    ("user who has logged in, names 30 colleagues who have left in an hour", |make| {
        make.login = true;
        make.traffic(v4(0, 1), (Duration::ZERO, HOUR), 10, 0, 100);
        make.traffic(v4(0, 1), (Duration::ZERO, HOUR), 30, 100, 5000);
    }),
    ("monitoring, asks for one recipient every minute", |make| {
        (make.sends, make.retry) = (false, NEVER);
        make.every(MINUTE, Duration::ZERO, 1440, v4(0, 1), &[Recipient::Mailbox(0)]);
    }),
    ("sender verification by an MX with a history, 40 an hour, 20 % unknown", |make| {
        make.history(v4(0, 1));
        let from = make.scenario.begins;
        make.traffic(v4(0, 1), (from, DAY), 240, 0, 100);
        (make.sender, make.sends) = (BOUNCE, false);
        make.traffic(v4(0, 1), (from, HOUR * 6), 240, 20, 1000);
    }),
    ("sender verification by an MX that never sends, 8 an hour, 20 % unknown", |make| {
        (make.sender, make.sends) = (BOUNCE, false);
        make.traffic(v4(0, 1), (Duration::ZERO, DAY), 192, 20, 1000);
    }),
    ("a person with a typing error", |make| {
        make.visit(Duration::ZERO, v4(0, 1), [vec![Recipient::Nobody(0)]]);
        make.visit(MINUTE * 10, v4(0, 1), [vec![Recipient::Mailbox(0)]]);
    }),
    ("small server, 8 dead of 20 in an old address book", |make| {
        for n in 0..20 {
            let recipient = if make.random.percent(40) { Recipient::Nobody(n) } else { Recipient::Mailbox(n) };
            make.visit(MINUTE * n, v4(0, 1), [vec![recipient]]);
        }
    }),
    ("invoices, 60 on one day of a month, 10 % stale", |make| {
        for month in 0..2 {
            make.traffic(v4(0, 1), (DAY * 31 * month, HOUR), 60, 10, 500);
        }
        make.scenario.ends = DAY * 40;
    }),
    ("client that knows no greylisting: every 20 s for 10 minutes", |make| {
        make.retry = Retry { after: SECOND * 20, times: 30 };
        for n in 0..10 {
            make.visit(MINUTE * n, v4(0, 1), [vec![Recipient::Greylisted(n)]]);
        }
    }),
    ("ticket system, answers to 15 users and to 3 dead addresses an hour", |make| {
        make.traffic(v4(0, 1), (Duration::ZERO, DAY), 480, 0, 15);
        make.traffic(v4(0, 1), (Duration::ZERO, DAY), 72, 100, 2000);
    }),
];

/// 60 messages an hour for a day.
fn provider(make: &mut Maker, stale: u32) {
    make.traffic(v4(0, 1), (Duration::ZERO, DAY), 60 * 24, stale, 2000);
}

/// Numbers of one list are not those of another.
fn other(recipient: Recipient, list: u32) -> Recipient {
    match recipient {
        Recipient::Mailbox(n) => Recipient::Mailbox(n + list * 1000),
        Recipient::Nobody(n) => Recipient::Nobody(n + list * 1000),
        same => same,
    }
}

/// `count` addresses of nobody whose digests end in many zero bits, under a secret that isn't this installation's: a sampled
/// count takes each of them for a thousand.
fn chosen(make: &mut Maker, count: usize) -> Vec<Recipient> {
    let begin = make.random.below(1_000_000);
    let names = (begin..).map(Recipient::Chosen);
    names.filter(|name| Digests::default().of(&name.address()).trailing_zeros() >= 10).take(count).collect()
}
