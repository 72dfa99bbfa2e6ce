//! Nonsense on the wire ends connections, never the coordinator.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mtinet_proto::v1;
use mtinet_proto::v1::auth_client::AuthClient;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_runtime::net::{self, Channel};
use mtinet_runtime::tls::{Credentials, Role, SERVER_NAME, client_config};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;

use super::fleet::*;
use crate::server::ServerOptions;
use crate::server::auth::{AccessOptions, Plaintext, QuotaLimits};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const RESET: u8 = 3;

/// A fixed stream of bytes that looks random.
pub struct Noise(pub u64);

impl Noise {
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.to_le_bytes()[3]
        };
        (0..count).map(|_| next()).collect()
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// `POST https /`, all from HPACK's static table, to be continued.
fn request(stream: u32) -> Vec<u8> {
    frame(HEADERS, 4, stream, &[0x83, 0x87, 0x84])
}

fn address(server: &Server) -> SocketAddr {
    server.ready().url.split("://").nth(1).unwrap().parse().unwrap()
}

async fn tls(server: &Server) -> TlsStream<TcpStream> {
    let config = client_config(&Credentials::Identity(server.ready().operator.clone())).unwrap().unwrap();
    let stream = TcpStream::connect(address(server)).await.unwrap();
    TlsConnector::from(Arc::clone(&config))
        .connect(ServerName::try_from(SERVER_NAME).unwrap(), stream)
        .await
        .unwrap()
}

/// Says something and listens until the server hangs up or has nothing to say.
async fn say(mut to: impl AsyncReadExt + AsyncWriteExt + Unpin, what: &[u8]) {
    // The server may hang up in the middle of it.
    let _ = to.write_all(what).await;
    let _ = to.flush().await;
    let mut answer = vec![0; 4096];
    let listen = async { while to.read(&mut answer).await.is_ok_and(|count| count > 0) {} };
    let _ = tokio::time::timeout(Duration::from_millis(50), listen).await;
}

