//! Chunks at any split, against the definition; and what the encoder makes of them.

use proptest::prelude::*;

use super::super::{BodyDecoder, BodyEncoder, Chunk};
use super::*;

/// What a decoder makes of chunks.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    body: Vec<u8>,
    /// The flaw told at each end of a chunk.
    breaks: Vec<Option<BodyFlaw>>,
    size: u64,
    /// How it went out, where it could be completed.
    wire: Option<Vec<u8>>,
}

/// Decodes `chunks`, the last of which ends the message; their bytes arrive in pieces of `piece`, and the next command at once.
fn decode(chunks: &[&[u8]], piece: usize, repairs: bool) -> Decoded {
    const NEXT: &[u8] = b".\r\nNEXT\r\n";
    let (mut decoder, mut buf) = (ChunkDecoder::new(repairs), BytesMut::new());
    let (mut encoder, mut wire) = (BodyEncoder::new(), BytesMut::new());
    let (mut body, mut breaks, mut end) = (Vec::new(), Vec::new(), None);
    for (index, chunk) in chunks.iter().enumerate() {
        let told = breaks.len();
        decoder.begin(Bdat { size: chunk.len() as u64, last: index + 1 == chunks.len() });
        let bytes = [chunk, NEXT].concat();
        for piece in [&[][..]].into_iter().chain(bytes.chunks(piece.max(1))) {
            buf.extend_from_slice(piece);
            while let Some(piece) = decoder.next(&mut buf) {
                match piece {
                    Piece::Body(clean) => {
                        assert!(!clean.is_empty() && !clean.ends_with(b"\r") && !clean.starts_with(b"\n"), "{clean:?}");
                        body.extend_from_slice(&clean);
                        encoder.encode(&clean, &mut wire);
                    }
                    Piece::Break(flaw) => breaks.push(flaw),
                    Piece::End(found) => {
                        breaks.push(found.flaw());
                        assert!(end.replace(found).is_none(), "a second end");
                    }
                }
            }
        }
        assert_eq!(breaks.len(), told + 1, "a chunk has one end");
        assert_eq!(&buf[..], NEXT, "what follows isn't the decoder's");
        buf.clear();
    }
    let end = end.unwrap();
    let (size, flawed) = (end.size(), end.flaw().is_some());
    assert_eq!(size, decoder.size());
    assert_eq!(encoder.finish(end, &mut wire).is_err(), flawed);
    Decoded { body, breaks, size, wire: (!flawed).then(|| wire.to_vec()) }
}

/// By the definition: the first flaw of `data`, and what comes out where there is none.
fn model(data: &[u8], repairs: bool) -> Result<Vec<u8>, BodyFlaw> {
    let mut out = Vec::new();
    for (at, byte) in data.iter().enumerate() {
        match byte {
            0 => return Err(BodyFlaw::Nul),
            b'\r' if data.get(at + 1) != Some(&b'\n') => return Err(BodyFlaw::BareCr),
            b'\n' if at == 0 || data[at - 1] != b'\r' => {
                if !repairs {
                    return Err(BodyFlaw::BareLf);
                }
                out.extend_from_slice(b"\r\n");
            }
            byte => out.push(*byte),
        }
    }
    Ok(out)
}

/// Holds `chunks` against the definition, and against the decoder of DATA: what went out is read again as the same message.
fn check(chunks: &[&[u8]]) {
    let data = chunks.concat();
    for repairs in [false, true] {
        for piece in [1, 2, 3, 7, data.len() + 10] {
            let found = decode(chunks, piece, repairs);
            let name = format!("{chunks:?} by {piece}, repairs: {repairs}");
            assert_eq!(found.breaks.len(), chunks.len(), "{name}");
            match model(&data, repairs) {
                Err(flaw) => assert_eq!((found.breaks.last(), &found.wire), (Some(&Some(flaw)), &None), "{name}"),
                Ok(body) => {
                    assert_eq!((&found.body, found.size), (&body, body.len() as u64), "{name}");
                    assert!(found.breaks.iter().all(Option::is_none), "{name}");
                    assert_eq!(reread(&found.wire.unwrap()), complete(body), "{name}");
                }
            }
        }
    }
}

