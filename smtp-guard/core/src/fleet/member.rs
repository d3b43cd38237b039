//! One edge as a member of its fleet: what it tells, and what it makes of what others tell.
//!
//! Whoever drives it asks for what is to be sent, and hands over what was read. Nothing is sealed before the server's time is known.
//!
//! Evidence is told at least once: what may not have arrived is sent again under the same number, and a number counts once. So is what
//! somebody repeats who can write to the server but doesn't have the key. Decisions need no numbers ([`super::merge`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::merge::{Merged, Mirror};
use super::message::{
    Batch, Count, Counted, Fault, History, Message, Record, Remembered, Said, Seal, Slot, Status, VOIDS, Void, Word,
    tie,
};
use super::mute::{Mute, Muted, limit};
use super::offset::Offset;
use super::outbox::{KEPT, Outbox, Waiting};
use super::status::{self, Faults, MutedView, NodeView};
use super::{BATCH, DAY, NODES, PART, REPORTS};
use crate::addr::Source;
use crate::clock::{Both, Instant, WallTime};
use crate::decision::{Decision, Name, Origin, Weight};
use crate::offence::{Conduct, Friend, Heard, Sum};

/// How far ahead of the server's time a message may be: a measured offset is wrong by half of a way to the server, in ms.
const AHEAD: i64 = 5_000;
/// How old evidence may be, in ms: what waited as long as it may, and then was on its way.
pub const OLD: i64 = KEPT.as_millis() as i64 + 60_000;
/// How long a tombstone lasts at least, in ms: an edge that was away for less can't bring a ban back.
const TOMBSTONE: i64 = 3_600_000;
/// The longest life of a record on the server, in ms.
const LONGEST: i64 = 3650 * 86_400_000;
/// In ms.
const MINUTE: i64 = 60_000;
/// Since when an edge is taken to be away, in ms.
pub const AWAY: i64 = 5_000;
/// Runs of an edge whose numbers are remembered.
const RUNS: usize = 4;

/// This edge's name, and what it shares.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The fleet's name.
    pub fleet: String,
    pub node: String,
    pub seal: Seal,
    /// A number that no other start of this edge has.
    pub run: u64,
    pub sends: bool,
    pub receives: bool,
    /// Evidence of decisions may name addresses.
    pub sample: bool,
}

/// This edge's knowledge of its fleet, and its messages that wait to be sent.
#[derive(Debug)]
pub struct Member {
    identity: Identity,
    outbox: Outbox<Change>,
    mirror: Mirror,
    mute: Mute,
    offset: Offset,
    peers: HashMap<String, Peer>,
    faults: Faults,
    /// What was counted here and waits to be told.
    counts: VecDeque<(Counted, Instant, Sum)>,
    number: u64,
    /// Taken, and perhaps not arrived.
    under_way: Option<(Vec<Waiting>, Vec<u8>)>,
    sent: u64,
    heard: u64,
    /// When it looked at statuses first, by the server's time.
    joined: Option<i64>,
}

/// A decision that waits.
#[derive(Clone, Debug)]
enum Change {
    /// Perhaps upon what that edge has reported.
    Ban(Box<Decision>, Option<Name>, Both),
    Lift {
        at: Instant,
        until: Instant,
    },
    /// Sealed already.
    Again(Outgoing),
}

/// A decision, to be put on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub source: String,
    pub slot: Slot,
    pub at: i64,
    pub tie: u32,
    /// When the server may forget it.
    pub until: i64,
    pub sealed: Arc<[u8]>,
}

#[derive(Clone, Debug, Default)]
struct Peer {
    /// The last number of each run, the newest run first.
    runs: VecDeque<(u64, u64)>,
    status: Option<Status>,
    /// When it was heard of last, by the server's time.
    heard: i64,
}

/// Evidence of another edge: of each source when, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    pub node: Name,
    pub reports: Vec<(String, Instant, Heard)>,
    /// The counts that it tells, and when they were made.
    pub counts: Vec<(Counted, Instant, Sum)>,
}

