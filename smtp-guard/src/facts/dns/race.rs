//! Several futures at once, without tasks: dropping the race drops them all.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Runs `futures` until `judge` has seen enough, or all have ended. Meant for a handful: each is polled when one wakes.
pub(super) async fn race<F: Future, R>(futures: Vec<F>, mut judge: impl FnMut(F::Output) -> Option<R>) -> Option<R> {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    poll_fn(|cx| {
        let mut judged = None;
        running.retain_mut(|future| match future.as_mut().poll(cx) {
            _ if judged.is_some() => true,
            Poll::Pending => true,
            Poll::Ready(output) => {
                judged = judge(output);
                false
            }
        });
        if judged.is_some() || running.is_empty() { Poll::Ready(judged) } else { Poll::Pending }
    })
    .await
}
