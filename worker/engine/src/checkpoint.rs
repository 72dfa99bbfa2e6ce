//! Checkpoints: everything that the next step depends on, in one safetensors file, written atomically and hashed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mtinet_domain::TrialKey;
use mtinet_domain::trial::ArtifactRef;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::EngineError;

/// A checkpoint on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFile {
    /// Optimiser steps done.
    pub step: u64,
    /// The file.
    pub path: PathBuf,
    /// Hash and length of its content.
    pub artifact: ArtifactRef,
}

/// What a checkpoint holds beside tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointMeta {
    /// Layout of the file.
    pub version: u32,
    /// Hash of the study's spec; a checkpoint is of use to its own trial only.
    pub spec_hash: String,
    /// Hash of the data set.
    pub dataset_hash: String,
    /// The trial.
    pub trial: TrialKey,
    /// Optimiser steps done.
    pub step: u64,
    /// Seconds of training so far.
    pub train_seconds: f64,
    /// Sum and number of values of each measurement since the epoch began.
    pub epoch_sums: BTreeMap<String, (f64, u64)>,
}

/// The layout that this code writes and reads.
pub(crate) const VERSION: u32 = 1;

/// The key of [`CheckpointMeta`] among the file's metadata.
const META_KEY: &str = "mtinet";

/// At epoch ends writing may take this share of the time: one part in so many.
const WORTH: u32 = 200;

/// Bytes a second that a checkpoint is taken to be written with before one was.
const ASSUMED_RATE: f64 = 200e6;

/// What writing these tensors may take.
pub(crate) fn expected_cost(tensors: &[(String, Tensor)]) -> Duration {
    let elements: usize = tensors.iter().map(|(_, tensor)| tensor.numel()).sum();
    Duration::from_secs_f64(4.0 * elements as f64 / ASSUMED_RATE)
}

/// Whether an epoch that ends `elapsed` after the last checkpoint, which took `cost` to write, leaves one. It bounds
/// nothing, as `every` does that, so it must not slow down a large network with short epochs.
pub(crate) fn worth_at_epoch_end(elapsed: Duration, every: Duration, cost: Duration) -> bool {
    elapsed >= every / 10 && elapsed >= cost * WORTH
}

/// Writes a checkpoint into `dir`: to a temporary file first, synchronised, renamed, and the directory synchronised.
pub(crate) fn write(
    dir: &Path,
    meta: &CheckpointMeta,
    tensors: &[(String, Tensor)],
) -> Result<CheckpointFile, EngineError> {
    let path = dir.join(format!("step-{:09}.safetensors", meta.step));
    let bytes = to_bytes(meta, tensors, &path)?;
    std::fs::create_dir_all(dir).map_err(EngineError::file(dir))?;
    mtinet_data::write_durably(&path, &bytes).map_err(EngineError::file(&path))?;
    let artifact =
        ArtifactRef { blake3: blake3::hash(&bytes).to_hex().to_string(), bytes: bytes.len() as u64 };
    Ok(CheckpointFile { step: meta.step, path, artifact })
}

/// Reads a checkpoint's metadata and copies its tensors into `tensors`, which must have the same names and shapes.
/// Nothing is copied unless everything fits.
pub(crate) fn read(
    path: &Path,
    artifact: Option<&ArtifactRef>,
    tensors: &[(String, Tensor)],
) -> Result<CheckpointMeta, EngineError> {
    let bad = |reason: String| EngineError::Checkpoint { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|error| bad(format!("cannot be read: {error}")))?;
    if let Some(artifact) = artifact
        && blake3::hash(&bytes).to_hex().as_str() != artifact.blake3
    {
        return Err(bad("is damaged: its hash is not the one recorded for it".to_owned()));
    }
    let meta = meta(&bytes).map_err(bad)?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| bad(error.to_string()))?;
    if file.len() != tensors.len() {
        return Err(bad(format!("has {} tensors, this trial has {}", file.len(), tensors.len())));
    }
    let mut values = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let view = file.tensor(name).map_err(|error| bad(format!("{name}: {error}")))?;
        let shape: Vec<i64> = view.shape().iter().map(|&length| length as i64).collect();
        if shape != tensor.size() || view.dtype() != Dtype::F32 {
            return Err(bad(format!("{name} has shape {shape:?}, this trial's has {:?}", tensor.size())));
        }
        values.push(Tensor::f_from_data_size(view.data(), &shape, Kind::Float)?);
    }
    let _no_grad = tch::no_grad_guard();
    for ((_, tensor), value) in tensors.iter().zip(&values) {
        tensor.shallow_clone().f_copy_(value)?;
    }
    Ok(meta)
}

