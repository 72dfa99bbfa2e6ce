//! The server's end: connections with the peer's certificate, bounded in number, and ended when an identity is revoked.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::Certified;

/// Handshakes under way at once; more wait in the system's queue.
const HANDSHAKES: usize = 256;

/// While so many are under way, the oldest one has no longer than this: silent strangers are to keep nobody out.
const PRESSED: Duration = Duration::from_secs(1);

/// Connections that are ready before the server takes them.
const READY: usize = 64;

/// After an error of the listener (most often: no file descriptor is left).
const PAUSE: Duration = Duration::from_millis(50);

/// How many connections a server holds, and how long those that show no identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// With an identity (or plaintext).
    pub connections: usize,
    /// Of one identity, so that a stolen or mistaken one keeps nobody else out.
    pub per_identity: usize,
    /// Without: they can only join.
    pub anonymous: usize,
    /// A handshake takes at most.
    pub handshake: Duration,
    /// A connection without an identity lasts at most.
    pub anonymous_life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            per_identity: 4096,
            anonymous: 256,
            handshake: Duration::from_secs(5),
            anonymous_life: Duration::from_secs(30),
        }
    }
}

/// How a server's connections are secured.
#[derive(Clone, Debug)]
pub enum Security {
    /// Not at all.
    Plaintext,
    /// By TLS with these settings.
    Tls(Arc<ServerConfig>),
}

/// Who is at the other end; an extension of every request.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address.
    pub address: Option<SocketAddr>,
    /// What its certificate says, which the handshake verified but for its time.
    pub certificate: Option<Arc<Certified>>,
    /// The connection is not secured at all.
    pub plaintext: bool,
}

/// The open connections by identity, so that they can be ended.
#[derive(Clone, Debug, Default)]
pub struct OpenConnections(Arc<Mutex<HashMap<String, (CancellationToken, usize)>>>);

impl OpenConnections {
    /// Ends all connections of an identity.
    pub fn end(&self, id: &str) {
        if let Some((token, _)) = self.lock().get(id) {
            token.cancel();
        }
    }

    /// One more connection of an identity, unless it has as many as it may.
    fn enter(&self, id: &str, most: usize) -> Option<CancellationToken> {
        let mut open = self.lock();
        if open.get(id).map_or(0, |(_, count)| *count) >= most {
            return None;
        }
        let (token, count) = open.entry(id.to_owned()).or_default();
        *count += 1;
        Some(token.clone())
    }

    fn leave(&self, id: &str) {
        let mut open = self.lock();
        if let Some((_, count)) = open.get_mut(id) {
            *count -= 1;
            if *count == 0 {
                open.remove(id);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (CancellationToken, usize)>> {
        // The map is whole at every panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of a peer.
#[derive(Debug)]
pub struct Connection {
    io: Io,
    peer: Peer,
    open: OpenConnections,
    revoked: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    deadline: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl Connection {
    /// Whether it is to end although its peer goes on.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let revoked = self.revoked.as_mut().is_some_and(|revoked| revoked.as_mut().poll(cx).is_ready());
        revoked || self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(certificate) = &self.peer.certificate {
            self.open.leave(&certificate.subject.id);
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Io::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }
}

/// The listener's connections once their handshakes are done, for tonic's `serve_with_incoming_shutdown`. A peer that
/// says nothing or nonsense holds up nobody else.
pub fn incoming(
    listener: TcpListener,
    security: Security,
    limits: Limits,
    open: OpenConnections,
) -> ReceiverStream<io::Result<Connection>> {
    let (sender, receiver) = mpsc::channel(READY);
    let door = Door {
        security,
        limits,
        open,
        known: Arc::new(Semaphore::new(limits.connections)),
        anonymous: Arc::new(Semaphore::new(limits.anonymous)),
    };
    tokio::spawn(accept(listener, Arc::new(door), sender));
    ReceiverStream::new(receiver)
}

struct Door {
    security: Security,
    limits: Limits,
    open: OpenConnections,
    known: Arc<Semaphore>,
    anonymous: Arc<Semaphore>,
}

async fn accept(listener: TcpListener, door: Arc<Door>, sender: mpsc::Sender<io::Result<Connection>>) {
    // Dropped at the end, which ends the handshakes.
    let mut handshakes = JoinSet::new();
    let mut oldest: VecDeque<(Instant, AbortHandle)> = VecDeque::new();
    loop {
        while oldest.front().is_some_and(|(_, handshake)| handshake.is_finished()) {
            oldest.pop_front();
        }
        let patience = oldest.front().map_or_else(Instant::now, |(begun, _)| *begun + PRESSED);
        tokio::select! {
            () = sender.closed() => return,
            Some(_) = handshakes.join_next() => {}
            () = tokio::time::sleep_until(patience), if handshakes.len() >= HANDSHAKES => {
                if let Some((_, handshake)) = oldest.pop_front() {
                    handshake.abort();
                }
            }
            accepted = listener.accept(), if handshakes.len() < HANDSHAKES => match accepted {
                Ok((stream, address)) => {
                    let (door, sender) = (Arc::clone(&door), sender.clone());
                    let handshake = handshakes.spawn(async move {
                        match tokio::time::timeout(door.limits.handshake, door.let_in(stream, address)).await {
                            // The server may be at its end.
                            Ok(Ok(connection)) => drop(sender.send(Ok(connection)).await),
                            Ok(Err(error)) => tracing::debug!(%address, %error, "a connection is refused"),
                            Err(_) => tracing::debug!(%address, "a handshake was not finished in time"),
                        }
                    });
                    oldest.push_back((Instant::now(), handshake));
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

impl Door {
    async fn let_in(&self, stream: TcpStream, address: SocketAddr) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let (io, certificate) = match &self.security {
            Security::Plaintext => (Io::Plain(stream), None),
            Security::Tls(config) => {
                let tls = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
                let shown = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
                let certificate = shown.map(Certified::read).transpose().map_err(io::Error::other)?;
                (Io::Tls(Box::new(tls)), certificate.map(Arc::new))
            }
        };
        let plaintext = matches!(io, Io::Plain(_));
        let known = plaintext || certificate.is_some();
        let places = if known { &self.known } else { &self.anonymous };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            tracing::warn!(%address, known, "refusing a connection: as many as allowed are open");
            return Err(io::Error::other("too many connections"));
        };
        let revoked = match &certificate {
            None => None,
            Some(certificate) => {
                let subject = &certificate.subject;
                let Some(revoked) = self.open.enter(&subject.id, self.limits.per_identity) else {
                    tracing::warn!(%address, %subject, "refusing a connection: its identity has as many as it may");
                    return Err(io::Error::other("too many connections of one identity"));
                };
                Some(Box::pin(revoked.cancelled_owned()))
            }
        };
        let deadline = (!known).then(|| Box::pin(tokio::time::sleep(self.limits.anonymous_life)));
        let peer = Peer { address: Some(address), certificate, plaintext };
        Ok(Connection { io, peer, open: self.open.clone(), revoked, deadline, _place: place })
    }
}
