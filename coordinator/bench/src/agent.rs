//! Agents that do what the real one does on the wire, and train nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use mtinet_domain::evaluation::FoldSummary;
use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::coordinator_message::Message;
use mtinet_proto::v1::{self, report::Fact, worker_message};
use mtinet_runtime::net;
use mtinet_runtime::tls::Credentials;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;

use crate::subscriber::{Clock, SENT};

/// Messages that wait for the connection.
const OUTGOING: usize = 4096;

/// Delays before the next try to connect: a real agent's grow from the first to the second, spread by chance.
const RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// What a fleet is made of and does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The coordinator's address.
    pub url: String,
    /// What all agents show to it.
    pub access: Credentials,
    /// Agents.
    pub workers: u32,
    /// CPU slots of each.
    pub slots: u32,
    /// What their ranks do.
    pub work: Work,
}

/// What ranks do.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Each is over, evaluated and finished, as soon as it is started (or, beside rank 0, connected).
    NoOp,
    /// They go on forever; every `every` an agent sends a report for the next of its ranks.
    Train {
        /// Between two reports of an agent.
        every: Duration,
        /// What a report holds.
        batch: Batch,
    },
    /// They go on forever; an agent sends reports as fast as the coordinator acknowledges them.
    Flood {
        /// Unacknowledged reports of an agent at most.
        window: usize,
        /// What a report holds.
        batch: Batch,
    },
}

/// The measurements of one report.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Records.
    pub records: u32,
    /// Values of each record.
    pub values: u32,
}

/// What a fleet has seen.
#[derive(Debug)]
pub struct Tally {
    /// Ranks started.
    pub started: AtomicU64,
    /// Ranks told to stop.
    pub stopped: AtomicU64,
    /// Values of measurements that are acknowledged.
    pub points: AtomicU64,
    /// Reports that were acknowledged once and that a Welcome did not know any more.
    pub lost_acks: AtomicU64,
    /// Sessions that are open and welcome.
    pub sessions: AtomicI64,
    /// Reports that are not acknowledged.
    pub unacknowledged: AtomicI64,
    /// No new measurements.
    pub quiet: AtomicBool,
    /// Seconds from the report of a rank's end to the next assignment of its slot.
    pub turnaround: Mutex<Vec<f64>>,
    /// Reports of measurements by worker.
    pub measured: Mutex<HashMap<String, u64>>,
    clock: Clock,
}

/// A running fleet; ends with this.
#[derive(Debug)]
pub struct Fleet {
    /// What it has seen.
    pub tally: Arc<Tally>,
    _agents: JoinSet<()>,
}

impl Fleet {
    /// Starts the agents; they connect and reconnect by themselves.
    pub fn start(plan: &Plan, clock: Clock) -> Self {
        let tally = Arc::new(Tally {
            started: AtomicU64::new(0),
            stopped: AtomicU64::new(0),
            points: AtomicU64::new(0),
            lost_acks: AtomicU64::new(0),
            sessions: AtomicI64::new(0),
            unacknowledged: AtomicI64::new(0),
            quiet: AtomicBool::new(false),
            turnaround: Mutex::default(),
            measured: Mutex::default(),
            clock,
        });
        let mut agents = JoinSet::new();
        let plan = Arc::new(plan.clone());
        for number in 0..plan.workers {
            agents.spawn(Agent::new(Arc::clone(&plan), Arc::clone(&tally), number).run());
        }
        Self { tally, _agents: agents }
    }

    /// Waits until so many sessions are open.
    ///
    /// # Errors
    /// Patience that ends first.
    pub async fn wait_for_sessions(&self, sessions: u32, patience: Duration) -> anyhow::Result<()> {
        let enough = || self.tally.sessions.load(Relaxed) >= i64::from(sessions);
        until(patience, enough)
            .await
            .with_context(|| format!("{} of {sessions} sessions are open", self.tally.sessions.load(Relaxed)))
    }

