//! The one place that makes listeners and channels, so that transport security comes in at one place.

use std::time::Duration;

use mtinet_proto::MAX_MESSAGE_BYTES;
use mtinet_proto::v1::client_client::ClientClient;
use mtinet_proto::v1::client_server::{Client, ClientServer};
use mtinet_proto::v1::worker_client::WorkerClient;
use mtinet_proto::v1::worker_server::{Worker, WorkerServer};
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

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

/// Streams that one peer may have open at once on one connection.
const MAX_CONCURRENT_STREAMS: u32 = 1024;

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
    #[error("`{url}` is not a coordinator's address: write http://HOST:PORT")]
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
}

/// Listens on `HOST:PORT`; port 0 takes a free one, which the listener's `local_addr` tells.
///
/// # Errors
/// [`NetError::Bind`] where the address is not this machine's or is taken.
pub async fn bind(addr: &str) -> Result<TcpListener, NetError> {
    TcpListener::bind(addr).await.map_err(|source| NetError::Bind { addr: addr.to_owned(), source })
}

/// The listener's connections, for tonic's `serve_with_incoming_shutdown`.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
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
}

/// Connects to a coordinator; `http://` is added where the address has no scheme. The channel reconnects by
/// itself after the first connection, one try per call.
///
/// # Errors
/// [`NetError::Url`] for text that is no address, [`NetError::Connect`] where nothing answers.
pub async fn connect(url: &str) -> Result<Channel, NetError> {
    let connecting = endpoint(url)?.connect().await;
    connecting.map_err(|source| NetError::Connect { url: url.to_owned(), source })
}

/// A channel that connects at its first call, and again after each loss; a call fails where nothing answers.
///
/// # Errors
/// [`NetError::Url`] for text that is no address.
pub fn connect_lazy(url: &str) -> Result<Channel, NetError> {
    Ok(endpoint(url)?.connect_lazy())
}

/// Checks an address without connecting.
///
/// # Errors
/// [`NetError::Url`] for text that is no address.
pub fn check_url(url: &str) -> Result<(), NetError> {
    endpoint(url).map(|_| ())
}

fn endpoint(url: &str) -> Result<Endpoint, NetError> {
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
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

/// The worker service's client with our message limits.
pub fn worker_client(channel: Channel) -> WorkerClient<Channel> {
    WorkerClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// The client service's client with our message limits.
pub fn client_client(channel: Channel) -> ClientClient<Channel> {
    ClientClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
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
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
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
        let error = connect(&addr).await.unwrap_err();
        assert!(matches!(error, NetError::Connect { .. }), "{error:?}");
        assert!(error.to_string().contains(&addr), "{error}");
    }

    #[test]
    fn a_scheme_is_added_and_nonsense_is_refused() {
        assert!(check_url("head-node:7300").is_ok());
        assert!(check_url("http://head-node:7300").is_ok());
        assert!(matches!(check_url("http://not an address"), Err(NetError::Url { .. })));
    }
}