pub async fn still_serves(server: &Server) {
    let answer = async { server.client().await.list_studies(v1::ListStudiesRequest {}).await };
    within("an answer", answer).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn random_bytes_before_and_after_the_handshake() {
    let (_dir, server) = fresh().await;
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    for round in 0..40 {
        let mut bytes = noise.bytes(1 + 97 * round);
        if round % 3 == 0 {
            // Looks like a client's first TLS record.
            bytes.splice(0..0, [0x16, 3, 1, 2, 0, 1]);
        }
        say(TcpStream::connect(address(&server)).await.unwrap(), &bytes).await;
        let framed = [PREFACE, &frame(SETTINGS, 0, 0, &[]), &bytes].concat();
        say(tls(&server).await, if round % 2 == 0 { &bytes } else { &framed }).await;
    }
    still_serves(&server).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn plaintext_and_half_frames() {
    let (_dir, server) = fresh().await;
    let plain = net::connect(&server.ready().url.replace("https", "http")).await;
    if let Ok(channel) = plain {
        net::client_client(channel).list_studies(v1::ListStudiesRequest {}).await.unwrap_err();
    }
    let whole =
        [PREFACE, &frame(SETTINGS, 0, 0, &[]), &request(1), &frame(0, 0, 1, &[0, 0, 0, 0, 9])].concat();
    for length in 0..whole.len() {
        let mut stream = tls(&server).await;
        stream.write_all(&whole[..length]).await.unwrap();
        // Cut off without a goodbye.
        drop(stream);
    }
    for lying in [frame(HEADERS, 4, 1, &[0xff; 40]), frame(SETTINGS, 0, 0, &[1; 5]), frame(0, 0, 7, &[0; 9])]
    {
        say(tls(&server).await, &[PREFACE, &frame(SETTINGS, 0, 0, &[]), &lying].concat()).await;
    }
    still_serves(&server).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn thousands_of_streams() {
    let (_dir, server) = fresh().await;
    let mut opened = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let mut reset = opened.clone();
    for stream in (1..10_000).step_by(2) {
        opened.extend(request(stream));
        reset.extend(request(stream));
        reset.extend(frame(RESET, 0, stream, &[0, 0, 0, 8]));
    }
    say(tls(&server).await, &opened).await;
    say(tls(&server).await, &reset).await;
    let client = server.client().await;
    let calls = (0..3000).map(|_| {
        let mut client = client.clone();
        async move { client.list_studies(v1::ListStudiesRequest {}).await.map(drop) }
    });
    for answer in within("3000 answers", futures::future::join_all(calls)).await {
        answer.unwrap();
    }
    still_serves(&server).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn messages_that_are_too_large() {
    let (_dir, server) = fresh().await;
    let mut unlimited = ClientClient::new(server.channel().await);
    let huge = v1::SubmitStudyRequest { spec_json: " ".repeat(40 << 20), ..submission("") };
    let status = unlimited.submit_study(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let fingerprint = server.ready().access.authority.fingerprint();
    let mut stranger = AuthClient::new(server.channel_as(&Credentials::Pinned(fingerprint)).await);
    let huge = v1::EnrolRequest { csr: vec![0; 1 << 20], ..v1::EnrolRequest::default() };
    let status = stranger.join(huge).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    still_serves(&server).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn strangers_who_hold_connections_keep_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let limits = mtinet_runtime::tls::Limits {
        anonymous: 4,
        anonymous_life: Duration::from_millis(500),
        ..Default::default()
    };
    let access = AccessOptions { limits, ..AccessOptions::default() };
    let server = Server::start(ServerOptions { access, ..options(dir.path()) }).await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(address(&server)).await.unwrap());
    }
    still_serves(&server).await;
    let fingerprint = server.ready().access.authority.fingerprint();
    let pinned = Credentials::Pinned(fingerprint);
    let stranger = server.channel_as(&pinned).await;
    let mut client = net::auth_client(stranger.clone());
    client.join(v1::EnrolRequest::default()).await.unwrap_err();
    // A stranger's connection does not last; the next call has a new one.
    let config = client_config(&pinned).unwrap().unwrap();
    let stream = TcpStream::connect(address(&server)).await.unwrap();
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut stream = TlsConnector::from(config).connect(name, stream).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let mut all = Vec::new();
    // An end with or without TLS's goodbye.
    let _ = within("the end of a stranger's connection", stream.read_to_end(&mut all)).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_identity_cannot_have_all_connections() {
    let dir = tempfile::tempdir().unwrap();
    let limits = mtinet_runtime::tls::Limits { per_identity: 3, ..Default::default() };
    let access = AccessOptions { limits, ..AccessOptions::default() };
    let server = Server::start(ServerOptions { access, ..options(dir.path()) }).await;
    let greedy = Credentials::of(server.identity(Role::Viewer, "greedy"));
    let listed =
        async |channel: Channel| net::client_client(channel).list_studies(v1::ListStudiesRequest {}).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let channel = server.channel_as(&greedy).await;
        listed(channel.clone()).await.unwrap();
        held.push(channel);
    }
    // The door closes after the handshake, which the client may learn only from its first call.
    if let Ok(channel) = net::connect_as(&server.ready().url, &greedy).await {
        listed(channel).await.unwrap_err();
    }
    still_serves(&server).await;
    held.clear();
    within("a place that is free again", async {
        loop {
            if let Ok(channel) = net::connect_as(&server.ready().url, &greedy).await
                && listed(channel).await.is_ok()
            {
                return;
            }
        }
    })
    .await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_identity_cannot_have_all_sessions_and_streams() {
    let dir = tempfile::tempdir().unwrap();
    let quotas = QuotaLimits { sessions: 2, slots: 5, followed: 2, ..QuotaLimits::default() };
    let access = AccessOptions { quotas, ..AccessOptions::default() };
    let server = Server::start(ServerOptions { access, ..options(dir.path()) }).await;
    let mut client = server.client().await;
    let study = submit(&mut client, "folds = [0]\n").await;
    let mut first = Agent::join(&server, 3).await;
    first.assignment().await;
    let hello = |slots: u32| {
        let device = v1::Device { kind: v1::device::Kind::Cpu.into(), index: 0 };
        message(v1::worker_message::Message::Hello(v1::Hello {
            protocol_version: mtinet_proto::PROTOCOL_VERSION,
            worker_id: Server::worker_id(),
            slots: (0..slots).map(|index| v1::Slot { index, device: Some(device) }).collect(),
            ..v1::Hello::default()
        }))
    };
    let mut worker = server.worker_client().await;
    let refused = worker.session(tokio_stream::iter([hello(3)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let second = Agent::join(&server, 2).await;
    let refused = worker.session(tokio_stream::iter([hello(0)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    // A session that is over is one that another may have.
    drop(second);
    within("a session that is free again", async {
        while worker.session(tokio_stream::iter([hello(0)])).await.is_err() {}
    })
    .await;

    let follow = v1::StreamEventsRequest { study, after: 0, follow: true };
    let followed = [client.stream_events(follow).await.unwrap(), client.stream_events(follow).await.unwrap()];
    let refused = client.stream_events(follow).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let whole = v1::StreamEventsRequest { follow: false, ..follow };
    client.stream_events(whole).await.unwrap();
    drop(followed);
    within("a stream that is free again", async { while client.stream_events(follow).await.is_err() {} })
        .await;
    server.stop().await.unwrap();
}

/// `cargo test -p mtinet -- --ignored --nocapture what_tls_costs`
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "it measures"]
async fn what_tls_costs() {
    for plaintext in [Plaintext::Loopback, Plaintext::Never] {
        let dir = tempfile::tempdir().unwrap();
        let access = AccessOptions { plaintext, ..AccessOptions::default() };
        let server = Server::start(ServerOptions { access, ..options(dir.path()) }).await;
        let begun = std::time::Instant::now();
        for _ in 0..200 {
            still_serves(&server).await;
        }
        let connecting = begun.elapsed() / 200;
        let mut client = server.client().await;
        let begun = std::time::Instant::now();
        for _ in 0..2000 {
            client.list_studies(v1::ListStudiesRequest {}).await.unwrap();
        }
        let calling = begun.elapsed() / 2000;
        println!("{plaintext:?}: connect and call {connecting:?}, call {calling:?}");
        server.stop().await.unwrap();
    }
}
