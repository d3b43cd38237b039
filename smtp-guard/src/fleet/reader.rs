//! Reads the messages of others: first those that the server holds, then new ones.
//!
//! The cursor is the client's. The last id of the changes is noted before the server's contents are read. Reading goes on from
//! that id, so there is no gap. Where the server has trimmed past the cursor, or its last id is smaller than the cursor,
//! everything is read anew. A reader that is slow falls behind and ends there as well: nobody waits for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};
use redis::{ErrorKind, RedisError, cmd, pipe};
use smtp_guard_core::fleet::member::Decided;
use smtp_guard_core::fleet::{NODES, PART, PARTS};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::id::Id;
use super::keys::Keys;
use super::link::{self, COMMAND};
use super::{Event, PAUSE, Shared, longer};
use crate::clock::WallTime;
use crate::decision::{Name, Weight};

/// Entries that are read at once.
const ENTRIES: usize = 512;
/// How long a read waits for something new.
const BLOCK: Duration = Duration::from_secs(1);
/// Sources of what the server holds that are read at once.
const PAGE: usize = 1_000;
/// Sources that are taken of what edges remember.
const REMEMBERED: u64 = (PART * PARTS) as u64;
/// How often what the server holds is compared with what is known: wholly, and where their numbers differ.
const COMPARE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(20));
/// How often numbers are compared.
const COUNT: Duration = Duration::from_secs(10);

/// Where reading goes on.
#[derive(Debug, Default)]
struct Cursors {
    evidence: Id,
    changes: Id,
    /// All that the server held was read.
    complete: bool,
    /// The epoch that this is so in.
    epoch: u64,
    /// Parts of what edges remember that are still to be read; `None`: it isn't known which there are.
    history: Option<Vec<String>>,
}

/// Hears others, again and again on another connection.
pub(super) async fn run(shared: &Shared) {
    if !shared.member().identity().receives {
        return std::future::pending().await;
    }
    let keys = Keys::new(&shared.settings.config.name);
    let (mut pause, mut cursors) = (PAUSE.0, Cursors::default());
    loop {
        // Times can't be told before.
        let connected = shared.state().connected;
        if !connected || shared.member().server(crate::clock::now()).is_none() {
            sleep(PAUSE.0 / 4).await;
            continue;
        }
        let started = Instant::now();
        // The writer says what is wrong.
        if let Ok(link) = link::open(&shared.settings, BLOCK + COMMAND).await {
            let mut connection = link.connection;
            if let Err(error) = follow(shared, &keys, &mut connection, &mut cursors).await {
                tracing::debug!(%error, "reading from the fleet's server broke off");
            }
        }
        pause = if started.elapsed() > PAUSE.1 { PAUSE.0 } else { longer(pause) };
        sleep(pause).await;
    }
}

/// Reads until the connection fails.
async fn follow(
    shared: &Shared,
    keys: &Keys,
    connection: &mut MultiplexedConnection,
    cursors: &mut Cursors,
) -> Result<(), RedisError> {
    let mut compared = Compared { wholly: Instant::now(), counted: Instant::now() };
    if cursors.complete && !look_for_cursor(shared, keys, connection, cursors).await? {
        // Perhaps it is another server, which doesn't know what the one before was told last.
        tell_again(shared).await;
    }
    loop {
        if cursors.epoch != shared.epoch.load(Ordering::Relaxed) {
            cursors.complete = false;
        }
        if !cursors.complete {
            snapshot(shared, keys, connection, cursors).await?;
        }
        let mut read = cmd("XREAD");
        // What edges remember is read beside what is new.
        let block = if remember(shared, keys, connection, cursors).await? { Duration::from_millis(1) } else { BLOCK };
        read.arg("COUNT").arg(ENTRIES).arg("BLOCK").arg(block.as_millis() as u64);
        read.arg("STREAMS").arg(&keys.changes).arg(&keys.evidence);
        read.arg(cursors.changes.to_string()).arg(cursors.evidence.to_string());
        let found: Option<StreamReadReply> = read.query_async(connection).await?;
        let (mut changes, mut evidence) = (Vec::new(), Vec::new());
        for stream in found.into_iter().flat_map(|reply| reply.keys) {
            let of = if stream.key == keys.changes { &mut changes } else { &mut evidence };
            *of = entries(stream.ids)?;
        }
        let is_behind = changes.len() == ENTRIES;
        // An edge tells its evidence before what it decides: a ban is weighed by that.
        hear_evidence(shared, evidence, cursors).await;
        hear_changes(shared, changes, cursors).await;
        if is_behind {
            look_for_cursor(shared, keys, connection, cursors).await?;
        } else {
            compare(shared, keys, connection, &mut compared).await?;
        }
    }
}

