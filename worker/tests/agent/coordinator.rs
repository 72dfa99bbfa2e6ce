//! A coordinator that schedules nothing: it records what an agent says, and says what a test wants.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mtinet_proto::v1::worker_server::Worker;
use mtinet_proto::v1::{
    Ack, Artifact, ArtifactChunk, Attempt, CoordinatorMessage, GetArtifactRequest, GetDatasetRequest, Hello,
    JoinRequest, JoinResponse, PutArtifactRequest, PutLogRequest, PutLogResponse, Report, TellDatasetRequest,
    TellDatasetResponse, Welcome, WorkerMessage, coordinator_message, put_artifact_request, report,
    worker_message,
};
use mtinet_runtime::net;
use mtinet_runtime::tls::{self, Limits, OpenConnections, Security};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// Nothing in these tests takes longer, unless it never happens.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the coordinator knows; it survives a restart.
#[derive(Default)]
pub struct Ledger {
    pub joins: usize,
    pub hellos: Vec<Hello>,
    /// Reports as recorded, each once.
    pub reports: Vec<Report>,
    /// Reports that came although they were recorded.
    pub repeated: usize,
    pub heartbeats: usize,
    /// What heartbeats said of the machine.
    pub usage: Vec<mtinet_proto::v1::MachineUsage>,
    /// For each heartbeat that named working attempts, which.
    pub working: Vec<Vec<Attempt>>,
    pub artifacts: HashMap<String, Vec<u8>>,
    /// Logs by rank, and how often the next answers to them are lost.
    pub logs: HashMap<u32, Vec<u8>>,
    log_ends: HashMap<u32, u64>,
    pub lose_answers: usize,
    /// It is of a release that knows no logs; how often it was asked all the same.
    pub knows_no_logs: bool,
    pub refused_logs: usize,
    /// What it does not do.
    pub silent: bool,
    pub refusal: Option<String>,
    /// Its store takes nothing.
    pub full: bool,
    /// Files that it did not take.
    pub refused: usize,
    /// Lists of data sets' files by hash, and how often one was asked for.
    pub datasets: HashMap<String, Vec<u8>>,
    pub lists: usize,
    /// Files that are yet to be given out damaged, and how often one was asked for.
    pub spoil: usize,
    pub gets: usize,
    /// Answers to questions for data sets.
    pub told: Vec<(u64, bool)>,
    /// The traces that files came with.
    pub traceparents: Vec<String>,
    /// It does not know the worker of the next session any more.
    pub forgetful: bool,
    session: Option<Session>,
}

/// Towards one agent.
type Session = mpsc::UnboundedSender<Result<CoordinatorMessage, Status>>;

impl Ledger {
    pub fn last_seq(&self) -> u64 {
        self.reports.last().map_or(0, |report| report.seq)
    }

    pub fn facts(&self) -> impl Iterator<Item = &report::Fact> {
        self.reports.iter().filter_map(|report| report.fact.as_ref())
    }

    pub fn exit(&self) -> Option<mtinet_proto::v1::RankExited> {
        self.facts().find_map(|fact| match fact {
            report::Fact::Exited(exited) => Some(exited.clone()),
            _ => None,
        })
    }

    /// The value of a measurement, once one has it.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.facts().find_map(|fact| match fact {
            report::Fact::Metrics(batch) => {
                batch.records.iter().find_map(|record| record.values.get(name).copied())
            }
            _ => None,
        })
    }

    pub fn steps(&self) -> Vec<u64> {
        let records = self.facts().filter_map(|fact| match fact {
            report::Fact::Metrics(batch) => Some(batch.records.iter().map(|record| record.step)),
            _ => None,
        });
        records.flatten().collect()
    }
}

#[derive(Clone, Default)]
struct Service {
    ledger: Arc<Mutex<Ledger>>,
    changed: watch::Sender<u64>,
}

impl Service {
    fn change<T>(&self, act: impl FnOnce(&mut Ledger) -> T) -> T {
        let result = act(&mut self.ledger.lock().unwrap());
        self.changed.send_modify(|changes| *changes += 1);
        result
    }

