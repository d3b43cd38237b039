//! Tables and properties of message data: where it ends, at any split, and what the encoder makes of it.

use proptest::prelude::*;

use super::*;

/// What a decoder makes of bytes: the body that came out, its end, and what was left over.
#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    body: Vec<u8>,
    end: Option<BodyEnd>,
    rest: Vec<u8>,
}

/// Decodes `pieces` as they arrive.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    decode_by(BodyDecoder::new(), pieces)
}

fn decode_by<'a>(mut decoder: BodyDecoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    let mut buf = BytesMut::new();
    let (mut body, mut end) = (Vec::new(), None);
    for piece in pieces {
        buf.extend_from_slice(piece);
        while end.is_none()
            && let Some(chunk) = decoder.next(&mut buf)
        {
            match chunk {
                Chunk::Body(clean) => {
                    assert!(!clean.is_empty(), "an empty chunk");
                    assert!(!clean.ends_with(b"\r") && !clean.starts_with(b"\n"), "a CRLF was parted");
                    body.extend_from_slice(&clean);
                }
                Chunk::End(found) => end = Some(found),
            }
        }
        assert!(end.is_some() || buf.len() <= 2, "{} bytes held back", buf.len());
    }
    if let Some(end) = &end {
        assert_eq!(end.size(), decoder.size());
        assert!(end.flaw().is_some() || end.size() == body.len() as u64, "{} of {}", end.size(), body.len());
    }
    Decoded { body, end, rest: buf.to_vec() }
}

/// The whole input at once, by the definition: the model that the decoder is held against.
fn model(data: &[u8]) -> Option<(usize, bool)> {
    let end =
        if data.starts_with(b".\r\n") { Some(0) } else { memchr::memmem::find(data, b"\r\n.\r\n").map(|at| at + 2) }?;
    let flawed = (0..end).any(|at| match data[at] {
        0 => true,
        b'\r' => data[at + 1] != b'\n',
        b'\n' => at == 0 || data[at - 1] != b'\r',
        _ => false,
    });
    Some((end, flawed))
}

/// The body of `data` up to its first flaw where a bare LF is repaired, and the size of all of it. `data` has its end.
fn repaired(data: &[u8]) -> (Vec<u8>, u64) {
    let (end, _) = model(data).unwrap();
    let (mut body, mut size, mut flawed, mut starts) = (Vec::new(), 0, false, true);
    for (at, byte) in data[..end].iter().enumerate() {
        let after_cr = at > 0 && data[at - 1] == b'\r';
        if !(std::mem::take(&mut starts) && *byte == b'.') {
            let is_bare = *byte == b'\n' && !after_cr;
            flawed |= *byte == 0 || (*byte == b'\r' && data[at + 1] != b'\n');
            let out = if is_bare { &b"\r\n"[..] } else { std::slice::from_ref(byte) };
            size += out.len() as u64;
            if !flawed {
                body.extend_from_slice(out);
            }
        }
        starts = *byte == b'\n' && after_cr;
    }
    (body, size)
}

/// Every split of `data` into two and three writes.
fn splits(data: &[u8]) -> impl Iterator<Item = [&[u8]; 3]> {
    (0..=data.len()).flat_map(move |a| (a..=data.len()).map(move |b| [&data[..a], &data[a..b], &data[b..]]))
}

fn check(data: &[u8], ends: bool, flawed: bool) {
    let whole = decode([data]);
    assert_eq!(whole.end.is_some(), ends, "{:?}", data.escape_ascii().to_string());
    assert_eq!(
        whole.end.as_ref().is_some_and(|end| end.flaw().is_some()),
        ends && flawed,
        "{:?}",
        data.escape_ascii().to_string()
    );
    for pieces in splits(data) {
        let split = decode(pieces);
        assert_eq!(split.end, whole.end, "{pieces:?}");
        assert_eq!(split.rest, whole.rest, "{pieces:?}");
        if !flawed {
            assert_eq!(split.body, whole.body, "{pieces:?}");
        }
    }
    // A false end is always followed by the true one: the session must not get stuck or out of step.
    if !ends {
        let mut more = data.to_vec();
        more.extend_from_slice(b"x\r\n.\r\nQUIT\r\n");
        let more = decode([&more[..]]);
        let end = more.end.expect("the true end");
        assert_eq!(end.flaw().is_some(), flawed, "{:?}", data.escape_ascii().to_string());
        assert_eq!(more.rest, b"QUIT\r\n");
    }
}

