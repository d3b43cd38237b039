//! Banned networks in the kernel: the word that spares the look-up, a map that is full, and what the program makes of them.

use smtp_guard_ebpf::abi::NETWORK_ENTRIES;

use super::*;
use crate::edge::maps::settings;
use crate::key::{Key, Net};

fn net(text: &str) -> Net {
    Key::of(text.parse().unwrap(), Default::default()).unwrap().network().unwrap()
}

fn ban(net: Net) -> (Net, Instant, Reason) {
    (net, Instant::NEVER, Reason::Operator)
}

#[test]
#[ignore = "needs root and BPF"]
fn the_program_looks_only_while_there_is_one_whoever_configures() {
    let world = World::new("networks");
    let pins = Pins::new(&world.directory);
    let check = |networks: &[Net]| {
        let mut found: Vec<_> = world.plane.networks_in_map().unwrap().into_iter().map(|(net, ..)| net).collect();
        found.sort_unstable();
        assert_eq!((found.as_slice(), settings(&pins).unwrap().networks), (networks, u32::from(!networks.is_empty())));
        world.plane.configure(&world.config).unwrap();
        assert_eq!(settings(&pins).unwrap().networks, u32::from(!networks.is_empty()), "a change of the settings");
    };
    check(&[]);
    let (v4, v6) = (net("192.0.2.0/24"), net("2001:db8::/32"));
    assert_eq!(world.plane.ban_networks(&[ban(v6), ban(v4)]).unwrap(), []);
    check(&[v4, v6]);
    world.plane.unban_networks(&[v4, net("198.51.100.0/24")]).unwrap();
    check(&[v6]);
    world.plane.unban_networks(&[v6]).unwrap();
    check(&[]);
}

#[test]
#[ignore = "needs root and BPF"]
fn a_full_map_says_what_it_has_no_room_for() {
    let world = World::new("networks-full");
    let nets: Vec<_> =
        (0..NETWORK_ENTRIES + 3).map(|n| net(&format!("{}/24", Ipv4Addr::from_bits(n << 8 | 16 << 24)))).collect();
    let bans: Vec<_> = nets.iter().copied().map(ban).collect();
    let room = NETWORK_ENTRIES as usize;
    assert_eq!(world.plane.ban_networks(&bans).unwrap(), nets[room..]);
    // One that has no room is no reason to leave those after it out.
    let mixed = [ban(nets[room]), ban(nets[0]), ban(nets[room + 1]), ban(nets[1])];
    assert_eq!(world.plane.ban_networks(&mixed).unwrap(), [nets[room], nets[room + 1]]);
    assert_eq!(world.plane.networks_in_map().unwrap().len(), room);
    world.plane.unban_networks(&nets[..1]).unwrap();
    assert_eq!(world.plane.ban_networks(&bans[room..]).unwrap(), nets[room + 1..]);
}
