//! A socket that waits without blocking, on a worker's executor or on a tokio runtime; and the thread that it lives on.
//!
//! On an executor a call is made when the socket is believed to be ready, and only that; see `executor/sources.rs`. The other kind is for
//! what uses the same code elsewhere, as tests do.

use std::fmt;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};
use socket2::{SockAddr, SockRef, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::executor::{self, Belief, Executor, Watch};

/// The thread that a connection lives on, as far as it must be known to make another one there.
#[derive(Clone, Debug)]
pub enum Home {
    Executor(Rc<Executor>),
    /// The tokio runtime that runs what uses this. For tasks it must be in a `LocalSet`.
    Tokio,
}

impl Home {
    /// A task of its own on this thread.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        match self {
            Home::Executor(executor) => executor.spawn(task),
            Home::Tokio => drop(tokio::task::spawn_local(task)),
        }
    }

    /// Who is to be woken when what the task that runs here waits for has happened.
    #[inline]
    pub fn caller(&self, cx: &Context<'_>) -> Caller {
        Caller(match self {
            Home::Executor(executor) => Called::Here(Rc::clone(executor), executor.interest(cx)),
            Home::Tokio => Called::Tokio(cx.waker().clone()),
        })
    }

    /// A connected socket that comes from somewhere else.
    pub fn adopt(&self, socket: impl Into<socket2::Socket>) -> io::Result<Socket> {
        let socket = socket.into();
        socket.set_nonblocking(true)?;
        self.watch(socket, Belief::Ready)
    }

    pub async fn connect_tcp(&self, address: SocketAddr) -> io::Result<Socket> {
        self.connect(&address.into()).await
    }

    pub async fn connect_unix(&self, path: &Path) -> io::Result<Socket> {
        self.connect(&SockAddr::unix(path)?).await
    }

    async fn connect(&self, address: &SockAddr) -> io::Result<Socket> {
        let socket = socket2::Socket::new(address.domain(), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(address) {
            Ok(()) => return self.watch(socket, Belief::Ready),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let socket = self.watch(socket, Belief::Unready)?;
        std::future::poll_fn(|cx| socket.poll_connected(cx)).await?;
        Ok(socket)
    }

    fn watch(&self, socket: socket2::Socket, belief: Belief) -> io::Result<Socket> {
        Ok(Socket(match self {
            Home::Executor(executor) => Kind::Watched(Watched {
                watch: executor.watch(socket.as_raw_fd(), belief)?,
                socket,
            }),
            Home::Tokio if socket.local_addr()?.is_unix() => {
                Kind::TokioUnix(UnixStream::from_std(socket.into())?)
            }
            Home::Tokio => Kind::TokioTcp(TcpStream::from_std(socket.into())?),
        }))
    }
}

/// Somebody on this thread who waits for somebody else on it. A task of an executor is woken by its number: no lock and no atomic,
/// other than by its `Waker`.
pub struct Caller(Called);

enum Called {
    Here(Rc<Executor>, executor::Interest),
    Tokio(Waker),
}

impl Caller {
    pub fn wake(self) {
        match self.0 {
            Called::Here(executor, interest) => executor.wake(interest),
            Called::Tokio(waker) => waker.wake(),
        }
    }
}

/// A connected TCP or Unix socket.
pub struct Socket(Kind);

enum Kind {
    Watched(Watched),
    TokioTcp(TcpStream),
    TokioUnix(UnixStream),
}

/// Fields are dropped in this order: a watch ends before its descriptor is closed.
struct Watched {
    watch: Watch,
    socket: socket2::Socket,
}

impl Socket {
    /// The bare socket, to be used elsewhere, and where it lived.
    pub fn leave(self) -> io::Result<(socket2::Socket, Home)> {
        Ok(match self.0 {
            Kind::Watched(Watched { watch, socket }) => (socket, Home::Executor(watch.end())),
            Kind::TokioTcp(socket) => (socket.into_std()?.into(), Home::Tokio),
            Kind::TokioUnix(socket) => (socket.into_std()?.into(), Home::Tokio),
        })
    }

    /// Waits for bytes, and leaves them where they are; the first of them. `None` at the end.
    pub async fn peek(&self) -> io::Result<Option<u8>> {
        let mut first = [0];
        let mut look = |socket: &socket2::Socket| {
            let (_, seen) = net::recv(socket, &mut first, RecvFlags::PEEK)?;
            Ok((seen > 0).then_some(first[0]))
        };
        std::future::poll_fn(|cx| self.poll_call(cx, Way::Reading, &mut look)).await
    }

    /// Whether an attempt to connect has succeeded, when that is known.
    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_call(cx, Way::Writing, |socket| match socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        })
    }

    /// Reads what is there, as far as there is room. 0 is the end.
    #[inline]
    pub fn poll_receive(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        match &self.0 {
            Kind::Watched(watched) => watched.poll_receive(cx, room),
            other => other.poll_by_tokio(cx, Way::Reading, |mut socket| socket.read(room)),
        }
    }

    /// Writes as much as is taken.
    #[inline]
    pub fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &self.0 {
            Kind::Watched(watched) => watched.poll_send(cx, bytes),
            other => other.poll_by_tokio(cx, Way::Writing, |socket| socket.send(bytes)),
        }
    }

    /// Makes a call as soon as it does not have to wait.
    fn poll_call<T>(
        &self,
        cx: &mut Context<'_>,
        way: Way,
        call: impl FnMut(&socket2::Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        match &self.0 {
            Kind::Watched(watched) => watched.poll_call(cx, way, call),
            other => other.poll_by_tokio(cx, way, call),
        }
    }
}

