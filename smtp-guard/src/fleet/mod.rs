//! The I/O of a fleet: what edges tell each other by a Redis or Valkey. What is told, and what follows, is
//! [`smtp_guard_core::fleet`].
//!
//! Everything here runs on one thread, with a runtime of its own. So a server or a resolver that hangs, or a trust store
//! on a slow disk, can't keep a session waiting. Sessions never ask; a session that tells something leaves it in
//! [`Member`] and goes on.
//!
//! | task | what it does | connection |
//! |---|---|---|
//! | [`writer`] | appends evidence, puts decisions, says each second how this edge is, asks for the time | its own, 500 ms a command |
//! | [`reader`] | reads what the server holds, then what is new | its own, since it waits in XREAD |
//!
//! # What is on the server
//! See [`keys`]. Only commands of Redis 6.2, and one script. A user needs `~sg:{NAME}:* +@stream +@hash +@string
//! +@sortedset +@scripting +@connection +time +pexpireat`.
//!
//! # When the server goes away
//! Both tasks try again, at first after 100 ms, then every 2 s. Meanwhile this is the guard of one host. A server that
//! lost everything has another epoch, or an older last id: then each edge writes its own decisions, and all tombstones,
//! again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
pub use smtp_guard_core::fleet::member::{Decided, Evidence};
use smtp_guard_core::fleet::member::{Identity, Member};
use smtp_guard_core::fleet::message::{Counted, Fault};
use smtp_guard_core::fleet::status::Told;
pub use smtp_guard_core::fleet::status::{FleetStatus, Ignored, MutedView, NodeView, Offset};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::addr::Source;
use crate::chance::number;
use crate::clock::{Both, Instant};
use crate::decision::{Decision, Name, Weight};
use crate::ledger::Friend;
use crate::offence::{Conduct, Digest};
use crate::rates::Sum;

mod id;
mod keys;
mod link;
pub mod probe;
mod reader;
mod settings;
mod writer;

use id::Id;
pub use settings::{FleetError, Settings};

/// Events that wait for the guard.
const EVENTS: usize = 64;
/// Lifts whose place among the changes is known, to be confirmed.
const LIFTS: usize = 256;
/// How often it is looked whether others have confirmed.
const LOOK: Duration = Duration::from_millis(10);
/// How long nothing is tried after a failure: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Where a source stands among those whose mail is accepted.
type Place = (Instant, Source);

/// Something that the guard is to hear. The answer says that it was done.
#[derive(Debug)]
pub enum Event {
    /// What happened elsewhere; what each ban weighs that followed is the answer.
    Evidence(Evidence, oneshot::Sender<Vec<Weight>>),
    /// What was decided elsewhere; what each of them weighs is the answer.
    Decided(Vec<Decided>, oneshot::Sender<Vec<Weight>>),
    /// What that edge has decided between two moments, or caused, counts no longer; about which sources it decided is the answer.
    Void(Name, Instant, Instant, oneshot::Sender<Vec<String>>),
    /// The next ones whose mail is accepted here, behind a place, and the place of the last one of them.
    Friends(Option<Place>, oneshot::Sender<(Vec<Friend>, Option<Place>)>),
    /// What an edge remembers of those; how many are familiar by that is the answer.
    Befriend(Vec<Friend>, oneshot::Sender<usize>),
    /// The server doesn't know what this edge has decided: it is to be told all of it.
    Joined,
}

/// The fleet. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    running: ArcSwapOption<Running>,
    events: mpsc::Sender<Event>,
    /// Changed by one at a time.
    settings: Mutex<Option<Settings>>,
}

/// A fleet that is taken part in.
struct Running {
    shared: Arc<Shared>,
    /// Dropped, it ends the thread.
    _stop: watch::Sender<()>,
}

/// What the tasks have in common.
struct Shared {
    settings: Settings,
    member: Mutex<Member>,
    /// Something waits to be sent.
    wake: Notify,
    events: mpsc::Sender<Event>,
    state: Mutex<State>,
    /// Those who wait for others to confirm.
    waiting: AtomicUsize,
    /// Something is to be confirmed.
    beat_now: AtomicBool,
    /// Raised when the server lost what it held.
    epoch: AtomicU64,
}

#[derive(Debug)]
struct State {
    connected: bool,
    /// Since when it is, or isn't.
    since: Instant,
    trouble: Option<String>,
    server: Option<String>,
    /// The last change that is in force here.
    cursor: Id,
    /// The last change that this edge has put on the server.
    told_last: Id,
    snapshots: u64,
    /// Sources that are familiar by what edges remember.
    remembered: u64,
    /// Which change the last lifts are.
    lifts: VecDeque<(String, Id)>,
    /// What the log knows of messages that are ignored.
    told: Told,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

/// Edges that haven't confirmed something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unconfirmed {
    /// The server doesn't have it yet.
    pub waits: bool,
    pub nodes: Vec<String>,
}

