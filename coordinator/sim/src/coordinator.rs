//! The coordinator's process as `coordinator/src/server/driver` is one: stores, then lets out; dies and replays.

use std::collections::BTreeMap;

use mtinet_core::{Command, Core, CoreConfig, Effects, Hello, Refusal, Report, Request};
use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::fleet::FleetEvent;
use mtinet_domain::trial::{ArtifactRef, DatasetRef};
use mtinet_domain::{StudyId, StudySpec, WorkerId};

/// What the coordinator takes in.
#[derive(Clone, Debug)]
pub enum Input {
    /// A worker opens a session.
    Hello(Hello),
    /// A sign of life.
    Heartbeat,
    /// A rank did something.
    Report(Report),
    /// The worker's session is over.
    Closed,
    /// Time passes.
    Tick,
    /// Somebody submits a study.
    Submit(Box<StudySpec>),
    /// Somebody asks for something.
    Request(Request),
}

/// What the coordinator tells a worker.
#[derive(Clone, Debug)]
pub enum Word {
    /// The first message of a session.
    Welcome(u64),
    /// Reports up to here are taken in.
    Ack(u64),
    /// A command.
    Command(Command),
}

/// Where in a round the process is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Before anything is stored.
    BeforeStoring,
    /// The fleet's facts are stored, the studies' are not.
    BetweenLogs,
    /// Everything is stored, nothing is said.
    BeforeSending,
    /// Half of what was to be said is said.
    WhileSending,
}

/// What came of a round.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was said, in order.
    pub words: Vec<(WorkerId, Word)>,
    /// Sessions that were ended.
    pub cut: Vec<WorkerId>,
    /// Events that were stored, by their place in the log.
    pub stored: std::ops::Range<usize>,
    /// Fleet facts that were stored, by their place in their log.
    pub stored_fleet: std::ops::Range<usize>,
    /// Artifacts that were let go of.
    pub discarded: Vec<ArtifactRef>,
    /// Commands that the decision brought about, said or not.
    pub commands: Vec<(WorkerId, Command)>,
    /// Somebody was refused.
    pub refused: Option<Refusal>,
    /// A study was submitted.
    pub submitted: Option<StudyId>,
    /// The process was killed in this round.
    pub crashed: bool,
}

/// The coordinator's process and its disk.
#[derive(Debug)]
pub struct Coordinator {
    config: CoreConfig,
    /// The scheduler.
    pub core: Core,
    /// The same, folded from what is stored alone.
    pub shadow: Core,
    /// The events on disk.
    pub log: Vec<Recorded>,
    /// The fleet's facts on disk.
    pub fleet_log: Vec<FleetEvent>,
    seqs: BTreeMap<StudyId, u64>,
    /// The open session of each worker.
    pub sessions: BTreeMap<WorkerId, u64>,
    /// The process lives.
    pub up: bool,
    /// When it started last.
    pub started_at: u64,
}

impl Coordinator {
    /// A new process with an empty disk.
    pub fn new(config: CoreConfig, now: u64) -> Self {
        Self {
            core: Core::new(config.clone()),
            shadow: Core::new(config.clone()),
            config,
            log: Vec::new(),
            fleet_log: Vec::new(),
            seqs: BTreeMap::new(),
            sessions: BTreeMap::new(),
            up: true,
            started_at: now,
        }
    }

    /// One round of the driver with one input, killed at `crash` where given. Input of a session that is not the
    /// worker's present one is ignored.
    pub fn round(
        &mut self,
        now: u64,
        from: Option<(&WorkerId, u64)>,
        input: Input,
        crash: Option<Crash>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if let (Some((worker, session)), Input::Hello(_)) = (from, &input) {
            self.sessions.insert(worker.clone(), session);
        } else if from.is_some_and(|(worker, session)| self.sessions.get(worker) != Some(&session)) {
            return outcome;
        }
        let worker = from.map(|(worker, _)| worker.clone());
        let (effects, heard, welcome) = self.take_in(now, worker.as_ref(), input, &mut outcome);
        self.let_out(now, effects, worker.as_ref(), (heard, welcome), crash, &mut outcome);
        if crash.is_some() {
            outcome.crashed = true;
            self.up = false;
            self.sessions.clear();
        }
        outcome
    }

