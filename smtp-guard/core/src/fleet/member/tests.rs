use super::*;
use crate::clock::WallTime;
use crate::fleet::message::KEY;
use smtp_guard_ebpf::reason::Reason;

/// The server's time when a machine has run for no time at all.
const SERVER: i64 = 1_000_000_000;

fn at(ms: u64) -> Instant {
    Instant::from_ns(ms * 1_000_000)
}

/// This machine's clocks after `ms`. Its wall clock is two minutes ahead.
fn both(ms: u64) -> Both {
    Both { instant: at(ms), wall: WallTime::from_ms(SERVER + ms as i64 + 120_000) }
}

fn identity(node: &str, key: u8) -> Identity {
    let seal = Seal::new("edge", &[key; KEY]).unwrap();
    Identity {
        fleet: "edge".to_owned(),
        node: node.to_owned(),
        seal,
        run: 1,
        sends: true,
        receives: true,
        sample: true,
    }
}

fn member(node: &str) -> Member {
    let mut member = Member::new(identity(node, b'k'));
    member.note_time(at(0), SERVER, at(0));
    member
}

fn ban(source: &str, origin: &str, made: u64, until: u64) -> Decision {
    Decision {
        source: source.to_owned(),
        reason: Reason::Harvest.label().to_owned(),
        text: "text".to_owned(),
        origin: origin.to_owned(),
        origin_name: None,
        made: both(made).wall,
        until: both(until).wall,
        repeat: 0,
        evidence: vec!["10 of 10".to_owned(), "unknown: a@example.org".to_owned()],
    }
}

fn failed() -> Conduct {
    Conduct::Offence(Reason::AuthFailures)
}

/// What `member` makes of a record at `ms`.
fn hears(member: &mut Member, sealed: &[u8], is_live: bool, ms: u64) -> Result<Option<Decided>, Fault> {
    let opened = member.identity().seal.open(sealed);
    member.hear_record(opened, sealed, is_live, &both(ms))
}

/// So many bans of `node` are followed by `member` at `ms`, which weigh so; how many times are void by that.
fn follows(member: &mut Member, node: &str, bans: usize, weight: Weight, is_live: bool, ms: u64) -> usize {
    member.note_followed(node, vec![(both(ms).wall, weight); bans], is_live, &both(ms)).len()
}

/// What `one` has decided, as `other` follows it at `ms`.
fn told(one: &mut Member, other: &mut Member, ms: u64) -> Vec<Decided> {
    let changes = one.next_changes(1000, at(ms));
    changes.iter().filter_map(|change| hears(other, &change.sealed, true, ms).unwrap()).collect()
}

#[test]
fn evidence_crosses_once_and_in_the_time_of_who_hears_it() {
    let (mut one, mut other) = (member("mx1"), member("mx2"));
    // The other machine was booted 5 s later.
    other.reconnected();
    (0..8).for_each(|_| other.note_time(at(0), SERVER + 5_000, at(0)));
    assert!(one.report("192.0.2.1", at(6_000), &failed()));
    let sealed = one.next_batch(at(6_001)).unwrap();
    assert_eq!(one.next_batch(at(6_002)).as_ref(), Some(&sealed), "until it has arrived");
    assert_eq!(one.kept(), 1);
    one.batch_arrived();
    assert_eq!((one.next_batch(at(6_003)), one.kept(), one.counts().0), (None, 0, 1));
    let heard = other.hear_evidence(&sealed, at(1_003)).unwrap().unwrap();
    let reports = vec![("192.0.2.1".to_owned(), at(1_000), Heard::Conduct(failed()))];
    assert_eq!(heard, Evidence { node: Name::new("mx1"), reports, counts: Vec::new() });
    assert_eq!(other.hear_evidence(&sealed, at(1_004)), Err(Fault::Repeated));
    assert_eq!(one.hear_evidence(&sealed, at(6_004)), Ok(None), "its own");
    assert_eq!(other.counts().1, 1);
}

