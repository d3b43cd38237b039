//! The status page in a real browser, before a guard that bans and a kernel that drops.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use smtp_guard_core::fleet::message::{Message, Seal, Status};
use smtp_guard_tests::browser::{Page, Screen};
use smtp_guard_tests::fleet::Files;
use smtp_guard_tests::sink::Sink;
use smtp_guard_tests::{Guard, Host, Named, Redis, World, guard::netkit, run};

const URL: &str = "http://127.0.0.1:9925/";
const DESK: Screen = Screen { width: 1280, height: 900, dark: false, scale: 1.0 };
const PHONE: Screen = Screen { width: 360, height: 780, dark: false, scale: 2.0 };

/// A guard that knows alice and bob, with what the tests of the page change.
fn start<'w>(world: &'w World, folder: &Path, more: &[(&str, &str)]) -> Guard<'w> {
    let known = folder.join("recipients");
    fs::write(&known, "alice@example.org\nbob@example.org\n").unwrap();
    let known = format!("{:?}", known.display().to_string());
    Guard::start(world, &[&[("recipients.known", known.as_str())], more].concat())
}

/// Says `lines` from the attacker.
fn say(world: &World, lines: &[String]) {
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    run(world.on(Host::Attacker, &netkit()).args(["dialogue", &edge]), &lines.join("\n")).ok();
}

/// Asks for `unknowns` recipients that don't exist.
fn harvest(world: &World, unknowns: u32) {
    let mut lines = vec!["EHLO attacker.example".to_owned(), "MAIL FROM:<x@attacker.example>".to_owned()];
    lines.extend((0..unknowns).map(|n| format!("RCPT TO:<guess{n}@example.org>")));
    say(world, &lines);
}

/// SYNs of the attacker, as many as that.
fn attack(world: &World, packets: u32) {
    let edge = format!("{}:25", World::EDGE_FOR_ATTACKER);
    let mut command = world.on(Host::Attacker, &netkit());
    run(command.args(["spoof-syn", &edge, World::ATTACKER, &packets.to_string()]), "").ok();
}

/// `count` messages of the honest client.
fn mail(world: &World, count: u32) {
    let edge = format!("{}:25", World::EDGE_FOR_CLIENT);
    run(world.on(Host::Client, &netkit()).args(["mail", &edge, "message", &count.to_string()]), "").ok();
}

