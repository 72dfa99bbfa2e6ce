//! Each code has a test that plants its fault.

use ndarray::Axis;

use super::{edit_image, edit_mask, phantom, quiet, small};
use crate::check::{CheckOptions, CheckReport, Severity, check, codes};
use crate::phantom::PhantomOptions;
use crate::{Dataset, folds};

fn report(dataset: &Dataset) -> CheckReport {
    check(dataset, &CheckOptions::default(), &quiet).unwrap()
}

/// The fault is found with this severity, and decides the verdict.
#[track_caller]
fn assert_finds(dataset: &Dataset, code: &str, severity: Severity, part: &str) {
    let report = report(dataset);
    let found: Vec<_> = report.findings.iter().filter(|f| f.code == code).collect();
    assert!(!found.is_empty(), "{code} is not among {:?}", report.findings);
    assert!(found.iter().all(|f| f.severity == severity), "{found:?}");
    assert!(found.iter().any(|f| f.message.contains(part)), "{part} is not in {found:?}");
    assert_eq!(report.passes(), report.findings.iter().all(|f| f.severity == Severity::Warning));
    assert!(severity == Severity::Warning || !report.passes());
}

#[test]
fn a_sound_data_set_has_no_findings_and_the_report_is_json() {
    let (_dir, dataset) = small();
    let report = report(&dataset);
    assert_eq!(report.findings, []);
    assert!(report.passes());
    assert_eq!((report.cases, report.subjects, report.folds), (12, 12, 5));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["dataset_hash"], dataset.hash());
}

#[test]
fn leaks_between_folds() {
    let (_dir, mut dataset) = small();
    let good = dataset.splits.clone();
    let leaked = good[1].val[0].clone();
    dataset.splits[1].train.push(leaked.clone());
    assert_finds(&dataset, codes::SUBJECT_ON_BOTH_SIDES, Severity::Error, &leaked);
    dataset.splits = good.clone();
    dataset.splits[0].val.push(leaked.clone());
    assert_finds(&dataset, codes::SUBJECT_IN_TWO_FOLDS, Severity::Error, &leaked);
    dataset.splits = good;
    // Two cases of one person, split as nnU-Net would: by case.
    let (a, b) = (dataset.splits[0].val[0].clone(), dataset.splits[1].val[0].clone());
    for id in [a, b] {
        dataset.cases.iter_mut().find(|c| c.case == id).unwrap().subject = "the same person".into();
    }
    assert_finds(&dataset, codes::SUBJECT_ON_BOTH_SIDES, Severity::Error, "the same person");
    assert_finds(&dataset, codes::SUBJECT_IN_TWO_FOLDS, Severity::Error, "the same person");
}

#[test]
fn folds_that_do_not_fit_the_cases() {
    let (_dir, mut dataset) = small();
    let good = dataset.splits.clone();
    dataset.splits[2].val.push("ghost".into());
    assert_finds(&dataset, codes::UNKNOWN_CASE_IN_SPLIT, Severity::Error, "ghost");
    dataset.splits = good.clone();
    let lost = dataset.splits[3].val.remove(0);
    assert_finds(&dataset, codes::CASE_IN_NO_FOLD, Severity::Error, &lost);
    dataset.splits = Vec::new();
    assert_finds(&dataset, codes::NO_SPLIT, Severity::Error, "mtinet data split");
    dataset.splits = good;
    dataset.cases[0].exclude = Some("motion".into());
    assert_finds(&dataset, codes::EXCLUDED_CASE_IN_SPLIT, Severity::Warning, "phantom_0001");
}

#[test]
fn rare_classes() {
    let (_dir, mut dataset) = small();
    for case in dataset.cases.iter_mut().filter(|c| c.class == "hemangioma").skip(2) {
        case.class = "hcc".into();
    }
    assert_finds(&dataset, codes::TOO_FEW_SUBJECTS, Severity::Error, "hemangioma has 2 subjects for 5 folds");
    assert_finds(&dataset, codes::CLASS_MISSING_FROM_FOLD, Severity::Error, "validation part");
    folds::split(&mut dataset, 2, 0).unwrap();
    assert!(report(&dataset).passes());
    // Few healthy subjects are no reason to stop.
    dataset.cases[0].class = "healthy".into();
    edit_mask(&mut dataset, 0, |m| m.fill(0));
    folds::split(&mut dataset, 2, 0).unwrap();
    assert_finds(&dataset, codes::TOO_FEW_SUBJECTS, Severity::Warning, "healthy has 1");
}

