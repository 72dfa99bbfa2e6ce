//! Progress for a person who waits: bars on a terminal, plain lines elsewhere. All of it on standard error.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use mtinet_domain::TrialKey;

use super::follow::Tally;
use super::output::{say, span};

/// Plain lines about progress come no faster than this.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Progress of work over a known number of items; may be told from several threads. Its bar goes with it.
pub struct Counter {
    what: &'static str,
    bar: ProgressBar,
    started: Instant,
    last_line: AtomicU64,
}

impl Counter {
    /// Begins; nothing is shown of work that is over at once.
    pub fn new(what: &'static str) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
        bar.set_style(style("{msg} {wide_bar} {pos}/{len}  {per_sec}, {eta} left"));
        bar.set_message(what);
        Self { what, bar, started: Instant::now(), last_line: AtomicU64::new(0) }
    }

    /// `done` of `all` items are done.
    pub fn set(&self, done: u64, all: u64) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        if !self.bar.is_hidden() {
            return;
        }
        let elapsed = self.started.elapsed();
        let now = elapsed.as_secs();
        let last = self.last_line.load(Ordering::Relaxed);
        let due = now >= last + LINE_INTERVAL.as_secs();
        // Of several threads that find it due, one writes.
        if due && self.last_line.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            say(format_args!("{}: {}", self.what, rate_words(done, all, elapsed)));
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn rate_words(done: u64, all: u64, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64().max(1e-3);
    let left = span(all.saturating_sub(done) as f64 / rate.max(1e-9));
    format!("{done} of {all}, {rate:.1} a second, about {left} left")
}

/// Work whose length nobody knows: on a terminal a sign that it goes on, elsewhere nothing. Ends with this.
pub struct Busy(ProgressBar);

impl Busy {
    /// Begins.
    pub fn with(what: &'static str) -> Self {
        let bar =
            if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        bar.set_style(style("{spinner} {msg} {elapsed}"));
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// The display of a study that runs.
pub struct Display {
    kind: Kind,
    started: Instant,
}

enum Kind {
    Bars { all: MultiProgress, overall: ProgressBar, trials: Mutex<BTreeMap<TrialKey, ProgressBar>> },
    Lines { last: Mutex<Instant> },
}

impl Display {
    /// Bars where standard error is a terminal, lines elsewhere.
    pub fn new() -> Self {
        let kind = if std::io::stderr().is_terminal() {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let overall = all.add(ProgressBar::new(1000));
            overall.set_style(style("{elapsed:>5} {wide_bar} {percent:>3} % {msg}"));
            overall.enable_steady_tick(Duration::from_millis(500));
            Kind::Bars { all, overall, trials: Mutex::default() }
        } else {
            Kind::Lines { last: Mutex::new(Instant::now()) }
        };
        Self { kind, started: Instant::now() }
    }

    /// A line that stays.
    pub fn say(&self, line: &str) {
        match &self.kind {
            Kind::Bars { all, .. } => {
                // A terminal that cannot be written to has nobody in front of it.
                let _ = all.println(line);
            }
            Kind::Lines { .. } => {
                say(format_args!("[{:>7.1} s] {line}", self.started.elapsed().as_secs_f64()));
            }
        }
    }

    /// Shows how the study stands; may be called as often as one likes.
    pub fn show(&self, tally: &Tally) {
        match &self.kind {
            Kind::Bars { all, overall, trials } => show_bars(all, overall, trials, tally),
            Kind::Lines { last } => {
                let Ok(mut last) = last.lock() else { return };
                if last.elapsed() >= LINE_INTERVAL {
                    *last = Instant::now();
                    self.say(&summary(tally));
                }
            }
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Kind::Bars { overall, trials, .. } = &self.kind {
            if let Ok(trials) = trials.lock() {
                trials.values().for_each(ProgressBar::finish_and_clear);
            }
            overall.finish_and_clear();
        }
    }
}

fn show_bars(
    all: &MultiProgress,
    overall: &ProgressBar,
    trials: &Mutex<BTreeMap<TrialKey, ProgressBar>>,
    tally: &Tally,
) {
    overall.set_position((tally.fraction() * 1000.0) as u64);
    overall.set_message(headline(tally));
    let Ok(mut bars) = trials.lock() else { return };
    let running: BTreeMap<TrialKey, _> = tally.running().collect();
    bars.retain(|key, bar| {
        let stays = running.contains_key(key);
        if !stays {
            bar.finish_and_clear();
            all.remove(bar);
        }
        stays
    });
    for (key, (fraction, words)) in running {
        let bar = bars.entry(key).or_insert_with(|| {
            let bar = all.insert_before(overall, ProgressBar::new(1000));
            bar.set_style(style("  {prefix:<22} {bar:24} {percent:>3} % {msg}"));
            bar.set_prefix(key.to_string());
            bar
        });
        bar.set_position((fraction * 1000.0) as u64);
        bar.set_message(words);
    }
}

fn headline(tally: &Tally) -> String {
    let left =
        tally.seconds_left().map(|seconds| format!(", about {} left", span(seconds))).unwrap_or_default();
    format!("{} of {} trials done{left}", tally.done(), tally.trials())
}

fn summary(tally: &Tally) -> String {
    let running: Vec<String> = tally
        .running()
        .map(|(key, (fraction, words))| {
            format!("{key} {:.0} % {words}", fraction * 100.0).trim_end().to_owned()
        })
        .collect();
    let running = if running.is_empty() { "none running".to_owned() } else { running.join("; ") };
    format!("{}: {running}", headline(tally))
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file, and a wrong one is no reason to stop a study.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_is_made_of_the_rate_so_far() {
        assert_eq!(rate_words(30, 120, Duration::from_secs(10)), "30 of 120, 3.0 a second, about 30 s left");
    }
}
