//! Whether the backend takes any recipient of a domain. Then that it takes one says nothing: who guesses never meets an
//! unknown recipient, and would earn forgiveness with each guess.
//!
//! Where there is no recipient table, the backend is asked once an hour for a recipient that nobody has, of each domain
//! that we serve: in a connection of its own, since servers hold refused recipients against a connection. Only a clear
//! answer changes what is known; a 4xx, or a backend that is lost, doesn't.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::connect::{Caller, Channel};
use super::pool::Pool;
use super::{Shared, Stop};
use crate::observe::metrics::Metrics;
use crate::policy::Rules;
use crate::session::Lost;
use crate::wire::address::Host;
use crate::wire::command::{self, Command};

/// Before the first round: the backend is most likely there.
const FIRST: Duration = Duration::from_secs(10);
/// Between two rounds, and after one in which the backend was lost.
const PAUSE: Duration = Duration::from_secs(3600);
const LOST: Duration = Duration::from_secs(300);
/// Domains of one round; of more the next ones come in the next round.
const DOMAINS: usize = 100;
/// How long the backend may take for all questions about one domain, connecting excepted.
const WAIT: Duration = Duration::from_secs(60);
/// Letters of the recipient that nobody has.
const LETTERS: usize = 20;

/// Asks until `stop`.
pub(super) async fn watch(shared: Arc<Shared>, mut stop: Stop) {
    let domains: Vec<_> = shared.config.relay.domains.iter().filter_map(|d| Some(Host::parse(d)?.key())).collect();
    if shared.config.recipients.known.is_some() || domains.is_empty() {
        return;
    }
    let rounds: Vec<_> = domains.chunks(DOMAINS).collect();
    let (mut next, mut pause) = (0, FIRST);
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let asked = tokio::select! {
            biased;
            () = stop.requested() => return,
            asked = round(&shared.pool, &shared.rules, &shared.metrics, rounds[next]) => asked,
        };
        pause = match asked {
            Ok(()) => PAUSE,
            Err(lost) => {
                tracing::debug!(?lost, "the backend could not be asked whether it takes any recipient");
                LOST
            }
        };
        if asked.is_ok() {
            next = (next + 1) % rounds.len();
            if rounds.len() > 1 {
                shared.metrics.bound_reached("catch_all_domains");
            }
        }
    }
}

/// Asks about each of `domains`, unless the backend is lost.
async fn round(pool: &Pool, rules: &Rules, metrics: &Metrics, domains: &[String]) -> Result<(), Lost> {
    for domain in domains {
        if let Some(takes_any) = ask(pool, domain).await? {
            settle(rules, metrics, domain, takes_any);
        }
    }
    Ok(())
}

/// Takes down what was found out; says so if it is new.
fn settle(rules: &Rules, metrics: &Metrics, domain: &str, takes_any: bool) {
    let mut catch_alls = rules.catch_alls().as_ref().clone();
    let changed = if takes_any { catch_alls.insert(domain.to_owned()) } else { catch_alls.remove(domain) };
    if !changed {
        return;
    }
    if takes_any {
        tracing::warn!(
            domain,
            "the backend takes any recipient of this domain: nobody who guesses there can be recognised; list who exists \
             in [recipients] known, or let the backend refuse unknown recipients"
        );
    } else {
        tracing::info!(domain, "the backend no longer takes any recipient of this domain");
    }
    metrics.catch_alls(catch_alls.iter().cloned().collect());
    rules.set_catch_alls(catch_alls);
}

/// Whether the backend takes any recipient of `domain`; `None` where it doesn't say.
async fn ask(pool: &Pool, domain: &str) -> Result<Option<bool>, Lost> {
    let mut channel = pool.open(Caller::Probe).await?;
    let asking = async {
        let answer = inquire(&mut channel, domain).await?;
        channel.quit().await;
        Ok(answer)
    };
    timeout(WAIT, asking).await.unwrap_or(Err(Lost::Timeout))
}

async fn inquire(channel: &mut Channel, domain: &str) -> Result<Option<bool>, Lost> {
    if class(channel, "MAIL FROM:<>").await? != 2 {
        return Ok(None);
    }
    let answer = match class(channel, &format!("RCPT TO:<{}@{domain}>", nobody())).await? {
        2 => Some(true),
        5 => Some(false),
        _ => None,
    };
    class(channel, "RSET").await?;
    Ok(answer)
}

