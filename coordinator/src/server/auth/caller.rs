//! Who calls, as the services see it.

use std::fmt;
use std::net::SocketAddr;

use mtinet_runtime::tls::Subject;
use tonic::{Request, Status};

/// Who calls; an extension of every request that the gate admitted.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The holder of the certificate; none on a plaintext connection, and for those who join.
    pub subject: Option<Subject>,
    /// Where from.
    pub address: Option<SocketAddr>,
}

impl Caller {
    /// The caller of a request.
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Who did it, for events and the audit log: role, name and id.
    pub fn by(&self) -> String {
        self.to_string()
    }

    /// The id of a new agent of this caller. An agent is a process; its id tells whose certificate it came with.
    pub fn new_worker_id(&self) -> String {
        let process = uuid::Uuid::new_v4();
        match &self.subject {
            Some(subject) => format!("{}.{}", subject.id, &process.simple().to_string()[..8]),
            None => process.to_string(),
        }
    }

    /// Checks that an agent is this caller's: nobody speaks for another worker.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` in words.
    pub fn may_speak_for(&self, worker: &str) -> Result<(), Status> {
        let Some(subject) = &self.subject else { return Ok(()) };
        if worker.is_empty() {
            return Err(Status::invalid_argument("worker_id is missing"));
        }
        let owner = worker.rsplit_once('.').map_or(worker, |(owner, _)| owner);
        if owner == subject.id {
            return Ok(());
        }
        tracing::warn!(target: "audit", by = %self, worker, "refused: speaks for another worker");
        Err(Status::permission_denied(format!(
            "worker {worker} did not join with this certificate ({}); join again",
            subject.id
        )))
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.subject, self.address) {
            (Some(subject), _) => subject.fmt(f),
            (None, Some(address)) => write!(f, "someone at {address}"),
            (None, None) => f.write_str("someone"),
        }
    }
}
