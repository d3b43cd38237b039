//! Dovecot's auth client protocol, version 1.2, over its Unix socket: one connection for each attempt.
//!
//! Tab-separated lines. Both sides introduce themselves, then `AUTH id PLAIN service=smtp ... resp=...` is answered by
//! `OK id ...`, `FAIL id ...` or, which PLAIN with an initial response doesn't bring about, `CONT id ...`.
//! Anything that isn't understood is "can't be asked now", never a refusal.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::session::AuthVerdict;
use crate::wire::sasl::Credentials;

/// Attempts at once; more wait for a place.
const AT_ONCE: usize = 64;
/// For all of one attempt, the wait for a place included. Dovecot holds failures back for some seconds.
const WAIT: Duration = Duration::from_secs(50);
/// Bytes of all that Dovecot may say to one attempt.
const MAX_SAID: u64 = 64 * 1024;

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);
/// Dovecot takes the client's process id as its name and refuses a second connection of the same.
static CLIENT: AtomicU32 = AtomicU32::new(0);

/// Asks Dovecot at `socket` about `credentials` of the client at `client`, which came to `local`.
pub(super) async fn ask(
    socket: PathBuf,
    credentials: Credentials,
    client: SocketAddr,
    local: SocketAddr,
) -> AuthVerdict {
    match timeout(WAIT, attempt(&socket, &credentials, client, local)).await {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => {
            tracing::warn!(%error, socket = %socket.display(), "Dovecot can't be asked; check [auth] dovecot_socket and its mode");
            AuthVerdict::Unavailable
        }
        Err(_) => {
            tracing::warn!(socket = %socket.display(), "Dovecot didn't answer in time");
            AuthVerdict::Unavailable
        }
    }
}

async fn attempt(
    socket: &Path,
    credentials: &Credentials,
    client: SocketAddr,
    local: SocketAddr,
) -> io::Result<AuthVerdict> {
    let _place = PLACES.acquire().await.map_err(io::Error::other)?;
    let mut stream = UnixStream::connect(socket).await?;
    let name = CLIENT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id());
    stream.write_all(format!("VERSION\t1\t2\nCPID\t{name}\n").as_bytes()).await?;
    let (reader, mut writer) = stream.split();
    let mut lines = BufReader::new(reader.take(MAX_SAID)).lines();
    while let Some(line) = lines.next_line().await? {
        let mut words = line.split('\t');
        match (words.next().unwrap_or_default(), words.next()) {
            ("VERSION", Some("1")) => {}
            ("VERSION", _) => return Err(io::Error::other("another version of the protocol")),
            ("DONE", _) => {
                let [client, local] = [client, local].map(|end| (end.ip().to_canonical(), end.port()));
                let (rip, rport, lip, lport) = (client.0, client.1, local.0, local.1);
                // `resp` stands last, as the protocol asks.
                let fields = format!("service=smtp\tsecured\tlip={lip}\trip={rip}\tlport={lport}\trport={rport}");
                let request =
                    zeroize::Zeroizing::new(format!("AUTH\t1\tPLAIN\t{fields}\tresp={}\n", *credentials.response()));
                writer.write_all(request.as_bytes()).await?;
            }
            ("OK", Some("1")) => return Ok(AuthVerdict::Accepted),
            ("FAIL", Some("1")) => {
                let temporary = words.any(|word| word == "temp");
                return Ok(if temporary { AuthVerdict::Unavailable } else { AuthVerdict::Rejected });
            }
            ("CONT", Some("1")) => return Err(io::Error::other("it asks for more than PLAIN has")),
            // MECH, SPID, CUID, COOKIE and what later versions add.
            _ => {}
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