/// Sends a command; the class of the answer.
async fn class(channel: &mut Channel, line: &str) -> Result<u16, Lost> {
    let command: Command = command::parse(line.as_bytes()).map_err(|_| Lost::Protocol)?;
    command.encode(&mut channel.unsent);
    let reply = channel.word().await?;
    if reply.code().get() == 421 { Err(Lost::Closed) } else { Ok(reply.code().class()) }
}

/// A local part that nobody has: letters that nobody can foresee.
fn nobody() -> String {
    let hasher = RandomState::new();
    (0..LETTERS).map(|n| char::from(b'a' + (hasher.hash_one(n) % 26) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::sync::Mutex;

    use super::*;
    use crate::addr::BackendAddr;
    use crate::config::{Config, Identity};
    use crate::relay::connect::Connector;

    /// What the backend answers to MAIL and RCPT; nothing: it closes.
    #[derive(Clone, Copy, Debug, Default)]
    struct Backend {
        mail: &'static str,
        rcpt: &'static str,
    }

    fn serve(backend: Backend, asked: &Mutex<Vec<String>>, mut stream: TcpStream) -> std::io::Result<()> {
        stream.write_all(b"220 x\r\n")?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            let line = line?;
            let answer = match line.get(..4).unwrap_or_default() {
                "MAIL" => backend.mail,
                "RCPT" => backend.rcpt,
                _ => "250 x",
            };
            asked.lock().unwrap().push(line);
            if answer.is_empty() {
                return Ok(());
            }
            stream.write_all(format!("{answer}\r\n").as_bytes())?;
        }
        Ok(())
    }

    /// A round for each answer of the backend: whether the backend was there to the end, and whether the domain is held for
    /// a catch-all then.
    async fn check(answers: &[(&'static str, &'static str, bool, bool)]) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = Config::builtin();
        config.backend.servers = vec![BackendAddr::Address(listener.local_addr().unwrap())];
        config.backend.identity = Identity::None;
        let (config, metrics) = (Arc::new(config), Metrics::new());
        let backend = Arc::new(Mutex::new(Backend::default()));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (served, heard) = (Arc::clone(&backend), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (backend, heard) = (*served.lock().unwrap(), Arc::clone(&heard));
                std::thread::spawn(move || serve(backend, &heard, stream));
            }
        });
        let pool = Pool::new(Connector::new(Arc::clone(&config)).unwrap(), metrics.clone());
        let rules = Rules::new(config, None);
        for (mail, rcpt, there, catch_all) in answers {
            *backend.lock().unwrap() = Backend { mail, rcpt };
            let done = round(&pool, &rules, &metrics, &["example.org".to_owned()]).await;
            assert_eq!(done.is_ok(), *there, "{mail} {rcpt}");
            assert_eq!(rules.catch_alls().contains("example.org"), *catch_all, "{mail} {rcpt}");
            assert_eq!(metrics.catch_all_domains().len(), usize::from(*catch_all), "{mail} {rcpt}");
        }
        let mut asked = std::mem::take(&mut *asked.lock().unwrap());
        assert!(!asked.iter().any(|line| line.starts_with("DATA")));
        asked.retain(|line| line.starts_with("RCPT"));
        for line in &asked {
            let user = line.strip_prefix("RCPT TO:<").and_then(|line| line.strip_suffix("@example.org>")).unwrap();
            assert!(user.len() == LETTERS && user.bytes().all(|byte| byte.is_ascii_lowercase()), "{line}");
        }
        let all = asked.len();
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), all, "another one each time");
    }

    #[tokio::test]
    async fn only_a_clear_answer_changes_what_is_known() {
        let unclear = |known| {
            [
                ("250 ok", "451 not now", true, known),
                ("250 ok", "", false, known),
                ("250 ok", "421 bye", false, known),
                ("250 ok", "354 go", true, known),
                ("250 ok", "no SMTP", false, known),
                ("550 no", "250 ok", true, known),
                ("450 no", "550 no", true, known),
                ("", "550 no", false, known),
            ]
        };
        let no = [("250 ok", "550 5.1.1 unknown", true, false)];
        let yes = [("250 ok", "250 ok", true, true)];
        check(&[&unclear(false)[..], &no, &unclear(false), &yes, &unclear(true), &yes, &no, &unclear(false)].concat())
            .await;
    }
}
