//! The trial of the harvest detector: generated traffic of many senders, honest and not, in virtual time before the guard
//! and before three rivals. `cargo xtask trial` builds and runs it; docs/harvest-trial.md shows what it prints.
//!
//! Nothing here reads a clock or chance: the same seed gives the same table everywhere.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

mod edges;
mod gate;
mod guard;
mod model;
mod profiles;
mod rivals;
mod table;
#[cfg(test)]
mod tests;
mod world;

use edges::Edges;
use rivals::{Plain, RIVALS};
use table::Row;
use world::replay;

/// Of the table in docs/harvest-trial.md.
const SEED: u64 = 1;
/// What stands around that table.
const MARKS: [&str; 2] = ["<!-- trial -->\n", "<!-- /trial -->\n"];

#[derive(Parser)]
#[command(name = "trial", about = "Replays honest senders and attackers before the harvest detector")]
struct Arguments {
    /// Of the traffic
    #[arg(long, default_value_t = SEED)]
    seed: u64,
    /// For programs
    #[arg(long)]
    json: bool,
    /// Only compare with the table in this file
    #[arg(long, value_name = "PAGE", conflicts_with_all = ["json", "seed"])]
    check: Option<std::path::PathBuf>,
}

fn main() -> ExitCode {
    let Arguments { seed, json, check } = Arguments::parse();
    let rows = rows(seed);
    if let Some(file) = check {
        return match compare(&file, &rows) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("error: {why}");
                ExitCode::FAILURE
            }
        };
    }
    if json {
        println!("{:#}", table::json(seed, &rows));
    } else {
        print!("{}", table::markdown(&rows));
    }
    ExitCode::SUCCESS
}

fn rows(seed: u64) -> Vec<Row> {
    let scenarios = profiles::all(seed).into_iter();
    scenarios
        .map(|scenario| {
            let guard = replay(&scenario, &mut Edges::guards(&scenario.site));
            let rival = |rival| replay(&scenario, &mut Edges::alone(&scenario.site, || Plain::new(rival)));
            let rivals = RIVALS.iter().map(|(name, plain)| (*name, rival(*plain))).collect();
            Row { scenario, guard, rivals }
        })
        .collect()
}

/// Whether the table in `file` is that of `rows`.
fn compare(file: &Path, rows: &[Row]) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let [begin, end] = MARKS;
    let table = text.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map(|(table, _)| table.trim());
    match table {
        None => Err(format!("{} has no {} ... {}", file.display(), begin.trim(), end.trim())),
        Some(table) if table == table::markdown(rows).trim() => Ok(()),
        Some(_) => Err(format!("the table in {} is stale: put there what `cargo xtask trial` prints", file.display())),
    }
}
