//! The background probe: connect, EHLO, QUIT. What it learns is what EHLO offers, so that scanners never reach the
//! backend and nothing is offered that it can't take.

use std::sync::Arc;
use std::time::Duration;

use super::backend::Connection;
use super::{Shared, Stop};
use crate::wire::ehlo::Capabilities;

/// Time between two probes while the backend answers, and while it doesn't.
const HEALTHY: Duration = Duration::from_secs(60);
const ILL: Duration = Duration::from_secs(2);

/// Probes until `stop`.
pub(super) async fn run(shared: Arc<Shared>, mut stop: Stop) {
    let mut healthy = None;
    loop {
        let found = tokio::select! {
            biased;
            () = stop.requested() => return,
            found = probe(&shared) => found,
        };
        let now_healthy = found.is_some();
        if healthy.replace(now_healthy) != Some(now_healthy) {
            if now_healthy {
                tracing::info!("backend answers");
            } else {
                tracing::warn!("no backend answers; clients hear 451 until one does");
            }
        }
        // While none answers the last knowledge stands: it decides only what is offered.
        if let Some(capabilities) = found {
            shared.capabilities.store(Arc::new(capabilities));
        }
        let pause = if now_healthy { HEALTHY } else { ILL };
        tokio::select! {
            biased;
            () = stop.requested() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What all servers that answer have in common.
async fn probe(shared: &Shared) -> Option<Capabilities> {
    let mut common: Option<Capabilities> = None;
    for server in &shared.config.backend.servers {
        if let Ok(connection) = Connection::open(*server, &shared.config).await {
            let found = connection.capabilities.clone();
            connection.quit().await;
            common = Some(match common {
                Some(common) => common.intersection(&found),
                None => found,
            });
        }
    }
    common
}
