//! The trainers: what happens on the data plane, without the coordinator.
//!
//! All ranks of an attempt step together. One that is gone breaks its peers' collectives at once, one that hangs breaks
//! them by timeout; a request to stop at any rank stops all at the same step.

use mtinet_core::Fact;
use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::event::{MetricRecord, MetricScope};
use mtinet_domain::trial::{ArtifactRef, CheckpointRef, ProcessExit, RankAssignment};
use mtinet_domain::{AttemptId, Rank};

use crate::agent::{Fate, Key, Process};
use crate::world::{Checked, Item, World};

/// How long a collective waits for a rank.
const COLLECTIVE_TIMEOUT_MS: u64 = 8000;

/// An attempt's trainers together.
#[derive(Debug)]
pub struct GangRun {
    world: u32,
    total: u64,
    /// Optimiser steps done.
    pub step: u64,
    met: bool,
    scheduled: bool,
    /// The rank that hangs.
    pub hung: Option<Rank>,
    /// A rank is gone.
    broken: bool,
}

impl World<'_> {
    /// An agent is told to start a rank.
    pub fn start_rank(&mut self, agent: usize, start: &RankAssignment) -> Checked {
        let key: Key = (start.attempt, start.rank);
        if self.agents[agent].processes.contains_key(&key) {
            return Ok(());
        }
        self.check_start(agent, start)?;
        self.agents[agent].hold(key, start.slot);
        let fate = self.fate(agent, start);
        self.say(|| format!("   rank {} of {} is being prepared: {fate:?}", key.1, key.0));
        let begun_at = start.resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
        let process = Process {
            slot: start.slot,
            world: start.world_size,
            started: false,
            connected: start.rank == Rank(0),
            fate: fate.clone(),
            hangs: false,
            stuck: false,
            stop: None,
        };
        self.agents[agent].processes.insert(key, process);
        let total = start.spec.train.steps.unwrap_or(3);
        self.gangs.entry(start.attempt).or_insert(GangRun {
            world: start.world_size,
            total,
            step: begun_at,
            met: false,
            scheduled: false,
            hung: None,
            broken: false,
        });
        if fate != Fate::NeverStarts {
            let delay = self.chance.between(50, 1500);
            self.after(delay, Item::Prepared(agent, key));
        }
        Ok(())
    }

    fn fate(&mut self, agent: usize, start: &RankAssignment) -> Fate {
        let begun_at = start.resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
        let trial = start.attempt.trial;
        if let Some(at) = self.cursed.get(&trial).copied().flatten()
            && start.rank == Rank(0)
        {
            return Fate::EndsAt(at, ProcessExit::Code(1), "loss is nan".into());
        }
        if self.agents[agent].bad {
            return match self.chance.below(3) {
                0 => Fate::NotStarted("no data set here".into()),
                1 => Fate::EndsAt(0, ProcessExit::Code(1), "device is broken".into()),
                _ => Fate::EndsAt(begun_at + 1, ProcessExit::Signal(11), String::new()),
            };
        }
        if !self.chaos || !self.chance.percent(12) {
            return Fate::Fine;
        }
        let at = begun_at + self.chance.between(0, 4);
        match self.chance.below(8) {
            0 => Fate::NotStarted("could not start the trainer".into()),
            1 => Fate::NeverStarts,
            2 => Fate::HangsAt(at),
            3 => Fate::EndsAt(at, ProcessExit::Code(0), String::new()),
            4 => Fate::EndsAt(at, ProcessExit::Signal(9), "killed".into()),
            5 => Fate::EndsAt(at, ProcessExit::Signal(6), "abort".into()),
            n => Fate::EndsAt(at, ProcessExit::Code(1), format!("mistake {n}")),
        }
    }

    /// A rank's preparation is over.
    pub fn on_prepared(&mut self, agent: usize, key: Key) -> Checked {
        let Some(process) = self.agents[agent].processes.get_mut(&key) else { return Ok(()) };
        if let Fate::NotStarted(message) = process.fate.clone() {
            self.end_process(agent, key, ProcessExit::NotStarted, false, &message);
            return Ok(());
        }
        process.started = true;
        let world = process.world;
        self.agents[agent].report(key, Fact::Started);
        if key.1 == Rank(0) && world > 1 {
            self.agents[agent].report(key, Fact::Rendezvous { host: "h".into(), port: 1 });
        }
        self.flush(agent);
        self.schedule_step(key.0, 20);
        Ok(())
    }

    /// A rank learns where to meet the others.
    pub fn connect_rank(&mut self, agent: usize, key: Key) {
        if let Some(process) = self.agents[agent].processes.get_mut(&key) {
            process.connected = true;
            self.schedule_step(key.0, 20);
        }
    }

    fn schedule_step(&mut self, attempt: AttemptId, delay: u64) {
        if let Some(gang) = self.gangs.get_mut(&attempt)
            && !gang.scheduled
        {
            gang.scheduled = true;
            self.after(delay, Item::Step(attempt));
        }
    }

    /// Where the ranks of an attempt are that live.
    fn members(&self, attempt: AttemptId) -> Vec<(usize, Key)> {
        let mut members = Vec::new();
        for (index, agent) in self.agents.iter().enumerate() {
            let of = agent.processes.keys().filter(|(other, _)| *other == attempt);
            members.extend(of.map(|key| (index, *key)));
        }
        members.sort_by_key(|(_, (_, rank))| *rank);
        members
    }

    /// The trainers of an attempt do the next thing.
    pub fn on_step(&mut self, attempt: AttemptId) -> Checked {
        let members = self.members(attempt);
        let Some(gang) = self.gangs.get_mut(&attempt) else { return Ok(()) };
        gang.scheduled = false;
        if members.is_empty() || gang.hung.is_some() {
            return Ok(());
        }
        if gang.met && gang.broken {
            for (agent, key) in members {
                self.end_process(agent, key, ProcessExit::Code(1), false, "Connection closed by peer");
            }
            return Ok(());
        }
        let ready = |(agent, key): &(usize, Key)| {
            self.agents[*agent].processes.get(key).is_some_and(|process| process.started && process.connected)
        };
        if members.len() < gang.world as usize || !members.iter().all(ready) {
            return Ok(());
        }
        gang.met = true;
        let step = gang.step;
        if self.meets_fate(&members, step) {
            return Ok(());
        }
        let stops = |(agent, key): &(usize, Key)| {
            self.agents[*agent].processes.get(key).is_some_and(|process| process.stop.is_some())
        };
        if members.iter().any(stops) {
            self.checkpoint(members[0], step);
            for (agent, key) in members {
                self.end_process(agent, key, ProcessExit::Code(0), false, "");
            }
            return Ok(());
        }
        self.train(attempt, members, step + 1);
        Ok(())
    }

    fn train(&mut self, attempt: AttemptId, members: Vec<(usize, Key)>, step: u64) {
        let Some(gang) = self.gangs.get_mut(&attempt) else { return };
        let (first, key) = members[0];
        if step > gang.total {
            let evaluation = artifact(format!("evaluation of {attempt}"));
            let summary = Box::new(FoldSummary::default());
            let weights = Some(artifact(format!("weights of {}", attempt.trial)));
            let fact = Fact::Evaluated { summary, evaluation, weights, predictions: None };
            self.agents[first].report(key, fact);
            for (agent, key) in members {
                self.end_process(agent, key, ProcessExit::Code(0), true, "");
            }
            return;
        }
        gang.step = step;
        let record = MetricRecord {
            scope: MetricScope::Step,
            step,
            epoch: 1,
            train_seconds: step as f64,
            values: std::collections::BTreeMap::new(),
        };
        self.agents[first].report(key, Fact::Metrics(vec![record]));
        if self.chance.percent(50) {
            self.checkpoint((first, key), step);
        }
        self.flush(first);
        let delay = self.chance.between(150, 900);
        self.schedule_step(attempt, delay);
    }

    /// Lets ranks end or hang that are to do so now; whether one was.
    fn meets_fate(&mut self, members: &[(usize, Key)], step: u64) -> bool {
        for (agent, key) in members {
            let Some(process) = self.agents[*agent].processes.get_mut(key) else { continue };
            match process.fate.clone() {
                Fate::EndsAt(at, exit, message) if step >= at => {
                    self.end_process(*agent, *key, exit, false, &message);
                    return true;
                }
                Fate::HangsAt(at) if step >= at => {
                    process.hangs = true;
                    if let Some(gang) = self.gangs.get_mut(&key.0) {
                        gang.hung = Some(key.1);
                    }
                    self.say(|| format!("   rank {} of {} hangs", key.1, key.0));
                    self.after(COLLECTIVE_TIMEOUT_MS, Item::TimedOut(key.0));
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// Ranks that wait for one that hangs give up: by their watchdog, which names it, or by the collective's own timeout,
    /// which does not.
    pub fn on_timed_out(&mut self, attempt: AttemptId) {
        let hung = self.gangs.get(&attempt).and_then(|gang| gang.hung);
        let missing: Vec<Rank> = hung.filter(|_| self.chance.percent(50)).into_iter().collect();
        for (agent, key) in self.members(attempt) {
            if self.agents[agent].processes.get(&key).is_some_and(|process| !process.hangs) {
                let words = match missing.first() {
                    Some(rank) => format!("rank {rank} did not arrive"),
                    None => "all_reduce: no answer from a peer in time".to_owned(),
                };
                self.end_waiting(agent, key, &words, &missing);
            }
        }
    }

    fn checkpoint(&mut self, (agent, key): (usize, Key), step: u64) {
        let checkpoint = CheckpointRef { step, artifact: artifact(format!("{} step {step}", key.0)) };
        self.agents[agent].report(key, Fact::Checkpoint(checkpoint));
    }

    /// An agent is told to stop an attempt's ranks.
    pub fn stop_ranks(&mut self, agent: usize, attempt: AttemptId, reason: &str, grace: u64) {
        let keys: Vec<Key> =
            self.agents[agent].processes.keys().filter(|(of, _)| *of == attempt).copied().collect();
        for key in keys {
            let now = self.now;
            let Some(process) = self.agents[agent].processes.get_mut(&key) else { continue };
            let started = process.started;
            process.stop.get_or_insert((reason.to_owned(), now + grace));
            if !started {
                self.end_process(agent, key, ProcessExit::NotStarted, false, "stopped before it started");
            } else if grace == 0 {
                self.on_kill(agent, key);
            } else {
                self.after(grace, Item::Kill(agent, key));
                self.schedule_step(attempt, 20);
            }
        }
    }

    /// A rank's time to stop is over.
    pub fn on_kill(&mut self, agent: usize, key: Key) {
        let survives = self.chance.below(30) == 0;
        match self.agents[agent].processes.get_mut(&key) {
            None => {}
            Some(process) if process.stuck => {}
            // As one that hangs in a driver.
            Some(process) if survives => {
                process.stuck = true;
                self.say(|| format!("   rank {} of {} survives its kill", key.1, key.0));
                let delay = self.chance.between(2000, 120_000);
                self.after(delay, Item::Gone(agent, key));
            }
            Some(_) => self.on_gone(agent, key),
        }
    }

    /// A process that was killed is over.
    pub fn on_gone(&mut self, agent: usize, key: Key) {
        self.end_process(agent, key, ProcessExit::Signal(9), false, "stopped; it was killed");
    }

    fn end_process(&mut self, agent: usize, key: Key, exit: ProcessExit, finished: bool, message: &str) {
        self.end_with(agent, key, exit, finished, message, &[]);
    }

    /// A rank ends because it waited in vain for these.
    fn end_waiting(&mut self, agent: usize, key: Key, message: &str, missing: &[Rank]) {
        self.end_with(agent, key, ProcessExit::Code(1), false, message, missing);
    }

    fn end_with(
        &mut self,
        agent: usize,
        key: Key,
        exit: ProcessExit,
        finished: bool,
        message: &str,
        missing: &[Rank],
    ) {
        let Some(process) = self.agents[agent].processes.remove(&key) else { return };
        let stopped = process.stop.is_some();
        self.say(|| format!("   rank {} of {} ends: {exit} {message:?} stopped={stopped}", key.1, key.0));
        let step = self.gangs.get(&key.0).map(|gang| gang.step).filter(|step| *step > 0 && key.1 == Rank(0));
        let message = message.to_owned();
        let fact = Fact::Exited { exit, finished, step, message, stopped, missing: missing.to_vec() };
        self.agents[agent].report(key, fact);
        self.flush(agent);
        if !finished {
            self.break_gang(key.0);
        }
    }

    /// A rank is gone: its peers notice soon.
    pub fn break_gang(&mut self, attempt: AttemptId) {
        if let Some(gang) = self.gangs.get_mut(&attempt) {
            gang.broken = true;
        }
        let delay = self.chance.between(1, 400);
        self.schedule_step(attempt, delay);
    }
}

fn artifact(name: String) -> ArtifactRef {
    ArtifactRef { blake3: name, bytes: 1 }
}
