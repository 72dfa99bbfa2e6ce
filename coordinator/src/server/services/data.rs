//! Data sets on their way from people to workers: the part of both services that is about them.

use mtinet_domain::WorkerId;
use mtinet_domain::trial::DatasetRef;
use mtinet_proto::CHUNK_BYTES;
use mtinet_proto::v1::{
    ArtifactChunk, FindDatasetRequest, FindDatasetResponse, GetDatasetRequest, OfferDatasetRequest,
    OfferDatasetResponse, TellDatasetRequest, TellDatasetResponse, offer_dataset_request,
};
use mtinet_runtime::convert::required;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::CHUNKS_AHEAD;
use crate::server::auth::Caller;
use crate::server::datasets::{self, Datasets, Stored};
use crate::server::driver::Handle;
use crate::server::questions::{Questions, Whereabouts};

/// What both services need for it. Cheap to clone.
#[derive(Clone)]
pub struct DataService {
    /// The data sets in the store.
    pub datasets: Datasets,
    /// What workers are asked.
    pub questions: Questions,
    /// The driver.
    pub driver: Handle,
}

impl DataService {
    /// Asks the workers for a data set.
    pub async fn find(&self, request: FindDatasetRequest) -> Result<FindDatasetResponse, Status> {
        let dataset: DatasetRef = required("dataset", request.dataset)?;
        let Whereabouts { having, lacking, silent } = self.questions.find(&self.driver, &dataset).await?;
        Ok(FindDatasetResponse { having, lacking, silent })
    }

    /// Takes a worker's answer.
    pub fn told(&self, caller: &Caller, request: TellDatasetRequest) -> Result<TellDatasetResponse, Status> {
        let TellDatasetRequest { worker_id, question, here } = request;
        caller.may_speak_for(&worker_id)?;
        let worker: WorkerId = required("worker_id", Some(worker_id))?;
        self.questions.answer(question, worker, here);
        Ok(TellDatasetResponse {})
    }

    /// Takes the list of a data set's files in, which comes in parts.
    pub async fn offer(
        &self,
        mut parts: Streaming<OfferDatasetRequest>,
    ) -> Result<OfferDatasetResponse, Status> {
        use offer_dataset_request::Part;
        let Some(Part::Hash(hash)) = parts.message().await?.and_then(|message| message.part) else {
            return Err(Status::invalid_argument("the first part must be the data set's hash"));
        };
        let mut document = Vec::new();
        while let Some(message) = parts.message().await? {
            match message.part {
                Some(Part::Data(data)) => datasets::extend(&mut document, &data)?,
                _ => return Err(Status::invalid_argument("only data may follow the data set's hash")),
            }
        }
        let missing = self.datasets.offer(&hash, document).await?;
        tracing::info!(dataset = hash, missing = missing.len(), "a data set is offered");
        Ok(OfferDatasetResponse { missing })
    }

    /// The list of a data set's files in chunks, for a worker: it gets what a study names and nothing else.
    pub async fn give(
        &self,
        request: GetDatasetRequest,
    ) -> Result<ReceiverStream<Result<ArtifactChunk, Status>>, Status> {
        let hash = request.hash;
        let wanted = hash.clone();
        let is_named =
            move |core: &mtinet_core::Core, _| core.studies().any(|study| study.dataset.hash == wanted);
        if !self.driver.look(is_named).await? {
            return Err(Status::not_found("no study here names this data set"));
        }
        let document = self.datasets.document(&hash).await?;
        let (chunks, stream) = mpsc::channel(CHUNKS_AHEAD);
        tokio::spawn(async move {
            for data in document.chunks(CHUNK_BYTES) {
                // A receiver that is gone wants no more.
                if chunks.send(Ok(ArtifactChunk { data: data.to_vec() })).await.is_err() {
                    return;
                }
            }
        });
        Ok(ReceiverStream::new(stream))
    }

    /// For whoever asks why a trial stands as it stands: whether workers can fetch its data set.
    pub async fn explain(&self, dataset: &DatasetRef) -> Option<String> {
        let name = &dataset.name;
        match self.datasets.stored(&dataset.hash).await.ok()? {
            Stored::Whole => {
                Some(format!("data set `{name}` is in the coordinator's store: workers without it fetch it"))
            }
            Stored::Part(there, all) => Some(format!(
                "data set `{name}` is in the coordinator's store in part ({there} of {all} files); `mtinet data upload {}` \
                 brings the rest",
                dataset.path
            )),
            Stored::Not => Some(format!(
                "data set `{name}` is not in the coordinator's store: only workers that have it can run this \
                 (`mtinet data upload {}` brings it for the others)",
                dataset.path
            )),
        }
    }
}
