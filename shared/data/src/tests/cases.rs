use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::{as_nnunet, edit_image, quiet, small};
use crate::cases::{self, FoundCases};
use crate::error::DataError;
use crate::{PHASES, PlaneTransform, PreprocessOptions, SliceCache};

const PLAIN: [&str; 4] = ["pre", "art", "pv", "del"];

fn phases() -> Vec<String> {
    PHASES.map(str::to_owned).to_vec()
}

fn problem(found: &FoundCases, case: &str) -> String {
    let (_, input) = found.cases.iter().find(|(name, _)| name == case).unwrap();
    input.as_ref().unwrap_err().to_string()
}

#[test]
fn a_case_is_prepared_as_for_training() {
    let (dir, dataset) = small();
    let options = PreprocessOptions { image_size: 48, ..PreprocessOptions::default() };
    let cache = SliceCache::open_or_build(&dataset, &options, None, &quiet).unwrap();
    let source = as_nnunet(dir.path(), &dataset, PLAIN);
    let found = cases::find(&source, &phases()).unwrap();
    assert_eq!((found.cases.len(), found.dataset_hash.as_ref(), found.excluded), (12, None, 0));
    let in_dataset = cases::find(&dataset.dir, &phases()).unwrap();
    assert_eq!(in_dataset.dataset_hash, Some(dataset.hash()));
    for found in [found, in_dataset] {
        let (name, input) = &found.cases[3];
        let volumes = input.as_ref().unwrap().load(&phases()).unwrap();
        let transform = PlaneTransform::new(volumes.grid(), cache.spacing(), 48);
        for &slice in &cache.by_case()[name.as_str()] {
            let squares = volumes.squares(&transform, cache.slices()[slice].z);
            let cached = cache.image(slice).unwrap();
            assert!(squares.iter().zip(cached.outer_iter()).all(|(square, cached)| square.view() == cached));
        }
    }
}

#[test]
fn channels_are_found_by_name_where_a_description_names_them() {
    let (dir, dataset) = small();
    let source = as_nnunet(dir.path(), &dataset, ["delayed", "venous", "arterial", "native"]);
    for dir in [source.clone(), source.join("imagesTr")] {
        let found = cases::find(&dir, &phases()).unwrap();
        let images = &found.cases[0].1.as_ref().unwrap().images;
        assert!(
            images[0].ends_with("phantom_0001_0003.nii.gz")
                && images[3].ends_with("phantom_0001_0000.nii.gz")
        );
    }
}

#[test]
fn a_bad_case_does_not_hide_the_others() {
    let (dir, dataset) = small();
    let source = as_nnunet(dir.path(), &dataset, PLAIN);
    let images = source.join("imagesTr");
    fs::remove_file(images.join("phantom_0002_0001.nii.gz")).unwrap();
    fs::copy(images.join("phantom_0003_0000.nii.gz"), images.join("phantom_0003_0004.nii.gz")).unwrap();
    fs::copy(images.join("phantom_0003_0000.nii.gz"), images.join("scan.nii.gz")).unwrap();
    let found = cases::find(&source, &phases()).unwrap();
    assert_eq!(found.cases.len(), 13);
    assert_eq!(found.cases.iter().filter(|(_, input)| input.is_ok()).count(), 10);
    let missing = problem(&found, "phantom_0002");
    assert!(missing.contains("phase art (phantom_0002_0001.nii.gz)"), "{missing}");
    let many = problem(&found, "phantom_0003");
    assert!(many.contains("5 images") && many.contains("phantom_0003_0004.nii.gz"), "{many}");
    assert!(problem(&found, "scan.nii.gz").contains("CASE_0000"));
}

#[test]
fn directories_without_cases_are_refused() {
    let (dir, dataset) = small();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let said = |dir: &Path, phases: &[String]| cases::find(dir, phases).unwrap_err().to_string();
    assert!(said(&empty, &phases()).contains("CASE_0000.nii.gz to CASE_0003.nii.gz"));
    assert!(said(&dir.path().join("absent"), &phases()).contains("absent"));
    let three = phases()[..3].to_vec();
    assert!(said(&dataset.dir, &three).contains("trained on"));
}

#[test]
fn volumes_that_networks_must_not_see_are_refused() {
    let (_dir, mut dataset) = small();
    edit_image(&mut dataset, 1, "art", true, |data| data[[0, 0, 0]] = 7);
    let path = |case: usize, phase: &str| dataset.path(&dataset.cases[case].images[phase].path);
    fs::write(path(2, "pv"), b"\x1f\x8b broken").unwrap();
    let bare = |case: usize| {
        let found = cases::find(&dataset.dir, &phases()).unwrap();
        let mut input = found.cases.into_iter().nth(case).unwrap().1.unwrap();
        input.hashes.clear();
        input
    };
    let found = cases::find(&dataset.dir, &phases()).unwrap();
    let changed = found.cases[1].1.as_ref().unwrap().load(&phases()).unwrap_err();
    assert!(matches!(changed, DataError::Changed { .. }), "{changed}");
    assert!(bare(2).load(&phases()).is_err());
    with_floats(&path(3, "del"), |values| values[5] = f32::NAN);
    let nan = bare(3).load(&phases()).unwrap_err().to_string();
    assert!(nan.contains("phase `del` has 1 voxels that are not finite"), "{nan}");
    with_header(&path(4, "pre"), |header| {
        let shifted = f32::from_le_bytes(header[292..296].try_into().unwrap()) + 1.0;
        header[292..296].copy_from_slice(&shifted.to_le_bytes());
    });
    let apart = bare(4).load(&phases()).unwrap_err().to_string();
    assert!(
        apart.contains("phase `pre` lies on another grid than phase `pv`") && apart.contains("1.00 mm"),
        "{apart}"
    );
}

fn with_header(path: &Path, edit: impl Fn(&mut [u8])) {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(&fs::read(path).unwrap()[..]).read_to_end(&mut bytes).unwrap();
    edit(&mut bytes);
    store(path, &bytes);
}

/// Stores a file of 16-bit integers as one of 32-bit floats, some of them changed.
fn with_floats(path: &Path, edit: impl Fn(&mut [f32])) {
    let mut bytes = Vec::new();
    MultiGzDecoder::new(&fs::read(path).unwrap()[..]).read_to_end(&mut bytes).unwrap();
    let mut values: Vec<f32> =
        bytes[352..].as_chunks::<2>().0.iter().map(|&value| f32::from(i16::from_le_bytes(value))).collect();
    edit(&mut values);
    bytes.truncate(352);
    bytes[70..74].copy_from_slice(&[16, 0, 32, 0]);
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    store(path, &bytes);
}

fn store(path: &Path, bytes: &[u8]) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    fs::write(path, encoder.finish().unwrap()).unwrap();
}
