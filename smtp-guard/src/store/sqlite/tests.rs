use smtp_guard_ebpf::reason::Reason;

use super::*;
use crate::addr::Source;
use crate::clock::WallTime;
use crate::decision::{Ban, Origin};
use crate::store::tests::{ban, count, key, save};

fn open(directory: &Path) -> Sqlite {
    Sqlite::open(directory, Ipv6Prefix::default()).unwrap()
}

#[test]
fn what_is_told_to_be_written_is_there_whatever_becomes_of_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    store.hand_over((1..=1000).map(ban).map(save).collect(), Duration::ZERO).unwrap();
    store.written().blocking_recv().unwrap();
    let there = rusqlite::Connection::open(directory.path().join("decisions.db")).unwrap();
    let rows: i64 = there.query_row("SELECT count(*) FROM decisions", [], |row| row.get(0)).unwrap();
    assert_eq!((rows, store.in_batches.load(Ordering::Relaxed)), (1000, 0));
}

#[test]
fn an_older_version_does_not_take_a_network_for_a_source() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("decisions.db");
    drop(open(directory.path()));
    let old = rusqlite::Connection::open(&path).unwrap();
    assert_eq!(old.pragma_query_value::<i64, _>(None, "user_version", |row| row.get(0)).unwrap(), 4);
    // Of the second version: its sources of IPv6 are what they were, whatever their length.
    old.execute_batch("PRAGMA user_version = 2").unwrap();
    for source in ["192.0.2.1", "2001:db8::/64", "2001:db8:1::/48", "2001:db8:2::/60"] {
        let insert = "INSERT INTO decisions VALUES (?1, 'harvest', 'ledger', 0, 1, 0, '', '[]')";
        old.execute(insert, [source]).unwrap();
    }
    drop(old);
    let mut keys: Vec<_> = bans(&found(directory.path())).map(|ban| ban.key.clone()).collect();
    keys.sort_unstable();
    let expected = ["192.0.2.1", "2001:db8::/64", "2001:db8:1::/48", "2001:db8:2::/60"].map(key);
    assert_eq!(keys, {
        let mut all = expected.to_vec();
        all.sort_unstable();
        all
    });
}

#[test]
fn users_and_holds_of_the_third_version_are_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()));
    sql(
        &directory.path().join("decisions.db"),
        r#"PRAGMA user_version = 3;
        INSERT INTO counters VALUES ('user', 'bob', 7, 'x'), ('ledger', '192.0.2.1', 6, 'y'),
            ('hold', 'bob', 5, '{"since":1,"until":9223372036854775807,"text":"stolen: \"x\""}'),
            ('hold', 'ann', 4, 'nonsense'), ('hold', 'joe', 3, '{"since":1}')"#,
    );
    let hold = Ban {
        key: key("user:bob"),
        reason: Reason::UserHeld,
        origin: Origin::Operator,
        made: WallTime::from_ms(1),
        until: WallTime::from_ms(i64::MAX),
        repeat: 0,
        text: "stolen: \"x\"".into(),
        evidence: Default::default(),
    };
    let counts = [("user", "user:bob", "x", 7), ("ledger", "192.0.2.1", "y", 6)].map(|(kind, of, state, at)| {
        Change::Count { kind: kind.into(), key: key(of), state: Some(state.to_owned()), at: WallTime::from_ms(at) }
    });
    for _ in 0..2 {
        assert_eq!(found(directory.path()).changes, [vec![save(hold.clone())], counts.to_vec()].concat());
    }
}

#[test]
fn a_store_of_the_first_version_is_taken_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("decisions.db");
    drop(open(directory.path()));
    let old = rusqlite::Connection::open(&path).unwrap();
    old.execute_batch("DROP TABLE counters; PRAGMA user_version = 1;").unwrap();
    drop(old);
    let store = open(directory.path());
    hand_over(&store, count("ledger", 1, Some("x"), 1));
    drop(store);
    assert_eq!(found(directory.path()).changes, [count("ledger", 1, Some("x"), 1)]);
}

#[test]
fn a_second_guard_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(directory.path());
    let error = Sqlite::open(directory.path(), Ipv6Prefix::default()).unwrap_err();
    assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
}

