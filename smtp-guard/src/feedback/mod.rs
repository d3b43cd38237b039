//! The loop's middle: reports of sessions come in, bans go out to both planes.
//!
//! One task owns the ledger and the decisions and is the only one that bans. Sessions report and go on: a full channel
//! drops the report and counts it. The command line asks through a second, small channel.
//!
//! When the rule asks for a ban, `keeper/perform.rs` has the order of its steps. Nothing that can wait comes before the kernel
//! map.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::addr::Source;
use crate::bound::Bound;
use crate::clock::{Both, Instant};
use crate::decision::{
    ControlError, Decision, Entry, Explanation, Imported, Kept, Name, Operator, PART, Part, Suspect, Weight,
};
use crate::edge::bans::BanTable;
use crate::events::What;
use crate::gate::Ignored;
use crate::key::User;
use crate::key::Who;
use crate::ledger::Friend;
use crate::marks::Marks;
use crate::offence::{Conduct, Digest, Heard, Report, ReportKind};
use crate::rates::accounts::AccountView;
use crate::rates::{Counters, Sum};
use crate::snapshot::Snapshot;
use crate::store::Store;

mod keeper;

use keeper::Keeper;

/// Reports that wait for the ledger.
const REPORTS: usize = 65_536;
/// Questions of the command line that wait.
const CONTROLS: usize = 64;
/// How long an operator waits for the disk.
const DISK: Duration = Duration::from_secs(2);
/// How often expired bans are swept and unsaved ones are tried again.
const SWEEP: Duration = Duration::from_secs(1);

/// Counts and tells, implemented over metrics and event bus.
pub trait Meter: Send + Sync + 'static {
    /// A report has come.
    fn reported(&self, kind: ReportKind);
    /// Something happened: it is counted by its kind, and subscribers hear of it.
    fn tell(&self, what: What);
    /// A report that found the channel full.
    fn report_lost(&self);
    /// From the report that crossed the line to the ban in force in both planes.
    fn ban_latency(&self, time: Duration);
    /// A decision of another guard entered, or is ignored, and why.
    fn foreign(&self, ignored: Option<Ignored>);
    /// A bound was reached.
    fn bound_reached(&self, bound: Bound);
}

/// Other guards, who are told what happens here. Nothing waits for them.
pub trait Peers: Send + Sync + 'static {
    /// Whether there are any.
    fn are_there(&self) -> bool;
    /// A source, as text, did something at this moment.
    fn reported(&self, source: &str, at: Instant, conduct: &Conduct);
    /// So much was counted of a source, as text, or of a user by the digest of his name.
    fn counted(&self, who: Result<&str, Digest>, at: Instant, sum: Sum);
    /// A ban was made here, perhaps upon what that guard has reported.
    fn decided(&self, decision: Decision, upon: Option<&Name>, now: Both);
    /// The operator lifted what was decided about a source or a network; it would have lasted until then.
    fn lifted(&self, source: &str, now: Both, until: Instant);
}

/// No other guards.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Peers for Alone {
    fn are_there(&self) -> bool {
        false
    }

    fn reported(&self, _: &str, _: Instant, _: &Conduct) {}

    fn counted(&self, _: Result<&str, Digest>, _: Instant, _: Sum) {}

    fn decided(&self, _: Decision, _: Option<&Name>, _: Both) {}

    fn lifted(&self, _: &str, _: Both, _: Instant) {}
}

/// The handle of the task. Cheap to clone; the task ends when the last one is gone.
#[derive(Clone)]
pub struct Feedback {
    reports: mpsc::Sender<Report>,
    controls: mpsc::Sender<Control>,
    meter: Arc<dyn Meter>,
    marks: Arc<Marks>,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for Feedback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feedback").finish_non_exhaustive()
    }
}

/// Where a source stands among those whose mail is accepted.
pub type Place = (Instant, Source);

/// The account that was changed, and what resolves when the change is on disk.
type Done = (AccountView, oneshot::Receiver<()>);

