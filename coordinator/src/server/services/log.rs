//! Logs of trainers: taken in from those who run them, shown to those who ask.

use std::collections::BTreeMap;
use std::time::Duration;

use mtinet_core::Core;
use mtinet_domain::{AttemptId, AttemptNumber, Rank, TrialId, WorkerId};
use mtinet_proto::v1::{LogChunk, PutLogRequest, PutLogResponse, StreamLogRequest};
use mtinet_runtime::convert::required;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::server::artifacts::Artifacts;
use crate::server::auth::Caller;
use crate::server::driver::Handle;
use crate::server::logs::{CHUNK_BYTES, Logs};

/// Chunks that wait for a client at most.
const CHUNKS_AHEAD: usize = 4;

/// What is appended within this time is read together.
const GATHER: Duration = Duration::from_millis(100);

/// How often a follower looks whether the trial is over while nothing is written.
const LOOK: Duration = Duration::from_millis(500);

/// Appends to the log of a rank that the caller's worker holds, or held when it began the log.
pub async fn take_in(
    driver: &Handle,
    logs: &Logs,
    artifacts: &Artifacts,
    caller: &Caller,
    request: PutLogRequest,
) -> Result<PutLogResponse, Status> {
    let worker: WorkerId = required("worker_id", Some(request.worker_id))?;
    caller.may_speak_for(&worker.0)?;
    let attempt: AttemptId = required("attempt", request.attempt)?;
    let rank = Rank(request.rank);
    if request.data.len() > CHUNK_BYTES {
        return Err(Status::invalid_argument(format!("a log travels in chunks of {CHUNK_BYTES} bytes")));
    }
    let (known, asked) = (logs.clone(), worker.clone());
    if !blocking(move || Ok(known.is_of(attempt, rank, &asked))).await? {
        let asked = worker.clone();
        if !driver.look(move |core, _| holds(core, attempt, rank, &asked)).await? {
            return Err(Status::failed_precondition(format!(
                "worker {worker} does not run rank {rank} of {attempt}, and no log of that is begun"
            )));
        }
    }
    // Logs are the last to be kept; the agent tries again.
    artifacts.room().check(request.data.len() as u64)?;
    let (logs, offset, data, skips) = (logs.clone(), request.offset, request.data, request.skips);
    let next = blocking(move || logs.append(attempt, rank, &worker, offset, &data, skips)).await?;
    Ok(PutLogResponse { next })
}

fn holds(core: &Core, attempt: AttemptId, rank: Rank, worker: &WorkerId) -> bool {
    let gang = core.trial(attempt.trial).and_then(|trial| trial.gang());
    let gang = gang.filter(|gang| gang.attempt == attempt.number);
    gang.and_then(|gang| gang.rank(rank)).is_some_and(|rank| rank.placement.worker == *worker)
}

/// Sends what is kept of a trial's log, and with `follow` what comes.
pub async fn show(
    driver: &Handle,
    logs: &Logs,
    trial: TrialId,
    request: &StreamLogRequest,
) -> Result<ReceiverStream<Result<LogChunk, Status>>, Status> {
    let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
    let mut feed = Feed {
        driver: driver.clone(),
        logs: logs.clone(),
        trial,
        fixed: (request.attempt > 0).then_some(AttemptNumber(request.attempt)),
        rank: request.rank.map(Rank),
        tail_bytes: request.tail_bytes,
        ranks: 0,
        sent: BTreeMap::new(),
        chunks,
    };
    let first = feed.first().await?;
    if first.is_none() && !request.follow {
        return Err(feed.nothing().await);
    }
    let follow = request.follow;
    tokio::spawn(async move {
        if let Err(Over::Broken(status)) = feed.run(first, follow).await {
            // Whoever hung up needs no answer.
            let _ = feed.chunks.send(Err(status)).await;
        }
    });
    Ok(ReceiverStream::new(stream))
}

/// Why a feed ends early.
enum Over {
    HungUp,
    Broken(Status),
}

impl From<Status> for Over {
    fn from(status: Status) -> Self {
        Self::Broken(status)
    }
}

/// One client's view of a trial's log.
struct Feed {
    driver: Handle,
    logs: Logs,
    trial: TrialId,
    /// The one attempt that is asked for.
    fixed: Option<AttemptNumber>,
    /// The one rank that is asked for.
    rank: Option<Rank>,
    tail_bytes: u64,
    /// How many ranks the attempt has that is read, where it still runs.
    ranks: u32,
    /// Where each rank's next byte is.
    sent: BTreeMap<(AttemptNumber, Rank), u64>,
    chunks: mpsc::Sender<Result<LogChunk, Status>>,
}

impl Feed {
    /// The attempt to begin with.
    async fn first(&self) -> Result<Option<AttemptNumber>, Status> {
        let attempts = self.attempts().await?;
        Ok(attempts.into_iter().rfind(|number| self.fixed.is_none_or(|fixed| fixed == *number)))
    }

