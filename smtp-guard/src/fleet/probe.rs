//! A look at the servers of a fleet by hand, for `check --connect`.
//!
//! It finds out whether each server can be reached, is new enough, allows what the guard needs and has the same time. It also
//! finds out whether other edges have the same key.
//!
//! Commands are tried on keys of its own under the fleet's hash tag, which no edge reads. They are gone afterwards, or ten
//! seconds later if the connection breaks off. Before anything is written, it is known that keys can be given an end.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, RedisError, Value, cmd};
use serde::Serialize;
use smtp_guard_core::fleet::message::{Fault, Message, Seal};
use smtp_guard_core::fleet::offset::Offset as Measured;
use tokio::time::timeout;

use super::keys::Keys;
use super::link::{self, COMMAND, Link};
use super::settings::Settings;
use super::writer::PUT;
use super::{Offset, number};
use crate::clock::Seconds;
use crate::printable::printable;

/// How long all about one server may take. Opening a connection and each command have bounds of their own.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long what is tried lasts at most, in ms.
const LASTS: i64 = 10_000;
/// Questions for the time.
const QUESTIONS: usize = 3;
/// The oldest version that has all commands, of Redis; Valkey began with a later one.
const OLDEST: (u32, u32) = (6, 2);
/// Differences of clocks that are worth a word, in ms.
const CLOCK: u64 = 5_000;
/// Edges that are named.
const NAMED: usize = 8;
/// The rules that a user of the server needs, beside the fleet's keys.
pub const RULES: &str = "+@stream +@hash +@string +@sortedset +@scripting +@connection +time +pexpireat";

/// A server that can be looked at.
#[derive(Clone, Debug)]
pub enum Target {
    Url(String),
    /// The master that the sentinels name.
    Sentinel,
}

/// The outcome of a look at the servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    pub server: String,
    /// `None`: it couldn't be asked.
    #[serde(rename = "about")]
    pub found: Option<Found>,
    /// Why the guard can't use it, each with the next step.
    pub troubles: Vec<String>,
    /// Settings that are probably mistakes, each with the next step.
    pub doubts: Vec<String>,
}

/// The findings about a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The server's program, such as `redis`.
    pub software: String,
    pub software_version: String,
    /// The user that it takes us for.
    pub user: String,
    /// By TLS.
    pub secured: bool,
    /// How long the quickest answer took.
    pub answer_seconds: Seconds,
    /// Our wall clock less the server's.
    pub clock_offset_seconds: Option<Offset>,
    /// Edges that have the same key.
    pub edges: Vec<String>,
}

/// The servers that `settings` name.
pub fn targets(settings: &Settings) -> Vec<Target> {
    if settings.config.sentinel.is_empty() {
        settings.config.url.iter().cloned().map(Target::Url).collect()
    } else {
        vec![Target::Sentinel]
    }
}

/// Looks at `target`; takes 8 seconds at most.
pub async fn look(settings: &Settings, target: &Target) -> Looked {
    let mut looked = Looked { server: name(settings, target), ..Looked::default() };
    match timeout(PATIENCE, look_closely(settings, target, &mut looked)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => looked.troubles.push(said(&error)),
        Err(_) => looked.troubles.push(format!("doesn't answer in time: {REACH}")),
    }
    looked
}

const REACH: &str = "is it started, and may this host connect to it?";

/// The name of `target` without a password.
fn name(settings: &Settings, target: &Target) -> String {
    match target {
        Target::Url(url) => link::address(url).unwrap_or_else(|_| String::from("fleet.url")),
        Target::Sentinel => format!("master {}", settings.config.sentinel),
    }
}

