//! The backend's answers about recipients that nobody has: whether it takes any recipient of a domain, and else in which
//! words it refuses one.
//!
//! If it takes any recipient, its yes proves nothing: a guessing attacker would never meet an unknown recipient, and each guess
//! would earn forgiveness. If its words aren't known, a refused guess looks like any other refusal.
//!
//! Without a recipient table, the backend is asked once an hour, for each served domain: for two recipients that nobody
//! has, and for `postmaster`. This has a connection of its own, since servers hold refused recipients against a
//! connection. Only a clear answer changes what is known; a backend that is lost doesn't.
//!
//! - A domain counts as a catch-all when it was found so twice, half a minute apart: a backend takes anything while its
//!   directory is away. A clear refusal that a client hears outweighs that at once ([`Shared::contradict`]).
//! - Words are learned if they are the same for both recipients and `postmaster` is taken. Otherwise the refusal may be
//!   about us, or about the moment.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::connect::{Caller, Channel};
use super::pool::Pool;
use super::{Generation, Shared, Stop};
use crate::bound::Bound;
use crate::config::Config;
use crate::facts::unknown::Wording;
use crate::session::Lost;
use crate::snapshot::Snapshot;
use crate::wire::address::Host;
use crate::wire::command::{self, Command};
use crate::wire::reply::Reply;

/// Before the first round: the backend is most likely there.
const FIRST: Duration = Duration::from_secs(10);
/// Between two rounds, and after one in which the backend was lost.
const PAUSE: Duration = Duration::from_secs(3600);
const LOST: Duration = Duration::from_secs(300);
/// After a contradiction: one look for all that come at once.
const CALM: Duration = Duration::from_secs(60);
/// Before a domain that seems to be a catch-all is looked at again.
const AGAIN: Duration = Duration::from_secs(30);
/// Domains of one round; of more the next ones come in the next round.
pub(super) const DOMAINS: usize = 100;
/// How long the backend may take for all questions about one domain, connecting excepted.
const WAIT: Duration = Duration::from_secs(60);
/// Letters of the recipient that nobody has.
const LETTERS: usize = 20;

/// Asks until `stop`.
pub(super) async fn watch(shared: Arc<Shared>, generation: Arc<Generation>, mut stop: Stop) {
    let domains = domains(generation.config());
    if domains.is_empty() {
        return;
    }
    let rounds: Vec<_> = domains.chunks(DOMAINS).collect();
    let (mut next, mut pause, mut suspects) = (0, FIRST, BTreeSet::new());
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return,
            () = tokio::time::sleep(pause) => {}
            () = shared.contradicted.notified() => tokio::time::sleep(CALM).await,
        }
        let asked = tokio::select! {
            biased;
            () = stop.requested() => return,
            asked = round(&generation.pool, &generation.snapshot, rounds[next], &mut suspects) => asked,
        };
        pause = match asked {
            Ok(()) if !suspects.is_empty() => AGAIN,
            Ok(()) => PAUSE,
            Err(lost) => {
                tracing::debug!(?lost, "the backend could not be asked what it says of recipients that nobody has");
                LOST
            }
        };
        // Those that are to be looked at again come first.
        if asked.is_ok() && suspects.is_empty() {
            next = (next + 1) % rounds.len();
            if rounds.len() > 1 {
                shared.metrics.bound_reached(Bound::CatchAllDomains);
            }
        }
    }
}

impl Shared {
    /// A client heard that `recipient` is unknown: its domain is no catch-all, whatever was found before.
    pub(super) fn contradict(&self, recipient: &str) {
        let generation = self.current.load();
        if let Some(domain) = generation.snapshot.learned().contradict(recipient) {
            tell(&domain, false);
            self.contradicted.notify_one();
        }
    }
}

/// The domains that are asked about: none where a table says who exists.
pub(super) fn domains(config: &Config) -> Vec<String> {
    if config.recipients.known.is_some() {
        return Vec::new();
    }
    config.relay.domains.iter().filter_map(|domain| Some(Host::parse(domain)?.key().into_owned())).collect()
}

/// Asks about each of `domains`, unless the backend is lost. `suspects`: those that were found to take any recipient once.
async fn round(pool: &Pool, rules: &Snapshot, domains: &[String], suspects: &mut BTreeSet<String>) -> Result<(), Lost> {
    for domain in domains {
        match ask(pool, domain).await? {
            Said::Takes if rules.learned().catch_alls().contains(domain) => {}
            Said::Takes if suspects.remove(domain) => settle(rules, domain, true),
            Said::Takes => {
                suspects.insert(domain.clone());
            }
            Said::Refuses(refusals) => {
                suspects.remove(domain);
                if refusals.iter().any(|(reply, _)| reply.code().class() == 5) {
                    settle(rules, domain, false);
                }
                learn(rules, &refusals);
            }
            Said::Unclear => {
                suspects.remove(domain);
            }
        }
    }
    Ok(())
}

