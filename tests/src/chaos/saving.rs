//! A trainer that is killed while it saves checkpoints, a thousand times.
//!
//! There is no agent here: this process speaks with one trainer after the other as an agent does, and hands each the newest
//! checkpoint that the one before left. With an agent in between, most kills would fall into its doings instead of a write.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use mtinet_domain::StudySpec;
use mtinet_proto::v1::from_trainer::Message;
use mtinet_proto::v1::{
    Artifact, Attempt, Checkpoint, Dataset, Device, FromTrainer, StartRank, ToTrainer, TrainerStart, Trial,
    device, to_trainer,
};
use prost::Message as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::{Case, Outcome, Report};
use crate::cluster::PATIENCE;
use crate::processes::Process;
use crate::{phantom_dataset, program};

/// Kills at any moment of a save.
pub const KILLS: Case = Case {
    name: "kills-while-saving",
    what: "1,000 SIGKILLs of a trainer that saves after each step; the next one always goes on from the newest checkpoint",
    short: false,
    run: kills,
};

/// Unless `MTINET_KILLS` says otherwise.
const TIMES: u64 = 1000;

/// Trainers at a time, each with a trial of its own: most of a trainer's life is its start.
const LANES: u64 = 2;

/// Longest time from a trainer's first checkpoint to its end, in microseconds: a few steps, each with its checkpoint.
const LONGEST_LIFE_US: u64 = 60_000;

const STUDY: &str = "name = \"saving\"\ndataset = \"phantom\"\narms = [\"seg-only\"]\nfolds = [2]\n[model]\npreset = \"tiny64\"\n\
    [train]\nsteps = 1000000\nbatch_size = 1\nimage_size = 64\neval_every = 0\n[checkpoint]\nevery_steps = 1\n";

fn kills(report: &mut Report) -> Outcome {
    let cache = tempfile::tempdir().expect("a temporary directory");
    let seed = report.seed;
    report.say(format_args!("seed {seed}"));
    let times =
        std::env::var("MTINET_KILLS").map_or(TIMES, |times| times.parse().expect("MTINET_KILLS is a number"));
    let lane = |lane: u64| Lane::new(cache.path(), lane).kill(times / LANES, seed + lane);
    // The slices are prepared for all of them.
    Lane::new(cache.path(), LANES).kill(1, seed);
    let interrupted: u64 = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(move || lane(number))).collect();
        lanes.into_iter().map(|lane| lane.join().expect("each checkpoint is usable")).sum()
    });
    let killed = times / LANES * LANES;
    report.say(format_args!("{interrupted} of {killed} kills fell into the writing of a checkpoint"));
    assert!(interrupted > killed / 20, "too few kills fell into a write to show anything");
    report.count("kills while saving after which the newest checkpoint was usable", killed, times);
    Ok(())
}

/// A trial and the directory that its trainers work in, one after the other.
struct Lane<'a> {
    cache: &'a Path,
    dir: tempfile::TempDir,
    assignment: StartRank,
}

/// A checkpoint on the disk.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    step: u64,
    path: PathBuf,
    artifact: Artifact,
}

impl<'a> Lane<'a> {
    fn new(cache: &'a Path, seed: u64) -> Self {
        let spec = StudySpec::from_toml(&format!("seeds = [{seed}]\n{STUDY}")).expect("the study is valid");
        let dataset = mtinet_data::Dataset::open(phantom_dataset()).expect("the data set is there");
        let (hash, header) = (dataset.hash(), dataset.header);
        let trial = Some(Trial { study: 1, key: format!("seg-only/2/{seed}") });
        let assignment = StartRank {
            attempt: Some(Attempt { trial, number: 1 }),
            study_name: spec.name.clone(),
            spec_json: spec.to_json(),
            dataset: Some(Dataset {
                name: header.name,
                path: phantom_dataset().to_string_lossy().into_owned(),
                hash,
                phases: header.phases,
                classes: header.classes,
            }),
            world_size: 1,
            ..StartRank::default()
        };
        Self { cache, dir: tempfile::tempdir().expect("a temporary directory"), assignment }
    }

    /// Kills as many trainers, and returns how many kills fell into a write. What the kills leave is in the end what a trainer
    /// has that nobody kills.
    fn kill(&self, times: u64, seed: u64) -> u64 {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let (mut newest, mut interrupted) = (None, 0);
        for kill in 0..times {
            let life = Duration::from_micros(chance.next_u64() % LONGEST_LIFE_US);
            let trainer = Trainer::start(self, "killed", newest.as_ref());
            let first = trainer.checkpoint();
            let expected = newest.as_ref().map_or(0, |found: &Found| found.step) + 1;
            assert_eq!(first.step, expected, "it goes on from the newest checkpoint: {}", self.log("killed"));
            // Every other kill is for a write, however seldom a slow machine comes to one.
            if kill % 2 == 0 {
                self.wait_for_write("killed");
            }
            // The moment of the fault, not a wait for something.
            std::thread::sleep(if kill % 2 == 0 { life / 100 } else { life });
            let told = trainer.kill().pop().unwrap_or(first);
            let found = self.newest("killed");
            assert!(
                found.step >= told.step,
                "checkpoint {} was told and {} is the newest",
                told.step,
                found.step
            );
            assert!(found.step > told.step || found == told, "{found:?} was told as {told:?}");
            interrupted += u64::from(self.remove_others("killed", &found));
            newest = Some(found);
        }
        let Some(newest) = newest else { return interrupted };
        let alone = Trainer::start(self, "alone", None);
        let mut reached = alone.checkpoint();
        while reached.step < newest.step {
            let next = alone.checkpoint();
            std::fs::remove_file(&reached.path).expect("it can be removed");
            reached = next;
        }
        alone.kill();
        let alone = reached.path;
        assert!(
            tensors(&alone) == tensors(&newest.path),
            "step {} has other bits when nobody kills",
            newest.step
        );
        interrupted
    }

