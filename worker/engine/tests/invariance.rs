//! What the engine promises about ranks and resumption, shown by real processes on a small phantom.
//!
//! The test binary starts itself again as a rank: libtorch's state is per process.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mtinet_data::phantom::{self, PhantomOptions};
use mtinet_domain::event::{MetricRecord, MetricScope};
use mtinet_domain::{StudySpec, TrialKey};
use mtinet_engine::{CheckpointFile, EngineError, Finish, FoldData, Gang, Observer, Plan, Trainer};
use mtinet_torch_ext::{Backend, ProcessGroup, TcpStore};
use safetensors::SafeTensors;
use tch::Device;

const TIMEOUT: Duration = Duration::from_secs(60);

/// What a rank process is told, as JSON in its environment.
#[derive(serde::Serialize, serde::Deserialize)]
struct Job {
    dir: PathBuf,
    out: PathBuf,
    study: String,
    trial: TrialKey,
    rank: usize,
    world_size: usize,
    /// Resume from here first.
    resume: Option<PathBuf>,
    /// Ask to stop when this step is done.
    stop_after: Option<u64>,
}

/// The entry point of rank processes; nothing as a test.
#[test]
fn rank_process() {
    let Ok(job) = std::env::var("MTINET_TEST_JOB") else { return };
    let job: Job = serde_json::from_str(&job).unwrap();
    mtinet_torch_ext::set_num_threads(1).unwrap();
    mtinet_torch_ext::set_deterministic(true).unwrap();
    let spec = StudySpec::from_toml(&job.study).unwrap();
    let data =
        FoldData::open(&job.dir.join("data"), &job.dir.join("cache"), &spec, job.trial.fold, &|_, _| {})
            .unwrap();
    let gang = if job.world_size == 1 { Gang::alone() } else { join(&job) };
    let plan = Plan {
        spec,
        trial: job.trial,
        device: Device::Cpu,
        work_dir: job.out.clone(),
        trace: None,
        sharing: 1,
    };
    let mut trainer = Trainer::new(plan, data, gang).unwrap();
    if let Some(checkpoint) = &job.resume {
        trainer.resume(checkpoint, None).unwrap();
    }
    let mut told = Told { stop_after: job.stop_after, ..Told::default() };
    let finish = trainer.run(&mut told).unwrap();
    // The weights of every rank are compared, so every rank writes a checkpoint's worth of them.
    trainer.save_weights(&job.out.join(format!("rank{}.safetensors", job.rank))).unwrap();
    if let Finish::Done(Some(results)) = finish {
        std::fs::write(job.out.join("evaluation.json"), serde_json::to_vec(&results.evaluation).unwrap())
            .unwrap();
    }
    std::fs::write(
        job.out.join(format!("metrics{}.json", job.rank)),
        serde_json::to_vec(&told.records).unwrap(),
    )
    .unwrap();
}

fn join(job: &Job) -> Gang {
    let file = job.out.join("port");
    let store = if job.rank == 0 {
        let store = TcpStore::host("127.0.0.1", 0, job.world_size, TIMEOUT).unwrap();
        let temporary = job.out.join("port.new");
        std::fs::write(&temporary, store.port().to_string()).unwrap();
        std::fs::rename(temporary, file).unwrap();
        store
    } else {
        let deadline = Instant::now() + TIMEOUT;
        let port = loop {
            if let Ok(port) = std::fs::read_to_string(&file) {
                break port.parse().unwrap();
            }
            assert!(Instant::now() < deadline, "rank 0 announced no port");
            std::thread::sleep(Duration::from_millis(5));
        };
        TcpStore::connect("127.0.0.1", port, job.world_size, TIMEOUT).unwrap()
    };
    Gang::of(
        ProcessGroup::new(Backend::Gloo, &store, job.rank, job.world_size, "127.0.0.1", TIMEOUT).unwrap(),
    )
}

#[derive(Default)]
struct Told {
    records: Vec<MetricRecord>,
    stop_after: Option<u64>,
}

impl Observer for Told {
    fn metrics(&mut self, record: MetricRecord) -> Result<(), EngineError> {
        // Time is the one thing that may differ.
        self.records.push(record.without_time());
        Ok(())
    }

