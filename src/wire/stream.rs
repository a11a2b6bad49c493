//! One socket, encrypted or not, towards a client or a server.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

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
/// An enum and not a boxed trait object: it lies on the path of every byte.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// We are the TLS server: the peer is a client.
    ServerTls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// We are the TLS client: the peer is a Postgres server.
    ClientTls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

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

impl Stream {
    pub fn peer(&self) -> Peer {
        let tcp = |socket: &TcpStream| socket.peer_addr().map_or(Peer::Unknown, Peer::Tcp);
        match self {
            Stream::Tcp(socket) => tcp(socket),
            Stream::ServerTls(tls) => tcp(tls.get_ref().0),
            Stream::ClientTls(tls) => tcp(tls.get_ref().0),
            Stream::Unix(socket) => Peer::Unix {
                pid: socket
                    .peer_cred()
                    .ok()
                    .and_then(|credentials| credentials.pid()),
            },
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

impl From<TcpStream> for Stream {
    fn from(socket: TcpStream) -> Self {
        Stream::Tcp(socket)
    }
}

impl From<UnixStream> for Stream {
    fn from(socket: UnixStream) -> Self {
        Stream::Unix(socket)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(socket) => socket.as_fd(),
            Stream::Unix(socket) => socket.as_fd(),
            Stream::ServerTls(tls) => tls.get_ref().0.as_fd(),
            Stream::ClientTls(tls) => tls.get_ref().0.as_fd(),
        }
    }
}

/// Sends at once, which nearly always can be done, without asking the runtime first; `None`: the socket takes nothing now.
#[inline]
fn send(socket: &impl AsFd, bytes: &[u8]) -> Option<io::Result<usize>> {
    match SockRef::from(socket).send(bytes) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            None
        }
        sent => Some(sent),
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Stream::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Stream::ServerTls(tls) => Pin::new(tls).poll_read(cx, buf),
            Stream::ClientTls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(socket) => match send(&*socket, buf) {
                Some(sent) => Poll::Ready(sent),
                None => Pin::new(socket).poll_write(cx, buf),
            },
            Stream::Unix(socket) => match send(&*socket, buf) {
                Some(sent) => Poll::Ready(sent),
                None => Pin::new(socket).poll_write(cx, buf),
            },
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
            Stream::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Stream::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, bufs),
            Stream::ServerTls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Stream::ClientTls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Tcp(socket) => socket.is_write_vectored(),
            Stream::Unix(socket) => socket.is_write_vectored(),
            Stream::ServerTls(tls) => tls.is_write_vectored(),
            Stream::ClientTls(tls) => tls.is_write_vectored(),
        }
    }

    /// TLS keeps written bytes until it is flushed; a plain socket has nothing to do here.
    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Stream::Unix(socket) => Pin::new(socket).poll_flush(cx),
            Stream::ServerTls(tls) => Pin::new(tls).poll_flush(cx),
            Stream::ClientTls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::ServerTls(tls) => Pin::new(tls).poll_shutdown(cx),
            Stream::ClientTls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn options_peek_and_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut ours, mut theirs) = (Stream::from(ours.unwrap()), theirs.unwrap().0);
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