    fn on_message(&self, message: WorkerMessage, session: &Session) {
        self.change(|ledger| {
            let answer = match message.message {
                Some(worker_message::Message::Hello(hello)) => {
                    ledger.hellos.push(hello);
                    coordinator_message::Message::Welcome(Welcome { last_seq: ledger.last_seq() })
                }
                Some(worker_message::Message::Heartbeat(heartbeat)) => {
                    ledger.heartbeats += 1;
                    ledger.usage.extend(heartbeat.usage);
                    ledger.working.extend(Some(heartbeat.working).filter(|working| !working.is_empty()));
                    return;
                }
                Some(worker_message::Message::Report(report)) => {
                    let seq = report.seq;
                    if seq > ledger.last_seq() {
                        ledger.reports.push(report);
                    } else {
                        ledger.repeated += 1;
                    }
                    coordinator_message::Message::Ack(Ack { seq })
                }
                None => return,
            };
            let is_ack = matches!(answer, coordinator_message::Message::Ack(_));
            if !(is_ack && ledger.silent) {
                let _ = session.send(Ok(CoordinatorMessage { message: Some(answer) }));
            }
        });
    }
}

#[tonic::async_trait]
impl Worker for Service {
    type SessionStream = UnboundedReceiverStream<Result<CoordinatorMessage, Status>>;
    type GetArtifactStream = Pin<Box<dyn Stream<Item = Result<ArtifactChunk, Status>> + Send>>;
    type GetDatasetStream = Self::GetArtifactStream;

