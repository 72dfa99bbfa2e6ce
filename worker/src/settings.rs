//! What the agent's user can set: flags over environment over file over `default.toml`, resolved to [`Options`].

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use clap_complete::Shell;
use mtinet_domain::spec::Seconds;
use mtinet_runtime::config::{ConfigError, Layers};
use serde::Deserialize;

use crate::devices::{DeviceList, Machine};
use crate::options::{Options, Timings};

/// The reference of all keys.
const DEFAULTS: &str = include_str!("default.toml");

/// File name of the trainer's program.
const TRAINER: &str = "mtinet-trainer";

/// Joins a coordinator and runs trainers on this machine's devices.
///
/// Exit codes: 0 done (or idle with --exit-when-idle), 1 this machine failed it, 2 usage or configuration,
/// 3 refused by the coordinator, 130 interrupted. Log lines go to standard error, filtered by MTINET_LOG.
#[derive(Debug, Parser)]
#[command(
    name = "mtinet-worker",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do instead of working.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Address of the coordinator, e.g. `https://head-node:7077`.
    #[arg(long, env = "MTINET_COORDINATOR", value_name = "URL")]
    pub coordinator: Option<String>,
    /// File with the token that this worker joins with; else MTINET_TOKEN holds it. Needed once: the identity that it buys
    /// is kept in the work directory and renews itself.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// What this machine lends: auto, cpu, cpu:N, or a list such as cuda:0,cuda:1 or cuda:0*2,cpu:4 [default: auto].
    #[arg(long)]
    pub devices: Option<String>,
    /// Data sets lie in this directory; no study reaches outside of it. One that is not there is fetched from the
    /// coordinator [default: the current directory].
    #[arg(long, value_name = "DIR")]
    pub data_root: Option<PathBuf>,
    /// Data sets may name files outside of that directory, as `mtinet data import --link` makes them [default: false].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub linked_data: Option<bool>,
    /// Logs, caches and files on their way [default: mtinet-worker under $XDG_STATE_HOME or ~/.local/state].
    #[arg(long, value_name = "DIR")]
    pub work_dir: Option<PathBuf>,
    /// Address that collectives bind to and other workers reach [default: 127.0.0.1].
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// The trainer's program [default: mtinet-trainer beside this program].
    #[arg(long, value_name = "PATH")]
    pub trainer: Option<PathBuf>,
    /// The name that people see [default: the host's name].
    #[arg(long)]
    pub name: Option<String>,
    /// Where Prometheus finds metrics: auto, off or HOST:PORT [default: auto, port 7079 of this machine where it is free].
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
    /// Format of log lines, those of trainers too: text for people or json for collectors [default: text].
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
    /// End once the coordinator has been reached and then nothing has run for 10 seconds.
    #[arg(long)]
    pub exit_when_idle: bool,
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// What the program does instead of working.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print what a shell needs to complete the arguments.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Write the manual page; `make install` does.
    Man {
        /// Directory to write to, for example ~/.local/share/man/man1; made where it is missing.
        dir: PathBuf,
    },
}

/// The merged configuration, as in `default.toml`.
#[derive(Debug, Deserialize)]
pub struct Settings {
    /// `[worker]`
    pub worker: WorkerSettings,
    /// `[log]`
    pub log: LogSettings,
}

/// `[worker]`
#[derive(Debug, Deserialize)]
pub struct WorkerSettings {
    /// Address of the coordinator.
    pub coordinator: String,
    /// File with the token.
    pub token_file: PathBuf,
    /// What this machine lends.
    pub devices: String,
    /// Where data sets lie.
    pub data_root: PathBuf,
    /// Whether they may name files elsewhere.
    pub linked_data: bool,
    /// Where the agent writes.
    pub work_dir: PathBuf,
    /// Address of the collectives.
    pub advertise: String,
    /// The trainer's program.
    pub trainer: PathBuf,
    /// The name that people see.
    pub name: String,
    /// Whether to end when idle.
    pub exit_when_idle: bool,
    /// Time without progress after which a trainer is taken to hang.
    pub hang_timeout: Seconds,
    /// Time for trainers to save when the agent is told to end.
    pub stop_grace: Seconds,
    /// Where metrics are served.
    pub metrics: String,
    /// Bound of the local checkpoint cache, in GB.
    pub artifact_cache_gb: u64,
    /// Bound of the data sets that are fetched, in GB.
    pub data_cache_gb: u64,
}