/// The entries that were read, with their messages. One that holds none is an empty message: it is counted as such, and reading goes
/// on behind it.
fn entries(ids: Vec<StreamId>) -> Result<Vec<(Id, Vec<u8>)>, RedisError> {
    let entry = |StreamId { id, mut map, .. }: StreamId| {
        let id =
            id.parse().map_err(|()| RedisError::from((ErrorKind::UnexpectedReturnType, "an entry without an id")))?;
        let message = map.remove("m").and_then(|message| redis::from_redis_value(message).ok());
        Ok((id, message.unwrap_or_default()))
    };
    ids.into_iter().map(entry).collect()
}

async fn hear_changes(shared: &Shared, entries: Vec<(Id, Vec<u8>)>, cursors: &mut Cursors) {
    let Some((last, _)) = entries.last() else { return };
    cursors.changes = *last;
    let decided = judge(shared, entries.iter().map(|(_, sealed)| &**sealed), true);
    let lifts = decided.iter().any(|decided| matches!(decided, Decided::Lift(..)));
    follow_all(shared, decided, true).await;
    shared.state().cursor = cursors.changes;
    if lifts {
        // Somebody may wait for it.
        shared.beat();
    }
}

/// What follows from these messages. They are opened before anybody is kept waiting.
fn judge<'a>(shared: &Shared, messages: impl Iterator<Item = &'a [u8]>, is_live: bool) -> Vec<Decided> {
    let seal = &shared.settings.seal;
    let opened: Vec<_> = messages.map(|sealed| (seal.open(sealed), sealed)).collect();
    let both = crate::clock::both();
    let mut member = shared.member();
    let heard = opened.into_iter().map(|(opened, sealed)| member.hear_record(opened, sealed, is_live, &both));
    heard.filter_map(|heard| heard.ok().flatten()).collect()
}

async fn hear_evidence(shared: &Shared, entries: Vec<(Id, Vec<u8>)>, cursors: &mut Cursors) {
    for (id, sealed) in entries {
        cursors.evidence = id;
        let heard = shared.member().hear_evidence(&sealed, crate::clock::now());
        let Ok(Some(evidence)) = heard else { continue };
        let node = evidence.node.clone();
        let (answer, bans) = oneshot::channel();
        let is_empty = evidence.reports.is_empty() && evidence.counts.is_empty();
        if is_empty || shared.events.send(Event::Evidence(evidence, answer)).await.is_err() {
            continue;
        }
        let bans = bans.await.unwrap_or_default();
        let void = shared.member().note_caused(node.as_str(), &bans, &crate::clock::both());
        end_void(shared, &node, void).await;
    }
}

/// Has what `node` has decided in these times lifted, and what it caused.
async fn end_void(shared: &Shared, node: &Name, void: Vec<(crate::clock::Instant, crate::clock::Instant)>) {
    for (from, to) in void {
        if to > crate::clock::now() {
            tracing::error!(
                node = node.as_str(),
                "an edge of the fleet banned too many sources in a minute, and is muted: its messages are ignored for ten minutes"
            );
        } else {
            tracing::error!(
                node = node.as_str(),
                seconds_ago = crate::clock::now().since(from).as_secs(),
                "an edge of the fleet banned too many sources in a minute before this one started: those bans are ignored"
            );
        }
        let (answer, void) = oneshot::channel();
        if shared.events.send(Event::Void(node.clone(), from, to, answer)).await.is_ok() {
            let void = void.await.unwrap_or_default();
            shared.member().forget(void.iter().map(String::as_str));
        }
    }
}

