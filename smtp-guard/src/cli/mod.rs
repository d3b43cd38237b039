//! The command line: which command, its exit code, and where its words go.

mod accounts;
pub mod admin_client;
mod args;
mod attempt;
mod blocklists;
mod check;
mod desk;
mod edge;
mod events;
mod explain;
mod export;
mod import;
mod output;
mod reload;
pub mod run;
mod signals;
pub mod sink;
mod time;
mod top;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use admin_client::{AdminClient, BadConfiguration};
use args::{Arguments, Command, ConfigCommand, Decisions, Subject};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};

use crate::config::{self, Config, ConfigError, DEFAULT_PATH};
use crate::observe::admin::Add;
use crate::observe::attempt::{Attempt, Candidate};

/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;
/// As clap and most tools have it.
const USAGE: u8 = 2;
const FAILED: u8 = 1;

/// Runs the command line.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Where the terminal is gone there is nobody to be told.
            _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(USAGE),
            };
        }
    };
    match perform(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Config(error)) => {
            match error {
                ConfigError::Bad(report) => eprintln!("{}", report.render(io::stderr().is_terminal())),
                error => eprintln!("error: {error}"),
            }
            ExitCode::from(BAD_CONFIGURATION)
        }
        // A guard that reads its configuration again finds what this command would have found itself.
        Err(Failure::Other(error)) if error.is::<BadConfiguration>() => {
            let text = error.to_string();
            let prefix = if text.starts_with("error") { "" } else { "error: " };
            eprintln!("{prefix}{text}");
            ExitCode::from(BAD_CONFIGURATION)
        }
        // `smtp-guard decisions list | head -1` is no failure.
        Err(Failure::Other(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(Failure::Other(error)) => {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// What a command failed with.
enum Failure {
    Config(ConfigError),
    Other(anyhow::Error),
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure
where
    E: NotConfig,
{
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Errors that aren't the configuration's.
trait NotConfig {}
impl NotConfig for anyhow::Error {}
impl NotConfig for io::Error {}

fn perform(arguments: Arguments) -> Result<(), Failure> {
    let file = arguments.global.config.as_deref();
    match arguments.command {
        Command::Run => {
            let (config, origin) = config::find(file)?;
            if let Some(missing) = origin.missing() {
                eprintln!("{missing}: built-in values for a first try; `smtp-guard config show` shows them");
            }
            Ok(run::run(config, file.map(Path::to_owned))?)
        }
        Command::Check => check::check(file.unwrap_or(Path::new(DEFAULT_PATH))),
        Command::Config { command: ConfigCommand::Show { defaults, json } } => {
            let config = if defaults { Config::defaults(&config::machine()) } else { config::find(file)?.0 };
            let text = if json.json {
                serde_json::to_string_pretty(&config).map_err(anyhow::Error::from)?
            } else {
                config.to_toml().map_err(anyhow::Error::from)?
            };
            Ok(output::line(text.trim_end())?)
        }
        Command::Config { command: ConfigCommand::Diff { json } } => Ok(reload::difference(&asker(file)?, json.json)?),
        Command::Reload { dry_run, wait, json } => Ok(reload::reload(&asker(file)?, dry_run, wait, json.json)?),
        Command::Status { json } => {
            let status = client(file)?.status()?;
            Ok(output::show(json.json, &status, || output::status(&status))?)
        }
        Command::Events { follow, json } => Ok(events::events(&client(file)?, follow, json.json)?),
        Command::Top { json: true, .. } => Ok(top::json(&client(file)?)?),
        Command::Top { interval, json: false } => Ok(top::view(client(file)?, interval)?),
        Command::Explain { subject: Subject::User(user), json } => {
            let view = client(file)?.account(&user)?;
            Ok(output::show(json.json, &view, || accounts::explained(&view))?)
        }
        Command::Explain { subject: Subject::Address(ip), json } => {
            let explanation = client(file)?.explain(ip)?;
            Ok(output::show(json.json, &explanation, || explain::text(ip, &explanation))?)
        }
        Command::Accounts { command } => Ok(accounts::accounts(&client(file)?, command)?),
        Command::Try { ip, helo, mail_from, rcpt_to, user, role, tls, json } => {
            let user = user.map(|user| user.to_string());
            let candidate = |path: &Path| Ok::<_, ConfigError>(Candidate { files: config::files(path)? });
            let config = file.map(candidate).transpose()?;
            let attempt = Attempt { ip, helo, mail_from, rcpt_to, user, role, tls, config };
            let rehearsal = asker(file)?.attempt(&attempt)?;
            Ok(output::show(json.json, &rehearsal, || attempt::text(&attempt, &rehearsal))?)
        }
        Command::Decisions { command } => decisions(&client(file)?, command),
        Command::Edge { command } => {
            let loads = matches!(command, args::Edge::Load { .. });
            edge::edge(config::find(file)?.0, command)?;
            if loads {
                reload::warn_of_difference(file);
            }
            Ok(())
        }
        Command::Sink { listen, maildir } => Ok(sink::sink(listen, &maildir)?),
        Command::Man { directory: Some(directory) } => Ok(clap_mangen::generate_to(Arguments::command(), directory)?),
        Command::Man { directory: None } => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Arguments::command()).render(&mut page)?;
            Ok(io::stdout().write_all(&page)?)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "smtp-guard", &mut script);
            Ok(io::stdout().write_all(&script)?)
        }
    }
}

fn decisions(client: &AdminClient, command: Decisions) -> Result<(), Failure> {
    match command {
        Decisions::List { all, json } => {
            let decisions = client.decisions()?;
            if json.json && !all {
                return Ok(output::show(true, &decisions, String::new)?);
            }
            let blocklists = client.status()?.blocklists;
            let blocked = output::Blocked { decisions: &decisions, blocklists: &blocklists };
            Ok(output::show(json.json, &blocked, || output::blocked(&blocked))?)
        }
        Decisions::Add { who, length, reason } => {
            let made = client.add(&Add { ip: who, seconds: whole_seconds(length), reason })?;
            let until = time::utc(made.what.until);
            output::line(&format!("{} is blocked until {until}", made.what.source))?;
            warn_unsaved(made.saved);
            Ok(())
        }
        Decisions::Import { file, length, reason, json } => {
            let report = import::import(client, &file, length, reason)?;
            output::show(json.json, &report, || report.text())?;
            warn_unsaved(report.saved);
            Ok(())
        }
        Decisions::Export { format } => {
            Ok(output::line(&export::text(format, &client.decisions()?, crate::clock::wall())?)?)
        }
        Decisions::Delete { who: Some(who), .. } => {
            let lifted = client.delete(who)?;
            output::line(&format!("{} is no longer blocked", lifted.what.source))?;
            warn_unsaved(lifted.saved);
            Ok(())
        }
        Decisions::Delete { who: None, .. } => {
            let lifted = client.delete_all()?;
            output::line(&format!("{} decisions lifted", lifted.what.deleted))?;
            warn_unsaved(lifted.saved);
            Ok(())
        }
    }
}

fn warn_unsaved(saved: bool) {
    if !saved {
        eprintln!("warning: this is in force, but not on disk yet; `smtp-guard status` says why");
    }
}

fn client(file: Option<&Path>) -> Result<AdminClient, Failure> {
    let (config, origin) = config::find(file)?;
    Ok(AdminClient::new(config.admin.socket).without(origin.missing()))
}

/// Asks the guard also where the file is bad: then it says so itself, and counts it.
fn asker(file: Option<&Path>) -> Result<AdminClient, Failure> {
    let (socket, missing) = config::find_socket(file)?;
    Ok(AdminClient::new(socket).without(missing))
}

/// Rounded up: a ban never ends before it was asked to.
fn whole_seconds(length: Duration) -> u64 {
    length.as_secs() + u64::from(length.subsec_nanos() > 0)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
