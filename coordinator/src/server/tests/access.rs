//! Every method of every service, called by everyone who must not.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use mtinet_proto::v1;
use mtinet_runtime::net::{self, Channel};
use mtinet_runtime::tls::{
    Authority, Credentials, NewKey, Role, SERVER_NAME, Subject, Validity, client_config,
};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::{Code, Status};

use super::fleet::*;
use crate::server::auth::table::{self, Admits};
use crate::server::auth::{AccessOptions, Plaintext};
use crate::server::{ServerError, ServerOptions};

/// The full paths of all methods that the coordinator serves, from the descriptions of its services.
fn methods() -> BTreeSet<String> {
    let sets = [
        mtinet_proto::DESCRIPTORS,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    ];
    let files = sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap().file);
    let services = files.flat_map(|file| {
        let package = file.package().to_owned();
        file.service.into_iter().map(move |service| (package.clone(), service))
    });
    let methods = services.flat_map(|(package, service)| {
        let name = format!("/{package}.{}", service.name());
        service.method.into_iter().map(move |method| format!("{name}/{}", method.name()))
    });
    methods.collect()
}

/// Calls a method with an empty message; the answer's first word, or that it was let in and is at work.
pub async fn call(channel: &Channel, method: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let called = grpc.server_streaming(tonic::Request::new(()), method.parse().unwrap(), codec);
    match tokio::time::timeout(Duration::from_secs(2), called).await {
        Ok(answer) => answer.map(drop),
        Err(_) => Ok(()),
    }
}

fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied)
}

