//! `smtp-guard top`: the running guard on a full screen, asked again and again.
//!
//! Four parties work together:
//!
//! - a thread that asks the guard; each question may take its 5 seconds;
//! - a thread that carries out the operator's orders;
//! - a thread that waits for keys;
//! - the loop that draws.
//!
//! The threads hand over through one bounded channel and end with the process; nothing of theirs needs an end of its own.
//! [`Screen`] gives the terminal back when it is dropped, whatever the way out. After a panic, the panic hook does so
//! before the message is printed. SIGTERM, SIGINT and SIGHUP end the loop like the key q. SIGKILL can't be met: `reset`
//! helps then.

use std::io::{self, IsTerminal as _};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ratatui::DefaultTerminal;
use ratatui::backend::Backend as _;
use ratatui::crossterm::event::{self, Event};
use ratatui::crossterm::style::force_color_output;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::admin_client::AdminClient;
use super::output;
use crate::observe::live::Live;

mod deeds;
mod model;
mod numbers;
mod panels;
mod screen;
mod state;
mod tables;
mod theme;

use deeds::{Deed, Done};
use state::{Flow, State};
use theme::Theme;

/// Keys and answers that wait to be looked at.
const WAITING: usize = 16;
/// The screen is drawn at least so often, for the time that goes by.
const TICK: Duration = Duration::from_secs(1);

const ENDED: &str = "the threads behind the view have ended";

/// What the loop is told.
enum Told {
    Key(Event),
    Answer(Box<anyhow::Result<Live>>),
    Done(Result<Done, String>),
    /// The terminal can't be read any more.
    Gone(io::Error),
}

/// One snapshot as JSON.
pub(super) fn json(client: &AdminClient) -> anyhow::Result<()> {
    let live = client.live()?;
    output::show(true, &live, String::new)
}

/// The view, until it is left.
pub(super) fn view(client: AdminClient, interval: Duration) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        bail!(
            "`top` needs a terminal for its input and output; \
             `smtp-guard top --json` prints one snapshot, `smtp-guard status --json` the short one"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(show(client, interval))
}

async fn show(client: AdminClient, interval: Duration) -> anyhow::Result<()> {
    let watch = |kind| signal(kind).context("signals can't be watched");
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let [mut terminate, mut interrupt, mut hangup] = watch_all(kinds, watch)?;
    let no_color = std::env::var_os("NO_COLOR");
    let theme = Theme::new(no_color.as_deref());
    // The theme knows NO_COLOR; the library would end bold and reversed with every colour that it leaves out.
    force_color_output(true);
    let mut screen = Screen::open()?;
    let (sender, mut inbox) = mpsc::channel(WAITING);
    let (keys, done, hand) = (sender.clone(), sender.clone(), client.clone());
    // One at a time: the state sees to it.
    let (order, orders) = std::sync::mpsc::sync_channel::<Deed>(1);
    let threads = [
        thread::Builder::new().name(String::from("hand")).spawn(move || carry_out(&hand, &orders, &done))?,
        thread::Builder::new().name(String::from("keys")).spawn(move || read_keys(&keys))?,
        thread::Builder::new().name(String::from("asker")).spawn(move || ask(&client, interval, &sender))?,
    ];
    let mut state = State::new(interval);
    loop {
        screen.0.draw(|frame| screen::draw(frame, &state, crate::clock::now(), theme))?;
        tokio::select! {
            told = inbox.recv() => match told {
                Some(Told::Key(Event::Key(key))) => match state.key(key) {
                    Flow::Quit => return Ok(()),
                    Flow::Do(deed) => if order.try_send(deed).is_err() { bail!(ENDED) },
                    Flow::Go => {}
                },
                Some(Told::Done(done)) => state.done(done),
                // A new size, mostly: it is drawn anew.
                Some(Told::Key(_)) => {}
                Some(Told::Answer(answer)) => {
                    state.answer(answer.map_err(|error| format!("{error:#}")), crate::clock::now());
                }
                Some(Told::Gone(error)) => return Err(error).context("the terminal can't be read any more"),
                None => bail!(ENDED),
            },
            // One that panicked has given the terminal back already.
            () = tokio::time::sleep(TICK) => if threads.iter().any(thread::JoinHandle::is_finished) { bail!(ENDED) },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => return Ok(()),
        }
    }
}

fn watch_all<const N: usize>(
    kinds: [SignalKind; N],
    watch: impl Fn(SignalKind) -> anyhow::Result<Signal>,
) -> anyhow::Result<[Signal; N]> {
    let watched = kinds.into_iter().map(watch).collect::<Result<Vec<_>, _>>()?;
    watched.try_into().map_err(|_| anyhow::anyhow!("signals can't be watched"))
}

/// The terminal, on its other screen and without line editing; as it was before when this is dropped.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> anyhow::Result<Self> {
        match ratatui::try_init() {
            Ok(terminal) => Ok(Self(terminal)),
            Err(error) => {
                // It may have been half done.
                ratatui::restore();
                Err(error).context("the terminal can't be set up; `smtp-guard top --json` needs none")
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Cleared first: tmux 3.3 leaves rows of the other screen above what was there before, where the terminal has grown
        // meanwhile and they are longer than it was wide.
        let _ = self.0.backend_mut().clear();
        ratatui::restore();
        // Hidden while drawing.
        let _ = self.0.show_cursor();
    }
}

/// Hands keys and new sizes over until nobody listens.
fn read_keys(inbox: &mpsc::Sender<Told>) {
    loop {
        let told = match event::read() {
            Ok(event) => Told::Key(event),
            Err(error) => Told::Gone(error),
        };
        let is_over = matches!(told, Told::Gone(_));
        if inbox.blocking_send(told).is_err() || is_over {
            return;
        }
    }
}

/// Carries out what is ordered until nobody orders, or listens.
fn carry_out(client: &AdminClient, orders: &std::sync::mpsc::Receiver<Deed>, inbox: &mpsc::Sender<Told>) {
    while let Ok(deed) = orders.recv() {
        if inbox.blocking_send(Told::Done(deeds::perform(client, &deed))).is_err() {
            return;
        }
    }
}

/// Asks the guard every `interval` until nobody listens.
fn ask(client: &AdminClient, interval: Duration, inbox: &mpsc::Sender<Told>) {
    loop {
        let begun = crate::clock::now();
        if inbox.blocking_send(Told::Answer(Box::new(client.live()))).is_err() {
            return;
        }
        thread::sleep(interval.saturating_sub(crate::clock::now().since(begun)));
    }
}
