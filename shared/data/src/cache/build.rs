//! Building a cache: one pass over the masks to choose slices, one pass over everything to write them.
//!
//! Each case's place in the files is known after the first pass, so that cases are written in any order by all cores
//! while memory holds only the cases in work.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use ndarray::{Array2, Axis};

use super::index::{Dropped, FileDigest, Index, SliceRecord};
use super::{CACHE_VERSION, IMAGES, MASKS};
use crate::error::{DataError, Result};
use crate::grid::Grid;
use crate::manifest::{self, Case, Dataset, HEALTHY};
use crate::nifti_io;
use crate::parallel::{self, Progress};
use crate::preprocess::{self, PlaneTransform, PreprocessOptions};
use crate::volumes::CaseVolumes;

/// Writes a complete cache into `dir`.
pub(super) fn build(
    dataset: &Dataset,
    options: &PreprocessOptions,
    key: &str,
    dir: &Path,
    progress: Progress<'_>,
) -> Result<()> {
    let cases: Vec<&Case> = dataset.included().collect();
    let threads = parallel::threads();
    let grids = parallel::map(cases.len(), threads, &|_, _| (), |i| {
        nifti_io::read_grid(&dataset.path(&cases[i].label.path))
    })?;
    let spacing = preprocess::resolve_spacing(options, grids.iter())?;
    let total = 2 * cases.len() as u64;
    let plans = parallel::map(cases.len(), threads, &|done, _| progress(done, total), |i| {
        plan(dataset, cases[i], &grids[i], spacing, options)
    })?;
    let mut starts = Vec::with_capacity(plans.len());
    let mut slices = 0;
    for plan in &plans {
        starts.push(slices);
        slices += plan.slices.len();
    }
    let writer = Writer::create(dir, dataset, options.image_size, slices)?;
    let records = parallel::map(cases.len(), threads, &|done, _| progress(total / 2 + done, total), |i| {
        write_case(dataset, cases[i], &plans[i], starts[i], &writer)
    })?;
    let (images, masks) = writer.finish(dir)?;
    let index = Index {
        version: CACHE_VERSION,
        key: key.to_owned(),
        content_hash: dataset.content_hash(),
        options: *options,
        spacing,
        phases: dataset.header.phases.clone(),
        classes: dataset.header.classes.clone(),
        images,
        masks,
        transforms: cases.iter().zip(&plans).map(|(c, p)| (c.case.clone(), p.transform)).collect(),
        slices: records.into_iter().flatten().collect(),
        dropped: plans.into_iter().flat_map(|p| p.dropped).collect(),
    };
    let path = dir.join("index.json");
    let text = serde_json::to_vec(&index).map_err(|e| DataError::file(&path, e.to_string()))?;
    crate::fsutil::write_atomic(&path, &text)
}

/// What to keep of a case.
struct Plan {
    transform: PlaneTransform,
    /// Canonical slice indices, ascending.
    slices: Vec<usize>,
    dropped: Vec<Dropped>,
}

