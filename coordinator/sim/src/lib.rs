//! A deterministic simulator of a fleet around `mtinet-core`.
//!
//! Virtual time and chance come from a seed, so a failing seed fails again, step by step: `mtinet-sim --seed N --trace`.
//! Simulated agents behave as `mtinet-worker` does and the coordinator's process as its driver does, down to the places
//! where it can be killed: before anything is stored, between the fleet's log and the studies', before anything is
//! said, and in the middle of saying it. Machines die and start again, stand still for longer or shorter than a lease,
//! lose their connections at any byte, leave, and repeat what they said; trials fail, crash at a step, hang, never
//! start, fail wherever they run; people pause, resume, cancel, retry, drain, undrain, readmit and submit meanwhile.
//! Then faults stop, and everything must come to its end.
//!
//! # What is guaranteed, and checked after every round of the coordinator
//!
//! - **One attempt at a time.** When a rank starts, no rank of another attempt of its trial lives, except on workers
//!   that the log has given up: a worker cut off by the network trains on, or begins late with what it was told, until it
//!   hears, and nothing that it says about that attempt is taken in.
//! - **A slot holds one rank**, as its agent sees it. A gang starts whole, in distinct slots of the right device.
//! - **What is recorded was said**, by that worker, about that attempt, and is recorded once. What is acknowledged is
//!   recorded or about something that is over.
//! - **The live state is what the log gives**: a second core that sees recorded events alone stays equal to it, and so
//!   is a replay without measurements at each restart.
//! - **An attempt goes on from the newest recorded checkpoint**; no artifact is let go of that a trial still names.
//! - **Nothing starts** in a paused study, for a paused or cancelled trial, or on a drained or set-aside worker.
//! - **Losing a worker is no failure** of a trial, and no worker is given up before its lease (after a restart, before
//!   the grace) is over. The last worker is never set aside.
//! - **Every trial that waits can say why**, and it is so; none waits for slots that are free.
//! - **Order**: nothing starts while something waits that comes before it (priority, the study's age, the place in the
//!   study) and could have had the same slots.
//! - **Widening**: an attempt is stopped to go on wider only where no trial waits and it at least doubles.
//! - **A hang is put down to the rank that hung**, where another names it or it had to be killed.
//! - **Commands arrive**: a rank on a worker with a session is started and stopped in bounded time.
//! - **Liveness**: once faults stop, every study ends, every process is over and every slot is free.
//! - `Core::sanity_check`.
//!
//! # What it would find
//!
//! `make simulate` also plants these bugs in the core, one at a time, and each must be found
//! (`mtinet_core::Bug`, in builds with `--cfg mtinet_mutations` alone). In brackets what finds it.
//!
//! | bug | found by |
//! | --- | --- |
//! | keeps the slot of a rank that exited | liveness: slots are held at the end |
//! | uses slots of workers that are only away | `sanity_check`: a live rank does not hold its slot |
//! | restarts before the peers have stopped | free slots and a trial that waits; two attempts at once |
//! | takes reports twice | recorded once |
//! | takes reports of former attempts for the present one's | recorded as said |
//! | acknowledges too much | acknowledged is recorded |
//! | starts gangs in part | a gang starts whole |
//! | forgets start commands that were lost | commands arrive |
//! | forgets stop commands that were lost | commands arrive |
//! | restarts instead of adopting | no worker is given up before the grace is over |
//! | never ends retry pauses | liveness |
//! | counts lost workers as failures | losing a worker is no failure |
//! | forgets resumed studies | none waits for slots that are free |
//! | forgets checkpoints | goes on from the newest checkpoint |
//! | places on drained workers | nothing starts there |
//! | sets workers aside at once | set aside after three failures, never the last |
//! | revives cancelled trials | nothing starts for a cancelled trial |
//! | does not record pauses | the live state is what the log gives |
//! | widens although trials wait, or nothing is spare | widening |
//! | serves the last study or the last fold first | order |
//! | names a trial itself as the one before it | why a trial waits |
//! | forgets why whole studies wait | none waits for slots that are free |
//! | blames who waited or who told of a hang | a hang is put down to the rank that hung |
//!
//! What is not simulated: the store's own faults (it is SQLite's to be atomic), and corrupted messages.
#![warn(missing_docs)]

