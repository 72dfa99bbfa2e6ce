//! The study file: what a user asks for. Parsed strictly, validated before anything runs, immutable once submitted.
//!
//! Reading the file from disk and finding the data set is the caller's work.

mod duration;
mod error;
mod initial;
mod validate;

use serde::{Deserialize, Serialize};

pub use duration::Seconds;
pub use error::SpecError;
pub use initial::{InitialFile, InitialWeights, PinnedFile};

use crate::ids::TrialKey;
use crate::model::{Arm, LossWeights, ModelConfig};

/// A study: data set, arms, folds, seeds, training settings, resources. One TOML file (DESIGN.md 4.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudySpec {
    /// The study's name; also the name of its run directory.
    pub name: String,
    /// Directory of the data set (the one with `dataset.toml`).
    pub dataset: String,
    /// The network configurations to compare.
    pub arms: Vec<Arm>,
    /// How many folds the data set is split into (`5`) or which of its folds to run (`[0, 2]`).
    #[serde(default)]
    pub folds: Folds,
    /// Seeds of initialisation, sampling and dropout; every arm x fold is run once a seed.
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// Sizes and open choices of the networks.
    #[serde(default)]
    pub model: ModelConfig,
    /// How the networks are trained.
    #[serde(default)]
    pub train: TrainConfig,
    /// How the images become slices.
    #[serde(default)]
    pub preprocess: PreprocessConfig,
    /// What a trial runs on.
    #[serde(default)]
    pub resources: Resources,
    /// What happens after a failure.
    #[serde(default)]
    pub retry: Retry,
    /// When checkpoints are written.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// What a finished trial leaves behind.
    #[serde(default)]
    pub output: Output,
    /// Weights that arms start from. Left out of the stored form where there are none, so that the hashes of such
    /// specs stay what they were.
    #[serde(default, skip_serializing_if = "InitialWeights::is_empty")]
    pub init: InitialWeights,
}

fn default_seeds() -> Vec<u64> {
    vec![0]
}

/// Either a number of folds or a list of fold indices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of folds (5) or a list of folds ([0, 2])")]
pub enum Folds {
    /// Folds 0 to n-1.
    Count(u32),
    /// These folds of the data set's split.
    List(Vec<u32>),
}

impl Default for Folds {
    fn default() -> Self {
        Self::Count(5)
    }
}

impl Folds {
    /// The folds that are run, ascending.
    pub fn indices(&self) -> Vec<u32> {
        match self {
            Self::Count(count) => (0..*count).collect(),
            Self::List(list) => {
                let mut list = list.clone();
                list.sort_unstable();
                list
            }
        }
    }
}

/// `[train]`: optimisation, the same for every arm of the study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training slices. Exactly one of `epochs` and `steps` is given; neither means 100 epochs.
    pub epochs: Option<u32>,
    /// Optimiser steps.
    pub steps: Option<u64>,
    /// Samples per replica and step.
    pub batch_size: u32,
    /// Data-parallel replicas: the effective batch is `batch_size` x `replicas`.
    pub replicas: u32,
    /// Adam's learning rate.
    pub learning_rate: f64,
    /// The discriminator's learning rate; the same as the generator's where absent.
    pub discriminator_learning_rate: Option<f64>,
    /// Height and width of the slices in pixels; a multiple of 16.
    pub image_size: u32,
    /// Arithmetic of forward and backward.
    pub precision: Precision,
    /// The same bits every time on one kind of device and number of ranks.
    pub deterministic: bool,
    /// On CUDA, records a step and starts it as one graph. Left out of the stored form where off, so that the hashes of
    /// such specs stay what they were.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cuda_graphs: bool,
    /// Weights of the loss terms.
    pub loss: LossWeights,
    /// Clips the norm of the generator's gradient; off where absent.
    pub grad_clip: Option<f64>,
    /// Epochs before the adversarial term joins the generator's loss (MODEL.md 3.11).
    pub adv_warmup_epochs: u32,
    /// Steps of the discriminator before each step of the generator.
    pub d_steps: u32,
    /// Evaluates the held-out fold every so many epochs for the learning curves (0: only at the end).
    pub eval_every: u32,
    /// Which epoch's weights are reported.
    pub select: Select,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: None,
            steps: None,
            batch_size: 8,
            replicas: 1,
            learning_rate: 1e-4,
            discriminator_learning_rate: None,
            image_size: 256,
            precision: Precision::Fp32,
            deterministic: true,
            cuda_graphs: false,
            loss: LossWeights::default(),
            grad_clip: None,
            adv_warmup_epochs: 0,
            d_steps: 1,
            eval_every: 10,
            select: Select::Last,
        }
    }
}

impl TrainConfig {
    /// Optimiser steps of a trial with this many training slices.
    pub fn total_steps(&self, training_slices: usize) -> u64 {
        self.steps.unwrap_or_else(|| {
            u64::from(self.epochs.unwrap_or(DEFAULT_EPOCHS)) * self.steps_per_epoch(training_slices)
        })
    }

    /// Steps of one pass over the training slices; the last batch is filled up from the start of the permutation.
    pub fn steps_per_epoch(&self, training_slices: usize) -> u64 {
        (training_slices as u64).div_ceil(self.effective_batch()).max(1)
    }

    /// Samples per optimiser step over all replicas.
    pub fn effective_batch(&self) -> u64 {
        u64::from(self.batch_size) * u64::from(self.replicas)
    }
}

