//! Studies from submission to end, through faults of both sides.

use mtinet_domain::event::Event;
use mtinet_proto::v1::{self, coordinator_message::Message, report::Fact};

use super::fleet::*;
use crate::server::ServerOptions;

const ONE_TRIAL: &str = "folds = [0]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_study_runs_to_its_end_and_is_followed_live() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, ONE_TRIAL).await;
    let state = show(&mut client, study).await;
    assert_eq!(state.trials[0].reason, "no workers are connected");
    let follower = tokio::spawn({
        let mut client = server.client().await;
        async move { events(&mut client, study, 0, true).await }
    });
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    assert_eq!((start.world_size, start.slot, start.resume.as_ref()), (1, 0, None));
    agent.report(&start, Fact::Rendezvous(v1::RendezvousReady { host: "127.0.0.1".into(), port: 9 })).await;
    agent.report(&start, metrics(1)).await;
    agent.report(&start, checkpoint(5)).await;
    agent.acknowledged().await;
    let state = show(&mut client, study).await;
    assert_eq!((state.trials[0].status.as_str(), state.trials[0].checkpoint_step), ("running", Some(5)));
    assert_eq!(state.trials[0].workers, [agent.id.clone()]);
    let workers = client.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    assert_eq!(
        (workers[0].status.as_str(), workers[0].slots[0].attempt.clone()),
        ("ready", start.attempt.clone())
    );
    agent.complete(&start).await;
    agent.acknowledged().await;
    let followed = within("the end of the study", follower).await.unwrap();
    let expected = [
        "study_submitted",
        "attempt_started",
        "rendezvous_ready",
        "metrics",
        "checkpoint_stored",
        "trial_evaluated",
        "rank_exited",
        "attempt_ended",
        "study_finished",
    ];
    assert_eq!(kinds(&followed), expected);
    assert_eq!(events(&mut client, study, 0, false).await, followed);
    assert_eq!(events(&mut client, study, 7, true).await, followed[7..]);
    assert!(events(&mut client, study, 9, true).await.is_empty(), "a study that is over is not waited for");
    let Event::Metrics { records, .. } = &followed[3] else { panic!() };
    assert_eq!(records[0].values.keys().collect::<Vec<_>>(), ["loss"], "what is not a number is left out");
    let summary = show(&mut client, study).await.summary.unwrap();
    assert_eq!((summary.status.as_str(), summary.trials["done"]), ("complete", 1));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn running_attempts_are_adopted_after_the_coordinator_was_killed() {
    let (dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0, 1]\n").await;
    let mut agent = Agent::join(&server, 2).await;
    let (first, second) = (agent.assignment().await, agent.assignment().await);
    agent.report(&first, metrics(1)).await;
    agent.report(&first, checkpoint(5)).await;
    agent.report(&second, metrics(1)).await;
    agent.acknowledged().await;
    let before = events(&mut client, study, 0, false).await;
    server.kill().await;
    agent.disconnect();
    // The trainers go on meanwhile: one measures, one finishes.
    agent.report(&second, metrics(2)).await;
    agent.complete(&first).await;

    let server = Server::start(options(dir.path())).await;
    let mut client = server.client().await;
    assert_eq!(events(&mut client, study, 0, false).await, before, "an acknowledged event is lost");
    let mut exited = running(&first);
    exited.exited = true;
    let last_seq = agent.connect(&server, vec![exited, running(&second)]).await;
    assert_eq!(last_seq, 3, "measurements count too");
    agent.complete(&second).await;
    agent.acknowledged().await;
    let after = events(&mut client, study, 0, true).await;
    assert_eq!(after[..before.len()], before);
    let started = kinds(&after).into_iter().filter(|kind| *kind == "attempt_started").count();
    assert_eq!(started, 2, "nothing was started again");
    assert_eq!(kinds(&after).into_iter().filter(|kind| *kind == "metrics").count(), 3);
    assert_eq!(show(&mut client, study).await.summary.unwrap().status, "complete");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_workers_trial_goes_on_elsewhere_from_its_checkpoint() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, ONE_TRIAL).await;
    let mut lost = Agent::join(&server, 1).await;
    let first = lost.assignment().await;
    lost.report(&first, checkpoint(5)).await;
    lost.report(&first, checkpoint(9)).await;
    lost.acknowledged().await;
    let mut other = Agent::join(&server, 1).await;
    lost.disconnect();
    let second = other.assignment().await;
    assert_eq!(second.attempt.as_ref().unwrap().number, 2);
    assert_eq!((second.resume.as_ref().unwrap().step, second.fallback.as_ref().unwrap().step), (9, 5));
    // It comes back, is told to stop, and what it says about the attempt that is over changes nothing.
    lost.connect(&server, vec![running(&first)]).await;
    assert!(matches!(lost.next().await, Message::Stop(stop) if stop.attempt == first.attempt));
    lost.report(&first, checkpoint(30)).await;
    lost.acknowledged().await;
    other.complete(&second).await;
    let log = events(&mut client, study, 0, true).await;
    assert_eq!(kinds(&log)[4..7], ["rank_lost", "attempt_ended", "attempt_started"]);
    assert_eq!(show(&mut client, study).await.trials[0].failures, 0);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn events_are_followed_without_gap_from_anywhere_while_they_are_written() {
    let dir = tempfile::tempdir().unwrap();
    // A busy machine may hold up heartbeats; the loss of the agent would be another test.
    let server = Server::start(ServerOptions { lease_ms: 60_000, ..options(dir.path()) }).await;
    let mut client = server.client().await;
    let study = submit(&mut client, ONE_TRIAL).await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    let mut followers = Vec::new();
    for step in 1..=3000 {
        agent.report(&start, metrics(step)).await;
        if step % 500 == 0 {
            let mut client = server.client().await;
            followers.push((
                step / 2,
                tokio::spawn(async move { events(&mut client, study, step / 2, true).await }),
            ));
        }
    }
    agent.complete(&start).await;
    agent.acknowledged().await;
    for (after, follower) in followers {
        let followed = within("the end of the study", follower).await.unwrap();
        assert_eq!(followed.len() as u64, 3006 - after);
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cancelled_study_ends_when_its_ranks_have() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0, 1]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    client.cancel_study(v1::CancelStudyRequest { study }).await.unwrap();
    let Message::Stop(stop) = agent.next().await else { panic!() };
    assert!(stop.grace_ms > 0);
    assert_eq!(show(&mut client, study).await.summary.unwrap().status, "cancelling");
    agent.report(&start, exited(0, false)).await;
    agent.acknowledged().await;
    assert_eq!(show(&mut client, study).await.summary.unwrap().status, "cancelled");
    let studies = client.list_studies(v1::ListStudiesRequest {}).await.unwrap().into_inner().studies;
    assert_eq!(studies[0].trials["cancelled"], 2);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_orderly_end_closes_sessions_and_event_streams() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, ONE_TRIAL).await;
    let _agent = Agent::join(&server, 1).await;
    let request = v1::StreamEventsRequest { study, after: 2, follow: true };
    let mut stream = client.stream_events(request).await.unwrap().into_inner();
    let (ended, told) = tokio::join!(server.stop(), stream.message());
    ended.unwrap();
    assert_eq!(told.unwrap_err().code(), tonic::Code::Unavailable);
}
