//! `[init]` of a study file at submission: its weights are read, judged, pinned by their hash, and brought to the
//! coordinator, from where every worker gets them.

use std::path::{Path, PathBuf};
use std::process::Command;

use mtinet_domain::spec::{InitialFile, PinnedFile};
use mtinet_domain::trial::{ArtifactRef, DatasetRef};
use mtinet_domain::{Arm, StudySpec};
use safetensors::{Dtype, SafeTensors};

use super::client::Coordinator;
use super::error::{CliError, chain};
use super::output::say;

/// A file with initial weights that the coordinator must have before the study is submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weights {
    /// The arm that starts from it.
    pub arm: Arm,
    /// Where it is.
    pub path: PathBuf,
    /// Its content.
    pub artifact: ArtifactRef,
}

/// Reads every file that `[init]` names, judges what can be judged without its network, and pins it in the spec.
///
/// # Errors
/// Exit code 4 for a file that is missing, damaged, or not of finite 32-bit floats; the parameter is named.
pub fn pin(spec: &mut StudySpec, study_file: &Path) -> Result<Vec<Weights>, CliError> {
    let mut found = Vec::new();
    for (&arm, file) in &mut spec.init {
        let path = study_file.parent().unwrap_or(Path::new("")).join(file.path());
        let refused = |problem: String| {
            let (study, path) = (study_file.display(), path.display());
            CliError::BadData(format!("{study}: init.{arm}: the weights {path} {problem}"))
        };
        let bytes = std::fs::read(&path)
            .map_err(|error| refused(format!("cannot be read: {error}; correct the path, or remove it")))?;
        judge(&bytes).map_err(&refused)?;
        let artifact =
            ArtifactRef { blake3: blake3::hash(&bytes).to_hex().to_string(), bytes: bytes.len() as u64 };
        if let Some(pinned) = file.artifact().filter(|pinned| *pinned != artifact) {
            return Err(refused(format!(
                "have changed: their hash is {}, the study file says {}",
                artifact.blake3, pinned.blake3
            )));
        }
        let ArtifactRef { blake3, bytes } = artifact.clone();
        *file = InitialFile::Pinned(PinnedFile { path: file.path().to_owned(), blake3, bytes });
        found.push(Weights { arm, path, artifact });
    }
    Ok(found)
}

/// Whether these are the bytes of a whole safetensors file of finite 32-bit floats.
fn judge(bytes: &[u8]) -> Result<(), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| {
        format!("are not a complete safetensors file ({}); restore them from a copy", chain(&error))
    })?;
    for (name, tensor) in file.tensors() {
        // A counter of PyTorch's batch normalisation, which is passed over.
        if name.ends_with(".num_batches_tracked") {
            continue;
        }
        if tensor.dtype() != Dtype::F32 {
            return Err(format!("hold {name} as {:?}; only F32 can be loaded, convert them", tensor.dtype()));
        }
        let finite = |value: &[u8; 4]| f32::from_le_bytes(*value).is_finite();
        if let Some(place) = tensor.data().as_chunks::<4>().0.iter().position(|value| !finite(value)) {
            return Err(format!(
                "hold NaN or infinity in {name} at element {place}; use an earlier checkpoint"
            ));
        }
    }
    Ok(())
}

/// Holds each file against the network that is to start from it, where a trainer is beside this program: names and
/// shapes are then refused before anything is trained. Elsewhere the worker that gets the trial does it.
///
/// # Errors
/// Exit code 4 in the trainer's words, which name the parameter.
pub fn check(spec: &StudySpec, dataset: &DatasetRef, weights: &[Weights]) -> Result<(), CliError> {
    let trainer = std::env::current_exe().map(|this| this.with_file_name("mtinet-trainer"));
    let Some(trainer) = trainer.ok().filter(|trainer| trainer.is_file() && !weights.is_empty()) else {
        return Ok(());
    };
    let refused = |error| CliError::failed("cannot check the initial weights", &error);
    let file = tempfile::NamedTempFile::new().map_err(refused)?;
    std::fs::write(file.path(), spec.to_json()).map_err(refused)?;
    for Weights { arm, path, .. } in weights {
        let mut command = Command::new(&trainer);
        command.arg("check-init").arg("--spec").arg(file.path()).arg("--weights").arg(path);
        command.args(["--arm", arm.name(), "--phases", &dataset.phases.len().to_string()]);
        let output = command.args(["--classes", &dataset.classes.len().to_string()]).output();
        let output = output.map_err(refused)?;
        let words = String::from_utf8_lossy(&output.stderr);
        let words = words.trim().trim_start_matches("error: ");
        match output.status.code() {
            Some(0) => {
                for note in String::from_utf8_lossy(&output.stdout).lines() {
                    say(format_args!("initial weights of {arm}: {note}"));
                }
            }
            Some(4) => return Err(CliError::BadData(format!("init.{arm}: {words}"))),
            _ => {
                return Err(CliError::NotSo(format!(
                    "{} failed to check init.{arm}: {words}",
                    trainer.display()
                )));
            }
        }
    }
    Ok(())
}

