//! How studies, trials, workers and slots stand, counted at a scrape.

use std::collections::BTreeMap;

use mtinet_core::{Core, Link};
use mtinet_domain::trial::Device;
use mtinet_runtime::metrics::{Family, Gauge, Registry};

use super::Label;

const STUDIES: [&str; 6] = ["running", "paused", "cancelling", "complete", "incomplete", "cancelled"];
const TRIALS: [&str; 6] = ["waiting", "running", "stopping", "done", "failed", "cancelled"];
const WORKERS: [&str; 3] = ["ready", "away", "lost"];
const DEVICES: [&str; 2] = ["cpu", "cuda"];

/// What was counted.
#[derive(Debug, Default)]
pub struct Seen {
    studies: BTreeMap<&'static str, i64>,
    trials: BTreeMap<&'static str, i64>,
    workers: BTreeMap<&'static str, i64>,
    drained: i64,
    set_aside: i64,
    /// Of workers that are not lost.
    slots: BTreeMap<&'static str, i64>,
    busy: BTreeMap<&'static str, i64>,
}

impl Seen {
    /// Counts.
    pub fn of(core: &Core) -> Self {
        let mut seen = Self::default();
        for study in core.studies() {
            *seen.studies.entry(study.status()).or_default() += 1;
            for (_, trial) in study.trials() {
                *seen.trials.entry(trial.status().word()).or_default() += 1;
            }
        }
        for (_, worker) in core.workers() {
            let status = match worker.link {
                Link::Ready => "ready",
                Link::Away => "away",
                Link::Lost => "lost",
            };
            *seen.workers.entry(status).or_default() += 1;
            if worker.link == Link::Lost {
                continue;
            }
            seen.drained += i64::from(worker.drained);
            seen.set_aside += i64::from(worker.set_aside.is_some());
            for slot in worker.slots.values() {
                let device = match slot.device {
                    Device::Cpu => "cpu",
                    Device::Cuda(_) => "cuda",
                };
                *seen.slots.entry(device).or_default() += 1;
                *seen.busy.entry(device).or_default() += i64::from(slot.held.is_some());
            }
        }
        seen
    }
}

/// The gauges.
#[derive(Debug)]
pub struct StateGauges {
    studies: Family<Label, Gauge>,
    trials: Family<Label, Gauge>,
    workers: Family<Label, Gauge>,
    drained: Gauge,
    set_aside: Gauge,
    slots: Family<Label, Gauge>,
    busy: Family<Label, Gauge>,
}

impl StateGauges {
    /// Registers them, all at 0.
    pub fn register(registry: &mut Registry) -> Self {
        let family = |registry: &mut Registry, name: &str, help: &str| {
            let family = Family::<Label, Gauge>::default();
            registry.register(name, help, family.clone());
            family
        };
        let gauges = Self {
            studies: family(registry, "studies", "Studies by status"),
            trials: family(registry, "trials", "Trials of all studies by status"),
            workers: family(
                registry,
                "workers",
                "Worker agents by status; lost ones are listed for ten minutes",
            ),
            drained: super::gauge(registry, "workers_drained", "Workers that a person drained"),
            set_aside: super::gauge(
                registry,
                "workers_set_aside",
                "Workers that get no trials because attempts kept failing on them",
            ),
            slots: family(registry, "slots", "Slots of the workers that are not lost, by kind of device"),
            busy: family(registry, "slots_busy", "Slots that hold a rank, by kind of device"),
        };
        gauges.set(&Seen::default());
        gauges
    }

    /// Shows what was counted, and 0 where there was nothing.
    pub fn set(&self, seen: &Seen) {
        let show =
            |family: &Family<Label, Gauge>, label, values: &[&'static str], counts: &BTreeMap<_, i64>| {
                for &value in values {
                    family.get_or_create(&[(label, value)]).set(counts.get(value).copied().unwrap_or(0));
                }
            };
        show(&self.studies, "status", &STUDIES, &seen.studies);
        show(&self.trials, "status", &TRIALS, &seen.trials);
        show(&self.workers, "status", &WORKERS, &seen.workers);
        show(&self.slots, "device", &DEVICES, &seen.slots);
        show(&self.busy, "device", &DEVICES, &seen.busy);
        self.drained.set(seen.drained);
        self.set_aside.set(seen.set_aside);
    }
}

#[cfg(test)]
mod tests {
    use mtinet_core::{CoreConfig, Hello, Request, Slot};
    use mtinet_domain::trial::TrialStatus::{Cancelled, Done, Failed, Running, Stopping, Waiting};
    use mtinet_domain::{SlotIndex, WorkerId};

    use super::*;

    fn hello(name: &str) -> Hello {
        let slot = |index| Slot { index: SlotIndex(index), device: Device::Cpu };
        let slots = vec![slot(0), slot(1)];
        Hello { worker: WorkerId(name.into()), name: name.into(), slots, running: Vec::new() }
    }

    #[test]
    fn slots_of_lost_workers_are_gone_and_drained_workers_are_counted() {
        let mut core = Core::new(CoreConfig::default());
        for name in ["a", "b"] {
            let _ = core.on_worker_connected(1000, &hello(name));
        }
        let _ = core.on_request(1000, &Request::Drain("b".into()), None).unwrap();
        let seen = Seen::of(&core);
        assert_eq!((seen.workers["ready"], seen.drained, seen.set_aside), (2, 1, 0));
        assert_eq!((seen.slots["cpu"], seen.busy["cpu"]), (4, 0));
        let _ = core.on_heartbeat(3500, &WorkerId("a".into()));
        let _ = core.on_tick(4500);
        let seen = Seen::of(&core);
        assert_eq!((seen.workers["ready"], seen.workers["lost"]), (1, 1));
        assert_eq!((seen.slots["cpu"], seen.drained), (2, 0), "who is lost is no use, drained or not");
    }

    #[test]
    fn every_status_of_a_trial_is_shown() {
        for status in [Waiting, Running, Stopping, Done, Failed, Cancelled] {
            assert!(TRIALS.contains(&status.word()), "{status:?} is counted and not shown");
        }
    }
}
