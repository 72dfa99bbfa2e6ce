//! How attempts end: one path for failures, lost workers and cancellation.

use mtinet_domain::event::Event;
use mtinet_domain::trial::{AttemptEnd, FailureCause, ProcessExit};
use mtinet_domain::{AttemptId, Rank, WorkerId};

use crate::effects::{Command, Effects};
use crate::retry::{Verdict, describe_end, verdict};
use crate::state::Core;
use crate::trial::TrialState;

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
        let news = known.as_ref().is_none_or(|known| explains(&end, known));
        let end = trial.with_last_step(known.filter(|_| !news).unwrap_or(end));
        if left.is_empty() {
            self.end(now_ms, id, end, effects);
        } else if news {
            let event = Event::AttemptStopping { trial: id.trial.key, attempt: id.number, end };
            self.record(now_ms, effects, id.trial.study, event);
        }
        if is_first {
            for worker in left {
                self.send_stop(id, worker, effects);
            }
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
        let grace_ms = if end == Some(&AttemptEnd::Cancelled) { self.config.cancel_grace_ms } else { 0 };
        effects.send.push((worker, Command::StopAttempt { attempt: id, reason, grace_ms }));
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

/// Whether what became known while an attempt is being stopped is nearer to the root than what it is stopped for.
///
/// When a rank goes away, its peers fail too, in the middle of a collective, and are often heard first: at once,
/// where the death of a whole worker only shows when its lease is over.
fn explains(later: &AttemptEnd, known: &AttemptEnd) -> bool {
    match (later, known) {
        // No peer is needed yet while a rank is prepared.
        (AttemptEnd::WorkerLost { .. }, AttemptEnd::Failed(known)) => known.exit != ProcessExit::NotStarted,
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