/// A decision of another edge, in this machine's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    Ban(Name, Decision),
    /// What was decided about a source before this moment is void.
    Lift(Name, String, Instant),
}

impl Member {
    /// A member that knows nothing yet.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            outbox: Outbox::default(),
            mirror: Mirror::default(),
            mute: Mute::default(),
            offset: Offset::default(),
            peers: HashMap::new(),
            faults: Faults::default(),
            counts: VecDeque::new(),
            number: 0,
            under_way: None,
            sent: 0,
            heard: 0,
            joined: None,
        }
    }

    /// The edge's name, and what it shares.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Another server answers, or the same one again.
    pub fn reconnected(&mut self) {
        self.offset.forget();
    }

    /// The server said that it is `server` ms.
    pub fn note_time(&mut self, asked: Instant, server: i64, heard: Instant) {
        self.offset.note(asked, server, heard);
    }

    /// The server's time at `at`.
    pub fn server(&self, at: Instant) -> Option<i64> {
        self.offset.server(at)
    }

    /// Tells others what `source` did; `false`: there is no room.
    pub fn report(&mut self, source: &str, at: Instant, conduct: &Conduct) -> bool {
        !self.identity.sends || self.outbox.report(source, at, conduct, &self.identity.seal.digests())
    }

    /// Tells others what was counted at `at`; `false`: there is no room.
    pub fn count(&mut self, who: Counted, at: Instant, sum: Sum) -> bool {
        let has_room = self.counts.len() < REPORTS;
        if self.identity.sends && has_room {
            self.counts.push_back((who, at, sum));
        }
        !self.identity.sends || has_room
    }

    /// Tells others of `decision`, which was made here, perhaps `upon` what that edge has reported; `false`: there is no room.
    pub fn decided(&mut self, decision: Decision, upon: Option<&Name>, now: Both) -> bool {
        let source = decision.source.clone();
        !self.identity.sends || self.outbox.change(&source, Change::Ban(Box::new(decision), upon.cloned(), now))
    }

    /// Tells others that what was decided about `source` is void from `at` on. `until`: how long it would have lasted.
    pub fn lifted(&mut self, source: &str, at: Instant, until: Instant) -> bool {
        !self.identity.sends || self.outbox.change(source, Change::Lift { at, until })
    }

    /// The server has lost what it held: what is lifted is told again, and what was decided counts as new when it is.
    pub fn server_forgot(&mut self, now: Instant) {
        self.mirror.keep_lifts();
        let Some(server) = self.offset.server(now).filter(|_| self.identity.sends) else { return };
        for sealed in self.mirror.lifts(server) {
            let Ok(Message::Record(record)) = self.identity.seal.open(&sealed) else { continue };
            if let Some(outgoing) = outgoing(&record, sealed, server) {
                self.outbox.put_change_back(outgoing.source.clone(), Change::Again(outgoing));
            }
        }
    }

    /// The next message of evidence at `now`, if there is one. The same again until [`Self::batch_arrived`] is told.
    pub fn next_batch(&mut self, now: Instant) -> Option<Vec<u8>> {
        if let Some((_, sealed)) = &self.under_way {
            return Some(sealed.clone());
        }
        let sent = self.offset.server(now)?;
        let taken = self.outbox.take(now);
        // What is older tells nobody anything for long; by then the server was away for minutes.
        self.counts.retain(|(_, at, _)| now.since(*at) < KEPT);
        let counts: Vec<_> = self.counts.drain(..self.counts.len().min(BATCH)).collect();
        if taken.is_empty() && counts.is_empty() {
            return None;
        }
        let counts = counts.into_iter().filter_map(|(who, at, Sum { messages, recipients })| {
            Some(Count { who, at: self.offset.server(at)?, messages, recipients })
        });
        let counts = counts.collect();
        let said = taken.iter().filter_map(|Waiting { source, at, what }| {
            Some(Said { source: source.clone(), at: self.offset.server(*at)?, what: what.clone() })
        });
        let reports = said.take(BATCH).collect();
        self.number += 1;
        let Identity { node, run, .. } = &self.identity;
        let batch = Batch { node: node.clone(), run: *run, number: self.number, sent, reports, counts };
        // All parts of it are bounded, so that it is never too long.
        let sealed = self.identity.seal.seal(&Message::Evidence(batch))?;
        self.under_way = Some((taken, sealed.clone()));
        Some(sealed)
    }

    /// The message that [`Self::next_batch`] gave is on the server.
    pub fn batch_arrived(&mut self) {
        if let Some((taken, _)) = self.under_way.take() {
            self.sent += taken.len() as u64;
        }
    }

    /// Gives up what is too old to be sent.
    fn give_up_old(&mut self, now: Instant) {
        let old = |taken: &[Waiting]| taken.last().is_some_and(|report| now.since(report.at) >= KEPT);
        if self.under_way.as_ref().is_some_and(|(taken, _)| old(taken)) {
            // Those that waited no longer than they may go with the next batch, under another number.
            let taken = self.under_way.take().map(|(taken, _)| taken).unwrap_or_default();
            self.outbox.put_back(taken);
        }
        self.outbox.expire(now);
    }

    /// At most `most` decisions for the server, which are no longer here.
    pub fn next_changes(&mut self, most: usize, now: Instant) -> Vec<Outgoing> {
        let Some(server) = self.offset.server(now) else { return Vec::new() };
        let mut changes = Vec::new();
        for (source, change) in self.outbox.take_changes(most) {
            match change {
                Change::Again(outgoing) => changes.push(outgoing),
                Change::Ban(decision, upon, both) => changes.extend(self.ban(*decision, upon, &both, server)),
                Change::Lift { at, until } => changes.extend(self.lift(source, at, until, server)),
            }
        }
        changes
    }

    /// These are not on the server yet.
    pub fn not_written(&mut self, changes: Vec<Outgoing>) {
        for change in changes {
            self.outbox.put_change_back(change.source.clone(), Change::Again(change));
        }
    }

    fn ban(&mut self, mut decision: Decision, upon: Option<Name>, both: &Both, now: i64) -> Option<Outgoing> {
        let of_server = |at| self.offset.server(both.instant_at(at));
        let (mut at, until) = (of_server(decision.made)?, of_server(decision.until)?);
        if decision.origin == Origin::Operator.label() {
            at = self.after_last(&decision.source, at);
        }
        decision.made = WallTime::from_ms(at);
        decision.until = WallTime::from_ms(until);
        if !self.identity.sample {
            decision.evidence.retain(|line| !line.contains('@'));
        }
        let upon = upon.map(|upon| upon.as_str().to_owned());
        self.record(Record { node: self.identity.node.clone(), at, word: Word::Ban(decision), upon }, now)
    }

    fn lift(&mut self, source: String, at: Instant, until: Instant, now: i64) -> Option<Outgoing> {
        let at = self.after_last(&source, self.offset.server(at)?);
        let known = self.mirror.last(&source).map_or(0, |(_, until)| until);
        let until =
            self.offset.server(until)?.max(known).clamp(at.saturating_add(TOMBSTONE), at.saturating_add(LONGEST));
        self.record(
            Record { node: self.identity.node.clone(), at, word: Word::Lift { source, until }, upon: None },
            now,
        )
    }

    /// An operator's word stands against what he knew, whoever's clock is ahead.
    fn after_last(&self, source: &str, at: i64) -> i64 {
        self.mirror.last(source).map_or(at, |(last, _)| at.max(last.saturating_add(1)))
    }

    fn record(&mut self, record: Record, now: i64) -> Option<Outgoing> {
        let sealed: Arc<[u8]> = self.identity.seal.seal(&Message::Record(Box::new(record.clone())))?.into();
        // Others' newer word is on the server already.
        match self.mirror.merge(&record, &sealed, tie(&sealed), now) {
            Merged::Follow | Merged::Full => outgoing(&record, sealed, now),
            Merged::Old | Merged::Over => None,
        }
    }

    /// Reads evidence from the message `sealed`; `None`: this edge has sent it.
    pub fn hear_evidence(&mut self, sealed: &[u8], now: Instant) -> Result<Option<Evidence>, Fault> {
        let heard = self.judge_evidence(sealed, now);
        if let Err(fault) = heard {
            self.faults.note(fault);
        }
        heard
    }

    fn judge_evidence(&mut self, sealed: &[u8], now: Instant) -> Result<Option<Evidence>, Fault> {
        let Message::Evidence(batch) = self.identity.seal.open(sealed)? else { return Err(Fault::Content) };
        if batch.node == self.identity.node && batch.run == self.identity.run {
            return Ok(None);
        }
        let server = self.offset.server(now).ok_or(Fault::Future)?;
        if batch.sent > server.saturating_add(AHEAD) {
            return Err(Fault::Future);
        }
        if batch.sent < server.saturating_sub(OLD) {
            return Err(Fault::Repeated);
        }
        let peer = peer(&mut self.peers, &batch.node, server).ok_or(Fault::Content)?;
        if !peer.is_next(batch.run, batch.number) {
            return Err(Fault::Repeated);
        }
        if self.mute.is_muted(&batch.node, server) {
            return Err(Fault::Muted);
        }
        let node = Name::new(&batch.node);
        let mut reports = Vec::with_capacity(batch.reports.len());
        for Said { source, at, what } in batch.reports {
            if at < server.saturating_sub(OLD) || self.mirror.is_forgiven(&source, at) {
                continue;
            }
            let Some((at, heard)) = self.offset.here(at).zip(what.heard()) else { continue };
            reports.push((source, at.min(now), heard));
        }
        self.heard += reports.len() as u64;
        let count = |count: Count| {
            let Count { who, at, messages, recipients } = count;
            let at = self.offset.here(at).filter(|_| at >= server.saturating_sub(OLD))?;
            Some((who, at.min(now), Sum { messages, recipients }))
        };
        let counts = batch.counts.into_iter().filter_map(count).collect();
        Ok(Some(Evidence { node, reports, counts }))
    }

    /// Reads a decision from the message `sealed`, which was [opened](Seal::open); `None`: nothing is to be done. `is_live`: it was
    /// decided just now, and isn't read from what the server holds.
    pub fn hear_record(
        &mut self,
        opened: Result<Message, Fault>,
        sealed: &[u8],
        is_live: bool,
        both: &Both,
    ) -> Result<Option<Decided>, Fault> {
        let heard = opened.and_then(|message| self.judge_record(message, sealed, is_live, both));
        if let Err(fault) = heard {
            self.faults.note(fault);
        }
        heard
    }

    fn judge_record(
        &mut self,
        message: Message,
        sealed: &[u8],
        is_live: bool,
        both: &Both,
    ) -> Result<Option<Decided>, Fault> {
        let Message::Record(record) = message else { return Err(Fault::Content) };
        let server = self.offset.server(both.instant).ok_or(Fault::Future)?;
        if record.at > server.saturating_add(AHEAD) {
            return Err(Fault::Future);
        }
        let is_own = record.node == self.identity.node;
        // What is read of the server may be of many that have left.
        if is_live && !is_own && peer(&mut self.peers, &record.node, server).is_none() {
            return Err(Fault::Content);
        }
        let is_void = |node: &str| {
            node != self.identity.node && self.mute.is_void(node, record.at, server)
                || !is_live && self.is_said_to_be_void(node, record.at)
        };
        // A lift bans nobody, but who isn't listened to may not say so either.
        if is_void(&record.node) || record.upon.as_deref().is_some_and(is_void) {
            return Err(Fault::Muted);
        }
        if self.mirror.merge(&record, sealed, tie(sealed), server) != Merged::Follow {
            return Ok(None);
        }
        let node = Name::new(&record.node);
        let here = |at: i64| self.offset.here(at).ok_or(Fault::Future);
        Ok(Some(match record.word {
            Word::Lift { source, .. } => Decided::Lift(node, source, here(record.at)?),
            Word::Ban(ban) => {
                let wall = |at: WallTime| Ok(both.wall_at(here(at.as_ms())?));
                let (made, until) = (wall(ban.made)?, wall(ban.until)?);
                Decided::Ban(node, Decision { made, until, ..ban })
            }
        }))
    }

    /// Whether another edge than `node` says that what `node` decided at `at` is void. It holds for what an edge finds on the server when
    /// it starts: where that was wrong, the edge judges alone for a while.
    fn is_said_to_be_void(&self, node: &str, at: i64) -> bool {
        let others = self.peers.iter().filter(|(name, _)| *name != node).filter_map(|(_, peer)| peer.status.as_ref());
        others.flat_map(|status| &status.void).any(|void| void.node == node && void.since <= at && at < void.until)
    }

    /// Bans of `node`, made at these times, were followed here and weigh so; `is_live` as above. What of it is void by that, from one
    /// moment to another: it decides too much.
    pub fn note_followed(
        &mut self,
        node: &str,
        bans: impl IntoIterator<Item = (WallTime, Weight)>,
        is_live: bool,
        both: &Both,
    ) -> Vec<(Instant, Instant)> {
        let Some(server) = self.offset.server(both.instant).filter(|_| node != self.identity.node) else {
            return Vec::new();
        };
        let mut void = Vec::new();
        for (made, weight) in bans {
            let at = self.offset.server(both.instant_at(made)).unwrap_or(server);
            void.extend(if is_live {
                self.mute.note(node, weight, 1, at, server)
            } else {
                self.mute.note_held(node, weight, at, server)
            });
        }
        void.into_iter().filter_map(|(from, to)| self.offset.here(from).zip(self.offset.here(to))).collect()
    }

    /// All that the server holds was read.
    pub fn has_read_all(&mut self) {
        self.mute.forget_held();
    }

    /// These bans were made here upon what `node` reported: it may decide by others as well. What is void by that.
    pub fn note_caused(&mut self, node: &str, bans: &[Weight], both: &Both) -> Vec<(Instant, Instant)> {
        self.note_followed(node, bans.iter().map(|weight| (both.wall, *weight)), true, both)
    }

    /// A part of what this edge remembers of sources whose mail is accepted, for those that start later.
    pub fn history(&self, friends: &[Friend], now: Instant) -> Option<Vec<u8>> {
        let minute = |at| self.offset.server(at).and_then(|at| u32::try_from(at / MINUTE).ok());
        let remembered =
            |friend: &Friend| Some(Remembered(friend.source.0, friend.aged, friend.accepted, minute(friend.latest)?));
        let sources = friends.iter().take(PART).filter_map(remembered).collect();
        let history = History { node: self.identity.node.clone(), at: self.offset.server(now)?, sources };
        self.identity.seal.seal(&Message::History(history))
    }

    /// Reads the history of an edge from a message which was [opened](Seal::open). It may be this one before it was started again.
    pub fn hear_history(&mut self, opened: Result<Message, Fault>, now: Instant) -> Result<(Name, Vec<Friend>), Fault> {
        let heard = opened.and_then(|message| self.judge_history(message, now));
        if let Err(fault) = heard {
            self.faults.note(fault);
        }
        heard
    }

    fn judge_history(&self, message: Message, now: Instant) -> Result<(Name, Vec<Friend>), Fault> {
        let Message::History(History { node, at, sources }) = message else { return Err(Fault::Content) };
        let server = self.offset.server(now).ok_or(Fault::Future)?;
        if at > server.saturating_add(AHEAD) {
            return Err(Fault::Future);
        }
        if has_left(at, server) {
            return Err(Fault::Repeated);
        }
        let is_other = node != self.identity.node;
        if is_other && self.mute.is_void(&node, at, server) || self.is_said_to_be_void(&node, at) {
            return Err(Fault::Muted);
        }
        let friend = |Remembered(source, aged, accepted, minute)| {
            let latest = self.offset.here(i64::from(minute) * MINUTE)?.min(now);
            Some(Friend { source: Source(source), aged, accepted, latest })
        };
        Ok((Name::new(&node), sources.into_iter().filter_map(friend).collect()))
    }

    /// Edges that this one doesn't listen to.
    pub fn muted(&self, now: Instant) -> Vec<String> {
        self.offset.server(now).map(|server| self.mute.muted(server)).unwrap_or_default()
    }

    /// Forgets `sources`: the next word about each counts.
    pub fn forget<'a>(&mut self, sources: impl IntoIterator<Item = &'a str>) {
        self.mirror.forget(sources);
    }

    /// Takes note of how another edge says that it is; `false`: it left more than a day ago.
    pub fn hear_status(&mut self, sealed: &[u8], now: Instant) -> Result<bool, Fault> {
        let heard = self.judge_status(sealed, now);
        if let Err(fault) = heard {
            self.faults.note(fault);
        }
        heard
    }

    fn judge_status(&mut self, sealed: &[u8], now: Instant) -> Result<bool, Fault> {
        let Message::Status(status) = self.identity.seal.open(sealed)? else { return Err(Fault::Content) };
        let server = self.offset.server(now).ok_or(Fault::Future)?;
        if status.at > server.saturating_add(AHEAD) {
            return Err(Fault::Future);
        }
        if has_left(status.at, server) {
            return Ok(false);
        }
        // What an earlier run of this edge has said is older, but for what both were wrong about the server's time.
        let joined = *self.joined.get_or_insert(server);
        let is_later = status.at > joined.saturating_add(AHEAD);
        if status.node == self.identity.node && status.run != self.identity.run && is_later {
            return Err(Fault::Name);
        }
        let peer = peer(&mut self.peers, &status.node, status.at).ok_or(Fault::Content)?;
        peer.status = Some(*status);
        Ok(true)
    }

    /// Live edges that haven't followed something, by name: those whose cursor says so, where they have one, and those that don't
    /// listen to this one.
    pub fn unconfirmed(&self, now: Instant, has_followed: impl Fn(&str) -> bool) -> Vec<String> {
        let (server, own) = (self.offset.server(now).unwrap_or_default(), &self.identity.node);
        let lags = |status: &&Status| {
            let follows = !status.cursor.is_empty();
            let is_there = is_live(status, server) && status.node != *own;
            is_there && follows && (!has_followed(&status.cursor) || status.muted.contains(own))
        };
        let lagging = self.peers.values().filter_map(|peer| peer.status.as_ref()).filter(lags);
        let mut names: Vec<_> = lagging.map(|status| status.node.clone()).collect();
        names.sort_unstable();
        names
    }

    /// How this edge is, for others. `cursor`: what it has followed, if it does.
    pub fn status(&self, version: &str, cursor: &str, both: &Both) -> Option<Vec<u8>> {
        let status = Status {
            node: self.identity.node.clone(),
            run: self.identity.run,
            version: version.to_owned(),
            at: self.offset.server(both.instant)?,
            offset: self.offset.of_wall(both)?,
            cursor: if self.identity.receives { cursor.to_owned() } else { String::new() },
            muted: self.muted(both.instant),
            kept: self.kept(),
            lost: self.outbox.lost(),
            void: self
                .mute
                .void(VOIDS)
                .map(|(node, (since, until))| Void { node: node.to_owned(), since, until })
                .collect(),
        };
        self.identity.seal.seal(&Message::Status(Box::new(status)))
    }

    /// All edges of the fleet that were heard of, this one included, by name.
    pub fn nodes(&self, both: &Both) -> Vec<NodeView> {
        let server = self.offset.server(both.instant).unwrap_or_default();
        let here = |at| self.offset.here(at).map_or(both.wall, |at| both.wall_at(at));
        let muted = |Muted { since, until, decisions, weight }| {
            let most = limit(weight).unwrap_or_default();
            let text = match weight {
                Weight::Friend => {
                    format!("it banned {decisions} sources in a minute whose mail is accepted; {most} are the most")
                }
                Weight::Nothing | Weight::Unseen | Weight::Seen => {
                    format!("it made {decisions} decisions in a minute; {most} are the most")
                }
            };
            MutedView { since: here(since), until: here(until), text }
        };
        let view = |status: &Status| NodeView {
            name: status.node.clone(),
            program_version: status.version.clone(),
            silent_seconds: status::length(server.saturating_sub(status.at)),
            live: is_live(status, server),
            clock_offset_seconds: status::Offset(status.offset),
            cursor: status.cursor.clone(),
            muted: self.mute.of(&status.node, server).map(muted),
            ignores: status.muted.clone(),
            kept: status.kept,
            lost: status.lost,
        };
        let mut nodes: Vec<_> = self.peers.values().filter_map(|peer| peer.status.as_ref()).map(view).collect();
        nodes.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        nodes
    }

    /// Sources that the server holds with their ends and this edge doesn't know.
    pub fn missing<'a>(&self, found: impl IntoIterator<Item = (&'a str, i64)>, now: Instant) -> Vec<&'a str> {
        let server = self.offset.server(now).unwrap_or_default();
        self.mirror.missing(found, server)
    }

    /// Forgets what has ended.
    pub fn sweep(&mut self, now: Instant) {
        self.give_up_old(now);
        if let Some(server) = self.offset.server(now) {
            self.mirror.expire(server);
            self.mute.expire(server);
            self.peers.retain(|_, peer| !has_left(peer.heard, server));
        }
    }

    /// Whether something waits that is to be sent at once.
    pub fn is_urgent(&self) -> bool {
        self.outbox.is_urgent()
    }

    /// Reports and decisions that wait.
    pub fn kept(&self) -> u64 {
        let under_way = self.under_way.as_ref().map_or(0, |(taken, _)| taken.len());
        (self.outbox.reports() + self.counts.len() + self.outbox.changes() + under_way) as u64
    }

    /// The number of messages that found no room, or waited for too long.
    pub fn lost(&self) -> u64 {
        self.outbox.lost()
    }

    /// Reports that were sent, and reports of others that were heard.
    pub fn counts(&self) -> (u64, u64) {
        (self.sent, self.heard)
    }

    /// Sources about which something is decided.
    pub fn decisions(&self) -> u64 {
        self.mirror.len() as u64
    }

    /// Messages that were ignored.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// This wall clock less the server's, in ms.
    pub fn offset(&self, both: &Both) -> Option<i64> {
        self.offset.of_wall(both)
    }
}

