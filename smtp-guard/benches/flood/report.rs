//! The table, and whether the goal is reached.

use crate::filter::Filter;
use crate::measure::{Searched, Shown};
use crate::search::{Found, median};

/// How many times as good as the best row of nftables the guard must be.
const GOAL: f64 = 3.0;

/// A row of the table, with what each round has shown.
pub(crate) struct Row {
    filter: Filter,
    sources: u32,
    shown: Vec<Shown>,
}

impl Row {
    pub(crate) fn new(filter: Filter, sources: u32) -> Self {
        Self { filter, sources, shown: Vec::new() }
    }

    pub(crate) fn add(&mut self, shown: Shown) {
        self.shown.push(shown);
    }

    fn cpu_ns(&self) -> f64 {
        median(self.shown.iter().map(|shown| shown.cpu_ns))
    }

    fn searched(&self) -> impl Iterator<Item = Searched> {
        self.shown.iter().filter_map(|shown| shown.search)
    }

    /// Packets a second; `None` where it wasn't looked for.
    fn rate(&self) -> Option<f64> {
        let rates: Vec<_> = self.searched().map(|searched| searched.found.rate()).collect();
        (!rates.is_empty()).then(|| median(rates))
    }
}

pub(crate) fn print(rows: &[Row]) {
    let zero = rows[0].cpu_ns();
    let most = median(rows[0].shown.iter().map(|shown| shown.sent));
    println!(
        "the generator makes {most:.0} packets a second; a packet that is dropped at once costs the edge {zero:.0} ns"
    );
    println!(
        "{:<36} {:>7} {:>7} {:>7}  {:>9} {:>21} {:>7} {:>6} {:>6}",
        "filter", "sources", "ns", "net ns", "packets/s", "least to most", "mail/s", "idle", "lost"
    );
    for row in rows {
        let (name, cpu) = (row.filter.name(), row.cpu_ns());
        print!("{name:<36} {:>7} {cpu:>7.0} {:>7.0}", row.sources, cpu - zero);
        if let Some(rate) = row.rate() {
            let rates: Vec<_> = row.searched().map(|searched| searched.found.rate()).collect();
            let least = rates.iter().copied().fold(f64::INFINITY, f64::min);
            let most = rates.iter().copied().fold(0.0, f64::max);
            let mail = median(row.searched().map(|searched| searched.mail));
            let idle = median(row.searched().map(|searched| searched.idle)) * 100.0;
            let lost = median(row.searched().map(|searched| searched.lost)) * 100.0;
            print!("  {rate:>9.0} {:>21} {mail:>7.0} {idle:>5.1}% {lost:>5.1}%", format!("{least:.0} to {most:.0}"));
            for (edge, words) in [(Found::AtLeast(0.0), "at least"), (Found::Below(0.0), "at most")] {
                let same =
                    |searched: &Searched| std::mem::discriminant(&searched.found) == std::mem::discriminant(&edge);
                if row.searched().any(|searched| same(&searched)) {
                    print!("  ({words}: the search ended at its bound)");
                }
            }
        }
        println!();
    }
    goals(rows, zero);
}

/// Each row of the guard against the best one of nftables under the same flood, whatever its set.
fn goals(rows: &[Row], zero: f64) {
    println!("{:<36} {:>7}  {:<42} {:>7}  must be", "the guard against nftables' best", "sources", "what", "result");
    for row in rows.iter().filter(|row| matches!(row.filter, Filter::Guard(_))) {
        let others =
            || rows.iter().filter(|other| matches!(other.filter, Filter::Nftables(..)) && other.sources == row.sources);
        let cheapest = others().map(Row::cpu_ns).fold(f64::INFINITY, f64::min);
        let fastest = others().filter_map(Row::rate).fold(0.0, f64::max);
        let rate = row.rate().filter(|_| fastest > 0.0).map(|rate| ("packets/s at 90 % of the mail", rate / fastest));
        let whole = ("CPU time of a packet", cheapest / row.cpu_ns());
        let net = ("the same, net of delivery", (cheapest - zero) / (row.cpu_ns() - zero));
        for (what, ratio) in rate.into_iter().chain([whole, net]) {
            let verdict = if ratio >= GOAL { "reached" } else { "NOT reached" };
            println!("{:<36} {:>7}  {what:<42} {ratio:>6.2}x  >= {GOAL}x: {verdict}", row.filter.name(), row.sources);
        }
    }
}