/// What a batch is that was sent at `sent` and is heard at `now`, by a member with this key.
#[track_caller]
fn check_batch(key: u8, sent: u64, now: u64, expected: Result<(), Fault>) {
    let (mut one, mut other) = (member("mx1"), Member::new(identity("mx2", key)));
    other.note_time(at(0), SERVER, at(0));
    one.report("192.0.2.1", at(sent), &failed());
    let sealed = one.next_batch(at(sent)).unwrap();
    assert_eq!(other.hear_evidence(&sealed, at(now)).map(|_| ()), expected);
    let count = |expected: Fault| other.faults().by_label().find(|(label, _)| *label == expected.label()).unwrap().1;
    assert!(expected.is_ok_and(|()| true) || expected.is_err_and(|fault| count(fault) == 1), "it is counted");
}

#[test]
fn what_is_old_from_the_future_or_of_another_key_is_ignored() {
    check_batch(b'k', 1_000, 1_000, Ok(()));
    check_batch(b'k', 1_000, 600_000, Ok(()));
    check_batch(b'k', 6_000, 1_000, Ok(()));
    check_batch(b'k', 6_001, 1_000, Err(Fault::Future));
    check_batch(b'k', 1_000, 661_001, Err(Fault::Repeated));
    check_batch(b'l', 1_000, 1_000, Err(Fault::Code));
}

#[test]
fn numbers_count_once_in_each_run() {
    let mut peer = Peer::default();
    let steps = [(1, 1, true), (1, 1, false), (1, 3, true), (1, 2, false), (2, 1, true), (1, 4, true), (2, 1, false)];
    for (run, number, expected) in steps {
        assert_eq!(peer.is_next(run, number), expected, "{number} of {run}");
    }
    (3..100).for_each(|run| assert!(peer.is_next(run, 1)));
    assert_eq!(peer.runs.len(), RUNS);
}

#[test]
fn nothing_is_said_before_the_servers_time_is_known() {
    let mut one = Member::new(identity("mx1", b'k'));
    one.report("192.0.2.1", at(0), &failed());
    one.decided(ban("192.0.2.1", "ledger", 0, 60_000), None, both(0));
    assert_eq!((one.next_batch(at(1)), one.next_changes(9, at(1)).len(), one.kept()), (None, 0, 2));
    one.note_time(at(1), SERVER + 1, at(1));
    assert!(one.next_batch(at(1)).is_some());
    assert_eq!(one.next_changes(9, at(1)).len(), 1);
}

#[test]
fn a_ban_and_its_lift_cross_in_the_time_of_who_hears_them() {
    let (mut one, mut other) = (member("mx1"), member("mx2"));
    one.decided(ban("192.0.2.1", "ledger", 1_000, 61_000), None, both(1_000));
    let expected = Decided::Ban(Name::new("mx1"), ban("192.0.2.1", "ledger", 1_000, 61_000));
    assert_eq!(told(&mut one, &mut other, 1_001), [expected]);
    other.lifted("192.0.2.1", at(2_000), at(61_000));
    let lift = Decided::Lift(Name::new("mx2"), "192.0.2.1".to_owned(), at(2_000));
    assert_eq!(told(&mut other, &mut one, 2_001), [lift]);
    // Somebody else tripped before that, and was away.
    let mut third = member("mx3");
    third.decided(ban("192.0.2.1", "ledger", 1_500, 999_000), None, both(1_500));
    assert_eq!(told(&mut third, &mut one, 3_000), []);
    // Nor is he counted who did something before.
    third.report("192.0.2.1", at(1_900), &failed());
    third.report("192.0.2.1", at(2_100), &failed());
    let sealed = third.next_batch(at(3_000)).unwrap();
    assert_eq!(one.hear_evidence(&sealed, at(3_000)).unwrap().unwrap().reports.len(), 1);
}

#[test]
fn an_operator_whose_clock_is_behind_has_the_last_word() {
    let (mut one, mut other) = (member("mx1"), member("mx2"));
    one.decided(ban("192.0.2.1", "ledger", 4_000, 61_000), None, both(4_000));
    told(&mut one, &mut other, 4_000);
    other.lifted("192.0.2.1", at(3_000), at(61_000));
    assert_eq!(told(&mut other, &mut one, 4_001).len(), 1);
    other.decided(ban("192.0.2.1", "operator", 3_000, 61_000), None, both(3_000));
    assert_eq!(told(&mut other, &mut one, 4_002).len(), 1);
}