/// `[log]`
#[derive(Debug, Deserialize)]
pub struct LogSettings {
    /// One JSON object a line.
    pub json: bool,
}

impl Settings {
    /// Merges all layers.
    ///
    /// # Errors
    /// An unreadable file, an unknown key, a wrong value.
    pub fn load(cli: &Cli) -> Result<Self, ConfigError> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        Layers::new(DEFAULTS)
            .file(cli.config.as_deref())
            .flag("--coordinator", "worker.coordinator", cli.coordinator.clone())
            .flag("--token-file", "worker.token_file", path(&cli.token_file))
            .flag("--devices", "worker.devices", cli.devices.clone())
            .flag("--data-root", "worker.data_root", path(&cli.data_root))
            .flag("--linked-data", "worker.linked_data", cli.linked_data)
            .flag("--work-dir", "worker.work_dir", path(&cli.work_dir))
            .flag("--advertise", "worker.advertise", cli.advertise.clone())
            .flag("--trainer", "worker.trainer", path(&cli.trainer))
            .flag("--name", "worker.name", cli.name.clone())
            .flag("--metrics", "worker.metrics", cli.metrics.clone())
            .flag("--log-format", "log.json", cli.log_format.as_ref().map(|format| format == "json"))
            .flag("--exit-when-idle", "worker.exit_when_idle", cli.exit_when_idle.then_some(true))
            .load()
    }
}

/// What the environment allows each trainer. One that computes with more threads than OpenMP gives it would not be slow
/// but hang: oneDNN's kernels wait for threads that are never started.
fn thread_limit() -> u32 {
    let limit = std::env::var("OMP_THREAD_LIMIT").ok().and_then(|limit| limit.trim().parse().ok());
    limit.filter(|&limit| limit > 0).unwrap_or(u32::MAX)
}

impl WorkerSettings {
    /// Finds on this machine what the settings name.
    ///
    /// # Errors
    /// A missing coordinator, data root or trainer, devices that are not here.
    pub fn resolve(self) -> anyhow::Result<Options> {
        if self.coordinator.is_empty() {
            bail!("no coordinator: give --coordinator URL, MTINET_COORDINATOR or the key worker.coordinator");
        }
        mtinet_runtime::net::check_url(&self.coordinator)?;
        let trainer = trainer(&self.trainer)?;
        let machine = Machine::detect(&trainer);
        let devices = self.devices.parse::<DeviceList>()?.on(&machine)?;
        let data_root = if self.data_root.as_os_str().is_empty() { Path::new(".") } else { &self.data_root };
        let data_root = data_root
            .canonicalize()
            .with_context(|| format!("data root {}: give an existing directory", data_root.display()))?;
        Ok(Options {
            json_logs: false,
            coordinator: self.coordinator,
            token_file: Some(self.token_file).filter(|file| !file.as_os_str().is_empty()),
            name: if self.name.is_empty() { host_name() } else { self.name },
            threads: machine.threads_per_slot(devices.len()).min(thread_limit()),
            devices,
            data_root,
            linked_data: self.linked_data,
            work_dir: work_dir(&self.work_dir)?,
            advertise: self.advertise,
            metrics: self.metrics.parse().context("worker.metrics")?,
            trainer,
            exit_when_idle: self.exit_when_idle,
            artifact_cache_bytes: self.artifact_cache_gb.saturating_mul(1_000_000_000),
            data_cache_bytes: self.data_cache_gb.saturating_mul(1_000_000_000),
            timings: Timings {
                hang: self.hang_timeout.as_duration(),
                stop_grace: self.stop_grace.as_duration(),
                ..Timings::default()
            },
        })
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| "worker".to_owned())
}

fn work_dir(given: &Path) -> anyhow::Result<PathBuf> {
    let dir = if given.as_os_str().is_empty() {
        usual_work_dir(|name| std::env::var_os(name))
    } else {
        given.to_owned()
    };
    own_dir(&dir, nix::unistd::geteuid().as_raw())
}

