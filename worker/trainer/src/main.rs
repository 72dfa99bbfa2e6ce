//! `mtinet-trainer`: one process per rank. It wires data, networks and engine together and talks to its agent only.
//!
//! `run` is started by `mtinet-worker`; `init` and `forward` are for people who bring or take weights; the others are
//! started by `mtinet`, which links no libtorch.

mod bench_step;
mod check;
mod connection;
mod export;
mod failure;
mod forward;
mod predict;
mod preparing;
mod run;
mod watchdog;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use mtinet_domain::Arm;
use mtinet_domain::model::{ModelConfig, Preset};

#[derive(Parser)]
#[command(name = "mtinet-trainer", version, about = "Trains one rank of a trial, and makes or runs weights")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train one rank of a trial; started by mtinet-worker.
    Run {
        /// The agent's socket.
        #[arg(long)]
        socket: PathBuf,
        /// Write a Chrome trace of the sixth to tenth step of each trial and rank into this directory. Set the variable for
        /// mtinet or mtinet-worker, whose environment the trainers share.
        #[arg(long, env = "MTINET_PROFILE")]
        profile: Option<PathBuf>,
    },
    /// Print how many CUDA devices this trainer can use; asked by mtinet and mtinet-worker.
    Devices,
    /// Write freshly initialised weights (safetensors).
    Init {
        #[command(flatten)]
        network: NetworkArgs,
        /// Height and width of the images that the network is for, in pixels.
        #[arg(long, default_value_t = 256)]
        size: usize,
        /// Contrast phases.
        #[arg(long, default_value_t = 4)]
        phases: usize,
        /// Seed of the initialisation.
        #[arg(long, default_value_t = 0)]
        seed: i64,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Check that a study's network can start from a file's weights, without training; asked by mtinet.
    CheckInit(check::CheckArgs),
    /// Answer new cases with trained networks, as a request file says; started by mtinet predict.
    Predict {
        /// The request (JSON).
        #[arg(long)]
        request: PathBuf,
    },
    /// Write exported weights as TorchScript, and make sure that it answers as they do; started by mtinet export.
    Export {
        /// Weights from `mtinet export`, whose header describes the network (safetensors).
        #[arg(long)]
        weights: PathBuf,
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
    /// Time training steps; driven by `make bench-step`.
    #[command(hide = true)]
    BenchStep(bench_step::BenchArgs),
    /// Run a network in evaluation mode on images from a file.
    Forward {
        #[command(flatten)]
        network: NetworkArgs,
        /// Weights (safetensors).
        #[arg(long)]
        weights: PathBuf,
        /// Input `x`, float32 [N, phases, H, W], already normalised (safetensors). For ei-ddpm also the noisy masks
        /// `noise`, float32 [N,1,H,W], and their noise levels `t` [N], 0 to 999.
        #[arg(long)]
        input: PathBuf,
        /// The file to write: `seg` logits [N,1,H,W], `curve` [N,phases], `cls` logits [N,classes], where the arm
        /// has them; for ei-ddpm `seg` and the noise that each phase finds, `eps` [N,phases,H,W].
        #[arg(long)]
        out: PathBuf,
    },
}

/// Which network.
#[derive(Args)]
struct NetworkArgs {
    /// The arm, for example mti-net or unet.
    #[arg(long)]
    arm: Arm,
    /// Sizes: paper, fast, small or tiny64. By default what exported weights say of themselves, else paper.
    #[arg(long)]
    preset: Option<Preset>,
    /// Lesion classes. By default what exported weights say of themselves, else 2.
    #[arg(long)]
    classes: Option<usize>,
}

impl NetworkArgs {
    fn config(&self) -> ModelConfig {
        ModelConfig::preset(self.preset.unwrap_or(Preset::Paper))
    }

    fn classes(&self) -> usize {
        self.classes.unwrap_or(2)
    }
}

/// A trial's rank: what it says goes to the log that its agent keeps.
fn train(socket: &Path, profile: Option<&Path>) -> ExitCode {
    if let Err(error) = mtinet_runtime::telemetry::init_trainer() {
        eprintln!("error: {error}");
        return ExitCode::from(2);
    }
    match run::run(socket, profile) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            failure.exit_code()
        }
    }
}

fn main() -> ExitCode {
    if let Err(error) = mtinet_torch_ext::keep_memory() {
        eprintln!("warning: {error}");
    }
    let result = match Cli::parse().command {
        Command::Run { socket, profile } => return train(&socket, profile.as_deref()),
        Command::Devices => {
            println!("{}", if mtinet_torch_ext::cuda_available() { tch::Cuda::device_count() } else { 0 });
            Ok(())
        }
        Command::Init { network, size, phases, seed, out } => {
            forward::init(&network, size, phases, seed, &out)
        }
        Command::Predict { request } => predict::predict(&request),
        Command::Export { weights, out } => export::export(&weights, &out),
        Command::CheckInit(args) => check::check_init(&args),
        Command::BenchStep(args) => bench_step::bench_step(&args),
        Command::Forward { network, weights, input, out } => {
            forward::forward(&network, &weights, &input, &out)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}