fn to_bytes(
    meta: &CheckpointMeta,
    tensors: &[(String, Tensor)],
    path: &Path,
) -> Result<Vec<u8>, EngineError> {
    let bad = |reason: String| EngineError::Checkpoint { path: path.to_owned(), reason };
    let mut contents = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let shape: Vec<usize> = tensor.size().iter().map(|&length| length as usize).collect();
        let mut bytes = vec![0_u8; 4 * tensor.numel()];
        let flat = tensor.detach().to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        flat.f_copy_data_u8(&mut bytes, tensor.numel())?;
        contents.push((name, shape, bytes));
    }
    let views = contents
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| bad(error.to_string()))?;
    let meta = serde_json::to_string(meta).map_err(|error| bad(error.to_string()))?;
    safetensors::serialize(views, Some(HashMap::from([(META_KEY.to_owned(), meta)])))
        .map_err(|error| bad(error.to_string()))
}

fn meta(bytes: &[u8]) -> Result<CheckpointMeta, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let text =
        header.metadata().as_ref().and_then(|entries| entries.get(META_KEY)).ok_or("is not a checkpoint")?;
    let meta: CheckpointMeta = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if meta.version == VERSION {
        Ok(meta)
    } else {
        Err(format!("has layout {}, this version reads {VERSION}", meta.version))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> CheckpointMeta {
        CheckpointMeta {
            version: VERSION,
            spec_hash: "s".into(),
            dataset_hash: "d".into(),
            trial: "unet/1/2".parse().unwrap(),
            step: 7,
            train_seconds: 0.1 + 0.2,
            epoch_sums: BTreeMap::from([("loss".into(), (0.1 + 0.7, 3))]),
        }
    }

    fn tensors(value: f64) -> Vec<(String, Tensor)> {
        vec![
            ("a".into(), Tensor::full([2, 3], value, (Kind::Float, Device::Cpu))),
            ("b".into(), Tensor::full([0_i64; 0], value, (Kind::Float, Device::Cpu))),
        ]
    }

    #[test]
    fn an_epoch_s_end_leaves_a_checkpoint_where_that_is_cheap() {
        let every = Duration::from_secs(60);
        let worth = |elapsed, cost| {
            worth_at_epoch_end(Duration::from_secs(elapsed), every, Duration::from_millis(cost))
        };
        assert!(worth(6, 0) && !worth(5, 0), "a tenth of the longest time without one");
        assert!(worth(20, 100) && !worth(19, 100));
        assert!(!worth(59, 400), "a large network keeps to the longest time");
        let large = [("w".to_owned(), Tensor::zeros([5_000_000], (Kind::Float, Device::Cpu)))];
        assert_eq!(expected_cost(&large), Duration::from_millis(100));
    }

    #[test]
    fn a_checkpoint_reads_back_to_the_last_bit() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), &meta(), &tensors(0.1)).unwrap();
        let target = tensors(0.0);
        assert_eq!(read(&file.path, Some(&file.artifact), &target).unwrap(), meta());
        assert_eq!(target[0].1, tensors(0.1)[0].1);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_damaged_truncated_or_foreign_file_is_refused_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), &meta(), &tensors(0.1)).unwrap();
        let whole = std::fs::read(&file.path).unwrap();
        let target = tensors(5.0);
        let refused = |bytes: &[u8], artifact: Option<&ArtifactRef>| {
            std::fs::write(&file.path, bytes).unwrap();
            read(&file.path, artifact, &target).unwrap_err().to_string()
        };
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(refused(&flipped, Some(&file.artifact)).contains("damaged"));
        for length in [0, 7, whole.len() / 2, whole.len() - 1] {
            assert!(refused(&whole[..length], None).contains("step-000000007"));
        }
        std::fs::write(&file.path, &whole).unwrap();
        assert!(read(&file.path, None, &target[..1]).unwrap_err().to_string().contains("2 tensors"));
        let other =
            vec![("a".into(), Tensor::zeros([3, 2], (Kind::Float, Device::Cpu))), tensors(0.0).remove(1)];
        assert!(read(&file.path, None, &other).unwrap_err().to_string().contains("a has shape [2, 3]"));
        assert_eq!(target[0].1, tensors(5.0)[0].1);
    }
}