/// A place that outlives a restart of the machine: the identity, which a token buys once, and the spool are there.
fn usual_work_dir(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    // The XDG base directory specification has relative paths ignored.
    let dir = |name| variable(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let state = dir("XDG_STATE_HOME").or_else(|| dir("HOME").map(|home| home.join(".local/state")));
    state.unwrap_or_else(std::env::temp_dir).join("mtinet-worker")
}

/// The directory, made where it is missing and then for its owner alone. One that somebody else owns is refused: they could
/// change data and identities in it, and lead logs astray.
fn own_dir(dir: &Path, user: u32) -> anyhow::Result<PathBuf> {
    let name = dir.display();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("work directory {name}: give --work-dir another"))?;
    let dir = dir.canonicalize().with_context(|| format!("work directory {name}"))?;
    let owner = dir.metadata().with_context(|| format!("work directory {name}"))?.uid();
    if owner != user {
        bail!(
            "work directory {name} belongs to user {owner}, and this worker runs as user {user}: give --work-dir one of \
             its own"
        );
    }
    Ok(dir)
}

fn trainer(given: &Path) -> anyhow::Result<PathBuf> {
    let path = if given.as_os_str().is_empty() {
        let own = std::env::current_exe().context("could not find the path of this program")?;
        own.with_file_name(TRAINER)
    } else {
        given.to_owned()
    };
    if !path.is_file() {
        bail!("no trainer at {}: build or install {TRAINER} there, or give --trainer PATH", path.display());
    }
    path.canonicalize().with_context(|| format!("trainer {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_every_key_and_flags_win() {
        let cli = Cli::parse_from(["mtinet-worker", "--coordinator", "head:1", "--exit-when-idle"]);
        let settings = Settings::load(&cli).unwrap();
        assert_eq!(settings.worker.coordinator, "head:1");
        assert!(settings.worker.exit_when_idle && !settings.worker.linked_data);
        for flag in [&["--linked-data"][..], &["--linked-data", "true"]] {
            let cli = Cli::parse_from(["mtinet-worker"].iter().chain(flag));
            assert!(Settings::load(&cli).unwrap().worker.linked_data, "{flag:?}");
        }
        assert_eq!(settings.worker.advertise, "127.0.0.1");
        assert_eq!(settings.worker.hang_timeout.as_duration(), Timings::default().hang);
        assert_eq!(settings.worker.stop_grace.as_duration(), Timings::default().stop_grace);
    }

    #[test]
    fn the_work_directory_outlives_a_restart_of_the_machine_where_there_is_a_home() {
        let place = |state: &str, home: &str| {
            let variable = |name: &str| match name {
                "XDG_STATE_HOME" => Some(state),
                "HOME" => Some(home),
                _ => None,
            };
            usual_work_dir(|name| variable(name).filter(|value| !value.is_empty()).map(OsString::from))
        };
        assert_eq!(place("/state", "/home/a"), Path::new("/state/mtinet-worker"));
        for state in ["", "state"] {
            assert_eq!(place(state, "/home/a"), Path::new("/home/a/.local/state/mtinet-worker"));
        }
        assert_eq!(place("", ""), std::env::temp_dir().join("mtinet-worker"));
    }

    #[test]
    fn the_work_directory_is_its_owners_alone_and_another_users_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let new = dir.path().join("state/worker");
        let user = nix::unistd::geteuid().as_raw();
        let made = own_dir(&new, user).unwrap();
        assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(own_dir(&new, user).unwrap(), made);
        let words = own_dir(&new, user + 1).unwrap_err().to_string();
        assert!(
            words.contains(&format!("belongs to user {user}")) && words.contains("--work-dir"),
            "{words}"
        );
    }

    #[test]
    fn a_missing_trainer_says_where_it_was_looked_for() {
        let message = trainer(Path::new("/nowhere/mtinet-trainer")).unwrap_err().to_string();
        assert!(message.contains("/nowhere/mtinet-trainer") && message.contains("--trainer"), "{message}");
    }
}
