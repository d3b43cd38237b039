//! One row in one round: CPU time of a packet, and the search for the rate.

use std::time::{Duration, Instant};

use crate::filter::{Armed, Filter};
use crate::generator::{Generator, Pace};
use crate::lab::{self, Lab, Napi};
use crate::mail::{self, Sink, Source};
use crate::process::wait;
use crate::search::{Found, STEPS, Search, Tried, median};

/// Pairs of windows, with the flood and without it, of which the median counts.
pub(crate) const PAIRS: usize = 8;
/// Of a pair: about 200 messages.
const WINDOW: Duration = Duration::from_millis(60);
/// For a change of the rate to have its effect.
const SETTLE: Duration = Duration::from_millis(8);
/// Of the flood at its full rate.
const FULL: Duration = Duration::from_millis(400);
/// Packets in a thousand that sent and dropped may differ by.
const TOLERANCE: f64 = 1.0;

/// The result of a round for a row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    /// Packets a second that the generator made at its full rate.
    pub(crate) sent: f64,
    /// CPU time of a packet that arrived, in ns, at that rate.
    pub(crate) cpu_ns: f64,
    pub(crate) search: Option<Searched>,
}

/// The result of a search.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Searched {
    pub(crate) found: Found,
    /// Messages a second without a flood.
    pub(crate) mail: f64,
    /// Share of the time that the edge's CPU had nothing to do then.
    pub(crate) idle: f64,
    /// Share of the flood that the cable had no room for, at the last rate that was tried.
    pub(crate) lost: f64,
}

pub(crate) struct Bench {
    lab: Lab,
    generator: Generator,
    sink: Sink,
    object: String,
    /// Packets a second that the generator can make.
    most: f64,
}

/// What happened within a window.
struct Window {
    seconds: f64,
    sent: f64,
    lost: f64,
    messages: f64,
    napi_ns: f64,
    idle: f64,
}

/// Counters while the generator rests.
struct Books {
    sent: u64,
    lost: u64,
    dropped: u64,
}

impl Bench {
    pub(crate) fn new(object: String) -> Self {
        let lab = Lab::new();
        let generator = Generator::start(&lab, &object);
        let sink = Sink::start();
        Self { lab, generator, sink, object, most: 0.0 }
    }

    pub(crate) fn row(&mut self, filter: Filter, sources: u32, searched: bool) -> Shown {
        let armed = filter.arm(&self.object);
        let napi = self.lab.serve();
        self.generator.of(sources);
        let full = self.checked(filter, &armed, |bench| bench.window(&napi, Pace::AllItCan, FULL));
        if filter == Filter::Zero {
            self.most = full.sent / full.seconds;
        }
        let cpu_ns = full.napi_ns / (full.sent - full.lost);
        let search = searched.then(|| self.search(filter, &armed, &napi, 1e8 / cpu_ns));
        Shown { sent: full.sent / full.seconds, cpu_ns, search }
    }

    fn search(&mut self, filter: Filter, armed: &Armed, napi: &Napi, guess: f64) -> Searched {
        let mut source = Source::start(&self.lab, &mut self.sink);
        let mut search = Search::new(guess, self.most);
        let (mut mail, mut idle, mut time, mut lost) = (Vec::new(), 0.0, 0.0, 0.0);
        self.checked(filter, armed, |bench| {
            for _ in 0..STEPS {
                let pace = Pace::Rate(search.next());
                let (mut rates, mut shares, mut losses) = (Vec::new(), Vec::new(), Vec::new());
                for _ in 0..PAIRS {
                    let alone = bench.window(napi, Pace::Nothing, WINDOW);
                    let flood = bench.window(napi, pace, WINDOW);
                    let without = alone.messages / alone.seconds;
                    shares.push(flood.messages / flood.seconds / without);
                    rates.push((flood.sent - flood.lost) / flood.seconds);
                    losses.push(flood.lost / flood.sent.max(1.0));
                    mail.push(without);
                    idle += alone.idle;
                    time += alone.seconds;
                }
                let mut share = median(shares);
                if let Some(why) = source.ended() {
                    // With a filter each message must get through; without one, mail that breaks off doesn't bear the rate.
                    assert!(filter == Filter::Nothing, "{filter:?}: {why}");
                    eprintln!("  {}: mail broke off: {why}", filter.name());
                    share = 0.0;
                    bench.generator.set(Pace::Nothing);
                    source = Source::start(&bench.lab, &mut bench.sink);
                }
                search.tried(Tried { rate: median(rates), share });
                lost = median(losses);
            }
        });
        Searched { found: search.found(), mail: median(mail), idle: idle / time, lost }
    }

    /// Measures, and holds what was sent against what was dropped. Panics where they don't agree.
    fn checked<T>(&mut self, filter: Filter, armed: &Armed, measure: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.books(armed);
        let measured = measure(self);
        self.generator.rest();
        let after = self.books(armed);
        let arrived = (after.sent - before.sent) as f64 - (after.lost - before.lost) as f64;
        let dropped = (after.dropped - before.dropped) as f64;
        let differ = match filter {
            // Nobody counts SYNs alone: all segments, those of mail included.
            Filter::Nothing => arrived - dropped,
            _ => (arrived - dropped).abs(),
        };
        assert!(arrived > 0.0, "{filter:?}: nothing arrived");
        assert!(differ <= arrived / 1000.0 * TOLERANCE, "{filter:?}: {arrived} arrived, {dropped} were dropped there");
        measured
    }

    fn books(&self, armed: &Armed) -> Books {
        let frames = self.lab.frames();
        let dropped = match armed {
            Armed::Nftables(nftables) => nftables.dropped(),
            Armed::Guard(guard) => guard.dropped(),
            Armed::Zero(_) => frames.received,
            Armed::Nothing(_) => mail::tcp("InSegs"),
        };
        Books { sent: self.generator.sent(), lost: frames.lost, dropped }
    }

    fn window(&mut self, napi: &Napi, pace: Pace, time: Duration) -> Window {
        self.generator.set(pace);
        wait(SETTLE);
        let read = |bench: &Self| {
            let lost = bench.lab.frames().lost;
            (Instant::now(), bench.generator.sent(), lost, mail::sessions(), napi.cpu_ns(), lab::idle())
        };
        let before = read(self);
        wait(time);
        let after = read(self);
        Window {
            seconds: (after.0 - before.0).as_secs_f64(),
            sent: (after.1 - before.1) as f64,
            lost: (after.2 - before.2) as f64,
            messages: (after.3 - before.3) as f64,
            napi_ns: (after.4 - before.4) as f64,
            idle: after.5 - before.5,
        }
    }
}
