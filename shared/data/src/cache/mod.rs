//! Preprocessed slices on disk, in a form that a trainer maps into memory.
//!
//! `KEY/images.f32` holds raw intensities `[n, phases, S, S]` as little-endian f32, `KEY/masks.u8` holds `[n, S, S]`, and
//! `KEY/index.json` says what each slice is. KEY is a hash of the data set's content, the options and
//! [`CACHE_VERSION`], so that a cache is never stale. Folds are no part of it: they only choose slices.

mod build;
mod index;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ndarray::{Array2, Array3};

use crate::error::{DataError, Result};
use crate::fsutil::{self, Staging};
use crate::grid::Grid;
use crate::manifest::{self, Dataset};
use crate::parallel::Progress;
use crate::preprocess::{PlaneTransform, PreprocessOptions};

use index::Index;
pub use index::{Dropped, SliceRecord};

/// Raised whenever the same data set and options would give other bytes.
pub const CACHE_VERSION: u32 = 1;

/// An open cache. The files behind it never change.
#[derive(Debug)]
pub struct SliceCache {
    dir: PathBuf,
    index: Index,
    images: File,
    masks: File,
}

/// The slices of one fold, as indices into the cache, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoldView {
    /// Slices to train on.
    pub train: Vec<usize>,
    /// Slices to validate on.
    pub val: Vec<usize>,
}

impl SliceCache {
    /// Opens the cache of `dataset` under `options`, building it first where it is missing or damaged.
    ///
    /// It lies in `cache_root`, by default `cache/` in the data set. Of several processes one builds and the others
    /// wait for it. Progress counts cases, and is not called when the cache is there already.
    ///
    /// # Errors
    /// [`DataError`] naming the case and file that cannot be used, or the option that is impossible.
    pub fn open_or_build(
        dataset: &Dataset,
        options: &PreprocessOptions,
        cache_root: Option<&Path>,
        progress: Progress<'_>,
    ) -> Result<Self> {
        options.validate()?;
        let root = cache_root.map_or_else(|| dataset.dir.join("cache"), Path::to_owned);
        fs::create_dir_all(&root).map_err(DataError::io("create", &root))?;
        let key = key(dataset, options);
        let dir = root.join(&key);
        if let Ok(cache) = Self::open(&dir) {
            return Ok(cache);
        }
        let lock_path = root.join(format!("{key}.lock"));
        let lock = File::create(&lock_path).map_err(DataError::io("create", &lock_path))?;
        lock.lock().map_err(DataError::io("lock", &lock_path))?;
        // Another process may have built it while this one waited.
        if let Ok(cache) = Self::open(&dir) {
            return Ok(cache);
        }
        fsutil::remove_leftovers(&dir);
        remove_damaged(&dir)?;
        let staging = Staging::new(&dir)?;
        build::build(dataset, options, &key, staging.path(), progress)?;
        staging.commit()?;
        Self::open(&dir)
    }

