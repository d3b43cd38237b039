//! Question and answer of `smtp-guard try`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::clock::Seconds;
use crate::config::{ConfigFile, Role};
use crate::decision::Explanation;

/// A client as it might come: what it says, without a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    pub ip: IpAddr,
    pub helo: String,
    /// With or without angle brackets; empty for a bounce.
    pub mail_from: Option<String>,
    pub rcpt_to: Vec<String>,
    /// As if this user had logged in.
    #[serde(default)]
    pub user: Option<String>,
    /// The port that it connects to.
    #[serde(default)]
    pub role: Role,
    /// After STARTTLS.
    #[serde(default)]
    pub tls: bool,
    /// The configuration to judge by, in place of the one in force.
    #[serde(default)]
    pub config: Option<Candidate>,
}

/// A configuration that may not be in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Candidate {
    /// The main file, and its drop-ins; of at most [`crate::config::FILE_BYTES`] together.
    pub files: Vec<ConfigFile>,
}

/// The outcome of an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rehearsal {
    /// The file that was judged by, if it isn't in force, and the keys in which it differs.
    #[serde(default)]
    pub by: Option<String>,
    pub explanation: Explanation,
    /// Which of the limits and checks apply to the client, and why others don't.
    pub rules: Vec<String>,
    /// Facts from DNS.
    pub found: Vec<String>,
    pub steps: Vec<Step>,
}

/// One thing that the client does, and what comes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// A command line; empty for the connection itself.
    pub said: String,
    /// The reply; none where the connection would be dropped without one.
    pub heard: Option<String>,
    /// How long the client would wait for it because of a rule, in ms.
    pub wait_seconds: Seconds,
    /// Reasons of the reply, and refusals of checks that only observe.
    pub because: Vec<Because>,
    /// Whether it would be passed on; then the mail server's own reply would be the client's.
    pub passed_on: bool,
}

/// Why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Because {
    /// Label of the reason, as in metrics.
    pub reason: String,
    pub text: String,
    pub observed: bool,
}
