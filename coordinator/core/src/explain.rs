//! What can be said about one trial: for `mtinet explain`.

use mtinet_domain::TrialId;

use crate::pool::DeviceKind;
use crate::reason::places;
use crate::retry::describe;
use crate::room::Unit;
use crate::schedule::narrowest;
use crate::state::Core;
use crate::study::Study;
use crate::trial::{Gang, Phase, Trial, TrialState};

/// Why a trial stands where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Where it stands, in a word.
    pub status: &'static str,
    /// Why, in a sentence; empty where there is nothing to wait for.
    pub reason: String,
    /// What else bears on it, a sentence each.
    pub details: Vec<String>,
}

impl Core {
    /// Why a trial stands where it stands.
    pub fn explain(&self, id: TrialId) -> Option<Explanation> {
        let study = self.study(id.study)?;
        let trial = study.trial(id.key)?;
        let reason = match &trial.state {
            TrialState::Failed { reason } => reason.clone(),
            _ => self.reason(id).map(|reason| reason.to_string()).unwrap_or_default(),
        };
        let mut details = Vec::new();
        if !trial.status().is_final() {
            self.say_where(study, trial, &mut details);
        }
        say_history(trial, &mut details);
        Some(Explanation { status: trial.status().word(), reason, details })
    }

    fn say_where(&self, study: &Study, trial: &Trial, details: &mut Vec<String>) {
        if let Some(gang) = trial.gang() {
            details.extend(gang.ranks.iter().map(|rank| rank_words(gang, rank.placement.rank.0)));
            return;
        }
        let (kind, needed) = (self.kind_for(study), narrowest(study));
        let unit = Unit::of(kind, needed);
        let (free, total, wanted) = (self.pool.free(unit), self.pool.total(unit), places(needed, kind));
        details.push(format!("needs {wanted} at once; the fleet has {total} in use or free, {free} free"));
        details.push(format!(
            "priority {}; {} trials of the study wait",
            study.spec.resources.priority, study.waiting
        ));
        let tally = self.pool.tally();
        if tally.drained + tally.set_aside > 0 {
            details.push(format!(
                "{} workers are drained and {} set aside; their slots do not count",
                tally.drained, tally.set_aside
            ));
        }
        let other = if kind == DeviceKind::Cuda { DeviceKind::Cpu } else { DeviceKind::Cuda };
        let free = self.pool.free(Unit::of(other, 1));
        if free > 0 {
            details.push(format!(
                "{free} {other} slots are free, but it runs on {kind} (resources.device = \"{}\")",
                format!("{:?}", study.spec.resources.device).to_lowercase()
            ));
        }
    }
}

fn say_history(trial: &Trial, details: &mut Vec<String>) {
    if !trial.avoids.is_empty() {
        let workers: Vec<&str> = trial.avoids.iter().map(|worker| worker.0.as_str()).collect();
        details.push(format!("not placed on {} again while another worker can take it", workers.join(", ")));
    }
    if trial.attempts > 0 {
        details.push(format!("{} attempts so far, {} failures that count", trial.attempts, trial.failures));
    }
    if let Some(failure) = &trial.last_failure {
        let at = trial.last_failed_on.as_ref().map(|worker| format!(" on worker {worker}"));
        details.push(format!("last failure{}: {}", at.unwrap_or_default(), describe(failure)));
    }
    if let Some(checkpoint) = &trial.latest {
        details.push(format!("goes on from the checkpoint after step {}", checkpoint.step));
    }
}

fn rank_words(gang: &Gang, rank: u32) -> String {
    let Some(state) = gang.ranks.get(rank as usize) else { return String::new() };
    let place = &state.placement;
    let how = match state.phase {
        Phase::Starting => "is being started",
        Phase::Started => "runs",
        Phase::Exited { finished: true } => "has finished",
        Phase::Exited { finished: false } => "has ended",
        Phase::Lost => "is lost",
    };
    format!("rank {rank} {how} on worker {} slot {} ({})", place.worker, place.slot, place.device)
}