/// The paper's number of epochs.
const DEFAULT_EPOCHS: u32 = 100;

/// Which epoch's weights are reported (MODEL.md 3.16, row 30).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Select {
    /// Those of the last epoch: nothing is chosen by looking at held-out slices.
    #[default]
    Last,
    /// Those of the epoch that is best on another fold. Refused: see `validate`.
    Val,
}

/// Arithmetic of forward and backward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision throughout.
    #[default]
    Fp32,
    /// Single precision whose products are rounded to TensorFloat-32 on CUDA devices from Ampere on; elsewhere as `Fp32`.
    Tf32,
    /// Autocast to bfloat16; weights and optimiser state stay in single precision.
    Bf16,
    /// bfloat16 where the processors of all ranks multiply it (AVX-512 BF16, AMX, CUDA from Ampere on), else single precision.
    Auto,
}

/// `[preprocess]`: from source volumes to slices of `image_size`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreprocessConfig {
    /// In-plane spacing in mm. Absent: the median of the data set, or coarser where the largest field of view
    /// would not fit into `image_size`.
    pub spacing: Option<f64>,
    /// Share of the slices without tumour that is used, 0 to 1.
    pub healthy_fraction: f64,
}

impl Default for PreprocessConfig {
    fn default() -> Self {
        Self { spacing: None, healthy_fraction: 1.0 }
    }
}

/// `[resources]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// Which devices a rank may run on.
    pub device: DeviceChoice,
    /// Ranks a trial runs on.
    pub ranks: Ranks,
    /// Higher goes first.
    pub priority: i32,
}

/// Which devices a rank may run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// CUDA where a worker has it, else CPU; all ranks of an attempt on the same kind.
    #[default]
    Auto,
    /// Only CPU slots.
    Cpu,
    /// Only CUDA devices.
    Cuda,
}

/// How many ranks a trial runs on: the word `auto` or a divisor of `replicas`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ranks {
    /// One while trials wait, up to `replicas` when slots are spare.
    #[default]
    Auto,
    /// Always this many.
    Fixed(u32),
}

impl Serialize for Ranks {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(ranks) => serializer.serialize_u32(*ranks),
        }
    }
}

impl<'de> Deserialize<'de> for Ranks {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Ranks;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a number of ranks")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Ranks, E> {
                match text {
                    "auto" => Ok(Ranks::Auto),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_u64<E: serde::de::Error>(self, ranks: u64) -> Result<Ranks, E> {
                u32::try_from(ranks)
                    .map(Ranks::Fixed)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(ranks), &self))
            }

            fn visit_i64<E: serde::de::Error>(self, ranks: i64) -> Result<Ranks, E> {
                u32::try_from(ranks)
                    .map(Ranks::Fixed)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(ranks), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// `[retry]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Failures after which a trial is given up. Losing a worker is not a failure.
    pub max_attempts: u32,
    /// Pause before the first retry; doubles with every further failure.
    pub backoff: Seconds,
}

impl Default for Retry {
    fn default() -> Self {
        Self { max_attempts: 5, backoff: Seconds(1.0) }
    }
}

/// `[checkpoint]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Longest training time that a fault may cost. A checkpoint is also written at each epoch's end, but not
    /// more often than a tenth of this, nor where writing would take more than half a percent of the time.
    pub every: Seconds,
    /// Additionally after every so many steps.
    pub every_steps: Option<u64>,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { every: Seconds(60.0), every_steps: None }
    }
}

/// `[output]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// Writes a NIfTI mask on the source grid for every held-out subject.
    pub predictions: bool,
}

impl Default for Output {
    fn default() -> Self {
        Self { predictions: true }
    }
}

impl StudySpec {
    /// Reads and validates a study file's text.
    ///
    /// # Errors
    /// The first thing wrong with it: key path, line, and what is allowed there.
    pub fn from_toml(text: &str) -> Result<Self, SpecError> {
        let deserializer =
            toml::Deserializer::parse(text).map_err(|error| SpecError::syntax(text, &error))?;
        let spec: Self = serde_path_to_error::deserialize(deserializer)
            .map_err(|error| SpecError::shape(text, &error.path().to_string(), error.inner()))?;
        validate::validate(&spec).map_err(|problem| SpecError::value(text, problem))?;
        Ok(spec)
    }

    /// Reads and validates a spec that a peer or the event log holds as JSON.
    ///
    /// # Errors
    /// As [`StudySpec::from_toml`], without a line.
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        let spec: Self = serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text))
            .map_err(|error| SpecError::new(error.path().to_string(), error.inner().to_string()))?;
        validate::validate(&spec).map_err(|problem| SpecError::value("", problem))?;
        Ok(spec)
    }

    /// The spec as JSON, keys in declaration order: what is stored and hashed.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a spec has only string keys and finite numbers")
    }

    /// BLAKE3 of the spec's JSON, as hex.
    pub fn hash(&self) -> String {
        blake3::hash(self.to_json().as_bytes()).to_hex().to_string()
    }

    /// Every trial of the study: arms in the order of the file, within an arm all folds of a seed together.
    pub fn trials(&self) -> Vec<TrialKey> {
        let mut trials = Vec::new();
        for &arm in &self.arms {
            for &seed in &self.seeds {
                trials.extend(self.folds.indices().into_iter().map(|fold| TrialKey { arm, fold, seed }));
            }
        }
        trials
    }
}

#[cfg(test)]
mod tests;
