//! The arguments, as clap reads them. Wrong ones end with exit code 2 before anything is done.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mtinet_domain::{Arm, TrialKey};

use super::shell::{CompletionsArgs, ManArgs};

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
    /// FILE is one consistent moment of the event log. To restore, put it as `events.db` into a new data directory, and
    /// the directory of `--with-artifacts` as `artifacts` beside it.
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

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Write a synthetic data set of dynamic contrast-enhanced liver MRI.
    Phantom(PhantomArgs),
    /// Take over existing data.
    #[command(subcommand)]
    Import(ImportCommand),
    /// Leak gate and quality report; exit code 1 where it fails.
    Check(CheckArgs),
    /// Split into folds by subject, stratified by class.
    Split(SplitArgs),
    /// Draw a case: its phases with the outline of the largest lesion, and the mask, as a PNG.
    Show(ShowCaseArgs),
}

#[derive(Debug, Args)]
pub struct PhantomArgs {
    /// Directory to write; must not exist or be empty.
    pub dst: PathBuf,
    /// Number of subjects.
    #[arg(long, value_name = "N")]
    pub subjects: Option<usize>,
    /// Height and width of a slice in pixels.
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<usize>,
    /// Seed: the same options and seed give the same bytes.
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum ImportCommand {
    /// nnU-Net v2 raw: `DatasetNNN_NAME/{dataset.json, imagesTr, labelsTr}` and a `cases.csv` (case,subject,class).
    Nnunet(NnunetArgs),
}

#[derive(Debug, Args)]
pub struct NnunetArgs {
    /// The directory with `dataset.json`.
    pub src: PathBuf,
    /// Directory to write; must not exist or be empty.
    pub dst: PathBuf,
    /// CSV with case, subject and class; by default `cases.csv` in SRC.
    #[arg(long, value_name = "FILE")]
    pub cases: Option<PathBuf>,
    /// Refer to the volumes where they are instead of copying them.
    #[arg(long)]
    pub link: bool,
    /// Name of the data set; by default that of SRC.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Labels of `dataset.json` that are tumour, separated by commas; the others become background.
    #[arg(long, value_name = "LABELS", value_delimiter = ',')]
    pub tumour_labels: Option<Vec<String>>,
    /// Number of folds to split into.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub folds: usize,
    /// Seed of the split.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Directory with `dataset.toml`.
    pub dataset: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SplitArgs {
    /// Directory with `dataset.toml`.
    pub dataset: PathBuf,
    /// Number of folds.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub folds: usize,
    /// Seed: the same data set and seed give the same folds.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ShowCaseArgs {
    /// The case's name, as cases.jsonl has it.
    pub case: String,
    /// Picture to write (PNG); replaced where it exists.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Directory with `dataset.toml`.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dataset: PathBuf,
}

#[derive(Debug, Subcommand)]
pub enum StudyCommand {
    /// Print a commented study file.
    Init(InitArgs),
    /// Check a study file and its data set and hand them to the coordinator; prints the study's number.
    Submit(SubmitArgs),
    /// List all studies.
    List(ListArgs),
    /// Show a study: what was asked for and how each trial stands.
    Show(ShowArgs),
    /// End a study, or one trial of it; what runs stops at a step boundary.
    Cancel(CancelArgs),
    /// Let nothing of a study start until it is resumed; what runs saves and stops.
    Pause(PauseArgs),
    /// Let a paused study go on.
    Resume(PauseArgs),
    /// Try trials that failed or were cancelled again, from their last checkpoints.
    Retry(RetryArgs),
}

#[derive(Debug, Args)]
pub struct InitArgs {
    /// What to start from.
    #[arg(long, value_enum, default_value_t = Preset::Smoke)]
    pub preset: Preset,
    /// Directory of the data set to name in the file.
    #[arg(long, value_name = "DIR", default_value = "data/liver")]
    pub dataset: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Small networks and few epochs: does everything work here?
    Smoke,
    /// The paper's whole programme with its settings: 22 arms x 5 folds.
    Paper,
    /// Table 3: MTI-Net and its five ablations.
    Ablation,
    /// Table 4: segmentation alone, with regression, with classification, and all three.
    Synergy,
    /// Tables 1 and 2: MTI-Net beside the baselines of each task.
    Baselines,
}

#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The study file.
    pub file: PathBuf,
    /// Wait for the study's end and show its progress; exit code 1 where it does not complete.
    #[arg(long)]
    pub wait: bool,
    /// While waiting, show lines instead of the dashboard.
    #[arg(long, requires = "wait")]
    pub plain: bool,
    /// Print one JSON document instead of the bare number.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Number or name of the study; of several with one name, the newest.
    pub study: String,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct CancelArgs {
    /// Number or name of the study; of several with one name, the newest.
    pub study: String,
    /// End only this trial.
    #[arg(long, value_name = "ARM/FOLD/SEED")]
    pub trial: Option<TrialKey>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The study file.
    pub file: PathBuf,
    /// Worker agents to start.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub workers: u32,
    /// Devices of each worker, as `mtinet-worker --devices` takes them: auto, cpu:4, cuda:0,cuda:1. By default
    /// CUDA devices where there are any, else one CPU slot per core, shared among the workers.
    #[arg(long, value_name = "DEVICES")]
    pub devices: Option<String>,
    /// Run directory; by default `runs/NAME`.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Show lines instead of the dashboard, also on a terminal.
    #[arg(long)]
    pub plain: bool,
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
}

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Number or name of the study; of several with one name, the newest.
    pub study: String,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Number or name of the study; of several with one name, the newest.
    pub study: String,
    /// Trials to try again; by default all that failed or were cancelled.
    #[arg(value_name = "ARM/FOLD/SEED")]
    pub trials: Vec<TrialKey>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
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

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Number or name of the worker.
    pub worker: String,
    /// Take a former drain back: give the worker trials again.
    #[arg(long)]
    pub undo: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// Give trials again to a worker that was set aside because attempts kept failing on it.
    Readmit(ReadmitArgs),
}

#[derive(Debug, Args)]
pub struct ReadmitArgs {
    /// Number or name of the worker.
    pub worker: String,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Address of the coordinator, as https://HOST:PORT.
    pub url: String,
    /// File with the token; else MTINET_TOKEN holds it.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The name that others see [default: USER@HOST].
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print a new token, which is told only once.
    Create(CreateTokenArgs),
    /// List the tokens, who made them and who joined with them.
    List(ListTokensArgs),
    /// Make a token useless and refuse those who joined with it from now on.
    Revoke(RevokeTokenArgs),
}

/// The coordinator whose tokens are meant.
#[derive(Debug, Args)]
pub struct TokenServer {
    /// The coordinator's data directory (or run directory), on its machine; it need not serve.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct CreateTokenArgs {
    /// What those who join with it may do: worker runs trainers, operator does everything, viewer looks.
    #[arg(long, value_parser = ["worker", "operator", "viewer"])]
    pub role: String,
    /// How long it can be used, e.g. 30m, 24h, 7d.
    #[arg(long, default_value = "24h")]
    pub ttl: String,
    /// How many may join with it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub uses: u32,
    /// Write it to a new file that only you read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    #[command(flatten)]
    pub at: TokenServer,
}

#[derive(Debug, Args)]
pub struct ListTokensArgs {
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub at: TokenServer,
}

#[derive(Debug, Args)]
pub struct RevokeTokenArgs {
    /// The token's id, as `mtinet token list` shows it.
    pub id: String,
    #[command(flatten)]
    pub at: TokenServer,
}
