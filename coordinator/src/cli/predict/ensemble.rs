//! Which networks answer: chosen among a study's trials, fetched, and held against each other.

use std::path::{Path, PathBuf};

use mtinet_data::{Dataset, PreprocessOptions, Spacing, nifti_io, preprocess};
use mtinet_domain::evaluation::TrialEvaluation;
use mtinet_domain::prediction::Member;
use mtinet_domain::trial::ArtifactRef;
use mtinet_domain::{Arm, StudySpec, TrialKey};

use crate::cli::client::{Coordinator, makes_no_sense};
use crate::cli::error::CliError;
use crate::cli::study::blocking;
use crate::report::{StudyResults, TrialOutcome, TrialResult};

/// A trial that is done, and what it left.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// The trial.
    pub key: TrialKey,
    /// Its results, which know how its images were prepared.
    pub evaluation: &'a ArtifactRef,
    /// Its weights.
    pub weights: &'a ArtifactRef,
}

/// The trials that a person means: those named, else all of the arm.
///
/// # Errors
/// Exit code 2 for an arm or a trial that the study does not have, 1 where one of them is not done.
pub fn choose<'a>(
    results: &'a StudyResults,
    arm: Option<Arm>,
    named: &[TrialKey],
) -> Result<Vec<Finished<'a>>, CliError> {
    let arm = match (arm, named.first()) {
        (Some(arm), _) => arm,
        (None, Some(trial)) => trial.arm,
        (None, None) => return Err(CliError::Usage("give --arm, or --trial".to_owned())),
    };
    if let Some(other) = named.iter().find(|trial| trial.arm != arm) {
        return Err(CliError::Usage(format!(
            "trial {other} is not of arm {arm}; networks of one arm answer together"
        )));
    }
    if !results.spec.arms.contains(&arm) {
        return Err(unknown_arm(&results.spec, arm));
    }
    let mut chosen = Vec::new();
    for key in named {
        let known = results.trials.iter().find(|trial| trial.key == *key);
        chosen.push(known.ok_or_else(|| {
            let all: Vec<String> = results.of_arm(arm).map(|trial| trial.key.to_string()).collect();
            let (name, all) = (&results.spec.name, all.join(", "));
            CliError::Usage(format!("study {name} has no trial {key}; of {arm} it has {all}"))
        })?);
    }
    if named.is_empty() {
        chosen = results.of_arm(arm).collect();
    }
    chosen.sort_by_key(|trial| trial.key);
    chosen.dedup_by_key(|trial| trial.key);
    let done: Vec<Finished<'a>> = chosen.iter().filter_map(|trial| finished(trial)).collect();
    if done.len() == chosen.len() { Ok(done) } else { Err(unfinished(results, &chosen)) }
}

fn finished(trial: &TrialResult) -> Option<Finished<'_>> {
    let TrialOutcome::Done(evaluated) = &trial.outcome else { return None };
    let weights = evaluated.weights.as_ref()?;
    Some(Finished { key: trial.key, evaluation: &evaluated.evaluation, weights })
}

fn unknown_arm(spec: &StudySpec, arm: Arm) -> CliError {
    let names: Vec<&str> = spec.arms.iter().map(|arm| arm.name()).collect();
    let nearest = Arm::nearest(arm.name(), &spec.arms).map(|near| format!(", did you mean {near}?"));
    CliError::Usage(format!(
        "study {} has no arm {arm}{}; its arms are {}",
        spec.name,
        nearest.unwrap_or_default(),
        names.join(", ")
    ))
}

/// Fewer networks than asked for never answer unless that is asked for.
fn unfinished(results: &StudyResults, chosen: &[&TrialResult]) -> CliError {
    let missing: Vec<String> = chosen
        .iter()
        .filter(|trial| finished(trial).is_none())
        .map(|trial| {
            let reason = trial.outcome.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
            let word = match &trial.outcome {
                TrialOutcome::Done(_) => "done, but left no weights",
                outcome => outcome.word(),
            };
            format!("\n  {} {word}{reason}", trial.key)
        })
        .collect();
    let there: Vec<String> = chosen
        .iter()
        .filter(|trial| finished(trial).is_some())
        .map(|trial| format!("--trial {}", trial.key))
        .collect();
    let go_on = if there.is_empty() {
        "none of them can answer yet".to_owned()
    } else {
        format!("to go on with the {} that can, give {}", there.len(), there.join(" "))
    };
    CliError::NotSo(format!(
        "{} of {} trials of study {} have no trained network; {go_on}:{}",
        missing.len(),
        chosen.len(),
        results.spec.name,
        missing.concat()
    ))
}

