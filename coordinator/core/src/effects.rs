//! What a handler wants done.

use mtinet_domain::event::Event;
use mtinet_domain::fleet::FleetEvent;
use mtinet_domain::trial::{ArtifactRef, RankAssignment};
use mtinet_domain::{AttemptId, Rank, StudyId, WorkerId};

/// What the driver does after a handler: store `fleet`, then `record`, then send `send`, then delete `discard`.
#[derive(Debug, Default, PartialEq)]
#[must_use = "events that are not recorded are lost"]
pub struct Effects {
    /// Events to store, in this order, in one commit.
    pub record: Vec<(StudyId, Event)>,
    /// Facts about workers to store, in this order, before `record`: the log of the fleet is another one, and a drain
    /// without its stopped attempts is made up for when the worker is back, attempts stopped for nothing are not.
    pub fleet: Vec<FleetEvent>,
    /// Commands to send once `record` is stored.
    pub send: Vec<(WorkerId, Command)>,
    /// Workers that were given up: their sessions, where one is still open, end, so that they introduce themselves
    /// again. Nothing that they say on the old ones would be taken in.
    pub cut: Vec<WorkerId>,
    /// Artifacts that nothing refers to any more. Leaving one costs only disk.
    pub discard: Vec<ArtifactRef>,
}

impl Effects {
    /// Appends the effects of a later handler.
    pub fn extend(&mut self, later: Self) {
        self.record.extend(later.record);
        self.fleet.extend(later.fleet);
        self.send.extend(later.send);
        self.cut.extend(later.cut);
        self.discard.extend(later.discard);
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.record.is_empty()
            && self.fleet.is_empty()
            && self.send.is_empty()
            && self.cut.is_empty()
            && self.discard.is_empty()
    }
}

/// What a worker is told. Each may arrive twice and means the same then.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Start one rank.
    StartRank(Box<RankAssignment>),
    /// Rank 0's store listens here.
    ConnectRank {
        /// The execution.
        attempt: AttemptId,
        /// The rank that may connect.
        rank: Rank,
        /// Host of the store.
        host: String,
        /// TCP port of the store.
        port: u16,
    },
    /// End every rank of the attempt that runs on this worker.
    StopAttempt {
        /// The execution.
        attempt: AttemptId,
        /// Why, in words.
        reason: String,
        /// Time to end at a step boundary in milliseconds; 0 kills at once.
        grace_ms: u32,
    },
}