    async fn attempts(&self) -> Result<Vec<AttemptNumber>, Status> {
        let (logs, trial) = (self.logs.clone(), self.trial);
        blocking(move || logs.attempts(trial)).await
    }

    async fn run(&mut self, first: Option<AttemptNumber>, follow: bool) -> Result<(), Over> {
        let mut appended = self.logs.watch();
        let mut current = first;
        loop {
            appended.borrow_and_update();
            // Asked before reading: what is over has said everything.
            let is_over = self.look(current).await?;
            if let Some(number) = current {
                self.send_new(number).await?;
            }
            if !follow {
                return Ok(());
            }
            let later = |number: &AttemptNumber| match current {
                Some(current) => self.fixed.is_none() && *number > current,
                None => self.fixed.is_none_or(|fixed| fixed == *number),
            };
            if let Some(next) = self.attempts().await?.into_iter().find(later) {
                // An attempt that has a successor is over, but its last words may have come since it was read.
                if let Some(number) = current {
                    self.send_new(number).await?;
                }
                current = Some(next);
                continue;
            }
            if is_over {
                return Ok(());
            }
            tokio::select! {
                _ = appended.changed() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(LOOK) => {}
                () = self.chunks.closed() => return Err(Over::HungUp),
            }
        }
    }

    /// Whether nothing of what is followed runs any more or will; and how many ranks the current attempt has.
    async fn look(&mut self, current: Option<AttemptNumber>) -> Result<bool, Status> {
        let (id, fixed) = (self.trial, self.fixed);
        let look = move |core: &Core| {
            let Some(trial) = core.trial(id) else { return (true, 0) };
            let went_by = |number: AttemptNumber| {
                trial.attempts >= number.0 && trial.gang().is_none_or(|gang| gang.attempt != number)
            };
            let gang = trial.gang().filter(|gang| Some(gang.attempt) == current);
            let is_over = trial.status().is_final() || fixed.is_some_and(went_by);
            (is_over, gang.map_or(0, |gang| gang.ranks.len()))
        };
        let (is_over, ranks) = self.driver.look(move |core, _| look(core)).await?;
        self.ranks = u32::try_from(ranks).unwrap_or(u32::MAX);
        Ok(is_over)
    }

    async fn send_new(&mut self, number: AttemptNumber) -> Result<(), Over> {
        let attempt = AttemptId { trial: self.trial, number };
        let logs = self.logs.clone();
        let ranks = blocking(move || logs.ranks(attempt)).await?;
        let count = self.ranks.max(u32::try_from(ranks.len()).unwrap_or(u32::MAX));
        let wanted = self.rank;
        for rank in ranks.into_iter().filter(|rank| wanted.is_none_or(|wanted| wanted == *rank)) {
            let (logs, tail) = (self.logs.clone(), self.tail_bytes);
            let mut from = match self.sent.get(&(number, rank)) {
                Some(sent) => *sent,
                None if tail == 0 => 0,
                None => blocking(move || logs.tail(attempt, rank, tail)).await?,
            };
            loop {
                let logs = self.logs.clone();
                let Some(piece) = blocking(move || logs.read(attempt, rank, from)).await? else { break };
                from = piece.offset + piece.data.len() as u64;
                let chunk = LogChunk {
                    study: self.trial.study.0,
                    attempt: number.0,
                    rank: rank.0,
                    offset: piece.offset,
                    data: piece.data,
                    ranks: count,
                };
                self.chunks.send(Ok(chunk)).await.map_err(|_| Over::HungUp)?;
            }
            self.sent.insert((number, rank), from);
        }
        // Only those who come in the middle of a log want its end alone.
        self.tail_bytes = 0;
        Ok(())
    }

    /// Why there is no log.
    async fn nothing(&self) -> Status {
        let id = self.trial;
        let attempts = match self.driver.look(move |core, _| core.trial(id).map(|trial| trial.attempts)).await
        {
            Ok(attempts) => attempts.unwrap_or(0),
            Err(status) => return status,
        };
        let key = id.key;
        Status::not_found(match (attempts, self.fixed) {
            (0, _) => format!("trial {key} has not started yet; `mtinet explain {key}` says why"),
            (_, Some(number)) => {
                format!("no log of attempt {number} of trial {key} is kept; it has had {attempts} attempts")
            }
            (_, None) => format!(
                "no log of trial {key} has come; its worker keeps it under its work directory, study-{}-*",
                id.study
            ),
        })
    }
}

/// Works on the disk beside the async runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let failed = |error: &dyn std::fmt::Display| {
        tracing::warn!(%error, "could not read or write a trainer's log");
        Status::unavailable(format!("the coordinator could not read or write the log: {error}"))
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}