/// Takes down what was found out; says so if it is new.
fn settle(rules: &Snapshot, domain: &str, takes_any: bool) {
    if rules.learned().set_catch_all(domain, takes_any) {
        tell(domain, takes_any);
    }
}

/// Says what is new of `domain`.
fn tell(domain: &str, takes_any: bool) {
    if takes_any {
        tracing::warn!(
            domain,
            "the backend takes any recipient of this domain: harvests there can't be recognised; list its recipients \
             in [recipients] known, or let the backend refuse unknown recipients"
        );
    } else {
        tracing::info!(domain, "the backend no longer takes any recipient of this domain");
    }
}

/// Takes down in which words a server refuses a recipient that nobody has; says so if they are new, or can't be told.
fn learn(rules: &Snapshot, Refusals { server, replies: [one, other], postmaster }: &Refusals) {
    let both = [(&one.0, one.1.as_str()), (&other.0, other.1.as_str())];
    let known = both.iter().all(|(reply, recipient)| rules.says_unknown(reply, recipient));
    let wording = Wording::learn(both).filter(|_| *postmaster);
    let mut learned = rules.learned().wordings().as_ref().clone();
    let text = match (&wording, known) {
        (Some(wording), _) => wording.to_string(),
        (None, true) => one.0.to_string(),
        (None, false) => format!("not recognised: {}", one.0),
    };
    let new = rules.learned().set_refusal(server, &text);
    match wording {
        Some(wording) => {
            learned.insert(server.clone(), wording);
            rules.learned().set_wordings(learned);
            if new {
                tracing::info!(backend = server, words = text, "learned how the backend refuses an unknown recipient");
            }
        }
        None if known || !new => {}
        None => tracing::warn!(
            backend = server,
            reply = %one.0,
            "the backend's refusal of a recipient that nobody has can't be told from any other: harvests can't be \
             recognised; set backend.profile, or list its recipients in [recipients] known"
        ),
    }
}

/// The backend's answers about recipients that nobody has.
pub(super) enum Said {
    Takes,
    Refuses(Box<Refusals>),
    /// Nothing of use now.
    Unclear,
}

pub(super) struct Refusals {
    server: String,
    /// Each with its recipient.
    pub(super) replies: [(Reply, String); 2],
    /// Whether `postmaster` was taken in the same breath.
    pub(super) postmaster: bool,
}

impl Refusals {
    fn iter(&self) -> impl Iterator<Item = &(Reply, String)> {
        self.replies.iter()
    }
}

/// The backend's answers about `domain`.
async fn ask(pool: &Pool, domain: &str) -> Result<Said, Lost> {
    let mut channel = pool.open(Caller::Probe, false).await?;
    let asking = async {
        let answer = inquire(&mut channel, domain).await?;
        channel.quit().await;
        Ok(answer)
    };
    timeout(WAIT, asking).await.unwrap_or(Err(Lost::Timeout))
}

pub(super) async fn inquire(channel: &mut Channel, domain: &str) -> Result<Said, Lost> {
    if say(channel, "MAIL FROM:<>").await?.code().class() != 2 {
        return Ok(Said::Unclear);
    }
    let recipients = [nobody(), nobody()].map(|local| format!("{local}@{domain}"));
    let first = say(channel, &format!("RCPT TO:<{}>", recipients[0])).await?;
    let second = say(channel, &format!("RCPT TO:<{}>", recipients[1])).await?;
    let postmaster = say(channel, &format!("RCPT TO:<postmaster@{domain}>")).await?.code().class() == 2;
    say(channel, "RSET").await?;
    let server = channel.stream.socket().and_then(|socket| socket.peer_addr().ok());
    let server = server.map_or_else(|| "backend".to_owned(), |server| server.to_string());
    Ok(match (first.code().class(), second.code().class()) {
        (2, 2) => Said::Takes,
        (4 | 5, 4 | 5) => {
            let [one, other] = recipients;
            Said::Refuses(Box::new(Refusals { server, replies: [(first, one), (second, other)], postmaster }))
        }
        _ => Said::Unclear,
    })
}