#[test]
fn every_method_names_the_roles_that_it_admits() {
    let methods = methods();
    for method in ["Worker/Session", "Worker/PutLog", "Client/StreamLog"] {
        assert!(methods.contains(&format!("/mtinet.v1.{method}")), "{method} is not described: {methods:?}");
    }
    let missing: Vec<_> = methods.iter().filter(|method| table::admits(method).is_none()).collect();
    assert!(missing.is_empty(), "these methods need a line in server/auth/table.rs: {missing:?}");
    let unknown: Vec<_> = table::METHODS.iter().filter(|(method, _)| !methods.contains(*method)).collect();
    assert!(unknown.is_empty(), "no service has these methods: {unknown:?}");
    let open: Vec<_> = table::METHODS.iter().filter(|(_, admits)| *admits == Admits::Anyone).collect();
    assert_eq!(open.len(), 1, "only Auth.Join serves strangers: {open:?}");
    assert_eq!(table::METHODS.len(), methods.len(), "a method is named twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_method_serves_a_stranger_an_expired_certificate_or_a_wrong_role() {
    let (_dir, server) = fresh().await;
    let access = &server.ready().access;
    let stranger = server.channel_as(&Credentials::Pinned(access.authority.fingerprint())).await;
    let now = SystemTime::now();
    let year = Duration::from_secs(365 * 86_400);
    let past = Validity { not_before: now - 2 * year, not_after: now - year };
    let future = Validity { not_before: now + year, not_after: now + 2 * year };
    let mut served = 0;
    for method in methods() {
        let admits = table::admits(&method).unwrap();
        let expected = if admits == Admits::Anyone { Code::InvalidArgument } else { Code::Unauthenticated };
        if admits == Admits::Anyone {
            let status = call(&stranger, &method).await.unwrap_err();
            assert!(!is_refusal(&status) || status.message().contains("token"), "{method}: {status}");
            served += 1;
            continue;
        }
        let status = call(&stranger, &method).await.unwrap_err();
        assert_eq!(status.code(), expected, "{method}: {status}");
        assert!(status.message().contains("--token-file"), "it says what to do: {status}");
    }
    assert_eq!(served, 1);
    for (role, other) in [(Role::Operator, "viewer"), (Role::Viewer, "worker"), (Role::Worker, "operator")] {
        let expired = Credentials::of(server.identity_within(role, "expired", past));
        let early = Credentials::of(server.identity_within(role, "early", future));
        let valid = Credentials::of(server.identity(role, "valid"));
        let (expired, early) = (server.channel_as(&expired).await, server.channel_as(&early).await);
        let valid = server.channel_as(&valid).await;
        for method in methods() {
            let roles = match table::admits(&method).unwrap() {
                Admits::Anyone => continue,
                // Of whatever role; but a certificate that ended long ago renews no more than it does anything else.
                Admits::Renewing => &Role::ALL[..],
                Admits::Roles(roles) => roles,
            };
            let status = call(&expired, &method).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{method}: {status}");
            assert!(status.message().contains("expired at"), "{status}");
            let status = call(&early, &method).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated, "{method}: {status}");
            assert!(status.message().contains("clock"), "{status}");
            match call(&valid, &method).await {
                Err(status) if is_refusal(&status) => {
                    assert!(!roles.contains(&role), "{method} refuses a {role} (not {other}): {status}");
                    assert_eq!(status.code(), Code::PermissionDenied, "{method}: {status}");
                }
                served => assert!(roles.contains(&role), "{method} serves a {role}: {served:?}"),
            }
        }
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn certificates_of_others_end_in_the_handshake() {
    let (_dir, server) = fresh().await;
    let ours = &server.ready().access.authority;
    let (other, _) = Authority::generate().unwrap();
    let operator = Subject::new(Role::Operator, "forged".into(), "forged");
    let validity = Validity::from_now(Duration::from_secs(600));
    let key = NewKey::generate().unwrap();
    // Of another authority, by a client that trusts ours.
    let signed_elsewhere = other.sign(&key.csr().unwrap(), &operator, validity).unwrap();
    let foreign = Credentials::of(key.certified(&signed_elsewhere, ours.pem()).unwrap());
    let alert = handshake(&server, &foreign).await.expect_err("the handshake went through");
    // The second where both authorities have the same name.
    assert!(
        matches!(alert, rustls::AlertDescription::UnknownCA | rustls::AlertDescription::DecryptError),
        "{alert:?}"
    );
    handshake(&server, &Credentials::Identity(server.ready().operator.clone())).await.unwrap();
    let mut served = server.client().await;
    for method in methods() {
        let channel = net::connect_as(&server.ready().url, &foreign).await;
        let answered = match channel {
            Ok(channel) => call(&channel, &method).await,
            Err(error) => Err(Status::unknown(error.to_string())),
        };
        let status = answered.expect_err(&method);
        assert!(
            matches!(status.code(), Code::Unknown | Code::Unavailable | Code::Internal),
            "{method}: {status:?}"
        );
        // It is the caller who is refused: a server that ended would fail the same calls.
        let listed = within("an answer", served.list_studies(v1::ListStudiesRequest {})).await;
        listed.unwrap_or_else(|status| panic!("after {method}: {status}"));
    }
    // A client of another coordinator meets this one.
    let lost = Credentials::of(other.issue(&operator, validity).unwrap());
    let error = net::connect_as(&server.ready().url, &lost).await.unwrap_err();
    assert!(error.to_string().contains("another authority"), "{error}");
    server.stop().await.unwrap();
}

/// Shakes hands and says nothing more: what the server makes of the certificate. The client's side of TLS 1.3 is done
/// before the server has looked at it, so that the verdict comes with the first bytes.
async fn handshake(server: &Server, credentials: &Credentials) -> Result<(), rustls::AlertDescription> {
    let config = client_config(credentials).unwrap().unwrap();
    let address = server.ready().url.trim_start_matches("https://").to_owned();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let verdict = async {
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        // A server that takes the certificate speaks first: HTTP/2's settings.
        stream.read_exact(&mut [0]).await
    };
    let Err(error) = within("the server's verdict", verdict).await else { return Ok(()) };
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => Err(*alert),
        _ => panic!("no verdict: {error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_unknown_method_is_refused_to_everyone() {
    let (_dir, server) = fresh().await;
    let channel = server.channel().await;
    for method in ["/mtinet.v1.Client/NotYetThought", "/mtinet.v1.Client/GetStudy/", "/"] {
        let status = call(&channel, method).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{method}: {status}");
    }
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_tls_everyone_on_this_machine_and_nobody_else_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let insecure = |plaintext| ServerOptions {
        access: AccessOptions { plaintext, ..AccessOptions::default() },
        ..options(dir.path())
    };
    let abroad = net::bind("0.0.0.0:0").await.unwrap();
    let serving = crate::server::serve(insecure(Plaintext::Loopback), abroad, std::future::pending());
    let error = within("a refusal", serving).await.unwrap_err();
    assert!(matches!(error, ServerError::PlaintextAbroad { .. }), "{error}");
    assert!(error.to_string().contains("--insecure-anywhere"), "{error}");
    let server = Server::start(insecure(Plaintext::Loopback)).await;
    assert!(server.ready().url.starts_with("http://127.0.0.1:"), "{}", server.ready().url);
    let channel = net::connect(&server.ready().url).await.unwrap();
    call(&channel, "/mtinet.v1.Client/ListStudies").await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (dir, server) = fresh().await;
    let fingerprint = server.ready().access.authority.fingerprint();
    for (name, mode) in [
        ("tls", 0o700),
        ("tls/authority.pem", 0o600),
        ("tls/operator.pem", 0o600),
        ("tls/registry.db", 0o600),
        ("tls/ca.crt", 0o644),
        ("address", 0o644),
    ] {
        let found = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name} has mode {found:o}");
    }
    server.stop().await.unwrap();
    assert!(!dir.path().join("address").exists(), "nobody serves any more");
    let again = Server::start(options(dir.path())).await;
    assert_eq!(again.ready().access.authority.fingerprint(), fingerprint, "the authority stays");
    again.stop().await.unwrap();
}
