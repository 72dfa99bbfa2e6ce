//! Studies come, and are over.

use mtinet_domain::event::Event;
use mtinet_domain::trial::DatasetRef;
use mtinet_domain::{StudyId, StudySpec};

use crate::effects::Effects;
use crate::state::Core;

impl Core {
    /// Accepts a study of `by`. Its number is the next free one.
    pub fn on_study_submitted(
        &mut self,
        now_ms: u64,
        spec: Box<StudySpec>,
        dataset: DatasetRef,
        by: Option<String>,
    ) -> (StudyId, Effects) {
        let id = StudyId(self.studies.last_key_value().map_or(1, |(last, _)| last.0 + 1));
        let mut effects = Effects::default();
        let spec_hash = spec.hash();
        self.record(now_ms, &mut effects, id, Event::StudySubmitted { spec, spec_hash, dataset, by });
        // A study without trials is over at once.
        self.finish_if_over(now_ms, id, &mut effects);
        (id, self.conclude(now_ms, effects))
    }

    /// Records the end of a study none of whose trials will run any more, once.
    pub(crate) fn finish_if_over(&mut self, now_ms: u64, id: StudyId, effects: &mut Effects) {
        let over = self.studies.get(&id).filter(|study| study.open == 0 && study.outcome.is_none());
        if let Some(outcome) = over.map(crate::study::Study::tally) {
            self.record(now_ms, effects, id, Event::StudyFinished { outcome });
        }
    }
}
