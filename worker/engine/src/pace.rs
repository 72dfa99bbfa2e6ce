//! How fast a trial trains, and what it waits for: as measurements, to the log now and then, and as a trace of some steps
//! where one is asked for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mtinet_domain::event::SPEED;
use mtinet_torch_ext::Profile;

use crate::EngineError;

/// How often a step's measurements and the log say how fast it goes.
const INTERVAL: Duration = Duration::from_secs(60);

/// Steps before those that are recorded: the first ones pay for memory and for choices that are kept.
const WARM_UP: u64 = 5;

/// Steps that are recorded.
const RECORDED: u64 = 5;

/// Speed of the steps alone: evaluations and checkpoints between them are no part of it.
pub(crate) struct Pace {
    /// Samples of a step over all ranks.
    samples: u64,
    since: Instant,
    /// Since the last line of the log.
    recent: Steps,
    /// Since the epoch began, or this process.
    epoch: Steps,
}

/// Some steps together.
#[derive(Clone, Copy, Debug, Default)]
struct Steps {
    count: u64,
    seconds: f64,
    /// Waiting for samples to be on the device.
    data: f64,
}

impl Pace {
    pub(crate) fn new(samples: u64) -> Self {
        Self { samples, since: Instant::now(), recent: Steps::default(), epoch: Steps::default() }
    }

    /// A step is done that took so long, of which `data` went by with preparing samples.
    pub(crate) fn step(&mut self, took: Duration, data: Duration) {
        for steps in [&mut self.recent, &mut self.epoch] {
            steps.count += 1;
            steps.seconds += took.as_secs_f64();
            steps.data += data.as_secs_f64();
        }
    }

    /// Every minute the speed since the last time, which the log is told, too; else nothing.
    pub(crate) fn now_and_then(&mut self) -> Vec<(String, f64)> {
        if self.since.elapsed() < INTERVAL { Vec::new() } else { self.tell() }
    }

    /// A line in the log for the steps that it has not told of yet.
    pub(crate) fn tell(&mut self) -> Vec<(String, f64)> {
        self.since = Instant::now();
        let steps = std::mem::take(&mut self.recent);
        let Some([seconds, data_wait, rate]) = steps.speed(self.samples) else { return Vec::new() };
        let (milliseconds, data) = (1e3 * seconds, 1e3 * seconds * data_wait);
        tracing::info!("{milliseconds:.1} ms a step, {data:.1} ms of it for data; {rate:.1} samples/s");
        named([seconds, data_wait, rate])
    }

    /// The speed of the epoch that ends here; nothing where this process has made no step of it.
    pub(crate) fn end_epoch(&mut self) -> Vec<(String, f64)> {
        let steps = std::mem::take(&mut self.epoch);
        steps.speed(self.samples).map(named).unwrap_or_default()
    }
}

impl Steps {
    /// In the order of [`SPEED`].
    fn speed(self, samples: u64) -> Option<[f64; 3]> {
        let Self { count, seconds, data } = self;
        let steps = count as f64;
        (count > 0 && seconds > 0.0)
            .then(|| [seconds / steps, (data / seconds).min(1.0), samples as f64 * steps / seconds])
    }
}

fn named(values: [f64; 3]) -> Vec<(String, f64)> {
    SPEED.iter().zip(values).map(|(name, value)| ((*name).to_owned(), value)).collect()
}

/// The trace of some steps of this rank.
pub(crate) struct Trace {
    path: Option<PathBuf>,
    steps: u64,
    profile: Option<Profile>,
}

impl Trace {
    /// To this file; nothing without one.
    pub(crate) fn new(path: Option<PathBuf>) -> Self {
        Self { path, steps: 0, profile: None }
    }

    /// Before each step of this process. A trial that ends while it is recorded leaves no trace.
    pub(crate) fn before_step(&mut self) -> Result<(), EngineError> {
        self.steps += 1;
        if self.path.is_some() && self.steps == WARM_UP + 1 {
            self.profile = Some(Profile::start()?);
        }
        if self.steps == WARM_UP + RECORDED + 1
            && let (Some(profile), Some(path)) = (self.profile.take(), self.path.take())
        {
            profile.save(&path)?;
            tracing::info!("wrote a trace of {RECORDED} steps to {}", path.display());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_the_means_of_its_steps() {
        let mut pace = Pace::new(8);
        assert!(pace.end_epoch().is_empty());
        pace.step(Duration::from_millis(300), Duration::from_millis(100));
        pace.step(Duration::from_millis(100), Duration::ZERO);
        assert!(pace.now_and_then().is_empty(), "a minute is not over");
        let speed = pace.end_epoch();
        let expected = [("step_seconds", 0.2), ("data_wait", 0.25), ("samples_per_second", 40.0)];
        for ((name, value), (wanted, about)) in speed.iter().zip(expected) {
            assert!(name == wanted && (value - about).abs() < 1e-9, "{speed:?}");
        }
        assert!(pace.end_epoch().is_empty(), "the next epoch begins anew");
        assert_eq!(pace.tell(), speed, "the log has its own count");
        assert!(pace.tell().is_empty());
    }
}
