//! Tokens buy identities, identities renew themselves, and revoked ones end.

use std::sync::Arc;
use std::time::Duration;

use mtinet_proto::v1::{self, report::Fact};
use mtinet_runtime::net;
use mtinet_runtime::tls::{
    AccessError, Credentials, Identity, NewKey, Role, SharedIdentity, Token, Validity, enrol, keep_fresh,
    renew,
};
use tonic::{Code, Status};

use super::fleet::*;
use crate::server::ServerOptions;
use crate::server::auth::AccessOptions;
use crate::server::driver::now_ms;

const HOUR: Duration = Duration::from_secs(3600);

fn token(server: &Server, role: Role, uses: u32) -> Token {
    let access = &server.ready().access;
    let made =
        access.registry.create_token(role, access.authority.fingerprint(), (HOUR, uses), "test", now_ms());
    made.unwrap().token
}

async fn join(server: &Server, token: &Token) -> Result<Identity, AccessError> {
    let key = NewKey::generate().unwrap();
    within("an identity", enrol(&server.ready().url, token, &key, "box-7")).await
}

fn words(refused: Result<Identity, AccessError>) -> String {
    match refused {
        Err(AccessError::Refused(words)) => words,
        other => panic!("expected a refusal: {other:?}"),
    }
}

async fn looks(server: &Server, identity: Identity) -> Result<(), Status> {
    let channel = server.channel_as(&Credentials::of(identity)).await;
    net::client_client(channel).list_studies(v1::ListStudiesRequest {}).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_buys_one_identity_of_its_role_and_then_says_when_it_was_used() {
    let (dir, server) = fresh().await;
    let bought = token(&server, Role::Viewer, 1);
    let identity = join(&server, &bought).await.unwrap();
    let subject = &identity.certified().subject;
    assert_eq!((subject.role, subject.name.as_str()), (Role::Viewer, "box-7"));
    looks(&server, identity.clone()).await.unwrap();
    let again = words(join(&server, &bought).await);
    assert!(again.contains("was used at 20") && again.contains("by box-7"), "{again}");
    assert!(again.contains("mtinet token create --role viewer"), "{again}");
    // The state survives a restart.
    server.kill().await;
    let server = Server::start(options(dir.path())).await;
    assert!(words(join(&server, &bought).await).contains("was used"));
    looks(&server, identity).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_those_who_know_the_secret_learn_what_became_of_a_token() {
    let (_dir, server) = fresh().await;
    let access = Arc::clone(&server.ready().access);
    let (fingerprint, now) = (access.authority.fingerprint(), now_ms());
    let expired = access
        .registry
        .create_token(Role::Worker, fingerprint, (HOUR, 1), "test", now - 7_200_000)
        .unwrap()
        .token;
    let revoked = token(&server, Role::Worker, 1);
    access.registry.revoke(&revoked.id, now).unwrap().unwrap();
    assert!(words(join(&server, &expired).await).contains("expired at"));
    assert!(words(join(&server, &revoked).await).contains("was revoked at"));
    let unknown = words(join(&server, &Token::generate(Role::Worker, fingerprint).unwrap()).await);
    assert!(unknown.contains("not known here"), "{unknown}");
    for known in [expired, revoked, token(&server, Role::Worker, 1)] {
        let guess = Token { secret: "0".repeat(64).into(), ..known };
        assert_eq!(words(join(&server, &guess).await), unknown);
    }
    // A role that the bearer claims counts for nothing.
    let claim = Token { role: Role::Operator, ..token(&server, Role::Worker, 1) };
    assert_eq!(join(&server, &claim).await.unwrap().certified().subject.role, Role::Worker);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_token_never_goes_to_another_coordinator_or_in_plaintext() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(options(dir.path())).await;
    let other = Server::start(options(other_dir.path())).await;
    let ours = token(&server, Role::Worker, 1);
    let error = join(&other, &ours).await.unwrap_err();
    assert!(matches!(&error, AccessError::Net(net::NetError::Handshake { .. })), "{error:?}");
    let plain = server.ready().url.replace("https", "http");
    let key = NewKey::generate().unwrap();
    assert!(words(enrol(&plain, &ours, &key, "x").await).contains("encrypted or not at all"));
    // It is as good as new.
    join(&server, &ours).await.unwrap();
    other.stop().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lost_answer_costs_no_token_and_a_bad_request_neither() {
    let (_dir, server) = fresh().await;
    let once = token(&server, Role::Worker, 1);
    let pinned = Credentials::Pinned(once.fingerprint);
    let mut client = net::auth_client(server.channel_as(&pinned).await);
    for csr in [vec![], b"nonsense".to_vec(), vec![0x30; 5000]] {
        let request = v1::EnrolRequest {
            protocol_version: mtinet_proto::PROTOCOL_VERSION,
            token_id: once.id.clone(),
            secret: secrecy::ExposeSecret::expose_secret(&once.secret).to_owned(),
            csr,
            name: String::new(),
        };
        let status = client.join(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let key = NewKey::generate().unwrap();
    let first = enrol(&server.ready().url, &once, &key, "box").await.unwrap();
    let second = enrol(&server.ready().url, &once, &key, "box").await.unwrap();
    assert_eq!(first.certified().subject, second.certified().subject);
    assert!(words(join(&server, &once).await).contains("was used"));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn certificates_renew_themselves_under_a_session_and_calls() {
    const LIFE: Duration = Duration::from_secs(6);
    let dir = tempfile::tempdir().unwrap();
    let access =
        AccessOptions { certificate_life: LIFE, renewal_grace: Duration::ZERO, ..AccessOptions::default() };
    let server = Server::start(ServerOptions { access, ..options(dir.path()) }).await;
    let joined = join(&server, &token(&server, Role::Worker, 1)).await.unwrap();
    let first = joined.clone();
    let file = dir.path().join("identity.pem");
    let identity = Arc::new(SharedIdentity::new(joined));
    let credentials = Credentials::Identity(Arc::clone(&identity));
    let channel = server.channel_as(&credentials).await;
    let mut agent = Agent::join_as(&server, &credentials, 1).await;
    let keeping = async {
        let error = keep_fresh(&server.ready().url, &identity, &file).await;
        panic!("renewal ended: {error}");
    };
    let (mut calls, mut turned_away) = (0, 0);
    let using = async {
        // Until the first certificate is over and two more were fetched.
        let mut seen = vec![first.certified().not_after];
        while seen.len() < 4 {
            let hello = v1::GetServerInfoRequest { protocol_version: mtinet_proto::PROTOCOL_VERSION };
            match net::client_client(channel.clone()).get_server_info(hello).await {
                Ok(_) => calls += 1,
                // It crossed the server's word that this connection is to be made anew; nothing was done.
                Err(status) => {
                    assert!(format!("{status:?}").contains("GoAway(b\"\", NO_ERROR"), "{status:?}");
                    turned_away += 1;
                }
            }
            let now = identity.current().certified().not_after;
            if !seen.contains(&now) {
                seen.push(now);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = keeping => {}
        () = within("three renewals", using) => {}
    }
    assert!(calls > 100 && turned_away <= 6, "{calls} calls, {turned_away} turned away");
    assert_eq!(Identity::load(&file).unwrap().certified(), identity.current().certified());
    assert_eq!(first.certified().subject, identity.current().certified().subject);
    let status = looks_as_worker(&server, first).await.unwrap_err();
    assert!(status.message().contains("expired at"), "{status}");
    // The session began with the first certificate and goes on.
    let study = submit(&mut server.client().await, "folds = [0]\n").await;
    let start = agent.assignment().await;
    agent.complete(&start).await;
    let events = events(&mut server.client().await, study, 0, true).await;
    assert_eq!(kinds(&events).last(), Some(&"study_finished"));
    server.stop().await.unwrap();
}

async fn looks_as_worker(server: &Server, identity: Identity) -> Result<(), Status> {
    let channel = server.channel_as(&Credentials::of(identity)).await;
    let hello = v1::GetServerInfoRequest { protocol_version: mtinet_proto::PROTOCOL_VERSION };
    net::client_client(channel).get_server_info(hello).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_expired_certificate_is_renewed_within_the_grace_alone() {
    let (_dir, server) = fresh().await;
    let joined = join(&server, &token(&server, Role::Operator, 1)).await.unwrap();
    let id = joined.certified().subject.id.clone();
    let ago = |days: u64| std::time::SystemTime::now() - Duration::from_secs(days * 86_400);
    let ended = |days| {
        server.identity_within(Role::Operator, &id, Validity { not_before: ago(30), not_after: ago(days) })
    };
    let recent = Arc::new(SharedIdentity::new(ended(6)));
    looks(&server, ended(6)).await.unwrap_err();
    let renewed = renew(&server.ready().url, &recent).await.unwrap();
    assert_eq!(renewed.certified().subject.id, id);
    looks(&server, renewed).await.unwrap();
    let old = Arc::new(SharedIdentity::new(ended(8)));
    let refused = words(renew(&server.ready().url, &old).await);
    assert!(
        refused.contains("expired at") && refused.contains("mtinet token create --role operator"),
        "{refused}"
    );
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn revoking_a_token_ends_sessions_and_calls_at_once() {
    let (dir, server) = fresh().await;
    let bought = token(&server, Role::Worker, 1);
    let identity = join(&server, &bought).await.unwrap();
    let credentials = Credentials::of(identity.clone());
    let mut agent = Agent::join_as(&server, &credentials, 1).await;
    let mut auth = net::auth_client(server.channel().await);
    let revoked = auth.revoke_token(v1::RevokeTokenRequest { id: bought.id.clone() }).await.unwrap();
    assert_eq!(revoked.into_inner().identities, 1);
    within("the session's end", agent.until_cut()).await;
    let status = looks_as_worker(&server, identity.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("revoked"), "{status}");
    let shared = Arc::new(SharedIdentity::new(identity.clone()));
    assert!(words(renew(&server.ready().url, &shared).await).contains("revoked"));
    let unknown = auth.revoke_token(v1::RevokeTokenRequest { id: "no".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let listed = auth.list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner().tokens;
    assert!(
        listed.iter().any(|token| token.id == bought.id && token.revoked_ms > 0 && token.joined == ["box-7"])
    );
    server.kill().await;
    let server = Server::start(options(dir.path())).await;
    assert!(looks_as_worker(&server, identity).await.unwrap_err().message().contains("revoked"));
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_speaks_for_itself_alone() {
    let (_dir, server) = fresh().await;
    let one = Credentials::of(server.identity(Role::Worker, "one"));
    let two = Credentials::of(server.identity(Role::Worker, "two"));
    let mut honest = Agent::join_as(&server, &one, 1).await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let start = honest.assignment().await;
    // With its own certificate and the other's name.
    let hello = v1::Hello {
        protocol_version: mtinet_proto::PROTOCOL_VERSION,
        worker_id: honest.id.clone(),
        ..v1::Hello::default()
    };
    let hello = tokio_stream::iter([message(v1::worker_message::Message::Hello(hello))]);
    let mut impostor = net::worker_client(server.channel_as(&two).await);
    let status = impostor.session(hello).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert!(status.message().contains(&honest.id), "{status}");
    // In a session of its own, about the other's attempt.
    let mut liar = Agent::join_as(&server, &two, 1).await;
    liar.report(&start, evaluated()).await;
    liar.report(&start, exited(1, false)).await;
    liar.acknowledged().await;
    let trial = show(&mut client, study).await.trials.remove(0);
    assert_eq!((trial.status.as_str(), trial.failures), ("running", 0));
    honest.report(&start, Fact::Started(v1::RankStarted { pid: 1 })).await;
    honest.report(&start, evaluated()).await;
    honest.report(&start, exited(0, true)).await;
    let events = events(&mut client, study, 0, true).await;
    let evaluations = kinds(&events).iter().filter(|kind| **kind == "trial_evaluated").count();
    assert_eq!(evaluations, 1);
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn too_many_attempts_to_join_are_slowed_down() {
    let (_dir, server) = fresh().await;
    let fingerprint = server.ready().access.authority.fingerprint();
    let client = net::auth_client(server.channel_as(&Credentials::Pinned(fingerprint)).await);
    let tries = (0..400).map(|_| {
        let mut client = client.clone();
        async move { client.join(v1::EnrolRequest::default()).await.unwrap_err().code() }
    });
    let codes = futures::future::join_all(tries).await;
    let slowed = codes.iter().filter(|code| **code == Code::ResourceExhausted).count();
    assert!(slowed >= 100, "{slowed}");
    // Those who are in are not touched by it.
    server.client().await.list_studies(v1::ListStudiesRequest {}).await.unwrap();
    server.stop().await.unwrap();
}
