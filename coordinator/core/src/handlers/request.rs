//! What people ask for, beyond submitting: pause, resume, cancel, retry, drain, readmit.

use std::fmt;

use mtinet_domain::event::Event;
use mtinet_domain::fleet::FleetEvent;
use mtinet_domain::trial::AttemptEnd;
use mtinet_domain::{AttemptId, StudyId, TrialId, TrialKey, WorkerId, suggest};

use crate::effects::Effects;
use crate::pool::Link;
use crate::state::Core;
use crate::study::Study;
use crate::trial::{Trial, TrialState};

/// What a person asks for. Each asked twice means the same as once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Nothing of the study starts; what runs saves and stops.
    PauseStudy(StudyId),
    /// A paused study goes on.
    ResumeStudy(StudyId),
    /// Nothing of the trial starts; what runs of it saves and stops.
    PauseTrial(TrialId),
    /// A paused trial goes on, where its study does.
    ResumeTrial(TrialId),
    /// The study ends.
    CancelStudy(StudyId),
    /// One trial ends.
    CancelTrial(TrialId),
    /// Trials that failed or were cancelled are tried again, with their failures forgotten.
    RetryTrials {
        /// Their study.
        study: StudyId,
        /// Which; all that failed or were cancelled where empty.
        trials: Vec<TrialKey>,
    },
    /// What runs on the worker saves and goes on elsewhere; it gets nothing new. By number or name.
    Drain(String),
    /// The worker gets trials again.
    Undrain(String),
    /// A worker that was set aside gets trials again.
    Readmit(String),
}

/// Why a request is refused, in words that say what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    Unknown(String),
    /// What is asked for cannot be as things stand.
    State(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unknown(words) | Self::State(words)) = self;
        f.write_str(words)
    }
}

impl std::error::Error for Refusal {}

impl Core {
    /// Does what a person asks for; `by` names the person where that is known. The number says how many attempts are
    /// being stopped for it, or how many trials are tried again.
    ///
    /// # Errors
    /// A request about something unknown, or one that cannot be granted as things stand. Nothing has changed then.
    pub fn on_request(
        &mut self,
        now_ms: u64,
        request: &Request,
        by: Option<String>,
    ) -> Result<(u32, Effects), Refusal> {
        let mut effects = Effects::default();
        let out = &mut effects;
        let count = match request {
            Request::PauseStudy(id) => self.pause(now_ms, *id, by, out)?,
            Request::ResumeStudy(id) => self.resume(now_ms, *id, by, out)?,
            Request::PauseTrial(id) => self.pause_trial(now_ms, *id, by, out)?,
            Request::ResumeTrial(id) => self.resume_trial(now_ms, *id, by, out)?,
            Request::CancelStudy(id) => self.cancel_study(now_ms, *id, by, out)?,
            Request::CancelTrial(id) => self.cancel_trial(now_ms, *id, by, out)?,
            Request::RetryTrials { study, trials } => self.retry(now_ms, *study, trials, by, out)?,
            Request::Drain(which) => self.drain(now_ms, which, by, out)?,
            Request::Undrain(which) => {
                let worker = self.find_worker(which)?;
                if self.marks.get(&worker).is_some_and(|mark| mark.drained) {
                    self.record_fleet(out, FleetEvent::WorkerUndrained { worker, by });
                }
                0
            }
            Request::Readmit(which) => {
                let worker = self.find_worker(which)?;
                if self.marks.get(&worker).is_some_and(|mark| mark.set_aside.is_some()) {
                    self.record_fleet(out, FleetEvent::WorkerReadmitted { worker, by });
                }
                0
            }
        };
        Ok((count, self.conclude(now_ms, effects)))
    }

    fn pause(
        &mut self,
        now_ms: u64,
        id: StudyId,
        by: Option<String>,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        let study = self.open_study(id)?;
        if study.cancelled {
            return Err(Refusal::State(format!("study {id} is being cancelled")));
        }
        if study.paused {
            return Ok(0);
        }
        let running = self.running_attempts(id);
        if planted!(self, DoesNotRecordPauses) {
            if let Some(study) = self.studies.get_mut(&id) {
                study.paused = true;
            }
        } else {
            self.record(now_ms, effects, id, Event::StudyPaused { by });
        }
        Ok(self.stop_all(now_ms, running, &AttemptEnd::Paused, effects))
    }

