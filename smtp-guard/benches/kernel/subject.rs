//! The programs that are measured, and the packets.

use std::net::IpAddr;
use std::path::Path;

use aya::Ebpf;
use aya::maps::ProgramArray;
use aya::programs::{ProgramInfo, TestRun as _, TestRunOptions, Xdp, loaded_programs};
use aya_obj::programs::XdpAttachType;

use crate::world::{FILTER_PIN, World};

/// Which program.
pub(crate) type Pick = fn(&mut Subjects) -> &mut Xdp;

pub(crate) struct Subjects {
    pub(crate) pass: Xdp,
    pub(crate) guard: Xdp,
    pub(crate) filter: Xdp,
    /// These give each run another source; then the program named.
    pub(crate) walk_pass: Xdp,
    pub(crate) walk_guard: Xdp,
    pub(crate) walk_filter: Xdp,
    /// Own the programs that come after.
    _objects: Vec<Ebpf>,
}

impl Subjects {
    pub(crate) fn load(_world: &mut World) -> Self {
        let newest = |name: &str| {
            let of_name = loaded_programs().flatten().filter(|info| info.name_as_str() == Some(name));
            from_info(of_name.max_by_key(ProgramInfo::id).unwrap())
        };
        let guard = newest("guard_xdp");
        let filter = Xdp::from_pin(Path::new(FILTER_PIN), XdpAttachType::Interface).unwrap();
        let path = std::env::var("SMTP_GUARD_BENCH_OBJECT").expect("run it by `cargo xtask bench kernel`");
        let mut objects = Vec::new();
        let mut walk = |next: Option<&Xdp>| {
            let mut object = Ebpf::load_file(&path).unwrap();
            let mut taken = None;
            for (program, map) in [("walk_frags", "NEXT_FRAGS"), ("walk", "NEXT")] {
                let program: &mut Xdp = object.program_mut(program).unwrap().try_into().unwrap();
                program.load().unwrap();
                let info = program.info().unwrap();
                let mut map: ProgramArray<_> = object.take_map(map).unwrap().try_into().unwrap();
                let done = next.is_none_or(|next| map.set(0, next.fd().unwrap(), 0).is_ok());
                // The map is emptied when its last descriptor goes.
                std::mem::forget(map);
                if done && taken.is_none() {
                    taken = Some(info);
                }
            }
            objects.push(object);
            from_info(taken.expect("the program can be called by one of the two"))
        };
        let (walk_pass, walk_guard, walk_filter) = (walk(None), walk(Some(&guard)), walk(Some(&filter)));
        let mut object = Ebpf::load_file(&path).unwrap();
        let pass: &mut Xdp = object.program_mut("pass_frags").unwrap().try_into().unwrap();
        pass.load().unwrap();
        let pass = from_info(pass.info().unwrap());
        objects.push(object);
        Self { pass, guard, filter, walk_pass, walk_guard, walk_filter, _objects: objects }
    }
}

fn from_info(info: ProgramInfo) -> Xdp {
    let name = info.name_as_str().unwrap_or_default().to_owned();
    Xdp::from_program_info(info, name.into(), XdpAttachType::Interface).unwrap()
}

/// Bytes of a packet.
#[derive(Clone)]
pub(crate) struct Packet(Vec<u8>);

impl Packet {
    /// An Ethernet frame of a TCP segment without data.
    pub(crate) fn tcp(source: IpAddr, port: u16, flags: u8) -> Self {
        let mut packet = vec![2; 12];
        match source {
            IpAddr::V4(source) => {
                packet.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
                packet.extend(source.octets());
                packet.extend([198, 51, 100, 25]);
            }
            IpAddr::V6(source) => {
                packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
                packet.extend(source.octets());
                packet.extend([0xfd; 16]);
            }
        }
        packet.extend([0x9c, 0x40]);
        packet.extend(port.to_be_bytes());
        packet.extend(7u32.to_be_bytes());
        packet.extend([0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        // As long as the least that Ethernet takes.
        packet.resize(packet.len().max(64), 0);
        Self(packet)
    }
}

/// A program, a packet, and what the program must say to it.
pub(crate) struct Case {
    pick: Pick,
    packet: Packet,
    action: u32,
}

impl Case {
    pub(crate) fn new(pick: Pick, packet: &Packet, action: u32) -> Self {
        Self { pick, packet: packet.clone(), action }
    }

    /// Mean time of a run, in ns.
    pub(crate) fn run(&self, subjects: &mut Subjects, repeat: u32) -> f64 {
        let options = TestRunOptions { data_in: Some(&self.packet.0), repeat, ..TestRunOptions::new() };
        let result = (self.pick)(subjects).test_run(options).unwrap();
        assert_eq!(result.return_value, self.action, "another verdict than the row's name says");
        result.duration.as_nanos() as f64
    }
}
