//! One snapshot a second for all readers, and nothing where nobody reads.
//!
//! Whoever asks for the page has a snapshot taken, unless one is younger than [`PACE`]. The first stream starts a task that
//! takes one each [`PACE`]. The task stops with the last stream, and forgets everything [`KEEP`] after the last question. What
//! is written is written once: each frame has its parts, and the bytes that bring a reader of the frame before it up to date. A
//! reader that missed one gets all parts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::super::serve::over;
use super::super::status::Overview;
use super::snapshot::{Counts, LATELY, Pair, Slow, Snapshot, candidates, is_news};
use super::{Desk, STREAMS, view};
use crate::bound::Bound;
use crate::clock::Instant;
use crate::events::Subscriber;

/// Between two snapshots.
const PACE: Duration = Duration::from_secs(1);
/// What changes seldom is looked at as often, and when an event says that it has changed.
const SLOW: Duration = Duration::from_secs(5);
/// For how long the last snapshot is kept when nobody reads: a page without JavaScript comes back after ten seconds.
const KEEP: Duration = Duration::from_secs(15);
/// Points of the charts: five minutes.
const HISTORY: usize = 300;
/// How long the guard's parts may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long a reader may take for what was sent.
const PATIENCE: Duration = Duration::from_secs(10);
/// A stream ends before its connection would: at an end of its own a browser comes back without a word.
const LIFE: Duration = Duration::from_secs(50);

/// A snapshot as it is written.
#[derive(Debug)]
pub(super) struct Frame {
    number: u64,
    pub(super) at_ms: i64,
    pub(super) title: String,
    pub(super) parts: Vec<(&'static str, String)>,
    /// For a reader of the frame before it.
    change: Bytes,
}

/// One second of the charts: seconds since 1970, drops, refusals and accepted messages a second.
type Point = (i64, Option<f64>, Option<f64>, Option<f64>);

#[derive(Serialize)]
struct Told<'a> {
    at: i64,
    title: &'a str,
    parts: serde_json::Map<String, serde_json::Value>,
    points: &'a [Point],
}

/// See the head of this module.
#[derive(Debug)]
pub(super) struct Feed<D> {
    overview: Overview,
    desk: D,
    state: Mutex<State>,
    frames: watch::Sender<Option<Arc<Frame>>>,
    places: Arc<Semaphore>,
    closing: watch::Receiver<()>,
    /// See [`PATIENCE`].
    patience: Duration,
}

#[derive(Debug, Default)]
struct State {
    last: Option<(Instant, Arc<Frame>)>,
    counts: Option<Counts>,
    slow: Option<Arc<Slow>>,
    events: Option<Subscriber>,
    history: VecDeque<Point>,
    number: u64,
    /// When anybody asked last.
    asked: Option<Instant>,
    /// The task runs.
    runs: bool,
}

impl<D: Desk> Feed<D> {
    pub(super) fn new(overview: Overview, desk: D, closing: watch::Receiver<()>) -> Self {
        let (frames, _) = watch::channel(None);
        let places = Arc::new(Semaphore::new(STREAMS));
        Self { overview, desk, state: Mutex::default(), frames, places, closing, patience: PATIENCE }
    }

    /// How it is now; `None`: it can't be looked at.
    pub(super) async fn look(self: &Arc<Self>) -> Option<Arc<Frame>> {
        let mut state = self.state.lock().await;
        state.asked = Some(crate::clock::now());
        self.run(&mut state);
        self.renew(&mut state).await
    }

