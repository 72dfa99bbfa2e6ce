//! What the server refuses, and that it says why.

use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::{self, worker_message};
use mtinet_runtime::net;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::fleet::*;
use crate::server::{ServerError, ServerOptions, serve};

async fn refused(options: ServerOptions) -> ServerError {
    let listener = net::bind("127.0.0.1:0").await.unwrap();
    within("a refusal", serve(options, listener, std::future::pending())).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_second_coordinator_on_the_same_data_is_refused() {
    let (dir, server) = fresh().await;
    server.client().await;
    let error = refused(options(dir.path())).await;
    assert!(matches!(error, ServerError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("another coordinator"), "{error}");
    server.stop().await.unwrap();
    let server = Server::start(options(dir.path())).await;
    server.client().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = refused(ServerOptions::new(file.path().join("data"))).await;
    assert!(matches!(error, ServerError::DataDir { .. }), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn another_protocol_version_is_refused_by_every_first_call() {
    let (_dir, server) = fresh().await;
    let protocol_version = PROTOCOL_VERSION + 1;
    let mut client = server.client().await;
    let mut worker = server.worker_client().await;
    let hello = v1::Hello { protocol_version, worker_id: "w".into(), ..v1::Hello::default() };
    let hello = tokio_stream::iter([message(worker_message::Message::Hello(hello))]);
    let refusals = [
        client.get_server_info(v1::GetServerInfoRequest { protocol_version }).await.unwrap_err(),
        client.submit_study(v1::SubmitStudyRequest { protocol_version, ..submission("") }).await.unwrap_err(),
        worker.join(v1::JoinRequest { protocol_version, ..v1::JoinRequest::default() }).await.unwrap_err(),
        worker.session(hello).await.unwrap_err(),
    ];
    for refusal in refusals {
        assert_eq!(refusal.code(), Code::FailedPrecondition);
        assert!(refusal.message().contains("same release"), "{refusal}");
    }
    let info = client.get_server_info(v1::GetServerInfoRequest { protocol_version: PROTOCOL_VERSION }).await;
    assert_eq!(info.unwrap().into_inner().protocol_version, PROTOCOL_VERSION);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn unknown_studies_and_impossible_specs_are_refused_in_words() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let by_name = Some(v1::get_study_request::Which::Name("liver".into()));
    let unknown = [
        client.get_study(v1::GetStudyRequest { which: by_name }).await.unwrap_err(),
        client.cancel_study(v1::CancelStudyRequest { study: 7 }).await.unwrap_err(),
        client
            .stream_events(v1::StreamEventsRequest { study: u64::MAX, after: 0, follow: false })
            .await
            .unwrap_err(),
    ];
    for status in unknown {
        assert_eq!(status.code(), Code::NotFound);
        assert!(status.message().contains("there is no study"), "{status}");
    }
    let mut request = submission("");
    request.spec_json = request.spec_json.replace("\"batch_size\":8", "\"batch_size\":0");
    let status = client.submit_study(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("batch_size"), "{status}");
    let study = submit(&mut client, "").await;
    let newer = submit(&mut client, "").await;
    assert!(newer > study);
    let by_name = Some(v1::get_study_request::Which::Name("s".into()));
    let found = client.get_study(v1::GetStudyRequest { which: by_name }).await.unwrap().into_inner();
    assert_eq!(found.summary.unwrap().study, newer);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_that_talks_nonsense_is_ended_with_the_reason() {
    let (_dir, server) = fresh().await;
    let mut worker = server.worker_client().await;
    let heartbeat = message(worker_message::Message::Heartbeat(v1::Heartbeat::default()));
    let status = worker.session(tokio_stream::iter([heartbeat])).await.unwrap_err();
    assert!(status.message().contains("Hello"), "{status}");
    let hello = v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        worker_id: Server::worker_id(),
        ..v1::Hello::default()
    };
    let report = v1::Report::default();
    let messages = [worker_message::Message::Hello(hello), worker_message::Message::Report(report)];
    let messages = tokio_stream::iter(messages.map(message)).chain(tokio_stream::pending());
    let mut session = worker.session(messages).await.unwrap().into_inner();
    let status = within("the end of the session", async {
        loop {
            match session.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the session ended without a reason"),
                Err(status) => break status,
            }
        }
    });
    let status = status.await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "message field `report.seq`: reports are numbered from 1")
    );
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_report_of_another_release_is_left_out_and_the_session_goes_on() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    agent.report_unreadable(&start).await;
    agent.complete(&start).await;
    agent.acknowledged().await;
    assert_eq!(show(&mut client, study).await.summary.unwrap().status, "complete");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn health_and_reflection_are_served() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let (_dir, server) = fresh().await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["mtinet.v1.Worker", "mtinet.v1.Client"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let mut reflection = ServerReflectionClient::new(server.channel().await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers =
        reflection.server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(services) = answer else { panic!("{answer:?}") };
    assert!(services.service.iter().any(|service| service.name == "mtinet.v1.Client"));
    server.stop().await.unwrap();
}
