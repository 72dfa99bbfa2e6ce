//! Arguments of `mtinet data`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Server;

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
    /// Bring a data set to the coordinator, from which workers without it fetch it. `mtinet study submit` does this where
    /// it is needed.
    Upload(UploadArgs),
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
pub struct UploadArgs {
    /// Directory with `dataset.toml`.
    pub dataset: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
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
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}
