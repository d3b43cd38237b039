//! The tests of the whole: one binary, since each one links the guard again. A subject is a module; `cargo xtask test SUBJECT`
//! runs it alone.

mod auth;
mod backend;
mod bad_input;
mod blocklists;
mod burst;
mod catch_all;
mod checks;
mod concurrency;
mod dns_real;
mod dovecot_submission;
mod fail2ban;
mod fastopen;
mod faults;
mod first_try;
mod harvest;
mod identity;
mod interop;
mod killed;
mod lifecycle;
mod links;
mod mail_flow;
mod metrics;
mod networks;
mod places;
mod policy;
mod rates;
mod recipients;
mod reload;
mod setup;
mod stress;
mod tls;
mod top;
mod unprivileged;
mod upgrade;
mod users;