/// What a call waits for.
#[derive(Clone, Copy)]
enum Way {
    Reading,
    Writing,
}

impl Watched {
    fn poll_call<T>(
        &self,
        cx: &mut Context<'_>,
        way: Way,
        mut call: impl FnMut(&socket2::Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let direction = match way {
            Way::Reading => self.watch.reading(),
            Way::Writing => self.watch.writing(),
        };
        while direction.is_ready() {
            match call(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => direction.is_exhausted(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
        match way {
            Way::Reading => self.watch.wait_to_read(cx),
            Way::Writing => self.watch.wait_to_write(cx)?,
        }
        Poll::Pending
    }

    #[inline]
    fn poll_receive(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        let reading = self.watch.reading();
        if !reading.is_ready() {
            self.watch.wait_to_read(cx);
            return Poll::Pending;
        }
        if !self.watch.may_read(cx) {
            return Poll::Pending;
        }
        loop {
            match net::recv(&self.socket, &mut *room, RecvFlags::empty()) {
                Ok((_, read)) => {
                    if 0 < read && read < room.len() {
                        self.watch.is_drained();
                    }
                    return Poll::Ready(Ok(read));
                }
                Err(Errno::AGAIN) => {
                    reading.is_exhausted();
                    self.watch.wait_to_read(cx);
                    return Poll::Pending;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    #[inline]
    fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let writing = self.watch.writing();
        while writing.is_ready() {
            match net::send(&self.socket, bytes, SendFlags::NOSIGNAL) {
                Ok(sent) => return Poll::Ready(Ok(sent)),
                Err(Errno::AGAIN) => writing.is_exhausted(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
        self.watch.wait_to_write(cx)?;
        Poll::Pending
    }
}

impl Kind {
    /// The same on a tokio runtime.
    fn poll_by_tokio<T>(
        &self,
        cx: &mut Context<'_>,
        way: Way,
        mut call: impl FnMut(&socket2::Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        loop {
            let called = match (self, way) {
                (Kind::Watched(watched), _) => return watched.poll_call(cx, way, call),
                (Kind::TokioTcp(socket), Way::Reading) => {
                    ready!(socket.poll_read_ready(cx))?;
                    socket.try_io(Interest::READABLE, || call(&SockRef::from(socket)))
                }
                (Kind::TokioTcp(socket), Way::Writing) => {
                    ready!(socket.poll_write_ready(cx))?;
                    socket.try_io(Interest::WRITABLE, || call(&SockRef::from(socket)))
                }
                (Kind::TokioUnix(socket), Way::Reading) => {
                    ready!(socket.poll_read_ready(cx))?;
                    socket.try_io(Interest::READABLE, || call(&SockRef::from(socket)))
                }
                (Kind::TokioUnix(socket), Way::Writing) => {
                    ready!(socket.poll_write_ready(cx))?;
                    socket.try_io(Interest::WRITABLE, || call(&SockRef::from(socket)))
                }
            };
            match called {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(self.poll_receive(cx, buf.initialize_unfilled()))?;
        buf.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_call(cx, Way::Writing, |socket| socket.send_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is kept back here.
    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match SockRef::from(&*self).shutdown(Shutdown::Write) {
            // The other side was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Kind::Watched(watched) => watched.socket.as_fd(),
            Kind::TokioTcp(socket) => socket.as_fd(),
            Kind::TokioUnix(socket) => socket.as_fd(),
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SockRef::from(self).fmt(f)
    }
}

/// A socket of the tokio runtime at hand, whose task may go from thread to thread. A [`Socket`] may not, as it can live on an executor.
#[derive(Debug)]
pub enum TokioSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl TokioSocket {
    pub async fn connect_tcp(address: SocketAddr) -> io::Result<TokioSocket> {
        TcpStream::connect(address).await.map(TokioSocket::Tcp)
    }

    pub async fn connect_unix(path: &Path) -> io::Result<TokioSocket> {
        UnixStream::connect(path).await.map(TokioSocket::Unix)
    }
}

impl AsyncRead for TokioSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TokioSocket::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            TokioSocket::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TokioSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            TokioSocket::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            TokioSocket::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TokioSocket::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            TokioSocket::Unix(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            TokioSocket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            TokioSocket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

impl AsFd for TokioSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            TokioSocket::Tcp(socket) => socket.as_fd(),
            TokioSocket::Unix(socket) => socket.as_fd(),
        }
    }
}
