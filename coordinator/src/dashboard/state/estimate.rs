//! When a study will be over: what is left of each trial, played onto as many places as trials run now.

use mtinet_domain::Arm;
use mtinet_domain::trial::TrialStatus;

use super::study::{StudyState, Trial};

impl StudyState {
    /// Seconds until the study's last trial is over, if as many trials go on side by side as do now. None while nothing
    /// runs, or nothing has run for long enough to tell.
    ///
    /// A trial that has not begun is taken to last as long as the mean of its arm's others, or of all where none of
    /// its arm has run.
    pub fn seconds_left(&self, now_ms: u64) -> Option<f64> {
        let whole = Durations::of(self, now_ms);
        // The end of each place's work, seconds from now.
        let mut places: Vec<f64> = Vec::new();
        let mut waiting = Vec::new();
        for trial in self.trials() {
            let left = 1.0 - self.fraction(trial.progress);
            match trial.progress.status {
                TrialStatus::Running => {
                    let pace = trial.progress.seconds_left(self.train()?, self.steps_per_epoch());
                    places.push(
                        pace.map_or_else(
                            || whole.expected(trial.result.key.arm).map(|all| all * left),
                            Some,
                        )?,
                    );
                }
                TrialStatus::Waiting => waiting.push(whole.expected(trial.result.key.arm)? * left),
                _ => {}
            }
        }
        if places.is_empty() {
            return None;
        }
        for seconds in waiting {
            // The next trial goes where a place is free first.
            if let Some(first) = places.iter_mut().min_by(|a, b| a.total_cmp(b)) {
                *first += seconds;
            }
        }
        places.into_iter().max_by(f64::total_cmp)
    }
}

/// How long whole trials take, from those that ran.
struct Durations {
    arms: Vec<(Arm, f64, u32)>,
}

impl Durations {
    fn of(study: &StudyState, now_ms: u64) -> Self {
        let mut arms: Vec<(Arm, f64, u32)> = Vec::new();
        for trial in study.trials() {
            let Some(whole) = whole(study, trial, now_ms) else { continue };
            let arm = trial.result.key.arm;
            match arms.iter_mut().find(|(known, ..)| *known == arm) {
                Some((_, sum, n)) => {
                    *sum += whole;
                    *n += 1;
                }
                None => arms.push((arm, whole, 1)),
            }
        }
        Self { arms }
    }

    /// Of an arm that has not run yet, the mean of all.
    fn expected(&self, arm: Arm) -> Option<f64> {
        let mean = |sum: f64, n: u32| (n > 0).then(|| sum / f64::from(n));
        match self.arms.iter().find(|(known, ..)| *known == arm) {
            Some(&(_, sum, n)) => mean(sum, n),
            None => {
                mean(self.arms.iter().map(|(_, sum, _)| sum).sum(), self.arms.iter().map(|(.., n)| n).sum())
            }
        }
    }
}

/// How long a trial takes from its start to its end. While it trains that is told by its pace: how long its data took to
/// load says nothing about the rest.
fn whole(study: &StudyState, trial: Trial<'_>, now_ms: u64) -> Option<f64> {
    match trial.progress.status {
        TrialStatus::Done => Some(trial.running_ms(now_ms) as f64 / 1000.0),
        TrialStatus::Running | TrialStatus::Stopping => {
            let steps = trial.progress.total_steps(study.train()?, study.steps_per_epoch())?;
            Some(trial.progress.pace.step_seconds()? * steps)
        }
        _ => None,
    }
}
