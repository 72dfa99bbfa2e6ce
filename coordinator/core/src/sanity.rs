//! What always holds between two handlers. Tests check it after every event; nothing here runs in production.

use std::collections::{BTreeMap, BTreeSet};

use mtinet_domain::trial::Device;
use mtinet_domain::{StudyId, TrialId};

use crate::artifacts::References;
use crate::pool::Link;
use crate::state::Core;
use crate::study::Study;
use crate::trial::TrialState;

impl Core {
    /// Checks every invariant.
    ///
    /// # Errors
    /// The first one that does not hold, in words.
    pub fn sanity_check(&self) -> Result<(), String> {
        self.check_studies()?;
        self.check_queue()?;
        self.check_gangs()?;
        self.check_slots()?;
        self.check_references()
    }

    fn check_studies(&self) -> Result<(), String> {
        for (id, study) in &self.studies {
            let open = study.trials().filter(|(_, trial)| !trial.status().is_final()).count() as u32;
            let waiting = study.trials().filter(|(_, trial)| is_waiting(&trial.state)).count() as u32;
            ensure(study.open == open, || {
                format!("study {id} counts {} open trials, not {open}", study.open)
            })?;
            ensure(study.waiting == waiting, || format!("study {id} counts {} waiting", study.waiting))?;
            ensure(study.outcome.is_some() == (open == 0), || {
                format!("study {id}: outcome with {open} open")
            })?;
            ensure(self.active.contains(id) == (open > 0), || format!("study {id} is in the wrong list"))?;
        }
        Ok(())
    }

    fn check_queue(&self) -> Result<(), String> {
        let mut queued: BTreeSet<(StudyId, u32)> = BTreeSet::new();
        for ((_, study), positions) in &self.ready {
            ensure(!positions.is_empty(), || format!("study {study} has an empty queue"))?;
            queued.extend(positions.iter().map(|position| (*study, *position)));
        }
        for (_, study, position) in &self.pausing {
            ensure(queued.insert((*study, *position)), || {
                format!("study {study}: {position} is queued twice")
            })?;
        }
        let waiting = |study: &Study| -> Vec<(StudyId, u32)> {
            let trials = study.trials.iter().zip(0..).filter(|(trial, _)| is_waiting(&trial.state));
            trials.map(|(_, position)| (study.id, position)).collect()
        };
        let waiting: BTreeSet<_> = self.studies.values().flat_map(waiting).collect();
        ensure(queued == waiting, || format!("queued {queued:?}, waiting {waiting:?}"))
    }

    fn check_gangs(&self) -> Result<(), String> {
        for (id, trial, gang) in self.current_attempts() {
            ensure(gang.attempt.0 == trial.attempts, || format!("{id} is not the newest attempt"))?;
            ensure(gang.live().next().is_some(), || format!("{id} has no rank left but goes on"))?;
            for (rank, expected) in gang.ranks.iter().zip(0..) {
                ensure(rank.placement.rank.0 == expected, || format!("{id} has its ranks out of order"))?;
            }
            let mut devices = BTreeSet::new();
            for at in gang.ranks.iter().map(|rank| &rank.placement).filter(|at| at.device != Device::Cpu) {
                let unshared = devices.insert((&at.worker, at.device));
                ensure(unshared, || format!("{id} has two ranks on {} of {}", at.device, at.worker))?;
            }
            for rank in gang.live() {
                let at = &rank.placement;
                let slot = self.pool.slot_of(&at.worker, id, at.rank);
                ensure(slot == Some(at.slot), || format!("{id} rank {} does not hold its slot", at.rank))?;
                let lost = self.pool.get(&at.worker).is_none_or(|worker| worker.link == Link::Lost);
                ensure(!lost, || format!("{id} rank {} goes on at a lost worker", at.rank))?;
            }
        }
        Ok(())
    }

    fn check_slots(&self) -> Result<(), String> {
        ensure(self.pool.index_is_right(), || "the index of free slots is wrong".to_owned())?;
        let mut holders = BTreeSet::new();
        for (id, worker) in self.workers() {
            for slot in worker.slots.values().filter_map(|slot| slot.held) {
                ensure(holders.insert((slot, id)), || format!("{id} holds {slot:?} twice"))?;
                ensure(worker.link != Link::Lost, || format!("{id} is lost and holds {slot:?}"))?;
            }
        }
        Ok(())
    }

    fn check_references(&self) -> Result<(), String> {
        let mut references = References::default();
        for study in self.studies.values() {
            references.replace(Vec::new(), &study.spec.initial_artifacts());
            for trial in &study.trials {
                references.replace(Vec::new(), &trial.artifacts());
            }
        }
        let (counted, expected): (&BTreeMap<_, _>, _) = (self.references.counts(), references.counts());
        ensure(counted == expected, || format!("references {counted:?}, expected {expected:?}"))
    }

    /// Checks that nothing is left over: no study goes on and no slot is held.
    ///
    /// # Errors
    /// What is left, in words.
    pub fn emptiness_check(&self) -> Result<(), String> {
        self.sanity_check()?;
        ensure(self.active.is_empty(), || format!("studies {:?} go on", self.active))?;
        ensure(self.ready.is_empty() && self.pausing.is_empty(), || "trials wait".to_owned())?;
        for (id, worker) in self.workers() {
            let held = worker.slots.values().find_map(|slot| slot.held);
            ensure(held.is_none(), || format!("{id} holds {held:?}"))?;
        }
        Ok(())
    }

    /// All trials, for checks.
    pub fn trial_ids(&self) -> impl Iterator<Item = TrialId> {
        self.studies
            .values()
            .flat_map(|study| study.trials().map(|(key, _)| TrialId { study: study.id, key }))
    }
}

fn is_waiting(state: &TrialState) -> bool {
    matches!(state, TrialState::Waiting { .. })
}

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(problem()) }
}
