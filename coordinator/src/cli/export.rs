//! `mtinet export`: the trained weights of a finished trial as a file that says where they come from, or the network
//! itself as TorchScript.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use mtinet_domain::evaluation::TrialEvaluation;
use mtinet_domain::event::Event;
use mtinet_domain::trial::ArtifactRef;
use mtinet_domain::{Arm, TrialKey};
use safetensors::SafeTensors;
use serde_json::json;

use super::args::{ExportArgs, WeightsFormat};
use super::client::{Coordinator, makes_no_sense};
use super::error::{CliError, chain};
use super::interrupt::Interrupt;
use super::output;
use super::report::with_coordinator;
use super::trainer::Trainer;
use crate::report::{StudyResults, TrialOutcome, TrialResult};

pub async fn run(args: ExportArgs) -> Result<(), CliError> {
    let torchscript = args.format == WeightsFormat::Torchscript;
    if torchscript && args.trial.arm == Arm::EiDdpm {
        return Err(CliError::Usage(format!(
            "{} cannot be TorchScript: its answers start from noise that is drawn from a seed of case and slice, and a \
             recorded network draws nothing; `mtinet predict` answers with it, and --format safetensors holds its weights",
            args.trial.arm
        )));
    }
    if args.out.is_dir() || (args.out.exists() && !args.force) {
        return Err(CliError::Usage(format!(
            "{} exists; give another file, or --force to replace a file",
            args.out.display()
        )));
    }
    let bytes = with_coordinator(args.data_dir.as_deref(), &args.server, async |coordinator| {
        let results = results(coordinator, args.study.as_deref()).await?;
        weights(coordinator, &results, args.trial).await
    });
    let mut bytes = bytes.await?;
    if torchscript {
        bytes = as_torchscript(&bytes).await?;
    }
    write(&args.out, &bytes, args.force)?;
    if args.json {
        let format = if torchscript { "torchscript" } else { "safetensors" };
        let (trial, length) = (args.trial.to_string(), bytes.len());
        output::print_json(&json!({ "trial": trial, "format": format, "file": args.out, "bytes": length }));
    } else {
        output::print(args.out.display());
    }
    Ok(())
}

/// The same network as TorchScript, recorded by a trainer, which also makes sure that it answers alike.
async fn as_torchscript(weights: &[u8]) -> Result<Vec<u8>, CliError> {
    let interrupt = Interrupt::listen()?;
    let failed = |error| CliError::failed("cannot make the TorchScript file", &error);
    let directory = tempfile::tempdir().map_err(failed)?;
    let path = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    let (from, to) = (path("weights.safetensors"), path("network.pt"));
    std::fs::write(&from, weights).map_err(failed)?;
    let arguments = ["export", "--weights", &from, "--out", &to];
    let trainer = Trainer::start(&arguments, &directory.path().join("trainer.log"), &interrupt)?;
    // Dropped by an interrupt, it is killed.
    interrupt.or(trainer.wait()).await?;
    std::fs::read(&to).map_err(failed)
}

/// The trials of a study, by default the only one, and how they ended. Measurements, nearly all of its events, are passed
/// over.
///
/// # Errors
/// Exit code 3 where the coordinator does not answer, 2 where there are several studies, 1 where there is none.
pub async fn results(coordinator: &mut Coordinator, study: Option<&str>) -> Result<StudyResults, CliError> {
    let study = match study {
        Some(study) => coordinator.study_id(study).await?,
        None => match coordinator.studies().await?.as_slice() {
            [only] => mtinet_domain::StudyId(only.study),
            [] => return Err(CliError::NotSo("there is no study here".to_owned())),
            several => {
                let names: Vec<String> =
                    several.iter().map(|study| format!("{} ({})", study.study, study.name)).collect();
                let names = names.join(", ");
                return Err(CliError::Usage(format!("there are several studies; give --study: {names}")));
            }
        },
    };
    let mut stream = coordinator.events(study, 0, false).await?;
    let mut events = Vec::new();
    while let Some(recorded) = stream.next().await? {
        if !matches!(recorded.event, Event::Metrics { .. }) {
            events.push(recorded);
        }
    }
    Ok(StudyResults::from_events(&events)?)
}

/// The trial's weights as a safetensors file whose header tells their origin.
async fn weights(
    coordinator: &mut Coordinator,
    results: &StudyResults,
    key: TrialKey,
) -> Result<Vec<u8>, CliError> {
    let name = &results.spec.name;
    let trial = results.trials.iter().find(|trial| trial.key == key);
    let trial = trial.ok_or_else(|| {
        CliError::NotSo(format!(
            "study {name} has no trial {key}; `mtinet status {}` lists its trials",
            results.study
        ))
    })?;
    let (evaluation, artifact) = finished(trial, name)?;
    let evaluation = coordinator.artifact(evaluation).await?;
    let evaluation: TrialEvaluation = serde_json::from_slice(&evaluation)
        .map_err(|error| makes_no_sense(&format!("an evaluation of {key} that cannot be read ({error})")))?;
    let weights = coordinator.artifact(artifact).await?;
    with_metadata(&weights, origin(results, key, &evaluation))
        .map_err(|error| makes_no_sense(&format!("weights of {key} that cannot be read ({})", chain(&error))))
}