/// Has `decided` followed, waits until it is in force, and takes note of an edge that decides too much.
async fn follow_all(shared: &Shared, decided: Vec<Decided>, is_live: bool) {
    if decided.is_empty() {
        return;
    }
    let made: Vec<_> = decided
        .iter()
        .map(|decided| match decided {
            Decided::Ban(node, ban) => Some((node.clone(), ban.made)),
            Decided::Lift(..) => None,
        })
        .collect();
    let (answer, done) = oneshot::channel();
    if shared.events.send(Event::Decided(decided, answer)).await.is_err() {
        return;
    }
    // An error means that the guard stops.
    let weights = done.await.unwrap_or_default();
    let mut bans: Vec<(Name, Vec<(WallTime, Weight)>)> = Vec::new();
    for ((node, made), weight) in made.into_iter().zip(weights).filter_map(|(made, weight)| Some((made?, weight))) {
        match bans.iter_mut().find(|(other, _)| *other == node) {
            Some((_, bans)) => bans.push((made, weight)),
            None => bans.push((node, vec![(made, weight)])),
        }
    }
    for (node, bans) in bans {
        let void = shared.member().note_followed(node.as_str(), bans, is_live, &crate::clock::both());
        end_void(shared, &node, void).await;
    }
}

/// What this edge has decided and lifted is told again.
async fn tell_again(shared: &Shared) {
    shared.forgotten();
    // An error means that the guard stops.
    let _ = shared.events.send(Event::Joined).await;
}

/// Whether reading can go on at the cursor; if not, all is read anew.
async fn look_for_cursor(
    shared: &Shared,
    keys: &Keys,
    connection: &mut MultiplexedConnection,
    cursors: &mut Cursors,
) -> Result<bool, RedisError> {
    let here = cursors.changes.to_string();
    let mut look = cmd("XRANGE");
    look.arg(&keys.changes).arg(&here).arg(&here).arg("COUNT").arg(1);
    let found: StreamRangeReply = look.query_async(connection).await?;
    let last = last(keys, connection).await?;
    let is_there = !found.ids.is_empty() || last == Id::default() && cursors.changes == last;
    if !is_there {
        cursors.complete = false;
    }
    if last < cursors.changes {
        tracing::warn!("the fleet's server knows less than before: this edge tells it again what it has decided");
        tell_again(shared).await;
        return Ok(true);
    }
    Ok(is_there)
}

/// The id of the last change.
async fn last(keys: &Keys, connection: &mut MultiplexedConnection) -> Result<Id, RedisError> {
    last_of(&keys.changes, connection).await
}

/// The id of the last entry of `stream`.
pub(super) async fn last_of(stream: &str, connection: &mut MultiplexedConnection) -> Result<Id, RedisError> {
    let mut look = cmd("XREVRANGE");
    look.arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
    let found: StreamRangeReply = look.query_async(connection).await?;
    Ok(found.ids.first().and_then(|entry| entry.id.parse().ok()).unwrap_or_default())
}

