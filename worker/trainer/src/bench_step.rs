//! `bench-step`: training steps as a trial runs them, timed when the driver says (`worker/trainer/bench/step.py`).
//!
//! Nothing of the step is repeated here: the engine's own loop runs, and its observer holds it between two steps until
//! the driver asks for some. A line `N` on standard input asks for N steps; the answer is one line of JSON with the seconds
//! of each. The end of the input ends the process.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use mtinet_data::phantom::{self, PhantomOptions};
use mtinet_domain::event::MetricRecord;
use mtinet_domain::spec::Precision;
use mtinet_domain::{StudySpec, TrialKey};
use mtinet_engine::{CheckpointFile, EngineError, FoldData, Gang, Observer, Plan, Trainer};
use mtinet_torch_ext::{Backend, ProcessGroup, TcpStore};
use tch::Device;

use crate::failure::Failure;

const HOST: &str = "127.0.0.1";
const TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// The study file; its first arm is trained.
    #[arg(long)]
    study: PathBuf,
    /// Where the phantom data set of the study's image size and its cache lie.
    #[arg(long)]
    data: PathBuf,
    /// Make the data set and its cache where they are not there yet, and end.
    #[arg(long)]
    prepare: bool,
    /// Threads of this rank.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Train on this CUDA device instead of the CPU; one rank. There a step is queued and every tenth waits for the device: ask
    /// for multiples of ten, and take their mean.
    #[arg(long, value_name = "N", conflicts_with = "ranks")]
    cuda: Option<usize>,
    /// How many of these programs share the device.
    #[arg(long, default_value_t = 1)]
    sharing: u32,
    /// This rank.
    #[arg(long, default_value_t = 0)]
    rank: usize,
    /// Ranks in all. Rank 0 prints `port N`, which the others are started with.
    #[arg(long, default_value_t = 1)]
    ranks: usize,
    /// Write a Chrome trace of the sixth to tenth step to this file.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Where rank 0 listens.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

pub(crate) fn bench_step(args: &BenchArgs) -> Result<(), Failure> {
    bench(args).map_err(Failure::Training)
}

fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.study)
        .with_context(|| format!("failed to read {}", args.study.display()))?;
    let spec = StudySpec::from_toml(&text)?;
    let size = spec.train.image_size;
    let (dataset, cache) = (args.data.join(size.to_string()), args.data.join("cache"));
    if args.prepare {
        return prepare(&dataset, &cache, &spec);
    }
    mtinet_torch_ext::set_num_threads(args.threads)?;
    mtinet_torch_ext::set_deterministic(spec.train.deterministic)?;
    mtinet_torch_ext::set_tf32(spec.train.precision == Precision::Tf32)?;
    let data = FoldData::open(&dataset, &cache, &spec, 0, &|_, _| {})?;
    let gang = gang(args)?;
    let arm = *spec.arms.first().ok_or_else(|| anyhow!("the study names no arm"))?;
    let trial = TrialKey { arm, fold: 0, seed: 0 };
    let (device, work_dir, trace) = (device(args)?, args.data.clone(), args.trace.clone());
    let plan = Plan { spec, trial, device, work_dir, trace, sharing: args.sharing };
    let mut trainer = Trainer::new(plan, data, gang)?;
    trainer.run(&mut Driven::default())?;
    Ok(())
}

fn device(args: &BenchArgs) -> anyhow::Result<Device> {
    let Some(index) = args.cuda else { return Ok(Device::Cpu) };
    mtinet_torch_ext::set_cuda_device(index)?;
    Ok(Device::Cuda(index))
}

fn prepare(dataset: &Path, cache: &Path, spec: &StudySpec) -> anyhow::Result<()> {
    if !dataset.exists() {
        let options = PhantomOptions {
            subjects: 16,
            size: spec.train.image_size as usize,
            ..PhantomOptions::default()
        };
        phantom::write(dataset, &options, &|_, _| {})?;
    }
    FoldData::open(dataset, cache, spec, 0, &|_, _| {})?;
    Ok(())
}

fn gang(args: &BenchArgs) -> anyhow::Result<Gang> {
    if args.ranks == 1 {
        return Ok(Gang::alone());
    }
    let store = if args.rank == 0 {
        let store = TcpStore::host(HOST, 0, args.ranks, TIMEOUT)?;
        answer(&format!("port {}", store.port()))?;
        store
    } else {
        TcpStore::connect(HOST, args.port, args.ranks, TIMEOUT)?
    };
    let group = ProcessGroup::new(Backend::Gloo, &store, args.rank, args.ranks, HOST, TIMEOUT)?;
    Ok(Gang::of(group))
}

fn answer(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// An observer that lets the engine run when it is asked to.
#[derive(Default)]
struct Driven(Mutex<Turn>);

/// The steps that were asked for.
#[derive(Default)]
struct Turn {
    left: usize,
    since: Option<Instant>,
    seconds: Vec<f64>,
}

impl Turn {
    /// Between two steps. What lies between two calls is a whole turn of the engine's loop.
    fn next(&mut self) -> anyhow::Result<()> {
        if let Some(since) = self.since.take() {
            self.seconds.push(since.elapsed().as_secs_f64());
            self.left = self.left.saturating_sub(1);
            if self.left == 0 {
                let report = serde_json::json!({ "seconds": self.seconds, "peak_kib": peak_kib() });
                answer(&report.to_string())?;
                self.seconds.clear();
            }
        }
        if self.left == 0 {
            let mut line = String::new();
            if std::io::stdin().lock().read_line(&mut line)? == 0 {
                mtinet_torch_ext::exit_now(0);
            }
            self.left = line.trim().parse().with_context(|| format!("{line:?} is no number of steps"))?;
        }
        self.since = Some(Instant::now());
        Ok(())
    }
}

impl Observer for Driven {
    fn metrics(&mut self, _record: MetricRecord) -> Result<(), EngineError> {
        Ok(())
    }

    fn checkpoint(&mut self, _checkpoint: CheckpointFile) -> Result<(), EngineError> {
        Ok(())
    }

    fn stop_requested(&self) -> bool {
        false
    }

    fn working(&self, _step: u64) {
        let mut turn = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = turn.next() {
            eprintln!("error: {error:#}");
            mtinet_torch_ext::exit_now(1);
        }
    }
}

/// The most memory that this process ever held, as the kernel counts it.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}
