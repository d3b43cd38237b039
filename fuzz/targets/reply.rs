//! The backend's replies, as a stream.
//!
//! - Nothing panics; cuts change nothing; what is held is bounded; after an error nothing more is read.
//! - A reply that was read goes out clean, and is the same when it is read again.
//! - Its enhanced code fits its code, and is the one of every line that has one.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smtp_guard::wire::ehlo::Capabilities;
use smtp_guard::wire::reply::{MAX_LINES, MAX_REPLY, MAX_SHOWN, MAX_TEXT, Reply, ReplyDecoder, ReplyError};

fuzz_target!(|data: &[u8]| {
    let whole = read([data]);
    for size in [1, 2, 7, 100] {
        assert_eq!(read(data.chunks(size)), whole);
    }
    for reply in whole.iter().flatten() {
        check(reply);
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
