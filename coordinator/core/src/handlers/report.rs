//! What ranks report, each report taken in exactly once.

use mtinet_domain::event::{Event, ReportId};
use mtinet_domain::trial::{FailureCause, Hang, ProcessExit};
use mtinet_domain::{Rank, WorkerId};

use crate::effects::{Command, Effects};
use crate::fact::{Fact, Report};
use crate::handlers::watch::waited_in_vain;
use crate::pool::Link;
use crate::state::Core;
use crate::trial::{Phase, TrialState};

impl Core {
    /// Takes in a report of a worker with a session. A repeated one and one about an attempt that is over change
    /// nothing, and are acknowledged all the same: see [`Core::last_seq`].
    pub fn on_report(&mut self, now_ms: u64, worker: &WorkerId, report: Report) -> Effects {
        let mut effects = Effects::default();
        #[cfg(mtinet_mutations)]
        let report = self.misread(report);
        // A repeated one is a sign of life too.
        effects.extend(self.on_heartbeat(now_ms, worker));
        if report.seq <= self.last_seq(worker) && !planted!(self, TakesReportsTwice) {
            return effects;
        }
        match self.pool.touch(worker).filter(|worker| worker.link == Link::Ready) {
            Some(worker) => {
                worker.seen_seq = worker.seen_seq.max(report.seq);
            }
            None => return effects,
        }
        if self.holds(worker, &report) {
            self.heard_of(now_ms, report.attempt);
            self.take_in(now_ms, worker, report, &mut effects);
        } else if matches!(report.fact, Fact::Exited { .. }) {
            // A process left over from an attempt that ended without this worker: only its slot is of interest.
            if let Some(slot) = self.pool.slot_of(worker, report.attempt, report.rank) {
                self.pool.release(worker, slot, report.attempt, report.rank);
                self.undecided = true;
            }
        }
        self.conclude(now_ms, effects)
    }

    /// Takes note of a report that cannot be read, as of another release: it is acknowledged, because its worker would
    /// only repeat it, and changes nothing else.
    pub fn on_unreadable_report(&mut self, now_ms: u64, worker: &WorkerId, seq: u64) -> Effects {
        let effects = self.on_heartbeat(now_ms, worker);
        if let Some(worker) = self.pool.touch(worker).filter(|worker| worker.link == Link::Ready) {
            worker.seen_seq = worker.seen_seq.max(seq);
        }
        effects
    }

    /// Whether the report is about a rank that this worker holds for a current attempt.
    fn holds(&self, worker: &WorkerId, report: &Report) -> bool {
        self.gang(report.attempt)
            .and_then(|gang| gang.rank(report.rank))
            .is_some_and(|rank| rank.placement.worker == *worker && !rank.phase.is_over())
    }

    /// What a planted bug makes of a report about an attempt that is over.
    #[cfg(mtinet_mutations)]
    fn misread(&self, mut report: Report) -> Report {
        if planted!(self, TakesReportsOfFormerAttempts)
            && let Some(now) = self.current(report.attempt.trial)
        {
            report.attempt = now;
        }
        report
    }

    fn take_in(&mut self, now_ms: u64, worker: &WorkerId, report: Report, effects: &mut Effects) {
        let Report { seq, attempt: id, rank, fact } = report;
        let (trial, attempt) = (id.trial.key, id.number);
        let report = ReportId { worker: worker.clone(), seq };
        let mut record = |core: &mut Self, event| core.record(now_ms, effects, id.trial.study, event);
        match fact {
            Fact::Started => self.set_phase(id, rank, Phase::Started),
            Fact::Rendezvous { host, port } => {
                record(self, Event::RendezvousReady { trial, attempt, report, host, port });
                self.connect_ranks(id, effects);
            }
            Fact::Metrics(records) => record(self, Event::Metrics { trial, attempt, report, records }),
            Fact::Checkpoint(checkpoint) => {
                record(self, Event::CheckpointStored { trial, attempt, report, checkpoint });
            }
            Fact::Evaluated { summary, evaluation, weights, predictions } => {
                let event = Event::TrialEvaluated {
                    trial,
                    attempt,
                    report,
                    summary,
                    evaluation,
                    weights,
                    predictions,
                };
                record(self, event);
            }
            Fact::Exited { exit, finished, step, message, stopped, missing } => {
                // A rank that was told to stop ended for that reason, however it ended.
                let failure = failure(rank, exit, finished, step, &message)
                    .filter(|_| !(stopped && self.is_stopping(id)))
                    .map(|cause| self.blame_the_missing(id, cause, &missing));
                let event = Event::RankExited { trial, attempt, report, rank, exit, finished, step, message };
                record(self, event);
                self.after_exit(now_ms, id, failure, effects);
            }
        }
    }

    fn connect_ranks(&self, id: mtinet_domain::AttemptId, effects: &mut Effects) {
        // Ranks that are being stopped need not meet any more.
        if !self.trial(id.trial).is_some_and(|trial| matches!(trial.state, TrialState::Running { .. })) {
            return;
        }
        let Some(gang) = self.gang(id) else { return };
        for rank in gang.live().map(|rank| rank.placement.rank).filter(|rank| *rank != Rank(0)) {
            self.send_connect(id, rank, effects);
        }
    }

    /// Tells a rank where rank 0's store listens, where that is known.
    pub(crate) fn send_connect(&self, id: mtinet_domain::AttemptId, rank: Rank, effects: &mut Effects) {
        let Some(gang) = self.gang(id).filter(|_| rank != Rank(0)) else { return };
        if let (Some(rendezvous), Some(state)) = (&gang.rendezvous, gang.rank(rank)) {
            let command = Command::ConnectRank {
                attempt: id,
                rank,
                host: rendezvous.host.clone(),
                port: rendezvous.port,
            };
            effects.send.push((state.placement.worker.clone(), command));
        }
    }
}

/// A rank's failure, where its end is one: exit code 0 alone does not mean that the work is done.
fn failure(
    rank: Rank,
    exit: ProcessExit,
    finished: bool,
    step: Option<u64>,
    message: &str,
) -> Option<FailureCause> {
    if finished && exit == ProcessExit::Code(0) {
        return None;
    }
    let message = if message.is_empty() && exit == ProcessExit::Code(0) {
        "exited before its work was finished"
    } else {
        message
    };
    let hang = waited_in_vain(exit, message).then_some(Hang::Unnamed);
    Some(FailureCause { rank: Some(rank), exit, step, message: message.to_owned(), hang })
}
