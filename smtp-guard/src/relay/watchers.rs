//! The tasks that look after what a generation has: whether the backend answers, what its files hold, what the backend says.
//!
//! A new generation goes on with those that it has no reason to begin again.

use std::sync::Arc;

use tokio::task::AbortHandle;

use super::{Generation, Shared, Stop, catch_all, recipients};

/// The tasks of the current generation. They end with it.
#[derive(Debug, Default)]
pub struct Watchers {
    generation: Option<Arc<Generation>>,
    pool: Option<Task>,
    certificates: Option<Task>,
    resolver: Option<Task>,
    recipients: Option<Task>,
    catch_alls: Option<Task>,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
struct Task(AbortHandle);

impl Task {
    fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Option<Self> {
        Some(Self(tokio::spawn(task).abort_handle()))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Watchers {
    /// Looks after `shared`'s current generation, until `stop`.
    pub fn follow(&mut self, shared: &Arc<Shared>, stop: &Stop) {
        let now = shared.current();
        let before = self.generation.replace(Arc::clone(&now));
        let before = before.as_ref();
        let same_pool = before.is_some_and(|before| Arc::ptr_eq(&before.pool, &now.pool));
        if !same_pool {
            if let Some(before) = before {
                before.pool.forget(&now.pool);
            }
            let (pool, stop) = (Arc::clone(&now.pool), stop.clone());
            self.pool = Task::spawn(async move { pool.watch(stop).await });
        }
        self.certificates = now.tls.clone().and_then(|tls| {
            let (metrics, events, stop) = (shared.metrics.clone(), shared.events.clone(), stop.clone());
            Task::spawn(async move { tls.watch(metrics, events, stop).await })
        });
        let resolver = now.resolver.clone().filter(|resolver| resolver.is_of_system());
        self.resolver = resolver.and_then(|resolver| Task::spawn(resolver.follow_system()));
        let table = |generation: &Generation| generation.snapshot.known_table();
        let same_table = before.is_some_and(|before| match (table(before), table(&now)) {
            (Some(before), Some(now)) => Arc::ptr_eq(&before, &now),
            (before, now) => before.is_none() && now.is_none(),
        });
        if !same_table {
            self.recipients = Task::spawn(recipients::watch(Arc::clone(shared), Arc::clone(&now), stop.clone()));
        }
        let domains = |generation: &Generation| catch_all::domains(generation.config());
        if !same_pool || before.is_none_or(|before| domains(before) != domains(&now)) {
            self.catch_alls = Task::spawn(catch_all::watch(Arc::clone(shared), Arc::clone(&now), stop.clone()));
        }
    }
}
