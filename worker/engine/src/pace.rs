//! How fast a trial trains, and what it waits for: to the log now and then, and as a trace of some steps where one is asked for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mtinet_torch_ext::Profile;

use crate::EngineError;

/// How often the log says how fast it goes.
const INTERVAL: Duration = Duration::from_secs(60);

/// Steps before those that are recorded: the first ones pay for memory and for choices that are kept.
const WARM_UP: u64 = 5;

/// Steps that are recorded.
const RECORDED: u64 = 5;

/// Speed since the last line of the log.
pub(crate) struct Pace {
    since: Instant,
    steps: u64,
    /// Waiting for samples to be on the device.
    data: Duration,
    /// Samples of a step over all ranks.
    samples: u64,
}

impl Pace {
    pub(crate) fn new(samples: u64) -> Self {
        Self { since: Instant::now(), steps: 0, data: Duration::ZERO, samples }
    }

    /// A step is done, of which `data` went by with preparing samples.
    pub(crate) fn step(&mut self, data: Duration) {
        self.steps += 1;
        self.data += data;
        if self.since.elapsed() >= INTERVAL {
            self.tell();
        }
    }

    /// A line for what is not told yet. Evaluations and checkpoints since then are part of the time.
    pub(crate) fn tell(&mut self) {
        let seconds = self.since.elapsed().as_secs_f64();
        if self.steps > 0 && seconds > 0.0 {
            let steps = self.steps as f64;
            let (milliseconds, data) = (1e3 * seconds / steps, 1e3 * self.data.as_secs_f64() / steps);
            let rate = self.samples as f64 * steps / seconds;
            tracing::info!("{milliseconds:.1} ms a step, {data:.1} ms of it for data; {rate:.1} samples/s");
        }
        *self = Self::new(self.samples);
    }
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
