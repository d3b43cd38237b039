//! `check`: the configuration and all that it names, as the guard will find it. Run by root it goes by what the guard's user may
//! read: root may read everything, and that says nothing.

use std::io;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use nix::unistd::{User, initgroups, setgid, setuid};
use rustix::fs::{Access, access};
use rustix::process::geteuid;
use serde::Serialize;

use super::{BAD_CONFIGURATION, FAILED, Failure, blocklists, fleet, output, setup};
use crate::config::{self, BackendTls, Config, ConfigError, ConfigFile, DEFAULT_PATH, Fault, Origin, Report, Unusable};
use crate::descriptors::Budget;
use crate::facts::recipients;
use crate::fleet::Settings;
use crate::fleet::probe::{self as fleet_probe, Looked};
use crate::relay::probe::{self, Found};
use crate::{edge, file, relay, webhook};

/// The user that the packaged unit runs the guard as.
const USER: &str = "smtp-guard";
/// The directory that the packaged unit makes for that user.
const STATE: &str = "/var/lib/smtp-guard";
/// Bytes of a certificate, a key or an authority.
const MAX_FILE: u64 = 1 << 20;

/// The answer of `check --json`.
#[derive(Debug, Default, Serialize)]
struct Checked {
    /// Nothing is wrong with the configuration and what it names.
    valid: bool,
    /// The user it is judged for, if not the one who asks.
    user: Option<String>,
    warnings: Vec<String>,
    errors: Vec<Fault>,
    /// The servers of the backend, where they were tried.
    servers: Vec<Tried>,
    /// The servers of the fleet, likewise.
    fleet_servers: Vec<Looked>,
    /// The webhook, likewise; `None`: there is none.
    webhook: Option<Asked>,
}

/// The webhook that was tried.
#[derive(Debug, Serialize)]
struct Asked {
    server: String,
    /// Why it doesn't take events.
    error: Option<String>,
}

/// A server of the backend that was tried.
#[derive(Debug, Serialize)]
struct Tried {
    server: String,
    /// Why it can't be used now.
    error: Option<String>,
    probe: Option<Found>,
    doubts: Vec<String>,
}

/// Checks the configuration in `file`, or in its place, for `user`. `connects`: the mail server as well.
pub(super) fn check(file: Option<&Path>, user: Option<&str>, connects: bool, json: bool) -> Result<(), Failure> {
    let mut checked = Checked::default();
    let judged = judge(file, user, &mut checked);
    if !json {
        checked.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    let tried = |(config, origin): (Config, Origin)| -> Result<Origin, Failure> {
        if connects {
            let backend = connect(&config, &mut checked.servers, json);
            let fleet = connect_to_fleet(&config, &mut checked.fleet_servers, json);
            let webhook = connect_to_webhook(&config, &mut checked.webhook, json);
            // All are tried, and the mail server is what mail waits for.
            backend.and(fleet).and(webhook)?;
        }
        Ok(origin)
    };
    let result = judged.and_then(tried);
    if json {
        return told(checked, result);
    }
    let origin = result?;
    let what = match (&origin, origin.missing()) {
        (_, Some(missing)) => format!("{missing}: the built-in values are valid"),
        (Origin::File(path), None) => format!("{}: the configuration is valid", path.display()),
        (Origin::Builtin, None) => "the built-in values are valid".to_owned(),
    };
    let whose = checked.user.map(|user| format!(", and user {user} can use what it names")).unwrap_or_default();
    Ok(output::line(&format!("{what}{whose}"))?)
}

/// Writes `checked` as JSON: what is wrong is the answer here, and its exit code says so as well.
fn told(mut checked: Checked, result: Result<Origin, Failure>) -> Result<(), Failure> {
    let refused = checked.servers.iter().any(|tried| tried.error.is_some())
        || checked.fleet_servers.iter().any(|looked| !looked.troubles.is_empty())
        || checked.webhook.iter().any(|asked| asked.error.is_some());
    let result = match result {
        Ok(_) => Ok(()),
        Err(Failure::Other(_)) if refused => Err(Failure::Told(FAILED)),
        Err(failure) => {
            let code = match &failure {
                Failure::Config(_) => BAD_CONFIGURATION,
                Failure::Other(_) | Failure::Told(_) => FAILED,
            };
            checked.errors = faults(failure);
            Err(Failure::Told(code))
        }
    };
    checked.valid = checked.errors.is_empty();
    output::show(true, &checked, String::new)?;
    result
}

/// Everything that `failure` says is wrong.
fn faults(failure: Failure) -> Vec<Fault> {
    match failure {
        Failure::Config(ConfigError::Bad(report)) => report.faults(),
        Failure::Config(ConfigError::Read { path, source }) => {
            let help = config::advice(&source);
            vec![Fault { file: Some(path), message: source.to_string(), help, ..Fault::default() }]
        }
        Failure::Other(error) => vec![Fault { message: format!("{error:#}"), ..Fault::default() }],
        Failure::Told(_) => Vec::new(),
    }
}

/// Judges the configuration in `file`, or in its place, and what it names.
fn judge(file: Option<&Path>, user: Option<&str>, checked: &mut Checked) -> Result<(Config, Origin), Failure> {
    let (config, origin) = config::find(file)?;
    let files = match &origin {
        Origin::File(path) => config::files(path)?,
        Origin::Builtin => Vec::new(),
    };
    checked.warnings = warnings(&config);
    checked.user = become_user(user)?;
    let mut found = Findings { user: checked.user.as_deref(), warnings: &mut checked.warnings, unusable: Vec::new() };
    found.configuration(&files);
    found.certificates(&config);
    found.authority(&config);
    found.recipients(&config);
    found.fleet(&config);
    found.webhook(&config);
    found.blocklists(&config)?;
    found.state(&config);
    let unusable = found.unusable;
    if !unusable.is_empty() {
        return Err(ConfigError::Bad(Report::of_unusable(&files, unusable)).into());
    }
    Ok((config, origin))
}

/// Settings that are probably mistakes, on this host as it is now. Only root can try some of them.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = config.warnings();
    warnings.extend(Budget::of(config).warning());
    warnings.extend(edge::objections(config).into_iter().map(|objection| objection.to_string()));
    let gone = edge::missing(config).into_iter();
    warnings.extend(gone.map(|name| {
        format!(
            "edge.interfaces: there is no {name} now (`ip link` shows those there are); it is filtered once it is there"
        )
    }));
    warnings
}

