//! How much room workers have, counted in what ranks are placed on, and an index of it.
//!
//! Slots of one CUDA device share it. A trial of one rank may share; the ranks of one gang may not, since NCCL refuses two
//! ranks on one device. So a gang counts devices where a single rank counts slots, and what is idle is taken before what is
//! shared.

use std::collections::{BTreeMap, BTreeSet};

use mtinet_domain::WorkerId;
use mtinet_domain::trial::Device;

use crate::pool::{DeviceKind, SlotState};

/// What ranks are placed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A share of CPU cores.
    CpuSlot,
    /// A slot of a CUDA device, which others may share: for a single rank.
    CudaSlot,
    /// A CUDA device with a free slot: for a rank of a gang.
    CudaDevice,
    /// A CUDA device that nothing runs on.
    IdleCudaDevice,
}

/// How many kinds of units there are.
const UNITS: usize = 4;

impl Unit {
    /// What each of `ranks` ranks that start together is placed on.
    pub fn of(kind: DeviceKind, ranks: u32) -> Self {
        match (kind, ranks) {
            (DeviceKind::Cpu, _) => Self::CpuSlot,
            (DeviceKind::Cuda, ..2) => Self::CudaSlot,
            (DeviceKind::Cuda, 2..) => Self::CudaDevice,
        }
    }
}

/// Units of one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    free: [u32; UNITS],
    total: [u32; UNITS],
}

impl Room {
    /// The room in a worker's slots.
    pub fn in_slots<'a>(slots: impl Iterator<Item = &'a SlotState>) -> Self {
        let mut room = Self::default();
        // Per device whether it has a free slot, and whether it has a taken one.
        let mut devices: BTreeMap<u32, (bool, bool)> = BTreeMap::new();
        for slot in slots {
            let unit = match slot.device {
                Device::Cpu => Unit::CpuSlot,
                Device::Cuda(index) => {
                    let (free, taken) = devices.entry(index).or_default();
                    *free |= slot.held.is_none();
                    *taken |= slot.held.is_some();
                    Unit::CudaSlot
                }
            };
            room.count(unit, slot.held.is_none());
        }
        for (free, taken) in devices.into_values() {
            room.count(Unit::CudaDevice, free);
            room.count(Unit::IdleCudaDevice, !taken);
        }
        room
    }

    /// The same, where nothing is free now.
    pub fn full(self) -> Self {
        Self { free: [0; UNITS], ..self }
    }

    /// Units that are free.
    pub fn free(&self, unit: Unit) -> u32 {
        self.free[unit as usize]
    }

    /// All units.
    pub fn total(&self, unit: Unit) -> u32 {
        self.total[unit as usize]
    }

    fn count(&mut self, unit: Unit, free: bool) {
        self.free[unit as usize] += u32::from(free);
        self.total[unit as usize] += 1;
    }
}

/// The room of all workers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RoomIndex {
    room: Room,
    /// Per unit, the workers that have free ones, by how many.
    by_free: [BTreeSet<(u32, WorkerId)>; UNITS],
}

impl RoomIndex {
    /// A worker has this room.
    pub fn add(&mut self, id: &WorkerId, room: Room) {
        for unit in 0..UNITS {
            self.room.total[unit] += room.total[unit];
            if room.free[unit] > 0 {
                self.room.free[unit] += room.free[unit];
                self.by_free[unit].insert((room.free[unit], id.clone()));
            }
        }
    }

    /// It has it no more.
    pub fn remove(&mut self, id: &WorkerId, room: Room) {
        for unit in 0..UNITS {
            self.room.total[unit] -= room.total[unit];
            if room.free[unit] > 0 {
                self.room.free[unit] -= room.free[unit];
                self.by_free[unit].remove(&(room.free[unit], id.clone()));
            }
        }
    }

    /// The room of all of them.
    pub fn room(&self) -> &Room {
        &self.room
    }

    /// The workers with free units, by how many.
    pub fn by_free(&self, unit: Unit) -> &BTreeSet<(u32, WorkerId)> {
        &self.by_free[unit as usize]
    }
}
