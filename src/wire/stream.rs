//! One socket, encrypted or not, towards a client or a server.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::socket::{Home, Socket};
use super::tls::ClientCertificate;

/// A silent peer is asked whether it lives after this time.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// And again after each of these.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// So many unanswered questions end the connection.
const KEEPALIVE_RETRIES: u32 = 3;
/// Sent bytes that stay unacknowledged for so long end the connection. Not below the time the probes need, because Linux
/// lets this value overrule their count.
const USER_TIMEOUT: Duration = Duration::from_secs(90);
/// Most bytes thrown away before a refused connection is closed.
const FAREWELL_LIMIT: usize = 64 * 1024;

/// A connection to a client or to a server.
///
/// An enum and not a boxed trait object: it lies on the path of every byte. Over a [`Socket`], which stays on its thread, or over another
/// [`Transport`].
#[derive(Debug)]
pub enum Stream<S = Socket> {
    Tcp(S),
    Unix(S),
    /// We are the TLS server: the peer is a client.
    ServerTls(Box<tokio_rustls::server::TlsStream<S>>),
    /// We are the TLS client: the peer is a Postgres server.
    ClientTls(Box<tokio_rustls::client::TlsStream<S>>),
}

/// What a stream runs over.
pub trait Transport: AsyncRead + AsyncWrite + AsFd + Unpin {}

impl<S: AsyncRead + AsyncWrite + AsFd + Unpin> Transport for S {}

/// Who is at the other end, for logs and `SHOW CLIENTS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    Unix {
        /// Of the peer's process, where the system tells.
        pid: Option<i32>,
    },
    /// The socket was already disconnected when asked.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => address.fmt(f),
            Peer::Unix { pid: Some(pid) } => write!(f, "unix(pid {pid})"),
            Peer::Unix { pid: None } => f.write_str("unix"),
            Peer::Unknown => f.write_str("unknown"),
        }
    }
}

impl<S: Transport> Stream<S> {
    pub fn peer(&self) -> Peer {
        let socket = SockRef::from(self);
        match self {
            Stream::Unix(_) => Peer::Unix {
                pid: peer_process(&self.as_fd()),
            },
            Stream::Tcp(_) | Stream::ServerTls(_) | Stream::ClientTls(_) => {
                let address = socket.peer_addr().ok();
                let address = address.and_then(|address| address.as_socket());
                address.map_or(Peer::Unknown, Peer::Tcp)
            }
        }
    }

    pub fn is_tls(&self) -> bool {
        matches!(self, Stream::ServerTls(_) | Stream::ClientTls(_))
    }

    /// The certificate that a client has shown, if any. It has been verified.
    pub(crate) fn client_certificate(&self) -> Option<ClientCertificate> {
        let Stream::ServerTls(tls) = self else {
            return None;
        };
        let chain = tls.get_ref().1.peer_certificates()?;
        chain.first().map(ClientCertificate::read)
    }

