//! Several edges with one site behind them: connections come to them in turn. Guards of a fleet hear each other at once, through what
//! edges really say: sealed messages.

use std::net::IpAddr;

use smtp_guard::clock::Instant;
use smtp_guard_core::fleet::member::{Evidence, Identity, Member};
use smtp_guard_core::fleet::message::Seal;

use crate::gate::{Backend, Gate, Heard, Id, Line, Sanctions};
use crate::guard::Guard;
use crate::model::Site;

/// Edges that know nothing of each other, or guards of one fleet.
pub(crate) struct Edges<G> {
    gates: Vec<G>,
    /// Of a fleet, one for each edge.
    members: Vec<Member>,
    sanctions: Sanctions,
}

impl<G: Gate> Edges<G> {
    /// As many as `site` has, of which none knows another.
    pub(crate) fn alone(site: &Site, new: impl Fn() -> G) -> Self {
        let gates = (0..site.edges).map(|_| new()).collect();
        Self { gates, members: Vec::new(), sanctions: Sanctions::default() }
    }

    fn gate(&self, id: Id) -> &G {
        &self.gates[id % self.gates.len()]
    }

    fn act<T>(&mut self, id: Id, act: impl FnOnce(&mut G) -> T) -> T {
        let number = id % self.gates.len();
        act(&mut self.gates[number])
    }

    /// What all did together: the first to act counts, and the edge that acted most often.
    fn count(&mut self) {
        let all = self.gates.iter().map(Gate::sanctions);
        self.sanctions = all.fold(Sanctions::default(), |mut sum, one| {
            let first = |one: Option<Instant>, other: Option<Instant>| [one, other].into_iter().flatten().min();
            sum.first_ban = first(sum.first_ban, one.first_ban);
            sum.first_deferral = first(sum.first_deferral, one.first_deferral);
            sum.bans = sum.bans.max(one.bans);
            sum.deferrals = sum.deferrals.max(one.deferrals);
            sum.banned.extend(&one.banned);
            sum
        });
    }
}

impl Edges<Guard> {
    /// Those of `site`, with a fleet or without.
    pub(crate) fn guards(site: &Site) -> Self {
        let seal = Seal::new("trial", &[b'k'; 32]).filter(|_| site.fleet);
        let Some(seal) = seal else { return Self::alone(site, || Guard::new(site)) };
        let member = |number: usize| {
            let (fleet, node) = ("trial".to_owned(), format!("mx{}", number + 1));
            let (run, seal) = (number as u64, seal.clone());
            let mut member =
                Member::new(Identity { fleet, node, seal, run, sends: true, receives: true, sample: true });
            // The server's clock is everybody's.
            member.note_time(Instant::default(), 0, Instant::default());
            member
        };
        let gates = (0..site.edges).map(|_| Guard::in_fleet(site, seal.digests())).collect();
        Self { gates, members: (0..site.edges).map(member).collect(), sanctions: Sanctions::default() }
    }

    /// What happened is told, and what follows from it happens.
    fn tell(&mut self, backend: &mut Backend, now: Instant, said: &mut Vec<(Id, Heard)>) {
        for number in 0..self.members.len() {
            for (source, conduct) in self.gates[number].take_reports() {
                self.members[number].report(&source, now, &conduct);
            }
            while let Some(sealed) = self.members[number].next_batch(now) {
                self.members[number].batch_arrived();
                for other in (0..self.members.len()).filter(|other| *other != number) {
                    if let Ok(Some(Evidence { node, reports, .. })) = self.members[other].hear_evidence(&sealed, now) {
                        for (source, at, heard) in reports {
                            self.gates[other].hear_of(&node, &source, heard, at, backend, said);
                        }
                    }
                }
            }
        }
        self.count();
    }
}

/// A step after each step of a gate.
pub(crate) trait After {
    fn after(&mut self, backend: &mut Backend, now: Instant, said: &mut Vec<(Id, Heard)>);
}

impl After for Edges<Guard> {
    fn after(&mut self, backend: &mut Backend, now: Instant, said: &mut Vec<(Id, Heard)>) {
        self.tell(backend, now, said);
    }
}

impl After for Edges<crate::rivals::Plain> {
    fn after(&mut self, _backend: &mut Backend, _now: Instant, _said: &mut Vec<(Id, Heard)>) {
        self.count();
    }
}

impl<G: Gate> Gate for Edges<G>
where
    Self: After,
{
    fn connect(&mut self, id: Id, source: IpAddr, now: Instant, said: &mut Vec<(Id, Heard)>) -> bool {
        let connected = self.act(id, |gate| gate.connect(id, source, now, said));
        self.after(&mut Backend::default(), now, said);
        connected
    }

    fn say(
        &mut self,
        id: Id,
        line: &Line,
        more: bool,
        backend: &mut Backend,
        now: Instant,
        said: &mut Vec<(Id, Heard)>,
    ) {
        self.act(id, |gate| gate.say(id, line, more, backend, now, said));
        self.after(backend, now, said);
    }

    fn due(&self, id: Id) -> Option<Instant> {
        self.gate(id).due(id)
    }

    fn wake(&mut self, id: Id, backend: &mut Backend, now: Instant, said: &mut Vec<(Id, Heard)>) {
        self.act(id, |gate| gate.wake(id, backend, now, said));
        self.after(backend, now, said);
    }

    fn sanctions(&self) -> &Sanctions {
        &self.sanctions
    }
}
