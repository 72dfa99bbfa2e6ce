//! Which workers are drained or set aside, and what they are set aside for.
//!
//! Failures are put down to the worker of the rank that failed first. Three in a row without a success between set the
//! worker aside, unless trials could not run without it. A failure that the same trial has on another worker in the same
//! words is the trial's own: nobody is blamed for it, and blame that was given for it before is taken back.
//!
//! Marks (drained, set aside) are facts of the fleet's log; the failures that led to them are remembered only while the
//! process lives. A machine that was set aside stays so when its agent starts anew, as long as the others can do without it.

use std::collections::{BTreeMap, BTreeSet};

use mtinet_domain::fleet::FleetEvent;
use mtinet_domain::trial::{FailureCause, ProcessExit};
use mtinet_domain::{StudyId, WorkerId};

use crate::effects::Effects;
use crate::pool::{Choice, Link, Worker};
use crate::retry::describe;
use crate::room::Unit;
use crate::schedule::narrowest;
use crate::state::Core;
use crate::study::Study;

/// Failures in a row after which a worker is set aside.
const LIMIT: u32 = 3;

/// What could not even be started is the worker's fault more surely than what broke while training.
const NOT_STARTED: u32 = 2;

/// Failures that are remembered of a worker at most.
const MOST_BLAMES: usize = 16;

/// What the fleet's log says of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    pub drained: bool,
    pub set_aside: Option<String>,
    /// The name of the machine that was set aside.
    pub name: Option<String>,
}

/// A failure as it is recognised again: how the process ended and its words.
type Signature = (String, String);

/// A failure that a worker is blamed for.
#[derive(Clone, Debug)]
struct Blame {
    study: StudyId,
    signature: Signature,
    weight: u32,
}

#[cfg(test)]
impl Health {
    /// How many failures of a worker are remembered.
    pub(crate) fn remembered(&self, worker: &WorkerId) -> usize {
        self.blames.get(worker).map_or(0, Vec::len)
    }
}

/// What is remembered of failures.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// Failures of each worker since its last success.
    blames: BTreeMap<WorkerId, Vec<Blame>>,
    /// Failures that were seen to be the study's own.
    own_faults: BTreeSet<(StudyId, Signature)>,
}

impl Core {
    /// Replays a fact of the fleet's log. The order relative to studies' events does not matter.
    pub fn apply_fleet(&mut self, event: &FleetEvent) {
        let id = event.worker();
        let mark = self.marks.entry(id.clone()).or_default();
        match event {
            FleetEvent::WorkerDrained { .. } => mark.drained = true,
            FleetEvent::WorkerUndrained { .. } => mark.drained = false,
            FleetEvent::WorkerSetAside { reason, name, .. } => {
                (mark.set_aside, mark.name) = (Some(reason.clone()), name.clone());
            }
            FleetEvent::WorkerReadmitted { .. } => {
                (mark.set_aside, mark.name) = (None, None);
                self.health.blames.remove(id);
            }
            FleetEvent::WorkerForgotten { .. } => *mark = Mark::default(),
        }
        if *mark == Mark::default() {
            self.marks.remove(id);
            self.absent.remove(id);
        }
        if self.pool.get(id).is_some() {
            self.mark_worker(id);
        }
        self.undecided = true;
    }

    /// Folds a fact of the fleet that was just decided, and has it recorded.
    pub(crate) fn record_fleet(&mut self, effects: &mut Effects, event: FleetEvent) {
        self.apply_fleet(&event);
        effects.fleet.push(event);
    }

    /// Brings what the log says of a worker to the worker itself.
    pub(crate) fn mark_worker(&mut self, id: &WorkerId) {
        let mark = self.marks.get(id).cloned().unwrap_or_default();
        let places = planted!(self, PlacesOnDrainedWorkers);
        self.pool.change(id, |worker: &mut Worker| {
            worker.drained = mark.drained && !places;
            worker.set_aside = mark.set_aside;
        });
    }

    /// A new agent of a machine that was set aside takes the place of the one before it, which is gone. Not where trials
    /// could not run without it.
    pub(crate) fn inherit_mark(&mut self, now_ms: u64, id: &WorkerId, effects: &mut Effects) {
        let (Some(identity), Some(worker)) = (identity(id), self.pool.get(id)) else { return };
        let name = worker.name.clone();
        let former = self.marks.iter().find_map(|(former, mark)| {
            let same = identity == self::identity(former)? && mark.name.as_ref() == Some(&name);
            let takes_over = same && former != id && self.is_absent(now_ms, former);
            takes_over.then_some((former.clone(), mark.set_aside.clone()?))
        });
        let Some((former, reason)) = former.filter(|_| !self.is_needed(id)) else { return };
        self.record_fleet(effects, FleetEvent::WorkerForgotten { worker: former });
        let (worker, name) = (id.clone(), Some(name));
        self.record_fleet(effects, FleetEvent::WorkerSetAside { worker, reason, name });
    }

    /// Whether a worker is not here. After a restart of this process every worker has some time to come back.
    fn is_absent(&self, now_ms: u64, id: &WorkerId) -> bool {
        let is_here = self.pool.get(id).is_some_and(|worker| worker.link == Link::Ready);
        !is_here && self.absent.get(id).is_none_or(|since| *since <= now_ms)
    }

