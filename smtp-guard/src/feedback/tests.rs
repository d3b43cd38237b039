use std::collections::BTreeSet;
use std::sync::Mutex;

use smtp_guard_ebpf::reason::Reason;

use super::*;
use crate::addr::{ClientAddr, Ipv6Prefix, Source};
use crate::bound::Bound;
use crate::clock::{Both, Instant};
use crate::config::Config;
use crate::edge::bans::KernelBans as _;
use crate::edge::bans::fake::{Fake, State};
use crate::key::Key;
use crate::ledger::networks::Network;
use crate::offence::{Conduct, Digest};
use crate::rates::{Room, Tally};
use crate::store::Change;
use crate::store::memory::Disk;

mod foreign;
mod parts;

use parts::{all, held};

const BY: crate::decision::Operator = crate::decision::Operator { uid: Some(0), local: false };

#[derive(Default)]
struct Counted(Mutex<Vec<String>>);

impl Counted {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|noted| *noted == what).count()
    }
}

impl Meter for Counted {
    fn reported(&self, kind: ReportKind) {
        self.note(kind.label());
    }
    fn foreign(&self, ignored: Option<Ignored>) {
        let outcome = ignored.map_or("entered", Ignored::label);
        self.note(format!("foreign {outcome}"));
    }
    fn tell(&self, what: What) {
        let told = serde_json::to_value(&what).unwrap();
        let words = ["event", "reason"].map(|field| told[field].as_str().unwrap_or_default());
        self.note(words.join(" ").trim());
    }
    fn report_lost(&self) {
        self.note("dropped");
    }
    fn ban_latency(&self, _time: Duration) {
        self.note("latency");
    }
    fn bound_reached(&self, bound: Bound) {
        self.note(bound.label());
    }
}

/// A ledger that nobody else looks at, for tests of other parts.
pub(crate) fn alone(config: &Arc<Config>, bans: &Arc<BanTable>) -> Feedback {
    let store = Disk::default().open();
    start(
        Arc::new(Snapshot::new(Arc::clone(config), None)),
        Arc::clone(bans),
        store,
        Arc::new(Counted::default()),
        Arc::new(Alone),
    )
    .0
}

struct World {
    disk: Disk,
    config: Arc<Config>,
}

impl World {
    fn new() -> Self {
        let mut config = Config::builtin();
        config.exempt = ["20.0.2.9/32".parse().unwrap()].into_iter().collect();
        Self { disk: Disk::default(), config: Arc::new(config) }
    }

    fn start(&self) -> (Feedback, JoinHandle<()>, Arc<BanTable>, Arc<Counted>) {
        let store = self.disk.open();
        let table = Arc::new(BanTable::new(None, 100));
        let meter = Arc::new(Counted::default());
        let (feedback, task) = start(
            Arc::new(Snapshot::new(Arc::clone(&self.config), None)),
            Arc::clone(&table),
            store,
            meter.clone(),
            Arc::new(Alone),
        );
        (feedback, task, table, meter)
    }

    /// What the task keeps, without the task, in front of `kernel`.
    fn keeper(&self, kernel: Arc<Fake>) -> Keeper {
        self.keeper_of(kernel, Arc::new(Counters::new(&self.config)))
    }

    /// Likewise, with `counters`.
    fn keeper_of(&self, kernel: Arc<Fake>, counters: Arc<Counters>) -> Keeper {
        self.keeper_on(Arc::new(BanTable::new(Some(kernel), 100)), counters)
    }

    fn keeper_on(&self, table: Arc<BanTable>, counters: Arc<Counters>) -> Keeper {
        let store = self.disk.open();
        let meter = Arc::new(Counted::default());
        Keeper::new(
            Arc::new(Snapshot::new(Arc::clone(&self.config), None)),
            table,
            store,
            meter,
            Arc::new(Alone),
            Arc::default(),
            counters,
        )
    }
}

fn harvest(feedback: &Feedback, ip: &str) {
    let client = ClientAddr::new((ip.parse::<IpAddr>().unwrap(), 4000).into());
    for n in 0..10 {
        let conduct = Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into(), returned: false };
        feedback.report(Report { client, at: crate::clock::now(), conduct });
    }
}

/// The task takes reports and questions from different channels: ask until it has taken the reports.
async fn settled(feedback: &Feedback, meter: &Counted, reports: usize) {
    while meter.count("unknown_recipient") < reports {
        tokio::task::yield_now().await;
    }
    feedback.decisions(None).await.unwrap();
}

