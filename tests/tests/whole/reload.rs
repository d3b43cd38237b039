//! Another configuration while mail and attacks go on, in both planes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use smtp_guard_tests::guard::{binary, netkit};
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Held, Host, Postfix, Program, StandIn, World, long, run, wait_for};

/// What the attacker hears first as `from`.
fn heard(world: &World, from: &str) -> String {
    let server = format!("{}:25", World::EDGE_FOR_ATTACKER);
    run(world.on(Host::Attacker, &netkit()).args(["dialogue", &server, "--from", from]), "").ok()
}

/// A world whose attacker has public addresses as well.
fn world(addresses: &[&str]) -> World {
    let world = World::new();
    for address in addresses {
        world.ip(Host::Attacker, &["addr", "add", &format!("{address}/32"), "dev", "eth0"]);
    }
    world.ip(Host::Edge, &["route", "add", "198.51.100.0/24", "dev", "att0"]);
    world
}

const LISTED: &str = "198.51.100.7";
const BANNED: &str = "198.51.100.8";

/// Configuration of a block list in `folder`, which has [`LISTED`].
fn listing(folder: &std::path::Path) -> String {
    let list = folder.join("drop");
    std::fs::write(&list, LISTED).unwrap();
    format!("[[blocklist]]\nname = \"drop\"\nfile = \"{}\"", list.display())
}

#[test]
#[ignore = "needs root and BPF"]
fn who_is_exempt_changes_in_both_planes_when_the_reload_says_so() {
    let world = world(&[LISTED, BANNED]);
    let _postfix = Postfix::start(&world, "");
    let folder = tempfile::tempdir().unwrap();
    let lines = listing(folder.path());
    let guard = Guard::start(&world, &[("+", &lines)]);
    guard.command(&["decisions", "add", BANNED, "--for", "1h", "--reason", "test"]).ok();
    for from in [LISTED, BANNED] {
        assert!(heard(&world, from).starts_with("NOT CONNECTED"), "{from}");
    }
    let exempt = [("+", lines.as_str()), (".exempt", "[\"198.51.100.0/28\"]")];
    guard.configure(&exempt);
    guard.command(&["reload"]).ok();
    for from in [LISTED, BANNED] {
        assert!(heard(&world, from).starts_with("220"), "{from} is exempt now: {}", heard(&world, from));
    }
    assert_eq!(guard.json(&["decisions", "list"])["decisions"].as_array().unwrap().len(), 0, "its ban was lifted");
    guard.configure(&[("+", &lines)]);
    guard.command(&["reload"]).ok();
    assert!(heard(&world, LISTED).starts_with("NOT CONNECTED"), "the list counts again");
    assert!(heard(&world, BANNED).starts_with("220"), "what was lifted stays so");
    // One that can't be used changes neither plane.
    guard.configure(&[("+", &lines), (".exempt", "[\"198.51.100.0/28\", \"nonsense\"]")]);
    assert_eq!(guard.command(&["reload"]).code(), 78);
    assert!(heard(&world, LISTED).starts_with("NOT CONNECTED"));
    // By which it is unloaded.
    guard.configure(&[]);
}

#[test]
#[ignore = "needs root and BPF"]
fn the_ceiling_of_the_kernel_changes() {
    let world = world(&[]);
    let _postfix = Postfix::start(&world, "");
    let limits = |ceiling| [("limits.connections", "2"), ("edge.connections", ceiling)];
    let mut guard = Guard::start(&world, &limits("50"));
    guard.configure(&limits("3"));
    let said = guard.command(&["reload"]).ok();
    assert!(said.contains("edge.connections") && !said.contains("restart"), "{said}");
    // A server without limits takes the guard's place: the ceiling is the kernel's alone.
    guard.kill9();
    let _server = StandIn::start(&world);
    let address = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let held: Vec<_> = (1..=4)
        .map(|n| {
            let one = Held::open(&world, Host::Attacker, &address, 1);
            guard.settle(n.min(3));
            one
        })
        .collect();
    let dropped: Vec<_> = held.iter().map(|one| one.count("dropped")).collect();
    assert_eq!(dropped, [0, 0, 0, 1]);
}

