//! Faults of one case's files, and what is kept of them to compare cases.

use std::collections::BTreeMap;

use ndarray::Array3;

use super::{CheckOptions, Finding, Severity, codes};
use crate::error::DataError;
use crate::grid::Grid;
use crate::labels;
use crate::manifest::{self, Case, Dataset, HEALTHY};
use crate::nifti_io::{self, Volume};

/// What one case's examination leaves behind.
pub(super) struct Facts {
    pub findings: Vec<Finding>,
    pub volumes: Vec<VolumeFacts>,
}

/// What is kept of a volume.
pub(super) struct VolumeFacts {
    pub phase: String,
    /// Hash of the decoded voxels in canonical order.
    pub hash: blake3::Hash,
    /// The same for a volume and all its mirror images.
    pub unordered_hash: u128,
    /// What tells it from most others; none for a constant volume.
    pub descriptor: Option<Descriptor>,
    /// Mean over the body, and the 99.5th percentile.
    brightness: (f64, f64),
}

/// Block means of a volume on a grid of [`THUMBNAIL`], with mean 0 and norm 1; none for a constant volume.
pub(super) type Thumbnail = Option<Vec<f32>>;

const THUMBNAIL: [usize; 3] = [4, 16, 16];
/// Blocks of a thumbnail that a descriptor has a number for.
const BLOCKS: [usize; 3] = [1, 8, 8];

/// A thumbnail's components along functions that are constant on one block each and of norm 1: an orthogonal projection, which
/// never moves two thumbnails apart.
pub(super) struct Descriptor(pub [f32; Descriptor::LENGTH]);

/// The thumbnails of a case's phases, of those that can be read.
pub(super) fn thumbnails(dataset: &Dataset, case: &Case) -> BTreeMap<String, Thumbnail> {
    let of_phase = |phase: &String| {
        let image = case.images.get(phase)?;
        let volume = nifti_io::read(&dataset.path(&image.path)).ok()?;
        Some((phase.clone(), thumbnail(&volume.data)))
    };
    dataset.header.phases.iter().filter_map(of_phase).collect()
}

/// Reads all files of a case. Volumes are dropped one after the other.
pub(super) fn examine(dataset: &Dataset, case: &Case, options: &CheckOptions) -> Facts {
    let mut findings = Vec::new();
    let mut volumes = Vec::new();
    let mut reference: Option<(String, Grid)> = None;
    let error = |code, message: &str| Finding::of_case(Severity::Error, code, case, message);
    let label = match load(dataset, case, &case.label.path, &case.label.blake3, options) {
        Ok((volume, changed)) => {
            findings.extend(changed);
            reference = Some(("the mask".to_owned(), volume.grid.clone()));
            Some(volume)
        }
        Err(finding) => {
            findings.push(*finding);
            None
        }
    };
    if let Some(label) = &label {
        findings.extend(mask_fault(case, &label.data));
    }
    let mut body = None;
    for phase in &dataset.header.phases {
        let Some(image) = case.images.get(phase) else {
            findings.push(error(
                codes::MISSING_PHASE,
                &format!("has no image of phase `{phase}`; add it, or exclude the case"),
            ));
            continue;
        };
        let volume = match load(dataset, case, &image.path, &image.blake3, options) {
            Ok((volume, changed)) => {
                findings.extend(changed);
                volume
            }
            Err(finding) => {
                findings.push(*finding);
                continue;
            }
        };
        let (name, grid) = reference.get_or_insert_with(|| (format!("phase `{phase}`"), volume.grid.clone()));
        findings.extend(grid_fault(&volume.grid, grid, options).map(|what| {
            error(codes::GRID_MISMATCH, &format!("phase `{phase}` and {name} lie on different grids: {what}; resample them to one grid before the import"))
        }));
        let broken = volume.data.iter().filter(|v| !v.is_finite()).count();
        if broken > 0 {
            findings.push(error(codes::NON_FINITE, &format!("phase `{phase}` has {broken} voxels that are not finite; repair the file, or exclude the case")));
        }
        volumes.push(facts(phase, &volume.data, &mut body));
    }
    findings.extend(phase_order(case, &dataset.header.phases, &volumes));
    Facts { findings, volumes }
}

