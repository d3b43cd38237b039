//! A look at a server of the backend by hand, for `setup` and `check --connect`. It finds out what the server is, how it takes
//! us, and what it says of recipients that nobody has. The connection is opened as the guard opens it, and never gets as far as
//! DATA.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use super::catch_all::{self, Said};
use super::connect::{Caller, Connector};
use crate::addr::BackendAddr;
use crate::config::Config;
use crate::facts::unknown::{self, Wording};
use crate::session::Lost;

/// How long the server may take to get us to the point where MAIL may be sent: one that waits for a PROXY header says nothing.
const GREETED: Duration = Duration::from_secs(8);
/// How long it may take for all questions.
const ASKED: Duration = Duration::from_secs(30);
/// A recipient that no server behind a guard should take: it is of a domain for documentation (RFC 2606).
const ELSEWHERE: &str = "RCPT TO:<smtp-guard-probe@example.com>";

/// The findings about a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Our own address, as the server sees it.
    #[serde(rename = "own_address")]
    pub own: Option<IpAddr>,
    /// The text of its greeting.
    pub greeting: String,
    /// The connection was secured by STARTTLS.
    pub secured: bool,
    pub xclient: bool,
    pub smtputf8: bool,
    /// Bytes of a message; `None`: it doesn't say.
    #[serde(rename = "size_bytes")]
    pub size: Option<u64>,
    /// Whether it takes mail for a domain that isn't its own.
    pub relays: bool,
    #[serde(rename = "domains_asked")]
    pub domains: Vec<Domain>,
}

/// Its answers about recipients of one domain that nobody has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Domain {
    pub name: String,
    #[serde(flatten)]
    pub says: Unknown,
}

/// How a recipient that nobody has is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "says", rename_all = "snake_case")]
pub enum Unknown {
    /// Taken: the domain is a catch-all, or the server refuses later.
    Taken,
    /// Refused. `recognised`: by the profile, or in words that are learned.
    Refused { words: String, recognised: bool },
    /// In no way that says something.
    Unclear,
}

/// Looks at `server` as `config` has the guard connect, and asks about `config`'s domains. `Err`: why it can't be used, in words.
pub async fn look(config: &Config, server: &BackendAddr) -> Result<Found, String> {
    let connector = Connector::new(Arc::new(config.clone())).map_err(|error| error.to_string())?;
    let open = async {
        let addresses = connector.addresses(server).await?;
        connector.open(server, &addresses, &Caller::Probe).await
    };
    let mut channel = match timeout(GREETED, open).await {
        Ok(opened) => opened.map_err(|error| error.to_string())?,
        Err(_) => return Err(String::from("says nothing: it may wait for a PROXY header")),
    };
    let found = Found {
        own: channel.stream.socket().and_then(|socket| socket.local_addr().ok()).map(|own| own.ip().to_canonical()),
        greeting: channel.greeting.clone(),
        secured: channel.secured,
        xclient: channel.capabilities.xclient.addr,
        smtputf8: channel.capabilities.smtputf8,
        size: channel.capabilities.size.flatten(),
        relays: false,
        domains: Vec::new(),
    };
    let questions = async {
        let relays = catch_all::say(&mut channel, "MAIL FROM:<>").await?.code().class() == 2
            && catch_all::say(&mut channel, ELSEWHERE).await?.code().class() == 2;
        catch_all::say(&mut channel, "RSET").await?;
        let mut domains = Vec::new();
        for name in &config.relay.domains {
            let says = match catch_all::inquire(&mut channel, name).await? {
                Said::Takes => Unknown::Taken,
                Said::Unclear => Unknown::Unclear,
                Said::Refuses(refusals) => {
                    let [(one, recipient), (other, second)] = &refusals.replies;
                    let enhanced = one.enhanced().map(|enhanced| enhanced.parts());
                    let profile = config.backend.profile;
                    let recognised =
                        unknown::is_unknown(profile, one.code().get(), enhanced, one.last_line(), recipient)
                            || refusals.postmaster && Wording::learn([(one, recipient), (other, second)]).is_some();
                    Unknown::Refused { words: one.to_string(), recognised }
                }
            };
            domains.push(Domain { name: name.clone(), says });
        }
        Ok::<_, Lost>((relays, domains))
    };
    let asked = timeout(ASKED, questions).await;
    let (relays, domains) = match asked {
        Ok(Ok(asked)) => asked,
        Ok(Err(lost)) => return Err(format!("broke off while it was asked about recipients: {lost:?}")),
        Err(_) => return Err(String::from("did not answer questions about recipients in time")),
    };
    channel.quit().await;
    Ok(Found { relays, domains, ..found })
}
