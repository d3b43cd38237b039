//! The command line: the commands as clap reads them, their exit codes, and where their words go.

mod accounts;
pub mod admin_client;
mod args;
mod attempt;
mod blocklists;
mod check;
mod decisions;
mod desk;
#[cfg(test)]
mod documented;
mod edge;
mod events;
mod explain;
mod export;
mod fleet;
mod import;
#[cfg(test)]
#[path = "../../tests/json_page/mod.rs"]
mod json_page;
mod man;
mod output;
mod recipients;
mod reload;
pub mod run;
mod setup;
mod signals;
pub mod sink;
mod time;
mod top;
mod watch;

use std::io::{self, IsTerminal as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use admin_client::{AdminClient, BadConfiguration};
use args::{Json, Subject, client as client_address, interval, role, subject, user};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{self, CONFIG_VARIABLE, Config, ConfigError, Role};
use crate::key::User;
use crate::observe::attempt::{Attempt, Candidate};
use crate::observe::journal;
use crate::observe::reload::Reload;

/// `EX_CONFIG` of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;
/// As clap and most tools have it.
const USAGE: u8 = 2;
const FAILED: u8 = 1;

/// A filtering SMTP proxy in front of a mail server; the kernel drops the clients that it bans.
///
/// Results go to standard output, everything else to standard error.
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 78 bad configuration.
#[derive(Debug, Parser)]
#[command(name = "smtp-guard", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

#[derive(Debug, Args)]
struct Global {
    /// Configuration file [default: /etc/smtp-guard/smtp-guard.toml if it exists, else built-in values for a first try]
    ///
    /// Files in FILE.d that end in .toml are read after it. A file in the current folder is only read if it is named: otherwise
    /// root would obey anyone who may write there.
    #[arg(long, global = true, value_name = "FILE", env = CONFIG_VARIABLE, hide_env_values = true)]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy in the foreground
    Run,
    /// Check the configuration and the files it names: every error with line, column and what to do
    ///
    /// Run by root, it tests whether the user smtp-guard, as whom the guard runs, can read and write what it must.
    Check {
        /// User that the guard runs as; only root can name another one
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Also connect to the mail server: does it accept the guard, how does it answer unknown recipients? And to the fleet's
        /// server: does it allow what the guard needs, do clocks and keys agree? And send the webhook a test event
        #[arg(long)]
        connect: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Write a first configuration: asks for domains, mail server and interface, and tries the mail server
    ///
    /// It connects to the mail server and finds out its kind, how it learns the client's address, and how it answers unknown
    /// recipients. No message is sent. It lists what to change at the mail server.
    Setup(setup::Setup),
    /// Read the configuration again in the running guard, while mail flows
    ///
    /// A bad file changes nothing. A good one applies as a whole; sessions under way keep the configuration that they began
    /// with. Keys that need a restart are named.
    Reload {
        /// Only show what would change
        #[arg(long)]
        dry_run: bool,
        /// Return when no session uses an earlier configuration any more
        #[arg(long, conflicts_with = "dry_run")]
        wait: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show the configuration
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show the state of the running guard on one page
    Status {
        #[command(flatten)]
        json: Json,
    },
    /// Show the running guard on a full screen: packets, refusals and messages a second, who is dropped, who was banned
    ///
    /// Keys: w shows dropped sources, the worst sources with their score, or open sessions; j and k select a source; e explains it,
    /// b bans it, l lifts its ban. p pauses, s sorts, ? shows all keys, q quits.
    /// NO_COLOR is respected.
    Top {
        /// Time between two looks: 200ms to 60s
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
        interval: Duration,
        /// One snapshot as JSON, without a terminal
        #[arg(long)]
        json: bool,
    },
    /// Show recent events: bans, deferrals, refusals, messages, held users, reloads, backends, block lists, certificates, the fleet, the kernel plane
    ///
    /// The guard keeps the last 1,024 events. At most four commands can use --follow at once.
    Events {
        /// Show the last 10 events, then new ones as they happen, until interrupted
        #[arg(long, short)]
        follow: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Explain why an address is blocked or a user held, on what evidence, until when, and how to lift it
    ///
    /// The exit code is 0 whether it is blocked or not: read `blocked` in the JSON.
    Explain {
        /// An IPv4 or IPv6 address, an IPv6 prefix as `decisions list` shows it, or the name of a user who logs in
        #[arg(value_name = "IP or USER", value_parser = subject)]
        subject: Subject,
        #[command(flatten)]
        json: Json,
    },
    /// List, make and lift blocks of addresses and networks
    Decisions {
        #[command(subcommand)]
        command: decisions::Command,
    },
    /// List, hold and release users who have logged in
    Accounts {
        #[command(subcommand)]
        command: accounts::Command,
    },
    /// Show what a client would hear, without a connection and without counting it
    ///
    /// It asks the running guard. If --config names a file that differs from the configuration in force, that file is used.
    Try {
        /// The client's address
        #[arg(long = "from", value_name = "IP", value_parser = client_address)]
        ip: IpAddr,
        /// The client's name in EHLO
        #[arg(long, value_name = "NAME", default_value = "client.example")]
        helo: String,
        /// The sender; empty for a bounce
        #[arg(long, value_name = "ADDRESS")]
        mail_from: Option<String>,
        /// A recipient; can be repeated
        #[arg(long, value_name = "ADDRESS", requires = "mail_from")]
        rcpt_to: Vec<String>,
        /// Assume that this user has logged in; no password is asked for
        #[arg(long, value_name = "NAME", value_parser = user)]
        user: Option<User>,
        /// Role of the port that the client connects to: mx, submission or submissions
        #[arg(long, value_name = "ROLE", default_value = "mx", value_parser = role)]
        role: Role,
        /// Assume that the client has used STARTTLS
        #[arg(long)]
        tls: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Export the mail server's recipients, as the table that recipients.known names
    Recipients {
        #[command(subcommand)]
        command: recipients::Command,
    },
    /// Show the fleet: other hosts with smtp-guard (edges) that share bans with this one
    Fleet {
        #[command(subcommand)]
        command: fleet::Command,
    },
    /// Load, show and remove the kernel plane of this host: the programs that drop packets
    Edge {
        #[command(subcommand)]
        command: args::Edge,
    },
    /// Run a small mail server for trying the guard out: it takes all mail into a Maildir
    ///
    /// It refuses recipients that begin with `unknown`, and names with more than 15 letters and digits in a row.
    Sink {
        /// Address and port, such as 127.0.0.1:2526
        #[arg(long)]
        listen: SocketAddr,
        /// Directory for the mail; made if it is missing
        #[arg(long, value_name = "DIRECTORY")]
        maildir: PathBuf,
    },
    /// Write the manual page to standard output, or the pages of all commands and smtp-guard.toml(5) into a directory
    Man {
        /// Directory for the pages
        directory: Option<PathBuf>,
    },
    /// Write completions for a shell to standard output
    Completions { shell: Shell },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show all keys with their values, defaults included, as a file that `check` reads
    Show {
        /// Show the defaults alone
        #[arg(long)]
        defaults: bool,
        #[command(flatten)]
        json: Json,
    },
    /// Show where the file differs from the configuration in force
    Diff {
        #[command(flatten)]
        json: Json,
    },
}

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
                ConfigError::Bad(report) => complain(&report.render(io::stderr().is_terminal())),
                error => complain(&format!("error: {error}")),
            }
            ExitCode::from(BAD_CONFIGURATION)
        }
        // A guard that reads its configuration again finds what this command would have found itself.
        Err(Failure::Other(error)) if error.is::<BadConfiguration>() => {
            let text = error.to_string();
            let prefix = if text.starts_with("error") { "" } else { "error: " };
            complain(&format!("{prefix}{text}"));
            ExitCode::from(BAD_CONFIGURATION)
        }
        // `smtp-guard decisions list | head -1` is no failure.
        Err(Failure::Other(error)) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(Failure::Other(error)) => {
            complain(&format!("error: {error:#}"));
            ExitCode::from(FAILED)
        }
        Err(Failure::Told(code)) => ExitCode::from(code),
    }
}

/// Where the page `name` of the manual is: in the source, and where the package has it.
fn page(name: &str) -> String {
    format!("docs/{name} (packaged in /usr/share/doc/smtp-guard)")
}

/// Says on standard error why the command failed.
fn complain(text: &str) {
    say(tracing::Level::ERROR, text);
}

/// Says `text` on standard error; the journal hears how grave it is.
fn say(level: tracing::Level, text: &str) {
    if !journal::is_standard_error() {
        return eprintln!("{text}");
    }
    let priority = journal::priority(level);
    text.lines().for_each(|line| eprintln!("{priority}{line}"));
}

/// What a command failed with.
enum Failure {
    Config(ConfigError),
    Other(anyhow::Error),
    /// The answer says why; with this exit code.
    Told(u8),
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
        Command::Check { user, connect, json } => check::check(file, user.as_deref(), connect, json.json),
        Command::Setup(arguments) => setup::setup(arguments, file),
        Command::Config { command: ConfigCommand::Show { defaults, json } } => {
            let config = if defaults { Config::defaults(&config::machine()) } else { config::find(file)?.0 };
            let text = config.to_toml().map_err(anyhow::Error::from)?;
            Ok(output::show(json.json, &config, || text.trim_end().to_owned())?)
        }
        Command::Config { command: ConfigCommand::Diff { json } } => {
            Ok(reload::difference(&asker(file)?, file, json.json)?)
        }
        Command::Reload { dry_run, wait, json } => {
            Ok(reload::reload(&asker(file)?, file, Reload { dry_run }, wait, json.json)?)
        }
        Command::Status { json } => {
            let status = client(file)?.status()?;
            Ok(output::show(json.json, &status, || output::status(&status))?)
        }
        Command::Events { follow, json } => Ok(events::events(&client(file)?, follow, json.json)?),
        Command::Top { json: true, .. } => Ok(top::json(&client(file)?)?),
        Command::Top { interval, json: false } => Ok(top::view(client(file)?, interval)?),
        Command::Explain { subject: Subject::User(user), json } => {
            let view = client(file)?.account(&user)?;
            Ok(output::show(json.json, &accounts::Explained::of(&view), || accounts::explained(&view))?)
        }
        Command::Explain { subject: Subject::Address(ip), json } => {
            let explanation = client(file)?.explain(ip)?;
            Ok(output::show(json.json, &explain::Explained::of(&explanation), || explain::text(ip, &explanation))?)
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
        Command::Decisions { command } => Ok(decisions::decisions(&client(file)?, command)?),
        Command::Fleet { command: fleet::Command::Status { json } } => {
            let view = client(file)?.fleet()?;
            Ok(output::show(json.json, &view, || fleet::text(&view))?)
        }
        Command::Recipients { command } => Ok(recipients::recipients(command)?),
        Command::Edge { command: args::Edge::Wanted } => edge::wanted(file),
        Command::Edge { command } => Ok(edge::edge(config::find(file)?.0, file.map(Path::to_owned), command)?),
        Command::Sink { listen, maildir } => Ok(sink::sink(listen, &maildir)?),
        Command::Man { directory: Some(directory) } => Ok(man::write(Arguments::command(), &directory)?),
        Command::Man { directory: None } => {
            let page = man::first(Arguments::command())?;
            Ok(io::stdout().write_all(page.as_bytes())?)
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "smtp-guard", &mut script);
            Ok(io::stdout().write_all(&script)?)
        }
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<io::Error>();
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