    fn resume(
        &mut self,
        now_ms: u64,
        id: StudyId,
        by: Option<String>,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        if self.open_study(id)?.paused {
            self.record(now_ms, effects, id, Event::StudyResumed { by });
        }
        Ok(0)
    }

    fn pause_trial(
        &mut self,
        now_ms: u64,
        id: TrialId,
        by: Option<String>,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        let trial = self.open_trial(id)?;
        if trial.cancelled || self.known_study(id.study)?.cancelled {
            return Err(Refusal::State(format!("{id} is being cancelled")));
        }
        if trial.paused {
            return Ok(0);
        }
        let running = self.current(id);
        self.record(now_ms, effects, id.study, Event::TrialPaused { trial: id.key, by });
        Ok(self.stop_all(now_ms, running.into_iter().collect(), &AttemptEnd::Paused, effects))
    }

    fn resume_trial(
        &mut self,
        now_ms: u64,
        id: TrialId,
        by: Option<String>,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        if self.open_trial(id)?.paused {
            self.record(now_ms, effects, id.study, Event::TrialResumed { trial: id.key, by });
        }
        Ok(0)
    }

    /// Ends a study: waiting trials never run, running ones are stopped after a grace. Of a study that is over or
    /// already being cancelled nothing changes.
    fn cancel_study(
        &mut self,
        now_ms: u64,
        id: StudyId,
        by: Option<String>,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        let study = self.known_study(id)?;
        if study.outcome.is_some() || study.cancelled {
            return Ok(0);
        }
        let running = self.running_attempts(id);
        self.record(now_ms, effects, id, Event::StudyCancelled { by });
        let stopping = self.stop_all(now_ms, running, &AttemptEnd::Cancelled, effects);
        self.finish_if_over(now_ms, id, effects);
        Ok(stopping)
    }

    fn cancel_trial(
        &mut self,
        now_ms: u64,
        id: TrialId,
        by: Option<String>,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        let trial = self.known_trial(id)?;
        if trial.cancelled || matches!(trial.state, TrialState::Cancelled) {
            return Ok(0);
        }
        self.open_trial(id)?;
        let running = self.current(id);
        self.record(now_ms, effects, id.study, Event::TrialCancelled { trial: id.key, by });
        let stopping = self.stop_all(now_ms, running.into_iter().collect(), &AttemptEnd::Cancelled, effects);
        self.finish_if_over(now_ms, id.study, effects);
        Ok(stopping)
    }

    fn retry(
        &mut self,
        now_ms: u64,
        id: StudyId,
        trials: &[TrialKey],
        by: Option<String>,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        let study = self.known_study(id)?;
        if study.cancelled && study.outcome.is_none() {
            return Err(Refusal::State(format!("study {id} is being cancelled; retry it when that is over")));
        }
        let given_up =
            |trial: &Trial| matches!(trial.state, TrialState::Failed { .. } | TrialState::Cancelled);
        let mut chosen: Vec<TrialKey> = Vec::new();
        for key in trials {
            let trial = study.trial(*key).ok_or_else(|| no_trial(TrialId { study: id, key: *key }))?;
            if !given_up(trial) {
                return Err(Refusal::State(format!(
                    "{key} of study {id} is {}; only trials that failed or were cancelled can be retried",
                    trial.status().word()
                )));
            }
            if !chosen.contains(key) {
                chosen.push(*key);
            }
        }
        if trials.is_empty() {
            chosen = study.trials().filter(|(_, trial)| given_up(trial)).map(|(key, _)| key).collect();
        }
        let count = chosen.len() as u32;
        if count > 0 {
            self.record(now_ms, effects, id, Event::TrialsRetried { trials: chosen, by });
        }
        Ok(count)
    }