/// Reads a file; a file that has changed is a finding beside the volume.
fn load(
    dataset: &Dataset,
    case: &Case,
    path: &std::path::Path,
    expected: &str,
    options: &CheckOptions,
) -> Result<(Volume, Option<Finding>), Box<Finding>> {
    let path = dataset.path(path);
    match nifti_io::read_hashed(&path) {
        Ok((volume, hash)) => {
            let changed = options.verify_hashes && hash != expected;
            let message =
                || format!("{} has changed since the import; restore it or import again", path.display());
            let finding =
                changed.then(|| Finding::of_case(Severity::Error, codes::FILE_CHANGED, case, &message()));
            Ok((volume, finding))
        }
        Err(DataError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let message = format!("{} is not there", path.display());
            Err(Box::new(Finding::of_case(Severity::Error, codes::MISSING_FILE, case, &message)))
        }
        Err(other) => {
            // A damaged file that was sound at the import has changed, too, but damage says more.
            let message = other.to_string();
            Err(Box::new(Finding::of_case(Severity::Error, codes::UNREADABLE_FILE, case, &message)))
        }
    }
}

fn mask_fault(case: &Case, raw: &Array3<f32>) -> Option<Finding> {
    let (code, message) = match labels::remap(raw, &case.label.remap) {
        Err(values) => (codes::LABEL_OUTSIDE_MAP, manifest::labels_outside(&values)),
        Ok(mask) => match (case.class == HEALTHY, mask.iter().any(|&v| v != 0)) {
            (false, false) => {
                (codes::EMPTY_MASK, format!("is of class {} but its mask is empty", case.class))
            }
            (true, true) => (codes::MASK_IN_HEALTHY_CASE, "is healthy but its mask is not empty".to_owned()),
            _ => return None,
        },
    };
    Some(Finding::of_case(Severity::Error, code, case, &message))
}

fn grid_fault(grid: &Grid, reference: &Grid, options: &CheckOptions) -> Option<String> {
    if grid.shape != reference.shape {
        return Some(format!("{:?} and {:?} voxels", grid.shape, reference.shape));
    }
    let distance = grid.corner_distance(reference);
    (distance > options.grid_tolerance_mm).then(|| format!("their corners are up to {distance:.2} mm apart"))
}

/// `body` is the mask of the first phase read, so that all phases are measured on the same voxels.
fn facts(phase: &str, data: &Array3<f32>, body: &mut Option<Array3<bool>>) -> VolumeFacts {
    let finite = data.iter().filter(|v| v.is_finite());
    let mean = finite.clone().map(|&v| f64::from(v)).sum::<f64>() / data.len().max(1) as f64;
    let inside = body.get_or_insert_with(|| data.mapv(|v| f64::from(v) > 0.5 * mean));
    let mut values: Vec<f32> = if inside.dim() == data.dim() {
        data.iter().zip(inside.iter()).filter(|(v, b)| **b && v.is_finite()).map(|(&v, _)| v).collect()
    } else {
        finite.copied().collect()
    };
    let body_mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len().max(1) as f64;
    let at = values.len().saturating_sub(1) * 995 / 1000;
    let bright =
        if values.is_empty() { 0.0 } else { f64::from(*values.select_nth_unstable_by(at, f32::total_cmp).1) };
    VolumeFacts {
        phase: phase.to_owned(),
        hash: voxel_hash(data),
        unordered_hash: unordered_hash(data),
        descriptor: thumbnail(data).as_deref().map(Descriptor::of),
        brightness: (body_mean, bright),
    }
}

