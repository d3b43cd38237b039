//! Manual pages, and the commands for Postfix in README and docs/install.md, before the programs that judge them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::process::Command;

use smtp_guard_tests::{guard::binary, run};

#[test]
#[ignore = "needs root and mandoc"]
fn manual_pages_are_well_formed() {
    let folder = tempfile::tempdir().unwrap();
    run(Command::new(binary()).arg("man").arg(folder.path()), "").ok();
    let pages: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 25 && folder.path().join("smtp-guard.toml.5").exists(), "{pages:?}");
    let judged = run(Command::new("mandoc").args(["-Tlint", "-Wwarning"]).args(&pages), "");
    // A page of the program has no date of its own.
    let harmless = ["missing date", "br after sp"];
    let said: Vec<_> =
        judged.stdout.lines().filter(|line| !harmless.iter().any(|known| line.contains(known))).collect();
    assert!(said.is_empty(), "{said:#?}");
}

/// The commands for Postfix, on a copy of Debian's files: Postfix goes to another port as the README says, and comes back as
/// docs/install.md says.
#[test]
#[ignore = "needs root and Postfix"]
fn postfix_moves_and_comes_back_as_the_pages_say() {
    let commands = |page: &'static str| -> Vec<_> {
        page.lines().map(str::trim).filter(|line| line.starts_with("postconf ")).collect()
    };
    let there = commands(include_str!("../../../README.md"));
    let back = commands(include_str!("../../../docs/install.md"));
    let folder = tempfile::tempdir().unwrap();
    fs::copy("/usr/share/postfix/master.cf.dist", folder.path().join("master.cf")).unwrap();
    fs::write(folder.path().join("main.cf"), "compatibility_level = 3.6\n").unwrap();
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        run(command.args(["-c", line]).env("MAIL_CONFIG", folder.path()), "").ok()
    };
    let services = || {
        let mut lines: Vec<_> = shell("postconf -M").lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let before = services();
    // Postfix itself doesn't run here: `postfix reload` between them is left out.
    there.iter().for_each(|line| drop(shell(line)));
    assert!(services().iter().any(|line| line.starts_with("127.0.0.1:2525 ")), "{:?}", services());
    assert!(!services().iter().any(|line| line.starts_with("smtp       inet")), "{:?}", services());
    assert_eq!(shell("postconf -h smtpd_authorized_xclient_hosts").trim(), "127.0.0.1");
    back.iter().for_each(|line| drop(shell(line)));
    assert_eq!((services(), there.len(), back.len()), (before, 3, 3), "as before");
    assert_eq!(shell("postconf -h smtpd_authorized_xclient_hosts").trim(), "");
}
