//! Which waiting trials start now, where, and why the others do not.
//!
//! Trials are served strictly in order. The first one that has to wait for slots of a kind reserves that kind, so
//! that a wide gang is not starved by narrow ones behind it. One that the fleet could never hold reserves nothing, and
//! one that waits for another worker than it failed on leaves that worker to those behind it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use mtinet_domain::event::Event;
use mtinet_domain::spec::{DeviceChoice, Ranks};
use mtinet_domain::trial::{Placement, RankAssignment};
use mtinet_domain::{AttemptId, AttemptNumber, Rank, StudyId, TrialId, WorkerId};

use crate::effects::{Command, Effects};
use crate::pool::{Choice, DeviceKind, KINDS};
use crate::reason::WaitReason;
use crate::room::Unit;
use crate::state::Core;
use crate::study::{Study, Turn};
use crate::trial::Trial;

/// What is decided about a ready trial.
enum Decision {
    Start(Vec<Placement>),
    Wait(WaitReason),
}

static NOBODY: BTreeSet<WorkerId> = BTreeSet::new();

/// What a decision remembers while it goes through the queue.
#[derive(Default)]
struct Round {
    /// Per kind, the trial that waits for it and the workers that are of no use to any trial that does.
    reserved: BTreeMap<DeviceKind, (TrialId, BTreeSet<WorkerId>)>,
    /// Slots of each kind that waiting trials want at least; counted when first needed.
    demand: Option<BTreeMap<DeviceKind, u32>>,
}

impl Core {
    /// Starts what can start, and keeps the reasons of what cannot.
    pub(crate) fn schedule(&mut self, now_ms: u64, effects: &mut Effects) {
        self.end_pauses(now_ms);
        if !std::mem::take(&mut self.undecided) {
            return;
        }
        self.waits.clear();
        self.front = None;
        let mut round = Round::default();
        let first = if planted!(self, IgnoresPriority) {
            self.ready.last_key_value()
        } else {
            self.ready.first_key_value()
        };
        let mut next = first.map(|(turn, _)| *turn);
        while let Some(turn) = next {
            let (Reverse(_), study) = turn;
            if self.nobody_waits_for(&self.studies[&study]).is_none() {
                self.serve(now_ms, turn, &mut round, effects);
            }
            if self.nothing_is_left(&round) {
                self.front = round.reserved.values().map(|(trial, _)| *trial).next();
                break;
            }
            next = self.ready.range((Bound::Excluded(turn), Bound::Unbounded)).next().map(|(turn, _)| *turn);
        }
        self.widen(now_ms, effects);
        // Starting trials changes what is decided upon, but nothing more can start now.
        self.undecided = false;
    }

    /// Starts what can start of one study.
    fn serve(&mut self, now_ms: u64, turn: Turn, round: &mut Round, effects: &mut Effects) {
        let (_, study) = turn;
        let mut from = 0;
        while let Some(position) = self.next_in_study(turn, from) {
            let id = self.studies[&study].id_of(position);
            match self.decide(&self.studies[&study], position, round) {
                Decision::Start(placements) => {
                    if let Some(demand) = &mut round.demand {
                        let kind = self.kind_for(&self.studies[&study]);
                        let wanted = narrowest(&self.studies[&study]);
                        demand.entry(kind).and_modify(|slots| *slots = slots.saturating_sub(wanted));
                    }
                    self.start(now_ms, id, placements, effects);
                }
                Decision::Wait(reason) => {
                    let goes_on = self.reserve(id, &reason, round);
                    self.waits.entry(study).or_insert((position, reason));
                    if !goes_on {
                        break;
                    }
                }
            }
            from = position + 1;
        }
    }

    /// The trial of a study that is looked at next.
    fn next_in_study(&self, turn: Turn, from: u32) -> Option<u32> {
        let queue = self.ready.get(&turn)?;
        if from == 0 && planted!(self, ServesLastFoldFirst) {
            return queue.last().copied();
        }
        queue.range(from..).next().copied()
    }

    /// Reserves what a trial waits for; whether something is left for those behind it in its study.
    fn reserve(&self, id: TrialId, reason: &WaitReason, round: &mut Round) -> bool {
        let (kind, leaves) = match reason {
            WaitReason::Slots { needed, kind, total, .. } if total >= needed => (*kind, BTreeSet::new()),
            WaitReason::Elsewhere { kind, avoids, .. } => (*kind, avoids.iter().cloned().collect()),
            _ => return false,
        };
        let (_, left) = round.reserved.entry(kind).or_insert_with(|| (id, leaves.clone()));
        left.retain(|worker| leaves.contains(worker));
        self.pool.free_among(Unit::of(kind, 1), Choice { only: Some(left), except: &NOBODY }) > 0
    }

