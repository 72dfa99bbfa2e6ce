//! Workers come, go silent, are given up and come back.

use std::collections::{BTreeMap, BTreeSet};

use mtinet_domain::event::{Event, RankLoss};
use mtinet_domain::trial::AttemptEnd;
use mtinet_domain::{AttemptId, SlotIndex, WorkerId};

use crate::effects::Effects;
use crate::fact::{Hello, RunningRank};
use crate::pool::{Held, Link, SlotState};
use crate::state::Core;
use crate::trial::{Gang, Phase};

impl Core {
    /// A worker opens a session: a new one, one that was away, one that was given up, or one that a former
    /// coordinator process knew. Its ranks of current attempts are adopted, others are told to stop, and commands
    /// that may have been lost on the way are said again. The driver's Welcome carries [`Core::last_seq`] as it is
    /// afterwards and goes out first.
    pub fn on_worker_connected(&mut self, now_ms: u64, hello: &Hello) -> Effects {
        let mut effects = Effects::default();
        let worker = hello.worker.clone();
        let believed = self.held_by(&worker);
        let is_new = self.pool.get(&worker).is_none() && !self.marks.contains_key(&worker);
        let known_to_it: BTreeMap<Held, RunningRank> = hello
            .running
            .iter()
            .map(|rank| (Held { attempt: rank.attempt, rank: rank.rank }, *rank))
            .collect();
        self.greet(now_ms, hello, &believed);
        self.mark_worker(&worker);
        if is_new {
            self.inherit_mark(now_ms, &worker, &mut effects);
        }
        let mut lost = Vec::new();
        for (held, slot) in &believed {
            let listed = known_to_it.get(held).filter(|rank| rank.slot == *slot);
            let has_slot = hello.slots.iter().any(|s| s.index == *slot);
            if !self.is_live(&worker, *held) {
                self.settle_leftover(&worker, *held, *slot, listed, &mut effects);
            } else if !self.resume_rank(&worker, *held, listed.filter(|_| has_slot), has_slot, &mut effects) {
                lost.push(*held);
            }
        }
        for (held, rank) in &known_to_it {
            if !believed.contains_key(held) && !rank.exited {
                self.occupy(&worker, *held, rank.slot);
                self.send_stop(held.attempt, worker.clone(), &mut effects);
            }
        }
        let how = (RankLoss::Forgotten, "it came back without the rank");
        self.lose_ranks(now_ms, &worker, &lost, how, &mut effects);
        if self.marks.get(&worker).is_some_and(|mark| mark.drained) {
            // The drain may have been recorded and what follows from it not.
            self.vacate(now_ms, &worker, &mut effects);
        }
        self.undecided = true;
        self.conclude(now_ms, effects)
    }

    /// A worker's session is down. Its lease goes on.
    pub fn on_worker_disconnected(&mut self, now_ms: u64, worker: &WorkerId) -> Effects {
        if self.pool.get(worker).is_some_and(|worker| worker.link == Link::Ready) {
            let frees = planted!(self, UsesSlotsOfAwayWorkers);
            self.pool.change(worker, |worker| {
                worker.link = if frees { Link::Ready } else { Link::Away };
                worker.slots.values_mut().filter(|_| frees).for_each(|slot| slot.held = None);
            });
            self.undecided = true;
        }
        self.conclude(now_ms, Effects::default())
    }

    /// A sign of life.
    pub fn on_heartbeat(&mut self, now_ms: u64, id: &WorkerId) -> Effects {
        let lease_ms = self.config.lease_ms;
        if let Some(worker) = self.pool.touch(id).filter(|worker| worker.link == Link::Ready) {
            worker.heard_ms = now_ms;
            worker.deadline_ms = now_ms + lease_ms;
        }
        Effects::default()
    }

