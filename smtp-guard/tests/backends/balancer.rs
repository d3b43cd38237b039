//! Connections that a balancer makes for itself.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::with_configured_guard;

/// Version 2, command LOCAL: a health check.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// The code of the greeting behind `header`, and the connection.
fn greeting(guard: SocketAddr, header: &[u8]) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(guard).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(header).unwrap();
    let mut code = [0; 3];
    stream.read_exact(&mut code).unwrap();
    (String::from_utf8_lossy(&code).into_owned(), stream)
}

#[test]
fn health_checks_are_not_limited_and_clients_are() {
    let backend = TcpListener::bind("127.0.0.1:0").unwrap();
    with_configured_guard(
        backend.local_addr().unwrap(),
        |config| {
            config.listen[0].balancers = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
            config.limits.connections = 2;
            config.limits.connections_per_minute = 2;
        },
        |guard| {
            let client = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 25\r\n";
            for (header, expected) in [(LOCAL, ["220"; 5]), (client, ["220", "220", "421", "421", "421"])] {
                let connections = [(); 5].map(|()| greeting(guard, header));
                assert_eq!(connections.each_ref().map(|(code, _)| code.as_str()), expected);
            }
        },
    );
}
