//! A connection to the backend that serves one client after another: when it may, and that no client notices.

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use smtp_guard::config::{Config, Identity};

use crate::client::Client;
use crate::with_configured_guard;

/// What the backend does besides its duty, where a message was taken on its connection before.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Odd {
    No,
    /// After the answer to the dot.
    Closes,
    /// Behind the answer to the dot, in the same write.
    SpeaksAtOnce,
    /// A while after it.
    SpeaksLater,
    /// To the next MAIL.
    SaysGoodbye,
    /// To the next XCLIENT.
    RefusesXclient,
    /// Half a line, a while after it.
    Mumbles,
    /// Takes one XCLIENT on a connection, as Postfix does.
    OnceOnly,
}

/// What each connection that carried MAIL heard, in the order of their first MAIL.
type Heard = Arc<Mutex<Vec<Vec<String>>>>;

fn backend(odd: Odd) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Heard::default();
    let hears = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let heard = Arc::clone(&hears);
            std::thread::spawn(move || serve(&stream, odd, &heard));
        }
    });
    (address, heard)
}

fn serve(mut stream: &TcpStream, odd: Odd, heard: &Heard) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let (mut early, mut number, mut taken, mut named) = (Vec::new(), None, 0, false);
    stream.write_all(b"220 x\r\n")?;
    while let Some(line) = lines.next().transpose()? {
        let verb = line.split([' ', ':']).next().unwrap_or_default().to_owned();
        {
            let mut heard = heard.lock().unwrap();
            match number {
                None if verb == "MAIL" => {
                    number = Some(heard.len());
                    early.push(line.clone());
                    heard.push(std::mem::take(&mut early));
                }
                None => early.push(line.clone()),
                Some(number) => heard[number].push(line.clone()),
            }
        }
        match verb.as_str() {
            "PROXY" => {}
            "EHLO" if odd == Odd::OnceOnly && named => stream.write_all(b"250-x\r\n250 SIZE\r\n")?,
            "EHLO" => stream.write_all(b"250-x\r\n250 XCLIENT ADDR HELO\r\n")?,
            "XCLIENT" if odd == Odd::RefusesXclient && taken > 0 => stream.write_all(b"550 5.7.0 once only\r\n")?,
            "XCLIENT" => {
                named = true;
                stream.write_all(b"220 x\r\n")?;
            }
            "MAIL" if odd == Odd::SaysGoodbye && taken > 0 => {
                stream.write_all(b"421 4.4.2 you were idle\r\n")?;
                return Ok(());
            }
            "RCPT" if line.contains("nobody") => stream.write_all(b"550 5.1.1 unknown\r\n")?,
            "DATA" => {
                stream.write_all(b"354 go\r\n")?;
                while lines.next().transpose()?.is_some_and(|line| line != ".") {}
                taken += 1;
                let answer: &[u8] = match odd {
                    Odd::SpeaksAtOnce => b"250 taken\r\n250 and more\r\n",
                    _ => b"250 taken\r\n",
                };
                stream.write_all(answer)?;
                match odd {
                    Odd::Closes => return Ok(()),
                    Odd::SpeaksLater | Odd::Mumbles => {
                        let more: &[u8] = if odd == Odd::Mumbles { b"250 and" } else { b"250 and more\r\n" };
                        // After the connection was given back: the client says QUIT at once.
                        std::thread::sleep(Duration::from_millis(200));
                        stream.write_all(more)?;
                    }
                    _ => {}
                }
            }
            "QUIT" => return stream.write_all(b"221 bye\r\n"),
            _ => stream.write_all(b"250 ok\r\n")?,
        }
    }
    Ok(())
}

/// How the first client goes on after its message.
const QUIT: &[(&str, u16)] = &[("QUIT", 221)];

/// Whom the two clients come from and what they call themselves.
const TWO: [(&str, &str); 2] = [("192.0.2.1", "c0.example"), ("198.51.100.2", "c1.example")];

