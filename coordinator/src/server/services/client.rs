//! `mtinet.v1.Client`: studies, events, workers and results for people's commands and dashboards.

use std::sync::Arc;

use mtinet_domain::trial::DatasetRef;
use mtinet_domain::{StudyId, StudySpec};
use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::client_server::Client;
use mtinet_proto::v1::{
    self, ArtifactChunk, CancelStudyRequest, CancelStudyResponse, GetArtifactRequest, GetServerInfoRequest,
    GetStudyRequest, ListStudiesRequest, ListStudiesResponse, ListWorkersRequest, ListWorkersResponse,
    RecordedEvent, ServerInfo, StreamEventsRequest, SubmitStudyRequest, SubmitStudyResponse,
};
use mtinet_runtime::convert::required;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{check_version, send_artifact, views};
use crate::server::artifacts::Artifacts;
use crate::server::auth::Caller;
use crate::server::driver::Handle;
use crate::server::store::{Reader, StoredEvent};

/// Events read from the log at once.
const PAGE: usize = 1000;

/// Events that wait for a client at most.
const EVENTS_AHEAD: usize = 256;

/// The service for people's commands.
pub struct ClientService {
    driver: Handle,
    artifacts: Artifacts,
    log: Reader,
}

impl ClientService {
    /// The service in front of a driver.
    pub fn new(driver: Handle, artifacts: Artifacts, log: Reader) -> Self {
        Self { driver, artifacts, log }
    }

    async fn check_study(&self, study: StudyId) -> Result<(), Status> {
        let known = self.driver.look(move |core, _| core.study(study).is_some()).await?;
        if known { Ok(()) } else { Err(no_study(&study.to_string())) }
    }
}

#[tonic::async_trait]
impl Client for ClientService {
    type StreamEventsStream = ReceiverStream<Result<RecordedEvent, Status>>;
    type GetArtifactStream = ReceiverStream<Result<ArtifactChunk, Status>>;

