//! The arguments, as clap reads them. Wrong ones end with exit code 2 before anything is done.

mod data;
mod fleet;
mod study;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mtinet_domain::{Arm, TrialKey};

use super::shell::{CompletionsArgs, ManArgs};
pub use data::*;
pub use fleet::*;
pub use study::*;

/// Runs multi-task liver tumour studies on one machine or many, and turns the results into tables.
#[derive(Debug, Parser)]
#[command(name = "mtinet", version, disable_help_subcommand = true, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done; 1 the thing asked about is not so (a check or a study failed); 2 wrong \
    usage or configuration; 3 the coordinator could not be reached or refused; 4 bad input data; 130 interrupted."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: schedule studies on the workers that join. `mtinet coordinator backup` copies its data.
    Coordinator(CoordinatorArgs),
    /// Make, import, check and split data sets.
    #[command(subcommand)]
    Data(DataCommand),
    /// Write, submit, list, show and cancel studies.
    #[command(subcommand)]
    Study(StudyCommand),
    /// Run a study file on this machine from start to report; again on the same file, go on where it stopped.
    Run(RunArgs),
    /// Show how studies, or the trials of one, stand.
    Status(StatusArgs),
    /// Watch a study in the terminal: trials, curves, workers, leaderboard, events.
    Watch(WatchArgs),
    /// Show the workers and what their slots hold.
    Workers(WorkersArgs),
    /// Write the tables and figures' numbers of a study.
    Report(ReportArgs),
    /// Write the trained weights of a finished trial to a file.
    Export(ExportArgs),
    /// Show what the trainers of a trial wrote.
    Logs(LogsArgs),
    /// Answer new cases with a finished study's networks: masks, curves, classes, pictures.
    ///
    /// All trials of the arm answer together: their tumour probabilities, curves and class probabilities are averaged.
    Predict(PredictArgs),
    /// Say why a trial waits, or how it stands.
    Explain(ExplainArgs),
    /// Have what runs on a worker save and go on elsewhere, and give the worker nothing new.
    Drain(DrainArgs),
    /// See it all work: a synthetic data set, five folds, two arms, two workers, tables; within minutes on a CPU.
    Demo(DemoArgs),
    /// Get an identity for a coordinator on another machine, with a token; later commands use it and renew it.
    Login(LoginArgs),
    /// Make, list and revoke the tokens that workers and people join with.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print what a shell needs to complete the commands, for example into ~/.local/share/bash-completion/completions/mtinet.
    Completions(CompletionsArgs),
    /// Write the manual pages of all commands; `make install` does.
    Man(ManArgs),
}

/// Where the coordinator is.
#[derive(Clone, Debug, Args)]
pub struct Server {
    /// The coordinator: its address, or on its machine its data directory (or run directory). By default the
    /// coordinator that serves ./mtinet-data, else the one logged in to last.
    #[arg(
        long = "coordinator",
        value_name = "URL|DIR",
        env = "MTINET_COORDINATOR",
        default_value = "",
        hide_default_value = true
    )]
    pub url: String,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct CoordinatorArgs {
    #[command(subcommand)]
    pub command: Option<CoordinatorCommand>,
    /// Configuration file; `--show-config` prints the built-in one, which is the reference.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for the event log and the artifacts; on a local disk.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// Where Prometheus finds metrics: auto, off or HOST:PORT [default: auto, port 7078 of this machine where it is free].
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
    /// Format of log lines: text for people or json for collectors [default: text].
    #[arg(long, value_name = "FORMAT", value_parser = ["text", "json"])]
    pub log_format: Option<String>,
    /// Serve without TLS and identities, to this machine alone: to look for a fault, or to measure what TLS costs.
    #[arg(long)]
    pub insecure: bool,
    /// Serve without TLS to everyone who reaches the address: whoever does may do everything.
    #[arg(long, conflicts_with = "insecure")]
    pub insecure_anywhere: bool,
    /// Print the built-in configuration with all its keys and end.
    #[arg(long)]
    pub show_config: bool,
}

