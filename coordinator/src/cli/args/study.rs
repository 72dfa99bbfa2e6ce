//! Arguments of `mtinet study` and of what steers studies.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use mtinet_domain::TrialKey;

use super::Server;

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
    /// Let nothing of a study, or of one trial of it, start until it is resumed; what runs saves and stops.
    Pause(PauseArgs),
    /// Let a paused study, or a paused trial, go on.
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
    /// Whether to bring the data set to the coordinator, from which workers without it fetch it: auto does so where a
    /// connected worker has not got it.
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = UploadData::Auto, env = "MTINET_UPLOAD_DATA")]
    pub upload_data: UploadData,
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

/// When a data set is brought to the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum UploadData {
    /// Where a connected worker has not got it.
    Auto,
    /// In any case; files that are there already are not sent again.
    Always,
    /// Workers have it under their data root, or will get it another way.
    Never,
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

#[derive(Debug, Args)]
pub struct PauseArgs {
    /// Number or name of the study; of several with one name, the newest.
    pub study: String,
    /// Only this trial.
    #[arg(long, value_name = "ARM/FOLD/SEED")]
    pub trial: Option<TrialKey>,
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
