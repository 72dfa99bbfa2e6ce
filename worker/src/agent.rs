//! The agent: what the coordinator commands, given to the ranks that it is for.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mtinet_domain::spec::DeviceChoice;
use mtinet_domain::trial::{Device, RankAssignment};
use mtinet_domain::{AttemptId, Rank, SlotIndex};
use mtinet_proto::v1::report::Fact;
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::{self, RendezvousReady, StartRank};
use mtinet_runtime::artifacts::Cache;
use mtinet_runtime::convert::{FromProto, RankExit, ToProto, required};
use mtinet_runtime::metrics;
use mtinet_runtime::net::{Channel, NetError};
use mtinet_runtime::shutdown::Shutdown;
use mtinet_runtime::telemetry::traces;
use mtinet_runtime::tls::{Role, TlsError, TokenError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument;

use crate::access::Access;
use crate::data_cache::DataCache;
use crate::dataset;
use crate::estate;
use crate::link::{Command, Link};
use crate::logs;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::outbox::{Limits, Outbox};
use crate::rank::{RankCommand, RankTask, not_started};
use crate::rank_dir;
use crate::session::{RankKey, Session};
use crate::spool::{self, Spool};
use crate::uplink::Uplink;
use crate::usage;

/// Where metrics are served unless somebody says otherwise.
const METRICS: &str = "127.0.0.1:7079";

/// How often the work directory is tidied.
const TIDY_INTERVAL: Duration = Duration::from_secs(600);

/// Why an agent cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The coordinator refuses it, in these words.
    #[error("the coordinator refuses this worker: {0}")]
    Refused(String),
    /// The coordinator's address is none.
    #[error(transparent)]
    Address(#[from] NetError),
    /// Nothing to show to the coordinator.
    #[error(
        "this worker has no identity in {} and no token: give --token-file FILE or set MTINET_TOKEN; `mtinet token create \
         --role worker` on the coordinator's machine prints one", .0.display()
    )]
    NoIdentity(PathBuf),
    /// A token that cannot be read.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// A token of people: the identity that it buys starts no trainers, and would be in the way of a worker's.
    #[error(
        "this is a token of role {0}, for `mtinet login`; a worker needs one of role worker: `mtinet token create --role \
         worker` on the coordinator's machine prints one"
    )]
    TokenRole(Role),
    /// An identity that cannot be used or stored.
    #[error(transparent)]
    Identity(#[from] TlsError),
    /// No place for the trainers' sockets.
    #[error("could not make a directory for sockets; set XDG_RUNTIME_DIR or TMPDIR to one with a short path")]
    Sockets(#[source] std::io::Error),
}

/// What all ranks share.
#[derive(Debug)]
pub struct Shared {
    pub(crate) options: Options,
    pub(crate) uplink: Uplink,
    /// On a connection of its own, so that files never hold up heartbeats.
    pub(crate) client: WorkerClient<Channel>,
    pub(crate) access: Arc<Access>,
    pub(crate) cache: Cache,
    pub(crate) data: DataCache,
    pub(crate) metrics: Metrics,
    sockets: tempfile::TempDir,
    next_socket: AtomicU64,
}

impl Shared {
    /// A path for one rank's socket, short enough for a socket's name.
    pub(crate) fn next_socket(&self) -> PathBuf {
        self.sockets.path().join(self.next_socket.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

/// Longest directory for sockets: a socket's whole path has 108 bytes at most.
const MAX_SOCKET_DIR_BYTES: usize = 80;

/// Runs an agent until `shutdown`, or until there is nothing to do with `exit_when_idle`.
///
/// # Errors
/// [`AgentError::Refused`] where the coordinator does not want it. A coordinator that is away is waited for.
pub async fn run(options: Options, shutdown: &Shutdown) -> Result<(), AgentError> {
    let spools = options.work_dir.join("spool");
    let former = spool::leftovers(&spools);
    let spool = Spool::create(&spools).inspect_err(|error| {
        tracing::error!(%error, dir = %spools.display(), "no spool: what is not acknowledged is kept in memory");
    });
    let outbox = Outbox::new(spool.ok(), Limits::default());
    let uplink = Uplink::new(Session::new(options.name.clone(), &options.devices, outbox));
    let sockets = socket_dir().map_err(AgentError::Sockets)?;
    let access = tokio::select! {
        biased;
        () = shutdown.requested() => return Ok(()),
        access = Access::obtain(&options) => access?,
    };
    let (sender, commands) = mpsc::unbounded_channel();
    let mut link =
        Link::new(options.coordinator.clone(), options.name.clone(), access.clone(), uplink.clone(), sender);
    let usage = usage::watch(options.devices.clone(), None);
    link.usage = Some(usage.clone());
    let scraped = options.metrics.bind(METRICS).await?;
    let shared = Arc::new(Shared {
        uplink,
        client: access.worker_client()?,
        access: access.clone(),
        cache: Cache::new(options.work_dir.join("cache/artifacts"), options.artifact_cache_bytes),
        data: DataCache::new(options.work_dir.join("cache/datasets"), options.data_cache_bytes),
        metrics: Metrics::default(),
        sockets,
        next_socket: AtomicU64::new(0),
        options,
    });
    tracing::info!(
        coordinator = shared.options.coordinator,
        devices = %shared.options.devices.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        data_root = %shared.options.data_root.display(),
        work_dir = %shared.options.work_dir.display(),
        "worker starts"
    );
    let mut estates = JoinSet::new();
    estates.spawn(tidy(shared.options.work_dir.clone()));
    for leftover in former {
        estates.spawn(estate::settle(shared.options.coordinator.clone(), access.clone(), leftover));
    }
    let freshness = tokio::spawn(access.keep_fresh());
    let held = Held::default();
    let _serving = scraped.map(|listener| {
        let (shared, held) = (Arc::clone(&shared), Arc::clone(&held));
        metrics::serve(listener, move || std::future::ready(exposition(&shared, &held, &usage)))
    });
    let agent = Agent { shared, held, tasks: JoinSet::new(), _estates: estates };
    let result = agent.run(link, commands, shutdown).await;
    freshness.abort();
    result
}

/// Removes what former agents left on the disk and what is too much: at once, and now and then, where another agent on the
/// same directory is killed or a trainer outlives its agent.
async fn tidy(work_dir: PathBuf) {
    let mut ticks = tokio::time::interval(TIDY_INTERVAL);
    loop {
        ticks.tick().await;
        let work_dir = work_dir.clone();
        let tidied = tokio::task::spawn_blocking(move || {
            rank_dir::remove_abandoned(&work_dir);
            logs::tidy_all(&work_dir, logs::Limits::default());
        });
        if let Err(error) = tidied.await {
            tracing::error!(%error, "tidying the work directory broke off");
        }
    }
}

fn exposition(shared: &Shared, held: &Held, usage: &usage::Latest) -> String {
    let (ranks, backlog) = (lock(held).len(), shared.uplink.backlog());
    shared.metrics.text(ranks, &shared.options.devices, backlog, usage.borrow().as_ref())
}

fn socket_dir() -> std::io::Result<tempfile::TempDir> {
    let short = |dir: PathBuf| (dir.as_os_str().len() <= MAX_SOCKET_DIR_BYTES && dir.is_dir()).then_some(dir);
    let dir = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .and_then(short)
        .or_else(|| short(std::env::temp_dir()))
        .unwrap_or_else(|| PathBuf::from("/tmp"));
    let make = |dir: PathBuf| tempfile::Builder::new().prefix("mtinet-").tempdir_in(dir);
    make(dir).or_else(|_| make(std::env::temp_dir()))
}

/// The ranks that hold a slot, and how to reach them.
type Held = Arc<Mutex<HashMap<RankKey, (SlotIndex, mpsc::UnboundedSender<RankCommand>)>>>;

struct Agent {
    shared: Arc<Shared>,
    held: Held,
    tasks: JoinSet<()>,
    /// What former agents on this directory left, unsaid or on the disk; ends with this one, and then waits for the next.
    _estates: JoinSet<()>,
}

impl Agent {
    async fn run(
        mut self,
        link: Link,
        mut commands: mpsc::UnboundedReceiver<Command>,
        shutdown: &Shutdown,
    ) -> Result<(), AgentError> {
        let mut link = tokio::spawn(link.run());
        let uplink = self.shared.uplink.clone();
        let mut reached = false;
        let mut idle_since = Instant::now();
        let result = loop {
            let idle = reached && self.tasks.is_empty() && uplink.backlog().reports == 0;
            tokio::select! {
                biased;
                () = shutdown.requested() => break Ok(()),
                refused = &mut link => {
                    break Err(AgentError::Refused(refused.unwrap_or_else(|error| error.to_string())));
                }
                Some(command) = commands.recv() => self.on_command(command),
                Some(ended) = self.tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a rank's task broke off");
                    }
                    idle_since = Instant::now();
                }
                () = uplink.wait_for(|backlog| backlog.welcome), if !reached => {
                    reached = true;
                    idle_since = Instant::now();
                }
                () = uplink.wait_for(|backlog| backlog.reports == 0), if !idle && reached && self.tasks.is_empty() => {}
                () = tokio::time::sleep_until(idle_since + self.shared.options.timings.idle),
                    if idle && self.shared.options.exit_when_idle =>
                {
                    tracing::info!("nothing to do: ending");
                    break Ok(());
                }
            }
        };
        self.farewell().await;
        link.abort();
        result
    }

    fn on_command(&mut self, command: Command) {
        match command {
            Command::Start(start) => self.on_start(*start),
            Command::Connect(connect) => {
                let Some(attempt) = attempt_of(connect.attempt) else { return };
                let ready = RendezvousReady { host: connect.host, port: connect.port };
                self.tell(|key| key == (attempt, Rank(connect.rank)), || RankCommand::Connect(ready.clone()));
            }
            Command::Stop(stop) => {
                let Some(attempt) = attempt_of(stop.attempt) else { return };
                let grace = Duration::from_millis(stop.grace_ms.into());
                self.tell(
                    |key| key.0 == attempt,
                    || RankCommand::Stop { reason: stop.reason.clone(), grace },
                );
            }
            // Not among the tasks: whoever asks can do without the answer of an agent that ends.
            Command::Look(look) => drop(tokio::spawn(dataset::tell(Arc::clone(&self.shared), look))),
        }
    }

    /// Ranks that are not here any more have reported their end: commands for them are late, not wrong.
    fn tell(&self, of: impl Fn(RankKey) -> bool, command: impl Fn() -> RankCommand) {
        for (key, (_, commands)) in lock(&self.held).iter() {
            if of(*key) && commands.send(command()).is_err() {
                tracing::debug!(attempt = %key.0, rank = %key.1, "the rank has just ended");
            }
        }
    }

    fn on_start(&mut self, start: StartRank) {
        let Some(attempt) = attempt_of(start.attempt.clone()) else { return };
        let key = (attempt, Rank(start.rank));
        let slot = SlotIndex(start.slot);
        let trial = attempt.trial;
        let (study, number, rank) = (trial.study.0, attempt.number.0, key.1.0);
        let span = tracing::info_span!("rank", study, trial = %trial.key, attempt = number, rank);
        traces::follow(&span, &start.traceparent);
        let _entered = span.enter();
        if lock(&self.held).contains_key(&key) {
            tracing::warn!("told again to start a rank that is here");
            return;
        }
        self.shared.uplink.hold(key, slot);
        self.shared.metrics.rank_started(attempt.number);
        let (sender, commands) = mpsc::unbounded_channel();
        let checked = self.check(&start, slot);
        if checked.is_ok() {
            lock(&self.held).insert(key, (slot, sender));
        }
        let (shared, held) = (Arc::clone(&self.shared), Arc::clone(&self.held));
        let task = async move {
            let exit = match checked {
                Err(message) => not_started(message),
                Ok((assignment, device)) => {
                    let task = RankTask { shared: Arc::clone(&shared), assignment, start, device, commands };
                    // In a task of its own, so that a panic becomes a report like every other end.
                    let running = AbortOnDrop(tokio::spawn(task.run().in_current_span()));
                    running.finish().await
                }
            };
            // Free before it is told: the coordinator may use the slot again at once.
            lock(&held).remove(&key);
            shared.metrics.rank_ended(&exit);
            trace_end(&exit);
            shared.uplink.report(key, Fact::Exited(exit.to_proto())).await;
        };
        self.tasks.spawn(task.instrument(span.clone()));
    }

    /// What a rank may be started with, in words where it may not.
    fn check(&self, start: &StartRank, slot: SlotIndex) -> Result<(RankAssignment, Device), String> {
        let assignment = RankAssignment::from_proto(start.clone()).map_err(|error| error.to_string())?;
        let devices = &self.shared.options.devices;
        let Some(&device) = devices.get(slot.0 as usize) else {
            return Err(format!("this worker has no slot {slot}: it has {}", devices.len()));
        };
        let fits = match assignment.spec.resources.device {
            DeviceChoice::Auto => true,
            DeviceChoice::Cpu => device == Device::Cpu,
            DeviceChoice::Cuda => device != Device::Cpu,
        };
        if !fits {
            return Err(format!(
                "slot {slot} is {device}, which the study's resources.device does not allow"
            ));
        }
        let key = assignment.attempt.trial.key;
        if !assignment.spec.trials().contains(&key) {
            return Err(format!("the study has no trial {key}"));
        }
        match lock(&self.held).iter().find(|(_, (held, _))| *held == slot) {
            Some(((attempt, rank), _)) => Err(format!("slot {slot} is held by {attempt} rank {rank}")),
            None => Ok((assignment, device)),
        }
    }

    /// Ends all trainers at a step boundary, stores what they leave, and tells no ends: the coordinator is to see
    /// that a worker left, which does not count as a failure of its trials.
    async fn farewell(&mut self) {
        let timings = self.shared.options.timings;
        let uplink = &self.shared.uplink;
        uplink.with(Session::leave);
        let reason = "the worker is being stopped".to_owned();
        self.tell(|_| true, || RankCommand::Stop { reason: reason.clone(), grace: timings.stop_grace });
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(timings.stop_grace + timings.farewell, all_ended).await.is_err() {
            tracing::warn!("some of what the trainers wrote could not be stored in time");
        }
        // Dropped tasks kill their trainers.
        self.tasks.shutdown().await;
        let backlog = uplink.backlog();
        if backlog.welcome {
            let acknowledged = uplink.wait_for(|backlog| backlog.reports == 0);
            if tokio::time::timeout(timings.farewell, acknowledged).await.is_err() {
                tracing::warn!(reports = uplink.backlog().reports, "reports were not acknowledged in time");
            }
        }
        if uplink.backlog().reports == 0 {
            uplink.with(Session::close);
        }
    }
}

/// Tells the trace of the present span how the rank ended.
fn trace_end(exit: &RankExit) {
    let span = tracing::Span::current();
    traces::note(&span, "exit", &exit.exit);
    traces::note(&span, "finished", &exit.finished);
    if let Some(step) = exit.step {
        traces::note(&span, "step", &step);
    }
    if !exit.finished && !exit.stopped {
        traces::failed(&span, &exit.message);
    }
}

/// A rank's task, which ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<RankExit>);

impl AbortOnDrop {
    async fn finish(mut self) -> RankExit {
        (&mut self.0).await.unwrap_or_else(|error| not_started(format!("a mistake in the worker: {error}")))
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn attempt_of(attempt: Option<v1::Attempt>) -> Option<AttemptId> {
    required("attempt", attempt)
        .inspect_err(|error| tracing::error!(%error, "ignoring a command that names no attempt"))
        .ok()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The map is whole at every await and panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