#[test]
fn what_is_lifted_is_told_again_to_a_server_that_forgot() {
    let (mut one, mut other) = (member("mx1"), member("mx2"));
    one.lifted("192.0.2.1", at(1_000), at(2_000));
    assert_eq!(told(&mut one, &mut other, 1_000).len(), 1);
    other.server_forgot(at(5_000));
    let again = other.next_changes(9, at(5_000));
    assert_eq!((again.len(), again[0].until), (1, SERVER + 1_000 + TOMBSTONE));
    other.not_written(again.clone());
    assert_eq!(other.next_changes(9, at(5_000)), again);
}

/// Its offset is measured anew each time, so that what is told again isn't quite as old as before.
#[test]
fn what_was_decided_is_told_again_to_a_server_that_forgot() {
    let (mut one, mut other) = (member("mx1"), member("mx2"));
    let decide = |one: &mut Member| one.decided(ban("192.0.2.1", "ledger", 1_000, 61_000), None, both(1_000));
    decide(&mut one);
    assert_eq!(told(&mut one, &mut other, 1_000).len(), 1);
    decide(&mut one);
    assert_eq!(one.next_changes(9, at(1_001)).len(), 0, "it is there");
    one.server_forgot(at(2_000));
    other.server_forgot(at(2_000));
    decide(&mut one);
    assert_eq!(told(&mut one, &mut other, 2_000).len(), 1);
}

#[test]
fn an_edge_that_decides_too_much_is_muted_whatever_it_says() {
    let (mut one, mut other) = (member("mx1"), member("mx2"));
    for n in 0..700 {
        one.decided(ban(&format!("192.0.{}.{}", n / 256, n % 256), "ledger", 1_000, 900_000), None, both(1_000));
    }
    let changes = one.next_changes(1000, at(1_000));
    for (n, change) in changes.iter().enumerate().take(601) {
        assert!(matches!(hears(&mut other, &change.sealed, true, 1_000), Ok(Some(Decided::Ban(..)))), "{n}");
        assert_eq!(follows(&mut other, "mx1", 1, Weight::Unseen, true, 1_000), usize::from(n == 600));
    }
    assert_eq!(hears(&mut other, &changes[601].sealed, true, 1_000), Err(Fault::Muted));
    assert_eq!(other.muted(at(1_000)), ["mx1"]);
    one.report("192.0.2.1", at(1_000), &failed());
    let sealed = one.next_batch(at(1_000)).unwrap();
    assert_eq!(other.hear_evidence(&sealed, at(1_000)), Err(Fault::Muted));
    // What of it is in force is lifted, and forgotten: the next word of somebody else counts.
    let known = other.decisions();
    other.forget([changes[0].source.as_str(), "192.0.2.254"]);
    assert_eq!((known, other.decisions()), (601, 600));
    // What it reports makes others decide.
    let mut third = member("mx3");
    let mut caused = |bans| third.note_caused("mx1", &vec![Weight::Friend; bans], &both(1_000));
    assert_eq!(caused(60), []);
    assert_eq!(caused(1), [(at(0), at(601_000))], "now it is");
    assert_eq!(caused(1), [], "it was");
    // Nor is it followed when it is read of the server, once the edge is listened to again.
    let later = 700_000;
    assert!(other.muted(at(later)).is_empty());
    assert_eq!(hears(&mut other, &changes[699].sealed, false, later), Err(Fault::Muted));
    // An edge that starts follows it, but for what another one says of it.
    let mut new = member("mx4");
    assert!(matches!(hears(&mut new, &changes[0].sealed, false, later), Ok(Some(_))));
    new.hear_status(&other.status("1.2.3", "5-0", &both(later)).unwrap(), at(later)).unwrap();
    assert_eq!(hears(&mut new, &changes[1].sealed, false, later), Err(Fault::Muted));
    assert!(
        matches!(hears(&mut new, &changes[1].sealed, true, later), Ok(Some(_))),
        "it judges for itself what is new"
    );
}

