//! How the workers' machines stand: the latest word of each open session, for those who look.
//!
//! It is neither stored nor given to the scheduler. What a worker said is forgotten with the session it said it in.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mtinet_domain::WorkerId;
use mtinet_domain::usage::MachineUsage;

use super::driver::{SessionNumber, now_ms};

/// The latest of every worker. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct FleetUsage(Arc<Mutex<HashMap<WorkerId, Said>>>);

#[derive(Debug)]
struct Said {
    session: SessionNumber,
    usage: MachineUsage,
    at_ms: u64,
}

impl FleetUsage {
    /// A worker said how its machine stands.
    pub fn tell(&self, worker: &WorkerId, session: SessionNumber, usage: MachineUsage) {
        self.lock().insert(worker.clone(), Said { session, usage, at_ms: now_ms() });
    }

    /// A session is over; what another session of the same worker said stays.
    pub fn forget(&self, worker: &WorkerId, session: SessionNumber) {
        let mut fleet = self.lock();
        if fleet.get(worker).is_some_and(|said| said.session == session) {
            fleet.remove(worker);
        }
    }

    /// What a worker said last, and how many milliseconds ago.
    pub fn of(&self, worker: &WorkerId) -> Option<(MachineUsage, u64)> {
        let fleet = self.lock();
        let said = fleet.get(worker)?;
        Some((said.usage.clone(), now_ms().saturating_sub(said.at_ms)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<WorkerId, Said>> {
        // The map is whole at every panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_word_of_the_present_session_counts() {
        let (fleet, worker) = (FleetUsage::default(), WorkerId("w".into()));
        let cores = |cores| MachineUsage { cores, ..MachineUsage::default() };
        let known = || fleet.of(&worker).map(|(usage, _)| usage.cores);
        assert_eq!(known(), None);
        fleet.tell(&worker, SessionNumber(1), cores(4));
        fleet.tell(&worker, SessionNumber(2), cores(8));
        fleet.forget(&worker, SessionNumber(1));
        assert_eq!(known(), Some(8), "the former session ends late");
        fleet.forget(&worker, SessionNumber(2));
        assert_eq!(known(), None);
    }
}