/// Tries the servers of the fleet, where there is one, likewise.
fn connect_to_fleet(config: &Config, all: &mut Vec<Looked>, later: bool) -> anyhow::Result<()> {
    let Some(settings) = Settings::load(config)? else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let looked = fleet_probe::targets(&settings).iter().try_for_each(|target| {
        let looked = runtime.block_on(fleet_probe::look(&settings, target));
        if !later {
            fleet::say(&looked)?;
        }
        all.push(looked);
        Ok::<_, io::Error>(())
    });
    // A look-up that hangs isn't waited for.
    runtime.shutdown_background();
    looked?;
    let failed = all.iter().filter(|looked| !looked.troubles.is_empty()).count();
    if failed > 0 {
        Err(anyhow!(
            "{failed} of {} servers of the fleet can't be used now; where none can, this edge judges alone, and mail flows",
            all.len()
        ))
    } else {
        Ok(())
    }
}

/// Sends the webhook, where there is one, an event that says that nothing happened.
fn connect_to_webhook(config: &Config, asked: &mut Option<Asked>, later: bool) -> anyhow::Result<()> {
    let Some(settings) = webhook::Settings::load(config)? else { return Ok(()) };
    let server = settings.place();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let error = runtime.block_on(webhook::probe(&settings)).err();
    // A look-up that hangs isn't waited for.
    runtime.shutdown_background();
    let asked = asked.insert(Asked { server, error });
    let Asked { server, error } = &*asked;
    match error {
        None if later => {}
        None => output::line(&format!("{server}: takes events"))?,
        Some(why) if !later => eprintln!("error: {server}: {why}"),
        Some(_) => {}
    }
    match error {
        None => Ok(()),
        Some(_) => Err(anyhow!(
            "the webhook doesn't take events now: look at its own log, and at events.webhook, secret_file and tls_ca; mail flows all \
             the same"
        )),
    }
}

/// Tries all servers of the backend as the guard does; says at once what was found of each, unless all of it is told `later`.
fn connect(config: &Config, all: &mut Vec<Tried>, later: bool) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for server in &config.backend.servers {
        let looked = runtime.block_on(probe::look(config, server));
        let doubts = looked.as_ref().map(|found| setup::doubts(found, config.backend.identity)).unwrap_or_default();
        let (probe, error) = match looked {
            Ok(found) => (Some(found), None),
            Err(why) => (None, Some(why)),
        };
        let tried = Tried { server: server.to_string(), error, probe, doubts };
        if !later {
            tried.say()?;
        }
        all.push(tried);
    }
    let failed = all.iter().filter(|tried| tried.error.is_some()).count();
    if failed > 0 {
        Err(anyhow!(
            "{failed} of {} mail servers can't be used now, and senders hear 451 where none can: start them, or change backend.servers",
            config.backend.servers.len()
        ))
    } else {
        Ok(())
    }
}

