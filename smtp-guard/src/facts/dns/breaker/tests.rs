use super::*;
use Admission::{Denied, Free, Trial};

/// What happens, in this order.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// A look-up wants out.
    Admit(Admission),
    /// One ends in silence; whether that is told.
    Silent(Admission, bool),
    /// One ends in an answer; whether that is told.
    Answered(bool),
    /// Milliseconds go by.
    Pass(u64),
}
use Event::{Admit, Answered, Pass, Silent};

fn check(events: &[Event]) {
    let mut breaker = Breaker::default();
    let mut now = Instant::now();
    for (index, event) in events.iter().enumerate() {
        match *event {
            Admit(admission) => assert_eq!(breaker.admit(now), admission, "{index} of {events:?}"),
            Silent(admission, told) => assert_eq!(breaker.silent(admission, now), told, "{index} of {events:?}"),
            Answered(told) => assert_eq!(breaker.answered(), told, "{index} of {events:?}"),
            Pass(ms) => now += Duration::from_millis(ms),
        }
    }
}

const DEAD: [Event; 8] = [Silent(Free, false); 8];

#[test]
fn seven_in_a_row_are_not_enough_and_an_answer_begins_anew() {
    check(&[&DEAD[..7], &[Admit(Free), Answered(false)], &DEAD[..7], &[Admit(Free)]].concat());
}

#[test]
fn dead_servers_get_one_trial_a_second() {
    check(
        &[
            &DEAD[..],
            &[Admit(Trial), Admit(Denied), Pass(999), Admit(Denied), Pass(1), Admit(Trial), Admit(Denied)],
            &[Silent(Trial, true), Silent(Trial, false), Silent(Free, false), Admit(Denied)],
            &[Answered(true), Admit(Free), Admit(Free), Silent(Free, false), Admit(Free)],
        ]
        .concat(),
    );
}

#[test]
fn dead_zones_alone_are_not_told() {
    // The trial's own question stays unanswered, the one at its side doesn't.
    check(&[&DEAD[..], &[Admit(Trial), Answered(false), Silent(Trial, false), Admit(Free)]].concat());
}

#[test]
fn a_trial_that_was_dropped_is_followed_by_another() {
    check(&[&DEAD[..], &[Admit(Trial), Pass(1000), Admit(Trial), Pass(60_000), Admit(Trial), Admit(Denied)]].concat());
}

#[test]
fn stragglers_change_nothing() {
    check(&[&DEAD[..], &[Admit(Trial)], &DEAD[..], &[Admit(Denied), Pass(1000), Admit(Trial)]].concat());
}