#[test]
fn the_same_volume_under_two_subjects_also_mirrored() {
    let (_dir, mut dataset) = small();
    let copied = dataset.load_image(&dataset.cases[2], "pv").unwrap().data.mapv(|v| v as i16);
    edit_image(&mut dataset, 7, "art", false, |v| v.assign(&copied));
    assert_finds(
        &dataset,
        codes::DUPLICATE_VOLUME,
        Severity::Error,
        "are equal, but their subjects are phantom_0008 and phantom_0003",
    );
    for axis in 0..3 {
        edit_image(&mut dataset, 7, "art", false, |v| {
            let mut mirrored = copied.view();
            mirrored.invert_axis(Axis(axis));
            v.assign(&mirrored);
        });
        assert_finds(&dataset, codes::DUPLICATE_VOLUME, Severity::Error, "equal when mirrored");
    }
    // The same person twice is no leak.
    dataset.cases[7].subject = dataset.cases[2].subject.clone();
    folds::split(&mut dataset, 5, 0).unwrap();
    assert!(report(&dataset).findings.iter().all(|f| f.code != codes::DUPLICATE_VOLUME));
}

#[test]
fn one_volume_as_two_phases() {
    let (_dir, mut dataset) = small();
    let art = dataset.cases[1].images["art"].clone();
    dataset.cases[1].images.insert("del".into(), art);
    assert_finds(&dataset, codes::DUPLICATE_PHASE, Severity::Error, "`art` and `del`");
}

#[test]
fn nearly_the_same_volumes() {
    let (_dir, mut dataset) = small();
    for phase in crate::PHASES {
        let data = dataset.load_image(&dataset.cases[2], phase).unwrap().data;
        edit_image(&mut dataset, 7, phase, false, |v| {
            let mut n = 0;
            v.zip_mut_with(&data, |to, &from| {
                n += 1;
                *to = (from * 1.2) as i16 + n % 5;
            });
        });
    }
    assert_finds(&dataset, codes::NEAR_DUPLICATE, Severity::Warning, "phantom_0003");
    assert!(report(&dataset).passes());
}

#[test]
fn files_that_are_missing_changed_or_damaged() {
    let (_dir, mut dataset) = small();
    edit_image(&mut dataset, 0, "pre", true, |v| v[[0, 0, 0]] += 1);
    assert_finds(&dataset, codes::FILE_CHANGED, Severity::Error, "phantom_0001_pre.nii.gz");
    let path = dataset.path(&dataset.cases[1].images["art"].path);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert_finds(&dataset, codes::UNREADABLE_FILE, Severity::Error, "phantom_0002_art.nii.gz");
    std::fs::remove_file(dataset.path(&dataset.cases[2].label.path)).unwrap();
    assert_finds(&dataset, codes::MISSING_FILE, Severity::Error, "phantom_0003.nii.gz");
    dataset.cases[3].images.remove("pv");
    assert_finds(&dataset, codes::MISSING_PHASE, Severity::Error, "`pv`");
}

#[test]
fn grids_that_differ() {
    let (_dir, mut dataset) = small();
    let (_other, larger) = phantom(&PhantomOptions {
        subjects: 1,
        size: 48,
        slices_per_subject: 3,
        ..PhantomOptions::default()
    });
    let sound = dataset.cases[0].images["del"].clone();
    let mut image = larger.cases[0].images["del"].clone();
    image.path = larger.path(&image.path);
    dataset.cases[0].images.insert("del".into(), image);
    assert_finds(&dataset, codes::GRID_MISMATCH, Severity::Error, "[3, 48, 48] and [3, 32, 32]");
    dataset.cases[0].images.insert("del".into(), sound);
    // The same shape, moved by 2 mm.
    let path = dataset.path(&dataset.cases[0].images["art"].path);
    let mut volume = crate::nifti_io::read(&path).unwrap();
    volume.grid.affine[0][3] += 2.0;
    volume.grid.header.clear();
    crate::nifti_io::write_volume(&path, &volume.data.mapv(|v| v as i16), &volume.grid).unwrap();
    edit_image(&mut dataset, 0, "art", false, |_| ());
    assert_finds(&dataset, codes::GRID_MISMATCH, Severity::Error, "2.00 mm");
}

