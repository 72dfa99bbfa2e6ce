//! A study: its immutable spec and its trials.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use mtinet_domain::event::StudyOutcome;
use mtinet_domain::trial::DatasetRef;
use mtinet_domain::{StudyId, StudySpec, TrialId, TrialKey};

use crate::trial::{Trial, TrialState};

/// A submitted study.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    /// Its number.
    pub id: StudyId,
    /// The immutable spec.
    pub spec: Arc<StudySpec>,
    /// BLAKE3 of the spec.
    pub spec_hash: String,
    /// The data set that it is pinned to.
    pub dataset: DatasetRef,
    /// When it was submitted, milliseconds since the Unix epoch.
    pub submitted_ms: u64,
    /// A person asked for its end.
    pub cancelled: bool,
    /// A person paused it: nothing of it starts.
    pub paused: bool,
    /// Its outcome, once no trial will run any more.
    pub outcome: Option<StudyOutcome>,
    pub(crate) keys: Vec<TrialKey>,
    pub(crate) trials: Vec<Trial>,
    index: BTreeMap<TrialKey, u32>,
    /// Trials that are not over.
    pub(crate) open: u32,
    /// Trials that wait for slots or for the pause after a failure.
    pub(crate) waiting: u32,
}

/// The order in which studies are served: priority, then age.
pub(crate) type Turn = (Reverse<i32>, StudyId);

impl Study {
    pub(crate) fn new(
        id: StudyId,
        spec: Arc<StudySpec>,
        spec_hash: String,
        dataset: DatasetRef,
        submitted_ms: u64,
    ) -> Self {
        let keys = spec.trials();
        let count = keys.len() as u32;
        Self {
            id,
            spec_hash,
            dataset,
            submitted_ms,
            cancelled: false,
            paused: false,
            outcome: None,
            trials: keys.iter().map(|_| Trial::new()).collect(),
            index: keys.iter().zip(0..).map(|(key, index)| (*key, index)).collect(),
            keys,
            spec,
            open: count,
            waiting: count,
        }
    }

    /// Its trials with their names, in the order in which they are served: arm by arm, all folds of a seed together.
    pub fn trials(&self) -> impl Iterator<Item = (TrialKey, &Trial)> {
        self.keys.iter().copied().zip(&self.trials)
    }

    /// A trial by its name.
    pub fn trial(&self, key: TrialKey) -> Option<&Trial> {
        self.trials.get(self.position(key)? as usize)
    }

    /// The study in a word: running, paused, cancelling, or its outcome.
    pub fn status(&self) -> &'static str {
        match (self.outcome, self.cancelled) {
            (Some(StudyOutcome::Complete), _) => "complete",
            (Some(StudyOutcome::Incomplete), _) => "incomplete",
            (Some(StudyOutcome::Cancelled), _) => "cancelled",
            (None, true) => "cancelling",
            (None, false) if self.paused => "paused",
            (None, false) => "running",
        }
    }

    pub(crate) fn position(&self, key: TrialKey) -> Option<u32> {
        self.index.get(&key).copied()
    }

    pub(crate) fn id_of(&self, position: u32) -> TrialId {
        TrialId { study: self.id, key: self.keys[position as usize] }
    }

    pub(crate) fn turn(&self) -> Turn {
        (Reverse(self.spec.resources.priority), self.id)
    }

    /// The outcome that its trials amount to; only meaningful once none is open.
    pub(crate) fn tally(&self) -> StudyOutcome {
        let all_done = self.trials.iter().all(|trial| trial.state == TrialState::Done);
        match (all_done, self.cancelled) {
            (true, _) => StudyOutcome::Complete,
            (false, true) => StudyOutcome::Cancelled,
            (false, false) => StudyOutcome::Incomplete,
        }
    }
}
