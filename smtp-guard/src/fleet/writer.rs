//! Writes this edge's messages: evidence, decisions, and its state.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script, cmd, pipe};
use smtp_guard_core::fleet::member::{OLD, Outgoing};
use smtp_guard_core::fleet::message::Slot;
use tokio::time::{Instant, sleep, timeout_at};

use super::id::Id;
use super::keys::Keys;
use super::link::{self, COMMAND, Link};
use super::{Event, PAUSE, Shared, longer, number};

/// Messages of evidence that are kept on the server.
const EVIDENCE: usize = 100_000;
/// Changes of decisions that are kept there.
const CHANGES: usize = 200_000;
/// Decisions that are put at once.
const PIPELINE: usize = 128;
/// How often this edge says how it is.
const BEAT: Duration = Duration::from_secs(1);
/// Likewise while somebody waits for what others say.
const QUICK_BEAT: Duration = Duration::from_millis(30);
/// How often sums are looked for.
const TICK: Duration = Duration::from_millis(100);
/// How often what has ended is taken out of the index.
const TIDY: u32 = 60;
/// Questions for the time on a new connection.
const QUESTIONS: usize = 3;

pub(super) static PUT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("put.lua")));

/// Tells others, again and again on another connection.
pub(super) async fn run(shared: &Shared) {
    let keys = Keys::new(&shared.settings.config.name);
    let (mut pause, mut epoch) = (PAUSE.0, None);
    loop {
        match link::open(&shared.settings, COMMAND).await {
            Ok(link) => {
                let error = serve(shared, &keys, link, &mut epoch, &mut pause).await;
                shared.connected(Err(&error));
            }
            Err(error) => shared.connected(Err(&error)),
        }
        shared.member().sweep(crate::clock::now());
        sleep(pause).await;
        pause = longer(pause);
    }
}

