//! One rank from its assignment to its end: prepares, starts the trainer, watches it, sees its files stored.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mtinet_domain::Rank;
use mtinet_domain::trial::{Device, ProcessExit, RankAssignment};
use mtinet_proto::v1::report::Fact;
use mtinet_proto::v1::{
    RankStarted, RendezvousReady, StartRank, ToTrainer, TrainerStart, TrainerStop, to_trainer,
};
use mtinet_runtime::convert::RankExit;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::agent::Shared;
use crate::conversation::{Conversation, Said};
use crate::log_copy::LogCopy;
use crate::logs;
use crate::prepare::{Prepared, prepare};
use crate::process::{Trainer, exit_of, exit_words};
use crate::rank_log::RankLog;
use crate::session::RankKey;
use crate::uplink::unhurried;
use crate::uploads::{Job as UploadJob, Uploader};

/// How long a trainer may live on after it closed its socket.
const LINGER: Duration = Duration::from_secs(10);

/// How long the report of an end waits for the last lines of the log to be copied; they are copied later otherwise.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How often a trainer's log is looked at.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// What the agent tells a rank.
#[derive(Debug)]
pub enum RankCommand {
    /// Where rank 0's store listens.
    Connect(RendezvousReady),
    /// End: at a step boundary within `grace`, else by force.
    Stop {
        /// Why, for its report.
        reason: String,
        /// Zero kills at once.
        grace: Duration,
    },
}

/// One rank on its way.
#[derive(Debug)]
pub struct RankTask {
    /// What all ranks of the agent share.
    pub shared: Arc<Shared>,
    /// What it is to do.
    pub assignment: RankAssignment,
    /// The same as it arrived, for the trainer.
    pub start: StartRank,
    /// Where it runs.
    pub device: Device,
    /// What it is told on its way.
    pub commands: mpsc::UnboundedReceiver<RankCommand>,
}

/// Why a trainer is being ended, as far as the agent knows.
#[derive(Debug, Default)]
struct Ending {
    /// Somebody asked for it before the process was over.
    stop: Option<String>,
    /// The agent found it out of order.
    problem: Option<String>,
    /// When it is killed.
    deadline: Option<Instant>,
    /// When the grace of the stop is over: what it leaves has until then to be stored, and some time after its end.
    grace: Option<Instant>,
    /// It was killed by the agent.
    killed: Option<Killed>,
    /// What it still has to upload is not wanted.
    discard: bool,
    /// A stop that came after its end and left no time to store the rest: why.
    late: Option<String>,
}

/// A process that was sent the signal that none refuses.
#[derive(Clone, Copy, Debug)]
struct Killed {
    /// When it should be gone.
    gone_by: Instant,
    /// That it is not was said.
    said: bool,
}

impl RankTask {
    /// Runs the rank to its end. All its other reports are queued when this returns.
    pub async fn run(mut self) -> RankExit {
        let (to_trainer, messages) = mpsc::unbounded_channel();
        let preparing = prepare(&self.shared, &self.assignment, self.device, self.start.clone())
            .instrument(tracing::trace_span!("prepare"));
        let prepared = tokio::select! {
            prepared = preparing => prepared,
            reason = stopped(&mut self.commands, &to_trainer) => {
                let exit = not_started(format!("stopped before it started: {reason}"));
                return RankExit { stopped: true, ..exit };
            }
        };
        match prepared {
            Ok(prepared) => self.train(prepared, to_trainer, messages).await,
            Err(message) => not_started(message),
        }
    }

