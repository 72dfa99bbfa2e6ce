//! News from a coordinator that runs: its events as they happen, and every few seconds what is not in them.
//!
//! A coordinator that does not answer is asked again for as long as the dashboard is open.

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use mtinet_domain::{StudyId, TrialKey};
use mtinet_proto::v1::{StreamLogRequest, Trial};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::convert;
use crate::cli::client::{Coordinator, Events};
use crate::cli::error::CliError;
use crate::cli::follow::may_come_back;
use crate::cli::logs::{self, LogLines};
use crate::dashboard::{Command, Explained, Link, LogLine, NoticeKind, Request, Update, now_ms};

/// What is not in the events is asked for this often.
const POLL: Duration = Duration::from_secs(2);
/// And seldom enough that asking takes at most this part of the time.
const SHARE: u32 = 20;
/// A coordinator that takes longer is taken to be away.
const ANSWER: Duration = Duration::from_secs(15);
/// As much of the end of a trial's log as the dashboard shows.
pub const LOG_BYTES: u64 = 64 * 1024;
/// Events that are taken in at once.
const BATCH: usize = 500;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Brings the dashboard's news and carries its requests out.
pub struct Feed {
    coordinator: Coordinator,
    given: Option<String>,
    news: mpsc::Sender<Update>,
    requests: mpsc::Receiver<Request>,
    focus: watch::Receiver<Option<TrialKey>>,
    /// The study that is followed, and the number of its last event that was told.
    study: Option<StudyId>,
    after: u64,
    /// Whether its last event was told.
    is_over: bool,
    /// Whether the coordinator answered since it was found, or found again.
    has_answered: bool,
}

/// Why a session ended without an error.
enum Over {
    /// The dashboard is closed.
    Closed,
    /// Another study is followed, or this one goes on.
    Another,
}

impl Feed {
    /// A feed that has told nothing yet. `given` finds the coordinator again where it moves.
    pub fn new(
        coordinator: Coordinator,
        given: Option<String>,
        news: mpsc::Sender<Update>,
        requests: mpsc::Receiver<Request>,
        focus: watch::Receiver<Option<TrialKey>>,
    ) -> Self {
        Self {
            coordinator,
            given,
            news,
            requests,
            focus,
            study: None,
            after: 0,
            is_over: false,
            has_answered: false,
        }
    }

