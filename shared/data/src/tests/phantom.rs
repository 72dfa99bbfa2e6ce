//! The phantom against the figures of MODEL.md 9.

use ndarray::Axis;

use super::{phantom, quiet};
use crate::phantom::kinetics::parker;
use crate::phantom::lesion::{Lesion, Outline};
use crate::phantom::random::{Field, Stream};
use crate::phantom::tissue::{REFERENCE_TIMES, Tissue, table};
use crate::phantom::{PhantomOptions, write};
use crate::{Dataset, PHASES};

#[test]
fn the_arterial_input_is_parkers() {
    // Values that dcmri lists for the same function.
    assert!((parker(0.0) - 0.0804).abs() < 1e-4);
    let peak = (0..400).map(|i| parker(f64::from(i) * 0.25)).fold(0.0, f64::max);
    assert!((peak - 6.07).abs() < 0.01, "{peak}");
}

#[test]
fn tissues_have_the_reference_intensities() {
    let expected: [(Tissue, [f32; 4]); 13] = [
        (Tissue::Liver, [400.0, 587.0, 875.0, 675.0]),
        (Tissue::CirrhoticLiver, [384.0, 683.0, 870.0, 689.0]),
        (Tissue::Aorta, [243.0, 1764.0, 998.0, 849.0]),
        (Tissue::PortalVein, [254.0, 624.0, 1175.0, 880.0]),
        (Tissue::HepaticVein, [254.0, 255.0, 1284.0, 906.0]),
        (Tissue::Spleen, [297.0, 1145.0, 754.0, 610.0]),
        (Tissue::KidneyCortex, [339.0, 1479.0, 966.0, 796.0]),
        (Tissue::KidneyMedulla, [260.0, 826.0, 924.0, 790.0]),
        (Tissue::Muscle, [422.0, 552.0, 609.0, 593.0]),
        (Tissue::Pancreas, [455.0, 1043.0, 781.0, 672.0]),
        (Tissue::Marrow, [327.0, 457.0, 455.0, 411.0]),
        (Tissue::Fat, [141.0; 4]),
        (Tissue::Fluid, [152.0; 4]),
    ];
    let table = table(REFERENCE_TIMES);
    for (tissue, values) in expected {
        for (got, want) in table[tissue as usize].iter().zip(values) {
            assert!((got - want).abs() < 0.005 * want, "{tissue:?}: {got} instead of {want}");
        }
    }
}

/// Mean signals of lesions drawn as for subjects, over the lesion's area.
fn lesion_means(carcinoma: bool, count: usize, equalise: bool) -> Vec<[f64; 4]> {
    (0..count)
        .map(|n| {
            let mut stream = Stream::new(1, n, None, "test");
            let lesion = Lesion::draw(&mut stream, carcinoma, 10.0, equalise, REFERENCE_TIMES);
            let outline = Outline::draw(&mut stream).placed((128.0, 128.0), lesion.diameter_mm / 3.0);
            let fields = (Field::new(&mut stream, 6.0, 0.06), Field::new(&mut stream, 6.0, 0.06));
            let reach = outline.reach();
            let at = |i: i32| 128.0 + reach * f64::from(i) / 15.0;
            let spots = (-15..=15).flat_map(|j| (-15..=15).map(move |i| (at(i), at(j))));
            let inside: Vec<_> =
                spots.filter_map(|(x, y)| outline.spot(x, y, Some((&fields.0, &fields.1)))).collect();
            let mut mean = [0.0; 4];
            for signals in inside.iter().map(|s| lesion.signals(*s)) {
                mean.iter_mut().zip(signals).for_each(|(m, s)| *m += f64::from(s) / inside.len() as f64);
            }
            mean
        })
        .collect()
}

fn mean_and_sd(curves: &[[f64; 4]], phase: usize) -> (f64, f64) {
    let n = curves.len() as f64;
    let mean = curves.iter().map(|c| c[phase]).sum::<f64>() / n;
    (mean, (curves.iter().map(|c| (c[phase] - mean).powi(2)).sum::<f64>() / n).sqrt())
}

