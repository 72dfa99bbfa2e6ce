//! The one table of who may call what. A new RPC is one line here; without it, it is refused, and a test fails.

use mtinet_runtime::tls::Role;

/// Whom a method admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Whoever connects, with a certificate or without.
    Anyone,
    /// Whoever has a certificate of ours; also one that ended not long ago.
    Renewing,
    /// These roles.
    Roles(&'static [Role]),
}

const ALL: Admits = Admits::Roles(&Role::ALL);
const LOOKING: Admits = Admits::Roles(&[Role::Viewer, Role::Operator]);
const ACTING: Admits = Admits::Roles(&[Role::Operator]);
const WORKING: Admits = Admits::Roles(&[Role::Worker]);

/// Whom each method admits, by its full path.
pub const METHODS: &[(&str, Admits)] = &[
    ("/grpc.health.v1.Health/Check", ALL),
    ("/grpc.health.v1.Health/Watch", ALL),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", LOOKING),
    ("/mtinet.v1.Auth/Join", Admits::Anyone),
    ("/mtinet.v1.Auth/Renew", Admits::Renewing),
    ("/mtinet.v1.Auth/CreateToken", ACTING),
    ("/mtinet.v1.Auth/ListTokens", ACTING),
    ("/mtinet.v1.Auth/RevokeToken", ACTING),
    ("/mtinet.v1.Client/CancelStudy", ACTING),
    ("/mtinet.v1.Client/CancelTrial", ACTING),
    ("/mtinet.v1.Client/DrainWorker", ACTING),
    ("/mtinet.v1.Client/ExplainTrial", LOOKING),
    ("/mtinet.v1.Client/FindDataset", ACTING),
    ("/mtinet.v1.Client/GetArtifact", LOOKING),
    ("/mtinet.v1.Client/GetServerInfo", ALL),
    ("/mtinet.v1.Client/GetStudy", LOOKING),
    ("/mtinet.v1.Client/ListStudies", LOOKING),
    ("/mtinet.v1.Client/ListWorkers", LOOKING),
    ("/mtinet.v1.Client/OfferDataset", ACTING),
    ("/mtinet.v1.Client/PauseStudy", ACTING),
    ("/mtinet.v1.Client/PauseTrial", ACTING),
    ("/mtinet.v1.Client/PutArtifact", ACTING),
    ("/mtinet.v1.Client/ReadmitWorker", ACTING),
    ("/mtinet.v1.Client/ResumeStudy", ACTING),
    ("/mtinet.v1.Client/ResumeTrial", ACTING),
    ("/mtinet.v1.Client/RetryTrials", ACTING),
    ("/mtinet.v1.Client/StreamEvents", LOOKING),
    ("/mtinet.v1.Client/StreamLog", LOOKING),
    ("/mtinet.v1.Client/SubmitStudy", ACTING),
    ("/mtinet.v1.Worker/GetArtifact", WORKING),
    ("/mtinet.v1.Worker/GetDataset", WORKING),
    ("/mtinet.v1.Worker/Join", WORKING),
    ("/mtinet.v1.Worker/PutArtifact", WORKING),
    ("/mtinet.v1.Worker/PutLog", WORKING),
    ("/mtinet.v1.Worker/Session", WORKING),
    ("/mtinet.v1.Worker/TellDataset", WORKING),
];

/// Whom a method admits; `None` where the table does not name it.
pub fn admits(path: &str) -> Option<Admits> {
    METHODS.iter().find(|(method, _)| *method == path).map(|(_, admits)| *admits)
}
