//! A client that sends a line without end, as fast as it can: its time ends before that of a client that comes later and says nothing.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use smtp_guard::config::Config;

use crate::client::Client;
use crate::with_configured_guard;

/// For the guard to close, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many at once that the guard has nearly always something to read.
const CLIENTS: usize = 6;

/// Clients that have said `before`, and never stop to send from then on, are gone when one that came later is.
fn check(before: &[&str]) {
    let configure = |config: &mut Config| config.limits.session_time = Duration::from_secs(3);
    with_configured_guard(crate::faults::start_sound(), configure, |guard| {
        let open = || {
            let mut client = Client::connect(guard);
            assert_eq!(client.code(), 220);
            for line in before {
                assert_eq!(client.say(line), 250, "{line}");
            }
            client.into_stream()
        };
        let sending: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let mut stream = open();
                stream.set_write_timeout(Some(PATIENCE)).unwrap();
                std::thread::spawn(move || while stream.write(&[b'x'; 64 * 1024]).is_ok() {})
            })
            .collect();
        std::thread::sleep(Duration::from_secs(1));
        let mut later = open();
        later.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut last = Vec::new();
        later.read_to_end(&mut last).unwrap();
        assert!(last.starts_with(b"421 "), "{}", last.escape_ascii());
        let left = sending.iter().filter(|sending| !sending.is_finished()).count();
        assert_eq!(left, 0, "{before:?}: of {CLIENTS} that send without end");
    });
}

#[test]
fn a_line_without_end_does_not_outrun_the_clock() {
    check(&[]);
    check(&["EHLO client.example"]);
}