#[test]
#[ignore = "needs root and BPF"]
fn interfaces_come_and_go() {
    let world = world(&[]);
    let _postfix = Postfix::start(&world, "");
    let mut guard = Guard::configured(&world, &[("edge.interfaces", "[]")]);
    guard.run();
    let kernel = |guard: &Guard<'_>| guard.json(&["status"])["kernel"]["text"].as_str().unwrap().to_owned();
    assert!(kernel(&guard).contains("no [edge] interfaces are configured"), "{}", kernel(&guard));
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "test"]).ok();
    assert!(heard(&world, World::ATTACKER).starts_with("421"), "in user space");
    for (interfaces, expected) in
        [("[\"att0\"]", vec!["att0"]), ("[\"att0\", \"cli0\"]", vec!["att0", "cli0"]), ("[\"att0\"]", vec!["att0"])]
    {
        guard.configure(&[("edge.interfaces", interfaces)]);
        let said = guard.command(&["reload"]).ok();
        assert!(said.contains("edge.interfaces"), "{said}");
        let on = guard.json(&["edge", "status"]);
        let on: Vec<_> = on["interfaces"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(on, expected, "{interfaces}");
        let dropped = || heard(&world, World::ATTACKER).starts_with("NOT CONNECTED").then_some(());
        wait_for("the ban is in the kernel", dropped, || guard.log());
    }
    guard.configure(&[("edge.interfaces", "[]")]);
    guard.command(&["reload"]).ok();
    assert_ne!(guard.command(&["edge", "status"]).code(), 0, "it is unloaded");
    assert!(heard(&world, World::ATTACKER).starts_with("421"), "in user space again");
}

#[test]
#[ignore = "needs root and BPF"]
fn the_watch_goes_by_another_configuration_on_sighup_and_leaves_the_plane_when_it_ends() {
    let world = world(&[LISTED, BANNED]);
    let _postfix = Postfix::start(&world, "");
    let folder = tempfile::tempdir().unwrap();
    let lines = listing(folder.path());
    let mut guard = Guard::configured(&world, &[("+", &lines)]);
    let watch = |guard: &Guard<'_>| {
        let mut command = world.on(Host::Edge, &binary());
        let log = folder.path().join("watch");
        Program::start(command.args(["edge", "watch", "--config"]).arg(guard.config()), log)
    };
    let mut watching = watch(&guard);
    watching.wait_for("verified instructions");
    guard.run();
    guard.command(&["decisions", "add", BANNED, "--for", "1h", "--reason", "test"]).ok();
    for from in [LISTED, BANNED] {
        assert!(heard(&world, from).starts_with("NOT CONNECTED"), "{from}");
    }
    // One that can't be used changes nothing.
    guard.configure(&[("+", &lines), (".exempt", "[\"nonsense\"]")]);
    watching.signal(Signal::HUP);
    watching.wait_for("the kernel plane was not loaded again, and the former one stays");
    assert!(heard(&world, LISTED).starts_with("NOT CONNECTED"));
    // Both are let in by the kernel; the proxy was told nothing.
    guard.configure(&[("+", &lines), (".exempt", "[\"198.51.100.0/28\"]")]);
    watching.signal(Signal::HUP);
    let let_in = || heard(&world, LISTED).starts_with("421").then_some(());
    wait_for("the kernel lets it in", let_in, || watching.output());
    watching.assert_runs();
    guard.configure(&[("+", &lines)]);
    watching.signal(Signal::HUP);
    let dropped = || heard(&world, LISTED).starts_with("NOT CONNECTED").then_some(());
    wait_for("the kernel drops it again", dropped, || watching.output());
    watching.signal(Signal::TERM);
    watching.wait_for_end();
    assert!(watching.output().contains("the kernel plane stays loaded"), "{}", watching.output());
    assert!(heard(&world, BANNED).starts_with("NOT CONNECTED"), "it drops on");
    let flood = ["spoof-syn", &format!("{}:25", World::EDGE_FOR_ATTACKER), BANNED, "2000"].map(str::to_owned);
    let before = guard.packets("operator");
    let again = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            for _ in 0..10 {
                run(world.on(Host::Attacker, &netkit()).args(&flood), "").ok();
            }
        });
        let mut again = watch(&guard);
        again.wait_for("replaced in place");
        flooding.join().unwrap();
        again
    });
    let dropped = guard.packets("operator") - before;
    assert!(dropped >= 20_000, "a start replaces the plane without a gap: {dropped} of 20000 were dropped");
    drop(again);
}

/// A source that no host has, and how many packets of it are sent at once.
const FORGED: &str = "198.51.100.99";
const FLOOD: u64 = 20_000;