/// Brings the files to the coordinator; one that two arms share only once.
///
/// # Errors
/// Exit code 3 where the coordinator does not take one, 1 where one cannot be read any more.
pub async fn upload(coordinator: &mut Coordinator, weights: &[Weights]) -> Result<(), CliError> {
    for (place, file) in weights.iter().enumerate() {
        if weights[..place].iter().any(|other| other.artifact == file.artifact) {
            continue;
        }
        coordinator.put_file(&file.path, &file.artifact).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use safetensors::tensor::TensorView;

    use super::*;

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn file(tensors: &[(&str, Dtype, Vec<u8>, usize)]) -> Vec<u8> {
        let views = tensors.iter().map(|(name, dtype, bytes, length)| {
            (name.to_string(), TensorView::new(*dtype, vec![*length], bytes).unwrap())
        });
        safetensors::serialize(views, None).unwrap()
    }

    fn good() -> Vec<u8> {
        file(&[
            ("a.weight", Dtype::F32, floats(&[1.0, -2.0]), 2),
            ("a.num_batches_tracked", Dtype::I64, vec![0; 8], 1),
        ])
    }

    fn spec(init: &str) -> StudySpec {
        let text = format!("name = \"x\"\ndataset = \"d\"\narms = [\"unet\", \"mti-net\"]\n[init]\n{init}\n");
        StudySpec::from_toml(&text).unwrap()
    }

    #[test]
    fn files_are_found_beside_the_study_file_and_pinned_by_their_content() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("w.safetensors"), good()).unwrap();
        let study = here.path().join("study.toml");
        let mut first = spec("unet = \"w.safetensors\"");
        let found = pin(&mut first, &study).unwrap();
        let artifact =
            ArtifactRef { blake3: blake3::hash(&good()).to_hex().to_string(), bytes: good().len() as u64 };
        let path = here.path().join("w.safetensors");
        assert_eq!(found, [Weights { arm: Arm::Unet, path: path.clone(), artifact: artifact.clone() }]);
        assert_eq!(first.initial_weights(Arm::Unet), Some(artifact));
        assert_eq!(first.init[&Arm::Unet].path(), "w.safetensors", "as written: the study may be moved");
        // An absolute path is one; other content makes another study.
        let mut absolute = spec(&format!("unet = {:?}", path.to_str().unwrap()));
        assert_eq!(pin(&mut absolute, &study).unwrap().len(), 1);
        std::fs::write(&path, file(&[("a.weight", Dtype::F32, floats(&[1.0, -3.0]), 2)])).unwrap();
        let mut second = spec("unet = \"w.safetensors\"");
        pin(&mut second, &study).unwrap();
        assert_ne!(first.hash(), second.hash());
        // A spec that is pinned holds on to what it is pinned to.
        let error = pin(&mut first, &study).unwrap_err();
        assert!(error.to_string().contains("have changed"), "{error}");
    }

    #[test]
    fn a_file_that_no_network_could_start_from_is_4_and_names_the_parameter() {
        let here = tempfile::tempdir().unwrap();
        let whole = good();
        let cases: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
            ("not a complete safetensors file", whole[..whole.len() - 3].to_vec()),
            ("are not a complete", b"PK\x03\x04 a pickle".to_vec()),
            ("b.bias as F16", file(&[("b.bias", Dtype::F16, vec![0; 4], 2)])),
            ("infinity in b.bias at element 1", file(&[("b.bias", Dtype::F32, floats(&[1.0, f32::NAN]), 2)])),
        ]);
        for (words, bytes) in cases {
            std::fs::write(here.path().join("w"), bytes).unwrap();
            let error = pin(&mut spec("unet = \"w\""), &here.path().join("study.toml")).unwrap_err();
            assert_eq!(error.exit_code(), 4);
            let text = error.to_string();
            assert!(text.contains(words) && text.contains("study.toml: init.unet"), "{text}");
        }
        let error = pin(&mut spec("mti-net = \"absent\""), &here.path().join("study.toml")).unwrap_err();
        assert!(error.exit_code() == 4 && error.to_string().contains("init.mti-net"), "{error}");
    }
}