#[test]
fn lesions_enhance_as_in_the_published_monte_carlo() {
    let (carcinoma, hemangioma) = (lesion_means(true, 414, false), lesion_means(false, 300, false));
    for (phase, want) in [363.0, 983.0, 767.0, 626.0].into_iter().enumerate() {
        let (got, _) = mean_and_sd(&carcinoma, phase);
        assert!((got - want).abs() < 0.08 * want, "carcinoma, phase {phase}: {got} instead of {want}");
    }
    for (phase, want) in [227.0, 475.0, 694.0, 878.0].into_iter().enumerate() {
        let (got, _) = mean_and_sd(&hemangioma, phase);
        assert!((got - want).abs() < 0.15 * want, "hemangioma, phase {phase}: {got} instead of {want}");
    }
    assert!(mean_and_sd(&hemangioma, 1).1 > 250.0, "flash filling makes the arterial phase spread");
    // "Brighter in the arterial than in the delayed phase means carcinoma" is good and not perfect.
    let right =
        carcinoma.iter().filter(|c| c[1] > c[3]).count() + hemangioma.iter().filter(|c| c[1] <= c[3]).count();
    let share = right as f64 / 714.0;
    assert!((0.90..0.97).contains(&share), "{share}");
}

#[test]
fn equalising_removes_the_difference_before_contrast() {
    let (a, b) = (lesion_means(true, 200, true), lesion_means(false, 200, true));
    assert!((mean_and_sd(&a, 0).0 - mean_and_sd(&b, 0).0).abs() < 15.0);
    let plain = lesion_means(false, 200, false);
    assert!(mean_and_sd(&a, 0).0 - mean_and_sd(&plain, 0).0 > 100.0);
}

#[test]
fn fields_have_the_wanted_spread() {
    let field = Field::new(&mut Stream::new(5, 0, None, "field"), 5.0, 0.06);
    let values: Vec<f64> =
        (0..256 * 256).map(|n| f64::from(field.at((n % 256) as f32, (n / 256) as f32))).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt();
    assert!(mean.abs() < 0.01 && (sd - 0.06).abs() < 0.006, "{mean} {sd}");
}

/// Mean and standard deviation of the corners of all slices, which are air.
fn background(dataset: &Dataset, case: usize, phase: &str) -> (f64, f64) {
    let data = dataset.load_image(&dataset.cases[case], phase).unwrap().data;
    let (side, corner) = (data.dim().1, data.dim().1 / 6);
    let outer = |i: usize| i < corner || i >= side - corner;
    let values: Vec<f64> = data
        .indexed_iter()
        .filter(|((_, y, x), _)| outer(*y) && outer(*x))
        .map(|(_, &v)| f64::from(v))
        .collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt())
}

#[test]
fn background_noise_is_rayleigh() {
    let (_dir, dataset) = phantom(&PhantomOptions { subjects: 3, size: 128, ..PhantomOptions::default() });
    for case in 0..3 {
        let (mean, sd) = background(&dataset, case, "art");
        let sigma = mean / 1.2533;
        assert!((10.0 * 0.97..25.0 * 1.03).contains(&sigma), "{sigma}");
        assert!((sd / sigma - 0.655).abs() < 0.03, "{}", sd / sigma);
    }
}

#[test]
fn labels_lie_on_tumour_slices_and_are_as_large_as_asked() {
    let (_dir, dataset) = phantom(&PhantomOptions { subjects: 12, size: 128, ..PhantomOptions::default() });
    for case in &dataset.cases {
        let (mask, grid) = dataset.load_mask(case).unwrap();
        let counts: Vec<usize> =
            mask.axis_iter(Axis(0)).map(|s| s.iter().filter(|v| **v == 1).count()).collect();
        assert_eq!((counts[0], counts[5]), (0, 0), "healthy slices");
        for &count in &counts[1..5] {
            let diameter = 2.0 * (count as f64 / std::f64::consts::PI).sqrt() * grid.spacing[1];
            assert!(diameter > 21.0 && diameter < 95.0, "{}: {diameter} mm", case.case);
        }
    }
}