#[derive(Debug, Subcommand)]
pub enum CoordinatorCommand {
    /// Copy the data of a coordinator, also while it serves.
    ///
    /// FILE is one consistent moment of the event log; who is drained or set aside goes into FILE with the ending
    /// `.fleet.db`. To restore, put them as `events.db` and `fleet.db` into a new data directory, and the directory of
    /// `--with-artifacts` as `artifacts` beside them.
    Backup(BackupArgs),
}

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// File to write; must not exist.
    pub file: PathBuf,
    /// The coordinator's data directory, on this machine.
    #[arg(long, value_name = "DIR", default_value = "mtinet-data")]
    pub data_dir: PathBuf,
    /// Also copy every file that the log refers to into this directory; one that is there already is not copied again.
    #[arg(long, value_name = "DIR")]
    pub with_artifacts: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The study file.
    pub file: PathBuf,
    /// Worker agents to start.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: u32,
    /// Devices of each worker, as `mtinet-worker --devices` takes them: auto, cpu:4, cuda:0,cuda:1, cuda:0*2,cpu:4. By default
    /// CUDA devices where there are any, else one CPU slot per core, shared among the workers.
    #[arg(long, value_name = "DEVICES")]
    pub devices: Option<String>,
    /// Run directory; by default `runs/NAME`.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Show lines instead of the dashboard, also on a terminal.
    #[arg(long)]
    pub plain: bool,
    /// Print one JSON document at the end instead of the tables.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Number or name of a study; all studies where absent.
    pub study: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Number or name of the study; by default the newest that runs, else the newest.
    pub study: Option<String>,
    /// A coordinator's data directory or a run's directory: where no coordinator serves it any more, its event log is
    /// read and nothing is changed.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct WorkersArgs {
    #[command(subcommand)]
    pub command: Option<WorkersCommand>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Number or name of the study; of several with one name, the newest.
    pub study: String,
    /// Directory to write.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Also write the predicted masks, as ARM/FOLD/SEED/CASE.nii.gz below this directory.
    #[arg(long, value_name = "DIR")]
    pub predictions: Option<PathBuf>,
    /// Directory of the data set, for the figures that show images; where it is not given, the one that the study was
    /// submitted with.
    #[arg(long, value_name = "DIR")]
    pub dataset: Option<PathBuf>,
    /// Show the paper's published values beside the study's, in columns of their own.
    #[arg(long)]
    pub with_paper: bool,
    /// Predicted pixels from which a slice without tumour counts as a false positive [default: 10].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub healthy_min_pixels: Option<u64>,
    /// Read this coordinator's data directory (or run directory) instead of asking a coordinator that runs.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The trial, as ARM/FOLD/SEED: mti-net/0/0.
    pub trial: TrialKey,
    /// File to write.
    pub out: PathBuf,
    /// Format of the file.
    #[arg(long, value_enum, default_value_t = WeightsFormat::Safetensors)]
    pub format: WeightsFormat,
    /// Number or name of the study; of several with one name, the newest. Needed where there are several studies.
    #[arg(long, value_name = "STUDY")]
    pub study: Option<String>,
    /// Replace OUT where it exists.
    #[arg(long)]
    pub force: bool,
    /// Read this coordinator's data directory (or run directory) instead of asking a coordinator that runs.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WeightsFormat {
    /// Parameters and running statistics by their PyTorch names.
    Safetensors,
    /// A network that `torch.jit.load` runs, without its code.
    Torchscript,
}

#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Directory with the cases: CASE_0000.nii.gz, CASE_0001.nii.gz, ... (one file a phase), or a data set.
    pub input: PathBuf,
    /// Directory to write; must not exist or be empty.
    pub outdir: PathBuf,
    /// Number or name of the study; of several with one name, the newest. Needed where there are several studies.
    #[arg(long, value_name = "STUDY")]
    pub study: Option<String>,
    /// The arm; all its trials answer, of every fold and seed.
    #[arg(long, value_name = "ARM", required_unless_present = "trial")]
    pub arm: Option<Arm>,
    /// Only this trial answers; give it several times for several.
    #[arg(long, value_name = "ARM/FOLD/SEED")]
    pub trial: Vec<TrialKey>,
    /// Where to compute: auto takes the first CUDA device where there is one.
    #[arg(long, value_name = "auto|cpu|cuda:N", default_value = "auto")]
    pub device: String,
    /// Directory of the data set that the study was trained on, where it has moved. Only studies of releases that did not
    /// keep the slices' spacing need it.
    #[arg(long, value_name = "DIR")]
    pub dataset: Option<PathBuf>,
    /// Read this coordinator's data directory (or run directory) instead of asking a coordinator that runs.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Run directory.
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    pub out: PathBuf,
    /// Show lines instead of the dashboard, also on a terminal.
    #[arg(long)]
    pub plain: bool,
    /// Print one JSON document at the end instead of the tables.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The trial.
    #[arg(value_name = "ARM/FOLD/SEED")]
    pub trial: TrialKey,
    /// Number or name of its study; by default the newest that has such a trial.
    #[arg(long, value_name = "STUDY")]
    pub study: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The trial.
    #[arg(value_name = "ARM/FOLD/SEED")]
    pub trial: TrialKey,
    /// Go on with what is written from now on, in this attempt and later ones, until the trial is over.
    #[arg(long, short)]
    pub follow: bool,
    /// Number or name of its study; by default the newest that has such a trial.
    #[arg(long, value_name = "STUDY")]
    pub study: Option<String>,
    /// Which execution of the trial, from 1; by default the newest.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,
    /// Only this rank, from 0; by default all, each line of several with its rank before it.
    #[arg(long, value_name = "N")]
    pub rank: Option<u32>,
    /// Print one JSON document.
    #[arg(long, conflicts_with = "follow")]
    pub json: bool,
    /// Read this coordinator's data directory (or run directory) instead of asking a coordinator that runs.
    #[arg(long, value_name = "DIR", conflicts_with = "follow")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub server: Server,
}
