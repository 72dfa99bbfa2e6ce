//! `run`: one rank of a trial, from the agent's assignment to its results.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use mtinet_domain::event::MetricRecord;
use mtinet_domain::spec::Precision;
use mtinet_domain::trial::{CheckpointRef, Device as SlotDevice, RankAssignment};
use mtinet_engine::{CheckpointFile, EngineError, Finish, FoldData, Gang, Observer, Plan, Results, Trainer};
use mtinet_proto::v1::{
    RendezvousReady, SavedCheckpoint, TrainerEvaluated, TrainerFailed, TrainerFinished, TrainerHello,
    TrainerStart, TrainerWorking, from_trainer::Message,
};
use mtinet_runtime::convert::{self, ToProto};
use mtinet_runtime::telemetry;
use mtinet_torch_ext::{Backend, ProcessGroup, TcpStore};
use tch::Device;

use crate::connection::Connection;
use crate::failure::Failure;
use crate::preparing::Preparing;
use crate::watchdog::{Activity, Place, Watchdog};

/// How long the agent may take to answer.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the other ranks may take to be ready: on their machine the slices may first have to be prepared. A rank
/// that dies meanwhile is noticed by its agent, not by this.
const GATHER_TIMEOUT: Duration = Duration::from_secs(3600);

/// How long a collective may wait for a rank where no watchdog runs.
const COLLECTIVE_TIMEOUT: Duration = Duration::from_secs(600);

/// The same where one does. It ends every hang and names the rank; the collectives themselves cannot tell a hang from
/// rank 0, which evaluates the held-out fold alone now and then, for hours where the model is slow.
const WATCHED_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// How often a rank says that it works, at most.
const WORKING_INTERVAL: Duration = Duration::from_secs(1);

/// With `trace`, a Chrome trace of some steps is written into that directory.
pub(crate) fn run(socket: &Path, trace: Option<&Path>) -> Result<(), Failure> {
    let connection = Connection::open(socket).map_err(Failure::Agent)?;
    let hello = Message::Hello(TrainerHello { protocol_version: mtinet_proto::PROTOCOL_VERSION });
    connection.send(hello).context("failed to greet the agent").map_err(Failure::Agent)?;
    let start = connection.wait_for_start(START_TIMEOUT).map_err(Failure::Agent)?;
    let mut session = Session { connection, step: None, activity: Arc::default(), told: Mutex::new(None) };
    match train(&start, trace, &mut session) {
        Ok(()) => Ok(()),
        Err(error) => {
            let message = format!("{error:#}");
            // The exit code tells the agent too, should this not get through.
            let failed = TrainerFailed { message, step: session.step, missing: Vec::new() };
            session.connection.send(Message::Failed(failed)).ok();
            match error.downcast_ref::<EngineError>() {
                Some(EngineError::Initial(_)) => Err(Failure::Input(error)),
                _ => Err(Failure::Training(error)),
            }
        }
    }
}

fn train(start: &TrainerStart, trace: Option<&Path>, session: &mut Session) -> anyhow::Result<()> {
    let assignment: RankAssignment = convert::required("assignment", start.assignment.clone())?;
    identify(&assignment);
    let device = device(start)?;
    configure(start, &assignment, device)?;
    let work_dir = PathBuf::from(&start.work_dir);
    if let Some(trace) = trace {
        std::fs::create_dir_all(trace).with_context(|| format!("failed to create {}", trace.display()))?;
    }
    std::fs::create_dir_all(&work_dir).with_context(|| format!("failed to create {}", work_dir.display()))?;
    let (dataset, cache) = (Path::new(&start.dataset_dir), Path::new(&start.cache_dir));
    let (fold, preparing) = (assignment.attempt.trial.key.fold, Preparing::begin());
    let data =
        FoldData::open(dataset, cache, &assignment.spec, fold, &|done, all| preparing.tell(done, all))?;
    let hang_timeout = Duration::from_millis(start.hang_timeout_ms);
    let (gang, watchdog) = assemble(&assignment, device, &start.host, hang_timeout, session)?;
    let plan = Plan {
        spec: (*assignment.spec).clone(),
        trial: assignment.attempt.trial.key,
        device,
        work_dir: work_dir.clone(),
        trace: trace.map(|dir| dir.join(format!("{}.json", trace_name(&assignment)))),
        sharing: start.sharing,
    };
    let mut trainer = Trainer::new(plan, data, gang)?;
    if !resume(&mut trainer, start, &assignment)? {
        initialise(&mut trainer, start)?;
    }
    let fewest = trainer.fewest_steps()?;
    if fewest < trainer.step() {
        step_back(&mut trainer, fewest, start, &assignment)?;
    }
    session.step = Some(trainer.step());
    let finish = trainer.run(session)?;
    if let Some(watchdog) = watchdog {
        watchdog.finish();
    }
    match finish {
        Finish::Done(results) => {
            if let Some(results) = results {
                session.deliver(&work_dir, &results)?;
            }
            session
                .connection
                .send(Message::Finished(TrainerFinished {}))
                .context("failed to report to the agent")
        }
        Finish::Stopped { step } => {
            tracing::info!("stopped after step {step} as asked");
            Ok(())
        }
    }
}

