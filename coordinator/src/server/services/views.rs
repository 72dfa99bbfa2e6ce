//! The scheduler's state as clients see it.

use mtinet_core::{Core, Link, Study, Trial, TrialState, Worker};
use mtinet_domain::trial::TrialStatus;
use mtinet_domain::usage::MachineUsage;
use mtinet_domain::{TrialId, TrialKey, WorkerId};
use mtinet_proto::v1;
use mtinet_runtime::convert::ToProto;

/// Bytes of a reason in a listing.
const MOST_WORDS: usize = 400;

pub fn summary(study: &Study) -> v1::StudySummary {
    // Asked for every other second by each dashboard, over a hundred thousand trials: no words are hashed in this loop.
    let mut counts = [0_u32; TrialStatus::ALL.len()];
    for (_, trial) in study.trials() {
        counts[trial.status() as usize] += 1;
    }
    let counted = TrialStatus::ALL.into_iter().zip(counts).filter(|(_, count)| *count > 0);
    let trials = counted.map(|(status, count)| (status.word().to_owned(), count)).collect();
    v1::StudySummary {
        study: study.id.0,
        name: study.spec.name.clone(),
        spec_hash: study.spec_hash.clone(),
        submitted_ms: study.submitted_ms,
        status: study.status().to_owned(),
        trials,
    }
}

pub fn study(core: &Core, study: &Study) -> v1::Study {
    v1::Study {
        summary: Some(summary(study)),
        spec_json: study.spec.to_json(),
        dataset: Some(study.dataset.to_proto()),
        trials: study.trials().map(|(key, state)| trial(core, study, key, state)).collect(),
    }
}

fn trial(core: &Core, study: &Study, key: TrialKey, trial: &Trial) -> v1::TrialState {
    let reason = match &trial.state {
        TrialState::Failed { reason } => reason.clone(),
        _ => {
            core.reason(TrialId { study: study.id, key }).map(|reason| reason.to_string()).unwrap_or_default()
        }
    };
    let ranks = trial.gang().map(|gang| gang.ranks.as_slice()).unwrap_or_default();
    v1::TrialState {
        key: key.to_proto(),
        status: trial.status().word().to_owned(),
        attempts: trial.attempts,
        failures: trial.failures,
        step: trial.step,
        reason: cut(reason),
        workers: ranks.iter().map(|rank| rank.placement.worker.to_proto()).collect(),
        checkpoint_step: trial.latest.as_ref().map(|checkpoint| checkpoint.step),
    }
}

/// A trainer's words may be the end of its log, and ten thousand of those are more than a message holds; `explain` has
/// the whole.
fn cut(mut words: String) -> String {
    if words.len() > MOST_WORDS {
        words.truncate(words.floor_char_boundary(MOST_WORDS));
        words.push_str(" ...");
    }
    words
}

/// `usage` with its age in milliseconds.
pub fn worker(
    id: &WorkerId,
    worker: &Worker,
    usage: Option<(MachineUsage, u64)>,
    now_ms: u64,
) -> v1::WorkerState {
    let status = match worker.link {
        Link::Ready => "ready",
        Link::Away => "away",
        Link::Lost => "lost",
    };
    let slots = worker.slots.iter().map(|(index, slot)| v1::SlotState {
        slot: Some((*index, slot.device).to_proto()),
        attempt: slot.held.map(|held| held.attempt.to_proto()),
        rank: slot.held.map_or(0, |held| held.rank.0),
    });
    v1::WorkerState {
        worker_id: id.to_proto(),
        name: worker.name.clone(),
        status: status.to_owned(),
        last_heard_ms_ago: now_ms.saturating_sub(worker.heard_ms),
        slots: slots.collect(),
        drained: worker.drained,
        set_aside: worker.set_aside.clone().unwrap_or_default(),
        usage_ms_ago: usage.as_ref().map_or(0, |(_, ago_ms)| *ago_ms),
        usage: usage.map(|(usage, _)| usage.to_proto()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut_between_characters_and_short_ones_left() {
        assert_eq!(cut(String::new()), "");
        let full = "x".repeat(MOST_WORDS);
        assert_eq!(cut(full.clone()), full);
        assert_eq!(cut(format!("{full}y")), format!("{full} ..."));
        // Two bytes each: the limit falls into the middle of one.
        let umlauts = format!("x{}", "\u{e4}".repeat(MOST_WORDS));
        let short = cut(umlauts);
        assert!(short.len() <= MOST_WORDS + 4, "{}", short.len());
        assert_eq!(short, format!("x{} ...", "\u{e4}".repeat((MOST_WORDS - 1) / 2)));
    }
}