    fn checkpoint(&mut self, _checkpoint: CheckpointFile) -> Result<(), EngineError> {
        Ok(())
    }

    fn stop_requested(&self) -> bool {
        let step = self.records.iter().rev().find(|r| r.scope == MetricScope::Step).map_or(0, |r| r.step);
        self.stop_after.is_some_and(|stop| step + 1 >= stop)
    }
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = PhantomOptions { subjects: 12, size: 64, seed: 5, ..PhantomOptions::default() };
        phantom::write(&dir.path().join("data"), &options, &|_, _| {}).unwrap();
        Self { dir }
    }

    fn run(
        &self,
        name: &str,
        arm: &str,
        train: &str,
        world_size: usize,
        resume: Option<&Path>,
        stop: Option<u64>,
    ) -> PathBuf {
        let out = self.dir.path().join(name);
        std::fs::create_dir_all(&out).unwrap();
        let study = format!(
            "name = \"s\"\ndataset = \"data\"\narms = [\"{arm}\"]\n[model]\npreset = \"tiny64\"\nddim_steps = 2\n[train]\nimage_size = 64\n\
             learning_rate = 1e-3\neval_every = 1\n{train}[checkpoint]\nevery_steps = 4\n"
        );
        let job = |rank| Job {
            dir: self.dir.path().to_owned(),
            out: out.clone(),
            study: study.clone(),
            trial: format!("{arm}/1/3").parse().unwrap(),
            rank,
            world_size,
            resume: resume.map(Path::to_owned),
            stop_after: stop,
        };
        let mut ranks: Vec<Child> = (0..world_size).map(|rank| spawn(&job(rank))).collect();
        for rank in &mut ranks {
            assert!(rank.wait().unwrap().success(), "{name}: a rank failed");
        }
        out
    }
}

