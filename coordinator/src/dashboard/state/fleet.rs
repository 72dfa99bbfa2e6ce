//! The workers, as the coordinator lists them.

use mtinet_domain::trial::Device;

/// Whether a worker can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WorkerLink {
    /// Its session is up.
    Ready,
    /// Its session is down, its lease is not over.
    Away,
    /// Given up; what ran there goes on elsewhere.
    Lost,
}

/// A worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Its id.
    pub id: String,
    /// Its name: the machine's.
    pub name: String,
    /// Whether it can be reached.
    pub link: WorkerLink,
    /// When it was last heard of, milliseconds since the Unix epoch on this machine's clock.
    pub heard_ms: u64,
    /// What can hold a rank.
    pub slots: Vec<Slot>,
    /// A person asked that it gets no trials.
    pub drained: bool,
    /// Why it gets no trials, where attempts kept failing on it.
    pub set_aside: Option<String>,
    /// How its machine stands, where it says so.
    pub usage: Option<MachineUse>,
}

/// A device that can hold a rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    /// Its number on the worker.
    pub index: u32,
    /// What is behind it; none where a newer release names a device that this one does not know.
    pub device: Option<Device>,
    /// What it holds.
    pub held: Option<SlotHold>,
    /// How the device stands, where it can be measured by itself.
    pub usage: Option<SlotUse>,
}

/// A rank in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotHold {
    /// The study's number.
    pub study: u64,
    /// ARM/FOLD/SEED.
    pub trial: String,
    /// The how-manieth attempt.
    pub attempt: u32,
    /// The rank.
    pub rank: u32,
}

/// How a machine stands; what could not be measured is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MachineUse {
    /// Bytes in use, and all.
    pub memory: Option<(u64, u64)>,
    /// Of all cores, 0 to 100.
    pub cpu_percent: Option<f64>,
}

/// How a device stands; what could not be measured is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SlotUse {
    /// Bytes in use, and all.
    pub memory: Option<(u64, u64)>,
    /// 0 to 100.
    pub percent: Option<f64>,
    /// Degrees Celsius.
    pub celsius: Option<f64>,
}

impl Worker {
    /// Slots that hold a rank.
    pub fn busy(&self) -> usize {
        self.slots.iter().filter(|slot| slot.held.is_some()).count()
    }

    /// Whether it gets trials.
    pub fn is_usable(&self) -> bool {
        self.link == WorkerLink::Ready && !self.drained && self.set_aside.is_none()
    }

    /// Its devices in a few characters: `4 x cuda, 1 x cpu`.
    pub fn devices(&self) -> String {
        let cuda = self.slots.iter().filter(|slot| matches!(slot.device, Some(Device::Cuda(_)))).count();
        let cpu = self.slots.iter().filter(|slot| slot.device == Some(Device::Cpu)).count();
        let words = [(cuda, "cuda"), (cpu, "cpu"), (self.slots.len() - cuda - cpu, "?")];
        let words: Vec<String> =
            words.into_iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{n} {kind}")).collect();
        if words.is_empty() { "no slots".to_owned() } else { words.join(", ") }
    }

    /// The machine's values, where its slots are shares of its cores: of a CUDA device they say nothing.
    fn of_machine(&self) -> Option<MachineUse> {
        let is_cuda = |slot: &Slot| matches!(slot.device, Some(Device::Cuda(_)));
        self.usage.filter(|_| !self.slots.iter().any(is_cuda))
    }

    /// The mean use of its devices in percent, or that of its cores.
    pub fn load(&self) -> Option<f64> {
        let known: Vec<f64> = self.slots.iter().filter_map(|slot| slot.usage.as_ref()?.percent).collect();
        if known.is_empty() {
            return self.of_machine()?.cpu_percent;
        }
        Some(known.iter().sum::<f64>() / known.len() as f64)
    }

    /// Memory in use and all, in bytes: of its devices, else of the machine.
    pub fn memory(&self) -> Option<(u64, u64)> {
        let known: Vec<(u64, u64)> =
            self.slots.iter().filter_map(|slot| slot.usage.as_ref()?.memory).collect();
        if known.is_empty() {
            return self.of_machine()?.memory;
        }
        Some(known.into_iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
    }

    /// The temperature of its hottest device, in degrees Celsius.
    pub fn hottest(&self) -> Option<f64> {
        let known = self.slots.iter().filter_map(|slot| slot.usage.as_ref()?.celsius);
        known.max_by(f64::total_cmp)
    }
}

/// Workers and slots in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Workers whose session is up.
    pub ready: usize,
    /// Workers whose session is down.
    pub away: usize,
    /// Workers that are given up.
    pub lost: usize,
    /// Of those that are not lost: drained by a person.
    pub drained: usize,
    /// Of those that are not lost: set aside.
    pub set_aside: usize,
    /// Slots that hold a rank.
    pub busy: usize,
    /// Slots of workers that are not lost.
    pub slots: usize,
}

/// Counts workers.
pub fn tally(workers: &[Worker]) -> Tally {
    let mut tally = Tally::default();
    for worker in workers {
        match worker.link {
            WorkerLink::Ready => tally.ready += 1,
            WorkerLink::Away => tally.away += 1,
            WorkerLink::Lost => {
                tally.lost += 1;
                continue;
            }
        }
        tally.drained += usize::from(worker.drained);
        tally.set_aside += usize::from(worker.set_aside.is_some());
        tally.busy += worker.busy();
        tally.slots += worker.slots.len();
    }
    tally
}
