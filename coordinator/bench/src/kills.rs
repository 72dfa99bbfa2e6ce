//! `kill -9` of a coordinator whose fleet trains: what is back when, what is lost, what is started again.

use std::collections::{BTreeSet, HashMap};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::ensure;
use mtinet_domain::event::Event;
use mtinet_proto::v1::StreamEventsRequest;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_runtime::net::Channel;

use crate::agent::{Batch, Fleet, Plan, Work};
use crate::coordinator::{Coordinator, Program};
use crate::study;
use crate::subscriber::Clock;

const PATIENCE: Duration = Duration::from_secs(120);

/// How much of what.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often the coordinator is killed.
    pub kills: u32,
    /// Agents.
    pub workers: u32,
    /// Slots of each, all of which train.
    pub slots: u32,
}

/// What it came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Seconds from the start of the new process to its first answer, of each kill.
    pub back: Vec<f64>,
    /// Seconds until every agent had its session again.
    pub whole: Vec<f64>,
    /// Acknowledged reports that a restarted coordinator did not know, or that the log does not hold.
    pub lost: u64,
    /// Reports that the log holds twice.
    pub doubled: u64,
    /// Attempts beyond the first of each trial.
    pub restarted: u64,
    /// Ranks that were told to stop.
    pub stopped: u64,
    /// Events in the log at the end.
    pub events: u64,
}

/// Kills a coordinator again and again at random moments while every slot of its fleet trains and measures.
///
/// # Errors
/// A coordinator or a fleet that does not come back.
pub async fn run(program: &Program, options: Options) -> anyhow::Result<Outcome> {
    let Options { kills, workers, slots } = options;
    let dir = tempfile::tempdir()?;
    let mut coordinator = Coordinator::start(program, &dir.path().join("data")).await?;
    let access = coordinator.worker().await?;
    let work = Work::Train { every: Duration::from_millis(500), batch: Batch { records: 1, values: 3 } };
    let fleet = Fleet::start(&Plan { url: coordinator.url(), access, workers, slots, work }, Clock::start());
    fleet.wait_for_sessions(workers, PATIENCE).await?;
    let trials = workers * slots;
    let mut client = coordinator.client().await?;
    let study = study::submit(&mut client, &study::spec(trials, 1)?).await?;
    study::wait_for(&mut client, study, "running", trials, PATIENCE).await?;
    let mut outcome = Outcome::default();
    for _ in 0..kills {
        // At any moment of whatever goes on: reports on their way, a commit, an acknowledgement.
        tokio::time::sleep(Duration::from_millis(rand::random_range(1..700))).await;
        coordinator.kill()?;
        fleet.wait_until_cut(PATIENCE).await?;
        let began = Instant::now();
        outcome.back.push(coordinator.restart().await?.as_secs_f64());
        fleet.wait_for_sessions(workers, PATIENCE).await?;
        outcome.whole.push(began.elapsed().as_secs_f64());
    }
    fleet.quieten(PATIENCE).await?;
    let mut client = coordinator.client().await?;
    let status = study::summary(&mut client, study).await?;
    ensure!(status.trials.get("running") == Some(&trials), "not all trials run: {:?}", status.trials);
    outcome.lost = fleet.tally.lost_acks.load(Relaxed);
    outcome.stopped = fleet.tally.stopped.load(Relaxed);
    let measured = fleet.tally.measured.lock().unwrap_or_else(PoisonError::into_inner).clone();
    audit(&mut client, study, &measured, u64::from(trials), &mut outcome).await?;
    Ok(outcome)
}

/// Compares the log with what the agents had acknowledged.
async fn audit(
    client: &mut ClientClient<Channel>,
    study: u64,
    measured: &HashMap<String, u64>,
    trials: u64,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let request = StreamEventsRequest { study, after: 0, follow: false };
    let mut stream = client.stream_events(request).await?.into_inner();
    let mut seen: HashMap<String, BTreeSet<u64>> = HashMap::new();
    let mut started = 0;
    while let Some(event) = stream.message().await? {
        outcome.events += 1;
        ensure!(event.seq == outcome.events, "event {} follows {}", event.seq, outcome.events - 1);
        if event.kind == "attempt_started" {
            started += 1;
        }
        if let Event::Metrics { report, .. } = serde_json::from_str(&event.json)?
            && !seen.entry(report.worker.0).or_default().insert(report.seq)
        {
            outcome.doubled += 1;
        }
    }
    outcome.restarted = started - trials;
    for (worker, reports) in measured {
        let stored = seen.get(worker).map_or(0, BTreeSet::len) as u64;
        outcome.lost += reports.saturating_sub(stored);
    }
    Ok(())
}
