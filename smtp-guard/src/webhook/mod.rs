//! A webhook: events go to a program of the operator's by HTTP. What is sent when is [`smtp_guard_core::webhook`].
//!
//! Everything here runs on one thread, with a runtime of its own, which subscribes to the bus like any follower. So a
//! receiver or a resolver that hangs delays nothing but events, whose queue is bounded.
//!
//! # Limits
//! Each request has a connection of its own: there are at most five a second, and mostly none. HTTP/1.1; no proxy;
//! redirects are not followed. When the guard ends, what waits is tried once more, for [`LAST`] at most.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smtp_guard_core::webhook::{Batch, Fate, Outbox, WebhookStatus};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::chance::number;
use crate::clock::WallTime;
use crate::events::{self, Bus, Event, Subscriber, What};

mod request;
mod settings;

use request::Body;
pub use settings::{Settings, WebhookError};

/// How long the guard's end may be put off for events that wait.
pub const LAST: Duration = Duration::from_secs(2);

/// The webhook, whether there is one or not. Cheap to clone.
#[derive(Clone)]
pub struct Webhook(Arc<Inner>);

struct Inner {
    bus: Bus,
    full: Box<dyn Fn() + Send + Sync>,
    run: String,
    running: Mutex<Option<Running>>,
    state: Mutex<State>,
}

/// The thread, while there is a receiver.
struct Running {
    settings: Settings,
    orders: watch::Sender<Order>,
    ended: oneshot::Receiver<()>,
}

/// An order for the thread. Where nobody orders any more, the thread ends at once.
#[derive(Clone, Debug)]
enum Order {
    Tell(Settings),
    /// Try once more, and end.
    Finish(Settings),
}

/// The state that is shown.
#[derive(Default)]
struct State {
    outbox: Outbox<Arc<Event>>,
    last_success: Option<WallTime>,
    trouble: Option<String>,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").finish_non_exhaustive()
    }
}

impl Webhook {
    /// No receiver yet, for events of `bus`. `full` is called when an event has to go for want of room.
    pub fn new(bus: Bus, full: impl Fn() + Send + Sync + 'static) -> Self {
        let (running, state) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { bus, full: Box::new(full), run: run(), running, state }))
    }

    /// Tells the receiver of `settings`, or nobody, from now on. `after`: the number of the last event that it isn't told of, where it
    /// is a new one.
    pub fn apply(&self, settings: Option<Settings>, after: u64) {
        let mut running = lock(&self.0.running);
        match (running.as_ref(), settings) {
            (Some(running), Some(settings)) if running.settings == settings => {}
            (None, None) => {}
            (_, None) => {
                // The thread ends when nobody orders any more.
                *running = None;
                let mut state = self.0.state();
                state.trouble = None;
                let waiting = state.outbox.clear();
                if waiting > 0 {
                    tracing::warn!(
                        waiting,
                        "events that waited for the webhook are told to nobody: there is none any more"
                    );
                }
            }
            (Some(_), Some(settings)) => {
                if let Some(running) = running.as_mut() {
                    running.orders.send_replace(Order::Tell(settings.clone()));
                    running.settings = settings;
                }
            }
            (None, Some(settings)) => match start(&self.0, settings, after) {
                Ok(started) => *running = Some(started),
                Err(error) => {
                    tracing::error!(%error, "the webhook's thread can't be started: nobody is told of events")
                }
            },
        }
    }

    /// Tries once more what waits, and ends, within [`LAST`].
    pub async fn finish(&self) {
        let Some(running) = lock(&self.0.running).take() else { return };
        running.orders.send_replace(Order::Finish(running.settings));
        // It was dropped: the thread has ended.
        let _ = tokio::time::timeout(LAST, running.ended).await;
        let waiting = self.0.state().outbox.waiting();
        if waiting > 0 {
            tracing::warn!(waiting, "events were not told to the webhook, which didn't take them before the end");
        }
    }

    /// How it goes; `None`: there is no receiver.
    pub fn status(&self) -> Option<WebhookStatus> {
        let server = lock(&self.0.running).as_ref()?.settings.endpoint.place();
        let state = self.0.state();
        let counts = state.outbox.counts();
        Some(WebhookStatus {
            server,
            events_waiting: state.outbox.waiting(),
            events_delivered: counts.delivered,
            events_dropped: counts.dropped,
            requests_failed: counts.failures,
            last_success: state.last_success,
            trouble: state.trouble.clone(),
        })
    }
}

