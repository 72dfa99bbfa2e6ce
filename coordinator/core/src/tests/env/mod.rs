//! A fleet of agents around the core, with a log that can be replayed.

mod agents;
mod facts;

use std::collections::{BTreeMap, BTreeSet};

use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::fleet::FleetEvent;
use mtinet_domain::trial::{AttemptEnd, DatasetRef, TrialStatus};
use mtinet_domain::{AttemptId, Rank, StudyId, StudySpec, TrialId, WorkerId};

use crate::{Command, Core, CoreConfig, Effects, Link, Refusal, Request, WaitReason};

pub use agents::{Agent, STOPPED};
pub use facts::*;

pub const LEASE_MS: u64 = 3000;
const TICK_MS: u64 = 250;

pub struct TestEnv {
    pub core: Core,
    pub log: Vec<Recorded>,
    pub now: u64,
    pub agents: BTreeMap<WorkerId, Agent>,
    pub discarded: BTreeSet<String>,
    /// Ranks that the core gave up; only these may outlive their attempt.
    given_up: BTreeSet<(AttemptId, Rank)>,
    seqs: BTreeMap<StudyId, u64>,
    pub fleet_log: Vec<FleetEvent>,
}

impl TestEnv {
    pub fn new() -> Self {
        Self {
            core: Core::new(CoreConfig::default()),
            log: Vec::new(),
            now: 1_000_000,
            agents: BTreeMap::new(),
            discarded: BTreeSet::new(),
            given_up: BTreeSet::new(),
            seqs: BTreeMap::new(),
            fleet_log: Vec::new(),
        }
    }

    /// A study whose first trial runs on the only slot, of worker `a`.
    pub fn one_slot(extra: &str) -> (Self, StudyId, WorkerId, TrialId) {
        let mut env = Self::new();
        let study = env.submit(&format!("folds = [0]\n{extra}"));
        let a = env.join_cpus("a", 1);
        (env, study, a, trial(study, "mti-net/0/0"))
    }

    /// A study whose first trial runs on one slot of each of the workers `a` and `b`.
    pub fn gang_of_two() -> (Self, StudyId, TrialId) {
        let mut env = Self::new();
        let study = env.submit(GANG_OF_2);
        env.join_cpus("a", 1);
        env.join_cpus("b", 1);
        (env, study, trial(study, "mti-net/0/0"))
    }

    pub fn submit(&mut self, extra: &str) -> StudyId {
        self.submit_spec(spec(extra))
    }

    pub fn submit_spec(&mut self, spec: Box<StudySpec>) -> StudyId {
        let dataset = DatasetRef {
            name: "d".into(),
            path: "/d".into(),
            hash: "h".into(),
            phases: vec![],
            classes: vec![],
        };
        let (id, effects) = self.core.on_study_submitted(self.now, spec, dataset, None);
        self.perform(effects);
        id
    }

    pub fn cancel(&mut self, study: StudyId) {
        self.request(&Request::CancelStudy(study)).unwrap();
    }

    /// A person asks for something.
    pub fn request(&mut self, request: &Request) -> Result<u32, Refusal> {
        let (count, effects) = self.core.on_request(self.now, request, Some("ada".into()))?;
        self.perform(effects);
        Ok(count)
    }

    /// Time passes with ticks; agents with a session send heartbeats.
    pub fn advance(&mut self, ms: u64) {
        let end = self.now + ms;
        while self.now < end {
            self.now = end.min(self.now + TICK_MS);
            let linked: Vec<_> =
                self.agents.iter().filter(|(_, a)| a.linked).map(|(id, _)| id.clone()).collect();
            for id in linked {
                let effects = self.core.on_heartbeat(self.now, &id);
                self.perform(effects);
            }
            let effects = self.core.on_tick(self.now);
            self.perform(effects);
        }
    }

    /// The coordinator process is killed and starts again from its log.
    pub fn restart(&mut self, with_metrics: bool) {
        let before = self.core.durable();
        let mut core = Core::new(CoreConfig::default());
        for recorded in &self.log {
            let metrics = matches!(recorded.event, Event::Metrics { .. });
            if !metrics || with_metrics {
                core.apply(recorded).unwrap();
            } else if let Some(report) = recorded.event.report() {
                core.restore_seq(&report.worker, report.seq);
            }
        }
        self.fleet_log.iter().for_each(|event| core.apply_fleet(event));
        assert_eq!(core.durable(), before, "a replay gives another state");
        core.on_restarted(self.now);
        core.sanity_check().unwrap();
        assert_eq!(core.references.take_garbage(), [], "a restart lets go of what was let go of before");
        self.core = core;
        self.check_discarded();
        for agent in self.agents.values_mut() {
            agent.linked = false;
        }
    }

