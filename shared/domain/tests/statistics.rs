//! The statistics against SciPy's values, and what holds of them whatever the data.

use mtinet_domain::statistics::*;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    wilcoxon: Vec<WilcoxonCase>,
    holm: Vec<HolmCase>,
    bootstrap: Vec<BootstrapCase>,
    corrected_t: Vec<CorrectedTCase>,
    splitmix64: Stream,
}

#[derive(Deserialize)]
struct WilcoxonCase {
    name: String,
    x: Vec<f64>,
    y: Vec<f64>,
    method: String,
    statistic: f64,
    p: f64,
    effect: f64,
    n_nonzero: usize,
}

#[derive(Deserialize)]
struct HolmCase {
    p: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
struct BootstrapCase {
    differences: Vec<f64>,
    seed: u64,
    resamples: usize,
    low: f64,
    high: f64,
    scipy_low: f64,
    scipy_high: f64,
}

#[derive(Deserialize)]
struct CorrectedTCase {
    name: String,
    a: Vec<f64>,
    b: Vec<f64>,
    test_to_train: f64,
    t: f64,
    p: f64,
}

#[derive(Deserialize)]
struct Stream {
    seed: String,
    first: Vec<String>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("fixtures/statistics.json"))
        .expect("the fixture is as its script writes it")
}

#[track_caller]
fn close(what: &str, ours: f64, theirs: f64) {
    assert!((ours - theirs).abs() <= 1e-10 * theirs.abs(), "{what}: {ours:e} is not {theirs:e}");
}

#[test]
fn wilcoxon_is_scipys() {
    for case in fixture().wilcoxon {
        let ours = wilcoxon(&case.x, &case.y).unwrap();
        let method = match case.method.as_str() {
            "exact" => WilcoxonMethod::Exact,
            "sign_flips" => WilcoxonMethod::SignFlips,
            _ => WilcoxonMethod::Normal,
        };
        assert_eq!(
            (ours.n, ours.n_nonzero, ours.method),
            (case.x.len(), case.n_nonzero, method),
            "{}",
            case.name
        );
        close(&case.name, ours.p, case.p);
        close(&case.name, ours.statistic(), case.statistic);
        close(&case.name, ours.rank_biserial().unwrap(), case.effect);
    }
}

#[test]
fn holm_is_closed_testing() {
    for case in fixture().holm {
        let ours = holm(&case.p);
        assert_eq!(ours.len(), case.adjusted.len());
        for (ours, theirs) in ours.iter().zip(&case.adjusted) {
            close("Holm", *ours, *theirs);
        }
    }
}

#[test]
fn bootstrap_is_reproducible_and_agrees_with_scipy() {
    for case in fixture().bootstrap {
        let ours = bootstrap_mean(&case.differences, 0.95, case.resamples, case.seed).unwrap();
        close("low", ours.low, case.low);
        close("high", ours.high, case.high);
        // The 2.5 % point of 2,000 means has a standard error near 2.7 / sqrt(2,000) = 0.06 deviations of the mean,
        // of which the interval is about four wide: 6 % of its width is four such errors.
        let width = case.scipy_high - case.scipy_low;
        assert!((ours.low - case.scipy_low).abs() < 0.06 * width, "{} {}", ours.low, case.scipy_low);
        assert!((ours.high - case.scipy_high).abs() < 0.06 * width, "{} {}", ours.high, case.scipy_high);
    }
}

#[test]
fn the_generator_is_splitmix64() {
    let stream = fixture().splitmix64;
    let mut generator = SplitMix64::new(stream.seed.parse().unwrap());
    for number in stream.first {
        assert_eq!(generator.next_u64(), number.parse::<u64>().unwrap());
    }
}

#[test]
fn corrected_t_is_scipys_distribution() {
    for case in fixture().corrected_t {
        let ours = corrected_resampled_t(&case.a, &case.b, case.test_to_train).unwrap();
        close(&case.name, ours.p, case.p);
        close(&case.name, ours.t, case.t);
    }
}

