//! Cross-validation folds: stratified by class, grouped by subject, seeded (MODEL.md 7).
//!
//! On disk they are nnU-Net's `splits_final.json`, so that both tools train on the same folds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::check;
use crate::error::{DataError, Result};
use crate::fsutil;
use crate::manifest::{Case, Dataset, HEALTHY};

/// Folds that an import or the phantom writes.
pub const DEFAULT_FOLDS: usize = 5;

/// One fold: ids of the cases to train on and to validate on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    /// Cases to train on.
    pub train: Vec<String>,
    /// Cases to validate on.
    pub val: Vec<String>,
}

/// Splits `cases` into `folds` folds. The same input gives the same folds on every machine and with every release.
///
/// Subjects of each stratum (each lesion class, then healthy) are shuffled by the seed and dealt out in turn, each
/// stratum going on where the one before stopped: 138 + 100 subjects give folds of 48, 48, 48, 47 and 47. Excluded
/// cases are in no fold.
///
/// # Errors
/// [`DataError::Options`] for fewer than two folds, or fewer subjects than folds.
pub fn stratified(cases: &[Case], classes: &[String], folds: usize, seed: u64) -> Result<Vec<Fold>> {
    let mut subjects: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for case in cases.iter().filter(|c| c.exclude.is_none()) {
        subjects.entry(&case.subject).or_default().insert(&case.class);
    }
    if folds < 2 || subjects.len() < folds {
        return Err(DataError::Options(format!(
            "cannot split {} subjects into {folds} folds; folds must be at least 2 and at most the number of subjects",
            subjects.len()
        )));
    }
    let mut strata: BTreeMap<(usize, String), Vec<&str>> = BTreeMap::new();
    for (subject, found) in subjects {
        strata.entry(stratum(&found, classes)).or_default().push(subject);
    }
    let mut fold_of: BTreeMap<&str, usize> = BTreeMap::new();
    let mut turn = 0;
    for ((_, name), mut members) in strata {
        shuffle(&mut members, seed, &name);
        for subject in members {
            fold_of.insert(subject, turn % folds);
            turn += 1;
        }
    }
    let ids = |wanted: &dyn Fn(usize) -> bool| -> Vec<String> {
        cases
            .iter()
            .filter(|c| fold_of.get(c.subject.as_str()).is_some_and(|&f| wanted(f)) && c.exclude.is_none())
            .map(|c| c.case.clone())
            .collect()
    };
    Ok((0..folds).map(|k| Fold { train: ids(&|f| f != k), val: ids(&|f| f == k) }).collect())
}

/// Folds for a new data set: fewer, or none, where there are too few subjects, with a note that says so.
pub(crate) fn for_new(
    cases: &[Case],
    classes: &[String],
    wanted: usize,
    seed: u64,
) -> Result<(Vec<Fold>, Option<String>)> {
    let subjects = cases.iter().map(|c| c.subject.as_str()).collect::<BTreeSet<_>>().len();
    let folds = wanted.min(subjects);
    if folds < 2 {
        return Ok((
            Vec::new(),
            Some(format!("no folds were written: {subjects} subject(s) cannot be split")),
        ));
    }
    let note = format!("{folds} folds were written instead of {wanted}: there are only {subjects} subjects");
    Ok((stratified(cases, classes, folds, seed)?, (folds < wanted).then_some(note)))
}

/// Rewrites the data set's folds, in memory and in `splits_final.json`.
///
/// # Errors
/// As [`stratified`], or [`DataError::Io`].
pub fn split(dataset: &mut Dataset, folds: usize, seed: u64) -> Result<()> {
    let splits = stratified(&dataset.cases, &dataset.header.classes, folds, seed)?;
    write(&dataset.dir.join("splits_final.json"), &splits)?;
    dataset.splits = splits;
    Ok(())
}

/// Takes over a `splits_final.json` made elsewhere, for example by nnU-Net, after judging it.
///
/// # Errors
/// [`DataError::Splits`] listing what is wrong: unknown cases, cases in no fold, a subject on both sides, ...
pub fn adopt(dataset: &mut Dataset, path: &Path) -> Result<()> {
    let splits = read(path)?;
    let problems: Vec<String> = check::splits::findings(&dataset.cases, &dataset.header.classes, &splits)
        .into_iter()
        .filter(|f| f.severity == check::Severity::Error)
        // Rare classes are a matter for the leak gate, not a fault of this file.
        .filter(|f| !matches!(f.code, check::codes::CLASS_MISSING_FROM_FOLD | check::codes::TOO_FEW_SUBJECTS))
        .map(|f| f.message)
        .collect();
    if !problems.is_empty() {
        return Err(DataError::Splits(format!(
            "{} cannot be used:\n  {}",
            path.display(),
            problems.join("\n  ")
        )));
    }
    write(&dataset.dir.join("splits_final.json"), &splits)?;
    dataset.splits = splits;
    Ok(())
}

/// Reads a file in nnU-Net's shape: a list of `{"train": [...], "val": [...]}`.
///
/// # Errors
/// [`DataError::Io`], or [`DataError::File`] for another shape.
pub fn read(path: &Path) -> Result<Vec<Fold>> {
    let text = std::fs::read_to_string(path).map_err(DataError::io("read", path))?;
    serde_json::from_str(&text).map_err(|e| {
        DataError::file(path, format!("is not a list of {{\"train\": [...], \"val\": [...]}}: {e}"))
    })
}

/// Writes the folds in nnU-Net's shape, atomically.
///
/// # Errors
/// [`DataError::Io`].
pub fn write(path: &Path, splits: &[Fold]) -> Result<()> {
    let text = serde_json::to_string_pretty(splits).map_err(|e| DataError::file(path, e.to_string()))?;
    fsutil::write_atomic(path, text.as_bytes())
}

/// The stratum of a subject: its lesion class, or all of them when it has several, or healthy, which goes last.
fn stratum(found: &BTreeSet<&str>, classes: &[String]) -> (usize, String) {
    let lesions: Vec<&str> = found.iter().copied().filter(|&c| c != HEALTHY).collect();
    match lesions.as_slice() {
        [] => (usize::MAX, HEALTHY.to_owned()),
        [one] => (classes.iter().position(|c| c == one).unwrap_or(classes.len()), (*one).to_owned()),
        several => (classes.len(), several.join("+")),
    }
}

/// Fisher-Yates with a generator of the stratum's own, so that adding a class does not reshuffle the others.
fn shuffle(members: &mut [&str], seed: u64, stratum: &str) {
    let key = blake3::hash(format!("mtinet-folds/1 {seed} {stratum}").as_bytes());
    let mut rng = ChaCha20Rng::from_seed(*key.as_bytes());
    for i in (1..members.len()).rev() {
        // The bias of a modulus of 64 bits is below 1e-15 here.
        let j = (rng.next_u64() % (i as u64 + 1)) as usize;
        members.swap(i, j);
    }
}
