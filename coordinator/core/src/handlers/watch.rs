//! Attempts that do not start, go silent or do not end: the rank that did not arrive is named.
//!
//! Trainers notice a peer that hangs by their watchdog; here is what they cannot notice themselves.

use mtinet_domain::event::{Event, RankLoss};
use mtinet_domain::trial::{AttemptEnd, FailureCause, Hang, Placement, ProcessExit};
use mtinet_domain::{AttemptId, Rank};

use crate::effects::Effects;
use crate::pool::Held;
use crate::state::Core;
use crate::trial::{Gang, Phase, RankState, TrialState};

/// The signal that ends a process which does not end itself.
const SIGKILL: i32 = 9;

impl Core {
    /// Begins to watch an attempt.
    pub(crate) fn watch(&mut self, now_ms: u64, id: AttemptId) {
        let due = now_ms + self.config.start_limit_ms.min(self.config.stall_limit_ms);
        self.watched.insert((due, id));
    }

    /// Ends attempts that did not start or went silent.
    pub(crate) fn check_watched(&mut self, now_ms: u64, effects: &mut Effects) {
        while let Some(&(due, id)) = self.watched.first()
            && due <= now_ms
        {
            self.watched.pop_first();
            let (Some(trial), Some(gang)) = (self.trial(id.trial), self.gang(id)) else { continue };
            let end = match &trial.state {
                TrialState::Stopping { end, .. } => Some(end.clone()),
                _ => None,
            };
            let due = end.as_ref().map_or_else(|| self.limit(gang), |end| self.stop_limit(gang, end));
            if due > now_ms {
                self.watched.insert((due, id));
                continue;
            }
            match end {
                None => {
                    let cause = self.what_is_missing(gang);
                    self.stop(now_ms, id, AttemptEnd::Failed(cause), effects);
                }
                Some(end) if gang.kills => self.give_up_what_is_left(now_ms, id, end, effects),
                Some(_) => self.kill(now_ms, id, effects),
            }
        }
    }

    /// Begins to watch an attempt that is being stopped.
    pub(crate) fn watch_stop(&mut self, now_ms: u64, id: AttemptId) {
        let Some(TrialState::Stopping { end, .. }) = self.trial(id.trial).map(|trial| &trial.state) else {
            return;
        };
        let kills = self.grace(end) == 0;
        let Some(gang) = self.trial_mut(id.trial).and_then(|trial| trial.gang_mut()) else { return };
        (gang.heard_ms, gang.kills) = (now_ms, kills);
        // Looked at again then: [`Core::stop_limit`] says when it is really due.
        self.watched.insert((now_ms, id));
    }

    /// When what is left of an attempt that is being stopped is to be gone.
    fn stop_limit(&self, gang: &Gang, end: &AttemptEnd) -> u64 {
        let limit_ms = if gang.kills {
            self.config.kill_limit_ms
        } else {
            u64::from(self.grace(end)) + self.config.store_limit_ms
        };
        gang.heard_ms + limit_ms
    }

    /// What had time to end and did not has none left.
    fn kill(&mut self, now_ms: u64, id: AttemptId, effects: &mut Effects) {
        let Some(gang) = self.trial_mut(id.trial).and_then(|trial| trial.gang_mut()) else { return };
        (gang.heard_ms, gang.kills) = (now_ms, true);
        for worker in gang.live_workers() {
            self.send_stop(id, worker, effects);
        }
        self.watched.insert((now_ms, id));
    }

    /// Goes on without ranks whose processes do not go, as one that hangs in a driver or on a dead file system. Their
    /// slots stay taken until their workers say that they are gone.
    fn give_up_what_is_left(&mut self, now_ms: u64, id: AttemptId, end: AttemptEnd, effects: &mut Effects) {
        let Some(gang) = self.gang(id) else { return };
        let left: Vec<Placement> = gang.live().map(|rank| rank.placement.clone()).collect();
        let seconds = self.config.kill_limit_ms / 1000;
        for Placement { rank, worker, slot, .. } in left {
            let reason = format!("its process was to be killed and is not gone after {seconds} s");
            let (trial, attempt) = (id.trial.key, id.number);
            let how = Some(RankLoss::Unkillable);
            let event = Event::RankLost { trial, attempt, rank, worker: worker.clone(), reason, how };
            self.record(now_ms, effects, id.trial.study, event);
            self.occupy(&worker, Held { attempt: id, rank }, slot);
        }
        self.stop(now_ms, id, end, effects);
    }

    /// The time of the attempts' silence was this process's own.
    pub(crate) fn forgive_silence(&mut self, gap_ms: u64) {
        let forgive = |gang: &mut Gang| {
            gang.begun_ms = gang.begun_ms.saturating_add(gap_ms);
            gang.heard_ms = gang.heard_ms.saturating_add(gap_ms);
        };
        let watched: Vec<AttemptId> = self.watched.iter().map(|(_, id)| *id).collect();
        for id in watched {
            if let Some(gang) = self.trial_mut(id.trial).and_then(|trial| trial.gang_mut()) {
                forgive(gang);
            }
        }
    }

