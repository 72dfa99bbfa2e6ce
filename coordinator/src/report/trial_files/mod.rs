//! Files of each trial beside a report, written from the study's events as they come: TensorBoard's event file, a
//! training log, and `progress.png`.
//!
//! An event file grows while it is written and may be read meanwhile; what was there of an earlier writing is replaced
//! once the new one holds as much ([`TrialFiles::publish`]).

mod tensorboard;
mod training_log;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use mtinet_domain::event::{Event, MetricScope, Recorded};
use mtinet_domain::{AttemptNumber, TrialKey};

use self::tensorboard::Events;
#[cfg(test)]
pub(super) use self::tensorboard::scalars;
use self::training_log::TrainingLog;
use super::curves::LearningCurves;
use super::figures::{Pictures, progress_png, trial_picture};
use super::write::{WriteError, write_atomically};

/// Bytes of a trial that wait in memory at most.
const BUFFER: usize = 64 << 10;

/// What a training log is called.
const LOG: &str = "training_log.txt";
/// The figure beside it.
const PROGRESS: &str = "progress.png";

/// The files of all trials of a study, on their way.
#[derive(Debug)]
pub struct TrialFiles {
    tensorboard: PathBuf,
    logs: PathBuf,
    study: String,
    trials: BTreeMap<TrialKey, TrialFile>,
    /// Whether the files stand in their places, so that every further event goes there at once.
    published: bool,
}

/// One trial's.
#[derive(Debug)]
struct TrialFile {
    attempt: AttemptNumber,
    events: Events,
    log: TrainingLog,
    curves: LearningCurves,
    event_file: Growing,
    log_file: Growing,
    /// Something was measured since the figure was drawn.
    is_stale: bool,
    steps: u64,
}

impl TrialFiles {
    /// Files below `root/tensorboard` and `root/logs`, by ARM/FOLD/SEED.
    pub fn new(root: &Path) -> Self {
        Self {
            tensorboard: root.join("tensorboard"),
            logs: root.join("logs"),
            study: String::new(),
            trials: BTreeMap::new(),
            published: false,
        }
    }

    /// Takes in the study's next event, from the first on.
    ///
    /// # Errors
    /// A disk that is full, a directory that cannot be written.
    pub fn apply(&mut self, recorded: &Recorded) -> Result<(), WriteError> {
        if let Event::StudySubmitted { spec, .. } = &recorded.event {
            self.study = format!("{} ({})", recorded.study, spec.name);
        }
        let Some(key) = recorded.event.trial() else { return Ok(()) };
        if let Event::AttemptStarted { attempt, .. } = &recorded.event {
            self.begin(key, *attempt, recorded.time_ms)?;
        }
        let Some(trial) = self.trials.get_mut(&key) else { return Ok(()) };
        trial.apply(recorded)
    }

    /// The files of a trial begin with its first attempt.
    fn begin(&mut self, key: TrialKey, attempt: AttemptNumber, time_ms: u64) -> Result<(), WriteError> {
        if let Some(trial) = self.trials.get_mut(&key) {
            trial.attempt = trial.attempt.max(attempt);
            return Ok(());
        }
        let (board, logs) = (self.tensorboard.join(key.to_string()), self.logs.join(key.to_string()));
        let mut event_file = Growing::new(board.join(tensorboard::file_name(time_ms)))?;
        let mut log_file = Growing::new(logs.join(LOG))?;
        event_file.push(&Events::begin(time_ms))?;
        log_file.push(TrainingLog::begin(time_ms, &self.study, key).as_bytes())?;
        if self.published {
            event_file.publish()?;
            log_file.publish()?;
        }
        let trial = TrialFile {
            attempt,
            events: Events::default(),
            log: TrainingLog::default(),
            curves: LearningCurves::default(),
            event_file,
            log_file,
            is_stale: false,
            steps: 0,
        };
        self.trials.insert(key, trial);
        Ok(())
    }

    /// Puts everything taken in so far in its place, and draws the figures of the trials that have measured since.
    ///
    /// # Errors
    /// As [`TrialFiles::apply`].
    pub fn publish(&mut self) -> Result<(), WriteError> {
        self.published = true;
        for (key, trial) in &mut self.trials {
            trial.event_file.publish()?;
            trial.log_file.publish()?;
            if std::mem::take(&mut trial.is_stale)
                && let Some(png) = progress_png(&key.to_string(), &trial.curves)
            {
                write_atomically(&self.logs.join(key.to_string()).join(PROGRESS), &png)?;
            }
        }
        Ok(())
    }

