//! The search for the rate at which mail keeps its share. Nothing but numbers.

/// The share of its throughput that mail must keep.
pub(crate) const SHARE: f64 = 0.9;
/// Rates that are tried.
pub(crate) const STEPS: usize = 7;
/// How far the rate may be from the guess, as a factor.
const REACH: f64 = 8.0;

/// A rate, and what mail kept at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tried {
    pub(crate) rate: f64,
    pub(crate) share: f64,
}

/// Halves the distance between a rate that mail bears and one that it doesn't, on a scale of factors.
pub(crate) struct Search {
    bounds: [f64; 2],
    bears: Option<Tried>,
    fails: Option<Tried>,
}

/// Where it ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Found {
    Rate(f64),
    /// Mail bore the highest rate there was.
    AtLeast(f64),
    /// Mail didn't bear the lowest that was tried.
    Below(f64),
}

impl Found {
    pub(crate) fn rate(self) -> f64 {
        match self {
            Self::Rate(rate) | Self::AtLeast(rate) | Self::Below(rate) => rate,
        }
    }
}

impl Search {
    /// `most` is what the generator can send.
    pub(crate) fn new(guess: f64, most: f64) -> Self {
        Self { bounds: [guess / REACH, (guess * REACH).min(most)], bears: None, fails: None }
    }

    /// The rate to try next.
    pub(crate) fn next(&self) -> f64 {
        let low = self.bears.map_or(self.bounds[0], |tried| tried.rate);
        let high = self.fails.map_or(self.bounds[1], |tried| tried.rate);
        (low * high).sqrt()
    }

    pub(crate) fn tried(&mut self, tried: Tried) {
        if tried.share >= SHARE {
            self.bears = Some(tried);
        } else {
            self.fails = Some(tried);
        }
    }

    pub(crate) fn found(&self) -> Found {
        match (self.bears, self.fails) {
            (Some(bears), Some(fails)) => {
                let part = (bears.share - SHARE) / (bears.share - fails.share);
                Found::Rate(bears.rate + part * (fails.rate - bears.rate))
            }
            (Some(bears), None) => Found::AtLeast(bears.rate),
            (None, _) => Found::Below(self.next()),
        }
    }
}

/// The middle one.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