/// Sends a command; the answer.
pub(super) async fn say(channel: &mut Channel, line: &str) -> Result<Reply, Lost> {
    let command: Command = command::parse(line.as_bytes()).map_err(|_| Lost::Protocol)?;
    command.encode(&mut channel.unsent);
    let reply = channel.word().await?;
    if reply.code().get() == 421 { Err(Lost::Closed) } else { Ok(reply) }
}

/// A local part that nobody has: letters that nobody can foresee.
pub fn nobody() -> String {
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
    use crate::observe::metrics::Metrics;
    use crate::relay::connect::Connector;

    /// The backend's answers to MAIL and RCPT; nothing: it closes.
    #[derive(Clone, Copy, Debug, Default)]
    struct Backend {
        mail: &'static str,
        rcpt: &'static str,
        postmaster: &'static str,
    }

    fn serve(backend: Backend, asked: &Mutex<Vec<String>>, mut stream: TcpStream) -> std::io::Result<()> {
        stream.write_all(b"220 x\r\n")?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            let line = line?;
            let answer = match line.get(..4).unwrap_or_default() {
                "MAIL" => backend.mail,
                "RCPT" if line.contains("postmaster") => backend.postmaster,
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
        let pool = Pool::new(
            Connector::new(Arc::clone(&config)).unwrap(),
            metrics.clone(),
            crate::events::Bus::default(),
            None,
        );
        let rules = Snapshot::new(config, None);
        let mut suspects = BTreeSet::new();
        for (mail, rcpt, there, catch_all) in answers {
            *backend.lock().unwrap() = Backend { mail, rcpt, postmaster: "250 ok" };
            let done = round(&pool, &rules, &["example.org".to_owned()], &mut suspects).await;
            assert_eq!(done.is_ok(), *there, "{mail} {rcpt}");
            assert_eq!(rules.learned().catch_alls().contains("example.org"), *catch_all, "{mail} {rcpt}");
        }
        let mut asked = std::mem::take(&mut *asked.lock().unwrap());
        assert!(!asked.iter().any(|line| line.starts_with("DATA")));
        asked.retain(|line| line.starts_with("RCPT") && !line.contains("postmaster"));
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
    async fn b6_a_catch_all_is_what_is_found_so_twice_and_only_a_clear_answer_changes_that() {
        let unclear = |known| {
            [
                ("250 ok", "451 4.3.0 not now", true, known),
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
        let once = [("250 ok", "250 ok", true, false)];
        let yes = [("250 ok", "250 ok", true, true)];
        check(
            &[
                &unclear(false)[..],
                &no,
                &unclear(false),
                &once,
                &yes,
                &unclear(true),
                &yes,
                &no,
                &unclear(false),
                &once,
                &no,
                &once,
            ]
            .concat(),
        )
        .await;
    }

    /// A backend that answers so is learned like this.
    fn check_learned(says: &'static str, postmaster: bool, recognised: bool, shown: &str) {
        let rules = Snapshot::new(Arc::new(Config::builtin()), None);
        let reply = |recipient: &str| {
            let mut bytes = bytes::BytesMut::from(format!("{}\r\n", says.replace("{r}", recipient)).as_bytes());
            crate::wire::reply::ReplyDecoder::new().next(&mut bytes).unwrap().unwrap()
        };
        let replies = ["qwertzui@example.org", "asdfghjk@example.org"].map(|r| (reply(r), r.to_owned()));
        learn(&rules, &Refusals { server: "192.0.2.1:25".to_owned(), replies, postmaster });
        assert_eq!(rules.says_unknown(&reply("bob@example.org"), "bob@example.org"), recognised, "{says}");
        let said = rules.learned().refusals();
        let words = &said["192.0.2.1:25"];
        assert!(words.contains(shown), "{says}: {words}");
    }

    #[test]
    fn b7_the_words_of_a_backend_are_learned_or_the_operator_hears_that_they_are_not() {
        check_learned("550 No such user here", true, true, "no such user here");
        check_learned("553 5.1.1 <{r}> unknown", true, true, "553 5.1.1 <{recipient}> unknown");
        check_learned("450 4.1.1 User unknown", true, true, "450 4.1.1");
        check_learned("551 5.1.6 moved", true, true, "551 5.1.6");
        check_learned("550 5.1.1 by the profile", false, true, "550 5.1.1");
        check_learned("550 No such user here", false, false, "not recognised: 550");
        check_learned("554 5.7.1 Relay access denied", true, false, "not recognised");
    }
}
