//! What the cases share: a cluster whose coordinator and workers each have a host, and a study on it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mtinet_domain::StudyId;
use mtinet_domain::event::{Event, Recorded};
use nix::unistd::Pid;

use super::{Report, Skipped};
use crate::cluster::{Cluster, PATIENCE};
use crate::hosts::{Host, Hosts, Place};
use crate::phantom_dataset;
use crate::processes::{Process, children};

/// How long a worker may be silent.
pub const LEASE: Duration = Duration::from_secs(3);

/// A cluster in which every program has a host.
pub struct Scene {
    /// The programs; first, so that they end before their hosts go.
    pub cluster: Cluster,
    /// The machines.
    pub hosts: Hosts,
}

impl Scene {
    /// A coordinator alone.
    pub fn new() -> Self {
        Self::with(Place::on)
    }

    /// As [`Scene::new`], with the coordinator's place changed.
    pub fn with(place: impl FnOnce(&Arc<Host>) -> Place) -> Self {
        let hosts = Hosts::find();
        let head = hosts.host("head");
        Self { cluster: Cluster::start_at(place(&head)), hosts }
    }

    /// As [`Scene::new`], where hosts have links that can be cut.
    pub fn linked() -> Result<Self, Skipped> {
        let scene = Self::new();
        match scene.hosts.without_links() {
            None => Ok(scene),
            Some(reason) => Err(Skipped::Rights(reason.to_owned())),
        }
    }

    /// A worker with one slot on a host of its own.
    pub fn worker(&self, name: &str) -> Worker {
        self.worker_at(Place::on(&self.hosts.host(name)), name)
    }

    /// A worker with one slot at this place.
    pub fn worker_at(&self, place: Place, name: &str) -> Worker {
        let process = self.cluster.worker_at(&place, name, 1, phantom_dataset());
        Worker { name: name.to_owned(), place, process }
    }

    /// Waits until a worker is listed with this status.
    pub fn wait_for_worker(&self, name: &str, status: &str) -> Duration {
        self.wait(&format!("worker {name} to be {status}"), || {
            self.cluster.workers().get(name).is_some_and(|worker| worker.status == status)
        })
    }

    /// Waits until something is so, and tells how long that took.
    pub fn wait(&self, what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
        let start = Instant::now();
        while !is_so() {
            assert!(
                start.elapsed() < PATIENCE,
                "waited in vain for {what}: {}",
                self.cluster.log("coordinator")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        start.elapsed()
    }

    /// Waits for progress beyond what is recorded already, and tells how long that took.
    pub fn wait_for_progress(&self, study: StudyId) -> Duration {
        let before = self.cluster.events(study).len();
        self.wait("progress", || {
            let events = self.cluster.events(study);
            events[before..].iter().any(|recorded| matches!(recorded.event, Event::Metrics { .. }))
        })
    }

    /// The worker, among these, that a rank of the running attempt is on.
    pub fn holder<'a>(&self, study: StudyId, rank: u32, workers: &'a mut [Worker]) -> &'a mut Worker {
        let events = self.cluster.events(study);
        let placement = events.iter().rev().find_map(|recorded| match &recorded.event {
            Event::AttemptStarted { placements, .. } => placements.get(rank as usize).cloned(),
            _ => None,
        });
        let id = placement.expect("an attempt has started").worker.0;
        let listed = self.cluster.workers();
        let name = listed.values().find(|worker| worker.worker_id == id).map(|worker| worker.name.clone());
        let name = name.expect("the worker is listed");
        workers.iter_mut().find(|worker| worker.name == name).expect("the worker is one of these")
    }
}

/// A worker of a scene.
pub struct Worker {
    /// The name that the coordinator lists.
    pub name: String,
    /// Where it runs.
    pub place: Place,
    /// Its agent.
    pub process: Process,
}

impl Worker {
    /// Its one trainer.
    pub fn trainer(&self) -> Pid {
        let trainers = children(self.process.pid());
        assert_eq!(trainers.len(), 1, "worker {} has one trainer", self.name);
        trainers[0]
    }

    /// Its host's link.
    pub fn host(&self) -> &Host {
        self.place.host.as_deref().expect("the worker has a host")
    }
}

/// When the first event of this kind after `seq` was recorded, in milliseconds since the Unix epoch.
pub fn recorded_at(events: &[Recorded], after: u64, wanted: impl Fn(&Event) -> bool) -> Option<u64> {
    let found = events.iter().find(|recorded| recorded.seq > after && wanted(&recorded.event))?;
    Some(found.time_ms)
}

/// Now, as events have it.
pub fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

/// The time from one moment to another, both in milliseconds.
pub fn between(from: u64, to: u64) -> Duration {
    Duration::from_millis(to.saturating_sub(from))
}

/// Measures how long a worker's loss took to be noticed, and the way back to training: the recorded times of the loss and
/// of the first measurement after it, against the moment of the fault.
pub fn measure_loss(report: &mut Report, events: &[Recorded], fault_ms: u64, before: u64) {
    let lost = recorded_at(events, before, |event| matches!(event, Event::RankLost { .. }));
    let lost = lost.expect("the loss is recorded");
    let seq = events.iter().find(|recorded| recorded.time_ms >= lost && recorded.seq > before);
    let again = recorded_at(events, seq.map_or(before, |recorded| recorded.seq), |event| {
        matches!(event, Event::Metrics { .. })
    });
    let again = again.expect("it went on");
    let note = "a shared machine; the clock starts with the fault, not with the last sign of life";
    report.measure("silence to worker lost", between(fault_ms, lost), LEASE, note);
    let note = "from the loss to the first step measured elsewhere, the loading of the checkpoint included";
    report.measure("worker lost to progress again", between(lost, again), Duration::from_secs(10), note);
}