/// Hash of shape and voxels in canonical order.
fn voxel_hash(data: &Array3<f32>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{:?}", data.dim()).as_bytes());
    let mut plane = Vec::new();
    for slice in data.outer_iter() {
        plane.clear();
        plane.extend(slice.iter().flat_map(|v| v.to_le_bytes()));
        hasher.update(&plane);
    }
    hasher.finalize()
}

/// A sum over the voxels' scrambled values: the same for a volume and all its mirror images, in one pass.
fn unordered_hash(data: &Array3<f32>) -> u128 {
    let scramble = |value: f32, salt: u64| {
        // SplitMix64.
        let mut z = (u64::from(value.to_bits()) ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let (mut low, mut high) = (data.len() as u64, 0u64);
    for &value in data {
        low = low.wrapping_add(scramble(value, 0x5bd1_e995));
        high = high.wrapping_add(scramble(value, 0x1656_67b1_9e37_79f9));
    }
    u128::from(high) << 64 | u128::from(low)
}

fn thumbnail(data: &Array3<f32>) -> Thumbnail {
    let cells = |axis: usize, length: usize| -> Vec<usize> {
        (0..length).map(|at| at * THUMBNAIL[axis] / length).collect()
    };
    let (nz, ny, nx) = data.dim();
    let [z_cells, y_cells, x_cells] = [cells(0, nz), cells(1, ny), cells(2, nx)];
    let mut sums = vec![(0.0f64, 0u32); THUMBNAIL.iter().product()];
    for ((z, y, x), &value) in data.indexed_iter() {
        let cell = (z_cells[z] * THUMBNAIL[1] + y_cells[y]) * THUMBNAIL[2] + x_cells[x];
        if value.is_finite() {
            sums[cell].0 += f64::from(value);
            sums[cell].1 += 1;
        }
    }
    let means: Vec<f64> = sums.into_iter().map(|(sum, n)| sum / f64::from(n.max(1))).collect();
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    let norm = means.iter().map(|v| (v - mean).powi(2)).sum::<f64>().sqrt();
    (norm > 0.0).then(|| means.iter().map(|v| ((v - mean) / norm) as f32).collect())
}

impl Descriptor {
    pub(super) const LENGTH: usize = BLOCKS[0] * BLOCKS[1] * BLOCKS[2];

    fn of(thumbnail: &[f32]) -> Self {
        let mut out = [0.0; Self::LENGTH];
        let size: [usize; 3] = std::array::from_fn(|axis| THUMBNAIL[axis] / BLOCKS[axis]);
        for (at, value) in thumbnail.iter().enumerate() {
            let (row, x) = (at / THUMBNAIL[2], at % THUMBNAIL[2]);
            let (z, y) = (row / THUMBNAIL[1], row % THUMBNAIL[1]);
            out[(z / size[0] * BLOCKS[1] + y / size[1]) * BLOCKS[2] + x / size[2]] += value;
        }
        let norm = (size.iter().product::<usize>() as f32).sqrt();
        Self(out.map(|sum| sum / norm))
    }
}

/// Contrast brightens the body, and arteries and spleen are brightest in the arterial phase.
fn phase_order(case: &Case, phases: &[String], volumes: &[VolumeFacts]) -> Option<Finding> {
    if phases != crate::manifest::PHASES || volumes.len() != phases.len() {
        return None;
    }
    let [pre, art, _, del] = [0, 1, 2, 3].map(|i| volumes[i].brightness);
    let darker = volumes[1..].iter().find(|v| v.brightness.0 < 0.98 * pre.0);
    let message = if let Some(volume) = darker {
        format!(
            "the body is darker in phase `{}` ({:.0}) than before contrast ({:.0})",
            volume.phase, volume.brightness.0, pre.0
        )
    } else if art.1 < 0.98 * del.1 {
        format!(
            "the brightest vessels of phase `art` ({:.0}) are darker than those of `del` ({:.0})",
            art.1, del.1
        )
    } else {
        return None;
    };
    Some(Finding::of_case(
        Severity::Warning,
        codes::PHASE_ORDER,
        case,
        &format!("{message}; are the phases in the right order?"),
    ))
}