fn outgoing(record: &Record, sealed: Arc<[u8]>, now: i64) -> Option<Outgoing> {
    Some(Outgoing {
        source: record.source().to_owned(),
        slot: record.slot()?,
        at: record.at,
        tie: tie(&sealed),
        until: record.until().min(now.saturating_add(LONGEST)),
        sealed,
    })
}

/// The edge `node`, of which was heard at `at`; `None`: there are too many.
fn peer<'a>(peers: &'a mut HashMap<String, Peer>, node: &str, at: i64) -> Option<&'a mut Peer> {
    if peers.len() >= NODES && !peers.contains_key(node) {
        return None;
    }
    let peer = peers.entry(node.to_owned()).or_default();
    peer.heard = peer.heard.max(at);
    Some(peer)
}

/// Whether an edge of which was heard at `at` is forgotten at `now`.
fn has_left(at: i64, now: i64) -> bool {
    now.saturating_sub(at) > DAY
}

fn is_live(status: &Status, now: i64) -> bool {
    now.saturating_sub(status.at) < AWAY
}

impl Peer {
    /// Whether the batch `number` of `run` wasn't heard yet. Numbers of a run come in their order.
    fn is_next(&mut self, run: u64, number: u64) -> bool {
        if let Some((_, last)) = self.runs.iter_mut().find(|(known, _)| *known == run) {
            let next = number > *last;
            *last = number.max(*last);
            return next;
        }
        self.runs.push_front((run, number));
        self.runs.truncate(RUNS);
        true
    }
}

#[cfg(test)]
mod tests;
