//! Messages to the service manager, by sd_notify(3). If no manager asked for messages, none are sent.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::feedback::Feedback;

/// Beyond the time for sessions: what closing the store may take, and room to spare.
const CLOSING: Duration = Duration::from_secs(20);

/// The guard listens.
pub(super) async fn ready() {
    tell(vec![NotifyState::Ready]).await;
}

/// The guard ends, and waits at most `drain` for its sessions: as long is what the unit says of the time to stop no matter.
pub(super) async fn stopping(drain: Duration) {
    let patience = u32::try_from(drain.saturating_add(CLOSING).as_micros()).unwrap_or(u32::MAX);
    tell(vec![NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(patience)]).await;
}

/// Says again and again that the guard is alive, as often as the unit wants to hear it (`WatchdogSec=`): this task runs, so the
/// runtime does, and the ledger's task answers. Never ends where the unit asks for it.
pub(super) async fn watchdog(feedback: Feedback) {
    let Some(patience) = sd_notify::watchdog_enabled() else { return };
    let pace = patience / 4;
    loop {
        match tokio::time::timeout(pace, feedback.is_alive()).await {
            Ok(true) => tell(vec![NotifyState::Watchdog]).await,
            Ok(false) | Err(_) => {
                tracing::warn!("the ledger's task does not answer: the service manager is not told that all is well")
            }
        }
        tokio::time::sleep(pace).await;
    }
}

/// The service manager may be slow to read: that is not for a thread of the runtime.
async fn tell(what: Vec<NotifyState<'static>>) {
    // An error means that nobody hears it; a panic is in the log.
    let _ = tokio::task::spawn_blocking(move || sd_notify::notify(&what)).await;
}
