//! The phases of one case in memory, on one grid: what its slices are made from, for training and for prediction.

use ndarray::{Array2, Array3, Axis};

use crate::error::{DataError, Result};
use crate::grid::Grid;
use crate::nifti_io::Volume;
use crate::preprocess::PlaneTransform;

/// Phases of a case may lie this far apart, in mm at the volume's corners.
pub(crate) const GRID_TOLERANCE_MM: f64 = 0.1;

/// All phases of a case in canonical order of axes.
#[derive(Debug)]
pub struct CaseVolumes {
    grid: Grid,
    phases: Vec<Array3<f32>>,
}

impl CaseVolumes {
    /// Reads the phases, one after another, and makes sure that they lie on `grid`, which is that of `owner` (as messages
    /// name it, `the mask`).
    ///
    /// # Errors
    /// [`DataError::Case`] naming the phase that lies elsewhere, and those of `read`.
    pub(crate) fn read(
        case: &str,
        names: &[String],
        (owner, grid): (&str, Grid),
        mut read: impl FnMut(usize) -> Result<Volume>,
    ) -> Result<Self> {
        let mut phases = Vec::with_capacity(names.len());
        for (index, phase) in names.iter().enumerate() {
            let volume = read(index)?;
            if !volume.grid.same_space(&grid, GRID_TOLERANCE_MM) {
                return Err(DataError::case(
                    case,
                    format!(
                        "phase `{phase}` lies on another grid than {owner} ({}); resample the phases to one grid first",
                        difference(&volume.grid, &grid)
                    ),
                ));
            }
            phases.push(volume.data);
        }
        Ok(Self { grid, phases })
    }

    /// The grid that all phases lie on.
    #[must_use]
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// Raw intensities of the phases `[z, y, x]`, in order.
    #[must_use]
    pub fn phases(&self) -> &[Array3<f32>] {
        &self.phases
    }

    /// Slice `z` of every phase on the network's square: raw intensities.
    #[must_use]
    pub fn squares(&self, transform: &PlaneTransform, z: usize) -> Vec<Array2<f32>> {
        self.phases.iter().map(|phase| transform.image(phase.index_axis(Axis(0), z))).collect()
    }
}

fn difference(one: &Grid, other: &Grid) -> String {
    if one.shape == other.shape {
        return format!("their corners are up to {:.2} mm apart", one.corner_distance(other));
    }
    format!("{:?} and {:?} voxels", one.shape, other.shape)
}