/// The last number in the row of `table` that begins with `name`.
fn total(table: &str, name: &str) -> Option<u64> {
    let row = table.lines().find(|line| line.starts_with(name))?;
    let digits: String = row.rsplit('\t').next()?.chars().filter(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Nothing was said against the page, and it asked this guard alone.
#[track_caller]
fn check_clean(page: &Page) {
    assert_eq!(page.complaints(), Vec::<String>::new());
    let requests = page.requests();
    assert!(requests.len() >= 6 && requests.iter().all(|url| url.starts_with(URL)), "{requests:?}");
}

/// It fits into `screen`, whatever stands on it.
#[track_caller]
fn check_fits(page: &Page, screen: Screen) {
    page.show_on(screen);
    let widths = page.ask("[document.documentElement.scrollWidth, innerWidth]");
    assert!(widths[0].as_u64() <= widths[1].as_u64() && widths[1] == screen.width, "{widths} on {screen:?}");
}

#[test]
#[ignore = "needs root, BPF and Chromium"]
fn the_page_follows_the_guard() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let mut guard = start(&world, folder.path(), &[]);
    world.enter(Host::Edge);
    let page = Page::open(URL, DESK, true);
    page.wait("the stream", "live", |text| text == "Live");
    page.wait("the name", "part-name", |text| text == "mx.example.org");
    page.wait("nobody banned", "part-bans", |text| text == "Nobody is banned.");
    page.wait("the backend", "part-backend", |text| text.contains("10.77.3.2:25") && text.contains("answers"));
    page.run("window.same = true");

    mail(&world, 3);
    page.wait("the messages", "part-mail", |text| total(text, "accepted") == Some(3));
    page.wait("a mean of the backend", "part-backend", |text| text.contains("rcpt"));

    harvest(&world, 8);
    let near = page.wait("who is near the ban", "part-near", |text| text.contains(World::ATTACKER));
    assert!(near.contains("harvest.unknown_recipients") && near.contains("8 of 10"), "{near}");
    harvest(&world, 30);
    let bans = page.wait("the ban", "part-bans", |text| text.contains(World::ATTACKER));
    for part in ["directory harvest attack", "guess", "1 in force", "ledger"] {
        assert!(bans.contains(part), "no {part:?} in {bans}");
    }
    page.wait("the refusals", "part-refused", |text| text.contains("unknown recipient"));
    page.wait("the event", "part-events", |text| text.contains("banned"));

    attack(&world, 1000);
    let first = page.wait("drops", "part-kernel", |text| total(text, "directory harvest") >= Some(900));
    attack(&world, 1000);
    let first = total(&first, "directory harvest").unwrap();
    page.wait("more drops", "part-kernel", |text| total(text, "directory harvest") >= Some(first + 900));
    page.wait("whose drops", "part-dropped", |text| text.contains(World::ATTACKER) && text.contains("port 25"));

    guard.command(&["decisions", "delete", World::ATTACKER]).ok();
    page.wait("the lift", "part-bans", |text| text == "Nobody is banned.");
    assert_eq!(page.ask("window.same"), true, "it was never loaded again");
    assert!(page.ask("document.querySelectorAll('#charts canvas').length").as_u64() >= Some(2));
    check_clean(&page);

    // Another configuration, another generation.
    let known = format!("{:?}", folder.path().join("recipients").display().to_string());
    guard.configure(&[("recipients.known", &known), ("limits.recipients", "50")]);
    guard.command(&["reload"]).ok();
    page.wait("the generation", "part-configuration", |text| text.contains("2, in force"));

    // A guard that is away, and comes back.
    guard.kill9();
    page.wait("that nobody answers", "live", |text| text.contains("doesn't answer"));
    guard.run();
    page.wait("the guard again", "live", |text| text == "Live");
    page.wait("its counts anew", "part-mail", |text| total(text, "accepted") == Some(0));
}

/// What somebody is called who wants more than to be shown.
const HOSTILE: &str = "<script>window.ran=1</script>\"'><img src=x onerror=window.ran=1>&amp;";
/// Likewise, by its reverse zone.
const ZONE: &str = "2.1.77.10.in-addr.arpa. PTR <script>window.ran=1</script><img/onerror=window.ran=1/src=x>.attacker.example.\n\
                    attacker.example. MX 10 mail.attacker.example.\nmail.attacker.example. A 10.77.1.2\n";

/// Tells the fleet of an edge with such a name: whoever has the key can say anything.
fn join(redis: &Redis) {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    let status = Status {
        node: HOSTILE.to_owned(),
        run: 1,
        version: HOSTILE.to_owned(),
        at,
        offset: 0,
        cursor: "0-0".to_owned(),
        muted: vec![HOSTILE.to_owned()],
        kept: 0,
        lost: 0,
        void: Vec::new(),
    };
    let seal = Seal::new("edge", "5".repeat(64).as_bytes()).unwrap();
    let status = seal.seal(&Message::Status(Box::new(status))).unwrap();
    let set = "redis.call('HSET', KEYS[1], bytes(1), bytes(2)) return 'OK'";
    assert_eq!(redis.script(set, "sg:{edge}:no", &[HOSTILE.as_bytes(), &status]), "OK");
}

#[test]
#[ignore = "needs root, BPF and Chromium"]
fn nothing_of_strangers_runs_and_everything_fits() {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let _sink = Sink::start(&world, 25, &[]);
    let (_named, redis, files) = (Named::start(&world, ZONE), Redis::start(&[&world], &[]), Files::new());
    let (url, key) = (format!("[\"{}\"]", redis.url(0)), files.path("key"));
    let dns = format!("[\"{}\"]", World::BACKEND);
    let guard = start(
        &world,
        folder.path(),
        &[
            ("fleet.url", &url),
            ("fleet.node", "\"mx1\""),
            ("fleet.key_file", &key),
            ("dns.servers", &dns),
            ("checks.ptr", "\"observe\""),
        ],
    );
    let long = format!("{}@example.org", "a".repeat(60));
    guard.command(&["decisions", "add", "2001:db8:1234:5678::/64", "--for", "30d", "--reason", HOSTILE]).ok();
    guard.command(&["decisions", "add", "192.0.2.0/24", "--for", "1h", "--reason", &"word".repeat(20)]).ok();
    guard.command(&["accounts", "hold", HOSTILE, "--reason", HOSTILE]).ok();
    guard.command(&["accounts", "hold", &long, "--reason", "its password is on a list"]).ok();
    let local = "\\\"<script>window.ran=1</script><img src=x onerror=window.ran=1>\\\"".replace('\\', "");
    say(
        &world,
        &[
            format!("EHLO {HOSTILE}"),
            "EHLO attacker.example".to_owned(),
            format!("MAIL FROM:<{local}@attacker.example>"),
            format!("RCPT TO:<{local}@example.org>"),
            "RCPT TO:<\u{1}\u{1b}[31m@example.org>".to_owned(),
            format!("<script>window.ran=1</script> {HOSTILE}"),
        ],
    );
    harvest(&world, 30);
    world.enter(Host::Edge);
    let page = Page::open(URL, DESK, true);
    page.wait("the stream", "live", |text| text == "Live");
    page.wait("the ban", "part-bans", |text| text.contains("<script>window.ran=1</script>\"'><img src=x onerror="));
    page.wait("the user", "part-held", |text| text.contains("<script>window.ran=1</script>"));
    let events = page.wait("the events", "part-events", |text| text.contains("<script>window.ran=1</script>"));
    assert!(!events.contains(['\u{1}', '\u{1b}']), "{events}");
    join(&redis);
    let fleet =
        page.wait("the edge", "part-fleet", |text| text.contains("<script>window.ran=1</script>\"'><img src=x"));
    assert_eq!(fleet.matches("onerror=window.ran=1>&amp;").count(), 2, "its name and its version: {fleet}");
    page.wait("that it is live", "part-events", |text| text.contains("onerror=window.ran=1>&amp; is live"));
    // Another one comes while the page is open.
    guard.command(&["decisions", "add", "198.51.100.7", "--for", "1h", "--reason", HOSTILE]).ok();
    page.wait("one more ban", "part-bans", |text| text.contains("198.51.100.7"));
    attack(&world, 1000);
    page.wait("whose drops", "part-dropped", |text| text.contains(World::ATTACKER));
    assert_eq!(
        page.ask("[typeof window.ran, document.querySelectorAll('main img, main script').length]").to_string(),
        "[\"undefined\",0]"
    );

    for dark in [false, true] {
        for screen in [PHONE, DESK, Screen { width: 768, ..DESK }] {
            check_fits(&page, Screen { dark, ..screen });
            check_contrast(&page);
        }
    }
    // With the keyboard alone: the way past the sections, then the button.
    page.show_on(DESK);
    page.press("Tab");
    assert_eq!(page.ask("document.activeElement.className"), "skip");
    page.press("Tab");
    assert_eq!(
        page.ask("[document.activeElement.id, getComputedStyle(document.activeElement).outlineStyle]").to_string(),
        "[\"pause\",\"solid\"]"
    );
    page.press("Enter");
    page.wait("that it is paused", "live", |text| text.starts_with("Paused, as of "));
    guard.command(&["decisions", "add", "198.51.100.8", "--for", "1h", "--reason", "later"]).ok();
    page.press("Enter");
    page.wait("the ban of meanwhile", "part-bans", |text| text.contains("198.51.100.8"));
    check_headings(&page);
    check_by_axe(&page);
    check_clean(&page);

    // Whoever lets no script run has it all as well.
    let plain = Page::open(URL, PHONE, false);
    assert!(plain.text("part-bans").contains("198.51.100.8") && plain.text("live").starts_with("As of 20"));
    check_fits(&plain, PHONE);
    assert_eq!(plain.complaints(), Vec::<String>::new());
}

/// All text is told from what is behind it: by 4.5 to 1 (WCAG 2, 1.4.3).
#[track_caller]
fn check_contrast(page: &Page) {
    let faint = page.ask(
        r#"(() => {
            const numbers = (color) => color.match(/[\d.]+/g).map(Number);
            const light = ([r, g, b]) => {
                const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
                return 0.2126 * x + 0.7152 * y + 0.0722 * z;
            };
            const behind = (element) => {
                for (let at = element; at; at = at.parentElement) {
                    const color = numbers(getComputedStyle(at).backgroundColor);
                    if (color.length === 3 || color[3] > 0) return color;
                }
                return [255, 255, 255];
            };
            const faint = new Set();
            const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
            while (walk.nextNode()) {
                const element = walk.currentNode.parentElement;
                if (!walk.currentNode.data.trim() || !element.checkVisibility() || element.closest("noscript")) continue;
                const [a, b] = [numbers(getComputedStyle(element).color), behind(element)].map(light);
                const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
                if (ratio < 4.5) faint.add(`${element.tagName}.${element.className}: ${ratio.toFixed(2)}`);
            }
            return [...faint];
        })()"#,
    );
    assert_eq!(faint, serde_json::json!([]));
}