#[test]
fn masks_that_do_not_fit_the_class() {
    let (_dir, mut dataset) = small();
    edit_mask(&mut dataset, 0, |m| m.fill(0));
    assert_finds(&dataset, codes::EMPTY_MASK, Severity::Error, "phantom_0001");
    dataset.cases[1].class = "healthy".into();
    assert_finds(&dataset, codes::MASK_IN_HEALTHY_CASE, Severity::Error, "phantom_0002");
    edit_mask(&mut dataset, 2, |m| m[[0, 0, 0]] = 7);
    assert_finds(&dataset, codes::LABEL_OUTSIDE_MAP, Severity::Error, "[7.0]");
}

#[test]
fn voxels_that_are_not_finite() {
    let (_dir, mut dataset) = small();
    let image = dataset.cases[0].images.get_mut("pv").unwrap();
    let path = dataset.dir.join("images/broken.nii");
    // A float file with the phantom's header: 3 x 32 x 32 voxels, one of them NaN.
    let mut bytes = crate::nifti_io::read_grid(&dataset.dir.join(&image.path)).unwrap().header;
    bytes[70..74].copy_from_slice(&[16, 0, 32, 0]);
    bytes.extend([0; 4]);
    bytes.extend(
        (0..3 * 32 * 32).flat_map(|n| if n == 5 { f32::NAN } else { 900.0 + n as f32 }.to_le_bytes()),
    );
    std::fs::write(&path, &bytes).unwrap();
    image.path = path;
    image.blake3 = blake3::hash(&bytes).to_hex().to_string();
    assert_finds(&dataset, codes::NON_FINITE, Severity::Error, "phase `pv` has 1 voxels");
}

#[test]
fn phases_in_the_wrong_order() {
    let (_dir, mut dataset) = small();
    for (a, b, part) in [("pre", "art", "before contrast"), ("art", "del", "brightest vessels")] {
        let (x, y) = (dataset.cases[0].images[a].clone(), dataset.cases[0].images[b].clone());
        dataset.cases[0].images.extend([(a.to_owned(), y.clone()), (b.to_owned(), x.clone())]);
        assert_finds(&dataset, codes::PHASE_ORDER, Severity::Warning, part);
        dataset.cases[0].images.extend([(a.to_owned(), x), (b.to_owned(), y)]);
    }
}

#[test]
fn copies_of_one_volume_are_reported_once_a_subject() {
    let (_dir, mut dataset) = small();
    let image = dataset.cases[0].images["art"].clone();
    for case in &mut dataset.cases {
        case.images.insert("art".into(), image.clone());
    }
    let report = report(&dataset);
    let found: Vec<_> = report.findings.iter().filter(|f| f.code == codes::DUPLICATE_VOLUME).collect();
    assert_eq!(found.len(), 11, "each of the others with the first: {found:?}");
    assert!(found.iter().all(|f| f.message.contains("case phantom_0001")), "{found:?}");
}

#[test]
fn a_near_copy_is_found_among_cases_that_lack_phases() {
    let (_dir, mut dataset) = small();
    for phase in crate::PHASES {
        let data = dataset.load_image(&dataset.cases[2], phase).unwrap().data;
        edit_image(&mut dataset, 7, phase, false, |v| {
            v.zip_mut_with(&data, |to, &from| *to = from as i16 + 3);
        });
    }
    // What is compared are the phases that both have, whichever other cases have.
    dataset.cases[2].images.remove("pre");
    dataset.cases[9].images.remove("art");
    assert_finds(&dataset, codes::NEAR_DUPLICATE, Severity::Warning, "phantom_0003");
    dataset.cases[7].subject = dataset.cases[2].subject.clone();
    assert!(report(&dataset).findings.iter().all(|f| f.code != codes::NEAR_DUPLICATE), "the same person");
}
