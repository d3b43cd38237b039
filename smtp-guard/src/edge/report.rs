//! The kernel plane's report when it is loaded. A program that is attached to nothing runs once, reads the maps as the others
//! do, and logs what it finds.

use std::sync::Mutex;

use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_log::EbpfLogger;

use super::error::EdgeError;
use super::load::verifier;

const PROGRAM: &str = "guard_report";
const XDP_PASS: u32 = 2;
/// As long as the least that Ethernet takes.
const FRAME: [u8; 64] = [0; 64];
/// Lines that are kept.
const LINES: usize = 64;

/// Runs the report. Fails where the program doesn't see its settings, with what it said.
pub(super) fn report(object: &mut Ebpf) -> Result<Vec<String>, EdgeError> {
    let lines = Lines::default();
    let mut logger =
        EbpfLogger::init_with_logger(object, &lines).map_err(|_| EdgeError::Missing { what: "map AYA_LOGS" })?;
    let program = object.program_mut(PROGRAM).ok_or(EdgeError::Missing { what: "program guard_report" })?;
    let program: &mut Xdp = program.try_into().map_err(verifier(PROGRAM))?;
    let options = TestRunOptions { data_in: Some(&FRAME), repeat: 1, ..TestRunOptions::new() };
    let verdict = program.test_run(options).map_err(verifier(PROGRAM))?.return_value;
    logger.flush();
    let said = lines.0.into_inner().unwrap_or_default();
    if verdict == XDP_PASS { Ok(said) } else { Err(EdgeError::Unsound { said: said.join("; ") }) }
}

/// Loads the program, so that a kernel that refuses it does so before anything is attached.
pub(super) fn load(object: &mut Ebpf) -> Result<(), EdgeError> {
    let program = object.program_mut(PROGRAM).ok_or(EdgeError::Missing { what: "program guard_report" })?;
    let program: &mut Xdp = program.try_into().map_err(verifier(PROGRAM))?;
    program.load().map_err(verifier(PROGRAM))
}

/// Keeps what is logged.
#[derive(Default)]
struct Lines(Mutex<Vec<String>>);

impl log::Log for Lines {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if let Ok(mut lines) = self.0.lock()
            && lines.len() < LINES
        {
            lines.push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}
