//! What happened in a study, in lines for people. Measurements are left out: they are drawn as curves.

use std::collections::VecDeque;

use mtinet_domain::TrialKey;
use mtinet_domain::event::{Event, Recorded, StudyOutcome};
use mtinet_domain::trial::AttemptEnd;

use super::words::{end_words, figure, one_line, ranks_words};

/// Most lines kept.
const MOST: usize = 20_000;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Bookkeeping: checkpoints, rendezvous, single ranks.
    Detail,
    /// The course of things.
    Info,
    /// Something was achieved.
    Good,
    /// Something went wrong and is taken care of.
    Warning,
    /// Something was given up.
    Problem,
}

/// Which lines are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Show {
    /// All but bookkeeping.
    #[default]
    Main,
    /// Everything.
    All,
    /// Warnings and problems.
    Problems,
}

impl Show {
    /// The next choice in a circle.
    pub fn next(self) -> Self {
        match self {
            Self::Main => Self::All,
            Self::All => Self::Problems,
            Self::Problems => Self::Main,
        }
    }

    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::All => "all",
            Self::Problems => "problems",
        }
    }

    /// Whether a line is shown.
    pub fn shows(self, level: Level) -> bool {
        match self {
            Self::All => true,
            Self::Main => level >= Level::Info,
            Self::Problems => level >= Level::Warning,
        }
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the event.
    pub seq: u64,
    /// When it was recorded, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// How much it matters.
    pub level: Level,
    /// The trial that it is about.
    pub trial: Option<TrialKey>,
    /// What happened.
    pub text: String,
    // What a filter is looked for in.
    folded: String,
}

impl Entry {
    /// Whether it holds a filter's text, given in lower case.
    pub fn matches(&self, filter: &str) -> bool {
        filter.is_empty() || self.folded.contains(filter)
    }
}

/// The lines, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    entries: VecDeque<Entry>,
}

impl Journal {
    /// Takes an event in.
    pub fn apply(&mut self, recorded: &Recorded) {
        let Some((level, text)) = describe(recorded) else { return };
        let trial = recorded.event.trial();
        let mut folded = text.to_lowercase();
        if let Some(key) = trial {
            folded.push(' ');
            folded.push_str(&key.to_string());
        }
        self.entries.push_back(Entry {
            seq: recorded.seq,
            time_ms: recorded.time_ms,
            level,
            trial,
            text,
            folded,
        });
        if self.entries.len() > MOST {
            self.entries.pop_front();
        }
    }

    /// Lines that are shown and hold the filter's text, the newest first.
    pub fn newest<'a>(&'a self, show: Show, filter: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().rev().filter(move |entry| show.shows(entry.level) && entry.matches(filter))
    }

    /// Lines about a trial, the newest first.
    pub fn of_trial(&self, key: TrialKey) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev().filter(move |entry| entry.trial == Some(key))
    }
}

fn describe(recorded: &Recorded) -> Option<(Level, String)> {
    let by = |by: &Option<String>| by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default();
    Some(match &recorded.event {
        Event::Metrics { .. } => return None,
        Event::StudySubmitted { spec, by: who, .. } => {
            (Level::Info, format!("the study was submitted{} with {} trials", by(who), spec.trials().len()))
        }
        Event::StudyPaused { by: who } => (Level::Warning, format!("the study was paused{}", by(who))),
        Event::StudyResumed { by: who } => (Level::Info, format!("the study was resumed{}", by(who))),
        Event::StudyCancelled { by: who } => (Level::Warning, format!("the study was cancelled{}", by(who))),
        Event::TrialCancelled { by: who, .. } => (Level::Warning, format!("cancelled{}", by(who))),
        Event::TrialPaused { by: who, .. } => (Level::Warning, format!("paused{}", by(who))),
        Event::TrialResumed { by: who, .. } => (Level::Info, format!("resumed{}", by(who))),
        Event::TrialsRetried { trials, by: who } => {
            (Level::Info, format!("{} trials are tried again{}", trials.len(), by(who)))
        }
        Event::StudyFinished { outcome } => match outcome {
            StudyOutcome::Complete => (Level::Good, "the study is complete".to_owned()),
            StudyOutcome::Incomplete => (Level::Problem, "the study is over and not complete".to_owned()),
            StudyOutcome::Cancelled => (Level::Warning, "the study is over: cancelled".to_owned()),
        },
        Event::TrialFailed { reason, .. } => (Level::Problem, format!("given up: {}", one_line(reason))),
        event => of_attempt(event, recorded.time_ms)?,
    })
}

fn of_attempt(event: &Event, time_ms: u64) -> Option<(Level, String)> {
    Some(match event {
        Event::AttemptStarted { attempt, placements, resume, .. } => {
            let from = resume.as_ref().map(|checkpoint| format!(" from step {}", checkpoint.step));
            let ranks = ranks_words(placements);
            (Level::Info, format!("attempt {attempt} starts{}: {ranks}", from.unwrap_or_default()))
        }
        Event::CheckpointStored { checkpoint, .. } => {
            let megabytes = checkpoint.artifact.bytes as f64 / 1e6;
            (Level::Detail, format!("checkpoint of step {} stored, {megabytes:.1} MB", checkpoint.step))
        }
        Event::TrialEvaluated { summary, .. } => {
            let figures =
                [("DSC", summary.dsc), ("IoU", summary.iou), ("MAE", summary.mae), ("acc", summary.accuracy)];
            let words: Vec<String> = figures
                .into_iter()
                .filter_map(|(name, value)| Some(format!("{name} {}", figure(value?))))
                .collect();
            (Level::Good, words.join(", "))
        }
        Event::RendezvousReady { host, port, .. } => {
            (Level::Detail, format!("rank 0 listens at {host}:{port}"))
        }
        Event::RankExited { rank, exit, finished, message, .. } => {
            let words = if *finished { String::new() } else { format!(": {}", one_line(message)) };
            (Level::Detail, format!("rank {rank} ended ({exit}){words}"))
        }
        Event::RankLost { rank, worker, reason, .. } => {
            (Level::Warning, format!("rank {rank} on worker {worker} is lost: {}", one_line(reason)))
        }
        Event::AttemptStopping { attempt, end, .. } => {
            (Level::Detail, format!("attempt {attempt} is being stopped: {}", end_words(end)))
        }
        Event::AttemptEnded { attempt, end, retry_at_ms, .. } => {
            let pause = retry_at_ms.map(|at| at.saturating_sub(time_ms) as f64 / 1000.0);
            let again = pause.map(|pause| format!("; again in {pause:.0} s")).unwrap_or_default();
            (level_of(end), format!("attempt {attempt} {}{again}", end_words(end)))
        }
        _ => return None,
    })
}

fn level_of(end: &AttemptEnd) -> Level {
    match end {
        AttemptEnd::Completed => Level::Good,
        AttemptEnd::Failed(_) | AttemptEnd::Unfit { .. } | AttemptEnd::WorkerLost { .. } => Level::Warning,
        AttemptEnd::Cancelled | AttemptEnd::Paused | AttemptEnd::Drained { .. } | AttemptEnd::Widened => {
            Level::Info
        }
    }
}