#[tokio::test]
async fn a_harvest_is_banned_explained_lifted_and_survives_a_restart() {
    let world = World::new();
    let (feedback, task, table, meter) = world.start();
    harvest(&feedback, "20.0.2.1");
    harvest(&feedback, "2001:db8::1");
    harvest(&feedback, "20.0.2.9");
    settled(&feedback, &meter, 30).await;
    let decisions = all(&feedback).await;
    let sources: BTreeSet<_> = decisions.iter().map(|decision| decision.source.as_str()).collect();
    assert_eq!(sources, BTreeSet::from(["20.0.2.1", "2001:db8::/64"]), "the exempt one is not banned");
    assert_eq!((meter.count("banned harvest"), meter.count("latency")), (2, 2));
    let explained = feedback.explain("2001:db8::2".parse().unwrap()).await.unwrap();
    let decision = explained.decision.unwrap();
    assert_eq!((decision.reason.as_str(), decision.repeat), ("harvest", 0));
    assert!(decision.evidence[0].contains("10 distinct unknown recipients of 10"), "{decision:?}");
    assert!(feedback.delete("2001:db8::3".parse().unwrap(), BY).await.unwrap().is_some());
    assert_eq!(table.len(), 1);
    drop(feedback);
    task.await.unwrap();

    let (feedback, _task, table, _) = world.start();
    assert_eq!(table.len(), 1, "in force before anything else");
    assert_eq!(all(&feedback).await[0].source, "20.0.2.1");
    assert_eq!(feedback.delete_all(BY).await.unwrap(), Kept { what: 1, saved: true, unconfirmed: Vec::new() });
    assert!(table.is_empty());
}

#[tokio::test]
async fn the_operator_bans_all_but_the_exempt() {
    let world = World::new();
    let (feedback, _task, table, _) = world.start();
    let hour = Duration::from_secs(3600);
    let exempt = feedback.add("20.0.2.9".parse().unwrap(), hour, String::new(), BY).await;
    assert!(matches!(exempt, Err(ControlError::Exempt { .. })));
    let Kept { what: decision, saved, .. } =
        feedback.add("20.0.2.1".parse().unwrap(), hour, "by hand".to_owned(), BY).await.unwrap();
    assert!(saved);
    assert_eq!((decision.origin.as_str(), decision.until.as_ms() - decision.made.as_ms()), ("operator", 3_600_000));
    assert_eq!(table.len(), 1);
    assert!(feedback.delete("20.0.2.2".parse().unwrap(), BY).await.unwrap().is_none());
}

/// A world with everything that a network must not touch. (The addresses of documentation may be this host's.)
fn guarded() -> World {
    let mut world = World::new();
    let mut config = Config::clone(&world.config);
    config.exempt = ["20.0.2.9/32".parse().unwrap()].into_iter().collect();
    config.backend.servers = vec![crate::addr::BackendAddr::Address("20.0.100.25:25".parse().unwrap())];
    config.listen[0].balancers = ["20.0.113.7/32".parse().unwrap()].into_iter().collect();
    world.config = Arc::new(config);
    world
}

