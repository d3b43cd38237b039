//! Measurements, as medians and ratios. Nothing but numbers and text.

use std::fmt::Write as _;

use super::load::{Beside, LOADS};
use super::peer::Peer;

const HEAD: &str = "\
| load | through | time of a message | against none | HAProxy | Postfix | CPU of the proxy, a message | against HAProxy | Postfix | RSS | spread of the time |
|---|---|---|---|---|---|---|---|---|---|---|
";

/// One load through one peer in one round.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) peer: Peer,
    pub(super) load: &'static str,
    pub(super) round: u32,
    pub(super) messages: u32,
    pub(super) seconds: f64,
    /// Seconds that the peer's processes ran.
    pub(super) cpu: f64,
    /// Resident memory after it, in MiB.
    pub(super) rss: f64,
}

/// The table. A ratio is the median of the ratios within each round.
pub(super) fn markdown(samples: &[Sample]) -> String {
    let mut text = HEAD.to_owned();
    for load in LOADS {
        for peer in Peer::ALL {
            let own = of(samples, load.name, peer);
            let each = |read: fn(&Sample) -> f64| median(own.iter().map(|sample| read(sample)));
            if own.is_empty() {
                continue;
            }
            let against = |other, read: fn(&Sample) -> f64| match ratio(&own, &of(samples, load.name, other), read) {
                ratio if ratio.is_nan() => String::new(),
                ratio => format!("{ratio:.2}x"),
            };
            let time = micros(each(|sample| sample.seconds / f64::from(sample.messages)));
            let spread = spread(&own) * 100.0;
            let _ = match peer {
                Peer::Nothing => {
                    writeln!(text, "| {} | {} | {time} | | | | | | | | {spread:.0} % |", load.name, peer.name())
                }
                _ => writeln!(
                    text,
                    "| {} | {} | {time} | {} | {} | {} | {} | {} | {} | {:.0} MiB | {spread:.0} % |",
                    load.name,
                    peer.name(),
                    against(Peer::Nothing, |sample| sample.seconds),
                    against(Peer::Haproxy, |sample| sample.seconds),
                    against(Peer::Postfix, |sample| sample.seconds),
                    micros(each(|sample| sample.cpu / f64::from(sample.messages))),
                    against(Peer::Haproxy, |sample| sample.cpu),
                    against(Peer::Postfix, |sample| sample.cpu),
                    each(|sample| sample.rss),
                ),
            };
        }
    }
    text.trim_end().to_owned()
}

/// The share of honest mail's throughput that is left beside something else, as a table.
pub(super) fn beside(samples: &[Sample]) -> String {
    let mut text = "| beside | through | messages a second, of those alone |\n|---|---|---|\n".to_owned();
    for load in LOADS.iter().filter(|load| load.beside != Beside::Nothing) {
        for peer in Peer::ALL {
            let left = ratio(&of(samples, LOADS[0].name, peer), &of(samples, load.name, peer), |sample| sample.seconds);
            if left.is_nan() {
                continue;
            }
            let _ = writeln!(text, "| {} | {} | {:.0} % |", load.beside.name(), peer.name(), left * 100.0);
        }
    }
    text.trim_end().to_owned()
}

/// The median of the ratios within each round.
fn ratio(own: &[&Sample], others: &[&Sample], read: fn(&Sample) -> f64) -> f64 {
    let pairs = own.iter().flat_map(|sample| others.iter().map(move |other| (sample, other)));
    let same = pairs.filter(|(sample, other)| sample.round == other.round);
    median(same.map(|(sample, other)| read(sample) / read(other)))
}

/// How much the machine itself gave to the figures: without a proxy the work is the same each time. A single round doesn't
/// tell.
pub(super) fn noise(samples: &[Sample]) -> String {
    if samples.iter().all(|sample| sample.round == 0) {
        return "One round says nothing about the noise of the machine.".to_owned();
    }
    let spreads = LOADS.iter().map(|load| spread(&of(samples, load.name, Peer::Nothing)) * 100.0);
    let spreads: Vec<_> = spreads.filter(|spread| spread.is_finite()).collect();
    let verdict = match spreads.iter().copied().fold(0.0, f64::max) {
        ..10.0 => "a quiet machine",
        ..30.0 => "some noise, so differences below 10 % say little",
        _ => "a busy machine, so only ratios far from 1 say something",
    };
    let spreads: Vec<_> = spreads.iter().map(|spread| format!("{spread:.0} %")).collect();
    format!(
        "Spread of the rounds without a proxy (slowest less fastest, in parts of the median), load by load: {}; {verdict}.",
        spreads.join(", ")
    )
}

fn of<'a>(samples: &'a [Sample], load: &str, peer: Peer) -> Vec<&'a Sample> {
    samples.iter().filter(|sample| sample.load == load && sample.peer == peer).collect()
}

fn spread(samples: &[&Sample]) -> f64 {
    let times = || samples.iter().map(|sample| sample.seconds);
    (times().fold(0.0, f64::max) - times().fold(f64::INFINITY, f64::min)) / median(times())
}

fn micros(seconds: f64) -> String {
    match seconds * 1e6 {
        micros @ ..10_000.0 => format!("{micros:.0} us"),
        micros => format!("{:.1} ms", micros / 1e3),
    }
}

/// The middle one; of an even number the mean of the two in the middle.
pub(super) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let check = |values: &[f64], expected: &str| {
            assert_eq!(median(values.iter().copied()).to_string(), expected, "{values:?}");
        };
        check(&[], "NaN");
        check(&[3.0], "3");
        check(&[3.0, 1.0, 2.0], "2");
        check(&[4.0, 1.0, 3.0, 2.0], "2.5");
    }

    #[test]
    fn ratios_are_those_within_a_round() {
        // The second round met a machine that was three times as slow; the third gave the proxy alone a bad time.
        let rounds = [(1.0, 2.0), (3.0, 6.0), (1.0, 9.0)];
        let sample = |peer, round, seconds| {
            let load = LOADS[0].name;
            Sample { peer, load, round, messages: 1000, seconds, cpu: seconds / 2.0, rss: 10.0 }
        };
        let pair =
            |(round, (none, haproxy))| [sample(Peer::Nothing, round, none), sample(Peer::Haproxy, round, haproxy)];
        let samples: Vec<_> = (0..).zip(rounds).flat_map(pair).collect();
        let table = markdown(&samples);
        let line = table.lines().find(|line| line.contains("| HAProxy, TCP mode |")).unwrap();
        let expected = "| one message a session | HAProxy, TCP mode | 6000 us | 2.00x | 1.00x |  | 3000 us | 1.00x |  | 10 MiB | 117 % |";
        assert_eq!(line, expected);
        assert!(noise(&samples).contains("load by load: 200 %; a busy machine"), "{}", noise(&samples));
        assert!(noise(&samples[..2]).contains("says nothing"));
    }
}