#[test]
fn the_table_of_ends() {
    check(b"a\r\n.\r\n", true, false);
    check(b".\r\n", true, false);
    check(b"a\r\n..\r\n.\r\n", true, false);
    for false_end in [
        &b"\n.\n"[..],
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r.\r",
        b"\r.\r\n",
        b"\r.\n",
        b"\n.\r",
        b"\r\n.\r",
        b"\r\n.\r\r\n",
        b"\r\n\0.\r\n",
        b"\r\n.\0\r\n",
        b"\r\n.\0x\r\n",
    ] {
        let mut data = b"a".to_vec();
        data.extend_from_slice(false_end);
        // A lone CR at the end isn't known to be bare before the next byte; `check` sends one.
        check(&data, false, true);
    }
    check(b"a\r\r\n.\r\n", true, true);
    check(b"\r.\r\n", false, true);
    check(b"..\r\n", false, false);
    check(b".x\r\n", false, false);
}

/// By the definition, at any split, of clients whose bare LFs are repaired. Nothing behind the first flaw comes out, and all counts.
#[test]
fn a_bare_lf_is_repaired_where_that_is_allowed() {
    for data in [
        &b"a\nb\r\n.\r\n"[..],
        b"\n\n\r\n.\r\n",
        b"a\n.\n.\r\n\n..\r\n..\n.\r\n.\r\n",
        b"\r\n..a\n.b\r\n.\r\n",
        b"a\nb\rc\nd\r\n..e\r\n.\r\n",
        b"a\n\0b\r\n\0\0.\r\n.\r\n",
        b"\0\n\r\n.\r\n",
    ] {
        let (body, size) = repaired(data);
        for pieces in splits(data) {
            let found = decode_by(BodyDecoder::for_client(true), pieces);
            let end = found.end.unwrap_or_else(|| panic!("{pieces:?}"));
            let flawed = size != body.len() as u64;
            assert_eq!((end.size(), end.flaw().is_some()), (size, flawed), "{pieces:?}");
            assert!(body.starts_with(&found.body) && (flawed || body == found.body), "{pieces:?}");
        }
    }
}

#[test]
fn a_line_of_any_length_does_not_make_a_line_start() {
    for length in [998, 1000, 2048, 4096, 8192, 16384] {
        let mut data = vec![b'x'; length];
        data.extend_from_slice(b".\r\n");
        assert_eq!(decode([&data[..]]).end, None, "{length}");
        assert_eq!(decode(data.chunks(length)).end, None, "{length} in chunks");
        data.extend_from_slice(b".\r\n");
        assert_eq!(decode(data.chunks(length)).end, Some(BodyEnd { size: length as u64 + 3, flaw: None }));
    }
}

#[test]
fn whole_lines_come_out_as_one_slice() {
    let mut buf = BytesMut::from(&b"one\r\ntwo\r\nthree\r\n.\r\n"[..]);
    let Some(Chunk::Body(body)) = BodyDecoder::new().next(&mut buf) else { panic!("no body") };
    assert_eq!(&*body, b"one\r\ntwo\r\nthree\r\n");
}

#[test]
fn after_the_end_the_decoder_is_inert() {
    for (data, flaw) in [(&b"a\r\n.\r\n"[..], None), (b"a\n.\r\n\r\n.\r\n", Some(BodyFlaw::BareLf))] {
        let (mut decoder, mut buf) = (BodyDecoder::new(), BytesMut::from(data));
        let end = std::iter::from_fn(|| decoder.next(&mut buf)).last();
        assert!(matches!(end, Some(Chunk::End(end)) if end.flaw() == flaw));
        let size = decoder.size();
        // The start of the next message's data, or of commands: not the decoder's.
        for rest in [&b".\r\n"[..], b"\r\n.\r\n", b"QUIT\r\n", b"\0"] {
            buf.extend_from_slice(rest);
            assert!(decoder.next(&mut buf).is_none());
            assert_eq!(&buf[..], rest);
            buf.clear();
        }
        assert_eq!(decoder.size(), size);
    }
}