    async fn train(
        &mut self,
        prepared: Prepared,
        to_trainer: mpsc::UnboundedSender<ToTrainer>,
        messages: mpsc::UnboundedReceiver<ToTrainer>,
    ) -> RankExit {
        let shared = Arc::clone(&self.shared);
        let key: RankKey = (self.assignment.attempt, self.assignment.rank);
        // The data set stays where it is until the trainer is gone.
        let Prepared { start, dir, log, lease: _lease } = prepared;
        let socket = shared.next_socket();
        let listener = match UnixListener::bind(&socket) {
            Ok(listener) => listener,
            Err(error) => {
                return not_started(format!("could not make the socket {}: {error}", socket.display()));
            }
        };
        let program = &shared.options.trainer;
        let begins = log.length();
        log.progress(&self.introduction(&start));
        let spawned = dir.log().and_then(|log| Trainer::spawn(program, &socket, log, &shared.options));
        let mut trainer = match spawned {
            Ok(trainer) => trainer,
            Err(error) => return not_started(format!("could not start {}: {error}", program.display())),
        };
        tracing::info!(pid = trainer.pid(), log = %log.path().display(), "trainer started");
        shared.uplink.report(key, Fact::Started(RankStarted { pid: trainer.pid() })).await;

        let written = CancellationToken::new();
        // The copy ends when this is over, however it ends.
        let _written = written.clone().drop_guard();
        let mut copying = tokio::spawn(self.copy_of(&log, begins).run(written.clone()));
        let (uploads, jobs) = mpsc::unbounded_channel();
        let (uplink, client, cache) = (shared.uplink.clone(), shared.client.clone(), shared.cache.clone());
        let access = Arc::clone(&shared.access);
        let (storing, left) = watch::channel(String::new());
        let dir_path = dir.path().to_owned();
        let uploader =
            Uploader { key, uplink: uplink.clone(), client, access, cache, dir: dir_path, storing };
        let mut uploading = spawn(uploader.run(jobs));
        let gone = CancellationToken::new();
        let conversation = self.conversation(start, log.clone(), uploads, messages, gone.clone());
        let mut talking = spawn(conversation.run(listener));

        let mut ending = Ending::default();
        let mut said = None;
        let capping = spawn(cap(log.path().to_owned()));
        let span = tracing::trace_span!("train", pid = trainer.pid(), device = %self.device);
        let watching = self.watch(&mut trainer, &mut talking, &mut said, &to_trainer, &mut ending);
        let status = watching.instrument(span).await;
        drop(capping);
        gone.cancel();
        let said = match said {
            Some(said) => said,
            None => talking.finish().await.unwrap_or_default(),
        };
        // The listener's name is of no use any more.
        let _ = std::fs::remove_file(&socket);
        let unstored = if ending.discard {
            None
        } else {
            let storing = self.stored(&mut uploading, &mut ending, &left);
            storing.instrument(tracing::trace_span!("store")).await
        };
        drop(uploading);
        let exit = match status {
            Ok(status) => exit_of(status),
            Err(error) => return not_started(format!("could not wait for the trainer: {error}")),
        };
        // One that failed on its own was not ended by a command that came after.
        if exit == ProcessExit::Code(0) {
            ending.stop = ending.stop.or(ending.late.take());
        }
        let exit = describe(exit, said, &ending, unstored, trainer.memory_ran_out(), &log);
        if !exit.finished && !exit.stopped {
            log.path().parent().into_iter().for_each(logs::mark_failed);
        }
        log.progress(&last_line(&exit));
        written.cancel();
        // With the report of the end they may be read at once; that of a coordinator that is away waits anyway.
        let _ = tokio::time::timeout(LAST_LINES, &mut copying).await;
        exit
    }

    fn conversation(
        &self,
        start: TrainerStart,
        log: RankLog,
        uploads: mpsc::UnboundedSender<UploadJob>,
        to_trainer: mpsc::UnboundedReceiver<ToTrainer>,
        gone: CancellationToken,
    ) -> Conversation {
        let timings = self.shared.options.timings;
        Conversation {
            key: (self.assignment.attempt, self.assignment.rank),
            uplink: self.shared.uplink.clone(),
            metrics: self.shared.metrics.clone(),
            log,
            uploads,
            start,
            to_trainer,
            hello_timeout: timings.hello,
            metrics_interval: timings.metrics,
            // Of a gang one that waits names the rank that did not arrive; only where none can does this end it.
            silence: timings.hang * if self.assignment.world_size > 1 { 2 } else { 1 },
            gone,
        }
    }

    /// What the log begins with.
    fn introduction(&self, start: &TrainerStart) -> String {
        let assignment = &self.assignment;
        let from = match start.assignment.as_ref().and_then(|start| start.resume.as_ref()) {
            Some(checkpoint) => format!("goes on from the checkpoint after step {}", checkpoint.step),
            None => "starts from the beginning".to_owned(),
        };
        format!(
            "{} rank {} of {} on {} of {}: {from}",
            assignment.attempt, assignment.rank, assignment.world_size, self.device, self.shared.options.name
        )
    }

    fn copy_of(&self, log: &RankLog, begins: u64) -> LogCopy {
        LogCopy {
            key: (self.assignment.attempt, self.assignment.rank),
            uplink: self.shared.uplink.clone(),
            client: self.shared.client.clone(),
            access: Arc::clone(&self.shared.access),
            path: log.path().to_owned(),
            begins: i64::try_from(begins).unwrap_or(i64::MAX),
            seen: begins,
        }
    }