/// Sends the receiver of `settings` one event that says that nothing happened. The error says why it wasn't taken.
pub async fn probe(settings: &Settings) -> Result<(), String> {
    let text = String::from("smtp-guard check --connect");
    let event = Event { number: 0, at: crate::clock::wall(), what: What::Test { text } };
    let batch = Batch { number: 0, lost: 0, events: vec![Arc::new(event)] };
    let (name, body) = written(settings, &run(), &batch)?;
    match request::post(settings, &name, body).await {
        (Fate::Taken, _) => Ok(()),
        (Fate::Later(_) | Fate::Refused, why) => Err(why.unwrap_or_default()),
    }
}

/// The name of a batch, and the body that tells its events.
fn written(settings: &Settings, run: &str, batch: &Batch<Arc<Event>>) -> Result<(String, Vec<u8>), String> {
    let name = format!("{run}-{}", batch.number);
    let body = Body {
        version: events::VERSION,
        hostname: &settings.hostname,
        run,
        batch: &name,
        lost: batch.lost,
        events: &batch.events,
    };
    // Writing words and numbers to memory doesn't fail.
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    Ok((name, body))
}

/// Starts the thread.
fn start(inner: &Arc<Inner>, settings: Settings, after: u64) -> std::io::Result<Running> {
    let (orders, ordered) = watch::channel(Order::Tell(settings.clone()));
    let (done, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let subscriber = inner.bus.subscribe_after(after);
    let task = Task { inner: Arc::clone(inner), settings: settings.clone(), subscriber, sending: JoinSet::new() };
    std::thread::Builder::new().name("webhook".to_owned()).spawn(move || {
        runtime.block_on(task.run(ordered));
        // A look-up that hangs isn't waited for.
        runtime.shutdown_background();
        // Nobody may wait for it.
        let _ = done.send(());
    })?;
    Ok(Running { settings, orders, ended })
}

/// The thread's task.
struct Task {
    inner: Arc<Inner>,
    settings: Settings,
    subscriber: Subscriber,
    /// The request that is under way, if any.
    sending: JoinSet<(Fate, Option<String>)>,
}

impl Task {
    async fn run(mut self, mut orders: watch::Receiver<Order>) {
        loop {
            let due = if self.sending.is_empty() { self.inner.state().outbox.due() } else { None };
            let pause = due.map(|due| due.since(crate::clock::now()));
            tokio::select! {
                order = orders.changed() => {
                    if order.is_err() {
                        return;
                    }
                    let order = orders.borrow_and_update().clone();
                    match order {
                        Order::Tell(settings) => {
                            self.settings = settings;
                            self.inner.state().outbox.try_again();
                        }
                        Order::Finish(settings) => {
                            self.settings = settings;
                            return self.finish().await;
                        }
                    }
                }
                batch = self.subscriber.next() => self.keep(batch),
                Some(answered) = self.sending.join_next() => self.answered(answered.ok()),
                () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => self.send(),
            }
        }
    }

    /// Tells what there is, until something isn't taken. The caller waits only so long.
    async fn finish(mut self) {
        loop {
            let batch = self.subscriber.take();
            if batch == events::Batch::default() {
                break;
            }
            self.keep(batch);
        }
        self.inner.state().outbox.try_again();
        loop {
            if self.sending.is_empty() {
                self.send();
            }
            let Some(answered) = self.sending.join_next().await else { return };
            let failures = self.inner.state().outbox.counts().failures;
            self.answered(answered.ok());
            if self.inner.state().outbox.counts().failures > failures {
                return;
            }
        }
    }

    /// Keeps what the receiver is told of.
    fn keep(&self, events::Batch { lost, events }: events::Batch) {
        let now = crate::clock::now();
        let mut full = 0;
        let mut state = self.inner.state();
        if lost > 0 {
            state.outbox.missed(lost);
        }
        for event in events.into_iter().filter(|event| self.settings.tells(event.what.kind())) {
            full += u32::from(!state.outbox.push(event, now));
        }
        drop(state);
        (0..full).for_each(|_| (self.inner.full)());
    }

    /// Begins a request, if there is something to tell.
    fn send(&mut self) {
        let mut state = self.inner.state();
        let written = state.outbox.take().map(|batch| written(&self.settings, &self.inner.run, batch));
        drop(state);
        let settings = self.settings.clone();
        match written {
            None => {}
            Some(Ok((name, body))) => {
                self.sending.spawn(async move { request::post(&settings, &name, body).await });
            }
            Some(Err(why)) => {
                self.sending.spawn(async move { (Fate::Refused, Some(why)) });
            }
        }
    }

    /// A request is over; `None`: it broke off, as the log says.
    fn answered(&self, answered: Option<(Fate, Option<String>)>) {
        let (fate, why) = answered.unwrap_or((Fate::Later(Duration::ZERO), Some(String::from("it broke off"))));
        let place = self.settings.endpoint.place();
        let mut state = self.inner.state();
        let events = state.outbox.take().map_or(0, |batch| batch.events.len());
        state.outbox.answered(fate, crate::clock::now(), chance());
        let before = std::mem::replace(&mut state.trouble, why);
        if fate == Fate::Taken {
            state.last_success = Some(crate::clock::wall());
        }
        let now = state.trouble.clone();
        drop(state);
        match (before, now, fate) {
            (Some(_), None, _) => tracing::info!(webhook = place, "the webhook takes events again"),
            (before, Some(why), Fate::Refused) if before.as_ref() != Some(&why) => {
                tracing::warn!(
                    webhook = place,
                    why,
                    events,
                    "the webhook refuses events: it isn't told of these again"
                );
            }
            (None, Some(why), _) => {
                tracing::warn!(webhook = place, why, "the webhook doesn't take events: they wait, and are sent again");
            }
            _ => {}
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A name that no other start has.
fn run() -> String {
    format!("{:016x}", number())
}

/// 0.0 to 1.0.
fn chance() -> f64 {
    (number() >> 11) as f64 / (1u64 << 53) as f64
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere can't leave it half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, EventKind};

    fn settings() -> (tempfile::TempDir, Settings) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "x".repeat(32)).unwrap();
        let mut config = Config::builtin();
        config.events.webhook = Some("http://127.0.0.1:1/hook?token=t".parse().unwrap());
        config.events.secret_file = Some(path);
        let settings = Settings::load(&config).unwrap().unwrap();
        (folder, settings)
    }

    #[test]
    fn a_body_is_as_the_manual_says() {
        let (_folder, settings) = settings();
        let what = What::Backend { server: String::from("192.0.2.7:25"), answers: false };
        let event = Event { number: 7, at: WallTime::from_ms(0), what };
        let batch = Batch { number: 3, lost: 2, events: vec![Arc::new(event)] };
        let (name, body) = written(&settings, "5f", &batch).unwrap();
        assert_eq!(name, "5f-3");
        let expected = "{\"version\":2,\"hostname\":\"localhost\",\"run\":\"5f\",\"batch\":\"5f-3\",\"lost\":2,\"events\":[{\"number\":7,\
                        \"at\":\"1970-01-01T00:00:00.000Z\",\"event\":\"backend\",\"server\":\"192.0.2.7:25\",\"answers\":false}]}";
        assert_eq!(String::from_utf8(body).unwrap(), expected);
    }

    #[test]
    fn what_clients_cause_is_told_only_where_it_is_asked_for() {
        let (_folder, mut settings) = settings();
        let told = |settings: &Settings| EventKind::NAMES.iter().filter(|(_, kind)| settings.tells(*kind)).count();
        assert_eq!(told(&settings), EventKind::NAMES.len() - 3);
        assert!(!settings.tells(EventKind::Message) && settings.tells(EventKind::Banned));
        settings.config.kinds = vec![EventKind::Message];
        assert!(settings.tells(EventKind::Message) && told(&settings) == 1);
    }

    /// The fault of the files that a webhook names.
    #[track_caller]
    fn check(secret: Option<&str>, authorities: Option<&str>, key: &str, part: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: Option<&str>| {
            let path = folder.path().join(name);
            content.iter().for_each(|content| std::fs::write(&path, content).unwrap());
            path
        };
        let mut config = Config::builtin();
        config.events.webhook = Some("https://ops.example.org/".parse().unwrap());
        config.events.secret_file = Some(file("key", secret));
        config.events.tls_ca = Some(file("ca.pem", authorities));
        let error = Settings::load(&config).unwrap_err();
        assert_eq!(error.place().unwrap().0, key);
        assert!(error.to_string().contains(part), "{error}");
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let secret = "0123456789abcdef0123456789abcdef";
        check(None, None, "events.secret_file", "No such file");
        check(Some(""), None, "events.secret_file", "less than 32 bytes");
        check(Some("short\n"), None, "events.secret_file", "openssl rand");
        check(Some(secret), None, "events.tls_ca", "No such file");
        check(Some(secret), Some(""), "events.tls_ca", "holds no certificate");
        check(Some(secret), Some("-----BEGIN CERTIFICATE-----\n!\n"), "events.tls_ca", "PEM");
    }

    #[test]
    fn nobody_is_told_where_there_is_no_webhook() {
        let webhook = Webhook::new(Bus::default(), || {});
        webhook.apply(None, 0);
        assert_eq!(webhook.status(), None);
        assert!(Settings::load(&Config::builtin()).unwrap().is_none());
    }
}
