//! What can go wrong when a network is built, saved or loaded.

use std::path::PathBuf;

use mtinet_domain::model::ModelConfigError;
use tch::TchError;
use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
pub enum ModelError {
    /// The arm or its knobs cannot be built.
    #[error(transparent)]
    Config(#[from] ModelConfigError),
    /// Too few classes for a classification.
    #[error("{classes} lesion classes: a classification needs at least 2")]
    Classes {
        /// Number of classes given.
        classes: usize,
    },
    /// Too few phases.
    #[error("an image needs at least one phase")]
    Phases,
    /// A weights file could not be read or written.
    #[error("cannot access weights {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Bytes that are not a complete safetensors file.
    #[error(
        "weights {origin} are not a complete safetensors file; it may be truncated: restore it from a copy"
    )]
    Format {
        /// File, or whatever the bytes came from.
        origin: String,
        /// The cause.
        source: safetensors::SafeTensorError,
    },
    /// Parameters of the network that the weights lack.
    #[error("weights {origin} lack {} ({count} in all): they belong to another arm, preset or image size", names.join(", "))]
    Missing {
        /// File, or whatever the bytes came from.
        origin: String,
        /// The first few names.
        names: Vec<String>,
        /// How many are missing.
        count: usize,
    },
    /// Tensors that the network has no parameter for.
    #[error("weights {origin} have {} ({count} in all), which the network lacks: they belong to another arm or preset", names.join(", "))]
    Unexpected {
        /// File, or whatever the bytes came from.
        origin: String,
        /// The first few names.
        names: Vec<String>,
        /// How many there are.
        count: usize,
    },
    /// A tensor of another shape than its parameter.
    #[error(
        "weights {origin}: {name} has shape {found:?}, the network needs {expected:?}; check preset, image size and classes"
    )]
    Shape {
        /// File, or whatever the bytes came from.
        origin: String,
        /// The parameter.
        name: String,
        /// Shape in the file.
        found: Vec<i64>,
        /// Shape in the network.
        expected: Vec<i64>,
    },
    /// An answering layer of another size, in a file that a network is to start from.
    #[error(
        "weights {origin}: {name} has shape {found:?}, the network needs {expected:?}: its last layer answers another \
         question; leave {head} out of the file to start that layer afresh, or correct the data set's phases and classes"
    )]
    Head {
        /// File, or whatever the bytes came from.
        origin: String,
        /// The layer.
        head: String,
        /// The parameter.
        name: String,
        /// Shape in the file.
        found: Vec<i64>,
        /// Shape in the network.
        expected: Vec<i64>,
    },
    /// A tensor that is not of 32-bit floats.
    #[error("weights {origin}: {name} has type {found}, only F32 can be loaded; convert the file")]
    Kind {
        /// File, or whatever the bytes came from.
        origin: String,
        /// The parameter.
        name: String,
        /// Type in the file.
        found: String,
    },
    /// A tensor with NaN or infinity in it.
    #[error("weights {origin}: {name} holds NaN or infinity at element {index}; use an earlier checkpoint")]
    NotFinite {
        /// File, or whatever the bytes came from.
        origin: String,
        /// The parameter.
        name: String,
        /// Row-major position of the first such element.
        index: usize,
    },
    /// A failure inside libtorch.
    #[error("libtorch failed on {name}")]
    Torch {
        /// The parameter at hand.
        name: String,
        /// The cause.
        source: TchError,
    },
}
