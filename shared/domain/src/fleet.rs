//! Immutable facts about workers that are no study's: who is drained, who is set aside.
//!
//! They are stored as JSON like [`crate::event`]s and are readable forever, in a log of their own: no study's events
//! depend on them. A worker is one agent process. A new process of a machine that was set aside is set aside at once, in
//! the place of the one before it; a drain is over with the process that it was for.

use serde::{Deserialize, Serialize};

use crate::ids::WorkerId;

/// What happened to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum FleetEvent {
    /// A person asked that the worker's trials go on elsewhere and that it gets no new ones.
    WorkerDrained {
        /// The worker.
        worker: WorkerId,
        /// Who asked, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// A person took that back.
    WorkerUndrained {
        /// The worker.
        worker: WorkerId,
        /// Who asked, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// Attempts kept failing on the worker: it gets no new ones.
    WorkerSetAside {
        /// The worker.
        worker: WorkerId,
        /// What kept failing, in words.
        reason: String,
        /// The name of its machine, by which the next agent there is recognised.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
    /// A worker that was set aside gets trials again.
    WorkerReadmitted {
        /// The worker.
        worker: WorkerId,
        /// Who asked; absent where what failed there turned out to fail elsewhere too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// The worker is gone for good, or another one has taken its place: nothing is remembered of it.
    WorkerForgotten {
        /// The worker.
        worker: WorkerId,
    },
}

impl FleetEvent {
    /// The worker that it is about.
    pub fn worker(&self) -> &WorkerId {
        match self {
            Self::WorkerDrained { worker, .. }
            | Self::WorkerUndrained { worker, .. }
            | Self::WorkerSetAside { worker, .. }
            | Self::WorkerReadmitted { worker, .. }
            | Self::WorkerForgotten { worker } => worker,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_facts_read_back_with_and_without_who_asked() {
        let drained = r#"{"type":"worker_drained","worker":"w1"}"#;
        let event: FleetEvent = serde_json::from_str(drained).unwrap();
        assert_eq!(event, FleetEvent::WorkerDrained { worker: WorkerId("w1".into()), by: None });
        assert_eq!(serde_json::to_string(&event).unwrap(), drained);
        let aside = r#"{"type":"worker_set_aside","worker":"w1","reason":"no data"}"#;
        let event: FleetEvent = serde_json::from_str(aside).unwrap();
        assert_eq!(serde_json::to_string(&event).unwrap(), aside, "the first release wrote no name");
        let event = FleetEvent::WorkerReadmitted { worker: WorkerId("w1".into()), by: Some("ada".into()) };
        let json = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<FleetEvent>(&json).unwrap(), event);
    }
}