impl Tried {
    fn say(&self) -> io::Result<()> {
        let Self { server, error, probe, doubts } = self;
        if let Some(found) = probe {
            let tls = if found.secured { "after STARTTLS" } else { "in clear text" };
            output::line(&format!("{server}: takes the guard, {tls}; greets with {:?}", found.greeting))?;
        }
        doubts.iter().for_each(|doubt| eprintln!("warning: {server}: {doubt}"));
        error.iter().for_each(|why| eprintln!("error: {server} {why}"));
        Ok(())
    }
}

/// Becomes `named`, or the guard's user where there is one and this is root, for good. Returns whom the rest is judged for, if it
/// isn't whoever asks.
fn become_user(named: Option<&str>) -> anyhow::Result<Option<String>> {
    let root = geteuid().is_root();
    if named.is_none() && !root {
        return Ok(None);
    }
    let name = named.unwrap_or(USER);
    let Some(user) = User::from_name(name).with_context(|| format!("looking for user {name}"))? else {
        return match named {
            Some(name) => Err(anyhow!("there is no user {name}; name by --user the user that the guard runs as")),
            None => Ok(None),
        };
    };
    if user.uid.as_raw() == geteuid().as_raw() {
        return Ok(Some(user.name));
    }
    if !root {
        return Err(anyhow!("only root can check for user {name}: run it as root, or as {name} without --user"));
    }
    let groups = std::ffi::CString::new(name).context("the name of a user")?;
    initgroups(&groups, user.gid)
        .and_then(|()| setgid(user.gid))
        .and_then(|()| setuid(user.uid))
        .with_context(|| format!("becoming user {name}"))?;
    Ok(Some(user.name))
}

/// The faults found so far.
struct Findings<'a> {
    /// The user it is judged for, if not the one who asks.
    user: Option<&'a str>,
    warnings: &'a mut Vec<String>,
    unusable: Vec<Unusable>,
}

