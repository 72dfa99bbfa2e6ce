//! The slices of a trial: training and held-out, as batches of tensors.
//!
//! On the CPU they are read from the mapped cache. On a CUDA device they lie there ([`Resident`]) where they fit; else each
//! batch is made on the host and copied from pinned memory, which nobody waits for. A batch has the same bits either way.

use std::fs::File;
use std::path::Path;

use mtinet_data::{Dataset, PreprocessOptions, Progress, SliceCache, Spacing};
use mtinet_domain::evaluation::ReferenceLines;
use mtinet_domain::spec::StudySpec;
use mtinet_models::losses::Targets;
use mtinet_torch_ext::map_file;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tch::{Device, Kind, Tensor};

use crate::EngineError;
use crate::resident::{Resident, upload};

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
    /// The files behind images and masks, and the bytes of a slice in each.
    files: [(File, i64); 2],
    resident: Option<Resident>,
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

    /// Slices, and how many of them have a tumour: known without waiting for the device.
    pub(crate) fn rows(&self) -> (i64, i64) {
        (self.x.size()[0], self.tumour.size()[0])
    }

    /// The same in memory of its own.
    pub(crate) fn duplicate(&self) -> Self {
        let [x, mask, curve, class, tumour] = self.tensors().map(Tensor::copy);
        Self { x, mask, curve, class, tumour }
    }

    /// Takes over the values of a batch with as many rows of each kind.
    pub(crate) fn overwrite(&self, other: &Self) -> Result<(), EngineError> {
        for (mine, theirs) in self.tensors().into_iter().zip(other.tensors()) {
            mine.shallow_clone().f_copy_(theirs)?;
        }
        Ok(())
    }

    fn tensors(&self) -> [&Tensor; 5] {
        [&self.x, &self.mask, &self.curve, &self.class, &self.tumour]
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
        let file = |path: &Path| File::open(path).map_err(EngineError::file(path));
        let pixels = size * size;
        let files =
            [(file(&cache.images_path())?, phases * pixels * 4), (file(&cache.masks_path())?, pixels)];
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
            files,
            resident: None,
            cache,
        })
    }

    /// Brings all slices onto a CUDA device where they fit into `share` of its free memory; elsewhere nothing changes. Says
    /// in the log what became of it.
    pub(crate) fn settle(&mut self, device: Device, share: f64) -> Result<(), EngineError> {
        if !device.is_cuda() {
            return Ok(());
        }
        let free = mtinet_torch_ext::device_memory(device)?.free;
        let bytes =
            self.files.iter().map(|(_, bytes)| bytes.unsigned_abs()).sum::<u64>() * self.cache.len() as u64;
        let (bytes_gb, free_gb) = (bytes as f64 / 1e9, free as f64 / 1e9);
        if bytes as f64 > share * free as f64 {
            tracing::info!(
                "the slices ({bytes_gb:.2} GB) stay on the host: {free_gb:.1} GB of {device:?} are free"
            );
            return Ok(());
        }
        self.resident = Some(Resident::new(
            &self.images,
            &self.masks,
            [&self.curves, &self.classes],
            self.normalisation(),
            device,
        )?);
        tracing::info!("the slices ({bytes_gb:.2} GB) lie on {device:?}, of which {free_gb:.1} GB were free");
        Ok(())
    }

    /// Has the system read these slices ahead of [`FoldData::batch`], where they are not in memory. Waits for nothing.
    pub(crate) fn will_need(&self, slices: impl IntoIterator<Item = usize>) {
        if self.resident.is_some() {
            return;
        }
        for slice in slices {
            for (file, bytes) in &self.files {
                let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
                // A file system that does not know of it reads the slices when they are used.
                let _ = posix_fadvise(file, slice as i64 * bytes, *bytes, advice);
            }
        }
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
        let tumour = upload(&Tensor::f_from_slice(&tumour)?, device)?;
        if let Some(resident) = self.resident.as_ref().filter(|resident| resident.device() == device) {
            let [x, mask, curve, class] = resident.rows(&upload(&rows, device)?)?;
            return Ok(Batch { x, mask: mask.to_kind(Kind::Float), curve, class, tumour });
        }
        let x = normalised(&self.images.f_index_select(0, &rows)?, self.normalisation());
        Ok(Batch {
            x: upload(&x, device)?,
            mask: upload(&self.masks.f_index_select(0, &rows)?, device)?.to_kind(Kind::Float),
            curve: upload(&self.curves.f_index_select(0, &rows)?, device)?,
            class: upload(&self.classes.f_index_select(0, &rows)?, device)?,
            tumour,
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
