//! A fleet of agents around the core, with a log that can be replayed.
//!
//! Agents behave as the protocol asks: they keep reports until these are acknowledged, list in Hello what they know,
//! and take repeated commands as one. Commands to an agent without a session are lost.

use std::collections::{BTreeMap, BTreeSet};

use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::event::{Event, MetricRecord, MetricScope, Recorded};
use mtinet_domain::fleet::FleetEvent;
use mtinet_domain::trial::{ArtifactRef, CheckpointRef, DatasetRef, Device, ProcessExit, TrialStatus};
use mtinet_domain::{AttemptId, Rank, SlotIndex, StudyId, StudySpec, TrialId, WorkerId};

use crate::{
    Command, Core, CoreConfig, Effects, Fact, Hello, Link, Refusal, Report, Request, RunningRank, Slot,
    WaitReason,
};

pub const LEASE_MS: u64 = 3000;
/// What an agent says of a rank that it stopped.
pub const STOPPED: &str = "stopped";
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

#[derive(Default)]
pub struct Agent {
    pub slots: Vec<Slot>,
    pub linked: bool,
    pub dead: bool,
    /// Its processes do not go, whatever it does.
    pub unkillable: bool,
    pub seq: u64,
    pub spool: Vec<Report>,
    pub processes: BTreeMap<(AttemptId, Rank), Process>,
    /// Everything that it was told, for assertions.
    pub told: Vec<Command>,
    history: Vec<Report>,
    /// Reports go out in order: new ones wait until those before them are sent again.
    catching_up: bool,
}

#[derive(Clone)]
pub struct Process {
    pub slot: SlotIndex,
    pub alive: bool,
    pub connected: bool,
    pub step: u64,
    pub evaluated: bool,
    pub resume: Option<CheckpointRef>,
    pub fallback: Option<CheckpointRef>,
}

pub fn worker(name: &str) -> WorkerId {
    WorkerId(name.to_owned())
}

pub fn spec(extra: &str) -> Box<StudySpec> {
    let text = format!("name = \"s\"\ndataset = \"d\"\narms = [\"mti-net\", \"unet\"]\n{extra}");
    Box::new(StudySpec::from_toml(&text).unwrap())
}

