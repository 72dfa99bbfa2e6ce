//! How a client gets its identity, and the next one.

use mtinet_proto::PROTOCOL_VERSION;
use mtinet_proto::v1::{EnrolRequest, IssuedIdentity, RenewRequest};
use secrecy::ExposeSecret as _;
use tonic::{Code, Status};

use super::{Credentials, Identity, NewKey, SharedIdentity, TlsError, Token};
use crate::net::{self, NetError};
use std::sync::Arc;
use std::time::Duration;

/// How long the coordinator may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// No identity was got.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The coordinator is not reached, or is not the right one.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The coordinator answers that it cannot now.
    #[error("the coordinator gives no identity now: {0}")]
    Away(String),
    /// The coordinator refuses, in these words.
    #[error("{0}")]
    Refused(String),
    /// Keys, certificates or files.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl AccessError {
    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Net(error) => error.is_transient(),
            Self::Away(_) => true,
            Self::Refused(_) | Self::Tls(_) => false,
        }
    }
}

impl From<Status> for AccessError {
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::Unimplemented => Self::Refused(message),
            _ => Self::Away(message),
        }
    }
}

/// Buys an identity with a token. Called again with the same key after a lost answer, it gets the same identity.
///
/// # Errors
/// A coordinator that is away, is not the token's, or refuses the token.
pub async fn enrol(url: &str, token: &Token, key: &NewKey, name: &str) -> Result<Identity, AccessError> {
    if net::is_plaintext(url) {
        let words = format!(
            "{url} is plaintext, and a token's secret is sent encrypted or not at all: write https://"
        );
        return Err(AccessError::Refused(words));
    }
    // The secret leaves this machine only for the coordinator that the token names.
    let channel = net::connect_as(url, &Credentials::Pinned(token.fingerprint)).await?;
    let mut request = tonic::Request::new(EnrolRequest {
        protocol_version: PROTOCOL_VERSION,
        token_id: token.id.clone(),
        secret: token.secret.expose_secret().to_owned(),
        csr: key.csr()?,
        name: name.to_owned(),
    });
    request.set_timeout(ANSWER_TIMEOUT);
    let IssuedIdentity { certificate, authority } =
        net::auth_client(channel).join(request).await?.into_inner();
    let identity = key.certified(&certificate, &authority)?;
    if identity.fingerprint() != token.fingerprint {
        let problem = "it is of another authority than the token names".to_owned();
        return Err(TlsError::Identity { what: "the coordinator's answer".to_owned(), problem }.into());
    }
    Ok(identity)
}

/// Gets the next identity with the present one.
///
/// # Errors
/// A coordinator that is away, or does not know the identity any more.
pub async fn renew(url: &str, identity: &Arc<SharedIdentity>) -> Result<Identity, AccessError> {
    let channel = net::connect_as(url, &Credentials::Identity(Arc::clone(identity))).await?;
    let key = NewKey::generate()?;
    let mut request = tonic::Request::new(RenewRequest { csr: key.csr()? });
    request.set_timeout(ANSWER_TIMEOUT);
    let IssuedIdentity { certificate, authority } =
        net::auth_client(channel).renew(request).await?.into_inner();
    let next = key.certified(&certificate, &authority)?;
    if next.fingerprint() != identity.current().fingerprint() {
        let problem = "it is of another authority than the present one".to_owned();
        return Err(TlsError::Identity { what: "the coordinator's answer".to_owned(), problem }.into());
    }
    Ok(next)
}