#[test]
fn headers_are_valid_or_refused() {
    for (text, valid) in [
        ("Received: from x\r\n\tby y;\r\n", true),
        ("A: b\r\n", true),
        ("A: b", false),
        ("A: b\n", false),
        ("A: b\r\nC: d\r\n", false),
        ("A: b\r\n\r\n", false),
        (" A: b\r\n", false),
        ("A: \u{e9}\r\n", false),
        ("A: \0\r\n", false),
        ("A:\r\n", true),
        ("no name\r\n", false),
        ("a name: x\r\n", false),
        (": x\r\n", false),
        ("\t: x\r\n", false),
        ("nothing\r\n\tA: b\r\n", false),
        ("", false),
    ] {
        assert_eq!(CleanBody::header(text).is_ok(), valid, "{text:?}");
    }
}

/// Encodes what `decoded` holds, in chunks of `chunk` bytes that part no CRLF.
fn encode(body: &[u8], cuts: &[usize]) -> Vec<u8> {
    let (mut encoder, mut out) = (BodyEncoder::new(), BytesMut::new());
    let mut rest = body;
    for cut in cuts.iter().copied().chain([usize::MAX]) {
        let mut cut = cut.min(rest.len());
        if rest[..cut].ends_with(b"\r") {
            cut += 1;
        }
        let (chunk, following) = rest.split_at(cut);
        encoder.encode(&CleanBody(Bytes::copy_from_slice(chunk)), &mut out);
        rest = following;
    }
    encoder.finish(BodyEnd { size: body.len() as u64, flaw: None }, &mut out).unwrap();
    out.to_vec()
}

/// Where a deliberately lax backend sees an end: any line end, a dot, any line end.
fn lax_ends(data: &[u8]) -> Vec<usize> {
    let is_end = |byte: Option<&u8>| matches!(byte, Some(b'\r' | b'\n' | 0));
    (0..data.len())
        .filter(|&at| data[at] == b'.' && (at == 0 || is_end(data.get(at - 1))) && is_end(data.get(at + 1)))
        .collect()
}

#[test]
fn a_flawed_message_cannot_be_completed() {
    let mut out = BytesMut::new();
    let end = BodyEnd { size: 1, flaw: Some(BodyFlaw::Nul) };
    assert!(BodyEncoder::new().finish(end, &mut out).is_err());
    assert!(out.is_empty());
}

/// Bytes of the kind that matter.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        &b"\r\n"[..],
        b"\r\n",
        b"\r\n.",
        b"\r\n.\r\n",
        b".",
        b"\r",
        b"\n",
        b"\0",
        b"a",
        b"text",
        b"\xff",
    ]);
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

fn clean_lines() -> impl Strategy<Value = Vec<u8>> {
    let line = prop::sample::select(vec![&b""[..], b".", b"..", ".x".as_bytes(), b"text", b"a.b.", b"\xe9"]);
    prop::collection::vec(line, 0..12)
        .prop_map(|lines| lines.into_iter().flat_map(|line| [line, b"\r\n"].concat()).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ends_where_the_definition_says_at_any_split(data in bytes(), cuts in prop::collection::vec(0usize..40, 0..5)) {
        let mut pieces = Vec::new();
        let mut rest = &data[..];
        for cut in cuts {
            let (piece, following) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = following;
        }
        pieces.push(rest);
        let decoded = decode(pieces);
        match model(&data) {
            None => prop_assert_eq!(decoded.end, None),
            Some((end, flawed)) => {
                let found = decoded.end.expect("an end");
                prop_assert_eq!(found.flaw().is_some(), flawed);
                // What came after the end is the rest of that piece.
                prop_assert!(data[end + 3..].starts_with(&decoded.rest));
            }
        }
    }

    #[test]
    fn a_look_at_blocks_finds_what_a_look_at_each_byte_does(
        (clean, line, flawed) in (0..3 * BLOCK, 1usize..90, any::<bool>()),
        data in bytes(),
    ) {
        // What is odd stands at each place of a block, and at either side of its end.
        let mut all: Vec<u8> = std::iter::repeat_n(b'x', line).chain(*b"\r\n").cycle().take(clean).collect();
        all.extend(data);
        prop_assert_eq!(clean_run(&all, flawed), run_byte_by_byte(&all));
    }

    #[test]
    fn what_is_encoded_is_decoded_and_ends_once_for_the_laxest_reader(body in clean_lines(), cuts in prop::collection::vec(0usize..9, 0..6)) {
        let wire = encode(&body, &cuts);
        prop_assert_eq!(lax_ends(&wire), vec![wire.len() - 3]);
        let decoded = decode([&wire[..]]);
        prop_assert_eq!(decoded.body, body);
        prop_assert_eq!(decoded.end.map(|end| end.flaw()), Some(None));
        prop_assert!(decoded.rest.is_empty());
    }
}
