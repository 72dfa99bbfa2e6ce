//! The voxel grid of a file, and the way between its order of axes and ours.

use ndarray::{Array3, ArrayView3};
use serde::{Deserialize, Serialize};

/// A source grid with its relation to the canonical order of axes.
///
/// The canonical order is `[slice z, row y, column x]`, with z from inferior to superior, y from anterior to
/// posterior and x from the patient's right to left (LPS), so that a slice is seen in radiological convention.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// Canonical shape `[z, y, x]`.
    pub shape: [usize; 3],
    /// Voxel spacing in mm along the canonical axes `[z, y, x]`.
    pub spacing: [f64; 3],
    /// The file's own shape `[i, j, k]`.
    pub source_shape: [usize; 3],
    /// The file's affine: source voxel (i, j, k, 1) to world coordinates in mm, RAS+ as NIfTI defines them.
    pub affine: [[f64; 4]; 4],
    /// `axes[a]` is the source axis that canonical axis `a` runs along.
    pub axes: [usize; 3],
    /// Whether canonical axis `a` runs against the source axis.
    pub flips: [bool; 3],
    /// The first 348 bytes of the source file, so that a mask can be written with an unchanged header; empty for a
    /// grid that did not come from a file.
    #[serde(skip)]
    pub header: Vec<u8>,
}

impl Grid {
    /// A grid from a file's shape and affine.
    #[must_use]
    pub fn new(source_shape: [usize; 3], affine: [[f64; 4]; 4], header: Vec<u8>) -> Self {
        let (axes, flips) = orientation(&affine);
        let spacing = axes.map(|axis| column_norm(&affine, axis));
        Self {
            shape: axes.map(|axis| source_shape[axis]),
            spacing,
            source_shape,
            affine,
            axes,
            flips,
            header,
        }
    }

    /// The canonical affine: canonical voxel (z, y, x, 1) to world coordinates in mm, RAS+.
    #[must_use]
    pub fn canonical_affine(&self) -> [[f64; 4]; 4] {
        let mut out = [[0.0; 4]; 4];
        for (row, source) in out.iter_mut().zip(&self.affine) {
            row[3] = source[3];
            for a in 0..3 {
                let step = source[self.axes[a]];
                row[a] = if self.flips[a] { -step } else { step };
                if self.flips[a] {
                    row[3] += step * (self.shape[a] as f64 - 1.0);
                }
            }
        }
        out
    }

    /// Whether two files sample the same points in space, whatever their order of axes: equal canonical shape, and no
    /// corner of the volume further apart than `tolerance_mm`.
    #[must_use]
    pub fn same_space(&self, other: &Self, tolerance_mm: f64) -> bool {
        self.shape == other.shape && self.corner_distance(other) <= tolerance_mm
    }

    /// The greatest distance in mm between corresponding corners of the two volumes.
    #[must_use]
    pub fn corner_distance(&self, other: &Self) -> f64 {
        let (a, b) = (self.canonical_affine(), other.canonical_affine());
        let corner = |affine: &[[f64; 4]; 4], grid: &Self, bits: usize| -> [f64; 3] {
            let voxel: [f64; 3] =
                std::array::from_fn(|d| if bits >> d & 1 == 1 { grid.shape[d] as f64 - 1.0 } else { 0.0 });
            std::array::from_fn(|r| (0..3).map(|d| affine[r][d] * voxel[d]).sum::<f64>() + affine[r][3])
        };
        (0..8)
            .map(|bits| {
                let (p, q) = (corner(&a, self, bits), corner(&b, other, bits));
                (0..3).map(|d| (p[d] - q[d]).powi(2)).sum::<f64>().sqrt()
            })
            .fold(0.0, |far: f64, d| if d.is_nan() { f64::INFINITY } else { far.max(d) })
    }

    /// A view of source-ordered data `[i, j, k]` in canonical order.
    pub(crate) fn to_canonical<'a, T>(&self, source: &'a Array3<T>) -> ArrayView3<'a, T> {
        let mut view = source.view().permuted_axes(self.axes);
        for a in 0..3 {
            if self.flips[a] {
                view.invert_axis(ndarray::Axis(a));
            }
        }
        view
    }

    /// Canonical data as the file stores it: first source axis fastest.
    pub(crate) fn to_file_order<T: Copy>(&self, canonical: &Array3<T>) -> Vec<T> {
        let mut view = canonical.view();
        for a in 0..3 {
            if self.flips[a] {
                view.invert_axis(ndarray::Axis(a));
            }
        }
        let mut inverse = [0; 3];
        for (a, &axis) in self.axes.iter().enumerate() {
            inverse[axis] = a;
        }
        view.permuted_axes(inverse).reversed_axes().iter().copied().collect()
    }
}

/// The assignment of source axes to canonical ones that follows the affine's directions best.
///
/// All six permutations are weighed, so that an oblique volume cannot be assigned one axis twice.
fn orientation(affine: &[[f64; 4]; 4]) -> ([usize; 3], [bool; 3]) {
    const PERMUTATIONS: [[usize; 3]; 6] = [[2, 1, 0], [1, 2, 0], [2, 0, 1], [0, 2, 1], [1, 0, 2], [0, 1, 2]];
    // Canonical axes z, y, x in RAS+ world axes: superior is +2, posterior is -1, left is -0.
    const WORLD: [(usize, f64); 3] = [(2, 1.0), (1, -1.0), (0, -1.0)];
    let along = |a: usize, axis: usize| {
        let norm = column_norm(affine, axis);
        if norm > 0.0 { WORLD[a].1 * affine[WORLD[a].0][axis] / norm } else { 0.0 }
    };
    let fit = |axes: &[usize; 3]| (0..3).map(|a| along(a, axes[a]).abs()).sum::<f64>();
    let mut best = PERMUTATIONS[0];
    for candidate in PERMUTATIONS {
        if fit(&candidate) > fit(&best) + 1e-9 {
            best = candidate;
        }
    }
    (best, std::array::from_fn(|a| along(a, best[a]) < 0.0))
}

fn column_norm(affine: &[[f64; 4]; 4], column: usize) -> f64 {
    (0..3).map(|row| affine[row][column].powi(2)).sum::<f64>().sqrt()
}