/// Whether an edge that starts follows a ban of `node`, made upon reports of `upon`, where these edges say that `mx1` is void.
#[track_caller]
fn check_said(node: &str, upon: Option<&str>, sayers: &[&str], expected: bool) {
    let mut one = member(node);
    one.decided(ban("192.0.2.1", "ledger", 1_000, 900_000), upon.map(Name::new).as_ref(), both(1_000));
    let change = one.next_changes(9, at(1_000)).remove(0);
    let mut new = member("mx4");
    for sayer in sayers {
        let mut sayer = member(sayer);
        follows(&mut sayer, "mx1", 601, Weight::Unseen, true, 1_000);
        new.hear_status(&sayer.status("1.2.3", "5-0", &both(1_000)).unwrap(), at(1_000)).unwrap();
    }
    let heard = hears(&mut new, &change.sealed, false, 2_000);
    assert_eq!(heard.is_ok(), expected, "{node} {upon:?} {sayers:?}: {heard:?}");
}

#[test]
fn an_edge_that_starts_believes_others_about_what_is_void() {
    check_said("mx1", None, &[], true);
    check_said("mx1", None, &["mx2"], false);
    check_said("mx1", None, &["mx2", "mx3"], false);
    check_said("mx1", None, &["mx1"], true);
    check_said("mx2", None, &["mx3"], true);
    check_said("mx2", Some("mx1"), &["mx3"], false);
    check_said("mx2", Some("mx3"), &["mx3"], true);
    // What it has decided itself before it was started again, upon reports of one that was mad.
    check_said("mx4", Some("mx1"), &["mx2"], false);
    check_said("mx4", None, &["mx2"], true);
}

#[test]
fn addresses_stay_at_home_where_samples_are_off() {
    let mut one = Member::new(Identity { sample: false, ..identity("mx1", b'k') });
    one.note_time(at(0), SERVER, at(0));
    one.decided(ban("192.0.2.1", "ledger", 1_000, 61_000), None, both(1_000));
    let told = told(&mut one, &mut member("mx2"), 1_001);
    let [Decided::Ban(_, ban)] = &*told else { panic!("{told:?}") };
    assert_eq!(ban.evidence, ["10 of 10"]);
}

#[test]
fn who_only_receives_says_nothing() {
    let mut one = Member::new(Identity { sends: false, ..identity("mx1", b'k') });
    one.note_time(at(0), SERVER, at(0));
    assert!(
        one.report("a", at(0), &failed())
            && one.lifted("a", at(0), at(1))
            && one.decided(ban("a", "ledger", 0, 9), None, both(0))
    );
    assert_eq!(one.kept(), 0);
}

#[test]
fn edges_are_known_by_what_they_say_of_themselves() {
    let (one, mut other) = (member("mx1"), member("mx2"));
    let status = one.status("1.2.3", "5-0", &both(1_000)).unwrap();
    assert_eq!(other.hear_status(&status, at(1_000)), Ok(true));
    assert_eq!(other.hear_status(b"sgf", at(1_000)), Err(Fault::Form));
    let expected = NodeView {
        name: "mx1".to_owned(),
        program_version: "1.2.3".to_owned(),
        silent_seconds: status::length(500),
        live: true,
        clock_offset_seconds: status::Offset(120_000),
        cursor: "5-0".to_owned(),
        muted: None,
        ignores: Vec::new(),
        kept: 0,
        lost: 0,
    };
    assert_eq!(other.nodes(&both(1_500)), [expected]);
    assert!(!other.nodes(&both(6_001))[0].live);
    assert_eq!(follows(&mut other, "mx1", 601, Weight::Unseen, true, 2_000), 1);
    let muted = other.nodes(&both(2_000))[0].muted.clone().unwrap();
    assert_eq!(muted.text, "it made 601 decisions in a minute; 600 are the most");
    assert_eq!(muted.until, both(602_000).wall);
    other.sweep(at(90_000_000));
    assert!(other.nodes(&both(90_000_000)).is_empty());
    let future = one.status("1.2.3", "5-0", &both(20_000)).unwrap();
    assert_eq!(other.hear_status(&future, at(1_000)), Err(Fault::Future));
}

/// An edge that looks at the server at 1 s hears a status of `node` in this run from this second.
#[track_caller]
fn check_name(node: &str, run: u64, second: u64, expected: Result<bool, Fault>) {
    let mut sender = Member::new(Identity { run, ..identity(node, b'k') });
    sender.note_time(at(0), SERVER, at(0));
    let mut hearer = member("mx1");
    let first = member("mx2").status("1", "", &both(1_000)).unwrap();
    assert_eq!(hearer.hear_status(&first, at(1_000)), Ok(true));
    let status = sender.status("1", "", &both(second * 1_000)).unwrap();
    assert_eq!(hearer.hear_status(&status, at(8_000)), expected, "{node} {run} {second}");
}