/// Networks that answer together.
pub struct Ensemble {
    /// The networks, with their weights on this machine.
    pub members: Vec<Member>,
    /// The weights' contents, in the same order.
    pub weights: Vec<ArtifactRef>,
    /// The spacing that each trial kept, in the same order.
    spacings: Vec<Option<f64>>,
}

impl Ensemble {
    /// Fetches weights into `directory`, which is made, and what is known of how they were trained. Contents are checked
    /// against their hashes.
    ///
    /// # Errors
    /// Exit code 3 where the coordinator does not give them, 1 where they cannot be written.
    pub async fn fetch(
        coordinator: &mut Coordinator,
        trials: &[Finished<'_>],
        directory: &Path,
    ) -> Result<Self, CliError> {
        let failed = |error| CliError::failed(format_args!("cannot make {}", directory.display()), &error);
        std::fs::create_dir_all(directory).map_err(failed)?;
        let mut ensemble = Self { members: Vec::new(), weights: Vec::new(), spacings: Vec::new() };
        for Finished { key, evaluation, weights } in trials {
            let bytes = coordinator.artifact(evaluation).await?;
            let evaluation: TrialEvaluation = serde_json::from_slice(&bytes).map_err(|error| {
                makes_no_sense(&format!("an evaluation of {key} that cannot be read ({error})"))
            })?;
            let path = directory.join(format!("{}-{}.safetensors", key.fold, key.seed));
            coordinator.artifact_to(weights, &path).await?;
            let normalisation = evaluation.normalisation;
            ensemble.members.push(Member { trial: *key, weights: path, normalisation });
            ensemble.weights.push((*weights).clone());
            ensemble.spacings.push(evaluation.spacing);
        }
        Ok(ensemble)
    }

    /// The in-plane spacing of the slices that the networks were trained on, mm: as the trials kept it, else as their
    /// study's spec and data set give it. `dataset` replaces the directory that the study was submitted with.
    ///
    /// # Errors
    /// Exit code 2 where the data set is needed and is not there, 4 where its files cannot be read.
    pub async fn spacing(&self, results: &StudyResults, dataset: Option<&Path>) -> Result<f64, CliError> {
        let mut kept = self.spacings.iter().copied();
        if let Some(Some(first)) = kept.next() {
            if kept.all(|other| other == Some(first)) {
                return Ok(first);
            }
            return Err(makes_no_sense("trials of one study with slices of different spacings"));
        }
        if let Some(fixed) = results.spec.preprocess.spacing {
            return Ok(fixed);
        }
        let directory = dataset.map_or_else(|| PathBuf::from(&results.dataset.path), Path::to_owned);
        let (hash, size) = (results.dataset.hash.clone(), results.spec.train.image_size as usize);
        blocking(move || chosen_spacing(&directory, &hash, size)).await
    }
}

/// What training chose for a data set: only the headers of its files are read.
fn chosen_spacing(directory: &Path, hash: &str, image_size: usize) -> Result<f64, CliError> {
    let needed = |problem: String| {
        CliError::Usage(format!(
            "the study does not say at which spacing its networks were trained, so that its data set is needed: {problem}; \
             give --dataset DIR"
        ))
    };
    let dataset = Dataset::open(directory).map_err(|error| needed(error.to_string()))?;
    if dataset.hash() != hash {
        return Err(needed(format!("{} is another data set, or has changed", directory.display())));
    }
    let grids = dataset
        .included()
        .map(|case| nifti_io::read_grid(&dataset.path(&case.label.path)))
        .collect::<Result<Vec<_>, _>>()?;
    let options = PreprocessOptions { image_size, spacing: Spacing::Auto, ..PreprocessOptions::default() };
    Ok(preprocess::resolve_spacing(&options, grids.iter())?)
}

#[cfg(test)]
mod tests {
    use mtinet_domain::event::{Event, Recorded};
    use mtinet_domain::trial::DatasetRef;
    use mtinet_domain::{AttemptNumber, StudyId};

    use super::*;
    use crate::report::Evaluated;