/// Sets it when it is dropped.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A number at the end of a line of /proc/PID/status, in KiB.
fn resident(guard: &Guard<'_>) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", guard.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs root and BPF"]
fn reloads_under_load_cut_nothing_and_let_nobody_through() {
    let world = world(&[]);
    let sink = Sink::start(&world, 2525, &["-c"]);
    let server = format!("[\"{}:2525\"]", World::BACKEND);
    // One address sends with 50 sessions at once.
    let base = [("backend.servers", server.as_str()), ("limits.connections", "200"), ("edge.connections", "400")];
    let guard = Guard::start(&world, &base);
    for source in [World::ATTACKER, FORGED] {
        guard.command(&["decisions", "add", source, "--for", "1h", "--reason", "test"]).ok();
    }
    let (reloads, sessions) = (long::amount(40, 200), long::amount(2_000, 20_000));
    let mut source = world.on(Host::Client, "smtp-source");
    source.args(["-s", "50", "-m", &sessions.to_string(), "-f", "a@b.example", "-t", "u@example.org"]);
    source.arg(format!("{}:25", World::EDGE_FOR_CLIENT)).stdin(Stdio::null()).stdout(Stdio::null());
    source.stderr(Stdio::piped());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Ends the knocking also when the test fails.
        let stop = StopOnDrop(&done);
        // The banned one knocks all the time; nobody may answer.
        let knocking = scope.spawn(|| {
            let mut knocks = 0;
            while !done.load(Ordering::Relaxed) {
                let heard = heard(&world, World::ATTACKER);
                assert!(heard.starts_with("NOT CONNECTED"), "a packet got through: {heard}");
                knocks += 1;
            }
            knocks
        });
        // So does one that floods: each of its packets must be dropped.
        let flooding = scope.spawn(|| {
            let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
            let mut sent = 0;
            while !done.load(Ordering::Relaxed) {
                let flood = ["spoof-syn", &edge, FORGED, &FLOOD.to_string()];
                run(world.on(Host::Attacker, &netkit()).args(flood), "").ok();
                sent += FLOOD;
            }
            sent
        });
        let (mut sending, began) = (source.spawn().unwrap(), std::time::Instant::now());
        let mut memory = Vec::new();
        for n in 0..reloads {
            let recipients = (100 + n % 50).to_string();
            let exempt = format!("[\"203.0.113.{}\"]", n % 200);
            let mut changes = base.to_vec();
            changes.extend([("limits.recipients", recipients.as_str()), (".exempt", &exempt)]);
            match n % 10 {
                // Bad in itself, and by what it names.
                3 => changes.push(("limits.junk_commands", "0")),
                7 => changes.push(("recipients.known", "\"/nowhere\"")),
                _ => {}
            }
            guard.configure(&changes);
            let reload = guard.command(&["reload"]);
            assert_eq!(reload.status.success(), !matches!(n % 10, 3 | 7), "{reload:?}");
            memory.push(resident(&guard));
        }
        let took = began.elapsed();
        assert!(sending.try_wait().unwrap().is_none(), "the load lasts as long as the reloads");
        let sent = sending.wait_with_output().unwrap();
        assert!(sent.status.success(), "no session is cut: {}", String::from_utf8_lossy(&sent.stderr));
        drop(stop);
        let (knocks, flood) = (knocking.join().unwrap(), flooding.join().unwrap());
        let dropped = guard.packets("operator");
        println!(
            "{reloads} reloads in {took:.1?}, {sessions} messages, {flood} packets of a banned source and {knocks} connections of \
             another: {dropped} dropped; memory {:?} KiB",
            memory.iter().step_by(10).collect::<Vec<_>>()
        );
        assert!(dropped >= flood, "a packet was not filtered: {dropped} of {flood} were dropped");
        // After the first ten everything that is kept has been made once.
        let (early, late) = (memory[10], memory[memory.len() - 1]);
        assert!(late < early + early / 4 + 8 * 1024, "memory grows: {early} to {late} KiB");
    });
    guard.settle(0);
    assert_eq!(sink_count(&guard), sessions);
    drop(sink);
}

/// Messages that the guard has passed on.
fn sink_count(guard: &Guard<'_>) -> usize {
    let metrics = ["accepted", "rejected", "deferred", "ambiguous"];
    let counts = metrics.map(|outcome| guard.metric(&format!("smtp_guard_messages_total{{outcome=\"{outcome}\"}}")));
    assert_eq!(counts[1..], [0.0; 3], "none is lost or in doubt");
    counts[0] as usize
}
