//! A server in a runtime of its own, and agents that do what a test says.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mtinet_domain::StudySpec;
use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::event::Event;
use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_proto::v1::coordinator_message::Message;
use mtinet_proto::v1::put_artifact_request::Part;
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::{self, report::Fact, worker_message};
use mtinet_runtime::net::{self, Channel};
use mtinet_runtime::tls::{Credentials, Identity, Role, Subject, Validity};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::server::{Ready, ServerError, ServerOptions, serve_and_tell};

/// Nothing that a test waits for takes longer.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

pub fn options(dir: &Path) -> ServerOptions {
    ServerOptions { lease_ms: 1500, heartbeat_ms: 100, ..ServerOptions::new(dir) }
}

/// The id of all agents' identity.
const WORKER: &str = "fleet";

pub struct Server {
    runtime: Runtime,
    url: String,
    /// None of a coordinator that runs elsewhere.
    ready: Option<Ready>,
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<Result<(), ServerError>>,
}

impl Server {
    pub async fn start(options: ServerOptions) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel();
        let (tell, ready) = oneshot::channel();
        runtime.spawn(async move {
            let listener = net::bind("127.0.0.1:0").await.unwrap();
            let tell = |ready| tell.send(ready).unwrap();
            let shutdown = async move { drop(stopped.await) };
            drop(end.send(serve_and_tell(options, listener, tell, shutdown).await));
        });
        let ready = within("the server", ready).await.unwrap();
        Self { runtime, url: ready.url.clone(), ready: Some(ready), stop: Some(stop), ended }
    }

    /// A coordinator that runs elsewhere, on plaintext connections.
    pub fn at(url: String) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        Self { runtime, url, ready: None, stop: None, ended: oneshot::channel().1 }
    }

    pub fn ready(&self) -> &Ready {
        self.ready.as_ref().unwrap()
    }

    pub async fn client(&self) -> ClientClient<Channel> {
        net::client_client(self.channel().await)
    }

    pub async fn worker_client(&self) -> WorkerClient<Channel> {
        net::worker_client(self.channel_as(&self.as_worker()).await)
    }

    /// As the operator.
    pub async fn channel(&self) -> Channel {
        let operator = self.ready.as_ref().map(|ready| Credentials::Identity(ready.operator.clone()));
        self.channel_as(&operator.unwrap_or(Credentials::Plaintext)).await
    }

    fn as_worker(&self) -> Credentials {
        match self.ready {
            Some(_) => Credentials::of(self.identity(Role::Worker, WORKER)),
            None => Credentials::Plaintext,
        }
    }

    pub async fn channel_as(&self, credentials: &Credentials) -> Channel {
        within("a connection", net::connect_as(&self.url, credentials)).await.unwrap()
    }

    /// An identity that did not have to join.
    pub fn identity(&self, role: Role, id: &str) -> Identity {
        self.identity_within(role, id, Validity::from_now(Duration::from_secs(600)))
    }

    pub fn identity_within(&self, role: Role, id: &str, validity: Validity) -> Identity {
        self.ready().access.authority.issue(&Subject::new(role, id.into(), "test"), validity).unwrap()
    }

    /// The id of an agent that did not have to join.
    pub fn worker_id() -> String {
        format!("{WORKER}.0")
    }

    /// An orderly end.
    pub async fn stop(mut self) -> Result<(), ServerError> {
        drop(self.stop.take());
        let ended = within("the server's end", &mut self.ended).await.unwrap();
        self.kill().await;
        ended
    }

    /// Everything is gone at once, without a word.
    pub async fn kill(self) {
        tokio::task::spawn_blocking(move || self.runtime.shutdown_timeout(DEADLINE)).await.unwrap();
    }
}

/// A server on an empty data directory, which lives as long as what is returned first.
pub async fn fresh() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(options(dir.path())).await;
    (dir, server)
}

pub struct Agent {
    pub id: String,
    seq: u64,
    /// Reports that are not acknowledged.
    spool: Vec<v1::Report>,
    slots: u32,
    credentials: Credentials,
    session: Option<Session>,
}

struct Session {
    outgoing: mpsc::Sender<v1::WorkerMessage>,
    incoming: Streaming<v1::CoordinatorMessage>,
    heartbeats: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.heartbeats.abort();
    }
}

pub fn message(message: worker_message::Message) -> v1::WorkerMessage {
    v1::WorkerMessage { message: Some(message) }
}

impl Agent {
    pub async fn join(server: &Server, slots: u32) -> Self {
        Self::join_as(server, &server.as_worker(), slots).await
    }

