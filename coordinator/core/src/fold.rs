//! Events become state: the same code for live decisions and for the replay of a log.

use std::sync::Arc;

use mtinet_domain::event::{Event, Recorded, StudyOutcome};
use mtinet_domain::trial::{AttemptEnd, CheckpointRef, Placement, ProcessExit};
use mtinet_domain::{AttemptId, AttemptNumber, Rank, StudyId, TrialId, TrialKey};

use crate::pool::Link;
use crate::retry::MAX_PAUSE_MS;
use crate::state::{Core, attempt_id};
use crate::study::Study;
use crate::trial::{Gang, Outputs, Phase, RankState, Rendezvous, TrialState};

/// An event that does not fit the events before it: the log is damaged or incomplete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event `{kind}` of study {study}: {problem}; the log does not fit together")]
pub struct FoldError {
    /// The event's study.
    pub study: StudyId,
    /// Which kind of event.
    pub kind: &'static str,
    /// What does not fit.
    pub problem: String,
}

impl Core {
    /// Replays a recorded event. After the last one call [`Core::on_restarted`].
    ///
    /// # Errors
    /// An event about something that the events before it did not bring about.
    pub fn apply(&mut self, recorded: &Recorded) -> Result<(), FoldError> {
        let folded = self.fold(recorded.study, recorded.time_ms, &recorded.event);
        // Most of it was discarded when it became so, and a long log has a great deal.
        self.references.forget_garbage();
        folded
    }

    pub(crate) fn fold(&mut self, study: StudyId, time_ms: u64, event: &Event) -> Result<(), FoldError> {
        if let Some(report) = event.report() {
            self.restore_seq(&report.worker, report.seq);
        }
        let fail = |problem: String| FoldError { study, kind: event.kind(), problem };
        let Some(key) = event.trial() else {
            return self.fold_study(study, time_ms, event).map_err(fail);
        };
        let id = TrialId { study, key };
        let trial = self.trial(id).ok_or_else(|| fail(format!("there is no trial {key}")))?;
        let refers = refers_to_artifacts(event);
        let needed = if refers { trial.artifacts() } else { Vec::new() };
        match event.attempt() {
            Some(number) if !matches!(event, Event::AttemptStarted { .. }) => {
                let id = AttemptId { trial: id, number };
                if self.gang(id).is_none() {
                    return Err(fail(format!("{key} has no attempt {number} then")));
                }
                self.fold_attempt(id, event);
            }
            _ => self.fold_trial(id, time_ms, event),
        }
        if let Some(trial) = self.trial(id).filter(|_| refers) {
            let now_needed = trial.artifacts();
            if now_needed != needed {
                self.references.replace(needed, &now_needed);
            }
        }
        Ok(())
    }

    fn fold_study(&mut self, id: StudyId, time_ms: u64, event: &Event) -> Result<(), String> {
        if let Event::StudySubmitted { spec, spec_hash, dataset, .. } = event {
            if self.studies.contains_key(&id) {
                return Err("it is there already".into());
            }
            let study =
                Study::new(id, Arc::new((**spec).clone()), spec_hash.clone(), dataset.clone(), time_ms);
            // Nothing ever lets go of them: a study stays, and may be run again.
            self.references.replace(Vec::new(), &study.spec.initial_artifacts());
            self.ready.insert(study.turn(), (0..study.open).collect());
            self.active.insert(id);
            self.studies.insert(id, study);
            self.undecided = true;
            return Ok(());
        }
        let study = self.studies.get_mut(&id).ok_or("there is no such study")?;
        match event {
            Event::StudyPaused { .. } => study.paused = true,
            Event::StudyResumed { .. } => {
                study.paused = false;
                self.undecided |= !planted!(self, ForgetsResumedStudies);
            }
            Event::TrialsRetried { trials, .. } => {
                study.outcome = None;
                study.cancelled = false;
                self.active.insert(id);
                for key in trials {
                    self.fold_retried(TrialId { study: id, key: *key });
                }
            }
            Event::StudyCancelled { .. } => {
                study.cancelled = true;
                let waiting: Vec<TrialKey> = study
                    .trials()
                    .filter(|(_, trial)| {
                        matches!(trial.state, TrialState::Waiting { .. } | TrialState::Paused)
                    })
                    .map(|(key, _)| key)
                    .collect();
                for key in waiting {
                    self.set_state(TrialId { study: id, key }, TrialState::Cancelled);
                }
            }
            Event::StudyFinished { outcome } => self.finish(id, *outcome),
            _ => return Err("it is no event of a study".into()),
        }
        Ok(())
    }

