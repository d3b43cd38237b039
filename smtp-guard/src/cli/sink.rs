//! `smtp-guard sink`: a small backend for trying the guard out. It takes mail for everyone into one Maildir, but for those whom
//! it calls unknown ([`is_unknown`]), so that a harvest can be tried as well.
//!
//! It is not a mail server: no queue, no limits but those that keep it alive, loopback use only.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::session::replies;
use crate::wire::command::{self, Command};
use crate::wire::data::{BodyDecoder, Chunk};
use crate::wire::ehlo::{Capabilities, Offer};
use crate::wire::line::{Line, LineDecoder};
use crate::wire::reply::Reply;

/// Connections at once; more wait.
const CONNECTIONS: usize = 256;
/// Bytes of one message, which is held in memory.
const MESSAGE_SIZE: u64 = 64 * 1024 * 1024;
/// Letters and digits in a row that a name may have.
const LONGEST_NAME: usize = 15;
/// Time for the client's next bytes.
const WAIT: Duration = Duration::from_secs(300);

const OFFER: Offer<'_> = Offer {
    hostname: "sink",
    size_limit: MESSAGE_SIZE,
    recipients: None,
    starttls: false,
    auth: false,
    chunking: false,
    requiretls: false,
};

/// Runs the sink until it is ended.
pub fn sink(listen: SocketAddr, maildir: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (address, sink) = start(listen, maildir).await?;
        eprintln!("sink: listening on {address}, mail goes to {}/new", maildir.display());
        sink.await;
        Ok(())
    })
}

/// Binds the sink; it serves while the returned future is polled.
pub(super) async fn start(
    listen: SocketAddr,
    maildir: &Path,
) -> anyhow::Result<(SocketAddr, impl Future<Output = ()> + Send + use<>)> {
    let maildir = Arc::new(Maildir::create(maildir)?);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    Ok((listener.local_addr()?, accept(listener, maildir)))
}