    /// Waits until a checkpoint is being written.
    fn wait_for_write(&self, work_dir: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !names(&self.checkpoints(work_dir)).iter().any(|name| name.starts_with('.')) {
            assert!(Instant::now() < deadline, "nothing is written: {}", self.log(work_dir));
        }
    }

    fn checkpoints(&self, work_dir: &str) -> PathBuf {
        self.dir.path().join(work_dir).join("checkpoints")
    }

    /// The newest one, by its name, whether it was told or not.
    fn newest(&self, work_dir: &str) -> Found {
        let step = |name: &str| name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse::<u64>().ok();
        let steps = names(&self.checkpoints(work_dir)).into_iter().filter_map(|name| step(&name));
        let step = steps.max().expect("a checkpoint was told, so one is there");
        let path = self.checkpoints(work_dir).join(file_name(step));
        let bytes = std::fs::read(&path).expect("the checkpoint can be read");
        let artifact =
            Artifact { blake3: blake3::hash(&bytes).to_hex().to_string(), bytes: bytes.len() as u64 };
        Found { step, path, artifact }
    }

    /// Removes all but the newest, and tells whether one was being written.
    fn remove_others(&self, work_dir: &str, newest: &Found) -> bool {
        let mut begun = false;
        for name in names(&self.checkpoints(work_dir)) {
            begun |= name.starts_with('.');
            let path = self.checkpoints(work_dir).join(name);
            if path != newest.path {
                std::fs::remove_file(path).expect("it can be removed");
            }
        }
        begun
    }

    fn log(&self, work_dir: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{work_dir}.log"))).unwrap_or_default()
    }
}

fn file_name(step: u64) -> String {
    format!("step-{step:09}.safetensors")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("the directory is there");
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// The values of a safetensors file, without the header, which holds times.
fn tensors(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("the checkpoint can be read");
    let (length, rest) = bytes.split_first_chunk::<8>().expect("it begins with the header's length");
    rest[u64::from_le_bytes(*length) as usize..].to_vec()
}

/// A trainer, and what it says.
struct Trainer {
    process: Process,
    said: Receiver<Message>,
    /// The trainer ends when it closes.
    _socket: UnixStream,
}

impl Trainer {
    fn start(lane: &Lane<'_>, work_dir: &str, resume: Option<&Found>) -> Self {
        let dir = lane.dir.path();
        let socket = dir.join("socket");
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).expect("a socket");
        let mut command = std::process::Command::new(program("mtinet-trainer"));
        command.args(["run", "--socket"]).arg(&socket).env("OMP_NUM_THREADS", "1");
        let process = Process::start(&mut command, &dir.join(format!("{work_dir}.log")));
        let (mut stream, _) = listener.accept().expect("the trainer connects");
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let checkpoint =
            |found: &Found| Checkpoint { step: found.step, artifact: Some(found.artifact.clone()) };
        let start = TrainerStart {
            assignment: Some(StartRank { resume: resume.map(checkpoint), ..lane.assignment.clone() }),
            device: Some(Device { kind: device::Kind::Cpu.into(), index: 0 }),
            threads: 1,
            host: "127.0.0.1".to_owned(),
            dataset_dir: text(phantom_dataset()),
            cache_dir: text(lane.cache),
            work_dir: text(&dir.join(work_dir)),
            resume_path: resume.map(|found| text(&found.path)).unwrap_or_default(),
            ..TrainerStart::default()
        };
        let start = ToTrainer { message: Some(to_trainer::Message::Start(start)) };
        stream.write_all(&start.encode_length_delimited_to_vec()).expect("the trainer listens");
        let mut reader = stream.try_clone().expect("the socket can be shared");
        let (sender, said) = channel();
        // Ends with the trainer.
        std::thread::spawn(move || {
            while let Some(message) = read(&mut reader).and_then(|said| said.message) {
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        Self { process, said, _socket: stream }
    }

    /// The next checkpoint that it tells.
    fn checkpoint(&self) -> Found {
        loop {
            match self.said.recv_timeout(PATIENCE) {
                Ok(Message::Failed(failed)) => panic!("the trainer failed: {}", failed.message),
                Ok(message) => {
                    if let Some(found) = told(message) {
                        return found;
                    }
                }
                Err(problem) => panic!("the trainer saves nothing: {problem}"),
            }
        }
    }

    /// Ends it as `kill -9` does; returns the checkpoints that it told meanwhile.
    fn kill(self) -> Vec<Found> {
        self.process.kill();
        self.said.into_iter().filter_map(told).collect()
    }
}

fn told(message: Message) -> Option<Found> {
    let Message::Checkpoint(saved) = message else { return None };
    Some(Found { step: saved.step, path: saved.path.into(), artifact: saved.artifact? })
}

/// The next message; nothing when the trainer is gone, in the middle of one too.
fn read(reader: &mut impl Read) -> Option<FromTrainer> {
    let mut length = Vec::new();
    while length.last().is_none_or(|byte| byte & 0x80 != 0) {
        let mut byte = [0];
        reader.read_exact(&mut byte).ok()?;
        length.push(byte[0]);
    }
    let mut bytes = vec![0; prost::decode_length_delimiter(length.as_slice()).ok()?];
    reader.read_exact(&mut bytes).ok()?;
    FromTrainer::decode(bytes.as_slice()).ok()
}
