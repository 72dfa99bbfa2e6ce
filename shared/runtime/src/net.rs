//! The one place that makes listeners and channels, so that transport security comes in at one place.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mtinet_proto::v1::auth_client::AuthClient;
use mtinet_proto::v1::auth_server::{Auth, AuthServer};
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_proto::v1::client_server::{Client, ClientServer};
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::worker_server::{Worker, WorkerServer};
use mtinet_proto::{MAX_LISTING_BYTES, MAX_MESSAGE_BYTES};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Endpoint, Server, Uri};

use crate::telemetry::traces;
use crate::tls::{Credentials, SERVER_NAME, TlsError, client_config};

pub use crate::telemetry::traces::Channel;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A silent connection is probed this often ...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// ... and given up when the probe stays unanswered this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes in flight per stream: a few artifact chunks, so that a transfer fills a fast link.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Bytes in flight per connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Where a coordinator listens unless told otherwise.
pub const DEFAULT_PORT: u16 = 7077;

/// Largest request of the auth service, which strangers may call: a signing request has hundreds of bytes.
const MAX_AUTH_REQUEST_BYTES: usize = 16 << 10;

/// Largest answer of the auth service: a list of tokens.
const MAX_AUTH_ANSWER_BYTES: usize = 4 << 20;

/// Streams that one peer may have open at once on one connection.
const MAX_CONCURRENT_STREAMS: u32 = 1024;

/// Most bytes of a call's headers.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Streams that a peer may reset before the server has looked at them; more end its connection.
const MAX_PENDING_RESETS: usize = 64;

/// A listener or a channel that does not come about.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The address cannot be listened on.
    #[error(
        "could not listen on {addr}; give another address as HOST:PORT, or end the program that holds it"
    )]
    Bind {
        /// The address as given.
        addr: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Text that is not an address of a coordinator.
    #[error("`{url}` is not a coordinator's address: write https://HOST:PORT")]
    Url {
        /// The address as given.
        url: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
    /// Nothing answers.
    #[error("could not reach the coordinator at {url}; check that it runs and that the address is right")]
    Connect {
        /// The address as given.
        url: String,
        /// What the transport said.
        source: tonic::transport::Error,
    },
    /// An encrypted address and nothing to show there.
    #[error(
        "there is no identity for {url}; `mtinet login {url} --token-file FILE` gets one with a token \
         (`mtinet-worker --token-file FILE` for a worker)"
    )]
    NoIdentity {
        /// The address as given.
        url: String,
    },
    /// What answers is no coordinator, or another one.
    #[error("{url} is refused: {problem}")]
    Handshake {
        /// The address as given.
        url: String,
        /// In words, with what to do.
        problem: String,
        /// What TLS said.
        source: tonic::transport::Error,
    },
    /// An identity that TLS does not take.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl NetError {
    /// Whether trying again later may help.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

/// Listens on `HOST:PORT`; port 0 takes a free one, which the listener's `local_addr` tells.
///
/// # Errors
/// [`NetError::Bind`] where the address is not this machine's or is taken.
pub async fn bind(addr: &str) -> Result<TcpListener, NetError> {
    TcpListener::bind(addr).await.map_err(|source| NetError::Bind { addr: addr.to_owned(), source })
}

/// A gRPC server with our keepalive and limits; services are added by the caller.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(MAX_CONCURRENT_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
}

/// Connects in plaintext, which only a coordinator with `--insecure` takes. See [`connect_as`].
///
/// # Errors
/// As [`connect_as`].
pub async fn connect(url: &str) -> Result<Channel, NetError> {
    connect_as(url, &Credentials::Plaintext).await
}

/// Connects to a coordinator: encrypted at `https://HOST:PORT` and at `HOST:PORT`, in plaintext at `http://`. The
/// channel reconnects by itself after the first connection, one try per call, each time with the identity of then.
///
/// # Errors
/// [`NetError::Url`] for text that is no address, [`NetError::Connect`] where nothing answers, the others where what
/// answers is not the coordinator of these credentials.
pub async fn connect_as(url: &str, credentials: &Credentials) -> Result<Channel, NetError> {
    let endpoint = endpoint(url)?;
    let channel = match secured(url, &endpoint, credentials)? {
        Some(tls) => endpoint.connect_with_connector(connector(tls)).await,
        None => endpoint.connect().await,
    };
    channel.map(traces::channel).map_err(|source| failed(url, source))
}

/// A channel that connects at its first call, and again after each loss; a call fails where nothing answers.
///
/// # Errors
/// [`NetError::Url`] for text that is no address.
pub fn connect_lazy_as(url: &str, credentials: &Credentials) -> Result<Channel, NetError> {
    let endpoint = endpoint(url)?;
    Ok(traces::channel(match secured(url, &endpoint, credentials)? {
        Some(tls) => endpoint.connect_with_connector_lazy(connector(tls)),
        None => endpoint.connect_lazy(),
    }))
}

