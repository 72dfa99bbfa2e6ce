//! What goes wrong, what people ask for, and how faults stop.

use mtinet_core::{Fact, Request};
use mtinet_domain::trial::CheckpointRef;
use mtinet_domain::{AttemptId, Rank, StudyId, StudySpec, TrialId};

use crate::agent::{Agent, Key};
use crate::coordinator::{Crash, Input};
use crate::world::{Checked, Item, World};

/// Machines that there are at most, past ones included.
const MACHINES: usize = 14;

const ARMS: [&str; 4] = ["mti-net", "unet", "no-tim", "no-spe"];

impl World<'_> {
    /// The fleet and the studies to begin with.
    pub fn populate(&mut self) -> Checked {
        for _ in 0..self.chance.between(1, 4) {
            let slots = self.some_slots();
            let bad = self.chance.percent(15);
            self.join(slots, bad);
        }
        for _ in 0..self.chance.between(1, 2) {
            self.submit()?;
        }
        Ok(())
    }

    fn some_slots(&mut self) -> Vec<mtinet_core::Slot> {
        let gpus = if self.chance.percent(25) { self.chance.between(1, 2) as u32 } else { 0 };
        let cpus = self.chance.between(u64::from(gpus == 0), 3) as u32;
        let sharers = if gpus > 0 { self.chance.between(1, 3) as u32 } else { 1 };
        Self::slots(cpus, gpus, sharers)
    }

    fn submit(&mut self) -> Checked {
        let spec = self.some_spec();
        self.tell_coordinator(None, Input::Submit(spec))?;
        let Some(study) = self.coordinator.core.studies().last() else { return Ok(()) };
        let ids: Vec<TrialId> = study.trials().map(|(key, _)| TrialId { study: study.id, key }).collect();
        for id in ids {
            let curse = if self.chance.percent(7) { Some(self.chance.below(4)) } else { None };
            self.cursed.entry(id).or_insert(curse);
        }
        Ok(())
    }

    fn some_spec(&mut self) -> Box<StudySpec> {
        let chance = &mut self.chance;
        let arms: Vec<&str> = ARMS[..chance.between(1, 2) as usize].to_vec();
        let folds: Vec<u64> = (0..chance.between(1, 3)).collect();
        let replicas = [1, 1, 2, 4][chance.below(4) as usize];
        let ranks = match chance.below(3) {
            0 => replicas.to_string(),
            1 => "1".to_owned(),
            _ => "\"auto\"".to_owned(),
        };
        let device = ["cpu", "auto", "auto", "cuda"][chance.below(4) as usize];
        let priority = chance.between(0, 3) as i64 - 1;
        let (attempts, backoff) = (chance.between(1, 4), chance.between(0, 20) * 100);
        let steps = chance.between(2, 12);
        let text = format!(
            "name = \"s\"\ndataset = \"d\"\narms = {arms:?}\nfolds = {folds:?}\n\
             [train]\nsteps = {steps}\nreplicas = {replicas}\n\
             [resources]\ndevice = \"{device}\"\nranks = {ranks}\npriority = {priority}\n\
             [retry]\nmax_attempts = {attempts}\nbackoff = \"{backoff}ms\"\n"
        );
        Box::new(StudySpec::from_toml(&text).expect("a spec made here is valid"))
    }

    /// One more thing goes wrong, or is asked for.
    pub fn on_chaos(&mut self) -> Checked {
        if !self.chaos {
            return Ok(());
        }
        let delay = self.chance.between(100, 2500);
        self.after(delay, Item::Chaos);
        let alive: Vec<usize> = (0..self.agents.len()).filter(|index| self.agents[*index].alive).collect();
        let agent = self.chance.pick(&alive).copied();
        match self.chance.below(24) {
            0 if self.coordinator.up && self.coordinator.core.studies().count() < 4 => self.submit(),
            1..=6 => self.somebody_asks(),
            7 | 8 if self.coordinator.up => {
                self.crash_sometime();
                Ok(())
            }
            9 if self.coordinator.up => {
                self.on_crash();
                Ok(())
            }
            10 if self.agents.len() < MACHINES => {
                let (slots, bad) = (self.some_slots(), self.chance.percent(15));
                self.join(slots, bad);
                Ok(())
            }
            kind => {
                if let Some(agent) = agent {
                    self.strike(agent, kind);
                }
                Ok(())
            }
        }
    }

    fn crash_sometime(&mut self) {
        let at = [Crash::BeforeStoring, Crash::BetweenLogs, Crash::BeforeSending, Crash::WhileSending];
        let at = at[self.chance.below(4) as usize];
        self.crash = Some((self.chance.below(30), at));
    }

    fn strike(&mut self, agent: usize, kind: u64) {
        match kind {
            11..=14 => {
                self.say(|| format!("the session of w{agent} breaks"));
                let told = self.chance.percent(80);
                self.cut(agent, told);
            }
            15 | 16 => {
                // Short of a lease, or longer.
                let ms = self.chance.between(500, 9000);
                self.agents[agent].frozen_until = self.now + ms;
                self.say(|| format!("w{agent} stands still for {ms} ms"));
                self.after(ms, Item::Thaw(agent));
            }
            17 | 18 => self.kill_agent(agent),
            19 => self.leave(agent),
            20 | 21 => {
                let chance = self.chance.below(u64::MAX);
                let said = self.agents[agent].said_before(chance);
                if let Some(report) = said.filter(|_| !self.agents[agent].is_frozen(self.now)) {
                    self.say(|| format!("w{agent} repeats {}", report.seq));
                    self.repeat(agent, report);
                }
            }
            _ => {}
        }
    }

    /// An agent's process is gone, and its trainers with it; a new one may start on the machine.
    pub fn kill_agent(&mut self, agent: usize) {
        self.say(|| format!("w{agent} is killed"));
        self.cut(agent, true);
        self.agents[agent].alive = false;
        let processes = std::mem::take(&mut self.agents[agent].processes);
        for (attempt, _) in processes.into_keys() {
            self.break_gang(attempt);
        }
        if self.agents.len() < MACHINES {
            let Agent { machine, slots, bad, .. } = &self.agents[agent];
            let again = Item::Rejoin(*machine, slots.clone(), *bad);
            let delay = self.chance.between(500, 15_000);
            self.after(delay, again);
        }
    }

    /// An agent is told to end: its trainers save, and it tells no ends.
    fn leave(&mut self, agent: usize) {
        self.say(|| format!("w{agent} leaves"));
        let keys: Vec<Key> = self.agents[agent].processes.keys().copied().collect();
        for (attempt, rank) in keys {
            let step = self.gangs.get(&attempt).map_or(0, |gang| gang.step);
            if rank == Rank(0) && step > 0 && self.agents[agent].processes[&(attempt, rank)].started {
                let artifact = mtinet_domain::trial::ArtifactRef {
                    blake3: format!("{attempt} farewell {step}"),
                    bytes: 1,
                };
                self.agents[agent]
                    .report((attempt, rank), Fact::Checkpoint(CheckpointRef { step, artifact }));
            }
        }
        self.flush(agent);
        self.kill_agent(agent);
    }

    fn somebody_asks(&mut self) -> Checked {
        let Some(request) = self.some_request() else { return Ok(()) };
        self.tell_coordinator(None, Input::Request(request))
    }

    fn some_request(&mut self) -> Option<Request> {
        let studies: Vec<StudyId> = self.coordinator.core.studies().map(|study| study.id).collect();
        let study = *self.chance.pick(&studies)?;
        let trials: Vec<TrialId> = self.coordinator.core.trial_ids().filter(|id| id.study == study).collect();
        let trial = *self.chance.pick(&trials)?;
        let workers: Vec<String> = self.coordinator.core.workers().map(|(id, _)| id.0.clone()).collect();
        let worker = self.chance.pick(&workers).cloned().unwrap_or_default();
        Some(match self.chance.below(19) {
            0..=2 => Request::PauseStudy(study),
            3..=6 => Request::ResumeStudy(study),
            7 => Request::CancelStudy(study),
            8 | 9 => Request::CancelTrial(trial),
            10 | 11 => Request::RetryTrials { study, trials: Vec::new() },
            12 => Request::RetryTrials { study, trials: vec![trial.key] },
            16 => Request::PauseTrial(trial),
            17 | 18 => Request::ResumeTrial(trial),
            13 => Request::Drain(worker),
            14 => Request::Undrain(worker),
            _ => Request::Readmit(worker),
        })
    }

    /// Faults stop: what is broken is mended, what is held back goes on, and there is room for everything.
    pub fn on_heal(&mut self) -> Checked {
        self.crash = None;
        if !self.coordinator.up {
            self.chaos = false;
            self.after(500, Item::Heal);
            return Ok(());
        }
        self.say(|| "faults stop".to_owned());
        self.chaos = false;
        for agent in &mut self.agents {
            agent.bad = false;
        }
        if !self.ledger.healed {
            self.ledger.healed = true;
            self.join(Self::slots(4, 4, 1), false);
        }
        let studies: Vec<StudyId> = self.coordinator.core.studies().map(|study| study.id).collect();
        let workers: Vec<String> = self.coordinator.core.workers().map(|(id, _)| id.0.clone()).collect();
        let trials: Vec<TrialId> = self.coordinator.core.trial_ids().collect();
        for study in studies {
            self.tell_coordinator(None, Input::Request(Request::ResumeStudy(study)))?;
        }
        for trial in trials {
            self.tell_coordinator(None, Input::Request(Request::ResumeTrial(trial)))?;
        }
        for worker in workers {
            self.tell_coordinator(None, Input::Request(Request::Undrain(worker.clone())))?;
            self.tell_coordinator(None, Input::Request(Request::Readmit(worker)))?;
        }
        Ok(())
    }

    /// The attempts whose processes live, with or without the coordinator's knowledge.
    pub fn live_attempts(&self) -> Vec<AttemptId> {
        self.agents.iter().flat_map(|agent| agent.processes.keys().map(|(attempt, _)| *attempt)).collect()
    }
}
