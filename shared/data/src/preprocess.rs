//! In-plane geometry: from a source slice to a square slice of the network's size, and back.
//!
//! A slice is resampled to a common spacing and then padded or cropped around its centre. Where the spacing is the
//! source's own, no value is touched.

use ndarray::{Array2, ArrayView2};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::grid::Grid;

/// Relative difference of spacings below which nothing is interpolated.
const SAME_SPACING: f64 = 1e-3;

/// The common in-plane spacing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// The greater of the data set's median in-plane spacing and the spacing at which its largest field of view fits
    /// into the image: nothing is cropped, and the median case is not upsampled.
    Auto,
    /// A fixed spacing in millimetres.
    Millimetres(f64),
}

/// How slices are made from volumes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PreprocessOptions {
    /// Height and width of a slice in pixels.
    pub image_size: usize,
    /// In-plane spacing.
    pub spacing: Spacing,
    /// Share of each case's slices without tumour to keep, evenly spaced, 0 to 1.
    pub healthy_fraction: f64,
}

impl Default for PreprocessOptions {
    fn default() -> Self {
        Self { image_size: 256, spacing: Spacing::Auto, healthy_fraction: 1.0 }
    }
}

impl PreprocessOptions {
    /// # Errors
    /// [`DataError::Options`] naming the value that is impossible.
    pub fn validate(&self) -> Result<()> {
        let problem = if self.image_size == 0 || self.image_size > 4096 {
            format!("image_size is {}; it must be from 1 to 4096", self.image_size)
        } else if !(0.0..=1.0).contains(&self.healthy_fraction) {
            format!("healthy_fraction is {}; it must be from 0 to 1", self.healthy_fraction)
        } else if matches!(self.spacing, Spacing::Millimetres(mm) if !(mm.is_finite() && mm > 0.0)) {
            "spacing must be a positive number of millimetres".to_owned()
        } else {
            return Ok(());
        };
        Err(DataError::Options(problem))
    }
}

/// The spacing in mm for these grids under `options`.
///
/// # Errors
/// [`DataError::Options`] for no grids under [`Spacing::Auto`].
pub fn resolve_spacing<'a>(
    options: &PreprocessOptions,
    grids: impl Iterator<Item = &'a Grid>,
) -> Result<f64> {
    if let Spacing::Millimetres(mm) = options.spacing {
        return Ok(mm);
    }
    let (mut native, mut fit) = (Vec::new(), 0.0f64);
    for grid in grids {
        let [_, dy, dx] = grid.spacing;
        native.push(dy.max(dx));
        let field = (grid.shape[1] as f64 * dy).max(grid.shape[2] as f64 * dx);
        fit = fit.max(field / options.image_size as f64);
    }
    native.sort_by(f64::total_cmp);
    match native.get(native.len() / 2) {
        Some(&median) => Ok(median.max(fit)),
        None => Err(DataError::Options("the data set has no cases, so there is no spacing to choose".into())),
    }
}

/// The way of one slice from its source grid to the network's square and back.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlaneTransform {
    /// Source rows and columns.
    pub source: [usize; 2],
    /// Rows and columns after resampling, before padding and cropping.
    pub resampled: [usize; 2],
    /// Source pixels per resampled pixel, by axis; exactly 1 where nothing is interpolated.
    pub ratio: [f64; 2],
    /// Position of the resampled slice in the square; negative where it is cropped.
    pub offset: [i64; 2],
    /// Side of the square.
    pub image_size: usize,
}

impl PlaneTransform {
    /// The transform of slices of `grid` to `image_size` pixels of `spacing` mm.
    #[must_use]
    pub fn new(grid: &Grid, spacing: f64, image_size: usize) -> Self {
        let source = [grid.shape[1], grid.shape[2]];
        let ratio = [1, 2].map(|a| {
            let ratio = spacing / grid.spacing[a];
            if (ratio - 1.0).abs() < SAME_SPACING { 1.0 } else { ratio }
        });
        let resampled: [usize; 2] =
            std::array::from_fn(|a| ((source[a] as f64 / ratio[a]).round() as usize).max(1));
        let offset = resampled.map(|n| (image_size as i64 - n as i64).div_euclid(2));
        Self { source, resampled, ratio, offset, image_size }
    }

