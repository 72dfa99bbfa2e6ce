//! The same patient under two names.
//!
//! No case is compared with all others: equal volumes meet by their hash, and nearly equal ones in a tree of coarse
//! descriptors. Each case is reported with one other at most, so that a data set of copies has as many findings as cases.

use std::collections::{BTreeMap, BTreeSet};

use super::files::{Descriptor, Facts, Thumbnail, VolumeFacts};
use super::neighbours::{Neighbours, are_near};
use super::{Finding, Severity, codes};
use crate::manifest::Case;

/// Thumbnails of a case's phases by name. They are made again for the few cases that are compared in full, so that a
/// check of many cases need not keep all of them.
pub(super) type Thumbnails<'a> = &'a dyn Fn(usize) -> BTreeMap<String, Thumbnail>;

/// Equal volumes across subjects and across the phases of a case, and nearly equal ones across subjects.
pub(super) fn findings(
    cases: &[&Case],
    facts: &[Facts],
    near: f64,
    thumbnails: Thumbnails<'_>,
) -> Vec<Finding> {
    let mut reported = BTreeSet::new();
    let mut out = equal(cases, facts, &mut reported);
    out.extend(nearly_equal(cases, facts, near, &reported, thumbnails));
    out
}

/// Pairs of subjects, the earlier first.
type Pairs<'a> = BTreeSet<(&'a str, &'a str)>;

fn equal<'a>(cases: &[&'a Case], facts: &[Facts], reported: &mut Pairs<'a>) -> Vec<Finding> {
    let mut groups: BTreeMap<u128, Vec<(&'a Case, &VolumeFacts)>> = BTreeMap::new();
    for (case, facts) in cases.iter().zip(facts) {
        for volume in &facts.volumes {
            groups.entry(volume.unordered_hash).or_default().push((case, volume));
        }
    }
    let mut out = Vec::new();
    for group in groups.values().filter(|g| g.len() > 1) {
        let first = group[0];
        let other_subject = group.iter().position(|(case, _)| case.subject != first.0.subject);
        for (n, &(case, volume)) in group.iter().enumerate().skip(1) {
            // A case's volumes stand side by side, and every subject of the group is told of once.
            let (before, twin) = group[n - 1];
            if before.case == case.case {
                let how = how(volume, twin);
                let message = format!("phases `{}` and `{}` are {how}", twin.phase, volume.phase);
                out.push(Finding::of_case(Severity::Error, codes::DUPLICATE_PHASE, case, &message));
            }
            let partner = if case.subject == first.0.subject {
                other_subject.filter(|&other| other < n).map(|other| group[other])
            } else {
                Some(first)
            };
            let Some((other, twin)) = partner else { continue };
            if reported.insert((&other.subject, &case.subject)) {
                let how = how(volume, twin);
                let message = format!(
                    "its phase `{}` and phase `{}` of case {} are {how}, but their subjects are {} and {}; give both the same subject or remove one",
                    volume.phase, twin.phase, other.case, case.subject, other.subject
                );
                out.push(Finding::of_case(Severity::Error, codes::DUPLICATE_VOLUME, case, &message));
            }
        }
    }
    out
}

fn how(volume: &VolumeFacts, twin: &VolumeFacts) -> &'static str {
    if volume.hash == twin.hash { "equal" } else { "equal when mirrored" }
}

fn nearly_equal(
    cases: &[&Case],
    facts: &[Facts],
    near: f64,
    reported: &Pairs<'_>,
    thumbnails: Thumbnails<'_>,
) -> Vec<Finding> {
    let search = Search::new(facts, near);
    let mut made: BTreeMap<usize, BTreeMap<String, Thumbnail>> = BTreeMap::new();
    let mut out = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        for m in search.candidates(n).filter(|&m| m < n) {
            let other = cases[m];
            let pair = (other.subject.as_str(), case.subject.as_str());
            if pair.0 == pair.1 || reported.contains(&pair) || reported.contains(&(pair.1, pair.0)) {
                continue;
            }
            for case in [n, m] {
                made.entry(case).or_insert_with(|| thumbnails(case));
            }
            // One phase after the other; all must be alike, as only a copy's are.
            let Some(lowest) = lowest_correlation(&made[&n], &made[&m]).filter(|lowest| *lowest >= near)
            else {
                continue;
            };
            let message = format!(
                "looks nearly like case {} of subject {} (correlation {lowest:.4} in every phase); is it the same patient?",
                other.case, other.subject
            );
            out.push(Finding::of_case(Severity::Warning, codes::NEAR_DUPLICATE, case, &message));
            break;
        }
    }
    out
}