#[tokio::test]
async fn networks_are_blocked_explained_lifted_and_survive_a_restart() {
    let world = guarded();
    let (feedback, task, table, _) = world.start();
    let hour = Duration::from_secs(3600);
    for (net, objection) in [
        (
            "20.0.2.0/24",
            "20.0.2.0/24 is not blocked, since 20.0.2.9/32 is in use here (exempt): give the networks beside",
        ),
        ("20.0.100.0/24", "20.0.100.25/32 is in use here (backend.servers)"),
        ("20.0.113.0/29", "20.0.113.7/32 is in use here (listen.proxy_protocol)"),
        ("127.0.0.0/8", "127.0.0.1/32 is in use here"),
        ("127.0.0.1", "127.0.0.1/32 is in use here"),
        ("20.0.100.25", "20.0.100.25/32 is in use here (backend.servers)"),
        ("224.0.0.0/8", "224.0.0.0/4 is not a public address (multicast)"),
        ("10.0.0.0/7", "10.0.0.0/7 is wider than /8"),
        ("2001:db8::/80", "a part of one source"),
    ] {
        let error = feedback.add(net.parse().unwrap(), hour, String::new(), BY).await.unwrap_err().to_string();
        assert!(error.contains(objection), "{net}: {error}");
    }
    for (net, shown) in [
        ("20.0.2.128/25", "20.0.2.128/25"),
        ("20.0.2.192/26", "20.0.2.192/26"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("2001:db9::/64", "2001:db9::/64"),
    ] {
        let made = feedback.add(net.parse().unwrap(), hour, "by hand".to_owned(), BY).await.unwrap();
        assert_eq!((made.what.source.as_str(), made.saved), (shown, true));
    }
    assert_eq!((table.networks(), table.len()), (3, 1), "a /64 is a source");
    let explained = |ip: &str| feedback.explain(ip.parse().unwrap());
    let by = |explanation: Explanation| explanation.networks.into_iter().map(|by| by.source).collect::<Vec<_>>();
    assert_eq!(by(explained("20.0.2.200").await.unwrap()), ["20.0.2.192/26", "20.0.2.128/25"]);
    assert_eq!(by(explained("20.0.2.1").await.unwrap()), [""; 0]);
    assert_eq!(by(explained("2001:db8:5::1").await.unwrap()), ["2001:db8::/32"]);
    let within = feedback.delete("20.0.2.200".parse().unwrap(), BY).await.unwrap_err().to_string();
    assert_eq!(
        within,
        "20.0.2.200 is blocked as a part of 20.0.2.192/26; to lift that: smtp-guard decisions delete 20.0.2.192/26"
    );
    assert!(feedback.delete("20.0.2.0/24".parse().unwrap(), BY).await.unwrap().is_none());
    let lifted = feedback.delete("20.0.2.192/26".parse().unwrap(), BY).await.unwrap().unwrap();
    assert_eq!((lifted.what.source.as_str(), lifted.saved), ("20.0.2.192/26", true));
    drop(feedback);
    task.await.unwrap();

    let (feedback, _task, table, _) = world.start();
    assert_eq!((table.networks(), table.len()), (2, 1), "in force before anything else");
    let source = Ipv6Prefix::default().source("20.0.2.200".parse().unwrap());
    assert_eq!(table.banned(source, crate::clock::now()).unwrap().0, Reason::Operator);
    assert_eq!(feedback.delete_all(BY).await.unwrap(), Kept { what: 3, saved: true, unconfirmed: Vec::new() });
    assert_eq!((table.networks(), table.len()), (0, 0));
}

#[tokio::test]
async fn many_come_in_at_once_and_none_pushes_out_or_shortens_another() {
    let mut world = guarded();
    let mut config = Config::clone(&world.config);
    config.edge.max_sources = 3;
    world.config = Arc::new(config);
    let (feedback, _task, table, meter) = world.start();
    let entry = |who: &str, seconds| Entry { who: who.parse().unwrap(), seconds, text: None };
    feedback.add("20.0.2.1".parse().unwrap(), Duration::from_secs(7200), "first".to_owned(), BY).await.unwrap();
    let entries = vec![
        // The operator's own word stands, however long this one would last.
        entry("20.0.2.1", None),
        entry("20.0.2.2", Some(3600)),
        Entry { text: Some("its own".to_owned()), ..entry("20.0.2.2", Some(7200)) },
        entry("20.0.2.2", Some(60)),
        entry("20.0.2.9", None),
        entry("20.0.100.25", None),
        entry("20.0.113.128/25", None),
        entry("20.0.112.0/23", None),
        entry("2001:db8::1", Some(60)),
        entry("2001:db8:1::1", Some(60)),
    ];
    let Kept { what: Imported { added, outlasted, refused }, saved, .. } =
        feedback.import(Name::new("drop.txt"), entries, "a list".to_owned(), BY).await.unwrap();
    assert_eq!((added, outlasted, saved), (3, 2, true));
    let parts =
        ["20.0.2.9 is exempt", "20.0.100.25/32 is in use here", "20.0.113.7/32 is in use here", "edge.max_sources"];
    let found: Vec<_> = refused.iter().map(|(place, _)| *place).collect();
    assert_eq!(found, [4, 5, 7, 9]);
    assert!(refused.iter().zip(parts).all(|((_, why), part)| why.contains(part)), "{refused:?}");
    let decisions = all(&feedback).await;
    let shown: BTreeSet<_> =
        decisions.iter().map(|decision| (decision.source.as_str(), decision.text.as_str(), decision.by())).collect();
    let by = |source, text, by: &str| (source, text, by.to_owned());
    let expected = [
        by("2001:db8::/64", "a list", "file drop.txt"),
        by("20.0.2.1", "first", "operator"),
        by("20.0.2.2", "its own", "file drop.txt"),
        by("20.0.113.128/25", "a list", "file drop.txt"),
    ];
    assert_eq!(shown, BTreeSet::from(expected));
    assert_eq!(decisions[3].until.as_ms(), i64::MAX, "for ever");
    assert_eq!((table.len(), table.networks(), meter.count("bans")), (3, 1, 1));
}

#[tokio::test]
async fn what_was_under_way_when_the_ban_fell_does_not_double_the_next_one() {
    let mut world = World::new();
    let mut config = Config::clone(&world.config);
    config.harvest.ban = Duration::from_millis(1);
    world.config = Arc::new(config);
    let (feedback, _task, table, meter) = world.start();
    let client = ClientAddr::new(("20.0.2.1".parse::<IpAddr>().unwrap(), 4000).into());
    let trapped = || {
        let conduct = Conduct::Trap { recipient: "trap@example.org".into(), sender: Digest::of("") };
        feedback.report(Report { client, at: crate::clock::now(), conduct });
    };
    // One request of each of its connections.
    (0..20).for_each(|_| trapped());
    while meter.count("trap") < 20 || !table.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    trapped();
    while meter.count("banned trap") < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(all(&feedback).await[0].repeat, 1);
}

/// Ten neighbours guess; before the guess at which their network trips, the operator blocks `blocked`. How many are banned with it.
#[track_caller]
fn check_neighbours(blocked: Option<&str>, expected: usize) {
    let mut keeper = World::new().keeper(Arc::new(Fake::default()));
    keeper.restore();
    let guess = |keeper: &mut Keeper, n: u32, last: u32| {
        let client = ClientAddr::new(format!("20.0.2.{last}:4000").parse().unwrap());
        let conduct = Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into(), returned: false };
        keeper.on_report(Report { client, at: crate::clock::now(), conduct });
    };
    (0..29).for_each(|n| guess(&mut keeper, n, 33 + n % 10));
    if let Some(who) = blocked {
        keeper.add(who.parse().unwrap(), Duration::from_secs(3600), String::new(), BY).unwrap();
    }
    guess(&mut keeper, 29, 42);
    let banned = held(&keeper).into_iter().filter(|decision| decision.reason == "harvest");
    assert_eq!(banned.filter(|decision| !decision.source.contains('/')).count(), expected, "{blocked:?}");
}

