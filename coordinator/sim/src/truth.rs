//! What must hold, checked against what was really done and said.

use std::collections::{BTreeMap, BTreeSet};

use mtinet_core::{Command, Fact, Link, Phase, TrialState};
use mtinet_domain::event::{Event, RankLoss, ReportId};
use mtinet_domain::fleet::FleetEvent;
use mtinet_domain::trial::{AttemptEnd, CheckpointRef, Device, ProcessExit, RankAssignment, TrialStatus};
use mtinet_domain::{AttemptId, Rank, StudyId, TrialId, WorkerId};

use crate::agent::Key;
use crate::coordinator::{Input, Outcome, Word};
use crate::decisions::check_hang;
use crate::world::{Checked, World};

/// A worker with a session must have done within this time what it was last told.
const PROMPT_MS: u64 = 9000;

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Faults have stopped.
    pub healed: bool,
    /// Reports that are in the log.
    recorded: BTreeSet<(WorkerId, u64)>,
    /// What each worker was told to be taken in.
    acknowledged: BTreeMap<WorkerId, u64>,
    /// Ranks that the log gave up.
    given_up: BTreeSet<Key>,
    /// Attempts that lost a worker or whose worker forgot a rank.
    bereft: BTreeSet<AttemptId>,
    /// Ranks whose end is in the log.
    exited: BTreeSet<Key>,
    /// Attempts whose end is in the log.
    over: BTreeSet<AttemptId>,
    /// The attempt that each trial has, by the log.
    running: BTreeMap<TrialId, AttemptId>,
    /// Since when an attempt is being stopped, by the log.
    stopping: BTreeMap<AttemptId, u64>,
    /// The newest checkpoint of each trial, by the log.
    checkpoints: BTreeMap<TrialId, CheckpointRef>,
    /// Ranks that others said first did not arrive.
    pub missed: BTreeMap<AttemptId, Vec<Rank>>,
    /// Ranks whose process was ended by SIGKILL, by the log.
    pub killed: BTreeSet<Key>,
    paused: BTreeSet<StudyId>,
    paused_trials: BTreeSet<TrialId>,
    cancelled: BTreeSet<TrialId>,
    drained: BTreeSet<WorkerId>,
    set_aside: BTreeSet<WorkerId>,
    /// The machine whose agent was forgotten last: another one may take the mark over.
    forgotten: Option<usize>,
    /// Failures on each worker since its last success, what could not start counted twice.
    failures: BTreeMap<WorkerId, u32>,
    /// When the coordinator last heard each worker.
    heard: BTreeMap<WorkerId, u64>,
    restarted_at: u64,
    /// Kinds of events that happened, for whoever wants to know that they did.
    pub kinds: BTreeMap<&'static str, u64>,
}

impl Ledger {
    /// Whether an attempt is being stopped, by the log.
    pub fn is_stopping(&self, id: AttemptId) -> bool {
        self.stopping.contains_key(&id)
    }

    /// The coordinator started again.
    pub fn restarted(&mut self, now: u64) {
        self.restarted_at = now;
    }
}

pub fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(problem()) }
}

