//! The fleet: workers, their slots, and an index of what is free.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mtinet_domain::trial::{Device, Placement};
use mtinet_domain::{AttemptId, Rank, SlotIndex, WorkerId};

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

    /// Slots that may be given trials: all of them, or those that are free now.
    fn offers(&self, kind: DeviceKind, only_free: bool, width: Width) -> u32 {
        let ready = self.link == Link::Ready || !only_free;
        if self.is_usable() && ready { self.count(kind, only_free, width) } else { 0 }
    }

    fn count(&self, kind: DeviceKind, only_free: bool, width: Width) -> u32 {
        let counts =
            |slot: &&SlotState| DeviceKind::of(slot.device) == kind && !(only_free && slot.held.is_some());
        let slots = self.slots.values().filter(counts);
        match (kind, width) {
            (DeviceKind::Cuda, Width::Gang) => {
                slots.map(|slot| slot.device).collect::<BTreeSet<_>>().len() as u32
            }
            _ => slots.count() as u32,
        }
    }
}

/// What a slot is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// A rank alone: any slot does.
    Alone,
    /// Ranks of a gang: NCCL refuses two of them on one CUDA device, so slots that share a device count once.
    Gang,
}

impl Width {
    /// What so many ranks of one attempt want.
    pub(crate) fn of(ranks: u32) -> Self {
        if ranks > 1 { Self::Gang } else { Self::Alone }
    }
}

/// All workers, indexed by how many slots of a kind are free.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pool {
    workers: BTreeMap<WorkerId, Worker>,
    tally: Tally,
    kinds: BTreeMap<DeviceKind, Kind>,
}

/// How many workers are not lost, and how many of those get no trials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub known: u32,
    pub usable: u32,
    pub drained: u32,
    pub set_aside: u32,
}

/// The slots of one kind, for ranks alone and for those of gangs.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kind {
    alone: Offers,
    gang: Offers,
}

/// What workers offer together.
#[derive(Clone, Debug, Default, PartialEq)]
struct Offers {
    /// Ready workers that may be given trials and have free slots, by how many.
    by_free: BTreeSet<(u32, WorkerId)>,
    /// Free slots of these workers.
    free: u32,
    /// Slots of all workers that may be given trials, those that are away included.
    total: u32,
}

pub(crate) const KINDS: [DeviceKind; 2] = [DeviceKind::Cpu, DeviceKind::Cuda];

impl Pool {
    pub(crate) fn workers(&self) -> &BTreeMap<WorkerId, Worker> {
        &self.workers
    }

    pub(crate) fn get(&self, id: &WorkerId) -> Option<&Worker> {
        self.workers.get(id)
    }

    /// Free slots of a kind on ready workers that may be given trials.
    pub(crate) fn free(&self, kind: DeviceKind, width: Width) -> u32 {
        self.kinds.get(&kind).map_or(0, |kind| kind.of(width).free)
    }

    /// Slots of a kind on workers that may be given trials, when they are there.
    pub(crate) fn total(&self, kind: DeviceKind, width: Width) -> u32 {
        self.kinds.get(&kind).map_or(0, |kind| kind.of(width).total)
    }