    /// A sign of life of an attempt, told with a worker's: a trainer that evaluates reports nothing for hours.
    pub fn on_working(&mut self, now_ms: u64, worker: &WorkerId, attempt: AttemptId) {
        let runs_there = |gang: &Gang| {
            gang.live().any(|rank| rank.placement.worker == *worker && rank.phase == Phase::Started)
        };
        if self.gang(attempt).is_some_and(runs_there) {
            self.heard_of(now_ms, attempt);
        }
    }

    /// Time passes: ends leases and pauses. To be called a few times per lease.
    pub fn on_tick(&mut self, now_ms: u64) -> Effects {
        let mut effects = Effects::default();
        self.forgive_stall(now_ms);
        let silent = |link: Link, deadline_ms: u64| link != Link::Lost && deadline_ms <= now_ms;
        let lost: Vec<WorkerId> = self
            .workers()
            .filter(|(_, worker)| silent(worker.link, worker.deadline_ms))
            .map(|(id, _)| id.clone())
            .collect();
        for id in lost {
            self.lose(now_ms, &id, &mut effects);
        }
        let forget = now_ms.saturating_sub(self.config.forget_lost_ms);
        let old: Vec<WorkerId> = self
            .workers()
            .filter(|(_, worker)| worker.link == Link::Lost && worker.heard_ms < forget)
            .map(|(id, _)| id.clone())
            .collect();
        for id in old {
            self.pool.forget(&id);
            self.forget_blames(&id);
        }
        self.forget_marks(now_ms, &mut effects);
        self.check_watched(now_ms, &mut effects);
        self.undecided |= self.may_widen(now_ms);
        self.conclude(now_ms, effects)
    }

    /// When ticks stopped, it was this process that was not running (a suspended machine, a clock set forward):
    /// the silence of that time is not the workers'.
    fn forgive_stall(&mut self, now_ms: u64) {
        let last = self.last_tick_ms.replace(now_ms).unwrap_or(now_ms);
        let gap = now_ms.saturating_sub(last);
        // Not all of it: with a coordinator that is slow all the time, time must still pass.
        let forgiven = gap.saturating_sub(self.config.lease_ms / 2);
        if forgiven > 0 {
            for (_, worker) in self.pool.touch_all() {
                worker.deadline_ms = worker.deadline_ms.saturating_add(forgiven);
            }
            self.forgive_silence(forgiven);
        }
    }

    /// Gives a worker up with everything it holds.
    fn lose(&mut self, now_ms: u64, id: &WorkerId, effects: &mut Effects) {
        let held: Vec<Held> = self.held_by(id).into_keys().filter(|held| self.is_live(id, *held)).collect();
        let silent_ms = self.pool.get(id).map_or(0, |worker| now_ms.saturating_sub(worker.heard_ms));
        self.pool.change(id, |worker| worker.link = Link::Lost);
        effects.cut.push(id.clone());
        let reason = format!("silent for {:.1} s", silent_ms as f64 / 1000.0);
        self.lose_ranks(now_ms, id, &held, (RankLoss::Silence, reason.as_str()), effects);
        // What a former attempt left there is of no interest until the worker is back and says what runs.
        self.pool.change(id, |worker| worker.slots.values_mut().for_each(|slot| slot.held = None));
        self.undecided = true;
    }

    /// Gives ranks up, and stops the attempts that they belong to.
    fn lose_ranks(
        &mut self,
        now_ms: u64,
        worker: &WorkerId,
        ranks: &[Held],
        (how, reason): (RankLoss, &str),
        effects: &mut Effects,
    ) {
        for Held { attempt, rank } in ranks {
            let event = Event::RankLost {
                trial: attempt.trial.key,
                attempt: attempt.number,
                rank: *rank,
                worker: worker.clone(),
                reason: reason.to_owned(),
                how: Some(how),
            };
            self.record(now_ms, effects, attempt.trial.study, event);
        }
        let attempts: BTreeSet<AttemptId> = ranks.iter().map(|held| held.attempt).collect();
        for attempt in attempts {
            let end = AttemptEnd::WorkerLost { worker: worker.clone(), reason: reason.to_owned() };
            self.stop(now_ms, attempt, end, effects);
        }
    }

