//! A start with certificates that can't be used.
//!
//! Servers that deliver mail use TLS where it is offered, and deliver in clear text where it isn't. Those that insist on TLS
//! keep their mail and try again. So ports for them are opened without STARTTLS, as loudly as can be. A guard that didn't start
//! would leave all mail outside until somebody looks. Ports for users stay closed: without TLS they are no use, and a program
//! that is refused tries again later. The files are read again and again; a pair that can be used is in force without a
//! restart.

use std::sync::Arc;
use std::time::Duration;

use super::Guard;
use crate::config::{Config, Role, Tls};
use crate::observe::budget::Reminder;
use crate::relay;

/// How often the files are read again.
const RETRY: Duration = Duration::from_secs(5);

/// Certificates that the guard started without.
pub(super) struct Missing {
    tls: Tls,
    /// The reminder about it.
    told: Reminder,
    pub(super) why: String,
}

/// `config`, or what of it works without the certificates if they can't be used now. Blocks while files are read.
pub(super) fn usable(mut config: Config) -> (Config, Option<Missing>) {
    let Some(Err(error)) = config.tls.as_ref().map(|tls| relay::try_load(tls, crate::clock::wall())) else {
        return (config, None);
    };
    let Some(tls) = config.tls.take() else { return (config, None) };
    let closed: Vec<_> =
        config.listen.iter().filter(|listen| listen.role != Role::Mx).map(|l| l.address.to_string()).collect();
    config.listen.retain(|listen| listen.role == Role::Mx);
    let closed = if closed.is_empty() { String::new() } else { format!(", and {} not opened", closed.join(", ")) };
    let why = format!("{error}; until it can be used STARTTLS is not offered{closed}");
    tracing::error!("started WITHOUT TLS: {why}");
    let mut told = Reminder::default();
    told.is_due(&error.to_string(), crate::clock::now());
    (config, Some(Missing { tls, told, why }))
}

/// Has the configuration applied as it is in the file as soon as `missing` can be used.
pub(super) async fn wait_for(mut missing: Missing, guard: Arc<Guard>) {
    loop {
        tokio::time::sleep(RETRY).await;
        // A reload by somebody else has read them.
        if guard.seen().without_tls.is_none() {
            return;
        }
        let tls = missing.tls.clone();
        let read = tokio::task::spawn_blocking(move || relay::try_load(&tls, crate::clock::wall())).await;
        match read {
            // Where it is refused the log says so.
            Ok(Ok(_)) => {
                if guard.reload(false).await.is_ok() {
                    return tracing::info!("the certificate can be used: TLS is offered now");
                }
            }
            Ok(Err(error)) if missing.told.is_due(&error.to_string(), crate::clock::now()) => {
                tracing::error!(%error, "still WITHOUT TLS: the certificate can't be used");
            }
            Ok(Err(_)) | Err(_) => {}
        }
    }
}
