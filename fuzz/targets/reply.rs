//! The backend's replies, as a stream.
//!
//! - Nothing panics; cuts change nothing; what is held is bounded; after an error nothing more is read.
//! - A reply that was read goes out clean, and is the same when it is read again.
//! - Its enhanced code fits its code, and is the one of every line that has one.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smtp_guard_core::wire::ehlo::Capabilities;
use smtp_guard_core::wire::reply::{MAX_LINES, MAX_REPLY, MAX_SHOWN, MAX_TEXT, Reply, ReplyDecoder, ReplyError};

fuzz_target!(|data: &[u8]| {
    let whole = read([data]);
    for size in [1, 2, 7, 100] {
        assert_eq!(read(data.chunks(size)), whole);
    }
    let mut lines = data.split_inclusive(|byte| *byte == b'\n');
    for reply in whole.iter().flatten() {
        check(reply);
        let theirs: Vec<_> = lines.by_ref().take(reply.lines().count()).filter_map(enhanced).collect();
        let agreed = theirs.first().filter(|first| theirs.iter().all(|other| other == *first));
        assert_eq!(reply.enhanced().map(|enhanced| enhanced.parts()), agreed.copied());
    }
});

fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Result<Reply, ReplyError>> {
    let (mut decoder, mut unread, mut replies) = (ReplyDecoder::new(), BytesMut::new(), Vec::new());
    for piece in pieces {
        unread.extend_from_slice(piece);
        while let Some(reply) = decoder.next(&mut unread) {
            let failed = reply.is_err();
            replies.push(reply);
            if failed {
                let before = unread.len();
                assert_eq!((decoder.next(&mut unread), unread.len()), (None, before));
                return replies;
            }
        }
        assert!(unread.len() <= MAX_REPLY);
    }
    replies
}

/// The enhanced code of a line as it came.
fn enhanced(line: &[u8]) -> Option<(u8, u16, u16)> {
    let line = line.strip_suffix(b"\r\n")?;
    let first = std::str::from_utf8(line.get(4..)?.split(|byte| *byte == b' ').next()?).ok()?;
    let mut numbers = first.split('.').map(|number| {
        let digits = (1..=3).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| number.parse::<u16>().ok()).flatten()
    });
    let found = (u8::try_from(numbers.next()??).ok()?, numbers.next()??, numbers.next()??);
    let fits = line.starts_with(&[b'0' + found.0.min(9)]) && matches!(found.0, 2 | 4 | 5);
    (fits && numbers.next().is_none()).then_some(found)
}

fn check(reply: &Reply) {
    let code = reply.code();
    assert!((200..600).contains(&code.get()));
    assert!(reply.lines().count() <= MAX_LINES);
    assert!(reply.to_string().len() <= MAX_SHOWN);
    assert!(reply.lines().all(|text| text.len() <= MAX_TEXT && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))));
    if let Some(enhanced) = reply.enhanced() {
        assert_eq!(u16::from(enhanced.parts().0), code.class());
        assert!(matches!(code.class(), 2 | 4 | 5));
    }
    let mut out = BytesMut::new();
    reply.encode(&mut out);
    assert!(out.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\r' | b'\n')));
    let lines = out.split_inclusive(|byte| *byte == b'\n');
    assert!(lines.clone().all(|line| line.ends_with(b"\r\n") && line.len() <= 512));
    assert_eq!(lines.count(), reply.lines().count());
    let again = read([&out[..]]);
    let [Ok(again)] = &again[..] else { panic!("{again:?}") };
    let mut out_again = BytesMut::new();
    again.encode(&mut out_again);
    assert_eq!(out, out_again);
    assert_eq!(again.enhanced(), reply.enhanced());
    // Whatever it offers, what both offer is no more.
    let offered = Capabilities::parse(reply);
    assert_eq!(offered.intersection(&offered), offered);
}
