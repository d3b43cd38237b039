//! Signals: SIGTERM, SIGINT and SIGQUIT end the program, SIGHUP has it read its configuration again; no other one does
//! anything. Tools send SIGUSR1 and others to make a daemon write again: left to themselves they would end it, and with it the
//! sessions under way.

use std::io;

use libc::{SIGPWR, SIGSTKFLT};
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};
use signal_hook::iterator::Signals;

/// Signals that end the program.
const END: [i32; 3] = [SIGTERM, SIGINT, SIGQUIT];
/// Signals that would end the program by default, and must not; so do all real-time signals. (SIGPIPE is ignored by Rust's runtime.)
const IGNORED: [i32; 11] =
    [SIGHUP, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, SIGSTKFLT, SIGXCPU, SIGXFSZ];

/// From here on no signal of [`IGNORED`] ends the program; each is told. Those of [`END`] call `end` with their names, in a
/// thread of its own; without `end` they do what they do by default. SIGHUP calls `reload`.
pub(super) fn watch(
    end: Option<Box<dyn Fn(&'static str) + Send>>,
    reload: Option<Box<dyn Fn() + Send>>,
) -> io::Result<()> {
    let ending: &[i32] = if end.is_some() { &END } else { &[] };
    let real_time: Vec<i32> = (libc::SIGRTMIN()..=libc::SIGRTMAX()).collect();
    let mut signals = Signals::new(IGNORED.iter().chain(&real_time).chain(ending))?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in &mut signals {
            match (&end, &reload) {
                (Some(end), _) if END.contains(&signal) => end(name(signal)),
                (_, Some(reload)) if signal == SIGHUP => {
                    tracing::info!(signal = "SIGHUP", "the configuration is read again");
                    reload();
                }
                _ => tracing::warn!(signal = name(signal), number = signal, "signal ignored"),
            }
        }
    })?;
    Ok(())
}

fn name(signal: i32) -> &'static str {
    signal_hook::low_level::signal_name(signal).unwrap_or("a signal")
}
