//! Message data in chunks, through the decoder and the encoder to every model of a backend. A `|` stands between two chunks.
//!
//! - Chunks are read to their length, whatever they hold, and however their bytes arrive.
//! - An accepted message is one message to all models, and the same however it is cut into chunks; of any other none sees an end.
#![no_main]

use libfuzzer_sys::fuzz_target;
use smtp_guard_core::wire::data::BodyFlaw;

#[allow(dead_code, reason = "here the message comes in chunks")]
#[path = "../../smtp-guard/tests/backends/readers/mod.rs"]
mod readers;

fuzz_target!(|data: &[u8]| {
    let chunks: Vec<_> = data.split(|byte| *byte == b'|').collect();
    let message = chunks.concat();
    for repairs in [false, true] {
        let sent = readers::send_chunks(&chunks, message.len(), repairs);
        assert_eq!(sent.end, Some(flaw(&message, repairs)));
        readers::check(&sent, data);
        let same = |cut: readers::Sent| {
            assert_eq!((cut.end, cut.size), (sent.end, sent.size));
            assert!(!sent.is_accepted() || cut == sent);
            readers::check(&cut, data);
        };
        same(readers::send_chunks(&chunks, 1, repairs));
        same(readers::send_chunks(&[&message], message.len(), repairs));
        let bytes: Vec<_> = message.chunks(1).chain([&[][..]]).collect();
        same(readers::send_chunks(&bytes, 1, repairs));
    }
});

/// The first flaw by definition: the whole of it seen at once.
fn flaw(data: &[u8], repairs: bool) -> Option<BodyFlaw> {
    data.iter().enumerate().find_map(|(at, byte)| match byte {
        0 => Some(BodyFlaw::Nul),
        b'\r' if data.get(at + 1) != Some(&b'\n') => Some(BodyFlaw::BareCr),
        b'\n' if (at == 0 || data[at - 1] != b'\r') && !repairs => Some(BodyFlaw::BareLf),
        _ => None,
    })
}