    /// Waits for the process's end while passing on what the agent says.
    async fn watch(
        &mut self,
        trainer: &mut Trainer,
        talking: &mut Job<Said>,
        said: &mut Option<Said>,
        to_trainer: &mpsc::UnboundedSender<ToTrainer>,
        ending: &mut Ending,
    ) -> std::io::Result<std::process::ExitStatus> {
        loop {
            let due = at(ending.deadline);
            let survived = at(ending.killed.filter(|killed| !killed.said).map(|killed| killed.gone_by));
            tokio::select! {
                // In this order: a trainer that is over was not ended by a command that came after.
                biased;
                status = trainer.wait() => return status,
                Some(command) = self.commands.recv() => on_command(command, to_trainer, ending),
                over = talking.finish(), if said.is_none() => {
                    let over = over.unwrap_or_default();
                    ending.deadline = ending.deadline.or(Some(Instant::now() + LINGER));
                    if over.problem.is_some() {
                        ending.problem.clone_from(&over.problem);
                        ending.deadline = Some(Instant::now());
                    }
                    *said = Some(over);
                }
                () = due => {
                    ending.deadline = None;
                    let gone_by = Instant::now() + self.shared.options.timings.kill;
                    ending.killed.get_or_insert(Killed { gone_by, said: false });
                    if ending.stop.is_none() && ending.problem.is_none() {
                        ending.problem = Some(format!("the trainer did not end within {LINGER:?} of its last word"));
                    }
                    trainer.kill();
                }
                () = survived => {
                    ending.killed = ending.killed.map(|killed| Killed { said: true, ..killed });
                    tracing::warn!(
                        pid = trainer.pid(),
                        "the trainer was killed and is still there: it is stuck in a driver or on a file system that does \
                         not answer; its slot stays taken until it ends, or this worker is restarted"
                    );
                }
            }
        }
    }

    /// Waits for the uploads: as long as it takes, but of an attempt that was stopped only until the stop's grace is over,
    /// or that of storing. Returns in words what was not stored.
    async fn stored(
        &mut self,
        uploading: &mut Job<Option<String>>,
        ending: &mut Ending,
        left: &watch::Receiver<String>,
    ) -> Option<String> {
        let over = Instant::now() + self.shared.options.timings.store;
        let mut late = None;
        loop {
            let deadline = ending.grace.map(|grace| grace.max(over));
            tokio::select! {
                biased;
                unstored = uploading.finish() => return unstored.flatten(),
                Some(command) = self.commands.recv() => {
                    // The trainer is over: only a stop matters.
                    if let RankCommand::Stop { reason, grace } = command {
                        late.get_or_insert(reason);
                        ending.grace = sooner(ending.grace, grace);
                        if !grace.is_zero() {
                            continue;
                        }
                        ending.late = late;
                        return Some(unstored(left));
                    }
                }
                () = at(deadline) => {
                    ending.late = late;
                    return Some(unstored(left));
                }
            }
        }
    }
}

/// Keeps a log within its bounds, for as long as it is written.
async fn cap(log: PathBuf) {
    let mut ticks = tokio::time::interval(LOG_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = unhurried(|| logs::cap(&log, logs::Limits::default())) {
            tracing::debug!(%error, log = %log.display(), "could not cut the log");
        }
    }
}

fn unstored(left: &watch::Receiver<String>) -> String {
    let what = left.borrow();
    let what = if what.is_empty() { "what it left" } else { what.as_str() };
    tracing::warn!(what, "not stored in time: the coordinator's store does not take it");
    format!("{what} could not be stored in time")
}

/// The end of a grace that begins now, where that is before the one that is known: a second, more patient order does not
/// give a first one more time.
fn sooner(known: Option<Instant>, grace: Duration) -> Option<Instant> {
    let deadline = Instant::now() + grace;
    Some(known.map_or(deadline, |known| known.min(deadline)))
}

/// Resolves then; never where there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

fn on_command(command: RankCommand, to_trainer: &mpsc::UnboundedSender<ToTrainer>, ending: &mut Ending) {
    match command {
        RankCommand::Connect(ready) => tell(to_trainer, to_trainer::Message::Rendezvous(ready)),
        RankCommand::Stop { reason, grace } => {
            tracing::info!(reason, grace_ms = grace.as_millis(), "stopping the trainer");
            ending.stop.get_or_insert(reason);
            ending.discard |= grace.is_zero();
            ending.deadline = sooner(ending.deadline, grace);
            ending.grace = sooner(ending.grace, grace);
            tell(to_trainer, to_trainer::Message::Stop(TrainerStop {}));
        }
    }
}

