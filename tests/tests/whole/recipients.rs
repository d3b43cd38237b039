//! The recipient table, as it is exported from real mail servers.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::process::Command;

use smtp_guard_tests::{
    Exim, Guard, Host, Run, World,
    guard::{binary, check_answer},
    run, wait_for,
};

/// A configuration of Postfix with maps of all kinds, and the export of it.
struct Postfix {
    folder: tempfile::TempDir,
}

impl Postfix {
    fn new(extra: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        for (name, text) in [
            ("virtual", "sales@alias.example root\nalias.example anything\nbare root\n@catchall.example root\n"),
            ("mailboxes", "bob@box.example b/\nAnna@box.example a/\n"),
            ("relays", "carol@relay.example x\n"),
            ("domains", "# of a file\nbox.example\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::write(folder.path().join("aliases"), "info: root\nlist: \"|/bin/x\"\n").unwrap();
        fs::write(folder.path().join("master.cf"), "").unwrap();
        let defaults = format!(
            "compatibility_level = 3.6\nmyhostname = mail.local.example\nmydestination = local.example, $myhostname, localhost\n\
             alias_maps = hash:{path}/aliases\nvirtual_alias_maps = hash:{path}/virtual\n\
             virtual_alias_domains = alias.example catchall.example\nvirtual_mailbox_domains = {path}/domains\n\
             virtual_mailbox_maps = texthash:{path}/mailboxes\nrelay_domains = relay.example other.example\n\
             relay_recipient_maps = hash:{path}/relays\nrecipient_delimiter = +\n"
        );
        let key = |line: &str| line.split('=').next().unwrap().trim().to_owned();
        let extra = extra.replace("FOLDER", &path);
        let replaced: Vec<_> = extra.lines().map(key).collect();
        let kept = defaults.lines().filter(|line| !replaced.contains(&key(line)));
        let text: String = kept.chain(extra.lines()).map(|line| format!("{line}\n")).collect();
        fs::write(folder.path().join("main.cf"), text).unwrap();
        for (program, map) in [("postmap", "virtual"), ("postmap", "relays"), ("postalias", "aliases")] {
            run(Command::new(program).args(["-c", &path]).arg(format!("hash:{path}/{map}")), "").ok();
        }
        Self { folder }
    }

    fn export(&self, arguments: &[&str]) -> Run {
        let mut command = Command::new(binary());
        command.args(["recipients", "export-postfix", "--config-directory"]).arg(self.folder.path()).args(arguments);
        run(&mut command, "")
    }
}

/// Whether the table of `postfix` has each line of `expected`, or lacks it where a `!` stands before.
#[track_caller]
fn check(extra: &str, arguments: &[&str], expected: &[&str], said: &str) {
    let exported = Postfix::new(extra).export(arguments);
    assert!(exported.stderr.contains(said), "no {said:?} in {exported:#?}");
    let table = exported.ok();
    let lines: Vec<_> = table.lines().map(|line| line.split(" #").next().unwrap()).collect();
    for line in expected {
        let (line, wanted) = line.strip_prefix('!').map_or((*line, true), |line| (line, false));
        assert_eq!(lines.contains(&line), wanted, "{line} in {table}");
    }
}

#[test]
fn postfix_is_exported_and_in_doubt_any_recipient_is_taken() {
    check(
        "",
        &[],
        &[
            // Users of the host, and aliases, in each local domain.
            "root@local.example",
            "root@mail.local.example",
            "info@local.example",
            "list@mail.local.example",
            "bare@local.example",
            "!bare@alias.example",
            "!info@alias.example",
            "!root@localhost",
            "sales@alias.example",
            "!root@alias.example",
            "@catchall.example",
            "bob@box.example",
            "anna@box.example",
            "postmaster@box.example",
            "carol@relay.example",
            "!@relay.example",
            "!@local.example",
        ],
        "catchall.example becomes @catchall.example",
    );
    check("", &["--domain", "Box.example"], &["bob@box.example", "!sales@alias.example", "!root@local.example"], "");
    check(
        "relay_recipient_maps =",
        &[],
        &["@relay.example", "@other.example", "!@box.example"],
        "relay_recipient_maps is empty",
    );
    check("local_recipient_maps =", &[], &["@local.example"], "local_recipient_maps is empty");
    check("luser_relay = root", &[], &["@local.example", "!@box.example"], "luser_relay");
    check("recipient_delimiter = -", &[], &["@local.example", "@box.example"], "recipient_delimiter is \"-\"");
    check(
        "virtual_mailbox_maps = ldap:/nowhere",
        &[],
        &["@box.example", "!@relay.example"],
        "its entries can't be listed",
    );
    let rewrite = "virtual_alias_maps = hash:FOLDER/virtual, pcre:/rewrite";
    check(rewrite, &[], &["@box.example", "@relay.example", "@local.example"], "--ignore-map pcre:/rewrite");
    let ignored = ["--ignore-map", "pcre:/rewrite"];
    check(rewrite, &ignored, &["!@box.example", "!@local.example", "sales@alias.example"], "");
    // A database that was never made: its source is read.
    check("virtual_mailbox_maps = hash:FOLDER/mailboxes", &[], &["bob@box.example", "!@box.example"], "");
    check(
        "virtual_mailbox_domains = mysql:/nowhere",
        &[],
        &["carol@relay.example", "!bob@box.example"],
        "are left out",
    );
}

#[test]
fn a_table_is_written_as_a_whole_and_json_says_why() {
    let postfix = Postfix::new("");
    let path = postfix.folder.path().join("table");
    let output = path.display().to_string();
    let written = postfix.export(&["--output", &output]);
    assert!(written.stderr.contains("entries") && written.ok().is_empty());
    assert!(fs::read_to_string(&path).unwrap().contains("bob@box.example\n"));
    let refused = postfix.export(&["--output", &output, "--domain", "box.example"]);
    assert!(refused.code() == 1 && refused.stderr.contains("--force"), "{refused:#?}");
    assert!(fs::read_to_string(&path).unwrap().contains("carol@relay.example\n"));
    let json: serde_json::Value = serde_json::from_str(&postfix.export(&["--json"]).ok()).unwrap();
    check_answer(&["recipients", "export-postfix"], &json);
    let served = |domain: &str| json["served"].as_array().unwrap().iter().find(|row| row["domain"] == domain).unwrap();
    let all = served("catchall.example")["all"].as_str().unwrap();
    assert_eq!(all.split(" has ").nth(1), Some("@catchall.example"));
    assert_eq!(served("box.example")["users"], serde_json::json!(["anna", "bob"]));
    let unknown = postfix.export(&["--domain", "nowhere.example"]);
    assert!(unknown.code() == 1 && unknown.stderr.contains("doesn't serve the domain"), "{unknown:#?}");
}

#[test]
#[ignore = "needs root"]
fn exim_is_exported_by_its_own_word() {
    let world = World::new();
    let exim = Exim::start(&world, "domainlist local_domains = @ : example.org : *.wild.example\n");
    let words = [&binary(), "recipients", "export-exim", "--config-file", "CONFIG", "--exim", "EXIM"];
    let exported = exim.beside(&world, Host::Backend, &words);
    assert!(exported.stderr.contains("*.wild.example is not a single domain"), "{exported:#?}");
    let table = exported.ok();
    for user in ["alice", "bob", "carol", "postmaster"] {
        assert!(table.lines().any(|line| line == format!("{user}@example.org")), "{user} in {table}");
    }
    assert!(!table.contains("root@example.org") && !table.contains("\n@example.org"), "{table}");
}

#[test]
#[ignore = "needs root and BPF"]
fn a_domain_without_an_entry_is_named_everywhere() {
    let world = World::new();
    let _postfix = smtp_guard_tests::Postfix::start(&world, "");
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("recipients");
    fs::write(&table, "alice@example.org\n").unwrap();
    let known = format!("\"{}\"", table.display());
    let both = [("recipients.known", known.as_str()), ("relay.domains", "[\"example.org\", \"example.com\"]")];
    let words = "example.com has no entry in the table of recipients.known: every recipient of it is refused";

    let guard = Guard::start(&world, &both[..1]);
    let warned = |guard: &Guard<'_>| guard.command(&["status"]).ok().contains(words);
    assert!(!warned(&guard) && !guard.command(&["check"]).stderr.contains(words));
    guard.configure(&both);
    assert!(guard.command(&["check"]).stderr.contains(words));
    assert!(guard.command(&["reload", "--dry-run"]).stderr.contains(words));
    assert!(guard.command(&["reload"]).stderr.contains(words));
    assert!(warned(&guard) && guard.log().contains(words));
    // A table that can't be used stays in `status`, with the line.
    fs::write(&table, "alice@example.org\nno address\n").unwrap();
    let refused = || guard.command(&["status"]).ok().contains(":2: \"no address\"").then_some(());
    wait_for("the refused table in status", refused, || guard.log());
    fs::write(&table, "alice@example.org\n@example.com\n").unwrap();
    let mended = || (!warned(&guard) && !guard.command(&["status"]).ok().contains("no address")).then_some(());
    wait_for("a whole table", mended, || guard.log());
}
