//! All that the dashboard shows, and how it takes news in.

use std::collections::HashMap;

use mtinet_domain::event::Recorded;
use mtinet_domain::{StudyId, TrialKey};

use super::fleet::{Tally, Worker, WorkerLink, tally};
use super::study::StudyState;

/// How the news come in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// The history is being read.
    #[default]
    Loading,
    /// Events come as they happen.
    Live,
    /// The coordinator does not answer.
    Away {
        /// Since when, milliseconds since the Unix epoch.
        since_ms: u64,
        /// When it is asked again.
        again_ms: u64,
        /// What happened when it was asked last.
        why: String,
    },
    /// A log that nobody writes any more.
    Recorded,
}

/// How much something told matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// Done as asked.
    Good,
    /// Refused or gone wrong.
    Problem,
}

/// Something told to the person for a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub kind: NoticeKind,
    /// What is told.
    pub text: String,
    /// When, milliseconds since the Unix epoch.
    pub time_ms: u64,
}

/// Why a trial stands as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// In a sentence; empty where there is nothing to wait for.
    pub reason: String,
    /// What else bears on it.
    pub details: Vec<String>,
}

/// A line of a trainer's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The rank that wrote it.
    pub rank: u32,
    /// What it wrote, without anything that would steer a terminal.
    pub text: String,
}

/// A study in the list to choose from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StudyLine {
    /// Its number.
    pub id: StudyId,
    /// Its name.
    pub name: String,
    /// running, paused, complete, incomplete, cancelling, cancelled
    pub status: String,
    /// Trials that are done, and all.
    pub done: (u32, u32),
    /// When it was submitted, milliseconds since the Unix epoch.
    pub submitted_ms: u64,
}

/// News.
#[derive(Debug)]
pub enum Update {
    /// The next events of the study.
    Events(Vec<Recorded>),
    /// Another study is followed from now on.
    Study(StudyId),
    /// How news come in.
    Link(Link),
    /// All workers.
    Workers(Vec<Worker>),
    /// Why trials of the study wait.
    Reasons(HashMap<TrialKey, String>),
    /// Why one trial stands as it stands.
    Explained(TrialKey, Explained),
    /// The end of a trial's log, oldest line first; replaces what was there.
    Log(TrialKey, Vec<LogLine>),
    /// All studies.
    Studies(Vec<StudyLine>),
    /// Something to be told.
    Notice(NoticeKind, String),
}

/// All that the dashboard shows.
#[derive(Debug, Default)]
pub struct Model {
    /// The study that is followed.
    pub id: Option<StudyId>,
    /// It, from its events.
    pub study: StudyState,
    /// All studies that can be followed.
    pub studies: Vec<StudyLine>,
    /// Where the news come from: an address or a directory.
    pub source: String,
    /// How they come in.
    pub link: Link,
    /// The workers: ready ones first, lost ones last, by name. None where nobody knows of any.
    pub workers: Option<Vec<Worker>>,
    /// They in numbers.
    pub fleet: Tally,
    /// Why trials wait.
    pub reasons: HashMap<TrialKey, String>,
    /// Why the selected trial stands as it stands.
    pub explained: Option<(TrialKey, Explained)>,
    /// The end of the selected trial's log; none where nobody keeps it.
    pub log: Option<(TrialKey, Vec<LogLine>)>,
    /// What was told last.
    pub notice: Option<Notice>,
    /// Why the events make no study, where they do not.
    pub damage: Option<String>,
}

impl Model {
    /// Nothing known yet.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), ..Self::default() }
    }

    /// Takes news in.
    pub fn apply(&mut self, update: Update, now_ms: u64) {
        match update {
            Update::Events(events) => self.take(&events),
            Update::Study(id) => {
                self.id = Some(id);
                self.study = StudyState::default();
                self.reasons.clear();
                (self.explained, self.damage) = (None, None);
            }
            Update::Link(link) => self.link = link,
            Update::Workers(mut workers) => {
                workers.sort_by(|a, b| {
                    let last = |worker: &Worker| worker.link == WorkerLink::Lost;
                    last(a).cmp(&last(b)).then_with(|| a.name.cmp(&b.name)).then_with(|| a.id.cmp(&b.id))
                });
                self.fleet = tally(&workers);
                self.workers = Some(workers);
            }
            Update::Reasons(reasons) => self.reasons = reasons,
            Update::Explained(key, explained) => self.explained = Some((key, explained)),
            Update::Log(key, lines) => self.log = Some((key, lines)),
            Update::Studies(studies) => self.studies = studies,
            Update::Notice(kind, text) => self.notice = Some(Notice { kind, text, time_ms: now_ms }),
        }
    }

    /// The time that spans are counted to: now, or for a recording its last event.
    pub fn clock(&self, now_ms: u64) -> u64 {
        match (&self.link, self.study.results()) {
            (Link::Recorded, Some(results)) => results.last_event_ms,
            _ => now_ms,
        }
    }

    /// Why a trial waits or was given up, where that is known.
    pub fn why(&self, key: TrialKey) -> Option<&str> {
        if let Some((_, explained)) =
            self.explained.as_ref().filter(|(of, e)| *of == key && !e.reason.is_empty())
        {
            return Some(&explained.reason);
        }
        if let Some(reason) = self.reasons.get(&key) {
            return Some(reason);
        }
        let index = self.study.index_of(key)?;
        self.study.trial(index)?.result.outcome.reason()
    }

    fn take(&mut self, events: &[Recorded]) {
        for event in events {
            if self.id.is_some_and(|id| id != event.study) {
                continue;
            }
            if let Err(error) = self.study.apply(event) {
                self.damage.get_or_insert_with(|| error.to_string());
            }
        }
    }
}
