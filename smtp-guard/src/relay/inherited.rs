//! Listening sockets that a service manager opened before us (sd_listen_fds(3)) and keeps open over our restarts: meanwhile
//! connections wait, and none is refused. Ports below 1024 need no right of ours that way.

use std::io;
use std::net::SocketAddr;

use listenfd::ListenFd;
use socket2::Socket;

/// The sockets that were handed over, for as long as the process lives. Those that are served are copies.
#[derive(Debug, Default)]
pub struct Inherited(Vec<(SocketAddr, Socket)>);

impl Inherited {
    /// Those that the environment tells of, which doesn't tell of them any more then. To be called once, before there are threads.
    /// What can't be used is an error each.
    pub fn take() -> (Self, Vec<io::Error>) {
        let (mut sockets, mut errors) = (Vec::new(), Vec::new());
        let mut handed = ListenFd::from_env();
        for index in 0..handed.len() {
            let listener = handed.take_tcp_listener(index).and_then(|listener| match listener {
                Some(listener) => Ok((listener.local_addr()?, listener)),
                None => Err(io::ErrorKind::NotFound.into()),
            });
            match listener {
                Ok((address, listener)) => sockets.push((address, Socket::from(listener))),
                Err(error) => errors.push(error),
            }
        }
        (Self(sockets), errors)
    }

    /// The one that listens on `address`, to be served.
    pub(super) fn on(&self, address: SocketAddr) -> Option<io::Result<Socket>> {
        let (_, socket) = self.0.iter().find(|(inherited, _)| *inherited == address)?;
        Some(socket.try_clone())
    }

    /// All addresses.
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.0.iter().map(|(address, _)| *address)
    }

    /// Whether one of them takes what comes to the IPv4 address `address`, being one of both families.
    pub(super) fn covers(&self, address: SocketAddr) -> bool {
        let both = |(inherited, socket): &(SocketAddr, Socket)| {
            let same = inherited.port() == address.port() && inherited.ip().is_unspecified();
            same && inherited.is_ipv6() && !socket.only_v6().unwrap_or(true)
        };
        address.is_ipv4() && self.0.iter().any(both)
    }
}
