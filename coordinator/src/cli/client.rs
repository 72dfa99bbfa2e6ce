//! The coordinator as the commands see it: domain types in and out, [`CliError`] when it does not answer.

use std::path::Path;
use std::time::Duration;

use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::trial::{ArtifactRef, DatasetRef};
use mtinet_domain::{StudyId, StudySpec, TrialKey};
use mtinet_proto::v1::auth_client::AuthClient;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_proto::v1::get_study_request::Which;
use mtinet_proto::v1::{
    CancelStudyRequest, CreateTokenRequest, GetArtifactRequest, GetServerInfoRequest, GetStudyRequest,
    ListStudiesRequest, ListTokensRequest, ListWorkersRequest, RecordedEvent, RevokeTokenRequest,
    StreamEventsRequest, Study, StudySummary, SubmitStudyRequest, TokenState, WorkerState,
};
use mtinet_proto::{CHUNK_BYTES, PROTOCOL_VERSION, v1};
use mtinet_runtime::convert::ToProto as _;
use mtinet_runtime::net::Channel;
use mtinet_runtime::tls::Credentials;
use mtinet_runtime::{artifacts, net};
use secrecy::SecretString;
use tonic::{Code, Streaming};

use super::error::CliError;
use super::target::{self, Target};

/// A connection to a coordinator that speaks our protocol version. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Coordinator {
    client: ClientClient<Channel>,
    auth: AuthClient<Channel>,
    url: String,
}

impl Coordinator {
    /// Connects to the coordinator that a person means ([`target::resolve`]) and compares versions.
    ///
    /// # Errors
    /// Exit code 3 where nothing answers or the versions differ, 2 where `given` is no address.
    pub async fn connect(given: &str) -> Result<Self, CliError> {
        let Target { url, credentials } = target::resolve(given).await?;
        Self::connect_as(&url, &credentials).await
    }

    /// Connects with these credentials and compares versions.
    ///
    /// # Errors
    /// As [`Coordinator::connect`].
    pub async fn connect_as(url: &str, credentials: &Credentials) -> Result<Self, CliError> {
        let channel = net::connect_as(url, credentials).await?;
        let mut client = net::client_client(channel.clone());
        let request = GetServerInfoRequest { protocol_version: PROTOCOL_VERSION };
        let info = client.get_server_info(request).await?.into_inner();
        if info.protocol_version != PROTOCOL_VERSION {
            return Err(CliError::Coordinator(format!(
                "the coordinator at {url} (mtinet {}) speaks protocol version {}, this mtinet {} speaks {}; use the \
                 same release on both sides",
                info.software_version,
                info.protocol_version,
                env!("CARGO_PKG_VERSION"),
                PROTOCOL_VERSION,
            )));
        }
        Ok(Self { client, auth: net::auth_client(channel), url: url.to_owned() })
    }