    /// Forgets what is marked of workers that have not been here for long.
    pub(crate) fn forget_marks(&mut self, now_ms: u64, effects: &mut Effects) {
        let mut gone = Vec::new();
        for id in self.marks.keys() {
            if self.pool.get(id).is_some_and(|worker| worker.link == Link::Ready) {
                self.absent.remove(id);
                continue;
            }
            let since = *self.absent.entry(id.clone()).or_insert(now_ms);
            if now_ms.saturating_sub(since) >= self.config.forget_marks_ms {
                gone.push(id.clone());
            }
        }
        for worker in gone {
            self.record_fleet(effects, FleetEvent::WorkerForgotten { worker });
        }
    }

    /// Whoever is marked and not here is taken for absent once others had time to come back.
    pub(crate) fn await_marked(&mut self, now_ms: u64) {
        let since = now_ms + self.config.adoption_grace_ms;
        self.absent = self.marks.keys().map(|id| (id.clone(), since)).collect();
    }

    /// An attempt on these workers finished its work.
    pub(crate) fn praise(&mut self, workers: impl IntoIterator<Item = WorkerId>) {
        for worker in workers {
            self.health.blames.remove(&worker);
        }
    }

    /// An attempt failed on a worker; `before` is the trial's failure before this one and the worker that had it.
    pub(crate) fn blame(
        &mut self,
        study: StudyId,
        worker: &WorkerId,
        cause: &FailureCause,
        before: Option<(&FailureCause, &WorkerId)>,
        effects: &mut Effects,
    ) {
        let signature = (cause.exit.to_string(), cause.message.clone());
        let elsewhere_too = before.is_some_and(|(other, at)| {
            at != worker && (other.exit, &other.message) == (cause.exit, &cause.message)
        });
        if elsewhere_too {
            self.health.own_faults.insert((study, signature.clone()));
            self.take_back(study, &signature, effects);
        }
        if self.health.own_faults.contains(&(study, signature.clone())) {
            return;
        }
        let weight = if cause.exit == ProcessExit::NotStarted { NOT_STARTED } else { 1 };
        let blames = self.health.blames.entry(worker.clone()).or_default();
        blames.push(Blame { study, signature, weight });
        // One that cannot be done without fails on for as long as it likes, and its words can be long.
        if blames.len() > MOST_BLAMES {
            blames.remove(0);
        }
        let (count, weight) = (blames.len(), blames.iter().map(|blame| blame.weight).sum::<u32>());
        let usable = self.pool.get(worker).is_some_and(Worker::is_usable);
        let bad = weight >= LIMIT && usable && !self.is_needed(worker);
        if bad || planted!(self, SetsAsideAtOnce) {
            let reason = format!("{count} attempts in a row failed on it; the last: {}", describe(cause));
            let name = self.pool.get(worker).map(|worker| worker.name.clone());
            let worker = worker.clone();
            self.record_fleet(effects, FleetEvent::WorkerSetAside { worker, reason, name });
        }
    }

    /// Whether trials could not run without this worker: it is the last of a kind, or a gang would not fit any more.
    fn is_needed(&self, worker: &WorkerId) -> bool {
        let needs = |study: &Study| {
            let needed = narrowest(study);
            let unit = Unit::of(self.kind_for(study), needed);
            let others = BTreeSet::from([worker.clone()]);
            let without = self.pool.total_among(unit, Choice { only: None, except: &others });
            self.pool.total(unit) >= needed && without < needed
        };
        let mut open = self.active.iter().filter_map(|id| self.studies.get(id));
        self.pool.is_last_of_a_kind(worker) || open.any(needs)
    }

    /// Takes back blame for what turned out to be a study's own fault.
    fn take_back(&mut self, study: StudyId, signature: &Signature, effects: &mut Effects) {
        let mut cleared = Vec::new();
        for (worker, blames) in &mut self.health.blames {
            let before = blames.len();
            blames.retain(|blame| !(blame.study == study && blame.signature == *signature));
            let weight: u32 = blames.iter().map(|blame| blame.weight).sum();
            if blames.len() < before && weight < LIMIT {
                cleared.push(worker.clone());
            }
        }
        for worker in cleared {
            if self.marks.get(&worker).is_some_and(|mark| mark.set_aside.is_some()) {
                self.record_fleet(effects, FleetEvent::WorkerReadmitted { worker, by: None });
            }
        }
    }

    /// A worker is gone for good.
    pub(crate) fn forget_blames(&mut self, worker: &WorkerId) {
        self.health.blames.remove(worker);
    }

    /// A study is over: its faults will not be seen again.
    pub(crate) fn forget_faults(&mut self, study: StudyId) {
        self.health.own_faults.retain(|(of, _)| *of != study);
    }
}

/// The identity that an agent joined with, which its id begins with: those of one machine have it in common. Where nobody
/// has an identity, there is none.
fn identity(id: &WorkerId) -> Option<&str> {
    id.0.rsplit_once('.').map(|(identity, _)| identity)
}
