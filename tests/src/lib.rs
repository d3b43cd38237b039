//! The harness that the tests of the whole share: namespaces, real programs, real mail servers, the guard.
//!
//! Everything is made by the test that uses it, under names of its own, and removed when it is dropped, also when the
//! test panics. What a killed test left behind is removed by the next one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a harness fails by panicking, with what it saw"
)]

pub mod browser;
pub mod clients;
pub mod dovecot;
pub mod exim;
pub mod fleet;
pub mod forge;
pub mod guard;
pub mod held;
#[path = "../../smtp-guard/tests/json_page/mod.rs"]
mod json_page;
#[path = "../../smtp-guard/tests/long/mod.rs"]
pub mod long;
pub mod mailboxes;
pub mod named;
pub mod netns;
pub mod opensmtpd;
pub mod pki;
pub mod postfix;
pub mod probe;
pub mod process;
pub mod redis;
pub mod room;
pub mod sink;
pub mod standin;
pub mod stress;
pub mod talk;
pub mod terminal;

pub use dovecot::Dovecot;
pub use exim::Exim;
pub use guard::Guard;
pub use held::Held;
pub use mailboxes::Server;
pub use named::Named;
pub use netns::{Host, World};
pub use opensmtpd::Opensmtpd;
pub use postfix::Postfix;
pub use process::{Program, Run, run, two_at_a_time, wait_for, wait_up_to};
pub use redis::Redis;
pub use room::Room;
pub use standin::StandIn;
pub use terminal::Terminal;
