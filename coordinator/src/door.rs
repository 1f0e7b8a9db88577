//! Who may hold a connection. Those that have not shown the token are few and not for long; those that have are workers.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;
use tonic::transport::ServerTlsConfig;
use tonic::transport::server::Connected;

/// Connections at once that have not shown the token; more wait to be accepted.
const STRANGERS: usize = 256;
/// How long one may take to show the token, its TLS handshake included.
const PATIENCE: Duration = Duration::from_secs(20);
/// After a failed accept, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Where workers come in.
pub struct Door {
    pub listener: TcpListener,
    /// Plain text when `None`.
    pub tls: Option<ServerTlsConfig>,
    patience: Duration,
}

impl Door {
    pub fn new(listener: TcpListener, tls: Option<ServerTlsConfig>) -> Self {
        Door { listener, tls, patience: PATIENCE }
    }

    /// Gives strangers another time than 20 s.
    pub fn with_patience(self, patience: Duration) -> Self {
        Door { patience, ..self }
    }

    /// The connections, as they come.
    pub(crate) fn incoming(self) -> impl Stream<Item = io::Result<Connection>> {
        let seats = Arc::new(Semaphore::new(STRANGERS));
        let Door { listener, patience, .. } = self;
        futures::stream::unfold((listener, seats), move |(listener, seats)| async move {
            // Nobody closes the semaphore.
            let seat = seats.clone().acquire_owned().await.ok()?;
            let connection = match listener.accept().await {
                Ok((stream, peer)) => Ok(Connection::new(stream, peer, seat, patience)),
                Err(e) => {
                    tokio::time::sleep(PAUSE).await;
                    Err(e)
                }
            };
            Some((connection, (listener, seats)))
        })
    }
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Self {
        Door::new(listener, None)
    }
}

/// Who is at the other end of a connection, as far as that is known.
#[derive(Debug)]
pub(crate) struct Peer {
    pub address: SocketAddr,
    admitted: AtomicBool,
    /// One of the strangers' places.
    seat: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Peer {
    /// It has shown the token.
    pub fn admit(&self) {
        if !self.admitted.swap(true, Ordering::Relaxed) {
            *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

/// A connection that fails when its peer stays a stranger.
pub(crate) struct Connection {
    stream: TcpStream,
    peer: Arc<Peer>,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    fn new(stream: TcpStream, address: SocketAddr, seat: OwnedSemaphorePermit, patience: Duration) -> Self {
        // Small messages should not wait for one another; one that does is only late.
        let _ = stream.set_nodelay(true);
        let peer = Peer { address, admitted: AtomicBool::new(false), seat: Mutex::new(Some(seat)) };
        Connection { stream, peer: Arc::new(peer), deadline: Box::pin(tokio::time::sleep(patience)) }
    }
}

impl Connected for Connection {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    /// HTTP/2 and TLS always have a read pending, so that the deadline is always watched.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.peer.admitted.load(Ordering::Relaxed) && self.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no token was shown")));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffers: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
