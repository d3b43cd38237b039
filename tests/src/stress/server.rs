//! The server of the stress run: ends connections as their clients ask, and has a second port where it accepts nobody.

use std::io::Read as _;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::ends::{End, TEXT};

/// Where everyone is accepted, and where nobody is.
pub const PORTS: [u16; 2] = [25, 587];
const BACKLOG: u32 = 4096;
/// How long the listener that accepts nobody lives: then it is closed with all that wait, and opened again.
const REOPEN: Duration = Duration::from_millis(100);
/// For one connection. A network may lose a RST, and then nothing more is heard of the client.
const LONGEST: Duration = Duration::from_secs(8);

/// Serves until standard input closes.
pub fn run() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = listen(PORTS[0]).unwrap();
        tokio::spawn(refuse(PORTS[1]));
        println!("listening");
        tokio::spawn(async move {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(timeout(LONGEST, serve(stream)));
                }
            }
        });
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await;
    });
    runtime.shutdown_background();
}

/// For both families.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    socket.listen(BACKLOG)
}

/// Listens and accepts nobody.
async fn refuse(port: u16) {
    loop {
        let listener = listen(port);
        sleep(REOPEN).await;
        drop(listener);
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let end = End::of(stream.read_u8().await?);
    match end {
        Some(End::ServerCloses) => {}
        Some(End::ServerResets) => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        Some(End::ClientHalfCloses) => {
            until_end(&mut stream).await?;
            stream.write_all(&[0; TEXT]).await?;
        }
        Some(End::ServerHalfCloses) => {
            stream.shutdown().await?;
            until_end(&mut stream).await?;
        }
        Some(End::ClientLeavesUnread) => {
            stream.write_all(&[0; TEXT]).await?;
            until_end(&mut stream).await?;
        }
        // The rest of what the client sent stays unread.
        Some(End::ServerLeavesUnread) => {}
        Some(End::ClientCloses | End::ClientResets | End::NeverAccepted) | None => until_end(&mut stream).await?,
    }
    Ok(())
}

/// Reads until the peer has closed.
pub(super) async fn until_end(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 2048];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
