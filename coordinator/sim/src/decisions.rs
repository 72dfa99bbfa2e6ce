//! Whether decisions were right: who starts first, who is widened, what a trial says that it waits for, and who is to
//! blame for a hang.

use std::cmp::Reverse;

use mtinet_core::{Study, Trial, TrialState, WaitReason};
use mtinet_domain::event::{Event, ReportId};
use mtinet_domain::spec::{DeviceChoice, Ranks};
use mtinet_domain::trial::{AttemptEnd, FailureCause, Hang, ProcessExit};
use mtinet_domain::{AttemptId, Rank, StudyId, TrialId};

use crate::coordinator::Outcome;
use crate::truth::{Ledger, ensure};
use crate::world::{Checked, World};

/// What makes two trials want the same slots: device and the fewest ranks.
fn wants(study: &Study) -> (DeviceChoice, u32) {
    let ranks = match study.spec.resources.ranks {
        Ranks::Auto => 1,
        Ranks::Fixed(ranks) => ranks,
    };
    (study.spec.resources.device, ranks)
}

/// The order in which trials are served: priority, then the study's age, then the place in the study, in which the folds
/// of an arm stand together.
fn turn(study: &Study, position: usize) -> (Reverse<i32>, StudyId, usize) {
    (Reverse(study.spec.resources.priority), study.id, position)
}

fn is_waiting(trial: &Trial) -> bool {
    matches!(trial.state, TrialState::Waiting { .. })
}

