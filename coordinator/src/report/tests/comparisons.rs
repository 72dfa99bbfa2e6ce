//! Comparisons with MTI-Net: golden figures by SciPy 1.17.1, and what is left out or refused.

use super::*;

/// What MTI-Net's Dice is above U-Net's in each fold, in 64ths, so that no difference is rounded: subjects a and b.
const ABOVE: [(f64, f64); 5] = [(1.0, 2.0), (3.0, -4.0), (5.0, 6.0), (7.0, 8.0), (9.0, 10.0)];

/// The plain evaluation with a Dice that differs from subject to subject, an IoU that is always 2/64 worse for
/// U-Net, and a curve that the arm without TIM predicts as well as the whole network.
fn told_apart(key: TrialKey) -> TrialEvaluation {
    let mut evaluation = evaluation(key.arm, key.fold, 0.0);
    let place = key.fold as usize % ABOVE.len();
    let behind = f64::from(u8::from(key.arm == Arm::Unet));
    for (slice, above) in evaluation.slices.iter_mut().zip([ABOVE[place].0, ABOVE[place].1]) {
        slice.dice = Some((48.0 - behind * above) / 64.0);
        slice.iou = Some((32.0 + f64::from(key.fold) - behind * 2.0) / 64.0);
    }
    evaluation
}

fn compared(spec: &StudySpec, except: &[&str]) -> StudyResults {
    let mut log = Log::new(spec);
    let kept: Vec<TrialKey> =
        spec.trials().into_iter().filter(|trial| !except.contains(&trial.to_string().as_str())).collect();
    for &trial in &kept {
        log.done(trial, told_apart(trial).summary());
    }
    let mut results = StudyResults::from_events(&log.0).unwrap();
    for trial in kept {
        results.set_evaluation(trial, told_apart(trial));
    }
    results
}

#[track_caller]
fn close(value: &serde_json::Value, expected: f64) {
    let value = value.as_f64().unwrap_or_else(|| panic!("{value} is not a number"));
    assert!((value - expected).abs() <= 1e-10 * expected.abs(), "{value} is not {expected}");
}

fn find<'a>(list: &'a serde_json::Value, b: &str, metric: &str) -> &'a serde_json::Value {
    let mut all = list.as_array().unwrap().iter();
    all.find(|entry| entry["b"] == b && entry["metric"] == metric)
        .unwrap_or_else(|| panic!("{b} {metric}: {list}"))
}

// (d.mean()) / sqrt((1/5 + 1/4) * d.var(ddof=1)) of the folds' differences, and 2 * scipy.stats.t.sf(t, 4).
const FOLDS_T: f64 = 1.689_380_113_520_535;
const FOLDS_P: f64 = 0.166_413_817_049_907_35;

#[test]
fn figures_are_scipys() {
    let summary = summary_json(&compared(&spec("\"mti-net\", \"unet\", \"no-tim\"", "5"), &[]));
    let all = &summary["comparisons"];
    assert_eq!(all.as_array().unwrap().len(), 5, "DSC and IoU of two arms, MAE of one: {all}");
    assert_eq!(summary["comparisons_omitted"], serde_json::json!([]));

    let dsc = find(all, "unet", "dsc");
    assert_eq!((&dsc["a"], &dsc["n"], &dsc["n_nonzero"]), (&"mti-net".into(), &10.into(), &10.into()));
    assert_eq!(dsc["test"], "Wilcoxon signed-rank, two-sided, exact");
    close(&dsc["statistic"], 4.0);
    close(&dsc["p"], 0.013_671_875);
    close(&dsc["p_holm"], 0.027_343_75);
    close(&dsc["effect"], 47.0 / 55.0);
    close(&dsc["difference"], 100.0 * 4.7 / 64.0);
    assert_eq!((&dsc["better"], &dsc["holm_over"]), (&"mti-net".into(), &2.into()));
    let (low, high) = (dsc["ci_low"].as_f64().unwrap(), dsc["ci_high"].as_f64().unwrap());
    assert!(
        (low - 3.28125).abs() < 0.5 && (high - 11.09375).abs() < 0.5,
        "scipy.stats.bootstrap: {low} {high}"
    );
    let folds = &dsc["folds"];
    assert_eq!((&folds["n"], &folds["test_to_train"]), (&5.into(), &0.25.into()));
    close(&folds["t"], FOLDS_T);
    close(&folds["p"], FOLDS_P);
    close(&folds["p_holm"], 2.0 * FOLDS_P);

    let iou = find(all, "unet", "iou");
    assert_eq!(iou["test"], "Wilcoxon signed-rank, two-sided, exact over all signs, with ties or zeros");
    close(&iou["p"], 2.0 / 1024.0);
    close(&iou["effect"], 1.0);
    assert!(iou["folds"]["reason"].as_str().unwrap().contains("all the same"), "{iou}");

    let same = find(all, "no-tim", "mae");
    assert_eq!((&same["p"], &same["effect"], &same["better"]), (&1.0.into(), &().into(), &().into()));
}