async fn look_closely(settings: &Settings, target: &Target, looked: &mut Looked) -> Result<(), RedisError> {
    let opened = match target {
        Target::Url(url) => link::by_url(settings, url, COMMAND).await,
        Target::Sentinel => link::by_sentinel(settings, COMMAND).await,
    };
    let Link { mut connection, server, user, secured } = opened?;
    if matches!(target, Target::Sentinel) {
        looked.server = format!("{} at {server}", looked.server);
    }
    let found = looked.found.insert(Found { user, secured, ..Found::default() });
    let mut needs = Needs { fleet: &settings.config.name, refused: Vec::new() };
    if let Some(about) = needs.ask::<HashMap<String, Value>>(&mut connection, cmd("HELLO").arg(2)).await? {
        let text = |field| about.get(field).cloned().and_then(|value| redis::from_redis_value::<String>(value).ok());
        found.software = shown(&text("server").unwrap_or_default());
        found.software_version = shown(&text("version").unwrap_or_default());
        if is_too_old(&found.software, &found.software_version) {
            let (major, minor) = OLDEST;
            looked.troubles.push(format!(
                "it is {} {}: a fleet needs {major}.{minor} or newer; update it",
                found.software, found.software_version
            ));
            return Ok(());
        }
        match (text("mode").as_deref(), text("role").as_deref()) {
            (Some("sentinel"), _) => {
                looked.troubles.push(String::from("it is a sentinel: name the master in fleet.sentinel"));
                return Ok(());
            }
            (_, Some("replica" | "slave")) => {
                looked.troubles.push(REPLICA.to_owned());
                return Ok(());
            }
            _ => {}
        }
    }
    let time = ask_time(&mut needs, &mut connection, found).await?;
    looked.doubts.extend(found.clock_offset_seconds.and_then(clock_doubt));
    if let Some(now) = time {
        needs.try_all(&mut connection, now).await?;
    }
    let keys = Keys::new(&settings.config.name);
    let nodes: Option<Vec<(String, Vec<u8>)>> = needs.ask(&mut connection, cmd("HGETALL").arg(&keys.nodes)).await?;
    needs.refused.dedup();
    if !needs.refused.is_empty() {
        looked.troubles.push(format!(
            "user {user} may not use {} on the fleet's keys: ACL SETUSER {user} ~sg:{{{fleet}}}:* {RULES}",
            needs.refused.join(", "),
            user = found.user,
            fleet = settings.config.name,
        ));
    }
    compare(&settings.seal, nodes.unwrap_or_default(), looked);
    Ok(())
}

const REPLICA: &str =
    "it is a replica, which takes no writes: name the master in fleet.url, or the sentinels with fleet.sentinel";

/// The server's time, which `found` has with the quickest answer; `None`: it may not be asked.
async fn ask_time(
    needs: &mut Needs<'_>,
    connection: &mut MultiplexedConnection,
    found: &mut Found,
) -> Result<Option<i64>, RedisError> {
    let (mut measured, mut quickest) = (Measured::default(), Duration::MAX);
    for _ in 0..QUESTIONS {
        let asked = crate::clock::now();
        let Some((seconds, micros)) = needs.ask::<(i64, i64)>(connection, &mut cmd("TIME")).await? else {
            return Ok(None);
        };
        let heard = crate::clock::now();
        quickest = quickest.min(heard.since(asked));
        measured.note(asked, seconds.saturating_mul(1000).saturating_add(micros / 1000), heard);
    }
    found.answer_seconds = Seconds(quickest);
    found.clock_offset_seconds = measured.of_wall(&crate::clock::both()).map(Offset);
    Ok(measured.server(crate::clock::now()))
}

/// Commands that the guard needs.
struct Needs<'a> {
    fleet: &'a str,
    /// Those that the user may not use.
    refused: Vec<String>,
}