/// Two clients, one after the other, each with a message; the first goes on as `first` says. The connections that the backend is
/// asked over. Both messages are taken whatever the backend does.
fn check(
    name: &str,
    odd: Odd,
    change: impl Fn(&mut Config),
    first: &[(&str, u16)],
    pause: Duration,
    expected: usize,
) -> Vec<Vec<String>> {
    check_of(TWO, name, odd, change, first, pause, expected)
}

fn check_of(
    clients: [(&str, &str); 2],
    name: &str,
    odd: Odd,
    change: impl Fn(&mut Config),
    first: &[(&str, u16)],
    pause: Duration,
    expected: usize,
) -> Vec<Vec<String>> {
    let (address, heard) = backend(odd);
    let configure = |config: &mut Config| {
        config.listen[0].balancers = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
        config.backend.reuse = true;
        change(config);
    };
    with_configured_guard(address, configure, |guard| {
        for (n, (address, helo)) in clients.into_iter().enumerate() {
            let mut client = Client::behind_balancer(guard, address);
            assert_eq!((client.code(), client.say(&format!("EHLO {helo}"))), (220, 250), "{name}");
            for (line, code) in [
                (format!("MAIL FROM:<c{n}@client.example>"), 250),
                ("RCPT TO:<b@example.org>".to_owned(), 250),
                ("DATA".to_owned(), 354),
                (format!("Subject: c{n}\r\n\r\nx\r\n."), 250),
            ] {
                assert_eq!(client.say(&line), code, "{name}: {n}, {line}");
            }
            if n == 0 {
                for (line, code) in first {
                    assert_eq!(client.say(line), *code, "{name}: {line}");
                }
                drop(client);
                std::thread::sleep(pause);
            }
        }
    });
    let heard = heard.lock().unwrap().clone();
    assert_eq!(heard.len(), expected, "{name}: {heard:#?}");
    heard
}

const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_millis(500);

#[test]
fn a_connection_serves_the_next_client_where_nothing_speaks_against_it() {
    let none = |config: &mut Config| config.backend.identity = Identity::None;
    let xclient = |config: &mut Config| config.backend.identity = Identity::Xclient;
    let heard = check("no identity", Odd::No, none, QUIT, SOON, 1);
    assert!(!heard[0].iter().any(|line| line.starts_with("QUIT")), "{heard:?}");
    let heard = check("XCLIENT", Odd::No, xclient, QUIT, SOON, 1);
    // Nothing is said for the second client before it was announced.
    let second = heard[0].iter().position(|line| line.contains("ADDR=198.51.100.2")).unwrap();
    let mail = heard[0].iter().position(|line| line.starts_with("MAIL FROM:<c1@")).unwrap();
    assert!(second < mail && heard[0][second + 1] == "EHLO c1.example", "{heard:?}");
    check("no QUIT", Odd::No, none, &[], SOON, 1);
    check("RSET", Odd::No, none, &[("MAIL FROM:<x@client.example>", 250), ("RSET", 250), ("QUIT", 221)], SOON, 2);
    check("too late", Odd::No, none, QUIT, Duration::from_millis(3000), 2);
    check("turned off", Odd::No, |config| config.backend.reuse = false, QUIT, SOON, 2);
    check("PROXY", Odd::No, |config| config.backend.identity = Identity::ProxyV1, QUIT, SOON, 2);
    check("in a transaction", Odd::No, none, &[("MAIL FROM:<x@client.example>", 250), ("QUIT", 221)], SOON, 2);
    let refused = [("MAIL FROM:<x@client.example>", 250), ("RCPT TO:<nobody@example.org>", 550), ("RSET", 250)];
    check("refusal", Odd::No, none, &refused, SOON, 2);
}

#[test]
fn a_server_that_takes_one_xclient_serves_one_client() {
    let set = |config: &mut Config| config.backend.identity = Identity::Xclient;
    let same = [TWO[0], TWO[0]];
    check("two clients", Odd::OnceOnly, set, QUIT, SOON, 2);
    check_of(same, "one client", Odd::OnceOnly, set, QUIT, SOON, 1);
    check_of([TWO[0], (TWO[0].0, "other.example")], "another name", Odd::OnceOnly, set, QUIT, SOON, 2);
    let rset = [("MAIL FROM:<x@client.example>", 250), ("RSET", 250)];
    check_of(same, "one client, RSET", Odd::OnceOnly, set, &rset, SOON, 2);
}

