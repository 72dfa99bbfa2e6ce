//! Valid messages with mistakes in them, behind correct framing and a valid certificate: what is random here reaches the
//! decoding of messages and the handlers behind it, where `attacks` ends in TLS and HTTP/2.

use std::collections::BTreeMap;
use std::error::Error as _;

use bytes::{Buf as _, BufMut as _};
use mtinet_proto::v1::put_artifact_request::Part;
use mtinet_proto::v1::{self, worker_message};
use mtinet_proto::{MAX_MESSAGE_BYTES, PROTOCOL_VERSION};
use mtinet_runtime::net::Channel;
use mtinet_runtime::tls::{Credentials, Role};
use prost::Message as _;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use super::attacks::{Noise, still_serves};
use super::fleet::*;

/// Calls of each method.
const CALLS: usize = 150;

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// Sends messages to a method, and reads its answers to their end.
async fn send(channel: &Channel, method: &str, messages: Vec<Vec<u8>>) -> Result<usize, Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
    let request = tonic::Request::new(tokio_stream::iter(messages));
    let answers = async {
        let path = format!("/mtinet.v1.{method}").parse().unwrap();
        let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
        let mut count = 0;
        while answers.message().await?.is_some() {
            count += 1;
        }
        Ok(count)
    };
    within(method, answers).await
}

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        let bytes: [u8; 8] = self.bytes(8).try_into().unwrap();
        (u64::from_le_bytes(bytes) % bound as u64) as usize
    }

    /// A message with one to three mistakes: bits flipped, bytes replaced, lost, doubled or added, the end cut off.
    fn mutate(&mut self, valid: &[u8]) -> Vec<u8> {
        let mut bytes = valid.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(9)).min(bytes.len());
            match self.below(6) {
                0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                1 if at < bytes.len() => bytes[at] = self.bytes(1)[0],
                2 => drop(bytes.drain(at..end)),
                3 => {
                    let part = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, part));
                }
                4 => {
                    let count = self.below(9);
                    drop(bytes.splice(at..at, self.bytes(count)));
                }
                _ => bytes.truncate(at),
            }
        }
        bytes
    }
}

/// How calls went, by the code of the answer.
#[derive(Debug, Default)]
struct Answers(BTreeMap<String, usize>);

impl Answers {
    fn note(&mut self, method: &str, answer: Result<usize, Status>) {
        let code = match answer {
            Ok(_) => "Ok".to_owned(),
            Err(status) => {
                // A handler that panics breaks its stream: the transport says so, and no handler.
                assert!(status.source().is_none(), "{method} breaks off: {status:?}");
                format!("{:?}", status.code())
            }
        };
        *self.0.entry(code).or_default() += 1;
    }

    /// What shows that messages got beyond the decoder: some were taken or refused by a handler, and some were not
    /// messages at all.
    fn check(&self, method: &str) {
        let decoded: usize =
            self.0.iter().filter(|(code, _)| *code != "Internal").map(|(_, count)| count).sum();
        assert!(decoded > 0, "{method}: no handler saw anything: {:?}", self.0);
        assert!(
            self.0.contains_key("Internal"),
            "{method}: nothing was refused by the decoder: {:?}",
            self.0
        );
    }
}

fn log_of(agent: &Agent, start: &v1::StartRank) -> v1::PutLogRequest {
    let (worker_id, attempt, data) = (agent.id.clone(), start.attempt.clone(), b"a line\n".to_vec());
    v1::PutLogRequest { worker_id, attempt, rank: start.rank, data, ..v1::PutLogRequest::default() }
}

