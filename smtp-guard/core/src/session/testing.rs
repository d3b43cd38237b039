//! Sessions without a connection, for what drives them in virtual time: dialogues, properties, fuzz targets, the trial and benches.
//!
//! With the feature `testing` only. What each of them decides by itself (what the backend says, when time passes, what must hold)
//! stays with it; here is what they begin with. The client's bytes they read by [`super::Intake`], as the driver does.

use std::sync::Arc;

use super::{Input, Opening, Secured, Upstream};
use crate::addr::ClientAddr;
use crate::clock::{Both, Instant, WallTime};
use crate::config::{Config, Role, Tls};
use crate::snapshot::Snapshot;
use crate::wire::command;
use crate::wire::reply::Reply;

/// The result of a handshake.
pub const SECURED: Secured = Secured { version: "TLSv1.3", cipher: "TLS13_AES_256_GCM_SHA384" };

/// When virtual time begins, on the wall: in November 2026.
pub const WALL: WallTime = WallTime::from_ms(1_795_518_000_000);

/// The built-in configuration of `mx.example.org`, for mail to `example.org`, after `change`.
pub fn snapshot(change: impl FnOnce(&mut Config)) -> Arc<Snapshot> {
    let mut config = Config::builtin();
    "mx.example.org".clone_into(&mut config.hostname);
    config.relay.domains = vec!["example.org".to_owned()];
    change(&mut config);
    Arc::new(Snapshot::new(Arc::new(config), None))
}

/// A certificate that nobody reads, by which STARTTLS is offered.
pub fn certificate() -> Option<Tls> {
    Some(Tls { certificate: "/c".into(), key: "/k".into(), also: Vec::new() })
}

/// The start of a session: a familiar client at 192.0.2.1, in clear text, at time 0; the backend offers nothing.
pub fn opening(rules: Arc<Snapshot>) -> Opening {
    Opening {
        id: "id-1".to_owned(),
        addr: ClientAddr::new(([192, 0, 2, 1], 40_000).into()),
        role: Role::Mx,
        secured: None,
        rules,
        backend: Arc::default(),
        familiar: true,
        clock: Both { instant: Instant::from_ns(0), wall: WALL },
    }
}

/// A whole command line, without its end; `more`: the client has sent something behind it.
pub fn line(text: &str, more: bool) -> Input {
    Input::Command { command: command::parse(text.as_bytes()), more }
}

/// The backend's reply.
pub fn reply(code: u16) -> Input {
    Input::Upstream(Upstream::Reply(Reply::new(code, None, "text")))
}
