//! The clients of the stress run: so many connections at once, one after the other, each with an end by chance.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use serde_json::json;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::ends::{End, Peer, TEXT};
use super::server::{PORTS, until_end};

/// Connections at once.
const AT_ONCE: usize = 64;
/// How often the tally is printed.
const TELL: Duration = Duration::from_millis(200);
/// For a handshake: a SYN that meets a forged one of the same ports is sent again after a second, and after two more.
const CONNECT: Duration = Duration::from_secs(8);
/// For an end.
const LONGEST: Duration = Duration::from_secs(10);
/// While the server is being started again.
const AGAIN: Duration = Duration::from_millis(5);
const MSG_FASTOPEN: i32 = 0x2000_0000;

/// What became of the connections.
#[derive(Debug, Default)]
struct Tally {
    /// Handed out to whoever opens the next one.
    begun: AtomicU64,
    ends: [AtomicU64; End::COUNT],
    /// Ended otherwise than it was asked for: the server was killed.
    interrupted: AtomicU64,
    /// Didn't get so far: refused while the server was away, or timed out.
    not_connected: AtomicU64,
}

impl Tally {
    fn json(&self) -> serde_json::Value {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        json!({
            "ends": self.ends.iter().map(read).collect::<Vec<_>>(),
            "interrupted": read(&self.interrupted),
            "not_connected": read(&self.not_connected),
        })
    }
}

/// Opens `count` connections to `addresses`, prints the tally while it does, and ends. Ends at once where standard input
/// closes: who started it is gone.
pub fn run(peer: Peer, count: u64, seed: u64, addresses: Vec<SocketAddr>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    std::thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    let tally = Arc::new(Tally::default());
    runtime.block_on(async {
        let addresses: Arc<[SocketAddr]> = addresses.into();
        let clients: Vec<_> = (0..AT_ONCE as u64)
            .map(|n| {
                let chance = Rng::with_seed(seed << 16 | n);
                tokio::spawn(client(peer, Arc::clone(&tally), count, chance, Arc::clone(&addresses)))
            })
            .collect();
        let told = Arc::clone(&tally);
        tokio::spawn(async move {
            loop {
                sleep(TELL).await;
                println!("{}", told.json());
            }
        });
        for client in clients {
            client.await.unwrap();
        }
    });
    println!("{}", tally.json());
}

async fn client(peer: Peer, tally: Arc<Tally>, count: u64, mut chance: Rng, addresses: Arc<[SocketAddr]>) {
    while tally.begun.fetch_add(1, Ordering::Relaxed) < count {
        let end = End::pick(&mut chance, peer);
        let (address, fast) = (addresses[chance.usize(..addresses.len())], chance.u8(..8) == 0);
        let pause = Duration::from_millis(chance.u64(..4) * chance.u64(..4));
        let (stream, reset) = loop {
            match timeout(CONNECT, open(peer, address, end, fast)).await {
                Ok(Ok(opened)) => break opened,
                _ => tally.not_connected.fetch_add(1, Ordering::Relaxed),
            };
            sleep(AGAIN).await;
        };
        let finish = async {
            match peer {
                Peer::StandIn if reset => end.resets().then_some(()).ok_or(io::ErrorKind::ConnectionReset.into()),
                Peer::StandIn => finish(stream, end, pause, chance.bool()).await,
                Peer::Guard => session(stream, end, pause).await,
            }
        };
        let counter = match timeout(LONGEST, finish).await {
            Ok(Ok(())) => &tally.ends[end as usize],
            _ => &tally.interrupted,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Opens a connection and says how it is to end; `fast`: in its SYN, where the client has a cookie. The guard speaks first.
/// Also says whether it was reset by the time that it was looked at.
async fn open(peer: Peer, mut address: SocketAddr, end: End, fast: bool) -> io::Result<(TcpStream, bool)> {
    let first = match (peer, end) {
        (Peer::Guard, _) => Vec::new(),
        (Peer::StandIn, End::NeverAccepted) => {
            address.set_port(PORTS[1]);
            Vec::new()
        }
        (Peer::StandIn, End::ServerLeavesUnread) => [&[end.command()][..], &[0; TEXT]].concat(),
        (Peer::StandIn, _) => vec![end.command()],
    };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    let sent = match fast && !first.is_empty() {
        true => socket.send_to_with_flags(&first, &address.into(), MSG_FASTOPEN),
        false => socket.connect(&address.into()).map(|()| 0),
    };
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => 0,
        Err(error) => return Err(error),
    };
    let mut stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    // Refused is what a SYN is; who is reset was established.
    let reset = match stream.take_error()? {
        Some(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
        Some(error) => return Err(error),
        None => false,
    };
    // From here on it is established, whatever comes.
    let _ = stream.write_all(&first[sent..]).await;
    Ok((stream, reset))
}

/// Ends it. What the server had to do and didn't is an error.
async fn finish(mut stream: TcpStream, end: End, pause: Duration, reset: bool) -> io::Result<()> {
    sleep(pause).await;
    let expect_reset = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(error),
        Ok(()) => Err(io::ErrorKind::UnexpectedEof.into()),
    };
    match end {
        End::ClientCloses => Ok(()),
        End::ServerCloses => until_end(&mut stream).await,
        End::ClientResets => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        End::NeverAccepted => SockRef::from(&stream).set_linger(reset.then_some(Duration::ZERO)),
        End::ServerResets | End::ServerLeavesUnread => expect_reset(until_end(&mut stream).await),
        End::ClientHalfCloses => {
            stream.shutdown().await?;
            until_end(&mut stream).await
        }
        End::ServerHalfCloses => {
            until_end(&mut stream).await?;
            stream.write_all(&[0; TEXT]).await
        }
        End::ClientLeavesUnread => match stream.peek(&mut [0]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        },
    }
}

/// A session with the guard.
async fn session(mut stream: TcpStream, end: End, pause: Duration) -> io::Result<()> {
    if end != End::ClientLeavesUnread {
        let mut greeting = [0; 512];
        let length = stream.read(&mut greeting).await?;
        if !greeting[..length].starts_with(b"220 ") {
            return Err(io::ErrorKind::InvalidData.into());
        }
        stream.write_all(b"EHLO client.example\r\n").await?;
    }
    sleep(pause).await;
    match end {
        End::ServerCloses => {
            stream.write_all(b"QUIT\r\n").await?;
            until_end(&mut stream).await
        }
        End::ClientResets => SockRef::from(&stream).set_linger(Some(Duration::ZERO)),
        End::ClientHalfCloses => {
            stream.shutdown().await?;
            until_end(&mut stream).await
        }
        End::ClientLeavesUnread => stream.peek(&mut [0]).await.map(drop),
        _ => {
            // All that it says is read, so that the end is FIN and no RST.
            stream.read(&mut [0; 2048]).await.map(drop)
        }
    }
}

/// Opens `count` connections, prints a line, and holds them until standard input closes.
pub fn hold(peer: Peer, count: usize, addresses: &[SocketAddr]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut held = Vec::with_capacity(count);
        for n in 0..count {
            let open = timeout(CONNECT, open(peer, addresses[n % addresses.len()], End::ClientCloses, false));
            held.push(open.await.unwrap().unwrap());
        }
        println!("held");
        let _ = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await;
    });
}
