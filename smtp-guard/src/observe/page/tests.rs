//! The page of a guard that could be, over HTTP.

use smtp_guard_ebpf::reason::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::clock::WallTime;
use crate::events::{Bus, What};
use crate::observe::fleet;
use crate::observe::status::tests as status;
use crate::rates::accounts::{AccountList, AccountView, HoldView};

/// What somebody could be called who wants more than to be shown.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\u{0}\r\n\u{202e}&lt;";

/// Says what it was given.
#[derive(Clone, Debug, Default)]
struct Fake {
    decisions: Vec<Decision>,
    users: Vec<AccountView>,
    near: Vec<Near>,
}

impl Desk for Fake {
    fn hostname(&self) -> String {
        "mx.example.org".to_owned()
    }

    async fn latest(&self) -> Vec<Decision> {
        self.decisions.clone()
    }

    fn users(&self) -> AccountList {
        AccountList { accounts: self.users.clone(), left_out: 0 }
    }

    async fn near(&self, _candidates: Vec<IpAddr>) -> Vec<Near> {
        self.near.clone()
    }
}

/// An end that never comes.
fn for_ever() -> watch::Receiver<()> {
    static OPEN: std::sync::LazyLock<watch::Sender<()>> = std::sync::LazyLock::new(|| watch::channel(()).0);
    OPEN.subscribe()
}

/// A page of a guard that does nothing.
pub(in crate::observe) fn page(access: PageAccess) -> Page {
    Page::new(status::overview(), Fake::default(), access, for_ever())
}

/// Serves `page` on a listener that is reached by this host alone, or not.
async fn serve(page: Page, is_loopback: bool) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = super::super::metrics::Metrics::new();
    tokio::spawn(super::super::serve::serve(
        listener,
        page.routes(is_loopback),
        Bound::MetricsConnections,
        64,
        metrics,
    ));
    address
}

/// The answer to `head`, a request without its last line, as far as it comes until it ends or `enough` stands in it.
async fn ask(address: std::net::SocketAddr, head: &str, enough: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let (mut reply, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&reply).into_owned();
        let length = stream.read(&mut part).await.unwrap();
        reply.extend_from_slice(&part[..length]);
        if length == 0 || (!enough.is_empty() && text.contains(enough)) {
            return text;
        }
    }
}

/// What is answered to `GET path` for `host`, where the listener is reached by this host alone or not.
async fn check(access: PageAccess, is_loopback: bool, request: &str, status: &str, text: &str) {
    let address = serve(page(access), is_loopback).await;
    let (path, more) = request.split_once('\n').unwrap_or((request, "Host: localhost"));
    let reply = ask(address, &format!("GET {path} HTTP/1.1\r\n{more}"), "").await;
    assert_eq!(reply.get(9..12), Some(status), "{request}: {reply}");
    assert!(reply.contains(text), "{request}: {reply}");
    for (name, value) in HEADERS {
        assert!(reply.contains(&format!("{name}: {value}\r\n")), "{request}: {reply}");
    }
}

#[tokio::test]
async fn everything_comes_from_here_and_says_how_long_it_lasts() {
    use PageAccess::Loopback;
    check(Loopback, true, "/", "200", "cache-control: no-store\r\n").await;
    check(Loopback, true, "/", "200", "<!DOCTYPE html><html lang=\"en\">").await;
    for (path, kind) in [("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")] {
        check(Loopback, true, &format!("/page/{path}"), "200", &format!("content-type: {kind}")).await;
        check(Loopback, true, &format!("/page/{path}"), "200", "cache-control: no-cache\r\n").await;
    }
    for path in ["/page/uplot-1.6.32.js", "/page/uplot-1.6.32.css"] {
        check(Loopback, true, path, "200", "cache-control: public, max-age=31536000, immutable\r\n").await;
    }
    let address = serve(page(Loopback), true).await;
    let reply = ask(address, "GET /page/page.css HTTP/1.1\r\nHost: localhost", "").await;
    let tag = reply.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let again = format!("GET /page/page.css HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {tag}");
    assert!(ask(address, &again, "").await.starts_with("HTTP/1.1 304"));
    let reply = ask(address, "HEAD / HTTP/1.1\r\nHost: localhost", "").await;
    assert!(reply.starts_with("HTTP/1.1 200") && reply.ends_with("\r\n\r\n"), "{reply}");
    for method in ["POST", "PUT", "DELETE"] {
        let reply = ask(address, &format!("{method} / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0"), "").await;
        assert!(reply.starts_with("HTTP/1.1 405"), "{reply}");
    }
}

