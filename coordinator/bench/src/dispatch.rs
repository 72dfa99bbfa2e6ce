//! No-op trials and gangs through the whole coordinator: network, scheduler, disk.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::agent::{Fleet, Plan, Work};
use crate::coordinator::{Coordinator, Program, own_cpu};
use crate::study;
use crate::subscriber::Clock;

/// The longest that a bench waits for its study.
const PATIENCE: Duration = Duration::from_secs(600);

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Trials of the study.
    pub trials: u32,
    /// Ranks of each.
    pub ranks: u32,
    /// Agents.
    pub workers: u32,
    /// Slots of each.
    pub slots: u32,
}

/// What it came to.
#[derive(Debug)]
pub struct Outcome {
    /// From the submission to the study's end.
    pub wall: Duration,
    /// Processor time of the coordinator meanwhile.
    pub cpu: Duration,
    /// Processor time of the load generator meanwhile.
    pub own_cpu: Duration,
    /// Seconds from a rank's end to its slot's next assignment.
    pub turnaround: Vec<f64>,
    /// Most resident memory of the coordinator, in MiB.
    pub memory_mib: f64,
}

/// Runs a study of no-op trials to its end.
///
/// # Errors
/// A study that does not complete.
pub async fn run(program: &Program, options: Options) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let coordinator = Coordinator::start(program, &dir.path().join("data")).await?;
    let access = coordinator.worker().await?;
    let Options { trials, ranks, workers, slots } = options;
    let plan = Plan { url: coordinator.url(), access, workers, slots, work: Work::NoOp };
    let fleet = Fleet::start(&plan, Clock::start());
    fleet.wait_for_sessions(workers, PATIENCE).await?;
    let mut client = coordinator.client().await?;
    let spec = study::spec(trials, ranks)?;
    let (cpu, own, began) = (coordinator.cpu()?, own_cpu(), Instant::now());
    let study = study::submit(&mut client, &spec).await?;
    study::wait_for(&mut client, study, "done", trials, PATIENCE).await?;
    let wall = began.elapsed();
    let turnaround =
        std::mem::take(&mut *fleet.tally.turnaround.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Outcome {
        wall,
        cpu: coordinator.cpu()?.saturating_sub(cpu),
        own_cpu: own_cpu().saturating_sub(own),
        turnaround,
        memory_mib: coordinator.peak_memory_mib()?,
    })
}