    async fn get_server_info(
        &self,
        request: Request<GetServerInfoRequest>,
    ) -> Result<Response<ServerInfo>, Status> {
        check_version(request.get_ref().protocol_version)?;
        Ok(Response::new(ServerInfo {
            protocol_version: PROTOCOL_VERSION,
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn submit_study(
        &self,
        request: Request<SubmitStudyRequest>,
    ) -> Result<Response<SubmitStudyResponse>, Status> {
        let by = Caller::of(&request).by();
        let request = request.into_inner();
        check_version(request.protocol_version)?;
        let spec = StudySpec::from_json(&request.spec_json)
            .map_err(|error| Status::invalid_argument(format!("the study is refused: {error}")))?;
        let dataset: DatasetRef = required("dataset", request.dataset)?;
        let study = self.driver.submit(Box::new(spec), dataset).await?;
        tracing::info!(target: "audit", by, %study, "submitted a study");
        Ok(Response::new(SubmitStudyResponse { study: study.0 }))
    }

    async fn list_studies(
        &self,
        _: Request<ListStudiesRequest>,
    ) -> Result<Response<ListStudiesResponse>, Status> {
        let list = |core: &mtinet_core::Core| core.studies().map(views::summary).collect();
        let studies = self.driver.look(move |core, _| list(core)).await?;
        Ok(Response::new(ListStudiesResponse { studies }))
    }

    async fn get_study(&self, request: Request<GetStudyRequest>) -> Result<Response<v1::Study>, Status> {
        use v1::get_study_request::Which;
        let which = request.into_inner().which;
        let which = which.ok_or_else(|| Status::invalid_argument("name the study by number or by name"))?;
        let found = self.driver.look(move |core, _| {
            let study = match &which {
                Which::Study(number) => core.study(StudyId(*number)),
                Which::Name(name) => core.studies().rev().find(|study| study.spec.name == *name),
            };
            let asked = || match &which {
                Which::Study(number) => number.to_string(),
                Which::Name(name) => format!("`{name}`"),
            };
            study.map(|study| views::study(core, study)).ok_or_else(|| no_study(&asked()))
        });
        found.await?.map(Response::new)
    }

    async fn cancel_study(
        &self,
        request: Request<CancelStudyRequest>,
    ) -> Result<Response<CancelStudyResponse>, Status> {
        let study = StudyId(request.get_ref().study);
        if !self.driver.cancel(study).await? {
            return Err(no_study(&study.to_string()));
        }
        tracing::info!(target: "audit", by = %Caller::of(&request), %study, "cancelled a study");
        Ok(Response::new(CancelStudyResponse {}))
    }

    async fn stream_events(
        &self,
        request: Request<StreamEventsRequest>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let StreamEventsRequest { study, after, follow } = *request.get_ref();
        let study = StudyId(study);
        self.check_study(study).await?;
        // Subscribing before reading leaves no gap between what is stored and what is live.
        let live = if follow { Some(self.driver.subscribe()?) } else { None };
        let (events, stream) = mpsc::channel(EVENTS_AHEAD);
        let feed = Feed { log: self.log.clone(), study, last: after, events };
        tokio::spawn(async move {
            // Whoever hung up needs no answer.
            let _ = feed.run(live).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let workers = self.driver.look(|core, now_ms| {
            core.workers().map(|(id, worker)| views::worker(id, worker, now_ms)).collect()
        });
        Ok(Response::new(ListWorkersResponse { workers: workers.await? }))
    }

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        send_artifact(&self.artifacts, request.into_inner().blake3).await.map(Response::new)
    }
}

/// One client's view of a study's events: stored ones first, then live ones, each once and in order.
struct Feed {
    log: Reader,
    study: StudyId,
    /// Number of the last event that was sent.
    last: u64,
    events: mpsc::Sender<Result<RecordedEvent, Status>>,
}

/// The client hung up, or the last event is sent.
struct Over;

impl Feed {
    async fn run(mut self, mut live: Option<broadcast::Receiver<Arc<Vec<StoredEvent>>>>) -> Result<(), Over> {
        loop {
            self.send_stored().await?;
            let Some(live) = &mut live else { return Ok(()) };
            self.send_live(live).await?;
        }
    }

    /// Sends what is stored, to the end of the log.
    async fn send_stored(&mut self) -> Result<(), Over> {
        loop {
            let (log, study, last) = (self.log.clone(), self.study, self.last);
            let page = tokio::task::spawn_blocking(move || log.events(study, last, PAGE)).await;
            let page = match page {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => return Err(self.break_off(error).await),
                Err(error) => return Err(self.break_off(error).await),
            };
            let read = page.len();
            for event in page {
                self.send(event).await?;
            }
            if read < PAGE {
                return Ok(());
            }
        }
    }

    /// Sends live events until some are missing between them and what was sent: the log has those.
    async fn send_live(&mut self, live: &mut broadcast::Receiver<Arc<Vec<StoredEvent>>>) -> Result<(), Over> {
        let study = self.study;
        loop {
            let batch = tokio::select! {
                batch = live.recv() => batch,
                () = self.events.closed() => return Err(Over),
            };
            let batch = match batch {
                Ok(batch) => batch,
                Err(RecvError::Lagged(_)) => return Ok(()),
                Err(RecvError::Closed) => {
                    let status =
                        Status::unavailable("the coordinator is shutting down; ask again when it is back");
                    let _ = self.events.send(Err(status)).await;
                    return Err(Over);
                }
            };
            for event in batch.iter().filter(|event| event.study == study) {
                if event.seq <= self.last {
                    continue;
                }
                if event.seq > self.last + 1 {
                    return Ok(());
                }
                self.send(event.clone()).await?;
            }
        }
    }

    async fn send(&mut self, event: StoredEvent) -> Result<(), Over> {
        self.last = event.seq;
        let is_last = event.is_last();
        let StoredEvent { study, seq, time_ms, kind, json } = event;
        let event = RecordedEvent { study: study.0, seq, time_ms, kind, json };
        self.events.send(Ok(event)).await.map_err(|_| Over)?;
        if is_last { Err(Over) } else { Ok(()) }
    }

    async fn break_off(&self, error: impl std::error::Error) -> Over {
        tracing::error!(%error, study = %self.study, "could not read events");
        let _ = self.events.send(Err(Status::internal("the event log could not be read"))).await;
        Over
    }
}

fn no_study(asked: &str) -> Status {
    Status::not_found(format!("there is no study {asked}; `mtinet study list` shows all"))
}
