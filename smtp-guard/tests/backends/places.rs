//! Places when others take all they can. A balancer's header gives each client an address of its own.

use crate::client::Client;
use crate::with_configured_guard;

/// With room for 40, of a network 20: `sessions` connections of `greedy` that each `say` something end up with so many
/// `places`, and ten strangers of ten networks are served to the dot meanwhile.
fn check(name: &str, greedy: impl Fn(u32) -> String, sessions: u32, places: usize, say: &[&str]) {
    with_configured_guard(
        crate::faults::start_sound(),
        |config| {
            config.listen[0].balancers = ["127.0.0.1/32".parse().unwrap()].into_iter().collect();
            config.limits.total_connections = 40;
            config.limits.network_connections = 20;
        },
        |guard| {
            let mut held = Vec::new();
            for n in 0..sessions {
                let mut client = Client::behind_balancer(guard, &greedy(n));
                if client.code() == 220 {
                    say.iter().for_each(|line| _ = client.say(line));
                    held.push(client);
                }
            }
            let still = held.iter_mut().map(|client| client.say("NOOP")).filter(|code| *code == 250).count();
            assert_eq!(still, places, "{name}");
            let mut honest = Vec::new();
            for n in 0..10 {
                let mut client = Client::behind_balancer(guard, &format!("198.18.{n}.1"));
                assert_eq!(client.code(), 220, "{name}: {n}");
                for (line, code) in [
                    ("EHLO client.example", 250),
                    ("MAIL FROM:<a@client.example>", 250),
                    ("RCPT TO:<b@example.org>", 250),
                    ("DATA", 354),
                    ("Subject: x\r\n\r\nx\r\n.", 250),
                ] {
                    assert_eq!(client.say(line), code, "{name}: {n}, {line}");
                }
                honest.push(client);
            }
        },
    );
}

#[test]
fn c2_honest_strangers_are_served_while_others_hold_all_they_can_get() {
    let idle = ["EHLO x"].as_slice();
    let stalled = ["EHLO x", "MAIL FROM:<a@client.example>"].as_slice();
    check("a /48", |n| format!("2001:db8:7:{n:x}::1"), 60, 18, idle);
    check("a /24", |n| format!("192.0.2.{}", 1 + n % 4), 60, 18, idle);
    check("two /24", |n| format!("203.0.{}.{}", n % 2, 1 + n % 3), 90, 36, idle);
    check("many networks", |n| format!("203.{n}.0.1"), 60, 36, idle);
    check("transactions", |n| format!("2001:db8:7:{n:x}::1"), 60, 18, stalled);
}