#[tokio::test]
async fn who_may_read_it_is_said() {
    use PageAccess::{Everywhere, Loopback, Off};
    check(Off, true, "/", "404", "metrics.page").await;
    check(Loopback, false, "/", "403", "SSH tunnel").await;
    check(Loopback, false, "/page/stream", "404", "").await;
    for host in ["192.0.2.1:9925", "[2001:db8::1]:9925", "localhost", "mx.example.org:9925", "MX.example.org."] {
        check(Everywhere, false, &format!("/\nHost: {host}"), "200", "<h1>").await;
    }
    for host in ["rebound.example", "mx.example.org.rebound.example", "", "192.0.2.1.rebound.example"] {
        check(Everywhere, false, &format!("/\nHost: {host}"), "421", "hostname").await;
        check(Everywhere, false, &format!("/page/page.js\nHost: {host}"), "421", "hostname").await;
        check(Everywhere, false, &format!("/page/stream\nHost: {host}"), "421", "hostname").await;
    }
    check(Everywhere, false, "/\nHost: 192.0.2.1\r\nHost: rebound.example", "421", "").await;
    for site in ["cross-site", "same-site", "none"] {
        check(Loopback, true, &format!("/page/stream\nHost: localhost\r\nSec-Fetch-Site: {site}"), "403", "itself")
            .await;
    }
}

#[tokio::test]
async fn a_stream_begins_with_everything_and_there_are_so_many() {
    let overview = status::overview();
    let metrics = overview.metrics.clone();
    let page = Page::new(overview, Fake::default(), PageAccess::Loopback, for_ever());
    let address = serve(page, true).await;
    let head = "GET /page/stream HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin";
    let reply = ask(address, head, "event: change").await;
    let (first, rest) = reply.split_once("event: all\ndata: ").unwrap();
    assert!(first.contains("content-type: text/event-stream\r\n"), "{reply}");
    assert!(first.ends_with("retry: 1000\n"), "{reply}");
    for part in ["\"bans\":", "\"fleet\":", "\"points\":[["] {
        assert!(rest.contains(part), "no {part} in {reply}");
    }
    let mut open = Vec::new();
    for _ in 0..STREAMS {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
        open.push(stream);
    }
    let reply = ask(address, head, "").await;
    assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("8 pages are live already"), "{reply}");
    let reached = metrics.bounds().view();
    assert!(reached.iter().any(|bound| bound.name == "page_streams" && bound.count == 1), "{reached:?}");
    // Whoever goes leaves his place.
    open.clear();
    for _ in 0..100 {
        if ask(address, head, "event: all").await.starts_with("HTTP/1.1 200") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("places are not given back");
}

/// Serves `feed`'s page by connections that take few bytes at once.
async fn serve_slowly(feed: &Arc<Feed<Fake>>) -> std::net::SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    let page = Page::of(Arc::clone(feed), PageAccess::Loopback, "mx.example.org".into());
    let metrics = super::super::metrics::Metrics::new();
    tokio::spawn(super::super::serve::serve(listener, page.routes(true), Bound::MetricsConnections, 64, metrics));
    address
}

