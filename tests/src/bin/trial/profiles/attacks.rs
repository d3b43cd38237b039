//! Those who want to know which addresses exist. Each comes back for a day after it was blocked, and for all that was put
//! off; lists are 1,000 names long but where it is said.

use std::time::Duration;

use super::{DAY, HOUR, MINUTE, Maker, NEVER};
use crate::model::{PARTNER, Recipient, v4, v6};

type Profile = (&'static str, fn(&mut Maker));

/// Names of a list.
const NAMES: u32 = 1000;

pub(super) const PROFILES: &[Profile] = &[
    ("dictionary, fast, 1 % exist", |make| dictionary(make, 1)),
    ("dictionary, fast, 10 % exist", |make| dictionary(make, 10)),
    ("dictionary, pipelined, 10 % exist", |make| {
        make.pipelined = true;
        dictionary(make, 10);
    }),
    ("dictionary, sender `<>`, 10 % exist", |make| {
        make.sender = super::BOUNCE;
        dictionary(make, 10);
    }),
    ("dictionary, asks for each alone (RSET), 10 % exist", |make| {
        single(make);
        make.sends = false;
        let names = make.random.list(NAMES, 10);
        make.visit(make.scenario.begins, v4(0, 1), names.into_iter().map(|name| vec![name]));
    }),
    ("list of which 50 % exist, asks only (RSET)", |make| {
        single(make);
        make.sends = false;
        let names = make.random.list(NAMES, 50);
        make.visit(make.scenario.begins, v4(0, 1), names.into_iter().map(|name| vec![name]));
    }),
    ("dictionary, sends to each that exists, 10 % exist", |make| {
        single(make);
        let names = make.random.list(NAMES, 10);
        make.visit(make.scenario.begins, v4(0, 1), names.into_iter().map(|name| vec![name]));
    }),
    ("dictionary, sends to 2 that he knows with every 10 names, 10 % exist", |make| {
        single(make);
        make.scenario.known_below = 2;
        let names = make.random.list(NAMES, 10);
        let mails: Vec<_> = names.chunks(10).map(|names| [&known(2)[..], names].concat()).collect();
        make.visit(make.scenario.begins, v4(0, 1), mails);
    }),
    ("dictionary over 20 connections at once, 10 % exist", |make| {
        single(make);
        make.sends = false;
        let names = make.random.list(NAMES, 10);
        for names in names.chunks(50) {
            make.visit(make.scenario.begins, v4(0, 1), [names.to_vec()]);
        }
    }),
    ("dictionary after 10 messages the day before, 10 % exist", |make| {
        make.scenario.known_below = 2;
        for n in 0..10 {
            make.honest = false;
            make.visit(MINUTE * 10 * n, v4(0, 1), [vec![Recipient::Mailbox(0)]]);
        }
        make.scenario.begins = DAY;
        dictionary(make, 10);
    }),
    ("the same for a week, 10 messages every day", |make| {
        make.scenario.known_below = 2;
        for n in 0..70 {
            make.honest = false;
            make.visit(DAY * (n / 10) + MINUTE * 10 * (n % 10), v4(0, 1), [vec![Recipient::Mailbox(0)]]);
        }
        make.scenario.begins = DAY;
        dictionary(make, 10);
        make.scenario.ends = DAY * 8;
    }),
    ("90 known addresses a message that is refused as spam, then 89 names, 10 % exist", |make| {
        single(make);
        make.scenario.known_below = 90;
        make.sender = crate::model::SPAMMER;
        make.visit(make.scenario.begins, v4(0, 1), [known(90)]);
        make.sender = super::SENDER;
        let names = make.random.list(89, 10);
        make.visit(make.scenario.begins + MINUTE, v4(0, 1), names.into_iter().map(|name| vec![name]));
    }),
    ("dictionary, the backend says `550 No such user here`, 10 % exist", |make| {
        make.scenario.site.says = "550 No such user here";
        dictionary(make, 10);
    }),
    ("dictionary, the backend says `553 5.1.1` with the recipient's name, 10 % exist", |make| {
        make.scenario.site.says = "553 5.1.1 sorry, nobody is called {r}";
        dictionary(make, 10);
    }),
    ("dictionary, the backend says `450 4.1.1`, 10 % exist", |make| {
        make.scenario.site.says = "450 4.1.1 <{r}>: Recipient address rejected: User unknown in local recipient table";
        dictionary(make, 10);
    }),
    ("dictionary, the backend was held for one that takes any recipient, 10 % exist", |make| {
        make.scenario.site.catch_all = true;
        dictionary(make, 10);
    }),
    (
        "2,000 strangers ask for a name each where 1,000 sources have room, then 20 with a history name 12 stale ones",
        |make| {
            make.scenario.site.max_sources = 1000;
            let friends: Vec<_> = (0..20).map(|n| v4(1, n * 256)).collect();
            for friend in &friends {
                make.traffic(*friend, (Duration::ZERO, DAY), 20, 0, 100);
            }
            make.scenario.begins = DAY;
            for friend in &friends {
                let at = DAY + HOUR + make.random.within(HOUR);
                let stale = (0..12).map(|n| vec![Recipient::Nobody(n)]);
                make.visit(at, *friend, stale);
                make.traffic(*friend, (DAY + HOUR * 2, DAY), 10, 0, 100);
            }
            make.attack();
            (make.sends, make.retry) = (false, NEVER);
            for n in 0..2000 {
                let at = DAY + make.random.within(HOUR);
                make.visit(at, v4(0, n * 256), [vec![Recipient::Nobody(1000 + n)]]);
            }
            make.scenario.ends = DAY * 3;
        },
    ),
    ("two strangers ask every 4 minutes for 8 closed addresses, of which a partner's mail is taken", |make| {
        make.sender = PARTNER;
        make.traffic(v4(0, 1), (Duration::ZERO, DAY), 5, 0, 100);
        for n in 0..60 {
            let at = DAY + MINUTE * 2 * n + make.random.within(MINUTE);
            let recipient = Recipient::Closed(make.random.below(8));
            make.visit(at, v4(0, 1), [vec![recipient]]);
        }
        make.scenario.begins = DAY;
        make.attack();
        (make.sends, make.retry) = (false, NEVER);
        for (host, sender) in [(512, super::SENDER), (1024, "other@client.example")] {
            make.sender = sender;
            for n in 0..30 {
                let names = (0..8).map(Recipient::Closed).collect();
                make.visit(DAY + MINUTE * 4 * n, v4(0, host), [names]);
            }
        }
    }),
    ("a trap among the first names, 10 % exist", |make| {
        single(make);
        make.sends = false;
        let mut names = make.random.list(NAMES, 10);
        names.insert(3, Recipient::Trap);
        make.visit(make.scenario.begins, v4(0, 1), [names]);
    }),
    ("slow, one name every 6 minutes for 100 hours, 10 % exist", |make| slow(make, MINUTE * 6)),
    ("slower, one name every 8 minutes for 133 hours, 10 % exist", |make| slow(make, MINUTE * 8)),
    ("dictionary, a third of it at each of three edges, no fleet", |make| at_three_edges(make, false)),
    ("dictionary, a third of it at each of three edges, a fleet", |make| at_three_edges(make, true)),
    ("slower, one name every 8 minutes at each of three edges, no fleet", |make| slow_at_three_edges(make, false)),
    ("slower, one name every 8 minutes at each of three edges, a fleet", |make| slow_at_three_edges(make, true)),
    ("400 names over 200 sources of a /24 beside an honest one, 10 % exist", |make| {
        let names = make.random.list(400, 10);
        make.traffic(v4(0, 250), (Duration::ZERO, DAY), 48, 0, 20);
        make.attack();
        for (n, names) in (0..).zip(names.chunks(2)) {
            make.visit(MINUTE / 2 * n, v4(0, n + 1), [names.to_vec()]);
        }
    }),
    ("1,000 names over 1,000 /64s of a /48 beside an honest one, 10 % exist", |make| {
        let names = make.random.list(NAMES, 10);
        make.traffic(v6(5000), (Duration::ZERO, DAY), 48, 0, 20);
        make.attack();
        for (n, name) in (0..).zip(names) {
            make.visit(MINUTE / 4 * u32::from(n), v6(n), [vec![name]]);
        }
    }),
    ("1,000 names over a botnet of 1,000 unrelated sources, 10 % exist", |make| {
        let names = make.random.list(NAMES, 10);
        make.attack();
        for (n, name) in (0..).zip(names) {
            make.visit(MINUTE / 4 * n, v4(0, n * 256), [vec![name]]);
        }
    }),
];

/// The whole attack comes from one source.
fn single(make: &mut Maker) {
    make.attack();
    make.scenario.single = true;
}

/// All names in one transaction, which never comes to a message.
fn dictionary(make: &mut Maker, percent: u32) {
    single(make);
    make.sends = false;
    let names = make.random.list(NAMES, percent);
    make.visit(make.scenario.begins, v4(0, 1), [names]);
}

/// A session for each name.
fn slow(make: &mut Maker, every: Duration) {
    single(make);
    make.sends = false;
    make.scenario.ends = every * NAMES + DAY;
    let names = make.random.list(NAMES, 10);
    for (n, name) in (0..).zip(names) {
        make.visit(every * n, v4(0, 1), [vec![name]]);
    }
}

/// The same names with a fleet and without: one in ten exists.
fn names_of_three_edges() -> Vec<Recipient> {
    let name = |n| if n % 10 == 7 { Recipient::Mailbox(1000 + n) } else { Recipient::Nobody(1000 + n) };
    (0..NAMES).map(name).collect()
}

/// Without a fleet each edge has its own ten.
fn three_edges(make: &mut Maker, fleet: bool) {
    make.attack();
    make.scenario.single = fleet;
    (make.scenario.site.edges, make.scenario.site.fleet) = (3, fleet);
    make.sends = false;
}

fn at_three_edges(make: &mut Maker, fleet: bool) {
    three_edges(make, fleet);
    for names in names_of_three_edges().chunks(NAMES.div_ceil(3) as usize) {
        make.visit(make.scenario.begins, v4(0, 1), [names.to_vec()]);
    }
}

fn slow_at_three_edges(make: &mut Maker, fleet: bool) {
    three_edges(make, fleet);
    make.scenario.ends = MINUTE * 8 * NAMES.div_ceil(3) + DAY;
    for (n, name) in (0..).zip(names_of_three_edges()) {
        make.visit(MINUTE * 8 / 3 * n, v4(0, 1), [vec![name]]);
    }
}

/// Recipients that the attacker knows.
fn known(count: u32) -> Vec<Recipient> {
    (0..count).map(Recipient::Mailbox).collect()
}
