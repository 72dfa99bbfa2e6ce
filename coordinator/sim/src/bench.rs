//! How fast the scheduler decides, and what it needs: no network, no disk.
//!
//! Commands are answered on the spot by agents that finish every trial at once, so all that is measured is the core.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use mtinet_core::{Command, Core, CoreConfig, Effects, Fact, Hello, Report, Slot};
use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::trial::{ArtifactRef, DatasetRef, Device, ProcessExit, RankAssignment};
use mtinet_domain::{SlotIndex, StudySpec, WorkerId};

/// A measured figure and what it should be.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub what: &'static str,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it should be at most, or at least where `more_is_better`.
    pub target: f64,
    /// Whether more is better.
    pub more_is_better: bool,
    /// Whether it is as it should be.
    pub ok: bool,
}

impl Figure {
    fn at_most(what: &'static str, value: f64, unit: &'static str, target: f64) -> Self {
        Self { what, value, unit, target, more_is_better: false, ok: value <= target }
    }

    fn at_least(what: &'static str, value: f64, unit: &'static str, target: f64) -> Self {
        Self { what, value, unit, target, more_is_better: true, ok: value >= target }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.more_is_better { ">=" } else { "<=" };
        let mark = if self.ok { "ok" } else { "MISSED" };
        write!(
            f,
            "{:<58} {:>12.4} {:<10} (target {sign} {}) {mark}",
            self.what, self.value, self.unit, self.target
        )
    }
}

/// The figures as the document that `make bench-...` targets write.
pub fn to_json(figures: &[Figure]) -> String {
    let one = |figure: &Figure| {
        format!(
            "  {{\"what\": \"{}\", \"value\": {}, \"unit\": \"{}\", \"target\": {}, \"ok\": {}, \"peer\": null, \"note\": \"mtinet-core alone\"}}",
            figure.what, figure.value, figure.unit, figure.target, figure.ok
        )
    };
    format!("[\n{}\n]\n", figures.iter().map(one).collect::<Vec<_>>().join(",\n"))
}

/// Everything that is measured.
pub fn all() -> Vec<Figure> {
    // First, while the process has freed nothing that it could use again.
    let memory = memory(10_000, 1000);
    let trials = dispatch(100_000, 1000, 1, 1);
    let gangs = dispatch(20_000, 100, 8, 8);
    vec![
        Figure::at_most(
            "dispatch of 100,000 no-op trials on 1,000 workers, each",
            trials.per_trial.as_secs_f64() * 1e3,
            "ms",
            0.05,
        ),
        Figure::at_most("the same, a decision, p99", trials.p99.as_secs_f64() * 1e3, "ms", 5.0),
        Figure::at_least(
            "gangs of 8 ranks on 100 machines of 8 slots",
            1.0 / gangs.per_trial.as_secs_f64(),
            "gangs/s",
            1000.0,
        ),
        Figure::at_most("memory of 10,000 trials and 1,000 workers", memory, "MiB", 64.0),
    ]
}

/// How a dispatch went.
#[derive(Clone, Copy, Debug)]
pub struct Dispatch {
    /// Processor time per trial, all its reports included, and the making of these. Where the system does not tell
    /// processor times, the time that passed in the scheduler.
    pub per_trial: Duration,
    /// Time from an input to its decision that 99 of 100 inputs keep within.
    pub p99: Duration,
}

