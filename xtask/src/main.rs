//! `cargo xtask`: the project's tool. It installs what it needs, builds both planes, runs and tests them.
//!
//! Each command says what it does in one line when it takes long, and shows the tail of its output only when it fails.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod build;
mod deny;
mod dist;
mod fuzz;
mod kernels;
mod object;
mod page;
mod paths;
mod prose;
mod run;
mod setup;
mod step;
mod structure;
mod systemd;
mod test;
mod trial;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, run and test smtp-guard")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Set everything up and run the guard with the built-in sink on 127.0.0.1:2525; Ctrl-C ends it
    Run {
        /// What to call it, so that a test has its own; names the folder in target/xtask, and that of the pins
        #[arg(long, hide = true, default_value = "smtp-guard-run")]
        name: String,
        /// The guard that a test has built, in place of a new one
        #[arg(long, hide = true)]
        binary: Option<PathBuf>,
    },
    /// Set everything up and run all tests
    Test {
        /// Only what needs no kernel and no other programs
        #[arg(long)]
        host: bool,
        /// Run in full what is bounded otherwise: kernels, fuzzing, random traces, stress, kills, seeds of the trial
        #[arg(long)]
        long: bool,
        /// Only tests whose name contains this
        filter: Option<String>,
    },
    /// Build the program, and the kernel plane in it
    Build {
        /// With optimisation, for an installation
        #[arg(long)]
        release: bool,
    },
    /// Build, then load the kernel plane (`smtp-guard edge load`)
    Load {
        /// Handed on: --interface IF, --config FILE, --json
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Remove the kernel plane (`smtp-guard edge unload`)
    Unload {
        /// Handed on: --config FILE, --json
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fuzz the parsers and the session, or one target of `fuzz/targets`
    Fuzz {
        /// Target to run; without it all of them
        target: Option<String>,
        /// How long each target is run
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Measure the guard, mostly beside others within one run
    Bench {
        #[command(subcommand)]
        what: Bench,
    },
    /// Replay honest senders and attackers before the harvest detector, and print the table of docs/harvest-trial.md
    Trial {
        /// Seed of the traffic; the table of docs/harvest-trial.md has the default
        #[arg(long)]
        seed: Option<u64>,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
        /// Only compare with the table in docs/harvest-trial.md
        #[arg(long, conflicts_with_all = ["seed", "json"])]
        check: bool,
    },
    /// Run the whole loop on Debian 12's own kernel, booted in QEMU
    Kernels {
        /// Also on newer kernels, and on one that is too old
        #[arg(long)]
        all: bool,
    },
    /// Install the package on a Debian with systemd, in a container: first mail, first ban, removal
    Systemd {
        /// Also reload, upgrade, mistakes and faults
        #[arg(long)]
        all: bool,
    },
    /// Build the release and make a Debian package of it
    Dist,
    /// Take the pictures of the status page in docs/images, of a guard with traffic
    Screenshots {
        /// A guard that is built already, in place of a new one
        #[arg(long)]
        guard: Option<PathBuf>,
    },
    /// Check that no part of the code knows what it must not know
    Structure,
    /// Check what is written: links, sentences, forbidden turns of phrase, first lines of doc comments
    Prose,
    /// Write what comes from tables in the code: packaging/smtp-guard.toml, docs/configuration.md and docs/metrics.md
    Docs,
}

#[derive(Subcommand)]
enum Bench {
    /// Three guards and a Redis: from a ban to a drop elsewhere, mail beside a server that hangs, CPU and memory
    Fleet {
        /// A guard that is built already, in place of a new one
        #[arg(long)]
        guard: Option<PathBuf>,
    },
    /// The flood at which honest mail keeps 90 %: with nothing, with nftables in two places, with the guard
    Flood,
    /// Memory of sessions that say nothing, and what is given back after them
    Idle {
        /// At once: 9000, or 500 under TLS
        #[arg(long)]
        sessions: Option<u32>,
        /// Under TLS: each has a process of its own at the other end
        #[arg(long)]
        tls: bool,
        /// A guard that is built already, in place of a new one
        #[arg(long)]
        guard: Option<PathBuf>,
    },
    /// Instructions of the hot loops, counted by callgrind, against a committed baseline
    Instructions {
        /// Make what is counted the baseline
        #[arg(long)]
        save: bool,
    },
    /// Each path of the kernel plane beside a program that does nothing and beside xdp-filter
    Kernel,
    /// The status page under a flood: CPU and memory of the guard, open and not
    Page {
        /// A guard that is built already, in place of a new one
        #[arg(long)]
        guard: Option<PathBuf>,
    },
    /// A decision by itself and with DNS alive, slow and dead; memory for a million sources
    Policy,
    /// Mail through the guard, HAProxy, nginx and no proxy: time, CPU and memory
    Proxy {
        #[command(flatten)]
        wanted: bench::proxy::Wanted,
        /// In the namespaces that the bench has made
        #[arg(long, hide = true, requires = "guard")]
        inside: bool,
    },
    /// Connections that end in every way there is, beside forged segments, kills and `edge load`: nothing may be left of them
    Stress {
        #[arg(long, default_value_t = 1_000_000)]
        connections: u64,
        /// Of the ends, and of what is forged
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run { name, binary } => run::run(&name, binary),
        Command::Test { host, long, filter } => test::test(&test::Scope { host, long, filter: filter.as_deref() }),
        Command::Build { release } => build::build(release).map(|binary| println!("{}", binary.display())),
        Command::Load { arguments } => build::edge("load", &arguments),
        Command::Unload { arguments } => build::edge("unload", &arguments),
        Command::Fuzz { target, seconds } => fuzz::fuzz(target.as_deref(), fuzz::Bounds { seconds, runs: None }),
        Command::Bench { what: Bench::Fleet { guard } } => bench::fleet::run(guard),
        Command::Bench { what: Bench::Flood } => bench::flood(),
        Command::Bench { what: Bench::Idle { sessions, tls, guard } } => bench::idle::run(sessions, tls, guard),
        Command::Bench { what: Bench::Instructions { save } } => bench::instructions::run(save),
        Command::Bench { what: Bench::Kernel } => bench::kernel(),
        Command::Bench { what: Bench::Page { guard } } => page::bench(guard),
        Command::Bench { what: Bench::Policy } => bench::policy(),
        Command::Bench { what: Bench::Proxy { wanted, inside: true } } => bench::proxy::inside(&wanted),
        Command::Bench { what: Bench::Proxy { wanted, inside: false } } => bench::proxy::outside(wanted),
        Command::Bench { what: Bench::Stress { connections, seed } } => bench::stress(connections, seed),
        Command::Trial { seed, json, check } => trial::trial(seed, json, check),
        Command::Kernels { all } => kernels::kernels(all),
        Command::Systemd { all } => systemd::systemd(all),
        Command::Dist => dist::dist(),
        Command::Screenshots { guard } => page::screenshots(guard),
        Command::Structure => structure::check(&root()),
        Command::Prose => prose::check(&root()),
        Command::Docs => build::docs(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or_else(|| manifest.clone(), PathBuf::from)
}

/// Where everything that is built goes.
fn target() -> PathBuf {
    root().join("target")
}
