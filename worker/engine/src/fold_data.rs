//! The slices of a trial: training and held-out, as batches of tensors.

use std::path::Path;

use mtinet_data::{Dataset, PreprocessOptions, Progress, SliceCache, Spacing};
use mtinet_domain::evaluation::ReferenceLines;
use mtinet_domain::spec::StudySpec;
use mtinet_models::losses::Targets;
use mtinet_torch_ext::map_file;
use tch::{Device, Kind, Tensor};

use crate::EngineError;

/// All slices of the data set, memory-mapped, and which of them train and which are held out in one fold.
pub struct FoldData {
    cache: SliceCache,
    dataset: Dataset,
    train: Vec<usize>,
    held_out: Vec<usize>,
    mean: f64,
    std: f64,
    /// Raw intensities [n, phases, S, S], f32, mapped from the cache's file.
    images: Tensor,
    /// Masks [n, 1, S, S], u8, mapped likewise.
    masks: Tensor,
    /// Normalised curves [n, phases]; zeros where there is no tumour.
    curves: Tensor,
    /// Classes [n]; 0 where there is no tumour.
    classes: Tensor,
}

/// Some slices, on the device.
pub(crate) struct Batch {
    /// Normalised images [N, phases, S, S].
    pub(crate) x: Tensor,
    mask: Tensor,
    curve: Tensor,
    class: Tensor,
    tumour: Tensor,
}

impl Batch {
    pub(crate) fn targets(&self) -> Targets<'_> {
        Targets { mask: &self.mask, curve: &self.curve, class: &self.class, tumour: &self.tumour }
    }
}

impl FoldData {
    /// Opens the data set's slice cache, building it where it is not there yet, and fits the normalisation on the
    /// training slices of `fold`. `progress` hears how many cases of how many are in a cache that is built.
    ///
    /// # Errors
    /// [`EngineError::Data`] for a data set or cache that cannot be used, [`EngineError::Fold`] for a fold without
    /// training or held-out slices.
    pub fn open(
        dataset_dir: &Path,
        cache_dir: &Path,
        spec: &StudySpec,
        fold: u32,
        progress: Progress<'_>,
    ) -> Result<Self, EngineError> {
        let dataset = Dataset::open(dataset_dir)?;
        let options = preprocess_options(spec);
        let cache = SliceCache::open_or_build(&dataset, &options, Some(cache_dir), progress)?;
        let view = cache.fold(fold as usize, &dataset)?;
        if view.train.is_empty() || view.val.is_empty() {
            let (train, val) = (view.train.len(), view.val.len());
            return Err(EngineError::Fold(format!(
                "fold {fold} has {train} training and {val} held-out slices; it needs some of both: look at the split \
                 with `mtinet data check`"
            )));
        }
        let (mean, std) = cache.normalisation(&view.train)?;
        if !(std > 0.0 && std.is_finite() && mean.is_finite()) {
            return Err(EngineError::Fold(format!(
                "the training slices of fold {fold} have mean {mean} and standard deviation {std}: nothing to learn from"
            )));
        }
        let (n, phases, size) = (cache.len() as i64, cache.phases().len() as i64, cache.image_size() as i64);
        let images = map_file(&cache.images_path(), &[n, phases, size, size], Kind::Float)?;
        let masks = map_file(&cache.masks_path(), &[n, 1, size, size], Kind::Uint8)?;
        let (curves, classes) = targets(&cache, mean, std)?;
        Ok(Self {
            dataset,
            train: view.train,
            held_out: view.val,
            mean,
            std,
            images,
            masks,
            curves,
            classes,
            cache,
        })
    }

    /// Indices of the training slices.
    pub fn train(&self) -> &[usize] {
        &self.train
    }

    /// Indices of the held-out slices.
    pub fn held_out(&self) -> &[usize] {
        &self.held_out
    }

    /// Mean and standard deviation of all training pixels, raw intensity.
    pub fn normalisation(&self) -> (f64, f64) {
        (self.mean, self.std)
    }

    /// The cache behind it.
    pub fn cache(&self) -> &SliceCache {
        &self.cache
    }

    /// The data set behind it.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Whether a slice has a tumour of a known class.
    pub(crate) fn has_tumour(&self, slice: usize) -> bool {
        self.cache.slices()[slice].class.is_some()
    }

    /// These slices on `device`.
    pub(crate) fn batch(&self, slices: &[usize], device: Device) -> Result<Batch, EngineError> {
        let indices: Vec<i64> = slices.iter().map(|&slice| slice as i64).collect();
        let rows = Tensor::f_from_slice(&indices)?;
        let tumour: Vec<i64> =
            (0_i64..).zip(slices).filter(|&(_, &slice)| self.has_tumour(slice)).map(|(row, _)| row).collect();
        let x = normalised(&self.images.f_index_select(0, &rows)?, self.normalisation());
        Ok(Batch {
            x: x.to_device(device),
            mask: self.masks.f_index_select(0, &rows)?.to_device(device).to_kind(Kind::Float),
            curve: self.curves.f_index_select(0, &rows)?.to_device(device),
            class: self.classes.f_index_select(0, &rows)?.to_device(device),
            tumour: Tensor::f_from_slice(&tumour)?.to_device(device),
        })
    }

    /// What a predictor that never looks at an image would score on the held-out slices.
    pub(crate) fn reference(&self) -> Option<ReferenceLines> {
        let curves = |slices: &[usize]| -> Vec<(usize, Vec<f64>)> {
            slices
                .iter()
                .filter_map(|&slice| Some((self.cache.slices()[slice].class?, self.curve(slice)?)))
                .collect()
        };
        ReferenceLines::fit(&curves(&self.train), &curves(&self.held_out))
    }

    /// The true curve of a slice, raw units.
    pub(crate) fn curve(&self, slice: usize) -> Option<Vec<f64>> {
        let curve = self.cache.slices()[slice].curve.as_ref()?;
        Some(curve.iter().map(|&value| f64::from(value)).collect())
    }
}

/// Raw intensities as a network is shown them.
pub(crate) fn normalised(raw: &Tensor, (mean, std): (f64, f64)) -> Tensor {
    (raw - mean) / std
}

fn preprocess_options(spec: &StudySpec) -> PreprocessOptions {
    PreprocessOptions {
        image_size: spec.train.image_size as usize,
        spacing: spec.preprocess.spacing.map_or(Spacing::Auto, Spacing::Millimetres),
        healthy_fraction: spec.preprocess.healthy_fraction,
    }
}

fn targets(cache: &SliceCache, mean: f64, std: f64) -> Result<(Tensor, Tensor), EngineError> {
    let phases = cache.phases().len();
    let mut curves = Vec::with_capacity(cache.len() * phases);
    let mut classes = Vec::with_capacity(cache.len());
    for slice in cache.slices() {
        match &slice.curve {
            Some(curve) => curves.extend(curve.iter().map(|&value| ((f64::from(value) - mean) / std) as f32)),
            None => curves.extend(std::iter::repeat_n(0.0_f32, phases)),
        }
        classes.push(slice.class.unwrap_or(0) as i64);
    }
    let curves = Tensor::f_from_slice(&curves)?.f_view([cache.len() as i64, phases as i64])?;
    Ok((curves, Tensor::f_from_slice(&classes)?))
}