#[test]
fn another_edge_of_the_same_name_is_told_from_an_earlier_run() {
    check_name("mx1", 1, 7, Ok(true));
    check_name("mx2", 2, 7, Ok(true));
    check_name("mx1", 2, 0, Ok(true));
    check_name("mx1", 2, 6, Ok(true));
    check_name("mx1", 2, 7, Err(Fault::Name));
}

#[test]
fn edges_that_left_make_room_and_no_more_than_that_are_heard() {
    let mut other = member("mx2");
    let said = |n: usize, ms: u64| member(&format!("host{n}")).status("1.2.3", "5-0", &both(ms)).unwrap();
    for n in 0..NODES {
        assert_eq!(other.hear_status(&said(n, 1_000), at(1_000)), Ok(true));
    }
    let mut new = member("new");
    new.report("192.0.2.1", at(1_000), &failed());
    new.decided(ban("192.0.2.1", "ledger", 1_000, 61_000), None, both(1_000));
    let (evidence, ban) = (new.next_batch(at(1_000)).unwrap(), new.next_changes(9, at(1_000)).remove(0).sealed);
    assert_eq!(other.hear_evidence(&evidence, at(1_000)), Err(Fault::Content));
    assert_eq!(hears(&mut other, &ban, true, 1_000), Err(Fault::Content));
    assert!(matches!(hears(&mut other, &ban, false, 1_000), Ok(Some(_))), "the server holds it");
    // The server still holds what those said who have left.
    let tomorrow = 90_000_000;
    other.sweep(at(tomorrow));
    for n in 0..NODES {
        assert_eq!(other.hear_status(&said(n, 1_000), at(tomorrow)), Ok(false));
    }
    assert_eq!(other.hear_status(&said(NODES, tomorrow), at(tomorrow)), Ok(true));
}

/// Whether a member `mx1` waits for `mx2`, which follows changes or not, is deaf to `mx1` or not, and has this cursor.
#[track_caller]
fn check_unconfirmed(receives: bool, is_deaf: bool, cursor: &str, now: u64, expected: &[&str]) {
    let (mut one, mut other) = (member("mx1"), Member::new(Identity { receives, ..identity("mx2", b'k') }));
    other.note_time(at(0), SERVER, at(0));
    follows(&mut other, "mx1", if is_deaf { 601 } else { 1 }, Weight::Unseen, true, 0);
    one.hear_status(&other.status("1.2.3", cursor, &both(0)).unwrap(), at(0)).unwrap();
    one.hear_status(&one.status("1.2.3", "0-0", &both(0)).unwrap(), at(0)).unwrap();
    assert_eq!(one.unconfirmed(at(now), |cursor| cursor >= "5-0"), expected, "{receives} {is_deaf} {cursor}");
}

#[test]
fn edges_that_dont_follow_a_lift_are_named() {
    check_unconfirmed(true, false, "5-0", 1, &[]);
    check_unconfirmed(true, false, "4-0", 1, &["mx2"]);
    check_unconfirmed(true, false, "4-0", 5_000, &[]);
    check_unconfirmed(true, true, "5-0", 1, &["mx2"]);
    check_unconfirmed(false, false, "0-0", 1, &[]);
}

