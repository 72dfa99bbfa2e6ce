//! One rank from its assignment to its end: prepares, starts the trainer, watches it, sees its files stored.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mtinet_domain::trial::{Device, ProcessExit, RankAssignment};
use mtinet_proto::v1::report::Fact;
use mtinet_proto::v1::{RankStarted, RendezvousReady, StartRank, ToTrainer, TrainerStop, to_trainer};
use mtinet_runtime::convert::RankExit;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agent::Shared;
use crate::conversation::{Conversation, Said};
use crate::prepare::{Prepared, prepare};
use crate::process::{Trainer, exit_of, exit_words, log_tail};
use crate::session::RankKey;
use crate::uploads::Uploader;

/// How long a trainer may live on after it closed its socket.
const LINGER: Duration = Duration::from_secs(10);

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
    /// It was killed by the agent.
    killed: bool,
    /// What it still has to upload is not wanted.
    discard: bool,
}

impl RankTask {
    /// Runs the rank to its end. All its other reports are queued when this returns.
    pub async fn run(mut self) -> RankExit {
        let (to_trainer, messages) = mpsc::unbounded_channel();
        let preparing = prepare(&self.shared, &self.assignment, self.device, self.start.clone());
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
        let Prepared { start, dir, log } = prepared;
        let socket = shared.next_socket();
        let listener = match UnixListener::bind(&socket) {
            Ok(listener) => listener,
            Err(error) => {
                return not_started(format!("could not make the socket {}: {error}", socket.display()));
            }
        };
        let program = &shared.options.trainer;
        let mut trainer = match Trainer::spawn(program, &socket, &log, &shared.options) {
            Ok(trainer) => trainer,
            Err(error) => return not_started(format!("could not start {}: {error}", program.display())),
        };
        tracing::info!(pid = trainer.pid(), log = %log.display(), "trainer started");
        shared.uplink.report(key, Fact::Started(RankStarted { pid: trainer.pid() })).await;

        let (uploads, jobs) = mpsc::unbounded_channel();
        let (uplink, client, cache) = (shared.uplink.clone(), shared.client.clone(), shared.cache.clone());
        let uploader = Uploader { key, uplink: uplink.clone(), client, cache, dir: dir.path().to_owned() };
        let mut uploading = spawn(uploader.run(jobs));
        let gone = CancellationToken::new();
        let conversation = Conversation {
            key,
            uplink,
            metrics: shared.metrics.clone(),
            uploads,
            start,
            to_trainer: messages,
            hello_timeout: shared.options.timings.hello,
            metrics_interval: shared.options.timings.metrics,
            // Of a gang one that waits names the rank that did not arrive; only where none can does this end it.
            silence: shared.options.timings.hang * if self.assignment.world_size > 1 { 2 } else { 1 },
            gone: gone.clone(),
        };
        let mut talking = spawn(conversation.run(listener));

        let mut ending = Ending::default();
        let mut said = None;
        let status = self.watch(&mut trainer, &mut talking, &mut said, &to_trainer, &mut ending).await;
        gone.cancel();
        let said = match said {
            Some(said) => said,
            None => talking.finish().await.unwrap_or_default(),
        };
        // The listener's name is of no use any more.
        let _ = std::fs::remove_file(&socket);
        let unstored = if ending.discard { None } else { self.stored(&mut uploading).await };
        drop(uploading);
        let exit = match status {
            Ok(status) => exit_of(status),
            Err(error) => return not_started(format!("could not wait for the trainer: {error}")),
        };
        describe(exit, said, &ending, unstored, trainer.memory_ran_out(), &log)
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
            let deadline = ending.deadline;
            let due = async move {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
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
                    ending.killed = true;
                    if ending.stop.is_none() && ending.problem.is_none() {
                        ending.problem = Some(format!("the trainer did not end within {LINGER:?} of its last word"));
                    }
                    trainer.kill();
                }
            }
        }
    }

    /// Waits for the uploads, unless they are not wanted any more. The trainer is over: commands do not concern it.
    async fn stored(&mut self, uploading: &mut Job<Option<String>>) -> Option<String> {
        loop {
            tokio::select! {
                unstored = uploading.finish() => return unstored.flatten(),
                Some(command) = self.commands.recv() => {
                    if matches!(command, RankCommand::Stop { grace, .. } if grace.is_zero()) {
                        return None;
                    }
                }
            }
        }
    }
}

fn on_command(command: RankCommand, to_trainer: &mpsc::UnboundedSender<ToTrainer>, ending: &mut Ending) {
    match command {
        RankCommand::Connect(ready) => tell(to_trainer, to_trainer::Message::Rendezvous(ready)),
        RankCommand::Stop { reason, grace } => {
            tracing::info!(reason, grace_ms = grace.as_millis(), "stopping the trainer");
            ending.stop.get_or_insert(reason);
            ending.discard |= grace.is_zero();
            let deadline = Instant::now() + grace;
            // A second, more patient order does not give a first one more time.
            ending.deadline = Some(ending.deadline.map_or(deadline, |known| known.min(deadline)));
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
    RankExit { exit: ProcessExit::NotStarted, finished: false, step: None, message, stopped: false }
}

/// Puts together what is known of an end; the most telling of it becomes the message.
fn describe(
    exit: ProcessExit,
    said: Said,
    ending: &Ending,
    unstored: Option<String>,
    memory_ran_out: Option<bool>,
    log: &Path,
) -> RankExit {
    let finished = said.finished && unstored.is_none() && exit == ProcessExit::Code(0);
    let with_log = |text: String| match log_tail(log) {
        tail if tail.is_empty() => text,
        tail => format!("{text}; its log ends:\n{tail}"),
    };
    let message = if finished {
        String::new()
    } else if let Some(reason) = &ending.stop {
        let how = if ending.killed { "; it was killed" } else { "" };
        format!("stopped: {reason}{how}")
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
    RankExit { exit, finished, step: said.step, message, stopped: ending.stop.is_some() }
}

fn passive(words: &str) -> String {
    words.strip_prefix("ended with ").map_or_else(|| words.to_owned(), |rest| format!("over with {rest}"))
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Job<T>(tokio::task::JoinHandle<T>);

fn spawn<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> Job<T> {
    use tracing::Instrument;
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
            let log = Path::new("/nowhere");
            describe(ProcessExit::Code(1), said, &ending, None, None, log)
        };
        let (own, stopped) = (end(None), end(Some("a peer failed")));
        assert_eq!((own.message.as_str(), own.stopped), ("connection closed", false));
        assert_eq!((stopped.message.as_str(), stopped.stopped), ("stopped: a peer failed", true));
    }
}
