//! What people ask for.

use mtinet_domain::event::Event;
use mtinet_domain::trial::{AttemptEnd, DatasetRef};
use mtinet_domain::{AttemptId, StudyId, StudySpec};

use crate::effects::Effects;
use crate::state::Core;
use crate::trial::TrialState;

impl Core {
    /// Accepts a study. Its number is the next free one.
    pub fn on_study_submitted(
        &mut self,
        now_ms: u64,
        spec: Box<StudySpec>,
        dataset: DatasetRef,
    ) -> (StudyId, Effects) {
        let id = StudyId(self.studies.last_key_value().map_or(1, |(last, _)| last.0 + 1));
        let mut effects = Effects::default();
        let spec_hash = spec.hash();
        self.record(now_ms, &mut effects, id, Event::StudySubmitted { spec, spec_hash, dataset });
        // A study without trials is over at once.
        self.finish_if_over(now_ms, id, &mut effects);
        (id, self.conclude(now_ms, effects))
    }

    /// Ends a study: waiting trials never run, running ones are stopped after a grace. Of a study that is unknown,
    /// over or already being cancelled nothing changes.
    pub fn on_cancel_study(&mut self, now_ms: u64, id: StudyId) -> Effects {
        let mut effects = Effects::default();
        let Some(study) = self.studies.get(&id).filter(|study| study.outcome.is_none() && !study.cancelled)
        else {
            return effects;
        };
        let running: Vec<AttemptId> = study
            .trials()
            .filter(|(_, trial)| matches!(trial.state, TrialState::Running { .. }))
            .filter_map(|(key, _)| self.current(mtinet_domain::TrialId { study: id, key }))
            .collect();
        self.record(now_ms, &mut effects, id, Event::StudyCancelled {});
        for attempt in running {
            self.stop(now_ms, attempt, AttemptEnd::Cancelled, &mut effects);
        }
        self.finish_if_over(now_ms, id, &mut effects);
        self.conclude(now_ms, effects)
    }

    /// Records the end of a study none of whose trials will run any more, once.
    pub(crate) fn finish_if_over(&mut self, now_ms: u64, id: StudyId, effects: &mut Effects) {
        let over = self.studies.get(&id).filter(|study| study.open == 0 && study.outcome.is_none());
        if let Some(outcome) = over.map(crate::study::Study::tally) {
            self.record(now_ms, effects, id, Event::StudyFinished { outcome });
        }
    }
}