/// What an edge of the first version knows of a ban and of a status.
#[derive(serde::Serialize, serde::Deserialize)]
struct OldRecord {
    node: String,
    at: i64,
    word: crate::fleet::message::Word,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct OldStatus {
    node: String,
    run: u64,
    version: String,
    at: i64,
    offset: i64,
    cursor: String,
    muted: Vec<String>,
    kept: u64,
    lost: u64,
}

/// The body of a message, as text.
fn body(sealed: &[u8]) -> String {
    String::from_utf8(sealed[9..sealed.len() - 32].to_vec()).unwrap()
}

#[test]
fn an_older_edge_skips_what_it_doesnt_know_and_is_understood() {
    let mut one = member("mx1");
    follows(&mut one, "mx3", 601, Weight::Unseen, true, 1_000);
    one.decided(ban("192.0.2.1", "ledger", 1_000, 61_000), Some(&Name::new("mx3")), both(1_000));
    let change = one.next_changes(9, at(1_000)).remove(0);
    let (record, status) = (body(&change.sealed), body(&one.status("1.2.3", "5-0", &both(1_000)).unwrap()));
    assert!(record.contains("upon") && status.contains("void"));
    let old: OldRecord = serde_json::from_str(&record).unwrap();
    let of_old: crate::fleet::message::Record = serde_json::from_str(&serde_json::to_string(&old).unwrap()).unwrap();
    assert_eq!((of_old.source(), of_old.upon.as_deref()), ("192.0.2.1", None));
    let old: OldStatus = serde_json::from_str(&status).unwrap();
    let of_old: crate::fleet::message::Status = serde_json::from_str(&serde_json::to_string(&old).unwrap()).unwrap();
    assert_eq!((of_old.node.as_str(), of_old.void.len()), ("mx1", 0));
}

/// An edge of the first version knows nothing of counts.
#[derive(serde::Serialize, serde::Deserialize)]
struct OldBatch {
    node: String,
    run: u64,
    number: u64,
    sent: i64,
    reports: Vec<crate::fleet::message::Said>,
}

#[test]
fn counts_cross_once_and_an_older_edge_skips_them() {
    let (mut one, mut other) = (member("mx1"), member("mx2"));
    let sum = Sum { messages: 6, recipients: -1 };
    let counted = [Counted::Source("192.0.2.1".to_owned()), Counted::User(u64::MAX)];
    for who in &counted {
        assert!(one.count(who.clone(), at(1_000), sum));
    }
    assert_eq!(one.kept(), 2);
    let sealed = one.next_batch(at(1_001)).unwrap();
    one.batch_arrived();
    assert_eq!((one.kept(), one.next_batch(at(1_002))), (0, None));
    let heard = other.hear_evidence(&sealed, at(1_003)).unwrap().unwrap();
    assert_eq!(heard.counts, counted.map(|who| (who, at(1_000), sum)));
    assert_eq!(other.hear_evidence(&sealed, at(1_004)), Err(Fault::Repeated));
    let old: OldBatch = serde_json::from_str(&body(&sealed)).unwrap();
    assert_eq!(old.reports, []);
    let of_old: Batch = serde_json::from_str(&serde_json::to_string(&old).unwrap()).unwrap();
    assert_eq!(of_old.counts, []);
    // No more than there is room for waits, and not for longer than reports.
    (0..REPORTS).for_each(|n| assert!(one.count(Counted::User(n as u64), at(2_000), sum)));
    assert!(!one.count(Counted::User(0), at(2_000), sum));
    assert_eq!(one.next_batch(at(700_000)), None);
    assert_eq!(one.kept(), 0);
}

#[test]
fn what_is_remembered_of_friends_crosses_and_not_of_who_is_muted() {
    let (one, mut other) = (member("mx1"), member("mx2"));
    let friend = Friend { source: Source::v4(7), aged: 3, accepted: 9, latest: at(120_000) };
    let sealed = one.history(&[friend], at(150_000)).unwrap();
    let opened = |sealed: &[u8]| identity("mx2", b'k').seal.open(sealed);
    let (node, heard) = other.hear_history(opened(&sealed), at(180_000)).unwrap();
    let [heard] = &*heard else { panic!("{heard:?}") };
    // It is told by the minute.
    assert!(heard.latest <= friend.latest && friend.latest.since(heard.latest).as_secs() < 60);
    assert_eq!((node, Friend { latest: friend.latest, ..*heard }), (Name::new("mx1"), friend));
    assert_eq!(other.hear_history(opened(&sealed), at(90_000_000)), Err(Fault::Repeated), "a day later");
    assert_eq!(other.hear_history(opened(&one.history(&[], at(300_000)).unwrap()), at(1_000)), Err(Fault::Future));
    assert_eq!(other.hear_history(opened(b"sgf"), at(1_000)), Err(Fault::Form));
    follows(&mut other, "mx1", 601, Weight::Unseen, true, 180_000);
    assert_eq!(other.hear_history(opened(&sealed), at(180_000)), Err(Fault::Muted));
}