#[test]
fn neighbours_that_a_decision_holds_already_do_not_trip() {
    check_neighbours(None, 10);
    check_neighbours(Some("20.0.2.33"), 9);
    // 33 to 39.
    check_neighbours(Some("20.0.2.32/29"), 3);
}

/// A plane that is loaded before the proxy starts, or while it runs, with bans of somebody else's in its map.
#[tokio::test]
async fn a_loaded_plane_gets_the_bans_in_force_and_its_own_are_taken_over_but_none_that_is_over() {
    let sources = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
    let check = |loaded_first: bool, expected: &[&str]| {
        let (world, kernel) = (World::new(), Arc::new(Fake::default()));
        let load = || {
            kernel.put(Source::v4(0x1400_0203), Instant::NEVER, Reason::Harvest);
            kernel.put(Source::v4(0x1400_0204), Instant::from_ns(1), Reason::Harvest);
            // Exempt.
            kernel.put(Source::v4(0x1400_0209), Instant::NEVER, Reason::Harvest);
            kernel.set(State::Loaded);
        };
        kernel.set(State::NotLoaded);
        if loaded_first {
            load();
        }
        let mut keeper = world.keeper(Arc::clone(&kernel));
        keeper.restore();
        if !loaded_first {
            let ban = |keeper: &mut Keeper, ip: &str, length| {
                keeper.add(ip.parse().unwrap(), length, String::new(), BY).unwrap();
            };
            ban(&mut keeper, "20.0.2.1", Duration::from_secs(3600));
            ban(&mut keeper, "20.0.2.2", Duration::from_millis(1));
            std::thread::sleep(Duration::from_millis(2));
            load();
            keeper.sweep();
        }
        assert!(kernel.is_ready(), "the first ban doesn't wait for filters that are made anew");
        let in_kernel = kernel.bans().unwrap().into_iter().map(|(source, _, _)| Ipv6Prefix::default().display(source));
        assert_eq!(in_kernel.collect::<BTreeSet<_>>(), sources(expected));
        let decisions = held(&keeper).into_iter().map(|decision| decision.source);
        assert_eq!(decisions.collect::<BTreeSet<_>>(), sources(expected));
    };
    check(true, &["20.0.2.3"]);
    check(false, &["20.0.2.1", "20.0.2.3"]);
}

/// The wall clock of a machine that starts with a wrong one, or has it set: bans end when they should.
#[test]
fn d8_ends_and_purges_survive_a_clock_that_is_set() {
    const DAY_MS: i64 = 86_400_000;
    let world = World::new();
    let mut keeper = world.keeper(Arc::new(Fake::default()));
    keeper.restore();
    keeper.add("20.0.2.1".parse().unwrap(), Duration::from_secs(3600), String::new(), BY).unwrap();
    let begun = crate::clock::both();
    let at = |seconds: u64, ahead_ms: i64| {
        let instant = begun.instant.after(Duration::from_secs(seconds));
        Both { instant, wall: begun.wall_at(instant).later(ahead_ms) }
    };
    let until = |keeper: &Keeper| held(keeper)[0].until.as_ms() - begun.wall.as_ms();
    let near = |found: i64, expected: i64| assert!((found - expected).abs() < 60_000, "{found} {expected}");
    keeper.sweep_at(at(10, 0));
    near(until(&keeper), 3_600_000);
    keeper.sweep_at(at(20, 31 * DAY_MS));
    near(until(&keeper), 3_600_000 + 31 * DAY_MS);
    keeper.sweep_at(at(30, 0));
    near(until(&keeper), 3_600_000);
    keeper.sweep_at(at(3500, 0));
    assert_eq!(held(&keeper).len(), 1);
    drop(keeper);
    // It is read by a clock that is ahead for ten seconds, and by one that is behind.
    for (ahead, first, after) in [(31 * DAY_MS, 0, 1), (-31 * DAY_MS, 1, 1)] {
        let mut keeper = world.keeper(Arc::new(Fake::default()));
        keeper.restore_at(at(30, ahead));
        assert_eq!(held(&keeper).len(), first, "{ahead}");
        keeper.sweep_at(at(40, 0));
        assert_eq!(held(&keeper).len(), after, "{ahead}");
        near(until(&keeper), 3_600_000);
        drop(keeper);
    }
}

