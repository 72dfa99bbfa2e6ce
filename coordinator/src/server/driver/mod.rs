//! The task that owns the scheduler: takes inputs in, has the events stored, then lets the effects out.
//!
//! It alone reads the clock. A slow worker cannot hold it up: its session is cut instead, and the scheduler says
//! everything again when the worker is back.

mod handle;
mod journal;
mod run;
mod sessions;
mod trace;

use mtinet_core::{Core, Effects, Hello, Refusal, Report, Request};
use mtinet_domain::trial::DatasetRef;
use mtinet_domain::{AttemptId, StudyId, StudySpec, WorkerId};
use mtinet_proto::v1::CoordinatorMessage;
use tokio::sync::{mpsc, oneshot};
use tracing::Span;

pub use handle::Handle;
pub use run::{Driver, now_ms, spawn};
pub use sessions::SessionNumber;

/// What a worker's session carries towards the worker.
pub type Outbox = mpsc::Sender<Result<CoordinatorMessage, tonic::Status>>;

/// A look at the state, with the present time in milliseconds.
type Look = Box<dyn FnOnce(&Core, u64) + Send>;

/// What happens to the scheduler from outside.
enum Input {
    /// A worker opens a session.
    Hello { hello: Hello, session: SessionNumber, outbox: Outbox },
    /// A sign of life, of the worker and of attempts.
    Heartbeat { worker: WorkerId, session: SessionNumber, working: Vec<AttemptId> },
    /// A rank did something.
    Report { worker: WorkerId, session: SessionNumber, report: Report },
    /// A report came that nobody here can read.
    Unreadable { worker: WorkerId, session: SessionNumber, seq: u64 },
    /// A worker's session is over.
    Closed { worker: WorkerId, session: SessionNumber },
    /// Someone submits a study.
    Submit {
        spec: Box<StudySpec>,
        dataset: DatasetRef,
        by: Option<String>,
        reply: oneshot::Sender<StudyId>,
        call: Span,
    },
    /// Someone asks for something.
    Ask { request: Request, by: Option<String>, reply: oneshot::Sender<Result<u32, Refusal>>, call: Span },
    /// Every connected worker is told something.
    Tell { message: Box<CoordinatorMessage>, reply: oneshot::Sender<Vec<(WorkerId, String)>> },
    /// Someone looks at the state, once everything taken in so far is stored.
    Look(Look),
}

/// What is done when the events of a batch are stored.
enum Afterwards {
    Submitted(oneshot::Sender<StudyId>, StudyId),
    Asked(oneshot::Sender<Result<u32, Refusal>>, journal::Asked),
    Look(Look),
    Tell(Box<CoordinatorMessage>, oneshot::Sender<Vec<(WorkerId, String)>>),
    Welcome(WorkerId, u64),
}

/// One round of the driver: what its inputs amount to.
#[derive(Default)]
struct Round {
    effects: Effects,
    afterwards: Vec<Afterwards>,
    /// Workers whose reports were taken in.
    heard: std::collections::BTreeSet<WorkerId>,
    /// The first call among its inputs that changes something: what follows is told in its trace.
    call: Option<Span>,
}