    fn drain(
        &mut self,
        now_ms: u64,
        which: &str,
        by: Option<String>,
        effects: &mut Effects,
    ) -> Result<u32, Refusal> {
        let worker = self.find_worker(which)?;
        if self.marks.get(&worker).is_some_and(|mark| mark.drained) {
            return Ok(0);
        }
        self.record_fleet(effects, FleetEvent::WorkerDrained { worker: worker.clone(), by });
        Ok(self.vacate(now_ms, &worker, effects))
    }

    /// Asks what runs on a drained worker to save and stop; how many attempts that are.
    pub(crate) fn vacate(&mut self, now_ms: u64, worker: &WorkerId, effects: &mut Effects) -> u32 {
        let slots = self.pool.get(worker).into_iter().flat_map(|worker| worker.slots.values());
        let held: Vec<AttemptId> = slots.filter_map(|slot| Some(slot.held?.attempt)).collect();
        self.stop_all(now_ms, held, &AttemptEnd::Drained { worker: worker.clone() }, effects)
    }

    /// Stops those attempts that run, each once; how many those were.
    fn stop_all(
        &mut self,
        now_ms: u64,
        attempts: Vec<AttemptId>,
        end: &AttemptEnd,
        effects: &mut Effects,
    ) -> u32 {
        let mut stopped = 0;
        for attempt in attempts {
            let runs = |trial: &Trial| matches!(trial.state, TrialState::Running { .. });
            if self.gang(attempt).is_some() && self.trial(attempt.trial).is_some_and(runs) {
                self.stop(now_ms, attempt, end.clone(), effects);
                stopped += 1;
            }
        }
        stopped
    }

    fn running_attempts(&self, id: StudyId) -> Vec<AttemptId> {
        let study = self.studies.get(&id).into_iter();
        let running = study.flat_map(Study::trials).filter(|(_, trial)| trial.gang().is_some());
        running.filter_map(|(key, _)| self.current(TrialId { study: id, key })).collect()
    }

    fn known_study(&self, id: StudyId) -> Result<&Study, Refusal> {
        self.studies
            .get(&id)
            .ok_or_else(|| Refusal::Unknown(format!("there is no study {id}; `mtinet study list` shows all")))
    }

    fn open_study(&self, id: StudyId) -> Result<&Study, Refusal> {
        let study = self.known_study(id)?;
        if study.outcome.is_some() {
            return Err(Refusal::State(format!("study {id} is over ({})", study.status())));
        }
        Ok(study)
    }

    fn known_trial(&self, id: TrialId) -> Result<&Trial, Refusal> {
        self.known_study(id.study)?.trial(id.key).ok_or_else(|| no_trial(id))
    }

    fn open_trial(&self, id: TrialId) -> Result<&Trial, Refusal> {
        let trial = self.known_trial(id)?;
        if trial.status().is_final() {
            return Err(Refusal::State(format!("{id} is {} already", trial.status().word())));
        }
        Ok(trial)
    }

    /// A worker by its number, or by its name where one alone of those that are here has it.
    fn find_worker(&self, which: &str) -> Result<WorkerId, Refusal> {
        let id = WorkerId(which.to_owned());
        if self.pool.get(&id).is_some() || self.marks.contains_key(&id) {
            return Ok(id);
        }
        let named: Vec<_> = self.workers().filter(|(_, worker)| worker.name == which).collect();
        let here: Vec<_> = named.iter().filter(|(_, worker)| worker.link != Link::Lost).collect();
        match (here.as_slice(), named.as_slice()) {
            ([(id, _)], _) | ([], [(id, _)]) => Ok((*id).clone()),
            ([], []) => {
                let names = self.workers().map(|(_, worker)| worker.name.as_str());
                Err(Refusal::Unknown(format!(
                    "there is no worker `{which}`{}; `mtinet workers` shows all",
                    suggest::did_you_mean(which, names)
                )))
            }
            _ => {
                let ids: Vec<&str> = named.iter().map(|(id, _)| id.0.as_str()).collect();
                Err(Refusal::State(format!(
                    "several workers are named `{which}`; give the number of one: {}",
                    ids.join(", ")
                )))
            }
        }
    }
}

fn no_trial(id: TrialId) -> Refusal {
    Refusal::Unknown(format!(
        "study {} has no trial {}; `mtinet status {}` shows all",
        id.study, id.key, id.study
    ))
}