#[tokio::test]
async fn d7_a_stop_saves_what_was_reported_although_sessions_hold_on() {
    let world = World::new();
    let (feedback, task, _, _) = world.start();
    harvest(&feedback, "20.0.2.1");
    feedback.close().await;
    task.await.unwrap();
    assert!(matches!(feedback.decisions(None).await, Err(ControlError::Unavailable(_))));
    let (feedback, _task, table, _) = world.start();
    assert_eq!(table.len(), 1);
    drop(feedback);
}

#[tokio::test]
async fn a_hold_outlives_a_crash_and_counts_a_restart() {
    let world = World::new();
    let (feedback, task, _, meter) = world.start();
    let (bob, ann) = (User::new("bob").unwrap(), User::new("ann").unwrap());
    let limits = &world.config.limits;
    let network = Network::of(Ipv6Prefix::default().source("20.0.2.1".parse().unwrap()));
    let accounts = &feedback.counters().accounts;
    accounts.message(limits, &ann, network, crate::clock::now(), Tally::Count, || Room::Free).unwrap();
    let held = feedback.hold(bob.clone(), None, "stolen".to_owned(), BY).await.unwrap();
    assert_eq!((held.held.unwrap().origin.as_str(), meter.count("user_held user_held")), ("operator", 1));
    // Among decisions about addresses it isn't shown, and who lifts all of these releases nobody.
    assert_eq!((all(&feedback).await, feedback.latest().await.unwrap()), (vec![], vec![]));
    assert_eq!(feedback.delete_all(BY).await.unwrap().what, 0);
    // What is on disk now is what a guard finds that is started after kill -9.
    let crashed = World { disk: world.disk.copy(), ..World::new() };
    let text = |feedback: &Feedback, user: &User| {
        let view = feedback.counters().accounts.view(limits, user, &crate::clock::both())?;
        Some((view.held.map(|held| (held.text, held.until.as_ms())), view.counts[0].count, view.networks.len()))
    };
    let stolen = Some((Some(("stolen".to_owned(), i64::MAX)), 0, 0));
    let (after, _task, _, _) = crashed.start();
    assert_eq!((text(&after, &bob), text(&after, &ann)), (stolen.clone(), None));
    feedback.close().await;
    task.await.unwrap();
    let (feedback, task, _, _) = world.start();
    assert_eq!((text(&feedback, &bob), text(&feedback, &ann)), (stolen, Some((None, 1, 1))));
    for user in [bob.clone(), ann.clone()] {
        assert!(feedback.release(user.clone(), BY).await.unwrap().is_some());
        assert!(feedback.release(user, BY).await.unwrap().is_none());
    }
    feedback.close().await;
    task.await.unwrap();
    let (feedback, _task, _, _) = world.start();
    assert_eq!((text(&feedback, &bob), text(&feedback, &ann)), (None, None), "what was released stays so");
}

#[test]
fn a_hold_ends_and_is_written_anew_when_the_clock_is_set() {
    let (world, bob, begun) = (World::new(), User::new("bob").unwrap(), crate::clock::both());
    let at = |seconds: u64, ahead_ms: i64| {
        let instant = begun.instant.after(Duration::from_secs(seconds));
        Both { instant, wall: begun.wall_at(instant).later(ahead_ms) }
    };
    let day_ms = 86_400_000;
    let counters = Arc::new(Counters::new(&world.config));
    let mut keeper = world.keeper_of(Arc::new(Fake::default()), counters);
    keeper.restore_at(at(0, 0));
    let held = keeper.hold(bob.clone(), Some(Duration::from_secs(3600)), "stolen".to_owned(), BY);
    assert!(held.is_ok());
    keeper.sweep_at(at(20, day_ms));
    keeper.sweep_at(at(21, day_ms));
    drop(keeper);
    for (restored, seconds, is_held) in [(30, 3500, true), (30, 3700, false), (3700, 3701, false)] {
        let counters = Arc::new(Counters::new(&world.config));
        let mut keeper = world.keeper_of(Arc::new(Fake::default()), Arc::clone(&counters));
        keeper.restore_at(at(restored, day_ms));
        keeper.sweep_at(at(seconds, day_ms));
        assert_eq!(counters.accounts.hold_of(&bob, at(0, 0).instant).is_some(), is_held, "{seconds}");
    }
}

