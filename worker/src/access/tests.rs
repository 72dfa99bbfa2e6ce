//! Renewal and readmission against a coordinator that only gives out identities and takes files.

use std::io;
use std::sync::Mutex;
use std::time::SystemTime;

use mtinet_domain::{AttemptId, AttemptNumber, Rank, StudyId, TrialId};
use mtinet_proto::v1::auth_server::Auth;
use mtinet_proto::v1::worker_server::Worker;
use mtinet_proto::v1::{self, EnrolRequest, IssuedIdentity, RenewRequest};
use mtinet_runtime::artifacts::Cache;
use mtinet_runtime::tls::{
    self, Authority, Limits, OpenConnections, Peer, Role, Security, ServerCertificate, Subject, Validity,
    server_config,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::outbox::Outbox;
use crate::session::Session;
use crate::uplink::Uplink;
use crate::uploads::{Job, Uploader};

/// Nothing here takes longer, unless it never happens.
const DEADLINE: Duration = Duration::from_secs(30);

const HOUR: Duration = Duration::from_secs(3600);

/// A coordinator's authority and what it was asked.
#[derive(Clone)]
struct Fake {
    authority: Arc<Authority>,
    /// The keys that were to be certified with a token.
    enrolled: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Files are taken from those alone whose certificate ends later than this.
    files_after: u64,
    files: Arc<Mutex<usize>>,
}

fn subject() -> Subject {
    Subject::new(Role::Worker, "0a1b-2c".to_owned(), "here")
}

/// A certificate that is due long since, and still good for a minute.
fn due() -> Validity {
    let now = SystemTime::now();
    Validity { not_before: now - 100 * HOUR, not_after: now + Duration::from_secs(60) }
}

impl Fake {
    fn new() -> Self {
        let authority = Arc::new(Authority::generate().unwrap().0);
        Self { authority, enrolled: Arc::default(), files_after: 0, files: Arc::default() }
    }

    fn certified(&self, csr: &[u8]) -> Result<Response<IssuedIdentity>, Status> {
        let certificate = self.authority.sign(csr, &subject(), Validity::from_now(HOUR)).unwrap();
        Ok(Response::new(IssuedIdentity { certificate, authority: self.authority.pem().to_owned() }))
    }

    /// Serves, after `strangers` connections were answered by something that speaks no TLS.
    async fn serve(&self, strangers: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let key = self.authority.server(&[], Validity::from_now(HOUR)).unwrap();
        let config =
            server_config(self.authority.certificate(), Arc::new(ServerCertificate::new(key))).unwrap();
        let fake = self.clone();
        tokio::spawn(async move {
            for _ in 0..strangers {
                garbage(&listener).await.unwrap();
            }
            let security = Security::Tls(config);
            let connections =
                tls::incoming(listener, security, Limits::default(), OpenConnections::default());
            let server = net::server().add_service(net::auth_server(fake.clone()));
            server.add_service(net::worker_server(fake)).serve_with_incoming(connections).await.unwrap();
        });
        url
    }

    fn access(&self, url: String, dir: &std::path::Path, identity: Identity) -> Arc<Access> {
        Arc::new(Access {
            url,
            name: "here".to_owned(),
            file: dir.join(FILE),
            key_file: dir.join(KEY_FILE),
            token_file: None,
            credentials: Credentials::of(identity),
            recovering: tokio::sync::Mutex::default(),
        })
    }
}

/// One connection as an error page of a proxy answers it.
async fn garbage(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept().await?;
    let read = stream.read(&mut [0; 4096]).await?;
    assert!(read > 0, "a client has begun its handshake");
    stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await?;
    stream.shutdown().await
}

#[tonic::async_trait]
impl Auth for Fake {
    async fn join(&self, request: Request<EnrolRequest>) -> Result<Response<IssuedIdentity>, Status> {
        let request = request.into_inner();
        self.enrolled.lock().unwrap().push(Authority::requested_key(&request.csr).unwrap());
        self.certified(&request.csr)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<IssuedIdentity>, Status> {
        self.certified(&request.into_inner().csr)
    }

    async fn create_token(
        &self,
        _: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        Err(Status::unimplemented("no part of this"))
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        Err(Status::unimplemented("no part of this"))
    }

    async fn revoke_token(
        &self,
        _: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        Err(Status::unimplemented("no part of this"))
    }
}

#[tonic::async_trait]
impl Worker for Fake {
    type SessionStream = ReceiverStream<Result<v1::CoordinatorMessage, Status>>;
    type GetArtifactStream = ReceiverStream<Result<v1::ArtifactChunk, Status>>;
    type GetDatasetStream = ReceiverStream<Result<v1::ArtifactChunk, Status>>;

    async fn join(&self, _: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        Err(Status::unimplemented("no part of this"))
    }

    async fn session(
        &self,
        _: Request<Streaming<v1::WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Err(Status::unimplemented("no part of this"))
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<v1::PutArtifactRequest>>,
    ) -> Result<Response<v1::Artifact>, Status> {
        *self.files.lock().unwrap() += 1;
        let peer = request.extensions().get::<Peer>().unwrap();
        if peer.certificate.as_ref().unwrap().not_after <= self.files_after {
            return Err(Status::unauthenticated("this certificate expired"));
        }
        let first = request.into_inner().next().await.unwrap()?.part.unwrap();
        let v1::put_artifact_request::Part::Announce(artifact) = first else { panic!("{first:?}") };
        Ok(Response::new(artifact))
    }

    async fn get_artifact(
        &self,
        _: Request<v1::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        Err(Status::unimplemented("no part of this"))
    }

    async fn get_dataset(
        &self,
        _: Request<v1::GetDatasetRequest>,
    ) -> Result<Response<Self::GetDatasetStream>, Status> {
        Err(Status::unimplemented("no part of this"))
    }

    async fn tell_dataset(
        &self,
        _: Request<v1::TellDatasetRequest>,
    ) -> Result<Response<v1::TellDatasetResponse>, Status> {
        Err(Status::unimplemented("no part of this"))
    }

    async fn put_log(&self, _: Request<v1::PutLogRequest>) -> Result<Response<v1::PutLogResponse>, Status> {
        Err(Status::unimplemented("no part of this"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewal_outlives_a_stranger_at_the_coordinators_address() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::new());
    let first = fake.authority.issue(&subject(), due()).unwrap();
    let until = first.certified().not_after;
    let url = fake.serve(1).await;
    let access = fake.access(url, dir.path(), first);
    let keeping = tokio::spawn(Arc::clone(&access).keep_fresh());
    let Credentials::Identity(identity) = access.credentials() else { panic!("no identity") };
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while identity.current().certified().not_after == until {
        assert!(!keeping.is_finished() && tokio::time::Instant::now() < deadline, "renewal has ended");
        tokio::task::yield_now().await;
    }
    assert!(!identity.current().certified().is_due(unix_now()));
    keeping.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_stored_although_its_senders_certificate_ended_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weights");
    std::fs::write(&file, b"weights").unwrap();
    let mut fake = Fake::new();
    let first = fake.authority.issue(&subject(), due()).unwrap();
    fake.files_after = first.certified().not_after;
    let url = fake.serve(0).await;
    let access = fake.access(url, dir.path(), first);
    let uplink = Uplink::new(Session::new("here".to_owned(), &[], Outbox::default()));
    let trial = TrialId { study: StudyId(1), key: "mti-net/0/0".parse().unwrap() };
    let uploader = Uploader {
        key: (AttemptId { trial, number: AttemptNumber(1) }, Rank(0)),
        uplink: uplink.clone(),
        client: access.worker_client().unwrap(),
        access,
        cache: Cache::new(dir.path().join("cache"), 0),
        dir: dir.path().to_owned(),
        storing: tokio::sync::watch::Sender::default(),
    };
    let (jobs, waiting) = tokio::sync::mpsc::unbounded_channel();
    let path = file.to_str().unwrap().to_owned();
    jobs.send(Job::Checkpoint(v1::SavedCheckpoint { step: 7, path, artifact: None })).unwrap();
    drop(jobs);
    assert_eq!(tokio::time::timeout(DEADLINE, uploader.run(waiting)).await.unwrap(), None);
    assert_eq!(*fake.files.lock().unwrap(), 2, "refused once, then taken");
    assert_eq!(uplink.backlog().reports, 1, "the checkpoint is reported");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_not_lost_with_an_identity_that_the_disk_did_not_take() {
    let (dir, fake) = (tempfile::tempdir().unwrap(), Fake::new());
    let url = fake.serve(0).await;
    let unused = fake.authority.issue(&subject(), due()).unwrap();
    let access = fake.access(url, dir.path(), unused);
    let token = Token::generate(Role::Worker, fake.authority.fingerprint()).unwrap();
    // What cannot be replaced by a file stands for a disk that is full by then.
    std::fs::create_dir(&access.file).unwrap();
    let error = tokio::time::timeout(DEADLINE, access.join(&token)).await.unwrap().unwrap_err();
    assert!(matches!(error, AgentError::Identity(_)), "{error:?}");
    std::fs::remove_dir(&access.file).unwrap();
    tokio::time::timeout(DEADLINE, access.join(&token)).await.unwrap().unwrap();
    let enrolled = fake.enrolled.lock().unwrap();
    assert!(enrolled.len() == 2 && enrolled[0] == enrolled[1], "the same key, so the same identity");
    assert!(access.file.is_file() && !access.key_file.exists());
}