/// Runs so many trials that end at once, on workers with so many slots, each trial on `ranks` of them.
///
/// # Panics
/// Where the scheduler does not bring all of them to their end.
pub fn dispatch(trials: u32, workers: u32, slots: u32, ranks: u32) -> Dispatch {
    let begun = processor_time();
    let mut core = Core::new(CoreConfig::default());
    let mut now = 1_000_000;
    let mut times = Vec::new();
    let mut commands: VecDeque<(WorkerId, Command)> = VecDeque::new();
    let mut seqs = vec![0; workers as usize];
    let spec = spec(trials, ranks);
    let timed = |core: &mut Core, times: &mut Vec<Duration>, act: &mut dyn FnMut(&mut Core) -> Effects| {
        let begun = Instant::now();
        let effects = act(core);
        times.push(begun.elapsed());
        effects.send
    };
    let mut spec = Some(spec);
    let sent = timed(&mut core, &mut times, &mut |core| {
        core.on_study_submitted(now, spec.take().expect("called once"), dataset(), None).1
    });
    commands.extend(sent);
    for worker in 0..workers {
        let hello = hello(worker, slots);
        commands.extend(timed(&mut core, &mut times, &mut |core| core.on_worker_connected(now, &hello)));
    }
    while let Some((worker, command)) = commands.pop_front() {
        let Command::StartRank(start) = command else { continue };
        let index: usize = worker.0[1..].parse().expect("a worker made here");
        for fact in facts(&start) {
            seqs[index] += 1;
            now += 1;
            let mut report =
                Some(Report { seq: seqs[index], attempt: start.attempt, rank: start.rank, fact });
            commands.extend(timed(&mut core, &mut times, &mut |core| {
                core.on_report(now, &worker, report.take().expect("called once"))
            }));
        }
        // Workers are heard all the time.
        now += 1;
    }
    assert!(core.studies().all(|study| study.status() == "complete"), "not all trials came to their end");
    let all = processor_time().zip(begun).map_or_else(|| times.iter().sum(), |(end, begun)| end - begun);
    times.sort_unstable();
    Dispatch { per_trial: all / trials, p99: times[times.len() * 99 / 100] }
}

fn facts(start: &RankAssignment) -> Vec<Fact> {
    let mut facts = vec![Fact::Started];
    if start.rank.0 == 0 {
        let artifact = |name: &str| ArtifactRef { blake3: format!("{name} {}", start.attempt), bytes: 1 };
        facts.push(Fact::Evaluated {
            summary: Box::new(FoldSummary::default()),
            evaluation: artifact("evaluation"),
            weights: Some(artifact("weights")),
            predictions: None,
        });
    }
    facts.push(Fact::Exited {
        exit: ProcessExit::Code(0),
        finished: true,
        step: None,
        message: String::new(),
        stopped: false,
        missing: Vec::new(),
    });
    facts
}

/// Memory of a scheduler with a study and a fleet, all slots in use, in MiB.
fn memory(trials: u32, workers: u32) -> f64 {
    let before = resident_kib();
    let mut core = Core::new(CoreConfig::default());
    drop(core.on_study_submitted(1, spec(trials, 1), dataset(), None));
    for worker in 0..workers {
        drop(core.on_worker_connected(1, &hello(worker, 8)));
    }
    let after = resident_kib();
    drop(core);
    after.saturating_sub(before) as f64 / 1024.0
}

/// Processor time of this thread so far: other processes on the machine must not count.
fn processor_time() -> Option<Duration> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    times.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Resident memory of this process in KiB; 0 where the system does not tell.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn hello(worker: u32, slots: u32) -> Hello {
    let slot = |index| Slot { index: SlotIndex(index), device: Device::Cpu };
    Hello {
        worker: WorkerId(format!("w{worker}")),
        name: format!("host-{worker}"),
        slots: (0..slots).map(slot).collect(),
        running: Vec::new(),
    }
}

fn spec(trials: u32, ranks: u32) -> Box<StudySpec> {
    // Many folds rather than many seeds: a spec travels with every rank.
    let folds = (1..=100).rev().find(|folds| trials.is_multiple_of(*folds)).unwrap_or(1).max(2);
    let seeds: Vec<u32> = (0..trials / folds).collect();
    let text = format!(
        "name = \"bench\"\ndataset = \"d\"\narms = [\"mti-net\"]\nfolds = {folds}\nseeds = {seeds:?}\n\
         [train]\nreplicas = {ranks}\n[resources]\nranks = {ranks}\n"
    );
    Box::new(StudySpec::from_toml(&text).expect("a spec made here is valid"))
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
