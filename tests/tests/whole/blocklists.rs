//! Block lists: from their files to the dropped packet and the 421, and what is said of them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use smtp_guard_tests::{Guard, Host, Postfix, World, guard::netkit, run, talk::Talk, wait_for};

/// Addresses of the attacker that the Internet would reach it by.
const LISTED: &str = "198.51.100.7";
const FREE: &str = "198.51.100.8";
const EXEMPT: &str = "203.0.113.7";
const BESIDE_EXEMPT: &str = "203.0.113.8";
const LISTED_V6: &str = "2001:db8:7::2";
/// A source that no host has.
const FORGED: &str = "203.0.113.99";

/// A world whose attacker has public addresses as well.
fn world() -> World {
    let world = World::new();
    for address in [LISTED, FREE, EXEMPT, BESIDE_EXEMPT] {
        world.ip(Host::Attacker, &["addr", "add", &format!("{address}/32"), "dev", "eth0"]);
    }
    world.ip(Host::Attacker, &["addr", "add", &format!("{LISTED_V6}/128"), "dev", "eth0", "nodad"]);
    for net in ["198.51.100.0/24", "203.0.113.0/24", "2001:db8:7::/64"] {
        world.ip(Host::Edge, &["route", "add", net, "dev", "att0"]);
    }
    world
}

/// The list's file, and the lines that configure it.
struct List {
    path: PathBuf,
    folder: tempfile::TempDir,
}

impl List {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let list = Self { path: folder.path().join("drop"), folder };
        list.replace(text);
        list
    }

    /// Another file under the same name.
    fn replace(&self, text: &str) {
        let new = self.folder.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &self.path).unwrap();
    }

    fn lines(&self) -> String {
        format!("[[blocklist]]\nname = \"drop\"\nfile = \"{}\"\nreload = \"1s\"", self.path.display())
    }
}

/// What the attacker hears first as `from`.
fn heard(world: &World, from: &str) -> String {
    let server = if from.contains(':') { World::EDGE_FOR_ATTACKER_V6 } else { World::EDGE_FOR_ATTACKER };
    let server = if from.contains(':') { format!("[{server}]:25") } else { format!("{server}:25") };
    run(world.on(Host::Attacker, &netkit()).args(["dialogue", &server, "--from", from]), "").ok()
}

/// Waits until the attacker hears `what` as `from`.
fn wait_until_heard(world: &World, guard: &Guard<'_>, from: &str, what: &str) {
    wait_for(&format!("{from} hears {what}"), || heard(world, from).starts_with(what).then_some(()), || guard.log());
}

fn reloads(guard: &Guard<'_>, result: &str) -> f64 {
    guard.metric(&format!("smtp_guard_blocklist_reloads_total{{list=\"drop\",result=\"{result}\"}}"))
}

