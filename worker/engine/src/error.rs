//! What can go wrong while training.

use std::path::PathBuf;

use mtinet_data::DataError;
use mtinet_models::ModelError;
use mtinet_torch_ext::TorchExtError;

/// What ended a trainer's work.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The data set or its cache could not be used.
    #[error("data set of the trial")]
    Data(#[from] DataError),
    /// The network could not be built.
    #[error("network of the trial")]
    Model(#[from] ModelError),
    /// A collective or another call into libtorch failed.
    #[error("libtorch")]
    TorchExt(#[from] TorchExtError),
    /// A tensor operation failed; out of memory on a device is among them.
    #[error("tensor operation")]
    Tch(#[from] tch::TchError),
    /// The loss is not a number any more.
    #[error(
        "the {term} loss became {value} at step {step}: lower train.learning_rate, set train.grad_clip, or look at the \
         data with `mtinet data check`"
    )]
    NotFinite {
        /// Which loss term.
        term: &'static str,
        /// Its value.
        value: f64,
        /// The step at which it was read.
        step: u64,
    },
    /// A network's answer for a slice is not a number.
    #[error(
        "the answer for slice {slice} of case {case} is not a number; are its intensities of the kind that was trained on?"
    )]
    NoNumber {
        /// The case.
        case: String,
        /// The slice.
        slice: usize,
    },
    /// The fold cannot be trained or evaluated.
    #[error("{0}")]
    Fold(String),
    /// The weights that the network was to start from do not fit it.
    #[error("initial weights")]
    Initial(#[source] ModelError),
    /// A checkpoint could not be read or does not belong to this trial.
    #[error("checkpoint {path}: {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file could not be written or read.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Whoever listens to the trainer is gone.
    #[error("report to the agent")]
    Observer(#[source] std::io::Error),
}

impl EngineError {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
