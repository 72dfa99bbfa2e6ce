//! How attempts end: one path for failures, lost workers and cancellation.

use mtinet_domain::event::Event;
use mtinet_domain::trial::{AttemptEnd, FailureCause, Hang, ProcessExit};
use mtinet_domain::{AttemptId, Rank, WorkerId};

use crate::effects::{Command, Effects};
use crate::retry::{Verdict, describe_end, verdict};
use crate::state::Core;
use crate::trial::{Gang, Phase, TrialState};

impl Core {
    /// Ends an attempt: at once where no rank is left, else by stopping the ranks that are left. Of an attempt that is
    /// being stopped already, the first cause counts unless this one explains it.
    pub(crate) fn stop(&mut self, now_ms: u64, id: AttemptId, end: AttemptEnd, effects: &mut Effects) {
        let (Some(trial), Some(gang)) = (self.trial(id.trial), self.gang(id)) else { return };
        let left = gang.live_workers();
        let known = match &trial.state {
            TrialState::Stopping { end, .. } => Some(end.clone()),
            _ => None,
        };
        let is_first = known.is_none();
        let news = known.as_ref().is_none_or(|known| explains(&end, known, gang));
        let end = trial.with_last_step(known.filter(|_| !news).unwrap_or(end));
        if left.is_empty() || planted!(self, RestartsBeforePeersStopped) {
            self.end(now_ms, id, end, effects);
        } else if news {
            let event = Event::AttemptStopping { trial: id.trial.key, attempt: id.number, end };
            self.record(now_ms, effects, id.trial.study, event);
        }
        if is_first {
            for worker in left {
                self.send_stop(id, worker, effects);
            }
            self.watch_stop(now_ms, id);
        }
    }

    /// Whether the ranks of a current attempt are being stopped.
    pub(crate) fn is_stopping(&self, id: AttemptId) -> bool {
        self.gang(id).is_some()
            && self.trial(id.trial).is_some_and(|trial| matches!(trial.state, TrialState::Stopping { .. }))
    }

    /// Tells a worker to stop the attempt's ranks, for the reason that it is being stopped for.
    pub(crate) fn send_stop(&self, id: AttemptId, worker: WorkerId, effects: &mut Effects) {
        let end = match self.trial(id.trial).map(|trial| &trial.state) {
            Some(TrialState::Stopping { gang, end }) if gang.attempt == id.number => Some(end),
            _ => None,
        };
        let reason = end.map_or_else(|| "this attempt is over".to_owned(), describe_end);
        let kills = self.gang(id).is_some_and(|gang| gang.kills);
        let grace_ms = end.filter(|_| !kills).map_or(0, |end| self.grace(end));
        effects.send.push((worker, Command::StopAttempt { attempt: id, reason, grace_ms }));
    }

    /// How long ranks have to end at a step boundary, by the reason that they are stopped for.
    pub(crate) fn grace(&self, end: &AttemptEnd) -> u32 {
        match end {
            AttemptEnd::Cancelled => self.config.cancel_grace_ms,
            AttemptEnd::Paused | AttemptEnd::Drained { .. } | AttemptEnd::Widened => {
                self.config.pause_grace_ms
            }
            AttemptEnd::Failed(cause) if cause.hang == Some(Hang::Unnamed) => self.config.hang_grace_ms,
            _ => 0,
        }
    }

    /// Called when the process of a rank is over: ends the attempt, or stops the others where this one failed of its
    /// own accord.
    pub(crate) fn after_exit(
        &mut self,
        now_ms: u64,
        id: AttemptId,
        failure: Option<FailureCause>,
        effects: &mut Effects,
    ) {
        let Some(gang) = self.gang(id) else { return };
        if let Some(cause) = failure {
            self.stop(now_ms, id, AttemptEnd::Failed(cause), effects);
        } else if gang.live().next().is_none() {
            let end = if gang.all_finished() && gang.evaluated {
                AttemptEnd::Completed
            } else {
                AttemptEnd::Failed(FailureCause {
                    rank: Some(Rank(0)),
                    exit: ProcessExit::Code(0),
                    step: None,
                    message: "all ranks finished but none reported an evaluation".into(),
                    hang: None,
                })
            };
            self.stop(now_ms, id, end, effects);
        }
    }

