//! The two clocks of this machine: the only place that reads them.

use rustix::time::{ClockId, clock_gettime};
pub use smtp_guard_core::clock::{Both, Instant, Seconds, Steady, WallTime};

/// Now, in ns of CLOCK_BOOTTIME.
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Boottime);
    Instant::from_ns(t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs())
}

/// Now, as people read it.
pub fn wall() -> WallTime {
    let t = clock_gettime(ClockId::Realtime);
    WallTime::from_ms(t.tv_sec * 1000 + t.tv_nsec / 1_000_000)
}

/// Both clocks, read together.
pub fn both() -> Both {
    Both { instant: now(), wall: wall() }
}