    /// No Nagle delay, keep-alive probes, and a limit on how long sent bytes may stay unacknowledged.
    /// Nothing to set on a Unix socket.
    pub fn set_options(&self) -> io::Result<()> {
        if matches!(self, Stream::Unix(_)) {
            return Ok(());
        }
        let socket = SockRef::from(self);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(KEEPALIVE_IDLE)
                .with_interval(KEEPALIVE_INTERVAL)
                .with_retries(KEEPALIVE_RETRIES),
        )?;
        #[cfg(target_os = "linux")]
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        Ok(())
    }

    /// Whether the kernel holds received bytes of this socket that nobody has read. Takes none, waits for none.
    pub(crate) fn has_unread_bytes(&self) -> io::Result<bool> {
        match SockRef::from(self).peek(&mut [MaybeUninit::uninit(); 1]) {
            Ok(read) => Ok(read > 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Stream {
    /// Reads once, as far as there is room. 0 is the end.
    #[inline]
    pub fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Stream::Tcp(socket) | Stream::Unix(socket) = self {
            return socket.poll_receive(cx, room);
        }
        let mut buffer = ReadBuf::new(room);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes once, as much as is taken.
    #[inline]
    pub fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Stream::Tcp(socket) | Stream::Unix(socket) => socket.poll_send(cx, bytes),
            encrypted => Pin::new(encrypted).poll_write(cx, bytes),
        }
    }

    /// Sends last words to a peer that is refused, and ends the sending side. Whether they arrive is not our concern any more.
    pub(crate) async fn refuse(&mut self, last_words: &[u8]) {
        if self.write_all(last_words).await.is_err() || self.flush().await.is_err() {
            return;
        }
        let _ = self.shutdown().await;
        // A socket closed with unread bytes is reset, and a reset may overtake the last words.
        let mut unread = [MaybeUninit::uninit(); 4096];
        let mut taken = 0;
        while taken < FAREWELL_LIMIT {
            match SockRef::from(&*self).recv(&mut unread) {
                Ok(read) if read > 0 => taken += read,
                _ => return,
            }
        }
    }
}

/// The process at the other end of a Unix socket.
#[cfg(target_os = "linux")]
fn peer_process(socket: &BorrowedFd<'_>) -> Option<i32> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let credentials = getsockopt(socket, PeerCredentials).ok()?;
    Some(credentials.pid()).filter(|pid| *pid > 0)
}

#[cfg(not(target_os = "linux"))]
fn peer_process(_: &BorrowedFd<'_>) -> Option<i32> {
    None
}

/// For what runs on a tokio runtime.
impl TryFrom<tokio::net::TcpStream> for Stream {
    type Error = io::Error;

    fn try_from(socket: tokio::net::TcpStream) -> io::Result<Self> {
        Home::Tokio.adopt(socket.into_std()?).map(Stream::Tcp)
    }
}

impl TryFrom<tokio::net::UnixStream> for Stream {
    type Error = io::Error;

    fn try_from(socket: tokio::net::UnixStream) -> io::Result<Self> {
        Home::Tokio.adopt(socket.into_std()?).map(Stream::Unix)
    }
}

impl<S: AsFd> AsFd for Stream<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(socket) | Stream::Unix(socket) => socket.as_fd(),
            Stream::ServerTls(tls) => tls.get_ref().0.as_fd(),
            Stream::ClientTls(tls) => tls.get_ref().0.as_fd(),
        }
    }
}

impl<S: Transport> AsyncRead for Stream<S> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(socket) | Stream::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Stream::ServerTls(tls) => Pin::new(tls).poll_read(cx, buf),
            Stream::ClientTls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl<S: Transport> AsyncWrite for Stream<S> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(socket) | Stream::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
            Stream::ServerTls(tls) => Pin::new(tls).poll_write(cx, buf),
            Stream::ClientTls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(socket) | Stream::Unix(socket) => {
                Pin::new(socket).poll_write_vectored(cx, bufs)
            }
            Stream::ServerTls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Stream::ClientTls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(socket) | Stream::Unix(socket) => socket.is_write_vectored(),
            Stream::ServerTls(tls) => tls.is_write_vectored(),
            Stream::ClientTls(tls) => tls.is_write_vectored(),
        }
    }

    /// TLS keeps written bytes until it is flushed; a plain socket has nothing to do here.
    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(socket) | Stream::Unix(socket) => Pin::new(socket).poll_flush(cx),
            Stream::ServerTls(tls) => Pin::new(tls).poll_flush(cx),
            Stream::ClientTls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(socket) | Stream::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::ServerTls(tls) => Pin::new(tls).poll_shutdown(cx),
            Stream::ClientTls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn options_peek_and_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let mut ours = Stream::try_from(ours.unwrap()).unwrap();
        let mut theirs = theirs.unwrap().0;
        ours.set_options().unwrap();
        assert!(SockRef::from(&ours).tcp_nodelay().unwrap());
        assert!(SockRef::from(&ours).keepalive().unwrap());
        assert_eq!(ours.peer(), Peer::Tcp(address));
        assert!(!ours.has_unread_bytes().unwrap());
        theirs.write_all(b"xy").await.unwrap();
        let mut one = [0];
        ours.read_exact(&mut one).await.unwrap();
        assert!(ours.has_unread_bytes().unwrap());
        ours.read_exact(&mut one).await.unwrap();
        assert_eq!(&one, b"y");
        assert!(!ours.has_unread_bytes().unwrap());
    }
}