    /// Whatever the log names and nothing needs was let go of while the process lived: a restart does not look for it.
    fn check_discarded(&self) {
        for hash in self.log.iter().flat_map(|recorded| named(&recorded.event)) {
            let settled = self.core.refers_to(hash) || self.discarded.contains(hash);
            assert!(settled, "{hash} was never discarded while live");
        }
    }

    /// Stores, then delivers.
    pub fn perform(&mut self, effects: Effects) {
        self.core.sanity_check().unwrap();
        self.fleet_log.extend(effects.fleet);
        for (study, event) in effects.record {
            if let Event::RankLost { trial, attempt, rank, .. } = &event {
                let attempt = AttemptId { trial: TrialId { study, key: *trial }, number: *attempt };
                self.given_up.insert((attempt, *rank));
            }
            // It is there again, to be let go of again.
            for hash in named(&event) {
                self.discarded.remove(hash);
            }
            let seq = self.seqs.entry(study).or_default();
            *seq += 1;
            self.log.push(Recorded { study, seq: *seq, time_ms: self.now, event });
        }
        self.discarded.extend(effects.discard.into_iter().map(|artifact| artifact.blake3));
        let mut ended = Vec::new();
        for (id, command) in effects.send {
            let Some(agent) = self.agents.get_mut(&id).filter(|agent| agent.linked) else { continue };
            agent.told.push(command.clone());
            match command {
                Command::StartRank(assignment) => self.start_process(&id, &assignment),
                Command::ConnectRank { attempt, rank, .. } => {
                    if let Some(process) = agent.processes.get_mut(&(attempt, rank)) {
                        process.connected = true;
                    }
                }
                Command::StopAttempt { .. } if agent.unkillable => {}
                Command::StopAttempt { attempt, .. } => {
                    let ranks: Vec<_> = agent
                        .processes
                        .iter()
                        .filter(|((a, _), process)| *a == attempt && process.alive)
                        .map(|((_, rank), _)| *rank)
                        .collect();
                    ended.extend(ranks.into_iter().map(|rank| (id.clone(), attempt, rank)));
                }
            }
        }
        for (id, attempt, rank) in ended {
            self.stopped(&id, attempt, rank);
        }
    }

    /// The worker and attempt of a rank of a trial's current attempt.
    pub fn at(&self, trial: TrialId, rank: u32) -> (WorkerId, AttemptId) {
        let gang = self.core.trial(trial).unwrap().gang().expect("the trial has an attempt");
        let placement = &gang.rank(Rank(rank)).unwrap().placement;
        (placement.worker.clone(), AttemptId { trial, number: gang.attempt })
    }

    /// Faults stop: everyone comes back, and the fleet works until nothing is left.
    pub fn settle(&mut self) {
        self.join_cpus("last", 8);
        for _ in 0..500 {
            let away: Vec<_> =
                self.agents.iter().filter(|(_, a)| !a.linked && !a.dead).map(|(id, _)| id.clone()).collect();
            for id in away {
                self.connect(&id);
            }
            for (id, attempt, rank) in self.processes() {
                if self.agents[&id].processes.get(&(attempt, rank)).is_some_and(|process| process.alive) {
                    self.progress(&id, attempt, rank);
                }
            }
            if self.core.studies().all(|study| study.outcome.is_some()) && self.processes().is_empty() {
                self.core.emptiness_check().unwrap();
                return;
            }
            self.advance(2000);
        }
        panic!(
            "not over: {:?}",
            self.core.trial_ids().map(|id| (id, self.status(id), self.reason(id))).collect::<Vec<_>>()
        );
    }

    /// How the last attempt that is over ended.
    pub fn last_end(&self) -> AttemptEnd {
        let ends = self.log.iter().rev().find_map(|recorded| match &recorded.event {
            Event::AttemptEnded { end, .. } => Some(end.clone()),
            _ => None,
        });
        ends.expect("an attempt ended")
    }

    pub fn status(&self, trial: TrialId) -> TrialStatus {
        self.core.trial(trial).unwrap().status()
    }

    pub fn reason(&self, trial: TrialId) -> Option<WaitReason> {
        self.core.reason(trial)
    }

    pub fn running(&self) -> Vec<TrialId> {
        self.core.trial_ids().filter(|id| self.status(*id) == TrialStatus::Running).collect()
    }

    pub fn width(&self, trial: TrialId) -> usize {
        self.core.trial(trial).unwrap().gang().map_or(0, |gang| gang.ranks.len())
    }

    pub fn kinds(&self) -> Vec<&'static str> {
        self.log.iter().map(|recorded| recorded.event.kind()).collect()
    }

    pub fn count(&self, kind: &str) -> usize {
        self.kinds().into_iter().filter(|k| *k == kind).count()
    }

    pub fn link(&self, id: &WorkerId) -> Option<Link> {
        self.core.workers().find(|(other, _)| *other == id).map(|(_, worker)| worker.link)
    }
}