    /// An image `[rows, columns]` on the square: bilinear, averaging over the pixel where it is shrunk; zero outside.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a view is a reference already")]
    pub fn image(&self, source: ArrayView2<'_, f32>) -> Array2<f32> {
        if self.ratio == [1.0; 2] {
            return self.place(source);
        }
        let [rows, columns] = [0, 1].map(|a| self.weights(a));
        // Separable: along columns first, then along rows.
        let mut narrow = Array2::<f32>::zeros((self.source[0], self.resampled[1]));
        for (y, line) in source.outer_iter().enumerate() {
            for (x, taps) in columns.iter().enumerate() {
                narrow[[y, x]] = taps.iter().map(|&(i, w)| f64::from(line[i]) * w).sum::<f64>() as f32;
            }
        }
        let small = Array2::from_shape_fn((self.resampled[0], self.resampled[1]), |(y, x)| {
            rows[y].iter().map(|&(i, w)| f64::from(narrow[[i, x]]) * w).sum::<f64>() as f32
        });
        self.place(small.view())
    }

    /// A mask `[rows, columns]` on the square: nearest neighbour; zero outside.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a view is a reference already")]
    pub fn mask(&self, source: ArrayView2<'_, u8>) -> Array2<u8> {
        if self.ratio == [1.0; 2] {
            return self.place(source);
        }
        let small = Array2::from_shape_fn((self.resampled[0], self.resampled[1]), |(y, x)| {
            source[[self.nearest_source(0, y), self.nearest_source(1, x)]]
        });
        self.place(small.view())
    }

    /// A mask on the square, row by row, back on the source slice `[rows, columns]`: nearest neighbour; zero where the
    /// square did not reach.
    ///
    /// # Errors
    /// [`DataError::Options`] when `square` is not `image_size` x `image_size` long.
    pub fn restore_mask(&self, square: &[u8]) -> Result<Array2<u8>> {
        let side = self.image_size;
        if square.len() != side * side {
            return Err(DataError::Options(format!(
                "a mask of {} pixels is not {side} x {side}",
                square.len()
            )));
        }
        let target = |a: usize, i: usize| -> Option<usize> {
            let centre = (i as f64 - (self.source[a] as f64 - 1.0) / 2.0) / self.ratio[a];
            let at = centre + (self.resampled[a] as f64 - 1.0) / 2.0;
            // The outermost source pixels may lie half a pixel beyond the resampled centres.
            let at = (at.round() as i64).clamp(0, self.resampled[a] as i64 - 1) + self.offset[a];
            usize::try_from(at).ok().filter(|&at| at < side)
        };
        Ok(Array2::from_shape_fn((self.source[0], self.source[1]), |(y, x)| {
            match (target(0, y), target(1, x)) {
                (Some(y), Some(x)) => square[y * side + x],
                _ => 0,
            }
        }))
    }

    /// Pads or crops around the centre.
    #[expect(clippy::needless_pass_by_value, reason = "a view is a reference already")]
    fn place<T: Copy + Default>(&self, small: ArrayView2<'_, T>) -> Array2<T> {
        let at = |a: usize, i: usize| {
            usize::try_from(i as i64 - self.offset[a]).ok().filter(|&i| i < self.resampled[a])
        };
        Array2::from_shape_fn((self.image_size, self.image_size), |(y, x)| match (at(0, y), at(1, x)) {
            (Some(y), Some(x)) => small[[y, x]],
            _ => T::default(),
        })
    }

    /// Centre of resampled pixel `o` in source pixels: both slices share their centre.
    fn source_position(&self, a: usize, o: usize) -> f64 {
        (o as f64 - (self.resampled[a] as f64 - 1.0) / 2.0) * self.ratio[a]
            + (self.source[a] as f64 - 1.0) / 2.0
    }

    fn nearest_source(&self, a: usize, o: usize) -> usize {
        // Ties go down, so that an even shrinking picks the same side everywhere.
        let at = (self.source_position(a, o) - 0.5).ceil() as i64;
        at.clamp(0, self.source[a] as i64 - 1) as usize
    }

    /// Source pixels and weights for each resampled pixel: a triangle as wide as the larger of the two pixels.
    fn weights(&self, a: usize) -> Vec<Vec<(usize, f64)>> {
        let support = self.ratio[a].max(1.0);
        let last = self.source[a] as i64 - 1;
        (0..self.resampled[a])
            .map(|o| {
                let centre = self.source_position(a, o).clamp(0.0, last as f64);
                let from = ((centre - support).ceil() as i64).max(0);
                let to = ((centre + support).floor() as i64).min(last);
                let mut taps: Vec<(usize, f64)> = (from..=to)
                    .map(|i| (i as usize, 1.0 - (i as f64 - centre).abs() / support))
                    .filter(|&(_, w)| w > 0.0)
                    .collect();
                let sum: f64 = taps.iter().map(|&(_, w)| w).sum();
                taps.iter_mut().for_each(|(_, w)| *w /= sum);
                taps
            })
            .collect()
    }
}
