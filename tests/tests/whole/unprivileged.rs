//! A proxy without a capability on the maps that root has loaded and handed to its group.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use smtp_guard_tests::{Guard, Host, Postfix, Program, World, guard::binary, guard::netkit, run, wait_for};

/// A user and a group that nobody has.
const NOBODYS: u32 = 54_321;

/// A copy of the binary that every user can run, wherever the build is.
fn public_binary(folder: &Path) -> String {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.join("smtp-guard");
    fs::copy(binary(), &copy).unwrap();
    copy.display().to_string()
}

/// What turns into the user before it runs a program: no capability now, and none to be had.
fn as_user(user: u32) -> Vec<String> {
    let id = user.to_string();
    [
        "setpriv",
        "--reuid",
        &id,
        "--regid",
        &id,
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
    ]
    .map(str::to_owned)
    .into()
}

/// A guard whose proxy runs as [`NOBODYS`], and the program that it runs.
fn configured<'w>(world: &'w World, changes: &[(&str, &str)]) -> (Guard<'w>, String) {
    let group = format!("\"{NOBODYS}\"");
    let guard = Guard::configured(world, &[&[("edge.group", group.as_str())], changes].concat());
    let folder = guard.config().parent().unwrap().to_owned();
    let program = public_binary(&folder);
    chown(&folder, Some(NOBODYS), Some(NOBODYS)).unwrap();
    // Port 25 without CAP_NET_BIND_SERVICE.
    run(world.on(Host::Edge, "sh").args(["-c", "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start"]), "").ok();
    (guard, program)
}

/// `program` with the guard's configuration, as `user`.
fn command(world: &World, guard: &Guard<'_>, user: u32, program: &str, arguments: &[&str]) -> Command {
    let words = as_user(user);
    let mut command = world.on(Host::Edge, &words[0]);
    command.args(&words[1..]).arg(program).args(arguments).arg("--config").arg(guard.config());
    command
}

fn start(world: &World, guard: &Guard<'_>, program: &str) -> Program {
    let log = guard.config().with_file_name("log");
    let mut proxy = Program::start(&mut command(world, guard, NOBODYS, program, &["run"]), log);
    proxy.wait_for("smtp-guard runs");
    proxy.wait_for("\"backend answers\"");
    proxy
}

