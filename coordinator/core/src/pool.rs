//! The fleet: workers, their slots, and an index of what is free.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mtinet_domain::trial::{Device, Placement};
use mtinet_domain::{AttemptId, Rank, SlotIndex, WorkerId};

use crate::room::{Room, RoomIndex, Unit};

/// What a slot runs on, without its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceKind {
    /// A share of CPU cores.
    Cpu,
    /// A CUDA device.
    Cuda,
}

impl DeviceKind {
    /// The kind of a device.
    pub fn of(device: Device) -> Self {
        match device {
            Device::Cpu => Self::Cpu,
            Device::Cuda(_) => Self::Cuda,
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// One agent.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    /// Host name, for people.
    pub name: String,
    /// Whether it can be talked to.
    pub link: Link,
    /// When it was last heard, milliseconds since the Unix epoch.
    pub heard_ms: u64,
    /// It is taken for lost when it is silent until then.
    pub deadline_ms: u64,
    /// Its devices.
    pub slots: BTreeMap<SlotIndex, SlotState>,
    /// Highest number among its reports so far.
    pub seen_seq: u64,
    /// A person asked that it gets no trials.
    pub drained: bool,
    /// Why it gets no trials, where attempts kept failing on it.
    pub set_aside: Option<String>,
}

/// Whether a worker can be talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It has a session.
    Ready,
    /// Its session is down but its lease is not over.
    Away,
    /// Its lease is over; nothing is expected of it.
    Lost,
}

/// One device of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// What is behind it.
    pub device: Device,
    /// The process that occupies it: of a live attempt, or left over from one that ended without this worker.
    pub held: Option<Held>,
}

/// The process in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// Its attempt.
    pub attempt: AttemptId,
    /// Its rank.
    pub rank: Rank,
}

impl Worker {
    fn new() -> Self {
        Self {
            name: String::new(),
            link: Link::Away,
            heard_ms: 0,
            deadline_ms: u64::MAX,
            slots: BTreeMap::new(),
            seen_seq: 0,
            drained: false,
            set_aside: None,
        }
    }

    /// Whether it may be given trials when it is there.
    pub fn is_usable(&self) -> bool {
        self.link != Link::Lost && !self.drained && self.set_aside.is_none()
    }

    /// What may be given trials on it: nothing of it now where it is away.
    fn room(&self) -> Room {
        match (self.is_usable(), self.link) {
            (false, _) => Room::default(),
            (true, Link::Ready) => Room::in_slots(self.slots.values()),
            (true, _) => Room::in_slots(self.slots.values()).full(),
        }
    }

    /// Up to `count` free slots, one of each unit: of CUDA devices those that the fewest ranks share.
    fn seats(&self, unit: Unit, count: usize) -> Vec<(SlotIndex, Device)> {
        let kind = if unit == Unit::CpuSlot { DeviceKind::Cpu } else { DeviceKind::Cuda };
        let free =
            self.slots.iter().filter(|(_, slot)| slot.held.is_none() && DeviceKind::of(slot.device) == kind);
        let free = free.map(|(index, slot)| (*index, slot.device));
        if kind == DeviceKind::Cpu {
            return free.take(count).collect();
        }
        let mut sharers: BTreeMap<Device, u32> = BTreeMap::new();
        for slot in self.slots.values().filter(|slot| slot.held.is_some()) {
            *sharers.entry(slot.device).or_default() += 1;
        }
        let mut seats: Vec<_> = free.collect();
        seats.sort_by_key(|(index, device)| (sharers.get(device).copied(), *index));
        let mut taken = BTreeSet::new();
        seats.retain(|(_, device)| unit == Unit::CudaSlot || taken.insert(*device));
        seats.truncate(count);
        seats
    }
}

/// All workers, indexed by how much room they have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    workers: BTreeMap<WorkerId, Worker>,
    tally: Tally,
    index: RoomIndex,
}

/// How many workers are not lost, and how many of those get no trials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub known: u32,
    pub usable: u32,
    pub drained: u32,
    pub set_aside: u32,
}

pub(crate) const KINDS: [DeviceKind; 2] = [DeviceKind::Cpu, DeviceKind::Cuda];

