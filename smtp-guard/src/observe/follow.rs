//! Events as JSON lines over the admin socket: those that are kept, or as they happen.
//!
//! # Bounds
//! [`FOLLOWERS`] at once; who is beyond hears 503. A follower that takes no line for [`PATIENCE`] is closed. What it missed by being
//! slow is told in a line of its own. A connection lives as long as any other one of the admin socket: a follower connects
//! again and says which event it had last.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::events::{Batch, Bus, Event, KEPT, Subscriber};

/// Followers at once.
pub const FOLLOWERS: usize = 4;
/// How long a follower may take for what was sent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Events that a follower is shown at first, of those before it came.
const BEFORE: u64 = 10;
/// Parts that wait for the socket.
const PARTS: usize = 2;
/// How often something is sent where nothing happens: it shows which followers are gone.
const QUIET: Duration = Duration::from_secs(15);

/// The question of a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// Go on with what happens from now on.
    #[serde(default)]
    pub follow: bool,
    /// The number of the last event that is known already.
    pub after: Option<u64>,
}

/// A line of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    Event(Arc<Event>),
    /// So many events were missed.
    Lost {
        lost: u64,
    },
}

/// Room for followers. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Followers(Arc<Semaphore>);

impl Default for Followers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FOLLOWERS)))
    }
}

/// The answer to `asked`; `None`: there are too many followers.
pub(super) fn answer(bus: &Bus, followers: &Followers, asked: Follow) -> Option<Response> {
    let most = if asked.follow { BEFORE } else { KEPT as u64 };
    let mut subscriber = asked.after.map_or_else(|| bus.subscribe(most), |after| bus.subscribe_after(after));
    let body = if asked.follow {
        let place = Arc::clone(&followers.0).try_acquire_owned().ok()?;
        let (parts, waiting) = mpsc::channel(PARTS);
        tokio::spawn(send(subscriber, parts, place));
        Body::new(Parts(waiting))
    } else {
        // What is published meanwhile must not keep it going.
        let mut text = Vec::new();
        for _ in 0..=KEPT / crate::events::BATCH {
            let batch = subscriber.take();
            if batch == Batch::default() {
                break;
            }
            append(&mut text, batch);
        }
        Body::from(text)
    };
    Some(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// Sends what `subscriber` gets, until the other end is gone or too slow.
async fn send(mut subscriber: Subscriber, parts: mpsc::Sender<Bytes>, place: OwnedSemaphorePermit) {
    loop {
        let batch = tokio::select! {
            () = parts.closed() => break,
            batch = tokio::time::timeout(QUIET, subscriber.next()) => batch,
        };
        let mut text = Vec::new();
        match batch {
            Ok(batch) => append(&mut text, batch),
            // An empty line.
            Err(_) => text.push(b'\n'),
        }
        match tokio::time::timeout(PATIENCE, parts.send(text.into())).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break,
        }
    }
    drop(place);
}

fn append(text: &mut Vec<u8>, Batch { lost, events }: Batch) {
    let lost = (lost > 0).then_some(Line::Lost { lost });
    for line in lost.into_iter().chain(events.into_iter().map(Line::Event)) {
        // Writing words and numbers to memory doesn't fail.
        if serde_json::to_writer(&mut *text, &line).is_ok() {
            text.push(b'\n');
        }
    }
}

/// The body of an answer that goes on.
pub(super) struct Parts(pub(super) mpsc::Receiver<Bytes>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|part| part.map(|part| Ok(Frame::data(part))))
    }
}