    /// Whether no trial can start any more, whatever it asks for.
    fn nothing_is_left(&self, round: &Round) -> bool {
        let used_up = |kind: &DeviceKind| {
            let slots = Unit::of(*kind, 1);
            match round.reserved.get(kind) {
                Some((_, left)) => {
                    self.pool.free_among(slots, Choice { only: Some(left), except: &NOBODY }) == 0
                }
                None => self.pool.total(slots) == 0,
            }
        };
        !round.reserved.is_empty() && KINDS.iter().all(used_up)
    }

    fn end_pauses(&mut self, now_ms: u64) {
        while let Some(&(until, study, position)) = self.pausing.first()
            && until <= now_ms
            && !planted!(self, NeverEndsPauses)
        {
            self.pausing.pop_first();
            if let Some(study) = self.studies.get(&study) {
                self.ready.entry(study.turn()).or_default().insert(position);
            }
            self.undecided = true;
        }
    }

    /// Why no trial of a study can start, whatever is free.
    pub(crate) fn nobody_waits_for(&self, study: &Study) -> Option<WaitReason> {
        let tally = self.pool.tally();
        if study.paused {
            Some(WaitReason::Paused)
        } else if tally.known == 0 {
            Some(WaitReason::NoWorkers)
        } else if tally.usable == 0 {
            let (drained, set_aside) = (tally.drained, tally.set_aside);
            Some(WaitReason::NoUsableWorkers { drained, set_aside })
        } else {
            None
        }
    }

    /// Why trials of a study wait that the last decision did not come to.
    pub(crate) fn not_looked_at(&self, study: &Study) -> WaitReason {
        let (kind, needed) = (self.kind_for(study), narrowest(study));
        let unit = Unit::of(kind, needed);
        let (free, total) = (self.pool.free(unit), self.pool.total(unit));
        match self.front {
            Some(front) if total >= needed => WaitReason::Behind(front),
            _ => WaitReason::Slots { needed, kind, free, total },
        }
    }

    fn decide(&self, study: &Study, position: u32, round: &mut Round) -> Decision {
        let kind = self.kind_for(study);
        let trial = &study.trials[position as usize];
        let needed = narrowest(study);
        let avoids = if self.elsewhere(kind, needed, &trial.avoids) { &trial.avoids } else { &NOBODY };
        let elastic = study.spec.resources.ranks == Ranks::Auto && study.spec.train.replicas > 1;
        if elastic && round.demand.is_none() {
            round.demand = Some(self.demand());
        }
        let ahead = round.reserved.get(&kind);
        let choice = Choice { only: ahead.map(|(_, left)| left), except: avoids };
        let others = Choice { only: None, except: avoids };
        let ranks = self.width(study, kind, choice, round);
        let unit = Unit::of(kind, ranks);
        // Where it failed last is taken again only when nothing else is free.
        let careful: BTreeSet<WorkerId> = avoids.iter().chain(&trial.last_failed_on).cloned().collect();
        let place = |choice| match planted!(self, SharesDevicesWithinGangs) {
            true => self.pool.place_on(Unit::of(kind, 1), ranks, choice),
            false => self.pool.place(kind, ranks, choice),
        };
        let placed = place(Choice { except: &careful, ..choice }).or_else(|| place(choice));
        match (placed, ahead) {
            (Some(placements), _) => Decision::Start(placements),
            // Also where another waits for the same: what this one avoids is left to those behind both.
            (None, _) if !avoids.is_empty() && self.pool.free_among(unit, others) < ranks => {
                Decision::Wait(WaitReason::Elsewhere {
                    needed: ranks,
                    kind,
                    free: self.pool.free_among(unit, others),
                    total: self.pool.total_among(unit, others),
                    avoids: avoids.iter().cloned().collect(),
                })
            }
            (None, Some(_)) if planted!(self, NamesItselfAsAhead) => {
                Decision::Wait(WaitReason::Behind(study.id_of(position)))
            }
            (None, Some((ahead, _))) => Decision::Wait(WaitReason::Behind(*ahead)),
            (None, None) => Decision::Wait(WaitReason::Slots {
                needed: ranks,
                kind,
                free: self.pool.free(unit),
                total: self.pool.total(unit),
            }),
        }
    }