#[test]
#[ignore = "needs root and BPF"]
fn listed_sources_are_dropped_and_everything_says_why() {
    let world = world();
    let _postfix = Postfix::start(&world, "");
    let list = List::new(&format!(
        "# ours\n{LISTED}\n10.0.0.0/8\n203.0.113.0/24\n{EXEMPT}\n{BESIDE_EXEMPT}\n2001:db8:7::/48 # six\n0.0.0.0/0\nnonsense\n\
         10.77.1.1\n"
    ));
    let guard = Guard::start(&world, &[("+", &list.lines()), (".exempt", &format!("[\"{EXEMPT}\"]"))]);
    for (from, expected) in [
        (FREE, "220"),
        (EXEMPT, "220"),
        (World::ATTACKER, "220"),
        (LISTED, "NOT CONNECTED"),
        (BESIDE_EXEMPT, "NOT CONNECTED"),
        (LISTED_V6, "NOT CONNECTED"),
    ] {
        assert!(heard(&world, from).starts_with(expected), "{from}: {}", heard(&world, from));
    }
    assert!(guard.packets("listed") >= 3);

    let log = guard.log();
    for (line, words) in [
        (3, "10.0.0.0/8 is refused: 10.0.0.0/8 is not a public address"),
        (4, "203.0.113.0/24 is refused: 203.0.113.7/32 is in use here (exempt)"),
        (5, "203.0.113.7 is refused"),
        (8, "0.0.0.0/0 is refused: wider than /8"),
        (9, "nonsense is refused: not an address or network"),
        (10, "10.77.1.1 is refused"),
    ] {
        let words = format!("block list drop: line {line}: {words}");
        assert!(log.contains(&words), "no {words:?} in\n{log}");
    }
    assert_eq!(guard.metric("smtp_guard_blocklist_entries{list=\"drop\"}"), 3.0);
    assert_eq!(guard.metric("smtp_guard_blocklist_rejected_entries{list=\"drop\"}"), 6.0);
    assert_eq!(reloads(&guard, "loaded"), 1.0);
    assert!(guard.metric("smtp_guard_blocklist_last_success_timestamp_seconds{list=\"drop\"}") > 1e9);

    let status = guard.json(&["status"]);
    assert_eq!(status["blocklists"][0]["read"]["entries"], 3, "{status:#}");
    assert!(guard.command(&["status"]).ok().contains("netset, 3 entries, 6 refused"));
    let explained = guard.json(&["explain", LISTED_V6]);
    assert_eq!(explained["listed"][0]["list"], "drop", "{explained:#}");
    assert_eq!(explained["listed"][0]["entry"], "2001:db8:7::/48", "{explained:#}");
    let explained = guard.command(&["explain", LISTED]).ok();
    assert!(explained.contains(&format!("is blocked by block list drop (entry {LISTED} in ")), "{explained}");
    assert!(explained.contains("The kernel drops its packets: it hears nothing."), "{explained}");
    let tried = guard.command(&["try", "--from", LISTED_V6]).ok();
    assert!(tried.contains("dropped in the kernel by block list drop (entry 2001:db8:7::/48)"), "{tried}");
    assert!(tried.trim_end().ends_with("< silence: the connection times out"), "{tried}");
    assert!(guard.command(&["explain", FREE]).ok().contains("is not blocked"));
    let listed = guard.command(&["decisions", "list"]).ok();
    assert!(listed.starts_with("no decision is in force\nblock list drop: 3 entries in "), "{listed}");
    assert_eq!(guard.json(&["decisions", "list", "--all"])["blocklists"][0]["read"]["entries"], 3);
}

#[test]
#[ignore = "needs root and BPF"]
fn both_planes_say_the_same() {
    let world = world();
    let _postfix = Postfix::start(&world, "");
    let list = List::new(&format!("{LISTED}\n"));
    // Nobody looks at the file by itself.
    let lines = list.lines().replace("\"1s\"", "\"7d\"");
    let guard = Guard::start(&world, &[("+", &lines), (".exempt", &format!("[\"{EXEMPT}\"]"))]);
    guard.command(&["decisions", "add", World::ATTACKER]).ok();
    let tried = guard.command(&["try", "--from", World::ATTACKER]).ok();
    assert!(tried.contains("dropped in the kernel: blocked by the administrator [operator]\n< silence"), "{tried}");
    assert!(heard(&world, World::ATTACKER).starts_with("NOT CONNECTED"));

    // `edge load` alone puts a list into the kernel that the proxy hasn't read.
    list.replace(&format!("{LISTED}\n{FREE}\n"));
    let loaded = guard.command(&["edge", "load"]).ok();
    assert!(loaded.contains("entries of block lists in the kernel: 2"), "{loaded}");
    let explained = guard.command(&["explain", FREE]).ok();
    assert!(explained.starts_with(&format!("{FREE} is dropped in the kernel: on a block list.")), "{explained}");
    assert!(explained.contains("`smtp-guard reload` reads the files"), "{explained}");
    assert!(guard.command(&["try", "--from", FREE]).ok().contains("< silence"));
    guard.command(&["reload"]).ok();
    let explained = guard.command(&["explain", FREE]).ok();
    assert!(explained.contains(&format!("is blocked by block list drop (entry {FREE} in ")), "{explained}");

    // One command lets an address into both, whatever has it; `edge load` by another file says that it wasn't told the proxy.
    let exempt = format!("[\"{EXEMPT}\", \"{FREE}\", \"{}\"]", World::ATTACKER);
    guard.configure(&[("+", &lines), (".exempt", &exempt)]);
    let loaded = guard.command(&["edge", "load"]);
    assert!(loaded.stderr.contains("the running guard goes by another configuration (exempt)"), "{loaded:#?}");
    let explained = guard.command(&["explain", World::ATTACKER]).ok();
    assert!(explained.contains("The kernel lets it in, as its exempt list has the address"), "{explained}");
    assert!(heard(&world, World::ATTACKER).starts_with("421"));
    guard.command(&["reload"]).ok();
    for from in [FREE, World::ATTACKER] {
        assert!(heard(&world, from).starts_with("220"), "{from}");
        assert!(guard.command(&["explain", from]).ok().contains("It is exempt"), "{from}");
        assert!(!guard.command(&["try", "--from", from]).ok().contains("silence"), "{from}");
    }
    assert!(heard(&world, LISTED).starts_with("NOT CONNECTED"));
}