fn plan(
    dataset: &Dataset,
    case: &Case,
    grid: &Grid,
    spacing: f64,
    options: &PreprocessOptions,
) -> Result<Plan> {
    let transform = PlaneTransform::new(grid, spacing, options.image_size);
    let (mask, _) = dataset.load_mask(case)?;
    let (mut keep, mut healthy, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    for (z, slice) in mask.outer_iter().enumerate() {
        let pixels = slice.iter().filter(|&&v| v != 0).count();
        if pixels == 0 {
            healthy.push(z);
        } else if transform.mask(slice).iter().any(|&v| v != 0) {
            keep.push(z);
        } else {
            let reason = format!(
                "its tumour of {pixels} pixels vanishes at {spacing:.3} mm and {} pixels",
                options.image_size
            );
            dropped.push(Dropped { case: case.case.clone(), z, reason });
        }
    }
    if case.class == HEALTHY && !(keep.is_empty() && dropped.is_empty()) {
        return Err(DataError::case(
            &case.case,
            "is healthy but its mask is not empty; see `mtinet data check`",
        ));
    }
    let wanted = (options.healthy_fraction * healthy.len() as f64).ceil() as usize;
    keep.extend((0..wanted).map(|i| healthy[(2 * i + 1) * healthy.len() / (2 * wanted)]));
    keep.sort_unstable();
    Ok(Plan { transform, slices: keep, dropped })
}

/// The two data files, written at computed places.
struct Writer {
    images: File,
    masks: File,
    image_len: usize,
    mask_len: usize,
}

impl Writer {
    fn create(dir: &Path, dataset: &Dataset, side: usize, slices: usize) -> Result<Self> {
        let create = |name: &str, length: usize| -> Result<File> {
            let path = dir.join(name);
            let file = File::create(&path).map_err(DataError::io("create", &path))?;
            file.set_len(length as u64).map_err(DataError::io("write", &path))?;
            Ok(file)
        };
        let (image_len, mask_len) = (dataset.header.phases.len() * side * side * 4, side * side);
        let (images, masks) = (create(IMAGES, slices * image_len)?, create(MASKS, slices * mask_len)?);
        Ok(Self { images, masks, image_len, mask_len })
    }

    fn put(&self, index: usize, image: &[u8], mask: &[u8]) -> std::io::Result<()> {
        self.images.write_all_at(image, (index * self.image_len) as u64)?;
        self.masks.write_all_at(mask, (index * self.mask_len) as u64)
    }

    fn finish(self, dir: &Path) -> Result<(FileDigest, FileDigest)> {
        let digest = |file: &File, name: &str| -> Result<FileDigest> {
            let path = dir.join(name);
            let bytes = file.metadata().map_err(DataError::io("read", &path))?.len();
            Ok(FileDigest { bytes, blake3: manifest::hash_file(&path)? })
        };
        let sync = |file: &File, name: &str| file.sync_all().map_err(DataError::io("write", &dir.join(name)));
        // The disk works while a core hashes what is still in memory.
        std::thread::scope(|scope| {
            let synced = scope.spawn(|| sync(&self.images, IMAGES).and_then(|()| sync(&self.masks, MASKS)));
            let digests = (digest(&self.images, IMAGES)?, digest(&self.masks, MASKS)?);
            match synced.join() {
                Ok(synced) => synced.map(|()| digests),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

fn write_case(
    dataset: &Dataset,
    case: &Case,
    plan: &Plan,
    start: usize,
    writer: &Writer,
) -> Result<Vec<SliceRecord>> {
    let (mask, grid) = dataset.load_mask(case)?;
    let phases = &dataset.header.phases;
    let volumes = CaseVolumes::read(&case.case, phases, ("the mask", grid), |phase| {
        dataset.load_image(case, &phases[phase])
    })?;
    let class = dataset.class_index(case);
    let mut records = Vec::with_capacity(plan.slices.len());
    let mut bytes = Vec::with_capacity(writer.image_len);
    for (n, &z) in plan.slices.iter().enumerate() {
        let square = plan.transform.mask(mask.index_axis(Axis(0), z));
        let images = volumes.squares(&plan.transform, z);
        let record = measure(case, class, z, &images, &square)?;
        bytes.clear();
        for value in images.iter().flatten() {
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        let mask_bytes: Vec<u8> = square.iter().copied().collect();
        writer.put(start + n, &bytes, &mask_bytes).map_err(DataError::io("write", Path::new(IMAGES)))?;
        records.push(record);
    }
    Ok(records)
}

/// Curve and moments of a slice, measured on the pixels that are cached.
fn measure(
    case: &Case,
    class: Option<usize>,
    z: usize,
    images: &[Array2<f32>],
    mask: &Array2<u8>,
) -> Result<SliceRecord> {
    let values = || images.iter().flatten().map(|&v| f64::from(v));
    if values().any(|v| !v.is_finite()) {
        return Err(DataError::case(
            &case.case,
            format!("slice {z} has voxels that are not finite; see `mtinet data check`"),
        ));
    }
    let count = images.iter().map(Array2::len).sum::<usize>() as f64;
    let mean = values().sum::<f64>() / count;
    let m2 = values().map(|v| (v - mean).powi(2)).sum();
    let tumour_pixels = mask.iter().filter(|&&m| m != 0).count() as u64;
    let curve = (tumour_pixels > 0).then(|| {
        let inside = |image: &Array2<f32>| -> f64 {
            image.iter().zip(mask).filter(|&(_, &m)| m != 0).map(|(&v, _)| f64::from(v)).sum()
        };
        images.iter().map(|image| (inside(image) / tumour_pixels as f64) as f32).collect()
    });
    Ok(SliceRecord {
        case: case.case.clone(),
        subject: case.subject.clone(),
        class: class.filter(|_| tumour_pixels > 0),
        case_class: class,
        z,
        tumour_pixels,
        curve,
        mean,
        m2,
    })
}
