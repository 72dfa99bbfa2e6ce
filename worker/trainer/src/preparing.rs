//! What the log says while the slices of a data set are prepared, which takes minutes where there are thousands of cases.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines come no faster than this.
const INTERVAL: Duration = Duration::from_secs(5);

/// The preparing of slices, for those who read the log.
#[derive(Debug)]
pub(crate) struct Preparing {
    began: Instant,
    told: Mutex<Instant>,
}

impl Preparing {
    /// Begins now.
    pub(crate) fn begin() -> Self {
        let began = Instant::now();
        Self { began, told: Mutex::new(began) }
    }

    /// `done` of `all` cases are prepared; may be called as often as one likes, and from several threads.
    pub(crate) fn tell(&self, done: u64, all: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= INTERVAL || (done == all && *told > self.began) {
            *told = Instant::now();
            tracing::info!("{}", words(done, all, self.began.elapsed()));
        }
    }
}

fn words(done: u64, all: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let left = (all - done.min(all)) as f64 / rate.max(1e-9);
    format!("preparing slices: {done} of {all} cases, {rate:.1} a second, about {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_made_of_the_rate_so_far() {
        let said = words(50, 200, Duration::from_secs(10));
        assert_eq!(said, "preparing slices: 50 of 200 cases, 5.0 a second, about 30 s left");
        assert!(words(200, 200, Duration::ZERO).ends_with("about 0 s left"));
    }
}
