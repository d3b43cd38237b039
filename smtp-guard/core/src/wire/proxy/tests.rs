use proptest::prelude::*;

use super::*;

/// Reads a header as a driver does: never a byte more than was asked for.
fn read(bytes: &[u8]) -> Result<(Proxied, usize), ProxyError> {
    let mut at = 0;
    loop {
        match missing(&bytes[..at])? {
            0 => return decode(&bytes[..at]).map(|proxied| (proxied, at)),
            more if at + more > bytes.len() => return Err(ProxyError::Missing),
            more => at += more,
        }
    }
}

fn check(header: &[u8], expected: Result<Option<&str>, ProxyError>) {
    // What follows the header stays untouched.
    let found = read(&[header, b"EHLO x\r\n"].concat());
    let name = header.escape_ascii().to_string();
    let text = found.map(|(proxied, length)| {
        assert_eq!(length, header.len(), "{name}");
        match proxied {
            Proxied::For(ends) => Some(format!("{} {}", ends.source, ends.destination)),
            Proxied::Itself => None,
        }
    });
    assert_eq!(text, expected.map(|ends| ends.map(str::to_owned)), "{name}");
}

#[test]
fn version_1() {
    check(b"PROXY TCP4 192.0.2.1 192.0.2.9 5000 25\r\n", Ok(Some("192.0.2.1:5000 192.0.2.9:25")));
    check(b"PROXY TCP6 2001:db8::1 2001:db8::9 5000 25\r\n", Ok(Some("[2001:db8::1]:5000 [2001:db8::9]:25")));
    check(b"PROXY UNKNOWN\r\n", Ok(None));
    check(b"EHLO x\r\n", Err(ProxyError::Missing));
    check(b"PROXI TCP4", Err(ProxyError::Missing));
    check(b"PROXY TCP4 192.0.2.1 192.0.2.9 5000\r\n", Err(ProxyError::Malformed));
    check(b"PROXY TCP4 192.0.2.1 192.0.2.9 +5000 25\r\n", Err(ProxyError::Malformed));
    check(b"PROXY TCP4 192.0.2.1 192.0.2.9 5000 70000\r\n", Err(ProxyError::Malformed));
    check(b"PROXY TCP4 2001:db8::1 192.0.2.9 5000 25\r\n", Err(ProxyError::Malformed));
    check(b"PROXY TCP4 192.0.2.1 192.0.2.9 5000 25 x\r\n", Err(ProxyError::Malformed));
    check(b"PROXY UDP4 192.0.2.1 192.0.2.9 5000 25\r\n", Err(ProxyError::Malformed));
    check(b"PROXY TCP4 192.0.2.1\n192.0.2.9 5000 25\r\n", Err(ProxyError::Malformed));
    check(&[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200], b"\r\n"].concat(), Err(ProxyError::TooLong));
}

#[test]
fn version_2() {
    let v2 = |command: u8, family: u8, rest: &[u8]| {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    };
    let v4 = [192, 0, 2, 1, 192, 0, 2, 9, 0x13, 0x88, 0, 25];
    check(&v2(0x21, 0x11, &v4), Ok(Some("192.0.2.1:5000 192.0.2.9:25")));
    check(&v2(0x21, 0x11, &[v4.as_slice(), &[4, 0, 1, 0]].concat()), Ok(Some("192.0.2.1:5000 192.0.2.9:25")));
    check(&v2(0x20, 0, &[]), Ok(None));
    assert_eq!(local(), v2(0x20, 0, &[]));
    check(&v2(0x20, 0x11, &v4), Ok(None));
    check(&v2(0x21, 0x12, &v4), Err(ProxyError::NotTcp));
    check(&v2(0x21, 0x31, &[b'x'; 216]), Err(ProxyError::NotTcp));
    check(&v2(0x21, 0x11, &v4[..11]), Err(ProxyError::Malformed));
    check(&v2(0x31, 0x11, &v4), Err(ProxyError::Malformed));
}

#[test]
fn a11_fields_of_a_balancer_are_taken_up_to_4_kib() {
    for (fields, expected) in [
        (1_500, Ok(Some("192.0.2.1:5000 192.0.2.9:25"))),
        (4_096 - 12, Ok(Some("192.0.2.1:5000 192.0.2.9:25"))),
        (4_097 - 12, Err(ProxyError::TooLong)),
        (60_000, Err(ProxyError::TooLong)),
    ] {
        let v4 = [192, 0, 2, 1, 192, 0, 2, 9, 0x13, 0x88, 0, 25];
        // One field of the type NOOP.
        let length = u16::try_from(fields - 3).unwrap().to_be_bytes();
        let field = [[4].as_slice(), &length, &vec![0; fields - 3]].concat();
        let whole = u16::try_from(v4.len() + field.len()).unwrap().to_be_bytes();
        check(&[SIGNATURE.as_slice(), &[0x21, 0x11], &whole, &v4, &field].concat(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read(v1 in any::<bool>(), source in any::<SocketAddr>(), destination in any::<SocketAddr>()) {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip(), end.port());
        let version = if v1 { Version::V1 } else { Version::V2 };
        let bytes = encode(version, Ends { source, destination });
        let (source, destination) = one_family(Ends { source: plain(source), destination: plain(destination) });
        prop_assert_eq!(read(&bytes), Ok((Proxied::For(Ends { source, destination }), bytes.len())));
    }

    #[test]
    fn any_bytes_are_survived(v2 in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let head: &[u8] = if v2 { SIGNATURE } else { b"PROXY TCP4 " };
        let _ = (read(&bytes), read(&[head, &bytes].concat()));
    }
}
