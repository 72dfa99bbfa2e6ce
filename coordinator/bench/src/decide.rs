//! The scheduler alone, without network and disk: how long a decision takes.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::bail;
use mtinet_core::{Command, Core, CoreConfig, Effects, Fact, Hello, Report, Slot};
use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::trial::{ArtifactRef, DatasetRef, Device, ProcessExit, RankAssignment};
use mtinet_domain::{Rank, SlotIndex, StudySpec, WorkerId};

/// What running a study through the scheduler cost.
#[derive(Debug, Default)]
pub struct Decisions {
    /// Seconds of each handler call.
    pub seconds: Vec<f64>,
    /// Attempts started.
    pub attempts: u64,
}

struct Run {
    core: Core,
    now_ms: u64,
    seqs: std::collections::BTreeMap<WorkerId, u64>,
    commands: VecDeque<(WorkerId, Command)>,
    decisions: Decisions,
}

/// Runs a study to its end on a fleet whose ranks are over as soon as they are started (or connected).
///
/// # Errors
/// A study that does not end.
pub fn run(spec: &StudySpec, workers: u32, slots: u32) -> anyhow::Result<Decisions> {
    let core = Core::new(CoreConfig::default());
    let mut run = Run {
        core,
        now_ms: 1,
        seqs: std::collections::BTreeMap::new(),
        commands: VecDeque::new(),
        decisions: Decisions::default(),
    };
    for number in 0..workers {
        let hello = Hello {
            worker: WorkerId(format!("worker-{number}")),
            name: "bench".into(),
            slots: (0..slots).map(|slot| Slot { index: SlotIndex(slot), device: Device::Cpu }).collect(),
            running: Vec::new(),
        };
        let effects = run.core.on_worker_connected(run.now_ms, &hello);
        run.queue(effects);
    }
    let dataset =
        DatasetRef { name: "d".into(), path: "/d".into(), hash: "h".into(), phases: vec![], classes: vec![] };
    let (study, effects) = run.core.on_study_submitted(run.now_ms, Box::new(spec.clone()), dataset, None);
    run.queue(effects);
    while let Some((worker, command)) = run.commands.pop_front() {
        match command {
            Command::StartRank(start) => run.on_start(&worker, &start),
            Command::ConnectRank { attempt, rank, .. } => run.exit(&worker, attempt, rank),
            Command::StopAttempt { reason, .. } => bail!("an attempt is stopped: {reason}"),
        }
    }
    let outcome = run.core.study(study).and_then(|study| study.outcome);
    if outcome.is_none() {
        bail!("the study does not end");
    }
    Ok(run.decisions)
}

impl Run {
    fn on_start(&mut self, worker: &WorkerId, start: &RankAssignment) {
        self.report(worker, start.attempt, start.rank, Fact::Started);
        if start.rank != Rank(0) {
            return;
        }
        self.decisions.attempts += 1;
        if start.world_size > 1 {
            let ready = Fact::Rendezvous { host: "127.0.0.1".into(), port: 1 };
            self.report(worker, start.attempt, start.rank, ready);
        }
        let evaluation = ArtifactRef { blake3: "0".repeat(64), bytes: 1 };
        let summary = Box::new(FoldSummary::default());
        let evaluated = Fact::Evaluated { summary, evaluation, weights: None, predictions: None };
        self.report(worker, start.attempt, start.rank, evaluated);
        self.exit(worker, start.attempt, start.rank);
    }

    fn exit(&mut self, worker: &WorkerId, attempt: mtinet_domain::AttemptId, rank: Rank) {
        let exit = ProcessExit::Code(0);
        let (message, missing) = (String::new(), Vec::new());
        let fact = Fact::Exited { exit, finished: true, step: None, message, stopped: false, missing };
        self.report(worker, attempt, rank, fact);
    }

    fn report(&mut self, worker: &WorkerId, attempt: mtinet_domain::AttemptId, rank: Rank, fact: Fact) {
        let seq = self.seqs.entry(worker.clone()).or_default();
        *seq += 1;
        let report = Report { seq: *seq, attempt, rank, fact };
        self.now_ms += 1;
        let began = Instant::now();
        let effects = self.core.on_report(self.now_ms, worker, report);
        self.decisions.seconds.push(began.elapsed().as_secs_f64());
        self.queue(effects);
    }

    fn queue(&mut self, effects: Effects) {
        self.commands.extend(effects.send);
    }
}
