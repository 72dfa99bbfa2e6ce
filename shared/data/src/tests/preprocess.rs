use ndarray::Array2;

use crate::grid::Grid;
use crate::preprocess::{PlaneTransform, PreprocessOptions, Spacing, resolve_spacing};

/// A grid of rows x columns pixels of the given spacing.
fn grid(rows: usize, columns: usize, spacing: f64) -> Grid {
    let affine =
        [[-spacing, 0.0, 0.0, 0.0], [0.0, -spacing, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 1.0]];
    Grid::new([columns, rows, 1], affine, Vec::new())
}

fn ramp(rows: usize, columns: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, columns), |(y, x)| 10.0 * y as f32 + x as f32 + 0.1)
}

#[test]
fn equal_spacing_touches_no_value_and_pads_around_the_centre() {
    let transform = PlaneTransform::new(&grid(5, 6, 1.5), 1.5004, 8);
    let (source, out) = (ramp(5, 6), transform.image(ramp(5, 6).view()));
    for ((y, x), &value) in source.indexed_iter() {
        assert_eq!(out[[y + 1, x + 1]].to_bits(), value.to_bits());
    }
    assert_eq!(out.iter().filter(|&&v| v == 0.0).count(), 64 - 30);
}

#[test]
fn cropping_keeps_the_centre_and_restoring_leaves_the_rest_empty() {
    let transform = PlaneTransform::new(&grid(9, 9, 1.0), 1.0, 5);
    let mask = Array2::from_shape_fn((9, 9), |(y, x)| u8::from(y == 4 && x == 4));
    let square = transform.mask(mask.view());
    assert_eq!(square[[2, 2]], 1);
    let restored = transform.restore_mask(&[1; 25]).unwrap();
    assert_eq!(restored.iter().map(|&v| u32::from(v)).sum::<u32>(), 25);
    assert_eq!(transform.restore_mask(square.as_slice().unwrap()).unwrap(), mask);
    assert!(transform.restore_mask(&[0; 24]).is_err());
}

#[test]
fn shrinking_averages_and_keeps_position() {
    // A linear image stays linear under resampling, so the centre value tells the position.
    let transform = PlaneTransform::new(&grid(32, 32, 1.0), 2.0, 16);
    let out = transform.image(ramp(32, 32).view());
    let middle = (out[[7, 7]] + out[[8, 8]]) / 2.0;
    assert!((middle - (10.0 * 15.5 + 15.5 + 0.1)).abs() < 1e-3, "{middle}");
    assert!((out[[8, 8]] - out[[7, 8]] - 20.0).abs() < 1e-3);
    let flat = transform.image(Array2::from_elem((32, 32), 7.0).view());
    assert!(flat.iter().all(|v| (v - 7.0).abs() < 1e-5), "weights sum to one at the edges too");
}

#[test]
fn a_mask_survives_the_way_there_and_back() {
    let disc = |n: usize, r: f64| {
        let c = (n as f64 - 1.0) / 2.0;
        Array2::from_shape_fn((n, n), |(y, x)| u8::from((y as f64 - c - 3.0).hypot(x as f64 - c + 5.0) < r))
    };
    for (spacing, side) in [(0.7, 96), (1.37, 48), (2.0, 32), (0.5, 128)] {
        let transform = PlaneTransform::new(&grid(64, 64, 1.0), spacing, side);
        let truth = disc(64, 12.0);
        let square = transform.mask(truth.view());
        let back = transform.restore_mask(square.as_slice().unwrap()).unwrap();
        let both = truth.iter().zip(&back).filter(|(a, b)| **a == 1 && **b == 1).count() as f64;
        let sum =
            (truth.iter().filter(|&&v| v == 1).count() + back.iter().filter(|&&v| v == 1).count()) as f64;
        assert!(2.0 * both / sum > 0.93, "{spacing}: {}", 2.0 * both / sum);
    }
}

#[test]
fn automatic_spacing_fits_the_largest_field_of_view_and_never_goes_below_the_median() {
    let options = |image_size| PreprocessOptions { image_size, ..PreprocessOptions::default() };
    let grids = [grid(100, 100, 1.0), grid(100, 100, 1.5), grid(100, 120, 2.0)];
    assert_eq!(resolve_spacing(&options(256), grids.iter()).unwrap(), 1.5);
    assert_eq!(resolve_spacing(&options(64), grids.iter()).unwrap(), 240.0 / 64.0);
    let fixed = PreprocessOptions { spacing: Spacing::Millimetres(0.9), ..options(64) };
    assert_eq!(resolve_spacing(&fixed, grids.iter()).unwrap(), 0.9);
    assert!(resolve_spacing(&options(64), [].iter()).is_err());
}

#[test]
fn impossible_options_are_refused() {
    for options in [
        PreprocessOptions { image_size: 0, ..PreprocessOptions::default() },
        PreprocessOptions { healthy_fraction: 1.5, ..PreprocessOptions::default() },
        PreprocessOptions { spacing: Spacing::Millimetres(-1.0), ..PreprocessOptions::default() },
    ] {
        assert_eq!(options.validate().unwrap_err().exit_code(), 2);
    }
}