#[test]
fn the_section_fits_a_terminal_and_says_what_it_cannot_show() {
    let results = compared(&spec("\"mti-net\", \"unet\", \"no-tim\"", "5"), &[]);
    let tables = markdown(&results);
    let text = section(&tables, "## Comparisons");
    assert!(text.contains("### DSC (%), 10 subjects"), "{text}");
    assert!(text.contains("| MTI-Net minus | difference | p | p Holm | effect | p folds |"), "{text}");
    assert!(text.contains("| unet | +7.34 ["), "{text}");
    assert!(text.contains("] | 0.0137 | 0.0273 | +0.85 | "), "{text}");
    assert!(text.contains("| no-tim | +0.00 [+0.00, +0.00] | 1.0000 | 1.0000 | all equal | – |"), "{text}");
    assert!(text.contains("exact for unet; exact over all signs, with ties or zeros for no-tim."), "{text}");
    assert!(
        text.contains("With 10 subjects the exact signed-rank test cannot give a two-sided p-value below")
    );
    assert!(
        text.contains("2/2^10 = 0.0020, nor one below 0.0039 once corrected for 2 comparisons."),
        "{text}"
    );
    assert!(text.contains("2/2^5 = 0.0625"), "{text}");
    assert!(text.contains("No test on folds for no-tim: over 5 folds: the differences are all the same"));
    assert!(text.contains("McNemar"), "{text}");
    let terminal = tables_terminal(&results, Options::default());
    let rows = terminal.lines().filter(|line| line.contains("unet") && line.contains('['));
    for row in rows {
        assert!(row.chars().count() <= 80, "{row}");
    }
}

#[test]
fn an_arm_that_is_not_complete_is_named_and_counts_in_the_correction() {
    let results = compared(&spec("\"mti-net\", \"unet\", \"no-tim\"", "5"), &["no-tim/3/0"]);
    let summary = summary_json(&results);
    assert_eq!(summary["comparisons"].as_array().unwrap().len(), 2, "U-Net's DSC and IoU");
    close(&find(&summary["comparisons"], "unet", "dsc")["p_holm"], 0.027_343_75);
    assert_eq!(
        find(&summary["comparisons_omitted"], "no-tim", "mae")["reason"],
        "missing: no-tim/3/0 (waiting)"
    );
    let tables = markdown(&results);
    assert!(tables.contains("Not compared: no-tim (missing: no-tim/3/0 (waiting))."), "{tables}");

    let reference = compared(&spec("\"mti-net\", \"unet\"", "5"), &["mti-net/0/0"]);
    assert_eq!(summary_json(&reference)["comparisons"], serde_json::json!([]));
    assert!(markdown(&reference).contains("Not compared: unet (missing: mti-net/0/0 (waiting))"));
}

#[test]
fn few_folds_and_subjects_are_said_to_show_nothing() {
    let results = compared(&spec("\"mti-net\", \"unet\"", "2"), &[]);
    let summary = summary_json(&results);
    let dsc = find(&summary["comparisons"], "unet", "dsc");
    assert_eq!(dsc["folds"]["reason"], "over 2 folds: needs at least 3 pairs and has 2");
    close(&dsc["p_smallest"], 0.125);
    let tables = markdown(&results);
    let text = section(&tables, "## Comparisons");
    assert!(text.contains("2/2^4 = 0.1250: no difference, however large, can show at 0.05."), "{text}");
    assert!(text.contains("2 folds tell nothing about the spread over folds"), "{text}");

    let listed = summary_json(&compared(&spec("\"mti-net\", \"unet\"", "[0, 2, 4]"), &[]));
    let dsc = find(&listed["comparisons"], "unet", "dsc");
    assert!(dsc["folds"]["reason"].as_str().unwrap().contains("listed folds"), "{dsc}");
}

#[test]
fn there_is_nothing_to_compare_without_mti_net_or_beside_it() {
    for arms in ["\"mti-net\"", "\"unet\", \"resunetpp\"", "\"mti-net\", \"vgg16-cls\""] {
        let results = compared(&spec(arms, "3"), &[]);
        assert_eq!(summary_json(&results)["comparisons"], serde_json::json!([]), "{arms}");
        assert!(!markdown(&results).contains("Comparisons"), "{arms}");
    }
}

#[test]
fn arms_on_different_subjects_are_not_compared() {
    let spec = spec("\"mti-net\", \"unet\"", "3");
    let mut results = compared(&spec, &[]);
    let trial = key("unet/1/0");
    let mut evaluation = told_apart(trial);
    evaluation.slices[0].subject = "somebody else".into();
    results.set_evaluation(trial, evaluation);
    let summary = summary_json(&results);
    let reason = &find(&summary["comparisons_omitted"], "unet", "dsc")["reason"];
    assert_eq!(reason, "the two arms were not evaluated on the same subjects");
}
