//! Agents behave as the protocol asks: they keep reports until these are acknowledged, list in Hello what they know, and
//! take repeated commands as one. Commands to an agent without a session are lost.

use std::collections::{BTreeMap, BTreeSet};

use mtinet_domain::trial::{CheckpointRef, Device, ProcessExit, RankAssignment};
use mtinet_domain::{AttemptId, Rank, SlotIndex, TrialId, WorkerId};

use super::{TestEnv, checkpoint, evaluated, metrics, worker};
use crate::{Command, Fact, Hello, Report, RunningRank, Slot};

/// What an agent says of a rank that it stopped.
pub const STOPPED: &str = "stopped";

#[derive(Default)]
pub struct Agent {
    /// Its machine's; its id where empty.
    pub name: String,
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

impl TestEnv {
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

    /// An agent on a machine of this name.
    pub fn join_named(&mut self, id: &str, name: &str, slots: u32) -> WorkerId {
        let id = worker(id);
        let slot = |index| Slot { index: SlotIndex(index), device: Device::Cpu };
        let slots = (0..slots).map(slot).collect();
        self.agents.insert(id.clone(), Agent { name: name.to_owned(), slots, ..Agent::default() });
        self.connect(&id);
        id
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
        let name = if agent.name.is_empty() { id.0.clone() } else { agent.name.clone() };
        let hello = Hello { worker: id.clone(), name, slots: agent.slots.clone(), running };
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

    pub(super) fn start_process(&mut self, id: &WorkerId, assignment: &RankAssignment) {
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
    pub(super) fn stopped(&mut self, id: &WorkerId, attempt: AttemptId, rank: Rank) {
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
}
