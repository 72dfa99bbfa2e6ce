//! The whole state, what can be asked of it, and the part of it that a log restores.

use std::collections::{BTreeMap, BTreeSet};

use mtinet_domain::event::Event;
use mtinet_domain::{AttemptId, AttemptNumber, StudyId, TrialId, WorkerId};

use crate::artifacts::References;
use crate::effects::Effects;
use crate::health::{Health, Mark};
use crate::pool::{Pool, Worker};
use crate::reason::WaitReason;
use crate::retry::{describe, describe_end};
use crate::study::{Study, Turn};
use crate::trial::{Gang, Phase, Trial, TrialState};

/// Times that the scheduler goes by, all in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreConfig {
    /// A worker is taken for lost after this much silence.
    pub lease_ms: u64,
    /// After a restart, workers with running attempts have this long to come back.
    pub adoption_grace_ms: u64,
    /// A cancelled attempt has this long to end at a step boundary.
    pub cancel_grace_ms: u32,
    /// A lost worker is listed for this long.
    pub forget_lost_ms: u64,
    /// What is marked of a worker that is not here is forgotten after this long.
    pub forget_marks_ms: u64,
    /// An attempt that is paused, drained or widened has this long to save and end at a step boundary.
    pub pause_grace_ms: u32,
    /// Where a rank waited in vain for a peer, the others have this long to say the same before they are killed.
    pub hang_grace_ms: u32,
    /// What is left of an attempt that was to save and end may be this much later than its grace: it stores files.
    pub store_limit_ms: u64,
    /// A rank that was to be killed is given up after this much time: its process does not go.
    pub kill_limit_ms: u64,
    /// All ranks of an attempt must have started within this time: data sets are fetched and prepared in it.
    pub start_limit_ms: u64,
    /// An attempt is given up after this much silence. Longer than the trainers' own timeouts, whose words say more.
    pub stall_limit_ms: u64,
    /// With `ranks = "auto"`, an attempt that ran this long may be restarted with more ranks when slots are spare.
    pub widen_after_ms: u64,
    /// The bug that is planted.
    #[cfg(mtinet_mutations)]
    pub planted: Option<crate::planted::Bug>,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            lease_ms: 3000,
            adoption_grace_ms: 15_000,
            cancel_grace_ms: 10_000,
            forget_lost_ms: 600_000,
            forget_marks_ms: 30 * 24 * 3_600_000,
            pause_grace_ms: 30_000,
            hang_grace_ms: 5000,
            store_limit_ms: 600_000,
            kill_limit_ms: 60_000,
            start_limit_ms: 3_600_000,
            stall_limit_ms: 7_200_000,
            widen_after_ms: 60_000,
            #[cfg(mtinet_mutations)]
            planted: None,
        }
    }
}

/// The scheduler's state machine; the crate's documentation says what its driver owes it.
#[derive(Clone, Debug)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) studies: BTreeMap<StudyId, Study>,
    pub(crate) pool: Pool,
    /// Highest number among each worker's reports that is recorded.
    pub(crate) recorded_seqs: BTreeMap<WorkerId, u64>,
    pub(crate) references: References,
    /// Waiting trials that may start, in the order in which they are served.
    pub(crate) ready: BTreeMap<Turn, BTreeSet<u32>>,
    /// Waiting trials that pause after a failure, by the end of the pause.
    pub(crate) pausing: BTreeSet<(u64, StudyId, u32)>,
    /// Studies that are not finished.
    pub(crate) active: BTreeSet<StudyId>,
    /// Why the first trial of a study that was looked at and not started had to wait, at the last decision.
    pub(crate) waits: BTreeMap<StudyId, (u32, WaitReason)>,
    /// The trial that those wait for which were not looked at.
    pub(crate) front: Option<TrialId>,
    /// What the log of the fleet says of workers.
    pub(crate) marks: BTreeMap<WorkerId, Mark>,
    /// Since when marked workers are not here, in milliseconds since the Unix epoch. Not recorded.
    pub(crate) absent: BTreeMap<WorkerId, u64>,
    pub(crate) health: Health,
    /// Running attempts, by when they are looked at for signs of life.
    pub(crate) watched: BTreeSet<(u64, AttemptId)>,
    /// Running attempts that could have more ranks, by when that is first thought of.
    pub(crate) narrow: BTreeSet<(u64, AttemptId)>,
    /// Something changed that the next decision depends on.
    pub(crate) undecided: bool,
    pub(crate) last_tick_ms: Option<u64>,
}