/// Checks an address without connecting.
///
/// # Errors
/// [`NetError::Url`] for text that is no address.
pub fn check_url(url: &str) -> Result<(), NetError> {
    endpoint(url).map(|_| ())
}

/// Whether an address asks for plaintext.
pub fn is_plaintext(url: &str) -> bool {
    url.starts_with("http://")
}

fn secured(
    url: &str,
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Result<Option<Arc<ClientConfig>>, NetError> {
    if endpoint.uri().scheme_str() == Some("http") {
        return Ok(None);
    }
    client_config(credentials)?.map(Some).ok_or_else(|| NetError::NoIdentity { url: url.to_owned() })
}

/// Dials and shakes hands. The name asked for is every coordinator's, whatever address was dialled.
fn connector(
    tls: Arc<ClientConfig>,
) -> impl tower::Service<
    Uri,
    Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>,
    Error = std::io::Error,
    Future: Send,
> + Send
+ 'static {
    tower::service_fn(move |uri: Uri| {
        let tls = TlsConnector::from(Arc::clone(&tls));
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(DEFAULT_PORT))).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(SERVER_NAME).map_err(std::io::Error::other)?;
            tls.connect(name, stream).await.map(TokioIo::new)
        }
    })
}

fn failed(url: &str, source: tonic::transport::Error) -> NetError {
    use rustls::CertificateError as Certificate;
    use rustls::Error as Tls;
    let url = url.to_owned();
    let problem = match tls_error(&source) {
        None => return NetError::Connect { url, source },
        Some(Tls::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature)) => {
            "the coordinator there has another authority than this identity or token; get a token of that one".to_owned()
        }
        Some(Tls::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        )) => "the coordinator's certificate is out of its time; compare this machine's clock with the coordinator's"
            .to_owned(),
        Some(Tls::InvalidMessage(_)) => {
            "it does not speak TLS; where the coordinator runs with --insecure, write http://".to_owned()
        }
        Some(other) => other.to_string(),
    };
    NetError::Handshake { url, problem, source }
}

/// The TLS error among the causes.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An IO error hides what it wraps from `source`.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|wrapped| wrapped.downcast_ref()) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn endpoint(url: &str) -> Result<Endpoint, NetError> {
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let endpoint =
        Endpoint::from_shared(full).map_err(|source| NetError::Url { url: url.to_owned(), source })?;
    Ok(endpoint
        .user_agent(concat!("mtinet/", env!("CARGO_PKG_VERSION")))
        .map_err(|source| NetError::Url { url: url.to_owned(), source })?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE_INTERVAL))
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

/// The auth service's client with our message limits.
pub fn auth_client(channel: Channel) -> AuthClient<Channel> {
    AuthClient::new(channel).max_decoding_message_size(MAX_AUTH_ANSWER_BYTES)
}

/// The auth service's server side with our message limits.
pub fn auth_server<S: Auth>(service: S) -> AuthServer<S> {
    AuthServer::new(service)
        .max_decoding_message_size(MAX_AUTH_REQUEST_BYTES)
        .max_encoding_message_size(MAX_AUTH_ANSWER_BYTES)
}

/// The worker service's client with our message limits.
pub fn worker_client(channel: Channel) -> WorkerClient<Channel> {
    WorkerClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The client service's client with our message limits.
pub fn client_client(channel: Channel) -> ClientClient<Channel> {
    ClientClient::new(channel)
        .max_decoding_message_size(MAX_LISTING_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The worker service's server side with our message limits.
pub fn worker_server<S: Worker>(service: S) -> WorkerServer<S> {
    WorkerServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The client service's server side with our message limits.
pub fn client_server<S: Client>(service: S) -> ClientServer<S> {
    ClientServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_LISTING_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let held = bind("127.0.0.1:0").await.unwrap();
        let addr = held.local_addr().unwrap().to_string();
        let message = bind(&addr).await.unwrap_err().to_string();
        assert!(message.contains(&addr), "{message}");
    }

    #[tokio::test]
    async fn a_coordinator_that_does_not_answer_is_named() {
        // Bound, so that nobody else gets the port, and not listening.
        let held = tokio::net::TcpSocket::new_v4().unwrap();
        held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = held.local_addr().unwrap().to_string();
        let error = connect(&format!("http://{addr}")).await.unwrap_err();
        assert!(matches!(error, NetError::Connect { .. }), "{error:?}");
        assert!(error.to_string().contains(&addr), "{error}");
    }

    #[tokio::test]
    async fn an_encrypted_address_needs_an_identity() {
        for url in ["https://head-node:7077", "head-node:7077"] {
            let error = connect(url).await.unwrap_err();
            assert!(matches!(error, NetError::NoIdentity { .. }), "{error:?}");
            assert!(error.to_string().contains("mtinet login"), "{error}");
        }
    }

    #[test]
    fn a_scheme_is_added_and_nonsense_is_refused() {
        assert!(check_url("head-node:7077").is_ok());
        assert!(check_url("https://head-node:7077").is_ok());
        assert!(matches!(check_url("http://not an address"), Err(NetError::Url { .. })));
    }
}
