//! Logs that former releases wrote are read by this one.
//!
//! `fixtures/events-vN.db` is what a coordinator of that schema wrote while [`write_the_frozen_log`] drove it. Before
//! the schema changes, and where the present one has got new kinds of events, start one of the present release with
//! `--insecure` on an empty data directory, run `FROZEN_URL=http://... cargo test -p mtinet write_the_frozen_log --
//! --ignored`, end it, and add its `events.db`. The fleet's log and the registry of identities are small, and
//! [`write_the_frozen_small_logs`] writes them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mtinet_core::{Core, CoreConfig, TrialState};
use mtinet_domain::event::{Event, StudyOutcome};
use mtinet_domain::fleet::FleetEvent;
use mtinet_domain::{StudyId, WorkerId};
use mtinet_proto::v1::coordinator_message::Message;
use mtinet_proto::v1::{self, report::Fact};
use mtinet_runtime::tls::Role;

use super::fleet::*;
use crate::server::auth::Registry;
use crate::server::fleet_log::FleetLog;
use crate::server::store;

/// A log that a release wrote.
struct Frozen {
    file: &'static str,
    /// Every kind of event that it knew.
    kinds: &'static [&'static str],
    /// How its studies ended; the fourth goes on.
    outcomes: &'static [Option<StudyOutcome>],
}

