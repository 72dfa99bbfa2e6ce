//! A trial: where it stands, what it can go on from, what it left behind.

use std::collections::BTreeSet;

use mtinet_domain::trial::{
    ArtifactRef, AttemptEnd, CheckpointRef, FailureCause, Placement, ProcessExit, TrialStatus,
};
use mtinet_domain::{AttemptNumber, Rank, WorkerId};

/// The unit that is scheduled and resumed.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Where it stands.
    pub state: TrialState,
    /// Executions begun.
    pub attempts: u32,
    /// Executions that failed by their own fault.
    pub failures: u32,
    /// The last such failure.
    pub last_failure: Option<FailureCause>,
    /// Workers that had such failures since the last success or retry.
    pub failed_on: BTreeSet<WorkerId>,
    /// The worker of the last failure.
    pub last_failed_on: Option<WorkerId>,
    /// Workers that it is not given to while another can take it.
    pub avoids: BTreeSet<WorkerId>,
    /// A person asked for its end.
    pub cancelled: bool,
    /// A person paused it: nothing of it starts.
    pub paused: bool,
    /// The newest checkpoint, to go on from.
    pub latest: Option<CheckpointRef>,
    /// The one before, for when the newest is damaged.
    pub previous: Option<CheckpointRef>,
    /// What the evaluation left behind.
    pub outputs: Option<Outputs>,
    /// Optimiser steps done, as last heard.
    pub step: u64,
}

/// Where a trial stands. Each state carries what exists only in it.
#[derive(Clone, Debug, PartialEq)]
pub enum TrialState {
    /// Waits for slots, or for the pause after a failure.
    Waiting {
        /// Earliest start, milliseconds since the Unix epoch; 0 for at once.
        not_before_ms: u64,
    },
    /// A person paused it, and nothing of it runs.
    Paused,
    /// Has an attempt that starts or trains.
    Running {
        /// Its ranks.
        gang: Gang,
    },
    /// The ranks that are left are being stopped.
    Stopping {
        /// Its ranks.
        gang: Gang,
        /// How the attempt will have ended, as far as is known yet.
        end: AttemptEnd,
    },
    /// Finished, with results.
    Done,
    /// Given up.
    Failed {
        /// Why, in words.
        reason: String,
    },
    /// It or its study was cancelled first.
    Cancelled,
}

/// The ranks of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Gang {
    /// Which execution of the trial.
    pub attempt: AttemptNumber,
    /// The ranks, in order.
    pub ranks: Vec<RankState>,
    /// Where it goes on from.
    pub resume: Option<CheckpointRef>,
    /// For when `resume` is damaged.
    pub fallback: Option<CheckpointRef>,
    /// Where rank 0's store listens.
    pub rendezvous: Option<Rendezvous>,
    /// The held-out fold is evaluated.
    pub evaluated: bool,
    /// When it began by the log, milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Since when its ranks have had time to start: its beginning, a restart of this process, later by the time in which
    /// this process stood still. Not recorded.
    pub begun_ms: u64,
    /// When one of its ranks was last heard of; while it is stopped, when the workers were told. Not recorded.
    pub heard_ms: u64,
    /// Workers were told to kill what is left of it. Not recorded.
    pub kills: bool,
}

/// Where rank 0's store listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Host.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// One rank of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct RankState {
    /// Where it runs.
    pub placement: Placement,
    /// How far it is.
    pub phase: Phase,
    /// How its process ended, where that was reported.
    pub exit: Option<ProcessExit>,
}

/// How far a rank is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The worker is told to start it.
    Starting,
    /// Its process is known to have run. Not recorded: after a restart the worker's Hello says it again.
    Started,
    /// Its process is over.
    Exited {
        /// It finished its work and exited with code 0.
        finished: bool,
    },
    /// Given up without a word from it.
    Lost,
}

/// What the evaluation left in the artifact store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outputs {
    /// Per-slice results.
    pub evaluation: ArtifactRef,
    /// Trained weights.
    pub weights: Option<ArtifactRef>,
    /// Predicted masks.
    pub predictions: Option<ArtifactRef>,
}

impl Phase {
    /// Whether the rank's process is over, as far as this attempt is concerned.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Exited { .. } | Self::Lost)
    }
}