    fn finish(&mut self, id: StudyId, outcome: StudyOutcome) {
        if let Some(study) = self.studies.get_mut(&id) {
            study.outcome = Some(outcome);
        }
        self.active.remove(&id);
        self.waits.remove(&id);
        self.forget_faults(id);
    }

    /// Events that begin an attempt or end a trial.
    fn fold_trial(&mut self, id: TrialId, time_ms: u64, event: &Event) {
        match event {
            Event::AttemptStarted { attempt, placements, resume, .. } => {
                self.fold_started(id, time_ms, *attempt, placements, resume.as_ref());
                let id = AttemptId { trial: id, number: *attempt };
                self.watch(time_ms, id);
                self.note_narrow(time_ms, id);
            }
            Event::TrialCancelled { .. } => {
                let Some(trial) = self.trial_mut(id) else { return };
                trial.cancelled = true;
                if matches!(trial.state, TrialState::Waiting { .. } | TrialState::Paused) {
                    self.set_state(id, TrialState::Cancelled);
                }
            }
            Event::TrialPaused { .. } => {
                let Some(trial) = self.trial_mut(id) else { return };
                trial.paused = true;
                if matches!(trial.state, TrialState::Waiting { .. }) {
                    self.set_state(id, TrialState::Paused);
                }
            }
            Event::TrialResumed { .. } => {
                let Some(trial) = self.trial_mut(id) else { return };
                trial.paused = false;
                if trial.state == TrialState::Paused {
                    self.set_state(id, TrialState::Waiting { not_before_ms: 0 });
                }
            }
            Event::TrialFailed { reason, .. } => {
                self.set_state(id, TrialState::Failed { reason: reason.clone() });
            }
            _ => {}
        }
    }

    fn fold_started(
        &mut self,
        id: TrialId,
        time_ms: u64,
        attempt: AttemptNumber,
        placements: &[Placement],
        resume: Option<&CheckpointRef>,
    ) {
        for placement in placements {
            self.pool.hold(placement, AttemptId { trial: id, number: attempt });
        }
        let Some(trial) = self.trial_mut(id) else { return };
        trial.attempts = attempt.0;
        // Steps after the checkpoint are done again.
        trial.step = resume.map_or(0, |checkpoint| checkpoint.step);
        let starting = |placement: &Placement| RankState {
            placement: placement.clone(),
            phase: Phase::Starting,
            exit: None,
        };
        let gang = Gang {
            attempt,
            ranks: placements.iter().map(starting).collect(),
            resume: resume.cloned(),
            fallback: trial.previous.clone().filter(|_| resume.is_some()),
            rendezvous: None,
            evaluated: false,
            started_ms: time_ms,
            begun_ms: time_ms,
            heard_ms: time_ms,
            kills: false,
        };
        self.set_state(id, TrialState::Running { gang });
    }

    /// Events of the trial's current attempt.
    fn fold_attempt(&mut self, id: AttemptId, event: &Event) {
        match event {
            Event::Metrics { records, .. } => {
                self.all_started(id);
                if let (Some(trial), Some(last)) = (self.trial_mut(id.trial), records.last()) {
                    trial.step = last.step;
                }
            }
            Event::CheckpointStored { checkpoint, .. } => {
                self.all_started(id);
                if let Some(trial) = self.trial_mut(id.trial) {
                    trial.store_checkpoint(checkpoint.clone());
                }
            }
            Event::TrialEvaluated { evaluation, weights, predictions, .. } => {
                self.all_started(id);
                let Some(trial) = self.trial_mut(id.trial) else { return };
                trial.outputs = Some(Outputs {
                    evaluation: evaluation.clone(),
                    weights: weights.clone(),
                    predictions: predictions.clone(),
                });
                if let Some(gang) = trial.gang_mut() {
                    gang.evaluated = true;
                }
            }
            Event::RendezvousReady { host, port, .. } => {
                self.set_phase(id, Rank(0), Phase::Started);
                if let Some(gang) = self.trial_mut(id.trial).and_then(|trial| trial.gang_mut()) {
                    gang.rendezvous = Some(Rendezvous { host: host.clone(), port: *port });
                }
            }
            Event::RankExited { rank, exit, finished, step, .. } => {
                if let (Some(trial), Some(step)) = (self.trial_mut(id.trial), step) {
                    trial.step = trial.step.max(*step);
                }
                let finished = *finished && *exit == ProcessExit::Code(0);
                let gang = self.trial_mut(id.trial).and_then(|trial| trial.gang_mut());
                if let Some(rank) = gang.and_then(|gang| gang.ranks.get_mut(rank.0 as usize)) {
                    rank.exit = Some(*exit);
                }
                self.end_rank(id, *rank, Phase::Exited { finished });
            }
            Event::RankLost { rank, .. } => self.end_rank(id, *rank, Phase::Lost),
            Event::AttemptStopping { end, .. } => self.fold_stopping(id, end),
            Event::AttemptEnded { end, retry_at_ms, .. } => self.fold_ended(id, end, *retry_at_ms),
            _ => {}
        }
    }