enum Control {
    Decisions {
        after: Option<String>,
        answer: oneshot::Sender<Result<Part, ControlError>>,
    },
    Latest(oneshot::Sender<Vec<Decision>>),
    Suspects(oneshot::Sender<Vec<Suspect>>),
    Add {
        who: Who,
        length: Duration,
        text: String,
        by: Operator,
        answer: oneshot::Sender<Result<Kept<Decision>, ControlError>>,
    },
    Import {
        file: Name,
        entries: Vec<Entry>,
        text: String,
        by: Operator,
        answer: oneshot::Sender<Kept<Imported>>,
    },
    Foreign {
        node: Name,
        decisions: Vec<Decision>,
        answer: oneshot::Sender<Vec<Weight>>,
    },
    ForeignLifts {
        node: Name,
        lifts: Vec<(String, Instant)>,
        answer: oneshot::Sender<usize>,
    },
    Hear {
        node: Name,
        reports: Vec<(String, Instant, Heard)>,
        answer: oneshot::Sender<Vec<Weight>>,
    },
    Void {
        node: Name,
        from: Instant,
        to: Instant,
        answer: oneshot::Sender<Vec<String>>,
    },
    Count {
        counts: Vec<(Result<String, Digest>, Instant, Sum)>,
        answer: oneshot::Sender<()>,
    },
    Friends {
        after: Option<Place>,
        most: usize,
        answer: oneshot::Sender<(Vec<Friend>, Option<Place>)>,
    },
    Befriend {
        friends: Vec<Friend>,
        answer: oneshot::Sender<usize>,
    },
    TellAll(oneshot::Sender<()>),
    Delete {
        who: Who,
        by: Operator,
        answer: oneshot::Sender<Result<Option<Kept<Decision>>, ControlError>>,
    },
    DeleteAll {
        by: Operator,
        answer: oneshot::Sender<Kept<usize>>,
    },
    Explain {
        ip: IpAddr,
        answer: oneshot::Sender<Explanation>,
    },
    Hold {
        user: User,
        length: Option<Duration>,
        text: String,
        by: Operator,
        answer: oneshot::Sender<Result<Done, ControlError>>,
    },
    Release {
        user: User,
        by: Operator,
        answer: oneshot::Sender<Option<Done>>,
    },
    Apply {
        snapshot: Arc<Snapshot>,
        answer: oneshot::Sender<()>,
    },
    Alive(oneshot::Sender<()>),
    Close,
}

