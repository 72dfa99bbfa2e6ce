//! Tests that need files. Data sets come from the phantom at small sizes.

mod cache;
mod cases;
mod check;
mod folds;
mod import;
mod manifest;
mod nifti_io;
mod phantom;
mod portable;
mod preprocess;

use std::path::{Path, PathBuf};

use ndarray::Array3;
use tempfile::TempDir;

use crate::manifest::{Case, Dataset, hash_file};
use crate::nifti_io as io;
use crate::phantom::PhantomOptions;

fn quiet(_: u64, _: u64) {}

/// A small phantom: 12 subjects (7 carcinomas, 5 hemangiomas), 3 slices of 32 x 32, 5 folds.
fn small() -> (TempDir, Dataset) {
    phantom(&PhantomOptions { subjects: 12, size: 32, slices_per_subject: 3, ..PhantomOptions::default() })
}

fn phantom(options: &PhantomOptions) -> (TempDir, Dataset) {
    let dir = TempDir::new().unwrap();
    let dataset = crate::phantom::write(&dir.path().join("phantom"), options, &quiet).unwrap();
    (dir, dataset)
}

/// Changes the voxels of a phase, and records the new hash unless `secretly`.
fn edit_image(
    dataset: &mut Dataset,
    case: usize,
    phase: &str,
    secretly: bool,
    edit: impl Fn(&mut Array3<i16>),
) {
    let path = dataset.path(&dataset.cases[case].images[phase].path);
    let volume = io::read(&path).unwrap();
    let mut data = volume.data.mapv(|v| v as i16);
    edit(&mut data);
    io::write_volume(&path, &data, &volume.grid).unwrap();
    if !secretly {
        dataset.cases[case].images.get_mut(phase).unwrap().blake3 = hash_file(&path).unwrap();
    }
}

/// Changes the mask of a case and records the new hash.
fn edit_mask(dataset: &mut Dataset, case: usize, edit: impl Fn(&mut Array3<u8>)) {
    let path = dataset.path(&dataset.cases[case].label.path);
    let volume = io::read(&path).unwrap();
    let mut data = volume.data.mapv(|v| v as u8);
    edit(&mut data);
    io::write_mask(&path, &data, &volume.grid).unwrap();
    dataset.cases[case].label.blake3 = hash_file(&path).unwrap();
}

/// Lays a data set out as nnU-Net does, in a directory of `dir`.
fn as_nnunet(dir: &Path, dataset: &Dataset, channels: [&str; 4]) -> PathBuf {
    let root = dir.join("Dataset001_Phantom");
    for folder in ["imagesTr", "labelsTr"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    let mut table = "case,subject,class\n".to_owned();
    for case in &dataset.cases {
        let Case { case: id, subject, class, .. } = case;
        for (channel, phase) in crate::PHASES.iter().enumerate() {
            let to = root.join(format!("imagesTr/{id}_{channel:04}.nii.gz"));
            std::fs::copy(dataset.path(&case.images[*phase].path), to).unwrap();
        }
        std::fs::copy(dataset.path(&case.label.path), root.join(format!("labelsTr/{id}.nii.gz"))).unwrap();
        table += &format!("{id},{subject},{class}\n");
    }
    let names: serde_json::Value =
        (0..4).map(|c| (c.to_string(), channels[c].into())).collect::<serde_json::Map<_, _>>().into();
    let json = serde_json::json!({
        "channel_names": names, "labels": {"background": 0, "tumor": 1}, "numTraining": dataset.cases.len(), "file_ending": ".nii.gz",
    });
    std::fs::write(root.join("dataset.json"), json.to_string()).unwrap();
    std::fs::write(root.join("cases.csv"), table).unwrap();
    root
}
