//! How fast the running trials train. A trial's series go with its attempt, so that there are never more of them than slots.

use mtinet_domain::event::{Event, SPEED};
use mtinet_domain::{StudyId, TrialKey};
use mtinet_runtime::metrics::{Family, FloatGauge, Registry, Unit, ratio};

/// Study, arm, fold and seed.
type Trial = [(&'static str, String); 4];

/// The gauges, in the order of [`SPEED`].
#[derive(Debug)]
pub struct SpeedGauges([Family<Trial, FloatGauge>; 3]);

impl SpeedGauges {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let gauges = Self(std::array::from_fn(|_| Family::default()));
        let [step, data_wait, samples] = gauges.0.clone();
        let help = "Mean time of an optimiser step, of running trials";
        registry.register_with_unit("trial_step", help, Unit::Seconds, step);
        let help = "Share of the steps in which rank 0 waits for samples, of running trials";
        registry.register_with_unit("trial_data_wait", help, ratio(), data_wait);
        let help = "Samples that all ranks train on in a second, of running trials";
        registry.register("trial_samples_per_second", help, samples);
        gauges
    }

    /// Takes in an event.
    pub fn apply(&self, study: StudyId, event: &Event) {
        match event {
            Event::Metrics { trial, records, .. } => {
                for (family, name) in self.0.iter().zip(SPEED) {
                    if let Some(value) = records.iter().rev().find_map(|record| record.values.get(name)) {
                        family.get_or_create(&labels(study, *trial)).set(*value);
                    }
                }
            }
            Event::AttemptEnded { trial, .. } => {
                for family in &self.0 {
                    family.remove(&labels(study, *trial));
                }
            }
            _ => {}
        }
    }
}

fn labels(study: StudyId, TrialKey { arm, fold, seed }: TrialKey) -> Trial {
    [
        ("study", study.0.to_string()),
        ("arm", arm.name().to_owned()),
        ("fold", fold.to_string()),
        ("seed", seed.to_string()),
    ]
}