impl World<'_> {
    /// Notes what reaches the coordinator.
    pub fn note_heard(&mut self, from: Option<&(WorkerId, u64)>, input: &Input) {
        let Some((worker, session)) = from else { return };
        let current = self.coordinator.sessions.get(worker) == Some(session);
        if matches!(input, Input::Hello(_)) || current && !matches!(input, Input::Closed) {
            self.ledger.heard.insert(worker.clone(), self.now);
        }
    }

    /// Checks everything after a round of the coordinator.
    pub fn check_round(&mut self, outcome: &Outcome, quiet: bool) -> Checked {
        self.coordinator.follow(outcome.stored.clone())?;
        for index in outcome.stored.clone() {
            let recorded = self.coordinator.log[index].clone();
            self.say(|| format!("   * {}: {:?}", recorded.study, recorded.event));
            self.check_event(recorded.study, &recorded.event)?;
        }
        let fleet = self.coordinator.fleet_log[outcome.stored_fleet.clone()].to_vec();
        // In their own order: what sets a worker aside may turn out in the same round to be a study's fault.
        for event in &fleet {
            self.check_fleet_event(event, outcome.crashed)?;
        }
        // Handlers decide about workers first and about trials at their end.
        self.check_gangs(outcome)?;
        self.check_order(outcome)?;
        self.check_widening(outcome)?;
        for (worker, word) in &outcome.words {
            if let Word::Welcome(seq) | Word::Ack(seq) = word {
                self.check_acknowledged(worker, *seq)?;
            }
        }
        self.check_discarded(outcome)?;
        if quiet || outcome.crashed { Ok(()) } else { self.check_state() }
    }

    /// What always holds between two rounds.
    pub fn check_state(&self) -> Checked {
        let coordinator = &self.coordinator;
        coordinator.core.sanity_check().map_err(|problem| format!("core: {problem}"))?;
        ensure(coordinator.core.is_durably(&coordinator.shadow), || {
            "the live state is not what the log gives".to_owned()
        })?;
        for study in coordinator.core.studies() {
            for (key, trial) in study.trials() {
                let id = TrialId { study: study.id, key };
                let waits = matches!(
                    trial.state,
                    TrialState::Waiting { .. } | TrialState::Paused | TrialState::Stopping { .. }
                );
                if waits {
                    self.check_reason(id)?;
                }
            }
        }
        Ok(())
    }

    /// Ranks of a gang are started all together, in slots that exist and are free, and none on another's CUDA device.
    fn check_gangs(&self, outcome: &Outcome) -> Checked {
        for index in outcome.stored.clone() {
            let recorded = &self.coordinator.log[index];
            let Event::AttemptStarted { trial, attempt, placements, .. } = &recorded.event else { continue };
            let id = AttemptId { trial: TrialId { study: recorded.study, key: *trial }, number: *attempt };
            let told = |(_, command): &&(WorkerId, Command)| matches!(command, Command::StartRank(start) if start.attempt == id);
            let told = outcome.commands.iter().filter(told).count();
            let slots: BTreeSet<_> = placements.iter().map(|place| (&place.worker, place.slot)).collect();
            ensure(told == placements.len() && slots.len() == told, || {
                format!("{id} has {} ranks in {} slots and {told} are started", placements.len(), slots.len())
            })?;
            let mut devices = BTreeSet::new();
            for place in placements {
                let unshared = place.device == Device::Cpu || devices.insert((&place.worker, place.device));
                ensure(unshared, || format!("{id} has two ranks on {} of {}", place.device, place.worker))?;
                ensure(!self.ledger.drained.contains(&place.worker), || {
                    format!("{id} is placed on {}, which is drained", place.worker)
                })?;
                ensure(!self.ledger.set_aside.contains(&place.worker), || {
                    format!("{id} is placed on {}, which is set aside", place.worker)
                })?;
                let device = self
                    .agent_of(&place.worker)
                    .and_then(|agent| Some(agent.slots.iter().find(|slot| slot.index == place.slot)?.device));
                ensure(device == Some(place.device), || {
                    format!("{id} is placed on {} slot {}, which is no such device", place.worker, place.slot)
                })?;
            }
        }
        Ok(())
    }

    /// A worker starts a rank: its slot is free, and no other attempt of the trial lives at a worker that was not
    /// given up.
    pub fn check_start(&self, agent: usize, start: &RankAssignment) -> Checked {
        let id = &self.agents[agent].id;
        let taken = self.agents[agent].processes.iter().find(|(_, process)| process.slot == start.slot);
        ensure(taken.is_none(), || {
            format!("{id} slot {} is given to {} and held by {taken:?}", start.slot, start.attempt)
        })?;
        // A worker that stood still finds, when it goes on, what it was told before it was given up. What comes of that is
        // not taken in, and it is told to stop it when it is back.
        let too_late = self.ledger.given_up.contains(&(start.attempt, start.rank));
        for agent in &self.agents {
            for key in agent.processes.keys().filter(|(attempt, _)| attempt.trial == start.attempt.trial) {
                let same = key.0 == start.attempt;
                ensure(same || too_late || self.ledger.given_up.contains(key), || {
                    format!("{} starts while rank {} of {} lives", start.attempt, key.1, key.0)
                })?;
            }
        }
        Ok(())
    }

    /// Whatever a worker is told to be taken in is recorded, or is about something that is over.
    fn check_acknowledged(&mut self, worker: &WorkerId, seq: u64) -> Checked {
        let Some(agent) = self.agent_of(worker) else { return Err(format!("{worker} is nobody")) };
        ensure(seq <= agent.last_seq(), || {
            format!("{worker} is told that {seq} is taken in; its last is {}", agent.last_seq())
        })?;
        let before = self.ledger.acknowledged.get(worker).copied().unwrap_or(0);
        for report in agent.history.iter().filter(|report| report.seq > before && report.seq <= seq) {
            let key = (report.attempt, report.rank);
            let settled = matches!(report.fact, Fact::Started)
                || self.ledger.recorded.contains(&(worker.clone(), report.seq))
                || self.ledger.over.contains(&report.attempt)
                || self.ledger.given_up.contains(&key)
                || self.ledger.exited.contains(&key);
            ensure(settled, || {
                format!("{worker} report {} is acknowledged and lost: {report:?}", report.seq)
            })?;
        }
        let last = self.ledger.acknowledged.entry(worker.clone()).or_default();
        *last = seq.max(*last);
        Ok(())
    }

    fn check_discarded(&self, outcome: &Outcome) -> Checked {
        if outcome.discarded.is_empty() {
            return Ok(());
        }
        let mut needed = BTreeSet::new();
        for (_, trial) in self.coordinator.core.studies().flat_map(mtinet_core::Study::trials) {
            let checkpoints = trial.latest.iter().chain(&trial.previous);
            needed.extend(checkpoints.map(|checkpoint| &checkpoint.artifact.blake3));
            needed.extend(trial.outputs.iter().map(|outputs| &outputs.evaluation.blake3));
        }
        let wrong = outcome.discarded.iter().find(|artifact| needed.contains(&artifact.blake3));
        ensure(wrong.is_none(), || format!("{wrong:?} is discarded and needed"))
    }

    fn check_fleet_event(&mut self, event: &FleetEvent, crashed: bool) -> Checked {
        self.say(|| format!("   * {event:?}"));
        let worker = event.worker().clone();
        *self.ledger.kinds.entry("fleet").or_default() += 1;
        match event {
            FleetEvent::WorkerDrained { .. } => drop(self.ledger.drained.insert(worker)),
            FleetEvent::WorkerUndrained { .. } => drop(self.ledger.drained.remove(&worker)),
            FleetEvent::WorkerReadmitted { .. } => {
                self.ledger.failures.remove(&worker);
                self.ledger.set_aside.remove(&worker);
            }
            FleetEvent::WorkerForgotten { .. } => {
                let machine = self.agent_of(&worker).map(|agent| agent.machine);
                let here = self.coordinator.sessions.contains_key(&worker);
                ensure(!here, || format!("{worker} is forgotten and here"))?;
                self.ledger.drained.remove(&worker);
                self.ledger.forgotten = machine.filter(|_| self.ledger.set_aside.remove(&worker));
            }
            FleetEvent::WorkerSetAside { .. } => {
                let machine = self.agent_of(&worker).map(|agent| agent.machine);
                let inherits = machine.is_some() && self.ledger.forgotten.take() == machine;
                let failures = self.ledger.failures.remove(&worker).unwrap_or(0);
                // Where the process was killed between the logs, the last failure is yet to be told again.
                ensure(failures >= 3 || crashed || inherits, || {
                    format!("{worker} is set aside after failures of weight {failures}")
                })?;
                let others = self.coordinator.core.workers().any(|(_, worker)| worker.is_usable());
                ensure(others, || format!("{worker} is set aside and was the last"))?;
                self.ledger.set_aside.insert(worker);
            }
        }
        Ok(())
    }

    fn check_event(&mut self, study: StudyId, event: &Event) -> Checked {
        *self.ledger.kinds.entry(event.kind()).or_default() += 1;
        if let Some(report) = event.report() {
            self.check_report(study, event, report)?;
        }
        let attempt = event
            .trial()
            .zip(event.attempt())
            .map(|(key, number)| AttemptId { trial: TrialId { study, key }, number });
        match (event, attempt) {
            (Event::AttemptStarted { resume, .. }, Some(id)) => self.check_attempt(id, resume.as_ref())?,
            (Event::CheckpointStored { checkpoint, .. }, Some(id)) => {
                self.ledger.checkpoints.insert(id.trial, checkpoint.clone());
            }
            (Event::RankExited { rank, exit, report, .. }, Some(id)) => {
                self.ledger.exited.insert((id, *rank));
                self.note_missed(id, *rank, *exit, report);
            }
            (Event::RankLost { rank, worker, how, .. }, Some(id)) => {
                self.check_lost(worker, *how)?;
                self.ledger.given_up.insert((id, *rank));
                // One whose process does not go is given up while its worker is well: that says nothing about the end.
                if *how != Some(RankLoss::Unkillable) {
                    self.ledger.bereft.insert(id);
                }
            }
            (Event::AttemptStopping { .. }, Some(id)) => {
                self.ledger.stopping.insert(id, self.now);
            }
            (Event::AttemptEnded { end, .. }, Some(id)) => self.check_ended(id, end)?,
            (Event::StudyPaused { .. }, _) => drop(self.ledger.paused.insert(study)),
            (Event::StudyResumed { .. }, _) => drop(self.ledger.paused.remove(&study)),
            (Event::TrialCancelled { trial, .. }, _) => {
                self.ledger.cancelled.insert(TrialId { study, key: *trial });
            }
            (Event::TrialPaused { trial, .. }, _) => {
                self.ledger.paused_trials.insert(TrialId { study, key: *trial });
            }
            (Event::TrialResumed { trial, .. }, _) => {
                self.ledger.paused_trials.remove(&TrialId { study, key: *trial });
            }
            (Event::TrialsRetried { trials, .. }, _) => {
                for key in trials {
                    self.ledger.paused_trials.remove(&TrialId { study, key: *key });
                    self.ledger.cancelled.remove(&TrialId { study, key: *key });
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What is recorded was said so, by this worker, and is recorded once.
    fn check_report(&mut self, study: StudyId, event: &Event, report: &ReportId) -> Checked {
        let said = self
            .agent_of(&report.worker)
            .and_then(|agent| agent.history.get(report.seq as usize - 1))
            .filter(|said| {
                said.attempt.trial.study == study
                    && Some(said.attempt.trial.key) == event.trial()
                    && Some(said.attempt.number) == event.attempt()
            });
        ensure(said.is_some(), || format!("{event:?} is not what {} said", report.worker))?;
        ensure(self.ledger.recorded.insert((report.worker.clone(), report.seq)), || {
            format!("report {} of {} is recorded twice", report.seq, report.worker)
        })
    }

    fn check_attempt(&mut self, id: AttemptId, resume: Option<&CheckpointRef>) -> Checked {
        let ledger = &mut self.ledger;
        ensure(!ledger.paused.contains(&id.trial.study), || format!("{id} starts in a paused study"))?;
        ensure(!ledger.paused_trials.contains(&id.trial), || format!("{id} starts and is paused"))?;
        ensure(!ledger.cancelled.contains(&id.trial), || format!("{id} starts and is cancelled"))?;
        ensure(resume == ledger.checkpoints.get(&id.trial), || {
            format!("{id} goes on from {resume:?}, not {:?}", ledger.checkpoints.get(&id.trial))
        })?;
        let other = ledger.running.insert(id.trial, id);
        ensure(other.is_none(), || format!("{id} starts while {other:?} goes on"))
    }

    /// A worker is given up only after a lease of silence, and after a restart only after the grace.
    fn check_lost(&self, worker: &WorkerId, how: Option<RankLoss>) -> Checked {
        if how != Some(RankLoss::Silence) {
            return Ok(());
        }
        let heard = self.ledger.heard.get(worker).copied().unwrap_or(0);
        let (silent, since_start) = (self.now - heard, self.now - self.coordinator.started_at);
        let grace = crate::config().adoption_grace_ms;
        let here = heard >= self.coordinator.started_at;
        ensure(silent >= crate::config().lease_ms && (here || since_start >= grace), || {
            format!("{worker} is given up after {silent} ms, {since_start} ms after the start")
        })
    }

    fn check_ended(&mut self, id: AttemptId, end: &AttemptEnd) -> Checked {
        let ledger = &mut self.ledger;
        ensure(ledger.running.remove(&id.trial) == Some(id), || format!("{id} ends and did not run"))?;
        ledger.stopping.remove(&id);
        ledger.over.insert(id);
        let lost = ledger.bereft.contains(&id);
        match end {
            AttemptEnd::Completed => {
                ledger.checkpoints.remove(&id.trial);
                self.forget_failures(id);
            }
            AttemptEnd::Failed(cause) | AttemptEnd::Unfit { cause, .. } => {
                check_hang(self.gangs.get(&id).and_then(|gang| gang.hung), ledger, id, cause)?;
                let own = cause.rank.is_some_and(|rank| ledger.exited.contains(&(id, rank)));
                ensure(!lost || cause.exit == ProcessExit::NotStarted && own, || {
                    format!("{id} lost a worker, and that counts as {cause:?}")
                })?;
                let weight = if cause.exit == ProcessExit::NotStarted { 2 } else { 1 };
                if let Some(worker) =
                    self.placed(id).into_iter().nth(cause.rank.map_or(0, |rank| rank.0 as usize))
                {
                    *self.ledger.failures.entry(worker).or_default() += weight;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn forget_failures(&mut self, id: AttemptId) {
        for worker in self.placed(id) {
            self.ledger.failures.remove(&worker);
        }
    }

    /// The workers of an attempt's ranks, in order.
    fn placed(&self, id: AttemptId) -> Vec<WorkerId> {
        let log = self.coordinator.log.iter().rev();
        let placed = log.filter_map(|recorded| match &recorded.event {
            Event::AttemptStarted { trial, attempt, placements, .. }
                if (recorded.study, *trial, *attempt) == (id.trial.study, id.trial.key, id.number) =>
            {
                Some(placements)
            }
            _ => None,
        });
        placed.take(1).flatten().map(|placement| placement.worker.clone()).collect()
    }

    /// A worker that has had a session for long enough has been told what it must know.
    pub fn check_promptness(&self) -> Checked {
        if !self.coordinator.up {
            return Ok(());
        }
        for study in self.coordinator.core.studies() {
            for (key, trial) in study.trials() {
                let Some(gang) = trial.gang() else { continue };
                let trial_id = TrialId { study: study.id, key };
                let id = AttemptId { trial: trial_id, number: gang.attempt };
                let stopping = trial.status() == TrialStatus::Stopping;
                for rank in gang.live() {
                    self.check_rank(
                        id,
                        rank.placement.rank,
                        &rank.placement.worker,
                        rank.phase,
                        stopping,
                        gang.begun_ms,
                    )?;
                }
            }
        }
        Ok(())
    }

    fn check_rank(
        &self,
        id: AttemptId,
        rank: Rank,
        worker: &WorkerId,
        phase: Phase,
        stopping: bool,
        begun: u64,
    ) -> Checked {
        let Some(agent) = self.agent_of(worker) else { return Ok(()) };
        let link = self.coordinator.core.workers().find(|(other, _)| *other == worker);
        let ready = link.is_some_and(|(_, worker)| worker.link == Link::Ready);
        let prompt = self.now.saturating_sub(PROMPT_MS);
        let reached = ready
            && agent.alive
            && !agent.is_frozen(self.now)
            && agent.frozen_until < prompt
            && agent.welcomed_at.is_some_and(|since| since < prompt)
            && self.coordinator.sessions.get(worker).copied() == agent.session;
        if !reached {
            return Ok(());
        }
        if stopping {
            let since = self.ledger.stopping.get(&id).copied().unwrap_or(self.now);
            let runs = agent.processes.get(&(id, rank)).is_some_and(|process| !process.stuck);
            return ensure(since > prompt || !runs, || {
                format!("rank {rank} of {id} still runs on {worker}, {} ms after the stop", self.now - since)
            });
        }
        let known = agent.processes.contains_key(&(id, rank))
            || agent.history.iter().any(|report| (report.attempt, report.rank) == (id, rank));
        ensure(phase != Phase::Starting || begun > prompt || known, || {
            format!("{worker} was never told to start rank {rank} of {id}")
        })
    }

    /// What holds when nothing is left to do.
    pub fn check_end(&mut self) -> Checked {
        self.coordinator.core.emptiness_check()?;
        for study in self.coordinator.core.studies() {
            let all_done = study.trials().all(|(_, trial)| trial.status() == TrialStatus::Done);
            let complete = study.outcome == Some(mtinet_domain::event::StudyOutcome::Complete);
            ensure(all_done == complete, || format!("study {} is over as {:?}", study.id, study.outcome))?;
        }
        let now = self.now;
        self.coordinator.restart(now)?;
        self.check_state()
    }
}