impl Findings<'_> {
    /// Notes that `path`, which `key` names, can't be used because of `message`.
    fn unusable(&mut self, key: &'static str, path: &Path, message: impl Into<String>) {
        let help = match self.user {
            _ if path.is_dir() => "name a file, not a directory".to_owned(),
            Some(user) => format!(
                "user {user} has to be able to read it, and to enter its folders (`namei -l {}`)",
                path.display()
            ),
            None => "put the file there, or change the key".to_owned(),
        };
        self.unusable.push(Unusable { key, value: path.display().to_string(), message: message.into(), help });
    }

    /// Whether `path`, which `key` names, can be read.
    fn reads(&mut self, key: &'static str, path: &Path) -> bool {
        match file::read(path, MAX_FILE) {
            Ok(_) => true,
            Err(error) => {
                self.unusable(key, path, format!("cannot read {}: {error}", path.display()));
                false
            }
        }
    }

    /// The files of the configuration itself: read by whoever asks, who may be root.
    fn configuration(&mut self, files: &[ConfigFile]) {
        let Some(user) = self.user else { return };
        for ConfigFile { path, .. } in files {
            if let Err(error) = file::read(path, config::FILE_BYTES) {
                let text =
                    format!("user {user} cannot read {}: {error}; chgrp {user} and chmod 640 it", path.display());
                if path.starts_with(Path::new(DEFAULT_PATH).parent().unwrap_or(Path::new(DEFAULT_PATH))) {
                    self.unusable("configuration", path, text);
                } else {
                    // It may be on its way there.
                    self.warnings.push(text);
                }
            }
        }
    }

    fn certificates(&mut self, config: &Config) {
        let Some(tls) = &config.tls else { return };
        let mut readable = self.reads("tls.certificate", &tls.certificate);
        readable &= self.reads("tls.key", &tls.key);
        for pair in &tls.also {
            readable &= self.reads("tls.also.certificate", &pair.certificate);
            readable &= self.reads("tls.also.key", &pair.key);
        }
        match relay::try_load(tls, crate::clock::wall()) {
            Ok(warnings) => self.warnings.extend(warnings),
            // Which of them is read from its text.
            Err(error) if readable => self.unusable("tls.certificate", &tls.certificate, error.to_string()),
            Err(_) => {}
        }
    }

    fn authority(&mut self, config: &Config) {
        if let Some(path) = config.backend.tls_ca.as_deref().filter(|_| config.backend.tls == BackendTls::Verified) {
            self.reads("backend.tls_ca", path);
        }
    }

    fn recipients(&mut self, config: &Config) {
        let Some(path) = config.recipients.known.as_deref() else { return };
        match recipients::load(path) {
            Ok(table) => self.warnings.extend(recipients::warnings(&table.missing(&config.relay.domains))),
            Err(error) => self.unusable("recipients.known", path, error.to_string()),
        }
    }

    /// The files that a fleet needs, where there is one.
    fn fleet(&mut self, config: &Config) {
        let Err(error) = Settings::load(config) else { return };
        let (key, path) = error.place();
        self.unusable(key, path, error.to_string());
    }

    /// The files that a webhook needs, where there is one.
    fn webhook(&mut self, config: &Config) {
        let Err(error) = webhook::Settings::load(config) else { return };
        match error.place() {
            Some((key, path)) => self.unusable(key, path, error.to_string()),
            None => self.warnings.push(error.to_string()),
        }
    }

    fn blocklists(&mut self, config: &Config) -> anyhow::Result<()> {
        for (list, error) in blocklists::check(config)? {
            self.unusable("blocklist.file", &list.file, error.to_string());
        }
        Ok(())
    }

    /// The state directory, where it is another user's.
    fn state(&mut self, config: &Config) {
        let (Some(user), directory) = (self.user, &config.state.directory) else { return };
        let exists = directory.ancestors().find(|path| path.exists()).unwrap_or(directory);
        let writable = access(exists, Access::WRITE_OK | Access::EXEC_OK).is_ok();
        if exists == directory && !writable {
            let help = format!(
                "chown -R {user} it, or set another state.directory: decisions don't survive a restart otherwise"
            );
            let message = format!("user {user} cannot write to {}", directory.display());
            let value = directory.display().to_string();
            self.unusable.push(Unusable { key: "state.directory", value, message, help });
        } else if !writable && directory != Path::new(STATE) {
            self.warnings.push(format!(
                "state.directory: {} does not exist, and user {user} cannot make it: make it for that user, or decisions don't \
                 survive a restart",
                directory.display()
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::Offset;
    use crate::fleet::probe::Found;

    /// `failure` names this place: file, line, column, and a part of message and help.
    #[track_caller]
    fn check(failure: Failure, place: (Option<&str>, Option<usize>, Option<usize>), message: &str, help: &str) {
        let errors = faults(failure);
        let fault = &errors[0];
        assert_eq!((fault.file.as_deref().and_then(Path::to_str), fault.line, fault.column), place, "{fault:?}");
        assert!(fault.message.contains(message) && fault.help.contains(help), "{fault:?}");
        let tried = |error: Option<&str>| Tried {
            server: String::from("10.0.0.10:25"),
            error: error.map(str::to_owned),
            probe: error.is_none().then(relay::probe::Found::default),
            doubts: Vec::new(),
        };
        let servers = vec![tried(None), tried(Some("does not answer"))];
        let found = Found { clock_offset_seconds: Some(Offset(-5)), ..Found::default() };
        let looked = |found| Looked { server: String::from("192.0.2.10:6379"), found, ..Looked::default() };
        let fleet_servers = vec![looked(None), looked(Some(found))];
        let user = Some(String::from("x"));
        let webhook = Some(Asked { server: String::from("https://ops.example.org:443"), error: None });
        let checked = Checked { valid: false, user, warnings: Vec::new(), errors, servers, fleet_servers, webhook };
        output::check_documented("check", &checked);
    }

    #[test]
    fn what_is_wrong_has_its_place() {
        let parsed = |text| {
            let error = Config::parse(Path::new("/x.toml"), text, &config::machine()).unwrap_err();
            Failure::Config(ConfigError::Bad(error))
        };
        let typo = parsed("# \u{e9}\n[backend]\n  \"\u{e9}\" = 1\n  server = [\"10.0.0.10\"]\n");
        check(typo, (Some("/x.toml"), Some(3), Some(3)), "unknown key", "");
        let typo = parsed("[backend]\nserver = [\"10.0.0.10\"]\n");
        check(typo, (Some("/x.toml"), Some(2), Some(1)), "unknown key `server`", "did you mean `servers`?");
        let missing = Failure::from(config::find(Some(Path::new("/nowhere/x.toml"))).unwrap_err());
        check(missing, (Some("/nowhere/x.toml"), None, None), "No such file", "named by --config");
        let directory = Failure::from(config::find(Some(Path::new("/"))).unwrap_err());
        check(directory, (Some("/"), None, None), "it is a directory", "name a file, not a directory");
        let denied = ConfigError::Read {
            path: "/x.toml".into(),
            source: io::Error::from(io::ErrorKind::PermissionDenied).into(),
        };
        check(denied.into(), (Some("/x.toml"), None, None), "permission denied", "run this as root");
        let other = Failure::Other(anyhow!("there is no user nobody-here"));
        check(other, (None, None, None), "there is no user", "");
    }
}
