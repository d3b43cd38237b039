//! Samples of what is dropped: whose it was, and how much they stand for.

use aya::programs::{TestRun as _, TestRunOptions};
use smtp_guard_ebpf::reason::Reason;

use super::{PORT, World, load, packet};
use crate::clock::Instant;
use crate::edge::events::Events;

const DROPS: u32 = 3_000_000;

#[test]
#[ignore = "needs root and BPF"]
fn samples_say_whose_the_drops_are_and_how_many() {
    let mut world = World::new("events");
    let mut events = Events::open(&world.plane).unwrap();
    let (mut told, mut all) = (0, 0);
    for (ip, reason) in [("203.0.113.9", Reason::Operator), ("2001:db8:7::9", Reason::Harvest)] {
        let ip = ip.parse().unwrap();
        let source = world.source(ip);
        world.plane.ban(source, Instant::NEVER, reason).unwrap();
        let (frame, begun) = (packet(ip), crate::clock::now());
        let options = TestRunOptions { data_in: Some(&frame), repeat: DROPS, ..TestRunOptions::new() };
        load::xdp(&mut world.object).unwrap().test_run(options).unwrap();
        let samples = events.take(usize::MAX);
        assert!(!samples.is_empty());
        assert!(
            samples.iter().all(|sample| (sample.ip, sample.port, sample.reason) == (ip, PORT, reason)),
            "{samples:?}"
        );
        assert!(samples.iter().all(|sample| sample.at >= begun && sample.at <= crate::clock::now()));
        assert!(samples.len() < DROPS as usize / 100, "a few of them: {}", samples.len());
        told += samples.iter().map(|sample| sample.stands_for).sum::<u64>();
        all += u64::from(DROPS);
        // What was dropped since the last sample is told by the next.
        assert_eq!(told + events.untold().unwrap(), all);
        assert_eq!(events.lost().unwrap(), 0);
        assert!(events.is_current(&world.plane));
    }
}