/// Finds cases whose descriptors are close in every phase.
struct Search<'a> {
    facts: &'a [Facts],
    by_phase: BTreeMap<&'a str, Neighbours>,
    /// Phases that every case has: nobody is missed who looks among them.
    everywhere: BTreeSet<&'a str>,
    /// Squared.
    reach: f32,
}

impl<'a> Search<'a> {
    fn new(facts: &'a [Facts], near: f64) -> Self {
        let mut descriptors: BTreeMap<&str, Vec<(&Descriptor, usize)>> = BTreeMap::new();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (n, facts) in facts.iter().enumerate() {
            for volume in &facts.volumes {
                *counts.entry(&volume.phase).or_default() += 1;
                let of_phase = descriptors.entry(&volume.phase).or_default();
                of_phase.extend(volume.descriptor.as_ref().map(|descriptor| (descriptor, n)));
            }
        }
        let everywhere =
            counts.into_iter().filter(|(_, n)| *n == facts.len()).map(|(phase, _)| phase).collect();
        let by_phase = descriptors.into_iter().map(|(phase, of)| (phase, Neighbours::new(&of))).collect();
        // Thumbnails have mean 0 and norm 1, so that a correlation is a distance; descriptors are never further apart
        // than what they describe.
        Self { facts, by_phase, everywhere, reach: (2.0 * (1.0 - near)) as f32 }
    }

    /// Other cases that may be nearly equal.
    fn candidates(&self, n: usize) -> impl Iterator<Item = usize> {
        let volumes = &self.facts[n].volumes;
        let enough = volumes.iter().position(|v| self.everywhere.contains(v.phase.as_str()));
        let looked = enough.map_or(volumes.len(), |last| last + 1);
        volumes[..looked].iter().filter_map(|v| Some((v, v.descriptor.as_ref()?))).flat_map(
            move |(v, descriptor)| {
                let phase = v.phase.as_str();
                self.by_phase[phase]
                    .near(descriptor, self.reach)
                    .filter(move |&m| m != n && self.first_shared(n, m) == Some(phase) && self.all_near(n, m))
            },
        )
    }

    fn shared(&self, n: usize, m: usize) -> impl Iterator<Item = (&'a VolumeFacts, &'a VolumeFacts)> {
        let others = &self.facts[m].volumes;
        self.facts[n].volumes.iter().filter_map(|a| Some((a, others.iter().find(|b| b.phase == a.phase)?)))
    }

    /// So that a pair is met among the descriptors of one phase only.
    fn first_shared(&self, n: usize, m: usize) -> Option<&'a str> {
        self.shared(n, m).next().map(|(volume, _)| volume.phase.as_str())
    }

    /// Equal volumes are told of already.
    fn all_near(&self, n: usize, m: usize) -> bool {
        self.shared(n, m).all(|(a, b)| match (&a.descriptor, &b.descriptor) {
            (Some(x), Some(y)) => a.unordered_hash != b.unordered_hash && are_near(x, y, self.reach),
            _ => false,
        })
    }
}

/// None where a phase of the two is constant, or they have none in common.
fn lowest_correlation(a: &BTreeMap<String, Thumbnail>, b: &BTreeMap<String, Thumbnail>) -> Option<f64> {
    let shared: Vec<_> =
        a.iter().filter_map(|(phase, a)| Some((a.as_ref()?, b.get(phase)?.as_ref()?))).collect();
    let all = a.keys().filter(|phase| b.contains_key(*phase)).count();
    let correlation = |(a, b): (&Vec<f32>, &Vec<f32>)| -> f64 {
        a.iter().zip(b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum()
    };
    (all > 0 && shared.len() == all)
        .then(|| shared.into_iter().map(correlation).fold(f64::INFINITY, f64::min))
        .filter(|lowest| lowest.is_finite())
}
