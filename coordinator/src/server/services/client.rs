//! `mtinet.v1.Client`: studies, events, workers and results for people's commands and dashboards.

use std::sync::Arc;

use mtinet_core::Request as Asked;
use mtinet_domain::trial::DatasetRef;
use mtinet_domain::{StudyId, StudySpec, TrialId, TrialKey, suggest};
use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::client_server::Client;
use mtinet_proto::v1::{
    self, ArtifactChunk, CancelStudyRequest, CancelStudyResponse, GetArtifactRequest, GetServerInfoRequest,
    GetStudyRequest, ListStudiesRequest, ListStudiesResponse, ListWorkersRequest, ListWorkersResponse,
    PutArtifactRequest, ServerInfo, StreamEventsRequest, SubmitStudyRequest, SubmitStudyResponse,
};
use mtinet_runtime::convert::required;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::feed::Feed;
use super::{DataService, check_version, log, receive_artifact, send_artifact, views};
use crate::server::artifacts::Artifacts;
use crate::server::auth::{Caller, Followed, Quotas};
use crate::server::driver::Handle;
use crate::server::logs::Logs;
use crate::server::store::Reader;
use crate::server::usage::FleetUsage;

/// Events that wait for a client at most.
const EVENTS_AHEAD: usize = 256;

/// The service for people's commands.
pub struct ClientService {
    driver: Handle,
    artifacts: Artifacts,
    data: DataService,
    log: Reader,
    logs: Logs,
    usage: FleetUsage,
    quotas: Arc<Quotas>,
}

impl ClientService {
    /// The service in front of a driver.
    pub fn new(
        driver: Handle,
        artifacts: Artifacts,
        data: DataService,
        log: Reader,
        logs: Logs,
        usage: FleetUsage,
        quotas: Arc<Quotas>,
    ) -> Self {
        Self { driver, artifacts, data, log, logs, usage, quotas }
    }

