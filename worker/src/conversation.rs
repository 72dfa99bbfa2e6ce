//! What a trainer and its agent say to each other over the rank's socket, from the hello to the end of file.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::metric_record::Scope;
use mtinet_proto::v1::report::Fact;
use mtinet_proto::v1::{
    FromTrainer, MetricBatch, MetricRecord, ToTrainer, TrainerStart, from_trainer, to_trainer,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::codec::Framed;
use tokio_util::sync::CancellationToken;

use crate::frames::Frames;
use crate::metrics::{Metrics, StepTimes};
use crate::rank_log::RankLog;
use crate::session::RankKey;
use crate::uplink::Uplink;
use crate::uploads::Job;

/// Measurements that are sent at once, however fast a trainer is.
const BATCH_RECORDS: usize = 1024;

type Socket = Framed<UnixStream, Frames<FromTrainer, ToTrainer>>;

/// One rank's conversation.
#[derive(Debug)]
pub struct Conversation {
    /// Whose.
    pub key: RankKey,
    /// Where the trainer's facts go.
    pub uplink: Uplink,
    /// Where measurements are noted for people.
    pub log: RankLog,
    /// Where its steps are counted.
    pub metrics: Metrics,
    /// Where its files go.
    pub uploads: mpsc::UnboundedSender<Job>,
    /// What it is told first.
    pub start: TrainerStart,
    /// What it is told afterwards.
    pub to_trainer: mpsc::UnboundedReceiver<ToTrainer>,
    /// How long it may take to say hello.
    pub hello_timeout: Duration,
    /// How long measurements are gathered.
    pub metrics_interval: Duration,
    /// How long it may be silent once it works; for ever where zero.
    pub silence: Duration,
    /// The process is over: nobody will connect any more.
    pub gone: CancellationToken,
}

/// What is known of a trainer from its own words.
#[derive(Debug, Default)]
pub struct Said {
    /// It finished all its work.
    pub finished: bool,
    /// Its error.
    pub failed: Option<String>,
    /// The ranks that it waited for in vain.
    pub missing: Vec<u32>,
    /// The last optimiser step that it spoke of.
    pub step: Option<u64>,
    /// Why the agent can go on with it no longer.
    pub problem: Option<String>,
}

impl Said {
    fn at_step(&mut self, step: u64) {
        self.step = self.step.max(Some(step));
    }
}

impl Conversation {
    /// Listens until the trainer closes the socket. A full uplink stops the reading, and so the trainer.
    pub async fn run(mut self, listener: UnixListener) -> Said {
        let mut said = Said::default();
        let socket = match self.greet(listener).await {
            Ok(Some(socket)) => socket,
            Ok(None) => return said,
            Err(problem) => {
                said.problem = Some(problem);
                return said;
            }
        };
        let (mut writer, reader) = socket.split();
        let start = ToTrainer { message: Some(to_trainer::Message::Start(self.start.clone())) };
        let (_, silent) = mpsc::unbounded_channel();
        let mut to_trainer = std::mem::replace(&mut self.to_trainer, silent);
        // A trainer that does not read must not keep us from reading; one that is gone shows at the reader.
        let writing = tokio::spawn(async move {
            let mut message = start;
            while writer.send(message).await.is_ok() {
                let Some(next) = to_trainer.recv().await else { return };
                message = next;
            }
        });
        self.listen(reader, &mut said).await;
        writing.abort();
        said
    }

    /// Waits for the connection and the hello; nothing where the process ended without connecting.
    async fn greet(&self, listener: UnixListener) -> Result<Option<Socket>, String> {
        let hello = async {
            let stream = tokio::select! {
                biased;
                // A trainer may have connected and ended before we looked.
                accepted = listener.accept() => accepted.map_err(|error| error.to_string())?.0,
                () = self.gone.cancelled() => return Ok(None),
            };
            let mut socket = Framed::new(stream, Frames::default());
            match socket.next().await {
                Some(Ok(FromTrainer { message: Some(from_trainer::Message::Hello(hello)) })) => {
                    if hello.protocol_version == PROTOCOL_VERSION {
                        return Ok(Some(socket));
                    }
                    Err(format!(
                        "the trainer speaks protocol version {}, this worker {PROTOCOL_VERSION}; install both \
                         from one release",
                        hello.protocol_version
                    ))
                }
                Some(Ok(_)) => Err("the trainer did not begin with a hello".to_owned()),
                Some(Err(error)) => Err(format!("the trainer cannot be understood: {error}")),
                None => Ok(None),
            }
        };
        match tokio::time::timeout(self.hello_timeout, hello).await {
            Ok(result) => result,
            Err(_) => Err(format!("the trainer did not say hello within {:?}", self.hello_timeout)),
        }
    }

    async fn listen(&self, mut reader: futures::stream::SplitStream<Socket>, said: &mut Said) {
        let mut batch = Vec::new();
        let mut due = Instant::now();
        let mut works = false;
        let mut times = StepTimes::default();
        loop {
            // From here, not from the last word: what the uplink made it wait is not the trainer's silence.
            let patience = Instant::now() + self.silence;
            let next = tokio::select! {
                biased;
                () = tokio::time::sleep_until(due), if !batch.is_empty() => {
                    self.flush(&mut batch).await;
                    continue;
                }
                // Before its silence: after a stop of this process both are due.
                next = reader.next() => next,
                () = tokio::time::sleep_until(patience), if works && !self.silence.is_zero() && batch.is_empty() => {
                    said.problem = Some(format!(
                        "the trainer hangs: it has said nothing for {:?} (worker.hang_timeout)", self.silence
                    ));
                    return;
                }
            };
            let message = match next {
                Some(Ok(message)) => message.message,
                Some(Err(error)) => {
                    // A killed trainer may leave half a frame, which is no news.
                    tracing::debug!(%error, "the trainer's socket broke");
                    if error.kind() == std::io::ErrorKind::InvalidData {
                        said.problem = Some(format!("the trainer cannot be understood: {error}"));
                    }
                    break;
                }
                None => break,
            };
            let Some(message) = message else { continue };
            works |= matches!(message, from_trainer::Message::Working(_));
            if let from_trainer::Message::Metrics(record) = message {
                if batch.is_empty() {
                    due = Instant::now() + self.metrics_interval;
                }
                said.at_step(record.step);
                self.log.measured(&record);
                self.time(&mut times, &record);
                batch.push(record);
                if batch.len() >= BATCH_RECORDS {
                    self.flush(&mut batch).await;
                }
                continue;
            }
            self.flush(&mut batch).await;
            self.on_message(message, said).await;
        }
        self.flush(&mut batch).await;
    }

    async fn on_message(&self, message: from_trainer::Message, said: &mut Said) {
        match message {
            from_trainer::Message::Rendezvous(ready) => {
                self.uplink.report(self.key, Fact::Rendezvous(ready)).await;
            }
            from_trainer::Message::Checkpoint(saved) => {
                said.at_step(saved.step);
                self.upload(Job::Checkpoint(saved));
            }
            from_trainer::Message::Evaluated(evaluated) => self.upload(Job::Evaluated(evaluated)),
            from_trainer::Message::Failed(failed) => {
                if let Some(step) = failed.step {
                    said.at_step(step);
                }
                tracing::warn!(message = failed.message, "the trainer failed");
                said.failed = Some(failed.message);
                said.missing = failed.missing;
            }
            from_trainer::Message::Finished(_) => said.finished = true,
            from_trainer::Message::Working(_) => self.uplink.works(self.key.0),
            from_trainer::Message::Hello(_) | from_trainer::Message::Metrics(_) => {}
        }
    }

    fn time(&self, times: &mut StepTimes, record: &MetricRecord) {
        if record.scope() == Scope::Step
            && let Some(seconds) = times.next(record.step, record.train_seconds)
        {
            self.metrics.step(seconds);
        }
    }

    fn upload(&self, job: Job) {
        if self.uploads.send(job).is_err() {
            tracing::debug!("the uploader ended first");
        }
    }

    async fn flush(&self, batch: &mut Vec<MetricRecord>) {
        if !batch.is_empty() {
            let records = std::mem::take(batch);
            self.uplink.report(self.key, Fact::Metrics(MetricBatch { records })).await;
        }
    }
}
