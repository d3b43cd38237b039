//! Duties of the detector, over many seeds; and docs/harvest-trial.md shows what is printed.

use std::sync::LazyLock;

use smtp_guard_tests::long;

use super::*;
use crate::model::Scenario;
use crate::world::Outcome;

/// Seeds of a short run, and of a long one.
const SEEDS: [u64; 2] = [2, 20];
/// Of the page's seed: two tests look at it.
static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| rows(SEED));
/// Of a list that is half right, so much is learned that the limit can't hold.
const GOOD_LIST: &str = "list of which 50 % exist, asks only (RSET)";
/// Too slow for ten unknown recipients in a window, or nearly: what they learn is stated, not bounded.
const SLOW: &str = "slow";
/// Of these nobody may notice anything: not even a deferral.
const UNTOUCHED: [&str; 3] = ["provider never seen before, one", "host of ours", "user who has logged in"];

#[test]
fn what_must_be_so_is_so_with_every_seed() {
    let seeds = 1..=long::amount(SEEDS[0], SEEDS[1]);
    // Half of the seeds each: unoptimised, this takes a while.
    let faults = std::thread::scope(|scope| {
        let halves = [0, 1].map(|half| {
            let seeds = seeds.clone();
            scope.spawn(move || seeds.filter(|seed| seed % 2 == half).flat_map(faults).collect::<Vec<_>>())
        });
        halves.map(|half| half.join().unwrap()).into_iter().flatten().collect::<Vec<String>>()
    });
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// What is wrong with the traffic of `seed`.
fn faults(seed: u64) -> Vec<String> {
    let judge = |scenario: &Scenario, outcome: &Outcome| {
        let judged = if scenario.is_attack() { attack(scenario, outcome) } else { honest(scenario, outcome) };
        judged.map(|fault| format!("seed {seed}: {}: {fault}", scenario.name))
    };
    if seed == SEED {
        return ROWS.iter().filter_map(|row| judge(&row.scenario, &row.guard)).collect();
    }
    let replayed = |scenario: Scenario| judge(&scenario, &replay(&scenario, &mut Edges::guards(&scenario.site)));
    profiles::all(seed).into_iter().filter_map(replayed).collect()
}

/// No honest sender is banned, or loses mail.
fn honest(scenario: &Scenario, Outcome { bans, deferrals, lost, .. }: &Outcome) -> Option<String> {
    let untouched = UNTOUCHED.iter().any(|name| scenario.name.starts_with(name));
    let fault = *bans > 0 || *lost > 0 || untouched && *deferrals > 0;
    fault.then(|| format!("banned {bans}x, deferred {deferrals}x, {lost} lost"))
}

/// From one source: blocked by the tenth unknown recipient; in all no more than ten are learned of a thousand.
fn attack(scenario: &Scenario, outcome: &Outcome) -> Option<String> {
    let Outcome { unknown_before, learned_before, learned, bans, deferrals, friends_banned, lost, .. } = outcome;
    let blocked = bans + deferrals > 0 && *unknown_before <= 10;
    let (told, most) = if scenario.name == GOOD_LIST { (learned_before, 15) } else { (learned, 10) };
    let held = !scenario.single || scenario.name.starts_with(SLOW) || blocked && *told <= most;
    (!held || *friends_banned > 0 || *lost > 0).then(|| {
        format!(
            "{unknown_before} unknown and {learned_before} learned before the first block, {learned} learned in all, \
             {bans} bans, {deferrals} deferrals; {friends_banned} friends banned, {lost} lost"
        )
    })
}

#[test]
fn the_page_shows_what_is_printed() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/harvest-trial.md");
    compare(&readme, &ROWS).unwrap();
}

#[test]
fn there_are_profiles_enough_and_their_names_differ() {
    let scenarios = profiles::all(SEED);
    let names: std::collections::HashSet<_> = scenarios.iter().map(|scenario| scenario.name).collect();
    assert_eq!(names.len(), scenarios.len());
    assert!(UNTOUCHED.iter().all(|start| names.iter().any(|name| name.starts_with(start))));
    assert!(names.contains(GOOD_LIST) && names.iter().any(|name| name.starts_with(SLOW)));
    let attacks = scenarios.iter().filter(|scenario| scenario.is_attack()).count();
    assert!(scenarios.len() - attacks >= 16 && attacks >= 14, "{attacks} of {}", scenarios.len());
}