async fn accept(listener: TcpListener, maildir: Arc<Maildir>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(seat) = Arc::clone(&room).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let maildir = Arc::clone(&maildir);
                tokio::spawn(async move {
                    // A client that breaks off has heard no 250 and keeps its message.
                    let _ = serve(stream, &maildir).await;
                    drop(seat);
                });
            }
            Err(error) => {
                eprintln!("sink: cannot accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(mut stream: TcpStream, maildir: &Maildir) -> io::Result<()> {
    let (mut unread, mut unsent) = (BytesMut::new(), BytesMut::new());
    let mut lines = LineDecoder::new();
    let mut recipients: Option<u32> = None;
    Reply::new(220, None, "sink ESMTP").encode(&mut unsent);
    loop {
        let parsed = lines.next(&mut unread, |line| match line {
            Line::Text(line) => command::parse(line),
            Line::Flawed(flaw) => Err(flaw.into()),
        });
        let Some(parsed) = parsed else {
            stream.write_all_buf(&mut unsent).await?;
            if read(&mut stream, &mut unread).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let reply = match parsed {
            Err(error) => error.reply(),
            Ok(Command::Ehlo(_)) => {
                recipients = None;
                OFFER.reply(&Capabilities {
                    eight_bit_mime: true,
                    smtputf8: true,
                    dsn: true,
                    ..Capabilities::default()
                })
            }
            Ok(Command::Helo(_)) => Reply::new(250, None, "sink"),
            Ok(Command::Mail(_)) => {
                recipients = Some(0);
                Reply::new(250, Some((2, 1, 0)), "Ok")
            }
            Ok(Command::Rcpt(rcpt)) => match &mut recipients {
                None => replies::mail_first(),
                Some(_) if is_unknown(&rcpt.path.key()) => Reply::new(550, Some((5, 1, 1)), "User unknown"),
                Some(count) => {
                    *count += 1;
                    Reply::new(250, Some((2, 1, 5)), "Ok")
                }
            },
            Ok(Command::Data) => match recipients.take() {
                None | Some(0) => replies::no_recipients(),
                Some(_) => {
                    replies::start_data().encode(&mut unsent);
                    stream.write_all_buf(&mut unsent).await?;
                    take_message(&mut stream, &mut unread, maildir).await?
                }
            },
            Ok(Command::Rset) => {
                recipients = None;
                replies::reset()
            }
            Ok(Command::Noop) => replies::noop(),
            Ok(Command::Quit) => {
                replies::bye().encode(&mut unsent);
                return stream.write_all_buf(&mut unsent).await;
            }
            Ok(_) => replies::not_implemented(),
        };
        reply.encode(&mut unsent);
    }
}

/// Whether nobody has the address `key`: its local part begins with `unknown`, or is a run of letters and digits too long for a
/// name. The second is what a guard makes up to find out whether a backend takes just any recipient; a sink that did would show
/// no harvest.
fn is_unknown(key: &str) -> bool {
    let local = key.rsplit_once('@').map_or(key, |(local, _)| local);
    local.starts_with("unknown") || local.len() > LONGEST_NAME && local.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

async fn take_message(stream: &mut TcpStream, unread: &mut BytesMut, maildir: &Maildir) -> io::Result<Reply> {
    let mut decoder = BodyDecoder::new();
    let mut message = Vec::new();
    loop {
        match decoder.next(unread) {
            Some(Chunk::Body(body)) if (message.len() as u64) < MESSAGE_SIZE => message.extend_from_slice(&body),
            Some(Chunk::Body(_)) => return Err(io::ErrorKind::FileTooLarge.into()),
            Some(Chunk::End(end)) if end.flaw().is_some() => return Ok(replies::smuggling()),
            Some(Chunk::End(_)) => break,
            None if read(stream, unread).await? == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            None => {}
        }
    }
    Ok(match maildir.deliver(&message) {
        Ok(name) => Reply::new(250, Some((2, 0, 0)), format!("Ok: delivered as {name}")),
        Err(error) => {
            eprintln!("sink: cannot write to {}: {error}", maildir.path.display());
            Reply::new(451, Some((4, 3, 0)), "Cannot write the message")
        }
    })
}

async fn read(stream: &mut TcpStream, unread: &mut BytesMut) -> io::Result<usize> {
    unread.reserve(16 * 1024);
    timeout(WAIT, stream.read_buf(unread)).await?
}

/// A Maildir: a message is written to `tmp`, made durable, then renamed into `new`.
struct Maildir {
    path: PathBuf,
    delivered: AtomicU64,
}

impl Maildir {
    fn create(path: &Path) -> anyhow::Result<Self> {
        for folder in ["tmp", "new", "cur"] {
            let folder = path.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Self { path: path.to_owned(), delivered: AtomicU64::new(0) })
    }

    fn deliver(&self, message: &[u8]) -> io::Result<String> {
        let number = self.delivered.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}.P{}Q{number}.sink", crate::clock::wall().as_ms(), std::process::id());
        let temporary = self.path.join("tmp").join(&name);
        let mut file = fs::File::create_new(&temporary)?;
        file.write_all(message)?;
        file.sync_data()?;
        fs::rename(&temporary, self.path.join("new").join(&name))?;
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_is_called_is_unknown() {
        for (key, unknown) in [
            ("alice@example.org", false),
            ("postmaster", false),
            ("firstname.lastname@example.org", false),
            ("bounces+alice=client.example@example.org", false),
            ("unknown1@example.org", true),
            ("qwertzuiopasdfghjkly@example.org", true),
        ] {
            assert_eq!(is_unknown(key), unknown, "{key}");
        }
    }

    #[test]
    fn messages_are_delivered_whole_and_under_names_of_their_own() {
        let directory = tempfile::tempdir().unwrap();
        let maildir = Maildir::create(directory.path()).unwrap();
        let names = [b"one\r\n", b"two\r\n"].map(|text| (maildir.deliver(text).unwrap(), text));
        assert_ne!(names[0].0, names[1].0);
        for (name, text) in names {
            assert_eq!(fs::read(directory.path().join("new").join(name)).unwrap(), text);
        }
    }
}
