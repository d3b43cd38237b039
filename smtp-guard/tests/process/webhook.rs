//! The webhook, before receivers that fail in each way that a receiver can.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value as Json;
use smtp_guard_core::webhook::Secret;

use crate::{BINARY, Guard, PATIENCE, connect, send, status};

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Something that the receiver does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    /// Says this, and closes.
    Say(&'static str),
    /// Closes before the request was read.
    Close,
    /// Reads it and says nothing, until the other end is gone.
    Hang,
    /// Begins an answer that never ends.
    Endless(&'static str),
}

const TAKEN: Deed = Deed::Say("HTTP/1.1 204 No Content\r\n\r\n");

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> String {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).unwrap_or_default()
    }

    fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn kinds(&self) -> Vec<String> {
        let body = self.json();
        body["events"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect()
    }

    /// Whether it was signed with `secret`, lately.
    pub(crate) fn is_signed(&self, secret: &str) -> bool {
        let signature = self.header("x-smtp-guard-signature");
        let seconds =
            signature.strip_prefix("t=").and_then(|rest| rest.split(',').next()?.parse::<i64>().ok()).unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let is_new = seconds.abs_diff(i64::try_from(now).unwrap()) < 60;
        is_new && Secret::new(secret.as_bytes()).unwrap().sign(seconds, &self.body) == signature
    }
}

/// A receiver: it does one deed of its script after another, then takes everything.
#[derive(Clone)]
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    script: Arc<Mutex<VecDeque<Deed>>>,
}

impl Receiver {
    pub(crate) fn start(script: &[Deed]) -> Self {
        Self::over(script, |stream| Some(Box::new(stream)))
    }