#[test]
fn an_odd_connection_is_closed_and_no_client_notices() {
    for identity in [Identity::None, Identity::Xclient] {
        let set = move |config: &mut Config| config.backend.identity = identity;
        for odd in [Odd::Closes, Odd::SpeaksAtOnce, Odd::SpeaksLater, Odd::SaysGoodbye, Odd::Mumbles] {
            check(&format!("{odd:?}, {identity:?}"), odd, set, QUIT, LATER, 2);
        }
    }
    let set = |config: &mut Config| config.backend.identity = Identity::Xclient;
    check("XCLIENT refused", Odd::RefusesXclient, set, QUIT, LATER, 2);
}

/// A backend whose every answer carries the sender of its connection's transaction, and which does something odd now and then. What it
/// takes must be of one client: sender, recipient, and data.
fn tell_tale(announced: bool, mixed: &Arc<Mutex<Vec<String>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mixed, seed) = (Arc::clone(mixed), AtomicU64::new(1));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (mixed, mut random) =
                (Arc::clone(&mixed), fastrand::Rng::with_seed(seed.fetch_add(1, Ordering::Relaxed)));
            std::thread::spawn(move || tell(&stream, announced, &mut random, &mixed));
        }
    });
    address
}

fn tell(
    mut stream: &TcpStream,
    announced: bool,
    random: &mut fastrand::Rng,
    mixed: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let between = |line: &str| Some(line.split_once('<')?.1.split_once('@')?.0.to_owned());
    let (mut helo, mut who) = (String::new(), String::new());
    stream.write_all(b"220 x\r\n")?;
    while let Some(line) = lines.next().transpose()? {
        let answer = match line.split([' ', ':']).next().unwrap_or_default() {
            "EHLO" => {
                helo = line[5..].to_owned();
                "250-x\r\n250-PIPELINING\r\n250 XCLIENT ADDR HELO\r\n".to_owned()
            }
            "XCLIENT" => {
                who.clear();
                "220 x\r\n".to_owned()
            }
            "MAIL" => {
                who = between(&line).unwrap_or_default();
                if announced && !who.is_empty() && !helo.starts_with(&format!("{who}.")) {
                    mixed.lock().unwrap().push(format!("MAIL of {who} on the connection of {helo}"));
                }
                format!("250 {who} mail\r\n")
            }
            "RCPT" => {
                // The guard's own questions have no sender.
                if !who.is_empty() && between(&line).as_deref() != Some(&who) {
                    mixed.lock().unwrap().push(format!("{line} in the transaction of {who}"));
                }
                if random.u8(..) < 20 { format!("450 {who} later\r\n") } else { format!("250 {who} rcpt\r\n") }
            }
            "DATA" => {
                stream.write_all(format!("354 {who} go\r\n").as_bytes())?;
                for line in lines.by_ref() {
                    let line = line?;
                    if line == "." {
                        break;
                    }
                    if line.starts_with("Subject: ") && line != format!("Subject: {who}") {
                        mixed.lock().unwrap().push(format!("{line} in the transaction of {who}"));
                    }
                }
                match random.u8(..) {
                    0..20 => format!("451 {who} later\r\n"),
                    20..40 => format!("250 {who} taken\r\n250 {who} again\r\n"),
                    40..50 => return Ok(()),
                    50..60 => {
                        stream.write_all(format!("250 {who} taken\r\n").as_bytes())?;
                        return Ok(());
                    }
                    _ => format!("250 {who} taken\r\n"),
                }
            }
            "QUIT" => return Ok(()),
            _ => format!("250 {who} ok\r\n"),
        };
        stream.write_all(answer.as_bytes())?;
        // In a transaction. Once it is over, the connection may be another client's at once: a server that answers twice then is out
        // of step, which shows at its 354 at the latest.
        if ["MAIL", "RCPT"].iter().any(|verb| line.starts_with(verb)) && random.u8(..) < 5 {
            stream.write_all(format!("250 {who} unasked\r\n").as_bytes())?;
        }
        if random.u8(..) < 5 {
            return Ok(());
        }
    }
    Ok(())
}