#[tokio::test]
async fn decisions_of_another_guard_are_followed_told_apart_and_kept() {
    let world = guarded();
    let (there, _there, _, _) = guarded().start();
    let hour = Duration::from_secs(3600);
    for who in ["20.0.2.1", "20.0.3.0/24", "2001:db8::1"] {
        there.add(who.parse().unwrap(), hour, "by hand".to_owned(), BY).await.unwrap();
    }
    let mut heard = all(&there).await;
    heard.push(Decision { source: "20.0.2.9".to_owned(), ..heard[0].clone() });
    let (here, task, table, meter) = world.start();
    here.add("20.0.2.1".parse().unwrap(), hour, "ours".to_owned(), BY).await.unwrap();
    assert_eq!(followed(&here.hear_of(Name::new("mx2"), heard).await.unwrap()), 2);
    let counted = ["entered", "outlasted", "exempt"].map(|outcome| meter.count(&format!("foreign {outcome}")));
    assert_eq!((counted, table.len(), table.networks()), ([2, 1, 1], 2, 1));
    here.close().await;
    task.await.unwrap();
    let (here, _task, _, _) = world.start();
    let by = all(&here).await.iter().map(Decision::by).collect::<BTreeSet<_>>();
    assert_eq!(by, BTreeSet::from(["node mx2".to_owned(), "operator".to_owned()]));
}

/// How many bans have changed something here.
fn followed(weights: &[Weight]) -> usize {
    weights.iter().filter(|weight| **weight != Weight::Nothing).count()
}

/// What other guards are told, a line each.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Peers for Heard {
    fn are_there(&self) -> bool {
        true
    }

    fn reported(&self, source: &str, _: Instant, conduct: &Conduct) {
        self.note(format!("{} {source}", conduct.kind().label()));
    }

    fn counted(&self, who: Result<&str, Digest>, _: Instant, sum: Sum) {
        let who = who.map_or_else(|user| user.name(), str::to_owned);
        self.note(format!("{who} {} {}", sum.messages, sum.recipients));
    }

    fn decided(&self, decision: Decision, upon: Option<&Name>, _: Both) {
        let upon = upon.map(|node| format!(" upon {}", node.as_str())).unwrap_or_default();
        self.note(format!("{} by {}{upon}", decision.source, decision.by()));
    }

    fn lifted(&self, source: &str, now: Both, until: Instant) {
        self.note(format!("{source} lifted {} s before its end", until.since(now.instant).as_secs().div_ceil(60) * 60));
    }
}

/// A keeper with peers; what they are told.
fn told() -> (Keeper, Arc<Heard>, Arc<Counted>) {
    told_in(&guarded())
}

/// Likewise in this world, with what its disk holds.
fn told_in(world: &World) -> (Keeper, Arc<Heard>, Arc<Counted>) {
    let (peers, meter) = (Arc::new(Heard::default()), Arc::new(Counted::default()));
    let snapshot = Arc::new(Snapshot::new(Arc::clone(&world.config), None));
    let counters = Arc::new(Counters::new(&world.config));
    let table = Arc::new(BanTable::new(Some(Arc::new(Fake::default())), 100));
    let (counted, others) = (Arc::clone(&meter), Arc::clone(&peers));
    let mut keeper = Keeper::new(snapshot, table, world.disk.open(), counted, others, Arc::default(), counters);
    keeper.restore();
    (keeper, peers, meter)
}

#[test]
fn other_guards_are_told_what_happens_here_and_nothing_of_what_they_said() {
    let (mut keeper, peers, _) = told();
    let hour = Duration::from_secs(3600);
    let local = Operator { local: true, ..BY };
    let who = |text: &str| text.parse::<Who>().unwrap();
    let harvester = ClientAddr::new(("20.0.2.1".parse::<IpAddr>().unwrap(), 4000).into());
    let exempt = ClientAddr::new(("20.0.2.9".parse::<IpAddr>().unwrap(), 4000).into());
    for n in 0..10 {
        for client in [harvester, exempt] {
            let conduct = Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into(), returned: false };
            keeper.on_report(Report { client, at: crate::clock::now(), conduct });
        }
    }
    let mut expected = vec!["unknown_recipient 20.0.2.1".to_owned(); 10];
    expected.push("20.0.2.1 by ledger".to_owned());
    assert_eq!(peers.take(), expected);
    keeper.add(who("20.0.2.2"), hour, String::new(), BY).unwrap();
    keeper.add(who("20.0.3.0/24"), hour, String::new(), local).unwrap();
    keeper.hold(User::new("bob").unwrap(), None, String::new(), BY).map(drop).unwrap();
    let entry = Entry { who: who("20.0.2.3"), seconds: None, text: None };
    assert_eq!(keeper.import(Name::new("list"), vec![entry], "", BY).added, 1);
    assert_eq!(peers.take(), ["20.0.2.2 by operator"], "neither what is local, nor users, nor files");
    let foreign = Decision { source: "20.0.2.4".to_owned(), ..held(&keeper)[0].clone() };
    assert_eq!(followed(&keeper.hear_of(&Name::new("mx2"), &[foreign])), 1);
    keeper.hear_lifts(&Name::new("mx2"), &[("20.0.2.4".to_owned(), crate::clock::now())]);
    assert_eq!(peers.take(), [""; 0]);
    keeper.tell_all();
    let mut all = peers.take();
    all.sort_unstable();
    assert_eq!(all, ["20.0.2.1 by ledger", "20.0.2.2 by operator"], "what is local stays so");
    keeper.delete(who("20.0.3.0/24"), local).unwrap();
    keeper.delete(who("20.0.2.2"), BY).unwrap();
    assert_eq!(peers.take(), ["20.0.2.2 lifted 3600 s before its end"]);
    keeper.tell_all();
    assert_eq!(peers.take(), ["20.0.2.1 by ledger"]);
}