/// A store of 2,000 bans that `damage` befell: how many of them are found, and whether it was set aside.
fn check_damaged(damage: impl FnOnce(&Path), bans: usize, aside: bool) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    (1..=2000).for_each(|n| hand_over(&store, save(ban(n))));
    drop(store);
    damage(&directory.path().join("decisions.db"));
    let store = open(directory.path());
    let kept = store.take_found().unwrap();
    assert_eq!((kept.changes.len(), kept.begun), (bans, aside));
    hand_over(&store, save(ban(5000)));
    hand_over(&store, count("ledger", 1, Some("x"), 1));
    drop(store);
    let again = found(directory.path());
    assert_eq!((self::bans(&again).count(), again.changes.len()), (bans + 1, bans + 2), "it is written again");
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.iter().any(|name| name.to_string_lossy().contains("broken")), aside, "{names:?}");
}

/// Zeros in the place of a page.
fn zero(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset..offset + 4096].fill(0);
    fs::write(path, bytes).unwrap();
}

fn sql(path: &Path, text: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(text).unwrap();
}

#[test]
fn d4_a_damaged_database_is_set_aside_and_one_bad_row_is_one_bad_row() {
    check_damaged(|path| fs::write(path, "not a database, by far not one at all".repeat(100)).unwrap(), 0, true);
    check_damaged(|path| zero(path, 4096), 0, true);
    check_damaged(|path| zero(path, 8192), 0, true);
    check_damaged(|path| sql(path, "DROP TABLE counters"), 2000, false);
    check_damaged(|path| sql(path, "DROP TABLE decisions"), 0, false);
    check_damaged(|path| sql(path, "ALTER TABLE decisions RENAME COLUMN repeat TO times"), 0, true);
    check_damaged(|path| sql(path, "UPDATE decisions SET repeat = -1 WHERE source = '0.0.0.7'"), 1999, false);
    check_damaged(|path| sql(path, "UPDATE decisions SET repeat = 1 << 40 WHERE source = '0.0.0.7'"), 1999, false);
    check_damaged(
        |path| sql(path, "UPDATE decisions SET reason = 'x', evidence = '{' WHERE source = '0.0.0.7'"),
        1999,
        false,
    );
    check_damaged(|path| sql(path, "UPDATE decisions SET source = 'nobody' WHERE source = '0.0.0.7'"), 1999, false);
}

#[test]
fn d3_mail_goes_on_without_a_store_and_what_it_held_comes_late() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("decisions.db");
    let store = open(directory.path());
    hand_over(&store, save(ban(5)));
    drop(store);
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    let store = open(directory.path());
    assert!(store.state().trouble().unwrap().contains("newer version"));
    assert!(store.take_found().is_none());
    hand_over(&store, save(ban(6)));
    newer.pragma_update(None, "user_version", database::SCHEMA).unwrap();
    let found = wait_for(|| store.take_found());
    assert_eq!(found.changes, [save(ban(5))]);
    wait_for(|| store.state().trouble().is_none().then_some(()));
    drop((store, newer));
    assert_eq!(self::found(directory.path()).changes.len(), 2);
}

#[test]
fn d9_the_end_is_seen_although_a_full_backlog_can_not_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let (orders, queue) = sync_channel(QUEUE);
    let closing = Arc::new(AtomicBool::new(false));
    let state = State::default();
    // A directory that can't be made.
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let disk = Disk { directory: file.join("x"), prefix: Ipv6Prefix::default(), lock: None, database: None, state };
    let mut writer = Writer::new(queue, Arc::clone(&closing), disk);
    writer.pending = (0..QUEUE).map(|_| Order::One(Change::Remove(Source::v4(1).into()))).collect();
    assert!(writer.gather());
    closing.store(true, Ordering::Relaxed);
    drop(orders);
    assert!(!writer.gather());
    writer.run();
}

fn hand_over(store: &Sqlite, change: Change) {
    store.hand_over(vec![change], Duration::ZERO).unwrap();
}

fn bans(found: &Found) -> impl Iterator<Item = &Ban> {
    found.changes.iter().filter_map(|change| if let Change::Save(ban) = change { Some(&**ban) } else { None })
}

/// What the store in `directory` holds.
fn found(directory: &Path) -> Found {
    open(directory).take_found().unwrap()
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let ends = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < ends, "in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn twenty_thousand_bans_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for n in 1..=20_000 {
        while store.hand_over(vec![save(ban(n))], Duration::ZERO).is_err() {
            std::thread::yield_now();
        }
    }
    drop(store);
    assert_eq!(found(directory.path()).changes.len(), 20_000);
}
