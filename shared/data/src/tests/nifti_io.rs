//! Headers are written byte by byte here, so that reading is not tested against our own writer alone.

use std::io::Write;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use ndarray::Array3;
use tempfile::TempDir;

use crate::nifti_io::{read, read_grid, write_mask, write_volume};

/// A NIfTI-1 file under construction; big-endian where `big`.
struct Raw {
    bytes: Vec<u8>,
    big: bool,
}

impl Raw {
    fn new(big: bool, dims: &[i16], datatype: i16, bits: i16) -> Self {
        let mut raw = Self { bytes: vec![0; 352], big };
        raw.i32(0, 348).i16(40, dims.len() as i16).i16(70, datatype).i16(72, bits).f32(108, 352.0);
        for d in 0..7 {
            raw.i16(42 + 2 * d, dims.get(d).copied().unwrap_or(1)).f32(80 + 4 * d, 1.0);
        }
        raw.f32(76, 1.0).bytes[344..348].copy_from_slice(b"n+1\0");
        raw
    }

    fn i32(&mut self, at: usize, v: i32) -> &mut Self {
        self.bytes[at..at + 4].copy_from_slice(&if self.big { v.to_be_bytes() } else { v.to_le_bytes() });
        self
    }

    fn i16(&mut self, at: usize, v: i16) -> &mut Self {
        self.bytes[at..at + 2].copy_from_slice(&if self.big { v.to_be_bytes() } else { v.to_le_bytes() });
        self
    }

    fn f32(&mut self, at: usize, v: f32) -> &mut Self {
        self.bytes[at..at + 4].copy_from_slice(&if self.big { v.to_be_bytes() } else { v.to_le_bytes() });
        self
    }

    fn sform(&mut self, rows: [[f32; 4]; 3]) -> &mut Self {
        self.i16(254, 1);
        for (r, row) in rows.iter().enumerate() {
            for (c, v) in row.iter().enumerate() {
                self.f32(280 + 16 * r + 4 * c, *v);
            }
        }
        self
    }

    /// Appends voxels 0, 1, 2, ... as 16-bit integers.
    fn counting(&mut self, n: i16) -> &mut Self {
        for v in 0..n {
            self.bytes.extend(if self.big { v.to_be_bytes() } else { v.to_le_bytes() });
        }
        self
    }

    fn save(&self, dir: &TempDir, name: &str) -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, &self.bytes).unwrap();
        path
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn slope_and_intercept_apply_in_either_byte_order() {
    let dir = TempDir::new().unwrap();
    for big in [false, true] {
        let mut raw = Raw::new(big, &[2, 3, 4], 4, 16);
        raw.sform([[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]])
            .f32(112, 0.5)
            .f32(116, -3.0)
            .counting(24);
        let volume = read(&raw.save(&dir, "v.nii")).unwrap();
        assert_eq!(volume.grid.shape, [4, 3, 2]);
        assert_eq!(volume.grid.spacing, [2.0, 1.0, 1.0]);
        let expected = Array3::from_shape_fn((4, 3, 2), |(z, y, x)| (x + 2 * y + 6 * z) as f32 * 0.5 - 3.0);
        assert_eq!(volume.data, expected, "stored left, posterior, superior is our own order");
    }
}

#[test]
fn a_slope_that_is_zero_or_no_number_means_unscaled() {
    let dir = TempDir::new().unwrap();
    for slope in [0.0, f32::NAN] {
        let mut raw = Raw::new(false, &[2, 1, 1], 4, 16);
        raw.f32(112, slope).f32(116, 9.0).counting(2);
        let values: Vec<f32> = read(&raw.save(&dir, "v.nii")).unwrap().data.iter().copied().collect();
        // Without any orientation the first axis runs to the left already.
        assert_eq!(values, [0.0, 1.0]);
    }
}

#[test]
fn orientation_is_brought_to_left_posterior_superior() {
    let dir = TempDir::new().unwrap();
    // Source axes run anterior, inferior, right.
    let mut raw = Raw::new(false, &[3, 4, 2], 4, 16);
    raw.sform([[0.0, 0.0, 1.5, -7.0], [2.0, 0.0, 0.0, 5.0], [0.0, -3.0, 0.0, 11.0]]).counting(24);
    let volume = read(&raw.save(&dir, "v.nii")).unwrap();
    assert_eq!((volume.grid.axes, volume.grid.flips), ([1, 0, 2], [true; 3]));
    assert_eq!((volume.grid.shape, volume.grid.spacing), ([4, 3, 2], [3.0, 2.0, 1.5]));
    // Most inferior, anterior and right: j = 3, i = 2, k = 1.
    assert_eq!(volume.data[[0, 0, 0]], (2 + 3 * 3 + 12) as f32);
    let affine = volume.grid.canonical_affine();
    let world: Vec<f64> = affine.iter().take(3).map(|row| row[3]).collect();
    assert_eq!(world, [-5.5, 9.0, 2.0]);
    assert_eq!([affine[2][0], affine[1][1], affine[0][2]], [3.0, -2.0, -1.5]);
}

