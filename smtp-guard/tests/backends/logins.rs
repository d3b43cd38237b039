//! Logins that the backend judges: each holds a connection to it as long as its session lasts.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use smtp_guard::addr::BackendAddr;
use smtp_guard::config::{AuthVia, Role, Tls};

use crate::with_configured_guard;

/// A server that takes every login, with the connections that logins hold now and at most.
fn start() -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counts = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counting = Arc::clone(&counts);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counts = Arc::clone(&counting);
            std::thread::spawn(move || {
                let mut login = false;
                let served = serve(&stream, &counts, &mut login);
                counts[0].fetch_sub(usize::from(login), Ordering::SeqCst);
                served
            });
        }
    });
    (address, counts)
}

fn serve(mut stream: &TcpStream, [now, most]: &[AtomicUsize; 2], login: &mut bool) -> std::io::Result<()> {
    stream.write_all(b"220 x\r\n")?;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let answer: &[u8] = match line?.get(..4).unwrap_or_default() {
            "EHLO" => b"250-x\r\n250 AUTH PLAIN\r\n",
            "AUTH" => {
                *login = true;
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                b"235 2.7.0 ok\r\n"
            }
            _ => b"250 ok\r\n",
        };
        stream.write_all(answer)?;
    }
    Ok(())
}

/// A client under TLS, behind a balancer.
pub(crate) struct Client(StreamOwned<ClientConnection, TcpStream>);

impl Client {
    /// Connects as `address`, and greets.
    pub(crate) fn connect(guard: SocketAddr, address: &str, trusted: &CertificateDer<'static>) -> Self {
        let mut stream = TcpStream::connect(guard).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(format!("PROXY TCP4 {address} 192.0.2.25 4000 465\r\n").as_bytes()).unwrap();
        let mut client = Self::over(stream, trusted);
        assert!(client.hear().unwrap().starts_with("220"));
        client
    }

    /// Over a connection on which the handshake is due.
    pub(crate) fn over(stream: TcpStream, trusted: &CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let name = ServerName::try_from("mx.example.org").unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        Self(StreamOwned::new(connection, stream))
    }

    pub(crate) fn say(&mut self, line: &str) -> String {
        self.send(line);
        self.hear().unwrap()
    }

    fn send(&mut self, line: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    /// A whole reply.
    fn hear(&mut self) -> std::io::Result<String> {
        let (mut reply, mut line) = (String::new(), Vec::new());
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            line.push(byte[0]);
            if byte == *b"\n" {
                reply.push_str(&String::from_utf8_lossy(&line));
                if line.get(3) != Some(&b'-') {
                    return Ok(reply);
                }
                line.clear();
            }
        }
    }
}

/// A certificate of `mx.example.org` in `folder`, and what a client trusts that is to take it.
pub(crate) fn certificate(folder: &Path) -> (Tls, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["mx.example.org".to_owned()]).unwrap();
    let [certificate, key] = ["pem", "key"].map(|name| folder.join(name));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (Tls { certificate, key, also: Vec::new() }, made.cert.der().clone())
}

pub(crate) const LOGIN: &str = "AUTH PLAIN AHUAcA==";

#[test]
fn c3_a_login_holds_one_connection_and_gives_it_back() {
    let servers = [start(), start()];
    let logins = |of: usize| servers.each_ref().map(|(_, counts)| counts[of].load(Ordering::SeqCst));
    let files = tempfile::tempdir().unwrap();
    let (tls, trusted) = certificate(files.path());
    with_configured_guard(
        servers[0].0,
        |config| {
            config.listen[0].balancers = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
            config.listen[0].role = Role::Submissions;
            config.tls = Some(tls);
            config.auth.via = AuthVia::Backend;
            config.backend.servers = servers.iter().map(|(address, _)| BackendAddr::Address(*address)).collect();
            config.backend.connections = 1;
        },
        |guard| {
            let connect = |address| Client::connect(guard, address, &trusted);
            // AUTH is offered once both servers were asked for it.
            let until = Instant::now() + Duration::from_secs(60);
            while !connect("192.0.2.9").say("EHLO x").contains("AUTH") {
                assert!(Instant::now() < until, "no AUTH");
                std::thread::sleep(Duration::from_millis(50));
            }
            let mut clients = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(connect);
            for client in &mut clients {
                assert!(client.say("EHLO x").contains("AUTH"));
            }
            let [first, second, third] = &mut clients;
            assert!(first.say(LOGIN).starts_with("235"));
            assert_eq!(logins(0), [1, 0]);
            assert!(second.say(LOGIN).starts_with("235"));
            assert_eq!(logins(0), [1, 1], "the first server is full");
            // The third waits: both are held, in transactions or without one.
            third.send(LOGIN);
            assert!(second.say("MAIL FROM:<a@example.org>").starts_with("250"));
            assert!(first.say("NOOP").starts_with("250"));
            assert_eq!((logins(0), logins(1)), ([1, 1], [1, 1]), "never more than configured");
            assert!(first.say("QUIT").starts_with("221"));
            assert!(third.hear().unwrap().starts_with("235"), "the first one's place");
            assert!(second.say("RSET").starts_with("250"));
        },
    );
}