/// Uses `link` until it fails.
async fn serve(
    shared: &Shared,
    keys: &Keys,
    link: Link,
    epoch: &mut Option<String>,
    pause: &mut Duration,
) -> RedisError {
    let Link { mut connection, server, .. } = link;
    shared.member().reconnected();
    let served = async {
        for _ in 0..QUESTIONS {
            ask_time(shared, &mut connection).await?;
        }
        PUT.load_async(&mut connection).await?;
        let mut beats = 0;
        let (mut next_beat, mut swept) = (Instant::now(), Instant::now());
        loop {
            if Instant::now() >= next_beat || shared.beat_now.swap(false, Ordering::Relaxed) {
                beat(shared, keys, &mut connection, epoch).await?;
                if beats == 0 {
                    shared.connected(Ok(&server));
                    *pause = PAUSE.0;
                }
                if beats % TIDY == 0 {
                    tidy(shared, keys, &mut connection).await?;
                }
                beats = beats.wrapping_add(1);
                if swept.elapsed() >= BEAT {
                    swept = Instant::now();
                    shared.member().sweep(crate::clock::now());
                }
                let quick = shared.waiting.load(Ordering::Relaxed) > 0;
                next_beat = Instant::now() + if quick { QUICK_BEAT } else { BEAT };
            }
            // Decisions first: they are few, and in force elsewhere the sooner.
            let wrote = write_changes(shared, keys, &mut connection).await?
                | write_batch(shared, keys, &mut connection).await?;
            if !wrote {
                let until = next_beat.min(Instant::now() + TICK);
                // Whoever has something to tell, or waits for others, says so.
                if timeout_at(until, shared.wake.notified()).await.is_ok() && shared.waiting.load(Ordering::Relaxed) > 0
                {
                    next_beat = next_beat.min(Instant::now() + QUICK_BEAT);
                }
            }
        }
    };
    let served: Result<std::convert::Infallible, RedisError> = served.await;
    match served {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

async fn ask_time(shared: &Shared, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let asked = crate::clock::now();
    let (seconds, micros): (i64, i64) = cmd("TIME").query_async(connection).await?;
    let server = seconds.saturating_mul(1000).saturating_add(micros / 1000);
    shared.member().note_time(asked, server, crate::clock::now());
    Ok(())
}

/// Says how this edge is, hears how others are, and looks whether the server is the same.
async fn beat(
    shared: &Shared,
    keys: &Keys,
    connection: &mut MultiplexedConnection,
    epoch: &mut Option<String>,
) -> Result<(), RedisError> {
    ask_time(shared, connection).await?;
    let cursor = shared.state().cursor.to_string();
    let status = shared.member().status(env!("CARGO_PKG_VERSION"), &cursor, &crate::clock::both());
    let mut pipe = pipe();
    pipe.cmd("SET").arg(&keys.epoch).arg(format!("{:016x}", number())).arg("NX").ignore();
    if let Some(status) = status {
        pipe.cmd("HSET").arg(&keys.nodes).arg(&shared.settings.config.node).arg(status).ignore();
    }
    pipe.cmd("GET").arg(&keys.epoch).cmd("HGETALL").arg(&keys.nodes);
    let (found, nodes): (String, Vec<(String, Vec<u8>)>) = pipe.query_async(connection).await?;
    let gone: Vec<_> = {
        let mut member = shared.member();
        let now = crate::clock::now();
        // What can't be read is counted.
        nodes.iter().filter(|(_, status)| member.hear_status(status, now) == Ok(false)).map(|(node, _)| node).collect()
    };
    shared.tell_ignored();
    if !gone.is_empty() {
        let _: u64 = cmd("HDEL").arg(&keys.nodes).arg(&gone).query_async(connection).await?;
    }
    if epoch.as_ref() != Some(&found) {
        let forgot = epoch.is_some();
        *epoch = Some(found);
        if forgot {
            tracing::warn!(
                "the fleet's server has forgotten what it knew: this edge tells it again what it has decided"
            );
        }
        shared.forgotten();
        // An error means that the guard stops.
        let _ = shared.events.send(Event::Joined).await;
    }
    Ok(())
}

/// Takes what has ended off the server.
async fn tidy(shared: &Shared, keys: &Keys, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
    let Some(now) = shared.member().server(crate::clock::now()) else { return Ok(()) };
    let mut pipe = pipe();
    pipe.cmd("ZREMRANGEBYSCORE").arg(&keys.index).arg("-inf").arg(now);
    // Nobody reads evidence that is older, and it names clients.
    pipe.cmd("XTRIM").arg(&keys.evidence).arg("MINID").arg(now.saturating_sub(OLD).max(0));
    pipe.exec_async(connection).await
}

/// Puts what waits of decisions; whether there was something.
async fn write_changes(
    shared: &Shared,
    keys: &Keys,
    connection: &mut MultiplexedConnection,
) -> Result<bool, RedisError> {
    let changes = shared.member().next_changes(PIPELINE, crate::clock::now());
    if changes.is_empty() {
        return Ok(false);
    }
    let written = put(keys, connection, &changes).await;
    match written {
        Ok(ids) => {
            for (change, id) in changes.iter().zip(ids) {
                // An empty one: somebody's newer word is there already.
                if let (Slot::Operator, Ok(id)) = (change.slot, id.parse::<Id>()) {
                    shared.note_lift(&change.source, id);
                }
            }
            Ok(true)
        }
        Err(error) => {
            shared.member().not_written(changes);
            Err(error)
        }
    }
}

async fn put(
    keys: &Keys,
    connection: &mut MultiplexedConnection,
    changes: &[Outgoing],
) -> Result<Vec<String>, RedisError> {
    let mut pipe = pipe();
    for change in changes {
        pipe.cmd("EVALSHA").arg(PUT.get_hash()).arg(3);
        pipe.arg(keys.record(&change.source)).arg(&keys.index).arg(&keys.changes);
        pipe.arg(change.slot.letter()).arg(change.at).arg(change.tie).arg(change.until);
        pipe.arg(&*change.sealed).arg(&change.source).arg(CHANGES);
    }
    pipe.query_async(connection).await
}

/// Appends a batch of evidence; whether there was one.
async fn write_batch(shared: &Shared, keys: &Keys, connection: &mut MultiplexedConnection) -> Result<bool, RedisError> {
    let Some(batch) = shared.member().next_batch(crate::clock::now()) else { return Ok(false) };
    let mut append = cmd("XADD");
    append.arg(&keys.evidence).arg("MAXLEN").arg("~").arg(EVIDENCE).arg("*").arg("m").arg(batch);
    let _: String = append.query_async(connection).await?;
    shared.member().batch_arrived();
    Ok(true)
}
