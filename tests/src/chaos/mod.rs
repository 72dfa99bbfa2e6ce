//! The cases: each does something bad to a running study, proves that it happened, and asserts that nothing shows in the
//! results but the number of attempts.
//!
//! `mtinet-chaos` runs them by name; the tests run the short ones. A case that this machine cannot have says why.

mod certificates;
mod checkpoints;
mod clocks;
mod disks;
mod kills;
mod links;
mod memory;
mod random;
mod saving;
mod scene;
mod stops;

use std::fmt::Display;
use std::time::Duration;

use serde_json::{Value, json};

/// One case.
#[derive(Clone, Copy)]
pub struct Case {
    /// How it is called.
    pub name: &'static str,
    /// What happens in it.
    pub what: &'static str,
    /// Whether it is among those that every test run has.
    pub short: bool,
    run: fn(&mut Report) -> Outcome,
}

/// How a case ends that does not panic.
type Outcome = Result<(), Skipped>;

/// This machine cannot have the case, for the reason told.
#[derive(Debug)]
pub enum Skipped {
    /// It takes rights to mount and to make networks, or a program that is missing.
    Rights(String),
    /// The kernel refuses it to everyone.
    Kernel(String),
}

impl Skipped {
    /// Whether nobody can be blamed for it: who has the rights must have the case.
    pub fn is_excused(&self) -> bool {
        matches!(self, Self::Kernel(_)) || !may_administer()
    }
}

impl Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Rights(reason) | Self::Kernel(reason)) = self;
        f.write_str(reason)
    }
}

/// Whether this process may mount and make networks: root of a container often may not.
fn may_administer() -> bool {
    /// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`.
    const NEEDED: u64 = 1 << 12 | 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok());
    held.is_some_and(|held| held & NEEDED == NEEDED)
}

/// What a case has seen.
#[derive(Debug)]
pub struct Report {
    /// The case.
    pub case: &'static str,
    /// What is random follows from it.
    pub seed: u64,
    /// What was measured, as a bench prints it.
    pub figures: Vec<Value>,
}

/// All cases, in the order in which they run.
pub const CASES: &[Case] = &[
    kills::TRAINER,
    kills::AGENT,
    kills::COORDINATOR,
    kills::COORDINATOR_AND_AGENT,
    stops::BRIEFLY,
    stops::AGENT,
    stops::COORDINATOR,
    stops::RANK_0,
    stops::RANK_1,
    stops::GANG,
    stops::ALONE,
    links::PARTITION,
    links::PARTITION_OF_A_GANG,
    links::STALLS,
    links::BAD_LINE,
    disks::AGENT,
    disks::COORDINATOR,
    checkpoints::TRUNCATED,
    checkpoints::FLIPPED_ON_ONE_HOST,
    clocks::COORDINATOR,
    clocks::AGENT,
    memory::TRAINER,
    certificates::EXPIRY,
    random::KILLS,
    saving::KILLS,
];

/// The case of this name.
pub fn case(name: &str) -> Option<&'static Case> {
    CASES.iter().find(|case| case.name == name)
}

impl Case {
    /// Runs it; it panics where something is not as it should be.
    ///
    /// # Errors
    /// In words where this machine cannot have it.
    pub fn run(&self, seed: u64) -> Result<Report, Skipped> {
        let mut report = Report { case: self.name, seed, figures: Vec::new() };
        (self.run)(&mut report).map(|()| report)
    }
}

impl Report {
    /// Tells what was seen.
    pub fn say(&self, what: impl Display) {
        eprintln!("{}: {what}", self.case);
    }

    /// Notes and tells a time that has a target.
    pub fn measure(&mut self, what: &str, value: Duration, target: Duration, note: &str) {
        let ok = value <= target;
        let word = if ok { "" } else { " (missed)" };
        self.say(format_args!(
            "{what}: {:.2} s; target {:.2} s{word}",
            value.as_secs_f64(),
            target.as_secs_f64()
        ));
        self.figures.push(json!({
            "what": format!("{}: {what}", self.case), "value": value.as_secs_f64(), "unit": "s",
            "target": target.as_secs_f64(), "ok": ok, "peer": null, "note": note,
        }));
    }

    /// Notes and tells a count that has to be this.
    pub fn count(&mut self, what: &str, value: u64, target: u64) {
        self.say(format_args!("{what}: {value} of {target}"));
        self.figures.push(json!({
            "what": format!("{}: {what}", self.case), "value": value, "unit": "", "target": target,
            "ok": value == target, "peer": null, "note": "",
        }));
    }
}
