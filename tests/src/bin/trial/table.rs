//! The trial's results as two Markdown tables and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::Scenario;
use crate::world::Outcome;

/// One profile before the guard and before each rival.
pub(crate) struct Row {
    pub(crate) scenario: Scenario,
    pub(crate) guard: Outcome,
    pub(crate) rivals: Vec<(&'static str, Outcome)>,
}

/// Both tables.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let names: Vec<_> = rows.first().into_iter().flat_map(|row| &row.rivals).map(|(name, _)| *name).collect();
    let names = names.join(" | ");
    let mut text = format!(
        "| honest sender | mails | unknown | at once | late | lost | deferred | banned | {names} |\n\
         |---|--:|--:|--:|--:|--:|---|---|---|---|---|\n"
    );
    for Row { scenario, guard, rivals } in rows.iter().filter(|row| !row.scenario.is_attack()) {
        let mails = guard.prompt + guard.late + guard.lost;
        let rivals = rivals.iter().map(|(_, outcome)| honest(outcome)).collect::<Vec<_>>().join(" | ");
        let Outcome { unknown, prompt, late, lost, .. } = guard;
        let deferred = sanction(guard.deferrals, guard.first_deferral);
        let banned = sanction(guard.bans, guard.first_ban);
        let _ = writeln!(
            text,
            "| {} | {mails} | {unknown} | {prompt} | {late} | {lost} | {deferred} | {banned} | {rivals} |",
            scenario.name
        );
    }
    let _ = write!(
        text,
        "\n| attack | tried | unknown | learned | in all | honest hit | deferred | banned | {names} |\n\
         |---|--:|--:|--:|--:|---|---|---|---|---|---|\n"
    );
    for Row { scenario, guard, rivals } in rows.iter().filter(|row| row.scenario.is_attack()) {
        let rivals = rivals.iter().map(|(_, outcome)| attack(outcome)).collect::<Vec<_>>().join(" | ");
        let Outcome { tried, unknown_before, learned_before, learned, .. } = guard;
        let hit = if guard.prompt + guard.late + guard.lost > 0 { hit(guard) } else { "-".to_owned() };
        let deferred = sanction(guard.deferrals, guard.first_deferral);
        let banned = sanction(guard.bans, guard.first_ban);
        let _ = writeln!(
            text,
            "| {} | {tried} | {unknown_before} | {learned_before} | {learned} | {hit} | {deferred} | {banned} | {rivals} |",
            scenario.name
        );
    }
    text
}

/// The same for programs.
pub(crate) fn json(seed: u64, rows: &[Row]) -> Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let rivals: serde_json::Map<_, _> =
                row.rivals.iter().map(|(name, outcome)| ((*name).to_owned(), object(outcome))).collect();
            json!({
                "profile": row.scenario.name,
                "attack": row.scenario.is_attack(),
                "guard": object(&row.guard),
                "rivals": rivals,
            })
        })
        .collect();
    json!({ "seed": seed, "profiles": rows })
}

fn object(outcome: &Outcome) -> Value {
    json!({
        "tried": outcome.tried,
        "unknown": outcome.unknown,
        "unknown_before_block": outcome.unknown_before,
        "learned": outcome.learned,
        "learned_before_block": outcome.learned_before,
        "honest_at_once": outcome.prompt,
        "honest_late": outcome.late,
        "honest_lost": outcome.lost,
        "bans": outcome.bans,
        "deferrals": outcome.deferrals,
        "sources_banned": outcome.banned,
        "honest_sources_banned": outcome.friends_banned,
        "first_ban_s": outcome.first_ban.map(|after| after.as_secs()),
        "first_deferral_s": outcome.first_deferral.map(|after| after.as_secs()),
    })
}

/// How often, and after what time first.
fn sanction(count: u32, first: Option<Duration>) -> String {
    match first {
        Some(after) => format!("{count}x from {}", span(after)),
        None => "-".to_owned(),
    }
}

fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..100 => format!("{seconds} s"),
        seconds @ 100..6000 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Honest messages that weren't taken at once.
fn hit(outcome: &Outcome) -> String {
    match (outcome.late, outcome.lost) {
        (0, 0) => "0".to_owned(),
        (late, 0) => format!("{late} late"),
        (0, lost) => format!("{lost} lost"),
        (late, lost) => format!("{late} late, {lost} lost"),
    }
}

fn honest(outcome: &Outcome) -> String {
    if outcome.bans > 0 { format!("{}; banned {}x", hit(outcome), outcome.bans) } else { hit(outcome) }
}

fn attack(outcome: &Outcome) -> String {
    match (outcome.learned, outcome.bans) {
        (learned, 0) => learned.to_string(),
        (learned, bans) => format!("{learned}; banned {bans}x"),
    }
}
