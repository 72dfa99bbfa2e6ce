//! The dashboard's loop: takes in news, keys and the mouse, and draws at most so often as a person can see.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossterm::event::{Event, EventStream, KeyEventKind};
use futures::StreamExt as _;
use mtinet_domain::{StudyId, TrialKey};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::draw::{Look, Scene, draw};
use super::input::{Command, Effect, Ui, on_key, on_mouse};
use super::state::{Model, NoticeKind, Update};
use super::terminal::Terminal;

/// Frames are at least this far apart: fifteen in a second.
const FRAME: Duration = Duration::from_millis(66);
/// Spans and the estimate move on though nothing is new.
const CLOCK: Duration = Duration::from_secs(1);
/// Batches of news that are taken in before a key is looked for again.
const AT_ONCE: usize = 32;

/// Why the dashboard was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The person left it.
    Left,
    /// The person wants the program to end: Ctrl-C.
    Interrupted,
    /// Nobody has news any more.
    Silent,
    /// The study is over, and that was waited for.
    Over,
}

/// What a person asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Have the coordinator do something.
    Send(Command),
    /// Follow another study.
    Follow(StudyId),
}

/// The dashboard and its ways to the outside.
pub struct App {
    /// What is known.
    pub model: Model,
    /// What is selected.
    pub ui: Ui,
    /// News come in here.
    pub updates: mpsc::Receiver<Update>,
    /// What is asked for goes out here.
    pub requests: mpsc::Sender<Request>,
    /// The trial that is looked at.
    pub focus: watch::Sender<Option<TrialKey>>,
    /// Whether the end of the study is the end of the dashboard.
    pub until_over: bool,
}

impl App {
    /// Shows the dashboard until it is left.
    ///
    /// # Errors
    /// Where the terminal refuses.
    pub async fn run(&mut self, terminal: &mut Terminal) -> io::Result<Closed> {
        let look = Look::detect();
        let mut input = EventStream::new();
        let mut frames = tokio::time::interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut is_new, mut drawn) = (true, Instant::now());
        loop {
            tokio::select! {
                event = input.next() => {
                    let Some(event) = event else { return Ok(Closed::Left) };
                    if let Some(closed) = self.take(&event?, terminal)? {
                        return Ok(closed);
                    }
                    is_new = true;
                }
                update = self.updates.recv() => {
                    let Some(update) = update else { return Ok(Closed::Silent) };
                    self.apply(update);
                    is_new = true;
                    if self.until_over && self.model.study.outcome().is_some() {
                        return Ok(Closed::Over);
                    }
                }
                _ = frames.tick() => {
                    if is_new || drawn.elapsed() >= CLOCK {
                        self.draw(terminal, &look)?;
                        (is_new, drawn) = (false, Instant::now());
                    }
                }
            }
        }
    }

    fn apply(&mut self, update: Update) {
        let now = now_ms();
        self.model.apply(update, now);
        for _ in 0..AT_ONCE {
            let Ok(update) = self.updates.try_recv() else { return };
            self.model.apply(update, now);
        }
    }

    fn take(&mut self, event: &Event, terminal: &mut Terminal) -> io::Result<Option<Closed>> {
        let effect = match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => on_key(&mut self.ui, &self.model, *key),
            Event::Mouse(mouse) => on_mouse(&mut self.ui, &self.model, *mouse),
            _ => Effect::None,
        };
        let request = match effect {
            Effect::None => None,
            Effect::Quit => return Ok(Some(Closed::Left)),
            Effect::Interrupt => return Ok(Some(Closed::Interrupted)),
            Effect::Suspend => {
                terminal.suspend()?;
                None
            }
            Effect::Tell(text) => {
                self.model.apply(Update::Notice(NoticeKind::Problem, text), now_ms());
                None
            }
            Effect::Send(command) => Some(Request::Send(command)),
            Effect::Follow(study) => Some(Request::Follow(study)),
        };
        if let Some(request) = request
            && self.requests.try_send(request).is_err()
        {
            let busy = "the coordinator has not answered the last request yet; try again".to_owned();
            self.model.apply(Update::Notice(NoticeKind::Problem, busy), now_ms());
        }
        let key = self.model.study.trial(self.ui.trial).map(|trial| trial.result.key);
        self.look_at(key);
        Ok(None)
    }

    fn look_at(&self, key: Option<TrialKey>) {
        self.focus.send_if_modified(|focus| std::mem::replace(focus, key) != key);
    }

    fn draw(&mut self, terminal: &mut Terminal, look: &Look) -> io::Result<()> {
        let trials = self.model.study.results().map_or(0, |results| results.trials.len());
        self.ui.trial = self.ui.trial.min(trials.saturating_sub(1));
        self.look_at(self.model.study.trial(self.ui.trial).map(|trial| trial.result.key));
        let (model, ui) = (&self.model, &self.ui);
        let mut left = None;
        terminal.draw(|frame| {
            left = Some(draw(frame, Scene { model, ui, look, now_ms: now_ms() }));
        })?;
        if let Some(left) = left {
            (self.ui.offsets, self.ui.targets) = (left.offsets, left.targets);
        }
        Ok(())
    }
}

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