fn tell(to_trainer: &mpsc::UnboundedSender<ToTrainer>, message: to_trainer::Message) {
    if to_trainer.send(ToTrainer { message: Some(message) }).is_err() {
        tracing::debug!("the trainer listens no more");
    }
}

/// Resolves with the reason when a stop is commanded; what else is commanded is kept for the trainer.
async fn stopped(
    commands: &mut mpsc::UnboundedReceiver<RankCommand>,
    to_trainer: &mpsc::UnboundedSender<ToTrainer>,
) -> String {
    loop {
        match commands.recv().await {
            Some(RankCommand::Stop { reason, .. }) => return reason,
            Some(RankCommand::Connect(ready)) => tell(to_trainer, to_trainer::Message::Rendezvous(ready)),
            None => std::future::pending().await,
        }
    }
}

/// The report of a rank that never ran.
pub fn not_started(message: String) -> RankExit {
    tracing::warn!(message, "rank not started");
    RankExit {
        exit: ProcessExit::NotStarted,
        finished: false,
        step: None,
        message,
        stopped: false,
        missing: Vec::new(),
    }
}

/// Puts together what is known of an end; the most telling of it becomes the message.
fn describe(
    exit: ProcessExit,
    said: Said,
    ending: &Ending,
    unstored: Option<String>,
    memory_ran_out: Option<bool>,
    log: &RankLog,
) -> RankExit {
    let finished = said.finished && unstored.is_none() && exit == ProcessExit::Code(0);
    let with_log = |text: String| match log.tail() {
        tail if tail.is_empty() => text,
        tail => format!("{text}; its log ends:\n{tail}"),
    };
    let message = if finished {
        String::new()
    } else if let Some(reason) = &ending.stop {
        let how = if ending.killed.is_some() { "; it was killed" } else { "" };
        let unstored = unstored.map(|unstored| format!("; {unstored}")).unwrap_or_default();
        format!("stopped: {reason}{how}{unstored}")
    } else if let Some(message) = said.failed {
        message
    } else if let Some(problem) = &ending.problem {
        with_log(problem.clone())
    } else if let Some(unstored) = unstored {
        unstored
    } else {
        let silent = if exit == ProcessExit::Code(0) { " without having finished" } else { "" };
        with_log(format!("the trainer was {}{silent}", passive(&exit_words(exit, memory_ran_out))))
    };
    tracing::info!(%exit, finished, step = said.step, message, "trainer ended");
    let missing = said.missing.into_iter().map(Rank).collect();
    RankExit { exit, finished, step: said.step, message, stopped: ending.stop.is_some(), missing }
}

/// What the log ends with.
fn last_line(exit: &RankExit) -> String {
    match exit.message.lines().next() {
        _ if exit.finished => "the trainer has done all its work".to_owned(),
        Some(why) => {
            let why = why.trim_end_matches("; its log ends:");
            format!("the trainer ended: {} ({why})", exit.exit)
        }
        None => format!("the trainer ended: {}", exit.exit),
    }
}

fn passive(words: &str) -> String {
    words.strip_prefix("ended with ").map_or_else(|| words.to_owned(), |rest| format!("over with {rest}"))
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Job<T>(tokio::task::JoinHandle<T>);

fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Job<T> {
    Job(tokio::spawn(future.in_current_span()))
}

impl<T> Job<T> {
    /// Its result; none where it panicked.
    async fn finish(&mut self) -> Option<T> {
        (&mut self.0).await.inspect_err(|error| tracing::error!(%error, "a task of the rank broke off")).ok()
    }
}

impl<T> Drop for Job<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_rank_that_was_stopped_say_so_and_those_of_others_are_its_own() {
        let end = |stop: Option<&str>| {
            let ending = Ending { stop: stop.map(str::to_owned), ..Ending::default() };
            let said = Said { failed: Some("connection closed".to_owned()), ..Said::default() };
            let log = RankLog::new("/nowhere".into());
            describe(ProcessExit::Code(1), said, &ending, None, None, &log)
        };
        let (own, stopped) = (end(None), end(Some("a peer failed")));
        assert_eq!((own.message.as_str(), own.stopped), ("connection closed", false));
        assert_eq!((stopped.message.as_str(), stopped.stopped), ("stopped: a peer failed", true));
    }
}