pub fn artifact(name: &str) -> ArtifactRef {
    ArtifactRef { blake3: name.to_owned(), bytes: 1 }
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

    pub fn join(&mut self, name: &str, devices: &[Device]) -> WorkerId {
        let id = worker(name);
        let slot = |(index, device): (u32, &Device)| Slot { index: SlotIndex(index), device: *device };
        let slots = (0..).zip(devices).map(slot).collect();
        self.agents.insert(id.clone(), Agent { slots, ..Agent::default() });
        self.connect(&id);
        id
    }

    pub fn join_cpus(&mut self, name: &str, slots: usize) -> WorkerId {
        self.join(name, &vec![Device::Cpu; slots])
    }

    /// Opens a session: Hello, Welcome, the commands, then the reports that are not acknowledged.
    pub fn connect(&mut self, id: &WorkerId) {
        let agent = self.agents.get_mut(id).unwrap();
        assert!(!agent.dead);
        agent.linked = true;
        agent.catching_up = true;
        let pending: BTreeSet<_> = agent
            .spool
            .iter()
            .filter(|report| matches!(report.fact, Fact::Exited { .. }))
            .map(|report| (report.attempt, report.rank))
            .collect();
        let running = agent
            .processes
            .iter()
            .filter(|(key, process)| process.alive || pending.contains(key))
            .map(|((attempt, rank), process)| RunningRank {
                attempt: *attempt,
                rank: *rank,
                slot: process.slot,
                exited: !process.alive,
            })
            .collect();
        let hello = Hello { worker: id.clone(), name: id.0.clone(), slots: agent.slots.clone(), running };
        let effects = self.core.on_worker_connected(self.now, &hello);
        self.acknowledge(id);
        self.perform(effects);
        self.resend(id);
    }

    pub fn cut(&mut self, id: &WorkerId) {
        self.agents.get_mut(id).unwrap().linked = false;
        let effects = self.core.on_worker_disconnected(self.now, id);
        self.perform(effects);
    }

    /// The session ends but the coordinator has not noticed; commands are lost.
    pub fn break_off(&mut self, id: &WorkerId) {
        self.agents.get_mut(id).unwrap().linked = false;
    }

    /// The agent process ends and takes its trainers with it.
    pub fn kill(&mut self, id: &WorkerId) {
        let agent = self.agents.get_mut(id).unwrap();
        agent.dead = true;
        agent.processes.clear();
        self.cut(id);
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
        self.core = core;
        for agent in self.agents.values_mut() {
            agent.linked = false;
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

    fn start_process(&mut self, id: &WorkerId, assignment: &mtinet_domain::trial::RankAssignment) {
        for agent in self.agents.values() {
            for ((attempt, rank), process) in &agent.processes {
                let same_trial = attempt.trial == assignment.attempt.trial && *attempt != assignment.attempt;
                let leftover = self.given_up.contains(&(*attempt, *rank));
                assert!(!(same_trial && process.alive) || leftover, "two attempts of a trial at once");
            }
        }
        let agent = self.agents.get_mut(id).unwrap();
        let key = (assignment.attempt, assignment.rank);
        let taken = agent.processes.values().any(|process| process.alive && process.slot == assignment.slot);
        assert!(!taken, "{id} slot {} is given twice", assignment.slot);
        assert!(!agent.processes.contains_key(&key), "{key:?} is started twice");
        let process = Process {
            slot: assignment.slot,
            alive: true,
            connected: assignment.rank == Rank(0),
            step: assignment.resume.as_ref().map_or(0, |checkpoint| checkpoint.step),
            evaluated: false,
            resume: assignment.resume.clone(),
            fallback: assignment.fallback.clone(),
        };
        agent.processes.insert(key, process);
    }

    /// Puts a report into the spool and sends it where there is a session.
    pub fn report(&mut self, id: &WorkerId, attempt: AttemptId, rank: Rank, fact: Fact) {
        let agent = self.agents.get_mut(id).unwrap();
        agent.seq += 1;
        let report = Report { seq: agent.seq, attempt, rank, fact };
        agent.spool.push(report.clone());
        agent.history.push(report.clone());
        if agent.linked && !agent.catching_up {
            let effects = self.core.on_report(self.now, id, report);
            self.perform(effects);
        }
    }

    pub fn acknowledge(&mut self, id: &WorkerId) {
        let last = self.core.last_seq(id);
        self.agents.get_mut(id).unwrap().spool.retain(|report| report.seq > last);
    }

    fn resend(&mut self, id: &WorkerId) {
        let mut sent = 0;
        while let Some(report) = self.agents[id].spool.iter().find(|report| report.seq > sent).cloned() {
            sent = report.seq;
            let effects = self.core.on_report(self.now, id, report);
            self.perform(effects);
        }
        self.agents.get_mut(id).unwrap().catching_up = false;
    }

    /// Sends everything ever reported once more.
    pub fn repeat_everything(&mut self, id: &WorkerId) {
        if !self.agents[id].linked {
            return;
        }
        let before = self.core.durable();
        for report in self.agents[id].history.clone() {
            let effects = self.core.on_report(self.now, id, report);
            assert!(effects.record.is_empty(), "a report was taken in twice: {effects:?}");
            self.perform(effects);
        }
        assert_eq!(self.core.durable(), before);
    }

    pub fn exit(
        &mut self,
        id: &WorkerId,
        attempt: AttemptId,
        rank: Rank,
        exit: ProcessExit,
        finished: bool,
        message: &str,
    ) {
        let step = self.end_process(id, attempt, rank);
        let (message, missing) = (message.to_owned(), Vec::new());
        let fact = Fact::Exited { exit, finished, step, message, stopped: false, missing };
        self.report(id, attempt, rank, fact);
    }

    /// The agent kills a rank because it was told to.
    fn stopped(&mut self, id: &WorkerId, attempt: AttemptId, rank: Rank) {
        let step = self.end_process(id, attempt, rank);
        let (exit, message, missing) = (ProcessExit::Signal(9), STOPPED.to_owned(), Vec::new());
        let fact = Fact::Exited { exit, finished: false, step, message, stopped: true, missing };
        self.report(id, attempt, rank, fact);
    }

    fn end_process(&mut self, id: &WorkerId, attempt: AttemptId, rank: Rank) -> Option<u64> {
        let process = self.agents.get_mut(id).unwrap().processes.get_mut(&(attempt, rank)).unwrap();
        process.alive = false;
        Some(process.step).filter(|step| *step > 0)
    }

    /// The worker and attempt of a rank of a trial's current attempt.
    pub fn at(&self, trial: TrialId, rank: u32) -> (WorkerId, AttemptId) {
        let gang = self.core.trial(trial).unwrap().gang().expect("the trial has an attempt");
        let placement = &gang.rank(Rank(rank)).unwrap().placement;
        (placement.worker.clone(), AttemptId { trial, number: gang.attempt })
    }

    pub fn rank_reports(&mut self, trial: TrialId, rank: u32, fact: Fact) {
        let (id, attempt) = self.at(trial, rank);
        self.report(&id, attempt, Rank(rank), fact);
    }

    pub fn rank_fails(&mut self, trial: TrialId, rank: u32, exit: ProcessExit, message: &str) {
        let (id, attempt) = self.at(trial, rank);
        self.exit(&id, attempt, Rank(rank), exit, false, message);
    }

    /// A rank fails because others did not arrive.
    pub fn rank_misses(&mut self, trial: TrialId, rank: u32, message: &str, missing: &[Rank]) {
        let (id, attempt) = self.at(trial, rank);
        let step = self.end_process(&id, attempt, Rank(rank));
        let (exit, message, missing) = (ProcessExit::Code(1), message.to_owned(), missing.to_vec());
        let fact = Fact::Exited { exit, finished: false, step, message, stopped: false, missing };
        self.report(&id, attempt, Rank(rank), fact);
    }

    /// Every rank of the trial finishes its work.
    pub fn complete(&mut self, trial: TrialId) {
        self.rank_reports(trial, 0, evaluated());
        let ranks = self.core.trial(trial).unwrap().gang().unwrap().ranks.len() as u32;
        for rank in 0..ranks {
            let (id, attempt) = self.at(trial, rank);
            self.exit(&id, attempt, Rank(rank), ProcessExit::Code(0), true, "");
        }
    }

    /// As [`TestEnv::complete`], of a trial with one rank whose worker has no session.
    pub fn complete_unheard(&mut self, trial: TrialId) {
        let (id, attempt) = self.at(trial, 0);
        self.report(&id, attempt, Rank(0), evaluated());
        self.exit(&id, attempt, Rank(0), ProcessExit::Code(0), true, "");
    }

    /// Lets a process do the next thing that a trainer does.
    pub fn progress(&mut self, id: &WorkerId, attempt: AttemptId, rank: Rank) {
        let process = self.agents.get_mut(id).unwrap().processes.get_mut(&(attempt, rank)).unwrap();
        let started_at = process.resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
        if process.step == started_at && rank == Rank(0) && !process.evaluated {
            process.step += 1;
            self.report(id, attempt, rank, Fact::Started);
            self.report(id, attempt, rank, Fact::Rendezvous { host: "h".into(), port: 1 });
        } else if rank == Rank(0) && process.step < started_at + 3 {
            process.step += 1;
            let checkpoint = checkpoint(process.step, &format!("{attempt} {}", process.step));
            self.report(id, attempt, rank, metrics(checkpoint.step));
            self.report(id, attempt, rank, Fact::Checkpoint(checkpoint));
        } else if rank == Rank(0) && !process.evaluated {
            process.evaluated = true;
            self.report(id, attempt, rank, evaluated());
        } else if process.connected {
            self.exit(id, attempt, rank, ProcessExit::Code(0), true, "");
        }
    }

    /// All processes that live, at agents with or without a session.
    pub fn processes(&self) -> Vec<(WorkerId, AttemptId, Rank)> {
        let of = |(id, agent): (&WorkerId, &Agent)| {
            let alive = agent.processes.iter().filter(|(_, process)| process.alive);
            alive.map(|((attempt, rank), _)| (id.clone(), *attempt, *rank)).collect::<Vec<_>>()
        };
        self.agents.iter().flat_map(of).collect()
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

pub fn trial(study: StudyId, key: &str) -> TrialId {
    TrialId { study, key: key.parse().unwrap() }
}

pub fn checkpoint(step: u64, name: &str) -> CheckpointRef {
    CheckpointRef { step, artifact: artifact(name) }
}

pub fn evaluated() -> Fact {
    Fact::Evaluated {
        summary: Box::new(FoldSummary::default()),
        evaluation: artifact("evaluation"),
        weights: Some(artifact("weights")),
        predictions: None,
    }
}

pub fn metrics(step: u64) -> Fact {
    Fact::Metrics(vec![MetricRecord {
        scope: MetricScope::Step,
        step,
        epoch: 1,
        train_seconds: 1.0,
        values: BTreeMap::new(),
    }])
}
