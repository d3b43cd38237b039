//! Each path of the kernel plane beside a program that does nothing and beside xdp-filter: the same packets in the same
//! run, medians. `cargo xtask bench kernel` runs it, in a network namespace of its own.
//!
//! BPF_PROG_TEST_RUN gives the mean time of a run over [`REPEAT`] runs. Programs take turns, and so do short lists and long
//! ones, so that what disturbs the machine disturbs all; a row is the median of [`ROUNDS`]. Ratios are of raw times, the cost of the call included, unless
//! a row says otherwise: that is against us where the goal is below 1.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]

mod file;
#[path = "../machine.rs"]
mod machine;
mod networks;
mod subject;
mod world;

use std::time::Duration;

use smtp_guard::edge::lists::{self, Entry};
use subject::{Case, Packet, Subjects};
use world::World;

/// Measurements of which the median counts.
const ROUNDS: usize = 9;
/// Runs of the program at one measurement.
const REPEAT: u32 = 400_000;
const BANS: u32 = 100_000;
/// Rows whose packets go past the filter of IPv6.
const SEARCHED: [&str; 2] = ["drop of a listed IPv6 /48", "data, IPv6, /32 listed in part"];
const PREFIXES: [u32; 2] = [1_000, 1_000_000];

/// One line of the result.
struct Row {
    path: String,
    ours: f64,
    other: &'static str,
    theirs: f64,
    /// What is held against the goal.
    value: f64,
    unit: &'static str,
    goal: Option<f64>,
}

impl Row {
    fn ratio(path: &str, ours: f64, other: &'static str, theirs: f64, goal: Option<f64>) -> Self {
        Self { path: path.to_owned(), ours, other, theirs, value: ours / theirs, unit: "x", goal }
    }
}

fn main() {
    let mut world = World::new();
    let mut subjects = Subjects::load(&mut world);
    println!("{}", machine::machine());
    println!("verified instructions: {}", world.instructions());
    world.ban(BANS);
    let mut load = Duration::ZERO;
    let listed = PREFIXES.map(|count| {
        let listed = world.prefixes(count);
        let replaced = lists::replace(&world.plane, listed.clone()).unwrap();
        let again = lists::replace(&world.plane, listed.clone()).unwrap();
        println!(
            "{count} prefixes: sorted and built in {:?}, written in {:?}; replaced in {:?}",
            replaced.built_in,
            replaced.written_in,
            again.built_in + again.written_in
        );
        load = again.built_in.max(replaced.built_in) + again.written_in.max(replaced.written_in);
        listed
    });
    let [few, many] = Paths::measure(&mut subjects, &world, &listed);
    let mut rows = Vec::new();
    for ((name, many), (_, few)) in many.ours().into_iter().zip(few.ours()) {
        // The goal is for what ends in the table of all /24; IPv6 that is searched for takes a step more each time that its
        // lists double.
        let goal = (!SEARCHED.contains(&name)).then_some(1.3);
        rows.push(Row::ratio(&format!("growth: {name}"), many, "1,000 prefixes", few, goal));
    }
    many.rows(&mut rows);
    rows.push(Row {
        path: "load of 1,000,000 prefixes".to_owned(),
        ours: 0.0,
        other: "",
        theirs: 0.0,
        value: load.as_secs_f64(),
        unit: " s",
        goal: Some(4.0),
    });
    rows.extend(networks::measure(&mut subjects, &world));
    rows.extend(file::measure(&world));
    print(&rows);
}

/// Medians of one set of lists, in ns.
struct Paths {
    pass: f64,
    other_port: f64,
    clean: f64,
    clean_v6: f64,
    listed: f64,
    banned: f64,
    syn: f64,
    random_syn: f64,
    random_data: f64,
    /// One address of a /24 that is listed in part, and its neighbour; likewise of an IPv6 /32.
    listed_32: f64,
    beside_32: f64,
    listed_v6: f64,
    beside_v6: f64,
    filter_pass: f64,
    filter_pass_v6: f64,
    filter_drop: f64,
    random_pass: f64,
    random_filter: f64,
}

impl Paths {
    /// With each of the lists in force.
    fn measure<const N: usize>(subjects: &mut Subjects, world: &World, lists: &[Vec<Entry>; N]) -> [Self; N] {
        let data = |source: &str| Packet::tcp(source.parse().unwrap(), 25, 0x10);
        let clean = data("203.0.113.9");
        let clean_v6 = data("2001:dba:77::9");
        let syn = Packet::tcp("203.0.113.9".parse().unwrap(), 25, 0x02);
        let random_data = Packet::tcp("203.0.113.9".parse().unwrap(), 25, 0x10);
        let cases = [
            Case::new(|s| &mut s.pass, &clean, 2),
            Case::new(|s| &mut s.guard, &Packet::tcp("203.0.113.9".parse().unwrap(), 443, 0x10), 2),
            Case::new(|s| &mut s.guard, &clean, 2),
            Case::new(|s| &mut s.guard, &clean_v6, 2),
            Case::new(|s| &mut s.guard, &Packet::tcp(world.listed.into(), 25, 0x10), 1),
            Case::new(|s| &mut s.guard, &Packet::tcp(world.banned.into(), 25, 0x10), 1),
            Case::new(|s| &mut s.guard, &syn, 2),
            Case::new(|s| &mut s.walk_guard, &syn, 2),
            Case::new(|s| &mut s.walk_guard, &random_data, 2),
            Case::new(|s| &mut s.guard, &data("192.0.3.17"), 1),
            Case::new(|s| &mut s.guard, &data("192.0.3.18"), 2),
            Case::new(|s| &mut s.guard, &data("2001:db9::9"), 1),
            Case::new(|s| &mut s.guard, &data("2001:db8:77::9"), 2),
            Case::new(|s| &mut s.filter, &clean, 2),
            Case::new(|s| &mut s.filter, &clean_v6, 2),
            Case::new(|s| &mut s.filter, &data(world::FILTERED), 1),
            Case::new(|s| &mut s.walk_pass, &syn, 2),
            Case::new(|s| &mut s.walk_filter, &syn, 2),
        ];
        let mut times = [(); N].map(|()| vec![Vec::new(); cases.len()]);
        // The first round warms up.
        for round in 0..=ROUNDS {
            for (listed, times) in lists.iter().zip(&mut times) {
                lists::replace(&world.plane, listed.clone()).unwrap();
                for (case, times) in cases.iter().zip(times) {
                    let time = case.run(subjects, REPEAT);
                    if round > 0 {
                        times.push(time);
                    }
                }
            }
        }
        times.map(Self::medians)
    }

