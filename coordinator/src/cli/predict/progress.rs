//! Progress over slices: a bar on a terminal, plain lines elsewhere, with the rate and an estimate of what is left.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::output::{say, span};

/// Plain lines come no faster than this.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Progress of a prediction.
pub struct Progress {
    bar: ProgressBar,
    /// Slices up to the end of each case.
    ends: Vec<u64>,
    cases: Cell<usize>,
    slices: Cell<u64>,
    /// Answered by networks: what the rate is made of.
    answered: Cell<u64>,
    since: Cell<Instant>,
    last_line: Cell<Instant>,
}

impl Progress {
    /// Begins; `slices` are those of each case.
    pub fn new(slices: &[u64]) -> Self {
        let ends: Vec<u64> = slices
            .iter()
            .scan(0, |sum, slices| {
                *sum += slices;
                Some(*sum)
            })
            .collect();
        let all = ends.last().copied().unwrap_or(0);
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(all) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("{msg} {wide_bar} {percent:>3} %");
        // The template is a constant, and a wrong one is no reason to stop.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
        bar.set_message("loading the networks");
        let now = Instant::now();
        Self {
            bar,
            ends,
            cases: Cell::new(0),
            slices: Cell::new(0),
            answered: Cell::new(0),
            since: Cell::new(now),
            last_line: Cell::new(now),
        }
    }

    /// The networks are loaded.
    pub fn ready(&self, device: &str) {
        self.since.set(Instant::now());
        self.bar.set_message(format!("predicting on {device}"));
        if self.bar.is_hidden() {
            say(format_args!("predicting {} cases, {} slices, on {device}", self.ends.len(), self.all()));
        }
    }

    /// More slices of the present case are answered.
    pub fn slices(&self, count: u64) {
        self.slices.set(self.slices.get() + count);
        self.answered.set(self.answered.get() + count);
        self.show();
    }

    /// The present case is done or refused.
    pub fn case_over(&self) {
        // A case that was refused has slices that are never answered.
        self.slices.set(self.ends.get(self.cases.get()).copied().unwrap_or_default());
        self.cases.set(self.cases.get() + 1);
        self.show();
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn all(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    fn show(&self) {
        self.bar.set_position(self.slices.get());
        let words = self.words(self.since.get().elapsed());
        if !self.bar.is_hidden() {
            self.bar.set_message(words);
        } else if self.last_line.get().elapsed() >= LINE_INTERVAL {
            self.last_line.set(Instant::now());
            say(words);
        }
    }

    fn words(&self, elapsed: Duration) -> String {
        let (done, all) = (self.slices.get(), self.all());
        let cases = format!("case {} of {}", (self.cases.get() + 1).min(self.ends.len()), self.ends.len());
        let rate = self.answered.get() as f64 / elapsed.as_secs_f64().max(1e-3);
        if self.answered.get() == 0 {
            return cases;
        }
        let left = span(all.saturating_sub(done) as f64 / rate);
        format!("{cases}, {rate:.1} slices/s, about {left} left")
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_follows_from_what_was_answered() {
        let progress = Progress::new(&[20, 30, 50]);
        assert_eq!(progress.words(Duration::from_secs(1)), "case 1 of 3");
        progress.slices(16);
        progress.slices(4);
        progress.case_over();
        assert_eq!(progress.words(Duration::from_secs(10)), "case 2 of 3, 2.0 slices/s, about 40 s left");
        // Refused without an answer: its slices are over, but they do not make the rate.
        progress.case_over();
        assert_eq!(progress.words(Duration::from_secs(10)), "case 3 of 3, 2.0 slices/s, about 25 s left");
        progress.slices(50);
        progress.case_over();
        assert_eq!(progress.words(Duration::from_secs(35)), "case 3 of 3, 2.0 slices/s, about 0 s left");
    }
}