    /// Adds the segmentations that the report shows, each to the trial that made it, and publishes.
    ///
    /// # Errors
    /// As [`TrialFiles::apply`].
    pub fn finish(
        mut self,
        results: &super::StudyResults,
        pictures: &Pictures,
    ) -> Result<Vec<PathBuf>, WriteError> {
        let seed = results.spec.seeds.first().copied().unwrap_or_default();
        let mut drawn = BTreeSet::new();
        for picture in &pictures.shown {
            for arm in picture.predicted.iter().filter(|(_, mask)| mask.is_ok()).map(|(arm, _)| *arm) {
                let key = TrialKey { arm, fold: picture.chosen.fold, seed };
                let tag = format!("segmentation/{}", picture.chosen.subject);
                let Some(trial) = self.trials.get_mut(&key) else { continue };
                if !drawn.insert((key, tag.clone())) {
                    continue;
                }
                if let Some((size, png)) = trial_picture(results, picture, arm) {
                    let bytes = Events::image(results.last_event_ms, trial.steps, &tag, size, png);
                    trial.event_file.push(&bytes)?;
                }
            }
        }
        self.publish()?;
        Ok(vec![self.tensorboard, self.logs])
    }
}

impl TrialFile {
    fn apply(&mut self, recorded: &Recorded) -> Result<(), WriteError> {
        let time_ms = recorded.time_ms;
        match &recorded.event {
            Event::AttemptStarted { resume, .. } => {
                let after = resume.as_ref().map_or(0, |checkpoint| checkpoint.step);
                self.curves.resume_at(after);
                self.event_file.push(&self.events.resume(time_ms, after))?;
            }
            // Of an attempt that is over: its steps are taken again.
            Event::Metrics { attempt, .. } if *attempt < self.attempt => return Ok(()),
            Event::Metrics { records, .. } => {
                for record in records {
                    let bytes = self.events.measure(time_ms, record);
                    self.event_file.push(&bytes)?;
                    let mut timed = record.clone();
                    if record.scope != MetricScope::HeldOut {
                        self.steps = record.step;
                        timed.values.insert(super::figures::TRAIN_SECONDS.to_owned(), record.train_seconds);
                    }
                    self.curves.add(&timed);
                    self.is_stale = true;
                }
            }
            _ => {}
        }
        let lines = self.log.apply(time_ms, &recorded.event);
        self.log_file.push(lines.as_bytes())
    }
}

/// A file that is appended to: beside its place until it is published, then in it.
#[derive(Debug)]
struct Growing {
    path: PathBuf,
    waiting: Vec<u8>,
    is_published: bool,
}

impl Growing {
    /// Makes the directory and an empty file beside the place.
    fn new(path: PathBuf) -> Result<Self, WriteError> {
        let growing = Self { path, waiting: Vec::new(), is_published: false };
        let staging = growing.staging();
        let directory = staging.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)
            .and_then(|()| File::create(&staging))
            .map_err(|source| WriteError::Io { path: staging, source })?;
        Ok(growing)
    }

    fn staging(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        // TensorBoard reads whatever has `tfevents` in its name.
        self.path.with_file_name(format!(".writing-{}", name.replace("tfevents", "events")))
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.waiting.extend(bytes);
        if self.waiting.len() > BUFFER { self.flush() } else { Ok(()) }
    }

    /// Opened anew each time: a study may have more trials than a process may have files.
    fn flush(&mut self) -> Result<(), WriteError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let path = if self.is_published { self.path.clone() } else { self.staging() };
        let appended =
            File::options().append(true).open(&path).and_then(|mut file| file.write_all(&self.waiting));
        self.waiting.clear();
        appended.map_err(|source| WriteError::Io { path, source })
    }

    fn publish(&mut self) -> Result<(), WriteError> {
        self.flush()?;
        if !self.is_published {
            let failed = |source| WriteError::Io { path: self.path.clone(), source };
            std::fs::rename(self.staging(), &self.path).map_err(failed)?;
            self.is_published = true;
        }
        Ok(())
    }
}