#[test]
fn what_is_local_stays_so_after_a_restart() {
    let world = guarded();
    let (mut keeper, ..) = told_in(&world);
    let hour = Duration::from_secs(3600);
    for (who, local) in [("20.0.2.1", true), ("20.0.2.2", false), ("20.0.3.0/24", true)] {
        keeper.add(who.parse().unwrap(), hour, String::new(), Operator { local, ..BY }).unwrap();
    }
    keeper.close();
    let (mut keeper, peers, _) = told_in(&world);
    keeper.tell_all();
    assert_eq!(peers.take(), ["20.0.2.2 by operator"]);
    assert!(held(&keeper).iter().all(|decision| decision.origin == "operator"));
    // Said again without it, it is for all.
    keeper.add("20.0.2.1".parse().unwrap(), hour, String::new(), BY).unwrap();
    assert_eq!(peers.take(), ["20.0.2.1 by operator"]);
}

#[test]
fn what_other_guards_report_counts_beside_what_happened_here() {
    let (mut keeper, peers, meter) = told();
    let unknown = |n: u32| {
        crate::offence::Heard::Conduct(Conduct::UnknownDigest {
            recipient: Digest::of(&format!("no{n}@example.org")),
            returned: false,
        })
    };
    let reports = |source: &str, numbers: std::ops::Range<u32>| -> Vec<_> {
        numbers.map(|n| (source.to_owned(), crate::clock::now(), unknown(n))).collect()
    };
    let client = ClientAddr::new(("20.0.2.1".parse::<IpAddr>().unwrap(), 4000).into());
    for n in 0..4 {
        let conduct = Conduct::UnknownRecipient { recipient: format!("no{n}@example.org").into(), returned: false };
        keeper.on_report(Report { client, at: crate::clock::now(), conduct });
    }
    peers.take();
    // The first of these were asked for here as well.
    assert_eq!(keeper.hear(&Name::new("mx2"), reports("20.0.2.1", 0..7)), []);
    assert_eq!(keeper.hear(&Name::new("mx3"), reports("20.0.2.1", 7..10)), [Weight::Seen]);
    assert_eq!(peers.take(), ["20.0.2.1 by ledger upon mx3"], "the decision is this guard's own");
    let explained = keeper.explain("20.0.2.1".parse().unwrap());
    let evidence = explained.decision.unwrap().evidence.join("\n");
    for words in ["10 distinct unknown recipients of 10", "mx2", "mx3", "unknown: #"] {
        assert!(evidence.contains(words), "{words}: {evidence}");
    }
    assert_eq!(keeper.hear(&Name::new("mx2"), reports("20.0.2.9", 0..10)), []);
    assert_eq!(keeper.hear(&Name::new("mx2"), reports("20.0.2.0/24", 0..1)), []);
    assert_eq!((meter.count("foreign exempt"), meter.count("foreign senseless")), (10, 1));
    // Nobody takes the backend away from here.
    assert_eq!(keeper.hear(&Name::new("mx2"), reports("20.0.100.25", 0..10)), []);
    assert_eq!((meter.count("foreign protected"), held(&keeper).len()), (1, 1));
}

#[test]
fn the_same_trip_elsewhere_doubles_once_and_a_lift_ends_what_is_older() {
    let (mut keeper, _, meter) = told();
    let both = crate::clock::both();
    let ban = |repeat: u32, seconds: u64| Decision {
        source: "20.0.2.1".to_owned(),
        reason: Reason::Harvest.label().to_owned(),
        text: String::new(),
        origin: "ledger".to_owned(),
        origin_name: None,
        made: both.wall,
        until: both.wall_at(both.instant.after(Duration::from_secs(seconds))),
        repeat,
        evidence: Vec::new(),
    };
    let from = |node: &str| Name::new(node);
    assert_eq!(followed(&keeper.hear_of(&from("mx2"), &[ban(0, 3600)])), 1);
    assert_eq!(followed(&keeper.hear_of(&from("mx3"), &[ban(0, 3601)])), 0, "they tripped at once");
    assert_eq!(meter.count("foreign outlasted"), 1);
    assert_eq!(keeper.explain("20.0.2.1".parse().unwrap()).ledger.unwrap().trips, 1);
    assert_eq!(followed(&keeper.hear_of(&from("mx3"), &[ban(1, 7200)])), 1);
    assert_eq!(keeper.explain("20.0.2.1".parse().unwrap()).ledger.unwrap().trips, 2);
    let lift = |ago: u64| vec![("20.0.2.1".to_owned(), Instant::from_ns(both.instant.as_ns() - ago * 1_000_000_000))];
    assert_eq!(keeper.hear_lifts(&from("mx2"), &lift(1)), 0, "an older lift");
    assert_eq!(keeper.hear_lifts(&from("mx2"), &lift(0)), 1);
    assert!(held(&keeper).is_empty());
    assert!(keeper.explain("20.0.2.1".parse().unwrap()).ledger.is_none_or(|ledger| ledger.trips == 0));
    // Many at once are one batch, and told in one line.
    let many: Vec<_> = (1..=50).map(|n| Decision { source: format!("20.0.4.{n}"), ..ban(0, 3600) }).collect();
    let before = meter.count("banned harvest");
    assert_eq!((followed(&keeper.hear_of(&from("mx2"), &many)), meter.count("banned harvest")), (50, before));
}