    async fn join(&self, _: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        self.change(|ledger| {
            if let Some(refusal) = &ledger.refusal {
                return Err(Status::failed_precondition(refusal.clone()));
            }
            ledger.joins += 1;
            let worker_id = format!("worker-{}", ledger.joins);
            Ok(Response::new(JoinResponse { worker_id, heartbeat_interval_ms: 20, lease_ms: 3000 }))
        })
    }

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if self.change(|ledger| std::mem::take(&mut ledger.forgetful)) {
            return Err(Status::not_found("no such worker; join again"));
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        self.change(|ledger| ledger.session = Some(sender.clone()));
        let (service, mut messages) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(message)) = messages.message().await {
                service.on_message(message, &sender);
            }
            service.change(|ledger| ledger.session = None);
        });
        Ok(Response::new(UnboundedReceiverStream::new(receiver)))
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<PutArtifactRequest>>,
    ) -> Result<Response<Artifact>, Status> {
        let traceparent = request.metadata().get("traceparent").and_then(|value| value.to_str().ok());
        let full = self.change(|ledger| {
            ledger.traceparents.extend(traceparent.map(str::to_owned));
            ledger.refused += usize::from(ledger.full);
            ledger.full
        });
        if full {
            return Err(Status::unavailable("no space left on device"));
        }
        let (mut announced, mut content) = (None, Vec::new());
        let mut parts = request.into_inner();
        while let Some(part) = parts.next().await {
            match part?.part {
                Some(put_artifact_request::Part::Announce(artifact)) => announced = Some(artifact),
                Some(put_artifact_request::Part::Data(data)) => content.extend(data),
                None => {}
            }
        }
        let found = artifact(&content);
        if announced.as_ref() != Some(&found) {
            return Err(Status::data_loss("the content is not what was announced"));
        }
        self.change(|ledger| ledger.artifacts.insert(found.blake3.clone(), content));
        Ok(Response::new(found))
    }

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        let hash = request.into_inner().blake3;
        let content = self.ledger.lock().unwrap().artifacts.get(&hash).cloned();
        let mut content = content.ok_or_else(|| Status::not_found("there is no such artifact"))?;
        self.change(|ledger| {
            ledger.gets += 1;
            if ledger.spoil > 0 {
                ledger.spoil -= 1;
                content[0] ^= 1;
            }
        });
        let chunks: Vec<_> =
            content.chunks(5).map(|data| Ok(ArtifactChunk { data: data.to_vec() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn get_dataset(
        &self,
        request: Request<GetDatasetRequest>,
    ) -> Result<Response<Self::GetDatasetStream>, Status> {
        let hash = request.into_inner().hash;
        let list = self.change(|ledger| {
            ledger.lists += 1;
            ledger.datasets.get(&hash).cloned()
        });
        let list = list.ok_or_else(|| Status::not_found("bring it with `mtinet data upload`"))?;
        let chunks: Vec<_> =
            list.chunks(1000).map(|data| Ok(ArtifactChunk { data: data.to_vec() })).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }

    async fn tell_dataset(
        &self,
        request: Request<TellDatasetRequest>,
    ) -> Result<Response<TellDatasetResponse>, Status> {
        let TellDatasetRequest { worker_id, question, here } = request.into_inner();
        assert!(worker_id.starts_with("worker-"));
        self.change(|ledger| ledger.told.push((question, here)));
        Ok(Response::new(TellDatasetResponse {}))
    }

    async fn put_log(&self, request: Request<PutLogRequest>) -> Result<Response<PutLogResponse>, Status> {
        let PutLogRequest { worker_id, rank, offset, data, skips, .. } = request.into_inner();
        assert!(worker_id.starts_with("worker-") && data.len() <= 64 << 10);
        self.change(|ledger| {
            if ledger.knows_no_logs {
                ledger.refused_logs += 1;
                return Err(Status::permission_denied("PutLog is not a method of this coordinator"));
            }
            let end = ledger.log_ends.entry(rank).or_default();
            if offset == *end || (offset > *end && skips) {
                *end = offset + data.len() as u64;
                ledger.logs.entry(rank).or_default().extend(data);
            }
            let next = *end;
            if ledger.lose_answers > 0 {
                ledger.lose_answers -= 1;
                return Err(Status::unavailable("the answer is lost"));
            }
            Ok(Response::new(PutLogResponse { next }))
        })
    }
}

/// The reference of some content.
pub fn artifact(content: &[u8]) -> Artifact {
    Artifact { blake3: blake3::hash(content).to_hex().to_string(), bytes: content.len() as u64 }
}

/// A coordinator that can be killed and started again at the same address.
pub struct Coordinator {
    service: Service,
    pub addr: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Coordinator {
    pub fn start() -> Self {
        let mut coordinator =
            Self { service: Service::default(), addr: "127.0.0.1:0".parse().unwrap(), runtime: None };
        coordinator.serve();
        coordinator
    }

    /// Starts serving, in a runtime of its own, so that killing it cuts every connection.
    pub fn serve(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (service, addr) = (self.service.clone(), self.addr);
        let (sender, bound) = std::sync::mpsc::channel();
        runtime.spawn(async move {
            let listener = net::bind(&addr.to_string()).await.unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            let router = net::server().add_service(net::worker_server(service));
            let connections =
                tls::incoming(listener, Security::Plaintext, Limits::default(), OpenConnections::default());
            router.serve_with_incoming(connections).await.unwrap();
        });
        self.addr = bound.recv_timeout(DEADLINE).unwrap();
        self.runtime = Some(runtime);
    }

    /// Ends it at once: no goodbye, no acknowledgement.
    pub fn kill(&mut self) {
        let runtime = self.runtime.take().unwrap();
        tokio::task::block_in_place(|| runtime.shutdown_timeout(DEADLINE));
        self.change(|ledger| ledger.session = None);
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn change<T>(&self, act: impl FnOnce(&mut Ledger) -> T) -> T {
        self.service.change(act)
    }

    /// Stores some content without having been given it.
    pub fn store(&self, name: &Artifact, content: &[u8]) {
        self.change(|ledger| ledger.artifacts.insert(name.blake3.clone(), content.to_vec()));
    }

    /// Says something in the session, as soon as there is one.
    pub async fn say(&self, message: coordinator_message::Message) {
        let session = self.until("a session", |ledger| ledger.session.clone()).await;
        session.send(Ok(CoordinatorMessage { message: Some(message) })).unwrap();
    }

    /// Waits until the ledger has something.
    pub async fn until<T>(&self, what: &str, mut look: impl FnMut(&Ledger) -> Option<T>) -> T {
        let mut changes = self.service.changed.subscribe();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = look(&self.service.ledger.lock().unwrap()) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(DEADLINE, waiting).await {
            Ok(found) => found,
            Err(_) => {
                panic!("{what} did not come; reports: {:#?}", self.service.ledger.lock().unwrap().reports)
            }
        }
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