    /// A study of two arms and three folds; of the first arm the folds `done` are.
    fn study(done: &[usize]) -> StudyResults {
        let text = "name = \"s\"\ndataset = \"d\"\narms = [\"mti-net\", \"unet\"]\nfolds = 3\n";
        let spec = StudySpec::from_toml(text).unwrap();
        let dataset = DatasetRef {
            name: "d".to_owned(),
            path: "/nowhere".to_owned(),
            hash: "0".repeat(64),
            phases: vec!["pre".to_owned()],
            classes: vec!["a".to_owned(), "b".to_owned()],
        };
        let (spec_hash, spec) = (spec.hash(), Box::new(spec));
        let event = Event::StudySubmitted { spec, spec_hash, dataset, by: None };
        let submitted = Recorded { study: StudyId(1), seq: 1, time_ms: 0, event };
        let mut results = StudyResults::from_events([&submitted]).unwrap();
        let artifact = ArtifactRef { blake3: "0".repeat(64), bytes: 1 };
        for &fold in done {
            results.trials[fold].outcome = TrialOutcome::Done(Box::new(Evaluated {
                attempt: AttemptNumber(1),
                summary: Default::default(),
                evaluation: artifact.clone(),
                weights: Some(artifact.clone()),
                predictions: None,
            }));
        }
        results
    }

    fn key(name: &str) -> TrialKey {
        name.parse().unwrap()
    }

    #[test]
    fn all_trials_of_an_arm_answer_or_those_that_are_named() {
        let results = study(&[0, 1, 2]);
        let keys = |arm, named: &[TrialKey]| -> Vec<String> {
            choose(&results, arm, named).unwrap().iter().map(|trial| trial.key.to_string()).collect()
        };
        assert_eq!(keys(Some(Arm::MtiNet), &[]), ["mti-net/0/0", "mti-net/1/0", "mti-net/2/0"]);
        let named = [key("mti-net/2/0"), key("mti-net/0/0"), key("mti-net/2/0")];
        assert_eq!(keys(None, &named), ["mti-net/0/0", "mti-net/2/0"]);
    }

    #[test]
    fn fewer_networks_than_asked_for_never_answer_unasked() {
        let mut results = study(&[0, 2]);
        results.trials[1].outcome = TrialOutcome::Failed("no memory".to_owned());
        let error = choose(&results, Some(Arm::MtiNet), &[]).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 1);
        assert!(text.contains("mti-net/1/0 failed: no memory"), "{text}");
        assert!(text.contains("the 2 that can, give --trial mti-net/0/0 --trial mti-net/2/0"), "{text}");
        assert_eq!(choose(&results, None, &[key("mti-net/0/0")]).unwrap().len(), 1);
        let none = choose(&results, Some(Arm::Unet), &[]).unwrap_err().to_string();
        assert!(none.contains("3 of 3 trials") && none.contains("none of them can answer yet"), "{none}");
    }

    #[test]
    fn what_the_study_does_not_have_is_usage() {
        let results = study(&[]);
        let said = |arm, named: &[TrialKey]| {
            let error = choose(&results, arm, named).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        assert!(said(Some(Arm::ResUnetPp), &[]).contains("has no arm resunetpp; its arms are mti-net, unet"));
        assert!(said(Some(Arm::Unet), &[key("mti-net/0/0")]).contains("not of arm unet"));
        assert!(said(None, &[key("unet/7/0")]).contains("of unet it has unet/0/0, unet/1/0, unet/2/0"));
    }

    #[test]
    fn an_old_studys_spacing_is_chosen_again_from_its_data_set() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("phantom");
        let options = mtinet_data::PhantomOptions {
            subjects: 10,
            size: 32,
            slices_per_subject: 2,
            ..mtinet_data::PhantomOptions::default()
        };
        let dataset = mtinet_data::phantom::write(&path, &options, &|_, _| {}).unwrap();
        let options = PreprocessOptions { image_size: 16, ..PreprocessOptions::default() };
        let cache = mtinet_data::SliceCache::open_or_build(&dataset, &options, None, &|_, _| {}).unwrap();
        assert_eq!(chosen_spacing(&path, &dataset.hash(), 16).unwrap(), cache.spacing());
        for (directory, hash) in [(path.as_path(), "other"), (here.path(), "other")] {
            let error = chosen_spacing(directory, hash, 16).unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().contains("give --dataset DIR"), "{error}");
        }
    }
}
