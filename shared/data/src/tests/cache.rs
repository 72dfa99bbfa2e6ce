use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use ndarray::{Array3, Axis};

use super::{edit_image, edit_mask, phantom, quiet, small};
use crate::cache::SliceCache;
use crate::folds;
use crate::nifti_io;
use crate::phantom::PhantomOptions;
use crate::preprocess::{PreprocessOptions, Spacing};

fn options(image_size: usize) -> PreprocessOptions {
    PreprocessOptions { image_size, ..PreprocessOptions::default() }
}

#[test]
fn native_spacing_is_bit_exact_and_curves_are_means_in_the_mask() {
    let (_dir, dataset) = small();
    let cache = SliceCache::open_or_build(&dataset, &options(32), None, &quiet).unwrap();
    assert_eq!((cache.len(), cache.image_size(), cache.spacing()), (36, 32, 12.0));
    for (i, slice) in cache.slices().iter().enumerate() {
        let case = dataset.case(&slice.case).unwrap();
        let (image, mask) = (cache.image(i).unwrap(), cache.mask(i).unwrap());
        assert_eq!(mask, cache.source_mask(i, &dataset).unwrap());
        for (p, phase) in cache.phases().iter().enumerate() {
            let source = dataset.load_image(case, phase).unwrap().data;
            assert_eq!(image.index_axis(Axis(0), p), source.index_axis(Axis(0), slice.z));
            if let Some(curve) = &slice.curve {
                let inside: Vec<f64> = image
                    .index_axis(Axis(0), p)
                    .iter()
                    .zip(&mask)
                    .filter(|(_, m)| **m == 1)
                    .map(|(&v, _)| f64::from(v))
                    .collect();
                let mean = inside.iter().sum::<f64>() / inside.len() as f64;
                assert!((f64::from(curve[p]) - mean).abs() < 1e-4 * mean);
                assert_eq!(inside.len() as u64, slice.tumour_pixels);
            }
        }
        assert_eq!(
            slice.curve.is_some(),
            slice.class.is_some(),
            "a slice without tumour has no curve and no class"
        );
        assert_eq!(slice.case_class, dataset.class_index(case));
    }
    assert_eq!(cache.slices().iter().filter(|s| s.class.is_none()).count(), 12);
}

#[test]
fn the_files_are_plain_arrays() {
    let (_dir, dataset) = small();
    let cache = SliceCache::open_or_build(&dataset, &options(48), None, &quiet).unwrap();
    let images = fs::read(cache.images_path()).unwrap();
    assert_eq!(images.len(), cache.len() * 4 * 48 * 48 * 4);
    assert_eq!(fs::read(cache.masks_path()).unwrap().len(), cache.len() * 48 * 48);
    let at = ((7 * 4 + 2) * 48 + 20) * 48 + 30;
    let value = f32::from_le_bytes(images[4 * at..4 * at + 4].try_into().unwrap());
    assert_eq!(value, cache.image(7).unwrap()[[2, 20, 30]]);
    cache.verify().unwrap();
}

#[test]
fn a_cache_is_built_once_and_again_when_it_is_damaged() {
    let (_dir, dataset) = small();
    let calls = AtomicUsize::new(0);
    let count = |_: u64, _: u64| _ = calls.fetch_add(1, Ordering::Relaxed);
    let open = || SliceCache::open_or_build(&dataset, &options(32), None, &count).unwrap();
    let first = open();
    let built = calls.swap(0, Ordering::Relaxed);
    assert_eq!(built, 24, "two passes over twelve cases");
    assert_eq!(open().dir(), first.dir());
    assert_eq!(calls.load(Ordering::Relaxed), 0, "the second time it is only opened");
    let before = fs::read(first.images_path()).unwrap();
    fs::File::options().write(true).open(first.images_path()).unwrap().set_len(100).unwrap();
    let again = open();
    assert_eq!(calls.load(Ordering::Relaxed), built, "the damage was noticed");
    assert_eq!(fs::read(again.images_path()).unwrap(), before);
    // Damage that keeps the length is found by the hash.
    let mut bytes = before;
    bytes[17] ^= 1;
    fs::write(again.images_path(), bytes).unwrap();
    assert!(again.verify().unwrap_err().to_string().contains("images.f32"));
}

#[test]
fn several_builders_at_once_give_one_cache() {
    let (dir, dataset) = small();
    let root = dir.path().join("elsewhere");
    let builds = AtomicUsize::new(0);
    let count = |done: u64, total: u64| _ = builds.fetch_add(usize::from(done == total), Ordering::Relaxed);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = SliceCache::open_or_build(&dataset, &options(32), Some(&root), &count).unwrap();
                assert_eq!(cache.len(), 36);
            });
        }
    });
    assert_eq!(builds.load(Ordering::Relaxed), 1);
    assert!(!dataset.dir.join("cache").exists());
}

#[test]
fn the_key_follows_content_and_options_but_not_folds() {
    let (_dir, mut dataset) = small();
    let key = |d: &crate::Dataset, o: &PreprocessOptions| {
        SliceCache::open_or_build(d, o, None, &quiet).unwrap().key().to_owned()
    };
    let first = key(&dataset, &options(32));
    assert_ne!(first, key(&dataset, &options(16)));
    folds::split(&mut dataset, 3, 5).unwrap();
    assert_eq!(first, key(&dataset, &options(32)));
    edit_image(&mut dataset, 0, "art", false, |v| v[[1, 16, 16]] += 1);
    assert_ne!(first, key(&dataset, &options(32)));
}