impl Pool {
    pub(crate) fn workers(&self) -> &BTreeMap<WorkerId, Worker> {
        &self.workers
    }

    pub(crate) fn get(&self, id: &WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// Free units on ready workers that may be given trials.
    pub(crate) fn free(&self, unit: Unit) -> u32 {
        self.index.room().free(unit)
    }

    /// Units on workers that may be given trials, when they are there.
    pub(crate) fn total(&self, unit: Unit) -> u32 {
        self.index.room().total(unit)
    }

    /// How many workers there are.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Free units on workers of a choice.
    pub(crate) fn free_among(&self, unit: Unit, choice: Choice<'_>) -> u32 {
        choice.count(self.free(unit), |id| self.room_of(id).free(unit))
    }

    /// Units on workers of a choice, when they are there.
    pub(crate) fn total_among(&self, unit: Unit, choice: Choice<'_>) -> u32 {
        choice.count(self.total(unit), |id| self.room_of(id).total(unit))
    }

    fn room_of(&self, id: &WorkerId) -> Room {
        self.workers.get(id).map(Worker::room).unwrap_or_default()
    }

    /// Whether no other worker that may be given trials has slots of a kind that this one has.
    pub(crate) fn is_last_of_a_kind(&self, id: &WorkerId) -> bool {
        KINDS.iter().any(|kind| {
            let unit = Unit::of(*kind, 1);
            let own = self.room_of(id).total(unit);
            own > 0 && own == self.total(unit)
        })
    }

    /// Changes a worker (a new one where it is unknown) and keeps the index right.
    pub(crate) fn change<T>(&mut self, id: &WorkerId, change: impl FnOnce(&mut Worker) -> T) -> T {
        let tally = &mut self.tally;
        let worker = self.workers.entry(id.clone()).or_insert_with(|| {
            let worker = Worker::new();
            tally.add(&worker);
            worker
        });
        self.index.remove(id, worker.room());
        self.tally.remove(worker);
        let result = change(worker);
        self.index.add(id, worker.room());
        self.tally.add(worker);
        result
    }

    /// Changes what the index does not depend on: times and numbers.
    pub(crate) fn touch(&mut self, id: &WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(id)
    }

    pub(crate) fn touch_all(&mut self) -> impl Iterator<Item = (&WorkerId, &mut Worker)> {
        self.workers.iter_mut()
    }

    pub(crate) fn forget(&mut self, id: &WorkerId) {
        self.change(id, |worker| {
            worker.slots.clear();
            worker.link = Link::Lost;
        });
        self.workers.remove(id);
    }

    /// Puts a rank into its slot. In a replay the worker and the slot become known by this.
    pub(crate) fn hold(&mut self, placement: &Placement, attempt: AttemptId) {
        let held = Some(Held { attempt, rank: placement.rank });
        self.change(&placement.worker, |worker| {
            worker.slots.insert(placement.slot, SlotState { device: placement.device, held });
        });
    }

    /// Frees the slot where this very rank still holds it; whether it did.
    pub(crate) fn release(&mut self, id: &WorkerId, slot: SlotIndex, attempt: AttemptId, rank: Rank) -> bool {
        if self.workers.get(id).and_then(|worker| worker.slots.get(&slot)?.held)
            != Some(Held { attempt, rank })
        {
            return false;
        }
        self.change(id, |worker| {
            if let Some(slot) = worker.slots.get_mut(&slot) {
                slot.held = None;
            }
        });
        true
    }

    /// The slot that a rank holds on a worker.
    pub(crate) fn slot_of(&self, id: &WorkerId, attempt: AttemptId, rank: Rank) -> Option<SlotIndex> {
        let slots = &self.workers.get(id)?.slots;
        slots.iter().find(|(_, slot)| slot.held == Some(Held { attempt, rank })).map(|(index, _)| *index)
    }

    /// Places of `count` ranks that start together, on idle devices where there are enough, and on as few workers as possible:
    /// the fullest worker that can take all, else the emptiest ones first. `None` where less is free on workers of the
    /// choice.
    pub(crate) fn place(&self, kind: DeviceKind, count: u32, choice: Choice<'_>) -> Option<Vec<Placement>> {
        let idle = (kind == DeviceKind::Cuda).then_some(Unit::IdleCudaDevice);
        idle.and_then(|idle| self.place_on(idle, count, choice))
            .or_else(|| self.place_on(Unit::of(kind, count), count, choice))
    }

    /// As [`Pool::place`], on this unit alone.
    pub(crate) fn place_on(&self, unit: Unit, count: u32, choice: Choice<'_>) -> Option<Vec<Placement>> {
        if self.free_among(unit, choice) < count {
            return None;
        }
        let by_free = self.index.by_free(unit);
        let mut chosen: Vec<(&WorkerId, u32)> = Vec::new();
        let mut missing = count;
        let mut emptiest = by_free.iter().rev().filter(|(_, id)| choice.admits(id));
        while missing > 0 {
            let mut snug = by_free.range((missing, WorkerId(String::new()))..);
            let unused = snug.find(|(_, id)| choice.admits(id) && chosen.iter().all(|(used, _)| *used != id));
            let (free, id) = match unused {
                Some(entry) => entry,
                None => emptiest.next()?,
            };
            let take = missing.min(*free);
            chosen.push((id, take));
            missing -= take;
        }
        let mut placements = Vec::with_capacity(count as usize);
        for (id, take) in chosen {
            for (slot, device) in self.workers.get(id)?.seats(unit, take as usize) {
                let rank = Rank(placements.len() as u32);
                placements.push(Placement { rank, worker: id.clone(), slot, device });
            }
        }
        (placements.len() == count as usize).then_some(placements)
    }

    /// How many ranks an attempt could have that gave its own places back.
    pub(crate) fn room_beside(&self, kind: DeviceKind, own: &[Placement]) -> u32 {
        let unit = Unit::of(kind, 2);
        // An own device that has another free slot is among the free ones already.
        let counted = |own: &Placement| {
            let worker = self.workers.get(&own.worker).filter(|_| unit == Unit::CudaDevice);
            let mut slots = worker.into_iter().flat_map(|worker| worker.slots.values());
            slots.any(|slot| slot.device == own.device && slot.held.is_none())
        };
        self.free(unit) + own.iter().filter(|own| !counted(own)).count() as u32
    }

    /// Whether the index says what the workers say.
    pub(crate) fn index_is_right(&self) -> bool {
        let (mut index, mut tally) = (RoomIndex::default(), Tally::default());
        for (id, worker) in &self.workers {
            index.add(id, worker.room());
            tally.add(worker);
        }
        (tally, index) == (self.tally, self.index.clone())
    }
}

impl Tally {
    fn add(&mut self, worker: &Worker) {
        let here = worker.link != Link::Lost;
        self.known += u32::from(here);
        self.usable += u32::from(worker.is_usable());
        self.drained += u32::from(here && worker.drained);
        self.set_aside += u32::from(here && !worker.drained && worker.set_aside.is_some());
    }

    fn remove(&mut self, worker: &Worker) {
        let here = worker.link != Link::Lost;
        self.known -= u32::from(here);
        self.usable -= u32::from(worker.is_usable());
        self.drained -= u32::from(here && worker.drained);
        self.set_aside -= u32::from(here && !worker.drained && worker.set_aside.is_some());
    }
}

/// Which workers may be taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<'a> {
    /// These alone, where given.
    pub only: Option<&'a BTreeSet<WorkerId>>,
    /// Not these.
    pub except: &'a BTreeSet<WorkerId>,
}

impl Choice<'_> {
    fn admits(&self, id: &WorkerId) -> bool {
        self.only.is_none_or(|only| only.contains(id)) && !self.except.contains(id)
    }

    /// The part of `all` that is on admitted workers, given what one worker has.
    fn count(&self, all: u32, of: impl Fn(&WorkerId) -> u32) -> u32 {
        match self.only {
            Some(only) => only.iter().filter(|id| !self.except.contains(*id)).map(of).sum(),
            None => all.saturating_sub(self.except.iter().map(of).sum()),
        }
    }
}