/// Property: whatever the backend does, a client hears answers of its own transactions, and the backend gets the data of one client
/// at a time.
#[test]
fn no_answer_and_no_byte_of_a_client_ever_reaches_another() {
    for identity in [Identity::Xclient, Identity::None] {
        let mixed = Arc::default();
        let address = tell_tale(identity == Identity::Xclient, &mixed);
        let configure = |config: &mut Config| {
            config.listen[0].balancers = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
            config.backend.identity = identity;
            config.backend.reuse = true;
            config.backend.connections = 8;
            config.limits.failed_commands = 0;
        };
        let heard = Mutex::new((0_u32, Vec::new()));
        with_configured_guard(address, configure, |guard| {
            std::thread::scope(|scope| {
                for thread in 0..8_u64 {
                    let heard = &heard;
                    scope.spawn(move || {
                        let mut random = fastrand::Rng::with_seed(thread);
                        for n in 0..crate::long::amount(15, 300) {
                            let me = format!("c{thread}x{n}");
                            let found = talk(guard, &me, &format!("198.18.{thread}.{}", n % 200 + 1), &mut random);
                            let mut heard = heard.lock().unwrap();
                            heard.0 += found.0;
                            heard.1.extend(found.1);
                        }
                    });
                }
            });
        });
        let (taken, strange) = heard.into_inner().unwrap();
        let mixed = mixed.lock().unwrap();
        assert!(strange.is_empty() && mixed.is_empty(), "{identity:?}: {strange:?} {mixed:?}");
        assert!(taken > 50, "{taken} messages taken");
    }
}

/// A session with a few messages: how many were taken, and answers that name somebody else.
fn talk(guard: SocketAddr, me: &str, address: &str, random: &mut fastrand::Rng) -> (u32, Vec<String>) {
    let (mut taken, strange) = (0, RefCell::new(Vec::new()));
    let mut client = Client::behind_balancer(guard, address);
    if (client.code(), client.say(&format!("EHLO {me}.example"))) != (220, 250) {
        return (0, strange.into_inner());
    }
    let hear = |client: &mut Client| {
        let line = client.line();
        // An answer of the backend has the name of whoever it is for.
        let names = line.split_whitespace().find(|word| word.starts_with('c') && word.contains('x') && word.len() < 8);
        if names.is_some_and(|name| name != me) {
            strange.borrow_mut().push(format!("{me} heard {line}"));
        }
        line.get(..3).and_then(|code| code.parse::<u16>().ok()).unwrap_or(0)
    };
    let ask = |client: &mut Client, line: &str| {
        client.send(line);
        hear(client)
    };
    for _ in 0..random.u8(1..4) {
        if random.bool() {
            // Its envelope at once.
            client.send(&format!("MAIL FROM:<{me}@client.example>\r\nRCPT TO:<{me}@example.org>\r\nDATA"));
            let answers = [(); 3].map(|()| hear(&mut client));
            if answers[2] == 354 {
                taken += u32::from(ask(&mut client, &format!("Subject: {me}\r\n\r\nx\r\n.")) == 250);
            } else if ask(&mut client, "RSET") != 250 {
                break;
            }
            continue;
        }
        if ask(&mut client, &format!("MAIL FROM:<{me}@client.example>")) != 250 {
            break;
        }
        if ask(&mut client, &format!("RCPT TO:<{me}@example.org>")) != 250 || random.u8(..) < 40 {
            if ask(&mut client, "RSET") != 250 {
                break;
            }
            continue;
        }
        if ask(&mut client, "DATA") != 354 {
            break;
        }
        taken += u32::from(ask(&mut client, &format!("Subject: {me}\r\n\r\nx\r\n.")) == 250);
    }
    if random.bool() {
        ask(&mut client, "QUIT");
    }
    (taken, strange.into_inner())
}
