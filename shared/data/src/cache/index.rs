//! What `index.json` says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::preprocess::{PlaneTransform, PreprocessOptions};

/// One slice of the cache.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SliceRecord {
    /// Case id.
    pub case: String,
    /// Subject.
    pub subject: String,
    /// Lesion class index; none for a slice without tumour, also in a case that has one elsewhere.
    pub class: Option<usize>,
    /// Lesion class index of the whole case; none for a healthy case.
    pub case_class: Option<usize>,
    /// Canonical slice index in the source volume, from inferior to superior.
    pub z: usize,
    /// Tumour pixels in the cached mask.
    pub tumour_pixels: u64,
    /// Mean raw intensity inside the cached mask, by phase; none without tumour.
    pub curve: Option<Vec<f32>>,
    /// Mean over all pixels of all phases.
    pub mean: f64,
    /// Sum of squared differences from the mean over all pixels of all phases.
    pub m2: f64,
}

/// A tumour slice that could not be kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Case id.
    pub case: String,
    /// Canonical slice index.
    pub z: usize,
    /// Why.
    pub reason: String,
}

/// Length and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileDigest {
    pub bytes: u64,
    pub blake3: String,
}

/// The whole index.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Index {
    pub version: u32,
    pub key: String,
    pub content_hash: String,
    pub options: PreprocessOptions,
    pub spacing: f64,
    pub phases: Vec<String>,
    pub classes: Vec<String>,
    pub images: FileDigest,
    pub masks: FileDigest,
    pub transforms: BTreeMap<String, PlaneTransform>,
    pub slices: Vec<SliceRecord>,
    pub dropped: Vec<Dropped>,
}
