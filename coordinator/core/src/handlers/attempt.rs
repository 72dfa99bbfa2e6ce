//! How attempts end: one path for failures, lost workers and cancellation.

use mtinet_domain::event::Event;
use mtinet_domain::trial::{AttemptEnd, FailureCause, ProcessExit};
use mtinet_domain::{AttemptId, Rank, WorkerId};

use crate::effects::{Command, Effects};
use crate::retry::{Verdict, describe_end, verdict};
use crate::state::Core;
use crate::trial::TrialState;

impl Core {
    /// Ends an attempt: at once where no rank is left, else by stopping the ranks that are left. The first cause
    /// counts; of an attempt that is being stopped already only its end is checked.
    pub(crate) fn stop(&mut self, now_ms: u64, id: AttemptId, end: AttemptEnd, effects: &mut Effects) {
        let Some(trial) = self.trial(id.trial) else { return };
        let Some(gang) = self.gang(id) else { return };
        let left = gang.live_workers();
        match (&trial.state, left.is_empty()) {
            (TrialState::Stopping { end, .. }, true) => {
                let end = end.clone();
                self.end(now_ms, id, end, effects);
            }
            (TrialState::Running { .. }, true) => self.end(now_ms, id, end, effects),
            (TrialState::Running { .. }, false) => {
                let event = Event::AttemptStopping { trial: id.trial.key, attempt: id.number, end };
                self.record(now_ms, effects, id.trial.study, event);
                for worker in left {
                    self.send_stop(id, worker, effects);
                }
            }
            _ => {}
        }
    }

    /// Tells a worker to stop the attempt's ranks, for the reason that it is being stopped for.
    pub(crate) fn send_stop(&self, id: AttemptId, worker: WorkerId, effects: &mut Effects) {
        let end = match self.trial(id.trial).map(|trial| &trial.state) {
            Some(TrialState::Stopping { gang, end }) if gang.attempt == id.number => Some(end),
            _ => None,
        };
        let reason = end.map_or_else(|| "this attempt is over".to_owned(), describe_end);
        let grace_ms = if end == Some(&AttemptEnd::Cancelled) { self.config.cancel_grace_ms } else { 0 };
        effects.send.push((worker, Command::StopAttempt { attempt: id, reason, grace_ms }));
    }

    /// Called when the process of a rank is over: ends the attempt, or stops the others where this one failed.
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
                })
            };
            self.stop(now_ms, id, end, effects);
        }
    }

    /// Records the end of an attempt none of whose ranks is left, and what follows from it.
    fn end(&mut self, now_ms: u64, id: AttemptId, end: AttemptEnd, effects: &mut Effects) {
        let study = id.trial.study;
        let (Some(trial), Some(cancelled)) =
            (self.trial(id.trial), self.study(study).map(|study| study.cancelled))
        else {
            return;
        };
        let verdict = match &end {
            AttemptEnd::Failed(cause) if !cancelled => {
                Some(verdict(trial, &self.studies[&study].spec.retry, cause, now_ms))
            }
            _ => None,
        };
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
}
