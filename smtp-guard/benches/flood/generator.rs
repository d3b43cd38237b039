//! The flood: SYNs to port 25 from 65,536 sources, made by a program of the kernel that BPF_PROG_TEST_RUN runs on CPU 0.
//!
//! The frames are real ones and go the way of redirected frames (BPF_F_TEST_XDP_LIVE_FRAMES), so a veth takes them only where
//! the other end has an XDP program. One run lasts to the end of the bench, because the end of a run waits for RCU; what is
//! sent how fast is written into a map. Between batches the program looks at the clock, so the generator has its CPU for
//! itself and takes the same whatever it sends.

use std::io::ErrorKind;
use std::net::Ipv4Addr;

use aya::Ebpf;
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;

use crate::lab::{self, EDGE_ADDRESS, EDGE_MAC, INET_DEVICE, INET_MAC, Lab};
use crate::process::wait;

/// Sources are this one and all that differ in the last two octets (RFC 2544's network for benches).
pub(crate) const SOURCES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
pub(crate) const SOURCE_COUNT: u32 = 1 << 16;
/// As the program has it.
const BATCH: u32 = 128;
/// Of the length that Ethernet asks for, without its checksum.
const LENGTH: usize = 60;
/// A pause that doesn't end, and of which twice as much can be added to the time.
const NEVER: u64 = u64::MAX / 4;
const ETHERNET: usize = 14;
const IP: usize = 20;
const TCP: usize = 20;

pub(crate) struct Generator {
    pace: Array<MapData, [u64; 5]>,
    sent: Array<MapData, [u64; 5]>,
    /// What never changes of `pace`.
    interface: u64,
    sums: [u64; 2],
    /// How many send.
    sources: u32,
}

/// How fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    Nothing,
    /// Packets in a second.
    Rate(f64),
    AllItCan,
}

impl Generator {
    pub(crate) fn start(lab: &Lab, object: &str) -> Self {
        let mut object = Ebpf::load_file(object).unwrap();
        let mut pace: Array<_, [u64; 5]> = object.take_map("PACE").unwrap().try_into().unwrap();
        // Before there is an interface to send to.
        pace.set(0, [0, NEVER, 0, 0, 0], 0).unwrap();
        let sent = object.take_map("SENT").unwrap().try_into().unwrap();
        let program: &mut Xdp = object.program_mut("flood").unwrap().try_into().unwrap();
        program.load().unwrap();
        let program =
            Xdp::from_program_info(program.info().unwrap(), "flood".into(), XdpAttachType::Interface).unwrap();
        let (frame, sums) = frame();
        let net = lab.inet_path();
        let (send, receive) = std::sync::mpsc::channel();
        // Never joined: it ends with the process.
        std::thread::spawn(move || {
            lab::enter(&net);
            send.send(lab::interface(INET_DEVICE)).unwrap();
            lab::bind(None, lab::GENERATOR_CPU);
            loop {
                let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
                let options = TestRunOptions {
                    data_in: Some(&frame),
                    repeat: u32::MAX / BATCH * BATCH,
                    attrs,
                    ..TestRunOptions::new()
                };
                match program.test_run(options) {
                    Ok(_) => {}
                    // The kernel has had something else to do with the thread; frames of a batch are never cut short.
                    Err(ProgramError::SyscallError(error)) if error.io_error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => panic!("generator: {error}"),
                }
            }
        });
        let interface = u64::from(receive.recv().unwrap());
        let mut generator = Self { pace, sent, interface, sums, sources: SOURCE_COUNT };
        generator.set(Pace::Nothing);
        generator
    }

    /// How many sources send from the next rate on: a power of two, 65,536 at most.
    pub(crate) fn of(&mut self, sources: u32) {
        assert!(sources.is_power_of_two() && sources <= SOURCE_COUNT);
        self.sources = sources;
    }

    /// From now on.
    pub(crate) fn set(&mut self, pace: Pace) {
        let pause = match pace {
            Pace::Nothing => NEVER,
            Pace::Rate(rate) => (f64::from(BATCH) * 1e9 / rate) as u64,
            Pace::AllItCan => 0,
        };
        self.pace.set(0, [self.interface, pause, u64::from(self.sources - 1), self.sums[0], self.sums[1]], 0).unwrap();
    }

    /// Stops, and waits until what is under way has arrived.
    pub(crate) fn rest(&mut self) {
        self.set(Pace::Nothing);
        wait(std::time::Duration::from_millis(50));
    }

    /// Frames so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.get(&0, 0).unwrap()[4]
    }
}

/// The frame, and what the program completes its checksums from.
fn frame() -> (Vec<u8>, [u64; 2]) {
    let destination: Ipv4Addr = EDGE_ADDRESS.parse().unwrap();
    let mut frame = Vec::new();
    frame.extend(EDGE_MAC);
    frame.extend(INET_MAC);
    frame.extend([0x08, 0, 0x45, 0, 0, (IP + TCP) as u8, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(SOURCES.octets());
    frame.extend(destination.octets());
    frame.extend(40_000u16.to_be_bytes());
    frame.extend(25u16.to_be_bytes());
    frame.extend(7u32.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = |bytes: &[u8]| bytes.chunks(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u64>();
    let ip = sum(&frame[ETHERNET..ETHERNET + IP]);
    // Of the pseudo header: both addresses, the protocol, the length.
    let tcp = sum(&frame[ETHERNET + 12..]) + 6 + TCP as u64;
    frame.resize(LENGTH, 0);
    (frame, [ip, tcp])
}
