//! Where clients' TLS handshakes are computed: on a thread of their own, because one takes as long as many statements, and a storm of new
//! connections must not make those wait that are running.
//!
//! A socket stays with the runtime that it was registered with, and only the computing moves.

use std::io;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_rustls::server::TlsStream;

use super::tls::Acceptor;

/// The way to that thread.
#[derive(Clone, Debug)]
pub struct Handshakes(Handle);

impl Handshakes {
    /// On this runtime, which needs neither sockets nor timers of its own.
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
        socket: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = acceptor.clone();
        let shaking = self.0.spawn(async move { acceptor.accept(socket).await });
        let mut shaking = GivenUp(shaking);
        // An error: the thread has ended with the process.
        (&mut shaking.0).await.map_err(io::Error::other)?
    }
}

/// A client that nobody waits for any more is not waited for there either.
struct GivenUp(JoinHandle<io::Result<TlsStream<TcpStream>>>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.abort();
    }
}