/// Traces of several trials and ranks may lie in one directory.
fn trace_name(assignment: &RankAssignment) -> String {
    let RankAssignment { attempt, rank, .. } = assignment;
    let trial = attempt.trial.key.to_string().replace('/', "-");
    format!("{}-{trial}-attempt{}-rank{}", attempt.trial.study.0, attempt.number.0, rank.0)
}

/// Log lines of all threads are about this rank.
fn identify(assignment: &RankAssignment) {
    let attempt = assignment.attempt;
    telemetry::identify("study", attempt.trial.study.0);
    telemetry::identify("trial", attempt.trial.key.to_string());
    telemetry::identify("attempt", attempt.number.0);
    telemetry::identify("rank", assignment.rank.0);
}

fn device(start: &TrainerStart) -> anyhow::Result<Device> {
    match convert::required("device", start.device)? {
        SlotDevice::Cpu => Ok(Device::Cpu),
        SlotDevice::Cuda(_) if !mtinet_torch_ext::cuda_available() => Err(anyhow!(
            "this trainer cannot use a CUDA device: build it with CUDA=1, and look at `nvidia-smi`"
        )),
        SlotDevice::Cuda(index) => Ok(Device::Cuda(index as usize)),
    }
}

fn configure(start: &TrainerStart, assignment: &RankAssignment, device: Device) -> anyhow::Result<()> {
    if start.threads > 0 {
        mtinet_torch_ext::set_num_threads(start.threads as usize)?;
    }
    if let Device::Cuda(index) = device {
        mtinet_torch_ext::set_cuda_device(index)?;
    }
    mtinet_torch_ext::set_deterministic(assignment.spec.train.deterministic)?;
    mtinet_torch_ext::set_tf32(assignment.spec.train.precision == Precision::Tf32)?;
    Ok(())
}

/// Joins the attempt's ranks. A rank alone needs no process group.
fn assemble(
    assignment: &RankAssignment,
    device: Device,
    host: &str,
    hang_timeout: Duration,
    session: &mut Session,
) -> anyhow::Result<(Gang, Option<Watchdog>)> {
    let (rank, world_size) = (assignment.rank.0 as usize, assignment.world_size as usize);
    if world_size == 1 {
        return Ok((Gang::alone(), None));
    }
    let (store, at, port) = if rank == 0 {
        let store = TcpStore::host(host, 0, world_size, GATHER_TIMEOUT)?;
        let ready = RendezvousReady { host: host.to_owned(), port: u32::from(store.port()) };
        session.connection.send(Message::Rendezvous(ready)).context("failed to report to the agent")?;
        let port = store.port();
        (store, host.to_owned(), port)
    } else {
        let ready = session.connection.wait_for_rendezvous(GATHER_TIMEOUT)?;
        let port = u16::try_from(ready.port).context("rank 0 announced an impossible port")?;
        (TcpStore::connect(&ready.host, port, world_size, GATHER_TIMEOUT)?, ready.host, port)
    };
    Watchdog::enrol(&store, rank)?;
    // All ranks are here before the watch begins, which does not wait for the preparing of slices.
    store.set(&format!("ready/{rank}"), &[])?;
    let everyone: Vec<String> = (0..world_size).map(|rank| format!("ready/{rank}")).collect();
    store.wait(&everyone, GATHER_TIMEOUT)?;
    // From here on, so that it also watches over the making of the group.
    let store = Arc::new(store);
    let watchdog = (!hang_timeout.is_zero()).then(|| {
        let (store, place) = (Arc::clone(&store), Place { host: at, port, rank, world_size });
        Watchdog::start(store, place, hang_timeout, &session.activity, session.connection.writer())
    });
    let backend = if device.is_cuda() { Backend::Nccl } else { Backend::Gloo };
    let timeout = if watchdog.is_some() { WATCHED_TIMEOUT } else { COLLECTIVE_TIMEOUT };
    let group = ProcessGroup::new(backend, &store, rank, world_size, host, timeout)
        .with_context(|| format!("failed to join rank {rank} of {world_size}"))?;
    Ok((Gang::of(group), watchdog))
}