/// Opens the stream at `address`.
async fn open(address: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    stream.write_all(b"GET /page/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    stream
}

/// Something that changed, as long as a long table; `held` has one more owner while anybody has it.
fn change(number: usize, held: &Arc<()>) -> bytes::Bytes {
    struct Owned(Vec<u8>, #[allow(dead_code, reason = "it is counted")] Arc<()>);
    impl AsRef<[u8]> for Owned {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    let text = format!("event: change\ndata: {}number {number} of many\n\n", "x".repeat(64 * 1024));
    bytes::Bytes::from_owner(Owned(text.into_bytes(), Arc::clone(held)))
}

#[tokio::test]
async fn a_reader_that_takes_nothing_keeps_little_and_loses_its_place() {
    let feed =
        Feed::new(status::overview(), Fake::default(), for_ever()).with_patience(std::time::Duration::from_secs(3));
    let feed = Arc::new(feed);
    let address = serve_slowly(&feed).await;
    let mut slow = Vec::new();
    for _ in 1..STREAMS {
        slow.push(open(address).await);
    }
    let mut fast = open(address).await;
    let (mut heard, mut part) = (String::new(), vec![0; 1 << 16]);
    let held = Arc::new(());
    for number in 0..50 {
        if number > 0 {
            feed.show(change(number, &held)).await;
        }
        // One that reads has each, whoever doesn't.
        let last = if number == 0 { "event: all".to_owned() } else { format!("number {number} of many") };
        while !heard.contains(&last) {
            let length = fast.read(&mut part).await.unwrap();
            assert!(length > 0, "{number}: {heard}");
            heard.push_str(&String::from_utf8_lossy(&part[..length]));
        }
        heard.clear();
    }
    // Each has one under way, one that waits, and one in hand; the last one is shown.
    let most = 3 * (STREAMS - 1) + 1;
    assert!(Arc::strong_count(&held) - 1 <= most, "{} of 49 are kept", Arc::strong_count(&held) - 1);
    for _ in 0..600 {
        if feed.places() >= STREAMS - 1 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("their places are not given back");
}

#[tokio::test]
async fn nothing_is_kept_when_nobody_looks() {
    let feed = Arc::new(Feed::new(status::overview(), Fake::default(), for_ever()));
    assert!(!feed.has_anything().await);
    let stream = feed.stream().unwrap();
    let frame = feed.look().await.unwrap();
    assert!(Arc::ptr_eq(&frame, &feed.look().await.unwrap()), "one snapshot for all who ask at once");
    assert!(feed.has_anything().await);
    drop((stream, frame));
    for _ in 0..200 {
        // Until the stream has noticed, a snapshot may be taken for it.
        feed.forget_now().await;
        if !feed.has_anything().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("something is kept");
}

#[tokio::test]
async fn text_of_strangers_stays_text() {
    let hostile = || HOSTILE.to_owned();
    let mut fleet = fleet::tests::status();
    fleet.name = hostile();
    fleet.trouble = Some(hostile());
    for node in &mut fleet.nodes {
        (node.name, node.program_version) = (hostile(), hostile());
        if let Some(muted) = &mut node.muted {
            muted.text = hostile();
        }
    }
    let events = Bus::default();
    let refused = What::CommandRefused {
        session: hostile(),
        client: hostile(),
        reason: hostile().into(),
        sender: Some(hostile()),
        recipient: Some(hostile()),
        reply: hostile(),
    };
    events.publish(WallTime::from_ms(0), refused);
    let decision = Decision {
        source: hostile(),
        reason: Reason::Operator.label().to_owned(),
        text: hostile(),
        origin: "file".to_owned(),
        origin_name: Some(hostile()),
        made: WallTime::from_ms(0),
        until: WallTime::NEVER,
        repeat: 1,
        evidence: vec![hostile(); 9],
    };
    let held = HoldView {
        reason: hostile(),
        text: hostile(),
        origin: hostile(),
        since: WallTime::from_ms(0),
        until: WallTime::NEVER,
    };
    let user = AccountView { user: hostile(), counts: Vec::new(), networks: Vec::new(), held: Some(held) };
    let near = Near { who: hostile(), limit: hostile(), count: 1, most: 2 };
    let running = status::Fake { fleet: Some(fleet), catch_all: vec![hostile()], ..status::Fake::full() };
    let overview = Overview { running: Arc::new(running), events, ..status::overview() };
    let desk = Fake { decisions: vec![decision], users: vec![user], near: vec![near] };
    let address = serve(Page::new(overview, desk, PageAccess::Loopback, for_ever()), true).await;
    let reply = ask(address, "GET / HTTP/1.1\r\nHost: localhost", "").await;
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(body.matches("&lt;script&gt;alert(1)").count() >= 15, "{body}");
    for part in ["<script>", "<img", "\u{0}", "\u{202e}", "alert(1)>"] {
        assert!(!body.contains(part), "{part:?} in {body}");
    }
    // What a screen reader goes by.
    assert_eq!(body.matches("<h1>").count(), 1);
    for part in
        ["<main id=\"main\"", "<nav aria-label=", "<caption>", "scope=\"row\"", "scope=\"col\"", "aria-live=\"polite\""]
    {
        assert!(body.contains(part), "no {part} in {body}");
    }
    let stream = ask(address, "GET /page/stream HTTP/1.1\r\nHost: localhost", "event: change").await;
    assert!(!stream.contains("<script>") && stream.contains("&lt;script&gt;"), "{stream}");
}