    /// Records the end of an attempt none of whose ranks is left, and what follows from it.
    fn end(&mut self, now_ms: u64, id: AttemptId, end: AttemptEnd, effects: &mut Effects) {
        let study = id.trial.study;
        let (Some(trial), Some(cancelled)) = (
            self.trial(id.trial),
            self.study(study)
                .zip(self.trial(id.trial))
                .map(|(study, trial)| study.cancelled || trial.cancelled),
        ) else {
            return;
        };
        let end = self.name_the_silent(id, end);
        let end = if planted!(self, CountsLostWorkersAsFailures) { counted(end) } else { end };
        let verdict = match &end {
            AttemptEnd::Failed(cause) if !cancelled => {
                Some(verdict(trial, &self.studies[&study].spec.retry, cause, now_ms))
            }
            _ => None,
        };
        let (end, verdict) = match (end, verdict) {
            (AttemptEnd::Failed(cause), Some(given)) => self.put_down_to_worker(id, cause, given),
            (end, _) => (end, None),
        };
        self.judge(id, &end, effects);
        let retry_at_ms = match verdict {
            Some(Verdict::Retry { at_ms }) => Some(at_ms),
            _ => None,
        };
        let trial = id.trial.key;
        let event = Event::AttemptEnded { trial, attempt: id.number, end, retry_at_ms };
        self.record(now_ms, effects, study, event);
        if let Some(Verdict::GiveUp { reason }) = verdict {
            self.record(now_ms, effects, study, Event::TrialFailed { trial, reason });
        }
        self.finish_if_over(now_ms, study, effects);
    }

    /// A failure does not count against the trial where the worker is as likely to blame and another one can take the
    /// trial: what could not even be started, and what would be the end of the trial without having been tried
    /// elsewhere. One bad worker can then not fail a study.
    fn put_down_to_worker(
        &self,
        id: AttemptId,
        cause: FailureCause,
        verdict: Verdict,
    ) -> (AttemptEnd, Option<Verdict>) {
        let worker = self.worker_of(id, cause.rank);
        let (Some(trial), Some(worker)) = (self.trial(id.trial), worker) else {
            return (AttemptEnd::Failed(cause), Some(verdict));
        };
        let only_there = trial.failed_on.iter().all(|failed| *failed == worker);
        let unproven =
            cause.exit == ProcessExit::NotStarted || matches!(verdict, Verdict::GiveUp { .. }) && only_there;
        if unproven && self.can_go_elsewhere(id.trial.study, trial, &worker) {
            (AttemptEnd::Unfit { worker, cause }, None)
        } else {
            (AttemptEnd::Failed(cause), Some(verdict))
        }
    }

    /// What the end of an attempt says about its workers.
    fn judge(&mut self, id: AttemptId, end: &AttemptEnd, effects: &mut Effects) {
        let Some(gang) = self.gang(id) else { return };
        match end {
            AttemptEnd::Completed => {
                let workers: Vec<WorkerId> =
                    gang.ranks.iter().map(|rank| rank.placement.worker.clone()).collect();
                self.praise(workers);
            }
            AttemptEnd::Failed(cause) | AttemptEnd::Unfit { cause, .. } => {
                let (Some(worker), Some(trial)) = (self.worker_of(id, cause.rank), self.trial(id.trial))
                else {
                    return;
                };
                let before = trial.last_failure.clone().zip(trial.last_failed_on.clone());
                let before = before.as_ref().map(|(cause, at)| (cause, at));
                self.blame(id.trial.study, &worker, cause, before, effects);
            }
            _ => {}
        }
    }

    /// The worker that holds a rank of a current attempt.
    pub(crate) fn worker_of(&self, id: AttemptId, rank: Option<Rank>) -> Option<WorkerId> {
        Some(self.gang(id)?.rank(rank?)?.placement.worker.clone())
    }
}

/// What a planted bug makes of a lost worker.
#[cfg(mtinet_mutations)]
fn counted(end: AttemptEnd) -> AttemptEnd {
    match end {
        AttemptEnd::WorkerLost { reason, .. } => AttemptEnd::Failed(FailureCause {
            rank: None,
            exit: ProcessExit::NotStarted,
            step: None,
            message: reason,
            hang: None,
        }),
        end => end,
    }
}

#[cfg(not(mtinet_mutations))]
fn counted(end: AttemptEnd) -> AttemptEnd {
    end
}

/// Whether what became known while an attempt is being stopped is nearer to the root than what it is stopped for.
///
/// When a rank goes away, its peers fail too, in the middle of a collective, and are often heard first: at once,
/// where the death of a whole worker only shows when its lease is over.
fn explains(later: &AttemptEnd, known: &AttemptEnd, gang: &Gang) -> bool {
    match (later, known) {
        // All its work is done: nothing is left to stop for.
        (AttemptEnd::Completed, _) => true,
        // No peer is needed yet while a rank is prepared, so that a worker which says that it could not is right; but one
        // that was waited for in vain was only away.
        (AttemptEnd::WorkerLost { .. }, AttemptEnd::Failed(known)) => {
            let unheard =
                known.rank.and_then(|rank| gang.rank(rank)).is_some_and(|rank| rank.phase == Phase::Lost);
            known.exit != ProcessExit::NotStarted || unheard
        }
        (AttemptEnd::Failed(later), AttemptEnd::Failed(known)) => {
            !may_follow(later.exit) && may_follow(known.exit)
        }
        _ => false,
    }
}

/// Whether a process may have ended so because a peer went away: it exits with an error, or aborts where the error
/// comes up in a thread of the collectives. All other signals strike from outside or by its own mistake.
fn may_follow(exit: ProcessExit) -> bool {
    const SIGABRT: i32 = 6;
    matches!(exit, ProcessExit::Code(_) | ProcessExit::Signal(SIGABRT))
}