/// A message ends with the end of a line.
fn complete(mut body: Vec<u8>) -> Vec<u8> {
    if !body.is_empty() && !body.ends_with(b"\r\n") {
        body.extend_from_slice(b"\r\n");
    }
    body
}

/// The message in `wire`, which ends with it.
fn reread(wire: &[u8]) -> Vec<u8> {
    let (mut decoder, mut buf, mut body) = (BodyDecoder::new(), BytesMut::from(wire), Vec::new());
    loop {
        match decoder.next(&mut buf) {
            Some(Chunk::Body(clean)) => body.extend_from_slice(&clean),
            Some(Chunk::End(end)) => {
                assert!(end.flaw().is_none() && buf.is_empty(), "\"{}\"", wire.escape_ascii());
                return body;
            }
            None => panic!("no end in \"{}\"", wire.escape_ascii()),
        }
    }
}

/// What ends data for somebody, or would.
const ENDS: [&[u8]; 22] = [
    b"\r\n.\r\n",
    b".\r\n",
    b"..\r\n",
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r",
    b"\r.\r\n",
    b"\r.\n",
    b"\n.\r",
    b"\r\n.\r",
    b"\r\n.\r\r\n",
    b"\r\r\n.\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n. \r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\r\n",
    b"",
    b"\r\nQUIT\r\n",
];

#[test]
fn no_byte_ends_a_chunk_wherever_chunks_are_cut() {
    for end in ENDS {
        for head in [&b""[..], b"a", b"a\r\n"] {
            let data = [head, end, b"MAIL FROM:<evil@x>\r\n"].concat();
            for a in 0..=data.len() {
                check(&[&data[..a], &data[a..]]);
            }
            for (a, b) in (0..=head.len() + end.len()).flat_map(|a| (a..=head.len() + end.len()).map(move |b| (a, b))) {
                check(&[&data[..a], &data[a..b], &data[b..]]);
            }
            // And where the message ends with it.
            check(&[&[head, end].concat()]);
            check(&[&[head, end].concat(), b""]);
        }
    }
    check(&[b""]);
    check(&[b"", b"", b""]);
}

#[test]
fn a_flaw_is_told_at_the_end_of_its_chunk() {
    let (lf, cr, nul) = (Some(BodyFlaw::BareLf), Some(BodyFlaw::BareCr), Some(BodyFlaw::Nul));
    for (chunks, expected) in [
        (&[&b"a\r\n"[..], b"a\nb", b"c"][..], [None, lf, lf]),
        (&[b"a\0", b"\n", b""], [nul, nul, nul]),
        (&[b"a\r", b"\n", b"b"], [None, None, None]),
        (&[b"a\r", b"b\n", b"b"], [None, cr, cr]),
        (&[b"a\r", b"", b""], [None, None, cr]),
    ] {
        assert_eq!(decode(chunks, 100, false).breaks, expected, "{chunks:?}");
    }
}

#[test]
fn as_long_as_a_number_can_say() {
    let (mut decoder, mut buf) = (ChunkDecoder::new(true), BytesMut::from(&b"a\r\n"[..]));
    decoder.begin(Bdat { size: u64::MAX, last: true });
    assert!(matches!(decoder.next(&mut buf), Some(Piece::Body(body)) if &*body == b"a\r\n"));
    assert!(decoder.next(&mut buf).is_none());
    assert_eq!(decoder.left, u64::MAX - 3);
}

/// Bytes of the kind that matter.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        &b"\r\n"[..],
        b"\r\n",
        b"\r\n.",
        b"\r\n.\r\n",
        b".",
        b"\n",
        b"\n.\n",
        b"\r",
        b"\0",
        b"a",
        b"text",
        b"\xff",
    ]);
    prop::collection::vec(token, 0..16).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn as_the_definition_says_at_any_split(data in bytes(), cuts in prop::collection::vec(0usize..12, 0..6)) {
        let (mut chunks, mut rest) = (Vec::new(), &data[..]);
        for cut in cuts {
            let (chunk, following) = rest.split_at(cut.min(rest.len()));
            chunks.push(chunk);
            rest = following;
        }
        chunks.push(rest);
        check(&chunks);
    }
}
