//! `mtinet.v1.Worker`: agents join, keep a session, and move artifacts.

use std::sync::Arc;
use std::time::Duration;

use mtinet_domain::WorkerId;
use mtinet_proto::v1::worker_server::Worker;
use mtinet_proto::v1::{
    Artifact, ArtifactChunk, CoordinatorMessage, GetArtifactRequest, GetDatasetRequest, Hello, JoinRequest,
    JoinResponse, PutArtifactRequest, PutLogRequest, PutLogResponse, TellDatasetRequest, TellDatasetResponse,
    WorkerMessage, worker_message,
};
use mtinet_runtime::convert::optional;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{DataService, check_version, log, receive_artifact, send_artifact};
use crate::server::artifacts::Artifacts;
use crate::server::auth::{Caller, Quotas};
use crate::server::convert;
use crate::server::driver::{Handle, Outbox, SessionNumber};
use crate::server::logs::Logs;
use crate::server::options::ServerOptions;
use crate::server::usage::FleetUsage;

/// Messages that wait for a worker at most; one that lags further behind is cut.
const OUTBOX: usize = 1024;

/// A session must introduce itself within this time.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// The service for agents.
pub struct WorkerService {
    driver: Handle,
    artifacts: Artifacts,
    data: DataService,
    logs: Logs,
    usage: FleetUsage,
    quotas: Arc<Quotas>,
    heartbeat_ms: u32,
    lease_ms: u64,
}

impl WorkerService {
    /// The service in front of a driver.
    pub fn new(
        driver: Handle,
        artifacts: Artifacts,
        data: DataService,
        logs: Logs,
        usage: FleetUsage,
        quotas: Arc<Quotas>,
        options: &ServerOptions,
    ) -> Self {
        let (heartbeat_ms, lease_ms) = (options.heartbeat_ms, options.lease_ms);
        Self { driver, artifacts, data, logs, usage, quotas, heartbeat_ms, lease_ms }
    }
}

#[tonic::async_trait]
impl Worker for WorkerService {
    type SessionStream = ReceiverStream<Result<CoordinatorMessage, Status>>;
    type GetArtifactStream = ReceiverStream<Result<ArtifactChunk, Status>>;
    type GetDatasetStream = ReceiverStream<Result<ArtifactChunk, Status>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        check_version(request.get_ref().protocol_version)?;
        let caller = Caller::of(&request);
        self.quotas.join(&caller)?;
        Ok(Response::new(JoinResponse {
            worker_id: caller.new_worker_id(),
            heartbeat_interval_ms: self.heartbeat_ms,
            lease_ms: u32::try_from(self.lease_ms).unwrap_or(u32::MAX),
        }))
    }

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = Caller::of(&request);
        let mut messages = request.into_inner();
        let hello = first_message(&mut messages).await?;
        check_version(hello.protocol_version)?;
        caller.may_speak_for(&hello.worker_id)?;
        let hello = convert::hello(hello).map_err(|error| error.within("hello"))?;
        let worker = hello.worker.clone();
        let shares = self.quotas.session(&caller, u32::try_from(hello.slots.len()).unwrap_or(u32::MAX))?;
        let (outbox, stream) = mpsc::channel(OUTBOX);
        let session = self.driver.open(hello, outbox.clone()).await?;
        let (driver, usage) = (self.driver.clone(), self.usage.clone());
        tokio::spawn(async move {
            read(&driver, &usage, messages, &worker, session, outbox).await;
            drop(shares);
            usage.forget(&worker, session);
            // The driver may be gone first, at the end of the server.
            let _ = driver.close(worker, session).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<PutArtifactRequest>>,
    ) -> Result<Response<Artifact>, Status> {
        receive_artifact(&self.artifacts, request.into_inner()).await.map(Response::new)
    }

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        send_artifact(&self.artifacts, request.into_inner().blake3).await.map(Response::new)
    }

    async fn get_dataset(
        &self,
        request: Request<GetDatasetRequest>,
    ) -> Result<Response<Self::GetDatasetStream>, Status> {
        self.data.give(request.into_inner()).await.map(Response::new)
    }

    async fn tell_dataset(
        &self,
        request: Request<TellDatasetRequest>,
    ) -> Result<Response<TellDatasetResponse>, Status> {
        let caller = Caller::of(&request);
        self.data.told(&caller, request.into_inner()).map(Response::new)
    }

    async fn put_log(&self, request: Request<PutLogRequest>) -> Result<Response<PutLogResponse>, Status> {
        let caller = Caller::of(&request);
        log::take_in(&self.driver, &self.logs, &self.artifacts, &caller, request.into_inner())
            .await
            .map(Response::new)
    }
}

async fn first_message(messages: &mut Streaming<WorkerMessage>) -> Result<Hello, Status> {
    let first = tokio::time::timeout(HELLO_WITHIN, messages.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no Hello came within 10 s"))??;
    match first.and_then(|message| message.message) {
        Some(worker_message::Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message of a session must be Hello")),
    }
}

/// Passes a session's messages on until it ends.
async fn read(
    driver: &Handle,
    usage: &FleetUsage,
    mut messages: Streaming<WorkerMessage>,
    worker: &WorkerId,
    session: SessionNumber,
    outbox: Outbox,
) {
    // Only for saying why the session ends: the driver cuts it by dropping its own end, so this one must not hold it.
    let complain = outbox.downgrade();
    drop(outbox);
    while let Ok(Some(message)) = messages.message().await {
        let passed = match message.message {
            Some(worker_message::Message::Heartbeat(heartbeat)) => {
                match optional("usage", heartbeat.usage) {
                    Ok(Some(said)) => usage.tell(worker, session, said),
                    Ok(None) => {}
                    Err(error) => tracing::debug!(%worker, %error, "the worker's usage makes no sense"),
                }
                driver.heartbeat(worker.clone(), session, convert::working(heartbeat.working)).await
            }
            Some(worker_message::Message::Report(report)) => {
                let seq = report.seq;
                match convert::report(report) {
                    Ok(report) => driver.report(worker.clone(), session, report).await,
                    Err(error) if convert::is_report_number(seq) => {
                        // Were the session ended, its worker would come back and say the same again, for ever.
                        tracing::error!(%worker, seq, %error, "leaving out a report that cannot be read; is the worker of another release?");
                        driver.skip(worker.clone(), session, seq).await
                    }
                    Err(error) => Err(error.within("report").into()),
                }
            }
            Some(worker_message::Message::Hello(_)) | None => {
                Err(Status::invalid_argument("a session carries one Hello, then heartbeats and reports"))
            }
        };
        if let Err(status) = passed {
            tracing::warn!(%worker, problem = status.message(), "ending a worker's session");
            if let Some(outbox) = complain.upgrade() {
                // A full outbox ends the session without the word.
                let _ = outbox.try_send(Err(status));
            }
            break;
        }
    }
}