    fn fold_stopping(&mut self, id: AttemptId, end: &AttemptEnd) {
        let Some(trial) = self.trial_mut(id.trial) else { return };
        // Said again where what became known later explains what was known first.
        if let Some(gang) = trial.gang().cloned() {
            trial.state = TrialState::Stopping { gang, end: end.clone() };
        }
    }

    fn fold_ended(&mut self, id: AttemptId, end: &AttemptEnd, retry_at_ms: Option<u64>) {
        let cancelled = self.study(id.trial.study).is_some_and(|study| study.cancelled);
        let revives = planted!(self, RevivesCancelledTrials);
        let failed_on = match end {
            AttemptEnd::Failed(cause) => self.worker_of(id, cause.rank),
            AttemptEnd::Unfit { worker, .. } => Some(worker.clone()),
            _ => None,
        };
        let Some(trial) = self.trial_mut(id.trial) else { return };
        let cancelled = cancelled || trial.cancelled && !revives;
        let paused = trial.paused;
        if let AttemptEnd::Failed(cause) | AttemptEnd::Unfit { cause, .. } = end {
            trial.failures += u32::from(matches!(end, AttemptEnd::Failed(_)));
            trial.last_failure = Some(cause.clone());
            let not_there = matches!(end, AttemptEnd::Unfit { .. }) || cause.exit == ProcessExit::NotStarted;
            trial.avoids.extend(failed_on.clone().filter(|_| not_there));
            trial.failed_on.extend(failed_on.clone());
            trial.last_failed_on = failed_on;
        }
        let next = match end {
            AttemptEnd::Completed => {
                // The weights are kept; nothing goes on from here.
                trial.latest = None;
                trial.previous = None;
                trial.forget_failures();
                TrialState::Done
            }
            AttemptEnd::Cancelled => TrialState::Cancelled,
            _ if cancelled => TrialState::Cancelled,
            _ if paused => TrialState::Paused,
            _ => TrialState::Waiting { not_before_ms: retry_at_ms.unwrap_or(0) },
        };
        self.set_state(id.trial, next);
    }

    fn fold_retried(&mut self, id: TrialId) {
        if let Some(trial) = self.trial_mut(id) {
            trial.failures = 0;
            trial.last_failure = None;
            trial.cancelled = false;
            trial.paused = false;
            trial.forget_failures();
            self.set_state(id, TrialState::Waiting { not_before_ms: 0 });
        }
    }

    /// A measurement or a checkpoint can only come from a gang whose ranks have all met.
    fn all_started(&mut self, id: AttemptId) {
        let Some(gang) = self.trial_mut(id.trial).and_then(|trial| trial.gang_mut()) else { return };
        for rank in &mut gang.ranks {
            if rank.phase == Phase::Starting {
                rank.phase = Phase::Started;
            }
        }
    }

    pub(crate) fn set_phase(&mut self, id: AttemptId, rank: Rank, phase: Phase) {
        let gang = self.trial_mut(id.trial).and_then(|trial| trial.gang_mut());
        if let Some(rank) = gang.and_then(|gang| gang.ranks.get_mut(rank.0 as usize))
            && !rank.phase.is_over()
        {
            rank.phase = phase;
        }
    }