    pub async fn join_as(server: &Server, credentials: &Credentials, slots: u32) -> Self {
        let mut client = net::worker_client(server.channel_as(credentials).await);
        let request = v1::JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            name: "host".into(),
            software_version: "0".into(),
        };
        let joined = client.join(request).await.unwrap().into_inner();
        let mut agent = Self {
            id: joined.worker_id,
            seq: 0,
            spool: Vec::new(),
            slots,
            credentials: credentials.clone(),
            session: None,
        };
        agent.connect(server, Vec::new()).await;
        agent
    }

    /// Opens a session and sends again what is not acknowledged. Returns what Welcome says.
    pub async fn connect(&mut self, server: &Server, running: Vec<v1::RunningRank>) -> u64 {
        let (outgoing, stream) = mpsc::channel(64);
        let device = v1::Device { kind: v1::device::Kind::Cpu.into(), index: 0 };
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            worker_id: self.id.clone(),
            name: "host".into(),
            slots: (0..self.slots).map(|index| v1::Slot { index, device: Some(device) }).collect(),
            running,
        };
        outgoing.send(message(worker_message::Message::Hello(hello))).await.unwrap();
        let mut client = net::worker_client(server.channel_as(&self.credentials).await);
        let incoming = client.session(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let beats = outgoing.clone();
        let heartbeats = tokio::spawn(async move {
            let mut interval = tokio::time::interval(Duration::from_millis(100));
            loop {
                interval.tick().await;
                if beats
                    .send(message(worker_message::Message::Heartbeat(v1::Heartbeat::default())))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
        self.session = Some(Session { outgoing, incoming, heartbeats });
        let Message::Welcome(welcome) = self.next().await else { panic!("the first message is not Welcome") };
        self.spool.retain(|report| report.seq > welcome.last_seq);
        for report in self.spool.clone() {
            self.send(report).await;
        }
        welcome.last_seq
    }

    /// Waits until the coordinator cuts the session.
    pub async fn until_cut(&mut self) {
        let incoming = &mut self.session.as_mut().unwrap().incoming;
        while let Ok(Some(_)) = incoming.message().await {}
    }

    pub fn disconnect(&mut self) {
        self.session = None;
    }

    pub async fn next(&mut self) -> Message {
        let incoming = &mut self.session.as_mut().unwrap().incoming;
        let received = within("a message to the worker", incoming.message()).await;
        received.unwrap().expect("the session goes on").message.unwrap()
    }

    /// The next assignment; acknowledgements in between are taken in.
    pub async fn assignment(&mut self) -> v1::StartRank {
        loop {
            match self.next().await {
                Message::Start(start) => return start,
                Message::Ack(ack) => self.spool.retain(|report| report.seq > ack.seq),
                Message::Stop(_) | Message::Connect(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Waits until everything said is acknowledged.
    pub async fn acknowledged(&mut self) {
        while !self.spool.is_empty() {
            if let Message::Ack(ack) = self.next().await {
                self.spool.retain(|report| report.seq > ack.seq);
            }
        }
    }

    pub async fn report(&mut self, start: &v1::StartRank, fact: Fact) {
        self.seq += 1;
        let report =
            v1::Report { seq: self.seq, attempt: start.attempt.clone(), rank: start.rank, fact: Some(fact) };
        self.spool.push(report.clone());
        if self.session.is_some() {
            self.send(report).await;
        }
    }

    /// Reports something that this release does not know.
    pub async fn report_unreadable(&mut self, start: &v1::StartRank) {
        self.seq += 1;
        let attempt = start.attempt.clone();
        self.send(v1::Report { seq: self.seq, attempt, rank: start.rank, fact: None }).await;
    }

    async fn send(&mut self, report: v1::Report) {
        let outgoing = &self.session.as_ref().unwrap().outgoing;
        within("the session", outgoing.send(message(worker_message::Message::Report(report)))).await.unwrap();
    }

    /// A heartbeat that says how the machine stands.
    pub async fn say_usage(&mut self, usage: v1::MachineUsage) {
        let outgoing = &self.session.as_ref().unwrap().outgoing;
        let heartbeat = worker_message::Message::Heartbeat(v1::Heartbeat {
            usage: Some(usage),
            ..v1::Heartbeat::default()
        });
        within("the session", outgoing.send(message(heartbeat))).await.unwrap();
    }

    /// The rank does all its work.
    pub async fn complete(&mut self, start: &v1::StartRank) {
        self.report(start, Fact::Started(v1::RankStarted { pid: 1 })).await;
        self.report(start, evaluated()).await;
        self.report(start, exited(0, true)).await;
    }
}

pub fn running(start: &v1::StartRank) -> v1::RunningRank {
    v1::RunningRank { attempt: start.attempt.clone(), rank: start.rank, slot: start.slot, exited: false }
}

pub fn artifact(content: &[u8]) -> v1::Artifact {
    v1::Artifact { blake3: blake3::hash(content).to_hex().to_string(), bytes: content.len() as u64 }
}

/// Stores a file whole, as an agent does.
pub async fn put(server: &Server, content: &str) {
    put_as(server, artifact(content.as_bytes()), content.as_bytes()).await.unwrap();
}

/// Announces a file and sends this content for it.
pub async fn put_as(
    server: &Server,
    announced: v1::Artifact,
    content: &[u8],
) -> Result<v1::Artifact, Status> {
    let parts = std::iter::once(Part::Announce(announced))
        .chain(content.chunks(700_000).map(|data| Part::Data(data.to_vec())))
        .map(|part| v1::PutArtifactRequest { part: Some(part) })
        .collect::<Vec<_>>();
    Ok(server.worker_client().await.put_artifact(tokio_stream::iter(parts)).await?.into_inner())
}

/// A checkpoint at a step, whose content is `cSTEP`.
pub fn checkpoint(step: u64) -> Fact {
    Fact::Checkpoint(v1::Checkpoint { step, artifact: Some(artifact(format!("c{step}").as_bytes())) })
}

pub fn evaluated() -> Fact {
    Fact::Evaluated(v1::Evaluated {
        summary_json: serde_json::to_string(&FoldSummary::default()).unwrap(),
        evaluation: Some(artifact(b"evaluation")),
        weights: Some(artifact(b"weights")),
        predictions: None,
    })
}

pub fn exited(code: i32, finished: bool) -> Fact {
    let how = Some(v1::rank_exited::How::Code(code));
    Fact::Exited(v1::RankExited { how, finished, message: "the end".into(), ..Default::default() })
}

pub fn metrics(step: u64) -> Fact {
    let values = [("loss".to_owned(), 0.5), ("diverged".to_owned(), f64::NAN)].into();
    let scope = v1::metric_record::Scope::Step.into();
    let record = v1::MetricRecord { scope, step, epoch: 1, train_seconds: 1.0, values };
    Fact::Metrics(v1::MetricBatch { records: vec![record] })
}

/// How fast an epoch went.
pub fn speed(step: u64) -> Fact {
    let values = [("step_seconds", 0.25), ("data_wait", 0.125), ("samples_per_second", 32.0)];
    let values = values.map(|(name, value)| (name.to_owned(), value)).into();
    let scope = v1::metric_record::Scope::Epoch.into();
    let record = v1::MetricRecord { scope, step, epoch: 1, train_seconds: 5.0, values };
    Fact::Metrics(v1::MetricBatch { records: vec![record] })
}

pub fn submission(extra: &str) -> v1::SubmitStudyRequest {
    let text = format!("name = \"s\"\ndataset = \"d\"\narms = [\"mti-net\"]\n{extra}");
    v1::SubmitStudyRequest {
        protocol_version: PROTOCOL_VERSION,
        spec_json: StudySpec::from_toml(&text).unwrap().to_json(),
        dataset: Some(v1::Dataset {
            name: "d".into(),
            path: "/d".into(),
            hash: "h".into(),
            phases: vec!["pre".into()],
            classes: vec!["hcc".into()],
        }),
    }
}

pub async fn submit(client: &mut ClientClient<Channel>, extra: &str) -> u64 {
    client.submit_study(submission(extra)).await.unwrap().into_inner().study
}

pub async fn show(client: &mut ClientClient<Channel>, study: u64) -> v1::Study {
    let which = Some(v1::get_study_request::Which::Study(study));
    client.get_study(v1::GetStudyRequest { which }).await.unwrap().into_inner()
}

/// All events of a study to its end; they are numbered without gap and none comes twice.
pub async fn events(client: &mut ClientClient<Channel>, study: u64, after: u64, follow: bool) -> Vec<Event> {
    let request = v1::StreamEventsRequest { study, after, follow };
    let mut stream = client.stream_events(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(event) = within("an event", stream.message()).await.unwrap() {
        assert_eq!(event.seq, after + events.len() as u64 + 1);
        assert_eq!(event.study, study);
        events.push(serde_json::from_str(&event.json).unwrap());
    }
    let reports: Vec<_> = events.iter().filter_map(|event: &Event| event.report()).collect();
    let distinct: BTreeSet<_> = reports.iter().map(|report| (report.worker.0.clone(), report.seq)).collect();
    assert_eq!(distinct.len(), reports.len(), "a report is recorded twice");
    events
}

pub fn kinds(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(Event::kind).collect()
}
