//! Where clients' TLS handshakes are computed: on a thread of their own, because one takes as long as many statements, and a storm of new
//! connections must not make those wait that are running.
//!
//! The bare socket goes there and comes back with the keys.

use std::io;

use rustls::ServerConnection;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;

use super::socket::Socket;
use super::tls::Acceptor;

/// The way to that thread.
#[derive(Clone, Debug)]
pub struct Handshakes(Handle);

impl Handshakes {
    /// On this runtime, which needs sockets of its own, and no timers.
    pub fn on(runtime: Handle) -> Handshakes {
        Handshakes(runtime)
    }

    /// On the runtime that this is called on.
    pub fn here() -> Handshakes {
        Handshakes(Handle::current())
    }

    pub(super) async fn accept(
        &self,
        acceptor: &Acceptor,
        socket: Socket,
    ) -> io::Result<TlsStream<Socket>> {
        let (socket, home) = socket.leave()?;
        let there = acceptor.clone();
        let mut shaking = GivenUp(self.0.spawn(async move {
            let socket = TcpStream::from_std(socket.into())?;
            let (socket, keys) = there.accept(socket).await?.into_inner();
            Ok((socket.into_std()?, keys))
        }));
        // An error: the thread has ended with the process.
        let (socket, keys) = (&mut shaking.0).await.map_err(io::Error::other)??;
        acceptor.resume(home.adopt(socket)?, keys).await
    }
}

/// A client that nobody waits for any more is not waited for there either.
struct GivenUp(JoinHandle<io::Result<(std::net::TcpStream, ServerConnection)>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.abort();
    }
}