/// The part of the state that a replay of the log restores: everything except sessions, and how far a rank is
/// between told to start and over.
#[derive(Clone, Debug, PartialEq)]
pub struct Durable {
    studies: BTreeMap<StudyId, Study>,
    recorded_seqs: BTreeMap<WorkerId, u64>,
    references: BTreeMap<String, u32>,
    marks: BTreeMap<WorkerId, Mark>,
}

impl Core {
    /// An empty state, to replay a log into or to start with.
    pub fn new(config: CoreConfig) -> Self {
        Self {
            config,
            studies: BTreeMap::new(),
            pool: Pool::default(),
            recorded_seqs: BTreeMap::new(),
            references: References::default(),
            ready: BTreeMap::new(),
            pausing: BTreeSet::new(),
            active: BTreeSet::new(),
            waits: BTreeMap::new(),
            front: None,
            marks: BTreeMap::new(),
            absent: BTreeMap::new(),
            health: Health::default(),
            watched: BTreeSet::new(),
            narrow: BTreeSet::new(),
            undecided: true,
            last_tick_ms: None,
        }
    }

    /// A study.
    pub fn study(&self, id: StudyId) -> Option<&Study> {
        self.studies.get(&id)
    }

    /// All studies, oldest first.
    pub fn studies(&self) -> impl DoubleEndedIterator<Item = &Study> {
        self.studies.values()
    }

    /// A trial.
    pub fn trial(&self, id: TrialId) -> Option<&Trial> {
        self.studies.get(&id.study)?.trial(id.key)
    }

    /// All workers known, lost ones included for a while.
    pub fn workers(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.pool.workers().iter()
    }

    /// Highest number among a worker's reports that is taken in: what it is acknowledged up to.
    pub fn last_seq(&self, worker: &WorkerId) -> u64 {
        let recorded = self.recorded_seqs.get(worker).copied().unwrap_or(0);
        let seen = self.pool.get(worker).map_or(recorded, |worker| worker.seen_seq.max(recorded));
        if planted!(self, AcknowledgesTooMuch) && seen > 0 { seen + 1 } else { seen }
    }

    /// Says that the log holds a worker's reports up to `seq`, where the replay left some kinds of events out.
    pub fn restore_seq(&mut self, worker: &WorkerId, seq: u64) {
        let recorded = self.recorded_seqs.entry(worker.clone()).or_default();
        *recorded = (*recorded).max(seq);
    }

    /// Why a trial that is not over does not run: as computed with the last decision.
    pub fn reason(&self, id: TrialId) -> Option<WaitReason> {
        let study = self.studies.get(&id.study)?;
        let trial = study.trial(id.key)?;
        match &trial.state {
            TrialState::Waiting { not_before_ms } => {
                let position = study.position(id.key)?;
                if self.pausing.contains(&(*not_before_ms, id.study, position)) {
                    let failure = trial.last_failure.as_ref().map(describe).unwrap_or_default();
                    return Some(WaitReason::RetryPause { until_ms: *not_before_ms, failure });
                }
                Some(self.wait_reason(study, position))
            }
            TrialState::Paused => Some(WaitReason::TrialPaused),
            TrialState::Stopping { end, .. } => Some(WaitReason::Stopping { reason: describe_end(end) }),
            _ => None,
        }
    }

    fn wait_reason(&self, study: &Study, position: u32) -> WaitReason {
        if let Some(reason) = self.nobody_waits_for(study)
            && !planted!(self, ForgetsWhyStudiesWait)
        {
            return reason;
        }
        match self.waits.get(&study.id) {
            Some((first, reason)) if *first == position => reason.clone(),
            Some((first, _)) => WaitReason::Behind(study.id_of(*first)),
            None => self.not_looked_at(study),
        }
    }