    /// Whether workers other than these could take a gang, were they free.
    pub(crate) fn elsewhere(&self, kind: DeviceKind, needed: u32, avoids: &BTreeSet<WorkerId>) -> bool {
        let unit = Unit::of(kind, needed);
        !avoids.is_empty() && self.pool.total_among(unit, Choice { only: None, except: avoids }) >= needed
    }

    /// Whether workers other than these could take a trial, were they free.
    pub(crate) fn can_go_elsewhere(&self, study: StudyId, trial: &Trial, worker: &WorkerId) -> bool {
        let Some(study) = self.studies.get(&study) else { return false };
        let mut avoids = trial.avoids.clone();
        avoids.insert(worker.clone());
        self.elsewhere(self.kind_for(study), narrowest(study), &avoids)
    }

    /// The kind of device that a study's trials run on in the fleet as it is: CUDA where the fleet can hold a gang
    /// on it, else CPU.
    pub(crate) fn kind_for(&self, study: &Study) -> DeviceKind {
        let needed = narrowest(study);
        match study.spec.resources.device {
            DeviceChoice::Cpu => DeviceKind::Cpu,
            DeviceChoice::Cuda => DeviceKind::Cuda,
            DeviceChoice::Auto if self.pool.total(Unit::of(DeviceKind::Cuda, needed)) >= needed => {
                DeviceKind::Cuda
            }
            DeviceChoice::Auto => DeviceKind::Cpu,
        }
    }

    /// How many ranks the next trial of a study gets: the widest that leaves every other waiting trial its share.
    fn width(&self, study: &Study, kind: DeviceKind, choice: Choice<'_>, round: &Round) -> u32 {
        let replicas = study.spec.train.replicas;
        let (Ranks::Auto, 2..) = (study.spec.resources.ranks, replicas) else { return narrowest(study) };
        let demand = round.demand.as_ref().and_then(|demand| demand.get(&kind)).copied().unwrap_or_default();
        let free = |ranks| self.pool.free_among(Unit::of(kind, ranks), choice);
        // This trial's own share is among the demands.
        let spare = free(1).saturating_sub(demand.saturating_sub(1)).min(free(2)).clamp(1, replicas);
        divisor_up_to(replicas, spare)
    }

    /// Slots of each kind that waiting trials want at least.
    fn demand(&self) -> BTreeMap<DeviceKind, u32> {
        let mut demand = BTreeMap::new();
        for study in self.active.iter().filter_map(|id| self.studies.get(id)).filter(|study| !study.paused) {
            *demand.entry(self.kind_for(study)).or_default() += study.waiting * narrowest(study);
        }
        demand
    }

    fn start(&mut self, now_ms: u64, id: TrialId, placements: Vec<Placement>, effects: &mut Effects) {
        let Some(trial) = self.trial(id) else { return };
        let number = AttemptNumber(trial.attempts + 1);
        let resume = trial.latest.clone().filter(|_| !planted!(self, ForgetsCheckpoints));
        let mut ranks: Vec<Rank> = placements.iter().map(|placement| placement.rank).collect();
        let event = Event::AttemptStarted { trial: id.key, attempt: number, placements, resume };
        self.record(now_ms, effects, id.study, event);
        if planted!(self, StartsGangsInPart) && ranks.len() > 1 {
            ranks.pop();
        }
        for rank in ranks {
            self.send_start(AttemptId { trial: id, number }, rank, effects);
        }
    }

    /// Tells the worker of a rank to start it.
    pub(crate) fn send_start(&self, id: AttemptId, rank: Rank, effects: &mut Effects) {
        let (Some(study), Some(gang)) = (self.study(id.trial.study), self.gang(id)) else { return };
        let Some(placement) = gang.rank(rank).map(|rank| &rank.placement) else { return };
        let assignment = RankAssignment {
            attempt: id,
            study_name: study.spec.name.clone(),
            spec: Arc::clone(&study.spec),
            dataset: study.dataset.clone(),
            rank,
            world_size: gang.ranks.len() as u32,
            slot: placement.slot,
            resume: gang.resume.clone(),
            fallback: gang.fallback.clone(),
        };
        effects.send.push((placement.worker.clone(), Command::StartRank(Box::new(assignment))));
    }
}

/// The fewest ranks that a trial of the study runs on.
pub(crate) fn narrowest(study: &Study) -> u32 {
    match study.spec.resources.ranks {
        Ranks::Auto => 1,
        Ranks::Fixed(ranks) => ranks,
    }
}

/// The largest divisor that is not above a bound.
pub(crate) fn divisor_up_to(number: u32, bound: u32) -> u32 {
    (1..=bound).rev().find(|width| number.is_multiple_of(*width)).unwrap_or(1)
}
