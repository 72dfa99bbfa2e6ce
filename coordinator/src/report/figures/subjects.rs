//! Which subjects the segmentation figures show: the same for all arms, and not the best ones.

use std::collections::{BTreeMap, BTreeSet};

use mtinet_domain::metrics::mean;
use mtinet_domain::{Arm, TrialKey};

use crate::report::results::StudyResults;

/// Subjects that the figures show.
const SHOWN: usize = 6;

/// A slice of a subject, chosen to be shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// The patient.
    pub subject: String,
    /// The case that the slice is of.
    pub case: String,
    /// Index of the slice, from inferior to superior.
    pub slice: u32,
    /// Index of the lesion's class.
    pub class: usize,
    /// The fold that holds the subject out.
    pub fold: u32,
    /// Mean Dice over all arms and the subject's slices with tumour, percent.
    pub mean_dsc: f64,
    /// Dice of this slice by arm, percent, of the study's first seed.
    pub dsc: BTreeMap<Arm, f64>,
}

/// Subjects spread evenly over the range from worst to best mean Dice, the same number of each class, of each the slice
/// with the largest true area. Subjects that more arms have segmented come first.
pub fn choose(results: &StudyResults) -> Vec<Chosen> {
    let subjects = candidates(results);
    let most = subjects.iter().map(|subject| subject.arms).max().unwrap_or(0);
    let mut classes: BTreeMap<usize, Vec<Chosen>> = BTreeMap::new();
    for subject in subjects.into_iter().filter(|subject| subject.arms == most) {
        classes.entry(subject.chosen.class).or_default().push(subject.chosen);
    }
    let each = (SHOWN / classes.len().max(1)).max(1);
    let mut shown = Vec::new();
    for (_, mut of_class) in classes {
        of_class.sort_by(|a, b| a.mean_dsc.total_cmp(&b.mean_dsc).then_with(|| a.subject.cmp(&b.subject)));
        let places: BTreeSet<usize> =
            (0..each).map(|place| (2 * place + 1) * of_class.len() / (2 * each)).collect();
        shown.extend(places.into_iter().filter_map(|place| of_class.get(place).cloned()));
    }
    shown
}

struct Candidate {
    chosen: Chosen,
    arms: usize,
}

fn candidates(results: &StudyResults) -> Vec<Candidate> {
    let first_seed = results.spec.seeds.first().copied();
    let mut dice: BTreeMap<&str, Vec<(TrialKey, f64)>> = BTreeMap::new();
    let mut largest: BTreeMap<&str, (u64, Chosen)> = BTreeMap::new();
    let done = results.trials.iter().filter(|trial| trial.summary().is_some());
    for (key, evaluation) in done.filter_map(|trial| Some((trial.key, trial.evaluation.as_ref()?))) {
        for slice in &evaluation.slices {
            let (Some(class), Some(value)) = (slice.class, slice.dice.filter(|dice| dice.is_finite())) else {
                continue;
            };
            dice.entry(&slice.subject).or_default().push((key, value * 100.0));
            let new = || Chosen {
                subject: slice.subject.clone(),
                case: slice.case.clone(),
                slice: slice.slice,
                class,
                fold: key.fold,
                mean_dsc: 0.0,
                dsc: BTreeMap::new(),
            };
            let (area, chosen) = largest.entry(&slice.subject).or_insert_with(|| (slice.truth_pixels, new()));
            let same = (&chosen.case, chosen.slice) == (&slice.case, slice.slice);
            if !same && slice.truth_pixels > *area {
                (*area, *chosen) = (slice.truth_pixels, new());
            }
            if (&chosen.case, chosen.slice) == (&slice.case, slice.slice) && Some(key.seed) == first_seed {
                chosen.dsc.insert(key.arm, value * 100.0);
            }
        }
    }
    let finished = largest.into_iter().filter_map(|(subject, (_, chosen))| {
        let values = dice.get(subject)?;
        let arms = values.iter().map(|(key, _)| key.arm).collect::<BTreeSet<_>>().len();
        let mean_dsc = mean(values.iter().map(|(_, value)| *value))?;
        Some(Candidate { chosen: Chosen { mean_dsc, ..chosen }, arms })
    });
    finished.collect()
}