#[test]
fn the_mask_matches_what_is_seen() {
    // Without misregistration, gain and jitter, lesion means must be near the lesion's own signals.
    let options = PhantomOptions {
        subjects: 30,
        size: 96,
        gain_sd: 0.0,
        misregistration: 0.0,
        timing_jitter: false,
        min_diameter_mm: 30.0,
        ..PhantomOptions::default()
    };
    let (_dir, dataset) = phantom(&options);
    let (mut sums, mut counts) = ([[0.0f64; 4]; 2], [0usize; 2]);
    for case in &dataset.cases {
        let class = dataset.class_index(case).unwrap();
        let (mask, _) = dataset.load_mask(case).unwrap();
        let inside = mask.iter().filter(|v| **v == 1).count() as f64;
        counts[class] += 1;
        for (p, phase) in PHASES.iter().enumerate() {
            let data = dataset.load_image(case, phase).unwrap().data;
            sums[class][p] +=
                data.iter().zip(&mask).filter(|(_, m)| **m == 1).map(|(&v, _)| f64::from(v)).sum::<f64>()
                    / inside;
        }
    }
    let mean = |class: usize, phase: usize| sums[class][phase] / counts[class] as f64;
    assert!((mean(1, 0) - 363.0).abs() < 40.0 && (mean(1, 1) - 983.0).abs() < 150.0, "{sums:?}");
    assert!((mean(0, 0) - 235.0).abs() < 40.0 && (mean(0, 3) - 878.0).abs() < 90.0, "{sums:?}");
}

#[test]
fn classes_keep_the_papers_ratio() {
    let count = |subjects: usize| {
        let (_dir, dataset) = phantom(&PhantomOptions {
            subjects,
            size: 16,
            slices_per_subject: 1,
            ..PhantomOptions::default()
        });
        dataset.cases.iter().filter(|c| c.class == "hcc").count()
    };
    assert_eq!(count(238), 138);
    assert_eq!(count(12), 7);
}

#[test]
fn the_same_options_give_the_same_bytes() {
    let options = PhantomOptions { subjects: 4, size: 32, ..PhantomOptions::default() };
    let (_a, once) = phantom(&options);
    let (_b, again) = phantom(&options);
    assert_eq!(once.hash(), again.hash());
    let (_c, other) = phantom(&PhantomOptions { seed: 1, ..options.clone() });
    assert_ne!(once.hash(), other.hash());
    // More subjects do not change the first ones.
    let (_d, more) = phantom(&PhantomOptions { subjects: 6, ..options });
    assert_eq!(more.cases[..4], once.cases[..4]);
}

#[test]
fn a_subject_looks_alike_at_every_size() {
    let (_a, fine) = phantom(&PhantomOptions {
        subjects: 2,
        size: 128,
        slices_per_subject: 3,
        misregistration: 0.0,
        ..PhantomOptions::default()
    });
    let (_b, coarse) = phantom(&PhantomOptions {
        subjects: 2,
        size: 64,
        slices_per_subject: 3,
        misregistration: 0.0,
        ..PhantomOptions::default()
    });
    for (a, b) in fine.cases.iter().zip(&coarse.cases) {
        let (a, b) = (fine.load_image(a, "pv").unwrap().data, coarse.load_image(b, "pv").unwrap().data);
        let mean = |d: &ndarray::Array3<f32>| d.mean().unwrap();
        assert!((mean(&a) / mean(&b) - 1.0).abs() < 0.02, "{} {}", mean(&a), mean(&b));
    }
}

#[test]
fn impossible_options_are_refused() {
    let dir = tempfile::TempDir::new().unwrap();
    for options in [
        PhantomOptions { subjects: 0, ..PhantomOptions::default() },
        PhantomOptions { size: 8, ..PhantomOptions::default() },
        PhantomOptions { min_diameter_mm: 500.0, ..PhantomOptions::default() },
        PhantomOptions { gain_sd: f64::NAN, ..PhantomOptions::default() },
    ] {
        assert_eq!(write(&dir.path().join("x"), &options, &quiet).unwrap_err().exit_code(), 2);
    }
}