    /// A worker must find the weights that an arm starts from, whenever it asks.
    async fn check_initial_weights(&self, spec: &StudySpec) -> Result<(), Status> {
        for (arm, file) in &spec.init {
            let refused = |problem: String| {
                Status::invalid_argument(format!("init: the weights `{}` of {arm} {problem}", file.path()))
            };
            let Some(artifact) = file.artifact() else {
                return Err(refused("carry no hash; submit the study with `mtinet study submit`".to_owned()));
            };
            match self.artifacts.size(&artifact.blake3).await {
                Ok(bytes) if bytes == artifact.bytes => {}
                Ok(bytes) => return Err(refused(format!("have {bytes} bytes, not {}", artifact.bytes))),
                Err(status) if status.code() == tonic::Code::NotFound => {
                    return Err(refused(
                        "are not in the artifact store; upload them and submit again".to_owned(),
                    ));
                }
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }

    /// A trial of a study, or of the newest study that has such a trial where `study` is 0.
    async fn find_trial(&self, study: u64, trial: &str) -> Result<TrialId, Status> {
        let key = trial_key(trial)?;
        let found = self.driver.look(move |core, _| {
            let has_it = |candidate: &&mtinet_core::Study| {
                (study == 0 || candidate.id == StudyId(study)) && candidate.trial(key).is_some()
            };
            core.studies().rev().find(has_it).map(|study| TrialId { study: study.id, key })
        });
        found.await?.ok_or_else(|| no_trial(study, trial))
    }

    async fn check_study(&self, study: StudyId) -> Result<(), Status> {
        let known = self.driver.look(move |core, _| core.study(study).is_some()).await?;
        if known { Ok(()) } else { Err(no_study(&study.to_string())) }
    }
}

#[tonic::async_trait]
impl Client for ClientService {
    type StreamEventsStream = Followed<ReceiverStream<Result<v1::RecordedEvent, Status>>>;
    type GetArtifactStream = ReceiverStream<Result<ArtifactChunk, Status>>;
    type StreamLogStream = Followed<ReceiverStream<Result<v1::LogChunk, Status>>>;

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
        let by = by(&request);
        let request = request.into_inner();
        check_version(request.protocol_version)?;
        let spec = StudySpec::from_json(&request.spec_json)
            .map_err(|error| Status::invalid_argument(format!("the study is refused: {error}")))?;
        let dataset: DatasetRef = required("dataset", request.dataset)?;
        self.check_initial_weights(&spec).await?;
        let study = self.driver.submit(Box::new(spec), dataset, by.clone()).await?;
        tracing::info!(target: "audit", by, study = study.0, "submitted a study");
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
            let unknown = || match &which {
                Which::Study(number) => no_study(&number.to_string()),
                Which::Name(name) => {
                    let names = core.studies().map(|study| study.spec.name.as_str());
                    no_study(&format!("`{name}`{}", suggest::did_you_mean(name, names)))
                }
            };
            study.map(|study| views::study(core, study)).ok_or_else(unknown)
        });
        found.await?.map(Response::new)
    }

    async fn cancel_study(
        &self,
        request: Request<CancelStudyRequest>,
    ) -> Result<Response<CancelStudyResponse>, Status> {
        let study = StudyId(request.get_ref().study);
        self.driver.ask(Asked::CancelStudy(study), by(&request)).await?;
        Ok(Response::new(CancelStudyResponse {}))
    }

    async fn pause_study(
        &self,
        request: Request<v1::PauseStudyRequest>,
    ) -> Result<Response<v1::PauseStudyResponse>, Status> {
        let study = StudyId(request.get_ref().study);
        let stopping = self.driver.ask(Asked::PauseStudy(study), by(&request)).await?;
        Ok(Response::new(v1::PauseStudyResponse { stopping }))
    }

    async fn resume_study(
        &self,
        request: Request<v1::ResumeStudyRequest>,
    ) -> Result<Response<v1::ResumeStudyResponse>, Status> {
        let study = StudyId(request.get_ref().study);
        self.driver.ask(Asked::ResumeStudy(study), by(&request)).await?;
        Ok(Response::new(v1::ResumeStudyResponse {}))
    }

    async fn retry_trials(
        &self,
        request: Request<v1::RetryTrialsRequest>,
    ) -> Result<Response<v1::RetryTrialsResponse>, Status> {
        let by = by(&request);
        let v1::RetryTrialsRequest { study, trials } = request.into_inner();
        let trials = trials.iter().map(|key| trial_key(key)).collect::<Result<_, _>>()?;
        let retried = self.driver.ask(Asked::RetryTrials { study: StudyId(study), trials }, by).await?;
        Ok(Response::new(v1::RetryTrialsResponse { retried }))
    }

    async fn cancel_trial(
        &self,
        request: Request<v1::CancelTrialRequest>,
    ) -> Result<Response<v1::CancelTrialResponse>, Status> {
        let trial = required("trial", request.get_ref().trial.clone())?;
        self.driver.ask(Asked::CancelTrial(trial), by(&request)).await?;
        Ok(Response::new(v1::CancelTrialResponse {}))
    }

    async fn pause_trial(
        &self,
        request: Request<v1::PauseTrialRequest>,
    ) -> Result<Response<v1::PauseTrialResponse>, Status> {
        let trial = required("trial", request.get_ref().trial.clone())?;
        let stopping = self.driver.ask(Asked::PauseTrial(trial), by(&request)).await?;
        Ok(Response::new(v1::PauseTrialResponse { stopping }))
    }

    async fn resume_trial(
        &self,
        request: Request<v1::ResumeTrialRequest>,
    ) -> Result<Response<v1::ResumeTrialResponse>, Status> {
        let trial = required("trial", request.get_ref().trial.clone())?;
        self.driver.ask(Asked::ResumeTrial(trial), by(&request)).await?;
        Ok(Response::new(v1::ResumeTrialResponse {}))
    }

    async fn drain_worker(
        &self,
        request: Request<v1::DrainWorkerRequest>,
    ) -> Result<Response<v1::DrainWorkerResponse>, Status> {
        let v1::DrainWorkerRequest { worker, undo } = request.get_ref().clone();
        let asked = if undo { Asked::Undrain(worker) } else { Asked::Drain(worker) };
        let stopping = self.driver.ask(asked, by(&request)).await?;
        Ok(Response::new(v1::DrainWorkerResponse { stopping }))
    }

    async fn readmit_worker(
        &self,
        request: Request<v1::ReadmitWorkerRequest>,
    ) -> Result<Response<v1::ReadmitWorkerResponse>, Status> {
        let worker = request.get_ref().worker.clone();
        self.driver.ask(Asked::Readmit(worker), by(&request)).await?;
        Ok(Response::new(v1::ReadmitWorkerResponse {}))
    }

    async fn explain_trial(
        &self,
        request: Request<v1::ExplainTrialRequest>,
    ) -> Result<Response<v1::ExplainTrialResponse>, Status> {
        let v1::ExplainTrialRequest { study, trial } = request.into_inner();
        let id = self.find_trial(study, &trial).await?;
        let look = move |core: &mtinet_core::Core, _| {
            core.explain(id).zip(core.study(id.study).map(|study| study.dataset.clone()))
        };
        let explained = self.driver.look(look).await?;
        let (mut why, dataset) = explained.ok_or_else(|| no_trial(study, &trial))?;
        if !matches!(why.status, "done" | "cancelled") {
            why.details.extend(self.data.explain(&dataset).await);
        }
        Ok(Response::new(v1::ExplainTrialResponse {
            study: id.study.0,
            trial: id.key.to_string(),
            status: why.status.to_owned(),
            reason: why.reason,
            details: why.details,
        }))
    }

    async fn stream_events(
        &self,
        request: Request<StreamEventsRequest>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let StreamEventsRequest { study, after, follow } = *request.get_ref();
        let study = StudyId(study);
        self.check_study(study).await?;
        let share = follow.then(|| self.quotas.follow(&Caller::of(&request))).transpose()?;
        // Subscribing before reading leaves no gap between what is stored and what is live.
        let live = if follow { Some(self.driver.subscribe()?) } else { None };
        let (events, stream) = mpsc::channel(EVENTS_AHEAD);
        let feed = Feed::new(self.driver.clone(), self.log.clone(), study, after, events);
        tokio::spawn(async move {
            // Whoever hung up needs no answer.
            let _ = feed.run(live).await;
        });
        Ok(Response::new(Followed::new(ReceiverStream::new(stream), share)))
    }

    async fn stream_log(
        &self,
        request: Request<v1::StreamLogRequest>,
    ) -> Result<Response<Self::StreamLogStream>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let trial = request.trial.clone();
        let v1::Trial { study, key } = trial.ok_or_else(|| Status::invalid_argument("name the trial"))?;
        let id = self.find_trial(study, &key).await?;
        let share = request.follow.then(|| self.quotas.follow(&caller)).transpose()?;
        let shown = log::show(&self.driver, &self.logs, id, &request).await?;
        Ok(Response::new(Followed::new(shown, share)))
    }

    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let usage = self.usage.clone();
        let workers = self.driver.look(move |core, now_ms| {
            core.workers().map(|(id, worker)| views::worker(id, worker, usage.of(id), now_ms)).collect()
        });
        Ok(Response::new(ListWorkersResponse { workers: workers.await? }))
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<PutArtifactRequest>>,
    ) -> Result<Response<v1::Artifact>, Status> {
        receive_artifact(&self.artifacts, request.into_inner()).await.map(Response::new)
    }

    async fn find_dataset(
        &self,
        request: Request<v1::FindDatasetRequest>,
    ) -> Result<Response<v1::FindDatasetResponse>, Status> {
        self.data.find(request.into_inner()).await.map(Response::new)
    }

    async fn offer_dataset(
        &self,
        request: Request<Streaming<v1::OfferDatasetRequest>>,
    ) -> Result<Response<v1::OfferDatasetResponse>, Status> {
        self.data.offer(request.into_inner()).await.map(Response::new)
    }

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        send_artifact(&self.artifacts, request.into_inner().blake3).await.map(Response::new)
    }
}

/// Who asks; none on a plaintext connection, where nobody proves who they are.
fn by<T>(request: &Request<T>) -> Option<String> {
    let caller = Caller::of(request);
    caller.subject.is_some().then(|| caller.by())
}

fn trial_key(text: &str) -> Result<TrialKey, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{error}")))
}

fn no_trial(study: u64, trial: &str) -> Status {
    match study {
        0 => Status::not_found(format!(
            "no study has a trial {trial}; `mtinet status STUDY` shows those of one"
        )),
        _ => Status::not_found(format!(
            "study {study} has no trial {trial}; `mtinet status {study}` shows all"
        )),
    }
}

fn no_study(asked: &str) -> Status {
    Status::not_found(format!("there is no study {asked}; `mtinet study list` shows all"))
}