#[test]
fn what_a_mad_guard_decided_lately_is_lifted_and_nobody_is_told() {
    let (mut keeper, peers, _) = told();
    let both = crate::clock::both();
    let ban = |source: &str, ago: i64| Decision {
        source: source.to_owned(),
        reason: Reason::Harvest.label().to_owned(),
        text: String::new(),
        origin: "operator".to_owned(),
        origin_name: None,
        made: both.wall.later(-ago * 1000),
        until: both.wall_at(both.instant.after(Duration::from_secs(3600))),
        repeat: 0,
        evidence: Default::default(),
    };
    let mad = [ban("20.0.2.1", 0), ban("20.0.2.2", 30), ban("20.0.2.3", 90), ban("20.0.3.0/24", 1)];
    assert_eq!(followed(&keeper.hear_of(&Name::new("mx2"), &mad)), 4);
    assert_eq!(followed(&keeper.hear_of(&Name::new("mx3"), &[ban("20.0.2.4", 0)])), 1);
    keeper.add("20.0.2.5".parse().unwrap(), Duration::from_secs(3600), String::new(), BY).unwrap();
    peers.take();
    let minute_ago = Instant::from_ns(both.instant.as_ns() - 60_000_000_000);
    // Two days later nobody lifts anything for that minute.
    let later = |hours: u64| both.instant.after(Duration::from_secs(hours * 3600));
    assert_eq!(keeper.void(&Name::new("mx2"), later(48), later(49)), [""; 0]);
    let mut void = keeper.void(&Name::new("mx2"), minute_ago, later(1));
    void.sort_unstable();
    assert_eq!(void, ["20.0.2.1", "20.0.2.2", "20.0.3.0/24"]);
    let mut left: Vec<_> = held(&keeper).into_iter().map(|decision| decision.source).collect();
    left.sort_unstable();
    assert_eq!(left, ["20.0.2.3", "20.0.2.4", "20.0.2.5"]);
    assert_eq!(peers.take(), [""; 0]);
}

/// What the kernel map keeps ends there by itself; who was told that all are lifted must not be refused by this plane either.
#[test]
fn all_are_lifted_here_also_where_the_kernel_map_cant_be_written() {
    let (world, kernel) = (World::new(), Arc::new(Fake::default()));
    let table = Arc::new(BanTable::new(Some(kernel.clone()), 100));
    let mut keeper = world.keeper_on(Arc::clone(&table), Arc::new(Counters::new(&world.config)));
    for n in 1..5 {
        let who = format!("198.51.100.{n}").parse().unwrap();
        keeper.add(who, Duration::from_secs(3600), String::new(), BY).unwrap();
    }
    assert_eq!(table.len(), 4);
    kernel.set(State::Broken);
    assert_eq!((keeper.delete_all(BY), table.len()), (4, 0));
}

/// The disk has no room for a while: what was decided meanwhile is saved once it has, as it is then.
#[test]
fn what_found_no_room_in_the_store_is_saved_later() {
    let world = World::new();
    let hour = Duration::from_secs(3600);
    let who = |n: u8| format!("198.51.100.{n}").parse().unwrap();
    let mut keeper = world.keeper(Arc::new(Fake::default()));
    keeper.restore();
    keeper.add(who(1), hour, String::new(), BY).unwrap();
    world.disk.fill(true);
    keeper.delete(who(1), BY).unwrap();
    (2..4).for_each(|n| drop(keeper.add(who(n), hour, String::new(), BY).unwrap()));
    keeper.delete(who(3), BY).unwrap();
    assert!(keeper.hold(User::new("bob").unwrap(), None, String::new(), BY).is_ok());
    assert!(keeper.written().is_none());
    keeper.sweep();
    let found = |disk: &Disk| disk.copy().open().take_found().unwrap().changes;
    assert_eq!(found(&world.disk).len(), 1, "the disk has the first one still");
    world.disk.fill(false);
    keeper.sweep();
    let changes = found(&world.disk);
    let [Change::Save(ban), Change::Save(hold)] = &changes[..] else { panic!("{changes:?}") };
    assert_eq!(ban.key, Key::of(who(2), Ipv6Prefix::default()).unwrap());
    assert_eq!(hold.key, Key::from(User::new("bob").unwrap()));
    assert!(keeper.written().is_some());
}