#[test]
#[ignore = "needs root and BPF"]
fn a_list_is_replaced_while_packets_flow() {
    let world = world();
    let _postfix = Postfix::start(&world, "");
    // Of different lengths, so that every place moves; the forged source is in all of them, by different entries.
    let version = |number: u32| {
        let mut text = String::new();
        for n in 0..50_000 * number {
            writeln!(text, "{}", Ipv4Addr::from_bits(0x1400_0000 + n * 977)).unwrap();
        }
        text + ["203.0.113.0/24\n", "203.0.113.99\n", "203.0.113.96/28\n"][number as usize % 3]
    };
    let list = List::new(&version(1));
    let guard = Guard::start(&world, &[("+", &list.lines())]);
    let (clean, done) = (guard.packets("clean"), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
        let (world, done, list, guard) = (&world, &done, &list, &guard);
        // Ends the flood also where a wait fails, or the scope would never end.
        let _stop = StopOnDrop(done);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                run(world.on(Host::Attacker, &netkit()).args(["spoof-syn", &edge, FORGED, "20000"]), "").ok();
            }
        });
        for number in 2..=4 {
            list.replace(&version(number));
            let loaded = || (reloads(guard, "loaded") >= f64::from(number)).then_some(());
            wait_for("the next version", loaded, || guard.log());
        }
    });
    let dropped = guard.packets("listed");
    assert!(dropped > 60_000, "{dropped} packets over three replacements");
    assert_eq!(guard.packets("clean"), clean, "none of {dropped} passed");
    println!("{dropped} packets of a listed source over three replacements, none passed");
}

/// Ends the flood also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn a_list_that_cannot_be_read_changes_nothing_and_is_tried_again() {
    let world = world();
    let _postfix = Postfix::start(&world, "");
    let record = |ip: &str| format!("{{\"cidr\":\"{ip}/32\",\"sblid\":\"SBL1\"}}\n");
    let whole = record(LISTED) + "{\"type\":\"metadata\",\"records\":1}\n";
    let list = List::new(&whole);
    let guard = Guard::start(&world, &[("+", &list.lines())]);
    assert!(heard(&world, LISTED).starts_with("NOT CONNECTED"));
    for broken in
        [record(FREE), "<html>503</html>".to_owned(), record(FREE) + "{\"type\":\"metadata\",\"records\":2}\n"]
    {
        let failed = reloads(&guard, "failed");
        list.replace(&broken);
        wait_for("a failure", || (reloads(&guard, "failed") > failed).then_some(()), || guard.log());
        assert!(heard(&world, LISTED).starts_with("NOT CONNECTED"), "the old version stays: {broken}");
        assert!(heard(&world, FREE).starts_with("220"), "{broken}");
        let status = guard.json(&["status"]);
        assert!(status["blocklists"][0]["error"].is_string(), "{status:#}");
    }
    assert!(guard.log().contains("block list drop can't be read, its last version stays in force"), "{}", guard.log());
    let check = guard.command(&["check"]);
    assert!(check.code() == 78 && check.stderr.contains("fetch it again"), "{check:#?}");

    list.replace(&whole.replace(LISTED, FREE));
    wait_until_heard(&world, &guard, FREE, "NOT CONNECTED");
    wait_until_heard(&world, &guard, LISTED, "220");
    assert!(guard.json(&["status"])["blocklists"][0]["error"].is_null());
}