#[test]
fn the_quaternion_counts_when_there_is_no_sform() {
    let dir = TempDir::new().unwrap();
    // A turn by 180 degrees about z: left, posterior, superior. A negative pixdim[0] mirrors the third axis.
    let mut raw = Raw::new(false, &[2, 2, 2], 4, 16);
    raw.i16(252, 1).f32(264, 1.0).f32(268, 4.0).f32(88, 2.5).f32(76, -1.0).counting(8);
    let grid = read_grid(&raw.save(&dir, "v.nii")).unwrap();
    assert_eq!(grid.affine[0], [-1.0, 0.0, 0.0, 4.0]);
    assert_eq!(grid.affine[1][1], -1.0);
    assert_eq!(grid.affine[2], [0.0, 0.0, -2.5, 0.0]);
    assert_eq!(grid.flips, [true, false, false]);
}

#[test]
fn a_mask_goes_back_onto_the_source_grid() {
    let dir = TempDir::new().unwrap();
    for big in [false, true] {
        let mut raw = Raw::new(big, &[3, 4, 2, 1], 4, 16);
        raw.sform([[0.0, 0.1, 1.5, -7.0], [2.0, 0.0, 0.0, 5.0], [0.0, -3.0, 0.2, 11.0]])
            .f32(112, 2.0)
            .counting(24);
        let source = read(&raw.save(&dir, "v.nii")).unwrap();
        let mask = source.data.mapv(|v| u8::from(v > 20.0));
        let path = dir.path().join("mask.nii.gz");
        write_mask(&path, &mask, &source.grid).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back.data.mapv(|v| v as u8), mask);
        assert_eq!((back.grid.affine, back.grid.source_shape), (source.grid.affine, [3, 4, 2]));
        assert_eq!(
            back.grid.header[252..328],
            source.grid.header[252..328],
            "qform and sform are the source's, bit for bit"
        );
        let values = source.data.mapv(|v| v as i16 - 5);
        write_volume(&path, &values, &source.grid).unwrap();
        assert_eq!(read(&path).unwrap().data.mapv(|v| v as i16), values);
    }
    let leftovers = std::fs::read_dir(dir.path())
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains(".tmp-"));
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn a_mask_of_another_shape_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut raw = Raw::new(false, &[3, 4, 2], 4, 16);
    let source = read(&raw.counting(24).save(&dir, "v.nii")).unwrap();
    assert!(write_mask(&dir.path().join("m.nii.gz"), &Array3::zeros((1, 1, 1)), &source.grid).is_err());
}

#[test]
fn damaged_and_foreign_files_are_refused_by_name_with_a_way_out() {
    let dir = TempDir::new().unwrap();
    let mut good = Raw::new(false, &[4, 4, 4], 4, 16);
    good.counting(64);
    let packed = gzip(&good.bytes);
    let mut nifti2 = good.bytes.clone();
    nifti2[..4].copy_from_slice(&540i32.to_le_bytes());
    let mut analyze = good.bytes.clone();
    analyze[344..348].fill(0);
    let mut pair = good.bytes.clone();
    pair[344..348].copy_from_slice(b"ni1\0");
    let four = Raw::new(false, &[2, 2, 2, 3], 4, 16).bytes;
    let files: [(&str, &[u8], &str); 8] = [
        ("cut.nii.gz", &packed[..packed.len() / 2], "truncated"),
        ("cut.nii", &good.bytes[..400], "truncated"),
        ("header.nii", &good.bytes[..100], "truncated"),
        ("two.nii.gz", &gzip(&nifti2), "NIfTI-2"),
        ("analyze.nii", &analyze, "ANALYZE"),
        ("pair.nii", &pair, "pair"),
        ("four.nii", &four, "[2, 2, 2, 3]"),
        ("text.nii.gz", b"hello", "not a NIfTI-1 file"),
    ];
    for (name, bytes, part) in files {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains(name) && error.to_string().contains(part), "{error}");
        assert_eq!(error.exit_code(), 4);
    }
    let missing = read(&dir.path().join("none.nii.gz")).unwrap_err();
    assert!(missing.to_string().contains("none.nii.gz"));
}

#[test]
fn voxels_that_are_not_finite_are_kept() {
    let dir = TempDir::new().unwrap();
    let mut raw = Raw::new(false, &[2, 1, 1], 16, 32);
    raw.bytes.extend([f32::NAN, 3.0].iter().flat_map(|v| v.to_le_bytes()));
    let volume = read(&raw.save(&dir, "v.nii")).unwrap();
    assert!(volume.data[[0, 0, 0]].is_nan() && volume.data[[0, 0, 1]] == 3.0);
}
