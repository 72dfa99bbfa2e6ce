//! Logs that former releases wrote are read by this one.
//!
//! `fixtures/events-vN.db` is what a coordinator of that schema wrote while [`write_the_frozen_log`] drove it. Before
//! the schema changes, start one of the present release on an empty data directory, run
//! `FROZEN_URL=http://... cargo test -p mtinet write_the_frozen_log -- --ignored`, end it, and add its `events.db`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mtinet_core::{Core, CoreConfig, TrialState};
use mtinet_domain::StudyId;
use mtinet_domain::event::{Event, StudyOutcome};
use mtinet_proto::v1::coordinator_message::Message;
use mtinet_proto::v1::{self, report::Fact};

use super::fleet::*;
use crate::server::store;

/// Every kind of event that the first release wrote.
const KINDS: [&str; 13] = [
    "attempt_ended",
    "attempt_started",
    "attempt_stopping",
    "checkpoint_stored",
    "metrics",
    "rank_exited",
    "rank_lost",
    "rendezvous_ready",
    "study_cancelled",
    "study_finished",
    "study_submitted",
    "trial_evaluated",
    "trial_failed",
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/server/tests/fixtures").join(name)
}

/// A copy of a frozen log in a data directory of its own.
fn thawed(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(name), dir.path().join(crate::server::DATABASE)).unwrap();
    dir
}

#[test]
fn the_log_of_the_first_schema_is_replayed() {
    let dir = thawed("events-v1.db");
    let path = dir.path().join(crate::server::DATABASE);
    for opening in ["migrating", "again"] {
        let (_writer, reader) = store::open(&path).unwrap();
        let replay = reader.replay().unwrap();
        let mut core = Core::new(CoreConfig::default());
        for recorded in &replay {
            core.apply(recorded).unwrap_or_else(|error| panic!("{opening}: {error}"));
        }
        core.on_restarted(0);
        core.sanity_check().unwrap();
        let stored: Vec<_> =
            (1..=4).flat_map(|study| reader.events(StudyId(study), 0, 1000).unwrap()).collect();
        let kinds: BTreeSet<&str> = stored.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), KINDS, "the fixture has every kind");
        let outcomes: Vec<_> = core.studies().map(|study| study.outcome).collect();
        let expected = [
            Some(StudyOutcome::Complete),
            Some(StudyOutcome::Incomplete),
            Some(StudyOutcome::Cancelled),
            None,
        ];
        assert_eq!(outcomes, expected, "{opening}");
        let running = core.study(StudyId(4)).unwrap().trials().next().unwrap().1;
        assert!(matches!(running.state, TrialState::Running { .. }), "{running:?}");
        assert_eq!(running.latest.as_ref().map(|checkpoint| checkpoint.step), Some(5));
        assert_eq!(reader.report_seqs().unwrap().iter().map(|(_, seq)| *seq).max(), Some(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_coordinator_goes_on_from_the_log_of_the_first_schema() {
    let dir = thawed("events-v1.db");
    let server = Server::start(options(dir.path())).await;
    let mut client = server.client().await;
    let log = events(&mut client, 1, 0, true).await;
    assert_eq!(log.last(), Some(&Event::StudyFinished { outcome: StudyOutcome::Complete }));
    let study = submit(&mut client, "folds = [0]\n").await;
    assert_eq!(study, 5, "numbers go on");
    server.stop().await.unwrap();
}

/// A study that completes, one that fails with a gang, one that is cancelled, one that goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "writes a fixture, through a coordinator of the release in question at FROZEN_URL"]
async fn write_the_frozen_log() {
    let Ok(url) = std::env::var("FROZEN_URL") else { return };
    let server = Server::at(url);
    let mut client = server.client().await;
    let one = submit(&mut client, "folds = [0]\n").await;
    let mut lost = Agent::join(&server, 2).await;
    let first = lost.assignment().await;
    lost.report(&first, metrics(1)).await;
    lost.report(&first, checkpoint(5)).await;
    lost.acknowledged().await;
    lost.disconnect();
    let mut agent = Agent::join(&server, 2).await;
    let again = agent.assignment().await;
    agent.report(&again, metrics(6)).await;
    agent.complete(&again).await;
    events(&mut client, one, 0, true).await;
    let two = submit(
        &mut client,
        "folds = [0]\n[train]\nreplicas = 2\n[resources]\nranks = 2\n[retry]\nmax_attempts = 1\n",
    )
    .await;
    let (zero, other) = (agent.assignment().await, agent.assignment().await);
    agent.report(&zero, Fact::Rendezvous(v1::RendezvousReady { host: "127.0.0.1".into(), port: 9 })).await;
    agent.report(&zero, exited(1, false)).await;
    agent.report(&other, exited(1, false)).await;
    events(&mut client, two, 0, true).await;
    let three = submit(&mut client, "folds = [0, 1, 2]\n").await;
    let (running, second) = (agent.assignment().await, agent.assignment().await);
    client.cancel_study(v1::CancelStudyRequest { study: three }).await.unwrap();
    while !matches!(agent.next().await, Message::Stop(_)) {}
    agent.report(&running, exited(0, false)).await;
    agent.report(&second, exited(0, false)).await;
    events(&mut client, three, 0, true).await;
    submit(&mut client, "folds = [0, 1]\n[train]\nreplicas = 2\n[resources]\nranks = 2\n").await;
    let going = agent.assignment().await;
    agent.report(&going, checkpoint(5)).await;
    agent.acknowledged().await;
    server.kill().await;
}
