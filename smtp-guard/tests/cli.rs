//! The compiled binary: exit codes, and what goes to standard output and what to standard error.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::path::Path;
use std::process::{Command, Output};

const VALID: &str = "\
hostname = \"mx.example.org\"
[[listen]]
address = \"127.0.0.1:2525\"
[backend]
servers = [\"127.0.0.1:2526\"]
[relay]
domains = [\"example.org\"]
[limits]
total_connections = 100
";

/// Runs the guard's binary with the words of `line`, behind `NAME=VALUE` of its environment; `{dir}` in it is `directory`.
fn guard(directory: &Path, line: &str) -> Output {
    let words = line.split_whitespace().map(|word| word.replace("{dir}", directory.to_str().unwrap()));
    let (environment, words): (Vec<_>, Vec<_>) = words.partition(|word| word.starts_with("SMTP_GUARD_"));
    let environment = environment.iter().filter_map(|word| word.split_once('='));
    let mut command = Command::new(env!("CARGO_BIN_EXE_smtp-guard"));
    command.args(words).env_clear().env("HOME", directory).envs(environment).output().unwrap()
}

/// Whether `line` ends with `code` and says `out` on standard output and `err` on standard error, each as a part;
/// an empty one means: nothing at all.
#[track_caller]
fn check(line: &str, code: i32, out: &str, err: &str) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("good.toml"), good(directory.path())).unwrap();
    std::fs::write(directory.path().join("bad.toml"), VALID.replace("domains", "domain")).unwrap();
    let output = guard(directory.path(), line);
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    let said = format!("{line}\nstdout: {stdout}\nstderr: {stderr}");
    assert_eq!(output.status.code(), Some(code), "{said}");
    for (text, part) in [(&stdout, out), (&stderr, err)] {
        assert_eq!(text.is_empty(), part.is_empty(), "{said}");
        assert!(text.contains(part), "no {part:?} in {said}");
    }
}

fn good(directory: &Path) -> String {
    let directory = directory.display();
    format!("{VALID}[admin]\nsocket = \"{directory}/admin.sock\"\n[edge]\npin_directory = \"{directory}/pins\"\n")
}

#[test]
fn done_is_zero() {
    check("--version", 0, env!("CARGO_PKG_VERSION"), "");
    check("--help", 0, "Exit codes", "");
    check("help decisions", 0, "delete", "");
    check("check --config {dir}/good.toml", 0, "the configuration is valid", "");
    check("config show --config {dir}/good.toml", 0, "domains = [\"example.org\"]", "");
    check("config show --config {dir}/good.toml", 0, "failed_commands = 20", "");
    check("config show --defaults", 0, "domains = []", "");
    check("config show --defaults --json", 0, "\"message_size\": \"25MiB\"", "");
    check("man", 0, ".TH \"SMTP-GUARD\" \"1\"", "");
    check("man {dir}/none", 1, "", "No such file");
    check("completions bash", 0, "complete -F", "");
}

/// What `check` says of a list that holds `text`: the exit code, and a part of each output.
#[track_caller]
fn check_list(text: &str, code: i32, out: &str, err: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("drop");
    if !text.is_empty() {
        std::fs::write(&path, text).unwrap();
    }
    let list = format!("[[blocklist]]\nname = \"drop\"\nfile = \"{}\"\n", path.display());
    std::fs::write(directory.path().join("list.toml"), good(directory.path()) + &list).unwrap();
    let output = guard(directory.path(), "check --config {dir}/list.toml");
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8(bytes.clone()).unwrap());
    assert_eq!(output.status.code(), Some(code), "{stdout}{stderr}");
    assert!(stdout.contains(out) && stderr.contains(err), "no {out:?} and {err:?} in\n{stdout}\n{stderr}");
}

