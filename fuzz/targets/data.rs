//! Message data, through the decoder and the encoder to every model of a backend.
//!
//! - The end is where the definition has it, however the bytes are cut.
//! - An accepted message is one message to all models, and the same; of any other none sees an end. So it is where bare LF is
//!   repaired.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "here the message comes by DATA")]
#[path = "../../smtp-guard/tests/backends/readers/mod.rs"]
mod readers;

/// Beyond that not every cut is tried.
const SHORT: usize = 48;

fuzz_target!(|data: &[u8]| {
    let whole = readers::send([data]);
    let end = match data {
        [b'.', b'\r', b'\n', ..] => Some(3),
        _ => data.windows(5).position(|window| window == b"\r\n.\r\n").map(|at| at + 5),
    };
    assert_eq!(whole.end.is_some(), end.is_some());
    if let Some(end) = end {
        assert_eq!(whole.rest, data[end..]);
        let data = &data[..end];
        let flawed = data.contains(&0)
            || data.iter().enumerate().any(|(at, byte)| match byte {
                b'\r' => data.get(at + 1) != Some(&b'\n'),
                b'\n' => at == 0 || data[at - 1] != b'\r',
                _ => false,
            });
        assert_eq!(whole.is_accepted(), !flawed);
    }
    readers::check(&whole, data);
    let same = |cut: readers::Sent| {
        // Bytes before a flaw have gone out or not, depending on the cut.
        let exact =
            whole.is_accepted() || whole.end.is_none() && !data.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0));
        assert_eq!((cut.end, cut.size, &cut.rest), (whole.end, whole.size, &whole.rest));
        assert!(!exact || cut == whole);
        if cut.wire != whole.wire {
            readers::check(&cut, data);
        }
    };
    same(readers::send(data.chunks(1)));
    // From an own host, whose bare LF is repaired.
    let repaired = readers::send_repaired([data]);
    readers::check(&repaired, data);
    let bytewise = readers::send_repaired(data.chunks(1));
    assert!(!repaired.is_accepted() || bytewise == repaired);
    if data.len() <= SHORT {
        (1..data.len()).for_each(|at| same(readers::send([&data[..at], &data[at..]])));
    }
});
