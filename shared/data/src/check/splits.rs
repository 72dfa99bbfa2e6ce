//! Faults of the folds.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Severity, codes};
use crate::folds::Fold;
use crate::manifest::{Case, HEALTHY};

/// Everything that is wrong with `splits` for these cases.
pub(crate) fn findings(cases: &[Case], classes: &[String], splits: &[Fold]) -> Vec<Finding> {
    if splits.is_empty() {
        let message = "the data set has no folds; make them with `mtinet data split`".to_owned();
        return vec![Finding::new(Severity::Error, codes::NO_SPLIT, message)];
    }
    let known: BTreeMap<&str, &Case> = cases.iter().map(|c| (c.case.as_str(), c)).collect();
    let mut out = Vec::new();
    for (k, fold) in splits.iter().enumerate() {
        ids(k, fold, &known, &mut out);
        both_sides(k, fold, &known, &mut out);
        missing_classes(k, fold, &known, classes, &mut out);
    }
    coverage(cases, splits, &known, &mut out);
    too_few(cases, classes, splits.len(), &mut out);
    out
}

fn ids(k: usize, fold: &Fold, known: &BTreeMap<&str, &Case>, out: &mut Vec<Finding>) {
    for id in fold.train.iter().chain(&fold.val).collect::<BTreeSet<_>>() {
        let (severity, code, what) = match known.get(id.as_str()) {
            None => (Severity::Error, codes::UNKNOWN_CASE_IN_SPLIT, "which the data set does not have"),
            Some(case) if case.exclude.is_some() => {
                (Severity::Warning, codes::EXCLUDED_CASE_IN_SPLIT, "which is excluded and takes no part")
            }
            Some(_) => continue,
        };
        let message = format!("fold {k} names case {id}, {what}");
        out.push(Finding { case: Some(id.clone()), fold: Some(k), ..Finding::new(severity, code, message) });
    }
}

fn both_sides(k: usize, fold: &Fold, known: &BTreeMap<&str, &Case>, out: &mut Vec<Finding>) {
    let train = subjects(&fold.train, known);
    for subject in subjects(&fold.val, known).intersection(&train) {
        let message = format!(
            "subject {subject} is in the training and the validation part of fold {k}; split by subject with `mtinet data split`"
        );
        out.push(Finding {
            subject: Some((*subject).to_owned()),
            fold: Some(k),
            ..Finding::new(Severity::Error, codes::SUBJECT_ON_BOTH_SIDES, message)
        });
    }
}

fn missing_classes(
    k: usize,
    fold: &Fold,
    known: &BTreeMap<&str, &Case>,
    classes: &[String],
    out: &mut Vec<Finding>,
) {
    let used: BTreeSet<&str> =
        known.values().filter(|c| c.exclude.is_none()).map(|c| c.class.as_str()).collect();
    for (ids, part) in [(&fold.train, "training"), (&fold.val, "validation")] {
        let present: BTreeSet<&str> =
            ids.iter().filter_map(|id| known.get(id.as_str())).map(|c| c.class.as_str()).collect();
        for class in classes.iter().filter(|c| used.contains(c.as_str()) && !present.contains(c.as_str())) {
            let message = format!(
                "the {part} part of fold {k} has no case of class {class}; use fewer folds or more subjects"
            );
            out.push(Finding {
                fold: Some(k),
                ..Finding::new(Severity::Error, codes::CLASS_MISSING_FROM_FOLD, message)
            });
        }
    }
}

fn coverage(cases: &[Case], splits: &[Fold], known: &BTreeMap<&str, &Case>, out: &mut Vec<Finding>) {
    let mut folds_of: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    let mut validated: BTreeSet<&str> = BTreeSet::new();
    for (k, fold) in splits.iter().enumerate() {
        validated.extend(fold.val.iter().map(String::as_str));
        for subject in subjects(&fold.val, known) {
            folds_of.entry(subject).or_default().insert(k);
        }
    }
    for case in cases.iter().filter(|c| c.exclude.is_none() && !validated.contains(c.case.as_str())) {
        out.push(Finding::of_case(
            Severity::Error,
            codes::CASE_IN_NO_FOLD,
            case,
            "is validated in no fold; split again with `mtinet data split`",
        ));
    }
    for (subject, folds) in folds_of.into_iter().filter(|(_, folds)| folds.len() > 1) {
        let message = format!(
            "subject {subject} is validated in the folds {folds:?}; its results would not be independent"
        );
        out.push(Finding {
            subject: Some(subject.to_owned()),
            ..Finding::new(Severity::Error, codes::SUBJECT_IN_TWO_FOLDS, message)
        });
    }
}

fn too_few(cases: &[Case], classes: &[String], folds: usize, out: &mut Vec<Finding>) {
    for class in classes.iter().map(String::as_str).chain([HEALTHY]) {
        let of_class = cases.iter().filter(|c| c.class == class && c.exclude.is_none());
        let count = of_class.map(|c| &c.subject).collect::<BTreeSet<_>>().len();
        if count > 0 && count < folds {
            let severity = if class == HEALTHY { Severity::Warning } else { Severity::Error };
            let message = format!(
                "class {class} has {count} subjects for {folds} folds; use at most {count} folds or add subjects"
            );
            out.push(Finding::new(severity, codes::TOO_FEW_SUBJECTS, message));
        }
    }
}

/// Subjects of cases that take part.
fn subjects<'a>(ids: &[String], known: &BTreeMap<&str, &'a Case>) -> BTreeSet<&'a str> {
    ids.iter()
        .filter_map(|id| known.get(id.as_str()))
        .filter(|c| c.exclude.is_none())
        .map(|c| c.subject.as_str())
        .collect()
}
