//! How the services talk to the driver.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mtinet_core::{Core, Hello, Refusal, Report, Request};
use mtinet_domain::trial::DatasetRef;
use mtinet_domain::{AttemptId, StudyId, StudySpec, WorkerId};
use mtinet_proto::v1::CoordinatorMessage;
use tokio::sync::{broadcast, mpsc, oneshot};
use tonic::Status;
use tracing::Span;

use super::sessions::SessionNumber;
use super::{Input, Outbox};
use crate::server::store::StoredEvent;

/// Sends inputs to the driver. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    recorded: broadcast::WeakSender<Arc<Vec<StoredEvent>>>,
    sessions: Arc<AtomicU64>,
}

impl Handle {
    pub(super) fn new(
        inputs: mpsc::Sender<Input>,
        recorded: broadcast::WeakSender<Arc<Vec<StoredEvent>>>,
    ) -> Self {
        Self { inputs, recorded, sessions: Arc::default() }
    }

    /// Opens a worker's session; a former one of the same worker ends.
    pub async fn open(&self, hello: Hello, outbox: Outbox) -> Result<SessionNumber, Status> {
        let session = SessionNumber(self.sessions.fetch_add(1, Ordering::Relaxed));
        self.send(Input::Hello { hello, session, outbox }).await?;
        Ok(session)
    }

    pub async fn heartbeat(
        &self,
        worker: WorkerId,
        session: SessionNumber,
        working: Vec<AttemptId>,
    ) -> Result<(), Status> {
        self.send(Input::Heartbeat { worker, session, working }).await
    }

    pub async fn report(
        &self,
        worker: WorkerId,
        session: SessionNumber,
        report: Report,
    ) -> Result<(), Status> {
        self.send(Input::Report { worker, session, report }).await
    }

    /// A report with this number came that cannot be read: it is acknowledged and left out.
    pub async fn skip(&self, worker: WorkerId, session: SessionNumber, seq: u64) -> Result<(), Status> {
        self.send(Input::Unreadable { worker, session, seq }).await
    }

    pub async fn close(&self, worker: WorkerId, session: SessionNumber) -> Result<(), Status> {
        self.send(Input::Closed { worker, session }).await
    }

    /// Submits a study of `by`; the answer comes when it is stored.
    pub async fn submit(
        &self,
        spec: Box<StudySpec>,
        dataset: DatasetRef,
        by: Option<String>,
    ) -> Result<StudyId, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Submit { spec, dataset, by, reply, call: Span::current() }).await?;
        answer.await.map_err(|_| ended())
    }

    /// Asks for something in the name of `by`; the answer comes when what follows from it is stored.
    pub async fn ask(&self, request: Request, by: Option<String>) -> Result<u32, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Ask { request, by, reply, call: Span::current() }).await?;
        answer.await.map_err(|_| ended())?.map_err(|refusal| match refusal {
            Refusal::Unknown(words) => Status::not_found(words),
            Refusal::State(words) => Status::failed_precondition(words),
        })
    }

    /// Looks at the state, with the present time in milliseconds. What is seen is stored.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Core, u64) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let look = move |core: &Core, now_ms: u64| drop(reply.send(look(core, now_ms)));
        self.send(Input::Look(Box::new(look))).await?;
        answer.await.map_err(|_| ended())
    }

    /// Tells every connected worker something; who was told, with names.
    pub async fn tell_all(&self, message: CoordinatorMessage) -> Result<Vec<(WorkerId, String)>, Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Input::Tell { message: Box::new(message), reply }).await?;
        answer.await.map_err(|_| ended())
    }

    /// Events as they are stored, from now on. A subscriber that is too slow misses some and is told.
    pub fn subscribe(&self) -> Result<broadcast::Receiver<Arc<Vec<StoredEvent>>>, Status> {
        self.recorded.upgrade().map(|recorded| recorded.subscribe()).ok_or_else(ended)
    }

    /// Those who listen to events as they are stored.
    pub fn subscribers(&self) -> usize {
        self.recorded.upgrade().map_or(0, |recorded| recorded.receiver_count())
    }

    async fn send(&self, input: Input) -> Result<(), Status> {
        self.inputs.send(input).await.map_err(|_| ended())
    }
}

fn ended() -> Status {
    Status::unavailable("the coordinator is shutting down; try again when it is back")
}