fn session() -> [v1::WorkerMessage; 3] {
    let device = v1::Device { kind: v1::device::Kind::Cpu.into(), index: 0 };
    let attempt = v1::Attempt { trial: Some(v1::Trial { study: 1, key: "mti-net/0/0".into() }), number: 1 };
    let running = v1::RunningRank { attempt: Some(attempt.clone()), rank: 0, slot: 0, exited: false };
    let hello = v1::Hello {
        protocol_version: PROTOCOL_VERSION,
        worker_id: Server::worker_id(),
        name: "host".into(),
        slots: vec![v1::Slot { index: 0, device: Some(device) }],
        running: vec![running],
    };
    let report = v1::Report { seq: 1, attempt: Some(attempt), rank: 0, fact: Some(metrics(1)) };
    let heartbeat = v1::Heartbeat::default();
    [
        worker_message::Message::Hello(hello),
        worker_message::Message::Report(report),
        worker_message::Message::Heartbeat(heartbeat),
    ]
    .map(message)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn mutated_messages_end_calls_and_not_the_coordinator() {
    let (_dir, server) = fresh().await;
    let mut client = server.client().await;
    submit(&mut client, "folds = [0]\n").await;
    let mut agent = Agent::join(&server, 1).await;
    let start = agent.assignment().await;
    let content = b"some content";
    let parts = [Part::Announce(artifact(content)), Part::Data(content.to_vec())];
    let parts = parts.map(|part| v1::PutArtifactRequest { part: Some(part) }.encode_to_vec()).to_vec();
    let said: Vec<Vec<u8>> = session().iter().map(prost::Message::encode_to_vec).collect();
    let operator = server.channel().await;
    let worker = server.channel_as(&Credentials::of(server.identity(Role::Worker, "fleet"))).await;
    let calls: [(&str, &Channel, Vec<Vec<u8>>); 5] = [
        ("Client/SubmitStudy", &operator, vec![submission("").encode_to_vec()]),
        ("Client/PutArtifact", &operator, parts.clone()),
        ("Worker/PutArtifact", &worker, parts),
        ("Worker/PutLog", &worker, vec![log_of(&agent, &start).encode_to_vec()]),
        ("Worker/Session", &worker, said),
    ];
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    for (method, channel, valid) in calls {
        send(channel, method, valid.clone()).await.unwrap_or_else(|status| panic!("{method}: {status}"));
        let mut answers = Answers::default();
        for _ in 0..CALLS {
            let mut messages = valid.clone();
            // One of them, so that those before it lead the call to where it is looked at.
            let which = noise.below(messages.len());
            messages[which] = noise.mutate(&messages[which]);
            answers.note(method, send(channel, method, messages).await);
        }
        answers.check(method);
        still_serves(&server).await;
    }
    // And it works as before.
    let study = submit(&mut client, "folds = [0]\n[resources]\npriority = 9\n").await;
    let mut other = Agent::join(&server, 1).await;
    let start = loop {
        let start = other.assignment().await;
        if start.attempt.as_ref().unwrap().trial.as_ref().unwrap().study == study {
            break start;
        }
        other.complete(&start).await;
    };
    other.complete(&start).await;
    events(&mut client, study, 0, true).await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn messages_that_are_too_large_end_streams_too() {
    let (_dir, server) = fresh().await;
    let worker = server.channel_as(&Credentials::of(server.identity(Role::Worker, "fleet"))).await;
    let huge = vec![b' '; MAX_MESSAGE_BYTES + 1];
    let announce = v1::PutArtifactRequest { part: Some(Part::Announce(artifact(b"x"))) }.encode_to_vec();
    let part = v1::PutArtifactRequest { part: Some(Part::Data(huge.clone())) }.encode_to_vec();
    let log = v1::PutLogRequest { data: huge.clone(), ..v1::PutLogRequest::default() }.encode_to_vec();
    let hello = v1::Hello { name: String::from_utf8(huge).unwrap(), ..v1::Hello::default() };
    let hello = message(worker_message::Message::Hello(hello)).encode_to_vec();
    for (method, messages) in [
        ("Worker/PutArtifact", vec![part.clone()]),
        ("Worker/PutArtifact", vec![announce, part]),
        ("Worker/PutLog", vec![log]),
        ("Worker/Session", vec![hello]),
    ] {
        let status = send(&worker, method, messages).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{method}: {status}");
        still_serves(&server).await;
    }
    server.stop().await.unwrap();
}