/// The evaluation and the weights of a trial that is done.
fn finished<'a>(trial: &'a TrialResult, study: &str) -> Result<(&'a ArtifactRef, &'a ArtifactRef), CliError> {
    match &trial.outcome {
        TrialOutcome::Done(evaluated) => match &evaluated.weights {
            Some(weights) => Ok((&evaluated.evaluation, weights)),
            None => Err(CliError::NotSo(format!(
                "trial {} of study {study} is done and left no weights",
                trial.key
            ))),
        },
        outcome => {
            let reason = outcome.reason().map(|reason| format!(" ({reason})")).unwrap_or_default();
            Err(CliError::NotSo(format!(
                "trial {} of study {study} is {}{reason}; only a trial that is done has weights to export",
                trial.key,
                outcome.word()
            )))
        }
    }
}

/// Everything that is needed to use the weights, and to tell later where they come from.
fn origin(results: &StudyResults, key: TrialKey, evaluation: &TrialEvaluation) -> HashMap<String, String> {
    let (mean, std) = evaluation.normalisation;
    let spec = &results.spec;
    let spacing = evaluation.spacing.map(|spacing| ("spacing_mm", format!("{spacing:?}")));
    let entries = [
        ("arm", key.arm.to_string()),
        ("fold", key.fold.to_string()),
        ("seed", key.seed.to_string()),
        ("preset", json(&spec.model.preset).trim_matches('"').to_owned()),
        ("model", json(&spec.model)),
        ("image_size", spec.train.image_size.to_string()),
        ("phases", json(&evaluation.phases)),
        ("classes", json(&evaluation.classes)),
        // x = (raw - mean) / std: what the network's input is, and how a curve becomes raw intensity again.
        ("normalisation_mean", format!("{mean:?}")),
        ("normalisation_std", format!("{std:?}")),
        ("study", spec.name.clone()),
        ("spec_hash", results.spec_hash.clone()),
        ("dataset", results.dataset.name.clone()),
        ("dataset_hash", results.dataset.hash.clone()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    entries.into_iter().chain(spacing).map(|(name, value)| (format!("mtinet.{name}"), value)).collect()
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers have a JSON form")
}

/// The same tensors with more in the header.
fn with_metadata(
    bytes: &[u8],
    more: HashMap<String, String>,
) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let (_, header) = SafeTensors::read_metadata(bytes)?;
    let mut metadata = header.metadata().clone().unwrap_or_default();
    metadata.extend(more);
    safetensors::serialize(SafeTensors::deserialize(bytes)?.tensors(), Some(metadata))
}

/// The file appears whole or not at all. Without `force` nothing is replaced, not even what appeared meanwhile.
fn write(path: &Path, bytes: &[u8], force: bool) -> Result<(), CliError> {
    let refused = |error| CliError::failed(format_args!("cannot write {}", path.display()), &error);
    if force {
        return Ok(crate::report::write_atomically(path, bytes)?);
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    use std::os::unix::fs::PermissionsExt as _;
    let mut file = tempfile::Builder::new()
        .prefix(".exporting-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .map_err(refused)?;
    file.write_all(bytes).map_err(refused)?;
    file.as_file().sync_all().map_err(refused)?;
    file.persist_noclobber(path).map(drop).map_err(|error| refused(error.error))
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    #[test]
    fn the_header_gains_entries_and_the_tensors_stay_as_they_are() {
        let data: Vec<u8> = [1.5_f32, -0.25].iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![2], &data).unwrap();
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let before = safetensors::serialize([("a.weight", view)], Some(format)).unwrap();
        let more = HashMap::from([("mtinet.arm".to_owned(), "unet".to_owned())]);
        let after = with_metadata(&before, more).unwrap();
        let (_, header) = SafeTensors::read_metadata(&after).unwrap();
        let metadata = header.metadata().clone().unwrap();
        assert_eq!((metadata["format"].as_str(), metadata["mtinet.arm"].as_str()), ("pt", "unet"));
        let file = SafeTensors::deserialize(&after).unwrap();
        assert_eq!((file.len(), file.tensor("a.weight").unwrap().data()), (1, data.as_slice()));
        assert!(with_metadata(&before[..20], HashMap::new()).is_err());
    }

    #[test]
    fn nothing_is_replaced_unless_that_is_wanted() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().join("w.safetensors");
        write(&path, b"first", false).unwrap();
        assert_eq!(write(&path, b"second", false).unwrap_err().exit_code(), 1);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write(&path, b"second", true).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