    fn take_in(
        &mut self,
        now: u64,
        worker: Option<&WorkerId>,
        input: Input,
        outcome: &mut Outcome,
    ) -> (Effects, bool, bool) {
        match (input, worker) {
            (Input::Hello(hello), _) => (self.core.on_worker_connected(now, &hello), false, true),
            (Input::Heartbeat, Some(worker)) => (self.core.on_heartbeat(now, worker), false, false),
            (Input::Report(report), Some(worker)) => (self.core.on_report(now, worker, report), true, false),
            (Input::Closed, Some(worker)) => {
                self.sessions.remove(worker);
                (self.core.on_worker_disconnected(now, worker), false, false)
            }
            (Input::Submit(spec), _) => {
                let (id, effects) = self.core.on_study_submitted(now, spec, dataset(), None);
                outcome.submitted = Some(id);
                (effects, false, false)
            }
            (Input::Request(request), _) => match self.core.on_request(now, &request, None) {
                Ok((_, effects)) => (effects, false, false),
                Err(refusal) => {
                    outcome.refused = Some(refusal);
                    (Effects::default(), false, false)
                }
            },
            (_, _) => (self.core.on_tick(now), false, false),
        }
    }

    fn let_out(
        &mut self,
        now: u64,
        effects: Effects,
        worker: Option<&WorkerId>,
        (heard, welcome): (bool, bool),
        crash: Option<Crash>,
        outcome: &mut Outcome,
    ) {
        let (fleet, log) = (self.fleet_log.len(), self.log.len());
        outcome.stored_fleet = fleet..fleet;
        outcome.stored = log..log;
        if crash == Some(Crash::BeforeStoring) {
            return;
        }
        effects.fleet.iter().for_each(|event| self.shadow.apply_fleet(event));
        self.fleet_log.extend(effects.fleet);
        outcome.stored_fleet.end = self.fleet_log.len();
        if crash == Some(Crash::BetweenLogs) {
            return;
        }
        for (study, event) in effects.record {
            let seq = self.seqs.entry(study).or_default();
            *seq += 1;
            self.log.push(Recorded { study, seq: *seq, time_ms: now, event });
        }
        outcome.stored.end = self.log.len();
        outcome.commands.clone_from(&effects.send);
        if crash == Some(Crash::BeforeSending) {
            return;
        }
        let mut words = Vec::new();
        if let Some(worker) = worker.filter(|_| welcome) {
            words.push((worker.clone(), Word::Welcome(self.core.last_seq(worker))));
        }
        words.extend(effects.send.into_iter().map(|(worker, command)| (worker, Word::Command(command))));
        if let Some(worker) = worker.filter(|_| heard) {
            words.push((worker.clone(), Word::Ack(self.core.last_seq(worker))));
        }
        if crash == Some(Crash::WhileSending) {
            words.truncate(words.len() / 2);
        }
        outcome.words = words;
        for worker in effects.cut {
            if self.sessions.remove(&worker).is_some() {
                outcome.cut.push(worker);
            }
        }
        outcome.discarded = effects.discard;
    }

    /// Brings the shadow up to the log. An error is an event that does not fold.
    pub fn follow(&mut self, stored: std::ops::Range<usize>) -> Result<(), String> {
        for recorded in &self.log[stored] {
            self.shadow.apply(recorded).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// The process starts again from its disk, as `serve` does: measurements are left out of the replay.
    pub fn restart(&mut self, now: u64) -> Result<(), String> {
        let mut core = Core::new(self.config.clone());
        for recorded in &self.log {
            if !matches!(recorded.event, Event::Metrics { .. }) {
                core.apply(recorded).map_err(|error| error.to_string())?;
            } else if let Some(report) = recorded.event.report() {
                core.restore_seq(&report.worker, report.seq);
            }
        }
        self.fleet_log.iter().for_each(|event| core.apply_fleet(event));
        if !core.is_durably(&self.shadow) {
            return Err("a replay without measurements restores another state".into());
        }
        // What became garbage and was not let go of before the end is left to the sweep.
        core.on_restarted(now);
        self.core = core;
        self.up = true;
        self.started_at = now;
        self.sessions.clear();
        Ok(())
    }
}

fn dataset() -> DatasetRef {
    DatasetRef {
        name: "d".into(),
        path: "/d".into(),
        hash: "h".into(),
        phases: Vec::new(),
        classes: Vec::new(),
    }
}