    /// Waits until every agent has noticed that the coordinator is gone.
    ///
    /// # Errors
    /// Patience that ends first.
    pub async fn wait_until_cut(&self, patience: Duration) -> anyhow::Result<()> {
        until(patience, || self.tally.sessions.load(Relaxed) == 0)
            .await
            .context("some sessions are still open")
    }

    /// Stops measuring and waits until everything said is acknowledged.
    ///
    /// # Errors
    /// Patience that ends first.
    pub async fn quieten(&self, patience: Duration) -> anyhow::Result<()> {
        self.tally.quiet.store(true, Relaxed);
        until(patience, || self.tally.unacknowledged.load(Relaxed) == 0).await.with_context(|| {
            format!("{} reports are not acknowledged", self.tally.unacknowledged.load(Relaxed))
        })
    }
}

async fn until(patience: Duration, holds: impl Fn() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    while !holds() {
        if Instant::now() > deadline {
            bail!("waited {patience:?} in vain");
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Study, trial, attempt and rank.
type Key = (u64, String, u32, u32);

struct Held {
    start: v1::StartRank,
    exit: Option<u64>,
}

struct Agent {
    plan: Arc<Plan>,
    tally: Arc<Tally>,
    name: String,
    id: Option<String>,
    seq: u64,
    /// The last acknowledged report that is recorded.
    acked: u64,
    /// Reports that are not acknowledged, with the number of values that they hold.
    spool: VecDeque<(v1::Report, u64)>,
    held: BTreeMap<Key, Held>,
    ended: HashMap<u32, Instant>,
    step: u64,
    /// The rank that measured last.
    turn: usize,
}

type Outgoing = mpsc::Sender<v1::WorkerMessage>;

impl Agent {
    fn new(plan: Arc<Plan>, tally: Arc<Tally>, number: u32) -> Self {
        Self {
            plan,
            tally,
            name: format!("bench-{number}"),
            id: None,
            seq: 0,
            acked: 0,
            spool: VecDeque::new(),
            held: BTreeMap::new(),
            ended: HashMap::new(),
            step: 0,
            turn: number as usize,
        }
    }

    async fn run(mut self) {
        let mut pause = RETRY;
        loop {
            let mut welcome = false;
            // It ends when the coordinator is away, which this bench brings about itself.
            let _ = self.session(&mut welcome).await;
            if welcome {
                self.tally.sessions.fetch_sub(1, Relaxed);
                pause = RETRY;
            }
            tokio::time::sleep(pause.mul_f64(1.0 + rand::random::<f64>())).await;
            pause = (2 * pause).min(LONGEST_RETRY);
        }
    }

    async fn session(&mut self, welcome: &mut bool) -> anyhow::Result<()> {
        let mut client = net::worker_client(net::connect_as(&self.plan.url, &self.plan.access).await?);
        if self.id.is_none() {
            let request = v1::JoinRequest {
                protocol_version: PROTOCOL_VERSION,
                name: self.name.clone(),
                software_version: "bench".into(),
            };
            self.id = Some(client.join(request).await?.into_inner().worker_id);
        }
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        outgoing.try_send(message(worker_message::Message::Hello(self.hello())))?;
        let mut incoming = client.session(ReceiverStream::new(messages)).await?.into_inner();
        let mut heartbeats = ticks(Duration::from_millis(500));
        let mut measurements = ticks(match self.plan.work {
            Work::Train { every, .. } => every,
            Work::NoOp | Work::Flood { .. } => Duration::from_secs(3600),
        });
        loop {
            tokio::select! {
                received = incoming.message() => {
                    let received = received?.context("the session is over")?.message;
                    self.on_message(received.context("an unknown message")?, &outgoing, welcome).await?;
                    if let (Work::Flood { window, batch }, true) = (self.plan.work, *welcome) {
                        while self.spool.len() < window && self.measure(batch, &outgoing).await? {}
                    }
                }
                _ = heartbeats.tick() => {
                    let beat = worker_message::Message::Heartbeat(v1::Heartbeat::default());
                    outgoing.send(message(beat)).await?;
                }
                _ = measurements.tick() => {
                    if let (Work::Train { batch, .. }, true) = (self.plan.work, *welcome) {
                        self.measure(batch, &outgoing).await?;
                    }
                }
            }
        }
    }

    fn hello(&self) -> v1::Hello {
        let device = v1::Device { kind: v1::device::Kind::Cpu.into(), index: 0 };
        v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            worker_id: self.id.clone().unwrap_or_default(),
            name: self.name.clone(),
            slots: (0..self.plan.slots).map(|index| v1::Slot { index, device: Some(device) }).collect(),
            running: self
                .held
                .values()
                .map(|held| v1::RunningRank {
                    attempt: held.start.attempt.clone(),
                    rank: held.start.rank,
                    slot: held.start.slot,
                    exited: held.exit.is_some(),
                })
                .collect(),
        }
    }

    async fn on_message(
        &mut self,
        received: Message,
        outgoing: &Outgoing,
        welcome: &mut bool,
    ) -> anyhow::Result<()> {
        match received {
            Message::Welcome(said) => {
                *welcome = true;
                self.tally.lost_acks.fetch_add(self.acked.saturating_sub(said.last_seq), Relaxed);
                self.acknowledge(said.last_seq);
                for (report, _) in &self.spool {
                    outgoing.send(message(worker_message::Message::Report(report.clone()))).await?;
                }
                self.tally.sessions.fetch_add(1, Relaxed);
            }
            Message::Ack(ack) => self.acknowledge(ack.seq),
            Message::Start(start) => self.on_start(start, outgoing).await?,
            Message::Connect(connect) => {
                let key = key(connect.attempt.as_ref(), connect.rank);
                if let (Work::NoOp, Some(held)) = (self.plan.work, self.held.get(&key))
                    && held.exit.is_none()
                {
                    self.finish(&held.start.clone(), outgoing).await?;
                }
            }
            Message::Stop(stop) => {
                self.tally.stopped.fetch_add(1, Relaxed);
                let stopped = |held: &&Held| held.start.attempt == stop.attempt && held.exit.is_none();
                let starts: Vec<_> =
                    self.held.values().filter(stopped).map(|held| held.start.clone()).collect();
                for start in starts {
                    let exit = v1::RankExited { stopped: true, ..exited(false) };
                    self.end(&start, exit, outgoing).await?;
                }
            }
            // Nobody asks here for a data set.
            Message::Look(_) => {}
        }
        Ok(())
    }

    async fn on_start(&mut self, start: v1::StartRank, outgoing: &Outgoing) -> anyhow::Result<()> {
        let key = key(start.attempt.as_ref(), start.rank);
        if self.held.contains_key(&key) {
            return Ok(());
        }
        if let Some(ended) = self.ended.remove(&start.slot) {
            let seconds = ended.elapsed().as_secs_f64();
            self.tally.turnaround.lock().unwrap_or_else(PoisonError::into_inner).push(seconds);
        }
        self.tally.started.fetch_add(1, Relaxed);
        // The documents are not needed any more, and ten thousand of them are large.
        let start = v1::StartRank { spec_json: String::new(), dataset: None, ..start };
        self.held.insert(key, Held { start: start.clone(), exit: None });
        self.report(&start, Fact::Started(v1::RankStarted { pid: 1 }), 0, outgoing).await?;
        if !matches!(self.plan.work, Work::NoOp) {
            return Ok(());
        }
        if start.rank == 0 && start.world_size > 1 {
            let ready = v1::RendezvousReady { host: "127.0.0.1".into(), port: 4711 };
            self.report(&start, Fact::Rendezvous(ready), 0, outgoing).await?;
        }
        if start.rank == 0 { self.finish(&start, outgoing).await } else { Ok(()) }
    }

    async fn finish(&mut self, start: &v1::StartRank, outgoing: &Outgoing) -> anyhow::Result<()> {
        if start.rank == 0 {
            let artifact = v1::Artifact { blake3: "0".repeat(64), bytes: 1 };
            let evaluated = v1::Evaluated {
                summary_json: serde_json::to_string(&FoldSummary::default())?,
                evaluation: Some(artifact.clone()),
                weights: Some(artifact),
                predictions: None,
            };
            self.report(start, Fact::Evaluated(evaluated), 0, outgoing).await?;
        }
        self.end(start, exited(true), outgoing).await
    }

    async fn end(
        &mut self,
        start: &v1::StartRank,
        exit: v1::RankExited,
        outgoing: &Outgoing,
    ) -> anyhow::Result<()> {
        self.ended.insert(start.slot, Instant::now());
        let seq = self.seq + 1;
        if let Some(held) = self.held.get_mut(&key(start.attempt.as_ref(), start.rank)) {
            held.exit = Some(seq);
        }
        self.report(start, Fact::Exited(exit), 0, outgoing).await
    }

    /// Sends measurements of the next rank; whether there is one.
    async fn measure(&mut self, batch: Batch, outgoing: &Outgoing) -> anyhow::Result<bool> {
        if self.held.is_empty() || self.tally.quiet.load(Relaxed) {
            return Ok(false);
        }
        self.turn += 1;
        let turn = self.turn % self.held.len();
        let Some(start) = self.held.values().nth(turn).map(|held| held.start.clone()) else {
            return Ok(false);
        };
        let sent = self.tally.clock.now();
        let names = (1..batch.values).map(|n| (format!("loss_{n}"), 0.125 + f64::from(n)));
        let values: HashMap<String, f64> = names.chain([(SENT.to_owned(), sent)]).collect();
        let scope = v1::metric_record::Scope::Step.into();
        let mut records = Vec::with_capacity(batch.records as usize);
        for _ in 0..batch.records {
            self.step += 1;
            let values = values.clone();
            records.push(v1::MetricRecord { scope, step: self.step, epoch: 1, train_seconds: 0.5, values });
        }
        let points = u64::from(batch.records) * u64::from(batch.values);
        let worker = self.id.clone().unwrap_or_default();
        *self.tally.measured.lock().unwrap_or_else(PoisonError::into_inner).entry(worker).or_default() += 1;
        self.report(&start, Fact::Metrics(v1::MetricBatch { records }), points, outgoing).await?;
        Ok(true)
    }

    async fn report(
        &mut self,
        start: &v1::StartRank,
        fact: Fact,
        points: u64,
        outgoing: &Outgoing,
    ) -> anyhow::Result<()> {
        self.seq += 1;
        let report =
            v1::Report { seq: self.seq, attempt: start.attempt.clone(), rank: start.rank, fact: Some(fact) };
        self.spool.push_back((report.clone(), points));
        self.tally.unacknowledged.fetch_add(1, Relaxed);
        Ok(outgoing.send(message(worker_message::Message::Report(report))).await?)
    }

    fn acknowledge(&mut self, seq: u64) {
        while self.spool.front().is_some_and(|(report, _)| report.seq <= seq) {
            if let Some((report, points)) = self.spool.pop_front() {
                // That a process runs is not recorded: a restarted coordinator hears it again in Hello.
                if !matches!(report.fact, Some(Fact::Started(_))) {
                    self.acked = report.seq;
                }
                self.tally.points.fetch_add(points, Relaxed);
                self.tally.unacknowledged.fetch_sub(1, Relaxed);
            }
        }
        self.held.retain(|_, held| held.exit.is_none_or(|exit| exit > seq));
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    // Spread over the interval, as a fleet's are.
    let first = every.mul_f64(rand::random::<f64>());
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + first, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn key(attempt: Option<&v1::Attempt>, rank: u32) -> Key {
    let (trial, number) = attempt.map_or((None, 0), |attempt| (attempt.trial.as_ref(), attempt.number));
    trial.map_or((0, String::new(), number, rank), |trial| (trial.study, trial.key.clone(), number, rank))
}

fn exited(finished: bool) -> v1::RankExited {
    v1::RankExited { how: Some(v1::rank_exited::How::Code(0)), finished, ..Default::default() }
}

fn message(message: worker_message::Message) -> v1::WorkerMessage {
    v1::WorkerMessage { message: Some(message) }
}