#[test]
fn block_lists_are_read_by_check() {
    let text = "198.51.100.0/24\n10.0.0.1\n127.0.0.1 # backend\n";
    check_list(text, 0, "block list drop: netset, 1 entry, 2 refused\n  refused: line 2: 10.0.0.1: 10.0.0.0/8 is", "");
    check_list(&("198.51.100.7\n".to_owned() + &"10.0.0.1\n".repeat(25)), 0, "\n  and 5 more\n", "");
    check_list("<html>", 78, "", "error: blocklist.file: the block list /");
    check_list("<html>", 78, "", "fetch it again");
    check_list("", 78, "", "list.toml:16:8");
    check_list("{\"cidr\":\"198.51.100.0/24\"}", 78, "", "without its count of records");
}

/// The configuration `text` with what is beside it in the directory: what `check` with `more` says, and its exit code.
fn check_files(directory: &Path, text: &str, more: &str) -> (Option<i32>, String) {
    let text = text.replace("{dir}", directory.to_str().unwrap());
    std::fs::write(directory.join("named.toml"), good(directory) + &text).unwrap();
    let output = guard(directory, &format!("check --config {{dir}}/named.toml {more}"));
    (output.status.code(), [output.stdout, output.stderr].map(|out| String::from_utf8(out).unwrap()).concat())
}

