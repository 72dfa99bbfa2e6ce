//! The agent against a coordinator and trainers that are real processes and sockets, but do no work.
#![cfg(test)]

mod coordinator;
mod dataset;
mod logs;
mod program;
#[cfg(feature = "otel")]
mod traces;
mod trainer;
mod weights;

use std::path::{Path, PathBuf};
use std::time::Duration;

use mtinet_domain::StudySpec;
use mtinet_domain::spec::{InitialFile, PinnedFile};
use mtinet_domain::trial::Device;
use mtinet_proto::v1::coordinator_message::Message;
use mtinet_proto::v1::rank_exited::How;
use mtinet_proto::v1::report::Fact;
use mtinet_proto::v1::{Attempt, Checkpoint, ConnectRank, Dataset, StartRank, StopAttempt, Trial};
use mtinet_runtime::shutdown::Shutdown;
use mtinet_worker::{AgentError, Options, Timings};
use tokio::task::JoinHandle;

use coordinator::{Coordinator, artifact};

#[test]
#[ignore = "it is the trainer's program of the other tests"]
fn trainer_program() {
    trainer::main();
}

/// A coordinator, an agent and a directory for both.
struct Scene {
    coordinator: Coordinator,
    dir: tempfile::TempDir,
    shutdown: Shutdown,
    agent: JoinHandle<Result<(), AgentError>>,
}

impl Scene {
    fn start(script: &str) -> Self {
        Self::start_with(script, |_| {})
    }

    fn start_with(script: &str, change: impl FnOnce(&mut Options)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::start();
        let mut options = Options {
            coordinator: coordinator.url(),
            token_file: None,
            name: "here".to_owned(),
            devices: vec![Device::Cpu; 2],
            threads: 3,
            data_root: data_root(dir.path()),
            linked_data: false,
            work_dir: dir.path().join("work"),
            advertise: "127.0.0.1".to_owned(),
            trainer: trainer::program(dir.path(), script),
            exit_when_idle: false,
            artifact_cache_bytes: 1 << 20,
            data_cache_bytes: 1 << 30,
            metrics: mtinet_runtime::metrics::Address::Off,
            json_logs: false,
            timings: Timings { metrics: Duration::from_millis(20), ..Timings::default() },
        };
        change(&mut options);
        let shutdown = Shutdown::default();
        let told = shutdown.clone();
        let agent = tokio::spawn(async move { mtinet_worker::run(options, &told).await });
        Self { coordinator, dir, shutdown, agent }
    }

    async fn start_rank(&self, change: impl FnOnce(&mut StartRank)) {
        let mut start = assignment(self.dir.path());
        change(&mut start);
        self.coordinator.say(Message::Start(start)).await;
    }

    async fn stop(&self, grace_ms: u32) {
        let stop = StopAttempt { attempt: attempt(), reason: "cancelled".to_owned(), grace_ms };
        self.coordinator.say(Message::Stop(stop)).await;
    }

    async fn exit(&self) -> mtinet_proto::v1::RankExited {
        self.coordinator.until("the rank's end", coordinator::Ledger::exit).await
    }

    async fn training(&self) -> u32 {
        self.coordinator.until("training", |ledger| (ledger.steps().len() > 3).then_some(())).await;
        self.pid().await
    }

    async fn pid(&self) -> u32 {
        let started = |ledger: &coordinator::Ledger| {
            ledger
                .facts()
                .find_map(|fact| if let Fact::Started(started) = fact { Some(started.pid) } else { None })
        };
        self.coordinator.until("the trainer's start", started).await
    }

    /// Ends the agent and proves that nothing is left over.
    async fn end(self) -> Coordinator {
        self.shutdown.request();
        self.agent.await.unwrap().unwrap();
        let study = self.dir.path().join("work/study-1-tiny/mti-net-0-0/1");
        for rank in ["rank0", "rank1"] {
            assert!(!study.join(rank).exists(), "the rank's directory is removed");
        }
        self.coordinator
    }
}

fn data_root(dir: &Path) -> PathBuf {
    let root = dir.join("data");
    let liver = root.join("liver");
    std::fs::create_dir_all(&liver).unwrap();
    std::fs::write(
        liver.join("dataset.toml"),
        "schema = \"mtinet-dataset/1\"\nname = \"liver\"\nphases = [\"pre\", \"art\"]\nclasses = [\"hcc\", \"icc\"]\n\
         intensity_unit = \"scanner\"\n[labels]\nbackground = 0\n[source]\nlayout = \"test\"\n",
    )
    .unwrap();
    std::fs::write(liver.join("cases.jsonl"), "").unwrap();
    root.canonicalize().unwrap()
}

