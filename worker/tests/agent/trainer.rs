//! A trainer that trains nothing: it speaks the protocol and behaves, well or badly, as its script says.
//!
//! It is this test's own executable, started again through a small shell script that stands for `mtinet-trainer`.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::{
    FromTrainer, MetricRecord, RendezvousReady, SavedCheckpoint, ToTrainer, TrainerEvaluated, TrainerFailed,
    TrainerFinished, TrainerHello, TrainerStart, TrainerWorking, from_trainer, metric_record, to_trainer,
};
use nix::sys::signal::{Signal, raise};
use prost::Message;

/// One step of pretended training.
const STEP: Duration = Duration::from_millis(10);

/// Writes the program that an agent starts; `script` is what it will do.
pub fn program(dir: &Path, script: &str) -> PathBuf {
    let path = dir.join(format!("trainer-{script}"));
    let this = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\nFAKE_SCRIPT={script} FAKE_SOCKET=\"$3\" exec '{}' --ignored --exact --nocapture trainer_program\n",
        this.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The program's main; nothing where it is run as a test.
pub fn main() {
    let (Ok(script), Ok(socket)) = (std::env::var("FAKE_SCRIPT"), std::env::var("FAKE_SOCKET")) else {
        return;
    };
    if script == "silent" {
        loop {
            std::thread::park();
        }
    }
    let mut trainer = Trainer::connect(&socket);
    let code = match script.as_str() {
        "finish" => trainer.finish(),
        "crash" => trainer.crash(),
        "fail" => trainer.fail(),
        "save" => trainer.save(),
        "flood" => trainer.flood(),
        "train" => trainer.train(false),
        "stubborn" => trainer.train(true),
        "evaluate" => trainer.evaluate(),
        other => panic!("no script {other}"),
    };
    std::process::exit(code);
}

struct Trainer {
    socket: UnixStream,
    told: Receiver<to_trainer::Message>,
    start: TrainerStart,
}

impl Trainer {
    fn connect(socket: &str) -> Self {
        let mut socket = UnixStream::connect(socket).unwrap();
        let hello = TrainerHello { protocol_version: PROTOCOL_VERSION };
        say(&mut socket, from_trainer::Message::Hello(hello));
        let mut reader = socket.try_clone().unwrap();
        let (sender, told) = channel();
        std::thread::spawn(move || {
            while let Some(message) = read(&mut reader) {
                sender.send(message.message.unwrap()).unwrap();
            }
            // A trainer ends itself when its agent is gone.
            std::process::exit(3);
        });
        let Ok(to_trainer::Message::Start(start)) = told.recv() else { panic!("no start") };
        Self { socket, told, start }
    }

    /// Does everything that a good trainer does.
    fn finish(&mut self) -> i32 {
        let ready = RendezvousReady { host: self.start.host.clone(), port: 4711 };
        self.say(from_trainer::Message::Rendezvous(ready));
        let length = |path: &str| std::fs::read(path).map_or(-1.0, |content| content.len() as f64);
        let resume = self.start.assignment.as_ref().and_then(|start| start.resume.as_ref());
        let secrets = std::env::vars().filter(|(name, _)| name.starts_with("MTINET_TOKEN")).count();
        let facts = [
            ("resume_step", resume.map_or(-1.0, |resume| resume.step as f64)),
            ("resume_bytes", length(&self.start.resume_path)),
            ("fallback_bytes", length(&self.start.fallback_path)),
            ("init_bytes", length(&self.start.init_path)),
            ("threads", std::env::var("OMP_NUM_THREADS").unwrap().parse().unwrap()),
            ("waits_briefly", is_set("GOMP_SPINCOUNT", "10000")),
            ("secrets", secrets as f64),
            ("deterministic", is_set("CUBLAS_WORKSPACE_CONFIG", ":4096:8")),
            ("quiet", is_set("TORCH_CPP_LOG_LEVEL", "ERROR")),
            (
                "dataset",
                f64::from(u8::from(Path::new(&self.start.dataset_dir).join("dataset.toml").exists())),
            ),
        ];
        self.step(1, &facts);
        for step in 2..=4 {
            self.step(step, &[("loss", 1.0 / step as f64)]);
            self.checkpoint(step);
        }
        let file = |name: &str| {
            let path = Path::new(&self.start.work_dir).join(name);
            std::fs::write(&path, name).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let evaluated = TrainerEvaluated {
            summary_json: "{}".to_owned(),
            evaluation_path: file("evaluation"),
            weights_path: file("weights"),
            predictions_path: String::new(),
        };
        self.say(from_trainer::Message::Evaluated(evaluated));
        self.say(from_trainer::Message::Finished(TrainerFinished {}));
        0
    }

    /// Dies as if it had been killed for memory.
    fn crash(&mut self) -> i32 {
        self.step(7, &[]);
        for line in 0..30 {
            eprintln!("line {line} of the log");
        }
        raise(Signal::SIGKILL).unwrap();
        unreachable!()
    }

    /// Writes more than may be sent in any useful time.
    fn flood(&mut self) -> i32 {
        let line = "x".repeat(99);
        for _ in 0..40_000 {
            eprintln!("{line}");
        }
        self.say(from_trainer::Message::Finished(TrainerFinished {}));
        0
    }

    fn fail(&mut self) -> i32 {
        let message = "the loss is not a number".to_owned();
        self.say(from_trainer::Message::Failed(TrainerFailed {
            message,
            step: Some(9),
            missing: Vec::new(),
        }));
        1
    }

    /// Writes a checkpoint at every step until it is told to stop.
    fn save(&mut self) -> i32 {
        for step in 1.. {
            if matches!(self.told.recv_timeout(STEP), Ok(to_trainer::Message::Stop(_))) {
                return 0;
            }
            self.step(step, &[]);
            self.checkpoint(step);
        }
        1
    }

    /// Trains until it is told to stop, and then leaves a checkpoint; `stubborn` goes on forever.
    fn train(&mut self, stubborn: bool) -> i32 {
        for step in 1.. {
            match self.told.recv_timeout(STEP) {
                Ok(to_trainer::Message::Stop(_)) if !stubborn => {
                    self.checkpoint(step);
                    return 0;
                }
                Ok(to_trainer::Message::Rendezvous(ready)) => {
                    self.step(step, &[("connected_to", f64::from(ready.port))]);
                }
                _ => self.step(step, &[]),
            }
        }
        1
    }

    /// Works until it is told to stop, and has nothing to report meanwhile.
    fn evaluate(&mut self) -> i32 {
        while !matches!(self.told.recv_timeout(STEP), Ok(to_trainer::Message::Stop(_))) {
            self.say(from_trainer::Message::Working(TrainerWorking { step: 1 }));
        }
        0
    }

    fn step(&mut self, step: u64, values: &[(&str, f64)]) {
        let values: HashMap<String, f64> =
            values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let scope = metric_record::Scope::Step.into();
        self.say(from_trainer::Message::Metrics(MetricRecord {
            scope,
            step,
            epoch: 1,
            train_seconds: 0.1,
            values,
        }));
    }

    fn checkpoint(&mut self, step: u64) {
        let path = Path::new(&self.start.work_dir).join(format!("checkpoint-{step}"));
        let content = format!("weights after {step} steps");
        std::fs::write(&path, &content).unwrap();
        let artifact = crate::coordinator::artifact(content.as_bytes());
        let path = path.to_str().unwrap().to_owned();
        self.say(from_trainer::Message::Checkpoint(SavedCheckpoint { step, path, artifact: Some(artifact) }));
    }

    fn say(&mut self, message: from_trainer::Message) {
        say(&mut self.socket, message);
    }
}

fn is_set(name: &str, value: &str) -> f64 {
    f64::from(u8::from(std::env::var(name).is_ok_and(|found| found == value)))
}

fn say(socket: &mut UnixStream, message: from_trainer::Message) {
    let frame = FromTrainer { message: Some(message) }.encode_length_delimited_to_vec();
    if socket.write_all(&frame).is_err() {
        std::process::exit(3);
    }
}

fn read(socket: &mut UnixStream) -> Option<ToTrainer> {
    let mut prefix = Vec::new();
    while prefix.last().is_none_or(|byte| byte & 0x80 != 0) {
        let mut byte = [0];
        socket.read_exact(&mut byte).ok()?;
        prefix.extend(byte);
    }
    let mut frame = vec![0; prost::decode_length_delimiter(prefix.as_slice()).unwrap()];
    socket.read_exact(&mut frame).ok()?;
    Some(ToTrainer::decode(frame.as_slice()).unwrap())
}
