//! A large fleet that trains: memory, and how soon a measurement is seen.

use std::time::{Duration, Instant};

use crate::agent::{Batch, Fleet, Plan, Work};
use crate::coordinator::{Coordinator, Program, own_cpu};
use crate::study;
use crate::subscriber::{Clock, Subscriber};

const PATIENCE: Duration = Duration::from_secs(300);

/// What it came to.
#[derive(Debug)]
pub struct Outcome {
    /// Most resident memory of the coordinator, in MiB.
    pub memory_mib: f64,
    /// Seconds from sending a measurement to its arrival at a subscriber.
    pub delays: Vec<f64>,
    /// Share of one core that the coordinator used while the fleet trained.
    pub load: f64,
    /// The same of the load generator.
    pub own_load: f64,
}

/// Lets `workers` agents train `workers` x `slots` trials for `time`, each agent reporting every second.
///
/// # Errors
/// A fleet that does not come to train.
pub async fn run(program: &Program, workers: u32, slots: u32, time: Duration) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let coordinator = Coordinator::start(program, &dir.path().join("data")).await?;
    let access = coordinator.worker().await?;
    let clock = Clock::start();
    let work = Work::Train { every: Duration::from_secs(1), batch: Batch { records: 4, values: 6 } };
    let fleet = Fleet::start(&Plan { url: coordinator.url(), access, workers, slots, work }, clock);
    fleet.wait_for_sessions(workers, PATIENCE).await?;
    let mut client = coordinator.client().await?;
    let trials = workers * slots;
    let study = study::submit(&mut client, &study::spec(trials, 1)?).await?;
    study::wait_for(&mut client, study, "running", trials, PATIENCE).await?;
    let subscriber = Subscriber::follow(coordinator.client().await?, study, 0, clock);
    // What was stored before it subscribed is read first, and says nothing about delays.
    tokio::time::sleep(Duration::from_secs(2)).await;
    subscriber.take();
    let (cpu, own, began) = (coordinator.cpu()?, own_cpu(), Instant::now());
    tokio::time::sleep(time).await;
    let wall = began.elapsed().as_secs_f64();
    Ok(Outcome {
        memory_mib: coordinator.peak_memory_mib()?,
        delays: subscriber.take(),
        load: coordinator.cpu()?.saturating_sub(cpu).as_secs_f64() / wall,
        own_load: own_cpu().saturating_sub(own).as_secs_f64() / wall,
    })
}