    /// Opens a finished cache directory. Lengths are compared with the index; see [`Self::verify`] for the content.
    ///
    /// # Errors
    /// [`DataError::File`] when the directory holds no complete cache of this version.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("index.json");
        let text = fs::read_to_string(&path).map_err(DataError::io("read", &path))?;
        let index: Index = serde_json::from_str(&text).map_err(|e| DataError::file(&path, e.to_string()))?;
        if index.version != CACHE_VERSION {
            return Err(DataError::file(
                &path,
                format!("is a cache of version {}, not {CACHE_VERSION}", index.version),
            ));
        }
        let open = |name: &str, expected: u64| -> Result<File> {
            let path = dir.join(name);
            let file = File::open(&path).map_err(DataError::io("read", &path))?;
            let length = file.metadata().map_err(DataError::io("read", &path))?.len();
            if length == expected {
                return Ok(file);
            }
            Err(DataError::file(
                &path,
                format!(
                    "has {length} bytes instead of {expected}; delete {} to have it built again",
                    dir.display()
                ),
            ))
        };
        let (images, masks) = (open(IMAGES, index.images.bytes)?, open(MASKS, index.masks.bytes)?);
        Ok(Self { dir: dir.to_owned(), index, images, masks })
    }

    /// Compares the files' BLAKE3 hashes with the index.
    ///
    /// # Errors
    /// [`DataError::File`] naming the file that is damaged.
    pub fn verify(&self) -> Result<()> {
        for (path, expected) in
            [(self.images_path(), &self.index.images), (self.masks_path(), &self.index.masks)]
        {
            if manifest::hash_file(&path)? != expected.blake3 {
                return Err(DataError::file(
                    &path,
                    format!("is damaged; delete {} to have it built again", self.dir.display()),
                ));
            }
        }
        Ok(())
    }

    /// Raw intensities `[n, phases, S, S]`, little-endian f32, no header.
    #[must_use]
    pub fn images_path(&self) -> PathBuf {
        self.dir.join(IMAGES)
    }

    /// Masks `[n, S, S]`, one byte a pixel, 0 or 1, no header.
    #[must_use]
    pub fn masks_path(&self) -> PathBuf {
        self.dir.join(MASKS)
    }

    /// The cache's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Number of slices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.slices.len()
    }

    /// Whether there is no slice.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.slices.is_empty()
    }

    /// All slices, in the order of the files: by case as in the manifest, then from inferior to superior.
    #[must_use]
    pub fn slices(&self) -> &[SliceRecord] {
        &self.index.slices
    }

    /// Tumour slices that are not in the cache because their tumour vanished at this resolution.
    #[must_use]
    pub fn dropped(&self) -> &[Dropped] {
        &self.index.dropped
    }

    /// Side of a slice in pixels.
    #[must_use]
    pub fn image_size(&self) -> usize {
        self.index.options.image_size
    }

    /// In-plane spacing of the slices in mm.
    #[must_use]
    pub fn spacing(&self) -> f64 {
        self.index.spacing
    }

    /// Phases in order.
    #[must_use]
    pub fn phases(&self) -> &[String] {
        &self.index.phases
    }

    /// Lesion classes in order.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.index.classes
    }

    /// The key that names the cache: a hash of data set content, options and version.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.index.key
    }

    /// How a case's slices came from its source grid.
    ///
    /// # Errors
    /// [`DataError::Case`] for a case without slices.
    pub fn transform(&self, case: &str) -> Result<&PlaneTransform> {
        self.index.transforms.get(case).ok_or_else(|| DataError::case(case, "has no slices in the cache"))
    }

    /// Reads one slice: raw intensities `[phases, S, S]`.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn image(&self, slice: usize) -> Result<Array3<f32>> {
        let (phases, side) = (self.phases().len(), self.image_size());
        let bytes = read_at(&self.images, &self.images_path(), slice, phases * side * side * 4)?;
        let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Array3::from_shape_vec((phases, side, side), values)
            .map_err(|e| DataError::file(&self.dir, e.to_string()))
    }

    /// Reads one mask `[S, S]`.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn mask(&self, slice: usize) -> Result<Array2<u8>> {
        let side = self.image_size();
        let bytes = read_at(&self.masks, &self.masks_path(), slice, side * side)?;
        Array2::from_shape_vec((side, side), bytes).map_err(|e| DataError::file(&self.dir, e.to_string()))
    }

    /// The slices of fold `fold` of `dataset`.
    ///
    /// # Errors
    /// [`DataError::Splits`] when there is no such fold.
    pub fn fold(&self, fold: usize, dataset: &Dataset) -> Result<FoldView> {
        let Some(cases) = dataset.splits.get(fold) else {
            return Err(DataError::Splits(format!(
                "fold {fold} does not exist: {} has {} folds, counted from 0; see `mtinet data split`",
                dataset.dir.display(),
                dataset.splits.len()
            )));
        };
        let among = |ids: &[String]| -> Vec<usize> {
            let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
            (0..self.len()).filter(|&i| ids.contains(self.index.slices[i].case.as_str())).collect()
        };
        Ok(FoldView { train: among(&cases.train), val: among(&cases.val) })
    }

    /// Mean and standard deviation (population) over all pixels of all phases of `slices`, in raw intensity (MODEL.md 2.1).
    ///
    /// The result depends on the set of slices alone, not on their order or on the number of threads.
    ///
    /// # Errors
    /// [`DataError::Options`] for no slices, a slice that does not exist, or images that are constant.
    pub fn normalisation(&self, slices: &[usize]) -> Result<(f64, f64)> {
        let set: BTreeSet<usize> = slices.iter().copied().collect();
        let (mut n, mut mean, mut m2) = (0.0f64, 0.0f64, 0.0f64);
        let pixels = (self.phases().len() * self.image_size().pow(2)) as f64;
        for i in set {
            let slice = self.record(i)?;
            // Chan's update: no difference of large sums.
            let delta = slice.mean - mean;
            m2 += slice.m2 + delta * delta * n * pixels / (n + pixels);
            mean += delta * pixels / (n + pixels);
            n += pixels;
        }
        let deviation = (m2 / n).sqrt();
        if deviation > 0.0 {
            Ok((mean, deviation))
        } else {
            Err(DataError::Options("normalisation needs at least one slice whose pixels differ".into()))
        }
    }

    /// A predicted mask (`S * S` values, row by row) of one slice on its case's canonical source slice `[rows, columns]`.
    ///
    /// # Errors
    /// [`DataError::Options`] for a wrong length or a slice that does not exist.
    pub fn restore_mask(&self, slice: usize, prediction: &[u8]) -> Result<Array2<u8>> {
        self.transform(&self.record(slice)?.case)?.restore_mask(prediction)
    }

    /// The mask of a slice as it was drawn, on the canonical source slice `[rows, columns]`.
    ///
    /// Each call reads the case's file: for all slices of a case use [`Self::source_masks`].
    ///
    /// # Errors
    /// As [`Dataset::load_mask`].
    pub fn source_mask(&self, slice: usize, dataset: &Dataset) -> Result<Array2<u8>> {
        let record = self.record(slice)?;
        let (mask, _) = self.source_masks(&record.case, dataset)?;
        Ok(mask.index_axis(ndarray::Axis(0), record.z).to_owned())
    }

    /// The mask `[z, y, x]` of a case on its canonical source grid, and that grid for [`crate::nifti_io::write_mask`].
    ///
    /// # Errors
    /// As [`Dataset::load_mask`].
    pub fn source_masks(&self, case: &str, dataset: &Dataset) -> Result<(Array3<u8>, Grid)> {
        dataset.load_mask(dataset.case(case)?)
    }

    /// The slices of each case, in ascending order.
    #[must_use]
    pub fn by_case(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut cases: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, slice) in self.index.slices.iter().enumerate() {
            cases.entry(&slice.case).or_default().push(i);
        }
        cases
    }

    fn record(&self, slice: usize) -> Result<&SliceRecord> {
        self.index.slices.get(slice).ok_or_else(|| {
            DataError::Options(format!("slice {slice} does not exist; the cache has {}", self.len()))
        })
    }
}

const IMAGES: &str = "images.f32";
const MASKS: &str = "masks.u8";

fn key(dataset: &Dataset, options: &PreprocessOptions) -> String {
    let text = format!("mtinet-cache/{CACHE_VERSION} {} {options:?}", dataset.content_hash());
    blake3::hash(text.as_bytes()).to_hex()[..32].to_owned()
}

/// Takes what is left of an unusable cache out of the way. Processes that have it open keep their files.
fn remove_damaged(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let aside = fsutil::neighbour(dir);
    fs::rename(dir, &aside).map_err(DataError::io("replace", dir))?;
    fs::remove_dir_all(&aside).map_err(DataError::io("remove", &aside))
}

fn read_at(file: &File, path: &Path, record: usize, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, record as u64 * length as u64).map_err(DataError::io("read", path))?;
    Ok(bytes)
}