    /// When the attempt is given up, as things stand.
    fn limit(&self, gang: &Gang) -> u64 {
        let starting = gang.live().any(|rank| rank.phase == Phase::Starting);
        if starting {
            gang.begun_ms + self.config.start_limit_ms
        } else {
            gang.heard_ms + self.config.stall_limit_ms
        }
    }

    fn what_is_missing(&self, gang: &Gang) -> FailureCause {
        let (starting, others): (Vec<&RankState>, Vec<&RankState>) =
            gang.live().partition(|rank| rank.phase == Phase::Starting);
        match starting.first() {
            Some(missing) => FailureCause {
                rank: Some(missing.placement.rank),
                exit: ProcessExit::NotStarted,
                step: None,
                message: format!(
                    "{} did not start within {} s; {} of {} ranks did",
                    names(&starting),
                    self.config.start_limit_ms / 1000,
                    others.len(),
                    gang.ranks.len()
                ),
                hang: None,
            },
            None => FailureCause {
                rank: others.first().map(|rank| rank.placement.rank),
                exit: ProcessExit::Signal(SIGKILL),
                step: None,
                message: format!(
                    "no word from the attempt for {} s: it hangs and was killed",
                    self.config.stall_limit_ms / 1000
                ),
                hang: None,
            },
        }
    }

    /// Where ranks waited in vain for another: that one, and not who waited, is the cause. It shows at the end of the
    /// attempt, as the one that had to be killed.
    pub(crate) fn name_the_silent(&self, id: AttemptId, end: AttemptEnd) -> AttemptEnd {
        let AttemptEnd::Failed(cause) = &end else { return end };
        if planted!(self, BlamesWhoWaited) {
            return end;
        }
        let Some(gang) = self.gang(id).filter(|_| cause.hang == Some(Hang::Unnamed)) else { return end };
        let killed = |rank: &&RankState| rank.exit == Some(ProcessExit::Signal(SIGKILL));
        let silent: Vec<&RankState> =
            gang.ranks.iter().filter(killed).filter(|rank| Some(rank.placement.rank) != cause.rank).collect();
        let Some(first) = silent.first() else { return end };
        let waiting = cause.rank.map_or_else(|| "the others".to_owned(), |rank| format!("rank {rank}"));
        AttemptEnd::Failed(FailureCause {
            rank: Some(first.placement.rank),
            exit: ProcessExit::Signal(SIGKILL),
            step: cause.step,
            message: format!(
                "{} did not arrive and had to be killed; {waiting} said: {}",
                names(&silent),
                cause.message
            ),
            hang: Some(Hang::Named),
        })
    }

    /// Where a rank says which others it waited for in vain: the first of them, and not who says so, is the cause.
    pub(crate) fn blame_the_missing(
        &self,
        id: AttemptId,
        cause: FailureCause,
        missing: &[Rank],
    ) -> FailureCause {
        let Some(gang) = self.gang(id).filter(|_| !planted!(self, BlamesTheTeller)) else { return cause };
        let missing: Vec<&RankState> = missing.iter().filter_map(|rank| gang.rank(*rank)).collect();
        let Some(first) = missing.first() else { return cause };
        let teller = cause.rank.map_or_else(|| "another".to_owned(), |rank| format!("rank {rank}"));
        let message = format!("{} ({} was missed by {teller})", cause.message, names(&missing));
        FailureCause { rank: Some(first.placement.rank), message, hang: Some(Hang::Named), ..cause }
    }

    /// Takes in a sign of life of an attempt.
    pub(crate) fn heard_of(&mut self, now_ms: u64, id: AttemptId) {
        if let Some(TrialState::Running { gang }) = self.trial_mut(id.trial).map(|trial| &mut trial.state)
            && gang.attempt == id.number
        {
            gang.heard_ms = now_ms;
        }
    }
}

/// Whether a rank failed because a peer did not answer in time, by the words of libtorch and of our shim: a process that
/// ends in the middle of a collective has nothing else to say it with. Asked once, when the end is taken in; from then on
/// [`FailureCause::hang`] says it.
pub(crate) fn waited_in_vain(exit: ProcessExit, message: &str) -> bool {
    let message = message.to_lowercase();
    let words = ["timed out", "timeout", "no answer from a peer in time"];
    matches!(exit, ProcessExit::Code(_)) && words.iter().any(|word| message.contains(word))
}

fn names(ranks: &[&RankState]) -> String {
    let names: Vec<String> = ranks
        .iter()
        .map(|rank| format!("rank {} on worker {}", rank.placement.rank, rank.placement.worker))
        .collect();
    names.join(", ")
}