fn spawn(job: &Job) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["rank_process", "--exact", "--nocapture"])
        .env("MTINET_TEST_JOB", serde_json::to_string(job).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Largest difference of any tensor, relative to the tensor's largest value.
fn difference(a: &Path, b: &Path) -> f64 {
    let (a, b) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    let (a, b) = (SafeTensors::deserialize(&a).unwrap(), SafeTensors::deserialize(&b).unwrap());
    assert_eq!(a.len(), b.len());
    let values = |bytes: &[u8]| -> Vec<f64> {
        bytes.as_chunks::<4>().0.iter().map(|value| f64::from(f32::from_le_bytes(*value))).collect()
    };
    let mut worst = 0.0_f64;
    for (name, view) in a.iter() {
        let (x, y) = (values(view.data()), values(b.tensor(name).unwrap().data()));
        let scale = x.iter().fold(f64::MIN_POSITIVE, |most, value| most.max(value.abs()));
        let apart = x.iter().zip(&y).fold(0.0_f64, |most, (x, y)| most.max((x - y).abs()));
        worst = worst.max(apart / scale);
    }
    worst
}

#[test]
fn two_ranks_equal_one_rank_that_accumulates() {
    let bench = Bench::new();
    // Two discriminator steps, so that the ranks also agree between them.
    let train = "batch_size = 1\nreplicas = 2\nsteps = 20\nd_steps = 2\n";
    for arm in ["mti-net", "unet", "ei-ddpm"] {
        let two = bench.run(&format!("{arm}-two"), arm, train, 2, None, None);
        let one = bench.run(&format!("{arm}-one"), arm, train, 1, None, None);
        let (rank0, rank1) = (two.join("rank0.safetensors"), two.join("rank1.safetensors"));
        assert_eq!(std::fs::read(&rank0).unwrap(), std::fs::read(rank1).unwrap(), "{arm}: ranks differ");
        let apart = difference(&rank0, &one.join("rank0.safetensors"));
        println!("{arm}: two ranks and one rank differ by {apart:e} after 20 steps");
        assert!(apart <= 1e-5, "{arm}: {apart:e}");
        let start = bench.run(&format!("{arm}-start"), arm, &train.replace("20", "1"), 1, None, None);
        let moved = difference(&rank0, &start.join("rank0.safetensors"));
        assert!(
            moved > 1e-3,
            "{arm}: training moved the weights by {moved:e} only, so the comparison shows nothing"
        );
    }
}

#[test]
fn a_stopped_trial_resumes_to_the_same_bits_and_metrics() {
    let bench = Bench::new();
    let train = "batch_size = 2\nreplicas = 2\nsteps = 30\n";
    for (arm, ranks) in [("mti-net", 2), ("unet", 1), ("ei-ddpm", 1)] {
        let whole = bench.run(&format!("{arm}-whole"), arm, train, ranks, None, None);
        let part = bench.run(&format!("{arm}-part"), arm, train, ranks, None, Some(13));
        let checkpoint = part.join("checkpoints/step-000000013.safetensors");
        assert!(checkpoint.exists(), "stopped at another step");
        let rest = bench.run(&format!("{arm}-rest"), arm, train, ranks, Some(&checkpoint), None);
        for file in
            (0..ranks).map(|rank| format!("rank{rank}.safetensors")).chain(["evaluation.json".to_owned()])
        {
            let read = |dir: &Path| std::fs::read(dir.join(&file)).unwrap();
            assert!(read(&whole) == read(&rest), "{arm}: {file} differs");
        }
        let records = |dir: &Path| -> Vec<MetricRecord> {
            serde_json::from_slice(&std::fs::read(dir.join("metrics0.json")).unwrap()).unwrap()
        };
        let told: Vec<MetricRecord> = records(&part).into_iter().chain(records(&rest)).collect();
        assert_eq!(told, records(&whole), "{arm}: metrics differ");
    }
}

#[test]
fn asking_for_cuda_graphs_changes_nothing_on_the_cpu() {
    let bench = Bench::new();
    let train = "batch_size = 2\nsteps = 8\n";
    let weights = |name: &str, train: &str| {
        let out = bench.run(name, "mti-net", train, 1, None, None);
        std::fs::read(out.join("rank0.safetensors")).unwrap()
    };
    let (off, on) = (weights("off", train), weights("on", &format!("{train}cuda_graphs = true\n")));
    assert!(off == on);
}

#[test]
fn a_trial_stopped_at_the_end_of_an_epoch_ends_that_epoch_first() {
    let bench = Bench::new();
    // More samples a step than slices: every step is an epoch.
    let train = "batch_size = 72\nreplicas = 1\nsteps = 3\n";
    let records = |dir: &Path| -> Vec<MetricRecord> {
        serde_json::from_slice(&std::fs::read(dir.join("metrics0.json")).unwrap()).unwrap()
    };
    let whole = bench.run("whole", "seg-only", train, 1, None, None);
    let part = bench.run("part", "seg-only", train, 1, None, Some(2));
    let checkpoint = part.join("checkpoints/step-000000002.safetensors");
    let rest = bench.run("rest", "seg-only", train, 1, Some(&checkpoint), None);
    let told: Vec<MetricRecord> = records(&part).into_iter().chain(records(&rest)).collect();
    assert_eq!(told.iter().filter(|record| record.scope == MetricScope::Epoch).count(), 3);
    assert_eq!(told, records(&whole));
}

#[test]
fn a_checkpoint_of_another_trial_is_refused() {
    let bench = Bench::new();
    let out = bench.run("a", "unet", "steps = 2\nbatch_size = 2\n", 1, None, Some(1));
    let checkpoint = out.join("checkpoints/step-000000001.safetensors");
    let study = "name = \"s\"\ndataset = \"data\"\narms = [\"unet\"]\n[model]\npreset = \"tiny64\"\n[train]\nimage_size = 64\n";
    let spec = StudySpec::from_toml(study).unwrap();
    let root = bench.dir.path();
    let data = FoldData::open(&root.join("data"), &root.join("cache"), &spec, 0, &|_, _| {}).unwrap();
    let plan = Plan {
        spec,
        trial: "unet/0/0".parse().unwrap(),
        device: Device::Cpu,
        work_dir: root.join("b"),
        trace: None,
        sharing: 1,
    };
    let mut trainer = Trainer::new(plan, data, Gang::alone()).unwrap();
    let error = trainer.resume(&checkpoint, None).unwrap_err().to_string();
    assert!(error.contains("belongs to another study, data set or trial (unet/1/3)"), "{error}");
}