    fn end_rank(&mut self, id: AttemptId, rank: Rank, phase: Phase) {
        self.set_phase(id, rank, phase);
        let placement = self.gang(id).and_then(|gang| Some(gang.rank(rank)?.placement.clone()));
        let keeps = planted!(self, KeepsSlotOfExitedRank) && matches!(phase, Phase::Exited { .. });
        if let Some(placement) = placement.filter(|_| !keeps) {
            self.pool.release(&placement.worker, placement.slot, id, rank);
            self.undecided = true;
        }
    }

    /// Moves a trial to another state and keeps the queue and the counts right.
    pub(crate) fn set_state(&mut self, id: TrialId, state: TrialState) {
        let Some(study) = self.studies.get_mut(&id.study) else { return };
        let Some(position) = study.position(id.key) else { return };
        let turn = study.turn();
        let trial = &mut study.trials[position as usize];
        let was_open = !trial.status().is_final();
        if let TrialState::Waiting { not_before_ms } = trial.state {
            study.waiting -= 1;
            self.pausing.remove(&(not_before_ms, id.study, position));
            if let Some(queue) = self.ready.get_mut(&turn) {
                queue.remove(&position);
                if queue.is_empty() {
                    self.ready.remove(&turn);
                }
            }
        }
        if let TrialState::Waiting { not_before_ms } = state {
            study.waiting += 1;
            if not_before_ms > 0 {
                self.pausing.insert((not_before_ms, id.study, position));
            } else {
                self.ready.entry(turn).or_default().insert(position);
            }
        }
        trial.state = state;
        let is_open = !trial.status().is_final();
        study.open = study.open + u32::from(is_open && !was_open) - u32::from(was_open && !is_open);
        self.undecided = true;
    }

    /// Ends the replay of the log: workers that hold running attempts have until the end of the grace to come back,
    /// and nothing is started again meanwhile.
    pub fn on_restarted(&mut self, now_ms: u64) {
        let holders: std::collections::BTreeSet<_> =
            self.current_attempts().flat_map(|(_, _, gang)| gang.live_workers()).collect();
        let known: Vec<_> = self.pool.workers().keys().cloned().collect();
        for id in known {
            if !holders.contains(&id) {
                self.pool.forget(&id);
                continue;
            }
            let adopts = !planted!(self, RestartsInsteadOfAdopting);
            let deadline = now_ms + if adopts { self.config.adoption_grace_ms } else { 0 };
            self.pool.change(&id, |worker| {
                worker.link = Link::Away;
                worker.heard_ms = now_ms;
                worker.deadline_ms = deadline;
                // Slots that hold nothing may be gone; Hello tells.
                worker.slots.retain(|_, slot| slot.held.is_some());
            });
            self.mark_worker(&id);
        }
        let running: Vec<AttemptId> = self.current_attempts().map(|(id, _, _)| id).collect();
        (self.watched, self.narrow) = Default::default();
        for id in running {
            if let Some(gang) = self.trial_mut(id.trial).and_then(|trial| trial.gang_mut()) {
                (gang.begun_ms, gang.heard_ms) = (now_ms, now_ms);
            }
            if self.is_stopping(id) {
                self.watched.insert((now_ms, id));
            } else {
                self.watch(now_ms, id);
            }
            self.note_narrow(now_ms, id);
        }
        self.await_marked(now_ms);
        self.end_pauses_beyond(now_ms + MAX_PAUSE_MS);
        self.last_tick_ms = None;
        self.undecided = true;
    }

    /// Pauses were written by a clock that may have been set back since.
    fn end_pauses_beyond(&mut self, latest_ms: u64) {
        let beyond: Vec<_> = self.pausing.range((latest_ms + 1, StudyId(0), 0)..).copied().collect();
        for (_, study, position) in beyond {
            let id = self.studies[&study].id_of(position);
            self.set_state(id, TrialState::Waiting { not_before_ms: latest_ms });
        }
    }
}

impl Core {
    /// The attempt that a trial has now.
    pub(crate) fn current(&self, id: TrialId) -> Option<AttemptId> {
        let gang = self.trial(id)?.gang()?;
        Some(attempt_id(id.study, id.key, gang.attempt))
    }
}

/// Whether the event can change which artifacts its trial needs; the frequent ones cannot.
fn refers_to_artifacts(event: &Event) -> bool {
    matches!(
        event,
        Event::AttemptStarted { .. }
            | Event::CheckpointStored { .. }
            | Event::TrialEvaluated { .. }
            | Event::AttemptEnded { .. }
            | Event::TrialFailed { .. }
    )
}