mod agent;
pub mod bench;
mod coordinator;
mod decisions;
mod faults;
mod random;
mod trainers;
mod truth;
mod world;

use std::collections::BTreeMap;

use mtinet_core::CoreConfig;

pub use random::Chance;
pub use world::Trace;

use world::{Item, World};

/// How long faults go on.
const CHAOS_MS: u64 = 45_000;

/// By when everything must be over after faults stopped.
const PATIENCE_MS: u64 = 900_000;

/// The scheduler's times in simulations: short, so that all of them pass.
pub fn config() -> CoreConfig {
    CoreConfig {
        lease_ms: 3000,
        adoption_grace_ms: 6000,
        cancel_grace_ms: 2000,
        forget_lost_ms: 20_000,
        forget_marks_ms: 30_000,
        pause_grace_ms: 3000,
        hang_grace_ms: 1000,
        store_limit_ms: 20_000,
        kill_limit_ms: 10_000,
        start_limit_ms: 15_000,
        stall_limit_ms: 25_000,
        widen_after_ms: 2000,
        #[cfg(mtinet_mutations)]
        planted: None,
    }
}

/// How a simulation went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Inputs that the coordinator took in.
    pub rounds: u64,
    /// Recorded events by kind.
    pub kinds: BTreeMap<&'static str, u64>,
}

/// Something that must hold did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed, for seeing it again.
    pub seed: u64,
    /// After how much virtual time in milliseconds.
    pub at_ms: u64,
    /// What did not hold, in words.
    pub problem: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {} after {:.3} s: {}", self.seed, self.at_ms as f64 / 1000.0, self.problem)
    }
}

impl std::error::Error for Violation {}

/// Runs the simulation of a seed to its end.
///
/// # Errors
/// The first thing that did not hold.
pub fn simulate(seed: u64, config: CoreConfig, trace: Option<Trace<'_>>) -> Result<Report, Violation> {
    let mut world = World::new(seed, config, trace);
    let begun = world.now;
    let result = play(&mut world);
    match result {
        Ok(()) => Ok(Report { rounds: world.rounds, kinds: world.ledger.kinds }),
        Err(problem) => {
            world.say(|| format!("VIOLATION: {problem}"));
            Err(Violation { seed, at_ms: world.now - begun, problem })
        }
    }
}

fn play(world: &mut World<'_>) -> world::Checked {
    let begun = world.now;
    world.populate()?;
    world.after(CHAOS_MS, Item::Heal);
    world.after(500, Item::Chaos);
    while !(world.ledger.healed && is_over(world)) {
        world.step()?;
        if world.now > begun + CHAOS_MS + PATIENCE_MS {
            return Err(what_is_left(world));
        }
    }
    world.check_end()
}

fn is_over(world: &World<'_>) -> bool {
    let core = &world.coordinator.core;
    world.coordinator.up
        && core.studies().all(|study| study.outcome.is_some())
        && world.live_attempts().is_empty()
        && core.emptiness_check().is_ok()
}

fn what_is_left(world: &World<'_>) -> String {
    let core = &world.coordinator.core;
    let open = core.trial_ids().filter(|id| core.trial(*id).is_some_and(|trial| !trial.status().is_final()));
    let words = open.map(|id| {
        let explanation = core.explain(id).map(|why| format!("{} ({})", why.status, why.reason));
        format!("{id}: {}", explanation.unwrap_or_default())
    });
    format!(
        "not over: {:?}; processes of {:?}; {:?}",
        words.collect::<Vec<_>>(),
        world.live_attempts(),
        core.emptiness_check()
    )
}