/// Goes on from the newest checkpoint; where that is damaged, from the one before, and says so. False where there is
/// none to go on from.
fn resume(trainer: &mut Trainer, start: &TrainerStart, assignment: &RankAssignment) -> anyhow::Result<bool> {
    let candidates = [(&start.resume_path, &assignment.resume), (&start.fallback_path, &assignment.fallback)];
    let mut refused = None;
    for (path, checkpoint) in candidates {
        let Some(CheckpointRef { artifact, .. }) = checkpoint.as_ref().filter(|_| !path.is_empty()) else {
            continue;
        };
        match trainer.resume(Path::new(path), Some(artifact)) {
            Ok(()) => {
                tracing::info!("goes on after step {} of {}", trainer.step(), trainer.total_steps());
                return Ok(true);
            }
            Err(error @ EngineError::Checkpoint { .. }) => {
                tracing::warn!("{error}; trying the checkpoint before it");
                refused = Some(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    // Starting afresh without a word would throw away hours of training.
    match refused {
        Some(error) => Err(anyhow::Error::from(error).context("no usable checkpoint to go on from")),
        None => Ok(false),
    }
}

/// Starts from the study's weights for this arm, where it has some. The log says what became of them.
fn initialise(trainer: &mut Trainer, start: &TrainerStart) -> anyhow::Result<()> {
    if start.init_path.is_empty() {
        return Ok(());
    }
    let notes = trainer.initialise(Path::new(&start.init_path))?;
    tracing::info!("starts from the weights that [init] of the study names");
    for note in notes {
        tracing::info!("initial weights: {note}");
    }
    Ok(())
}

/// Goes back to the checkpoint before, because another rank's copy of the newest is damaged or lost.
fn step_back(
    trainer: &mut Trainer,
    step: u64,
    start: &TrainerStart,
    assignment: &RankAssignment,
) -> anyhow::Result<()> {
    let fallback = assignment.fallback.as_ref().filter(|fallback| fallback.step == step);
    let Some(CheckpointRef { artifact, .. }) = fallback.filter(|_| !start.fallback_path.is_empty()) else {
        return Err(anyhow!(
            "another rank can only go on after step {step}, and this one has no such checkpoint"
        ));
    };
    tracing::warn!("another rank can only go on after step {step}; so does this one");
    Ok(trainer.resume(Path::new(&start.fallback_path), Some(artifact))?)
}

/// What the engine tells goes to the agent.
struct Session {
    connection: Connection,
    step: Option<u64>,
    activity: Arc<Activity>,
    /// When the agent was last told that the rank works.
    told: Mutex<Option<Instant>>,
}

impl Observer for Session {
    fn metrics(&mut self, record: MetricRecord) -> Result<(), EngineError> {
        self.step = Some(record.step);
        self.tell(Message::Metrics(record.to_proto())).map_err(EngineError::Observer)
    }

    fn checkpoint(&mut self, checkpoint: CheckpointFile) -> Result<(), EngineError> {
        let saved = SavedCheckpoint {
            step: checkpoint.step,
            path: checkpoint.path.to_string_lossy().into_owned(),
            artifact: Some(checkpoint.artifact.to_proto()),
        };
        self.tell(Message::Checkpoint(saved)).map_err(EngineError::Observer)
    }

    fn stop_requested(&self) -> bool {
        self.connection.stop_requested()
    }

    fn working(&self, step: u64) {
        self.activity.working(step);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= WORKING_INTERVAL) {
            // A broken socket ends the trainer by its reading end.
            let _ = self.tell(Message::Working(TrainerWorking { step }));
            *told = Some(Instant::now());
        }
    }
}

impl Session {
    /// The agent makes a rank wait while it can store no more: that is no hang.
    fn tell(&self, message: Message) -> std::io::Result<()> {
        self.activity.talk(|| self.connection.send(message))
    }

    fn deliver(&mut self, work_dir: &Path, results: &Results) -> anyhow::Result<()> {
        let evaluation = work_dir.join("evaluation.json");
        std::fs::write(&evaluation, serde_json::to_vec(&results.evaluation)?)
            .with_context(|| format!("failed to write {}", evaluation.display()))?;
        let predictions = archive(work_dir, &results.predictions)?;
        let message = TrainerEvaluated {
            summary_json: serde_json::to_string(&results.evaluation.summary())?,
            evaluation_path: evaluation.to_string_lossy().into_owned(),
            weights_path: results.weights.to_string_lossy().into_owned(),
            predictions_path: predictions.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        };
        self.tell(Message::Evaluated(message)).context("failed to report to the agent")
    }
}

/// Predicted masks as one tar, with the files' names only; `None` where there are none.
fn archive(work_dir: &Path, files: &[PathBuf]) -> anyhow::Result<Option<PathBuf>> {
    if files.is_empty() {
        return Ok(None);
    }
    let path = work_dir.join("predictions.tar");
    let failed = || format!("failed to write {}", path.display());
    let mut tar = tar::Builder::new(File::create(&path).with_context(failed)?);
    // Times and owners would make equal predictions differ.
    tar.mode(tar::HeaderMode::Deterministic);
    for file in files {
        let name = file.file_name().ok_or_else(|| anyhow!("{} has no name", file.display()))?;
        tar.append_path_with_name(file, name).with_context(failed)?;
    }
    tar.into_inner().and_then(|file| file.sync_all()).with_context(failed)?;
    Ok(Some(path))
}