impl Gang {
    /// The ranks that are not over.
    pub fn live(&self) -> impl Iterator<Item = &RankState> {
        self.ranks.iter().filter(|rank| !rank.phase.is_over())
    }

    /// Whether every rank finished its work.
    pub fn all_finished(&self) -> bool {
        self.ranks.iter().all(|rank| rank.phase == Phase::Exited { finished: true })
    }

    /// The state of a rank.
    pub fn rank(&self, rank: Rank) -> Option<&RankState> {
        self.ranks.get(rank.0 as usize)
    }

    /// Workers that hold a rank that is not over, each once, in order of rank.
    pub fn live_workers(&self) -> Vec<WorkerId> {
        let mut workers: Vec<WorkerId> = Vec::new();
        for rank in self.live() {
            if !workers.contains(&rank.placement.worker) {
                workers.push(rank.placement.worker.clone());
            }
        }
        workers
    }
}

impl Trial {
    pub(crate) fn new() -> Self {
        Self {
            state: TrialState::Waiting { not_before_ms: 0 },
            attempts: 0,
            failures: 0,
            last_failure: None,
            failed_on: BTreeSet::new(),
            last_failed_on: None,
            avoids: BTreeSet::new(),
            cancelled: false,
            paused: false,
            latest: None,
            previous: None,
            outputs: None,
            step: 0,
        }
    }

    /// The ranks of its attempt, while it has one.
    pub fn gang(&self) -> Option<&Gang> {
        match &self.state {
            TrialState::Running { gang } | TrialState::Stopping { gang, .. } => Some(gang),
            _ => None,
        }
    }

    pub(crate) fn gang_mut(&mut self) -> Option<&mut Gang> {
        match &mut self.state {
            TrialState::Running { gang } | TrialState::Stopping { gang, .. } => Some(gang),
            _ => None,
        }
    }

    /// Forgets its failures: it succeeded, or a person has it tried again.
    pub(crate) fn forget_failures(&mut self) {
        self.failed_on.clear();
        self.last_failed_on = None;
        self.avoids.clear();
    }

    /// Where it stands, as people see it.
    pub fn status(&self) -> TrialStatus {
        match self.state {
            TrialState::Waiting { .. } | TrialState::Paused => TrialStatus::Waiting,
            TrialState::Running { .. } => TrialStatus::Running,
            TrialState::Stopping { .. } => TrialStatus::Stopping,
            TrialState::Done => TrialStatus::Done,
            TrialState::Failed { .. } => TrialStatus::Failed,
            TrialState::Cancelled => TrialStatus::Cancelled,
        }
    }

    /// Takes in a newer checkpoint. One that is not ahead of the newest replaces it: then the newest turned out
    /// damaged and the attempt went on from the one before.
    pub(crate) fn store_checkpoint(&mut self, checkpoint: CheckpointRef) {
        // Measurements may be ahead of the upload.
        self.step = self.step.max(checkpoint.step);
        if self.previous.as_ref().is_some_and(|previous| previous.step >= checkpoint.step) {
            self.previous = None;
        }
        match self.latest.take() {
            Some(latest) if latest.step < checkpoint.step => self.previous = Some(latest),
            _ => {}
        }
        self.latest = Some(checkpoint);
    }

    /// Says at which step a failure was: ranks other than 0 report no steps, but none is ahead of another.
    pub(crate) fn with_last_step(&self, mut end: AttemptEnd) -> AttemptEnd {
        if let AttemptEnd::Failed(cause) = &mut end {
            cause.step = cause.step.max(Some(self.step).filter(|step| *step > 0));
        }
        end
    }

    /// Every artifact that it still needs.
    pub(crate) fn artifacts(&self) -> Vec<ArtifactRef> {
        let gang = self.gang().into_iter().flat_map(|gang| [&gang.resume, &gang.fallback]);
        let mut artifacts: Vec<ArtifactRef> = [&self.latest, &self.previous]
            .into_iter()
            .chain(gang)
            .flatten()
            .map(|checkpoint| checkpoint.artifact.clone())
            .collect();
        if let Some(outputs) = &self.outputs {
            artifacts.push(outputs.evaluation.clone());
            artifacts.extend(outputs.weights.clone());
            artifacts.extend(outputs.predictions.clone());
        }
        artifacts
    }
}
