//! How an agent is set up, once its settings are resolved on this machine.

use std::path::PathBuf;
use std::time::Duration;

use mtinet_domain::trial::Device;
use mtinet_runtime::metrics::Address;

/// How an agent runs; see `default.toml` for what a user sets.
#[derive(Clone, Debug)]
pub struct Options {
    /// The coordinator's address.
    pub coordinator: String,
    /// File with the token that buys the first identity; `MTINET_TOKEN` holds it otherwise.
    pub token_file: Option<PathBuf>,
    /// The name that people see.
    pub name: String,
    /// The device of each slot.
    pub devices: Vec<Device>,
    /// Intra-operation threads of each trainer.
    pub threads: u32,
    /// Data sets lie here, canonical.
    pub data_root: PathBuf,
    /// Data sets may name files that lie elsewhere.
    pub linked_data: bool,
    /// Logs, caches and files on their way.
    pub work_dir: PathBuf,
    /// Address that collectives bind to and other workers reach.
    pub advertise: String,
    /// The trainer's program.
    pub trainer: PathBuf,
    /// End once there is nothing to do.
    pub exit_when_idle: bool,
    /// Bound of the local checkpoint cache.
    pub artifact_cache_bytes: u64,
    /// Bound of the data sets that are fetched.
    pub data_cache_bytes: u64,
    /// Where metrics are served.
    pub metrics: Address,
    /// Whether trainers log as JSON.
    pub json_logs: bool,
    /// How long things may take.
    pub timings: Timings,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timings {
    /// A trainer, from its start to its hello.
    pub hello: Duration,
    /// Measurements are gathered this long.
    pub metrics: Duration,
    /// Trainers, to end at a step boundary when the agent ends.
    pub stop_grace: Duration,
    /// Uploads and acknowledgements after that.
    pub farewell: Duration,
    /// What a stopped trainer left, to be stored once it is over; longer where the stop's own grace is not over by then.
    pub store: Duration,
    /// A trainer that was killed, to be gone.
    pub kill: Duration,
    /// A trainer, without progress before it is ended; for ever where zero.
    pub hang: Duration,
    /// Nothing to do before `exit_when_idle` ends the agent.
    pub idle: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(60),
            metrics: Duration::from_millis(250),
            stop_grace: Duration::from_secs(5),
            farewell: Duration::from_secs(3),
            store: Duration::from_secs(30),
            kill: Duration::from_secs(10),
            hang: Duration::from_secs(300),
            idle: Duration::from_secs(10),
        }
    }
}