impl Fleet {
    /// No fleet yet, and what comes from one later.
    pub fn new() -> (Self, mpsc::Receiver<Event>) {
        let (events, heard) = mpsc::channel(EVENTS);
        let inner = Inner { running: ArcSwapOption::empty(), events, settings: Mutex::new(None) };
        (Self(Arc::new(inner)), heard)
    }

    /// Takes part in the fleet of `settings`, or in none. What waited for another one is forgotten.
    pub fn apply(&self, settings: Option<Settings>) {
        let mut current = lock(&self.0.settings);
        if *current == settings {
            return;
        }
        current.clone_from(&settings);
        let running = settings.and_then(|settings| match start(settings, self.0.events.clone()) {
            Ok(running) => Some(Arc::new(running)),
            Err(error) => {
                tracing::error!(%error, "the fleet's thread can't be started: this edge judges alone");
                None
            }
        });
        let before = self.0.running.swap(running);
        if let Some(waiting) = before.as_ref().and_then(|before| before.shared.cut_off()) {
            tracing::warn!(waiting, "messages for the fleet's server are given up: it didn't answer");
        }
    }

    /// Tells others what `source` did; `false`: there is no room. Never blocks.
    pub fn report(&self, source: &str, at: Instant, conduct: &Conduct) -> bool {
        self.tell(|member| member.report(source, at, conduct))
    }

    /// Tells others what was counted of a source, or of a user by the digest of his name; `false`: there is no room. Never blocks.
    pub fn count(&self, who: Result<&str, Digest>, at: Instant, sum: Sum) -> bool {
        let who = match who {
            Ok(source) => Counted::Source(source.to_owned()),
            Err(user) => Counted::User(user.number()),
        };
        self.tell(|member| member.count(who, at, sum))
    }

    /// Tells others of `decision`, which was made here, perhaps `upon` what that edge has reported; `false`: there is no room. Never blocks.
    pub fn decided(&self, decision: Decision, upon: Option<&Name>, now: Both) -> bool {
        self.tell(|member| member.decided(decision, upon, now))
    }

    /// Tells others that what was decided about `source` is void from `at` on; `false`: there is no room. Never blocks.
    pub fn lifted(&self, source: &str, at: Instant, until: Instant) -> bool {
        if let Some(running) = self.0.running.load().as_ref() {
            // An earlier one says nothing about this one.
            running.shared.state().lifts.retain(|(lifted, _)| lifted != source);
        }
        self.tell(|member| member.lifted(source, at, until))
    }

    /// Whether there is a fleet.
    pub fn is_on(&self) -> bool {
        self.0.running.load().is_some()
    }

    fn tell(&self, tell: impl FnOnce(&mut Member) -> bool) -> bool {
        let running = self.0.running.load();
        let Some(running) = running.as_ref() else { return true };
        let (has_room, is_urgent) = {
            let mut member = running.shared.member();
            (tell(&mut member), member.is_urgent())
        };
        // Sums are looked for at each tick: what is good is said by each message, and needn't wake anybody.
        if is_urgent {
            running.shared.wake.notify_one();
        }
        has_room
    }