    /// Brings news until the dashboard is closed.
    ///
    /// # Errors
    /// Exit code 3 where the coordinator refuses.
    pub async fn run(mut self, study: Option<StudyId>) -> Result<(), CliError> {
        if let Some(study) = study {
            self.follow(study).await;
        }
        let mut pause = FIRST_PAUSE;
        let mut since_ms = None;
        loop {
            let error = match self.session(&mut since_ms).await {
                Ok(Over::Closed) => return Ok(()),
                Ok(Over::Another) => continue,
                Err(error) if may_come_back(&error) => error,
                Err(error) => return Err(error),
            };
            if since_ms.is_none() {
                pause = FIRST_PAUSE;
            }
            self.has_answered = false;
            let since_ms = *since_ms.get_or_insert_with(now_ms);
            let again_ms = now_ms() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
            self.tell(Update::Link(Link::Away { since_ms, again_ms, why: error.to_string() })).await;
            if self.wait(pause).await.is_none() {
                return Ok(());
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.find_again().await;
        }
    }

    /// A pause in which nothing can be asked for. None where the dashboard is closed.
    async fn wait(&mut self, pause: Duration) -> Option<()> {
        let rest = sleep(pause);
        tokio::pin!(rest);
        loop {
            tokio::select! {
                () = &mut rest => return Some(()),
                request = self.requests.recv() => {
                    let _: Request = request?;
                    let words = "the coordinator does not answer: nothing was sent".to_owned();
                    self.tell(Update::Notice(NoticeKind::Problem, words)).await;
                }
                () = self.news.closed() => return None,
            }
        }
    }

    /// A coordinator that was started again may have another address or identity.
    async fn find_again(&mut self) {
        let Some(given) = &self.given else { return };
        if let Ok(Ok(found)) = timeout(ANSWER, Coordinator::connect(given)).await {
            self.coordinator = found;
        }
    }

    async fn follow(&mut self, study: StudyId) {
        (self.study, self.after, self.is_over) = (Some(study), 0, false);
        self.tell(Update::Link(Link::Loading)).await;
        self.tell(Update::Study(study)).await;
    }

    /// As long as the coordinator answers.
    async fn session(&mut self, since_ms: &mut Option<u64>) -> Result<Over, CliError> {
        let mut stream = match self.study {
            Some(study) if !self.is_over => Some(self.open(study).await?),
            _ => None,
        };
        let mut due = interval(POLL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rest_until = Instant::now();
        let (mut is_live, mut has_all) = (false, stream.is_none() || self.after > 0);
        loop {
            if has_all && !is_live && self.has_answered {
                is_live = true;
                *since_ms = None;
                self.tell(Update::Link(Link::Live)).await;
            }
            tokio::select! {
                batch = next_batch(&mut stream) => match batch? {
                    Some(events) => {
                        // Where fewer are at hand than could be taken, the history is told.
                        has_all |= events.len() < BATCH;
                        self.take(events).await;
                    }
                    None if self.is_over => (stream, has_all) = (None, true),
                    None => return Err(CliError::Coordinator("the coordinator ended the stream".to_owned())),
                },
                _ = due.tick() => {
                    if Instant::now() < rest_until {
                        continue;
                    }
                    let began = Instant::now();
                    let goes_on = self.poll().await?;
                    rest_until = Instant::now() + began.elapsed() * SHARE;
                    if goes_on {
                        return Ok(Over::Another);
                    }
                }
                request = self.requests.recv() => match request {
                    None => return Ok(Over::Closed),
                    Some(Request::Follow(study)) => {
                        self.follow(study).await;
                        return Ok(Over::Another);
                    }
                    Some(Request::Send(command)) => self.carry_out(command).await?,
                },
                changed = self.focus.changed() => {
                    if changed.is_err() {
                        return Ok(Over::Closed);
                    }
                    self.explain().await?;
                }
                () = self.news.closed() => return Ok(Over::Closed),
            }
        }
    }

    async fn open(&mut self, study: StudyId) -> Result<Events, CliError> {
        answered(self.coordinator.events(study, self.after, true)).await
    }

    async fn take(&mut self, events: Vec<mtinet_domain::event::Recorded>) {
        for recorded in &events {
            self.after = recorded.seq;
            self.is_over = matches!(recorded.event, mtinet_domain::event::Event::StudyFinished { .. });
        }
        self.tell(Update::Events(events)).await;
    }

    /// Asks for all that is not in the events; whether another stream has to be opened.
    async fn poll(&mut self) -> Result<bool, CliError> {
        let studies = convert::studies(answered(self.coordinator.studies()).await?);
        let newest = studies.iter().map(|study| study.id).max();
        let goes_on = |id: StudyId| {
            studies
                .iter()
                .any(|study| study.id == id && matches!(study.status.as_str(), "running" | "paused"))
        };
        // Trials of a study that was over are tried again.
        let mut another = self.is_over && self.study.is_some_and(goes_on);
        self.is_over &= !another;
        self.tell(Update::Studies(studies)).await;
        let workers = answered(self.coordinator.workers()).await?;
        self.has_answered = true;
        self.tell(Update::Workers(convert::workers(workers, now_ms()))).await;
        match (self.study, newest) {
            (Some(study), _) => {
                let study = answered(self.coordinator.study(&study.to_string())).await?;
                self.tell(Update::Reasons(convert::reasons(study))).await;
                self.explain().await?;
            }
            (None, Some(newest)) => {
                self.follow(newest).await;
                another = true;
            }
            (None, None) => {}
        }
        Ok(another)
    }

    async fn explain(&mut self) -> Result<(), CliError> {
        let key = *self.focus.borrow_and_update();
        let (Some(study), Some(key)) = (self.study, key) else { return Ok(()) };
        match answered(self.coordinator.explain(Some(study), key)).await {
            Ok(why) => {
                let explained = Explained { reason: why.reason, details: why.details };
                self.tell(Update::Explained(key, explained)).await;
                self.log(study, key).await
            }
            // A trial of the study that was followed before.
            Err(CliError::NotSo(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The end of a trial's log. A coordinator that keeps none says so with an error that is none here.
    async fn log(&mut self, study: StudyId, key: TrialKey) -> Result<(), CliError> {
        let trial = Some(Trial { study: study.0, key: key.to_string() });
        let asked = StreamLogRequest { trial, attempt: 0, rank: None, tail_bytes: LOG_BYTES, follow: false };
        let read = async {
            let mut chunks = self.coordinator.log(asked).await?;
            let (mut lines, mut kept) = (LogLines::default(), Vec::new());
            while let Some(chunk) = chunks.message().await? {
                kept.extend(lines.push(&chunk));
            }
            kept.extend(lines.finish());
            Ok(kept)
        };
        match answered(read).await {
            Ok(kept) => {
                let line = |line: logs::LogLine| LogLine { rank: line.rank, text: line.text };
                self.tell(Update::Log(key, kept.into_iter().map(line).collect())).await;
                Ok(())
            }
            Err(error) if may_come_back(&error) => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Has the coordinator do something and tells what came of it. A refusal is told; it does not end the dashboard.
    async fn carry_out(&mut self, command: Command) -> Result<(), CliError> {
        let Some(study) = self.study else { return Ok(()) };
        let done = answered(send(&mut self.coordinator, study, command)).await;
        let update = match done {
            Ok(words) => Update::Notice(NoticeKind::Good, words),
            Err(error) if may_come_back(&error) => {
                let words = format!("nothing was sent: {error}");
                self.tell(Update::Notice(NoticeKind::Problem, words)).await;
                return Err(error);
            }
            Err(error) => Update::Notice(NoticeKind::Problem, error.to_string()),
        };
        self.tell(update).await;
        Ok(())
    }

    async fn tell(&self, update: Update) {
        // A dashboard that is closed needs no news; that it is closed is noticed where this feed waits.
        let _ = self.news.send(update).await;
    }
}

async fn send(coordinator: &mut Coordinator, study: StudyId, command: Command) -> Result<String, CliError> {
    Ok(match command {
        Command::Pause => {
            let stopping = coordinator.pause(study).await?;
            format!("study {study} is paused; {stopping} attempts save and stop")
        }
        Command::Resume => {
            coordinator.resume(study).await?;
            format!("study {study} goes on")
        }
        Command::CancelStudy => {
            coordinator.cancel(study).await?;
            format!("study {study} is being cancelled")
        }
        Command::CancelTrial(key) => {
            coordinator.cancel_trial(study, key).await?;
            format!("{key} is being cancelled")
        }
        Command::PauseTrial(key) => {
            let stopping = coordinator.pause_trial(study, key).await?;
            format!("{key} is paused; {stopping} attempts save and stop")
        }
        Command::ResumeTrial(key) => {
            coordinator.resume_trial(study, key).await?;
            format!("{key} goes on")
        }
        Command::Retry(keys) => {
            let retried = coordinator.retry(study, &keys).await?;
            format!("{retried} trials are tried again, from their last checkpoints")
        }
        Command::Drain { worker, undo: false } => {
            let stopping = coordinator.drain(&worker, false).await?;
            format!("the worker gets no more trials; {stopping} attempts save and go on elsewhere")
        }
        Command::Drain { worker, undo: true } => {
            coordinator.drain(&worker, true).await?;
            "the worker gets trials again".to_owned()
        }
        Command::Readmit(worker) => {
            coordinator.readmit(&worker).await?;
            "the worker gets trials again".to_owned()
        }
    })
}

/// The next event and all that are at hand; `None` at the end of the stream. Never where there is no stream.
async fn next_batch(
    stream: &mut Option<Events>,
) -> Result<Option<Vec<mtinet_domain::event::Recorded>>, CliError> {
    let Some(events) = stream else { return std::future::pending().await };
    let Some(first) = events.next().await? else { return Ok(None) };
    let mut batch = vec![first];
    while batch.len() < BATCH {
        match events.next().now_or_never() {
            Some(Ok(Some(event))) => batch.push(event),
            // An end or an error is met again with the next batch.
            _ => break,
        }
    }
    Ok(Some(batch))
}

async fn answered<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    match timeout(ANSWER, work).await {
        Ok(done) => done,
        Err(_) => Err(CliError::Coordinator(format!(
            "the coordinator does not answer within {} s",
            ANSWER.as_secs()
        ))),
    }
}
