//! Logs of trainers: who may add to them, what is kept, what those who follow see.

use mtinet_domain::Rank;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::{self, PutLogRequest, StreamLogRequest, report::Fact};
use mtinet_runtime::net::{self, Channel};
use mtinet_runtime::tls::{Credentials, Role};
use tonic::{Code, Status};

use super::fleet::*;

async fn put(
    client: &mut WorkerClient<Channel>,
    agent: &Agent,
    start: &v1::StartRank,
    offset: u64,
    text: &str,
) -> Result<u64, Status> {
    let request = PutLogRequest {
        worker_id: agent.id.clone(),
        attempt: start.attempt.clone(),
        rank: start.rank,
        offset,
        data: text.as_bytes().to_vec(),
        skips: false,
    };
    Ok(client.put_log(request).await?.into_inner().next)
}

fn of(study: u64, follow: bool) -> StreamLogRequest {
    let trial = Some(v1::Trial { study, key: "mti-net/0/0".into() });
    StreamLogRequest { trial, follow, ..StreamLogRequest::default() }
}

/// Everything of a log to the end of the stream, as `attempt/rank: text`.
async fn read(client: &mut ClientClient<Channel>, request: StreamLogRequest) -> Result<Vec<String>, Status> {
    let mut stream = client.stream_log(request).await?.into_inner();
    let mut read: Vec<(String, String)> = Vec::new();
    while let Some(chunk) = within("a chunk", stream.message()).await? {
        let (whose, text) =
            (format!("{}/{}", chunk.attempt, chunk.rank), String::from_utf8(chunk.data).unwrap());
        match read.last_mut() {
            Some((last, before)) if *last == whose => before.push_str(&text),
            _ => read.push((whose, text)),
        }
    }
    Ok(read.into_iter().map(|(whose, text)| format!("{whose}: {text}")).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_is_followed_over_attempts_to_the_trial_s_end_and_outlives_the_coordinator() {
    let (dir, server) = fresh().await;
    let mut client = server.client().await;
    let mut worker = server.worker_client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let none = read(&mut client, of(study, false)).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
    assert!(none.message().contains("has not started yet; `mtinet explain mti-net/0/0`"), "{none}");
    let mut following = server.client().await;
    let followed = tokio::spawn(async move { read(&mut following, of(0, true)).await });
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    let none = read(&mut client, of(study, false)).await.unwrap_err();
    assert!(none.message().contains("no log of trial mti-net/0/0 has come"), "{none}");
    assert_eq!(put(&mut worker, &agent, &start, 0, "first\n").await.unwrap(), 6);
    // The first attempt fails, the second does all its work.
    agent.report(&start, Fact::Started(v1::RankStarted { pid: 1 })).await;
    agent.report(&start, exited(1, false)).await;
    let second = agent.assignment().await;
    assert_eq!(put(&mut worker, &agent, &second, 0, "second\n").await.unwrap(), 7);
    agent.complete(&second).await;
    agent.acknowledged().await;
    let followed = within("the end", followed).await.unwrap().unwrap();
    assert_eq!(followed, ["1/0: first\n", "2/0: second\n"]);
    // What it began it may end, although the attempt is over.
    assert_eq!(put(&mut worker, &agent, &start, 6, "last words\n").await.unwrap(), 17);
    server.kill().await;

    let server = Server::start(options(dir.path())).await;
    let mut client = server.client().await;
    assert_eq!(read(&mut client, of(study, false)).await.unwrap(), ["2/0: second\n"]);
    let first = StreamLogRequest { attempt: 1, ..of(study, true) };
    assert_eq!(read(&mut client, first.clone()).await.unwrap(), ["1/0: first\nlast words\n"]);
    let tail = StreamLogRequest { tail_bytes: 12, ..first.clone() };
    assert_eq!(read(&mut client, tail).await.unwrap(), ["1/0: last words\n"]);
    let other_rank = StreamLogRequest { rank: Some(Rank(7).0), ..first.clone() };
    assert!(read(&mut client, other_rank).await.unwrap().is_empty());
    let third = read(&mut client, StreamLogRequest { attempt: 3, follow: false, ..first }).await.unwrap_err();
    assert!(third.message().contains("it has had 2 attempts"), "{third}");
    let unknown = read(&mut client, of(9, false)).await.unwrap_err();
    assert!(unknown.message().contains("study 9 has no trial"), "{unknown}");
    // The same agent goes on where it was.
    let mut worker = server.worker_client().await;
    assert_eq!(put(&mut worker, &agent, &second, 0, "").await.unwrap(), 7);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nobody_adds_to_the_log_of_another_s_rank() {
    let (_dir, server) = fresh().await;
    let one = Credentials::of(server.identity(Role::Worker, "one"));
    let two = Credentials::of(server.identity(Role::Worker, "two"));
    let mut owner = Agent::join_as(&server, &one, 1).await;
    let other = Agent::join_as(&server, &two, 1).await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let start = within("an assignment", owner.assignment()).await;
    let mut owners = net::worker_client(server.channel_as(&one).await);
    let mut others = net::worker_client(server.channel_as(&two).await);
    // In its own name, and in the owner's.
    let refused = put(&mut others, &other, &start, 0, "lies\n").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let refused = put(&mut others, &owner, &start, 0, "lies\n").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let elsewhere = v1::StartRank { rank: 1, ..start.clone() };
    let refused = put(&mut owners, &owner, &elsewhere, 0, "no such rank").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let large = "x".repeat((64 << 10) + 1);
    let refused = put(&mut owners, &owner, &start, 0, &large).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    put(&mut owners, &owner, &start, 0, "truth\n").await.unwrap();
    assert_eq!(read(&mut client, of(study, false)).await.unwrap(), ["1/0: truth\n"]);
    server.stop().await.unwrap();
}
