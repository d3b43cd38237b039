//! The manual pages, before a program that judges them.
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