fn attempt() -> Option<Attempt> {
    Some(Attempt { trial: Some(Trial { study: 1, key: "mti-net/0/0".to_owned() }), number: 1 })
}

fn assignment(dir: &Path) -> StartRank {
    let spec = StudySpec::from_toml("name = \"tiny\"\ndataset = \"liver\"\narms = [\"mti-net\"]").unwrap();
    let hash = mtinet_data::Dataset::open(&dir.join("data/liver")).unwrap().hash();
    StartRank {
        attempt: attempt(),
        study_name: "tiny".to_owned(),
        spec_json: spec.to_json(),
        dataset: Some(Dataset {
            name: "liver".to_owned(),
            path: "/where/it/was/submitted".to_owned(),
            hash,
            phases: vec!["pre".to_owned(), "art".to_owned()],
            classes: vec!["hcc".to_owned(), "icc".to_owned()],
        }),
        rank: 0,
        world_size: 1,
        slot: 0,
        resume: None,
        fallback: None,
        traceparent: String::new(),
    }
}

fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_runs_to_its_end() {
    let scene = Scene::start("finish");
    scene.start_rank(|_| {}).await;
    let exit = scene.exit().await;
    assert_eq!((exit.how, exit.finished, exit.step), (Some(How::Code(0)), true, Some(4)), "{}", exit.message);
    scene.coordinator.until("heartbeats", |ledger| (ledger.heartbeats > 2).then_some(())).await;
    scene.coordinator.change(|ledger| {
        let order: Vec<&str> = ledger
            .facts()
            .map(|fact| match fact {
                Fact::Started(_) => "started",
                Fact::Rendezvous(_) => "rendezvous",
                Fact::Metrics(_) => "metrics",
                Fact::Checkpoint(_) => "checkpoint",
                Fact::Evaluated(_) => "evaluated",
                Fact::Exited(_) => "exited",
            })
            .collect();
        assert_eq!(order[..2], ["started", "rendezvous"]);
        assert_eq!(order[order.len() - 2..], ["evaluated", "exited"]);
        assert_eq!(ledger.steps(), [1, 2, 3, 4], "every measurement, in order");
        assert_eq!(ledger.value("threads"), Some(3.0));
        assert_eq!(
            ledger.value("waits_briefly"),
            Some(1.0),
            "another program on its cores is not to stop it"
        );
        assert_eq!((ledger.value("deterministic"), ledger.value("quiet")), (Some(1.0), Some(1.0)));
        assert_eq!(ledger.value("dataset"), Some(1.0));
        let checkpoints: Vec<u64> = ledger
            .facts()
            .filter_map(
                |fact| if let Fact::Checkpoint(checkpoint) = fact { Some(checkpoint.step) } else { None },
            )
            .collect();
        assert!(checkpoints.is_sorted() && checkpoints.last() == Some(&4), "{checkpoints:?}");
        let last = artifact(b"weights after 4 steps");
        assert!(ledger.artifacts.contains_key(&last.blake3), "stored before it is reported");
        let evaluated = ledger.facts().find_map(|fact| match fact {
            Fact::Evaluated(evaluated) => Some(evaluated.clone()),
            _ => None,
        });
        let evaluated = evaluated.unwrap();
        assert_eq!((evaluated.evaluation, evaluated.predictions), (Some(artifact(b"evaluation")), None));
        assert_eq!(ledger.hellos[0].slots.len(), 2);
        let cached = scene.dir.path().join("work/cache/artifacts").join(&last.blake3);
        assert!(cached.exists(), "the next attempt need not fetch it");
    });
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_told_with_its_signal_and_log() {
    let scene = Scene::start("crash");
    scene.start_rank(|_| {}).await;
    let exit = scene.exit().await;
    assert_eq!((exit.how, exit.finished, exit.step), (Some(How::Signal(9)), false, Some(7)));
    assert!(!exit.stopped, "nobody asked for it");
    assert!(exit.message.contains("killed by signal 9 (SIGKILL)"), "{}", exit.message);
    assert!(
        exit.message.contains("line 29 of the log") && !exit.message.contains("line 2 "),
        "{}",
        exit.message
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainers_own_words_are_passed_on() {
    let scene = Scene::start("fail");
    scene.start_rank(|_| {}).await;
    let exit = scene.exit().await;
    assert_eq!((exit.how, exit.step), (Some(How::Code(1)), Some(9)));
    assert_eq!(exit.message, "the loss is not a number");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patient_stop_leaves_a_checkpoint() {
    let scene = Scene::start("train");
    scene.start_rank(|_| {}).await;
    scene.training().await;
    scene.stop(20_000).await;
    let exit = scene.exit().await;
    assert_eq!((exit.how, exit.finished, exit.stopped), (Some(How::Code(0)), false, true));
    assert_eq!(exit.message, "stopped: cancelled");
    scene.coordinator.change(|ledger| {
        assert!(ledger.facts().any(|fact| matches!(fact, Fact::Checkpoint(_))));
    });
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_only_works_gives_a_sign_of_life_and_not_with_each_heartbeat() {
    let scene = Scene::start("evaluate");
    scene.start_rank(|_| {}).await;
    let named = |ledger: &coordinator::Ledger| (!ledger.working.is_empty()).then_some(ledger.heartbeats);
    let beats = scene.coordinator.until("a sign of life", named).await;
    let later =
        |ledger: &coordinator::Ledger| (ledger.heartbeats > beats + 20).then(|| ledger.working.clone());
    let working = scene.coordinator.until("more heartbeats", later).await;
    assert_eq!(working, [vec![attempt().unwrap()]]);
    scene.stop(20_000).await;
    scene.exit().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_nothing_does_not_keep_a_stopped_rank() {
    for then in [None, Some(0)] {
        let scene = Scene::start_with("train", |options| {
            options.timings.store = Duration::from_millis(if then.is_some() { 3_600_000 } else { 300 });
        });
        scene.coordinator.change(|ledger| ledger.full = true);
        scene.start_rank(|_| {}).await;
        let pid = scene.training().await;
        scene.stop(if then.is_some() { 20_000 } else { 3000 }).await;
        if let Some(grace_ms) = then {
            // The trainer ends on its own; what it left is waited for until nobody wants it any more.
            scene.coordinator.until("an upload", |ledger| (ledger.refused > 0).then_some(())).await;
            let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
            while is_alive(pid) {
                assert!(tokio::time::Instant::now() < deadline, "the trainer goes on");
                tokio::task::yield_now().await;
            }
            scene.stop(grace_ms).await;
        }
        let exit = scene.exit().await;
        assert_eq!((exit.finished, exit.stopped), (false, true));
        assert!(exit.message.starts_with("stopped: cancelled; the checkpoint of step "), "{}", exit.message);
        assert!(exit.message.ends_with("could not be stored in time"), "{}", exit.message);
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_has_an_end() {
    for grace_ms in [0, 100] {
        let scene = Scene::start("stubborn");
        scene.start_rank(|_| {}).await;
        let pid = scene.training().await;
        scene.stop(grace_ms).await;
        let exit = scene.exit().await;
        assert_eq!((exit.how, exit.stopped), (Some(How::Signal(9)), true));
        assert!(exit.message.contains("stopped: cancelled"), "{}", exit.message);
        assert!(!is_alive(pid));
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trainer_that_says_nothing_is_ended() {
    let scene = Scene::start_with("silent", |options| options.timings.hello = Duration::from_millis(200));
    scene.start_rank(|_| {}).await;
    let exit = scene.exit().await;
    assert_eq!(exit.how, Some(How::Signal(9)));
    assert!(exit.message.contains("did not say hello within 200ms"), "{}", exit.message);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn training_goes_on_while_the_coordinator_is_away() {
    let mut scene = Scene::start("train");
    scene.start_rank(|_| {}).await;
    let pid = scene.training().await;
    // What it records from here on it does not acknowledge: the agent cannot know, and must not repeat it.
    scene.coordinator.change(|ledger| ledger.silent = true);
    let known = scene.coordinator.change(|ledger| ledger.steps().len());
    let more = |ledger: &coordinator::Ledger| (ledger.steps().len() > known + 5).then(|| ledger.last_seq());
    scene.coordinator.until("unacknowledged reports", more).await;
    scene.coordinator.kill();
    let recorded = scene.coordinator.change(|ledger| {
        ledger.silent = false;
        ledger.last_seq()
    });
    scene.coordinator.serve();
    let back = |ledger: &coordinator::Ledger| ledger.hellos.get(1).cloned();
    let hello = scene.coordinator.until("the agent", back).await;
    assert_eq!(hello.worker_id, "worker-1", "the same worker, not a new one");
    assert_eq!(hello.running.len(), 1, "its rank is there to be adopted");
    let caught_up = |ledger: &coordinator::Ledger| (ledger.last_seq() > recorded + 5).then_some(());
    scene.coordinator.until("what happened meanwhile", caught_up).await;
    assert!(is_alive(pid));
    scene.stop(20_000).await;
    scene.exit().await;
    let coordinator = scene.end().await;
    coordinator.change(|ledger| {
        let seqs: Vec<u64> = ledger.reports.iter().map(|report| report.seq).collect();
        assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "nothing is missing");
        assert_eq!(ledger.repeated, 0, "nothing that was recorded is repeated");
        let steps = ledger.steps();
        assert_eq!(steps, (1..=steps.len() as u64).collect::<Vec<_>>(), "no measurement is missing");
        assert_eq!(ledger.joins, 1);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_worker_joins_again_with_its_ranks() {
    let mut scene = Scene::start("train");
    scene.start_rank(|_| {}).await;
    let pid = scene.training().await;
    scene.coordinator.kill();
    scene.coordinator.change(|ledger| ledger.forgetful = true);
    scene.coordinator.serve();
    let hello = scene.coordinator.until("the agent", |ledger| ledger.hellos.get(1).cloned()).await;
    assert_eq!((hello.worker_id.as_str(), hello.running.len()), ("worker-2", 1));
    assert!(is_alive(pid));
    scene.stop(0).await;
    scene.exit().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranks_learn_where_the_first_one_listens() {
    let scene = Scene::start("train");
    scene.start_rank(|start| (start.rank, start.world_size, start.slot) = (1, 2, 1)).await;
    let connect = ConnectRank { attempt: attempt(), rank: 1, host: "127.0.0.1".to_owned(), port: 4711 };
    scene.coordinator.say(Message::Connect(connect)).await;
    let port = scene.coordinator.until("the port", |ledger| ledger.value("connected_to")).await;
    assert_eq!(port, 4711.0);
    scene.stop(0).await;
    scene.exit().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_started_is_told_in_words() {
    type Change = fn(&mut StartRank);
    let cases: [(Change, &str); 5] = [
        (|start| start.dataset.as_mut().unwrap().hash = "0123".to_owned(), "liver` with hash 0123"),
        (|start| start.slot = 7, "no slot 7"),
        (|start| start.spec_json = "{}".to_owned(), "spec_json"),
        (
            |start| start.spec_json = start.spec_json.replace("\"device\":\"auto\"", "\"device\":\"cuda\""),
            "resources.device",
        ),
        (
            |start| start.resume = Some(Checkpoint { step: 5, artifact: Some(artifact(b"gone")) }),
            "there is no such artifact",
        ),
    ];
    for (change, words) in cases {
        let scene = Scene::start("finish");
        scene.start_rank(change).await;
        let exit = scene.exit().await;
        assert_eq!(exit.how, Some(How::NotStarted(true)));
        assert!(exit.message.contains(words), "{}", exit.message);
        scene.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_holds_one_rank() {
    let scene = Scene::start("train");
    scene.start_rank(|_| {}).await;
    scene.training().await;
    scene.start_rank(|start| start.attempt.as_mut().unwrap().number = 2).await;
    let exit = scene.exit().await;
    assert_eq!(exit.how, Some(How::NotStarted(true)));
    assert!(
        exit.message.contains("slot 0 is held by study 1 mti-net/0/0 attempt 1 rank 0"),
        "{}",
        exit.message
    );
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_leaves_stores_checkpoints_and_tells_no_failures() {
    let scene = Scene::start("train");
    scene.start_rank(|_| {}).await;
    let pid = scene.training().await;
    let coordinator = scene.end().await;
    assert!(!is_alive(pid));
    coordinator.change(|ledger| {
        assert!(ledger.facts().any(|fact| matches!(fact, Fact::Checkpoint(_))));
        assert!(ledger.exit().is_none(), "the worker left; its trial did not fail");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_agent_ends_where_that_is_wanted() {
    let scene = Scene::start_with("finish", |options| {
        options.exit_when_idle = true;
        options.timings.idle = Duration::from_millis(300);
    });
    scene.start_rank(|_| {}).await;
    assert!(scene.exit().await.finished);
    tokio::time::timeout(Duration::from_secs(20), scene.agent).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_tell_how_the_machine_stands_now_and_then_and_in_each_session() {
    let mut scene = Scene::start("finish");
    let usage = scene.coordinator.until("a measurement", |ledger| ledger.usage.first().cloned()).await;
    assert!(usage.cores > 0 && usage.devices.is_empty(), "no device but the machine itself: {usage:?}");
    assert!(usage.memory_used_bytes.unwrap() <= usage.memory_total_bytes.unwrap());
    scene.coordinator.change(|ledger| {
        assert!(ledger.usage.len() <= ledger.heartbeats, "it travels with heartbeats");
        ledger.usage.clear();
    });
    scene.coordinator.kill();
    scene.coordinator.serve();
    scene
        .coordinator
        .until("a measurement in the next session", |ledger| ledger.usage.first().cloned())
        .await;
    scene.end().await;
}