    /// One that shows the certificate in `folder`.
    pub(crate) fn secured(folder: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(folder.join("cert.pem")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem")).unwrap();
        let config = Arc::new(ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap());
        Self::over(&[], move |stream| {
            let mut stream = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
            // A client that doesn't like the certificate ends here.
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock).ok()?;
            }
            Some(Box::new(stream))
        })
    }

    fn over(script: &[Deed], wrap: impl Fn(TcpStream) -> Option<Box<dyn Stream>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            script: Arc::new(Mutex::new(script.iter().copied().collect())),
        };
        let working = receiver.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_read_timeout(Some(PATIENCE));
                if let Some(stream) = wrap(stream) {
                    working.perform(stream);
                }
            }
        });
        receiver
    }

    fn perform(&self, stream: Box<dyn Stream>) {
        let deed = self.script.lock().unwrap().pop_front().unwrap_or(TAKEN);
        if matches!(deed, Deed::Close) {
            return;
        }
        let mut stream = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while stream.read_line(&mut head).is_ok_and(|read| read > 2) {}
        for line in head
            .lines()
            .filter_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned))
        {
            length = line.parse().unwrap();
        }
        let mut body = vec![0; length];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        self.requests.lock().unwrap().push(Request { head, body });
        let _ = match deed {
            Deed::Close => Ok(()),
            Deed::Say(text) => stream.get_mut().write_all(text.as_bytes()).and_then(|()| stream.get_mut().flush()),
            // Nobody else is served meanwhile.
            Deed::Hang => stream.read(&mut [0]).map(|_| ()),
            Deed::Endless(head) => {
                let mut said = stream.get_mut().write_all(head.as_bytes());
                while said.is_ok() {
                    said = stream.get_mut().write_all(&[b'x'; 4096]);
                }
                said
            }
        };
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits until `found` finds something in the requests.
    pub(crate) fn wait<T>(&self, what: &str, found: impl Fn(&[Request]) -> Option<T>) -> T {
        let ends = Instant::now() + PATIENCE;
        loop {
            let requests = self.requests();
            if let Some(found) = found(&requests) {
                return found;
            }
            assert!(Instant::now() < ends, "{what}: {requests:#?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for a request that tells of an event of this kind.
    pub(crate) fn hears(&self, kind: &str) -> Request {
        let has = |request: &&Request| request.kinds().iter().any(|other| other == kind);
        self.wait(kind, |requests| requests.iter().find(has).cloned())
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A file with the secret, in `folder`.
pub(crate) fn secret(folder: &Path) -> PathBuf {
    let path = folder.join("webhook.key");
    std::fs::write(&path, format!("{SECRET}\n")).unwrap();
    path
}

/// What is appended to a configuration for a receiver at `url`.
fn events(folder: &Path, url: &str, more: &str) -> String {
    format!("[events]\nwebhook = \"{url}\"\nsecret_file = \"{}\"\n{more}", secret(folder).display())
}

/// A command of the guard's.
fn run(guard: &Guard, words: &[&str]) -> String {
    let output = Command::new(BINARY).arg("--config").arg(&guard.config).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn ban(guard: &Guard, ip: &str) {
    run(guard, &["decisions", "add", ip, "--for", "1h", "--reason", "too much"]);
}

#[test]
fn events_are_told_in_their_order_signed_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&[]);
    std::fs::write(folder.path().join("drop"), "198.51.100.7\n").unwrap();
    let list = format!("[[blocklist]]\nname = \"drop\"\nfile = \"{}\"\n", folder.path().join("drop").display());
    let more = events(folder.path(), &format!("http://{}/hook?token=t", receiver.address), &list);
    let guard = Guard::start(folder.path(), &more, "", Stdio::null());
    ban(&guard, "20.0.2.1");
    run(&guard, &["decisions", "delete", "20.0.2.1"]);
    run(&guard, &["accounts", "hold", "ann", "--reason", "stolen"]);
    run(&guard, &["accounts", "release", "ann"]);
    send(connect(guard.address), false);
    run(&guard, &["reload"]);
    for kind in ["blocklist", "banned", "lifted", "user_held", "user_released", "reloaded"] {
        receiver.hears(kind);
    }
    // The last one of this run, which isn't waited for.
    ban(&guard, "20.0.2.2");
    guard.ends();
    let requests = receiver.wait("the last event", |requests| {
        let last = requests.last()?.json();
        (last["events"].as_array()?.last()?["source"] == "20.0.2.2").then(|| requests.to_vec())
    });
    let (mut last, mut runs) = (0, Vec::new());
    for (index, request) in requests.iter().enumerate() {
        assert!(request.head.starts_with("POST /hook?token=t HTTP/1.1\r\n"), "{}", request.head);
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("user-agent"), concat!("smtp-guard/", env!("CARGO_PKG_VERSION")));
        assert_eq!(request.header("host"), receiver.address.to_string());
        assert!(request.is_signed(SECRET), "{request:?}");
        assert!(!request.is_signed("another secret, which is as long as that"), "{request:?}");
        let body = request.json();
        let run = body["run"].as_str().unwrap().to_owned();
        let batch = format!("{run}-{}", index + 1);
        assert_eq!((body["batch"].as_str(), request.header("x-smtp-guard-batch")), (Some(&*batch), batch.clone()));
        assert_eq!(
            (&body["hostname"], &body["lost"], &body["version"]),
            (&"mx.example.org".into(), &0.into(), &2.into())
        );
        runs.push(run);
        for event in body["events"].as_array().unwrap() {
            assert!(event["number"].as_u64() > Some(last), "{body:#}");
            last = event["number"].as_u64().unwrap();
            assert_ne!(event["event"], "message", "that is told only where it is asked for");
        }
    }
    runs.dedup();
    assert_eq!(runs.len(), 1);
}

/// A receiver that does `deeds` with what tells of the first ban; then whether that is told again, and what the next says is lost.
fn check(deeds: &[Deed], told: bool, lost: u64, tries: usize) {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&[]);
    let more =
        events(folder.path(), &format!("http://{}/", receiver.address), "kinds = [\"banned\"]\ntimeout = \"500ms\"\n");
    let mut guard = Guard::start(folder.path(), &more, "", Stdio::null());
    receiver.script.lock().unwrap().extend(deeds);
    ban(&guard, "20.0.2.1");
    if !told {
        // The next one must not go along.
        guard.wait("the refusal", || status(&folder.path().join("smtp-guard.toml")).contains("1 LOST"));
    }
    ban(&guard, "20.0.2.2");
    let of = |request: &Request, source: &str| {
        request.json()["events"].as_array().unwrap().iter().any(|event| event["source"] == source)
    };
    guard.wait("it is well again", || {
        let said = status(&folder.path().join("smtp-guard.toml"));
        said.contains(if told { "2 events delivered, 0 wait" } else { "1 events delivered, 0 wait" })
            && !said.contains("FAILED")
    });
    let second = receiver.wait("the second ban", |requests| requests.iter().find(|r| of(r, "20.0.2.2")).cloned());
    assert_eq!(second.json()["lost"], lost, "{deeds:?}: {:#}", second.json());
    let first: Vec<_> = receiver.requests().into_iter().filter(|request| of(request, "20.0.2.1")).collect();
    assert_eq!(first.len(), tries, "{deeds:?}: {:#?}", receiver.requests());
    // The receiver knows by the name that it has it already; the time of the signature is another.
    assert!(first.iter().all(|again| again.body == first[0].body && again.is_signed(SECRET)), "{first:#?}");
    guard.ends();
}

#[test]
fn a_receiver_that_fails_is_tried_again_and_one_that_refuses_is_not() {
    use Deed::{Close, Endless, Hang, Say};
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
    let rows: &[(&[Deed], bool, u64, usize)] = &[
        (&[], true, 0, 1),
        (&[Close], true, 0, 1),
        (&[Hang], true, 0, 2),
        (&[Say("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops")], true, 0, 2),
        (&[Say("HTTP/1.1 502 Bad Gateway\r\n\r\n"), Close, Say("HTTP/1.1 503 Busy\r\n\r\n")], true, 0, 3),
        (&[Say("HTTP/1.1 429 Slowly\r\nRetry-After: 2\r\n\r\n")], true, 0, 2),
        (&[Say("HTTP/1.1 408 Late\r\n\r\n")], true, 0, 2),
        (&[Say("220 mx.example.org ESMTP\r\n")], true, 0, 2),
        (&[Say("")], true, 0, 2),
        (&[Endless("HTTP/1.1 200 OK\r\nx: ")], true, 0, 2),
        (&[Endless("HTTP/1.1 500 Oops\r\n\r\n")], true, 0, 2),
        // Taken: whatever the body is, nobody reads it.
        (&[Endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")], true, 0, 1),
        (&[Endless(OK)], true, 0, 1),
        (&[Say(OK)], true, 0, 1),
        // Refused.
        (&[Say("HTTP/1.1 404 Not Found\r\n\r\nnobody here")], false, 1, 1),
        (&[Say("HTTP/1.1 401 Who\r\n\r\n")], false, 1, 1),
        (&[Endless("HTTP/1.1 413 Too much\r\n\r\n")], false, 1, 1),
    ];
    thread::scope(|scope| {
        for (deeds, told, lost, tries) in rows {
            scope.spawn(move || check(deeds, *told, *lost, *tries));
        }
    });
}

#[test]
fn a_redirect_is_not_followed() {
    let elsewhere = Receiver::start(&[]);
    let to = format!("HTTP/1.1 307 There\r\nLocation: http://{}/\r\n\r\n", elsewhere.address);
    check(&[Deed::Say(to.leak())], false, 1, 1);
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn mail_passes_while_the_receiver_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&[Deed::Hang; 64]);
    let more = "kinds = [\"message\", \"command_refused\", \"banned\"]\ntimeout = \"1m\"\n";
    let more = events(folder.path(), &format!("http://{}/", receiver.address), more);
    let mut guard = Guard::start(folder.path(), &more, "", Stdio::null());
    let config = guard.config.clone();
    send(connect(guard.address), false);
    receiver.wait("it hangs", |requests| (!requests.is_empty()).then_some(()));
    for _ in 0..300 {
        send(connect(guard.address), false);
    }
    guard.wait("all wait", || status(&config).contains("0 events delivered, 301 wait"));
    ban(&guard, "20.0.2.1");
    assert!(run(&guard, &["decisions", "list"]).contains("20.0.2.1"));
    // Nor does the end of the guard wait for it.
    guard.ends();
}

#[test]
fn a_receiver_is_told_only_over_tls_that_it_proves() {
    let folder = tempfile::tempdir().unwrap();
    let pair = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let folder = folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        (Receiver::secured(&folder), folder.join("cert.pem"))
    };
    let ((receiver, trusted), (other, _)) = (pair("localhost"), pair("other.example"));
    let url = |of: &Receiver| format!("https://localhost:{}/", of.address.port());
    // Another authority; another name; all is well. Nobody who isn't proven hears a byte of it.
    let trust = format!("tls_ca = \"{}\"\n", trusted.display());
    for (url, trust, part) in [
        (url(&receiver), "", "certificate"),
        (format!("https://127.0.0.1:{}/", receiver.address.port()), trust.as_str(), "certificate"),
        (url(&other), trust.as_str(), "certificate"),
        (url(&receiver), trust.as_str(), ""),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let more = events(directory.path(), &url, &format!("{trust}kinds = [\"banned\"]\n"));
        let mut guard = Guard::start(directory.path(), &more, "", Stdio::null());
        ban(&guard, "20.0.2.1");
        let config = guard.config.clone();
        if part.is_empty() {
            assert!(receiver.hears("banned").is_signed(SECRET));
        } else {
            guard.wait("it is refused", || {
                let told = status(&config);
                told.contains("FAILED") && told.contains(part)
            });
            assert!(receiver.requests().is_empty() && other.requests().is_empty());
        }
        guard.ends();
    }
}

#[test]
fn what_is_wrong_is_said_by_check_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(&[]);
    let url = format!("http://{}/hook?token=t0k3n", receiver.address);
    let checked = |more: &str, connects: bool| {
        let config = crate::configure(folder.path(), "127.0.0.1:1".parse().unwrap(), more);
        let words: &[&str] = if connects { &["check", "--json", "--connect"] } else { &["check", "--json"] };
        let output = Command::new(BINARY).arg("--config").arg(config).args(words).output().unwrap();
        (output.status.code(), serde_json::from_slice::<Json>(&output.stdout).unwrap())
    };
    let good = events(folder.path(), &url, "");
    assert_eq!(checked(&good, false).0, Some(0));
    assert_eq!(receiver.requests().len(), 0, "without --connect nobody is asked");

    let (code, told) = checked(&good, true);
    assert_eq!((code, &told["webhook"]["error"]), (Some(0), &Json::Null), "{told:#}");
    assert_eq!(told["webhook"]["server"], format!("http://{}", receiver.address));
    let tried = receiver.hears("test");
    assert!(tried.is_signed(SECRET));

    receiver.script.lock().unwrap().push_back(Deed::Say("HTTP/1.1 403 No\r\n\r\nwrong \x1b[31msignature"));
    let (code, told) = checked(&good, true);
    let error = told["webhook"]["error"].as_str().unwrap().to_owned();
    assert!(code == Some(1) && error.contains("403 Forbidden: wrong \\x1b[31msignature"), "{told:#}");
    assert!(!told.to_string().contains("t0k3n"), "a token isn't shown");

    std::fs::write(folder.path().join("short"), "short\n").unwrap();
    for (secret, part) in [("short", "less than 32 bytes"), ("nowhere", "No such file")] {
        let line = format!("secret_file = \"{}\"\n", folder.path().join(secret).display());
        let (code, told) = checked(&format!("[events]\nwebhook = \"{url}\"\n{line}"), false);
        let error = &told["errors"][0];
        assert!(code == Some(78) && error["message"].as_str().unwrap().contains(part), "{told:#}");
        assert!(error["line"].as_u64() > Some(10) && error["column"] == 15, "{told:#}");
    }
    let (_, told) = checked(&events(folder.path(), "http://192.0.2.1/", ""), false);
    assert!(told["warnings"].to_string().contains("in clear text"), "{told:#}");
}