/// Reads all that the server holds.
async fn snapshot(
    shared: &Shared,
    keys: &Keys,
    connection: &mut MultiplexedConnection,
    cursors: &mut Cursors,
) -> Result<(), RedisError> {
    cursors.epoch = shared.epoch.load(Ordering::Relaxed);
    cursors.changes = last(keys, connection).await?;
    // What happened before this edge was there is past; after a pause what is left of it is heard.
    let evidence = last_of(&keys.evidence, connection).await?;
    if cursors.evidence == Id::default() || evidence < cursors.evidence {
        cursors.evidence = evidence;
    }
    let (mut sources, mut place, mut is_last) = (0, Place::first(shared), false);
    let mut decided = Vec::new();
    while !is_last {
        let next = async {
            let page = page(keys, connection, place).await?;
            let names: Vec<_> = page.iter().map(|(source, _)| source.as_str()).collect();
            let messages = fetch(keys, connection, &names).await?;
            Ok::<_, RedisError>((page, judge(shared, messages.iter().map(|sealed| &**sealed), false)))
        };
        // The next ones are read while those before are put in force.
        let (next, ()) = tokio::join!(next, follow_all(shared, std::mem::take(&mut decided), false));
        let page;
        (page, decided) = next?;
        sources += page.len();
        place = place.after(&page);
        is_last = page.len() < PAGE;
    }
    follow_all(shared, decided, false).await;
    shared.member().has_read_all();
    cursors.complete = true;
    let mut state = shared.state();
    state.snapshots += 1;
    state.cursor = cursors.changes;
    tracing::info!(sources, "the fleet's decisions are in force");
    Ok(())
}

/// Reads the next part of what edges remember of sources whose mail is accepted; whether there is another one. An edge that starts does
/// so once.
async fn remember(
    shared: &Shared,
    keys: &Keys,
    connection: &mut MultiplexedConnection,
    cursors: &mut Cursors,
) -> Result<bool, RedisError> {
    let Some(parts) = &mut cursors.history else {
        let mut parts: Vec<String> = cmd("HKEYS").arg(&keys.history).query_async(connection).await?;
        // The latest are in the first part of each: they are read first, which are the last here.
        let number =
            |part: &String| part.rsplit(':').next().and_then(|number| number.parse().ok()).unwrap_or(usize::MAX);
        parts.sort_unstable_by_key(|part| std::cmp::Reverse(number(part)));
        let more = parts.len().saturating_sub(NODES * PARTS);
        parts.drain(..more);
        cursors.history = Some(parts);
        return Ok(true);
    };
    let Some(part) = parts.pop() else { return Ok(false) };
    let sealed: Option<Vec<u8>> = cmd("HGET").arg(&keys.history).arg(part).query_async(connection).await?;
    if let Some(sealed) = sealed {
        let opened = shared.settings.seal.open(&sealed);
        let heard = shared.member().hear_history(opened, crate::clock::now());
        let (answer, new) = oneshot::channel();
        if let Ok((_, friends)) = heard
            && shared.events.send(Event::Befriend(friends, answer)).await.is_ok()
        {
            shared.state().remembered += new.await.unwrap_or_default() as u64;
        }
    }
    let (left, sources) = (parts.len(), shared.state().remembered);
    if left == 0 && sources > 0 {
        tracing::info!(sources, "what the fleet remembers of accepted mail is known here");
    }
    if sources >= REMEMBERED {
        parts.clear();
    }
    Ok(!parts.is_empty())
}

/// Where reading of the index goes on: behind so many of those that end at that moment. The server finds it at once, other than a place
/// that is counted from the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    end: i64,
    behind: usize,
}

impl Place {
    /// At the first that hasn't ended.
    fn first(shared: &Shared) -> Self {
        Self { end: shared.member().server(crate::clock::now()).unwrap_or_default(), behind: 0 }
    }

    /// Behind `page`, which was read from here.
    fn after(self, page: &[(String, f64)]) -> Self {
        let end = |(_, end): &(String, f64)| *end as i64;
        let Some(last) = page.last().map(end) else { return self };
        let same = page.iter().rev().take_while(|entry| end(entry) == last).count();
        let before = if self.end == last { self.behind } else { 0 };
        Self { end: last, behind: before + same }
    }
}

/// Sources with decisions and the ends of these, from `place` on.
async fn page(
    keys: &Keys,
    connection: &mut MultiplexedConnection,
    place: Place,
) -> Result<Vec<(String, f64)>, RedisError> {
    let mut range = cmd("ZRANGEBYSCORE");
    range.arg(&keys.index).arg(place.end).arg("+inf").arg("WITHSCORES").arg("LIMIT").arg(place.behind).arg(PAGE);
    range.query_async(connection).await
}