/// One h1, no level of headings left out, a name for each section, a caption for each table.
#[track_caller]
fn check_headings(page: &Page) {
    let levels = page.ask("[...document.querySelectorAll('h1, h2, h3')].map((heading) => +heading.tagName[1])");
    let levels: Vec<_> = levels.as_array().unwrap().iter().map(|level| level.as_u64().unwrap()).collect();
    assert!(levels[0] == 1 && levels.iter().filter(|level| **level == 1).count() == 1, "{levels:?}");
    assert!(levels.windows(2).all(|pair| pair[1] <= pair[0] + 1), "{levels:?}");
    let nameless = "document.querySelectorAll('section:not([aria-labelledby]), main table:not(:has(caption)):not(.u-legend)').length";
    assert_eq!(page.ask(nameless), 0);
    assert_eq!(page.ask("document.querySelectorAll('header, nav, main, footer').length"), 4);
}

/// Names `axe.min.js` of the npm package `axe-core`, where that is at hand.
const AXE: &str = "SMTP_GUARD_AXE";

/// The rules of axe-core have nothing against it. Without the file it isn't asked.
#[track_caller]
fn check_by_axe(page: &Page) {
    let Ok(file) = std::env::var(AXE) else { return };
    page.run(&fs::read_to_string(file).unwrap());
    let found = page.ask(
        "axe.run().then((found) => found.violations.map((v) => [v.id, v.nodes.map((node) => node.target.join(' ')).slice(0, 3)]))",
    );
    assert_eq!(found, serde_json::json!([]));
}