impl Feedback {
    /// Tells the ledger. Never blocks.
    pub fn report(&self, report: Report) {
        match self.reports.try_send(report) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => self.meter.report_lost(),
        }
    }

    /// The marks: what sessions may know of the ledger.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// The counters of sources.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The decisions in force behind the [place](crate::gate::Place) `after`, at most [`PART`]: others wait for a few
    /// milliseconds, however many there are.
    pub async fn decisions(&self, after: Option<String>) -> Result<Part, ControlError> {
        self.ask(|answer| Control::Decisions { after, answer }).await?
    }

    /// The latest bans in force, the last one first, at most [`crate::decision::LATEST`]. Costs the same however many there are.
    pub async fn latest(&self) -> Result<Vec<Decision>, ControlError> {
        self.ask(Control::Latest).await
    }

    /// The sources that offended last, the worst first, at most [`crate::decision::LATEST`].
    pub async fn suspects(&self) -> Result<Vec<Suspect>, ControlError> {
        self.ask(Control::Suspects).await
    }

    /// Bans `who` for `length`, in place of a ban that it has. The answer comes once the decision is on disk, or after
    /// [`DISK`].
    pub async fn add(
        &self,
        who: Who,
        length: Duration,
        text: String,
        by: Operator,
    ) -> Result<Kept<Decision>, ControlError> {
        self.ask(|answer| Control::Add { who, length, text, by, answer }).await?
    }

    /// Bans all that `entries` of `file` are about, `text` saying why where they don't. Meant for a few thousand at once: others
    /// wait.
    pub async fn import(
        &self,
        file: Name,
        entries: Vec<Entry>,
        text: String,
        by: Operator,
    ) -> Result<Kept<Imported>, ControlError> {
        self.ask(|answer| Control::Import { file, entries, text, by, answer }).await
    }

    /// Follows `decisions` of the guard `node`, where nothing here is against them; what each of them weighs. Meant for a few thousand
    /// at once: others wait.
    pub async fn hear_of(&self, node: Name, decisions: Vec<Decision>) -> Result<Vec<Weight>, ControlError> {
        self.ask_in_turn(|answer| Control::Foreign { node, decisions, answer }).await
    }

    /// Follows the lifts of the guard `node`, each with the source or network and when that was; how many those are.
    pub async fn hear_lifts(&self, node: Name, lifts: Vec<(String, Instant)>) -> Result<usize, ControlError> {
        self.ask_in_turn(|answer| Control::ForeignLifts { node, lifts, answer }).await
    }

    /// Takes note of what the guard `node` reports, each time of which source, when, and what; what each ban weighs that follows. Meant
    /// for a few hundred at once: others wait.
    pub async fn hear(&self, node: Name, reports: Vec<(String, Instant, Heard)>) -> Result<Vec<Weight>, ControlError> {
        self.ask_in_turn(|answer| Control::Hear { node, reports, answer }).await
    }

    /// Lifts what the guard `node` has decided between two moments, and what was decided here upon its reports; of which sources and
    /// networks its own decisions were.
    pub async fn void(&self, node: Name, from: Instant, to: Instant) -> Result<Vec<String>, ControlError> {
        self.ask_in_turn(|answer| Control::Void { node, from, to, answer }).await
    }

    /// Takes note of what another guard has counted, of sources as text and of users by the digests of their names.
    pub async fn count(&self, counts: Vec<(Result<String, Digest>, Instant, Sum)>) -> Result<(), ControlError> {
        self.ask_in_turn(|answer| Control::Count { counts, answer }).await
    }

    /// At most `most` sources whose mail is accepted, the latest first, behind `after`; and the place of the last one, if there may be
    /// more. Meant for a few thousand at once: others wait.
    pub async fn friends(
        &self,
        after: Option<Place>,
        most: usize,
    ) -> Result<(Vec<Friend>, Option<Place>), ControlError> {
        self.ask_in_turn(|answer| Control::Friends { after, most, answer }).await
    }

    /// Takes note of sources that another guard remembers; how many are familiar by that. Meant for a few thousand at once: others wait.
    pub async fn befriend(&self, friends: Vec<Friend>) -> Result<usize, ControlError> {
        self.ask_in_turn(|answer| Control::Befriend { friends, answer }).await
    }

    /// Tells other guards of all that was decided here and is in force.
    pub async fn tell_all(&self) -> Result<(), ControlError> {
        self.ask_in_turn(Control::TellAll).await
    }

    /// Lifts the ban of `who` and forgets what was held against it.
    pub async fn delete(&self, who: Who, by: Operator) -> Result<Option<Kept<Decision>>, ControlError> {
        self.ask(|answer| Control::Delete { who, by, answer }).await?
    }

    /// Lifts all bans; how many there were.
    pub async fn delete_all(&self, by: Operator) -> Result<Kept<usize>, ControlError> {
        self.ask(|answer| Control::DeleteAll { by, answer }).await
    }

    /// All that is known of `ip`.
    pub async fn explain(&self, ip: IpAddr) -> Result<Explanation, ControlError> {
        self.ask(|answer| Control::Explain { ip, answer }).await
    }

    /// Holds `user` for `length`, or until he is released. When this returns it is on disk, or the disk takes its time.
    pub async fn hold(
        &self,
        user: User,
        length: Option<Duration>,
        text: String,
        by: Operator,
    ) -> Result<AccountView, ControlError> {
        let done = self.ask(|answer| Control::Hold { user, length, text, by, answer }).await?;
        Ok(on_disk(done?).await)
    }

    /// Forgets what is counted of `user`, and his hold; what it was.
    pub async fn release(&self, user: User, by: Operator) -> Result<Option<AccountView>, ControlError> {
        match self.ask(|answer| Control::Release { user, by, answer }).await? {
            Some(done) => Ok(Some(on_disk(done).await)),
            None => Ok(None),
        }
    }

    /// Judges by `snapshot` from here on. Bans of whom it exempts are lifted in both planes when this returns.
    pub async fn apply(&self, snapshot: Arc<Snapshot>) -> Result<(), ControlError> {
        self.ask(|answer| Control::Apply { snapshot, answer }).await
    }

    /// Whether the task answers. Waits for what it was asked before.
    pub async fn is_alive(&self) -> bool {
        self.ask(Control::Alive).await.is_ok()
    }

    /// Ends the task, whoever still holds a handle: what was counted is saved. Reports after it are dropped.
    pub async fn close(&self) {
        // An error means that it has ended.
        let _ = self.controls.send(Control::Close).await;
    }

    /// Waits for room: another guard's word must not be lost because operators ask much.
    async fn ask_in_turn<T>(&self, control: impl FnOnce(oneshot::Sender<T>) -> Control) -> Result<T, ControlError> {
        let (sender, answer) = oneshot::channel();
        let stopped = ControlError::Unavailable("it has stopped");
        if self.controls.send(control(sender)).await.is_err() {
            return Err(stopped);
        }
        answer.await.map_err(|_| stopped)
    }

    async fn ask<T>(&self, control: impl FnOnce(oneshot::Sender<T>) -> Control) -> Result<T, ControlError> {
        let (sender, answer) = oneshot::channel();
        self.controls.try_send(control(sender)).map_err(|error| match error {
            TrySendError::Full(_) => ControlError::Unavailable("too many questions wait"),
            TrySendError::Closed(_) => ControlError::Unavailable("it has stopped"),
        })?;
        answer.await.map_err(|_| ControlError::Unavailable("it has stopped"))
    }
}

/// Waits a moment for the disk: it is in force all the same.
async fn on_disk((view, written): Done) -> AccountView {
    let _ = tokio::time::timeout(DISK, written).await;
    view
}

