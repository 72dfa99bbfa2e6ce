//! Measurements as fast as the coordinator makes them durable.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::agent::{Batch, Fleet, Plan, Work};
use crate::coordinator::{Coordinator, Program, own_cpu};
use crate::study;
use crate::subscriber::{Clock, Subscriber};

const PATIENCE: Duration = Duration::from_secs(120);

/// What it came to.
#[derive(Debug)]
pub struct Outcome {
    /// Values acknowledged, and so durable, per second.
    pub points_per_second: f64,
    /// Processor time of the coordinator per 1,000 values, in milliseconds.
    pub cpu_ms_per_1000: f64,
    /// Share of one core that the coordinator used.
    pub load: f64,
    /// The same of the load generator.
    pub own_load: f64,
    /// Seconds to a subscriber under this load.
    pub delays: Vec<f64>,
}

/// Lets `workers` agents of one slot send batches for `time`, a subscriber listening.
///
/// # Errors
/// A fleet that does not come to train.
pub async fn run(program: &Program, workers: u32, batch: Batch, time: Duration) -> anyhow::Result<Outcome> {
    let dir = tempfile::tempdir()?;
    let coordinator = Coordinator::start(program, &dir.path().join("data")).await?;
    let access = coordinator.worker().await?;
    let clock = Clock::start();
    let work = Work::Flood { window: 8, batch };
    let fleet = Fleet::start(&Plan { url: coordinator.url(), access, workers, slots: 1, work }, clock);
    fleet.wait_for_sessions(workers, PATIENCE).await?;
    let mut client = coordinator.client().await?;
    let study = study::submit(&mut client, &study::spec(workers, 1)?).await?;
    study::wait_for(&mut client, study, "running", workers, PATIENCE).await?;
    let subscriber = Subscriber::follow(coordinator.client().await?, study, 0, clock);
    tokio::time::sleep(Duration::from_secs(1)).await;
    subscriber.take();
    let points = || fleet.tally.points.load(Relaxed);
    let (before, cpu, own, began) = (points(), coordinator.cpu()?, own_cpu(), Instant::now());
    tokio::time::sleep(time).await;
    let wall = began.elapsed().as_secs_f64();
    let points = (points() - before) as f64;
    let cpu = coordinator.cpu()?.saturating_sub(cpu).as_secs_f64();
    Ok(Outcome {
        points_per_second: points / wall,
        cpu_ms_per_1000: cpu * 1e6 / points.max(1.0),
        load: cpu / wall,
        own_load: own_cpu().saturating_sub(own).as_secs_f64() / wall,
        delays: subscriber.take(),
    })
}
