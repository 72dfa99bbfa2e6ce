//! Attempts that do not start, or go silent: the rank that did not arrive is named.
//!
//! Trainers notice a peer that hangs by the timeout of their collectives; here is what they cannot notice themselves.

use mtinet_domain::trial::{AttemptEnd, FailureCause, ProcessExit};
use mtinet_domain::{AttemptId, Rank};

use crate::effects::Effects;
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
            let running = self.trial(id.trial).and_then(|trial| match &trial.state {
                TrialState::Running { gang } if gang.attempt == id.number => Some(gang),
                _ => None,
            });
            let Some(gang) = running else { continue };
            let due = self.limit(gang);
            if due > now_ms {
                self.watched.insert((due, id));
            } else {
                let cause = self.what_is_missing(gang);
                self.stop(now_ms, id, AttemptEnd::Failed(cause), effects);
            }
        }
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
            },
            None => FailureCause {
                rank: others.first().map(|rank| rank.placement.rank),
                exit: ProcessExit::Signal(SIGKILL),
                step: None,
                message: format!(
                    "no word from the attempt for {} s: it hangs and was killed",
                    self.config.stall_limit_ms / 1000
                ),
            },
        }
    }

    /// Where ranks waited in vain for another: that one, and not who waited, is the cause. It shows at the end of the
    /// attempt, as the one that had to be killed.
    pub(crate) fn name_the_silent(&self, id: AttemptId, end: AttemptEnd) -> AttemptEnd {
        let AttemptEnd::Failed(cause) = &end else { return end };
        let Some(gang) = self.gang(id).filter(|_| waited_in_vain(cause)) else { return end };
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
        })
    }

    /// Where a rank says which others it waited for in vain: the first of them, and not who says so, is the cause.
    pub(crate) fn blame_the_missing(
        &self,
        id: AttemptId,
        cause: FailureCause,
        missing: &[Rank],
    ) -> FailureCause {
        let Some(gang) = self.gang(id) else { return cause };
        let missing: Vec<&RankState> = missing.iter().filter_map(|rank| gang.rank(*rank)).collect();
        let Some(first) = missing.first() else { return cause };
        let teller = cause.rank.map_or_else(|| "another".to_owned(), |rank| format!("rank {rank}"));
        let message = format!("{} ({} was missed by {teller})", cause.message, names(&missing));
        FailureCause { rank: Some(first.placement.rank), message, ..cause }
    }

    /// Takes in a sign of life of an attempt.
    pub(crate) fn heard_of(&mut self, now_ms: u64, id: AttemptId) {
        if let Some(gang) = self.trial_mut(id.trial).and_then(|trial| trial.gang_mut()) {
            gang.heard_ms = now_ms;
        }
    }
}

/// Whether a rank failed because a peer did not answer in time, by the words of libtorch and of our shim.
pub(crate) fn waited_in_vain(cause: &FailureCause) -> bool {
    let message = cause.message.to_lowercase();
    // The trainers' watchdog says it in its own words, and names the rank.
    let named = message.contains("did not arrive");
    matches!(cause.exit, ProcessExit::Code(_))
        && !named
        && ["timed out", "timeout", "no answer from a peer in time"]
            .iter()
            .any(|words| message.contains(words))
}

fn names(ranks: &[&RankState]) -> String {
    let names: Vec<String> = ranks
        .iter()
        .map(|rank| format!("rank {} on worker {}", rank.placement.rank, rank.placement.worker))
        .collect();
    names.join(", ")
}