#[test]
#[ignore = "needs root and BPF"]
fn an_ordinary_user_bans_in_the_kernel() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let (guard, program) = configured(&world, &[("harvest.unknown_recipients", "5")]);
    let loaded = guard.command(&["edge", "load"]).ok();
    assert!(loaded.contains(&format!("maps: open to root and to group {NOBODYS}")), "{loaded}");

    let mut proxy = start(&world, &guard, &program);
    let status = fs::read_to_string(format!("/proc/{}/status", proxy.pid().as_raw_nonzero())).unwrap();
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        assert!(status.contains(line), "{status}");
    }
    assert!(proxy.output().contains("using the kernel plane loaded by smtp-guard edge"), "{}", proxy.output());
    let status = guard.json(&["status"]);
    assert_eq!(status["kernel"]["present"], true, "{status:#}");

    // By the operator, and by a harvest: dropped in the kernel, lifted in the kernel.
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let talk = |lines: &str| run(world.on(Host::Attacker, &netkit()).args(["dialogue", &edge]), lines).ok();
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "x"]).ok();
    assert!(talk("").contains("NOT CONNECTED"));
    let dropped = guard.packets("operator");
    assert!(dropped > 0);
    guard.command(&["decisions", "delete", "--all"]).ok();
    let harvest = "EHLO x\nMAIL FROM:<a@b.example>\n".to_owned()
        + &(0..8).map(|n| format!("RCPT TO:<nobody{n}@example.org>\n")).collect::<String>();
    assert!(talk(&harvest).starts_with("220"), "lifted");
    let banned = || (guard.json(&["edge", "status"])["bans_active"] == 1).then_some(());
    wait_for("the harvest's ban in the kernel", banned, || proxy.output());
    assert!(talk("").contains("NOT CONNECTED"));
    assert!(guard.packets("harvest") > 0);

    // What it may not: the links.
    for refused in [&["edge", "unload"][..], &["edge", "load"]] {
        let mut command = command(&world, &guard, NOBODYS, &program, refused);
        let refused = run(&mut command, "");
        assert!(refused.code() == 1 && refused.stderr.contains("not permitted"), "{refused:#?}");
    }
    assert!(guard.json(&["edge", "status"])["interfaces"][0]["attached"] == true);
    // It sees whether the program is on the interface, although the link is not its own.
    assert!(
        guard.metrics().contains("smtp_guard_kernel_interface_attached{interface=\"att0\"} 1"),
        "{}",
        guard.metrics()
    );
    proxy.kill9();

    // Who is not in the group sees nothing.
    let refused = run(&mut command(&world, &guard, NOBODYS + 1, &program, &["edge", "status"]), "");
    assert_eq!(refused.code(), 1, "{refused:#?}");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_reload_without_rights_changes_both_planes() {
    /// An address that no host has, on a list.
    const LISTED: &str = "198.51.100.7";
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let (guard, program) = configured(&world, &[]);
    guard.command(&["edge", "load"]).ok();
    let proxy = start(&world, &guard, &program);
    let list = guard.config().with_file_name("drop");
    fs::write(&list, format!("{LISTED}\n")).unwrap();
    let group = format!("\"{NOBODYS}\"");
    let lines = format!("[[blocklist]]\nname = \"drop\"\nfile = \"{}\"", list.display());
    let exempt = format!("[\"{}\"]", World::ATTACKER);
    let changes = [("edge.group", group.as_str()), ("+", &lines)];
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let talk = || run(world.on(Host::Attacker, &netkit()).args(["dialogue", &edge]), "").ok();
    let drops = |ip: &str| guard.json(&["explain", ip])["kernel"]["drop_reason"].clone();

    // A new list, a port less: settings, ports and lists.
    guard.configure(&changes);
    guard.command(&["reload"]).ok();
    assert_eq!(drops(LISTED), "listed", "{}", proxy.output());
    guard.command(&["decisions", "add", World::ATTACKER]).ok();
    assert_eq!(drops(World::ATTACKER), "operator");
    assert!(talk().contains("NOT CONNECTED"));
    // The exempt list, and the ban that ends with it.
    guard.configure(&[&changes[..], &[(".exempt", &exempt)]].concat());
    guard.command(&["reload"]).ok();
    assert!(talk().starts_with("220"), "{}", proxy.output());
    assert_eq!(drops(World::ATTACKER), serde_json::Value::Null);
    // Exempt no longer, and a list no more.
    guard.configure(&changes[..1]);
    guard.command(&["reload"]).ok();
    guard.command(&["decisions", "add", World::ATTACKER]).ok();
    assert!(talk().contains("NOT CONNECTED"));
    assert_eq!(drops(LISTED), serde_json::Value::Null);
    // What it may not: interfaces. It says who may.
    guard.configure(&[&changes[..1], &[("edge.interfaces", "[\"att0\"]")]].concat());
    let reloaded = guard.command(&["reload"]);
    assert!(format!("{reloaded:?}").contains("edge.interfaces: they stay as they are"), "{reloaded:#?}");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_proxy_that_was_first_takes_the_kernel_plane_when_it_is_loaded() {
    let world = World::new();
    let _postfix = Postfix::start(&world, "");
    let (guard, program) = configured(&world, &[]);
    let proxy = start(&world, &guard, &program);
    let present = || guard.json(&["status"])["kernel"]["present"] == true;
    assert!(!present());
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let talk = || run(world.on(Host::Attacker, &netkit()).args(["dialogue", &edge]), "").ok();
    guard.command(&["decisions", "add", World::ATTACKER, "--for", "1h", "--reason", "x"]).ok();
    assert!(talk().starts_with("421"), "by user space");
    // Twice: it also goes and comes back.
    for times in 1..=2 {
        guard.command(&["edge", "load"]).ok();
        let banned = || (guard.json(&["edge", "status"])["bans_active"] == 1).then_some(());
        wait_for("the ban in the kernel", banned, || proxy.output());
        assert!(present() && talk().contains("NOT CONNECTED"), "{}", guard.json(&["status"]));
        assert_eq!(guard.packets("exempt"), 0);
        guard.command(&["edge", "unload"]).ok();
        let told = || proxy.output().matches("is not loaded any more").count() == times;
        wait_for("its end", || told().then_some(()), || proxy.output());
        assert!(!present() && talk().starts_with("421"), "by user space");
    }
    guard.command(&["decisions", "delete", "--all"]).ok();
    assert!(talk().starts_with("220"));
    // What isn't loaded is no failure, and is told once.
    let log = proxy.output();
    assert!(!log.contains("ERROR"), "{log}");
    for (text, times) in [("no kernel plane: bans and limits", 1), ("it gets the bans in force", 2)] {
        assert_eq!(log.matches(text).count(), times, "{text}: {log}");
    }
}
