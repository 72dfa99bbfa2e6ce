//! Which waiting trials start now, where, and why the others do not.
//!
//! Trials are served strictly in order. The first one that has to wait for slots of a kind reserves that kind, so
//! that a wide gang is not starved by narrow ones behind it. One that the fleet could never hold reserves nothing.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use mtinet_domain::event::Event;
use mtinet_domain::spec::{DeviceChoice, Ranks};
use mtinet_domain::trial::{Placement, RankAssignment};
use mtinet_domain::{AttemptId, AttemptNumber, Rank, StudyId, TrialId};

use crate::effects::{Command, Effects};
use crate::pool::DeviceKind;
use crate::reason::WaitReason;
use crate::state::Core;
use crate::study::Study;

/// What is decided about the first ready trial of a study.
enum Decision {
    Start(Vec<Placement>),
    Wait(WaitReason),
}

/// Kinds that a trial further ahead waits for.
type Reserved = Vec<(DeviceKind, TrialId)>;

impl Core {
    /// Starts what can start, and keeps the reasons of what cannot.
    pub(crate) fn schedule(&mut self, now_ms: u64, effects: &mut Effects) {
        self.end_pauses(now_ms);
        if !std::mem::take(&mut self.undecided) {
            return;
        }
        let mut reserved = Reserved::new();
        let turns: Vec<_> = self.ready.keys().copied().collect();
        for turn in turns {
            let (Reverse(_), study) = turn;
            while let Some(first) = self.ready.get(&turn).and_then(BTreeSet::first).copied() {
                let id = self.studies[&study].id_of(first);
                match self.decide(&self.studies[&study], &reserved) {
                    Decision::Start(placements) => self.start(now_ms, id, placements, effects),
                    Decision::Wait(reason) => {
                        if let WaitReason::Slots { needed, kind, total, .. } = reason
                            && total >= needed
                        {
                            reserved.push((kind, id));
                        }
                        self.waits.insert(study, reason);
                        break;
                    }
                }
            }
        }
        // Starting trials changes what is decided upon, but nothing more can start now.
        self.undecided = false;
    }

    fn end_pauses(&mut self, now_ms: u64) {
        while let Some(&(until, study, position)) = self.pausing.first()
            && until <= now_ms
        {
            self.pausing.pop_first();
            if let Some(study) = self.studies.get(&study) {
                self.ready.entry(study.turn()).or_default().insert(position);
            }
            self.undecided = true;
        }
    }

    fn decide(&self, study: &Study, reserved: &Reserved) -> Decision {
        if !self.pool.any_known() {
            return Decision::Wait(WaitReason::NoWorkers);
        }
        let kind = self.kind_for(study);
        if let Some((_, ahead)) = reserved.iter().find(|(reserved, _)| *reserved == kind) {
            return Decision::Wait(WaitReason::Behind(*ahead));
        }
        let ranks = self.width(study, kind);
        match self.pool.place(kind, ranks) {
            Some(placements) => Decision::Start(placements),
            None => Decision::Wait(WaitReason::Slots {
                needed: ranks,
                kind,
                free: self.pool.free(kind),
                total: self.pool.total(kind),
            }),
        }
    }

    /// The kind of device that a study's trials run on in the fleet as it is: CUDA where the fleet can hold a gang
    /// on it, else CPU.
    fn kind_for(&self, study: &Study) -> DeviceKind {
        match study.spec.resources.device {
            DeviceChoice::Cpu => DeviceKind::Cpu,
            DeviceChoice::Cuda => DeviceKind::Cuda,
            DeviceChoice::Auto if self.pool.total(DeviceKind::Cuda) >= narrowest(study) => DeviceKind::Cuda,
            DeviceChoice::Auto => DeviceKind::Cpu,
        }
    }

    /// How many ranks the next trial of a study gets: the widest that leaves every other waiting trial its share.
    fn width(&self, study: &Study, kind: DeviceKind) -> u32 {
        let replicas = study.spec.train.replicas;
        if matches!(study.spec.resources.ranks, Ranks::Fixed(_)) || replicas <= 1 {
            return narrowest(study);
        }
        let demand = |id: &StudyId| {
            let other = &self.studies[id];
            if self.kind_for(other) == kind { other.waiting * narrowest(other) } else { 0 }
        };
        // This trial's own share is among the demands.
        let others: u32 = self.active.iter().map(demand).sum::<u32>().saturating_sub(1);
        let spare = self.pool.free(kind).saturating_sub(others).clamp(1, replicas);
        (1..=spare).rev().find(|width| replicas.is_multiple_of(*width)).unwrap_or(1)
    }

    fn start(&mut self, now_ms: u64, id: TrialId, placements: Vec<Placement>, effects: &mut Effects) {
        let Some(trial) = self.trial(id) else { return };
        let number = AttemptNumber(trial.attempts + 1);
        let resume = trial.latest.clone();
        let ranks: Vec<Rank> = placements.iter().map(|placement| placement.rank).collect();
        let event = Event::AttemptStarted { trial: id.key, attempt: number, placements, resume };
        self.record(now_ms, effects, id.study, event);
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
            spec: (*study.spec).clone(),
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
fn narrowest(study: &Study) -> u32 {
    match study.spec.resources.ranks {
        Ranks::Auto => 1,
        Ranks::Fixed(ranks) => ranks,
    }
}