#[test]
#[ignore = "needs root and BPF"]
fn without_a_kernel_plane_they_hear_421() {
    let world = world();
    let _postfix = Postfix::start(&world, "");
    // Not there yet: the guard starts all the same.
    let list = List::new("x");
    fs::remove_file(&list.path).unwrap();
    let behind = "[[listen]]\naddress = \"0.0.0.0:24\"\nproxy_protocol = [\"10.77.2.2\"]";
    let mut guard = Guard::configured(&world, &[("+", &list.lines()), ("+", behind), ("edge.interfaces", "[]")]);
    guard.run();
    assert!(guard.log().contains("block list drop can't be read, no version of it was read before"), "{}", guard.log());
    assert!(heard(&world, LISTED).starts_with("220"));
    let mut under_way = Talk::begin_from(&world, Host::Attacker, &format!("{}:25", World::EDGE_FOR_ATTACKER), LISTED);
    assert!(under_way.say("EHLO x").contains("250 "));

    list.replace(&format!("{LISTED}\n"));
    wait_until_heard(&world, &guard, LISTED, "421 4.7.0 Your address is on a block list");
    assert!(under_way.say("NOOP").starts_with("421 4.7.0"), "the session under way ends: {}", under_way.said());
    assert!(heard(&world, FREE).starts_with("220"));
    assert!(guard.metric("smtp_guard_rejections_total{reason=\"listed\"}") >= 2.0);

    // Behind a balancer it is the address in the header that counts.
    let server = format!("{}:24", World::EDGE_FOR_CLIENT);
    for (source, expected) in [(LISTED, "421 4.7.0"), (FREE, "220")] {
        let lines = format!("PROXY TCP4 {source} 10.77.2.1 5000 24\nEHLO x");
        let said = run(world.on(Host::Client, &netkit()).args(["dialogue", &server, "--header"]), &lines).ok();
        assert!(said.starts_with(expected), "{source}: {said}");
    }
}

#[test]
#[ignore = "needs root and BPF"]
fn the_edge_alone_drops_and_a_plane_that_is_loaded_anew_has_the_lists() {
    let world = world();
    let _postfix = Postfix::start(&world, "");
    let list = List::new(&format!("create drop hash:ip family inet\nadd drop {LISTED}\n"));
    let mut guard = Guard::configured(&world, &[("+", &list.lines())]);
    let loaded = guard.command(&["edge", "load"]).ok();
    assert!(
        loaded.contains("block list drop: ipset save, 1 entry\nentries of block lists in the kernel: 1"),
        "{loaded}"
    );
    let mut command = world.on(Host::Edge, &netkit());
    let mut listener =
        command.args(["listen", "0.0.0.0:25"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(listener.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let (listed, free) = (heard(&world, LISTED), heard(&world, FREE));

    // A list that can't be read any more leaves the kernel's as they are.
    list.replace("nothing\n");
    let again = guard.json(&["edge", "load"]);
    let still = heard(&world, LISTED);
    drop(listener.stdin.take());
    listener.wait().unwrap();
    assert!(listed.starts_with("NOT CONNECTED") && free.starts_with("220"), "{listed} {free}");
    assert!(again["listed"].is_null() && again["blocklists"][0]["error"].is_string(), "{again:#}");
    assert!(still.starts_with("NOT CONNECTED"), "{still}");
    guard.run();
    assert!(heard(&world, LISTED).starts_with("NOT CONNECTED"), "nor does a guard that starts then");

    list.replace(&format!("{LISTED}\n{BESIDE_EXEMPT}\n"));
    wait_until_heard(&world, &guard, BESIDE_EXEMPT, "NOT CONNECTED");
    guard.command(&["edge", "unload"]).ok();
    assert!(heard(&world, LISTED).starts_with("421 4.7.0"), "user space meanwhile");
    // By somebody who doesn't know of the lists.
    let lines = list.lines();
    let without = fs::read_to_string(guard.config()).unwrap().replace(&lines, "");
    let other = guard.config().with_file_name("other.toml");
    fs::write(&other, without).unwrap();
    let load = &mut world.on(Host::Edge, &smtp_guard_tests::guard::binary());
    run(load.args(["edge", "load", "--config"]).arg(&other), "").ok();
    wait_until_heard(&world, &guard, LISTED, "NOT CONNECTED");
}
