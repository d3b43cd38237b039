//! The whole loop in one go, with nothing but the guard and its own sink: `cargo xtask kernels` runs it on the kernels that users
//! have, each in a machine of its own that has little else.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use smtp_guard_tests::{Guard, Held, Host, Program, StandIn, World, guard::binary, guard::netkit, run, wait_for};

/// Instructions that the verifier may go through: a quarter of what the kernel allows.
const CEILING: u64 = 250_000;
const SINK: &str = "127.0.0.1:2526";

#[test]
#[ignore = "needs root and BPF"]
fn the_whole_loop_holds_on_this_kernel() {
    let world = World::new();
    let servers = format!("[\"{SINK}\"]");
    let changes = [
        ("backend.servers", servers.as_str()),
        ("backend.profile", "\"generic\""),
        ("limits.connections", "2"),
        ("edge.connections", "3"),
        ("harvest.unknown_recipients", "5"),
    ];
    let mut guard = Guard::configured(&world, &changes);
    let loaded = guard.json(&["edge", "load"]);
    for interface in loaded["interfaces"].as_array().unwrap() {
        assert_eq!(interface["mode"], "driver", "{loaded:#}");
    }
    let [xdp, sock_ops] = ["xdp", "sock_ops"].map(|program| loaded["verified_instructions"][program].as_u64().unwrap());
    println!("verified instructions: {xdp} (XDP), {sock_ops} (sock_ops)");
    for instructions in [xdp, sock_ops] {
        assert!((1..CEILING).contains(&instructions), "{instructions}, and at most {CEILING}");
    }

    // The ceiling, with a server that takes everyone: what is refused, the kernel refuses.
    for (edge, host) in [(World::EDGE_FOR_CLIENT, Host::Client), (World::EDGE_FOR_ATTACKER_V6, Host::Attacker)] {
        let address = if edge.contains(':') { format!("[{edge}]:25") } else { format!("{edge}:25") };
        let _server = StandIn::start(&world);
        let held = Held::open(&world, host, &address, 3);
        assert_eq!(held.count("greeted"), 3, "{}", held.result);
        guard.settle(3);
        let more = Held::open(&world, host, &address, 2);
        assert_eq!(more.count("dropped"), 2, "{}", more.result);
        drop(held);
        guard.settle(0);
        let again = Held::open(&world, host, &address, 3);
        assert_eq!(again.count("greeted"), 3, "{}", again.result);
        drop(again);
        guard.settle(0);
    }

    // A harvest is banned, dropped in the kernel, explained and lifted.
    let folder = tempfile::tempdir().unwrap();
    let maildir = folder.path().join("maildir").display().to_string();
    let mut sink = world.on(Host::Edge, &binary());
    sink.args(["sink", "--listen", SINK, "--maildir", &maildir]);
    let mut sink = Program::start(&mut sink, folder.path().join("sink"));
    sink.wait_for("listening");
    guard.run();
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let talk = |lines: &str| run(world.on(Host::Attacker, &netkit()).args(["dialogue", &edge]), lines).ok();
    let harvest = "EHLO x\nMAIL FROM:<a@b.example>\n".to_owned()
        + &(0..8).map(|n| format!("RCPT TO:<unknown{n}@example.org>\n")).collect::<String>();
    let said = talk(&harvest);
    let banned = || (guard.json(&["edge", "status"])["bans_active"] == 1).then_some(());
    wait_for("the harvest's ban in the kernel", banned, || format!("{said}\n{}", guard.log()));
    assert!(talk("").contains("NOT CONNECTED"));
    assert!(guard.packets("harvest") > 0);
    let explained = guard.command(&["explain", World::ATTACKER]).ok();
    assert!(explained.contains("harvest"), "{explained}");
    guard.command(&["decisions", "delete", World::ATTACKER]).ok();
    assert!(talk("").starts_with("220"), "lifted");
}