    /// Waits until all edges that are there have followed the last lift of `source`, for `patience` at most; which haven't. `None`:
    /// there is no fleet that would be told.
    pub async fn unconfirmed(&self, source: &str, patience: Duration) -> Option<Unconfirmed> {
        let running = self.0.running.load_full()?;
        let shared = &running.shared;
        if !shared.member().identity().sends {
            return None;
        }
        let _waiting = Waiting::new(shared);
        shared.wake.notify_one();
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let unconfirmed = shared.unconfirmed(source);
            if unconfirmed == Unconfirmed::default() || tokio::time::Instant::now() >= deadline {
                return Some(unconfirmed);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// How the fleet is; `None`: there is none.
    pub fn status(&self) -> Option<FleetStatus> {
        let running = self.0.running.load_full()?;
        Some(running.shared.status(&crate::clock::both()))
    }
}

/// Somebody who waits for others to confirm; he may go away meanwhile.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.waiting.fetch_add(1, Ordering::Relaxed);
        Self(&shared.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    /// Not connected, from `now` on.
    fn new(now: Instant) -> Self {
        Self {
            connected: false,
            since: now,
            trouble: None,
            server: None,
            cursor: Id::default(),
            told_last: Id::default(),
            snapshots: 0,
            remembered: 0,
            lifts: VecDeque::new(),
            told: Told::default(),
        }
    }

    /// The connection is there, or isn't, at `now`.
    fn change(&mut self, connected: bool, now: Instant) {
        if connected != self.connected {
            (self.connected, self.since) = (connected, now);
        }
    }
}

impl Shared {
    fn member(&self) -> MutexGuard<'_, Member> {
        lock(&self.member)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// This edge says how it is as soon as can be.
    fn beat(&self) {
        self.beat_now.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// How much waits for a server that doesn't answer; `None`: nothing does.
    fn cut_off(&self) -> Option<u64> {
        let kept = self.member().kept();
        (kept > 0 && !self.state().connected).then_some(kept)
    }

    /// The server doesn't know any more what it knew.
    fn forgotten(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        self.member().server_forgot(crate::clock::now());
        self.wake.notify_one();
    }

    /// Tells the log of messages that are ignored.
    fn tell_ignored(&self) {
        let faults = self.member().faults();
        for (fault, count) in self.state().told.news(faults, crate::clock::now()) {
            let what = "messages on the fleet's server are ignored";
            match fault {
                // What may have arrived is sent again.
                Fault::Repeated => tracing::info!(count, "{what}: {fault}"),
                Fault::Code => tracing::warn!(
                    count,
                    "{what}: {fault}; an edge has another key or another name of the fleet, or somebody else writes there"
                ),
                _ => tracing::warn!(count, "{what}: {fault}"),
            }
        }
    }

    fn unconfirmed(&self, source: &str) -> Unconfirmed {
        let lift = self.state().lifts.iter().rev().find(|(lifted, _)| lifted == source).map(|(_, id)| *id);
        let Some(lift) = lift else { return Unconfirmed { waits: true, nodes: Vec::new() } };
        let has_followed = |cursor: &str| cursor.parse::<Id>().unwrap_or_default() >= lift;
        let nodes = self.member().unconfirmed(crate::clock::now(), has_followed);
        Unconfirmed { waits: false, nodes }
    }

    /// The server has taken a decision of this edge as the change `id`.
    fn note_change(&self, id: Id) {
        let mut state = self.state();
        state.told_last = state.told_last.max(id);
    }

    fn note_lift(&self, source: &str, id: Id) {
        let mut state = self.state();
        state.lifts.push_back((source.to_owned(), id));
        if state.lifts.len() > LIFTS {
            state.lifts.pop_front();
        }
    }

    /// The connection is there, or why it isn't. Said once.
    fn connected(&self, result: Result<&str, &dyn std::fmt::Display>) {
        let mut state = self.state();
        match result {
            Ok(server) => {
                if !state.connected {
                    tracing::info!(
                        server,
                        fleet = self.settings.config.name,
                        node = self.settings.config.node,
                        "the fleet's server answers"
                    );
                }
                state.change(true, crate::clock::now());
                (state.server, state.trouble) = (Some(server.to_owned()), None);
            }
            Err(error) => {
                let text = error.to_string();
                if state.connected || state.trouble.is_none() {
                    tracing::warn!(
                        error = text,
                        "the fleet's server can't be used: this edge judges alone until it answers"
                    );
                }
                state.change(false, crate::clock::now());
                state.trouble = Some(text);
            }
        }
    }

    fn status(&self, both: &Both) -> FleetStatus {
        let member = self.member();
        let state = self.state();
        let (reports_sent, reports_heard) = member.counts();
        let Identity { sends, receives, .. } = *member.identity();
        let ignored = member.faults().by_label();
        FleetStatus {
            name: self.settings.config.name.clone(),
            node: self.settings.config.node.clone(),
            sends,
            receives,
            connected: state.connected,
            since: both.wall_at(state.since),
            trouble: state.trouble.clone(),
            server: state.server.clone(),
            clock_offset_seconds: member.offset(both).map(Offset),
            kept: member.kept(),
            lost: member.lost(),
            reports_sent,
            reports_heard,
            decisions_known: member.decisions(),
            history_sources: state.remembered,
            snapshots: state.snapshots,
            ignored: ignored.map(|(label, count)| Ignored { reason: label.to_owned(), count }).collect(),
            nodes: member.nodes(both),
        }
    }
}

/// Starts the thread.
fn start(settings: Settings, events: mpsc::Sender<Event>) -> std::io::Result<Running> {
    let config = &settings.config;
    let identity = Identity {
        fleet: config.name.clone(),
        node: config.node.clone(),
        seal: settings.seal.clone(),
        run: number(),
        sends: config.share.sends(),
        receives: config.share.receives(),
        sample: config.sample,
    };
    let shared = Arc::new(Shared {
        member: Mutex::new(Member::new(identity)),
        wake: Notify::new(),
        events,
        state: Mutex::new(State::new(crate::clock::now())),
        waiting: AtomicUsize::new(0),
        beat_now: AtomicBool::new(false),
        epoch: AtomicU64::new(0),
        settings,
    });
    let (stop, mut stopped) = watch::channel(());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = Arc::clone(&shared);
    std::thread::Builder::new().name("fleet".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                // The sender was dropped.
                _ = stopped.changed() => {}
                () = writer::run(&tasks) => {}
                () = reader::run(&tasks) => {}
            }
        });
        // A look-up that hangs isn't waited for.
        runtime.shutdown_background();
    })?;
    Ok(Running { shared, _stop: stop })
}

/// The pause after one of `last`.
fn longer(last: Duration) -> Duration {
    (last * 2).min(PAUSE.1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere can't leave it half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
