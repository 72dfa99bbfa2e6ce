//! The coordinator's answers as the dashboard knows them.

use std::collections::HashMap;

use mtinet_domain::trial::Device;
use mtinet_domain::{StudyId, TrialKey};
use mtinet_proto::v1::device::Kind;
use mtinet_proto::v1::{MachineUsage, SlotState, Study, StudySummary, WorkerState};

use crate::dashboard::{MachineUse, Slot, SlotHold, SlotUse, StudyLine, Worker, WorkerLink};

/// Studies to choose from.
pub fn studies(studies: Vec<StudySummary>) -> Vec<StudyLine> {
    let line = |study: StudySummary| StudyLine {
        id: StudyId(study.study),
        done: (study.trials.get("done").copied().unwrap_or_default(), study.trials.values().sum()),
        name: study.name,
        status: study.status,
        submitted_ms: study.submitted_ms,
    };
    studies.into_iter().map(line).collect()
}

/// Why trials of a study wait or were given up.
pub fn reasons(study: Study) -> HashMap<TrialKey, String> {
    let known = study.trials.into_iter().filter(|trial| !trial.reason.is_empty());
    // A key that this release cannot read is another's arm: there is no row for it either.
    known.filter_map(|trial| Some((trial.key.parse().ok()?, trial.reason))).collect()
}

/// Workers, heard of as long before `now_ms` as the coordinator says.
pub fn workers(workers: Vec<WorkerState>, now_ms: u64) -> Vec<Worker> {
    let one = |worker: WorkerState| Worker {
        slots: slots(worker.slots, worker.usage.as_ref()),
        usage: worker.usage.as_ref().map(|usage| MachineUse {
            memory: usage.memory_used_bytes.zip(usage.memory_total_bytes),
            cpu_percent: usage.cpu_percent,
        }),
        link: match worker.status.as_str() {
            "ready" => WorkerLink::Ready,
            "away" => WorkerLink::Away,
            _ => WorkerLink::Lost,
        },
        heard_ms: now_ms.saturating_sub(worker.last_heard_ms_ago),
        drained: worker.drained,
        set_aside: Some(worker.set_aside).filter(|reason| !reason.is_empty()),
        id: worker.worker_id,
        name: worker.name,
    };
    workers.into_iter().map(one).collect()
}

fn slots(slots: Vec<SlotState>, usage: Option<&MachineUsage>) -> Vec<Slot> {
    let devices = usage.map(|usage| usage.devices.as_slice()).unwrap_or_default();
    let with_usage = |state: SlotState| {
        let slot = slot(state);
        let device = devices.iter().find(|device| device.slot == slot.index);
        let usage = device.map(|device| SlotUse {
            memory: device.memory_used_bytes.zip(device.memory_total_bytes),
            percent: device.utilisation_percent,
            celsius: device.temperature_celsius,
        });
        Slot { usage, ..slot }
    };
    slots.into_iter().map(with_usage).collect()
}

fn slot(state: SlotState) -> Slot {
    let held = state.attempt.and_then(|attempt| {
        let trial = attempt.trial?;
        Some(SlotHold { study: trial.study, trial: trial.key, attempt: attempt.number, rank: state.rank })
    });
    let device =
        state.slot.as_ref().and_then(|slot| slot.device.as_ref()).and_then(|device| match device.kind() {
            Kind::Cuda => Some(Device::Cuda(device.index)),
            Kind::Cpu => Some(Device::Cpu),
            Kind::Unspecified => None,
        });
    Slot { index: state.slot.map_or(0, |slot| slot.index), device, held, usage: None }
}
