use std::collections::{BTreeMap, BTreeSet};

use super::{quiet, small};
use crate::folds::{self, Fold, stratified};
use crate::manifest::{Case, Geometry, LabelRef};

/// Cases without files; `each` of them for every subject.
fn cases(groups: &[(&str, usize)], each: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for (class, count) in groups {
        for (n, k) in (0..*count).flat_map(|n| (0..each).map(move |k| (n, k))) {
            let subject = format!("{class}{n:03}");
            cases.push(Case {
                case: format!("{subject}_{k}"),
                subject,
                class: (*class).to_owned(),
                images: BTreeMap::new(),
                label: LabelRef {
                    path: "x".into(),
                    blake3: String::new(),
                    grid: "pv".into(),
                    remap: BTreeMap::new(),
                },
                geometry: Geometry {
                    reference: "pv".into(),
                    shape: [1; 3],
                    spacing: [1.0; 3],
                    affine: [[0.0; 4]; 4],
                },
                acquisition: None,
                exclude: None,
            });
        }
    }
    cases
}

fn classes() -> Vec<String> {
    vec!["hemangioma".into(), "hcc".into()]
}

fn count(fold: &Fold, class: &str) -> usize {
    fold.val
        .iter()
        .filter(|id| id.starts_with(class))
        .map(|id| &id[..id.len() - 2])
        .collect::<BTreeSet<_>>()
        .len()
}

#[test]
fn the_papers_cohort_gives_the_papers_folds() {
    let folds = stratified(&cases(&[("hcc", 138), ("hemangioma", 100)], 1), &classes(), 5, 0).unwrap();
    let mut sizes: Vec<usize> = folds.iter().map(|f| f.val.len()).collect();
    let mut carcinomas: Vec<usize> = folds.iter().map(|f| count(f, "hcc")).collect();
    sizes.sort_unstable();
    carcinomas.sort_unstable();
    assert_eq!(sizes, [47, 47, 48, 48, 48]);
    assert_eq!(carcinomas, [27, 27, 28, 28, 28]);
    assert!(folds.iter().all(|f| count(f, "hemangioma") == 20));
}

#[test]
fn all_cases_of_a_subject_stay_together_and_every_case_is_validated_once() {
    let cases = cases(&[("hcc", 11), ("hemangioma", 7), ("healthy", 6)], 3);
    let folds = stratified(&cases, &classes(), 4, 3).unwrap();
    let subject = |id: &String| id[..id.len() - 2].to_owned();
    let mut seen = BTreeSet::new();
    for fold in &folds {
        let train: BTreeSet<_> = fold.train.iter().map(subject).collect();
        assert!(fold.val.iter().map(subject).all(|s| !train.contains(&s)));
        assert_eq!(fold.train.len() + fold.val.len(), cases.len());
        assert!(count(fold, "healthy") >= 1, "healthy is a stratum");
        fold.val.iter().for_each(|id| assert!(seen.insert(id.clone())));
    }
    assert_eq!(seen.len(), cases.len());
}

#[test]
fn a_split_follows_from_its_seed_alone() {
    let all = cases(&[("hcc", 20), ("hemangioma", 15)], 1);
    let once = stratified(&all, &classes(), 5, 7).unwrap();
    assert_eq!(once, stratified(&all, &classes(), 5, 7).unwrap());
    assert_ne!(once, stratified(&all, &classes(), 5, 8).unwrap());
    // The order of cases in the manifest does not move a subject to another fold.
    let mut reversed = all;
    reversed.reverse();
    let other = stratified(&reversed, &classes(), 5, 7).unwrap();
    for (a, b) in once.iter().zip(&other) {
        assert_eq!(a.val.iter().collect::<BTreeSet<_>>(), b.val.iter().collect::<BTreeSet<_>>());
    }
    // Pinned: a new release of a dependency must not reshuffle published folds.
    let first = ["hcc000", "hcc005", "hcc009", "hcc016", "hemangioma003", "hemangioma012", "hemangioma013"];
    assert_eq!(once[0].val, first.map(|s| format!("{s}_0")));
}

#[test]
fn impossible_numbers_of_folds_are_refused() {
    let all = cases(&[("hcc", 3)], 1);
    assert_eq!(stratified(&all, &classes(), 4, 0).unwrap_err().exit_code(), 2);
    assert!(stratified(&all, &classes(), 1, 0).is_err());
}

#[test]
fn splits_are_rewritten_and_survive_reopening() {
    let (_dir, mut dataset) = small();
    let before = dataset.hash();
    folds::split(&mut dataset, 3, 1).unwrap();
    let reopened = crate::Dataset::open(&dataset.dir).unwrap();
    assert_eq!(reopened.splits, dataset.splits);
    assert_eq!(reopened.splits.len(), 3);
    assert_ne!(reopened.hash(), before, "the hash covers the folds");
}

#[test]
fn a_foreign_split_is_accepted_when_sound_and_refused_when_it_leaks() {
    let (dir, mut dataset) = small();
    let foreign = dir.path().join("splits_final.json");
    let sound = stratified(&dataset.cases, &dataset.header.classes, 4, 9).unwrap();
    folds::write(&foreign, &sound).unwrap();
    folds::adopt(&mut dataset, &foreign).unwrap();
    assert_eq!(dataset.splits, sound);
    let mut leaking = sound.clone();
    let leak = leaking[0].val[0].clone();
    leaking[0].train.push(leak.clone());
    folds::write(&foreign, &leaking).unwrap();
    let message = folds::adopt(&mut dataset, &foreign).unwrap_err().to_string();
    assert!(message.contains(&leak) && message.contains("fold 0"), "{message}");
    assert_eq!(dataset.splits, sound, "a refused split changes nothing");
    assert!(
        crate::check::check(&dataset, &Default::default(), &quiet)
            .unwrap()
            .findings
            .iter()
            .all(|f| f.code != "subject-on-both-sides")
    );
}
