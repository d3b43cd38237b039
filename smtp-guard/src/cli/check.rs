//! `check`: the configuration and all that it names, as the guard will find it. Run by root it goes by what the guard's user may
//! read: root may read everything, and that says nothing.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use nix::unistd::{User, initgroups, setgid, setuid};
use rustix::fs::{Access, access};
use rustix::process::geteuid;

use super::{Failure, blocklists, output, setup};
use crate::config::{self, BackendTls, Config, ConfigError, ConfigFile, DEFAULT_PATH, Origin, Report, Unusable};
use crate::descriptors::Budget;
use crate::facts::recipients;
use crate::relay::probe;
use crate::{edge, file, relay};

/// Whom the packaged unit runs the guard as.
const USER: &str = "smtp-guard";
/// The directory that the packaged unit makes for that user.
const STATE: &str = "/var/lib/smtp-guard";
/// Bytes of a certificate, a key or an authority.
const MAX_FILE: u64 = 1 << 20;

/// Checks the configuration in `file`, or in its place, for `user`. `connects`: the mail server as well.
pub(super) fn check(file: Option<&Path>, user: Option<&str>, connects: bool) -> Result<(), Failure> {
    let (config, origin) = config::find(file)?;
    let files = match &origin {
        Origin::File(path) => config::files(path)?,
        Origin::Builtin => Vec::new(),
    };
    let warnings = warnings(&config);
    let judged_for = become_user(user)?;
    let mut found = Found { user: judged_for.as_deref(), warnings, unusable: Vec::new() };
    found.configuration(&files);
    found.certificates(&config);
    found.authority(&config);
    found.recipients(&config);
    found.blocklists(&config)?;
    found.state(&config);
    let Found { warnings, unusable, .. } = found;
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    if !unusable.is_empty() {
        return Err(ConfigError::Bad(Report::of_unusable(&files, unusable)).into());
    }
    if connects {
        connect(&config)?;
    }
    let what = match (&origin, origin.missing()) {
        (_, Some(missing)) => format!("{missing}: the built-in values are valid"),
        (Origin::File(path), None) => format!("{}: the configuration is valid", path.display()),
        (Origin::Builtin, None) => "the built-in values are valid".to_owned(),
    };
    let whose = judged_for.map(|user| format!(", and user {user} can use what it names")).unwrap_or_default();
    Ok(output::line(&format!("{what}{whose}"))?)
}

/// What is probably not meant so, on this host as it is now. Only root can try some of it.
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

/// Tries all servers of the backend as the guard does, and says what was found.
fn connect(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut failed = 0;
    for server in &config.backend.servers {
        match runtime.block_on(probe::look(config, server)) {
            Ok(found) => {
                let tls = if found.secured { "after STARTTLS" } else { "in clear text" };
                output::line(&format!("{server}: takes the guard, {tls}; greets with {:?}", found.greeting))?;
                let doubts = setup::doubts(&found, config.backend.identity);
                doubts.iter().for_each(|doubt| eprintln!("warning: {server}: {doubt}"));
            }
            Err(why) => {
                failed += 1;
                eprintln!("error: {server} {why}");
            }
        }
    }
    if failed > 0 {
        Err(anyhow!("{failed} of {} mail servers can't be used now", config.backend.servers.len()))
    } else {
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
            Some(name) => Err(anyhow!("there is no user {name}; --user names whom the guard runs as")),
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

/// What was found wrong so far.
struct Found<'a> {
    /// Whom it is judged for, if it isn't whoever asks.
    user: Option<&'a str>,
    warnings: Vec<String>,
    unusable: Vec<Unusable>,
}

impl Found<'_> {
    /// Notes that `path`, which `key` names, can't be used because of `message`.
    fn unusable(&mut self, key: &'static str, path: &Path, message: impl Into<String>) {
        let help = match self.user {
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