#[test]
fn folds_are_disjoint_by_subject_and_cover_everything() {
    let (_dir, dataset) = small();
    let cache = SliceCache::open_or_build(&dataset, &options(32), None, &quiet).unwrap();
    let mut validated = Vec::new();
    for k in 0..5 {
        let view = cache.fold(k, &dataset).unwrap();
        let subject = |i: &usize| cache.slices()[*i].subject.clone();
        let train: Vec<String> = view.train.iter().map(subject).collect();
        assert!(view.val.iter().map(subject).all(|s| !train.contains(&s)));
        assert_eq!(view.train.len() + view.val.len(), cache.len());
        validated.extend(view.val);
    }
    validated.sort_unstable();
    assert_eq!(validated, (0..cache.len()).collect::<Vec<_>>());
    assert!(cache.fold(5, &dataset).unwrap_err().to_string().contains("fold 5"));
}

#[test]
fn normalisation_is_the_mean_and_deviation_of_all_pixels_in_any_order() {
    let (_dir, dataset) = small();
    let cache = SliceCache::open_or_build(&dataset, &options(32), None, &quiet).unwrap();
    let mut train = cache.fold(1, &dataset).unwrap().train;
    let values: Vec<f64> = train.iter().flat_map(|&i| cache.image(i).unwrap()).map(f64::from).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    let got = cache.normalisation(&train).unwrap();
    assert!((got.0 - mean).abs() < 1e-9 * mean && (got.1 - deviation).abs() < 1e-9 * deviation, "{got:?}");
    train.reverse();
    assert_eq!(cache.normalisation(&train).unwrap(), got);
    assert!(cache.normalisation(&[]).is_err() && cache.normalisation(&[999]).is_err());
}

#[test]
fn healthy_slices_are_thinned_and_tumour_slices_are_not() {
    let (_dir, dataset) = phantom(&PhantomOptions {
        subjects: 2,
        size: 32,
        slices_per_subject: 12,
        ..PhantomOptions::default()
    });
    for (fraction, expected) in [(0.0, 16), (0.25, 18), (0.5, 20), (1.0, 24)] {
        let options = PreprocessOptions { healthy_fraction: fraction, ..options(32) };
        let cache = SliceCache::open_or_build(&dataset, &options, None, &quiet).unwrap();
        assert_eq!(cache.len(), expected, "{fraction}");
        assert_eq!(cache.slices().iter().filter(|s| s.class.is_some()).count(), 16);
    }
}

#[test]
fn a_prediction_returns_to_the_source_grid() {
    let (dir, dataset) = phantom(&PhantomOptions {
        subjects: 2,
        size: 64,
        slices_per_subject: 3,
        ..PhantomOptions::default()
    });
    let cache = SliceCache::open_or_build(&dataset, &options(32), None, &quiet).unwrap();
    assert_eq!(cache.spacing(), 12.0);
    for (case, slices) in cache.by_case() {
        let (truth, grid) = cache.source_masks(case, &dataset).unwrap();
        let mut volume = Array3::<u8>::zeros(truth.dim());
        for i in slices {
            let mask = cache.mask(i).unwrap();
            let restored = cache.restore_mask(i, mask.as_slice().unwrap()).unwrap();
            volume.index_axis_mut(Axis(0), cache.slices()[i].z).assign(&restored);
        }
        let overlap = truth.iter().zip(&volume).filter(|(a, b)| **a == 1 && **b == 1).count() as f64;
        let sum = truth.iter().chain(&volume).filter(|v| **v == 1).count() as f64;
        assert!(2.0 * overlap / sum > 0.6, "{}", 2.0 * overlap / sum);
        let path = dir.path().join(format!("{case}.nii.gz"));
        nifti_io::write_mask(&path, &volume, &grid).unwrap();
        assert_eq!(nifti_io::read(&path).unwrap().grid.affine, grid.affine);
    }
}

#[test]
fn a_tumour_that_vanishes_is_dropped_and_reported() {
    let (_dir, mut dataset) = small();
    edit_mask(&mut dataset, 0, |m| {
        let keep = m.indexed_iter().find(|(_, v)| **v == 1).map(|(i, _)| i).unwrap();
        m.fill(0);
        m[keep] = 1;
    });
    let coarse = PreprocessOptions { spacing: Spacing::Millimetres(60.0), ..options(16) };
    let cache = SliceCache::open_or_build(&dataset, &coarse, None, &quiet).unwrap();
    let kept = cache.slices().iter().filter(|s| s.case == "phantom_0001" && s.class.is_some()).count();
    let dropped = cache.dropped().iter().filter(|d| d.case == "phantom_0001").count();
    assert_eq!(kept + dropped, 1);
}

#[test]
fn unsound_cases_are_refused_by_name_and_leave_no_cache() {
    let (_dir, sound) = small();
    let mut changed = sound.clone();
    edit_image(&mut changed, 2, "pre", true, |v| v[[0, 0, 0]] += 1);
    let mut missing = sound.clone();
    missing.cases[1].images.remove("del");
    let mut healthy = sound.clone();
    healthy.cases[4].class = "healthy".into();
    let mut unknown = sound;
    unknown.cases[5].label.remap.clear();
    for (dataset, part) in
        [(changed, "phantom_0003_pre"), (missing, "`del`"), (healthy, "healthy"), (unknown, "label map")]
    {
        let error = SliceCache::open_or_build(&dataset, &options(32), None, &quiet).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(error.exit_code(), 4);
        let left =
            fs::read_dir(dataset.dir.join("cache")).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir());
        assert_eq!(left.count(), 0);
    }
}
