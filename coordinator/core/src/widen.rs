//! The tail of a study: trials that run on fewer ranks than they could go on with more when slots are spare.
//!
//! One at a time saves at a step boundary and starts again, and only for at least twice its ranks: each restart costs a
//! trainer's start, and an attempt is widened at most as often as its ranks can double.

use mtinet_domain::AttemptId;
use mtinet_domain::spec::Ranks;
use mtinet_domain::trial::AttemptEnd;

use crate::effects::Effects;
use crate::pool::DeviceKind;
use crate::schedule::divisor_up_to;
use crate::state::Core;
use crate::trial::{Phase, TrialState};

impl Core {
    /// Notes an attempt that could have more ranks.
    pub(crate) fn note_narrow(&mut self, now_ms: u64, id: AttemptId) {
        let study = self.studies.get(&id.trial.study);
        let could_have_more = study.is_some_and(|study| {
            let ranks = self.gang(id).map_or(0, |gang| gang.ranks.len() as u32);
            study.spec.resources.ranks == Ranks::Auto && ranks < study.spec.train.replicas
        });
        if could_have_more {
            self.narrow.insert((now_ms + self.config.widen_after_ms, id));
        }
    }

    /// Whether it is time to think of widening.
    pub(crate) fn may_widen(&self, now_ms: u64) -> bool {
        self.narrow.first().is_some_and(|(due, _)| *due <= now_ms)
    }

    /// Stops one attempt to go on with more ranks, where no trial waits for slots.
    pub(crate) fn widen(&mut self, now_ms: u64, effects: &mut Effects) {
        if !self.may_widen(now_ms) {
            return;
        }
        // Asked first: while trials wait, which is most of the time, the attempts need not be gone through.
        let wanted = self.active.iter().any(|id| {
            let study = &self.studies[id];
            study.waiting > 0 && !study.paused
        });
        if wanted && !planted!(self, WidensAlthoughTrialsWait) {
            return;
        }
        let over: Vec<_> = self.narrow.iter().filter(|(_, id)| self.gang(*id).is_none()).copied().collect();
        for entry in over {
            self.narrow.remove(&entry);
        }
        if self.narrow.iter().any(|(_, id)| self.is_stopping(*id)) {
            return;
        }
        let chosen = self.narrow.iter().take_while(|(due, _)| *due <= now_ms).find(|(_, id)| self.gains(*id));
        if let Some((_, id)) = chosen.copied() {
            self.stop(now_ms, id, AttemptEnd::Widened, effects);
        }
    }

    /// Whether an attempt would get at least twice its ranks, and has something to go on from.
    fn gains(&self, id: AttemptId) -> bool {
        let (Some(study), Some(trial)) = (self.studies.get(&id.trial.study), self.trial(id.trial)) else {
            return false;
        };
        let TrialState::Running { gang } = &trial.state else { return false };
        let trains = gang.ranks.iter().all(|rank| rank.phase == Phase::Started) && !gang.evaluated;
        let begun_at = gang.resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
        let all = study.spec.train.steps.unwrap_or(u64::MAX);
        // What is nearly done is done sooner than started again.
        let has_a_way_to_go = trial.step > begun_at && trial.step < all - all / 10;
        let ranks = gang.ranks.len() as u32;
        let Some(kind) = gang.ranks.first().map(|rank| DeviceKind::of(rank.placement.device)) else {
            return false;
        };
        let own: Vec<_> = gang.ranks.iter().map(|rank| rank.placement.clone()).collect();
        let width = divisor_up_to(study.spec.train.replicas, self.pool.room_beside(kind, &own));
        let has_room = width >= 2 * ranks || planted!(self, WidensWithoutRoom);
        trains && has_a_way_to_go && has_room
    }
}