    /// Of the cases in their order.
    fn medians(times: Vec<Vec<f64>>) -> Self {
        let mut medians = times.into_iter().map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[times.len() / 2]
        });
        let mut next = || medians.next().unwrap();
        Self {
            pass: next(),
            other_port: next(),
            clean: next(),
            clean_v6: next(),
            listed: next(),
            banned: next(),
            syn: next(),
            random_syn: next(),
            random_data: next(),
            listed_32: next(),
            beside_32: next(),
            listed_v6: next(),
            beside_v6: next(),
            filter_pass: next(),
            filter_pass_v6: next(),
            filter_drop: next(),
            random_pass: next(),
            random_filter: next(),
        }
    }

    /// The guard's own.
    fn ours(&self) -> [(&'static str, f64); 12] {
        [
            ("another port", self.other_port),
            ("data, clean", self.clean),
            ("data, clean, IPv6", self.clean_v6),
            ("drop of a listed /24", self.listed),
            ("drop of a banned source", self.banned),
            ("SYN, clean", self.syn),
            ("SYN, clean random source", self.random_syn),
            ("data, clean random source", self.random_data),
            ("drop of a listed address", self.listed_32),
            ("data, beside a listed address", self.beside_32),
            (SEARCHED[0], self.listed_v6),
            (SEARCHED[1], self.beside_v6),
        ]
    }

    fn rows(&self, rows: &mut Vec<Row>) {
        rows.push(Row {
            path: "another port".to_owned(),
            ours: self.other_port,
            other: "empty XDP_PASS",
            theirs: self.pass,
            value: self.other_port - self.pass,
            unit: " ns",
            goal: Some(6.0),
        });
        // What gives each run its source is no part of either program.
        let net = |time: f64| time - self.random_pass + self.pass;
        let (ours, theirs) = (net(self.random_syn), net(self.random_filter));
        rows.extend([
            Row::ratio("data, clean", self.clean, "xdp-filter, pass", self.filter_pass, Some(0.5)),
            Row::ratio("data, clean, IPv6", self.clean_v6, "xdp-filter, pass, IPv6", self.filter_pass_v6, Some(0.5)),
            Row::ratio("drop of a listed /24", self.listed, "xdp-filter, drop", self.filter_drop, Some(0.5)),
            Row::ratio("drop of a banned source (hot)", self.banned, "xdp-filter, drop", self.filter_drop, Some(0.7)),
            Row::ratio("SYN, clean random source", ours, "xdp-filter, same", theirs, Some(1.5)),
            Row::ratio("SYN, clean random source", ours, "xdp-filter, pass", self.filter_pass, Some(1.5)),
            Row::ratio("data, clean random source", net(self.random_data), "xdp-filter, same", theirs, None),
            Row::ratio("drop of a listed address", self.listed_32, "xdp-filter, drop", self.filter_drop, None),
            Row::ratio("data, beside a listed address", self.beside_32, "xdp-filter, pass", self.filter_pass, None),
            Row::ratio("drop of a listed IPv6 /48", self.listed_v6, "xdp-filter, drop", self.filter_drop, None),
            Row::ratio(
                "data, IPv6, /32 listed in part",
                self.beside_v6,
                "xdp-filter, pass, IPv6",
                self.filter_pass_v6,
                None,
            ),
            Row::ratio("SYN, clean (hot)", self.syn, "xdp-filter, pass", self.filter_pass, None),
        ]);
    }
}

fn print(rows: &[Row]) {
    println!("{:<40} {:>5}  {:<24} {:>5} {:>9}  must be", "path", "ns", "against", "ns", "result");
    for Row { path, ours, other, theirs, value, unit, goal } in rows {
        let verdict = match goal {
            Some(goal) if value <= goal => format!("<= {goal}{unit}: reached"),
            Some(goal) => format!("<= {goal}{unit}: NOT reached"),
            None => String::new(),
        };
        let time = |ns: &f64| if *ns > 0.0 { format!("{ns:.0}") } else { String::new() };
        let (ours, theirs, value) = (time(ours), time(theirs), format!("{value:.2}{unit}"));
        println!("{path:<40} {ours:>5}  {other:<24} {theirs:>5} {value:>9}  {verdict}");
    }
}
