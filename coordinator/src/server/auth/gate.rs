//! The layer around all services that decides who comes in.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{Either, Ready, ready};
use http::{Request, Response};
use mtinet_runtime::tls::{Certified, Peer, Role, unix_now, utc};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::Caller;
use super::table::{self, Admits};

/// Decides who may call what.
#[derive(Debug)]
pub struct Gate {
    revoked: RwLock<HashSet<String>>,
    renewal_grace: Duration,
}

impl Gate {
    /// A gate that refuses these identities.
    pub fn new(revoked: HashSet<String>, renewal_grace: Duration) -> Self {
        Self { revoked: RwLock::new(revoked), renewal_grace }
    }

    /// Refuses more identities from now on.
    pub fn revoke(&self, ids: impl IntoIterator<Item = String>) {
        self.revoked.write().unwrap_or_else(PoisonError::into_inner).extend(ids);
    }

    /// Who calls, where the method admits the peer at the time `now`, seconds since the Unix epoch.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` or `PERMISSION_DENIED`, with what to do.
    pub fn check(&self, path: &str, peer: &Peer, now: u64) -> Result<Caller, Status> {
        let certificate = peer.certificate.as_deref();
        let caller = Caller {
            subject: certificate.map(|certificate| certificate.subject.clone()),
            address: peer.address,
        };
        let Some(admits) = table::admits(path) else {
            return Err(Status::permission_denied(format!("nobody is admitted to {path}")));
        };
        if peer.plaintext || admits == Admits::Anyone {
            return Ok(caller);
        }
        let Some(certificate) = certificate else {
            return Err(Status::unauthenticated(
                "this coordinator serves nobody without an identity; a token buys one: `mtinet login URL --token-file \
                 FILE`, or `mtinet-worker --token-file FILE` for a worker",
            ));
        };
        let role = certificate.subject.role;
        if self.is_revoked(&certificate.subject.id) {
            return Err(Status::unauthenticated(format!("this identity is revoked; {}", new_one(role))));
        }
        match admits {
            Admits::Renewing => {
                in_time(certificate, now, self.renewal_grace)?;
            }
            Admits::Roles(roles) => {
                in_time(certificate, now, Duration::ZERO)?;
                if !roles.contains(&role) {
                    let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
                    let names = names.join(" or ");
                    return Err(Status::permission_denied(format!(
                        "{path} is for role {names}, and this identity's is {role}; get one with a token of role {names}"
                    )));
                }
            }
            Admits::Anyone => {}
        }
        Ok(caller)
    }

    fn is_revoked(&self, id: &str) -> bool {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

fn in_time(certificate: &Certified, now: u64, grace: Duration) -> Result<(), Status> {
    let &Certified { not_before, not_after, .. } = certificate;
    if now < not_before {
        return Err(Status::unauthenticated(format!(
            "this certificate is not valid before {}; compare this machine's clock with the coordinator's",
            utc(not_before)
        )));
    }
    if now > not_after.saturating_add(grace.as_secs()) {
        let role = certificate.subject.role;
        return Err(Status::unauthenticated(format!(
            "this certificate expired at {}; {}",
            utc(not_after),
            new_one(role)
        )));
    }
    Ok(())
}

fn new_one(role: Role) -> String {
    let with = match role {
        Role::Worker => "mtinet-worker --token-file FILE",
        Role::Operator | Role::Viewer => "mtinet login URL --token-file FILE",
    };
    format!("get a new one with a token: `mtinet token create --role {role}`, then `{with}`")
}

/// Puts a [`Gate`] in front of a service.
#[derive(Clone, Debug)]
pub struct GateLayer(Arc<Gate>);

impl GateLayer {
    /// With this gate.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self(gate)
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { gate: Arc::clone(&self.0), inner }
    }
}

/// A service behind a gate.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    gate: Arc<Gate>,
    inner: S,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let stranger = Peer::default();
        let peer = request.extensions().get::<Peer>().unwrap_or(&stranger);
        match self.gate.check(request.uri().path(), peer, unix_now()) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Right(self.inner.call(request))
            }
            Err(status) => {
                let by = peer.certificate.as_ref().map(|certificate| certificate.subject.to_string());
                match by {
                    Some(by) => {
                        let (method, reason) = (request.uri().path(), status.message());
                        tracing::warn!(target: "audit", by, method, reason, "refused");
                    }
                    // Strangers could fill the disk with lines of their own.
                    None => tracing::debug!(address = ?peer.address, "refused a call without a certificate"),
                }
                Either::Left(ready(Ok(status.into_http())))
            }
        }
    }
}