    /// A stream of changes, as server-sent events; `None`: as many read it as can be.
    pub(super) fn stream(self: &Arc<Self>) -> Option<mpsc::Receiver<Bytes>> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            self.overview.metrics.bound_reached(Bound::PageStreams);
            return None;
        };
        // One waits while the one before it is written.
        let (parts, waiting) = mpsc::channel(1);
        tokio::spawn(Arc::clone(self).send(parts, place));
        Some(waiting)
    }

    async fn send(self: Arc<Self>, parts: mpsc::Sender<Bytes>, place: OwnedSemaphorePermit) {
        let (mut frames, mut closing) = (self.frames.subscribe(), self.closing.clone());
        let end = sleep(LIFE);
        tokio::pin!(end);
        let mut known = None;
        // Whether it is there or not is told by the frame.
        let _ = self.look().await;
        loop {
            let frame = frames.borrow_and_update().clone();
            if let Some(frame) = frame.filter(|frame| known != Some(frame.number)) {
                let text = if known.is_some_and(|known| known + 1 == frame.number) {
                    frame.change.clone()
                } else {
                    self.all(&frame).await
                };
                known = Some(frame.number);
                match timeout(self.patience, parts.send(text)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => break,
                }
            }
            tokio::select! {
                () = parts.closed() => break,
                () = &mut end => break,
                () = over(&mut closing) => break,
                changed = frames.changed() => if changed.is_err() { break },
            }
        }
        drop(place);
    }

    /// For a reader who knows nothing yet.
    async fn all(&self, frame: &Frame) -> Bytes {
        let points: Vec<Point> = self.state.lock().await.history.iter().copied().collect();
        Bytes::from(told("all", frame.at_ms, &frame.title, frame.parts.iter(), &points))
    }

    /// Has the task run that takes snapshots.
    fn run(self: &Arc<Self>, state: &mut State) {
        if !std::mem::replace(&mut state.runs, true) {
            tokio::spawn(Arc::clone(self).go_on());
        }
    }

    async fn go_on(self: Arc<Self>) {
        loop {
            sleep(PACE).await;
            let mut state = self.state.lock().await;
            if self.frames.receiver_count() > 0 {
                state.asked = Some(crate::clock::now());
                let _ = self.renew(&mut state).await;
            } else if state.asked.is_none_or(|asked| crate::clock::now().since(asked) > KEEP) {
                *state = State { number: state.number, ..State::default() };
                self.frames.send_replace(None);
                return;
            }
        }
    }

    /// The last frame, or one of now where that is too old.
    async fn renew(&self, state: &mut State) -> Option<Arc<Frame>> {
        let both = crate::clock::both();
        if let Some((_, frame)) = state.last.as_ref().filter(|(taken, _)| both.instant.since(*taken) < PACE * 9 / 10) {
            return Some(Arc::clone(frame));
        }
        let decisions = timeout(ANSWER, self.desk.latest()).await.unwrap_or_default();
        let slow = self.slow(state, both.instant).await?;
        let (overview, hostname) = (self.overview.clone(), self.desk.hostname());
        let (before, last) = (state.counts.take(), state.last.take());
        let written = tokio::task::spawn_blocking(move || {
            let snapshot = Snapshot::take(&overview, both, hostname, decisions, slow);
            let pair = Pair::new(before.as_ref(), &snapshot.counts);
            let rates = [pair.rate(Counts::dropped), pair.rate(Counts::refused), pair.rate(Counts::accepted)];
            let rates = rates.map(|rate| rate.map(|rate| (rate * 10.0).round() / 10.0));
            let parts = view::parts(&snapshot, &pair);
            let title = view::title(&snapshot);
            let point = (both.wall.as_ms() / 1000, rates[0], rates[1], rates[2]);
            let known = last.as_ref().map(|(_, frame)| frame.parts.as_slice()).unwrap_or_default();
            let changed = parts.iter().filter(|part| !known.contains(part));
            let change = told("change", both.wall.as_ms(), &title, changed, &[point]);
            (parts, title, point, change, snapshot.counts)
        });
        let (parts, title, point, change, counts) = written.await.ok()?;
        state.number += 1;
        if state.history.len() == HISTORY {
            state.history.pop_front();
        }
        state.history.push_back(point);
        let frame = Frame { number: state.number, at_ms: both.wall.as_ms(), title, parts, change: change.into() };
        let frame = Arc::new(frame);
        state.counts = Some(counts);
        state.last = Some((both.instant, Arc::clone(&frame)));
        self.frames.send_replace(Some(Arc::clone(&frame)));
        Some(frame)
    }

    /// What changes seldom.
    async fn slow(&self, state: &mut State, now: Instant) -> Option<Arc<Slow>> {
        let events = state.events.get_or_insert_with(|| self.overview.events.subscribe(0));
        let mut news = false;
        // What is published meanwhile must not keep it going.
        for _ in 0..=crate::events::KEPT / crate::events::BATCH {
            let batch = events.take();
            if batch.lost == 0 && batch.events.is_empty() {
                break;
            }
            news |= batch.lost > 0 || batch.events.iter().any(|event| is_news(&event.what));
        }
        if let Some(slow) = state.slow.as_ref().filter(|slow| !news && now.since(slow.at) < SLOW) {
            return Some(Arc::clone(slow));
        }
        let candidates = candidates(&self.overview.events.latest(LATELY));
        let near = timeout(ANSWER, self.desk.near(candidates)).await.unwrap_or_default();
        let (overview, desk) = (self.overview.clone(), self.desk.clone());
        let looked = tokio::task::spawn_blocking(move || Slow::new(now, overview.status(now), desk.users(), near));
        let slow = Arc::new(looked.await.ok()?);
        state.slow = Some(Arc::clone(&slow));
        Some(slow)
    }
}

#[cfg(test)]
impl<D: Desk> Feed<D> {
    /// Waits `patience` for a reader.
    pub(super) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Whether it keeps or does anything.
    pub(super) async fn has_anything(&self) -> bool {
        let state = self.state.lock().await;
        state.runs || state.last.is_some() || state.counts.is_some() || state.events.is_some()
    }

    /// Shows a frame whose change is `change`, as if it were time for one.
    pub(super) async fn show(&self, change: Bytes) {
        let mut state = self.state.lock().await;
        state.number += 1;
        let frame = Frame { number: state.number, at_ms: 0, title: String::new(), parts: Vec::new(), change };
        let frame = Arc::new(frame);
        state.last = Some((crate::clock::now(), Arc::clone(&frame)));
        self.frames.send_replace(Some(frame));
    }

    /// Places that are free.
    pub(super) fn places(&self) -> usize {
        self.places.available_permits()
    }

    /// As if nobody had asked for a long time.
    pub(super) async fn forget_now(&self) {
        self.state.lock().await.asked = None;
    }
}

/// An event as it goes over the wire.
fn told<'a>(
    event: &str,
    at: i64,
    title: &str,
    parts: impl Iterator<Item = &'a (&'static str, String)>,
    points: &[Point],
) -> String {
    let parts = parts.map(|(id, html)| ((*id).to_owned(), html.as_str().into())).collect();
    // Words and numbers in memory can always be written. JSON has no line ends of its own.
    let data = serde_json::to_string(&Told { at, title, parts, points }).unwrap_or_default();
    format!("retry: 1000\nevent: {event}\ndata: {data}\n\n")
}
