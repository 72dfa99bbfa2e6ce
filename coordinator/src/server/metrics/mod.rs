//! What a coordinator exports to Prometheus: counted where it happens, or read from the scheduler's state at a scrape.

mod calls;
mod speed;
mod state;
mod wait;

use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mtinet_domain::StudyId;
use mtinet_domain::event::{Event, Recorded};
use mtinet_domain::trial::AttemptEnd;
use mtinet_runtime::metrics::{
    Counter, Family, Gauge, Histogram, Info, Registry, Unit, register_process, seconds_from, text,
};

pub use calls::CountLayer;

use self::speed::SpeedGauges;
use self::state::StateGauges;
use self::wait::WaitClock;
use super::artifacts::{Artifacts, Traffic};
use super::driver::Handle;

/// A label and its value.
type Label = [(&'static str, &'static str); 1];

/// The size of the artifact store is looked up this often at most: every file is listed for it.
const STORE_AGE: Duration = Duration::from_secs(60);

/// All metrics of a coordinator. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    state: StateGauges,
    speed: SpeedGauges,
    attempts_started: Counter,
    attempts_ended: Family<Label, Counter>,
    events: Family<Label, Counter>,
    metric_points: Counter,
    queue_wait: Histogram,
    decision: Histogram,
    commit: Histogram,
    commit_events: Histogram,
    subscribers: Gauge,
    stored_bytes: Gauge,
    calls: calls::Calls,
    waits: Mutex<WaitClock>,
    store_looked_at: Mutex<Option<Instant>>,
}

impl Metrics {
    /// Metrics that count nothing yet. `traffic` is that of the artifact store.
    pub fn new(traffic: &Traffic) -> Self {
        let mut registry = Registry::default();
        register_process(&mut registry);
        let ours = registry.sub_registry_with_prefix("mtinet");
        let state = StateGauges::register(ours);
        let speed = SpeedGauges::register(ours);
        ours.register("build", "The release that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let attempts_started =
            counter(ours, "attempts_started", "Attempts that were placed on a gang of slots");
        let attempts_ended = family(ours, "attempts_ended", "Attempts that are over, by how they ended");
        let events = family(ours, "events", "Events that were recorded, by kind");
        let metric_points = counter(ours, "metric_points", "Measured values of trainings that were recorded");
        let queue_wait = seconds(ours, "queue_wait", "From when a trial could start to its start", 0.01, 22);
        let decision = seconds(ours, "decision", "The scheduler's work on a batch of inputs", 1e-5, 18);
        let commit =
            seconds(ours, "commit", "From handing events over until they are safe on disk", 1e-4, 18);
        let commit_events = batches(ours);
        let subscribers = gauge(ours, "event_subscribers", "Clients that follow events as they are recorded");
        let help = "Files in the artifact store, looked up once a minute";
        let stored_bytes = Gauge::default();
        ours.register_with_unit("artifact_stored", help, Unit::Bytes, stored_bytes.clone());
        let (received, sent) = (traffic.received.clone(), traffic.sent.clone());
        let help = "Content of files that were taken in";
        ours.register_with_unit("artifact_received", help, Unit::Bytes, received);
        ours.register_with_unit("artifact_sent", "Content of files that were given out", Unit::Bytes, sent);
        let calls = calls::Calls::register(ours);
        Self(Arc::new(Inner {
            registry,
            state,
            speed,
            attempts_started,
            attempts_ended,
            events,
            metric_points,
            queue_wait,
            decision,
            commit,
            commit_events,
            subscribers,
            stored_bytes,
            calls,
            waits: Mutex::default(),
            store_looked_at: Mutex::default(),
        }))
    }

    /// A layer that counts calls.
    pub fn layer(&self) -> CountLayer {
        CountLayer::new(self.0.calls.clone())
    }

    /// Takes in what the log holds, which is not counted again: only who waits since when.
    pub fn replay(&self, recorded: &Recorded) {
        let _ = lock(&self.0.waits).apply(recorded.study, recorded.time_ms, &recorded.event);
    }

    /// The scheduler took so long for a batch of inputs.
    pub fn decided(&self, took: Duration) {
        self.0.decision.observe(took.as_secs_f64());
    }

    /// Events are about to be recorded.
    pub fn recording(&self, now_ms: u64, events: &[(StudyId, Event)]) {
        let mut waits = lock(&self.0.waits);
        for (study, event) in events {
            self.0.events.get_or_create(&[("kind", event.kind())]).inc();
            self.0.speed.apply(*study, event);
            match event {
                Event::Metrics { records, .. } => {
                    let points: usize = records.iter().map(|record| record.values.len()).sum();
                    self.0.metric_points.inc_by(points as u64);
                }
                Event::AttemptStarted { .. } => {
                    self.0.attempts_started.inc();
                }
                Event::AttemptEnded { end, .. } => {
                    self.0.attempts_ended.get_or_create(&[("outcome", outcome(end))]).inc();
                }
                _ => {}
            }
            if let Some(waited_ms) = waits.apply(*study, now_ms, event) {
                self.0.queue_wait.observe(waited_ms as f64 / 1000.0);
            }
        }
    }

    /// So many events were made safe in this time.
    pub fn committed(&self, events: usize, took: Duration) {
        self.0.commit_events.observe(events as f64);
        self.0.commit.observe(took.as_secs_f64());
    }

    async fn render(&self, driver: &Handle, artifacts: &Artifacts) -> String {
        if let Ok(seen) = driver.look(|core, _| state::Seen::of(core)).await {
            self.0.state.set(&seen);
        }
        self.0.subscribers.set(i64::try_from(driver.subscribers()).unwrap_or(i64::MAX));
        self.look_at_store(artifacts).await;
        text(&self.0.registry)
    }

    async fn look_at_store(&self, artifacts: &Artifacts) {
        let now = Instant::now();
        {
            let mut looked = lock(&self.0.store_looked_at);
            if looked.is_some_and(|at| now.duration_since(at) < STORE_AGE) {
                return;
            }
            *looked = Some(now);
        }
        match artifacts.stored_bytes().await {
            Ok(bytes) => {
                self.0.stored_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
            Err(status) => tracing::debug!(%status, "the size of the artifact store is not known"),
        }
    }
}

/// What a running coordinator exports. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Export {
    pub(super) metrics: Metrics,
    pub(super) driver: Handle,
    pub(super) artifacts: Artifacts,
}

impl Export {
    /// The text of a scrape. Of a coordinator that ends, its last state.
    pub async fn text(&self) -> String {
        self.metrics.render(&self.driver, &self.artifacts).await
    }
}

fn outcome(end: &AttemptEnd) -> &'static str {
    match end {
        AttemptEnd::Completed => "completed",
        AttemptEnd::Failed(_) => "failed",
        AttemptEnd::WorkerLost { .. } => "worker_lost",
        AttemptEnd::Cancelled => "cancelled",
        AttemptEnd::Paused => "paused",
        AttemptEnd::Drained { .. } => "drained",
        AttemptEnd::Unfit { .. } => "unfit",
        AttemptEnd::Widened => "widened",
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn family(registry: &mut Registry, name: &str, help: &str) -> Family<Label, Counter> {
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

fn seconds(registry: &mut Registry, name: &str, help: &str, first: f64, buckets: u16) -> Histogram {
    let histogram = seconds_from(first, buckets);
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

fn batches(registry: &mut Registry) -> Histogram {
    let histogram = seconds_from(1.0, 13);
    registry.register("commit_events", "Events that went into one commit", histogram.clone());
    histogram
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they hold is whole at every panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