    /// What a replay of the log must restore.
    pub fn durable(&self) -> Durable {
        let mut studies = self.studies.clone();
        for trial in studies.values_mut().flat_map(|study| &mut study.trials) {
            *trial = recorded_part(trial);
        }
        Durable {
            studies,
            recorded_seqs: self.recorded_seqs.clone(),
            references: self.references.counts().clone(),
            marks: self.marks.clone(),
        }
    }

    /// Whether a replay of the log has restored another state, as [`Core::durable`] shows it but without its copies.
    pub fn is_durably(&self, other: &Self) -> bool {
        let same_trial = |(a, b): (&Trial, &Trial)| a == b || recorded_part(a) == recorded_part(b);
        let same_study = |(a, b): (&Study, &Study)| {
            (a.id, &a.spec_hash, a.cancelled, a.paused, a.outcome, a.open, a.waiting, &a.keys)
                == (b.id, &b.spec_hash, b.cancelled, b.paused, b.outcome, b.open, b.waiting, &b.keys)
                && a.trials.iter().zip(&b.trials).all(same_trial)
        };
        self.studies.len() == other.studies.len()
            && self.studies.values().zip(other.studies.values()).all(same_study)
            && self.recorded_seqs == other.recorded_seqs
            && self.references.counts() == other.references.counts()
            && self.marks == other.marks
    }

    /// Whether anything needs an artifact.
    pub fn refers_to(&self, hash: &str) -> bool {
        self.references.counts().contains_key(hash)
    }

    /// Every artifact that is needed, by hash.
    pub fn artifacts(&self) -> impl Iterator<Item = &str> {
        self.references.counts().keys().map(String::as_str)
    }

    /// When the oldest attempt that runs began by the log, milliseconds since the Unix epoch: whatever it stored and did not
    /// report yet is younger, however often this process was restarted or stood still.
    pub fn oldest_attempt_ms(&self) -> Option<u64> {
        self.current_attempts().map(|(_, _, gang)| gang.started_ms).min()
    }

    /// Whether any trial has an attempt: only then can an artifact be reported.
    pub fn is_running_any(&self) -> bool {
        self.current_attempts().next().is_some()
    }

    pub(crate) fn trial_mut(&mut self, id: TrialId) -> Option<&mut Trial> {
        let study = self.studies.get_mut(&id.study)?;
        let position = study.position(id.key)?;
        study.trials.get_mut(position as usize)
    }

    /// The ranks of an attempt, where it is its trial's current one.
    pub(crate) fn gang(&self, id: AttemptId) -> Option<&Gang> {
        self.trial(id.trial)?.gang().filter(|gang| gang.attempt == id.number)
    }

    /// The current attempts of all studies.
    pub(crate) fn current_attempts(&self) -> impl Iterator<Item = (AttemptId, &Trial, &Gang)> {
        self.active.iter().filter_map(|id| self.studies.get(id)).flat_map(|study| {
            study.trials().filter_map(|(key, trial)| {
                let gang = trial.gang()?;
                Some((attempt_id(study.id, key, gang.attempt), trial, gang))
            })
        })
    }

    /// Folds an event that was just decided, and has it recorded.
    pub(crate) fn record(&mut self, now_ms: u64, effects: &mut Effects, study: StudyId, event: Event) {
        let folded = self.fold(study, now_ms, &event);
        debug_assert_eq!(folded, Ok(()), "a handler decided what does not fold: {event:?}");
        effects.record.push((study, event));
    }

    /// Ends a handler: decides what can start, and hands out what became garbage.
    pub(crate) fn conclude(&mut self, now_ms: u64, mut effects: Effects) -> Effects {
        self.schedule(now_ms, &mut effects);
        effects.discard = self.references.take_garbage();
        effects
    }
}

/// A trial without what is only known while the process lives.
fn recorded_part(trial: &Trial) -> Trial {
    let mut trial = trial.clone();
    trial.step = 0;
    if let Some(gang) = trial.gang_mut() {
        (gang.begun_ms, gang.heard_ms, gang.kills) = (0, 0, false);
        for rank in gang.ranks.iter_mut().filter(|rank| rank.phase == Phase::Started) {
            rank.phase = Phase::Starting;
        }
    }
    trial
}

pub(crate) fn attempt_id(study: StudyId, key: mtinet_domain::TrialKey, number: AttemptNumber) -> AttemptId {
    AttemptId { trial: TrialId { study, key }, number }
}
