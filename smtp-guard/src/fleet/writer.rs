//! Writes this edge's messages: evidence, decisions, and its state.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script, cmd, pipe};
use smtp_guard_core::fleet::PARTS;
use smtp_guard_core::fleet::member::OLD;
use smtp_guard_core::fleet::message::{Fault, Slot, tie};
use smtp_guard_core::fleet::stale::Stale;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};

use super::id::Id;
use super::keys::Keys;
use super::link::{self, COMMAND, Link};
use super::reader::last_of;
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
/// When the first part of what this edge remembers is told, and how long after one part the next one.
const HISTORY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));
/// How long the server keeps it without a word of anybody, in ms.
const HISTORY_LASTS: i64 = 86_400_000;
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
        // Whoever reads finds out as well, by his cursor.
        let told = shared.state().told_last;
        if last_of(&keys.changes, &mut connection).await? < told {
            tracing::warn!("the fleet's server knows less than before: this edge tells it again what it has decided");
            shared.state().told_last = Id::default();
            shared.forgotten();
            // An error means that the guard stops.
            let _ = shared.events.send(Event::Joined).await;
        }
        let mut beats = 0;
        let (mut history, mut stale) = (Telling::begin(), Stale::default());
        let (mut next_beat, mut swept) = (Instant::now(), Instant::now());
        loop {
            if Instant::now() >= next_beat || shared.beat_now.swap(false, Ordering::Relaxed) {
                beat(shared, keys, &mut connection, epoch, &mut stale).await?;
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
                history.go_on(shared, keys, &mut connection).await?;
                let quick = shared.waiting.load(Ordering::Relaxed) > 0;
                next_beat = Instant::now() + if quick { QUICK_BEAT } else { BEAT };
            }
            if !write(shared, keys, &mut connection).await? {
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
    stale: &mut Stale,
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
    let gone: Vec<String> = {
        let mut member = shared.member();
        let now = crate::clock::now();
        let (mut gone, mut unread) = (Vec::new(), Vec::new());
        // What can't be read is counted.
        for (node, status) in &nodes {
            match member.hear_status(status, now) {
                Ok(true) => {}
                Ok(false) => gone.push(node.clone()),
                Err(Fault::Form | Fault::Version | Fault::Code) => unread.push((node.as_str(), tie(status))),
                Err(_) => {}
            }
        }
        gone.extend(stale.look(unread.into_iter(), now));
        gone
    };
    shared.tell_ignored();
    if !gone.is_empty() {
        let parts = gone.iter().flat_map(|node| (0..PARTS).map(move |part| field(node, part)));
        let parts: Vec<_> = parts.collect();
        let mut forget = redis::pipe();
        forget.cmd("HDEL").arg(&keys.nodes).arg(&gone).cmd("HDEL").arg(&keys.history).arg(&parts);
        forget.exec_async(connection).await?;
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

/// The name of a part of the history of `node`.
fn field(node: &str, part: usize) -> String {
    format!("{node}:{part}")
}

/// What this edge remembers of sources whose mail is accepted, told part by part, again and again.
struct Telling {
    next: Instant,
    part: usize,
    after: Option<super::Place>,
}

impl Telling {
    fn begin() -> Self {
        Self { next: Instant::now() + HISTORY.0, part: 0, after: None }
    }

    /// Tells the next part if it is time.
    async fn go_on(
        &mut self,
        shared: &Shared,
        keys: &Keys,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), RedisError> {
        if Instant::now() < self.next || !shared.member().identity().sends {
            return Ok(());
        }
        self.next = Instant::now() + HISTORY.1;
        let (answer, part) = oneshot::channel();
        if shared.events.send(Event::Friends(self.after, answer)).await.is_err() {
            return Ok(());
        }
        let (friends, after) = part.await.unwrap_or_default();
        let now = crate::clock::now();
        let (sealed, until) = {
            let member = shared.member();
            let Some(until) = member.server(now).map(|now| now.saturating_add(HISTORY_LASTS)) else { return Ok(()) };
            (member.history(&friends, now), until)
        };
        let node = &shared.settings.config.node;
        let mut pipe = pipe();
        if let Some(sealed) = sealed.filter(|_| !friends.is_empty()) {
            pipe.cmd("HSET").arg(&keys.history).arg(field(node, self.part)).arg(sealed);
            pipe.cmd("PEXPIREAT").arg(&keys.history).arg(until);
            self.part += 1;
        }
        self.after = after.filter(|_| self.part < PARTS);
        if self.after.is_none() {
            // It was longer before.
            let rest: Vec<_> = (self.part..PARTS).map(|part| field(node, part)).collect();
            if !rest.is_empty() {
                pipe.cmd("HDEL").arg(&keys.history).arg(rest);
            }
            self.part = 0;
        }
        pipe.exec_async(connection).await
    }
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

/// Appends a batch of evidence and puts what waits of decisions, in one go; whether there was something. Evidence comes first: others
/// weigh the decisions by it.
async fn write(shared: &Shared, keys: &Keys, connection: &mut MultiplexedConnection) -> Result<bool, RedisError> {
    let now = crate::clock::now();
    let (batch, changes) = {
        let mut member = shared.member();
        (member.next_batch(now), member.next_changes(PIPELINE, now))
    };
    if batch.is_none() && changes.is_empty() {
        return Ok(false);
    }
    let mut pipe = pipe();
    if let Some(batch) = &batch {
        pipe.cmd("XADD").arg(&keys.evidence).arg("MAXLEN").arg("~").arg(EVIDENCE).arg("*").arg("m").arg(batch);
        pipe.ignore();
    }
    for change in &changes {
        pipe.cmd("EVALSHA").arg(PUT.get_hash()).arg(3);
        pipe.arg(keys.record(&change.source)).arg(&keys.index).arg(&keys.changes);
        pipe.arg(change.slot.letter()).arg(change.at).arg(change.tie).arg(change.until);
        pipe.arg(&*change.sealed).arg(&change.source).arg(CHANGES);
    }
    let ids: Vec<String> = match pipe.query_async(connection).await {
        Ok(ids) => ids,
        Err(error) => {
            shared.member().not_written(changes);
            return Err(error);
        }
    };
    if batch.is_some() {
        shared.member().batch_arrived();
    }
    for (change, id) in changes.iter().zip(ids) {
        // An empty one: somebody's newer word is there already.
        if let Ok(id) = id.parse::<Id>() {
            shared.note_change(id);
            if change.slot == Slot::Operator {
                shared.note_lift(&change.source, id);
            }
        }
    }
    Ok(true)
}
