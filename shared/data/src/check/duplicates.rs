//! The same patient under two names.

use std::collections::{BTreeMap, BTreeSet};

use super::files::{Facts, VolumeFacts};
use super::{Finding, Severity, codes};
use crate::manifest::Case;

/// Equal volumes across subjects and across the phases of a case, and nearly equal ones across subjects.
pub(super) fn findings(cases: &[&Case], facts: &[Facts], near: f64) -> Vec<Finding> {
    let mut groups: BTreeMap<u128, Vec<(&Case, &VolumeFacts)>> = BTreeMap::new();
    for (case, facts) in cases.iter().zip(facts) {
        for volume in &facts.volumes {
            groups.entry(volume.unordered_hash).or_default().push((case, volume));
        }
    }
    let mut out = Vec::new();
    let mut reported: BTreeSet<(&str, &str)> = BTreeSet::new();
    for group in groups.values().filter(|g| g.len() > 1) {
        for (n, &(case, volume)) in group.iter().enumerate() {
            for &(other, twin) in &group[..n] {
                let how = if volume.hash == twin.hash { "equal" } else { "equal when mirrored" };
                if case.case == other.case {
                    let message = format!("phases `{}` and `{}` are {how}", twin.phase, volume.phase);
                    out.push(Finding::of_case(Severity::Error, codes::DUPLICATE_PHASE, case, &message));
                } else if case.subject != other.subject && reported.insert((&other.subject, &case.subject)) {
                    let message = format!(
                        "its phase `{}` and phase `{}` of case {} are {how}, but their subjects are {} and {}; give both the same subject or remove one",
                        volume.phase, twin.phase, other.case, case.subject, other.subject
                    );
                    out.push(Finding::of_case(Severity::Error, codes::DUPLICATE_VOLUME, case, &message));
                }
            }
        }
    }
    out.extend(near_duplicates(cases, facts, near, &reported));
    out
}

fn near_duplicates(
    cases: &[&Case],
    facts: &[Facts],
    near: f64,
    reported: &BTreeSet<(&str, &str)>,
) -> Vec<Finding> {
    let mut out = Vec::new();
    for n in 0..cases.len() {
        for m in 0..n {
            let (case, other) = (cases[n], cases[m]);
            if case.subject == other.subject
                || reported.contains(&(other.subject.as_str(), case.subject.as_str()))
            {
                continue;
            }
            // One phase after the other; all must be alike, as only a copy's are.
            let pairs = facts[n].volumes.iter().zip(&facts[m].volumes);
            let lowest = pairs.map(|(a, b)| correlation(a, b)).fold(f64::INFINITY, f64::min);
            if lowest.is_finite() && lowest >= near {
                let message = format!(
                    "looks nearly like case {} of subject {} (correlation {lowest:.4} in every phase); is it the same patient?",
                    other.case, other.subject
                );
                out.push(Finding::of_case(Severity::Warning, codes::NEAR_DUPLICATE, case, &message));
            }
        }
    }
    out
}

fn correlation(a: &VolumeFacts, b: &VolumeFacts) -> f64 {
    if a.thumbnail.is_empty() || b.thumbnail.is_empty() {
        return 0.0;
    }
    a.thumbnail.iter().zip(&b.thumbnail).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
}