    /// How many workers there are.
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }

    /// Free slots of a kind on workers of a choice.
    pub(crate) fn free_among(&self, kind: DeviceKind, width: Width, choice: Choice<'_>) -> u32 {
        choice.count(self.free(kind, width), |id| self.offered(id, kind, true, width))
    }

    /// Free slots for a gang if the ranks at these places gave theirs back.
    pub(crate) fn free_with<'a>(&self, kind: DeviceKind, places: impl Iterator<Item = &'a Placement>) -> u32 {
        let counted = |place: &Placement| {
            let worker = self.workers.get(&place.worker);
            let mut slots = worker.into_iter().flat_map(|worker| worker.slots.values());
            let shared = slots.any(|slot| slot.held.is_none() && slot.device == place.device);
            kind == DeviceKind::Cuda
                && shared
                && worker.is_some_and(|worker| worker.offers(kind, true, Width::Gang) > 0)
        };
        self.free(kind, Width::Gang) + places.filter(|place| !counted(place)).count() as u32
    }

    /// Slots of a kind on workers of a choice, when they are there.
    pub(crate) fn total_among(&self, kind: DeviceKind, width: Width, choice: Choice<'_>) -> u32 {
        choice.count(self.total(kind, width), |id| self.offered(id, kind, false, width))
    }

    fn offered(&self, id: &WorkerId, kind: DeviceKind, only_free: bool, width: Width) -> u32 {
        self.workers.get(id).map_or(0, |worker| worker.offers(kind, only_free, width))
    }

    /// Whether no other worker that may be given trials has slots of a kind that this one has.
    pub(crate) fn is_last_of_a_kind(&self, id: &WorkerId) -> bool {
        KINDS.iter().any(|kind| {
            let own = self.offered(id, *kind, false, Width::Alone);
            own > 0 && own == self.total(*kind, Width::Alone)
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
        for kind in KINDS {
            self.kinds.entry(kind).or_default().remove(id, worker, kind);
        }
        self.tally.remove(worker);
        let result = change(worker);
        for kind in KINDS {
            self.kinds.entry(kind).or_default().add(id, worker, kind);
        }
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

    /// Places of `count` free slots of a kind, on as few workers as possible: the fullest worker that can take all,
    /// else the emptiest ones first. `None` where fewer are free on workers of the choice.
    pub(crate) fn place(&self, kind: DeviceKind, count: u32, choice: Choice<'_>) -> Option<Vec<Placement>> {
        let width = Width::of(count);
        if self.free_among(kind, width, choice) < count {
            return None;
        }
        let index = self.kinds.get(&kind)?.of(width);
        let mut chosen: Vec<(&WorkerId, u32)> = Vec::new();
        let mut missing = count;
        let mut emptiest = index.by_free.iter().rev().filter(|(_, id)| choice.admits(id));
        while missing > 0 {
            let mut snug = index.by_free.range((missing, WorkerId(String::new()))..);
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
            let fits = |slot: &SlotState| slot.held.is_none() && DeviceKind::of(slot.device) == kind;
            let mut devices = BTreeSet::new();
            let mut apart = |slot: &SlotState| {
                width == Width::Alone || kind == DeviceKind::Cpu || devices.insert(slot.device)
            };
            let slots = self.workers.get(id)?.slots.iter().filter(|(_, slot)| fits(slot));
            for (index, slot) in slots.filter(|(_, slot)| apart(slot)).take(take as usize) {
                let rank = Rank(placements.len() as u32);
                placements.push(Placement { rank, worker: id.clone(), slot: *index, device: slot.device });
            }
        }
        Some(placements)
    }

    /// Whether the index says what the workers say.
    pub(crate) fn index_is_right(&self) -> bool {
        let mut kinds: BTreeMap<DeviceKind, Kind> = KINDS.map(|kind| (kind, Kind::default())).into();
        for (id, worker) in &self.workers {
            for (kind, index) in &mut kinds {
                index.add(id, worker, *kind);
            }
        }
        let mut tally = Tally::default();
        self.workers.values().for_each(|worker| tally.add(worker));
        tally == self.tally
            && KINDS.iter().all(|kind| kinds[kind] == self.kinds.get(kind).cloned().unwrap_or_default())
    }
}

impl Kind {
    fn of(&self, width: Width) -> &Offers {
        match width {
            Width::Alone => &self.alone,
            Width::Gang => &self.gang,
        }
    }

    fn add(&mut self, id: &WorkerId, worker: &Worker, kind: DeviceKind) {
        self.alone.add(id, worker, kind, Width::Alone);
        self.gang.add(id, worker, kind, Width::Gang);
    }

    fn remove(&mut self, id: &WorkerId, worker: &Worker, kind: DeviceKind) {
        self.alone.remove(id, worker, kind, Width::Alone);
        self.gang.remove(id, worker, kind, Width::Gang);
    }
}

impl Offers {
    fn add(&mut self, id: &WorkerId, worker: &Worker, kind: DeviceKind, width: Width) {
        self.total += worker.offers(kind, false, width);
        let free = worker.offers(kind, true, width);
        if free > 0 {
            self.free += free;
            self.by_free.insert((free, id.clone()));
        }
    }

    fn remove(&mut self, id: &WorkerId, worker: &Worker, kind: DeviceKind, width: Width) {
        self.total -= worker.offers(kind, false, width);
        let free = worker.offers(kind, true, width);
        if free > 0 {
            self.free -= free;
            self.by_free.remove(&(free, id.clone()));
        }
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
