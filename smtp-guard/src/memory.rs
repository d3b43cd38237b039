//! Fenced: gives memory that sessions needed back to the system. The allocator keeps what is freed between pages in use, for good.
#![allow(unsafe_code, reason = "no crate offers malloc_trim; the one block has its proof")]

use std::time::Duration;

/// How often sessions are counted: a flood may be short.
const LOOK: Duration = Duration::from_secs(1);
/// The last sessions of a flood may still hold what they had. It is given back after this, and not more often.
const SETTLE: Duration = Duration::from_secs(20);
/// For fewer sessions it isn't worth while: they are a few MiB.
const LEAST: u32 = 256;

/// Sessions at most since memory was given back.
#[derive(Debug, Default)]
struct Tide {
    high: u32,
}

impl Tide {
    /// Whether so many sessions have ended that their memory is to be given back: half of the most there were.
    fn is_out(&mut self, sessions: u32) -> bool {
        self.high = self.high.max(sessions);
        let gone = self.high - sessions;
        let out = gone >= LEAST && gone >= sessions;
        if out {
            self.high = sessions;
        }
        out
    }
}

/// Gives memory back whenever many `sessions` have ended. Doesn't return.
pub(crate) async fn give_back(sessions: impl Fn() -> u32) {
    let mut tide = Tide::default();
    loop {
        tokio::time::sleep(LOOK).await;
        if tide.is_out(sessions()) {
            tokio::time::sleep(SETTLE).await;
            // It goes through all free memory: milliseconds.
            let _ = tokio::task::spawn_blocking(trim).await;
        }
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: the call takes a number only, and may be made by any thread at any time.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of sessions, each with whether memory is given back then.
    #[track_caller]
    fn check(looks: &[(u32, bool)]) {
        let mut tide = Tide::default();
        let out: Vec<_> = looks.iter().map(|(sessions, _)| (*sessions, tide.is_out(*sessions))).collect();
        assert_eq!(out, looks);
    }

    #[test]
    fn memory_is_given_back_when_half_of_the_sessions_have_ended() {
        check(&[
            (0, false),
            (9_000, false),
            (5_000, false),
            (4_500, true),
            (4_500, false),
            (2_251, false),
            (2_250, true),
        ]);
        check(&[(9_000, false), (0, true), (0, false)]);
        // Few aren't worth while.
        check(&[(255, false), (0, false), (256, false), (0, true)]);
        // It comes in again.
        check(&[(600, false), (100, true), (600, false), (400, false), (300, true)]);
    }
}