#[test]
fn what_cannot_be_tested_is_refused_with_the_reason() {
    assert_eq!(wilcoxon(&[1.0], &[]), Err(StatisticsError::Unpaired { a: 1, b: 0 }));
    assert_eq!(wilcoxon(&[], &[]), Err(StatisticsError::TooFew { n: 0, needed: 1 }));
    assert_eq!(wilcoxon(&[1.0, f64::NAN], &[0.0, 0.0]), Err(StatisticsError::NotFinite));
    let two = corrected_resampled_t(&[1.0, 2.0], &[0.0, 0.0], 1.0).unwrap_err();
    assert_eq!(two.to_string(), "needs at least 3 pairs and has 2");
    let even = corrected_resampled_t(&[80.1, 70.3, 60.7], &[75.1, 65.3, 55.7], 0.5);
    assert_eq!(even, Err(StatisticsError::NoSpread), "5 each time, but for rounding");
    assert!(bootstrap_mean(&[1.0], 0.95, 2000, 0).is_err());
    assert!(bootstrap_mean(&[1.0, f64::INFINITY], 0.95, 2000, 0).is_err());
}

#[test]
fn equal_values_show_nothing() {
    for n in [1, 13, 14, 60] {
        let same = wilcoxon(&vec![3.0; n], &vec![3.0; n]).unwrap();
        assert_eq!((same.n, same.n_nonzero, same.p, same.rank_biserial()), (n, 0, 1.0, None));
    }
}

#[test]
fn the_smallest_p_is_that_of_differences_of_one_sign() {
    for n in 1..=50 {
        let values: Vec<f64> = (1..=n).map(f64::from).collect();
        let zeros = vec![0.0; values.len()];
        assert_eq!(smallest_p(values.len()), wilcoxon(&values, &zeros).unwrap().p);
    }
    assert_eq!((smallest_p(0), smallest_p(5), smallest_p(5000)), (1.0, 0.0625, 0.0));
}

proptest! {
    #[test]
    fn holm_is_monotone_above_the_raw_values_and_at_most_one(
        p in proptest::collection::vec(0.0_f64..=1.0, 0..20)
    ) {
        let adjusted = holm(&p);
        for i in 0..p.len() {
            prop_assert!(adjusted[i] >= p[i] && adjusted[i] <= 1.0);
            for j in 0..p.len() {
                prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j]);
            }
        }
    }

    #[test]
    fn wilcoxon_does_not_care_which_arm_is_first(
        pairs in proptest::collection::vec((-20_i32..20, -20_i32..20), 1..70)
    ) {
        let a: Vec<f64> = pairs.iter().map(|&(a, _)| f64::from(a)).collect();
        let b: Vec<f64> = pairs.iter().map(|&(_, b)| f64::from(b)).collect();
        let (one, other) = (wilcoxon(&a, &b).unwrap(), wilcoxon(&b, &a).unwrap());
        prop_assert!((one.p - other.p).abs() <= 1e-12 * one.p);
        prop_assert_eq!(one.rank_biserial().map(|effect| -effect), other.rank_biserial());
        prop_assert!(one.p > 0.0 && one.p <= 1.0);
        if one.method != WilcoxonMethod::Normal {
            prop_assert!(one.p >= smallest_p(one.n_nonzero));
        }
        let n = one.n_nonzero as f64;
        prop_assert_eq!(one.r_plus + one.r_minus, n * (n + 1.0) / 2.0);
    }

    #[test]
    fn the_interval_is_ordered_and_within_the_values(
        values in proptest::collection::vec(-100.0_f64..100.0, 2..30), seed: u64
    ) {
        let interval = bootstrap_mean(&values, 0.95, 200, seed).unwrap();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(low - 1e-9 <= interval.low && interval.low <= interval.high && interval.high <= high + 1e-9);
        prop_assert_eq!(interval, bootstrap_mean(&values, 0.95, 200, seed).unwrap());
    }

    #[test]
    fn the_correction_only_makes_the_test_more_careful(
        differences in proptest::collection::vec(-10.0_f64..10.0, 3..12)
    ) {
        let zeros = vec![0.0; differences.len()];
        let share = 1.0 / (differences.len() - 1) as f64;
        if let Ok(corrected) = corrected_resampled_t(&differences, &zeros, share) {
            let plain = corrected_resampled_t(&differences, &zeros, 0.0).unwrap();
            prop_assert!(corrected.p >= plain.p - 1e-12 && corrected.p <= 1.0);
        }
    }
}
