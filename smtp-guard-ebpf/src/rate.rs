//! Connections of a source in a minute, as a token bucket in integer nanoseconds.
//!
//! A bucket is one number: the time at which it will be full again. Each connection moves it one interval further; how far
//! it lies ahead is what was taken out. A bucket that lies behind is full, so forgetting it loses nothing.
//!
//! A completed handshake is charged, never a SYN: a SYN's source may be forged. Forged SYNs could empty the bucket of a victim,
//! or fill any map with buckets of sources that don't exist. So a burst of SYNs passes until the first of them completes; what
//! it is over the limit is debt that the bucket doesn't keep.

/// How a bucket fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Time in which one connection becomes free; 0: no limit.
    pub interval_ns: u64,
    /// Time in which the whole bucket fills: the interval times what it holds.
    pub burst_ns: u64,
}

impl Bucket {
    /// A bucket that holds `count` connections and fills in `window_ns`; no limit for 0.
    pub const fn new(count: u32, window_ns: u64) -> Self {
        match count {
            0 => Self { interval_ns: 0, burst_ns: 0 },
            // Rounded up: never more than the limit.
            count => {
                let interval_ns = window_ns.div_ceil(count as u64);
                Self { interval_ns, burst_ns: interval_ns * count as u64 }
            }
        }
    }

    /// Whether the bucket that is full at `full_ns` is empty at `now_ns`.
    #[inline(always)]
    pub const fn is_empty(self, full_ns: u64, now_ns: u64) -> bool {
        self.interval_ns != 0 && full_ns.saturating_sub(now_ns) > self.burst_ns.saturating_sub(self.interval_ns)
    }

    /// When the bucket is full after one connection more. It is never more than empty.
    #[inline(always)]
    pub const fn charge(self, full_ns: u64, now_ns: u64) -> u64 {
        let begun = if full_ns > now_ns { full_ns } else { now_ns };
        let (charged, empty) = (begun.saturating_add(self.interval_ns), now_ns.saturating_add(self.burst_ns));
        if charged < empty { charged } else { empty }
    }
}
