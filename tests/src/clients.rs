//! Real clients that send one message and end. Each returns when the message is accepted, and panics when it is not.
//!
//! Servers as clients are in their own files; [`smtplib`] hands them what they should send.

use std::path::Path;
use std::process::Command;

use crate::netns::{Host, World};
use crate::process::run;
use crate::room::line_with;

/// Debian's, not another that may come first in the path.
pub const PYTHON: &str = "/usr/bin/python3";

/// A message and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Mail<'a> {
    /// IP:port.
    pub server: &'a str,
    pub recipients: &'a [&'a str],
    /// Header and body, lines ending in LF.
    pub message: &'a str,
}

impl Mail<'_> {
    pub const SENDER: &'static str = "a@client.example";
}

/// Sends `mail` with swaks; `more` are further arguments.
pub fn swaks(world: &World, mail: &Mail, more: &[&str]) {
    let mut command = world.on(Host::Client, "swaks");
    command.args(["--server", mail.server, "--helo", "client.example", "--from", Mail::SENDER]);
    command.args(["--to", &mail.recipients.join(","), "--data", "-", "--timeout", "10"]).args(more);
    // It ends the last line itself.
    run(&mut command, mail.message.strip_suffix('\n').unwrap_or(mail.message)).ok();
}

/// Sends `mail` with msmtp.
pub fn msmtp(world: &World, mail: &Mail, more: &[&str]) {
    let (host, port) = mail.server.rsplit_once(':').unwrap();
    let mut command = world.on(Host::Client, "msmtp");
    command.args(["--file=/dev/null", &format!("--host={host}"), &format!("--port={port}")]);
    command.args(["--domain=client.example", &format!("--from={}", Mail::SENDER), "--timeout=10"]);
    command.args(more).arg("--").args(mail.recipients);
    run(&mut command, mail.message).ok();
}

/// Sends `mail` with Python's smtplib; with `ca` over STARTTLS, the server's certificate verified against that file.
pub fn smtplib(world: &World, mail: &Mail, ca: Option<&Path>) {
    session(world, Host::Client, mail.server, ca, mail.recipients, &[mail.message.to_owned()]);
}

/// Sends `messages` from `host` in one session of Python's smtplib, each to all `recipients`.
pub fn session(world: &World, host: Host, server: &str, ca: Option<&Path>, recipients: &[&str], messages: &[String]) {
    let mut command = world.on(host, PYTHON);
    command.args(["-c", SMTPLIB, server]).arg(ca.unwrap_or(Path::new(""))).arg(Mail::SENDER).args(recipients);
    run(&mut command, &messages.join(SEPARATOR)).ok();
}

/// Sends `mail` with Postfix's smtp-source.
pub fn smtp_source(world: &World, mail: &Mail, more: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("message");
    // It adds an empty line.
    std::fs::write(&file, mail.message.strip_suffix('\n').unwrap_or(mail.message)).unwrap();
    for recipient in mail.recipients {
        let mut command = world.on(Host::Client, "smtp-source");
        command.args(["-M", "client.example", "-f", Mail::SENDER, "-t", recipient, "-F"]).arg(&file);
        run(command.args(more).arg(mail.server), "").ok();
    }
}

/// Name and version of a client, as it says them: `swaks 20201014.0`.
pub fn version(program: &str) -> String {
    line_with(Command::new(program).arg("--version"), "").replace(" version", "")
}

/// Between messages on the script's standard input: the ASCII record separator.
const SEPARATOR: &str = "\x1e";

const SMTPLIB: &str = "
import smtplib, ssl, sys
server, ca, sender, *recipients = sys.argv[1:]
host, port = server.rsplit(':', 1)
messages = sys.stdin.buffer.read().replace(b'\\n', b'\\r\\n').split(b'\\x1e')
with smtplib.SMTP(host, int(port), local_hostname='client.example', timeout=20) as session:
    if ca:
        session.starttls(context=ssl.create_default_context(cafile=ca))
    session.ehlo_or_helo_if_needed()
    options = ['BODY=8BITMIME'] if session.has_extn('8bitmime') else []
    for message in messages:
        refused = session.sendmail(sender, recipients, message, options)
        assert not refused, refused
";
