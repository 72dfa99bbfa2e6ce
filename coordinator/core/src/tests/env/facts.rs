//! Things that tests name: specs, artifacts, what ranks report.

use std::collections::BTreeMap;

use mtinet_domain::evaluation::FoldSummary;
use mtinet_domain::event::{Event, MetricRecord, MetricScope};
use mtinet_domain::trial::{ArtifactRef, CheckpointRef};
use mtinet_domain::{StudyId, StudySpec, TrialId, WorkerId};

use crate::Fact;

/// A study that needs two slots at once.
pub const GANG_OF_2: &str = "folds = [0]\n[train]\nreplicas = 2\n[resources]\nranks = 2\n";

pub fn worker(name: &str) -> WorkerId {
    WorkerId(name.to_owned())
}

pub fn spec(extra: &str) -> Box<StudySpec> {
    let text = format!("name = \"s\"\ndataset = \"d\"\narms = [\"mti-net\", \"unet\"]\n{extra}");
    Box::new(StudySpec::from_toml(&text).unwrap())
}

pub fn artifact(name: &str) -> ArtifactRef {
    ArtifactRef { blake3: name.to_owned(), bytes: 1 }
}

pub fn trial(study: StudyId, key: &str) -> TrialId {
    TrialId { study, key: key.parse().unwrap() }
}

pub fn checkpoint(step: u64, name: &str) -> CheckpointRef {
    CheckpointRef { step, artifact: artifact(name) }
}

pub fn evaluated() -> Fact {
    Fact::Evaluated {
        summary: Box::new(FoldSummary::default()),
        evaluation: artifact("evaluation"),
        weights: Some(artifact("weights")),
        predictions: None,
    }
}

pub fn metrics(step: u64) -> Fact {
    Fact::Metrics(vec![MetricRecord {
        scope: MetricScope::Step,
        step,
        epoch: 1,
        train_seconds: 1.0,
        values: BTreeMap::new(),
    }])
}

/// The artifacts that an event brings into being.
pub fn named(event: &Event) -> Vec<&str> {
    let artifacts: Vec<&ArtifactRef> = match event {
        Event::CheckpointStored { checkpoint, .. } => vec![&checkpoint.artifact],
        Event::TrialEvaluated { evaluation, weights, predictions, .. } => {
            [Some(evaluation), weights.as_ref(), predictions.as_ref()].into_iter().flatten().collect()
        }
        _ => Vec::new(),
    };
    artifacts.into_iter().map(|artifact| artifact.blake3.as_str()).collect()
}