#[test]
fn all_that_is_missing_is_said_at_once_where_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let text = "[tls]\ncertificate = \"{dir}/c\"\nkey = \"{dir}/k\"\n[recipients]\nknown = \"{dir}/r\"\n\
                [[blocklist]]\nname = \"a\"\nfile = \"{dir}/a\"\n\
                [fleet]\nurl = [\"redis://192.0.2.10\"]\nkey_file = \"{dir}/f\"\n";
    let (code, said) = check_files(directory.path(), text, "");
    assert_eq!(code, Some(78), "{said}");
    for part in [
        "tls.certificate: cannot read",
        "named.toml:15:15",
        "tls.key: cannot read",
        "named.toml:16:7",
        "recipients.known: ",
        "named.toml:18:9",
        "blocklist.file: ",
        "named.toml:21:8",
        "fleet.key_file: cannot read",
        "named.toml:24:12",
        "named.toml: 5 errors",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let (code, said) = check_files(directory.path(), "[recipients]\nknown = \"{dir}\"\n", "");
    assert!(code == Some(78) && said.contains("help: name a file, not a directory"), "{said}");
    std::fs::write(directory.path().join("f"), "short").unwrap();
    let (code, said) = check_files(directory.path(), &text[text.find("[fleet]").unwrap()..], "");
    assert!(code == Some(78) && said.contains("it has less than 32 bytes"), "{said}");
    let (code, said) = check_files(directory.path(), "", "");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn check_without_a_file_is_of_the_built_in_values() {
    if Path::new("/etc/smtp-guard/smtp-guard.toml").exists() {
        eprintln!("skipped: this machine has a configuration");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let output = guard(directory.path(), "check");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("there is no /etc/smtp-guard/smtp-guard.toml: the built-in values are valid"), "{said}");
}

#[test]
fn check_by_root_goes_by_what_the_guards_user_may_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let mode = |name: &str, mode| {
        std::fs::set_permissions(directory.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(".", 0o755);
    let (code, said) = check_files(directory.path(), "", "--user no-such-user");
    assert!(code == Some(1) && said.contains("there is no user no-such-user"), "{said}");
    if !rustix::process::geteuid().is_root() {
        let (code, said) = check_files(directory.path(), "", "--user root");
        assert!(code == Some(1) && said.contains("only root can check for user root"), "{said}");
        return;
    }
    let made = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
    std::fs::write(directory.path().join("c"), made.cert.pem()).unwrap();
    std::fs::write(directory.path().join("k"), made.signing_key.serialize_pem()).unwrap();
    std::fs::create_dir(directory.path().join("state")).unwrap();
    let text = "[tls]\ncertificate = \"{dir}/c\"\nkey = \"{dir}/k\"\n[state]\ndirectory = \"{dir}/state\"\n";
    mode("k", 0o600);
    let (code, said) = check_files(directory.path(), text, "--user nobody");
    assert_eq!(code, Some(78), "{said}");
    for part in [
        "tls.key: cannot read",
        "Permission denied",
        "user nobody has to be able to read it",
        "state.directory: user nobody cannot write to",
        "2 errors",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    mode("k", 0o644);
    mode("state", 0o777);
    let (code, said) = check_files(directory.path(), text, "--user nobody");
    assert!(code == Some(0) && said.contains("user nobody can use what it names"), "{said}");
}

#[test]
fn failed_is_one() {
    for line in ["status", "status --json", "explain 192.0.2.1", "decisions list", "decisions delete --all"] {
        let line = format!("{line} --config {{dir}}/good.toml");
        check(&line, 1, "", "no guard answers at");
        check(&line, 1, "", "systemctl status smtp-guard");
    }
}

#[test]
fn wrong_usage_is_two() {
    check("", 2, "", "Usage");
    check("reload --wait --dry-run", 2, "", "cannot be used");
    check("check --confg x", 2, "", "--config");
    check("explain 192.0.2.300", 2, "", "give an address");
    check("decisions add 192.0.2.1 --for 1x --reason x", 2, "", "whole number and a unit");
    check("setup --yes --domain *.example.org", 2, "", "'--domain <DOMAIN>': relay.domains: ");
    check("setup --yes --backend mail:99999", 2, "", "'--backend <HOST[:PORT]>': backend.servers: there is no port");
}

#[test]
fn bad_configuration_is_seventy_eight() {
    for command in ["run", "check", "config show", "status", "decisions list", "edge load"] {
        check(&format!("{command} --config {{dir}}/bad.toml"), 78, "", "bad.toml:7:1");
        check(&format!("{command} --config {{dir}}/bad.toml"), 78, "", "did you mean `domains`?");
        check(&format!("{command} --config {{dir}}/none.toml"), 78, "", "none.toml");
    }
    check("check --config {dir}", 78, "", "directory");
    check("edge load --config {dir}/good.toml", 78, "", "give --interface");
    // Each is valid, and together they aren't.
    let setup =
        "setup --yes --domain a.example --backend 192.0.2.9 --exempt 10.0.0.0/8 --exempt 11.0.0.0/8 --output {dir}/new";
    check(setup, 78, "", "/new with these errors. Nothing was written.\nerror: exempt would make an open relay");
}

#[test]
fn the_variable_names_the_file_where_the_command_line_does_not() {
    const GOOD: &str = "SMTP_GUARD_CONFIG={dir}/good.toml";
    const NONE: &str = "SMTP_GUARD_CONFIG={dir}/none.toml";
    check(&format!("{GOOD} config show"), 0, "domains = [\"example.org\"]", "");
    check(&format!("{GOOD} check"), 0, "the configuration is valid", "");
    check(&format!("{NONE} config show --config {{dir}}/good.toml"), 0, "domains = [\"example.org\"]", "");
    check(&format!("{GOOD} check --config {{dir}}/bad.toml"), 78, "", "bad.toml:7:1");
    // A file that was named and isn't there is never the one by default, nor none at all.
    for command in ["run", "check", "config show", "status"] {
        check(&format!("{NONE} {command}"), 78, "", "/none.toml: ");
        for named in [NONE, "--config {dir}/none.toml"] {
            let way = "; the file is named by --config, else by $SMTP_GUARD_CONFIG, else it is /etc/smtp-guard/smtp-guard.toml";
            check(&format!("{command} {named}"), 78, "", way);
        }
    }
    check("SMTP_GUARD_CONFIG= check", 2, "", "a value is required for '--config <FILE>'");
}

#[test]
fn the_shown_configuration_is_valid_again() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("good.toml"), good(directory.path())).unwrap();
    let shown = guard(directory.path(), "config show --config {dir}/good.toml").stdout;
    std::fs::write(directory.path().join("again.toml"), &shown).unwrap();
    let again = guard(directory.path(), "config show --config {dir}/again.toml");
    assert_eq!(again.stdout, shown);
    assert!(again.status.success());
}
