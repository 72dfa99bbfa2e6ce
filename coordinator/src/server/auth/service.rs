//! `mtinet.v1.Auth`: joining, renewing, and handing out tokens.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use mtinet_proto::v1::auth_server::Auth;
use mtinet_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, EnrolRequest, IssuedIdentity, ListTokensRequest,
    ListTokensResponse, RenewRequest, RevokeTokenRequest, RevokeTokenResponse,
};
use mtinet_runtime::tls::{Authority, Role, Subject, TlsError, Validity};
use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status};

use super::{Access, Caller, MadeToken, RegistryError};
use crate::server::driver::now_ms;
use crate::server::services::check_version;

/// Attempts to join from one address: this many at once, then this many a second.
const JOIN_BURST: NonZeroU32 = NonZeroU32::new(200).expect("is not zero");
const JOINS_A_SECOND: NonZeroU32 = NonZeroU32::new(20).expect("is not zero");

/// The same from all addresses together: each costs a signature.
const ALL_JOINS_BURST: NonZeroU32 = NonZeroU32::new(1000).expect("is not zero");
const ALL_JOINS_A_SECOND: NonZeroU32 = NonZeroU32::new(100).expect("is not zero");

/// Addresses that are remembered before those that have been quiet are forgotten.
const ADDRESSES: usize = 4096;

/// Longest life of a token.
const LONGEST_TTL: Duration = Duration::from_secs(366 * 24 * 3600);

/// Most uses of a token.
const MOST_USES: u32 = 100_000;

/// The service for identities.
pub struct AuthService {
    access: Arc<Access>,
    joins: DefaultKeyedRateLimiter<IpAddr>,
    all_joins: DefaultDirectRateLimiter,
}

impl AuthService {
    /// The service in front of the keys.
    pub fn new(access: Arc<Access>) -> Self {
        let joins = RateLimiter::keyed(Quota::per_second(JOINS_A_SECOND).allow_burst(JOIN_BURST));
        let all = Quota::per_second(ALL_JOINS_A_SECOND).allow_burst(ALL_JOINS_BURST);
        Self { access, joins, all_joins: RateLimiter::direct(all) }
    }

    fn limit(&self, caller: &Caller) -> Result<(), Status> {
        let Some(address) = caller.address else { return Ok(()) };
        if self.joins.len() > ADDRESSES {
            self.joins.retain_recent();
        }
        self.joins.check_key(&address.ip()).map_err(|_| {
            Status::resource_exhausted(format!(
                "too many attempts to join from {}; try again soon",
                address.ip()
            ))
        })?;
        // Only those count here that their own address admits: one that is busy uses nothing up for others.
        self.all_joins
            .check()
            .map_err(|_| Status::resource_exhausted("too many attempts to join; try again soon"))
    }

    fn issue(&self, csr: &[u8], subject: &Subject) -> Result<IssuedIdentity, Status> {
        let validity = Validity::from_now(self.access.certificate_life);
        let certificate =
            self.access.authority.sign(csr, subject, validity).map_err(|error| refused(&error))?;
        Ok(IssuedIdentity { certificate, authority: self.access.authority.pem().to_owned() })
    }

    /// Runs a call of the registry, which waits for the disk.
    async fn registry<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Access) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, Status> {
        let access = Arc::clone(&self.access);
        let done = tokio::task::spawn_blocking(move || call(&access)).await;
        done.map_err(|error| Status::internal(error.to_string()))?.map_err(|error| match error {
            RegistryError::Refused(words) => Status::unauthenticated(words),
            error => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the registry of identities failed"
                );
                Status::unavailable("the coordinator's registry of identities failed; its log says why")
            }
        })
    }
}

fn refused(error: &TlsError) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn join(&self, request: Request<EnrolRequest>) -> Result<Response<IssuedIdentity>, Status> {
        let caller = Caller::of(&request);
        self.limit(&caller)?;
        let EnrolRequest { protocol_version, token_id, secret, csr, name } = request.into_inner();
        let secret: secrecy::SecretString = secret.into();
        check_version(protocol_version)?;
        if self.access.is_plaintext() {
            return Err(Status::failed_precondition(PLAINTEXT));
        }
        // First, so that a request that cannot be signed costs no token.
        let key = Authority::requested_key(&csr).map_err(|error| refused(&error))?;
        let token = token_id.clone();
        let redeemed =
            self.registry(move |access| access.registry.redeem(&token, &secret, &key, &name, now_ms())).await;
        let subject = redeemed.inspect_err(|status| {
            // Not the id as given: whoever mistakes the parts of a token would log its secret.
            tracing::warn!(target: "audit", by = %caller, reason = status.message(), "refused a join");
        })?;
        let issued = self.issue(&csr, &subject)?;
        tracing::info!(target: "audit", by = %subject, token = token_id, from = ?caller.address, "joined");
        Ok(Response::new(issued))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<IssuedIdentity>, Status> {
        let subject = Caller::of(&request).subject;
        let subject = subject.ok_or_else(|| Status::failed_precondition(PLAINTEXT))?;
        let csr = request.into_inner().csr;
        Authority::requested_key(&csr).map_err(|error| refused(&error))?;
        let id = subject.id.clone();
        self.registry(move |access| access.registry.renew(&id, now_ms())).await?;
        let issued = self.issue(&csr, &subject)?;
        tracing::info!(target: "audit", by = %subject, "renewed");
        Ok(Response::new(issued))
    }

    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let caller = Caller::of(&request);
        let CreateTokenRequest { role, ttl_ms, uses } = request.into_inner();
        let role: Role = role.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        let ttl = Duration::from_millis(ttl_ms);
        if ttl.is_zero() || ttl > LONGEST_TTL {
            return Err(Status::invalid_argument("a token lives longer than nothing and at most 366 days"));
        }
        if uses == 0 || uses > MOST_USES {
            return Err(Status::invalid_argument(format!("a token has 1 to {MOST_USES} uses")));
        }
        let by = caller.by();
        let made = self.registry(move |access| {
            let fingerprint = access.authority.fingerprint();
            access.registry.create_token(role, fingerprint, (ttl, uses), &by, now_ms())
        });
        let MadeToken { token, expires_ms } = made.await?;
        tracing::info!(target: "audit", by = %caller, token = token.id, %role, uses, "made a token");
        let whole = token.expose().expose_secret().to_owned();
        Ok(Response::new(CreateTokenResponse { token: whole, id: token.id, expires_ms }))
    }

    async fn list_tokens(
        &self,
        _: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let tokens = self.registry(|access| access.registry.tokens()).await?;
        Ok(Response::new(ListTokensResponse { tokens }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let caller = Caller::of(&request);
        let id = request.into_inner().id;
        let token = id.clone();
        let revoked = self.registry(move |access| access.registry.revoke(&token, now_ms())).await?;
        let Some(identities) = revoked else {
            return Err(Status::not_found(format!("there is no token {id}; `mtinet token list` shows all")));
        };
        self.access.gate.revoke(identities.iter().cloned());
        for identity in &identities {
            self.access.open.end(identity);
        }
        tracing::info!(target: "audit", by = %caller, token = id, identities = identities.len(), "revoked a token");
        let identities = u32::try_from(identities.len()).unwrap_or(u32::MAX);
        Ok(Response::new(RevokeTokenResponse { identities }))
    }
}

const PLAINTEXT: &str = "this coordinator runs with --insecure and knows no identities";