/// Starts the task. Bans of the store and of the kernel map are in force when this returns, and what was counted is
/// there again.
pub fn start(
    snapshot: Arc<Snapshot>,
    bans: Arc<BanTable>,
    store: Box<dyn Store>,
    meter: Arc<dyn Meter>,
    peers: Arc<dyn Peers>,
) -> (Feedback, JoinHandle<()>) {
    let (reports, report_queue) = mpsc::channel(REPORTS);
    let (controls, control_queue) = mpsc::channel(CONTROLS);
    let marks = Arc::new(Marks::default());
    let counters = Arc::new(Counters::new(snapshot.config()));
    let mut keeper =
        Keeper::new(snapshot, bans, store, Arc::clone(&meter), peers, Arc::clone(&marks), Arc::clone(&counters));
    keeper.restore();
    let task = tokio::spawn(run(keeper, report_queue, control_queue));
    (Feedback { reports, controls, meter, marks, counters }, task)
}

async fn run(mut keeper: Keeper, mut reports: mpsc::Receiver<Report>, mut controls: mpsc::Receiver<Control>) {
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            report = reports.recv() => match report {
                Some(report) => keeper.on_report(report),
                // Controls live in the same handles: there is nobody left.
                None => break,
            },
            Some(control) = controls.recv() => match control {
                Control::Close => break,
                control => answer(&mut keeper, control),
            },
            _ = sweep.tick() => keeper.sweep(),
        }
    }
    // What was reported before the end counts.
    reports.close();
    while let Ok(report) = reports.try_recv() {
        keeper.on_report(report);
    }
    // The store is written to its end, which may take the disk a while.
    let _ = tokio::task::spawn_blocking(move || keeper.close()).await;
}

fn answer(keeper: &mut Keeper, control: Control) {
    // Whoever asked may have gone away meanwhile.
    let _ = match control {
        Control::Decisions { after, answer } => answer.send(keeper.decisions(after.as_deref(), PART)).map_err(drop),
        Control::Latest(answer) => answer.send(keeper.latest()).map_err(drop),
        Control::Suspects(answer) => answer.send(keeper.suspects()).map_err(drop),
        Control::Add { who, length, text, by, answer } => match keeper.add(who, length, text, by) {
            Ok(decision) => once_written(keeper, decision, move |kept| drop(answer.send(Ok(kept)))),
            Err(error) => answer.send(Err(error)).map_err(drop),
        },
        Control::Import { file, entries, text, by, answer } => {
            let imported = keeper.import(file, entries, &text, by);
            once_written(keeper, imported, move |kept| drop(answer.send(kept)))
        }
        Control::Foreign { node, decisions, answer } => answer.send(keeper.hear_of(&node, &decisions)).map_err(drop),
        Control::ForeignLifts { node, lifts, answer } => answer.send(keeper.hear_lifts(&node, &lifts)).map_err(drop),
        Control::Hear { node, reports, answer } => answer.send(keeper.hear(&node, reports)).map_err(drop),
        Control::Void { node, from, to, answer } => answer.send(keeper.void(&node, from, to)).map_err(drop),
        Control::Count { counts, answer } => {
            keeper.hear_counts(counts);
            answer.send(())
        }
        Control::Friends { after, most, answer } => answer.send(keeper.friends(after, most)).map_err(drop),
        Control::Befriend { friends, answer } => answer.send(keeper.befriend(&friends)).map_err(drop),
        Control::TellAll(answer) => {
            keeper.tell_all();
            answer.send(())
        }
        Control::Delete { who, by, answer } => match keeper.delete(who, by) {
            Ok(Some(lifted)) => once_written(keeper, lifted, move |kept| drop(answer.send(Ok(Some(kept))))),
            Ok(None) => answer.send(Ok(None)).map_err(drop),
            Err(error) => answer.send(Err(error)).map_err(drop),
        },
        Control::DeleteAll { by, answer } => {
            let lifted = keeper.delete_all(by);
            once_written(keeper, lifted, move |kept| drop(answer.send(kept)))
        }
        Control::Explain { ip, answer } => answer.send(keeper.explain(ip)).map_err(drop),
        Control::Hold { user, length, text, by, answer } => {
            answer.send(keeper.hold(user, length, text, by)).map_err(drop)
        }
        Control::Release { user, by, answer } => answer.send(keeper.release(&user, by)).map_err(drop),
        Control::Apply { snapshot, answer } => {
            keeper.adopt_snapshot(snapshot);
            answer.send(()).map_err(drop)
        }
        Control::Alive(answer) => answer.send(()),
        Control::Close => Ok(()),
    };
}

/// Answers when what was changed is on disk, or when it takes too long, without keeping the task.
fn once_written<T: Send + 'static>(
    keeper: &Keeper,
    what: T,
    answer: impl FnOnce(Kept<T>) + Send + 'static,
) -> Result<(), ()> {
    let written = keeper.written();
    tokio::spawn(async move {
        let saved = match written {
            Some(written) => matches!(tokio::time::timeout(DISK, written).await, Ok(Ok(()))),
            None => false,
        };
        answer(Kept { what, saved, unconfirmed: Vec::new() });
    });
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