/// One of each schema, the present one included.
const FROZEN: [Frozen; store::VERSION as usize] = [
    Frozen {
        file: "events-v1.db",
        kinds: &[
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
        ],
        outcomes: &[
            Some(StudyOutcome::Complete),
            Some(StudyOutcome::Incomplete),
            Some(StudyOutcome::Cancelled),
            None,
        ],
    },
    Frozen {
        file: "events-v2.db",
        kinds: &[
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
            "study_paused",
            "study_resumed",
            "study_submitted",
            "trial_cancelled",
            "trial_evaluated",
            "trial_failed",
            "trial_paused",
            "trial_resumed",
            "trials_retried",
        ],
        outcomes: &[
            Some(StudyOutcome::Complete),
            Some(StudyOutcome::Incomplete),
            Some(StudyOutcome::Cancelled),
            None,
            Some(StudyOutcome::Cancelled),
        ],
    },
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
fn the_log_of_each_schema_is_replayed() {
    for Frozen { file, kinds, outcomes } in FROZEN {
        let dir = thawed(file);
        let path = dir.path().join(crate::server::DATABASE);
        for opening in ["migrating", "again"] {
            let (_writer, reader) = store::open(&path).unwrap();
            let replay = reader.replay().unwrap();
            let mut core = Core::new(CoreConfig::default());
            for recorded in &replay {
                core.apply(recorded).unwrap_or_else(|error| panic!("{file}, {opening}: {error}"));
            }
            core.on_restarted(0);
            core.sanity_check().unwrap();
            let studies = 1..=outcomes.len() as u64;
            let stored: Vec<_> =
                studies.flat_map(|study| reader.events(StudyId(study), 0, 1000).unwrap()).collect();
            let found: BTreeSet<&str> = stored.iter().map(|event| event.kind.as_str()).collect();
            assert_eq!(found.into_iter().collect::<Vec<_>>(), kinds, "{file} has every kind");
            let ended: Vec<_> = core.studies().map(|study| study.outcome).collect();
            assert_eq!(ended, outcomes, "{file}, {opening}");
            let running = core.study(StudyId(4)).unwrap().trials().next().unwrap().1;
            assert!(matches!(running.state, TrialState::Running { .. }), "{running:?}");
            assert_eq!(running.latest.as_ref().map(|checkpoint| checkpoint.step), Some(5));
            assert_eq!(reader.report_seqs().unwrap().iter().map(|(_, seq)| *seq).max(), Some(10));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_coordinator_goes_on_from_the_log_of_each_schema() {
    for Frozen { file, outcomes, .. } in FROZEN {
        let dir = thawed(file);
        let server = Server::start(options(dir.path())).await;
        let mut client = server.client().await;
        let log = events(&mut client, 1, 0, true).await;
        assert_eq!(log.last(), Some(&Event::StudyFinished { outcome: StudyOutcome::Complete }));
        let study = submit(&mut client, "folds = [0]\n").await;
        assert_eq!(study, outcomes.len() as u64 + 1, "numbers go on");
        server.stop().await.unwrap();
    }
}

/// Facts about workers: one of each kind.
fn facts() -> Vec<FleetEvent> {
    let worker = |name: &str| WorkerId(name.to_owned());
    let by = Some("operator ada".to_owned());
    vec![
        FleetEvent::WorkerDrained { worker: worker("a.1"), by: by.clone() },
        FleetEvent::WorkerUndrained { worker: worker("a.1"), by: by.clone() },
        FleetEvent::WorkerSetAside {
            worker: worker("b.2"),
            reason: "no data set here".into(),
            name: Some("node1".into()),
        },
        FleetEvent::WorkerReadmitted { worker: worker("b.2"), by },
        FleetEvent::WorkerForgotten { worker: worker("c.3") },
    ]
}

#[test]
fn the_fleets_log_of_the_first_schema_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fleet.db");
    std::fs::copy(fixture("fleet-v1.db"), &path).unwrap();
    assert_eq!(FleetLog::open(&path).unwrap().events().unwrap(), facts());
}

#[test]
fn the_registry_of_the_first_schema_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    std::fs::copy(fixture("registry-v1.db"), &path).unwrap();
    let registry = Registry::open(&path).unwrap();
    let tokens = registry.tokens().unwrap();
    let told: Vec<_> = tokens
        .iter()
        .map(|token| (token.role.as_str(), token.by.as_str(), token.uses, token.used, token.revoked_ms))
        .collect();
    assert_eq!(told, [("worker", "operator ada", 2, 1, 0), ("viewer", "operator ada", 1, 1, 4000)]);
    assert_eq!((tokens[0].joined.as_slice(), tokens[0].last_used_ms), (&["node1".to_owned()][..], 2000));
    assert_eq!(registry.revoked().unwrap().len(), 1);
}

/// `FROZEN_DIR=coordinator/src/server/tests/fixtures cargo test -p mtinet write_the_frozen_small_logs -- --ignored`
#[tokio::test]
#[ignore = "writes fixtures"]
async fn write_the_frozen_small_logs() {
    let Some(dir) = std::env::var_os("FROZEN_DIR").map(PathBuf::from) else { return };
    let fleet = dir.join("fleet-v1.db");
    FleetLog::open(&fleet).unwrap().append(1000, facts()).await.unwrap();
    let path = dir.join("registry-v1.db");
    let registry = Registry::open(&path).unwrap();
    let fingerprint = mtinet_runtime::tls::Authority::generate().unwrap().0.fingerprint();
    let life = std::time::Duration::from_secs(3600);
    let made = |role, uses, now_ms| {
        registry.create_token(role, fingerprint, (life, uses), "operator ada", now_ms).unwrap().token
    };
    let worker = made(Role::Worker, 2, 1000);
    registry.redeem(&worker.id, &worker.secret, b"a key", "node1", 2000).unwrap();
    let viewer = made(Role::Viewer, 1, 1001);
    registry.redeem(&viewer.id, &viewer.secret, b"another key", "eve", 3000).unwrap();
    registry.revoke(&viewer.id, 4000).unwrap();
    drop(registry);
    // One file each, without a write-ahead log beside it.
    for path in [fleet, path] {
        let connection = rusqlite::Connection::open(path).unwrap();
        connection.pragma_update(None, "journal_mode", "DELETE").unwrap();
    }
}

/// A study that completes, one that fails with a gang, one that is cancelled, one that goes on, and one of which people ask
/// everything while it waits.
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
    let study = submit(&mut client, "folds = [0]\n").await;
    let trial = Some(v1::Trial { study, key: "mti-net/0/0".into() });
    client.pause_study(v1::PauseStudyRequest { study }).await.unwrap();
    client.resume_study(v1::ResumeStudyRequest { study }).await.unwrap();
    client.pause_trial(v1::PauseTrialRequest { trial: trial.clone() }).await.unwrap();
    client.resume_trial(v1::ResumeTrialRequest { trial: trial.clone() }).await.unwrap();
    client.cancel_trial(v1::CancelTrialRequest { trial }).await.unwrap();
    client.retry_trials(v1::RetryTrialsRequest { study, trials: Vec::new() }).await.unwrap();
    client.cancel_study(v1::CancelStudyRequest { study }).await.unwrap();
    server.kill().await;
}