    /// Takes in what Hello says about the worker itself. What it held, it still holds.
    fn greet(&mut self, now_ms: u64, hello: &Hello, believed: &BTreeMap<Held, SlotIndex>) {
        let lease_ms = self.config.lease_ms;
        let seen_seq = self.last_seq(&hello.worker);
        let holder: BTreeMap<SlotIndex, Held> = believed.iter().map(|(held, slot)| (*slot, *held)).collect();
        self.pool.change(&hello.worker, |worker| {
            worker.name.clone_from(&hello.name);
            worker.link = Link::Ready;
            worker.heard_ms = now_ms;
            worker.deadline_ms = now_ms + lease_ms;
            worker.seen_seq = seen_seq;
            let state = |device, index| SlotState { device, held: holder.get(&index).copied() };
            worker.slots =
                hello.slots.iter().map(|slot| (slot.index, state(slot.device, slot.index))).collect();
        });
    }

    /// What a worker is believed to hold, and where.
    fn held_by(&self, id: &WorkerId) -> BTreeMap<Held, SlotIndex> {
        let slots = self.pool.get(id).into_iter().flat_map(|worker| &worker.slots);
        slots.filter_map(|(index, slot)| Some((slot.held?, *index))).collect()
    }

    /// Whether a process belongs to a current attempt and is not over.
    pub(crate) fn is_live(&self, worker: &WorkerId, held: Held) -> bool {
        self.gang(held.attempt)
            .and_then(|gang| gang.rank(held.rank))
            .is_some_and(|rank| rank.placement.worker == *worker && !rank.phase.is_over())
    }

    /// Brings a rank of a current attempt and its worker to the same knowledge; `false` where the rank is lost.
    fn resume_rank(
        &mut self,
        worker: &WorkerId,
        held: Held,
        listed: Option<&RunningRank>,
        has_slot: bool,
        effects: &mut Effects,
    ) -> bool {
        let Held { attempt, rank } = held;
        let stopping = self.is_stopping(attempt);
        match listed {
            // Its exit report is on the way.
            Some(RunningRank { exited: true, .. }) => true,
            Some(_) if stopping => {
                self.set_phase(attempt, rank, Phase::Started);
                if !planted!(self, ForgetsLostStops) {
                    self.send_stop(attempt, worker.clone(), effects);
                }
                true
            }
            Some(_) => {
                self.set_phase(attempt, rank, Phase::Started);
                self.send_connect(attempt, rank, effects);
                true
            }
            // The command to start it never arrived.
            None if !stopping && has_slot && self.phase(held) == Some(Phase::Starting) => {
                if !planted!(self, ForgetsLostStarts) {
                    self.send_start(attempt, rank, effects);
                }
                self.send_connect(attempt, rank, effects);
                true
            }
            None => false,
        }
    }

    /// A process left over from a former attempt: is stopped while it lives, and frees its slot when it is gone.
    fn settle_leftover(
        &mut self,
        worker: &WorkerId,
        held: Held,
        slot: SlotIndex,
        listed: Option<&RunningRank>,
        effects: &mut Effects,
    ) {
        if listed.is_some_and(|rank| !rank.exited) {
            self.send_stop(held.attempt, worker.clone(), effects);
        } else {
            self.pool.release(worker, slot, held.attempt, held.rank);
        }
    }

    /// Marks the slot of a left-over process as not free.
    pub(crate) fn occupy(&mut self, worker: &WorkerId, held: Held, slot: SlotIndex) {
        self.pool.change(worker, |worker| {
            if let Some(state) = worker.slots.get_mut(&slot)
                && state.held.is_none()
            {
                state.held = Some(held);
            }
        });
    }

    fn phase(&self, held: Held) -> Option<Phase> {
        Some(self.gang(held.attempt)?.rank(held.rank)?.phase)
    }
}
