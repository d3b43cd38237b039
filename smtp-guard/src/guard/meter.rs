//! Counts and events of the ledger's task, in metrics and event bus.

use std::time::Duration;

use crate::bound::Bound;
use crate::events::{Bus, What};
use crate::feedback::Meter;
use crate::gate::Ignored;
use crate::observe::metrics::Metrics;
use crate::offence::ReportKind;

pub(super) struct Counted(pub(super) Metrics, pub(super) Bus);

impl Meter for Counted {
    fn reported(&self, kind: ReportKind) {
        self.0.reported(kind);
    }

    fn foreign(&self, ignored: Option<Ignored>) {
        self.0.foreign(ignored);
    }

    fn tell(&self, what: What) {
        self.1.publish(crate::clock::wall(), what);
    }

    fn report_lost(&self) {
        self.0.report_lost();
    }

    fn ban_latency(&self, time: Duration) {
        self.0.ban_latency(time);
    }

    fn bound_reached(&self, bound: Bound) {
        self.0.bound_reached(bound);
    }
}