    /// Makes a token; the only time that it is told.
    pub async fn create_token(
        &mut self,
        role: &str,
        ttl: Duration,
        uses: u32,
    ) -> Result<(SecretString, u64), CliError> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let request = CreateTokenRequest { role: role.to_owned(), ttl_ms, uses };
        let made = self.auth.create_token(request).await?.into_inner();
        Ok((made.token.into(), made.expires_ms))
    }

    /// All tokens.
    pub async fn tokens(&mut self) -> Result<Vec<TokenState>, CliError> {
        Ok(self.auth.list_tokens(ListTokensRequest {}).await?.into_inner().tokens)
    }

    /// Revokes a token; how many identities go with it.
    pub async fn revoke_token(&mut self, id: &str) -> Result<u32, CliError> {
        let request = RevokeTokenRequest { id: id.to_owned() };
        Ok(self.auth.revoke_token(request).await?.into_inner().identities)
    }

    /// The address it was reached at.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Hands a study over.
    pub async fn submit(&mut self, spec: &StudySpec, dataset: &DatasetRef) -> Result<StudyId, CliError> {
        let request = SubmitStudyRequest {
            protocol_version: PROTOCOL_VERSION,
            spec_json: spec.to_json(),
            dataset: Some(dataset.to_proto()),
        };
        Ok(StudyId(self.client.submit_study(request).await?.into_inner().study))
    }

    /// Stores a file that a study is going to name.
    pub async fn put_file(&mut self, path: &Path, artifact: &ArtifactRef) -> Result<(), CliError> {
        Ok(artifacts::put_as_client(&mut self.client, path, artifact).await?)
    }

    /// Which workers have a data set; none where the coordinator is of a release that does not ask them.
    pub async fn find_dataset(
        &mut self,
        dataset: &DatasetRef,
    ) -> Result<Option<v1::FindDatasetResponse>, CliError> {
        let request = v1::FindDatasetRequest { dataset: Some(dataset.to_proto()) };
        match self.client.find_dataset(request).await {
            Ok(found) => Ok(Some(found.into_inner())),
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unimplemented) => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Names the files of a data set; hashes of those that the coordinator lacks.
    pub async fn offer_dataset(&mut self, hash: &str, document: &[u8]) -> Result<Vec<String>, CliError> {
        use v1::offer_dataset_request::Part;
        let data = document.chunks(CHUNK_BYTES).map(|data| Part::Data(data.to_vec()));
        let parts = std::iter::once(Part::Hash(hash.to_owned())).chain(data);
        let parts: Vec<_> = parts.map(|part| v1::OfferDatasetRequest { part: Some(part) }).collect();
        Ok(self.client.offer_dataset(tokio_stream::iter(parts)).await?.into_inner().missing)
    }

    /// All studies, as the coordinator orders them.
    pub async fn studies(&mut self) -> Result<Vec<StudySummary>, CliError> {
        Ok(self.client.list_studies(ListStudiesRequest {}).await?.into_inner().studies)
    }

    /// The study of this number, or the newest of this name, which may look like a number.
    pub async fn study(&mut self, which: &str) -> Result<Study, CliError> {
        if let Ok(number) = which.parse() {
            let request = GetStudyRequest { which: Some(Which::Study(number)) };
            match self.client.get_study(request).await {
                Err(status) if status.code() == Code::NotFound => {}
                found => return Ok(found?.into_inner()),
            }
        }
        let request = GetStudyRequest { which: Some(Which::Name(which.to_owned())) };
        Ok(self.client.get_study(request).await?.into_inner())
    }

    /// The number of a study given by number or name.
    pub async fn study_id(&mut self, which: &str) -> Result<StudyId, CliError> {
        let study = self.study(which).await?;
        study
            .summary
            .map(|summary| StudyId(summary.study))
            .ok_or_else(|| makes_no_sense("a study without a number"))
    }

    /// Ends a study.
    pub async fn cancel(&mut self, study: StudyId) -> Result<(), CliError> {
        self.client.cancel_study(CancelStudyRequest { study: study.0 }).await?;
        Ok(())
    }

    /// Ends one trial.
    pub async fn cancel_trial(&mut self, study: StudyId, key: TrialKey) -> Result<(), CliError> {
        let trial = Some(v1::Trial { study: study.0, key: key.to_string() });
        self.client.cancel_trial(v1::CancelTrialRequest { trial }).await?;
        Ok(())
    }

    /// Lets nothing of a trial start; how many attempts are being stopped for it.
    pub async fn pause_trial(&mut self, study: StudyId, key: TrialKey) -> Result<u32, CliError> {
        let trial = Some(v1::Trial { study: study.0, key: key.to_string() });
        Ok(self.client.pause_trial(v1::PauseTrialRequest { trial }).await?.into_inner().stopping)
    }

    /// Lets a paused trial go on.
    pub async fn resume_trial(&mut self, study: StudyId, key: TrialKey) -> Result<(), CliError> {
        let trial = Some(v1::Trial { study: study.0, key: key.to_string() });
        self.client.resume_trial(v1::ResumeTrialRequest { trial }).await?;
        Ok(())
    }

    /// Lets nothing of a study start; how many attempts are being stopped for it.
    pub async fn pause(&mut self, study: StudyId) -> Result<u32, CliError> {
        let request = v1::PauseStudyRequest { study: study.0 };
        Ok(self.client.pause_study(request).await?.into_inner().stopping)
    }

    /// Lets a paused study go on.
    pub async fn resume(&mut self, study: StudyId) -> Result<(), CliError> {
        self.client.resume_study(v1::ResumeStudyRequest { study: study.0 }).await?;
        Ok(())
    }

    /// Has trials tried again, all that failed or were cancelled where none is named; how many those are.
    pub async fn retry(&mut self, study: StudyId, trials: &[TrialKey]) -> Result<u32, CliError> {
        let trials = trials.iter().map(ToString::to_string).collect();
        let request = v1::RetryTrialsRequest { study: study.0, trials };
        Ok(self.client.retry_trials(request).await?.into_inner().retried)
    }

    /// Drains a worker or takes that back; how many attempts are being stopped for it.
    pub async fn drain(&mut self, worker: &str, undo: bool) -> Result<u32, CliError> {
        let request = v1::DrainWorkerRequest { worker: worker.to_owned(), undo };
        Ok(self.client.drain_worker(request).await?.into_inner().stopping)
    }

    /// Gives trials again to a worker that was set aside.
    pub async fn readmit(&mut self, worker: &str) -> Result<(), CliError> {
        self.client.readmit_worker(v1::ReadmitWorkerRequest { worker: worker.to_owned() }).await?;
        Ok(())
    }

    /// Why a trial stands as it stands, of the newest study that has it where none is named.
    pub async fn explain(
        &mut self,
        study: Option<StudyId>,
        key: TrialKey,
    ) -> Result<v1::ExplainTrialResponse, CliError> {
        let study = study.map_or(0, |study| study.0);
        let request = v1::ExplainTrialRequest { study, trial: key.to_string() };
        Ok(self.client.explain_trial(request).await?.into_inner())
    }

    /// All workers that it knows.
    pub async fn workers(&mut self) -> Result<Vec<WorkerState>, CliError> {
        Ok(self.client.list_workers(ListWorkersRequest {}).await?.into_inner().workers)
    }

    /// Events after a number; with `follow` also those to come.
    pub async fn events(&mut self, study: StudyId, after: u64, follow: bool) -> Result<Events, CliError> {
        let request = StreamEventsRequest { study: study.0, after, follow };
        Ok(Events { stream: self.client.stream_events(request).await?.into_inner() })
    }

    /// What the trainers of a trial wrote, in chunks as they come; [`super::logs::LogLines`] makes lines of them. With
    /// `follow` until the trial is over, with `tail_bytes` from shortly before the end.
    pub async fn log(&mut self, request: v1::StreamLogRequest) -> Result<Streaming<v1::LogChunk>, CliError> {
        Ok(self.client.stream_log(request).await?.into_inner())
    }

    /// A small artifact in memory, checked against its hash.
    pub async fn artifact(&mut self, artifact: &ArtifactRef) -> Result<Vec<u8>, CliError> {
        let request = GetArtifactRequest { blake3: artifact.blake3.clone() };
        let mut stream = self.client.get_artifact(request).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.message().await? {
            bytes.extend_from_slice(&chunk.data);
            if bytes.len() as u64 > artifact.bytes {
                break;
            }
        }
        if blake3::hash(&bytes).to_hex().as_str() != artifact.blake3 {
            return Err(makes_no_sense(&format!("artifact {} with other content", artifact.blake3)));
        }
        Ok(bytes)
    }

    /// An artifact as a file, checked; the file is whole or not there.
    pub async fn artifact_to(&mut self, artifact: &ArtifactRef, dest: &Path) -> Result<(), CliError> {
        let request = GetArtifactRequest { blake3: artifact.blake3.clone() };
        let stream = self.client.get_artifact(request).await?.into_inner();
        Ok(artifacts::fetch_to(stream, artifact, dest).await?)
    }
}

/// Events as they come in.
pub struct Events {
    stream: Streaming<RecordedEvent>,
}

impl Events {
    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Result<Option<Recorded>, CliError> {
        let Some(event) = self.stream.message().await? else { return Ok(None) };
        let RecordedEvent { study, seq, time_ms, json, .. } = event;
        let event: Event = serde_json::from_str(&json)
            .map_err(|error| makes_no_sense(&format!("event {seq} of study {study} ({error})")))?;
        Ok(Some(Recorded { study: StudyId(study), seq, time_ms, event }))
    }
}

pub fn makes_no_sense(what: &str) -> CliError {
    CliError::Coordinator(format!("the coordinator sent {what}; is it of another release?"))
}