impl Needs<'_> {
    /// Asks; `None`: it isn't allowed, which is noted.
    async fn ask<T: redis::FromRedisValue>(
        &mut self,
        connection: &mut MultiplexedConnection,
        command: &mut Cmd,
    ) -> Result<Option<T>, RedisError> {
        match command.query_async(connection).await {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if is_refusal(&error) => {
                let name = command.args_iter().next();
                self.refused.extend(name.and_then(|arg| match arg {
                    redis::Arg::Simple(name) => Some(String::from_utf8_lossy(name).into_owned()),
                    _ => None,
                }));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Tries all commands on keys that nobody reads, at the server's time `now`.
    async fn try_all(&mut self, connection: &mut MultiplexedConnection, now: i64) -> Result<(), RedisError> {
        let key = |kind: &str| format!("sg:{{{}}}:ck:{:016x}:{kind}", self.fleet, number());
        let [text, map, index, stream] = ["t", "h", "z", "s"].map(key);
        let all = [&text, &map, &index, &stream];
        // What is written must go away again.
        for key in all {
            if self.ask::<Value>(connection, cmd("PEXPIREAT").arg(key).arg(1)).await?.is_none() {
                return Ok(());
            }
        }
        let until = now.saturating_add(LASTS);
        let tried = self.try_each(connection, &all, until).await;
        for key in all {
            // The end of this moment is long over, so it goes at once.
            let gone = self.ask::<Value>(connection, cmd("PEXPIREAT").arg(key).arg(1)).await;
            tried.is_ok().then_some(gone).transpose()?;
        }
        tried
    }

    async fn try_each(
        &mut self,
        connection: &mut MultiplexedConnection,
        [text, map, index, stream]: &[&String; 4],
        until: i64,
    ) -> Result<(), RedisError> {
        // Each is given its end in one go with what makes it.
        let ends = |key: &String| cmd("PEXPIREAT").arg(key).arg(until).to_owned();
        self.ask::<Value>(connection, cmd("SET").arg(text).arg("1").arg("NX").arg("PX").arg(LASTS)).await?;
        self.ask::<Value>(connection, cmd("GET").arg(text)).await?;
        self.ask::<Value>(connection, cmd("SCRIPT").arg("LOAD").arg(include_str!("put.lua"))).await?;
        let mut put = cmd("EVALSHA");
        put.arg(PUT.get_hash()).arg(3).arg(map).arg(index).arg(stream);
        put.arg("l").arg(until - LASTS).arg(1).arg(until).arg("check").arg("check").arg(1);
        self.ask::<Value>(connection, &mut put).await?;
        for key in [index, stream] {
            self.ask::<Value>(connection, &mut ends(key)).await?;
        }
        let mut add = cmd("XADD");
        add.arg(stream).arg("MAXLEN").arg("~").arg(1).arg("*").arg("m").arg("check");
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("STREAMS").arg(stream).arg("0-0");
        let range = |name: &str, from: &str, to: &str| {
            let mut range = cmd(name);
            range.arg(stream).arg(from).arg(to).arg("COUNT").arg(1);
            range
        };
        let scores = |name: &str| cmd(name).arg(index).arg("-inf").arg("+inf").to_owned();
        for mut command in [
            cmd("HSET").arg(map).arg("f").arg("1").to_owned(),
            ends(map),
            cmd("HMGET").arg(map).arg("om").arg("lm").to_owned(),
            cmd("HDEL").arg(map).arg("f").to_owned(),
            add,
            read,
            range("XRANGE", "-", "+"),
            range("XREVRANGE", "+", "-"),
            cmd("XTRIM").arg(stream).arg("MINID").arg(1).to_owned(),
            scores("ZRANGEBYSCORE"),
            scores("ZCOUNT"),
            scores("ZREMRANGEBYSCORE"),
        ] {
            self.ask::<Value>(connection, &mut command).await?;
        }
        Ok(())
    }
}

/// What is said of clocks that differ so.
fn clock_doubt(Offset(ms): Offset) -> Option<String> {
    let (seconds, way) = (ms.unsigned_abs() / 1000, if ms < 0 { "behind" } else { "ahead of" });
    (ms.unsigned_abs() > CLOCK).then(|| {
        format!(
            "this host's clock is {seconds} s {way} the server's: bans are right all the same, what is shown of them is not; \
             `timedatectl` says whether it is set by NTP"
        )
    })
}

/// Holds what edges say of themselves against our key.
fn compare(seal: &Seal, nodes: Vec<(String, Vec<u8>)>, looked: &mut Looked) {
    let (mut same, mut other, mut newer) = (Vec::new(), Vec::new(), Vec::new());
    for (node, sealed) in nodes {
        let list = match seal.open(&sealed) {
            Ok(Message::Status(status)) if status.node == node => &mut same,
            Err(Fault::Code) => &mut other,
            Err(Fault::Version) => &mut newer,
            // Whoever can write to the server may have left it there.
            Ok(_) | Err(_) => continue,
        };
        list.push(shown(&node));
    }
    same.sort_unstable();
    if !other.is_empty() {
        let text = format!("what {} says carries another key", named(&other));
        if same.is_empty() {
            looked.troubles.push(format!(
                "{text}: put the same file in fleet.key_file on all edges (`sha256sum` compares them), with the same fleet.name"
            ));
        } else {
            looked.doubts.push(format!("{text}: it left before the key was changed, or its fleet.key_file differs"));
        }
    }
    if !newer.is_empty() {
        looked.doubts.push(format!(
            "{} and this edge can't read each other's messages, as their versions differ: update the older one",
            named(&newer)
        ));
    }
    if let Some(found) = &mut looked.found {
        found.edges = same;
    }
}

/// Some of `names`, in their order.
fn named(names: &[String]) -> String {
    let mut names = names.to_vec();
    names.sort_unstable();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

/// Whether `error` says that a command isn't allowed. Of one within a script each version says so in words of its own.
fn is_refusal(error: &RedisError) -> bool {
    let text = error.to_string();
    let words = ["NOPERM", "The user executing the script can't run this command", "ACL failure in script"];
    error.code() == Some("NOPERM") || words.iter().any(|words| text.contains(words))
}

/// Whether it lacks commands. Who doesn't say what it is gets the benefit of the doubt.
fn is_too_old(software: &str, version: &str) -> bool {
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    let found = parts.next().zip(parts.next().or(Some(0)));
    software.eq_ignore_ascii_case("redis") && found.is_some_and(|found| found < OLDEST)
}

/// `error` with the next step.
fn said(error: &RedisError) -> String {
    let text = shown(&error.to_string());
    let advice = match (error.code(), error.kind()) {
        (Some("NOAUTH" | "WRONGPASS"), _) | (_, ErrorKind::AuthenticationFailed) => {
            "set fleet.password_file, and the user in fleet.url (redis://USER@HOST)"
        }
        (Some("READONLY"), _) => REPLICA,
        (Some("OOM"), _) => "raise its maxmemory",
        (Some("MISCONF"), _) => "it can't write its disk: its log says why; a fleet needs none (`save \"\"`)",
        (Some("MOVED" | "ASK" | "CLUSTERDOWN" | "CROSSSLOT"), _) => {
            "it is of a cluster: name the node in fleet.url that has the fleet's slot"
        }
        (Some("LOADING" | "MASTERDOWN" | "BUSY" | "TRYAGAIN"), _) => "it is busy: try again soon",
        (Some(_), _) => "its log may say more",
        (None, ErrorKind::MasterNameNotFoundBySentinel) => {
            "no sentinel in fleet.url knows the master that fleet.sentinel names, or none answers"
        }
        (None, _) if text.contains("ertificate") => "set fleet.tls_ca to the authority that signed its certificate",
        (None, _) => REACH,
    };
    format!("{text}: {advice}")
}

/// What a server or an edge says, without anything that a terminal would obey.
fn shown(text: &str) -> String {
    printable(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use smtp_guard_core::fleet::message::Status;

    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let check = |software, version, expected| assert_eq!(is_too_old(software, version), expected, "{version}");
        check("redis", "6.2.0", false);
        check("redis", "7.0.15", false);
        check("redis", "10.0", false);
        check("redis", "6.0.16", true);
        check("redis", "5", true);
        check("valkey", "1.0", false);
        check("redis", "unstable", false);
        check("", "", false);
    }

    #[test]
    fn clocks_that_are_far_off_are_worth_a_word() {
        let check = |ms, expected: Option<&str>| {
            let said = clock_doubt(Offset(ms));
            assert_eq!(said.is_some(), expected.is_some(), "{ms}: {said:?}");
            assert!(said.iter().zip(expected).all(|(said, part)| said.contains(part)), "{said:?}");
        };
        check(0, None);
        check(-5_000, None);
        check(-65_300, Some("65 s behind the server's"));
        check(5_001, Some("5 s ahead of the server's"));
        check(i64::MIN, Some("behind"));
    }

    #[test]
    fn the_manual_allows_what_is_said_to_be_needed() {
        let manual = include_str!("../../../docs/fleet.md");
        assert!(manual.contains(&format!("~sg:{{edge}}:* {RULES}")), "{RULES}");
    }

    fn seal(key: &str) -> Seal {
        Seal::new("edge", key.repeat(64).as_bytes()).unwrap()
    }

    /// What `node` says of itself under `key`.
    fn status(node: &str, key: &str) -> (String, Vec<u8>) {
        let status = Status {
            node: node.to_owned(),
            run: 1,
            version: String::from("1.2.3"),
            at: 1,
            offset: 0,
            cursor: String::new(),
            muted: Vec::new(),
            kept: 0,
            lost: 0,
            void: Vec::new(),
        };
        (node.to_owned(), seal(key).seal(&Message::Status(Box::new(status))).unwrap())
    }

    /// What is said of edges: those with our key, troubles and doubts by a part of each.
    #[track_caller]
    fn check(nodes: Vec<(String, Vec<u8>)>, edges: &[&str], troubles: &[&str], doubts: &[&str]) {
        let mut looked = Looked { found: Some(Found::default()), ..Looked::default() };
        compare(&seal("5"), nodes, &mut looked);
        assert_eq!(looked.found.unwrap().edges, edges);
        for (said, expected) in [(looked.troubles, troubles), (looked.doubts, doubts)] {
            assert_eq!(said.len(), expected.len(), "{said:?}");
            assert!(said.iter().zip(expected).all(|(said, part)| said.contains(part)), "{said:?}");
        }
    }

    #[test]
    fn edges_with_another_key_are_named() {
        check(vec![], &[], &[], &[]);
        check(vec![status("mx2", "5"), status("mx1", "5")], &["mx1", "mx2"], &[], &[]);
        check(vec![status("mx3", "6"), status("mx2", "6")], &[], &["what mx2, mx3 says carries another key"], &[]);
        check(vec![status("mx1", "5"), status("mx2", "6")], &["mx1"], &[], &["what mx2 says"]);
        let mut newer = status("mx4", "5");
        newer.1[3] += 1;
        check(vec![newer], &[], &[], &["mx4 and this edge can't read"]);
        // Under another's name, and junk.
        check(vec![("mx9".to_owned(), status("mx2", "5").1), ("x".to_owned(), b"junk".to_vec())], &[], &[], &[]);
        let many = (10..30).map(|n| status(&format!("mx{n}\x1b"), "6")).collect();
        check(many, &[], &["mx17\\x1b and 12 more says"], &[]);
    }
}