impl World<'_> {
    /// Nothing starts while something waits that comes before it and could have had the same slots.
    pub fn check_order(&self, outcome: &Outcome) -> Checked {
        let core = &self.coordinator.core;
        for index in outcome.stored.clone() {
            let recorded = &self.coordinator.log[index];
            let Event::AttemptStarted { trial, .. } = &recorded.event else { continue };
            let Some(started) = core.study(recorded.study) else { continue };
            let Some(position) = started.trials().position(|(key, _)| key == *trial) else { continue };
            let rivals = core.studies().filter(|study| !study.paused && wants(study) == wants(started));
            for (study, (place, (key, rival))) in
                rivals.flat_map(|study| study.trials().enumerate().map(move |trial| (study, trial)))
            {
                let may_start =
                    matches!(rival.state, TrialState::Waiting { not_before_ms } if not_before_ms <= self.now);
                // One that waits for another worker than it failed on leaves that one to those behind it.
                let was_passed =
                    may_start && rival.avoids.is_empty() && turn(study, place) < turn(started, position);
                ensure(!was_passed, || {
                    format!("{trial} of study {} starts before {key} of study {}", started.id, study.id)
                })?;
            }
        }
        Ok(())
    }

    /// An attempt is stopped to go on wider only where no trial waits for slots, and where so many are free that it at
    /// least doubles.
    pub fn check_widening(&self, outcome: &Outcome) -> Checked {
        let core = &self.coordinator.core;
        for index in outcome.stored.clone() {
            let recorded = &self.coordinator.log[index];
            let Event::AttemptStopping { trial, end: AttemptEnd::Widened, .. } = &recorded.event else {
                continue;
            };
            let id = TrialId { study: recorded.study, key: *trial };
            let waits = core
                .studies()
                .filter(|study| !study.paused)
                .flat_map(|study| study.trials().map(move |(key, trial)| (study.id, key, trial)))
                .find(|(_, _, trial)| is_waiting(trial));
            ensure(waits.is_none(), || format!("{id} is widened while a trial waits: {waits:?}"))?;
            let Some(gang) = core.trial(id).and_then(Trial::gang) else { continue };
            let free = core
                .workers()
                .filter(|(_, worker)| worker.is_usable())
                .flat_map(|(_, worker)| worker.slots.values())
                .filter(|slot| slot.held.is_none())
                .count();
            ensure(free >= gang.ranks.len(), || {
                format!("{id} has {} ranks and is widened, and {free} slots are free", gang.ranks.len())
            })?;
        }
        Ok(())
    }

    /// A trial that waits says why, and it is so.
    pub fn check_reason(&self, id: TrialId) -> Checked {
        let core = &self.coordinator.core;
        let (Some(reason), Some(study)) = (core.reason(id), core.study(id.study)) else {
            return Err(format!("{id} waits and nobody can say why"));
        };
        let wrong = |why: &str| Err(format!("{id} {why}: {reason}"));
        let trial = study.trial(id.key).map(|trial| &trial.state);
        match &reason {
            WaitReason::Slots { needed, free, .. } | WaitReason::Elsewhere { needed, free, .. }
                if free >= needed =>
            {
                wrong("waits although there is room")
            }
            WaitReason::Slots { .. } | WaitReason::Elsewhere { .. } | WaitReason::Behind(_)
                if study.paused =>
            {
                wrong("is of a paused study and says something else")
            }
            WaitReason::Behind(ahead) if !self.is_ahead(*ahead, id) => {
                wrong("waits for one that does not come before it")
            }
            WaitReason::Paused if !study.paused => wrong("is of a study that goes on"),
            WaitReason::TrialPaused if trial != Some(&TrialState::Paused) => wrong("is not paused"),
            WaitReason::NoUsableWorkers { .. } if core.workers().any(|(_, worker)| worker.is_usable()) => {
                wrong("could be given to a worker")
            }
            WaitReason::RetryPause { until_ms, .. } => match trial {
                Some(TrialState::Waiting { not_before_ms }) if not_before_ms == until_ms => Ok(()),
                _ => wrong("does not pause until then"),
            },
            _ => Ok(()),
        }
    }

    /// Whether a trial waits and comes before another.
    fn is_ahead(&self, ahead: TrialId, id: TrialId) -> bool {
        let place = |id: TrialId| {
            let study = self.coordinator.core.study(id.study)?;
            let (position, (_, trial)) = study.trials().enumerate().find(|(_, (key, _))| *key == id.key)?;
            Some((turn(study, position), is_waiting(trial)))
        };
        match (place(ahead), place(id)) {
            (Some((before, true)), Some((own, _))) => before < own,
            _ => false,
        }
    }

    /// Takes in who did not arrive, as the first rank of a gang says that ends.
    pub fn note_missed(&mut self, id: AttemptId, rank: Rank, exit: ProcessExit, report: &ReportId) {
        if exit == ProcessExit::Signal(9) {
            self.ledger.killed.insert((id, rank));
        }
        let said = self.agent_of(&report.worker).and_then(|agent| agent.history.get(report.seq as usize - 1));
        if let Some(mtinet_core::Fact::Exited { missing, .. }) = said.map(|said| &said.fact)
            && !missing.is_empty()
            && !self.ledger.is_stopping(id)
        {
            self.ledger.missed.insert(id, missing.clone());
        }
    }
}

/// A failure that is put down to a hang names the rank that hung, where anybody could know it: another said so, or it had
/// to be killed.
pub fn check_hang(hung: Option<Rank>, ledger: &Ledger, id: AttemptId, cause: &FailureCause) -> Checked {
    if let Some(missing) = ledger.missed.get(&id) {
        let named = cause.hang == Some(Hang::Named) && cause.rank.is_some_and(|rank| missing.contains(&rank));
        ensure(named, || format!("{id}: {missing:?} did not arrive, and the cause is {cause:?}"))?;
    }
    match cause.hang {
        Some(Hang::Named) => ensure(cause.rank == hung, || format!("{id}: {hung:?} hung, not {cause:?}")),
        Some(Hang::Unnamed) => {
            let killed = hung.is_some_and(|rank| ledger.killed.contains(&(id, rank)));
            ensure(!killed, || format!("{id}: {hung:?} hung and was killed, and the cause is {cause:?}"))
        }
        None => Ok(()),
    }
}
