//! A coordinator and workers as processes of this machine, and what the coordinator recorded.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mtinet_domain::event::{Event, MetricRecord, Recorded, StudyOutcome};
use mtinet_domain::{StudyId, TrialKey};
use mtinet_proto::v1::{ListWorkersRequest, StreamEventsRequest, WorkerState};
use mtinet_runtime::net;
use mtinet_runtime::tls::{Credentials, Identity};

use crate::hosts::Place;
use crate::processes::Process;
use crate::program;

/// How long a test waits without anything happening.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A cluster of this machine; everything ends with it.
pub struct Cluster {
    dir: tempfile::TempDir,
    address: String,
    place: Place,
    coordinator: Option<Process>,
    runtime: tokio::runtime::Runtime,
}

impl Cluster {
    /// A coordinator without workers.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn start() -> Self {
        Self::start_at(Place::default())
    }

    /// As [`Cluster::start`], with the coordinator on a host of its own.
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn start_at(place: Place) -> Self {
        let host = place.address();
        // In a namespace every port is free.
        let free = TcpListener::bind(format!("{host}:0")).and_then(|listener| listener.local_addr());
        let port = free.map_or(7077, |address| address.port());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut cluster = Self { dir, address: format!("{host}:{port}"), place, coordinator: None, runtime };
        cluster.start_coordinator();
        cluster
    }

    /// Starts the coordinator, again after [`Cluster::kill_coordinator`].
    ///
    /// # Panics
    /// Where it does not come up.
    pub fn start_coordinator(&mut self) {
        let mut command = self.place.command(&program("mtinet"));
        command.arg("coordinator").arg("--data-dir").arg(self.data_dir());
        command.arg("--listen").arg(&self.address);
        self.coordinator = Some(Process::start(&mut command, &self.dir.path().join("coordinator.log")));
        let deadline = Instant::now() + PATIENCE;
        while !self.answers() {
            assert!(
                Instant::now() < deadline,
                "the coordinator does not answer: {}",
                self.log("coordinator")
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the coordinator as `kill -9` does.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill_coordinator(&mut self) {
        self.coordinator.take().expect("the coordinator runs").kill();
    }

    /// The coordinator's process.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn coordinator(&mut self) -> &mut Process {
        self.coordinator.as_mut().expect("the coordinator runs")
    }

    /// Whether the coordinator lets its operator in.
    fn answers(&self) -> bool {
        let Ok(identity) = Identity::load(&self.data_dir().join("tls/operator.pem")) else { return false };
        self.runtime.block_on(net::connect_as(&self.url(), &Credentials::of(identity))).is_ok()
    }

    /// The coordinator's data directory, which stands for the coordinator in commands on this machine.
    pub fn data_dir(&self) -> PathBuf {
        self.place.dir.clone().unwrap_or_else(|| self.dir.path().join("coordinator"))
    }

    /// A file with a new token.
    ///
    /// # Panics
    /// Where the coordinator makes none.
    pub fn token(&self, role: &str, name: &str) -> PathBuf {
        let file = self.dir.path().join(format!("{name}.token"));
        let mut command = Command::new(program("mtinet"));
        command
            .args(["token", "create", "--role", role, "--data-dir"])
            .arg(self.data_dir())
            .arg("--out")
            .arg(&file);
        let output = command.output().expect("mtinet starts");
        assert!(output.status.success(), "{}", crate::stderr(&output));
        file
    }

    /// Starts a worker with CPU slots that sees the data sets under `data_root`.
    pub fn worker(&self, name: &str, slots: u32, data_root: &Path) -> Process {
        self.worker_at(&Place::default(), name, slots, data_root)
    }

    /// As [`Cluster::worker`], on a host of its own.
    pub fn worker_at(&self, place: &Place, name: &str, slots: u32, data_root: &Path) -> Process {
        let mut command = place.command(&program("mtinet-worker"));
        let url = place.coordinator.clone().unwrap_or_else(|| self.url());
        command.arg("--coordinator").arg(url).arg("--name").arg(name);
        command.arg("--token-file").arg(self.token("worker", name));
        command.arg("--devices").arg(format!("cpu:{slots}")).arg("--data-root").arg(data_root);
        command.arg("--work-dir").arg(self.work_dir(place, name)).arg("--advertise").arg(place.address());
        // Several trainers share a small machine here, where threads that wait for each other take most of the time.
        command.env("OMP_THREAD_LIMIT", "1");
        Process::start(&mut command, &self.dir.path().join(format!("{name}.log")))
    }

    /// The work directory of a worker.
    pub fn work_dir(&self, place: &Place, name: &str) -> PathBuf {
        place.dir.clone().unwrap_or_else(|| self.dir.path().join(name))
    }

    /// The workers that the coordinator lists, by name; of one name the latest that is not lost, if any is not.
    ///
    /// # Panics
    /// Where the coordinator does not answer.
    pub fn workers(&self) -> BTreeMap<String, WorkerState> {
        let listed = self.runtime.block_on(async {
            let identity = Identity::load(&self.data_dir().join("tls/operator.pem")).expect("an identity");
            let channel = net::connect_as(&self.url(), &Credentials::of(identity)).await;
            let channel = channel.expect("the coordinator answers");
            let listed = net::client_client(channel).list_workers(ListWorkersRequest {}).await;
            listed.expect("the coordinator answers").into_inner().workers
        });
        let mut workers: BTreeMap<String, WorkerState> = BTreeMap::new();
        for worker in listed {
            if worker.status != "lost" || !workers.contains_key(&worker.name) {
                workers.insert(worker.name.clone(), worker);
            }
        }
        workers
    }

    /// Waits until so many workers are ready.
    ///
    /// # Panics
    /// Where they do not come.
    pub fn wait_for_workers(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.workers().values().filter(|worker| worker.status == "ready").count() < count {
            assert!(Instant::now() < deadline, "{count} workers do not come");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The coordinator's address.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Submits a study through the command line.
    ///
    /// # Panics
    /// Where it is refused.
    pub fn submit(&self, study: &str) -> StudyId {
        self.submit_with(study, &[])
    }

    /// As [`Cluster::submit`], with more arguments.
    ///
    /// # Panics
    /// Where it is refused.
    pub fn submit_with(&self, study: &str, arguments: &[&str]) -> StudyId {
        let file = self.write("study.toml", study);
        let output = Command::new(program("mtinet"))
            .args(["study", "submit"])
            .arg(file)
            .args(arguments)
            .arg("--coordinator")
            .arg(self.data_dir())
            .output()
            .expect("mtinet starts");
        assert!(output.status.success(), "{}", crate::stderr(&output));
        let number = String::from_utf8_lossy(&output.stdout);
        StudyId(number.trim().parse().unwrap_or_else(|_| panic!("not a study's number: {number}")))
    }

    /// Cancels a study through the command line.
    ///
    /// # Panics
    /// Where it is refused.
    pub fn cancel(&self, study: StudyId) {
        let mut command = Command::new(program("mtinet"));
        command.args(["study", "cancel", &study.to_string(), "--coordinator"]).arg(self.data_dir());
        let output = command.output().expect("mtinet starts");
        assert!(output.status.success(), "{}", crate::stderr(&output));
    }

    /// A file in the cluster's directory.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).expect("the file is written");
        path
    }

    /// Waits until an event satisfies `wanted`, and returns all events so far.
    ///
    /// # Panics
    /// Where the study ends before that, or nothing happens for as long as patience lasts.
    pub fn wait_for(&self, study: StudyId, what: &str, wanted: impl Fn(&Event) -> bool) -> Vec<Recorded> {
        let (mut deadline, mut seen) = (Instant::now() + PATIENCE, 0);
        loop {
            let events = self.events(study);
            // A slow machine is no fault: patience ends only where nothing happens any more.
            if events.len() > seen {
                (deadline, seen) = (Instant::now() + PATIENCE, events.len());
            }
            if events.iter().any(|recorded| wanted(&recorded.event)) {
                return events;
            }
            let last = events.last().map(|recorded| &recorded.event);
            assert!(
                !matches!(last, Some(Event::StudyFinished { .. })),
                "the study ended without {what}: {events:#?}"
            );
            assert!(
                Instant::now() < deadline,
                "no {what}, and nothing else for {PATIENCE:?}; the last event is {last:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the study is over and complete.
    ///
    /// # Panics
    /// Where it ends otherwise.
    pub fn wait_until_complete(&self, study: StudyId) -> Vec<Recorded> {
        let events = self.wait_for(study, "an end", |event| matches!(event, Event::StudyFinished { .. }));
        let complete = Event::StudyFinished { outcome: StudyOutcome::Complete };
        assert_eq!(
            events.last().map(|recorded| &recorded.event),
            Some(&complete),
            "{}",
            self.log("coordinator")
        );
        events
    }

    /// Everything recorded about a study so far.
    ///
    /// # Panics
    /// Where the coordinator does not answer.
    pub fn events(&self, study: StudyId) -> Vec<Recorded> {
        self.runtime.block_on(async {
            let operator = Identity::load(&self.data_dir().join("tls/operator.pem")).expect("an operator");
            let channel = net::connect_as(&self.url(), &Credentials::of(operator)).await;
            let mut client = net::client_client(channel.expect("the coordinator answers"));
            let request = StreamEventsRequest { study: study.0, after: 0, follow: false };
            let mut stream = client.stream_events(request).await.expect("the study exists").into_inner();
            let mut events = Vec::new();
            while let Some(event) = stream.message().await.expect("events come") {
                let recorded = Recorded {
                    study: StudyId(event.study),
                    seq: event.seq,
                    time_ms: event.time_ms,
                    event: serde_json::from_str(&event.json).expect("stored events can be read"),
                };
                events.push(recorded);
            }
            events
        })
    }

    /// What a program of the cluster printed.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }
}

/// What a trial came to, without anything that time or place decide.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Hash of the trained weights.
    pub weights: String,
    /// Hash of the per-slice results.
    pub evaluation: String,
    /// The measurements that count: of each step those of the last attempt that made it.
    pub metrics: BTreeMap<(String, u64), BTreeMap<String, u64>>,
    /// Executions.
    pub attempts: u32,
}

impl Outcome {
    /// Of one trial of a complete study.
    ///
    /// # Panics
    /// Where the trial was not evaluated.
    pub fn of(events: &[Recorded], key: TrialKey) -> Self {
        let mut outcome =
            Self { weights: String::new(), evaluation: String::new(), metrics: BTreeMap::new(), attempts: 0 };
        for recorded in events.iter().filter(|recorded| recorded.event.trial() == Some(key)) {
            match &recorded.event {
                Event::AttemptStarted { attempt, .. } => outcome.attempts = attempt.0,
                Event::Metrics { records, .. } => records.iter().for_each(|record| outcome.add(record)),
                Event::TrialEvaluated { evaluation, weights, .. } => {
                    outcome.evaluation.clone_from(&evaluation.blake3);
                    outcome.weights.clone_from(&weights.as_ref().expect("weights are kept").blake3);
                }
                _ => {}
            }
        }
        assert!(!outcome.weights.is_empty(), "{key} was not evaluated");
        outcome
    }

    fn add(&mut self, record: &MetricRecord) {
        // Bits, because equal means equal here.
        let computed = record.clone().without_time().values;
        let values = computed.into_iter().map(|(name, value)| (name, value.to_bits())).collect();
        self.metrics.insert((format!("{:?}", record.scope), record.step), values);
    }
}
