//! Pause, resume, drain, explain, cancel and retry over gRPC, through a restart of the coordinator.

use mtinet_proto::v1::{self, coordinator_message::Message};

use super::fleet::*;

/// Takes acknowledgements in until the agent is told to stop something.
async fn stop(agent: &mut Agent) -> v1::StopAttempt {
    loop {
        match agent.next().await {
            Message::Stop(stop) => return stop,
            Message::Ack(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_paused_study_and_a_drained_worker_stay_so_over_a_restart() {
    let (dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    let paused = client.pause_study(v1::PauseStudyRequest { study }).await.unwrap().into_inner();
    assert_eq!(paused.stopping, 1);
    assert!(stop(&mut agent).await.grace_ms > 0, "time to save");
    agent.report(&start, exited(0, false)).await;
    agent.acknowledged().await;
    let drain = v1::DrainWorkerRequest { worker: agent.id.clone(), undo: false };
    client.drain_worker(drain.clone()).await.unwrap();
    server.kill().await;
    agent.disconnect();

    let server = Server::start(options(dir.path())).await;
    let mut client = server.client().await;
    agent.connect(&server, Vec::new()).await;
    let state = show(&mut client, study).await;
    assert_eq!(state.summary.unwrap().status, "paused");
    assert_eq!((state.trials[0].status.as_str(), state.trials[0].failures), ("waiting", 0));
    let workers = client.list_workers(v1::ListWorkersRequest {}).await.unwrap().into_inner().workers;
    assert!(workers[0].drained && workers[0].set_aside.is_empty(), "{workers:?}");
    let explain = v1::ExplainTrialRequest { study: 0, trial: "mti-net/0/0".into() };
    let why = client.explain_trial(explain.clone()).await.unwrap().into_inner();
    assert_eq!((why.study, why.reason.as_str()), (study, "the study is paused"));
    client.resume_study(v1::ResumeStudyRequest { study }).await.unwrap();
    let why = client.explain_trial(explain).await.unwrap().into_inner();
    assert!(why.reason.contains("1 drained"), "{why:?}");
    client.drain_worker(v1::DrainWorkerRequest { undo: true, ..drain }).await.unwrap();
    let again = agent.assignment().await;
    assert_eq!(again.attempt.as_ref().unwrap().number, 2);
    agent.complete(&again).await;
    agent.acknowledged().await;
    assert_eq!(show(&mut client, study).await.summary.unwrap().status, "complete");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_paused_trial_leaves_its_slot_to_others_and_goes_on_when_it_is_resumed() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0, 1]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let first = agent.assignment().await;
    let trial = Some(v1::Trial { study, key: "mti-net/0/0".into() });
    let paused = client.pause_trial(v1::PauseTrialRequest { trial: trial.clone() }).await.unwrap();
    assert_eq!(paused.into_inner().stopping, 1);
    agent.report(&first, exited(0, false)).await;
    let second = agent.assignment().await;
    assert_ne!(second.attempt.as_ref().unwrap().trial, first.attempt.as_ref().unwrap().trial);
    let explain = v1::ExplainTrialRequest { study, trial: "mti-net/0/0".into() };
    let why = client.explain_trial(explain).await.unwrap().into_inner();
    assert_eq!((why.status.as_str(), why.reason.as_str()), ("waiting", "the trial is paused"));
    agent.complete(&second).await;
    client.resume_trial(v1::ResumeTrialRequest { trial: trial.clone() }).await.unwrap();
    let again = agent.assignment().await;
    assert_eq!(again.attempt.as_ref().unwrap().trial, trial);
    agent.complete(&again).await;
    events(&mut client, study, 0, true).await;
    let refused = client.resume_trial(v1::ResumeTrialRequest { trial }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_study_that_was_over_is_followed_to_its_new_end_after_a_retry() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let trial = Some(v1::Trial { study, key: "mti-net/0/0".into() });
    client.cancel_trial(v1::CancelTrialRequest { trial }).await.unwrap();
    assert_eq!(show(&mut client, study).await.summary.unwrap().status, "incomplete");
    let retry = v1::RetryTrialsRequest { study, trials: Vec::new() };
    let retried = client.retry_trials(retry).await.unwrap().into_inner().retried;
    assert_eq!(retried, 1);
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    agent.complete(&start).await;
    agent.acknowledged().await;
    let log = events(&mut client, study, 0, true).await;
    let ends = kinds(&log).into_iter().filter(|kind| *kind == "study_finished").count();
    assert_eq!((ends, kinds(&log).last().copied()), (2, Some("study_finished")));
    let refused = client.pause_study(v1::PauseStudyRequest { study }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let unknown =
        client.readmit_worker(v1::ReadmitWorkerRequest { worker: "nobody".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    server.stop().await.unwrap();
}