/// Reads the decisions about `sources`.
async fn fetch(
    keys: &Keys,
    connection: &mut MultiplexedConnection,
    sources: &[&str],
) -> Result<Vec<Vec<u8>>, RedisError> {
    if sources.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipe = pipe();
    for source in sources {
        pipe.cmd("HMGET").arg(keys.record(source)).arg("om").arg("lm");
    }
    let found: Vec<[Option<Vec<u8>>; 2]> = pipe.query_async(connection).await?;
    Ok(found.into_iter().flatten().flatten().collect())
}

/// When what the server holds was compared with what is known.
struct Compared {
    wholly: Instant,
    counted: Instant,
}

/// Finds what got lost on the way.
async fn compare(
    shared: &Shared,
    keys: &Keys,
    connection: &mut MultiplexedConnection,
    compared: &mut Compared,
) -> Result<(), RedisError> {
    if compared.counted.elapsed() < COUNT {
        return Ok(());
    }
    compared.counted = Instant::now();
    let now = shared.member().server(crate::clock::now()).unwrap_or_default();
    let held: u64 = cmd("ZCOUNT").arg(&keys.index).arg(now).arg("+inf").query_async(connection).await?;
    let known = shared.member().decisions();
    let since = compared.wholly.elapsed();
    if since < COMPARE.1 || held == known && since < COMPARE.0 {
        return Ok(());
    }
    compared.wholly = Instant::now();
    let mut place = Place::first(shared);
    loop {
        let page = page(keys, connection, place).await?;
        place = place.after(&page);
        let found = page.iter().map(|(source, end)| (source.as_str(), *end as i64));
        let missing = shared.member().missing(found, crate::clock::now());
        let messages = fetch(keys, connection, &missing).await?;
        follow_all(shared, judge(shared, messages.iter().map(|sealed| &**sealed), false), false).await;
        if page.len() < PAGE {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    /// What is read of an entry with this id and field.
    #[track_caller]
    fn check(id: &str, field: &str, value: Value, expected: Option<&[u8]>) {
        let map = [(field.to_owned(), value)].into();
        let entry = StreamId { id: id.to_owned(), map, ..StreamId::default() };
        let found = entries(vec![entry]).ok();
        let expected = expected.map(|message| vec![("5-6".parse().unwrap(), message.to_vec())]);
        assert_eq!(found, expected, "{id} {field}");
    }

    /// Where it goes on behind a page of ends, read from a place.
    #[track_caller]
    fn check_place((end, behind): (i64, usize), ends: &[f64], expected: (i64, usize)) {
        let page: Vec<_> = ends.iter().map(|end| ("192.0.2.1".to_owned(), *end)).collect();
        let place = Place { end, behind }.after(&page);
        assert_eq!((place.end, place.behind), expected, "{ends:?} from {end}, {behind}");
    }

    #[test]
    fn the_next_page_begins_behind_those_of_the_same_end() {
        check_place((5, 0), &[], (5, 0));
        check_place((5, 0), &[6.0, 7.0, 8.0], (8, 1));
        check_place((5, 0), &[6.0, 8.0, 8.0], (8, 2));
        check_place((8, 2), &[8.0, 8.0, 8.0], (8, 5));
        check_place((8, 2), &[8.0, 9.0, 9.5], (9, 2));
        check_place((9, 2), &[f64::INFINITY, f64::INFINITY], (i64::MAX, 2));
        check_place((i64::MAX, 2), &[f64::INFINITY, f64::INFINITY], (i64::MAX, 4));
    }

    #[test]
    fn an_entry_without_a_message_is_passed_and_one_without_an_id_ends_the_connection() {
        check("5-6", "m", Value::BulkString(b"sgf".to_vec()), Some(b"sgf"));
        check("5-6", "x", Value::BulkString(b"sgf".to_vec()), Some(b""));
        check("5-6", "m", Value::Nil, Some(b""));
        check("", "m", Value::BulkString(b"sgf".to_vec()), None);
    }
}
