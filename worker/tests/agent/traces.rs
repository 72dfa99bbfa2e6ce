//! The traces of a rank's life, as a collector gets them from the program.

use mtinet_proto::v1::Checkpoint;

use super::program::program;
use super::*;

// One collector for the tests of all programs.
#[path = "../../../shared/runtime/tests/support/collector.rs"]
mod collector;

use collector::{Collector, Span};

/// What the coordinator's round told: the rank belongs to its trace.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const ROUND: &str = "b7ad6b7169203331";

/// Runs a rank to its end in a program that sends nothing before it ends itself, and ends it.
async fn run(script: &str, change: impl FnOnce(&mut StartRank)) -> (Coordinator, Collector) {
    let dir = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start();
    let collector = Collector::start();
    data_root(dir.path());
    coordinator.store(&artifact(b"a checkpoint"), b"a checkpoint");
    let mut agent = program(&coordinator, dir.path(), script)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        .env("OTEL_BSP_SCHEDULE_DELAY", "600000")
        .spawn()
        .unwrap();
    let mut start = assignment(dir.path());
    start.traceparent = format!("00-{TRACE}-{ROUND}-01");
    change(&mut start);
    coordinator.say(Message::Start(start)).await;
    coordinator.until("the end", coordinator::Ledger::exit).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(agent.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    tokio::time::timeout(Duration::from_secs(20), agent.wait()).await.unwrap().unwrap();
    (coordinator, collector)
}

fn rank_of(collector: &Collector) -> Span {
    collector.span("rank", |_| true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_s_life_is_part_of_the_trace_that_placed_it() {
    let resume = Checkpoint { step: 2, artifact: Some(artifact(b"a checkpoint")) };
    let (coordinator, collector) = run("finish", |start| start.resume = Some(resume)).await;
    let heard = coordinator.change(|ledger| ledger.traceparents.clone());
    tokio::task::block_in_place(|| {
        let rank = rank_of(&collector);
        assert_eq!((rank.trace.as_str(), rank.parent.as_str()), (TRACE, ROUND));
        for (name, value) in
            [("study", "1"), ("trial", "mti-net/0/0"), ("attempt", "1"), ("rank", "0"), ("finished", "true")]
        {
            assert_eq!(rank.attribute(name), value, "{name} of {rank:?}");
        }
        assert_eq!((rank.service.as_str(), rank.failure.as_deref()), ("mtinet-worker", None));
        assert_eq!(rank.resource["deployment.environment.name"], "test");

        let prepare = collector.span("prepare", |span| span.is_child_of(&rank));
        let download = collector.span("download", |span| span.is_child_of(&prepare));
        assert_eq!((download.attribute("bytes"), download.attribute("tries")), ("12", "1"));
        assert_eq!(download.attribute("artifact"), artifact(b"a checkpoint").blake3);
        collector.span("mtinet.v1.Worker/GetArtifact", |span| {
            span.is_child_of(&download) && span.kind == "client"
        });
        collector.span("train", |span| span.is_child_of(&rank) && !span.attribute("pid").is_empty());
        collector.span("store", |span| span.is_child_of(&rank));

        let upload = collector.span("upload", |span| span.attribute("what") == "weights");
        assert!(upload.is_child_of(&rank), "{upload:?}");
        assert_eq!(upload.attribute("bytes"), "7");
        let put = collector.span("mtinet.v1.Worker/PutArtifact", |span| span.is_child_of(&upload));
        assert_eq!(put.attribute("rpc.grpc.status_code"), "0");
        let told = format!("00-{TRACE}-{}-01", put.id);
        assert!(heard.contains(&told), "the coordinator did not hear {told}: {heard:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rank_that_fails_says_why_in_its_trace() {
    let (_coordinator, collector) = run("fail", |_| {}).await;
    let rank = tokio::task::block_in_place(|| rank_of(&collector));
    assert_eq!(rank.failure.as_deref(), Some("the loss is not a number"));
    assert_eq!((rank.attribute("finished"), rank.attribute("step")), ("false", "9"));
}
